//! What the engine answers: errors, what opening found, figures, and pages.

use ringmaster_shared::{clock::Hlc, key::Key, version::Record};
use thiserror::Error;

#[cfg(doc)]
use super::Store;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorageError {
    /// A write or sync failed earlier; nothing more is accepted.
    #[error("the storage engine stopped: {0}")]
    Poisoned(String),
    #[error("the storage engine is closing")]
    Closed,
    /// The disk is nearly full: nothing was stored, and nothing is until some space is free.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// Issued at or before the partition's floor: it may bring back what was deleted.
    #[error("it was issued before the deleted keys of its partition were forgotten")]
    Stale { floor: Hlc },
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
    /// The whole table was read to count what is in it; not needed after a clean close.
    pub counted: bool,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Half-made snapshots and damaged folders that were set aside.
    pub set_aside: Vec<String>,
    /// The old data could not be used: the store is empty and needs a new actor and a refill.
    pub lost_data: bool,
    /// Nothing was ever written here and [`Store::mark_in_use`] was never called: a first start,
    /// a folder that was emptied, or a crash right after `lost_data` was reported. A node that had
    /// a store before has lost its data.
    pub empty: bool,
}

/// Figures for status, metrics and gossip.
#[derive(Debug, Clone, Default)]
pub struct StoreStats {
    pub keys: u64,
    pub tombstones: u64,
    /// Tombstones forgotten since the start.
    pub tombstones_forgotten: u64,
    pub bytes_on_disk: u64,
    /// Syncs of the commit log so far.
    pub log_syncs: u64,
    /// Records appended so far.
    pub log_records: u64,
    /// Why nothing new is stored, when that is so: a sentence about the disk.
    pub read_only: Option<String>,
    /// Free bytes on the file system of the store; `None` when it cannot be asked.
    pub disk_free_bytes: Option<u64>,
}

/// What merging came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    pub changed: usize,
    /// Refused, because they were issued at or before the floor of their partition.
    pub stale: usize,
    /// The highest of the floors that refused; 0 when none did.
    pub floor: Hlc,
}

/// Tombstones found in a stretch of a partition: keys and fingerprints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TombstonePage {
    pub found: Vec<(Key, u64)>,
    /// Records looked at.
    pub rows: usize,
    /// Continue after this key; `None` at the end.
    pub next: Option<Key>,
}

/// Hints found in a stretch of those of one node: keys and fingerprints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HintPage {
    pub found: Vec<(Key, u64)>,
    pub next: Option<Key>,
}

/// Hints kept for one node.
#[derive(Debug, Clone, Default)]
pub struct OwedPage {
    pub found: Vec<(Key, Record)>,
    /// Those that are damaged: key and the fingerprint they are to have.
    pub damaged: Vec<(Key, u64)>,
    /// Continue after this key; `None` when there was none.
    pub last: Option<Key>,
}

/// A page of a partition.
#[derive(Debug, Clone, Default)]
pub struct ScanPage {
    pub entries: Vec<(Key, Record)>,
    /// Keys whose records are damaged, and why each could not be read.
    pub damaged: Vec<(Key, String)>,
    /// Continue after this key; `None` at the end.
    pub next: Option<Key>,
}
