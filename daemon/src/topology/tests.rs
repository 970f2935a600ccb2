//! Handles and drivers of several nodes, joined by a pretended network that loses messages,
//! cuts nodes off and records what each node goes by. Time is paused: waiting costs nothing.

mod burial;
mod campaign;
mod forgetting;
mod pretended;

use std::time::Duration;

use ringmaster_shared::{
    event::EventCode,
    member::{Lifecycle, MemberStatus},
    topology::Step,
};

use super::{
    fixture::{cluster, id, other_cluster, topology},
    *,
};
use pretended::{Cluster, quiet_handle};

const SOON: Duration = Duration::from_secs(20);

/// Three members that agree.
async fn three() -> Cluster {
    let cluster = Cluster::founded("n1");
    cluster.start("n2");
    cluster.start("n3");
    cluster.until_settled_with(3, SOON).await;
    cluster
}

/// A ballot of another node.
fn ballot(round: u64) -> Ballot {
    Ballot {
        round,
        node: id("b"),
        life: 1,
    }
}

fn prepare(base: &Topology, round: u64) -> RegisterRequest {
    RegisterRequest::Prepare {
        base: base.clone(),
        ballot: ballot(round),
    }
}

#[tokio::test(start_paused = true)]
async fn a_topology_is_adopted_once_and_only_forward() {
    let (handle, _dir) = quiet_handle("a", &cluster());
    assert!(handle.current().is_none());
    assert!(handle.adopt(topology(3, &["a", "b"])).await.expect("first"));
    assert!(!handle.adopt(topology(3, &["a", "b"])).await.expect("same"));
    assert!(!handle.adopt(topology(2, &["a"])).await.expect("older"));
    assert_eq!(handle.settled_epoch(), 3);
    assert_eq!(
        handle.inner.identity.topology(),
        Some(topology(3, &["a", "b"]))
    );

    assert!(
        !handle
            .adopt(topology(3, &["a", "c"]))
            .await
            .expect("ours is kept")
    );
    assert_eq!(handle.inner.events.newest(1)[0].code, EventCode::RingFork);
    let mut foreign = topology(9, &["a"]);
    foreign.cluster_id = other_cluster();
    assert!(handle.adopt(foreign).await.is_err());
    let mut malformed = topology(9, &["a"]);
    malformed.table[0].clear();
    assert!(handle.adopt(malformed).await.is_err());
    assert_eq!(*handle.current().expect("one"), topology(3, &["a", "b"]));
}

#[tokio::test(start_paused = true)]
async fn adopting_waits_for_requests_of_earlier_epochs() {
    let (handle, _dir) = quiet_handle("a", &cluster());
    handle.adopt(topology(1, &["a"])).await.expect("adopts");
    let guard = handle.guard(1).expect("current");
    let adopting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.adopt(topology(2, &["a"])).await }
    });
    handle
        .watch()
        .wait_for(|t| t.as_ref().is_some_and(|t| t.epoch == 2))
        .await
        .expect("swaps");
    assert!(matches!(
        handle.guard(1),
        Err(EpochMismatch::CallerBehind(_))
    ));
    assert_eq!((handle.settled_epoch(), adopting.is_finished()), (1, false));
    assert_eq!(
        handle.progress(2),
        (1, true),
        "a member that gains nothing counts as filled"
    );
    drop(guard);
    assert!(adopting.await.expect("no panic").expect("adopts"));
    assert_eq!(handle.settled_epoch(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_judges_only_its_own_base_and_remembers() {
    let (handle, dir) = quiet_handle("a", &cluster());
    let base = topology(4, &["a", "b", "c"]);
    let mut value = base.clone();
    value.epoch = 5;
    let accept = |round, value: &Topology| RegisterRequest::Accept {
        base_epoch: 4,
        ballot: ballot(round),
        value: value.clone(),
    };
    assert_eq!(
        handle.register(accept(1, &value)).await,
        RegisterReply::Behind { epoch: 0 }
    );
    let fresh = RegisterReply::Promised { accepted: None };
    assert_eq!(
        handle.register(prepare(&base, 2)).await,
        fresh,
        "the base is adopted on the way"
    );
    assert_eq!(handle.current().expect("one").epoch, 4);
    let mut other = base.clone();
    other.members[0].address = "x:1".into();
    assert_eq!(
        handle.register(prepare(&other, 3)).await,
        RegisterReply::Behind { epoch: 4 },
        "another content of the same epoch"
    );
    let mut wrong = value.clone();
    wrong.epoch = 6;
    assert_eq!(
        handle.register(accept(2, &wrong)).await,
        RegisterReply::Behind { epoch: 4 }
    );
    assert_eq!(
        handle.register(accept(2, &value)).await,
        RegisterReply::Accepted
    );

    // what was said survives the process
    let (identity, events) = (handle.inner.identity.clone(), handle.inner.events.clone());
    drop(handle);
    let generation = identity.generation();
    drop(identity);
    let identity = IdentityStore::open(dir.path(), &id("a")).expect("opens");
    assert!(identity.generation() > generation);
    let handle = TopologyHandle::new(identity, events).expect("starts");
    let rejected = RegisterReply::Rejected {
        promised: ballot(2),
    };
    assert_eq!(handle.register(prepare(&base, 1)).await, rejected);
    let accepted = Some((ballot(2), value.clone()));
    assert_eq!(
        handle.register(prepare(&base, 7)).await,
        RegisterReply::Promised { accepted }
    );

    assert!(
        handle
            .adopt(value.clone())
            .await
            .expect("decided elsewhere")
    );
    assert_eq!(
        handle.promised().await,
        None,
        "promises end with their epoch"
    );
    assert_eq!(
        handle.register(prepare(&base, 9)).await,
        RegisterReply::Newer(value)
    );
}

#[tokio::test(start_paused = true)]
async fn one_grows_to_four() {
    let cluster = Cluster::founded("n1");
    for (joiner, members) in [("n2", 2), ("n3", 3), ("n4", 4)] {
        let began = tokio::time::Instant::now();
        cluster.start(joiner);
        cluster.until_settled_with(members, SOON).await;
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{joiner}: {:?}",
            began.elapsed()
        );
    }
    let done = cluster.handle("n4").current().expect("one");
    assert_eq!((done.epoch, done.voters().len()), (10, 4));
    cluster.until_events("n1", EventCode::RingChanged, 3).await;
    cluster.until_events("n2", EventCode::RingChanged, 3).await;
    let codes: Vec<EventCode> = cluster.events("n1").iter().map(|e| e.code).collect();
    let each = [EventCode::RingChangeStarted, EventCode::RingChanged];
    assert_eq!(codes, each.repeat(3));
    let last = cluster.events("n2").pop().expect("an event");
    assert!(
        last.message
            .contains("epoch 10: n4 joined, 12 partitions moved in"),
        "{}",
        last.message
    );
    cluster.assert_one_content_per_epoch();
}

#[tokio::test(start_paused = true)]
async fn several_that_come_together_join_together() {
    let cluster = three().await;
    assert_eq!(cluster.handle("n1").current().expect("one").epoch, 4);
    cluster.assert_one_content_per_epoch();
}

#[tokio::test(start_paused = true)]
async fn the_next_carries_on_when_the_proposer_crashes() {
    let cluster = three().await;
    // the joiner is slow to fill, so that the crash comes in the midst of it
    cluster.hold_filling("n4");
    cluster.start("n4");
    cluster.until("n2", SOON, |t| t.transition.is_some()).await;
    let behind = cluster.handle("n1").current().expect("one").epoch;
    cluster.crash("n1");
    cluster.release_filling("n4");
    cluster.until_settled_with(4, SOON).await;
    assert!(
        cluster
            .handle("n2")
            .current()
            .expect("one")
            .contains(&id("n1")),
        "a crash moves no data"
    );
    // who was away catches up when it is back
    cluster.revive("n1").await;
    let now = cluster.handle("n2").current().expect("one").epoch;
    assert!(behind < now);
    cluster.until("n1", SOON, |t| t.epoch >= now).await;
    cluster.assert_one_content_per_epoch();
}

#[tokio::test(start_paused = true)]
async fn a_joiner_that_dies_is_given_up_and_may_come_back() {
    let cluster = Cluster::founded("n1");
    cluster.start("n2");
    cluster.until_settled_with(2, SOON).await;
    let before = cluster.handle("n1").current().expect("one");
    cluster.hold_filling("n3");
    cluster.start("n3");
    cluster.until("n1", SOON, |t| t.transition.is_some()).await;
    cluster.crash("n3");
    let began = tokio::time::Instant::now();
    cluster
        .until("n1", Duration::from_secs(60), |t| t.transition.is_none())
        .await;
    assert!(began.elapsed() > handover::GAINER_DOWN_MAX);
    let after = cluster.handle("n1").current().expect("one");
    assert_eq!(
        (&after.members, &after.table),
        (&before.members, &before.table)
    );
    cluster.until("n2", SOON, |t| t.epoch == after.epoch).await;
    cluster
        .until_events("n1", EventCode::RingChangeAborted, 1)
        .await;
    let codes: Vec<EventCode> = cluster.events("n1").iter().map(|e| e.code).collect();
    assert!(codes.contains(&EventCode::RingChangeStalled), "{codes:?}");
    assert_eq!(codes.last(), Some(&EventCode::RingChangeAborted));

    cluster.release_filling("n3");
    cluster.revive("n3").await;
    cluster.until_settled_with(3, SOON).await;
    cluster.assert_one_content_per_epoch();
}

#[tokio::test(start_paused = true)]
async fn a_minority_changes_nothing() {
    let cluster = three().await;
    let before = cluster.handle("n1").current().expect("one");
    cluster.crash("n2");
    cluster.crash("n3");
    cluster.start("n4");
    cluster
        .until_events("n1", EventCode::RingChangeStalled, 1)
        .await;
    assert_eq!(cluster.handle("n1").current().expect("one"), before);
    cluster.revive("n3").await;
    cluster.until_settled_with(4, SOON).await;
    cluster.assert_one_content_per_epoch();
}

/// Each node believes that it alone is to propose, and the network loses messages.
#[tokio::test(start_paused = true)]
async fn drivers_that_duel_agree() {
    for seed in 0..6 {
        let cluster = three().await;
        cluster.lose_messages(seed, 0.25);
        cluster.blind_to_each_other(&["n1", "n2", "n3"]);
        cluster.start("n4");
        cluster.start("n5");
        cluster
            .until("n3", Duration::from_secs(600), |t| {
                t.transition.is_none() && t.members.len() == 5
            })
            .await;
        assert!(cluster.lost() > 0, "the loss really happened");
        cluster.assert_one_content_per_epoch();
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_to_another_address_is_decided() {
    let cluster = Cluster::founded("n1");
    cluster.start("n2");
    cluster.until_settled_with(2, SOON).await;
    cluster.edit("n2", |state| state.address = "n2:9999".into());
    cluster
        .until("n1", SOON, |t| t.members[1].address == "n2:9999")
        .await;
    cluster.edit("n2", |state| state.lifecycle = Lifecycle::Draining);
    cluster.edit("n1", |state| state.status = MemberStatus::Alive);
    cluster
        .until("n2", SOON, |t| t.members[1].address == "n2:9999")
        .await;
    assert!(
        cluster
            .handle("n2")
            .current()
            .is_some_and(|t| t.transition.is_none())
    );
    cluster.assert_one_content_per_epoch();
}

#[tokio::test(start_paused = true)]
async fn no_step_is_taken_over_a_request_of_an_earlier_epoch() {
    let cluster = Cluster::founded("n1");
    let guard = cluster.handle("n1").guard(1).expect("current");
    cluster.start("n2");
    cluster
        .until_events("n1", EventCode::RingChangeStalled, 1)
        .await;
    let now = cluster.handle("n1").current().expect("one");
    assert_eq!(now.transition.as_ref().map(|t| t.step), Some(Step::Filling));
    drop(guard);
    cluster.until_settled_with(2, SOON).await;
    cluster.assert_one_content_per_epoch();
}
