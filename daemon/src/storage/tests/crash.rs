//! Starting from what crashes, torn writes and bad disks leave.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
};

use ringmaster_shared::clock::Hlc;

use super::{all_leaves, config, copy_dir, key_in, only_segment, open, reopen, used};
use crate::storage::{
    StorageError, Store,
    testing::{key, node, record, tombstone},
};

async fn fill(store: &Store, keys: u64) {
    for n in 0..keys {
        let r = record("a", 1, n, 50);
        store.merge(key(&format!("k{n}")), r).await.expect("stored");
    }
}

fn holds(store: &Store, keys: u64) -> bool {
    let whole = |n| store.get(&key(&format!("k{n}"))) == Ok(Some(record("a", 1, n, 50)));
    (0..keys).all(whole)
}

/// What the store makes of its whole content, to compare before and after.
fn picture(store: &Store) -> (Vec<Vec<u64>>, u64, u64) {
    let leaves = (0..super::PARTITIONS)
        .map(|p| all_leaves(store, p))
        .collect();
    let stats = store.stats();
    (leaves, stats.keys, stats.tombstones)
}

#[tokio::test]
async fn a_crash_image_of_a_running_store_has_all_that_was_answered() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    fill(&store, 300).await;
    store
        .merge(key("k5"), tombstone("a", 2, 999))
        .await
        .expect("stored");
    store
        .merge(key("large"), record("a", 1, 1, 300_000))
        .await
        .expect("stored");
    store
        .merge(key("large"), record("a", 2, 2, 200_000))
        .await
        .expect("stored");
    store
        .hint_add(&node("n"), key("h"), record("a", 1, 1, 9))
        .await
        .expect("kept");
    let image = tempfile::tempdir().expect("temp dir");
    copy_dir(dir.path(), image.path());
    let (copy, report) = reopen(image.path());
    assert_eq!(report.torn_bytes, 0);
    assert_eq!(picture(&copy), picture(&store));
    assert_eq!(
        copy.get(&key("large")),
        Ok(Some(record("a", 2, 2, 200_000)))
    );
    assert_eq!(copy.hints_owed(), store.hints_owed());
    // again, from what the replay left behind without a checkpoint
    drop(copy);
    let (copy, _) = reopen(image.path());
    assert_eq!(picture(&copy), picture(&store));
}

#[tokio::test]
async fn only_a_clean_close_spares_the_next_start_the_counting() {
    let summary = |dir: &Path| dir.join("store/summary");
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, report) = open(dir.path());
    assert!(report.counted, "there is nothing yet");
    fill(&store, 200).await;
    store
        .merge(key("k5"), tombstone("a", 2, 999))
        .await
        .expect("stored");
    store
        .hint_add(&node("n"), key("h"), record("a", 1, 1, 9))
        .await
        .expect("kept");
    let (before, owed) = (picture(&store), store.hints_owed());
    store.close().await.expect("closed");
    drop(store);
    let kept = fs::read(summary(dir.path())).expect("written");

    let (store, report) = reopen(dir.path());
    assert!(!report.counted && !summary(dir.path()).exists());
    assert_eq!(
        (picture(&store), store.hints_owed()),
        (before.clone(), owed.clone())
    );
    // a crash, even without a write
    drop(store);
    let (store, report) = reopen(dir.path());
    assert!(report.counted);
    assert_eq!(
        (picture(&store), store.hints_owed()),
        (before.clone(), owed.clone())
    );
    // the file of an earlier close does not count for a later one
    fill(&store, 300).await;
    let later = picture(&store);
    store.close().await.expect("closed");
    drop(store);
    fs::write(summary(dir.path()), &kept).expect("written");
    let (store, report) = reopen(dir.path());
    assert!(report.counted);
    assert_eq!(picture(&store), later);
    store.close().await.expect("closed");
    drop(store);
    let mut damaged = fs::read(summary(dir.path())).expect("written");
    damaged[40] ^= 1;
    fs::write(summary(dir.path()), &damaged).expect("written");
    let (store, report) = reopen(dir.path());
    assert!(report.counted);
    assert_eq!(picture(&store), later);
}

#[tokio::test]
async fn a_torn_end_is_cut_at_every_byte_and_the_store_goes_on() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    fill(&store, 3).await;
    let (before, _) = used(&only_segment(dir.path()));
    store
        .merge(key("last"), record("a", 1, 9, 4))
        .await
        .expect("stored");
    drop(store);
    let segment = only_segment(dir.path());
    let mut whole = fs::read(&segment).expect("readable");
    whole.truncate(used(&segment).0 as usize);
    // without the table, so that only the log speaks
    fs::remove_dir_all(dir.path().join("store/table")).expect("removed");
    for end in before as usize..whole.len() {
        fs::write(&segment, &whole[..end]).expect("written");
        let (store, report) = reopen(dir.path());
        assert_eq!(report.torn_bytes, end as u64 - before, "cut at {end}");
        assert!(holds(&store, 3));
        assert_eq!(store.get(&key("last")), Ok(None));
        if end % 16 == 0 {
            store
                .merge(key("next"), record("a", 1, 9, 4))
                .await
                .expect("stored");
            drop(store);
            let (store, report) = reopen(dir.path());
            assert_eq!(report.torn_bytes, 0);
            assert!(store.get(&key("next")).expect("readable").is_some());
            drop(store);
            fs::remove_dir_all(dir.path().join("store/table")).expect("removed");
        }
    }
}

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

#[tokio::test]
async fn a_drop_cut_short_is_finished_by_whoever_asks_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let entries = (0..1000)
        .map(|n| (key_in(2, n), record("a", 1, 1, 10)))
        .collect();
    store.merge_many(entries).await.expect("stored");
    let dropping = store.clone();
    let job = tokio::spawn(async move { dropping.drop_partition(2).await });
    while store.stats().log_records < 1001 {
        tokio::task::yield_now().await;
    }
    job.abort();
    drop(job.await);
    let image = tempfile::tempdir().expect("temp dir");
    drop(store);
    copy_dir(dir.path(), image.path());
    let (store, _) = reopen(image.path());
    assert!(store.stats().keys < 1000);
    store
        .merge(key_in(2, 0), record("b", 1, 1, 10))
        .await
        .expect("stored");
    store.drop_partition(2).await.expect("dropped");
    assert_eq!((store.stats().keys, store.digest_root(2)), (0, 0));
    store
        .merge(key_in(2, 0), record("b", 2, 2, 10))
        .await
        .expect("stored");
    drop(store);
    let (store, _) = reopen(image.path());
    assert_eq!(store.get(&key_in(2, 0)), Ok(Some(record("b", 2, 2, 10))));
    assert_eq!(store.stats().keys, 1);
}

#[tokio::test]
async fn another_partition_count_is_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    fill(&store, 50).await;
    store.close().await.expect("closed");
    drop(store);
    let mut other = config(dir.path());
    other.partition_count = 4;
    let Err(StorageError::Open { why, .. }) = Store::open(other) else {
        panic!("opened with another partition count");
    };
    assert!(why.contains("partitions"), "{why}");
    let (store, _) = reopen(dir.path());
    assert!(holds(&store, 50));
}

#[tokio::test]
async fn an_unwritable_place_is_an_error_in_words() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(dir.path().join("store"))
        .expect("created");
    file.write_all(b"a file where the folder belongs")
        .expect("written");
    let Err(StorageError::Open { path, why }) = Store::open(config(dir.path())) else {
        panic!("opened on a file");
    };
    assert!(path.ends_with("store") && !why.is_empty());
}

/// Floors and dirty partitions lie in the table; a start that does not count has to know them too.
#[tokio::test]
async fn a_clean_close_keeps_floors_dirty_partitions_and_tombstone_counts() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let partition = key("gone").partition(super::PARTITIONS);
    let gone = tombstone("a", 2, 5);
    store.merge(key("gone"), gone).await.expect("stored");
    store
        .raise_floors(vec![(3, Hlc(77)), (4, Hlc(5))])
        .await
        .expect("raised");
    let hint = record("a", 1, 1, 10);
    let fingerprint = hint.fingerprint();
    store
        .hint_add(&node("n"), key("h"), hint)
        .await
        .expect("kept");
    store
        .hints_given_up(&node("n"), vec![(key("h"), fingerprint)])
        .await
        .expect("given up");
    let look = |store: &Store| {
        let floors: Vec<Hlc> = (0..super::PARTITIONS).map(|p| store.floor(p)).collect();
        (floors, store.dirty(), store.tombstones_in(partition))
    };
    let before = look(&store);
    assert_eq!((before.0[3], before.1.len(), before.2), (Hlc(77), 1, 1));
    store.close().await.expect("closed");
    drop(store);
    let (store, report) = reopen(dir.path());
    assert!(!report.counted);
    assert_eq!(look(&store), before);
    drop(store);
    let (store, report) = reopen(dir.path());
    assert!(report.counted);
    assert_eq!(look(&store), before);
}

/// The partition may be gained again as soon as it is empty.
#[tokio::test]
async fn what_is_written_behind_a_drop_is_not_dropped() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    store
        .merge(key_in(2, 0), record("a", 1, 1, 10))
        .await
        .expect("stored");
    // both are in the line, in this order, before either is done
    let (dropped, written) = tokio::join!(
        biased;
        store.drop_partition(2),
        store.merge(key_in(2, 1), record("b", 1, 1, 10)),
    );
    dropped.expect("dropped");
    written.expect("stored");
    store.drop_partition(3).await.expect("the line is empty");
    assert_eq!(store.get(&key_in(2, 0)), Ok(None));
    assert_eq!(
        store.get(&key_in(2, 1)),
        Ok(Some(record("b", 1, 1, 10))),
        "an acknowledged write is gone"
    );
}

/// Full steps of a drop alone do not say whether that was all: one more look does.
#[tokio::test]
async fn a_drop_of_whole_steps_ends_and_leaves_what_comes_after_it() {
    for rows in [255, 256, 257, 512] {
        let dir = tempfile::tempdir().expect("temp dir");
        let (store, _) = open(dir.path());
        let entries = (0..rows)
            .flat_map(|n| [2, 5].map(|p| (key_in(p, n), record("a", 1, 1, 10))))
            .collect();
        store.merge_many(entries).await.expect("stored");
        let other = store.digest_root(5);
        // who gains the partition again drops it first, behind the drop that is under way
        let gained = async {
            store.drop_partition(2).await.expect("dropped again");
            assert_eq!(store.digest_root(2), 0, "of {rows}");
            let written = store.merge(key_in(2, 0), record("b", 1, 1, 10)).await;
            written.expect("stored");
        };
        let dropped = async {
            store.drop_partition(2).await.expect("dropped");
            assert_eq!(store.digest_root(2), 0, "of {rows}");
        };
        tokio::join!(biased; dropped, gained);
        let picture = |store: &Store| {
            let page = store.scan_partition(2, None, usize::MAX).expect("readable");
            assert_eq!(
                page.entries,
                [(key_in(2, 0), record("b", 1, 1, 10))],
                "of {rows}"
            );
            assert_eq!(store.digest_root(5), other);
            assert_eq!(store.stats().keys, rows as u64 + 1);
        };
        store.drop_partition(7).await.expect("the line is empty");
        picture(&store);
        drop(store);
        let (store, _) = reopen(dir.path());
        picture(&store);
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
