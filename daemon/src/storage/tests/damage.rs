//! Records that are damaged behind a sound head: who meets them, and what may stand for them.

use proptest::prelude::*;
use ringmaster_shared::{
    clock::Hlc,
    version::{Actor, Dot, Record, Sibling, VersionVector},
};

use super::{PARTITIONS, key_in, open};
use crate::storage::{
    StorageError, Store,
    testing::{key, node, record},
};

const LARGE: usize = 100_000;

fn large(actor: &str, counter: u64) -> Record {
    record(actor, counter, counter, LARGE)
}

/// A store that holds this under `k`, and cannot read it.
async fn lost(dir: &std::path::Path, held: &Record) -> Store {
    let (store, _) = open(dir);
    let stored = store.merge(key("k"), held.clone()).await;
    assert_eq!(stored, Ok(true));
    store.lose_body(&key("k"));
    store
}

#[tokio::test]
async fn a_scan_notes_all_that_is_damaged_and_is_no_page_without_it() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let partition = 3;
    let mut keys: Vec<_> = (0..6).map(|n| key_in(partition, n)).collect();
    keys.sort_unstable();
    for key in &keys {
        let stored = store.merge(key.clone(), large("a", 1)).await;
        assert_eq!(stored, Ok(true));
    }
    for at in [1, 2, 5] {
        store.lose_body(&keys[at]);
    }
    let root = store.digest_root(partition);
    // two of the three lie in the first page
    let page = store.scan_partition(partition, None, 3 * LARGE);
    let Err(StorageError::Read { what, .. }) = page else {
        panic!("{page:?}");
    };
    let hash = format!("{:016x}", keys[1].hash());
    assert!(
        what.starts_with("2 of the records") && what.contains(&hash),
        "{what}"
    );
    // and that in the next is looked for while at it
    let of = |at: &[usize]| at.iter().map(|n| keys[*n].clone()).collect::<Vec<_>>();
    assert_eq!(store.damaged_keys(None, 9, |_| true), of(&[1, 2, 5]));
    assert_eq!(
        store.damaged_keys(Some(&keys[1]), 1, |key| *key != keys[2]),
        of(&[5])
    );
    assert_ne!(
        store.digest_root(partition),
        root,
        "it shows in comparisons"
    );
    store.damage_found().await;

    let (mut sound, mut damaged, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = store
            .scan_sound(partition, after.as_ref(), 1)
            .expect("read");
        assert_eq!(page.entries.len() + page.damaged.len(), 1);
        sound.extend(page.entries.into_iter().map(|(key, _)| key));
        damaged.extend(page.damaged.into_iter().map(|(key, _)| key));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!((sound, damaged), (of(&[0, 3, 4]), of(&[1, 2, 5])));
    assert!(store.scan_partition(PARTITIONS - 1, None, 1).is_ok());
}

#[tokio::test]
async fn what_has_seen_all_of_a_damaged_record_stands_for_it() {
    let held = large("a", 1);
    let beside = large("c", 1);
    let both = held.merge(&beside);
    // (what is held, what comes, whether that may stand)
    let cases = [
        (&held, &both, true),
        (&held, &held, true),
        (&both, &both, true),
        (&held, &beside, false),
        (&both, &held, false),
        (&both, &both.merge(&large("d", 1)), true),
    ];
    for (n, (held, incoming, stands)) in cases.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = lost(dir.path(), held).await;
        let merged = store.merge(key("k"), incoming.clone()).await;
        let read = store.get(&key("k"));
        if stands {
            assert_eq!(merged, Ok(true), "case {n}");
            assert_eq!(read, Ok(Some(incoming.clone())), "case {n}");
            assert_eq!(store.damaged(), 0, "case {n}");
        } else {
            assert!(matches!(merged, Err(StorageError::Read { .. })), "case {n}");
            assert!(read.is_err() && store.damaged() == 1, "case {n}");
        }
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_keeps_no_other_from_being_stored() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = lost(dir.path(), &large("a", 1)).await;
    let entries = ["i", "k", "m"].map(|name| (key(name), record("c", 1, 1, 10)));
    let merged = store.merge_many(entries.to_vec()).await;
    assert!(
        matches!(merged, Err(StorageError::Read { .. })),
        "{merged:?}"
    );
    // both were staged in one batch with this
    store
        .merge(key("z"), record("c", 1, 1, 10))
        .await
        .expect("stored");
    for name in ["i", "m"] {
        assert_eq!(
            store.get(&key(name)),
            Ok(Some(record("c", 1, 1, 10))),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_damaged_hint_hides_no_other() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    let absent = node("t");
    for name in ["i", "k", "m"] {
        let kept = store.hint_add(&absent, key(name), large("a", 1)).await;
        assert_eq!(kept, Ok(true));
    }
    store.lose_hint_body(&absent, &key("k"));
    let page = store.hints_after(&absent, None, 9).expect("read");
    let found: Vec<_> = page.found.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, [key("i"), key("m")]);
    assert_eq!(page.damaged, [(key("k"), large("a", 1).fingerprint())]);
    assert_eq!(page.last, Some(key("m")));
    let version = store.hint_version(&absent, &key("k")).expect("its head");
    assert_eq!(version.map(|v| v.clock), Some(large("a", 1).clock));
    store
        .hints_given_up(&absent, page.damaged)
        .await
        .expect("given up");
    let partition = key("k").partition(PARTITIONS);
    assert_eq!(store.dirty()[&absent], [partition]);
    assert_eq!(store.hints_for(&absent, 9).expect("sound").len(), 2);
}

/// Records as replicas come to hold them: written by a few actors on what they saw, all of it or a
/// part, and joined.
fn pool(steps: Vec<(u8, u8, u8, bool)>) -> Vec<Record> {
    let mut pool = vec![Record::default()];
    let mut counters = [0_u64; 3];
    for (n, (base, other, actor, write)) in steps.into_iter().enumerate() {
        let at = |n: u8| &pool[usize::from(n) % pool.len()];
        let (base, other) = (at(base), at(other));
        let next = if write {
            let actor = usize::from(actor) % counters.len();
            counters[actor] += 1;
            let dot = Dot {
                actor: Actor {
                    node: node(&format!("n{actor}")),
                    epoch: 1,
                },
                counter: counters[actor],
            };
            let (hlc, value) = (Hlc(n as u64 + 1), None);
            Record::written(base, &other.clock, Sibling { dot, hlc, value })
        } else {
            base.merge(other)
        };
        pool.push(next);
    }
    pool
}

proptest! {
    /// Why taking it loses nothing: whatever the join would keep of the damaged record is in it.
    #[test]
    fn a_record_that_has_seen_all_of_another_holds_all_that_their_join_keeps(
        steps in prop::collection::vec(any::<(u8, u8, u8, bool)>(), 1..24),
    ) {
        let dots = |record: &Record| -> Vec<Dot> {
            record.siblings.iter().map(|s| s.dot.clone()).collect()
        };
        let pool = pool(steps);
        for damaged in &pool {
            for incoming in pool.iter().filter(|i| i.clock.dominates(&damaged.clock)) {
                let join = damaged.merge(incoming);
                prop_assert_eq!(&join.clock, &incoming.clock);
                let held = dots(incoming);
                prop_assert!(dots(&join).iter().all(|dot| held.contains(dot)));
            }
        }
    }
}

/// A vector that does not fit into the head is damaged with the body: then only the very record does.
#[tokio::test]
async fn without_its_vector_a_damaged_record_is_replaced_by_itself_alone() {
    let wide = crate::storage::testing::wide_clock(200).merge(&large("z", 1));
    let dir = tempfile::tempdir().expect("temp dir");
    let store = lost(dir.path(), &wide).await;
    let later = Record::written(
        &wide,
        &VersionVector::default(),
        large("y", 1).siblings.remove(0),
    );
    assert!(store.merge(key("k"), later).await.is_err());
    assert_eq!(store.merge(key("k"), wide.clone()).await, Ok(true));
    assert_eq!(store.get(&key("k")), Ok(Some(wide)));
}
