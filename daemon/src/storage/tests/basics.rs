//! What the interface promises while nothing goes wrong.

use std::{collections::BTreeSet, fs};

use ringmaster_shared::version::Record;

use super::{PARTITIONS, all_leaves, config, key_in, open, reopen};
use crate::storage::{
    BRANCHES, StorageError, Store,
    testing::{key, node, record, tombstone},
};

#[tokio::test]
async fn merges_join_and_say_whether_anything_changed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, report) = open(dir.path());
    assert!(report.empty && !report.lost_data);
    let (k, a, b) = (key("k"), record("a", 1, 10, 20), record("b", 1, 11, 30));
    assert_eq!(store.get(&k).expect("readable"), None);
    assert_eq!(store.version(&k).expect("readable"), None);
    assert!(store.merge(k.clone(), a.clone()).await.expect("stored"));
    assert!(
        !store
            .merge(k.clone(), a.clone())
            .await
            .expect("nothing new")
    );
    assert!(store.merge(k.clone(), b.clone()).await.expect("stored"));
    assert_eq!(store.get(&k).expect("readable"), Some(a.merge(&b)));
    assert_eq!(
        store.version(&k).expect("readable"),
        Some(a.merge(&b).version())
    );
    assert!(
        !store
            .merge(k.clone(), Record::default())
            .await
            .expect("nothing new")
    );
    assert!(
        !store
            .merge(key("x"), Record::default())
            .await
            .expect("nothing to store")
    );
    assert_eq!(store.get(&key("x")).expect("readable"), None);

    let many = vec![
        (k.clone(), a),
        (key("m"), b.clone()),
        (key("m"), tombstone("b", 2, 12)),
        (key("n"), b),
    ];
    assert_eq!(store.merge_many(many).await.expect("stored"), 3);
    let stats = store.stats();
    assert_eq!((stats.keys, stats.tombstones), (2, 1));
    assert!(stats.bytes_on_disk > 0);
    assert_eq!(
        stats.log_syncs, 3,
        "one for each call that changed something"
    );
    assert_eq!(stats.log_records, 4, "m is written once");
    store.close().await.expect("closed");
}

#[tokio::test]
async fn values_of_all_sizes_come_back_before_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut large_segments = config(dir.path());
    large_segments.segment_bytes = 64 << 20; // no checkpoint before the first restart
    let (store, _) = Store::open(large_segments).expect("opens");
    let sizes = [
        0,
        1,
        48 * 1024 - 1,
        48 * 1024,
        48 * 1024 + 1,
        128 * 1024,
        1 << 20,
    ];
    let mut expected: Vec<_> = sizes
        .iter()
        .map(|n| (key(&format!("size-{n}")), record("a", 1, 1, *n)))
        .collect();
    let three = record("a", 1, 1, 1 << 20)
        .merge(&record("b", 1, 2, 1 << 20))
        .merge(&record("c", 1, 3, 1 << 20));
    assert_eq!(three.siblings.len(), 3);
    expected.push((key("siblings"), three));
    for (k, r) in &expected {
        assert!(store.merge(k.clone(), r.clone()).await.expect("stored"));
    }
    let check = |store: &Store| {
        for (k, r) in &expected {
            assert_eq!(store.get(k).expect("readable").as_ref(), Some(r), "{k}");
            assert_eq!(
                store.version(k).expect("readable"),
                Some(r.version()),
                "{k}"
            );
        }
        let blobs = fs::read_dir(dir.path().join("store/table/blobs")).expect("sled's folder");
        assert_eq!(
            blobs.count(),
            0,
            "an item was large enough to leave sled's file"
        );
    };
    check(&store);
    drop(store);
    let (store, report) = reopen(dir.path());
    assert_eq!(report.replayed, expected.len() as u64);
    check(&store);
    store.close().await.expect("closed");
    drop(store);
    let (store, report) = reopen(dir.path());
    assert_eq!(report.replayed, 0, "the checkpoint covers all");
    check(&store);
    let small = record("a", 2, 9, 5);
    assert!(
        store
            .merge(key("siblings"), small.clone())
            .await
            .expect("stored")
    );
    let left = store
        .get(&key("siblings"))
        .expect("readable")
        .expect("there");
    assert_eq!(left.siblings.len(), 3);
    assert!(left.siblings.contains(&small.siblings[0]));
}

#[tokio::test]
async fn closing_is_final_and_repeatable() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    store
        .merge(key("k"), record("a", 1, 1, 1))
        .await
        .expect("stored");
    store.close().await.expect("closed");
    store.close().await.expect("closed before");
    let closed = |r: Result<bool, StorageError>| matches!(r, Err(StorageError::Closed));
    assert!(closed(store.merge(key("k"), record("a", 2, 2, 1)).await));
    assert!(closed(
        store
            .hint_add(&node("n"), key("k"), record("a", 2, 2, 1))
            .await
    ));
    assert!(matches!(store.get(&key("k")), Err(StorageError::Closed)));
    assert_eq!(store.poisoned(), None);
}

#[tokio::test]
async fn a_folder_has_one_owner() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let Err(StorageError::Open { path, why }) = Store::open(config(dir.path())) else {
        panic!("a second owner was let in");
    };
    assert!(
        path.ends_with("store") && why.contains("another process"),
        "{why}"
    );
    drop(store);
    for _ in 0..5 {
        reopen(dir.path());
    }
}

#[tokio::test]
async fn listings_merge_partitions_in_order_and_skip_the_deleted() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let mut live = BTreeSet::new();
    let mut entries = Vec::new();
    for n in 0..500 {
        let name = format!("{}:{n:03}", if n % 3 == 0 { "other" } else { "user" });
        let deleted = n % 7 == 0;
        if !deleted {
            live.insert(name.clone());
        }
        let write = if deleted {
            tombstone("a", 1, n)
        } else {
            record("a", 1, n, 3)
        };
        entries.push((key(&name), write));
    }
    store.merge_many(entries).await.expect("stored");
    let all: Vec<u16> = (0..PARTITIONS).collect();
    let names = |keys: Vec<ringmaster_shared::key::Key>| {
        keys.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let listed = store
        .list_keys(&all, "", None, usize::MAX)
        .expect("readable");
    assert_eq!(names(listed), live.iter().cloned().collect::<Vec<_>>());

    // page by page, with a prefix
    let (mut paged, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = store
            .list_keys(&all, "user:", after.as_deref(), 17)
            .expect("readable");
        let Some(last) = page.last() else { break };
        after = Some(last.to_string());
        paged.extend(names(page));
    }
    let expected: Vec<_> = live
        .iter()
        .filter(|k| k.starts_with("user:"))
        .cloned()
        .collect();
    assert_eq!(paged, expected);

    let some = store
        .list_keys(&[1, 1, 5], "", None, usize::MAX)
        .expect("readable");
    let expected: Vec<_> = live
        .iter()
        .filter(|k| [1, 5].contains(&key(k).partition(PARTITIONS)))
        .cloned()
        .collect();
    assert_eq!(names(some), expected, "only what was asked for, once");
    let none = store.list_keys(&all, "zzz", None, 10).expect("readable");
    let past = store
        .list_keys(&all, "other", Some("user"), 10)
        .expect("readable");
    let zero = store.list_keys(&all, "", None, 0).expect("readable");
    assert!(none.is_empty() && past.is_empty() && zero.is_empty());
    let below = store
        .list_keys(&all, "user:", Some("a"), 1)
        .expect("readable");
    assert_eq!(names(below), expected_first(&live, "user:"));
}

fn expected_first(live: &BTreeSet<String>, prefix: &str) -> Vec<String> {
    live.iter()
        .find(|k| k.starts_with(prefix))
        .cloned()
        .into_iter()
        .collect()
}

#[tokio::test]
async fn a_partition_is_scanned_in_pages_and_dropped_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let entries: Vec<_> = (0..700)
        .flat_map(|n| [3, 4].map(|p| (key_in(p, n), record("a", 1, n as u64, 100 + n % 50))))
        .chain([(key_in(3, 9999), record("a", 1, 5, 200_000))])
        .collect();
    let in_three = entries.iter().filter(|(k, _)| k.partition(PARTITIONS) == 3);
    let mut expected: Vec<_> = in_three.cloned().collect();
    expected.sort_by(|a, b| a.0.cmp_bytes(&b.0));
    store.merge_many(entries).await.expect("stored");

    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = store
            .scan_partition(3, after.as_ref(), 10_000)
            .expect("readable");
        assert!(!page.entries.is_empty() && page.entries.len() < 120);
        found.extend(page.entries);
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(pages > 10);
    assert!(found == expected, "pages put together are the partition");
    assert!(
        store
            .scan_partition(0, None, 10)
            .expect("readable")
            .entries
            .is_empty()
    );

    // leaves tell the same keys
    let mut by_leaf = Vec::new();
    for branch in 0..BRANCHES as u16 {
        for (n, digest) in (0_u16..).zip(store.digest_leaves(3, branch)) {
            let leaf = branch * BRANCHES as u16 + n;
            let keys = store.leaves_versions(3, &[leaf].into());
            let keys = keys.expect("readable");
            assert_eq!(keys.is_empty(), digest == 0);
            by_leaf.extend(keys);
        }
    }
    by_leaf.sort_by(|a, b| a.0.cmp_bytes(&b.0));
    let fingerprints = expected.iter().map(|(k, r)| (k.clone(), r.fingerprint()));
    assert!(by_leaf.into_iter().eq(fingerprints));

    let four = store.digest_root(4);
    store.drop_partition(3).await.expect("dropped");
    assert_eq!((store.digest_root(3), store.digest_root(4)), (0, four));
    assert_eq!(store.stats().keys, 700);
    assert!(
        store
            .scan_partition(3, None, 10)
            .expect("readable")
            .entries
            .is_empty()
    );
    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!((store.digest_root(3), store.digest_root(4)), (0, four));
    assert_eq!(store.stats().keys, 700);
    store.drop_partition(3).await.expect("nothing to drop");
}

/// Byte order, whatever `Ord` of the type becomes.
trait ByBytes {
    fn cmp_bytes(&self, other: &Self) -> std::cmp::Ordering;
}

impl ByBytes for ringmaster_shared::key::Key {
    fn cmp_bytes(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().as_bytes().cmp(other.as_str().as_bytes())
    }
}

#[tokio::test]
async fn equal_partitions_have_equal_digests() {
    let (one, two) = (
        tempfile::tempdir().expect("temp"),
        tempfile::tempdir().expect("temp"),
    );
    let ((a, _), (b, _)) = (open(one.path()), open(two.path()));
    let history: Vec<_> = (0..200_u64)
        .map(|n| (key(&format!("k{}", n % 60)), record("a", n / 60 + 1, n, 10)))
        .collect();
    a.merge_many(history.clone()).await.expect("stored");
    for (k, r) in history.into_iter().rev() {
        b.merge(k, r).await.expect("stored");
    }
    for p in 0..PARTITIONS {
        assert_eq!(all_leaves(&a, p), all_leaves(&b, p));
        assert_eq!(a.digest_branches(p), b.digest_branches(p));
        assert_ne!(a.digest_root(p), 0);
    }
    b.merge(key("k7"), tombstone("a", 9, 999))
        .await
        .expect("stored");
    let p = key("k7").partition(PARTITIONS);
    assert_ne!(a.digest_root(p), b.digest_root(p));
}

#[tokio::test]
async fn hints_are_durable_merged_bounded_and_removed_by_fingerprint() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let (n1, n2) = (node("n1"), node("n2"));
    let (a, b) = (record("a", 1, 1, 10), record("b", 1, 2, 50_000));
    assert!(
        store
            .hint_add(&n1, key("k"), a.clone())
            .await
            .expect("kept")
    );
    assert!(
        store
            .hint_add(&n1, key("k"), b.clone())
            .await
            .expect("merged")
    );
    assert!(
        store
            .hint_add(&n1, key("k"), b.clone())
            .await
            .expect("known")
    );
    assert!(
        store
            .hint_add(&n1, key("l"), a.clone())
            .await
            .expect("kept")
    );
    assert!(
        store
            .hint_add(&n2, key("k"), a.clone())
            .await
            .expect("kept")
    );
    assert_eq!(
        store.hints_owed(),
        [(n1.clone(), 2), (n2.clone(), 1)].into()
    );
    let first = store.hints_for(&n1, 1).expect("readable");
    assert_eq!(first, [(key("k"), a.merge(&b))]);

    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!(
        store.hints_owed(),
        [(n1.clone(), 2), (n2.clone(), 1)].into()
    );
    assert_eq!(store.hints_for(&n1, 10).expect("readable").len(), 2);
    assert_eq!(
        store.get(&key("k")).expect("readable"),
        None,
        "a hint is not the record"
    );

    // delivered was `a`; by now `a` and `b` are owed
    let stale = vec![(key("k"), a.fingerprint()), (key("none"), 5)];
    store.hints_done(&n1, stale).await.expect("done");
    assert_eq!(store.hints_owed()[&n1], 2);
    let delivered = vec![
        (key("k"), a.merge(&b).fingerprint()),
        (key("l"), a.fingerprint()),
    ];
    store.hints_done(&n1, delivered).await.expect("done");
    assert_eq!(store.hints_owed(), [(n2.clone(), 1)].into());

    // the budget is 1 MiB a node
    let big = |n| record("a", 1, n, 300_000);
    for n in 0..3 {
        assert!(
            store
                .hint_add(&n2, key(&format!("big{n}")), big(n))
                .await
                .expect("kept")
        );
    }
    assert!(
        !store
            .hint_add(&n2, key("big3"), big(3))
            .await
            .expect("over budget")
    );
    assert!(
        store
            .hint_add(&n1, key("big3"), big(3))
            .await
            .expect("another node's budget")
    );
    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!(store.hints_owed(), [(n1, 1), (n2.clone(), 4)].into());
    assert!(
        !store
            .hint_add(&n2, key("big3"), big(3))
            .await
            .expect("still over budget")
    );
    assert_eq!(store.hints_for(&n2, 100).expect("readable").len(), 4);
}

#[tokio::test]
async fn checkpoints_let_go_of_old_segments() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    for n in 0..200_u64 {
        let r = record("a", n / 4 + 1, n, 64 * 1024);
        store
            .merge(key(&format!("k{}", n % 4)), r)
            .await
            .expect("stored");
    }
    let log = dir.path().join("store/log");
    let segments = fs::read_dir(&log).expect("readable").count();
    assert!(
        segments <= 6,
        "12 MiB went through 1 MiB segments, {segments} are left"
    );
    drop(store);
    let (store, report) = reopen(dir.path());
    assert!(report.replayed < 100, "{}", report.replayed);
    for n in 0..4_u64 {
        let r = store
            .get(&key(&format!("k{n}")))
            .expect("readable")
            .expect("there");
        assert_eq!(r, record("a", 50, 196 + n, 64 * 1024));
    }
}

#[tokio::test]
async fn small_joins_overtake_large_ones() {
    const LARGE: usize = 24;
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let done = std::cell::RefCell::new(Vec::new());
    let put = async |n: u16, len: usize| {
        let joined = store
            .merge(key_in(1, n.into()), record("a", 1, 10, len))
            .await;
        assert_eq!(joined, Ok(true));
        done.borrow_mut().push(n);
    };
    // all queued in this order, most of them before the first batch is written
    let mut all: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for n in 0..LARGE as u16 {
        all.push(Box::pin(put(n, 1024 * 1024)));
    }
    all.push(Box::pin(put(LARGE as u16, 100)));
    futures_util::future::join_all(all).await;
    let done = done.into_inner();
    let place = done.iter().position(|n| usize::from(*n) == LARGE);
    let place = place.expect("answered");
    assert!(place < LARGE / 2, "the small one came as number {place}");
    let large: Vec<u16> = done
        .into_iter()
        .filter(|n| usize::from(*n) < LARGE)
        .collect();
    assert!(
        large.is_sorted(),
        "the large ones keep their order: {large:?}"
    );
}
