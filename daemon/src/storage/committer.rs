//! The one thread that writes: it owns the log, and feeds the table.
//!
//! It takes everything that waits (bounded), joins each incoming record with the current one,
//! appends what changed as one frame, syncs once, applies to the table, and only then answers
//! everyone in the batch; also those whose request changed nothing, because what they saw may be
//! a write of the same batch. Any failed write or sync poisons the engine: after a failed fsync
//! the kernel may have dropped the very pages it could not write, so trying again proves nothing.
//!
//! A checkpoint runs here, between two batches; writers wait while it does.

mod batch;

use std::{
    collections::VecDeque,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::Record,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use self::batch::Batch;
use super::{
    Merged, StorageError, checkpoint,
    commit_log::{CommitError, CommitLog, LogOp},
    core::{Core, split_item_key},
    space::guard::Guard,
    table::TableError,
};

/// Most requests that share one sync.
const BATCH_REQUESTS_MAX: usize = 1024;
/// Most bytes that share one sync, about.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Records a partition drop removes between two batches.
const DROP_STEP: usize = 256;
/// The log may grow to this many segments before a checkpoint.
const CHECKPOINT_SEGMENTS: u64 = 4;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

pub(super) enum Request {
    /// `issued` as in [`super::Store::merge_many_issued`].
    Merge {
        entries: Vec<(Key, Record)>,
        issued: Hlc,
        reply: Reply<Merged>,
    },
    HintAdd {
        target: NodeId,
        key: Key,
        record: Record,
        reply: Reply<bool>,
    },
    HintsDone {
        target: NodeId,
        delivered: Vec<(Key, u64)>,
        /// Not delivered but given up: their partitions become dirty.
        given_up: bool,
        reply: Reply<()>,
    },
    /// Forget those of these records that are still the same, and raise the floor.
    Forget {
        partition: PartitionId,
        keys: Vec<(Key, u64)>,
        floor: Hlc,
        reply: Reply<()>,
    },
    RaiseFloors {
        floors: Vec<(PartitionId, Hlc)>,
        reply: Reply<()>,
    },
    ClearDirty {
        target: NodeId,
        partitions: Vec<PartitionId>,
        reply: Reply<()>,
    },
    DropPartition {
        partition: PartitionId,
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

impl Request {
    /// It makes the store larger; the others let something go.
    fn adds(&self) -> bool {
        matches!(self, Self::Merge { .. } | Self::HintAdd { .. })
    }

    fn refuse(self, error: StorageError) {
        // a waiter that left needs no answer, here and below
        match self {
            Self::Merge { reply, .. } => drop(reply.send(Err(error))),
            Self::HintAdd { reply, .. } => drop(reply.send(Err(error))),
            Self::HintsDone { reply, .. }
            | Self::Forget { reply, .. }
            | Self::RaiseFloors { reply, .. }
            | Self::ClearDirty { reply, .. }
            | Self::DropPartition { reply, .. }
            | Self::Close { reply } => drop(reply.send(Err(error))),
        }
    }
}

/// A queued request and its share of the queue's bytes.
pub(super) struct Ticket {
    pub request: Request,
    pub bytes: usize,
    pub permit: OwnedSemaphorePermit,
}

struct DropJob {
    partition: PartitionId,
    reply: Reply<()>,
}

pub(super) struct Committer {
    core: Arc<Core>,
    guard: Arc<Guard>,
    log: CommitLog,
    queue: mpsc::Receiver<Ticket>,
    /// Folder of the checkpoint file.
    dir: PathBuf,
    segment_bytes: u64,
    bytes_after_checkpoint: u64,
    drops: VecDeque<DropJob>,
}

/// Why a batch was not committed.
enum Trouble {
    /// No space; the log is as it was.
    Full,
    /// The engine must stop; a sentence.
    Broken(String),
}

/// Why the thread goes home.
enum End {
    /// Every handle is gone; what a crash would leave is what stays.
    Abandoned,
    Closed(Reply<()>),
    Poisoned(StorageError),
}

impl Committer {
    pub fn new(
        core: Arc<Core>,
        guard: Arc<Guard>,
        log: CommitLog,
        queue: mpsc::Receiver<Ticket>,
        dir: &Path,
        segment_bytes: u64,
    ) -> Self {
        core.log_bytes.store(log.bytes(), Ordering::Relaxed);
        Self {
            core,
            guard,
            log,
            queue,
            dir: dir.to_owned(),
            segment_bytes,
            bytes_after_checkpoint: 0,
            drops: VecDeque::new(),
        }
    }

    /// Works until the engine is closed, abandoned or poisoned.
    pub fn run(mut self) {
        let end = self.serve();
        self.queue.close();
        let refusal = match &end {
            End::Poisoned(error) => error.clone(),
            End::Abandoned | End::Closed(_) => StorageError::Closed,
        };
        while let Ok(ticket) = self.queue.try_recv() {
            ticket.request.refuse(refusal.clone());
        }
        for job in self.drops.drain(..) {
            drop(job.reply.send(Err(refusal.clone())));
        }
        if let End::Closed(reply) = end {
            drop(reply.send(Ok(())));
        }
    }

    fn serve(&mut self) -> End {
        loop {
            let first = if self.drops.is_empty() {
                match self.queue.blocking_recv() {
                    Some(ticket) => Some(ticket),
                    None => return End::Abandoned,
                }
            } else {
                match self.queue.try_recv() {
                    Ok(ticket) => Some(ticket),
                    Err(mpsc::error::TryRecvError::Empty) => None,
                    Err(mpsc::error::TryRecvError::Disconnected) => return End::Abandoned,
                }
            };
            let closing = match self.turn(first) {
                Ok(closing) => closing,
                Err(why) => return End::Poisoned(self.core.poison(&why)),
            };
            if let Some(reply) = closing {
                return match self.checkpoint() {
                    Ok(()) => End::Closed(reply),
                    Err(why) => {
                        let error = self.core.poison(&why);
                        drop(reply.send(Err(error.clone())));
                        End::Poisoned(error)
                    }
                };
            }
        }
    }

    /// One batch, one step of a partition drop, and a checkpoint when it is due.
    fn turn(&mut self, first: Option<Ticket>) -> Result<Option<Reply<()>>, String> {
        let closing = self.batch(first)?;
        self.drop_step()?;
        let bytes = self.log.bytes();
        let grown = bytes.saturating_sub(self.bytes_after_checkpoint);
        let due = bytes >= self.segment_bytes * CHECKPOINT_SEGMENTS && grown >= self.segment_bytes;
        if due || self.guard.take_tidy() {
            self.checkpoint()?;
        }
        Ok(closing)
    }

    /// Gathers what waits, starting with `first`, and commits it.
    fn batch(&mut self, first: Option<Ticket>) -> Result<Option<Reply<()>>, String> {
        let core = Arc::clone(&self.core);
        let mut batch = Batch::new(&core);
        let mut closing = None;
        let mut permits = Vec::new();
        let mut bytes = 0;
        let mut next = first;
        let read_only = self.look();
        while let Some(ticket) = next.take() {
            bytes += ticket.bytes;
            permits.push(ticket.permit);
            match ticket.request {
                Request::Close { reply } => {
                    closing = Some(reply);
                    break;
                }
                // starts after this batch
                Request::DropPartition { partition, reply } => {
                    self.drops.push_back(DropJob { partition, reply });
                    break;
                }
                request if request.adds() && read_only.is_some() => {
                    let why = read_only.clone().unwrap_or_default();
                    request.refuse(StorageError::ReadOnly(why));
                }
                request => batch.stage(request),
            }
            if permits.len() < BATCH_REQUESTS_MAX && bytes < BATCH_BYTES_MAX {
                next = self.queue.try_recv().ok();
            }
        }
        match self.commit(batch.ops()) {
            Ok(()) => {
                batch.answer();
                Ok(closing)
            }
            Err(Trouble::Full) => {
                batch.refuse(&self.full());
                Ok(closing)
            }
            Err(Trouble::Broken(why)) => {
                let error = self.core.poison(&why);
                batch.refuse(&error);
                if let Some(reply) = closing {
                    drop(reply.send(Err(error)));
                }
                Err(why)
            }
        }
    }

    /// Why nothing new is stored at the moment, if so.
    fn look(&self) -> Option<String> {
        self.guard.look();
        self.guard.reason()
    }

    /// After an append that found no space.
    fn full(&self) -> StorageError {
        self.guard.out_of_space();
        StorageError::ReadOnly(self.guard.reason().unwrap_or_default())
    }

    /// Log, sync, table: in this order.
    fn commit(&mut self, ops: &[LogOp]) -> Result<(), Trouble> {
        if ops.is_empty() {
            return Ok(());
        }
        let first = match self.log.commit(ops) {
            Ok(first) => first,
            Err(CommitError::Full(_)) => return Err(Trouble::Full),
            Err(CommitError::Failed(e)) => {
                let dir = self.dir.display();
                return Err(Trouble::Broken(format!(
                    "cannot write the commit log in {dir}: {e}; check the disk, then start the node again"
                )));
            }
        };
        self.core.log_syncs.fetch_add(1, Ordering::Relaxed);
        let count = ops.len() as u64;
        self.core.log_records.fetch_add(count, Ordering::Relaxed);
        self.core
            .log_bytes
            .store(self.log.bytes(), Ordering::Relaxed);
        for (lsn, op) in (first..).zip(ops) {
            self.core
                .apply(op, lsn)
                .map_err(|e| Trouble::Broken(self.table_failed(&e)))?;
        }
        Ok(())
    }

    fn table_failed(&self, e: &TableError) -> String {
        let (dir, why) = (self.dir.display(), e.why());
        format!("cannot write the table in {dir}: {why}; check the disk, then start the node again")
    }

    /// Removes the next few records of the partition that is being dropped.
    fn drop_step(&mut self) -> Result<(), String> {
        let Some(job) = self.drops.front() else {
            return Ok(());
        };
        let partition = job.partition;
        let prefix = partition.to_be_bytes();
        let from = Bound::Included(prefix.to_vec());
        let mut last = None;
        for row in self.core.table.records.range(from, &prefix).take(DROP_STEP) {
            last = Some(row.map_err(|e| self.table_failed(&e))?.key);
        }
        if let Some(last) = last {
            let (_, through) = split_item_key(last.as_ref()).map_err(|e| self.table_failed(&e))?;
            return match self.commit(&[LogOp::Drop { partition, through }]) {
                Ok(()) => Ok(()),
                Err(Trouble::Broken(why)) => Err(why),
                Err(Trouble::Full) => {
                    let error = self.full();
                    if let Some(job) = self.drops.pop_front() {
                        drop(job.reply.send(Err(error)));
                    }
                    Ok(())
                }
            };
        }
        if let Some(job) = self.drops.pop_front() {
            drop(job.reply.send(Ok(())));
        }
        Ok(())
    }

    /// Makes the table durable as it is, then lets go of the log it no longer needs.
    fn checkpoint(&mut self) -> Result<(), String> {
        let guard = Arc::clone(&self.guard);
        let _room = guard.make_room();
        let lsn = self.log.last_lsn();
        self.core
            .table
            .checkpoint(lsn)
            .map_err(|e| self.table_failed(&e))?;
        checkpoint::write(&self.dir, lsn).map_err(|e| {
            format!(
                "cannot write the checkpoint in {}: {e}; check the disk",
                self.dir.display()
            )
        })?;
        if let Err(e) = self.log.forget_through(lsn) {
            // costs space, not data; tried again at the next checkpoint
            tracing::warn!(
                "cannot delete old log segments in {}: {e}",
                self.dir.display()
            );
        }
        self.bytes_after_checkpoint = self.log.bytes();
        self.core
            .log_bytes
            .store(self.log.bytes(), Ordering::Relaxed);
        Ok(())
    }
}
