//! Floors, forgotten tombstones and dirty marks: durable, atomic, and never going back.

use ringmaster_shared::{clock::Hlc, key::Key};

use super::{key_in, open, reopen};
use crate::storage::{
    Merged, StorageError, Store,
    testing::{node, record, tombstone},
};

const P: u16 = 3;

/// Refuses what was issued up to 30, and holds nothing.
async fn refuses(store: &Store, k: &Key) {
    assert_eq!((store.floor(P), store.highest_floor()), (Hlc(30), Hlc(30)));
    let late = store
        .merge_issued(k.clone(), record("a", 1, 10, 5), Hlc(30))
        .await;
    assert_eq!(late, Err(StorageError::Stale { floor: Hlc(30) }));
    assert_eq!(store.get(k), Ok(None));
    // a record that speaks for itself: its oldest sibling counts, not its newest
    let both = record("a", 1, 10, 5).merge(&record("b", 1, 99, 5));
    let hint = store
        .merge_many_issued(vec![(k.clone(), both)], Hlc(0))
        .await;
    let refused = Merged {
        changed: 0,
        stale: 1,
        floor: Hlc(30),
    };
    assert_eq!(hint, Ok(refused));
}

#[tokio::test]
async fn what_was_issued_below_the_floor_is_refused_for_ever() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let (k, other) = (key_in(P, 0), key_in(P, 1));
    let gone = record("a", 1, 10, 5).merge(&tombstone("a", 2, 20));
    assert!(gone.is_deleted());
    let kept = record("b", 1, 12, 5);
    store.merge(k.clone(), gone.clone()).await.expect("stored");
    store
        .merge(other.clone(), kept.clone())
        .await
        .expect("stored");

    let found = |until| {
        let page = store.tombstones(P, None, Hlc(until), (100, 100));
        let page = page.expect("readable");
        assert_eq!((page.rows, page.next), (2, None));
        page.found
    };
    assert_eq!(found(19), [], "it is younger");
    let confirmed = vec![(k.clone(), gone.fingerprint())];
    assert_eq!(found(20), confirmed);

    // something else by now: stays, but the floor rises
    let outdated = vec![(k.clone(), gone.fingerprint() ^ 1)];
    let dropped = store.forget_tombstones(P, outdated, Hlc(15)).await;
    dropped.expect("done");
    assert_eq!(store.get(&k), Ok(Some(gone)));
    assert_eq!((store.floor(P), store.floor(P + 1)), (Hlc(15), Hlc(0)));

    let dropped = store.forget_tombstones(P, confirmed, Hlc(30)).await;
    dropped.expect("done");
    assert_eq!((store.stats().tombstones, store.tombstones_in(P)), (0, 0));
    assert_eq!(store.stats().tombstones_forgotten, 1);
    refuses(&store, &k).await;
    let lower = store.raise_floors(vec![(P, Hlc(7))]).await;
    lower.expect("done");

    // replayed from the log, and then kept by the table alone
    drop(store);
    let (store, report) = reopen(dir.path());
    assert!(report.replayed > 0);
    refuses(&store, &k).await;
    store.close().await.expect("closed");
    drop(store);
    let (store, report) = reopen(dir.path());
    assert_eq!(report.replayed, 0);
    refuses(&store, &k).await;

    // what is held already is not refused, nor what is newer, nor another partition's
    let held = store.merge_issued(other.clone(), kept.clone(), Hlc(12));
    assert_eq!(held.await, Ok(false));
    let elsewhere = store.merge_issued(key_in(P + 1, 0), kept, Hlc(1));
    assert_eq!(elsewhere.await, Ok(true));
    let newer = record("a", 3, 31, 5);
    let again = store.merge_issued(k.clone(), newer.clone(), Hlc(31));
    assert_eq!(again.await, Ok(true));
    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!(store.get(&k), Ok(Some(newer)));
    assert_eq!(store.tombstones_in(P), 0);
}

#[tokio::test]
async fn one_batch_forgets_and_writes_in_order() {
    // all queued before the committer looks: one group commit, most likely
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let k = key_in(P, 0);
    let gone = tombstone("a", 2, 20);
    let newer = record("c", 1, 40, 5);
    let (stored, dropped, late, fresh) = tokio::join!(
        store.merge_issued(k.clone(), gone.clone(), Hlc(20)),
        store.forget_tombstones(P, vec![(k.clone(), gone.fingerprint())], Hlc(30)),
        store.merge_issued(k.clone(), record("a", 1, 10, 5), Hlc(25)),
        store.merge_issued(k.clone(), newer.clone(), Hlc(40)),
    );
    assert_eq!((stored, dropped, fresh), (Ok(true), Ok(()), Ok(true)));
    assert!(matches!(late, Err(StorageError::Stale { .. })));
    assert_eq!(store.get(&k), Ok(Some(newer.clone())));
    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!(
        store.get(&k),
        Ok(Some(newer)),
        "without the tombstone's vector"
    );
}

#[tokio::test]
async fn hints_that_are_given_up_leave_a_mark() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let n = node("n");
    for (i, hlc) in [(0, 10), (1, 20), (2, 30)] {
        let kept = store.hint_add(&n, key_in(P, i), record("a", 1, hlc, 5));
        assert!(kept.await.expect("kept"));
    }
    let page = store.hints_before(&n, None, Hlc(25), 2).expect("readable");
    assert_eq!(page.found.len(), 2);
    let rest = store.hints_before(&n, page.next.as_ref(), Hlc(25), 2);
    let rest = rest.expect("readable");
    assert!(rest.found.is_empty() && rest.next.is_none());
    assert!(store.is_hinted(&key_in(P, 0)).expect("readable"));
    assert!(store.dirty().is_empty());
    store.hints_given_up(&n, page.found).await.expect("done");
    assert!(!store.is_hinted(&key_in(P, 0)).expect("readable"));
    assert_eq!(store.hints_owed(), [(n.clone(), 1)].into());

    // over the budget of 1 MiB: refused, and marked as well
    let large = record("a", 1, 1, (1 << 20) + 1);
    let kept = store.hint_add(&n, key_in(P + 1, 0), large);
    assert!(!kept.await.expect("answered"));
    let marks = [(n.clone(), vec![P, P + 1])].into();
    assert_eq!(store.dirty(), marks);
    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!(store.dirty(), marks, "replayed");
    store.close().await.expect("closed");
    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!(store.dirty(), marks, "kept by the table");
    // a hint is given up while the replicas are compared: that they were the same says nothing of it
    let before = store.dirty_marks()[&n].clone();
    let large = record("b", 1, 1, (1 << 20) + 1);
    let kept = store.hint_add(&n, key_in(P + 1, 0), large);
    assert!(!kept.await.expect("answered"));
    store.clear_dirty(&n, before).await.expect("done");
    assert_eq!(store.dirty(), [(n.clone(), vec![P + 1])].into());
    drop(store);
    let (store, _) = reopen(dir.path());
    assert_eq!(store.dirty(), [(n, vec![P + 1])].into());
}
