//! Brings synced batches into the table, one behind the committer, and answers their waiters.
//!
//! **Invariant.** What is handed over is synced. Batches are applied whole, in the order of the
//! log (but for large records, which come last in theirs), and at most one is not applied yet when
//! another is handed over: [`Applier::hand_over`] waits for that. So the committer, while it stages
//! batch n + 1, knows the state of the store from two places: the sealed batch n, and for every key
//! that n does not touch, the table.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ringmaster_shared::{key::Key, version::Record};
use tokio::sync::OwnedSemaphorePermit;

use super::batch::{Batch, Place};
use crate::{
    large::LARGE_BYTES,
    storage::{commit_log::LogOp, core::Core, space::guard::Guard, table::TableError, weight},
};

/// The entries of a batch, and where in them the record of a key is.
pub(super) struct Sealed {
    pub ops: Vec<LogOp>,
    pub records: HashMap<Key, Place>,
}

impl Sealed {
    /// What the batch makes of this key.
    pub fn record(&self, key: &Key) -> Option<&Record> {
        let Place::Put(at) = self.records.get(key)? else {
            return None; // hidden, see below
        };
        match self.ops.get(*at) {
            Some(LogOp::Put { record, .. }) => Some(record),
            _ => None,
        }
    }

    /// Whether this entry may come after the others of its batch: a large record, where all entries
    /// are records, each of a key of its own, and so have no order.
    fn may_wait(&self, op: &LogOp) -> bool {
        let is_large = |op: &LogOp| match op {
            LogOp::Put { key, record } => weight(key, record) > LARGE_BYTES,
            _ => false,
        };
        is_large(op) && !self.hides_hints()
    }

    /// It changes records in a way that [`Self::record`] does not tell.
    pub fn hides_records(&self) -> bool {
        !self.ops.iter().all(|op| {
            matches!(
                op,
                LogOp::Put { .. } | LogOp::HintPut { .. } | LogOp::HintRemove { .. }
            )
        })
    }

    /// It changes something that is not a record.
    pub fn hides_hints(&self) -> bool {
        !self.ops.iter().all(|op| matches!(op, LogOp::Put { .. }))
    }
}

/// A synced batch on its way into the table.
pub(super) struct Work {
    pub sealed: Arc<Sealed>,
    /// Number of its first entry.
    pub first: u64,
    /// Those who wait for it.
    pub batch: Option<Batch>,
    /// Their share of the queue's bytes, given back when this is dropped.
    pub _permits: Vec<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct Slot {
    work: Option<Work>,
    busy: bool,
    ended: bool,
}

pub(in crate::storage) struct Applier {
    core: Arc<Core>,
    guard: Arc<Guard>,
    /// Number of the last entry that is in the table, with all before it.
    applied: AtomicU64,
    slot: Mutex<Slot>,
    bell: Condvar,
}

impl Applier {
    pub fn new(core: Arc<Core>, guard: Arc<Guard>, applied: u64) -> Self {
        Self {
            core,
            guard,
            applied: AtomicU64::new(applied),
            slot: Mutex::default(),
            bell: Condvar::new(),
        }
    }

    /// Number of the last entry that is in the table, with all before it.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// As if the entries up to this one were in the table.
    #[cfg(test)]
    pub fn pretend(&self, applied: u64) {
        self.applied.store(applied, Ordering::Release);
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settled(&self) -> MutexGuard<'_, Slot> {
        let pending = |s: &mut Slot| !s.ended && (s.busy || s.work.is_some());
        let settled = self.bell.wait_while(self.slot(), pending);
        settled.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when everything handed over is in the table, or will never be because the engine
    /// stopped.
    pub fn settle(&self) {
        drop(self.settled());
    }

    /// Waits for the batch before, then leaves this one to the thread.
    pub(super) fn hand_over(&self, work: Work) {
        let mut slot = self.settled();
        if slot.ended {
            drop(slot);
            refuse(&self.core, work);
            return;
        }
        slot.work = Some(work);
        drop(slot);
        self.bell.notify_all();
    }

    /// Applies the batch on the committer's own thread, after the one before. For when nobody waits:
    /// then there is nothing to do beside it, and a change of threads would only cost time.
    pub(super) fn apply_here(&self, work: Work) {
        let slot = self.settled();
        let ended = slot.ended;
        drop(slot);
        if ended {
            refuse(&self.core, work);
        } else {
            self.apply(work);
        }
    }

    /// The thread; returns after [`Self::end`].
    pub fn run(&self) {
        loop {
            let idle = |s: &mut Slot| !s.ended && s.work.is_none();
            let woken = self.bell.wait_while(self.slot(), idle);
            let mut slot = woken.unwrap_or_else(PoisonError::into_inner);
            let Some(work) = slot.work.take() else {
                return;
            };
            slot.busy = true;
            drop(slot);
            self.apply(work);
            self.slot().busy = false;
            self.bell.notify_all();
        }
    }

    /// After what is in hand. Also when the thread died.
    pub fn end(&self) {
        let mut slot = self.slot();
        slot.ended = true;
        drop(slot);
        self.bell.notify_all();
    }

    /// Small records first, whose waiters need not wait for the large ones.
    fn apply(&self, mut work: Work) {
        let sealed = Arc::clone(&work.sealed);
        let numbered = (work.first..).zip(&sealed.ops);
        let (last, rest): (Vec<_>, Vec<_>) = numbered.partition(|(_, op)| sealed.may_wait(op));
        if !self.enter(&rest) {
            return refuse(&self.core, work);
        }
        if !last.is_empty() {
            if let Some(batch) = &mut work.batch {
                let is_done = |at| sealed.ops.get(at).is_some_and(|op| !sealed.may_wait(op));
                batch.answer_some(is_done);
            }
            if !self.enter(&last) {
                return refuse(&self.core, work);
            }
        }
        let last = work.first + work.sealed.ops.len() as u64 - 1;
        self.applied.store(last, Ordering::Release);
        if let Some(batch) = work.batch {
            batch.answer();
        }
    }

    /// Whether all of these are in the table now; if not, the engine has stopped.
    fn enter(&self, numbered: &[(u64, &LogOp)]) -> bool {
        numbered.iter().all(|(lsn, op)| {
            if self.core.poisoned().is_some() {
                return false;
            }
            let mut applied = self.core.apply(op, *lsn);
            if let Err(TableError::Full(_)) = applied {
                // it is synced and must go in: what the reserve is for
                let _room = self.guard.room();
                self.guard.out_of_space();
                applied = self.core.apply(op, *lsn);
            }
            if let Err(e) = &applied {
                self.core.poison(&format!(
                    "cannot write the table: {}; check the disk, then start the node again",
                    e.why()
                ));
            }
            applied.is_ok()
        })
    }
}

fn refuse(core: &Core, work: Work) {
    if let Some(batch) = work.batch {
        batch.refuse(&core.poison_error());
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::clock::Hlc;
    use tokio::sync::oneshot;

    use super::*;
    use crate::storage::{
        StorageError,
        committer::request::Request,
        recovery,
        testing::{key, record},
        tests::disk_full::SmallDisk,
    };

    /// As the first of its life.
    fn apply(applier: &Applier, mut batch: Batch) {
        let sealed = Arc::new(batch.seal());
        applier.apply_here(Work {
            sealed,
            first: 1,
            batch: Some(batch),
            _permits: Vec::new(),
        });
    }

    #[test]
    fn small_records_are_answered_before_the_large_ones_of_their_batch() {
        let dir = tempfile::tempdir().expect("temp dir");
        let config = crate::storage::tests::config(dir.path());
        let (recovered, _) = recovery::recover(&config).expect("opens");
        let core = Arc::new(recovered.core);
        let applier = Applier::new(Arc::clone(&core), Arc::new(recovered.guard), 0);
        let mut batch = Batch::new(Arc::clone(&core), None, None);
        let mut ask = |names: &[&str], len| {
            let (reply, answer) = oneshot::channel();
            let entries = names.iter().map(|name| (key(name), record("a", 1, 1, len)));
            batch.stage(Request::Merge {
                entries: entries.collect(),
                issued: Hlc(u64::MAX),
                reply,
            });
            answer
        };
        let mut large = ask(&["large"], 100_000);
        let mut small = ask(&["small"], 10);
        let mut same = ask(&["small"], 10);
        let mut both = ask(&["other", "large"], 10);
        // the large one stops the engine when it comes to it
        core.table.records.spoil(&core.record_item(&key("large")));
        apply(&applier, batch);
        for answer in [&mut small, &mut same] {
            assert!(matches!(answer.try_recv(), Ok(Ok(_))));
        }
        for answer in [&mut large, &mut both] {
            let answer = answer.try_recv();
            let refused = matches!(answer, Ok(Err(StorageError::Poisoned(_))));
            assert!(refused, "{answer:?}");
        }
        assert_eq!(applier.applied(), 0, "the log still has to be replayed");
    }

    /// Between a look at the disk and the write others may have filled it.
    #[test]
    fn a_large_body_that_finds_no_space_goes_into_the_reserve() {
        let Some(disk) = SmallDisk::mount(48) else {
            return;
        };
        let config = crate::storage::tests::disk_full::config(&disk);
        let (recovered, _) = recovery::recover(&config).expect("opens");
        let (core, guard) = (Arc::new(recovered.core), Arc::new(recovered.guard));
        guard.look();
        let applier = Applier::new(Arc::clone(&core), Arc::clone(&guard), 0);
        disk.fill(0);
        let mut batch = Batch::new(Arc::clone(&core), None, None);
        let (reply, mut answer) = oneshot::channel();
        batch.stage(Request::Merge {
            entries: vec![(key("large"), record("a", 1, 1, 1 << 20))],
            issued: Hlc(u64::MAX),
            reply,
        });
        assert!(!guard.is_read_only());
        apply(&applier, batch);
        let answer = answer.try_recv();
        assert!(matches!(answer, Ok(Ok(_))), "{answer:?}");
        assert_eq!(core.poisoned(), None);
        assert!(guard.is_read_only(), "and nothing more is taken");
        let stored = core.table.records.get(&core.record_item(&key("large")));
        assert_eq!(stored, Ok(Some(record("a", 1, 1, 1 << 20))));
    }
}
