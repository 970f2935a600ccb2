//! What the handle reads: records, pages of them, digests. Straight from the table, on the
//! caller's thread; only what is synced is visible.

use std::collections::BTreeSet;

use ringmaster_shared::{
    clock::Hlc,
    id::PartitionId,
    key::Key,
    version::{Record, RecordVersion, Value},
};

use super::{
    BRANCHES, ScanPage, StorageError, Store, TombstonePage, damaged, scan, table::TableError,
};

/// A scan that met damage reads on, so many bytes of sound records at most; a body that is not there
/// costs next to nothing.
const LOOK_ON_BYTES: usize = 64 * 1024 * 1024;
/// And meets so many damaged ones: more than that are not remembered.
const LOOK_ON_DAMAGED: usize = damaged::MAX;
const LOOK_ON_PAGE: usize = 1024 * 1024;

/// About what reading it took.
fn size(record: &Record) -> usize {
    let values = record.siblings.iter().filter_map(|s| s.value.as_ref());
    values.map(Value::len).sum::<usize>() + 128
}

impl Store {
    /// Upper bound of the tombstones in a partition. No lock.
    pub fn tombstones_in(&self, partition: PartitionId) -> u32 {
        self.inner.core.tombstones_in(partition)
    }

    /// Tombstones of a partition with stamps up to `until`, after a key: looks at `rows` records
    /// and finds `limit` at most.
    pub fn tombstones(
        &self,
        partition: PartitionId,
        after: Option<&Key>,
        until: Hlc,
        (rows, limit): (usize, usize),
    ) -> Result<TombstonePage, StorageError> {
        let core = self.core()?;
        self.read(scan::tombstones(
            core,
            partition,
            after,
            until,
            (rows, limit),
        ))
    }

    /// Something here could not be read, and whoever asks is about to tell: `true` the first time. The
    /// next start reads all of the table then, also after a clean close, as after any failed read.
    pub fn count_at_next_start(&self) -> bool {
        self.inner.core.tell_unreadable()
    }

    /// Records that are known to be damaged, and are to be had from other replicas.
    pub fn damaged(&self) -> usize {
        self.inner.core.damaged().len()
    }

    /// Records that were found damaged in this life, those included that were brought back.
    pub fn damage_seen(&self) -> usize {
        self.inner.core.damaged().seen()
    }

    /// The first `limit` of the damaged ones in key order that come after a key and are `wanted`.
    pub fn damaged_keys(
        &self,
        after: Option<&Key>,
        limit: usize,
        wanted: impl Fn(&Key) -> bool,
    ) -> Vec<Key> {
        self.inner.core.damaged().first(after, limit, wanted)
    }

    /// Waits until a record is found damaged; for one to wait at a time.
    pub async fn damage_found(&self) {
        self.inner.core.damaged().found().await;
    }

    /// The fingerprint of what is stored for the key.
    pub fn fingerprint(&self, key: &Key) -> Result<Option<u64>, StorageError> {
        let core = self.core()?;
        let meta = self.read(core.table.records.meta(&core.record_item(key)))?;
        Ok(meta.map(|m| m.fingerprint))
    }

    /// The stored record; only what is synced is visible.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, StorageError> {
        let core = self.core()?;
        self.read_of(key, core.table.records.get(&core.record_item(key)))
    }

    pub fn version(&self, key: &Key) -> Result<Option<RecordVersion>, StorageError> {
        let core = self.core()?;
        self.read_of(key, core.table.records.version(&core.record_item(key)))
    }

    fn read_of<T>(&self, key: &Key, found: Result<T, TableError>) -> Result<T, StorageError> {
        if let Err(TableError::Damaged(_)) = found {
            self.inner.core.note_damaged(key);
        }
        self.read(found)
    }

    /// Records of one partition in key order, after `after`, until about `max_bytes`. A page without
    /// one that belongs there is none: it fails when any of them is damaged. Whoever asked has to ask
    /// again, so what else is damaged in the partition is looked for at once, and mended together.
    pub fn scan_partition(
        &self,
        partition: PartitionId,
        after: Option<&Key>,
        max_bytes: usize,
    ) -> Result<ScanPage, StorageError> {
        let seen = self.damage_seen();
        let page = self.scan_sound(partition, after, max_bytes)?;
        let Some((key, why)) = page.damaged.first() else {
            return Ok(page);
        };
        // not again and again for what is known and cannot be mended
        if self.damage_seen() > seen {
            self.look_on(partition, page.next);
        }
        Err(StorageError::Read {
            what: format!(
                "{} of the records of partition {partition} (the first: key hash {:016x})",
                page.damaged.len(),
                key.hash()
            ),
            why: why.clone(),
        })
    }

    /// Notes what is damaged in a partition after a key, until it has read its share.
    fn look_on(&self, partition: PartitionId, mut after: Option<Key>) {
        let (mut bytes, mut damaged) = (0, 0);
        while let Some(from) = after.take()
            && bytes < LOOK_ON_BYTES
            && damaged < LOOK_ON_DAMAGED
        {
            let Ok(page) = self.scan_sound(partition, Some(&from), LOOK_ON_PAGE) else {
                return;
            };
            bytes += page.entries.iter().map(|(_, r)| size(r)).sum::<usize>();
            damaged += page.damaged.len();
            after = page.next;
        }
    }

    /// The same with what is sound; keys of damaged records are named apart.
    pub fn scan_sound(
        &self,
        partition: PartitionId,
        after: Option<&Key>,
        max_bytes: usize,
    ) -> Result<ScanPage, StorageError> {
        let core = self.core()?;
        self.read(scan::scan_partition(core, partition, after, max_bytes))
    }

    /// Keys with a value, in byte order, that start with `prefix` and come after `after`.
    pub fn list_keys(
        &self,
        partitions: &[PartitionId],
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Key>, StorageError> {
        let core = self.core()?;
        self.read(scan::list_keys(core, partitions, prefix, after, limit))
    }

    /// Order-independent digest of a partition; 0 when empty.
    pub fn digest_root(&self, partition: PartitionId) -> u64 {
        self.inner.core.digests.root(partition)
    }

    /// How many changes the digests have seen in this life.
    pub fn digest_changes(&self) -> u64 {
        self.inner.core.digests.changes()
    }

    /// Digests of the partition's [`BRANCHES`] branches.
    pub fn digest_branches(&self, partition: PartitionId) -> [u64; BRANCHES] {
        self.inner.core.digests.branches(partition)
    }

    /// Digests of the leaves of one branch; the first is leaf `branch * BRANCHES`.
    pub fn digest_leaves(&self, partition: PartitionId, branch: u16) -> [u64; BRANCHES] {
        let digests = &self.inner.core.digests;
        digests.leaves(partition, usize::from(branch))
    }

    /// Keys of these leaves and the fingerprints of their records, in key order.
    pub fn leaves_versions(
        &self,
        partition: PartitionId,
        leaves: &BTreeSet<u16>,
    ) -> Result<Vec<(Key, u64)>, StorageError> {
        self.read(scan::leaves_versions(self.core()?, partition, leaves))
    }
}
