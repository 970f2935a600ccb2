//! The one thread that writes the log; the table follows one batch behind.
//!
//! It takes everything that waits (bounded), joins each incoming record with the current one,
//! appends what changed as one frame and syncs once. Then the [`applier`] brings the batch into
//! the table and answers everyone in it, while the next batch is staged and synced here; also
//! those whose request changed nothing, because what they saw may be a write of the same batch,
//! or of the one before. Any failed write or sync poisons the engine: after a failed fsync the
//! kernel may have dropped the very pages it could not write, so trying again proves nothing. Only
//! an append that found no space is undone and refused. What would change nothing is granted also
//! then, and while the store is read-only: that is judged where the join is made, in [`batch`].
//!
//! What a request is joined with is the state after all batches before its own: the table, and
//! over it the one batch that may not be applied yet. Requests that need to know more of that
//! batch than its records wait until it is applied.

pub(super) mod applier;
mod batch;
pub(super) mod checkpointer;
mod gather;
pub(super) mod line;
pub(super) mod request;

use std::{
    collections::{HashMap, VecDeque},
    ops::Bound,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use ringmaster_shared::id::PartitionId;
use tokio::sync::OwnedSemaphorePermit;

use self::{
    applier::{Applier, Sealed, Work},
    batch::Batch,
    checkpointer::Checkpointer,
    gather::{Gather, Patience},
    line::Line,
    request::{Reply, Request, Ticket},
};
use super::{
    StorageError,
    commit_log::{CommitError, CommitLog, LogOp},
    core::{Core, split_item_key},
    space::guard::{Change, Guard},
    table::TableError,
};

/// Most requests that share one sync.
const BATCH_REQUESTS_MAX: usize = 1024;
/// Most bytes that share one sync, about.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Records a partition drop removes between two batches.
const DROP_STEP: usize = 256;

struct DropJob {
    partition: PartitionId,
    reply: Reply<()>,
    /// Kept until it is done, so that the bound of the queue counts these too.
    _permit: OwnedSemaphorePermit,
}

/// A batch that is about to be committed.
struct Taken {
    batch: Batch,
    permits: Vec<OwnedSemaphorePermit>,
    closing: Option<Reply<()>>,
}

/// A batch is being kept open for more.
struct Wait {
    patience: Patience,
    until: Instant,
    /// Requests it had when the wait began.
    before: usize,
}

/// What the committer works with.
pub(super) struct Parts {
    pub core: Arc<Core>,
    pub guard: Arc<Guard>,
    pub log: CommitLog,
    pub applier: Arc<Applier>,
    pub checkpointer: Arc<Checkpointer>,
    pub line: Line,
    /// Folder of the store, for messages.
    pub dir: PathBuf,
}

pub(super) struct Committer {
    parts: Parts,
    /// The last batch, until it is known to be in the table.
    before: Option<Arc<Sealed>>,
    drops: VecDeque<DropJob>,
    gather: Gather,
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
            gather: Gather::default(),
        }
    }

    /// Works until the engine is closed, abandoned or poisoned.
    pub fn run(mut self) {
        let end = self.serve();
        let refusal = match &end {
            End::Poisoned(error) => error.clone(),
            End::Abandoned | End::Closed(_) => StorageError::Closed,
        };
        for ticket in self.parts.line.close() {
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
            let Ok(first) = self.parts.line.first(self.drops.is_empty()) else {
                return End::Abandoned;
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
        if let Err(why) = self.drop_step() {
            // first, so that whoever is closing hears about it
            self.parts.core.poison(&why);
        }
        if let Some(why) = self.parts.core.poisoned() {
            // perhaps somebody else found out
            if let Some(reply) = closing {
                drop(reply.send(Err(self.parts.core.poison_error())));
            }
            return Err(why.to_owned());
        }
        self.parts.checkpointer.when_due();
        Ok(closing)
    }

    /// Commits what waits, starting with `first`.
    fn batch(&mut self, first: Option<Ticket>) -> Result<Option<Reply<()>>, String> {
        let Taken {
            batch,
            permits,
            closing,
        } = self.take(first);
        match self.commit(batch, permits) {
            Ok(()) => Ok(closing),
            Err((batch, Trouble::Full)) => {
                let full = self.full();
                // who wants nothing new may have seen the batch before
                self.settle();
                if self.parts.core.poisoned().is_some() {
                    batch.refuse(&self.parts.core.poison_error());
                } else {
                    batch.refuse_new(&full);
                }
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

    /// Stages what waits, starting with `first`, and what comes while it is worth a wait.
    fn take(&mut self, first: Option<Ticket>) -> Taken {
        let core = Arc::clone(&self.parts.core);
        let mut batch = Batch::new(core, self.before.clone(), self.look());
        let mut closing = None;
        let mut permits = Vec::new();
        let (mut bytes, mut large) = (0, 0);
        let mut wait = None;
        let mut next = first;
        while let Some(ticket) = next.take() {
            bytes += ticket.bytes;
            large += ticket.large_bytes();
            match ticket.request {
                Request::Close { reply } => {
                    closing = Some(reply);
                    break;
                }
                // starts after this batch
                Request::DropPartition { partition, reply } => {
                    self.drops.push_back(DropJob {
                        partition,
                        reply,
                        _permit: ticket.permit,
                    });
                    break;
                }
                request => {
                    if self.must_settle_for(&request) {
                        self.settle();
                        batch.set_before(None);
                    }
                    batch.stage(request);
                    permits.push(ticket.permit);
                }
            }
            if permits.len() < BATCH_REQUESTS_MAX && bytes < BATCH_BYTES_MAX {
                next = self.next(&batch, permits.len(), large, &mut wait);
            }
        }
        if let Some(Wait {
            patience, before, ..
        }) = wait
        {
            let hoped = patience.requests;
            self.gather.waited(hoped, before, permits.len());
        }
        Taken {
            batch,
            permits,
            closing,
        }
    }

    /// One more for the batch, which has `requests`, of them `large` bytes of large joins. When
    /// nobody waits it is kept open for a while, if it needs a sync at all: see [`gather`].
    fn next(
        &mut self,
        batch: &Batch,
        requests: usize,
        large: usize,
        wait: &mut Option<Wait>,
    ) -> Option<Ticket> {
        if let Some(ticket) = self.parts.line.next(large) {
            return Some(ticket);
        }
        if batch.changes_nothing() || !self.drops.is_empty() {
            return None;
        }
        if wait.is_none() {
            let patience = self.gather.patience(requests)?;
            *wait = Some(Wait {
                patience,
                until: Instant::now() + patience.most,
                before: requests,
            });
        }
        let Wait {
            patience, until, ..
        } = wait.as_ref()?;
        if requests >= patience.requests {
            return None;
        }
        let left = until.saturating_duration_since(Instant::now());
        let time = left.min(patience.quiet);
        self.parts.line.next_within(large, time)
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
        let started = Instant::now();
        let first = match self.append(&sealed.ops) {
            Ok(first) => first,
            Err(trouble) => return Err((Box::new(batch), trouble)),
        };
        let (requests, queued) = (permits.len(), self.parts.line.newcomers());
        self.gather.synced(requests, queued, started.elapsed());
        let sealed = Arc::new(sealed);
        let work = Work {
            sealed: Arc::clone(&sealed),
            first,
            batch: Some(batch),
            _permits: permits,
        };
        if self.parts.line.is_empty() {
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
        let last = first + ops.len() as u64 - 1;
        self.parts.guard.table_takes(last);
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
        let mut rows = 0;
        let records = &self.parts.core.table.records;
        for row in records.range(from, &prefix).take(DROP_STEP) {
            last = Some(row.map_err(|e| self.table_failed(&e))?.key);
            rows += 1;
        }
        let outcome = if let Some(last) = last {
            let (_, through) = split_item_key(last.as_ref()).map_err(|e| self.table_failed(&e))?;
            match self.remove(LogOp::Drop { partition, through }) {
                Ok(()) if rows == DROP_STEP => return Ok(()),
                // that was all: what is written from now on belongs to who holds it next
                Ok(()) => {
                    self.settle();
                    Ok(())
                }
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
