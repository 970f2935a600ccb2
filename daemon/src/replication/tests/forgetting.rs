//! Deleted keys are forgotten when all confirm, and nothing brings them back.

use std::time::Duration;

use ringmaster_shared::{
    clock::Hlc,
    event::EventCode,
    member::MemberStatus,
    topology::{ChangeKind, Step, Topology, Transition},
    version::Record,
};

use super::lab::{Lab, Wire, settled, until};
use crate::replication::testing::{head, id, key};
use crate::replication::{
    frames::{Request, Response},
    settings::RepairSettings,
};

const THREE: [&str; 3] = ["a", "b", "c"];
const FOUR: [&str; 4] = ["a", "b", "c", "d"];

fn hasty() -> RepairSettings {
    RepairSettings {
        tombstone_grace: Duration::from_millis(800),
        ..RepairSettings::default()
    }
}

fn saw(lab: &Lab, at: &str, code: EventCode) -> bool {
    let events = lab.node(at).events.newest(1000);
    events.iter().any(|event| event.code == code)
}

/// No replica holds anything of the key.
fn is_forgotten(lab: &Lab, k: &str) -> bool {
    lab.stored(k).values().all(|fingerprint| *fingerprint == 0)
}

fn floor_at(lab: &Lab, at: &str, k: &str) -> Hlc {
    let replica = &lab.node(at).replica;
    let topology = replica.topology.current().expect("a topology");
    replica.store.floor(topology.partition_of(&key(k)))
}

/// What anybody waits for.
fn waited_for(lab: &Lab) -> Vec<String> {
    let nodes = lab.nodes.values();
    let looks = nodes.flat_map(|n| n.coordinator.repair_look().tombstones_wait_for);
    let mut names: Vec<String> = looks.map(|id| id.to_string()).collect();
    names.sort();
    names.dedup();
    names
}

async fn deliver(lab: &Lab, to: &str, request: Request) -> Response {
    let replica = &lab.node(to).replica;
    let epoch = replica.topology.current().map_or(0, |t| t.epoch);
    replica.serve(epoch, request).await
}

#[tokio::test]
async fn what_was_on_its_way_when_a_key_was_forgotten_is_refused() {
    let lab = Lab::start_with(&settled(1, &THREE), &THREE, hasty());
    let old: Record = lab.put("a", "k", 1).await.expect("written").record;
    let began = lab.node("b").replica.clock.next(Hlc(0), 0);
    lab.write("a", "k", None, None).await.expect("deleted");
    until("nobody holds the tombstone", || is_forgotten(&lab, "k")).await;
    for at in THREE {
        assert!(floor_at(&lab, at, "k") > old.max_hlc(), "{at}");
    }
    // a paused coordinator's write-back or write, a comparison, and a hint
    let write = Request::Write {
        key: key("k"),
        record: old.clone(),
        issued: began.max(old.max_hlc()),
    };
    let answer = deliver(&lab, "b", write).await;
    assert!(matches!(answer, Response::Stale { .. }), "{answer:?}");
    for (epoch, issued) in [(1, began), (0, Hlc(0))] {
        let merge = Request::Merge {
            entries: vec![(key("k"), old.clone())],
            issued,
        };
        let answer = lab.node("b").replica.serve(epoch, merge).await;
        assert_eq!(answer, Response::Merged { changed: 0 });
    }
    // and who goes by an earlier epoch is not let in at all, whatever it says
    let next = settled(2, &THREE);
    lab.adopt_everywhere(&next, &["b"]).await;
    let merge = Request::Merge {
        entries: vec![(key("k"), old)],
        issued: Hlc(u64::MAX >> 1),
    };
    let answer = lab.node("b").replica.serve(1, merge).await;
    assert!(matches!(answer, Response::EpochBehind { .. }), "{answer:?}");
    assert!(is_forgotten(&lab, "k"));

    lab.adopt_everywhere(&next, &THREE).await;
    lab.put("c", "k", 2).await.expect("written again");
    let read = lab.get("a", "k").await.expect("read");
    assert_eq!(head(&read.record), 2);
    assert_eq!(read.record.siblings.len(), 1);
}

/// One record that cannot be read stops neither the others nor goes unnoticed.
#[tokio::test]
async fn a_damaged_record_keeps_only_its_own_partition_from_forgetting() {
    let topology = settled(1, &THREE);
    let lab = Lab::start_with(&topology, &THREE, hasty());
    let names: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for k in &names {
        lab.put("a", k, 1).await.expect("written");
    }
    lab.converge(&names).await;
    let partition = |k: &str| topology.partition_of(&key(k));
    let first = topology.replicas(partition("k0"))[0].clone();
    lab.node(first.as_str()).replica.store.spoil(&key("k0"));
    // k0 itself is not needed: another tombstone of its partition makes it worth a look
    let others: Vec<&str> = names.iter().copied().skip(1).collect();
    let beside = others.iter().filter(|k| partition(k) == partition("k0"));
    assert!(beside.count() > 0, "more keys than partitions");
    for k in &others {
        lab.write("a", k, None, None).await.expect("deleted");
    }
    let elsewhere = |k: &&&str| partition(k) != partition("k0");
    until("the other partitions forget", || {
        others
            .iter()
            .filter(elsewhere)
            .all(|k| is_forgotten(&lab, k))
    })
    .await;
    let damaged = || saw(&lab, first.as_str(), EventCode::TableDamaged);
    until("it is told", damaged).await;
}

#[tokio::test]
async fn a_tombstone_waits_for_the_replica_that_was_away() {
    let lab = Lab::start_with(&settled(1, &THREE), &THREE, hasty());
    for k in ["gone", "again"] {
        lab.put("a", k, 1).await.expect("written");
        lab.converge(&[k]).await;
    }
    lab.wire("c", Wire::Cut);
    lab.gossip("c", MemberStatus::Dead);
    for k in ["gone", "again"] {
        lab.write("a", k, None, None).await.expect("deleted");
    }
    lab.put("a", "again", 2).await.expect("recreated");
    until("c is waited for", || waited_for(&lab) == ["c"]).await;
    until("the wait is told", || {
        THREE
            .iter()
            .any(|at| saw(&lab, at, EventCode::TombstonesBlocked))
    })
    .await;
    let held = lab.stored("gone");
    assert!(held[&id("a")] != 0 && held[&id("a")] == held[&id("b")]);
    lab.wire("c", Wire::Up);
    lab.gossip("c", MemberStatus::Alive);
    until("it is forgotten after the return", || {
        is_forgotten(&lab, "gone")
    })
    .await;
    until("nobody is waited for", || waited_for(&lab).is_empty()).await;
    for at in THREE {
        let read = lab.get(at, "gone").await.expect("read");
        assert!(read.record.is_deleted());
        let read = lab.get(at, "again").await.expect("read");
        assert_eq!(head(&read.record), 2, "through {at}");
    }
}

#[tokio::test]
async fn a_hint_anywhere_holds_a_tombstone_back() {
    let topology = settled(1, &FOUR);
    let lab = Lab::start_with(&topology, &FOUR, hasty());
    let stranger = |k: &str| {
        let replicas = topology.replicas(topology.partition_of(&key(k)));
        FOUR.iter().find(|n| !replicas.contains(&id(n)))
    };
    let k = (0..100).map(|n| format!("k{n}"));
    let k = k.into_iter().find(|k| stranger(k) == Some(&"d"));
    let k = k.expect("one of many");
    // the target never answers, so the hint stays
    let target = topology.replicas(topology.partition_of(&key(&k)))[2].clone();
    let old = lab.put("d", &k, 1).await.expect("written").record;
    let store = &lab.node("d").replica.store;
    lab.wire("d", Wire::Cut);
    lab.gossip("d", MemberStatus::Dead);
    lab.write("a", &k, None, None).await.expect("deleted");
    until("d is waited for", || waited_for(&lab) == ["d"]).await;
    // from now on it answers, but says that it keeps a hint
    let nobody = id("nobody");
    let kept = store.hint_add(&nobody, key(&k), old.clone()).await;
    assert!(kept.expect("kept"));
    let topology_epoch = 1;
    let check = Request::TombstoneCheck {
        partition: topology.partition_of(&key(&k)),
        keys: vec![(key(&k), 1)],
    };
    let answer = lab.node("d").replica.serve(topology_epoch, check).await;
    let Response::Tombstones { states, .. } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(states, [crate::replication::frames::TombstoneState::Hinted]);
    lab.wire("d", Wire::Up);
    lab.gossip("d", MemberStatus::Alive);
    // its own worker discards hints for who is not in the ring; then nothing holds it back
    until("it is forgotten", || is_forgotten(&lab, &k)).await;
    assert!(floor_at(&lab, target.as_str(), &k) > old.max_hlc());
}

#[tokio::test]
async fn leftovers_are_gone_before_the_epoch_is_entered() {
    let before = settled(1, &THREE);
    let lab = Lab::start(&before, &FOUR);
    let old = lab.put("a", "k", 1).await.expect("written").record;
    let partition = before.partition_of(&key("k"));
    let store = &lab.node("d").replica.store;
    store.merge(key("k"), old).await.expect("left behind");
    // d is away while epochs pass, and hears only of the one in which it gains everything
    let members = settled(1, &FOUR).members;
    let late = Topology {
        epoch: 9,
        members,
        transition: Some(Transition {
            kind: ChangeKind::Join,
            step: Step::Filling,
            joining: vec![id("d")],
            leaving: vec![],
            target: vec![vec![0, 1, 3]; before.table.len()],
        }),
        ..before
    };
    lab.adopt_everywhere(&late, &["d"]).await;
    assert_eq!(store.get(&key("k")), Ok(None));
    assert!(store.floor(partition) > Hlc(0), "what is late is refused");
}

#[tokio::test]
async fn hints_too_old_make_partitions_dirty_until_they_are_compared() {
    let settings = RepairSettings {
        hint_max_age: Duration::from_millis(300),
        ..RepairSettings::default()
    };
    let lab = Lab::start_with(&settled(1, &THREE), &THREE, settings);
    lab.wire("c", Wire::Cut);
    lab.gossip("c", MemberStatus::Dead);
    for n in 0..20 {
        lab.put("a", &format!("k{n}"), n + 1)
            .await
            .expect("written");
    }
    let store = &lab.node("a").replica.store;
    let dirty = || lab.node("a").coordinator.repair_look().dirty;
    until("the hints are given up", || {
        store.hints_owed().is_empty() && dirty().contains_key(&id("c"))
    })
    .await;
    until("it is told", || saw(&lab, "a", EventCode::PartitionsDirty)).await;
    lab.wire("c", Wire::Up);
    lab.gossip("c", MemberStatus::Alive);
    until("all was compared", || dirty().is_empty()).await;
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    lab.converge(&keys).await;
}

#[tokio::test]
async fn a_write_below_the_floors_begins_again_above_them() {
    let topology = settled(1, &FOUR);
    let lab = Lab::start(&topology, &FOUR);
    // through a node whose clock is behind, and that holds none of the keys
    let foreign = |n: &u64| {
        let replicas = topology.replicas(topology.partition_of(&key(&format!("k{n}"))));
        !replicas.contains(&id("d"))
    };
    let mut keys = (0..1000).filter(foreign).map(|n| format!("k{n}"));
    let (k, other) = (keys.next().expect("many"), keys.next().expect("many"));
    lab.put("a", &other, 7).await.expect("written");
    let ahead = Hlc::from_parts(crate::time::unix_ms() + 3_600_000, 0);
    let partition = topology.partition_of(&key(&k));
    for replica in topology.replicas(partition) {
        let store = &lab.node(replica.as_str()).replica.store;
        let raised = store.raise_floors(vec![(partition, ahead)]).await;
        raised.expect("raised");
    }
    let written = lab.put("d", &k, 5).await.expect("written at last");
    assert!(written.record.max_hlc() > ahead);
    let read = lab.get("a", &k).await.expect("read");
    assert_eq!(head(&read.record), 5);
}
