//! Filling, refilling, and service while ownership moves.

use ringmaster_shared::{
    clock::Hlc,
    event::EventCode,
    placement,
    topology::{Step, Topology, Transition},
};

use super::lab::{Lab, Wire, ring_member, settled, until};
use crate::replication::testing::{alone, dot, head, id, key, sibling};
use crate::replication::{
    frames::{RefusalCode, Request, Response},
    transfer,
};

const FOUR: [&str; 4] = ["a", "b", "c", "d"];
const KEYS: u64 = 120;

/// The first step of `d` joining a, b and c.
pub(in crate::replication) fn joining(epoch: u64, step: Step) -> Topology {
    let before = settled(1, &["a", "b", "c"]);
    let wanted: Vec<_> = FOUR.map(ring_member).to_vec();
    let plan = placement::plan(&before, &wanted);
    Topology {
        epoch,
        members: plan.members,
        table: plan.current,
        transition: Some(Transition {
            step,
            kind: ringmaster_shared::topology::ChangeKind::Join,
            leaving: vec![],
            joining: vec![id("d")],
            target: plan.target,
        }),
        ..before
    }
}

fn finished(epoch: u64) -> Topology {
    let change = joining(epoch, Step::Dual);
    let table = change.transition.map(|t| t.target).expect("a change");
    Topology {
        table,
        transition: None,
        ..joining(epoch, Step::Dual)
    }
}

/// A read by a quorum at each of the nodes returns what was written.
async fn all_readable(lab: &Lab, at: &[&str], offset: u64) {
    for n in 0..KEYS {
        let node = at[n as usize % at.len()];
        let read = lab.get(node, &format!("k{n}")).await.expect("read");
        assert_eq!(head(&read.record), n + offset, "k{n} through {node}");
    }
}

#[tokio::test]
async fn a_new_node_is_filled_from_a_quorum_and_then_serves() {
    let lab = Lab::start(&settled(1, &["a", "b", "c"]), &FOUR);
    // each write misses one of the old replicas, in turn: none of them alone has everything
    let mut victims = ["a", "b", "c"].iter().cycle();
    for n in 0..KEYS {
        let victim = victims.next().expect("endless");
        let at = if *victim == "a" { "b" } else { "a" };
        lab.wire(victim, Wire::Cut);
        lab.put(at, &format!("k{n}"), n + 1).await.expect("written");
        lab.wire(victim, Wire::Up);
    }
    let filling = joining(2, Step::Filling);
    let gained = filling.gained_by(&id("d"));
    assert!(!gained.is_empty());
    lab.adopt_everywhere(&filling, &FOUR).await;
    // writes go on meanwhile
    lab.put("d", "k5", 1005).await.expect("written");
    let d = &lab.node("d").replica;
    until("d is filled", || d.identity.filled_epoch() == 2).await;
    let reported = || {
        let events = lab.node("d").events.newest(100);
        events.iter().any(|e| e.code == EventCode::PartitionsFilled)
    };
    until("it is reported", reported).await;
    for n in 0..KEYS {
        let k = key(&format!("k{n}"));
        if gained.contains(&filling.partition_of(&k)) {
            let record = d.store.get(&k).expect("readable").expect("filled");
            assert_eq!(head(&record), if n == 5 { 1005 } else { n + 1 });
        }
    }
    lab.put("a", "k5", 6).await.expect("written");
    lab.adopt_everywhere(&joining(3, Step::Dual), &FOUR).await;
    all_readable(&lab, &FOUR, 1).await;
    let done = finished(4);
    lab.adopt_everywhere(&done, &FOUR).await;
    all_readable(&lab, &FOUR, 1).await;
}

#[tokio::test]
async fn operations_go_on_while_the_steps_are_taken() {
    let lab = Lab::start(&settled(1, &["a", "b", "c"]), &FOUR);
    for n in 0..KEYS {
        lab.put("a", &format!("k{n}"), n + 1)
            .await
            .expect("written");
    }
    let steps = async {
        for (topology, first) in [
            (joining(2, Step::Filling), "b"),
            (joining(3, Step::Dual), "c"),
            (finished(4), "d"),
        ] {
            // one node hears of it first, the operations carry it to the others
            lab.adopt_everywhere(&topology, &[first]).await;
            lab.adopt_everywhere(&topology, &FOUR).await;
            let d = &lab.node("d").replica;
            until("d is filled", || d.identity.filled_epoch() >= 2).await;
        }
    };
    let work = async {
        for n in 0..KEYS {
            let at = FOUR[n as usize % 4];
            let k = format!("k{n}");
            lab.put(at, &k, n + 1001).await.expect("written");
            let read = lab.get(FOUR[(n as usize + 1) % 4], &k).await.expect("read");
            assert_eq!(head(&read.record), n + 1001);
        }
    };
    tokio::join!(steps, work);
    all_readable(&lab, &FOUR, 1001).await;
}

#[tokio::test]
async fn a_node_that_lost_its_data_gets_it_back_before_it_is_believed() {
    let names = ["a", "b", "c"];
    let lab = Lab::start(&settled(1, &names), &names);
    for n in 0..KEYS {
        lab.put("b", &format!("k{n}"), n + 1)
            .await
            .expect("written");
    }
    let a = &lab.node("a").replica;
    // the sources are away, so that the loss can be looked at
    lab.wire("b", Wire::Cut);
    lab.wire("c", Wire::Cut);
    a.identity.set_needs_refill().expect("noted");
    for partition in 0..super::lab::PARTITIONS {
        a.store.drop_partition(partition).await.expect("lost");
    }
    for request in [
        Request::ReadRecord { key: key("k1") },
        Request::ReadVersion { key: key("k1") },
    ] {
        let answer = a.serve(1, request).await;
        assert!(matches!(
            answer,
            Response::Refused {
                code: RefusalCode::Recovering,
                ..
            }
        ));
    }
    lab.wire("b", Wire::Up);
    lab.wire("c", Wire::Up);
    // by this ring a write that it had acknowledged may be on its way to the others
    for n in 0..KEYS {
        let k = format!("k{n}");
        lab.put("b", &k, n + 1).await.expect("written");
    }
    assert!(a.identity.needs_refill());
    assert_eq!(a.identity.lost_through(), 1);
    lab.adopt_everywhere(&settled(2, &names), &names).await;
    until("a is refilled", || !a.identity.needs_refill()).await;
    for n in 0..KEYS {
        let record = a.store.get(&key(&format!("k{n}"))).expect("readable");
        assert_eq!(record.map(|r| head(&r)), Some(n + 1));
    }
}

/// `b` and `c` join `a`, the first of a cluster.
fn first_join(epoch: u64, step: Option<Step>) -> Topology {
    let before = settled(1, &["a"]);
    let wanted: Vec<_> = ["a", "b", "c"].map(ring_member).to_vec();
    let plan = placement::plan(&before, &wanted);
    let under_way = |step| Transition {
        step,
        kind: ringmaster_shared::topology::ChangeKind::Join,
        leaving: vec![],
        joining: vec![id("b"), id("c")],
        target: plan.target.clone(),
    };
    Topology {
        epoch,
        members: plan.members.clone(),
        table: if step.is_some() {
            plan.current.clone()
        } else {
            plan.target.clone()
        },
        transition: step.map(under_way),
        ..before
    }
}

/// In force it is alone; what it acknowledged the others have as well.
#[tokio::test]
async fn the_first_of_a_cluster_gets_back_what_those_that_join_it_have() {
    let names = ["a", "b", "c"];
    for step in [Step::Filling, Step::Dual] {
        let lab = Lab::start(&first_join(3, Some(step)), &names);
        let a = &lab.node("a").replica;
        if step == Step::Dual {
            for joined in ["b", "c"] {
                let identity = &lab.node(joined).replica.identity;
                identity.set_filled_epoch(2).expect("noted");
            }
        }
        lab.wire("c", Wire::Cut);
        for n in 0..KEYS {
            let written = lab.put("b", &format!("k{n}"), n + 1).await;
            written.expect("by a and b");
        }
        lab.wire("b", Wire::Cut);
        a.identity.set_needs_refill().expect("noted");
        for partition in 0..super::lab::PARTITIONS {
            a.store.drop_partition(partition).await.expect("lost");
        }
        lab.wire("b", Wire::Up);
        lab.wire("c", Wire::Up);
        let follows = (step == Step::Filling).then_some(step);
        lab.adopt_everywhere(&first_join(4, follows), &names).await;
        until("a is refilled", || !a.identity.needs_refill()).await;
        for n in 0..KEYS {
            let record = a.store.get(&key(&format!("k{n}"))).expect("readable");
            assert_eq!(record.map(|r| head(&r)), Some(n + 1), "{step:?}");
        }
    }
}

/// It may have been let in by a ring that its earlier life was past.
#[tokio::test]
async fn who_lost_its_folder_takes_no_writes_before_it_knows_its_ring() {
    let names = ["a", "b", "c"];
    let lab = Lab::start(&settled(1, &names), &names);
    let a = &lab.node("a").replica;
    a.identity.forget_votes().expect("noted");
    let write = || Request::Write {
        key: key("k"),
        record: alone(sibling(dot("b", 1), 1000, 1)),
        issued: Hlc(u64::MAX),
    };
    let refused = a.serve(1, write()).await;
    assert!(matches!(
        refused,
        Response::Refused {
            code: RefusalCode::NotServing,
            ..
        }
    ));
    let written = lab.put("b", "k", 2).await.expect("the others take it");
    assert!(!written.successful.contains(&id("a")));

    // a read that finds the others apart brings one of them up, and does not go on about `a`
    a.identity.set_needs_refill().expect("noted");
    let ahead = Request::Write {
        key: key("apart"),
        record: alone(sibling(dot("b", 9), 1000, 1)),
        issued: Hlc(u64::MAX),
    };
    lab.node("b").replica.serve(1, ahead).await;
    for through in ["a", "b"] {
        let read = lab.get(through, "apart").await.expect("by the others");
        assert!(!read.responded.contains(&id("a")), "{read:?}");
    }
    a.identity.recall_votes(1).expect("noted");
    assert!(!matches!(
        a.serve(1, write()).await,
        Response::Refused { .. }
    ));
}

/// Its own writes would be refused for days, and nothing would ever lower it again.
#[tokio::test]
async fn a_floor_from_the_far_future_is_not_taken_over() {
    let names = ["a", "b", "c"];
    let topology = settled(1, &names);
    let lab = Lab::start(&topology, &names);
    let partition = topology.partition_of(&key("k"));
    let days = crate::time::unix_ms() + 3 * 24 * 60 * 60 * 1000;
    let floors = vec![(partition, Hlc::from_parts(days, 0))];
    let b = &lab.node("b").replica;
    b.store.raise_floors(floors).await.expect("raised");
    let a = lab.node("a");
    a.replica.identity.set_needs_refill().expect("noted");
    lab.adopt_everywhere(&settled(2, &names), &names).await;
    until("a tells of it", || {
        let events = a.events.newest(1000);
        let mut told = events.iter().filter(|e| e.code == EventCode::ClockSkew);
        told.any(|e| e.subject == Some(id("b")))
    })
    .await;
    assert!(a.replica.store.highest_floor().unix_ms() < days);
    assert!(a.replica.identity.needs_refill(), "it goes on asking");
}

#[tokio::test]
async fn what_moved_away_is_forgotten_only_when_settled() {
    let lab = Lab::start(&settled(1, &["a", "b", "c"]), &FOUR);
    for n in 0..KEYS {
        lab.put("a", &format!("k{n}"), n + 1)
            .await
            .expect("written");
    }
    for topology in [joining(2, Step::Filling), joining(3, Step::Dual)] {
        lab.adopt_everywhere(&topology, &FOUR).await;
        let d = &lab.node("d").replica;
        until("d is filled", || d.identity.filled_epoch() >= 2).await;
    }
    let done = finished(4);
    lab.adopt_everywhere(&done, &FOUR).await;
    let mut forgotten = 0;
    for (node_id, node) in &lab.nodes {
        let gone: Vec<u16> = (0..done.partition_count())
            .filter(|p| !done.is_replica(*p, node_id))
            .filter(|p| node.replica.store.digest_root(*p) != 0)
            .collect();
        forgotten += gone.len();
        transfer::forget(&node.replica, &done, gone.clone())
            .await
            .expect("forgotten");
        for partition in gone {
            assert_eq!(node.replica.store.digest_root(partition), 0);
        }
    }
    assert!(forgotten > 0, "the change moved nothing that held data");
    all_readable(&lab, &FOUR, 1).await;
}
