//! A store that may not grow: what is here already is acknowledged, the rest is refused without a
//! touch of the log.

use ringmaster_shared::clock::Hlc;

use super::{
    commit_order::{Watched, open_watched},
    config, open, reopen,
};
use crate::storage::{
    Merged, StorageError, Store, StoreConfig,
    testing::{key, node, record},
};

/// Waits until so many requests are queued.
async fn queued(store: &Store, wanted: usize) {
    let started = std::time::Instant::now();
    let queue = store.inner.queue.as_ref().expect("open");
    while queue.max_capacity() - queue.capacity() < wanted {
        assert!(started.elapsed().as_secs() < 60, "they were not queued");
        tokio::task::yield_now().await;
    }
}

fn refused<T: std::fmt::Debug>(answer: &Result<T, StorageError>) -> bool {
    matches!(answer, Err(StorageError::ReadOnly(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_store_takes_what_it_holds_and_leaves_the_log_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let value = |n| record("a", n, 100 + n, 10);
    for name in ["k", "l"] {
        store.merge(key(name), value(2)).await.expect("stored");
    }
    let kept = store.hint_add(&node("n"), key("k"), value(2)).await;
    assert_eq!(kept, Ok(true));
    store.close().await.expect("closed");
    drop(store);

    let watched = Watched::default();
    let full = StoreConfig {
        min_free_bytes: u64::MAX / 4,
        ..config(dir.path())
    };
    let disk = Box::new(watched.clone());
    let (store, _) = Store::open_on(&full, disk).expect("opens");
    assert!(store.read_only().is_some());
    watched.with(|d| d.steps.clear());
    for held in [1, 2] {
        assert_eq!(store.merge(key("k"), value(held)).await, Ok(false));
    }
    let both = vec![(key("k"), value(1)), (key("l"), value(2))];
    assert_eq!(store.merge_many(both.clone()).await, Ok(0));
    let with_more = [both, vec![(key("l"), value(3))]].concat();
    assert!(refused(&store.merge_many(with_more).await));
    assert!(refused(&store.merge(key("new"), value(1)).await));
    let absent = node("n");
    let hint = |name: &str, n| store.hint_add(&absent, key(name), value(n));
    assert_eq!(hint("k", 2).await, Ok(true));
    assert_eq!(watched.with(|d| d.steps.clone()), Vec::<&str>::new());
    assert_eq!(store.get(&key("l")), Ok(Some(value(2))));

    // the few bytes that say what has to be compared are written
    for (name, n) in [("k", 3), ("new", 1)] {
        assert_eq!(hint(name, n).await, Ok(false));
        let p = key(name).partition(config(dir.path()).partition_count);
        assert!(store.dirty()[&absent].contains(&p), "{name}");
    }
    assert_eq!(store.hints_for(&absent, 9).expect("read").len(), 1);
    watched.with(|d| d.steps.clear());
    assert_eq!(hint("k", 3).await, Ok(false));
    assert_eq!(watched.with(|d| d.steps.clone()), Vec::<&str>::new());

    // what is late is told so: it would not be stored on an empty disk either
    let floor = Hlc(500);
    let p = key("new").partition(config(dir.path()).partition_count);
    store.raise_floors(vec![(p, floor)]).await.expect("raised");
    let late = store.merge_many_issued(vec![(key("new"), value(1))], Hlc(400));
    let stale = Merged {
        stale: 1,
        floor,
        ..Merged::default()
    };
    assert_eq!(late.await, Ok(stale));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_finds_no_space_refuses_only_what_would_add_something() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, watched) = open_watched(dir.path());
    let value = |n| record("a", n, n, 10);
    for name in ["held", "grows"] {
        store.merge(key(name), value(1)).await.expect("stored");
    }
    watched.with(|d| d.stalled = true);
    let write = |name: &'static str, n| {
        let store = store.clone();
        tokio::spawn(async move { store.merge(key(name), value(n)).await })
    };
    let first = write("first", 1);
    let waiting = watched.clone();
    let stalled = tokio::task::spawn_blocking(move || waiting.wait_until(|d| d.waiting));
    stalled.await.expect("stalled");
    // all of these are one batch
    let grows = write("grows", 2);
    queued(&store, 1).await;
    let others = [write("held", 1), write("first", 1), write("grows", 2)];
    queued(&store, 4).await;
    watched.with(|d| (d.full, d.stalled) = (true, false));
    assert_eq!(first.await.expect("ran"), Ok(true));
    assert!(refused(&grows.await.expect("ran")));
    let [held, same_as_before, leans] = others;
    assert_eq!(held.await.expect("ran"), Ok(false));
    assert_eq!(same_as_before.await.expect("ran"), Ok(false));
    assert!(
        refused(&leans.await.expect("ran")),
        "it saw what was given up"
    );
    assert_eq!(store.get(&key("grows")), Ok(Some(value(1))));
    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!(store.get(&key("grows")), Ok(Some(value(1))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_that_found_no_space_is_not_taken_for_raised() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, watched) = open_watched(dir.path());
    watched.with(|d| d.full = true);
    let raise = || store.raise_floors(vec![(3, Hlc(70))]);
    let answer = raise().await;
    assert!(
        matches!(answer, Err(StorageError::ReadOnly(_))),
        "{answer:?}"
    );
    watched.with(|d| d.full = false);
    raise().await.expect("raised");
    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!(store.floor(3), Hlc(70), "it was said to be durable");
}
