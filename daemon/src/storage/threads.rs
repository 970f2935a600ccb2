//! The threads of the engine: who ends whom, and what a panic in one of them means.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
};

use tokio::sync::mpsc;

use super::{
    StoreConfig,
    commit_log::CommitLog,
    committer::{
        Committer, Parts, applier::Applier, checkpointer::Checkpointer, line::Line, request::Ticket,
    },
    core::Core,
    space::guard::{Change, Guard},
};

/// The engine at work: one thread that commits and ends the others when it ends, one that
/// applies, one for checkpoints, one that watches the disk.
pub(super) fn start(
    config: &StoreConfig,
    core: &Arc<Core>,
    guard: &Arc<Guard>,
    log: CommitLog,
    last_lsn: u64,
    queue: mpsc::Receiver<Ticket>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let applier = Arc::new(Applier::new(Arc::clone(core), Arc::clone(guard), last_lsn));
    let checkpointer = Arc::new(Checkpointer::new(
        Arc::clone(core),
        Arc::clone(guard),
        log.files(),
        Arc::clone(&applier),
        &config.dir,
        config.segment_bytes,
    ));
    core.log_bytes.store(log.files().bytes(), Ordering::Relaxed);
    let committer = Committer::new(Parts {
        core: Arc::clone(core),
        guard: Arc::clone(guard),
        log,
        applier: Arc::clone(&applier),
        checkpointer: Arc::clone(&checkpointer),
        line: Line::new(queue),
        dir: config.dir.clone(),
    });
    let applying = {
        let (work, last) = (Arc::clone(&applier), Arc::clone(&applier));
        fenced(
            "storage-apply",
            core,
            move || work.run(),
            move || last.end(),
        )?
    };
    let checkpoints = {
        let (work, last) = (Arc::clone(&checkpointer), Arc::clone(&checkpointer));
        let name = "storage-checkpoint";
        fenced(name, core, move || work.run(), move || last.end())?
    };
    let watching = {
        let (guard, tidy) = (Arc::clone(guard), Arc::clone(&checkpointer));
        let work = move || {
            guard.watch(|change| {
                if change == Change::BecameReadOnly {
                    tidy.ask();
                }
            });
        };
        fenced("storage-space", core, work, || {})?
    };
    let guard = Arc::clone(guard);
    let last = move || {
        applier.end();
        checkpointer.end();
        guard.stop();
    };
    let committing = fenced("storage", core, move || committer.run(), last)?;
    Ok(vec![committing, applying, checkpoints, watching])
}

/// A thread whose panic stops the engine, and after which `last` is done in any case.
fn fenced(
    name: &str,
    core: &Arc<Core>,
    work: impl FnOnce() + Send + 'static,
    last: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let core = Arc::clone(core);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            core.poison("one of its threads panicked; the log has the details");
        }
        last();
    })
}
