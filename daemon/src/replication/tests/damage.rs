//! Bodies that were lost before anybody read them, met by filling, refilling and hints.

use ringmaster_shared::{
    clock::Hlc,
    event::EventCode,
    key::Key,
    member::MemberStatus,
    topology::{Step, Topology},
    version::{Record, Value},
};

use super::{
    lab::{Lab, Wire, settled, until},
    moving::joining,
};
use crate::{
    replication::testing::{alone, dot, id, key, sibling},
    time::unix_ms,
};

/// A record whose value is a file of its own.
fn large(by: &str) -> Record {
    let now = Hlc::from_parts(unix_ms(), 0).0;
    let mut sibling = sibling(dot(by, 1), now, 1);
    sibling.value = Some(Value::Raw(vec![b'x'; 100_000].into()));
    alone(sibling)
}

async fn store(lab: &Lab, at: &str, key: &Key, record: &Record) {
    let stored = lab
        .node(at)
        .replica
        .store
        .merge(key.clone(), record.clone());
    assert_eq!(stored.await, Ok(true));
}

fn told(lab: &Lab, at: &str) -> bool {
    let events = lab.node(at).events.newest(1000);
    events.iter().any(|e| e.code == EventCode::TableDamaged)
}

/// Two keys of one partition of those.
fn two_in(topology: &Topology, partitions: &[u16]) -> [Key; 2] {
    let mut keys = (0..1000).map(|n| key(&format!("k{n}")));
    let first = keys.find(|k| partitions.contains(&topology.partition_of(k)));
    let first = first.expect("one of many");
    let partition = topology.partition_of(&first);
    let second = keys.find(|k| topology.partition_of(k) == partition);
    [first, second.expect("one of many")]
}

/// `d` joins three of which one is gone, so that both others must be scanned.
fn two_sources() -> (Lab, Topology) {
    let lab = Lab::start(&settled(1, &["a", "b", "c"]), &["a", "b", "c", "d"]);
    lab.wire("c", Wire::Cut);
    lab.gossip("c", MemberStatus::Dead);
    (lab, joining(2, Step::Filling))
}

/// What moves is not compared.
#[tokio::test]
async fn a_damaged_body_of_a_source_does_not_keep_a_change_from_its_end() {
    let (lab, filling) = two_sources();
    let gained = filling.gained_by(&id("d"));
    let keys = two_in(&filling, &gained);
    let (was, beside) = (large("w"), large("v"));
    // of the second, a knows more than what is damaged at b
    for (key, at_a) in keys.iter().zip([was.clone(), was.merge(&beside)]) {
        store(&lab, "a", key, &at_a).await;
        store(&lab, "b", key, &was).await;
        lab.node("b").replica.store.lose_body(key);
    }
    lab.adopt_everywhere(&filling, &["a", "b", "d"]).await;
    let d = &lab.node("d").replica;
    until("d is filled", || d.identity.filled_epoch() == 2).await;
    for at in ["b", "d"] {
        let held = &lab.node(at).replica.store;
        assert_eq!(held.get(&keys[0]), Ok(Some(was.clone())), "{at}");
        assert_eq!(held.get(&keys[1]), Ok(Some(was.merge(&beside))), "{at}");
    }
    until("b tells of it", || told(&lab, "b")).await;
    assert!(!told(&lab, "a"));
}

/// What no replica gives back is not passed over: the others go on waiting, and are told.
#[tokio::test]
async fn a_source_that_alone_knew_something_is_not_scanned_without_it() {
    let (lab, filling) = two_sources();
    let gained = filling.gained_by(&id("d"));
    let [only, _] = two_in(&filling, &gained);
    store(&lab, "a", &only, &large("w")).await;
    store(&lab, "b", &only, &large("w").merge(&large("v"))).await;
    lab.node("b").replica.store.lose_body(&only);
    lab.adopt_everywhere(&filling, &["a", "b", "d"]).await;
    let hash = format!("{:016x}", only.hash());
    until("b tells of it", || {
        let events = lab.node("b").events.newest(1000);
        let mut told = events.iter().filter(|e| e.code == EventCode::TableDamaged);
        told.any(|e| e.message.contains(&hash))
    })
    .await;
    assert_ne!(lab.node("d").replica.identity.filled_epoch(), 2);
    assert_eq!(lab.node("b").replica.store.damaged(), 1);
}

#[tokio::test]
async fn a_refill_ends_although_a_body_of_a_source_is_damaged() {
    let names = ["a", "b", "c"];
    let lab = Lab::start(&settled(1, &names), &names);
    let record = large("w");
    for at in ["b", "c"] {
        store(&lab, at, &key("k"), &record).await;
    }
    lab.node("c").replica.store.lose_body(&key("k"));
    let a = &lab.node("a").replica;
    a.identity.set_needs_refill().expect("noted");
    lab.adopt_everywhere(&settled(2, &names), &names).await;
    until("a is refilled", || !a.identity.needs_refill()).await;
    for at in names {
        let held = &lab.node(at).replica.store;
        assert_eq!(held.get(&key("k")), Ok(Some(record.clone())), "{at}");
    }
    until("c tells of it", || told(&lab, "c")).await;
}

/// Nobody else has seen what is damaged there, so it stays; all that comes after it is handed over.
#[tokio::test]
async fn a_hint_for_a_damaged_record_holds_up_no_other() {
    let names = ["a", "b", "c"];
    let lab = Lab::start(&settled(1, &names), &names);
    store(&lab, "c", &key("k0"), &large("w")).await;
    lab.node("c").replica.store.lose_body(&key("k0"));
    lab.gossip("c", MemberStatus::Dead);
    let (held, c) = (&lab.node("a").replica.store, id("c"));
    // more than are read from the store at once
    for n in 0..100 {
        let now = Hlc::from_parts(unix_ms(), 0).0;
        let record = alone(sibling(dot("a", 1), now, n));
        let kept = held.hint_add(&c, key(&format!("k{n}")), record).await;
        assert_eq!(kept, Ok(true));
    }
    lab.gossip("c", MemberStatus::Alive);
    until("one is left", || held.hints_owed().get(&c) == Some(&1)).await;
    let left = held.hints_for(&c, 9).expect("readable");
    assert_eq!(left[0].0, key("k0"));
    let there = &lab.node("c").replica.store;
    assert!(there.get(&key("k99")).is_ok_and(|record| record.is_some()));
}

/// More than a target may refuse in one replay, and all of them before the others.
#[tokio::test]
async fn many_hints_for_damaged_records_hold_up_no_other() {
    let names = ["a", "b", "c"];
    let lab = Lab::start(&settled(1, &names), &names);
    let c = id("c");
    lab.gossip("c", MemberStatus::Dead);
    let (held, there) = (&lab.node("a").replica.store, &lab.node("c").replica.store);
    let refused: Vec<Key> = (0..130).map(|n| key(&format!("f{n:03}"))).collect();
    for key in &refused {
        store(&lab, "c", key, &large("w")).await;
        there.lose_body(key);
    }
    let good: Vec<Key> = (0..10).map(|n| key(&format!("g{n}"))).collect();
    for key in refused.iter().chain(&good) {
        let now = Hlc::from_parts(unix_ms(), 0).0;
        let record = alone(sibling(dot("a", 1), now, 1));
        assert_eq!(held.hint_add(&c, key.clone(), record).await, Ok(true));
    }
    lab.gossip("c", MemberStatus::Alive);
    until("the others are handed over", || {
        held.hints_owed().get(&c) == Some(&130)
    })
    .await;
    // and those that were refused are tried again: their records are replaced now
    for key in &refused {
        let now = Hlc::from_parts(unix_ms(), 0).0;
        let seen = large("w").merge(&alone(sibling(dot("b", 1), now, 1)));
        assert_eq!(there.merge(key.clone(), seen).await, Ok(true), "{key}");
    }
    until("nothing is owed", || {
        held.hints_owed().get(&c).is_none_or(|n| *n == 0)
    })
    .await;
    let both = there.get(&refused[0]).expect("sound").expect("stored");
    assert_eq!(both.siblings.len(), 3);
}

/// What the advice says: by itself, and where the others have only a part of it.
#[tokio::test]
async fn a_write_without_a_context_ends_a_damage_that_nobody_mends() {
    for names in [&["a"][..], &["a", "b", "c"]] {
        let lab = Lab::start(&settled(1, names), names);
        let held = &lab.node("a").replica.store;
        let value = Some(Value::Raw(vec![b'y'; 10].into()));
        for (name, value) in [("put", value), ("deleted", None)] {
            let both = large("w").merge(&large("v"));
            store(&lab, "a", &key(name), &both).await;
            for other in names.iter().skip(1) {
                store(&lab, other, &key(name), &large("w")).await;
            }
            held.lose_body(&key(name));
            assert!(held.get(&key(name)).is_err());
            lab.write("a", name, value.clone(), None)
                .await
                .expect("stored");
            until("it is replaced", || {
                held.damaged() == 0 && held.get(&key(name)).is_ok()
            })
            .await;
            let read = lab.get("a", name).await.expect("readable");
            let values: Vec<_> = read.record.siblings.into_iter().map(|s| s.value).collect();
            assert_eq!(values, [value], "{name} with {} replicas", names.len());
        }
    }
}
