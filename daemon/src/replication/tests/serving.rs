//! Clients' reads, writes and listings.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::FutureExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use ringmaster_shared::{
    api::data::Consistency,
    clock::Hlc,
    member::{Lifecycle, MemberStatus},
    topology::Topology,
    version::{Record, VersionVector},
};
use tokio::time::Instant;

use super::lab::{Lab, Wire, settled, until};
use crate::replication::coordinator::{
    Condition, ReplicationError, WriteRequest,
    history::{Effect, Operation, is_linearizable},
};
use crate::replication::testing::{alone, dot, head, id, key, number, sibling};

const THREE: [&str; 3] = ["a", "b", "c"];

fn three() -> Lab {
    Lab::start(&settled(1, &THREE), &THREE)
}

#[tokio::test]
async fn what_one_node_takes_every_node_returns() {
    let lab = three();
    let written = lab.put("a", "k", 1).await.expect("written");
    assert!(written.quorum_achieved && written.successful.len() >= 2);
    for at in THREE {
        let read = lab.get(at, "k").await.expect("read");
        assert_eq!(head(&read.record), 1);
    }
    let seen = lab.get("b", "k").await.expect("read").record.clock;
    lab.put("c", "k", 2).await.expect("written");
    let beside = lab.write("a", "k", Some(number(3)), Some(seen)).await;
    assert_eq!(
        beside.expect("written").record.siblings.len(),
        2,
        "the context did not cover the second write"
    );
    let both = lab.get("b", "k").await.expect("read").record;
    assert_eq!(head(&both), 3);
    let healed = lab.write("b", "k", None, Some(both.clock)).await;
    assert!(healed.expect("deleted").record.is_deleted());
    assert_eq!(head(&lab.get("c", "k").await.expect("read").record), 0);
    lab.converge(&["k"]).await;
}

#[tokio::test]
async fn a_stalled_replica_delays_nobody_and_gets_what_it_missed() {
    let lab = three();
    lab.wire("c", Wire::Stalled);
    let began = Instant::now();
    for n in 1..20 {
        lab.put("a", &format!("k{n}"), n)
            .await
            .expect("two are enough");
        let read = lab.get("b", &format!("k{n}")).await.expect("read");
        assert_eq!(head(&read.record), n);
    }
    // nineteen writes and reads that each waited for c would take minutes
    assert!(began.elapsed() < Duration::from_secs(60));
    lab.gossip("c", MemberStatus::Dead);
    let written = lab.put("b", "k1", 100).await.expect("written");
    assert_eq!(written.failed, [id("c")]);
    lab.wire("c", Wire::Up);
    lab.gossip("c", MemberStatus::Alive);
    let keys: Vec<String> = (1..20).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    lab.converge(&keys).await;
}

#[tokio::test]
async fn without_a_quorum_nothing_is_done_and_the_answer_says_who_is_missing() {
    let lab = three();
    lab.put("a", "k", 1).await.expect("written");
    lab.converge(&["k"]).await;
    let before = lab.stored("k");
    for name in ["b", "c"] {
        lab.wire(name, Wire::Cut);
        lab.gossip(name, MemberStatus::Dead);
    }
    for error in [
        lab.put("a", "k", 2).await.expect_err("no quorum"),
        lab.get("a", "k").await.map(|_| ()).expect_err("no quorum"),
    ] {
        let ReplicationError::QuorumNotMet {
            needed,
            available,
            missing,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((*needed, *available), (2, 1));
        assert!(missing[&id("b")].starts_with("dead for"), "{error}");
    }
    assert_eq!(lab.stored("k"), before);

    let timeout = Duration::from_secs(5);
    let coordinator = &lab.node("a").coordinator;
    let one = coordinator.read(key("k"), Consistency::One, timeout).await;
    let one = one.expect("one is enough");
    assert!(head(&one.record) == 1 && !one.quorum_achieved);
    assert!(coordinator.list("", None, 10, timeout).await.is_err());
}

#[tokio::test]
async fn a_deadline_says_whether_the_write_may_have_taken_place() {
    for (wire, open) in [(Wire::Stalled, false), (Wire::WritesStalled, true)] {
        let lab = three();
        lab.wire("b", wire);
        lab.wire("c", wire);
        let request = WriteRequest {
            key: key("k"),
            value: Some(number(1)),
            context: None,
            condition: Condition::Always,
            consistency: Consistency::Quorum,
            timeout: Duration::from_millis(800),
        };
        let error = lab.node("a").coordinator.write(request).await;
        let Err(ReplicationError::Deadline {
            may_have_written,
            missing,
            ..
        }) = error
        else {
            panic!("{wire:?}: {error:?}");
        };
        assert_eq!((may_have_written, missing.len()), (open, 2), "{wire:?}");
        assert_eq!(lab.node("a").coordinator.in_flight(), 0);
    }
}

#[tokio::test]
async fn creating_what_exists_is_refused() {
    let lab = three();
    let create = |n| WriteRequest {
        key: key("k"),
        value: Some(number(n)),
        context: None,
        condition: Condition::Absent,
        consistency: Consistency::Quorum,
        timeout: Duration::from_secs(10),
    };
    let at = |name| &lab.node(name).coordinator;
    at("a").write(create(1)).await.expect("created");
    let again = at("b").write(create(2)).await;
    assert!(matches!(
        again,
        Err(ReplicationError::Precondition { present: true, .. })
    ));
    lab.write("c", "k", None, None).await.expect("deleted");
    at("b").write(create(3)).await.expect("created again");
}

/// What it shows may be a write that reached one replica only.
#[tokio::test]
async fn what_a_refusal_shows_every_later_read_finds() {
    for condition in [
        Condition::Absent,
        Condition::Exactly(VersionVector::default()),
    ] {
        let lab = three();
        let lone = alone(sibling(dot("a", 1), 1000, 7));
        let store = &lab.node("a").replica.store;
        store
            .merge_many(vec![(key("k"), lone.clone())])
            .await
            .expect("on one");
        lab.wire("c", Wire::Cut);
        let request = WriteRequest {
            key: key("k"),
            value: Some(number(2)),
            context: None,
            condition,
            consistency: Consistency::Quorum,
            timeout: Duration::from_secs(10),
        };
        let refused = lab.node("b").coordinator.write(request).await;
        let Err(ReplicationError::Precondition {
            clock,
            present: true,
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(clock, lone.clock);
        lab.wire("c", Wire::Up);
        lab.wire("a", Wire::Cut);
        let read = lab.get("b", "k").await.expect("a quorum answers");
        assert_eq!(read.record.clock, clock);
        assert_eq!(lab.node("b").coordinator.in_flight(), 0);
    }
}

#[tokio::test]
async fn a_node_that_drains_takes_no_clients() {
    let lab = three();
    lab.node("a")
        .replica
        .lifecycle
        .set(Lifecycle::Draining, None);
    let refused = lab.put("a", "k", 1).await;
    assert!(matches!(refused, Err(ReplicationError::NotServing(_))));
    lab.put("b", "k", 1).await.expect("others do");
}

#[tokio::test]
async fn listings_hold_what_is_there_and_not_what_was_deleted() {
    let lab = three();
    for n in 0..40 {
        lab.put("a", &format!("user:{n:02}"), n + 1)
            .await
            .expect("written");
    }
    lab.put("a", "other", 1).await.expect("written");
    // c does not hear of the deletes
    let keys: Vec<String> = (0..40).map(|n| format!("user:{n:02}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    lab.converge(&keys).await;
    lab.wire("c", Wire::Stalled);
    for n in (0..40).step_by(2) {
        let gone = lab.write("b", &format!("user:{n:02}"), None, None).await;
        gone.expect("deleted");
    }
    lab.wire("c", Wire::Up);
    let timeout = Duration::from_secs(20);
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let coordinator = &lab.node("c").coordinator;
        let page = coordinator
            .list("user:", after.as_deref(), 7, timeout)
            .await;
        let page = page.expect("listed");
        all.extend(page.keys.iter().map(ToString::to_string));
        if page.after.is_none() {
            break;
        }
        after = page.after;
    }
    let odd: Vec<&str> = keys.iter().copied().skip(1).step_by(2).collect();
    assert_eq!(all, odd);
}

/// More deleted keys in a row than one listing goes on after: the page is not the last one.
#[tokio::test]
async fn a_listing_leads_through_any_number_of_deleted_keys() {
    let lab = three();
    let gone: Vec<String> = (0..70).map(|n| format!("k:{n:02}")).collect();
    let keys: Vec<&str> = gone.iter().map(String::as_str).collect();
    for k in &keys {
        lab.put("a", k, 1).await.expect("written");
    }
    lab.put("a", "k:live", 1).await.expect("written");
    lab.converge(&keys).await;
    lab.converge(&["k:live"]).await;
    // c does not hear of the deletes, nor of the hints afterwards; and it is asked for its keys
    lab.wire("c", Wire::Stalled);
    for k in &keys {
        lab.write("b", k, None, None).await.expect("deleted");
    }
    lab.gossip("a", MemberStatus::Dead);
    let timeout = Duration::from_secs(20);
    let (mut all, mut after) = (Vec::new(), None::<String>);
    for _ in 0..80 {
        let coordinator = &lab.node("c").coordinator;
        let page = coordinator.list("k:", after.as_deref(), 1, timeout).await;
        let page = page.expect("listed");
        all.extend(page.keys.iter().map(ToString::to_string));
        assert!(page.after.is_none() || page.after > after, "it goes on");
        after = page.after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((all, after), (vec!["k:live".to_owned()], None));
}

/// A client that goes away must not make room for others before its write has ended.
#[tokio::test]
async fn a_write_counts_as_under_way_until_it_ends_also_when_nobody_waits() {
    let lab = three();
    lab.wire("b", Wire::WritesStalled);
    lab.wire("c", Wire::WritesStalled);
    let request = WriteRequest {
        key: key("k"),
        value: Some(number(1)),
        context: None,
        condition: Condition::Always,
        consistency: Consistency::Quorum,
        timeout: Duration::from_secs(5),
    };
    let coordinator = &lab.node("a").coordinator;
    let mut write = Box::pin(coordinator.write(request));
    assert!((&mut write).now_or_never().is_none());
    drop(write);
    assert_eq!(coordinator.in_flight(), 1, "the others have not stored it");
    until("the write has ended", || coordinator.in_flight() == 0).await;
}

/// What is owed is then told by the mark of its partition, and the value is not kept in memory.
#[tokio::test]
async fn a_write_that_finds_no_room_to_wait_for_late_replicas_marks_their_partition() {
    let lab = three();
    let node = lab.node("a");
    let full = node.coordinator.without_tails();
    lab.gossip("c", MemberStatus::Dead);
    lab.put("a", "k", 1).await.expect("two are enough");
    let store = &node.replica.store;
    until("the mark", || store.dirty().contains_key(&id("c"))).await;
    assert_eq!(store.hints_owed().get(&id("c")), None);
    drop(full);
    lab.put("a", "k", 2).await.expect("two are enough");
    until("the hint", || store.hints_owed().contains_key(&id("c"))).await;
}

/// A replica is away, and the store of a coordinator that holds none of the keys stands still: what
/// its writes leave behind does not grow with their number.
#[tokio::test]
async fn writes_leave_no_tasks_behind_while_the_store_stands_still() {
    const FOUR: [&str; 4] = ["a", "b", "c", "d"];
    const WRITES: usize = 200;
    let topology = settled(1, &FOUR);
    let lab = Lab::start(&topology, &FOUR);
    let node = lab.node("d");
    let mine = |k: &String| {
        let replicas = topology.replicas(topology.partition_of(&key(k)));
        !replicas.contains(&id("d"))
    };
    let keys = (0..).map(|n| format!("k{n}")).filter(mine);
    let keys: Vec<String> = keys.take(WRITES).collect();
    let partitions: BTreeSet<u16> = keys
        .iter()
        .map(|k| topology.partition_of(&key(k)))
        .collect();
    lab.gossip("c", MemberStatus::Dead);
    let full = node.coordinator.without_tails();
    let stalled = node.replica.store.stall().await;
    let tasks = || {
        let runtime = tokio::runtime::Handle::current();
        runtime.metrics().num_alive_tasks()
    };
    let before = tasks();
    for k in &keys {
        lab.put("d", k, 1).await.expect("two are enough");
    }
    until("the tasks of the writes have ended", || {
        tasks() < before + WRITES / 10
    })
    .await;
    assert!(node.replica.store.dirty().is_empty(), "it stands still");
    drop((stalled, full));
    let marked = || {
        let dirty = node.replica.store.dirty();
        dirty.get(&id("c")).map_or(0, Vec::len)
    };
    until("all are marked", || marked() == partitions.len()).await;
}

/// A write whose outcome is unknown, the same again with what its client had read, and only then the
/// first one's copy arrives at a replica.
#[tokio::test]
async fn a_retry_with_a_context_does_not_swallow_the_write_of_unknown_outcome() {
    const FOUR: [&str; 4] = ["a", "b", "c", "d"];
    let topology = settled(1, &FOUR);
    let lab = Lab::start(&topology, &FOUR);
    let foreign = |k: &String| {
        let replicas = topology.replicas(topology.partition_of(&key(k)));
        !replicas.contains(&id("d"))
    };
    let k = (0..1000).map(|n| format!("k{n}")).find(foreign);
    let k = k.expect("one of many");
    let d = lab.node("d");
    let _no_hints = d.coordinator.without_tails();
    let before = lab.put("d", &k, 1).await.expect("written").record;
    lab.converge(&[&k]).await;
    let wires = |wire| ["a", "b", "c"].map(|at| lab.wire(at, wire));
    wires(Wire::WritesStalled);
    let request = |n, context, condition| WriteRequest {
        key: key(&k),
        value: Some(number(n)),
        context,
        condition,
        consistency: Consistency::Quorum,
        timeout: Duration::from_secs(if n == 2 { 1 } else { 30 }),
    };
    let write = |n, context, condition| d.coordinator.write(request(n, context, condition));
    let lost = write(2, None, Condition::Always).await;
    let unknown = matches!(
        lost,
        Err(ReplicationError::Deadline {
            may_have_written: true,
            ..
        })
    );
    assert!(unknown, "{lost:?}");
    let mut sent = before.siblings[0].clone();
    sent.dot.counter += 1;
    sent.hlc = Hlc(sent.hlc.0 + 1);
    sent.value = Some(number(2));
    let late = Record::written(&before, &before.clock, sent);

    wires(Wire::Up);
    let again = write(3, Some(before.clock.clone()), Condition::Always).await;
    let again = again.expect("written").record;
    assert_ne!(again.siblings[0].dot.actor, before.siblings[0].dot.actor);
    let store = &lab.node("a").replica.store;
    store.merge(key(&k), late).await.expect("it arrives");
    // whoever reads at a, or is brought up from there, finds both
    lab.gossip("b", MemberStatus::Dead);
    let read = lab.get("c", &k).await.expect("read").record;
    assert_eq!((read.siblings.len(), head(&read)), (2, 3));

    // nothing is unresolved as this actor: it goes on
    lab.gossip("b", MemberStatus::Alive);
    let exactly = Condition::Exactly(read.clock.clone());
    let next = write(4, None, exactly).await.expect("written").record;
    assert_eq!(next.siblings.len(), 1);
    let actor = &again.siblings[0].dot.actor;
    assert_eq!(&next.siblings[0].dot.actor, actor);
}

#[tokio::test]
async fn each_replica_says_what_it_holds() {
    let lab = three();
    lab.put("a", "k", 1).await.expect("written");
    lab.converge(&["k"]).await;
    lab.wire("b", Wire::Cut);
    let timeout = Duration::from_secs(5);
    let (_, views) = lab.node("c").coordinator.replicas(&key("k"), timeout).await;
    assert_eq!(views.len(), 3);
    for view in views {
        let cut = view.node_id == id("b");
        assert_eq!(view.error.is_some(), cut);
        assert_eq!(view.present && view.fingerprint.is_some(), !cut);
    }
}

#[tokio::test]
async fn operations_follow_the_topology_both_ways() {
    let lab = three();
    lab.put("a", "k", 1).await.expect("written");
    let later = Topology {
        epoch: 2,
        ..settled(1, &THREE)
    };
    // a does not know: b and c tell it
    lab.adopt_everywhere(&later, &["b", "c"]).await;
    lab.put("a", "k", 2).await.expect("written");
    let epoch = |name: &str| lab.node(name).replica.topology.current().map(|t| t.epoch);
    assert_eq!(epoch("a"), Some(2));
    // b and c do not know: a tells them
    let later = Topology { epoch: 3, ..later };
    lab.adopt_everywhere(&later, &["a"]).await;
    let read = lab.get("a", "k").await.expect("read");
    assert_eq!(head(&read.record), 2);
    assert!(epoch("b") == Some(3) || epoch("c") == Some(3));
}

/// Real stores and coordinators under a network that stalls and cuts replicas, several clients
/// on few keys: every key's history is linearizable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_clients_see_one_register() {
    let lab = Arc::new(three());
    let began = Instant::now();
    let clients = (0..6_u64).map(|client| {
        let lab = lab.clone();
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(client);
            let mut history = Vec::new();
            for n in 0..40_u64 {
                let slot = random.random_range(0..6_usize);
                let k = format!("key-{slot}");
                let at = THREE[random.random_range(0..3)];
                let invoked = began.elapsed().as_nanos() as u64;
                let effect = if random.random_bool(0.5) {
                    let value = client * 1000 + n + 1;
                    match lab.put(at, &k, value).await {
                        Ok(_) => Some((Effect::Write(value), true)),
                        Err(ReplicationError::Deadline {
                            may_have_written: true,
                            ..
                        }) => Some((Effect::Write(value), false)),
                        Err(_) => None,
                    }
                } else {
                    let read = lab.get(at, &k).await.ok();
                    read.map(|read| (Effect::Read(head(&read.record)), true))
                };
                let now = began.elapsed().as_nanos() as u64;
                if let Some((effect, known)) = effect {
                    let returned = known.then_some(now);
                    let operation = Operation {
                        effect,
                        invoked,
                        returned,
                    };
                    history.push((slot, operation));
                }
            }
            history
        })
    });
    let clients: Vec<_> = clients.collect();
    let nemesis = {
        let lab = lab.clone();
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(99);
            loop {
                let victim = THREE[random.random_range(0..3)];
                let fault = [Wire::Stalled, Wire::Cut][random.random_range(0..2)];
                lab.wire(victim, fault);
                tokio::time::sleep(Duration::from_millis(random.random_range(5..40))).await;
                lab.wire(victim, Wire::Up);
                tokio::time::sleep(Duration::from_millis(random.random_range(1..10))).await;
            }
        })
    };
    let mut by_key: Vec<Vec<Operation>> = vec![Vec::new(); 6];
    for client in clients {
        for (slot, operation) in client.await.expect("no panic") {
            by_key[slot].push(operation);
        }
    }
    nemesis.abort();
    let done: usize = by_key.iter().map(Vec::len).sum();
    assert!(done > 120, "only {done} operations succeeded");
    for history in by_key {
        assert!(is_linearizable(&history), "{history:#?}");
    }
}
