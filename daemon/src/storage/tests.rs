//! The engine as a whole, on real files.

mod bad_files;
mod basics;
mod bench;
mod commit_order;
mod crash;
mod damage;
pub(super) mod disk_full;
mod forgetting;
mod kill;
mod model;
mod read_only;

use std::{fs, path::Path};

use super::{BRANCHES, RecoveryReport, Store, StoreConfig, commit_log::frame, testing::key};

pub(super) const PARTITIONS: u16 = 8;

pub(super) fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        dir: dir.join("store"),
        partition_count: PARTITIONS,
        segment_bytes: 1 << 20,
        cache_bytes: 16 << 20,
        hint_bytes_max: 1 << 20,
        reserve_bytes: 1 << 20,
        min_free_bytes: 4 << 20,
    }
}

pub(super) fn open(dir: &Path) -> (Store, RecoveryReport) {
    Store::open(config(dir)).expect("opens")
}

/// Opens, and insists that nothing was lost or set aside.
/// Every leaf of a partition: what repair compares in the end.
pub(super) fn all_leaves(store: &Store, partition: u16) -> Vec<u64> {
    let branches = 0..u16::try_from(BRANCHES).expect("few");
    branches
        .flat_map(|branch| store.digest_leaves(partition, branch))
        .collect()
}

pub(super) fn reopen(dir: &Path) -> (Store, RecoveryReport) {
    let (store, report) = open(dir);
    assert!(
        !report.lost_data && report.set_aside.is_empty(),
        "{report:?}"
    );
    (store, report)
}

/// The one segment file of a small store.
pub(super) fn only_segment(dir: &Path) -> std::path::PathBuf {
    let log = dir.join("store/log");
    let mut files = fs::read_dir(log)
        .expect("readable")
        .map(|e| e.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"));
    let only = files.next().expect("a segment");
    assert!(files.next().is_none(), "more than one segment");
    only
}

/// How many bytes of a segment are used, and how many look like an unfinished frame; what follows
/// is only allocated.
pub(super) fn used(segment: &Path) -> (u64, u64) {
    let bytes = fs::read(segment).expect("readable");
    let first = segment.file_stem().and_then(|s| s.to_str()?.parse().ok());
    let each = |_, _| Ok::<_, std::convert::Infallible>(());
    let Ok(scan) = frame::scan(&bytes, first.expect("a number"), None, each);
    let scan = scan.expect("sound");
    (scan.sound_len as u64, scan.torn_len as u64)
}

pub(super) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("readable").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// A key of the given partition, different for each `n`.
pub(super) fn key_in(partition: u16, n: usize) -> ringmaster_shared::key::Key {
    (0..10_000)
        .map(|i| key(&format!("p{partition}-{n:05}-{i}")))
        .find(|k| k.partition(PARTITIONS) == partition)
        .expect("one in eight fits")
}
