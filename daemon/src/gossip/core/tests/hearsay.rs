//! What claims do to the list; several are failures that others met, named with their source.

use super::{super::*, *};

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
        core.members.get(&id("b")).map(|m| m.heartbeat_seq()),
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
        core.members.get(&id("b")).map(|m| m.heartbeat_seq()),
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
