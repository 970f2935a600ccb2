//! What claims do to the list; several are failures that others met, named with their source.

use ringmaster_shared::api::membership::Rumor;

use super::{super::*, *};
use crate::gossip::members::Member;

/// `al8n/memberlist#197`: a fresher death of a member already held dead must be remembered, or
/// an older "alive" brings it back.
#[test]
fn a_fresher_death_of_the_dead_is_remembered() {
    use MemberStatus::{Alive, Dead};
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("b", 1, 1, Dead)]);
    gossip(&mut core, 1, "x", vec![state("b", 1, 10, Dead)]);
    gossip(&mut core, 2, "x", vec![state("b", 1, 2, Alive)]);
    assert_eq!(status_of(&core, "b"), Some(Dead));
    core.merge(
        at(3),
        &id("x"),
        vec![
            state("b", 1, 12, Dead).into(),
            state("b", 1, 11, Alive).into(),
        ],
    );
    assert_eq!(status_of(&core, "b"), Some(Dead), "by exchange as well");
    assert_eq!(freshness_of(&core, "b"), (1, 12));
}

/// `hashicorp/memberlist#311`: a restart begins at incarnation 0 against a remembered death at a
/// high one; the generation decides.
#[test]
fn a_restarted_member_beats_its_own_death() {
    use MemberStatus::{Alive, Dead};
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("b", 5, 100, Dead)]);
    core.take_outputs();
    gossip(&mut core, 9, "x", vec![state("b", 6, 0, Alive)]);
    assert_eq!(status_of(&core, "b"), Some(Alive));
    let told = happenings(&mut core);
    assert!(
        matches!(&told[0], Happening::Restarted { was: Dead, .. }),
        "{told:?}"
    );
    assert!(
        matches!(
            &told[1],
            Happening::Returned {
                was: Dead,
                after_ms: 9,
                ..
            }
        ),
        "{told:?}"
    );
    // dead generations do not flicker (quickwit-oss/chitchat#94): the old life is over for good
    gossip(
        &mut core,
        10,
        "x",
        vec![state("b", 5, 900, Alive), state("b", 5, 901, Dead)],
    );
    assert_eq!(
        (status_of(&core, "b"), freshness_of(&core, "b")),
        (Some(Alive), (6, 0))
    );
    assert_eq!(happenings(&mut core), vec![]);
}

/// `apple/swift-cluster-membership#67`, `camunda#61611`: a restart faster than its detection.
#[test]
fn a_restart_nobody_noticed_is_reported() {
    let mut core = core_of("a");
    let mut b = member("b");
    core.handle(
        at(0),
        source(),
        packet(b.clone(), "a", Body::Gossip, vec![]),
    );
    assert_eq!(
        core.members.get(&id("b")).map(Member::heartbeat_seq),
        Some(1)
    );
    core.take_outputs();
    b.generation = 2;
    b.address = "b:2".into();
    core.handle(at(5), source(), packet(b, "a", Body::Gossip, vec![]));
    let told = happenings(&mut core);
    assert!(
        matches!(&told[0], Happening::AddressChanged { from, to, .. } if from == "b:1" && to == "b:2")
    );
    assert!(matches!(
        told[1],
        Happening::Restarted {
            was: MemberStatus::Alive,
            ..
        }
    ));
    assert_eq!(told.len(), 2);
    assert_eq!(
        core.members.get(&id("b")).map(Member::heartbeat_seq),
        Some(1),
        "counted anew"
    );
}

#[test]
fn who_is_held_dead_is_told_and_comes_back_by_its_own_word() {
    let (mut a, mut b) = (core_of("a"), core_of("b"));
    gossip(&mut a, 0, "x", vec![state("b", 1, 0, MemberStatus::Dead)]);
    a.take_outputs();
    let hello = |b: &Core| packet(b.local.clone(), "a", Body::Gossip, vec![]);
    a.handle(at(10), source(), hello(&b));
    assert_eq!(
        status_of(&a, "b"),
        Some(MemberStatus::Dead),
        "its old word is not enough"
    );
    let sent = packets(&mut a);
    assert_eq!(sent.len(), 1);
    a.handle(at(11), source(), hello(&b));
    assert_eq!(packets(&mut a), vec![], "told at most now and then");
    b.handle(at(12), source(), sent[0].1.clone());
    assert_eq!(b.local.incarnation, 1);
    a.handle(at(13), source(), hello(&b));
    assert_eq!(status_of(&a, "b"), Some(MemberStatus::Alive));
}

#[test]
fn tombstones_of_strangers_do_not_go_round_and_old_ones_are_forgotten() {
    use MemberStatus::{Alive, Left};
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("b", 1, 0, Left)]);
    assert_eq!(status_of(&core, "b"), None);
    gossip(
        &mut core,
        0,
        "x",
        vec![state("c", 1, 0, Alive), state("c", 1, 1, Left)],
    );
    gossip(&mut core, 1, "x", vec![state("c", 1, 0, Alive)]);
    assert_eq!(
        status_of(&core, "c"),
        Some(Left),
        "an old claim does not bring it back"
    );
    assert!(
        core.views(at(1)).iter().all(|v| v.state.id != id("c")),
        "not listed"
    );
    core.reap(at(LEFT_KEPT_MS + 10));
    assert_eq!(status_of(&core, "c"), None);
}

/// A stop that reaches a node which already holds the member dead still wins; later accusations
/// do not undo it.
#[test]
fn stopped_beats_dead_at_the_same_freshness() {
    use MemberStatus::{Dead, Stopped, Suspected};
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("b", 1, 2, Dead)]);
    gossip(&mut core, 0, "x", vec![state("b", 1, 2, Stopped)]);
    gossip(
        &mut core,
        0,
        "x",
        vec![state("b", 1, 2, Dead), state("b", 1, 2, Suspected)],
    );
    assert_eq!(status_of(&core, "b"), Some(Stopped));
}

/// `al8n/memberlist#197`, the whole of it: whatever is held, later evidence of whatever kind is
/// remembered, and nothing older than it brings the member back.
#[test]
fn the_latest_incarnation_is_remembered_on_any_evidence() {
    use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
    let all = [Alive, Suspected, Dead, Stopped, Left];
    for held in all {
        for evidence in all {
            for exchanged in [false, true] {
                let mut core = core_of("a");
                gossip(&mut core, 0, "x", vec![state("b", 1, 1, Alive)]);
                gossip(&mut core, 1, "x", vec![state("b", 1, 1, held)]);
                let later = state("b", 1, 10, evidence);
                if exchanged {
                    core.merge(at(2), &id("x"), vec![later.into()]);
                } else {
                    gossip(&mut core, 2, "x", vec![later]);
                }
                let case = format!("{held:?}, then {evidence:?}, exchanged: {exchanged}");
                assert_eq!(freshness_of(&core, "b"), (1, 10), "{case}");
                let now = status_of(&core, "b");
                let softened = exchanged && evidence == Dead && held != Dead;
                assert_eq!(
                    now,
                    Some(if softened { Suspected } else { evidence }),
                    "{case}"
                );
                for old in all {
                    gossip(&mut core, 3, "x", vec![state("b", 1, 9, old)]);
                    core.merge(at(3), &id("y"), vec![state("b", 1, 9, old).into()]);
                }
                assert_eq!(
                    (status_of(&core, "b"), freshness_of(&core, "b")),
                    (now, (1, 10))
                );
            }
        }
    }
}

/// `hashicorp/memberlist#157`, `consul#4879`, `#6897`: whatever became of its last life, the same
/// name comes back at another address at once. So does a cluster that stopped or left as a whole
/// (`consul#526`, `#454`).
#[test]
fn a_name_comes_back_at_a_new_address_whatever_it_was() {
    use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
    for held in [Alive, Suspected, Dead, Stopped, Left] {
        let mut core = core_of("a");
        gossip(&mut core, 0, "b", vec![]);
        gossip(&mut core, 1, "x", vec![state("b", 1, 7, held)]);
        let mut back = state("b", 2, 0, Alive);
        back.address = "elsewhere:1".into();
        core.handle(
            at(2),
            source(),
            packet(back, "a", Body::Ping { seq: 1 }, vec![]),
        );
        let member = core.members.get(&id("b")).expect("known");
        assert_eq!(
            (member.state.status, member.state.address.as_str()),
            (Alive, "elsewhere:1"),
            "was {held:?}"
        );
        let listed = core.views(at(3));
        assert!(listed.iter().any(|v| v.state.id == id("b")), "{held:?}");
    }
}

/// `akka/akka-core#18067`: a member that nobody reaches holds nobody else up.
#[test]
fn newcomers_are_taken_in_while_others_are_gone() {
    use MemberStatus::{Alive, Dead, Suspected};
    let mut core = core_of("a");
    gossip(
        &mut core,
        0,
        "x",
        vec![state("dead", 1, 0, Dead), state("doubted", 1, 0, Suspected)],
    );
    gossip(&mut core, 1, "new", vec![state("also-new", 1, 0, Alive)]);
    for name in ["new", "also-new"] {
        assert_eq!(status_of(&core, name), Some(Alive), "{name}");
    }
}

/// `hashicorp/consul#5567`, `serf#606`: two nodes that keep telling each other old leaves.
#[test]
fn what_is_known_is_not_spread_again() {
    use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
    let mut core = core_of("a");
    let news = || {
        vec![
            state("left", 1, 0, Alive),
            state("left", 1, 1, Left),
            state("stopped", 1, 2, Stopped),
            state("dead", 1, 1, Dead),
            state("dead", 1, 1, Suspected),
            state("alive", 2, 0, Alive),
            state("alive", 1, 9, Dead),
        ]
    };
    gossip(&mut core, 0, "x", news());
    run_until(&mut core, 10_000);
    let old = |core: &Core| {
        let rumors = core.rumors().into_iter();
        let old: Vec<Rumor> = rumors
            .filter(|r| !["x", "y"].contains(&r.about.as_str()))
            .collect();
        old
    };
    let before = old(&core);
    let revision = core.revision();
    for round in 0..50 {
        gossip(&mut core, 10_000 + round, "x", news());
        let listed = news().into_iter().map(Arc::new).collect();
        core.merge(at(10_000 + round), &id("y"), listed);
    }
    assert_eq!(old(&core), before, "nothing begins anew");
    assert_eq!(core.revision(), revision);
}

/// `hashicorp/consul#9927`: a flood of news about the same members does not make the queue grow.
#[test]
fn rumors_are_never_more_than_members() {
    let mut core = core_of("a");
    for incarnation in 0..500 {
        let news = (0..20).map(|n| state(&format!("n{n}"), 1, incarnation, MemberStatus::Alive));
        gossip(&mut core, 0, "x", news.collect());
        assert!(core.rumors().len() <= core.others() + 1);
    }
}

/// Names that come and go for years do not lock the living out, and the dead that others list do
/// not push each other out.
#[test]
fn a_full_list_takes_the_living_for_the_longest_gone() {
    use MemberStatus::{Alive, Dead, Left, Suspected};
    let mut core = core_of("a");
    for n in 0..MEMBERS_MAX as u64 {
        let status = if n == 5 { Left } else { Dead };
        let name = format!("n{n}");
        let alive = Arc::new(state(&name, 1, 0, Alive));
        core.apply(
            at(n),
            Claim {
                state: alive,
                from: id(&name),
            },
            claim::Via::Packet,
        );
        let ended = Arc::new(state(&name, 1, 0, status));
        let from = id("x");
        core.apply(at(10 + n), Claim { state: ended, from }, claim::Via::Packet);
    }
    assert_eq!(core.others(), MEMBERS_MAX);
    for status in [Dead, Suspected, Left] {
        let known = core.others();
        core.merge(
            at(90_000),
            &id("a"),
            vec![state("more", 1, 0, status).into()],
        );
        assert_eq!((status_of(&core, "more"), core.others()), (None, known));
    }
    let came = Arc::new(state("more", 1, 0, Alive));
    let from = id("more");
    core.apply(at(90_000), Claim { state: came, from }, claim::Via::Packet);
    assert_eq!(status_of(&core, "more"), Some(Alive));
    assert_eq!((status_of(&core, "n0"), core.others()), (None, MEMBERS_MAX));
}

/// A wall clock set back by years: what is held was judged when it came in, and is held still.
#[test]
fn a_clock_set_back_keeps_no_finding_of_this_nodes_own_from_being_taken_in() {
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![]);
    for name in ["b", "c"] {
        let listed = state(name, YEAR_2026, 0, MemberStatus::Alive);
        core.merge(at(0), &id("x"), vec![listed.into()]);
    }
    let accused = state("b", YEAR_2026, 0, MemberStatus::Suspected);
    gossip(&mut core, 10, "x", vec![accused]);
    let before_epoch = |ms| Now { ms, unix_ms: 0 };
    core.suspect(before_epoch(20), &id("c"));
    while core.next_wake() < 60_000 {
        core.tick(before_epoch(core.next_wake()));
    }
    for name in ["b", "c"] {
        assert_eq!(status_of(&core, name), Some(MemberStatus::Dead), "{name}");
    }
}
