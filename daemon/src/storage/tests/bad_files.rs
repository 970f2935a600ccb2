//! Starting from files that are damaged, missing or half made.

use std::{fs, path::Path};

use super::{
    copy_dir,
    crash::{fill, holds, picture},
    only_segment, open, reopen,
};
use crate::storage::{
    StorageError,
    testing::{key, record, tombstone},
};

#[tokio::test]
async fn damage_before_the_end_sets_everything_aside() {
    for at in [3, 20, 60, 400] {
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, _) = open(dir.path());
        fill(&store, 20).await;
        drop(store);
        let segment = only_segment(dir.path());
        let mut bytes = fs::read(&segment).expect("readable");
        bytes[at] ^= 1;
        fs::write(&segment, &bytes).expect("written");
        let (store, report) = open(dir.path());
        assert!(report.lost_data && report.empty, "byte {at}: {report:?}");
        assert_eq!(report.set_aside.len(), 2, "table and log: {report:?}");
        let kept = Path::new(&report.set_aside[1]).join(segment.file_name().expect("named"));
        assert_eq!(fs::read(kept).expect("kept"), bytes, "kept as it was");
        assert_eq!(store.stats().keys, 0);
        // nothing written yet: a start after another crash still knows
        drop(store);
        let (store, report) = reopen(dir.path());
        assert!(report.empty);
        fill(&store, 5).await;
        drop(store);
        let (store, report) = reopen(dir.path());
        assert!(holds(&store, 5) && !report.empty);
    }
}

#[tokio::test]
async fn a_missing_log_is_a_loss_not_a_fresh_start() {
    for checkpointed in [false, true] {
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, _) = open(dir.path());
        fill(&store, 5).await;
        if checkpointed {
            store.close().await.expect("closed");
        }
        drop(store);
        fs::remove_dir_all(dir.path().join("store/log")).expect("removed");
        let (store, report) = open(dir.path());
        assert!(report.lost_data && store.stats().keys == 0, "{report:?}");
    }
}

#[tokio::test]
async fn a_damaged_table_is_rebuilt_while_the_log_reaches_back() {
    let ruin: [fn(&Path); 4] = [
        |table| fs::remove_dir_all(table).expect("removed"),
        |table| {
            let db = table.join("db");
            let len = fs::metadata(&db).expect("there").len() as usize;
            fs::write(db, vec![0xa5; len]).expect("written");
        },
        |table| fs::write(table.join("conf"), b"not a configuration of sled").expect("written"),
        |table| fs::write(table.join("../checkpoint"), b"short").expect("written"),
    ];
    for (n, ruin) in ruin.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, _) = open(dir.path());
        fill(&store, 50).await;
        let before = picture(&store);
        store.close().await.expect("closed");
        drop(store);
        ruin(&dir.path().join("store/table"));
        let (store, report) = open(dir.path());
        assert!(!report.lost_data, "ruin {n}: {report:?}");
        assert_eq!(report.replayed, 50, "ruin {n}");
        assert_eq!(picture(&store), before, "ruin {n}");
        assert!(holds(&store, 50));
    }
}

/// What a loss of power may make of files that no checkpoint has synced: the log has it all.
#[tokio::test]
async fn bodies_of_their_own_that_were_not_synced_are_written_anew() {
    type Ruin = (&'static str, fn(&Path));
    let ruin: [Ruin; 4] = [
        ("gone", |file| fs::remove_file(file).expect("removed")),
        ("empty", |file| fs::write(file, b"").expect("written")),
        ("zeros", |file| {
            let len = fs::metadata(file).expect("there").len() as usize;
            fs::write(file, vec![0; len]).expect("written");
        }),
        ("as it was", |_| ()),
    ];
    let large = |counter| record("a", counter, counter, 200_000);
    // heads without bodies, or neither
    let both = ruin.iter().flat_map(|r| [(*r, false), (*r, true)]);
    for ((what, ruin), heads) in both {
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, _) = open(dir.path());
        for name in ["kept", "replaced"] {
            let stored = store.merge(key(name), large(1)).await;
            stored.expect("stored");
        }
        store.close().await.expect("closed");
        drop(store);
        let bodies = |dir: &Path| {
            let files = fs::read_dir(dir.join("store/table/bodies/records")).expect("a folder");
            let paths = files.map(|file| file.expect("listed").path());
            let named = |path: &Path| path.file_name().map(std::ffi::OsStr::to_owned);
            let named: std::collections::BTreeMap<_, _> =
                paths.map(|path| (named(&path), path)).collect();
            named
        };
        let synced = bodies(dir.path());
        assert_eq!(synced.len(), 2);
        let (store, _) = reopen(dir.path());
        for (name, counter) in [("replaced", 2), ("new", 1), ("new", 2), ("short lived", 1)] {
            let stored = store.merge(key(name), large(counter)).await;
            stored.expect("stored");
        }
        let gone = store.merge(key("short lived"), tombstone("a", 2, 9)).await;
        gone.expect("stored");
        if heads {
            store.flush_table();
        }
        let image = tempfile::tempdir().expect("temp dir");
        copy_dir(dir.path(), image.path());
        let unsynced = bodies(image.path());
        let unsynced = unsynced
            .iter()
            .filter(|(name, _)| !synced.contains_key(*name));
        assert_eq!(unsynced.clone().count(), 2, "one of each key");
        for (_, file) in unsynced.clone() {
            ruin(file);
        }
        let (copy, report) = reopen(image.path());
        assert!(report.replayed > 0, "{what}: {report:?}");
        // also those that read well: the loss of power may come later
        let due = copy.unsynced_bodies();
        for (name, _) in unsynced {
            let name = name.as_ref().and_then(|name| name.to_str());
            let stamp = name.and_then(|name| u64::from_str_radix(name, 16).ok());
            assert!(due.contains(&stamp.expect("a stamp")), "{what}: {due:?}");
        }
        assert_eq!(picture(&copy), picture(&store), "{what}");
        for (name, counter) in [("kept", 1), ("replaced", 2), ("new", 2)] {
            assert_eq!(copy.get(&key(name)), Ok(Some(large(counter))), "{what}");
        }
        assert_eq!(
            bodies(image.path()).len(),
            3,
            "{what}: nothing is left over"
        );
    }
}

/// Damage to what a checkpoint vouches for is noticed by whoever reads it, and nowhere else.
#[tokio::test]
async fn a_damaged_body_is_an_error_of_its_own_record_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    for name in ["damaged", "sound"] {
        let stored = store.merge(key(name), record("a", 1, 1, 100_000)).await;
        stored.expect("stored");
    }
    store.close().await.expect("closed");
    drop(store);
    let first = dir
        .path()
        .join("store/table/bodies/records/0000000000000001");
    let mut bytes = fs::read(&first).expect("the first of the two");
    bytes[50_000] ^= 1;
    fs::write(&first, bytes).expect("written");
    let (store, _) = reopen(dir.path());
    let read = store.get(&key("damaged"));
    assert!(matches!(read, Err(StorageError::Read { .. })), "{read:?}");
    let sound = store.get(&key("sound")).expect("readable");
    assert_eq!(sound, Some(record("a", 1, 1, 100_000)));
    let newer = store
        .merge(key("damaged"), record("a", 2, 2, 100_000))
        .await;
    newer.expect("whoever has seen it all may write it anew");
    let read = store.get(&key("damaged")).expect("readable");
    assert_eq!(read, Some(record("a", 2, 2, 100_000)));
}

#[tokio::test]
async fn a_damaged_table_is_a_loss_when_the_log_was_let_go() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    for n in 0..100 {
        store
            .merge(key("k"), record("a", n + 1, n, 64 * 1024))
            .await
            .expect("stored");
    }
    store.close().await.expect("closed");
    drop(store);
    fs::remove_dir_all(dir.path().join("store/table")).expect("removed");
    let (store, report) = open(dir.path());
    assert!(report.lost_data && report.empty, "{report:?}");
    fill(&store, 3).await;
    drop(store);
    let (store, _) = reopen(dir.path());
    assert!(holds(&store, 3));
}

#[tokio::test]
async fn half_made_snapshots_are_set_aside_before_sled_sees_them() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    fill(&store, 30).await;
    store.close().await.expect("closed");
    drop(store);
    let bad = dir
        .path()
        .join("store/table/snap.00000000000FFFFF.generating");
    fs::write(&bad, b"half").expect("written");
    let (store, report) = open(dir.path());
    assert!(
        !report.lost_data && report.set_aside.len() == 1,
        "{report:?}"
    );
    assert!(holds(&store, 30) && !bad.exists());
    assert!(Path::new(&report.set_aside[0]).exists());
}

#[tokio::test]
async fn a_segment_that_was_never_finished_is_started_again() {
    for content in [&b""[..], &b"RINGLOG"[..], &[0; 28][..]] {
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, _) = open(dir.path());
        fill(&store, 4).await;
        drop(store);
        let next = dir.path().join("store/log/00000000000000000005.log");
        fs::write(&next, content).expect("written");
        let (store, report) = reopen(dir.path());
        assert_eq!(report.torn_bytes, content.len() as u64);
        fill(&store, 6).await;
        drop(store);
        let (store, _) = reopen(dir.path());
        assert!(holds(&store, 6));
    }
}

/// A summary speaks for a table that nobody looks at again.
#[tokio::test]
async fn where_damage_was_met_no_summary_is_left_and_the_next_start_looks_at_all() {
    for met in [false, true] {
        let dir = tempfile::tempdir().expect("temp dir");
        let summary = dir.path().join("store/summary");
        let (store, _) = open(dir.path());
        fill(&store, 200).await;
        store.close().await.expect("closed");
        drop(store);
        let (store, report) = reopen(dir.path());
        assert!(!report.counted);
        store.spoil(&key("k5"));
        if met {
            let damaged = store.get(&key("k5"));
            assert!(
                matches!(damaged, Err(StorageError::Read { .. })),
                "{damaged:?}"
            );
        }
        store.close().await.expect("closed");
        drop(store);
        assert_eq!(summary.exists(), !met, "a summary is left");
        if !met {
            continue;
        }
        let (store, report) = open(dir.path());
        assert!(report.counted, "it was not looked at");
        // whether the log or the other replicas have to bring it back
        assert!(report.lost_data || holds(&store, 200));
        assert!(!matches!(
            store.get(&key("k5")),
            Err(StorageError::Read { .. })
        ));
    }
}
