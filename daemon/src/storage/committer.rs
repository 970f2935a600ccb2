//! The one thread that writes the log; the table follows one batch behind.
//!
//! It takes everything that waits (bounded), joins each incoming record with the current one,
//! appends what changed as one frame and syncs once. Then the [`applier`] brings the batch into
//! the table and answers everyone in it, while the next batch is staged and synced here; also
//! those whose request changed nothing, because what they saw may be a write of the same batch,
//! or of the one before. Any failed write or sync poisons the engine: after a failed fsync the
//! kernel may have dropped the very pages it could not write, so trying again proves nothing. Only
//! an append that found no space is undone and refused.
//!
//! Small records overtake large ones: of the latter a batch takes about [`LARGE_BYTES_MAX`], and the
//! others wait their turn. So what a small write waits for is a sync or two of a bounded size, however
//! many large values stand in line. Only joins overtake joins, whose order means nothing; everything
//! else stays where it came.
//!
//! What a request is joined with is the state after all batches before its own: the table, and
//! over it the one batch that may not be applied yet. Requests that need to know more of that
//! batch than its records wait until it is applied.

pub(super) mod applier;
mod batch;
pub(super) mod checkpointer;

use std::{
    collections::{HashMap, VecDeque},
    ops::Bound,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::Record,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use self::{
    applier::{Applier, Sealed, Work},
    batch::Batch,
    checkpointer::Checkpointer,
};
use super::{
    Merged, StorageError,
    commit_log::{CommitError, CommitLog, LogOp},
    core::{Core, split_item_key},
    space::guard::{Change, Guard},
    table::TableError,
};
use crate::breaks::broken;

/// Most requests that share one sync.
const BATCH_REQUESTS_MAX: usize = 1024;
/// Most bytes that share one sync, about.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A join of more bytes than this is large.
const SMALL_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of large joins that share one sync, about; one always fits.
const LARGE_BYTES_MAX: usize = 1024 * 1024;
/// Records a partition drop removes between two batches.
const DROP_STEP: usize = 256;

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

impl Ticket {
    fn is_join(&self) -> bool {
        matches!(self.request, Request::Merge { .. })
    }

    fn is_large_join(&self) -> bool {
        self.is_join() && self.bytes > SMALL_BYTES_MAX
    }
}

struct DropJob {
    partition: PartitionId,
    reply: Reply<()>,
}

/// What the committer works with.
pub(super) struct Parts {
    pub core: Arc<Core>,
    pub guard: Arc<Guard>,
    pub log: CommitLog,
    pub applier: Arc<Applier>,
    pub checkpointer: Arc<Checkpointer>,
    pub queue: mpsc::Receiver<Ticket>,
    /// Folder of the store, for messages.
    pub dir: PathBuf,
}

pub(super) struct Committer {
    parts: Parts,
    /// The last batch, until it is known to be in the table.
    before: Option<Arc<Sealed>>,
    drops: VecDeque<DropJob>,
    /// Large joins that were overtaken, in order, and perhaps one request of another kind behind
    /// them, which nothing overtakes. Bounded by the queue's bytes, of which they keep their share.
    overtaken: VecDeque<Ticket>,
    /// `overtaking` in `RINGD_BREAK` (debug builds): everything in the order in which it came.
    in_line: bool,
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
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            before: None,
            drops: VecDeque::new(),
            overtaken: VecDeque::new(),
            in_line: broken("overtaking"),
        }
    }

    /// Works until the engine is closed, abandoned or poisoned.
    pub fn run(mut self) {
        let end = self.serve();
        self.parts.queue.close();
        let refusal = match &end {
            End::Poisoned(error) => error.clone(),
            End::Abandoned | End::Closed(_) => StorageError::Closed,
        };
        for ticket in self.overtaken.drain(..) {
            ticket.request.refuse(refusal.clone());
        }
        while let Ok(ticket) = self.parts.queue.try_recv() {
            ticket.request.refuse(refusal.clone());
        }
        for job in self.drops.drain(..) {
            drop(job.reply.send(Err(refusal.clone())));
        }
        self.parts.applier.settle();
        if let End::Closed(reply) = end {
            drop(reply.send(Ok(())));
        }
    }

    fn serve(&mut self) -> End {
        loop {
            let queue = &mut self.parts.queue;
            let first = if let Some(ticket) = self.overtaken.pop_front() {
                Some(ticket)
            } else if self.drops.is_empty() {
                match queue.blocking_recv() {
                    Some(ticket) => Some(ticket),
                    None => return End::Abandoned,
                }
            } else {
                match queue.try_recv() {
                    Ok(ticket) => Some(ticket),
                    Err(mpsc::error::TryRecvError::Empty) => None,
                    Err(mpsc::error::TryRecvError::Disconnected) => return End::Abandoned,
                }
            };
            let closing = match self.turn(first) {
                Ok(closing) => closing,
                Err(why) => return End::Poisoned(self.parts.core.poison(&why)),
            };
            if let Some(reply) = closing {
                return self.close(reply);
            }
        }
    }

    fn close(&mut self, reply: Reply<()>) -> End {
        match self.parts.checkpointer.last() {
            Ok(()) => End::Closed(reply),
            Err(checkpointer::Trouble::Full(why) | checkpointer::Trouble::TableFull(why)) => {
                // the log has everything
                tracing::warn!("closed without a checkpoint: {why}");
                End::Closed(reply)
            }
            Err(checkpointer::Trouble::Broken(why)) => {
                let error = self.parts.core.poison(&why);
                drop(reply.send(Err(error.clone())));
                End::Poisoned(error)
            }
        }
    }

    /// One batch, one step of a partition drop, and a checkpoint when it is due.
    fn turn(&mut self, first: Option<Ticket>) -> Result<Option<Reply<()>>, String> {
        let closing = self.batch(first)?;
        self.drop_step()?;
        self.parts.checkpointer.when_due();
        match self.parts.core.poisoned() {
            // somebody else found out
            Some(why) => {
                if let Some(reply) = closing {
                    drop(reply.send(Err(self.parts.core.poison_error())));
                }
                Err(why.to_owned())
            }
            None => Ok(closing),
        }
    }

    /// Gathers what waits, starting with `first`, and commits it.
    fn batch(&mut self, first: Option<Ticket>) -> Result<Option<Reply<()>>, String> {
        let mut batch = Batch::new(Arc::clone(&self.parts.core), self.before.clone());
        let mut closing = None;
        let mut permits = Vec::new();
        let (mut bytes, mut large) = (0, 0);
        let mut next = first;
        let read_only = self.look();
        while let Some(ticket) = next.take() {
            bytes += ticket.bytes;
            if ticket.is_large_join() {
                large += ticket.bytes;
            }
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
                request => {
                    if self.must_settle_for(&request) {
                        self.settle();
                        batch.set_before(None);
                    }
                    batch.stage(request);
                }
            }
            if permits.len() < BATCH_REQUESTS_MAX && bytes < BATCH_BYTES_MAX {
                next = self.next(large);
            }
        }
        match self.commit(batch, permits) {
            Ok(()) => Ok(closing),
            Err((batch, Trouble::Full)) => {
                batch.refuse(&self.full());
                Ok(closing)
            }
            Err((batch, Trouble::Broken(why))) => {
                let error = self.parts.core.poison(&why);
                batch.refuse(&error);
                if let Some(reply) = closing {
                    drop(reply.send(Err(error)));
                }
                Err(why)
            }
        }
    }

    /// The next request of a batch that holds so many bytes of large joins already.
    fn next(&mut self, large: usize) -> Option<Ticket> {
        if self.in_line {
            return self.parts.queue.try_recv().ok();
        }
        let fits = |ticket: &Ticket| !ticket.is_large_join() || large < LARGE_BYTES_MAX;
        if self.overtaken.front().is_some_and(fits) {
            return self.overtaken.pop_front();
        }
        while self.overtaken.back().is_none_or(Ticket::is_join) {
            let ticket = self.parts.queue.try_recv().ok()?;
            let overtakes =
                self.overtaken.is_empty() || (ticket.is_join() && !ticket.is_large_join());
            if overtakes && fits(&ticket) {
                return Some(ticket);
            }
            self.overtaken.push_back(ticket);
        }
        None
    }

    /// Whether the request needs to know what the batch before did to anything but records.
    fn must_settle_for(&self, request: &Request) -> bool {
        let Some(before) = &self.before else {
            return false;
        };
        match request {
            Request::Merge { .. } => before.hides_records(),
            Request::HintAdd { .. } | Request::HintsDone { .. } => before.hides_hints(),
            _ => true,
        }
    }

    /// Waits until everything committed is in the table.
    fn settle(&mut self) {
        self.parts.applier.settle();
        self.before = None;
    }

    /// Why nothing new is stored at the moment, if so. A store that has just become read-only
    /// writes a checkpoint, which lets go of what the log takes.
    fn look(&self) -> Option<String> {
        if self.parts.guard.look() == Some(Change::BecameReadOnly) {
            self.parts.checkpointer.ask();
        }
        self.parts.guard.reason()
    }

    /// After an append that found no space.
    fn full(&self) -> StorageError {
        self.parts.guard.out_of_space();
        self.parts.checkpointer.ask();
        StorageError::ReadOnly(self.parts.guard.reason().unwrap_or_default())
    }

    /// Log and sync here, then the table, which has to be done before the batch after the next.
    fn commit(
        &mut self,
        mut batch: Batch,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Result<(), (Box<Batch>, Trouble)> {
        let sealed = batch.seal();
        if sealed.ops.is_empty() {
            // what its waiters saw may be in the batch before
            self.settle();
            if self.parts.core.poisoned().is_some() {
                batch.refuse(&self.parts.core.poison_error());
            } else {
                batch.answer();
            }
            return Ok(());
        }
        let first = match self.append(&sealed.ops) {
            Ok(first) => first,
            Err(trouble) => return Err((Box::new(batch), trouble)),
        };
        let sealed = Arc::new(sealed);
        let work = Work {
            sealed: Arc::clone(&sealed),
            first,
            batch: Some(batch),
            _permits: permits,
        };
        if self.parts.queue.is_empty() && self.overtaken.is_empty() {
            self.parts.applier.apply_here(work);
            self.before = None;
        } else {
            self.before = Some(sealed);
            self.parts.applier.hand_over(work);
        }
        Ok(())
    }

    fn append(&mut self, ops: &[LogOp]) -> Result<u64, Trouble> {
        let first = match self.parts.log.commit(ops) {
            Ok(first) => first,
            Err(CommitError::Full(_)) => return Err(Trouble::Full),
            Err(CommitError::Failed(e)) => {
                let dir = self.parts.dir.display();
                return Err(Trouble::Broken(format!(
                    "cannot write the commit log in {dir}: {e}; check the disk, then start the node again"
                )));
            }
        };
        self.parts.guard.set_dirty(true);
        let core = &self.parts.core;
        core.log_syncs.fetch_add(1, Ordering::Relaxed);
        core.log_records
            .fetch_add(ops.len() as u64, Ordering::Relaxed);
        core.log_bytes
            .store(self.parts.log.files().bytes(), Ordering::Relaxed);
        Ok(first)
    }

    fn table_failed(&self, e: &TableError) -> String {
        let (dir, why) = (self.parts.dir.display(), e.why());
        format!("cannot read the table in {dir}: {why}; check the disk, then start the node again")
    }

    /// Removes the next few records of the partition that is being dropped.
    fn drop_step(&mut self) -> Result<(), String> {
        let Some(partition) = self.drops.front().map(|job| job.partition) else {
            return Ok(());
        };
        self.settle();
        let prefix = partition.to_be_bytes();
        let from = Bound::Included(prefix.to_vec());
        let mut last = None;
        let records = &self.parts.core.table.records;
        for row in records.range(from, &prefix).take(DROP_STEP) {
            last = Some(row.map_err(|e| self.table_failed(&e))?.key);
        }
        let outcome = if let Some(last) = last {
            let (_, through) = split_item_key(last.as_ref()).map_err(|e| self.table_failed(&e))?;
            match self.remove(LogOp::Drop { partition, through }) {
                Ok(()) => return Ok(()),
                Err(Trouble::Full) => Err(self.full()),
                Err(Trouble::Broken(why)) => return Err(why),
            }
        } else {
            Ok(())
        };
        if let Some(job) = self.drops.pop_front() {
            drop(job.reply.send(outcome));
        }
        Ok(())
    }

    fn remove(&mut self, op: LogOp) -> Result<(), Trouble> {
        let ops = vec![op];
        let first = self.append(&ops)?;
        let sealed = Arc::new(Sealed {
            ops,
            records: HashMap::new(),
        });
        self.before = Some(Arc::clone(&sealed));
        self.parts.applier.hand_over(Work {
            sealed,
            first,
            batch: None,
            _permits: Vec::new(),
        });
        Ok(())
    }
}
