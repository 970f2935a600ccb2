//! What this node says of itself, and what it does about what others say of it.

use super::{super::*, *};

#[test]
fn bad_news_of_this_life_is_refuted_above_anything_seen() {
    use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
    for (claimed, incarnation, own_after) in [
        (Suspected, 0, 1),
        (Dead, 7, 8),
        (Left, 3, 4),
        (Stopped, 0, 1),
        (Alive, 5, 6), // somebody knows more than we do: go above it
        (Alive, 0, 0),
    ] {
        let mut core = core_of("a");
        gossip(&mut core, 0, "x", vec![state("a", 1, incarnation, claimed)]);
        assert_eq!(
            core.local.incarnation, own_after,
            "{claimed:?}@{incarnation}"
        );
        assert_eq!(core.local.status, Alive);
        let refuted = happenings(&mut core)
            .iter()
            .any(|h| matches!(h, Happening::SelfRefuted { .. }));
        assert_eq!(refuted, claimed != Alive, "{claimed:?}");
    }
    // an outdated accusation changes nothing
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("a", 1, 4, Dead)]);
    gossip(&mut core, 0, "x", vec![state("a", 1, 4, Dead)]);
    assert_eq!(core.local.incarnation, 5, "no storm of refutations");
}

#[test]
fn a_later_life_of_this_node_supersedes_it_and_an_earlier_one_does_not() {
    let mut core = core_of("a");
    Arc::make_mut(&mut core.local).generation = 10;
    gossip(
        &mut core,
        0,
        "x",
        vec![state("a", 9, 50, MemberStatus::Dead)],
    );
    core.merge(
        at(0),
        &id("x"),
        vec![state("a", 9, 50, MemberStatus::Alive).into()],
    );
    let told = happenings(&mut core);
    assert!(
        !told.iter().any(|h| matches!(
            h,
            Happening::Superseded { .. } | Happening::SelfRefuted { .. }
        )),
        "our own earlier life: {told:?}"
    );
    for _ in 0..3 {
        gossip(
            &mut core,
            1,
            "x",
            vec![state("a", 11, 0, MemberStatus::Alive)],
        );
    }
    let told = happenings(&mut core);
    let superseded = told
        .iter()
        .filter(|h| matches!(h, Happening::Superseded { .. }));
    assert_eq!(superseded.count(), 1, "said once");
}

#[test]
fn namesakes_find_out_from_each_others_packets() {
    let (mut older, mut younger) = (core_of("a"), core_of("a"));
    Arc::make_mut(&mut younger.local).generation = 2;
    let ping = packet(older.local.clone(), "a", Body::Ping { seq: 1 }, vec![]);
    younger.handle(at(0), source(), ping);
    let answer = packets(&mut younger).pop().expect("an answer").1;
    older.handle(at(0), source(), answer);
    assert!(
        happenings(&mut older)
            .iter()
            .any(|h| matches!(h, Happening::Superseded { generation: 2, .. }))
    );
    assert!(younger.superseded_by.is_none());
}

#[test]
fn local_news_raise_the_incarnation_and_load_does_not() {
    let mut core = core_of("a");
    let ring = RingStamp {
        epoch: 3,
        digest: 9,
    };
    let load = Load {
        keys: 5,
        ..Load::default()
    };
    core.set_local(Lifecycle::Serving, RingStamp::default(), load);
    assert_eq!((core.local.incarnation, core.local.load.keys), (0, 5));
    core.set_local(Lifecycle::Draining, ring, load);
    assert_eq!((core.local.incarnation, core.local.ring), (1, ring));
    // load is taken over from its owner without any news being spread
    let mut other = core_of("b");
    let ack = |core: &Core| packet(core.local.clone(), "b", Body::Ack { seq: 0 }, vec![]);
    other.handle(at(0), source(), ack(&core));
    let revision = other.revision();
    core.set_local(Lifecycle::Draining, ring, Load { keys: 6, ..load });
    other.handle(at(1), source(), ack(&core));
    assert_eq!(
        other.members.get(&id("a")).map(|m| m.state.load.keys),
        Some(6)
    );
    assert_eq!(other.revision(), revision);
}

/// `habitat-sh/habitat#5581`: a restart at incarnation 0 among nodes that remember the last life
/// sets off no storm of refutations.
#[test]
fn memories_of_an_earlier_life_are_answered_by_one_rumor() {
    let mut core = core_of("a");
    Arc::make_mut(&mut core.local).generation = 10;
    for n in 0..100 {
        let from = format!("n{n}");
        gossip(
            &mut core,
            n,
            &from,
            vec![state("a", 9, 500, MemberStatus::Dead)],
        );
    }
    assert_eq!(core.local.incarnation, 0);
    assert_eq!(
        core.rumors().iter().filter(|r| r.about == id("a")).count(),
        1
    );
    assert_eq!(core.status(0).health_score, 0, "nor is it ill for that");
}

/// Who holds this node for dead in its list is named.
#[test]
fn a_list_that_holds_this_node_dead_is_refuted_to_whom_it_belongs() {
    let mut core = core_of("a");
    let listed = vec![state("a", 1, 3, MemberStatus::Dead).into()];
    core.merge(at(1), &id("x"), listed);
    let expected = Happening::SelfRefuted {
        by: id("x"),
        claimed: MemberStatus::Dead,
        incarnation: 4,
    };
    assert_eq!(happenings(&mut core), [expected]);
}
