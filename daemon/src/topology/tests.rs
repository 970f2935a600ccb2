//! Handles and drivers of several nodes, joined by a pretended network that loses messages,
//! cuts nodes off and records what each node goes by. Time is paused: waiting costs nothing.

mod campaign;
mod pretended;

use std::time::Duration;

use ringmaster_shared::{
    event::EventCode,
    member::{Lifecycle, MemberStatus},
    topology::{ChangeKind, Step, Transition},
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

async fn until_it_knows_its_votes(identity: &IdentityStore) {
    let known = async {
        while identity.forgot_votes() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(SOON, known).await;
    assert!(in_time.is_ok(), "it goes on abstaining");
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

/// Its votes went with its folder: it must not give them again, and may where every voter is
/// needed, because then the others know what it accepted.
#[tokio::test(start_paused = true)]
async fn a_voter_that_forgot_abstains_until_the_ring_changed_without_it() {
    let prepare = |base: &Topology| RegisterRequest::Prepare {
        base: base.clone(),
        ballot: Ballot {
            round: 7,
            node: id("b"),
            life: 1,
        },
    };
    let promised = RegisterReply::Promised { accepted: None };
    let cases = [
        (
            topology(4, &["a", "b", "c"]),
            RegisterReply::Behind { epoch: 0 },
        ),
        (topology(5, &["a", "b", "c"]), promised.clone()),
        (topology(4, &["a", "b"]), promised),
    ];
    for (base, want) in cases {
        let (handle, _dir) = quiet_handle("a", &cluster());
        let identity = &handle.inner.identity;
        identity.forget_votes().expect("synced");
        identity.recall_votes(4).expect("synced");
        identity.recall_votes(2).expect("never goes back");
        handle.adopt(base.clone()).await.expect("adopts");
        assert_eq!(handle.register(prepare(&base)).await, want, "{base:?}");
    }
}

/// Whoever abstains tells nobody that it accepted nothing, also where it votes.
#[tokio::test(start_paused = true)]
async fn who_lost_its_folder_does_not_know_what_it_accepted() {
    let recall = |base: &Topology| RegisterRequest::Recall { base: base.clone() };
    let nothing = RegisterReply::Recalled { accepted: false };
    let abstains = RegisterReply::Behind { epoch: 0 };
    for names in [&["a", "b"][..], &["a", "b", "c"]] {
        let (handle, _dir) = quiet_handle("a", &cluster());
        let base = topology(4, names);
        assert_eq!(
            handle.register(recall(&base)).await,
            nothing,
            "it adopts it"
        );
        let identity = &handle.inner.identity;
        assert_eq!(handle.votes_forgotten(), None);
        identity.forget_votes().expect("synced");
        let told = handle.votes_forgotten().expect("it takes no writes");
        // where every voter is needed anyway it votes
        assert_eq!(told.contains("nor votes"), names.len() > 2, "{told}");
        assert_eq!(handle.register(recall(&base)).await, abstains);
        identity.recall_votes(4).expect("synced");
        assert_eq!(handle.votes_forgotten().is_some(), names.len() > 2);
        assert_eq!(handle.register(recall(&base)).await, abstains);
        let next = topology(5, names);
        assert_eq!(handle.register(recall(&next)).await, nothing);
        let newer = RegisterReply::Newer(next.clone());
        assert_eq!(handle.register(recall(&base)).await, newer);
        let accept = RegisterRequest::Accept {
            base_epoch: 5,
            ballot: Ballot {
                round: 1,
                node: id("b"),
                life: 1,
            },
            value: topology(6, names),
        };
        assert_eq!(handle.register(accept).await, RegisterReply::Accepted);
        let accepted = RegisterReply::Recalled { accepted: true };
        assert_eq!(handle.register(recall(&next)).await, accepted);
    }
}

/// Each asks, and has the ring decided anew without it: none is left that abstains on the last.
#[tokio::test(start_paused = true)]
async fn voters_that_lose_their_folders_one_after_the_other_vote_again() {
    let cluster = three().await;
    for (name, seed) in [("n1", "n2"), ("n2", "n3"), ("n3", "n1"), ("n1", "n3")] {
        let before = cluster.handle(seed).current().expect("one").epoch;
        cluster.crash(name);
        cluster.revive_without_folder(name, seed).await;
        for each in ["n1", "n2", "n3"] {
            cluster.until(each, SOON, |t| t.epoch > before).await;
        }
        let identity = cluster.handle(name).inner.identity.clone();
        assert_eq!(identity.abstains_through(), before);
    }
    // with one away the votes of both others are needed
    for (away, up) in [("n1", "n2"), ("n2", "n3"), ("n3", "n1")] {
        cluster.crash(away);
        let zone = format!("without-{away}");
        cluster.edit(up, |state| state.zone.clone_from(&zone));
        let rezoned = |t: &Topology| t.member(&id(up)).is_some_and(|m| m.zone == zone);
        cluster.until(up, Duration::from_secs(60), rezoned).await;
        cluster.revive(away).await;
    }
    cluster.until_settled_with(3, SOON).await;
    cluster.assert_one_content_per_epoch();
}

/// With one of three away, too few know what one that lost its folder had voted.
#[tokio::test(start_paused = true)]
async fn a_voter_that_cannot_ask_enough_abstains_until_it_can() {
    let cluster = three().await;
    cluster.crash("n3");
    cluster.crash("n1");
    cluster.revive_without_folder("n1", "n2").await;
    cluster.start("n4");
    cluster
        .until_events("n2", EventCode::RingChangeStalled, 1)
        .await;
    let identity = cluster.handle("n1").inner.identity.clone();
    assert!(identity.forgot_votes());
    cluster.revive("n3").await;
    cluster.until_settled_with(4, SOON).await;
    until_it_knows_its_votes(&identity).await;
    cluster.assert_one_content_per_epoch();
}

/// Who abstains promises nothing to itself either, and draws its ballots all the same.
#[tokio::test(start_paused = true)]
async fn a_proposer_that_abstains_uses_no_ballot_for_two_values() {
    let cluster = three().await;
    cluster.crash("n3");
    cluster.crash("n1");
    cluster.revive_without_folder("n1", "n2").await;
    let (proposing, other) = (cluster.proposing("n1"), cluster.handle("n2"));
    let base = other.current().expect("one");
    let mut ballots = Vec::new();
    for zone in ["here", "there"] {
        let mut next = (*base).clone();
        next.epoch += 1;
        next.members[0].zone = zone.into();
        proposing.decide(&base, &next).await;
        ballots.extend(other.promised().await);
    }
    assert_eq!(ballots.len(), 2);
    assert!(ballots[0] < ballots[1], "{ballots:?}");
    cluster.assert_one_content_per_epoch();
}

/// Whoever scans by the ring of the loss may miss what is on its way.
#[tokio::test(start_paused = true)]
async fn who_lost_its_data_has_the_ring_decided_anew() {
    let cluster = three().await;
    let before = cluster.handle("n2").current().expect("one").epoch;
    let identity = cluster.handle("n2").inner.identity.clone();
    identity.set_needs_refill().expect("writes");
    assert_eq!(identity.lost_through(), before);
    assert!(!identity.forgot_votes(), "only the store was lost");
    drop(identity);
    cluster.crash("n2");
    cluster.revive("n2").await;
    let identity = cluster.handle("n2").inner.identity.clone();
    for each in ["n1", "n2", "n3"] {
        cluster.until(each, SOON, |t| t.epoch == before + 1).await;
    }
    assert!(identity.set_refilled(before + 1).expect("writes"));
    let ring = cluster.handle("n2").current().expect("one");
    assert_eq!(ring.epoch, before + 1, "once");
    cluster.assert_one_content_per_epoch();
}

/// Nobody wants it any more, so nobody proposes it again; but who accepted it never says "nothing".
#[tokio::test(start_paused = true)]
async fn a_value_that_was_left_behind_keeps_no_voter_from_voting_again() {
    let cluster = three().await;
    cluster.crash("n1");
    let half = cluster.handle("n2");
    let base = (*half.current().expect("one")).clone();
    let ballot = Ballot {
        round: 1_000,
        node: id("n1"),
        life: 1,
    };
    let mut value = base.clone();
    value.epoch += 1;
    value.members[0].zone = "left-behind".into();
    let prepare = RegisterRequest::Prepare {
        base: base.clone(),
        ballot: ballot.clone(),
    };
    half.register(prepare).await;
    let accept = RegisterRequest::Accept {
        base_epoch: base.epoch,
        ballot,
        value,
    };
    assert_eq!(half.register(accept).await, RegisterReply::Accepted);
    cluster.revive_without_folder("n1", "n3").await;
    let identity = cluster.handle("n1").inner.identity.clone();
    until_it_knows_its_votes(&identity).await;
    cluster.assert_one_content_per_epoch();
}

/// Two of three, the second before the first could have the ring decided anew: an operator decides.
#[tokio::test(start_paused = true)]
async fn voters_that_are_too_few_without_those_that_forgot_wait_for_an_operator() {
    let cluster = three().await;
    for name in ["n1", "n2"] {
        cluster.crash(name);
    }
    for (name, seed) in [("n1", "n3"), ("n2", "n3")] {
        cluster.revive_without_folder(name, seed).await;
    }
    cluster.start("n4");
    cluster
        .until_events("n1", EventCode::RingChangeStalled, 1)
        .await;
    let stalls = cluster.events("n1").into_iter();
    let mut stalls = stalls.filter(|e| e.code == EventCode::RingChangeStalled);
    assert!(
        stalls.any(|e| e.message.contains("n1, n2 lost their folders")),
        "{:#?}",
        cluster.events("n1")
    );
    let (first, second) = (cluster.handle("n1"), cluster.handle("n2"));
    assert!(first.votes_forgotten().is_some() && second.votes_forgotten().is_some());
    first.vote_again().await.expect("synced");
    cluster.until_settled_with(4, SOON).await;
    for each in [&first, &second] {
        let mut rings = each.watch();
        let votes = rings.wait_for(|_| each.votes_forgotten().is_none());
        let in_time = tokio::time::timeout(SOON, votes).await;
        assert!(in_time.is_ok(), "it knows enough of the next ring");
    }
    cluster.assert_one_content_per_epoch();
}

/// A member that lost its folder, let in by a node that lagged behind its ring.
#[tokio::test(start_paused = true)]
async fn who_holds_by_a_later_ring_what_it_never_filled_lost_it() {
    let (handle, dir) = quiet_handle("d", &cluster());
    let identity = handle.inner.identity.clone();
    handle
        .adopt(topology(4, &["a", "b", "c"]))
        .await
        .expect("adopts");
    assert!(!identity.needs_refill(), "not a member of this ring");
    let ring = topology(7, &["a", "b", "c", "d"]);
    handle.adopt(ring.clone()).await.expect("adopts");
    assert!(identity.needs_refill());
    assert_eq!(
        handle.inner.events.newest(1)[0].code,
        EventCode::StorageRecovered
    );
    let prepare = RegisterRequest::Prepare {
        base: ring,
        ballot: Ballot {
            round: 7,
            node: id("b"),
            life: 1,
        },
    };
    let abstains = RegisterReply::Behind { epoch: 0 };
    assert_eq!(
        handle.register(prepare).await,
        abstains,
        "its votes are gone"
    );

    // a refill by the ring before says nothing of what this one brought
    assert!(!identity.set_refilled(4).expect("no write"));
    drop((handle, identity));
    let identity = IdentityStore::open(dir.path(), &id("d")).expect("opens");
    assert!(identity.needs_refill());
    assert!(identity.set_refilled(7).expect("writes"));
    assert!(!identity.needs_refill());
}

/// The same, let in before the change that took its earlier life in: it hears of each step, and of
/// the first when that can no longer be filled.
#[tokio::test(start_paused = true)]
async fn who_goes_through_a_change_without_filling_it_lost_what_it_gained() {
    let with = ["a", "b", "c", "d"];
    for filled in [false, true] {
        let (handle, _dir) = quiet_handle("d", &cluster());
        let identity = handle.inner.identity.clone();
        let before = topology(4, &with[..3]);
        handle.adopt(before.clone()).await.expect("adopts");
        let done = topology(7, &with);
        let filling = Topology {
            epoch: 5,
            members: done.members.clone(),
            transition: Some(Transition {
                kind: ChangeKind::Join,
                step: Step::Filling,
                joining: vec![id("d")],
                leaving: vec![],
                target: done.table.clone(),
            }),
            ..before
        };
        handle.adopt(filling.clone()).await.expect("adopts");
        if filled {
            identity.set_filled_epoch(5).expect("writes");
        }
        let mut dual = filling;
        dual.epoch = 6;
        dual.transition.as_mut().expect("one").step = Step::Dual;
        handle.adopt(dual).await.expect("adopts");
        assert_eq!(identity.needs_refill(), !filled, "it is read");
        handle.adopt(done).await.expect("adopts");
        assert_eq!(identity.needs_refill(), !filled);
        assert_eq!(identity.forgot_votes(), !filled);
    }
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_judges_only_its_own_base_and_remembers() {
    let (handle, dir) = quiet_handle("a", &cluster());
    let base = topology(4, &["a", "b", "c"]);
    let ballot = |round| Ballot {
        round,
        node: id("b"),
        life: 1,
    };
    let prepare = |base: &Topology, round| RegisterRequest::Prepare {
        base: base.clone(),
        ballot: ballot(round),
    };
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
        let cluster = Cluster::founded("n1");
        cluster.start("n2");
        cluster.start("n3");
        cluster.until_settled_with(3, SOON).await;
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
