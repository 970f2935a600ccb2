//! A disk that fills up and is cleared again: a small file system of its own, where that is
//! permitted.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::storage::{
    StorageError, Store, StoreConfig,
    space::guard::free_bytes,
    testing::{key, node, record},
};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// A mounted tmpfs, unmounted when dropped.
pub(in crate::storage) struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    pub(in crate::storage) fn mount(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("temp dir");
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]);
        let done = mount.arg(dir.path()).output();
        if done.as_ref().is_ok_and(|o| o.status.success()) {
            return Some(Self { dir });
        }
        let required = std::env::var_os("RINGD_TEST_NO_SKIPS").is_some();
        assert!(
            !required,
            "RINGD_TEST_NO_SKIPS is set, but nothing can be mounted: {done:?}"
        );
        println!("skipped: mounting a file system is not permitted here");
        None
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("somebody-elses-file")
    }

    fn free(&self) -> u64 {
        free_bytes(self.path()).expect("a file system")
    }

    /// Somebody else takes all but `leave` bytes.
    pub(in crate::storage) fn fill(&self, leave: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .expect("created");
        while let Some(more) = self.free().checked_sub(leave).filter(|n| *n > 0) {
            let block = vec![1; more.min(MIB) as usize];
            if file.write_all(&block).is_err() {
                return;
            }
        }
    }

    fn clear(&self) {
        fs::remove_file(self.filler()).expect("there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // lazily: a store that a failed test still holds must not keep it
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

pub(in crate::storage) fn config(disk: &SmallDisk) -> StoreConfig {
    StoreConfig {
        dir: disk.path().join("store"),
        segment_bytes: 256 << 10,
        cache_bytes: 2 << 20,
        hint_bytes_max: 8 * MIB,
        reserve_bytes: 4 * MIB,
        min_free_bytes: 6 * MIB,
        ..super::config(disk.path())
    }
}

async fn write(store: &Store, n: u64) -> Result<bool, StorageError> {
    let name = key(&format!("k{:04}", n % 500));
    store.merge(name, record("a", n, n, 1500)).await
}

/// Waits for `wanted`, asking again and again.
async fn until(what: &str, mut wanted: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !wanted().await {
        assert!(started.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ballast(disk: &SmallDisk) -> u64 {
    fs::metadata(disk.path().join("store/ballast")).map_or(0, |m| m.len())
}

fn open(disk: &SmallDisk) -> Store {
    let (store, report) = Store::open(config(disk)).expect("opens");
    assert!(
        !report.lost_data && report.set_aside.is_empty(),
        "{report:?}"
    );
    store
}

/// The newest write of each key that was acknowledged, checked against the store.
#[derive(Default)]
struct Model {
    acknowledged: std::collections::BTreeMap<u64, u64>,
    next: u64,
}

impl Model {
    async fn write(&mut self, store: &Store) -> Result<(), StorageError> {
        self.next += 1;
        let n = self.next;
        write(store, n).await?;
        self.acknowledged.insert(n % 500, n);
        Ok(())
    }

    async fn write_until_refused(&mut self, store: &Store, most: u64) -> Option<StorageError> {
        for _ in 0..most {
            if let Err(e) = self.write(store).await {
                return Some(e);
            }
        }
        None
    }

    fn check(&self, store: &Store) {
        for (k, n) in &self.acknowledged {
            let stored = store.get(&key(&format!("k{k:04}"))).expect("readable");
            assert_eq!(stored, Some(record("a", *n, *n, 1500)), "write {n}");
        }
        assert_eq!(store.stats().keys, self.acknowledged.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_the_store_read_only_and_space_brings_it_back() {
    let Some(disk) = SmallDisk::mount(40) else {
        return;
    };
    let store = open(&disk);
    let mut model = Model::default();
    assert_eq!(model.write_until_refused(&store, 300).await, None);
    let absent = node("n");
    let hint = store.hint_add(&absent, key("h"), record("a", 1, 1, 10));
    hint.await.expect("kept");
    until("the reserve", async || ballast(&disk) == 4 * MIB).await;

    // below the mark, but far from full
    disk.fill(5 * MIB);
    until("read-only", async || store.read_only().is_some()).await;
    let refused = model.write(&store).await;
    let Err(StorageError::ReadOnly(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("nearly full"), "{why}");
    let hint = store.hint_add(&absent, key("h2"), record("a", 1, 1, 10));
    assert_eq!(hint.await, Ok(false), "only marked");
    model.check(&store);
    // what lets something go still works
    let fingerprint = store.hints_for(&absent, 1).expect("readable")[0]
        .1
        .fingerprint();
    store
        .hints_done(&absent, vec![(key("h"), fingerprint)])
        .await
        .expect("removed");
    assert!(store.hints_owed().is_empty());
    assert_eq!(ballast(&disk), 4 * MIB, "nobody needed it");

    // to the last byte, and a new start on it
    until("the reserve", async || ballast(&disk) == 4 * MIB).await;
    disk.fill(0);
    model.check(&store);
    store.close().await.expect("closed");
    drop(store);
    let store = open(&disk);
    assert!(store.read_only().is_some(), "{} bytes free", disk.free());
    model.check(&store);
    assert!(matches!(
        model.write(&store).await,
        Err(StorageError::ReadOnly(_))
    ));
    assert_eq!(store.poisoned(), None);

    disk.clear();
    until("writing", async || store.read_only().is_none()).await;
    assert_eq!(model.write_until_refused(&store, 600).await, None);
    until("the reserve", async || ballast(&disk) == 4 * MIB).await;
    model.check(&store);
    drop(store);
    model.check(&open(&disk));
}

/// Without a low-water mark the log itself runs into the end of the disk, and what the ballast
/// gives up is enough to finish what was begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fills_the_disk_itself_loses_nothing() {
    let Some(disk) = SmallDisk::mount(24) else {
        return;
    };
    let tight = StoreConfig {
        min_free_bytes: 0,
        segment_bytes: 64 * MIB,
        ..config(&disk)
    };
    let (store, _) = Store::open(tight.clone()).expect("opens");
    until("the reserve", async || ballast(&disk) == 4 * MIB).await;
    let mut model = Model::default();
    model.write_until_refused(&store, 500).await;
    // somebody else leaves room for some more writes only
    disk.fill(2 * MIB);
    let refused = model.write_until_refused(&store, 20_000).await;
    let why = refused.expect("the disk is full");
    assert!(matches!(why, StorageError::ReadOnly(_)), "{why:?}");
    model.check(&store);
    drop(store);
    let (store, report) = Store::open(tight.clone()).expect("opens");
    assert!(!report.lost_data, "{report:?}");
    model.check(&store);
    disk.clear();
    until("writing", async || store.read_only().is_none()).await;
    assert_eq!(model.write_until_refused(&store, 100).await, None);
    drop(store);
    let (store, _) = Store::open(tight).expect("opens");
    model.check(&store);
}
