//! The durable key-value engine of one node: its interface. What it reads is in [`reading`], what
//! it keeps for others in [`hinting`].
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
mod damaged;
mod digest;
mod dirty;
mod floors;
mod hinting;
mod hints;
mod reading;
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
    id::PartitionId,
    key::Key,
    version::{Record, Value},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::{
    commit_log::{
        CommitLog,
        disk::{FileDisk, LogDisk},
    },
    committer::{
        checkpointer::SPARES_MAX,
        request::{Reply, Request, Ticket},
    },
    core::Core,
    space::guard::Guard,
    table::TableError,
};

pub use self::answers::{
    HintPage, Merged, OwedPage, RecoveryReport, ScanPage, StorageError, StoreStats, TombstonePage,
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

/// Roughly what a record costs in memory and on its way to disk, bytes.
fn weight(key: &Key, record: &Record) -> usize {
    let values = record.siblings.iter();
    let values: usize = values
        .map(|s| 64 + s.value.as_ref().map_or(0, Value::len))
        .sum();
    key.as_str().len() + values + 32 * record.clock.0.len() + 64
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
        let answer = answer.await.map_err(|_| self.gone())?;
        answer.inspect_err(|error| {
            if matches!(error, StorageError::Read { .. }) {
                self.inner.core.note_unreadable();
            }
        })
    }

    /// What was read from the table; what could not be is noted.
    fn read<T>(&self, found: Result<T, TableError>) -> Result<T, StorageError> {
        found.map_err(|error| {
            if let TableError::Damaged(_) = error {
                self.inner.core.note_unreadable();
            }
            StorageError::Read {
                what: "the table".to_owned(),
                why: error.why().to_owned(),
            }
        })
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
    /// an error any part of the entries may have been stored. A store that is read-only takes what
    /// would change nothing: a read on a full disk may have to be sure of what is here.
    pub async fn merge_many_issued(
        &self,
        entries: Vec<(Key, Record)>,
        issued: Hlc,
    ) -> Result<Merged, StorageError> {
        self.core()?;
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

    /// Forgets a partition this node no longer holds. Runs in steps between other writes; what is
    /// merged into the partition meanwhile may or may not be forgotten too.
    pub async fn drop_partition(&self, partition: PartitionId) -> Result<(), StorageError> {
        self.core()?;
        self.ask(0, |reply| Request::DropPartition { partition, reply })
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

    /// How often the disk got too full for writes since the store was opened.
    pub fn times_read_only(&self) -> u64 {
        self.inner.guard.times_read_only()
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
