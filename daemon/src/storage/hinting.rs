//! What the handle keeps for nodes that did not get a write: hints, and the partitions that have
//! to be compared because hints were given up.

use std::collections::BTreeMap;

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::{Record, RecordVersion},
};

use super::{
    HintPage, OwedPage, StorageError, Store, committer::request::Request, hints, scan, weight,
};

impl Store {
    /// Keeps a record for a node that did not get it; durable. `false`: over budget or the store is
    /// read-only; dropped, and the partition marked dirty for that node.
    pub async fn hint_add(
        &self,
        target: &NodeId,
        key: Key,
        record: Record,
    ) -> Result<bool, StorageError> {
        self.core()?;
        let bytes = weight(&key, &record);
        self.keep_hint(bytes, target, key, Some(record)).await
    }

    /// A record is not kept for a node that did not get it: marks the partition dirty; durable.
    pub async fn hint_dropped(&self, target: &NodeId, key: Key) -> Result<(), StorageError> {
        self.core()?;
        let bytes = key.as_str().len() + 64;
        self.keep_hint(bytes, target, key, None).await.map(drop)
    }

    async fn keep_hint(
        &self,
        bytes: usize,
        target: &NodeId,
        key: Key,
        record: Option<Record>,
    ) -> Result<bool, StorageError> {
        let target = target.clone();
        self.ask(bytes, |reply| Request::HintAdd {
            target,
            key,
            record,
            reply,
        })
        .await
    }

    /// Hints kept, by the node they are owed to.
    pub fn hints_owed(&self) -> BTreeMap<NodeId, u64> {
        self.inner.core.ledger.counts()
    }

    /// The first hints kept for `target`, all of them sound.
    #[cfg(test)]
    pub fn hints_for(
        &self,
        target: &NodeId,
        limit: usize,
    ) -> Result<Vec<(Key, Record)>, StorageError> {
        let page = self.hints_after(target, None, limit)?;
        match page.damaged.first() {
            Some((key, _)) => Err(StorageError::Read {
                what: format!("a hint in the table (key hash {:016x})", key.hash()),
                why: "it is damaged".to_owned(),
            }),
            None => Ok(page.found),
        }
    }

    /// Hints kept for `target` after a key, in key order: looks at `limit`, or fewer when they are
    /// large. Those that are damaged are named apart.
    pub fn hints_after(
        &self,
        target: &NodeId,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<OwedPage, StorageError> {
        self.read(scan::hints_for(self.core()?, target, after, limit))
    }

    /// What the head of a hint says of it; the hint may be damaged.
    pub fn hint_version(
        &self,
        target: &NodeId,
        key: &Key,
    ) -> Result<Option<RecordVersion>, StorageError> {
        let item = hints::item_key(target, key);
        self.read(self.core()?.table.hints.version(&item))
    }

    /// Removes delivered hints whose stored record still has this fingerprint.
    pub async fn hints_done(
        &self,
        target: &NodeId,
        delivered: Vec<(Key, u64)>,
    ) -> Result<(), StorageError> {
        self.remove_hints(target, delivered, false).await
    }

    /// Removes hints that will not be delivered, and marks their partitions dirty for the node.
    pub async fn hints_given_up(
        &self,
        target: &NodeId,
        hints: Vec<(Key, u64)>,
    ) -> Result<(), StorageError> {
        self.remove_hints(target, hints, true).await
    }

    async fn remove_hints(
        &self,
        target: &NodeId,
        delivered: Vec<(Key, u64)>,
        given_up: bool,
    ) -> Result<(), StorageError> {
        self.core()?;
        let bytes = delivered
            .iter()
            .map(|(key, _)| key.as_str().len() + 32)
            .sum();
        let target = target.clone();
        self.ask(bytes, |reply| Request::HintsDone {
            target,
            delivered,
            given_up,
            reply,
        })
        .await
    }

    /// Hints of `target` with stamps before `before`, after a key; looks at `rows` hints.
    pub fn hints_before(
        &self,
        target: &NodeId,
        after: Option<&Key>,
        before: Hlc,
        rows: usize,
    ) -> Result<HintPage, StorageError> {
        let core = self.core()?;
        self.read(scan::hints_before(core, target, after, before, rows))
    }

    /// Whether a hint for the key is kept for anybody.
    pub fn is_hinted(&self, key: &Key) -> Result<bool, StorageError> {
        self.read(scan::is_hinted(self.core()?, key))
    }

    /// Partitions that have to be compared with a member, because hints for it were given up.
    pub fn dirty(&self) -> BTreeMap<NodeId, Vec<PartitionId>> {
        self.inner.core.dirty.all()
    }

    /// The same, each with the number that [`Self::clear_dirty`] wants to hear.
    pub fn dirty_marks(&self) -> BTreeMap<NodeId, BTreeMap<PartitionId, u64>> {
        self.inner.core.dirty.numbered()
    }

    /// The member has been compared in these partitions since they were seen under these numbers.
    /// One in which a hint was given up since then stays dirty.
    pub async fn clear_dirty(
        &self,
        target: &NodeId,
        partitions: BTreeMap<PartitionId, u64>,
    ) -> Result<(), StorageError> {
        self.core()?;
        let target = target.clone();
        self.ask(partitions.len() * 64, |reply| Request::ClearDirty {
            target,
            partitions,
            reply,
        })
        .await
    }
}
