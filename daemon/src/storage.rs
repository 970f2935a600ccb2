//! The durable key-value engine of one node: its interface.
//!
//! The truth is a commit log of our own ([`commit_log`]); sled is the table it feeds ([`table`]).
//! One thread commits ([`committer`]), one behind it brings what is synced into the table; readers go straight to the table and see only what is
//! synced. [`recovery`] opens. Versions are data here: this room joins records and never asks
//! what a write means, who owns a partition, or what time it is.

mod answers;
mod checkpoint;
mod commit_log;
mod committer;
mod core;
mod digest;
mod dirty;
mod floors;
mod hints;
mod record;
mod recovery;
mod scan;
mod space;
mod summary;
mod table;
mod threads;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::{Record, RecordVersion, Value},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::{
    commit_log::{
        CommitLog,
        disk::{FileDisk, LogDisk},
    },
    committer::{Reply, Request, Ticket, checkpointer::SPARES_MAX},
    core::Core,
    space::guard::Guard,
    table::TableError,
};

pub use self::answers::{
    HintPage, Merged, RecoveryReport, ScanPage, StorageError, StoreStats, TombstonePage,
};
pub(crate) use self::digest::BRANCHES;

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
    /// Kept allocated and empty, to be given up when the disk is all but full.
    pub reserve_bytes: u64,
    /// Below this much free space nothing new is stored.
    pub min_free_bytes: u64,
}

/// Requests that may wait for the committer.
const QUEUE_REQUESTS: usize = 4096;
/// Kibibytes of records that may wait for the committer.
const QUEUE_KIB: u32 = 64 * 1024;
/// [`Store::merge_many_issued`] cuts longer lists into requests of about this many bytes.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Cheap handle of the engine. When the last one goes without [`Store::close`], the engine
/// stops as in a crash: everything acknowledged is safe, and replayed at the next start.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    queue: Option<mpsc::Sender<Ticket>>,
    /// Bounds the bytes in the queue, in KiB.
    budget: Arc<Semaphore>,
    closed: AtomicBool,
    guard: Arc<Guard>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    /// Released last.
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None; // ends the committer after what it has in hand
        let threads = self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // they fence their own panics
            let _ = thread.join();
        }
    }
}

impl From<TableError> for StorageError {
    fn from(e: TableError) -> Self {
        Self::Read {
            what: "the table".to_owned(),
            why: e.why().to_owned(),
        }
    }
}

/// Roughly what a record costs in memory and on its way to disk, bytes.
fn weight(key: &Key, record: &Record) -> usize {
    let values = record.siblings.iter();
    let values: usize = values
        .map(|s| 64 + s.value.as_ref().map_or(0, Value::len))
        .sum();
    key.as_str().len() + values + 32 * record.clock.0.len() + 64
}

/// Whether joining these would change nothing. What the table shows is synced.
fn holds_all(core: &Core, entries: &[(Key, Record)]) -> Result<bool, StorageError> {
    for (key, record) in entries {
        let held = core.table.records.get(&core.record_item(key))?;
        if !held.is_some_and(|held| held.merge(record) == held) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Store {
    /// Opens, recovers and replays. Blocking; call it off the async threads.
    #[allow(clippy::needless_pass_by_value)] // the callers are done with it
    pub fn open(config: StoreConfig) -> Result<(Self, RecoveryReport), StorageError> {
        Self::open_on(&config, Box::new(FileDisk::new(config.segment_bytes)))
    }

    /// [`Self::open`] with a log on `disk`.
    fn open_on(
        config: &StoreConfig,
        disk: Box<dyn LogDisk>,
    ) -> Result<(Self, RecoveryReport), StorageError> {
        let failed = |e: io::Error| StorageError::Open {
            path: config.dir.display().to_string(),
            why: e.to_string(),
        };
        let (recovered, report) = recovery::recover(config)?;
        let log_dir = recovery::log_dir(&config.dir);
        let applied = recovered.log.next_lsn - 1;
        let log = CommitLog::resume(
            &log_dir,
            disk,
            config.segment_bytes,
            SPARES_MAX,
            recovered.log,
        )
        .map_err(failed)?;
        let core = Arc::new(recovered.core);
        let guard = Arc::new(recovered.guard);
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS);
        let started = threads::start(config, &core, &guard, log, applied, requests);
        let inner = Inner {
            core,
            queue: Some(queue),
            budget: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            closed: AtomicBool::new(false),
            guard,
            threads: Mutex::new(started.map_err(failed)?),
            _lock: recovered.lock,
        };
        let inner = Arc::new(inner);
        Ok((Self { inner }, report))
    }

    /// The shared state, unless the engine is closing.
    fn core(&self) -> Result<&Core, StorageError> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(StorageError::Closed);
        }
        Ok(&self.inner.core)
    }

    /// Why a request could not be handed over or was not answered.
    fn gone(&self) -> StorageError {
        if self.inner.core.poisoned().is_none() && self.inner.closed.load(Ordering::Acquire) {
            return StorageError::Closed;
        }
        self.inner.core.poison_error()
    }

    /// Queues a request of about `bytes` and waits for its answer.
    async fn ask<T>(
        &self,
        bytes: usize,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, StorageError> {
        if self.inner.core.poisoned().is_some() {
            return Err(self.inner.core.poison_error());
        }
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(QUEUE_KIB);
        let budget = Arc::clone(&self.inner.budget);
        let permit = budget.acquire_many_owned(kib.min(QUEUE_KIB)).await;
        let permit = permit.map_err(|_| self.gone())?;
        let (reply, answer) = oneshot::channel();
        let ticket = Ticket {
            request: request(reply),
            bytes,
            permit,
        };
        let queue = self.inner.queue.as_ref().ok_or(StorageError::Closed)?;
        queue.send(ticket).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    /// [`Self::merge_issued`] of what was issued just now.
    #[cfg(test)]
    pub async fn merge(&self, key: Key, incoming: Record) -> Result<bool, StorageError> {
        self.merge_issued(key, incoming, Hlc(u64::MAX)).await
    }

    /// [`Self::merge_many_issued`] of what was issued just now.
    #[cfg(test)]
    pub async fn merge_many(&self, entries: Vec<(Key, Record)>) -> Result<usize, StorageError> {
        let merged = self.merge_many_issued(entries, Hlc(u64::MAX)).await?;
        Ok(merged.changed)
    }

    /// Joins `incoming` into what is stored. When this returns `Ok`, the result is synced.
    /// `true`: something changed. `issued` is when whoever sends it began (before it read what
    /// it sends); [`StorageError::Stale`] when the partition's floor has passed that.
    pub async fn merge_issued(
        &self,
        key: Key,
        incoming: Record,
        issued: Hlc,
    ) -> Result<bool, StorageError> {
        let merged = self
            .merge_many_issued(vec![(key, incoming)], issued)
            .await?;
        if merged.stale > 0 {
            return Err(StorageError::Stale {
                floor: merged.floor,
            });
        }
        Ok(merged.changed > 0)
    }

    /// The same for many, one sync for all (a few, beyond some megabytes); stale entries are left
    /// out and counted. `issued` 0 lets each record speak for itself: by its oldest sibling. After
    /// an error any part of the entries may have been stored.
    pub async fn merge_many_issued(
        &self,
        entries: Vec<(Key, Record)>,
        issued: Hlc,
    ) -> Result<Merged, StorageError> {
        let core = self.core()?;
        if let Err(full) = self.inner.guard.writable() {
            // what is here already takes no space: a read on a full disk may have to be sure of it
            return if holds_all(core, &entries)? {
                Ok(Merged::default())
            } else {
                Err(full)
            };
        }
        let mut all = Merged::default();
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut bytes = 0;
            let mut part = Vec::new();
            while bytes < REQUEST_BYTES_MAX
                && let Some((key, record)) = entries.next()
            {
                bytes += weight(&key, &record);
                part.push((key, record));
            }
            let entries = part;
            let merged = self.ask(bytes, |reply| Request::Merge {
                entries,
                issued,
                reply,
            });
            let merged = merged.await?;
            all.changed += merged.changed;
            all.stale += merged.stale;
            all.floor = all.floor.max(merged.floor);
        }
        Ok(all)
    }

    /// The floor of a partition: what was issued at or before it is refused. No lock.
    pub fn floor(&self, partition: PartitionId) -> Hlc {
        self.inner.core.floors.get(partition)
    }

    /// The highest floor of all partitions.
    pub fn highest_floor(&self) -> Hlc {
        self.inner.core.floors.highest()
    }

    /// Raises floors, durably; one that is higher already stays.
    pub async fn raise_floors(&self, floors: Vec<(PartitionId, Hlc)>) -> Result<(), StorageError> {
        self.core()?;
        let bytes = floors.len() * 16;
        self.ask(bytes, |reply| Request::RaiseFloors { floors, reply })
            .await
    }

    /// In one step, durably: forgets those of these records whose fingerprint is still the same,
    /// and raises the partition's floor.
    pub async fn forget_tombstones(
        &self,
        partition: PartitionId,
        keys: Vec<(Key, u64)>,
        floor: Hlc,
    ) -> Result<(), StorageError> {
        self.core()?;
        let bytes = keys.iter().map(|(key, _)| key.as_str().len() + 32).sum();
        self.ask(bytes, |reply| Request::Forget {
            partition,
            keys,
            floor,
            reply,
        })
        .await
    }

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
        Ok(scan::tombstones(
            core,
            partition,
            after,
            until,
            (rows, limit),
        )?)
    }

    /// The fingerprint of what is stored for the key.
    pub fn fingerprint(&self, key: &Key) -> Result<Option<u64>, StorageError> {
        let core = self.core()?;
        let meta = core.table.records.meta(&core.record_item(key))?;
        Ok(meta.map(|m| m.fingerprint))
    }

    /// The stored record; only what is synced is visible.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, StorageError> {
        let core = self.core()?;
        Ok(core.table.records.get(&core.record_item(key))?)
    }

    pub fn version(&self, key: &Key) -> Result<Option<RecordVersion>, StorageError> {
        let core = self.core()?;
        Ok(core.table.records.version(&core.record_item(key))?)
    }

    /// Records of one partition in key order, after `after`, until about `max_bytes`.
    pub fn scan_partition(
        &self,
        partition: PartitionId,
        after: Option<&Key>,
        max_bytes: usize,
    ) -> Result<ScanPage, StorageError> {
        Ok(scan::scan_partition(
            self.core()?,
            partition,
            after,
            max_bytes,
        )?)
    }

    /// Keys with a value, in byte order, that start with `prefix` and come after `after`.
    pub fn list_keys(
        &self,
        partitions: &[PartitionId],
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Key>, StorageError> {
        Ok(scan::list_keys(
            self.core()?,
            partitions,
            prefix,
            after,
            limit,
        )?)
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
        Ok(scan::leaves_versions(self.core()?, partition, leaves)?)
    }

    /// Forgets a partition this node no longer holds. Runs in steps between other writes; what is
    /// merged into the partition meanwhile may or may not be forgotten too.
    pub async fn drop_partition(&self, partition: PartitionId) -> Result<(), StorageError> {
        self.core()?;
        self.ask(0, |reply| Request::DropPartition { partition, reply })
            .await
    }

    /// Keeps a record for a node that did not get it; durable. `false`: over budget, dropped, and
    /// the partition marked dirty for that node.
    pub async fn hint_add(
        &self,
        target: &NodeId,
        key: Key,
        record: Record,
    ) -> Result<bool, StorageError> {
        self.core()?;
        self.inner.guard.writable()?;
        let bytes = weight(&key, &record);
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

    /// The first hints kept for `target`, in key order: `limit`, or fewer when they are large.
    pub fn hints_for(
        &self,
        target: &NodeId,
        limit: usize,
    ) -> Result<Vec<(Key, Record)>, StorageError> {
        Ok(scan::hints_for(self.core()?, target, limit)?)
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
        Ok(scan::hints_before(core, target, after, before, rows)?)
    }

    /// Whether a hint for the key is kept for anybody.
    pub fn is_hinted(&self, key: &Key) -> Result<bool, StorageError> {
        Ok(scan::is_hinted(self.core()?, key)?)
    }

    /// Partitions that have to be compared with a member, because hints for it were given up.
    pub fn dirty(&self) -> BTreeMap<NodeId, Vec<PartitionId>> {
        self.inner.core.dirty.all()
    }

    /// The member has been compared in these partitions.
    pub async fn clear_dirty(
        &self,
        target: &NodeId,
        partitions: Vec<PartitionId>,
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

    pub fn stats(&self) -> StoreStats {
        let mut stats = self.inner.core.stats();
        stats.read_only = self.inner.guard.reason();
        stats.disk_free_bytes = self.inner.guard.free();
        stats
    }

    /// Why nothing new is stored, if so.
    pub fn read_only(&self) -> Option<String> {
        self.inner.guard.reason()
    }

    /// Why the engine stopped, if it did.
    pub fn poisoned(&self) -> Option<String> {
        self.inner.core.poisoned().map(str::to_owned)
    }

    /// From now on an empty store is one without writes, not one that lost them; call it when
    /// the node has noted whether data was lost. Blocking.
    pub fn mark_in_use(dir: &std::path::Path) -> Result<(), StorageError> {
        recovery::mark(dir).map_err(|e| StorageError::Open {
            path: dir.display().to_string(),
            why: e.to_string(),
        })
    }

    /// Gives up the reserve of the store in `dir` when the disk has less free space than that, so
    /// that a node on a full disk can write what it has to while it starts. Blocking.
    pub fn make_room(dir: &std::path::Path, reserve_bytes: u64) {
        space::guard::make_room(dir, reserve_bytes);
    }

    /// Checkpoints and stops; later calls say `Closed`.
    pub async fn close(&self) -> Result<(), StorageError> {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.ask(0, |reply| Request::Close { reply }).await
    }
}
