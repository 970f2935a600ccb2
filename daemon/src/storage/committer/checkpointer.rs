//! Makes the table durable now and then, beside the commits, and lets go of the log before that.
//!
//! A checkpoint vouches for the entries that were in the table when its flush began. Later ones
//! may reach the disk with it or not; replaying them over either is harmless.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use super::applier::Applier;
use crate::storage::{
    checkpoint,
    commit_log::files::LogFiles,
    core::Core,
    space::guard::{Guard, is_full},
    summary,
    table::TableError,
};

/// The log may grow to this many segments before a checkpoint.
const SEGMENTS: u64 = 4;
/// At this many times that, writers wait for the checkpoint that is under way.
const SEGMENTS_FACTOR_MAX: u64 = 4;
/// Segments kept for being written over: what one checkpoint lets go of.
pub(in crate::storage) const SPARES_MAX: usize = SEGMENTS as usize;

/// Why there is no new checkpoint.
pub(in crate::storage) enum Trouble {
    /// No space for the small file that names it; the one before still holds.
    Full(String),
    /// No space for the table, which takes nothing more in this life; the log has everything.
    TableFull(String),
    Broken(String),
}

#[derive(Default)]
struct State {
    asked: bool,
    running: bool,
    ended: bool,
    /// Bytes of the log after the last one.
    left: u64,
}

pub(in crate::storage) struct Checkpointer {
    core: Arc<Core>,
    guard: Arc<Guard>,
    files: Arc<LogFiles>,
    applier: Arc<Applier>,
    /// Folder of the checkpoint file.
    dir: PathBuf,
    segment_bytes: u64,
    state: Mutex<State>,
    bell: Condvar,
}

impl Checkpointer {
    pub fn new(
        core: Arc<Core>,
        guard: Arc<Guard>,
        files: Arc<LogFiles>,
        applier: Arc<Applier>,
        dir: &Path,
        segment_bytes: u64,
    ) -> Self {
        Self {
            core,
            guard,
            files,
            applier,
            dir: dir.to_owned(),
            segment_bytes,
            state: Mutex::default(),
            bell: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants one more checkpoint, after the one that may be under way.
    pub fn ask(&self) {
        self.state().asked = true;
        self.bell.notify_all();
    }

    /// Asks for one when the log has grown enough since the last. Returns at once, unless the log
    /// grew far beyond that while one is under way.
    pub fn when_due(&self) {
        let bytes = self.files.bytes();
        let mut state = self.state();
        let due = bytes >= self.segment_bytes * SEGMENTS
            && bytes.saturating_sub(state.left) >= self.segment_bytes;
        if !due {
            return;
        }
        if !state.running && !state.asked {
            state.asked = true;
            self.bell.notify_all();
        }
        if bytes >= self.segment_bytes * SEGMENTS * SEGMENTS_FACTOR_MAX {
            drop(self.idle(state));
        }
    }

    /// Waits until none is wanted or under way.
    fn idle<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let working = |s: &mut State| !s.ended && (s.asked || s.running);
        let idle = self.bell.wait_while(state, working);
        idle.unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread; returns after [`Self::end`], not in the middle of a checkpoint.
    pub fn run(&self) {
        loop {
            let nothing = |s: &mut State| !s.ended && (s.running || !s.asked);
            let woken = self.bell.wait_while(self.state(), nothing);
            let mut state = woken.unwrap_or_else(PoisonError::into_inner);
            if state.ended {
                return;
            }
            (state.asked, state.running) = (false, true);
            drop(state);
            match self.checkpoint() {
                Ok(()) => {}
                Err(Trouble::Full(why)) => tracing::warn!("no checkpoint for now: {why}"),
                Err(Trouble::Broken(why) | Trouble::TableFull(why)) => {
                    self.core.poison(&why);
                }
            }
            self.done();
        }
    }

    fn done(&self) {
        self.state().running = false;
        self.bell.notify_all();
    }

    /// Also when the thread died.
    pub fn end(&self) {
        self.state().ended = true;
        self.bell.notify_all();
    }

    /// The last one of a life, when nothing more is committed: it covers everything.
    pub fn last(&self) -> Result<(), Trouble> {
        self.applier.settle();
        // the guard may ask for one at any moment, and two at once would write the same files
        let running = |s: &mut State| !s.ended && s.running;
        let idle = self.bell.wait_while(self.state(), running);
        let mut state = idle.unwrap_or_else(PoisonError::into_inner);
        (state.asked, state.running) = (false, true);
        drop(state);
        let done = if self.core.poisoned().is_some() {
            let why = self.core.poison_error().to_string();
            Err(Trouble::Broken(why))
        } else {
            self.checkpoint()
        };
        self.done();
        let sound = !self.core.is_unreadable() && !self.core.table.is_littered();
        if done.is_ok() && sound {
            let summary = self.core.summary(self.applier.applied());
            if let Err(e) = summary::write(&self.dir, &summary) {
                tracing::warn!("the next start has to count: cannot write the summary: {e}");
            }
        }
        // for the next start
        self.guard.look();
        done
    }

    /// Makes the table durable as it is, then lets go of the log it no longer needs.
    fn checkpoint(&self) -> Result<(), Trouble> {
        let _room = self.guard.make_room();
        let lsn = self.applier.applied();
        let table = self.core.table.checkpoint(lsn);
        table.map_err(|e| match e {
            TableError::Full(_) => Trouble::TableFull(self.table_failed(&e)),
            _ => Trouble::Broken(self.table_failed(&e)),
        })?;
        checkpoint::write(&self.dir, lsn).map_err(|e| {
            let dir = self.dir.display();
            let why = format!("cannot write the checkpoint in {dir}: {e}; check the disk");
            if is_full(&e) {
                Trouble::Full(why)
            } else {
                Trouble::Broken(why)
            }
        })?;
        self.guard.table_is_durable(lsn);
        let tight = self.guard.is_read_only();
        let gone = self.files.forget_through(lsn, !tight);
        let gone = gone.and_then(|()| {
            if tight {
                self.files.drop_spares()
            } else {
                Ok(())
            }
        });
        if let Err(e) = gone {
            // costs space, not data; tried again at the next checkpoint
            let dir = self.dir.display();
            tracing::warn!("cannot let go of old log segments in {dir}: {e}");
        }
        self.state().left = self.files.bytes();
        self.core
            .log_bytes
            .store(self.files.bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn table_failed(&self, e: &TableError) -> String {
        let (dir, why) = (self.dir.display(), e.why());
        format!("cannot write the table in {dir}: {why}; check the disk, then start the node again")
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::storage::{StoreConfig, recovery};

    fn checkpointer(config: &StoreConfig, lsn: u64) -> Checkpointer {
        let (recovered, _) = recovery::recover(config).expect("opens");
        let log = recovery::log_dir(&config.dir);
        let files = LogFiles::new(&log, Vec::new(), 1, SPARES_MAX).expect("readable");
        let core = Arc::new(recovered.core);
        let guard = Arc::new(recovered.guard);
        let applier = Arc::new(Applier::new(Arc::clone(&core), Arc::clone(&guard), lsn));
        Checkpointer::new(
            core,
            guard,
            files,
            applier,
            &config.dir,
            config.segment_bytes,
        )
    }

    #[test]
    fn the_last_checkpoint_and_one_that_is_asked_for_meanwhile_take_turns() {
        let dir = tempfile::tempdir().expect("temp dir");
        let config = crate::storage::tests::config(dir.path());
        let checkpointer = checkpointer(&config, 7);
        thread::scope(|scope| {
            scope.spawn(|| checkpointer.run());
            let asking = scope.spawn(|| {
                while checkpointer.core.poisoned().is_none() && !checkpointer.state().ended {
                    checkpointer.ask();
                    thread::yield_now();
                }
            });
            let done = (0..40).all(|_| checkpointer.last().is_ok());
            checkpointer.end();
            asking.join().expect("asked");
            assert!(done, "{:?}", checkpointer.core.poisoned());
        });
        let stored = checkpoint::read(&config.dir);
        assert!(matches!(stored, Ok(Some(7))));
        assert_eq!(checkpointer.core.poisoned(), None);
    }

    #[test]
    fn a_checkpoint_vouches_only_for_what_was_in_the_table() {
        let dir = tempfile::tempdir().expect("temp dir");
        let config = crate::storage::tests::config(dir.path());
        let checkpointer = checkpointer(&config, 7);
        // 8 and 9 are synced and on their way into the table
        checkpointer.guard.table_takes(9);
        assert!(checkpointer.checkpoint().is_ok());
        assert!(checkpointer.guard.is_dirty(), "it may still write");
        checkpointer.applier.pretend(9);
        assert!(checkpointer.checkpoint().is_ok());
        assert!(!checkpointer.guard.is_dirty());
    }
}
