//! Starting from what crashes, torn writes and clean ends leave.

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

pub(super) async fn fill(store: &Store, keys: u64) {
    for n in 0..keys {
        let r = record("a", 1, n, 50);
        store.merge(key(&format!("k{n}")), r).await.expect("stored");
    }
}

pub(super) fn holds(store: &Store, keys: u64) -> bool {
    let whole = |n| store.get(&key(&format!("k{n}"))) == Ok(Some(record("a", 1, n, 50)));
    (0..keys).all(whole)
}

/// What the store makes of its whole content, to compare before and after.
pub(super) fn picture(store: &Store) -> (Vec<Vec<u64>>, u64, u64) {
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
