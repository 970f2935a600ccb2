//! Hints, anti-entropy and read repair between real stores.

use bytes::Bytes;
use ringmaster_shared::{clock::Hlc, event::EventCode, member::MemberStatus, version::Value};

use super::lab::{Lab, Wire, settled, until};
use crate::replication::testing::{alone, dot, head, id, key, sibling};
use crate::time::unix_ms;

const THREE: [&str; 3] = ["a", "b", "c"];

fn saw(lab: &Lab, at: &str, code: EventCode) -> bool {
    let events = lab.node(at).events.newest(1000);
    events.iter().any(|event| event.code == code)
}

#[tokio::test]
async fn a_dead_replica_is_owed_hints_until_it_has_them() {
    let lab = Lab::start(&settled(1, &THREE), &THREE);
    lab.wire("c", Wire::Cut);
    lab.gossip("c", MemberStatus::Dead);
    for n in 0..150 {
        lab.put("a", &format!("k{n}"), n + 1)
            .await
            .expect("written");
    }
    let owed = || {
        let owed = lab.node("a").replica.store.hints_owed();
        owed.get(&id("c")).copied().unwrap_or(0)
    };
    until("all hints are kept", || owed() == 150).await;
    assert!(saw(&lab, "a", EventCode::HintsStored));
    lab.wire("c", Wire::Up);
    lab.gossip("c", MemberStatus::Alive);
    until("nothing is owed", || owed() == 0).await;
    until("the replay is reported", || {
        saw(&lab, "a", EventCode::HintsReplayed)
    })
    .await;
    lab.converge(&["k0", "k77", "k149"]).await;
}

#[tokio::test]
async fn replicas_find_their_differences_by_themselves() {
    let lab = Lab::start(&settled(1, &THREE), &THREE);
    // each replica alone knows something, as after lost hints
    let donor = Lab::start(&settled(1, &["x"]), &["x"]);
    for (n, at) in (0..90).zip(THREE.iter().cycle()) {
        let k = format!("k{n}");
        let record = donor.put("x", &k, n + 1).await.expect("written").record;
        let merged = lab.node(at).replica.store.merge(key(&k), record).await;
        assert!(merged.expect("stored"));
    }
    until("a round can be asked for", || {
        lab.node("a").coordinator.repair_now()
    })
    .await;
    let keys: Vec<String> = (0..90).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    lab.converge(&keys).await;
    until("a repair is reported", || {
        THREE
            .iter()
            .any(|at| saw(&lab, at, EventCode::RepairFinished))
    })
    .await;
}

#[tokio::test]
async fn a_read_brings_up_who_is_behind_before_it_answers() {
    let lab = Lab::start(&settled(1, &THREE), &THREE);
    lab.put("a", "k", 1).await.expect("written");
    lab.converge(&["k"]).await;
    // a newer version that only a has, as a coordinator that died midway leaves it
    let donor = Lab::start(&settled(1, &["x"]), &["x"]);
    let newer = donor.put("x", "k", 2).await.expect("written").record;
    let store = &lab.node("a").replica.store;
    assert!(store.merge(key("k"), newer).await.expect("stored"));
    lab.wire("c", Wire::Cut);
    lab.gossip("c", MemberStatus::Dead);
    let read = lab.get("a", "k").await.expect("read");
    assert_eq!(head(&read.record), 2);
    assert_eq!(read.repaired, [id("b")]);
    let at_b = lab
        .node("b")
        .replica
        .store
        .get(&key("k"))
        .expect("readable");
    assert_eq!(at_b.map(|r| head(&r)), Some(2));
}

/// What two replicas brought together can outgrow a message: what comes after it is handed over.
#[tokio::test]
async fn a_record_too_large_to_send_does_not_hold_up_other_hints() {
    let lab = Lab::start(&settled(1, &THREE), &THREE);
    let (store, c) = (&lab.node("a").replica.store, id("c"));
    let sized = |n: u64, bytes: usize| {
        // an old one would be given up for its age
        let now = Hlc::from_parts(unix_ms(), 0).0;
        let mut sibling = sibling(dot(&format!("w{n}"), 1), now + n, n);
        sibling.value = Some(Value::Raw(Bytes::from(vec![n as u8; bytes])));
        alone(sibling)
    };
    lab.gossip("c", MemberStatus::Dead);
    for n in 1..=2 {
        let large = store.hint_add(&c, key("large"), sized(n, 17 << 20));
        assert_eq!(large.await, Ok(true));
    }
    let small = store.hint_add(&c, key("small"), sized(3, 10));
    assert_eq!(small.await, Ok(true));
    lab.gossip("c", MemberStatus::Alive);
    until("the small one is there", || {
        lab.stored("small")[&id("c")] != 0
    })
    .await;
    until("nothing is owed", || store.hints_owed().is_empty()).await;
    let events = lab.node("a").events.newest(1000);
    let told = events.iter().find(|e| e.code == EventCode::RecordTooLarge);
    let hash = format!("{:016x}", key("large").hash());
    assert!(told.expect("an event").message.contains(&hash));
    let codes: Vec<EventCode> = events.iter().map(|e| e.code).collect();
    assert!(codes.contains(&EventCode::PartitionsDirty), "{codes:?}");
}
