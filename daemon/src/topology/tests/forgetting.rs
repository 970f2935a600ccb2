//! Voters and replicas that lost their folder, or only the data in it: they abstain until it is
//! known by which rings the life before went, and have the ring decided anew.

use ringmaster_shared::{
    api::ring::Change,
    topology::{ChangeKind, Transition},
};

use super::*;

/// Of three members n3 is away, and n1 is back without its folder: n2 alone has all it ever had.
async fn two_of_three_one_without_folder() -> Cluster {
    let cluster = three().await;
    cluster.crash("n3");
    cluster.crash("n1");
    cluster.revive_without_folder("n1", "n2").await;
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

/// Its votes went with its folder: it must not give them again, and may where every voter is
/// needed, because then the others know what it accepted.
#[tokio::test(start_paused = true)]
async fn a_voter_that_forgot_abstains_until_the_ring_changed_without_it() {
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
        assert_eq!(handle.register(prepare(&base, 7)).await, want, "{base:?}");
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
            ballot: ballot(1),
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
    let cluster = two_of_three_one_without_folder().await;
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
    let cluster = two_of_three_one_without_folder().await;
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

/// Its proposer got no further.
async fn accepts_alone(voter: &TopologyHandle, value: Topology) {
    let base = (*voter.current().expect("one")).clone();
    let ballot = Ballot {
        round: 1_000,
        node: id("n1"),
        life: 1,
    };
    let prepare = RegisterRequest::Prepare {
        base: base.clone(),
        ballot: ballot.clone(),
    };
    voter.register(prepare).await;
    let accept = RegisterRequest::Accept {
        base_epoch: base.epoch,
        ballot,
        value,
    };
    assert_eq!(voter.register(accept).await, RegisterReply::Accepted);
}

/// Nobody wants it any more, so nobody proposes it again; but who accepted it never says "nothing".
#[tokio::test(start_paused = true)]
async fn a_value_that_was_left_behind_keeps_no_voter_from_voting_again() {
    let cluster = three().await;
    cluster.crash("n1");
    let half = cluster.handle("n2");
    let mut value = (*half.current().expect("one")).clone();
    value.epoch += 1;
    value.members[0].zone = "left-behind".into();
    accepts_alone(&half, value).await;
    cluster.revive_without_folder("n1", "n3").await;
    let identity = cluster.handle("n1").inner.identity.clone();
    until_it_knows_its_votes(&identity).await;
    cluster.assert_one_content_per_epoch();
}

/// Five members, of whom n5 is dead and being removed; n1, which takes over some of what that held, is
/// not filled yet.
async fn five_and_the_dead_one_is_being_removed() -> Cluster {
    let cluster = three().await;
    for (name, count) in [("n4", 4), ("n5", 5)] {
        cluster.start(name);
        cluster.until_settled_with(count, SOON).await;
    }
    cluster.crash("n5");
    cluster.hold_filling("n1");
    let remove = Change::Remove { node: id("n5") };
    assert!(cluster.order(&id("n2"), &remove).await);
    for each in ["n1", "n2", "n3", "n4"] {
        cluster.until(each, SOON, |t| t.transition.is_some()).await;
    }
    let ring = cluster.handle("n2").current().expect("one");
    assert!(!ring.gained_by(&id("n1")).is_empty(), "it is waited for");
    let filled = |name: &&str| cluster.handle(name).progress(ring.epoch).1;
    let others = async {
        while !["n2", "n3", "n4"].iter().all(filled) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(SOON, others).await;
    assert!(in_time.is_ok(), "the others are filled");
    cluster
}

/// The change waits for its data, and its data for a ring by which nothing more is on its way.
#[tokio::test(start_paused = true)]
async fn who_loses_its_data_in_the_first_step_has_that_decided_anew() {
    for folder_too in [false, true] {
        let cluster = five_and_the_dead_one_is_being_removed().await;
        let during = cluster.handle("n2").current().expect("one");
        if folder_too {
            cluster.crash("n1");
            cluster.revive_without_folder("n1", "n2").await;
        } else {
            let identity = cluster.handle("n1").inner.identity.clone();
            identity.set_needs_refill().expect("writes");
            drop(identity);
            cluster.crash("n1");
            cluster.revive("n1").await;
        }
        let anew = Topology {
            epoch: during.epoch + 1,
            ..(*during).clone()
        };
        for each in ["n1", "n2", "n3", "n4"] {
            cluster.until(each, SOON, |t| t.epoch > during.epoch).await;
        }
        let identity = cluster.handle("n1").inner.identity.clone();
        until_it_knows_its_votes(&identity).await;
        assert!(cluster.went_by(&anew));
        assert!(
            anew.epoch > identity.lost_through(),
            "it votes, and is filled"
        );
        cluster.release_filling("n1");
        cluster.until_settled_with(4, SOON).await;
        cluster.assert_one_content_per_epoch();
    }
}

/// Whatever that is, it comes of it: it may have been decided.
#[tokio::test(start_paused = true)]
async fn a_next_step_that_one_alone_accepted_keeps_no_change_from_its_end() {
    type Next = fn(&Topology, &Transition) -> Topology;
    let nexts = [(steps::reading_both as Next, 4), (steps::reverted, 5)];
    for (next, members) in nexts {
        let cluster = five_and_the_dead_one_is_being_removed().await;
        let half = cluster.handle("n2");
        let ring = half.current().expect("one");
        cluster.crash("n1");
        let change = ring.transition.as_ref().expect("under way");
        let accepted = next(&ring, change);
        accepts_alone(&half, accepted.clone()).await;
        cluster.revive_without_folder("n1", "n3").await;
        let identity = cluster.handle("n1").inner.identity.clone();
        until_it_knows_its_votes(&identity).await;
        cluster.release_filling("n1");
        cluster.until_settled_with(members, SOON).await;
        assert!(cluster.went_by(&accepted));
        cluster.assert_one_content_per_epoch();
    }
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
    let abstains = RegisterReply::Behind { epoch: 0 };
    assert_eq!(
        handle.register(prepare(&ring, 7)).await,
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

/// The ring of three, both steps of the change that takes `d` in, and the ring of four: epochs 4 to 7.
fn d_joins() -> [Topology; 4] {
    let with = ["a", "b", "c", "d"];
    let (before, done) = (topology(4, &with[..3]), topology(7, &with));
    let step = |epoch, step| Topology {
        epoch,
        members: done.members.clone(),
        transition: Some(Transition {
            kind: ChangeKind::Join,
            step,
            joining: vec![id("d")],
            leaving: vec![],
            target: done.table.clone(),
        }),
        ..before.clone()
    };
    let (filling, dual) = (step(5, Step::Filling), step(6, Step::Dual));
    [before, filling, dual, done]
}

/// The same, let in before the change that took its earlier life in: it hears of each step, and of
/// the first when that can no longer be filled.
#[tokio::test(start_paused = true)]
async fn who_goes_through_a_change_without_filling_it_lost_what_it_gained() {
    for filled in [false, true] {
        let (handle, _dir) = quiet_handle("d", &cluster());
        let identity = handle.inner.identity.clone();
        let [before, filling, dual, done] = d_joins();
        handle.adopt(before).await.expect("adopts");
        handle.adopt(filling).await.expect("adopts");
        if filled {
            identity.set_filled_epoch(5).expect("writes");
        }
        handle.adopt(dual).await.expect("adopts");
        assert_eq!(identity.needs_refill(), !filled, "it is read");
        handle.adopt(done).await.expect("adopts");
        assert_eq!(identity.needs_refill(), !filled);
        assert_eq!(identity.forgot_votes(), !filled);
    }
}

/// The one who missed it cannot know that nothing came between: it starts from nothing.
#[tokio::test(start_paused = true)]
async fn what_was_filled_stays_filled_when_the_step_is_decided_anew() {
    for (missed, filled) in [(0, true), (1, false)] {
        let (handle, _dir) = quiet_handle("d", &cluster());
        let identity = handle.inner.identity.clone();
        let [before, filling, dual, _] = d_joins();
        handle.adopt(before).await.expect("adopts");
        handle.adopt(filling.clone()).await.expect("adopts");
        assert!(!handle.progress(5).1);
        identity.set_filled_epoch(5).expect("writes");
        assert!(handle.progress(5).1);
        let later = |ring: Topology| Topology {
            epoch: ring.epoch + 1 + missed,
            ..ring
        };
        handle.adopt(later(filling)).await.expect("adopts");
        assert_eq!(handle.progress(6 + missed).1, filled, "{missed} missed");
        if filled {
            handle.adopt(later(dual)).await.expect("adopts");
            assert!(!identity.needs_refill() && handle.progress(7).1);
            // it has all that it gained, but not what it loses
            identity.set_needs_refill().expect("writes");
            assert!(!handle.progress(7).1);
        }
    }
}

/// Its folder, and with it its votes, is there: only what it had stored is gone.
#[tokio::test(start_paused = true)]
async fn who_lost_its_store_in_a_change_keeps_its_votes() {
    let (handle, _dir) = quiet_handle("d", &cluster());
    let identity = handle.inner.identity.clone();
    let [before, filling, dual, done] = d_joins();
    handle.adopt(before).await.expect("adopts");
    handle.adopt(filling).await.expect("adopts");
    identity.set_filled_epoch(5).expect("writes");
    // it has said so, and then its store is found damaged
    identity.set_needs_refill().expect("writes");
    handle.adopt(dual).await.expect("adopts");
    handle.adopt(done).await.expect("adopts");
    assert!(identity.needs_refill() && !identity.forgot_votes());
    assert_eq!(identity.lost_through(), 5);
    assert!(identity.set_refilled(7).expect("writes"));
}

/// Of more members than vote: its own vote is none, and keeps nobody from deciding.
#[tokio::test(start_paused = true)]
async fn who_never_voted_has_the_ring_decided_anew_as_well() {
    let names: Vec<String> = (1..=8).map(|n| format!("n{n}")).collect();
    let cluster = Cluster::founded("n1");
    for (index, name) in names.iter().enumerate().skip(1) {
        cluster.start(name);
        cluster.until_settled_with(index + 1, SOON).await;
    }
    let ring = cluster.handle("n1").current().expect("one");
    let voters = ring.voters();
    let silent = names.iter().find(|name| !voters.contains(&id(name)));
    let silent = silent.expect("more members than voters");
    cluster.crash(silent);
    cluster
        .revive_without_folder(silent, voters[0].as_str())
        .await;
    let identity = cluster.handle(silent).inner.identity.clone();
    identity.set_needs_refill().expect("writes");
    for each in &names {
        cluster.until(each, SOON, |t| t.epoch > ring.epoch).await;
    }
    assert!(identity.lost_through() < cluster.handle(silent).current().expect("one").epoch);
    cluster.assert_one_content_per_epoch();
}
