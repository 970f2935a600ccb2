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

/// Nobody can be raised above the highest incarnation there is, so a later life answers it: that
/// of the same process, which goes on.
#[test]
fn an_accusation_that_leaves_no_incarnation_above_it_is_refuted() {
    use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
    for claimed in [Alive, Suspected, Dead, Stopped, Left] {
        for incarnation in [claim::INCARNATION_MAX - 1, claim::INCARNATION_MAX] {
            let accusation = state("a", 1, incarnation, claimed);
            let (mut core, mut other) = (core_of("a"), core_of("b"));
            other.merge(at(0), &id("a"), vec![core.local.clone()]);
            gossip(&mut other, 0, "x", vec![accusation.clone()]);
            gossip(&mut core, 0, "x", vec![accusation.clone()]);
            let own = core.local.clone();
            assert!(claim::beats(&own, &accusation), "{accusation:?}: {own:?}");
            other.handle(
                at(1),
                source(),
                packet(own.clone(), "b", Body::Gossip, vec![]),
            );
            assert_eq!(freshness_of(&other, "a"), claim::freshness(&own));
            assert_eq!(status_of(&other, "a"), Some(Alive), "{accusation:?}");
            let told = happenings(&mut core);
            let ends = told
                .iter()
                .any(|h| matches!(h, Happening::Superseded { .. }));
            assert!(!ends && core.superseded_by.is_none(), "{told:?}");
        }
    }
}

/// Lives are counted in milliseconds; forged accusations must not make them outrun the clock, or
/// the next start of the process would pass for an earlier one.
#[test]
fn later_lives_of_one_process_are_few() {
    let mut core = core_of("a");
    for now in 0..10_000 {
        let generation = core.local.generation;
        let accusation = state("a", generation, claim::INCARNATION_MAX, MemberStatus::Dead);
        gossip(&mut core, now, "x", vec![accusation]);
    }
    assert_eq!(claim::freshness(&core.local), (11, 0));
}

/// With a generation ahead of the clock the next start goes by what was leased on the disk.
#[test]
fn later_lives_ahead_of_the_clock_stay_within_those_that_were_leased() {
    let day_ms = 24 * 3600 * 1000;
    let leased = claim::LIVES_LEASED;
    for (ahead_ms, lives) in [(0, leased + 100), (day_ms, leased)] {
        let begun = YEAR_2026 + ahead_ms;
        let me = state("a", begun, 0, MemberStatus::Alive);
        let rng = SmallRng::seed_from_u64(7);
        let config = GossipConfig::default();
        let mut core = Core::new(config, cluster(), me, [], rng, at(0));
        for second in 1..=leased + 100 {
            let most = claim::INCARNATION_MAX;
            let accusation = state("a", core.local.generation, most, MemberStatus::Dead);
            gossip(&mut core, second * 1000, "x", vec![accusation]);
        }
        assert_eq!(core.local.generation, begun + lives, "{ahead_ms} ms ahead");
        let accused = state(
            "a",
            begun + lives,
            claim::INCARNATION_MAX,
            MemberStatus::Dead,
        );
        Arc::make_mut(&mut core.local).incarnation = claim::INCARNATION_MAX;
        core.set_local(Lifecycle::Draining, RingStamp::default(), Load::default());
        assert_eq!(core.local.lifecycle, Lifecycle::Draining);
        core.stop(at(leased * 2000), MemberStatus::Stopped);
        assert!(claim::beats(&core.local, &accused), "{:?}", core.local);
    }
}

#[test]
fn news_of_a_node_at_the_highest_incarnation_are_acceptable() {
    let mut core = core_of("a");
    Arc::make_mut(&mut core.local).incarnation = claim::INCARNATION_MAX;
    let before = core.local.clone();
    core.set_local(Lifecycle::Draining, RingStamp::default(), Load::default());
    assert!(claim::is_acceptable(&core.local, YEAR_2026) && claim::beats(&core.local, &before));
    Arc::make_mut(&mut core.local).incarnation = claim::INCARNATION_MAX;
    let before = core.local.clone();
    core.stop(at(0), MemberStatus::Stopped);
    assert!(claim::is_acceptable(&core.local, YEAR_2026) && claim::beats(&core.local, &before));
}

#[test]
fn a_cluster_gets_over_a_member_accused_at_the_highest_incarnation() {
    let mut world = world::World::of(5, &GossipConfig::default());
    for who in [0, 1, 2] {
        let forged = state("n4", 1, claim::INCARNATION_MAX, MemberStatus::Dead);
        let by = packet(member("n3"), &format!("n{who}"), Body::Gossip, vec![forged]);
        let now = at(world.now);
        world.cores[who].handle(now, source(), by);
    }
    let healed = world.comes(60_000, |w| {
        let others = w.cores[..4].iter();
        let mut held = others.map(|c| (freshness_of(c, "n4"), status_of(c, "n4")));
        held.all(|held| held == ((2, 0), Some(MemberStatus::Alive)))
    });
    assert!(healed, "{:?}", world.happened);
}

/// A generation that no claim may have ends nobody either.
#[test]
fn a_namesake_of_the_far_future_is_not_believed() {
    let year_ms = 365 * 24 * 3600 * 1000;
    for (ahead, believed) in [(year_ms, true), (year_ms + 1, false), (2 * year_ms, false)] {
        for told in [true, false] {
            let mut core = core_of("a");
            let later = state("a", YEAR_2026 + ahead, 0, MemberStatus::Alive);
            let mut forged = packet(later, "a", Body::Gossip, vec![]);
            forged.intro = forged.intro.filter(|_| told);
            core.handle(at(0), source(), forged);
            let happened = happenings(&mut core);
            let ends = happened
                .iter()
                .any(|h| matches!(h, Happening::Superseded { .. }));
            assert_eq!(ends, believed, "{ahead} ms ahead: {happened:?}");
            assert_eq!(core.rejected.sum(), 1, "counted");
        }
    }
}
