//! Nodes whose UDP is blocked, in part or in whole: they stay members, say so, and get the news.

use super::{super::*, world::World, *};
use crate::gossip::members::Member;

const LONG: u64 = 600_000;

fn all_hold(world: &World, about: usize, status: MemberStatus) -> bool {
    let name = format!("n{about}");
    let mut others = (0..world.cores.len()).filter(|i| *i != about && world.alive[*i]);
    others.all(|i| status_of(&world.cores[i], &name) == Some(status))
}

fn all_know_incarnation(world: &World, about: usize) -> bool {
    let (name, own) = (
        format!("n{about}"),
        claim::freshness(&world.cores[about].local),
    );
    let mut others = (0..world.cores.len()).filter(|i| *i != about && world.alive[*i]);
    others.all(|i| freshness_of(&world.cores[i], &name) == own)
}

/// A change that it says of itself.
fn change(world: &mut World, who: usize) {
    let core = &mut world.cores[who];
    let ring = RingStamp {
        epoch: core.local.ring.epoch + 1,
        ..core.local.ring
    };
    core.set_local(Lifecycle::Serving, ring, Load::default());
}

/// What its UDP does; n4 is the node concerned.
const BLOCKED: [(&str, world::Udp); 3] = [
    ("both ways", |from, to| from != 4 && to != 4),
    ("deaf", |_, to| to != 4),
    ("mute", |from, _| from != 4),
];

#[test]
fn a_node_without_udp_stays_a_member_hears_the_news_and_tells_its_own() {
    for (what, udp) in BLOCKED {
        let mut world = World::of(6, &GossipConfig::default());
        world.udp = udp;
        let own = |h: &Happening| matches!(h, Happening::OwnUdpBlocked { over_tcp: 5, .. });
        let of_it =
            |h: &Happening| matches!(h, Happening::UdpBlocked { id, .. } if id.as_str() == "n4");
        let said = world.comes(60_000, |w| {
            w.told(own).len() == 1 && w.told(of_it).len() == 5
        });
        assert!(said, "{what}: {:?}", world.happened);
        world.run(LONG);
        world.nobody_was_doubted();
        let told = world.happened.len();
        assert_eq!(told, 6, "{what}: each says it once: {:?}", world.happened);
        assert_eq!(world.cores[4].health.score(), 0, "{what}");

        // news of another reaches it, its own reaches the others
        for who in [0, 4, 2, 4] {
            change(&mut world, who);
            assert!(
                world.comes(2_500, |w| all_know_incarnation(w, who)),
                "{what}: news of n{who}"
            );
        }
        world.alive[1] = false;
        let dead = world.comes(60_000, |w| all_hold(w, 1, MemberStatus::Dead));
        assert!(dead, "{what}: {:?}", world.happened);
        world.run(60_000);
        let wrong = world.happened.iter().find(|(_, _, h)| {
            matches!(h, Happening::Suspected { id, .. } | Happening::Dead { id, .. } if id.as_str() != "n1")
        });
        assert_eq!(wrong, None, "{what}");

        world.udp = |_, _| true;
        let open = |h: &Happening| matches!(h, Happening::UdpOpen { .. });
        assert!(world.comes(60_000, |w| w.told(open).len() == 5), "{what}");
        world.run(60_000);
        assert_eq!(world.told(open).len(), 5, "{what}: {:?}", world.happened);
        world.exchanges.clear();
        world.run(600_000);
        let usual = world.exchanges.len();
        // five nodes, every 24 s, in ten minutes
        assert!(usual <= 5 * 26, "{what}: {usual} in ten minutes");
    }
}

/// At a bounded rate: it calls once in a probe interval, and is called when there is news only.
#[test]
fn catching_up_costs_a_call_in_a_probe_interval() {
    let mut world = World::of(30, &GossipConfig::default());
    world.udp = |from, to| from != 4 && to != 4;
    world.run(300_000);
    world.exchanges.clear();
    let began = world.now;
    let mut rng = SmallRng::seed_from_u64(5);
    for _ in 0..120 {
        change(&mut world, rng.random_range(5..30));
        world.run(1_000);
    }
    let seconds = (world.now - began) / 1_000;
    let count = |fits: &dyn Fn(&(u64, usize, usize)) -> bool| {
        world.exchanges.iter().filter(|e| fits(e)).count() as u64
    };
    let (by_it, with_it) = (count(&|e| e.1 == 4), count(&|e| e.2 == 4));
    assert!(
        (seconds * 9 / 10..=seconds * 12 / 10).contains(&by_it),
        "{by_it}"
    );
    assert!(
        with_it <= seconds * 4,
        "{with_it} calls of 29 in {seconds} s"
    );
    let others = count(&|e| e.1 != 4 && e.2 != 4);
    assert!(others <= 29 * (seconds / 24 + 1), "{others}");
}

/// UDP blocked between two halves: nobody is without UDP altogether, so nobody looks for news, and
/// the gossip of one half does not reach the other.
#[test]
fn news_crosses_where_no_udp_does() {
    let mut world = World::of(12, &GossipConfig::default());
    world.udp = |from, to| from / 6 == to / 6;
    world.run(300_000);
    world.nobody_was_doubted();
    let own = |h: &Happening| matches!(h, Happening::OwnUdpBlocked { .. });
    assert_eq!(world.told(own), [], "each has UDP with its own half");
    for who in [0, 6, 3, 11] {
        change(&mut world, who);
        assert!(
            world.comes(3_500, |w| all_know_incarnation(w, who)),
            "n{who}"
        );
    }
    world.run(60_000);
    world.exchanges.clear();
    world.run(60_000);
    let without_news = world.exchanges.len();
    assert!(without_news <= 12 * 4, "{without_news} without any news");
    world.alive[7] = false;
    assert!(world.comes(60_000, |w| all_hold(w, 7, MemberStatus::Dead)));
}

/// One link lets UDP through in one direction only, or not at all: others bridge it.
#[test]
fn one_bad_link_between_two_is_no_news() {
    let links: [world::Udp; 2] = [
        |from, to| (from, to) != (0, 2),
        |from, to| (from.min(to), from.max(to)) != (0, 2),
    ];
    for udp in links {
        let mut world = World::of(3, &GossipConfig::default());
        world.udp = udp;
        world.run(LONG);
        println!("{} dropped", world.dropped);
        assert!(world.dropped >= 400, "{} dropped", world.dropped);
        assert_eq!(world.happened, []);
    }
}

#[test]
fn lost_packets_are_not_taken_for_blocked_udp() {
    for n in [2, 3, 10] {
        let mut world = World::of(n, &GossipConfig::default());
        world.loss = 8;
        world.run(2 * LONG);
        println!("{} dropped of {n}", world.dropped);
        assert!(world.dropped >= 130 * n as u64, "{} dropped", world.dropped);
        let blamed = |h: &Happening| {
            matches!(
                h,
                Happening::UdpBlocked { .. } | Happening::OwnUdpBlocked { .. }
            )
        };
        assert_eq!(world.told(blamed), [], "of {n}");
        world.nobody_was_doubted();
    }
}

/// A later life of it, or its death, ends what is held against it.
#[test]
fn nothing_is_held_against_a_later_life() {
    let mut world = World::of(4, &GossipConfig::default());
    world.udp = |from, to| from != 3 && to != 3;
    world.run(60_000);
    assert!(
        world.cores[0]
            .members
            .get(&id("n3"))
            .is_some_and(Member::udp_blocked)
    );
    gossip(
        &mut world.cores[0],
        world.now,
        "n1",
        vec![state("n3", 2, 0, MemberStatus::Alive)],
    );
    let core = &world.cores[0];
    assert!(
        core.members
            .get(&id("n3"))
            .is_some_and(|m| !m.udp_blocked())
    );
    assert_eq!(core.udp.blocked().count(), 0);
}

/// What comes in between the answer to a comparison and the end of that exchange was in none of
/// its lists.
#[test]
fn news_that_came_while_another_asked_is_still_to_be_told() {
    let (mut asker, mut core) = (core_of("a"), core_of("b"));
    let known = |names: [&str; 3]| names.map(|name| member(name).into()).to_vec();
    core.welcome(at(0), known(["a", "c", "d"]));
    asker.welcome(at(0), known(["b", "d", "e"]));
    for n in 0..3 {
        core.found_only_tcp(&id("a"), n, 4);
    }
    let (mut asking, ask) = asker.begin_exchange(1);
    let answer = core.answer_exchange(at(1), &asker.brief(), ask);
    let died = state("c", 1, 0, MemberStatus::Dead);
    gossip(&mut core, 2, "d", vec![died]);
    let (dead, answer) = (core.revision(), answer.expect("it makes sense"));
    let next = asker.take_answer(at(3), &mut asking, &core.brief(), answer);
    let crate::gossip::reconcile::Next::Ask(ask) = next else {
        panic!("{next:?}");
    };
    core.answer_exchange(at(4), &asker.brief(), ask);
    assert!(status_of(&core, "e").is_some(), "it had something to give");
    assert_eq!(status_of(&asker, "c"), Some(MemberStatus::Alive));
    assert!(core.udp.lacks(&id("a"), dead));
    // and the next one tells it
    let (mut asking, ask) = asker.begin_exchange(2);
    let answer = core.answer_exchange(at(5), &asker.brief(), ask);
    let answer = answer.expect("it makes sense");
    asker.take_answer(at(5), &mut asking, &core.brief(), answer);
    assert_ne!(status_of(&asker, "c"), Some(MemberStatus::Alive));
}
