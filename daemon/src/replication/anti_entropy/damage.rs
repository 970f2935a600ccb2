//! A damaged row costs the comparison of its own partition, on whichever side it lies, and nothing else.

use std::{collections::BTreeSet, sync::Arc};

use ringmaster_shared::{
    event::EventCode,
    key::Key,
    topology::Step,
    version::{Record, Value},
};

use super::{compare::Comparison, mending::Mending};
use crate::{
    replication::{
        testing::{alone, dot, id, key, sibling},
        tests::{
            lab::{PARTITIONS, Quiet, settled, until},
            moving::joining,
        },
    },
    storage::StorageError,
};

/// Enough for several in each partition.
const KEYS: u64 = 300;

fn record(version: u64) -> Record {
    alone(sibling(dot("writer", version), 1000 + version, version))
}

/// Every `step`-th key from `first` on.
fn entries(first: usize, step: usize, version: u64) -> Vec<(Key, Record)> {
    let numbers = (0..KEYS).skip(first).step_by(step);
    let entry = |n| (key(&format!("k{n}")), record(version));
    numbers.map(entry).collect()
}

async fn store(lab: &Quiet, at: &str, entries: Vec<(Key, Record)>) {
    let store = &lab.site(at).replica.store;
    store.merge_many(entries).await.expect("stored");
}

fn first_of(partition: u16) -> Key {
    let mut keys: Vec<Key> = entries(0, 1, 1).into_iter().map(|(k, _)| k).collect();
    keys.retain(|k| k.partition(PARTITIONS) == partition);
    keys.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    // the hardest place: a reader of the partition before must stop short of it
    keys.swap_remove(0)
}

async fn round(lab: &Quiet, at: &str) {
    super::round(lab.site(at), &BTreeSet::new(), &mut Mending::default()).await;
}

fn told(lab: &Quiet, at: &str) -> usize {
    let events = lab.site(at).events.newest(1000);
    let damaged = events
        .iter()
        .filter(|event| event.code == EventCode::TableDamaged);
    damaged.count()
}

#[tokio::test]
async fn a_damaged_row_keeps_no_other_partition_from_being_compared() {
    for damaged_at in ["a", "b"] {
        let lab = Quiet::start(&settled(1, &["a", "b"]), &["a", "b"]);
        for at in ["a", "b"] {
            store(&lab, at, entries(0, 1, 1)).await;
        }
        let damaged = key("k0").partition(PARTITIONS);
        let spoiled = first_of(damaged);
        let others: BTreeSet<u16> = (0..PARTITIONS).filter(|p| *p != damaged).collect();
        lab.site(damaged_at).replica.store.spoil(&spoiled);
        // differences on both sides of every partition
        let mut later = [("a", entries(0, 2, 2)), ("b", entries(1, 2, 2))];
        for (at, entries) in &mut later {
            entries.retain(|(k, _)| *k != spoiled);
            let here: BTreeSet<u16> = entries.iter().map(|e| e.0.partition(PARTITIONS)).collect();
            assert_eq!(here.len(), usize::from(PARTITIONS));
            store(&lab, at, std::mem::take(entries)).await;
        }
        let (site, peer) = (lab.site("a"), id("b"));
        // first, last and in the middle of its row
        let rest = || others.iter().copied();
        let orders: [Vec<u16>; 3] = [
            [damaged].into_iter().chain(rest()).collect(),
            rest().chain([damaged]).collect(),
            (0..PARTITIONS).collect(),
        ];
        for (n, order) in orders.iter().enumerate() {
            let mut comparison = Comparison::new(site, &peer, 1, site.issued());
            let ended = comparison.run(order).await;
            assert!(ended.is_err(), "the damage at {damaged_at} went unnoticed");
            assert_eq!(comparison.clean, others, "order {n}");
            let moved = if n == 0 { others.len() } else { 0 };
            assert_eq!(comparison.tally.partitions, moved, "order {n}");
            let mut more = entries(0, 7, 3 + n as u64);
            more.retain(|(k, _)| *k != spoiled);
            store(&lab, "a", more).await;
            let again = Comparison::new(site, &peer, 1, site.issued());
            finish(again, &others).await;
        }
        for partition in rest() {
            let root = |at: &str| lab.site(at).replica.store.digest_root(partition);
            assert_eq!(root("a"), root("b"), "partition {partition}");
        }
        let read = |at: &str, k: &Key| lab.site(at).replica.store.get(k);
        for (k, _) in entries(0, 1, 1) {
            if k == spoiled {
                let damaged = read(damaged_at, &k);
                assert!(matches!(damaged, Err(StorageError::Read { .. })));
            } else if k.partition(PARTITIONS) != damaged {
                assert_eq!(read("a", &k), read("b", &k), "{k}");
            }
        }
        // by the node whose disk it is, once, however often it is met
        assert_eq!(told(&lab, "a"), usize::from(damaged_at == "a"));
        let next = &lab.site(damaged_at).replica.store;
        assert!(damaged_at == "b" || !next.count_at_next_start());
    }
}

/// Its head says all is well, so the digests would never tell.
#[tokio::test]
async fn a_record_whose_body_is_lost_comes_back_with_the_next_comparison() {
    let large = |n: u64| {
        let mut record = record(n);
        let value = vec![b'x'; 200_000 + n as usize];
        record.siblings[0].value = Some(Value::Raw(value.into()));
        record
    };
    let lab = Quiet::start(&settled(1, &["a", "b"]), &["a", "b"]);
    let keys = [key("read"), key("written"), key("unread"), key("sound")];
    for at in ["a", "b"] {
        let entries = keys.iter().map(|k| (k.clone(), large(1)));
        store(&lab, at, entries.collect()).await;
    }
    let held = &lab.site("a").replica.store;
    for key in &keys[..3] {
        held.lose_body(key);
    }
    let mut partitions: Vec<u16> = keys.iter().map(|k| k.partition(PARTITIONS)).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let roots = |at: &str| -> Vec<u64> {
        let held = &lab.site(at).replica.store;
        partitions.iter().map(|p| held.digest_root(*p)).collect()
    };
    assert_eq!(roots("a"), roots("b"), "nobody has read any of it");
    assert!(matches!(held.get(&keys[0]), Err(StorageError::Read { .. })));
    // a write beside what is there needs it
    let beside = alone(sibling(dot("other", 1), 1001, 1));
    let refused = held.merge_many(vec![(keys[1].clone(), beside)]).await;
    assert!(matches!(refused, Err(StorageError::Read { .. })));
    assert_eq!(held.damaged(), 2);
    assert_ne!(roots("a"), roots("b"));

    round(&lab, "a").await;
    assert_eq!(told(&lab, "a"), 1);
    assert_eq!(held.damaged(), 0);
    assert_eq!(roots("a"), roots("b"));
    for key in [&keys[0], &keys[1], &keys[3]] {
        assert_eq!(held.get(key), Ok(Some(large(1))), "{key}");
    }
    assert!(held.get(&keys[2]).is_err(), "it is found by who reads it");
    round(&lab, "a").await;
    assert_eq!(held.get(&keys[2]), Ok(Some(large(1))));
}

/// Brings the others to the same again, so that the next order begins without differences there.
async fn finish(mut comparison: Comparison<'_>, others: &BTreeSet<u16>) {
    let order: Vec<u16> = others.iter().copied().collect();
    comparison.run(&order).await.expect("sound partitions");
    assert_eq!(&comparison.clean, others);
}

/// Nobody else knows what it knew, so it stays damaged; its neighbours are exchanged all the same.
#[tokio::test]
async fn a_record_that_no_other_gives_back_keeps_its_neighbours_from_nothing() {
    for damaged_at in ["a", "b"] {
        let lab = Quiet::start(&settled(1, &["a", "b"]), &["a", "b"]);
        let partition = key("k0").partition(PARTITIONS);
        let mut keys: Vec<Key> = entries(0, 1, 1).into_iter().map(|(k, _)| k).collect();
        keys.retain(|k| k.partition(PARTITIONS) == partition);
        let lost = keys.swap_remove(0);
        let mut large = alone(sibling(dot("nobody", 1), 1000, 1));
        large.siblings[0].value = Some(Value::Raw(vec![b'x'; 100_000].into()));
        store(&lab, damaged_at, vec![(lost.clone(), large)]).await;
        lab.site(damaged_at).replica.store.lose_body(&lost);
        // what all replicas but this have
        let other = if damaged_at == "a" { "b" } else { "a" };
        store(&lab, other, vec![(lost.clone(), record(1))]).await;
        for (n, key) in keys.iter().enumerate() {
            let at = if n % 2 == 0 { "a" } else { "b" };
            store(&lab, at, vec![(key.clone(), record(1))]).await;
        }
        let (site, peer) = (lab.site("a"), id("b"));
        let mut comparison = Comparison::new(site, &peer, 1, site.issued());
        let ended = comparison.run(&[partition]).await;
        assert!(ended.is_err() && comparison.clean.is_empty());
        for at in ["a", "b"] {
            for key in &keys {
                let held = lab.site(at).replica.store.get(key);
                assert_eq!(held, Ok(Some(record(1))), "{key} at {at}");
            }
        }
        assert_eq!(lab.site(damaged_at).replica.store.damaged(), 1);
    }
}

/// A write beside it went to the others: none of them has the very record any more.
#[tokio::test]
async fn a_damaged_record_comes_back_when_the_others_have_moved_on() {
    let lab = Quiet::start(&settled(1, &["a", "b"]), &["a", "b"]);
    let mut held = record(1);
    held.siblings[0].value = Some(Value::Raw(vec![b'x'; 100_000].into()));
    let both = held.merge(&alone(sibling(dot("other", 1), 2000, 2)));
    store(&lab, "a", vec![(key("k"), held)]).await;
    store(&lab, "b", vec![(key("k"), both.clone())]).await;
    let store = &lab.site("a").replica.store;
    store.lose_body(&key("k"));
    round(&lab, "a").await;
    assert_eq!(store.get(&key("k")), Ok(Some(both)));
    let partition = key("k").partition(PARTITIONS);
    let root = |at: &str| lab.site(at).replica.store.digest_root(partition);
    assert_eq!(root("a"), root("b"));
}

/// What is told must be so: there may be nobody to have it from.
#[tokio::test]
async fn a_member_by_itself_promises_nothing() {
    let lab = Quiet::start(&settled(1, &["a"]), &["a"]);
    let mut large = record(1);
    large.siblings[0].value = Some(Value::Raw(vec![b'x'; 100_000].into()));
    store(&lab, "a", vec![(key("k"), large)]).await;
    let held = &lab.site("a").replica.store;
    held.lose_body(&key("k"));
    assert!(held.get(&key("k")).is_err());
    round(&lab, "a").await;
    let events = lab.site("a").events.newest(1000);
    let messages = events.iter().map(|event| event.message.as_str());
    let all = messages.collect::<Vec<_>>().join("\n");
    assert!(
        all.contains("asked for from the other replicas, if there are any"),
        "{all}"
    );
    assert!(all.contains("there is no other replica"), "{all}");
    assert!(!all.contains("brought back from the other"), "{all}");
    assert!(!all.contains("Bring back replicas"), "{all}");
    assert!(
        all.contains("through this node, without a context"),
        "{all}"
    );
}

/// A record in a file of its own.
fn large(by: &str) -> Record {
    let mut record = alone(sibling(dot(by, 1), 1000, 1));
    record.siblings[0].value = Some(Value::Raw(vec![b'x'; 70_000].into()));
    record
}

/// Stores these at a node and takes their bodies away, which is noticed.
async fn lose(lab: &Quiet, at: &str, keys: &[Key], record: &Record) {
    let entries = keys.iter().map(|k| (k.clone(), record.clone()));
    store(lab, at, entries.collect()).await;
    let held = &lab.site(at).replica.store;
    for key in keys {
        held.lose_body(key);
        assert!(held.get(key).is_err());
    }
}

/// In a round of two each, in the order of their keys.
#[tokio::test]
async fn what_nobody_gives_back_keeps_nothing_from_being_asked_for() {
    let names = ["a", "b", "c", "d"];
    let ring = settled(1, &names);
    let lab = Quiet::start(&ring, &names);
    let five = |prefix: &str, held: bool| -> Vec<Key> {
        let keys = (100..999).map(|n| key(&format!("{prefix}{n}")));
        let keys = keys.filter(|k| ring.is_replica(ring.partition_of(k), &id("a")) == held);
        keys.take(5).collect()
    };
    let (foreign, lost, mendable) = (five("f", false), five("l", true), five("m", true));
    let both = large("w").merge(&large("v"));
    lose(&lab, "a", &foreign, &large("w")).await;
    lose(&lab, "a", &lost, &both).await;
    lose(&lab, "a", &mendable, &large("w")).await;
    for at in &names[1..] {
        let entries = [&foreign, &lost, &mendable].into_iter().flatten();
        store(&lab, at, entries.map(|k| (k.clone(), large("w"))).collect()).await;
    }
    let (site, mut mending) = (lab.site("a"), Mending::of(2));
    let mut went = Vec::new();
    for _ in 0..6 {
        let on = mending.round(site, &ring).await;
        went.push((site.replica.store.damaged(), on));
    }
    // l l, l l, l m, m m, m m, and again from the front
    let on = |left| (left, true);
    assert_eq!(
        went,
        [
            (15, false),
            (15, false),
            on(14),
            on(12),
            on(10),
            (10, false)
        ]
    );
    for key in &mendable {
        assert_eq!(site.replica.store.get(key), Ok(Some(large("w"))), "{key}");
    }
}

/// What is on the move is not compared, so nothing else brings it back.
#[tokio::test]
async fn while_some_come_back_the_next_round_is_due_at_once() {
    let moving = joining(2, Step::Filling);
    let mut lab = Quiet::start(&moving, &["a", "b"]);
    let gained = moving.gained_by(&id("d"));
    let keys = (0..999).map(|n| key(&format!("k{n}")));
    let on_the_move = |k: &Key| {
        let partition = moving.partition_of(k);
        gained.contains(&partition)
            && ["a", "b"]
                .iter()
                .all(|n| moving.is_replica(partition, &id(n)))
    };
    let keys: Vec<Key> = keys.filter(on_the_move).take(4).collect();
    store(
        &lab,
        "b",
        keys.iter().map(|k| (k.clone(), large("w"))).collect(),
    )
    .await;
    lose(&lab, "a", &keys, &large("w")).await;
    let site = Arc::new(lab.sites.remove(&id("a")).expect("a node"));
    super::AntiEntropy::begin(site.clone(), Mending::of(1));
    let held = &site.replica.store;
    until("all are back", || held.damaged() == 0).await;
    site.stop.cancel();
}

/// One of which a replica is away, and one that the others do not have although all of them answer.
#[tokio::test]
async fn what_to_do_depends_on_whether_somebody_is_away() {
    let names = ["a", "b", "c", "d"];
    let ring = settled(1, &names);
    // d is no member that anybody hears of
    let lab = Quiet::start(&ring, &names[..3]);
    let on = |away: bool| {
        let keys = (0..999).map(|n| key(&format!("k{n}")));
        let mut keys = keys.filter(|k| {
            let holds = |n: &str| ring.is_replica(ring.partition_of(k), &id(n));
            holds("a") && holds("d") == away
        });
        keys.next().expect("one of many")
    };
    let messages = |prefix: &str| {
        let events = lab.site("a").events.newest(1000);
        let messages = events.iter().map(|event| event.message.clone());
        messages.filter(|m| m.contains(prefix)).collect::<Vec<_>>()
    };
    lose(&lab, "a", &[on(true), on(false)], &large("w")).await;
    round(&lab, "a").await;
    let told = messages("2 damaged records could not be brought back yet");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("Bring back replicas"), "{told:?}");
    assert!(
        told[0].contains("Of 1 no other replica has all of it"),
        "{told:?}"
    );
}

/// Nobody has read it before, and no restart would find it.
#[tokio::test]
async fn a_lost_body_that_is_met_by_handing_it_over_is_told_as_what_it_is() {
    let lab = Quiet::start(&settled(1, &["a", "b"]), &["a", "b"]);
    let k = key("k0");
    store(&lab, "a", vec![(k.clone(), large("w"))]).await;
    lab.site("a").replica.store.lose_body(&k);
    let (site, peer) = (lab.site("a"), id("b"));
    let mut comparison = Comparison::new(site, &peer, 1, site.issued());
    let ended = comparison.run(&[k.partition(PARTITIONS)]).await;
    assert!(ended.is_err());
    let events = site.events.newest(1000);
    let mut told = events.iter().filter(|e| e.code == EventCode::TableDamaged);
    let message = told.next().map(|e| e.message.as_str()).unwrap_or_default();
    assert!(
        message.starts_with("1 stored records were read that are damaged"),
        "{message}"
    );
    assert!(told.next().is_none());
}
