//! Log, sync, table, answer: the order is checked on a disk that keeps a diary and can be told
//! to stall or to fail.

use std::{
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use super::{config, reopen};
use crate::storage::{
    StorageError, Store,
    commit_log::disk::{FileDisk, LogDisk, LogFile},
    testing::{key, record},
};

#[derive(Default)]
pub(super) struct Diary {
    appended: Vec<u8>,
    /// How much of `appended` was synced.
    synced: usize,
    pub steps: Vec<&'static str>,
    pub stalled: bool,
    pub waiting: bool,
    fail_append: bool,
    /// Appends find no space.
    pub full: bool,
    fail_cut: bool,
    fail_sync: bool,
}

#[derive(Clone, Default)]
pub(super) struct Watched(Arc<(Mutex<Diary>, Condvar)>);

struct WatchedFile {
    file: Box<dyn LogFile>,
    watched: Watched,
}

impl Watched {
    pub fn with<T>(&self, f: impl FnOnce(&mut Diary) -> T) -> T {
        let result = f(&mut self.0.0.lock().expect("not poisoned"));
        self.0.1.notify_all();
        result
    }

    pub fn wait_until(&self, condition: impl Fn(&Diary) -> bool) {
        let diary = self.0.0.lock().expect("not poisoned");
        let patience = Duration::from_secs(60);
        let (_diary, timeout) = self
            .0
            .1
            .wait_timeout_while(diary, patience, |d| !condition(d))
            .expect("not poisoned");
        assert!(!timeout.timed_out(), "the awaited step did not come");
    }

    /// How much is synced by now.
    fn synced(&self) -> usize {
        self.with(|d| d.synced)
    }

    /// Whether this was synced, and not among the first `before` bytes.
    fn is_synced(&self, before: usize, text: &str) -> bool {
        // copied, so that who looks does not hold up the disk
        let synced = self.with(|d| d.appended[before..d.synced].to_vec());
        String::from_utf8_lossy(&synced).contains(text)
    }

    fn wrap(&self, file: Box<dyn LogFile>) -> Box<dyn LogFile> {
        let watched = self.clone();
        Box::new(WatchedFile { file, watched })
    }
}

impl LogDisk for Watched {
    fn create(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.with(|d| d.steps.push("create"));
        Ok(self.wrap(files().create(path)?))
    }

    fn reopen(&mut self, path: &Path, at: u64) -> io::Result<Box<dyn LogFile>> {
        Ok(self.wrap(files().reopen(path, at)?))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|d| d.steps.push("rename"));
        files().rename(from, to)
    }

    fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.with(|d| d.steps.push("sync dir"));
        files().sync_dir(dir)
    }
}

impl LogFile for WatchedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (fail, full) = self.watched.with(|d| {
            d.steps.push("append");
            d.appended.extend_from_slice(bytes);
            (d.fail_append, d.full)
        });
        if fail || full {
            // as a full disk does it: some of it arrives
            self.file.append(&bytes[..bytes.len() / 2])?;
            return Err(if full {
                io::ErrorKind::StorageFull.into()
            } else {
                io::Error::other("input/output error")
            });
        }
        self.file.append(bytes)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        if self.watched.with(|d| {
            d.steps.push("cut");
            d.fail_cut
        }) {
            return Err(io::Error::other("input/output error"));
        }
        self.file.cut(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.watched.with(|d| d.stalled) {
            self.watched.with(|d| d.waiting = true);
            self.watched.wait_until(|d| !d.stalled);
            self.watched.with(|d| d.waiting = false);
        }
        if self.watched.with(|d| d.fail_sync) {
            return Err(io::Error::other("input/output error"));
        }
        self.file.sync()?;
        self.watched.with(|d| {
            d.steps.push("sync");
            d.synced = d.appended.len();
        });
        Ok(())
    }
}

fn files() -> FileDisk {
    FileDisk::new(1 << 20)
}

pub(super) fn open_watched(dir: &Path) -> (Store, Watched) {
    let watched = Watched::default();
    let (store, _) = Store::open_on(&config(dir), Box::new(watched.clone())).expect("opens");
    (store, watched)
}

#[tokio::test]
async fn a_write_is_appended_then_synced_then_answered() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, watched) = open_watched(dir.path());
    assert_eq!(
        watched.with(|d| std::mem::take(&mut d.steps)),
        ["create", "append", "sync", "rename", "sync dir"],
        "a new segment and its name are durable before it is used"
    );
    for n in 0..5 {
        let name = format!("key-{n}");
        let before = watched.synced();
        store
            .merge(key(&name), record("a", 1, n, 10))
            .await
            .expect("stored");
        watched.with(|d| d.steps.push("answer"));
        assert!(watched.is_synced(before, &name));
        store
            .merge(key(&name), record("a", 1, n, 10))
            .await
            .expect("nothing new");
    }
    let steps = watched.with(|d| d.steps.clone());
    assert_eq!(
        steps,
        ["append", "sync", "answer"].repeat(5),
        "no sync for what changed nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_meet_share_syncs_and_none_is_answered_before_its_own() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, watched) = open_watched(dir.path());
    let mut writers = tokio::task::JoinSet::new();
    for w in 0..64_u64 {
        let (store, watched) = (store.clone(), watched.clone());
        writers.spawn(async move {
            for n in 0..40_u64 {
                let name = format!("<{w}/{n}>");
                let before = watched.synced();
                store
                    .merge(key(&name), record("a", 1, n, 10))
                    .await
                    .expect("stored");
                assert!(
                    watched.is_synced(before, &name),
                    "{name} was answered before its sync"
                );
                assert!(store.get(&key(&name)).expect("readable").is_some());
            }
        });
    }
    writers.join_all().await;
    let stats = store.stats();
    assert_eq!((stats.log_records, stats.keys), (64 * 40, 64 * 40));
    assert!(
        stats.log_syncs * 4 < stats.log_records,
        "{} syncs",
        stats.log_syncs
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_visible_or_answered_while_its_sync_lasts() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, watched) = open_watched(dir.path());
    store
        .merge(key("k"), record("a", 1, 1, 10))
        .await
        .expect("stored");
    watched.with(|d| d.stalled = true);
    let write = |name: &'static str, n| {
        let store = store.clone();
        tokio::spawn(async move { store.merge(key(name), record("a", n, n, 10)).await })
    };
    let first = write("k", 2);
    let waiting = watched.clone();
    let stalled = tokio::task::spawn_blocking(move || waiting.wait_until(|d| d.waiting));
    stalled.await.expect("stalled");
    let others = [write("l", 1), write("k", 3), write("m", 1)];
    // readers do not wait, and see the old state
    assert_eq!(
        store.get(&key("k")).expect("readable"),
        Some(record("a", 1, 1, 10))
    );
    assert_eq!(store.stats().keys, 1);
    assert!(!first.is_finished());
    watched.with(|d| d.stalled = false);
    assert!(first.await.expect("ran").expect("stored"));
    for other in others {
        assert!(other.await.expect("ran").expect("stored"));
    }
    assert_eq!(
        store.get(&key("k")).expect("readable"),
        Some(record("a", 3, 3, 10))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_or_append_stops_the_engine_for_good() {
    for (append, sync) in [(true, false), (false, true)] {
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, watched) = open_watched(dir.path());
        store
            .merge(key("good"), record("a", 1, 1, 10))
            .await
            .expect("stored");
        watched.with(|d| (d.fail_append, d.fail_sync, d.stalled) = (append, sync, sync));
        let doomed: Vec<_> = (0..8)
            .map(|n| {
                let store = store.clone();
                let write = async move {
                    store
                        .merge(key(&format!("bad{n}")), record("a", 1, 1, 10))
                        .await
                };
                tokio::spawn(write)
            })
            .collect();
        watched.with(|d| d.stalled = false);
        for write in doomed {
            let answer = write.await.expect("ran");
            assert!(
                matches!(answer, Err(StorageError::Poisoned(_))),
                "{answer:?}"
            );
        }
        let why = store.poisoned().expect("poisoned");
        assert!(
            why.contains("commit log") && why.contains("check the disk"),
            "{why}"
        );

        // the disk is fine again, but the log's end is in doubt
        watched.with(|d| (d.fail_append, d.fail_sync) = (false, false));
        let after = store.merge(key("after"), record("a", 1, 1, 10)).await;
        assert!(matches!(after, Err(StorageError::Poisoned(_))));
        let hint = store
            .hints_done(&super::super::testing::node("n"), Vec::new())
            .await;
        assert!(matches!(hint, Err(StorageError::Poisoned(_))));
        assert!(matches!(
            store.close().await,
            Err(StorageError::Poisoned(_))
        ));
        drop(store);
        let (store, report) = reopen(dir.path());
        assert!(store.get(&key("good")).expect("readable").is_some());
        assert_eq!(report.torn_bytes > 0, append);
        assert!(store.get(&key("after")).expect("readable").is_none());
        store
            .merge(key("again"), record("a", 1, 1, 10))
            .await
            .expect("stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_finds_no_space_is_undone_and_the_store_goes_on_later() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, watched) = open_watched(dir.path());
    let value = |n| record("a", 1, n, 10);
    store.merge(key("good"), value(1)).await.expect("stored");
    for round in 0..3_u64 {
        watched.with(|d| (d.full, d.steps) = (true, Vec::new()));
        let name = key(&format!("refused{round}"));
        let answer = store.merge(name.clone(), value(2)).await;
        assert!(
            matches!(answer, Err(StorageError::ReadOnly(_))),
            "{answer:?}"
        );
        let steps = watched.with(|d| {
            d.full = false;
            std::mem::take(&mut d.steps)
        });
        assert_eq!(steps[..2], ["append", "cut"]);
        assert_eq!(store.get(&name), Ok(None));
        assert_eq!(store.poisoned(), None);
        // there is space in truth, so the next look finds it
        let again = || async { store.merge(name.clone(), value(3)).await };
        while let Err(e) = again().await {
            assert!(matches!(e, StorageError::ReadOnly(_)), "{e}");
            tokio::task::yield_now().await;
        }
    }
    drop(store);
    let (store, report) = reopen(dir.path());
    assert_eq!(report.torn_bytes, 0, "the log has no scars");
    for name in ["good", "refused0", "refused1", "refused2"] {
        assert!(store.get(&key(name)).expect("readable").is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_cannot_be_undone_stops_the_engine() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, watched) = open_watched(dir.path());
    watched.with(|d| (d.full, d.fail_cut) = (true, true));
    let answer = store.merge(key("k"), record("a", 1, 1, 10)).await;
    assert!(
        matches!(answer, Err(StorageError::Poisoned(_))),
        "{answer:?}"
    );
    drop(store);
    let (store, report) = reopen(dir.path());
    assert!(report.torn_bytes > 0);
    assert_eq!(store.get(&key("k")), Ok(None));
}
