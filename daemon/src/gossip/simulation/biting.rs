//! Each rule, shown to bite: on crafted violations, and on cores that are broken on purpose.

use ringmaster_shared::member::MemberStatus::{Alive, Dead, Left, Stopped, Suspected};

use super::{
    chaos,
    checks::{self, Change, Checks, Held, Rounds, Rule},
    names,
    network::{Damage, Link},
    nodes::Condition,
    wiring::{Letter, Wiring},
    world::{Arrival, Parameters, World},
};
use crate::gossip::{
    MemberState,
    claim::Claim,
    codec::{Body, Brief, Packet},
    core::{broken::Broken, inspected::Depths},
    testing,
};

/// Node 1 said: alive up to incarnation 5 in its first life and then stopped; alive at 0 in its
/// second. It was suspected as of each of them at 0 ms.
fn checks() -> Checks {
    let mut checks = Checks::new(4_000);
    for held in [((1, 5), Alive), ((1, 6), Stopped), ((2, 0), Alive)] {
        assert_eq!(checks.word(1, held, true), Ok(()));
    }
    for freshness in [(1, 0), (1, 3), (1, 5)] {
        let change = Change {
            about: 1,
            before: None,
            after: (freshness, Suspected),
        };
        assert_eq!(checks.change(0, &change), Ok(()));
    }
    checks
}

fn rule(now_ms: u64, before: Option<Held>, after: Held) -> Option<Rule> {
    let change = Change {
        about: 1,
        before,
        after,
    };
    checks().change(now_ms, &change).err().map(|v| v.rule)
}

#[test]
fn what_may_follow_what() {
    let late = 10_000;
    let good = [
        (None, ((1, 0), Dead)),
        (None, ((1, 6), Stopped)),
        (Some(((1, 0), Alive)), ((1, 0), Suspected)),
        (Some(((1, 0), Suspected)), ((1, 0), Dead)),
        (Some(((1, 0), Dead)), ((1, 1), Alive)),
        (Some(((1, 5), Dead)), ((2, 0), Alive)),
        (Some(((1, 5), Dead)), ((1, 6), Stopped)),
    ];
    for (before, after) in good {
        assert_eq!(rule(late, before, after), None, "{before:?} to {after:?}");
    }
    let bad = [
        (Some(((1, 0), Dead)), ((1, 0), Alive), Rule::Resurrection),
        (
            Some(((1, 0), Dead)),
            ((1, 0), Suspected),
            Rule::Resurrection,
        ),
        (Some(((1, 3), Suspected)), ((1, 3), Alive), Rule::Monotone),
        (Some(((1, 3), Dead)), ((1, 2), Alive), Rule::Monotone),
        (Some(((2, 0), Alive)), ((1, 5), Dead), Rule::Monotone),
        (None, ((1, 6), Alive), Rule::NeverSaid),
        (None, ((1, 7), Dead), Rule::NeverSaid),
        (None, ((3, 0), Alive), Rule::NeverSaid),
        (Some(((1, 5), Alive)), ((1, 5), Stopped), Rule::NeverSaid),
        (Some(((2, 0), Alive)), ((2, 0), Left), Rule::NeverSaid),
        (Some(((1, 2), Alive)), ((1, 2), Dead), Rule::Transition),
    ];
    for (before, after, broken) in bad {
        assert_eq!(
            rule(late, before, after),
            Some(broken),
            "{before:?} to {after:?}"
        );
    }
    let soon = rule(3_999, Some(((1, 0), Suspected)), ((1, 0), Dead));
    assert_eq!(soon, Some(Rule::Transition), "before it could refute");
}

#[test]
fn a_node_is_alive_until_it_stops() {
    let word = |held, may_end| checks().word(1, held, may_end).err().map(|v| v.rule);
    assert_eq!(word(((2, 1), Alive), false), None);
    assert_eq!(word(((2, 1), Stopped), true), None);
    assert_eq!(word(((2, 1), Stopped), false), Some(Rule::OwnWord));
    assert_eq!(word(((2, 1), Suspected), true), Some(Rule::OwnWord));
    assert_eq!(word(((1, 4), Alive), false), Some(Rule::OwnWord), "it fell");
}

#[test]
fn nothing_grows_beyond_its_bound() {
    let fine = Depths {
        members: 9,
        rumors: 10,
        probes: 1,
        relays: 3,
        rotation: 9,
        probed_again: 0,
    };
    assert_eq!(checks::within_bounds(fine, 20), Ok(()));
    for depths in [
        Depths { rumors: 11, ..fine },
        Depths { probes: 5, ..fine },
        Depths {
            relays: 1025,
            ..fine
        },
        Depths {
            rotation: 11,
            ..fine
        },
    ] {
        let broken = checks::within_bounds(depths, 20).expect_err("beyond its bound");
        assert_eq!(broken.rule, Rule::Bounded);
    }
    assert!(checks::within_bounds(fine, 200).is_err());
    assert!(checks::packet_fits(1401, 1400).is_err());
    assert!(checks::packet_fits(1400, 1400).is_ok());
}

#[test]
fn who_is_never_probed_is_missed() {
    let mut rounds = Rounds::default();
    rounds.reachable(0, 1);
    rounds.reachable(0, 2);
    for round in 0..5 {
        assert_eq!(rounds.probed(round, 1, 3, 0), Ok(()));
        assert_eq!(rounds.check(round, 1000), Ok(()));
    }
    assert_eq!(rounds.probed(5, 1, 3, 1), Ok(()), "out of turn");
    assert_eq!(rounds.check(5, 1000), Ok(()));
    rounds.probed(5, 1, 3, 1).expect("that one is probed");
    assert!(rounds.check(5, 1000).is_err(), "the other is not");
    rounds.gone(2);
    assert_eq!(rounds.check(5, 1000), Ok(()));
    assert!(rounds.check(1006, 1000).is_err(), "no probes at all");
}

#[test]
fn agreement_is_not_found_where_there_is_none() {
    let mut world = World::new(Parameters::new(1, 3));
    world.settle(20_000);
    assert!(world.all_are_right());
    world.nodes[2].condition = Condition::Crashed;
    assert!(world.disagreement().is_some());
    world.nodes[2].condition = Condition::Up;
    assert_eq!(world.disagreement(), None);
    world.nodes[2].generation += 1;
    assert!(world.disagreement().is_some());
}

/// Who forgets somebody is seen, whether it says so or begins anew as if it had never known it.
#[test]
fn who_forgets_is_seen() {
    let (dead, old) = (((1, 5), Dead), ((1, 0), Alive));
    let (us, day_ms) = ((0, 0), 24 * 3600 * 1000);
    let step = |now_ms, held: Held, by, before, after| {
        let mut checks = Checks::new(4_000);
        let first = checks.held(0, us, 1, (None, Some(held)));
        assert_eq!(first, Ok(()));
        let judged = checks.held(now_ms, by, 1, (before, after));
        judged.err().map(|v| v.rule)
    };
    let forgotten = Some(Rule::Forgotten);
    assert_eq!(step(9, dead, us, Some(dead), Some(((1, 6), Alive))), None);
    assert_eq!(step(9, dead, us, None, Some(old)), forgotten);
    assert_eq!(step(9, dead, us, Some(old), Some(dead)), forgotten);
    assert_eq!(step(9, dead, us, Some(dead), None), forgotten);
    // another process knows nothing yet
    assert_eq!(step(9, dead, (0, 1), None, Some(old)), None);
    // who left may be forgotten, in time
    let left = ((1, 5), Left);
    assert_eq!(step(9, left, us, Some(left), None), forgotten);
    assert_eq!(step(day_ms + 1, left, us, Some(left), None), None);
    assert_eq!(step(day_ms + 1, dead, us, Some(dead), None), forgotten);
}

/// What a node comes to hold of a member that is not of its cluster, and what it takes for a
/// namesake of its own.
#[test]
fn who_is_taken_for_a_member_or_a_namesake_is_judged() {
    let heard = |about: &dyn Fn(&World) -> MemberState| {
        let mut world = World::new(Parameters::new(1, 2));
        world.settle(20_000);
        assert_eq!(world.join(1, &[]), 2);
        world.violation_expected = true;
        let claim = Claim {
            state: about(&world).into(),
            from: names::node_id(1),
        };
        let packet = Packet {
            cluster: testing::cluster(),
            to: names::node_id(0),
            from: Brief::of(world.nodes[1].core.local()),
            intro: None,
            ask: false,
            body: Body::Gossip,
            claims: vec![claim],
        };
        let (_, letter) = world.letter(1, Box::new(packet));
        world.take_in(0, Arrival::udp(1, 0, letter));
        world.violation.map(|v| v.rule)
    };
    let of_ours = |world: &World| world.nodes[1].core.local().clone();
    assert_eq!(heard(&of_ours), None);
    let foreign = |world: &World| world.nodes[2].core.local().clone();
    assert_eq!(heard(&foreign), Some(Rule::Stranger));
    let unheard_of = |world: &World| MemberState {
        id: names::node_id(9),
        ..world.nodes[1].core.local().clone()
    };
    assert_eq!(heard(&unheard_of), Some(Rule::Stranger));
    let namesake = |world: &World| MemberState {
        generation: 7,
        ..world.nodes[0].core.local().clone()
    };
    assert_eq!(heard(&namesake), Some(Rule::OwnWord));
}

#[test]
fn what_an_exchange_left_out_is_missed() {
    let state = |(generation, incarnation), status| MemberState {
        status,
        generation,
        incarnation,
        ..testing::member("x")
    };
    let said = state((2, 5), Dead);
    assert!(!checks::is_reconciled(&said, None));
    for (held, is) in [
        (state((2, 4), Dead), false),
        (state((2, 5), Alive), false),
        (state((2, 5), Suspected), true),
        (state((2, 6), Alive), true),
        (state((3, 0), Alive), true),
    ] {
        assert_eq!(checks::is_reconciled(&said, Some(&held)), is, "{held:?}");
    }
    assert!(checks::is_reconciled(&state((2, 5), Left), None));
}

/// Damage that is not noticed, and sound messages that are not taken, each break the rule.
#[test]
fn what_the_wire_lets_through_is_judged() {
    for wiring in [Wiring::Plain, Wiring::Sealed] {
        let seen = |edit: fn(&mut Letter)| {
            let mut world = World::new(Parameters {
                wiring,
                ..Parameters::new(1, 2)
            });
            world.settle(20_000);
            world.violation_expected = true;
            let packet = Packet {
                cluster: testing::cluster(),
                to: names::node_id(1),
                from: Brief::of(world.nodes[0].core.local()),
                intro: None,
                ask: false,
                body: Body::Gossip,
                claims: Vec::new(),
            };
            let (_, mut letter) = world.letter(0, Box::new(packet));
            edit(&mut letter);
            world.open_letter(1, 0, letter.clone());
            let refused = &world.counters;
            let damaged = refused.refused_damaged + refused.refused_sealed;
            (world.violation.map(|v| v.rule), damaged)
        };
        assert_eq!(seen(|_| ()), (None, 0));
        assert_eq!(seen(|l| l.damage(Damage::CutShort { to: 20 })), (None, 1));
        let unseen = seen(|l| l.marks.damaged = true);
        assert_eq!(unseen, (Some(Rule::Wire), 0), "{wiring:?}");
        let unread = seen(|l| {
            l.damage(Damage::Flipped { at: 70, bit: 3 });
            l.marks.damaged = false;
        });
        assert_eq!(unread, (Some(Rule::Wire), 1), "{wiring:?}");
    }
}

/// A cluster of broken cores goes through everything that can befall it; returns the first rule
/// that was seen broken.
fn first_seen(broken: Broken, seed: u64, n: usize) -> Option<Rule> {
    let mut world = World::new(Parameters::new(seed, n));
    world.violation_expected = true;
    world.broken = Some(broken);
    for node in &mut world.nodes {
        node.core.break_rule(broken);
    }
    // two halves that hold each other dead, some crashes, and whatever comes by chance
    world.settle(30_000);
    for place in 0..n {
        world.network.group(place, u8::from(place < n / 2));
    }
    world.run_for(120_000);
    world.network.calm(Link::JITTERY);
    world.settle(chaos::calm_bound_ms(&world.parameters.config, n));
    if world.violation.is_none() {
        world.chaos(60_000);
        world.calm();
        let n = world.nodes.len();
        world.settle(chaos::calm_bound_ms(&world.parameters.config, n));
    }
    world.violation.map(|v| v.rule)
}

#[test]
fn broken_cores_are_seen() {
    let cases: [(Broken, usize, &[Rule]); 11] = [
        (
            Broken::BelievesAnything,
            16,
            &[Rule::Resurrection, Rule::Monotone],
        ),
        (Broken::InventsIncarnations, 16, &[Rule::NeverSaid]),
        (
            Broken::NeverRefutes,
            16,
            &[Rule::Convergence, Rule::Reconciled],
        ),
        (Broken::BelievesItsAccusers, 16, &[Rule::OwnWord]),
        (Broken::ProbesOne, 16, &[Rule::Liveness]),
        (Broken::IsHasty, 16, &[Rule::Transition]),
        (Broken::OverfillsPackets, 60, &[Rule::Bounded]),
        (Broken::ForgetsTheGone, 16, &[Rule::Convergence]),
        (Broken::ReapsTheDead, 16, &[Rule::Forgotten]),
        (Broken::ComparesWithoutStatus, 16, &[Rule::Reconciled]),
        (Broken::DropsARange, 16, &[Rule::Reconciled]),
    ];
    for (broken, n, rules) in cases {
        let seen = first_seen(broken, 5, n);
        assert!(
            seen.is_some_and(|rule| rules.contains(&rule)),
            "{broken:?} shows as {seen:?}"
        );
    }
}
