//! The durable key-value engine of one node. (Interface first; see `docs/` for the design.)

use std::{collections::BTreeMap, path::PathBuf};

use ringmaster_shared::{
    id::{NodeId, PartitionId},
    key::Key,
    version::{Record, RecordVersion},
};
use thiserror::Error;

/// Leaves of a partition's digest tree.
pub const DIGEST_LEAVES: usize = 64;

#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Folder of the engine, inside the data dir; created when missing.
    pub dir: PathBuf,
    pub partition_count: u16,
    /// Size at which a commit log segment is closed, bytes.
    pub segment_bytes: u64,
    /// sled's page cache, bytes.
    pub cache_bytes: u64,
    /// Most bytes of hints kept for one node.
    pub hint_bytes_max: u64,
}

#[derive(Debug, Clone, Error)]
pub enum StorageError {
    /// A write or sync failed earlier; nothing more is accepted.
    #[error("the storage engine stopped: {0}")]
    Poisoned(String),
    #[error("the storage engine is closing")]
    Closed,
    #[error("cannot read {what}: {why}")]
    Read { what: String, why: String },
    #[error("cannot open the store in {path}: {why}")]
    Open { path: String, why: String },
}

/// What opening found.
#[derive(Debug, Clone, Default)]
pub struct RecoveryReport {
    /// Commit log records applied again.
    pub replayed: u64,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Half-made snapshots and damaged folders that were set aside.
    pub set_aside: Vec<String>,
    /// The old data could not be used: the store is empty and needs a new actor and a refill.
    pub lost_data: bool,
}

/// Figures for status, metrics and gossip.
#[derive(Debug, Clone, Default)]
pub struct StoreStats {
    pub keys: u64,
    pub tombstones: u64,
    pub bytes_on_disk: u64,
    /// Syncs of the commit log so far.
    pub log_syncs: u64,
    /// Records appended so far.
    pub log_records: u64,
}

/// A page of a partition.
#[derive(Debug, Clone, Default)]
pub struct ScanPage {
    pub entries: Vec<(Key, Record)>,
    /// Continue after this key; `None` at the end.
    pub next: Option<Key>,
}

/// Cheap handle of the engine.
#[derive(Clone)]
pub struct Store {}

#[allow(unused_variables)]
impl Store {
    /// Opens, recovers and replays. Blocking; call it off the async threads.
    pub fn open(config: StoreConfig) -> Result<(Self, RecoveryReport), StorageError> {
        todo!()
    }

    /// Joins `incoming` into what is stored. When this returns `Ok`, the result is synced.
    /// `true`: something changed.
    pub async fn merge(&self, key: Key, incoming: Record) -> Result<bool, StorageError> {
        todo!()
    }

    /// The same for many, one sync for all. Returns how many changed.
    pub async fn merge_many(&self, entries: Vec<(Key, Record)>) -> Result<usize, StorageError> {
        todo!()
    }

    /// The stored record; only what is synced is visible.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, StorageError> {
        todo!()
    }

    pub fn version(&self, key: &Key) -> Result<Option<RecordVersion>, StorageError> {
        todo!()
    }

    /// Records of one partition in key order, after `after`, until about `max_bytes`.
    pub fn scan_partition(
        &self,
        partition: PartitionId,
        after: Option<&Key>,
        max_bytes: usize,
    ) -> Result<ScanPage, StorageError> {
        todo!()
    }

    /// Keys with a value, in byte order, that start with `prefix` and come after `after`.
    pub fn list_keys(
        &self,
        partitions: &[PartitionId],
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Key>, StorageError> {
        todo!()
    }

    /// Order-independent digest of a partition; 0 when empty.
    pub fn digest_root(&self, partition: PartitionId) -> u64 {
        todo!()
    }

    /// Digests of the partition's [`DIGEST_LEAVES`] leaves.
    pub fn digest_leaves(&self, partition: PartitionId) -> Vec<u64> {
        todo!()
    }

    /// Keys of one leaf and the fingerprints of their records.
    pub fn leaf_versions(
        &self,
        partition: PartitionId,
        leaf: u16,
    ) -> Result<Vec<(Key, u64)>, StorageError> {
        todo!()
    }

    /// Forgets a partition this node no longer holds.
    pub async fn drop_partition(&self, partition: PartitionId) -> Result<(), StorageError> {
        todo!()
    }

    /// Keeps a record for a node that did not get it; durable. `false`: over budget, dropped.
    pub async fn hint_add(
        &self,
        target: &NodeId,
        key: Key,
        record: Record,
    ) -> Result<bool, StorageError> {
        todo!()
    }

    /// Hints kept, by the node they are owed to.
    pub fn hints_owed(&self) -> BTreeMap<NodeId, u64> {
        todo!()
    }

    pub fn hints_for(
        &self,
        target: &NodeId,
        limit: usize,
    ) -> Result<Vec<(Key, Record)>, StorageError> {
        todo!()
    }

    /// Removes delivered hints whose stored record still has this fingerprint.
    pub async fn hints_done(
        &self,
        target: &NodeId,
        delivered: Vec<(Key, u64)>,
    ) -> Result<(), StorageError> {
        todo!()
    }

    pub fn stats(&self) -> StoreStats {
        todo!()
    }

    /// Why the engine stopped, if it did.
    pub fn poisoned(&self) -> Option<String> {
        todo!()
    }

    /// Checkpoints and stops; later calls say `Closed`.
    pub async fn close(&self) -> Result<(), StorageError> {
        todo!()
    }
}
