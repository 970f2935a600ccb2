//! Suspicions where hardly anybody is left who could confirm them, and where it only looks so.

use std::collections::BTreeMap;

use super::{world::World, *};

/// What `who` found out: of each member when it came to suspect it and when to hold it dead.
fn found(world: &World, who: usize) -> (BTreeMap<NodeId, u64>, BTreeMap<NodeId, u64>) {
    let (mut suspected, mut dead) = (BTreeMap::new(), BTreeMap::new());
    for (when, _, what) in world.happened.iter().filter(|h| h.1 == who) {
        match what {
            Happening::Suspected { id, .. } => suspected.insert(id.clone(), *when),
            Happening::Dead { id, .. } => dead.insert(id.clone(), *when),
            _ => None,
        };
    }
    (suspected, dead)
}

fn least_ms(n: usize) -> u64 {
    ms(suspicion_timeout(&GossipConfig::default(), n))
}

/// Until a node has probed each of `others` that do not answer: in the worst case all but one of
/// them twice, each probe as long as its health may make it.
fn probed_ms(others: u64) -> u64 {
    let config = GossipConfig::default();
    let longest = others.min(u64::from(config.awareness_max)) * ms(config.probe_interval);
    2 * others * longest
}

#[test]
fn who_is_cut_off_waits_for_nobodys_word() {
    for n in [3, 4, 5, 10] {
        let mut world = World::of(n, &GossipConfig::default());
        world.cut_off = Some(0);
        let alone = |w: &World| w.cores[0].members.reachable_count() == 0;
        let shortest = least_ms(n);
        assert!(
            world.comes(probed_ms(n as u64 - 1) + shortest, alone),
            "{n}"
        );
        let (suspected, dead) = found(&world, 0);
        let mut times: Vec<u64> = suspected.values().copied().collect();
        times.sort_unstable();
        // from then on fewer than the two are held alive that would have to confirm
        let too_few = times[n - 3];
        for (id, dead) in dead {
            let since = suspected[&id];
            let expected = (since + shortest).max(too_few).min(since + 6 * shortest);
            assert_eq!(dead, expected, "{n}: {id}, suspected at {since}");
        }
        let last = times.last().copied().unwrap_or(0);
        assert_eq!(
            world.now,
            last + shortest,
            "{n}: a suspicion after the last"
        );
    }
}

#[test]
fn a_node_that_was_cut_off_hurts_nobody_when_it_is_back() {
    for n in [3, 5, 10] {
        let mut world = World::of(n, &GossipConfig::default());
        world.cut_off = Some(0);
        let alone = |w: &World| w.cores[0].members.reachable_count() == 0;
        assert!(world.comes(300_000, alone));
        world.run(30_000);
        world.happened.clear();
        world.cut_off = None;
        let all_alive = |w: &World| {
            let alive = |c: &Core| c.members.count(MemberStatus::Alive) == n - 1;
            w.cores.iter().all(alive)
        };
        assert!(world.comes(60_000, all_alive), "{n}: all are back");
        world.run(30_000);
        let dead = world.told(|h| matches!(h, Happening::Dead { .. }));
        assert_eq!(dead, [], "{n}: nobody believes that another is dead");
        assert!(all_alive(&world));
    }
}

#[test]
fn when_two_of_four_are_killed_the_others_do_not_wait_for_them() {
    let mut world = World::of(4, &GossipConfig::default());
    (world.alive[2], world.alive[3]) = (false, false);
    let known = |w: &World| (0..2).all(|i| w.cores[i].members.count(MemberStatus::Dead) == 2);
    let shortest = least_ms(4);
    assert!(world.comes(probed_ms(3) + shortest, known));
    for who in 0..2 {
        let (suspected, dead) = found(&world, who);
        let last = suspected.values().max().copied().unwrap_or(0);
        for (id, dead) in dead {
            let since = suspected.get(&id).copied().unwrap_or(0);
            assert!(dead <= last.max(since + shortest), "{id} at n{who}");
        }
    }
    let last = world.told(|h| matches!(h, Happening::Suspected { .. }));
    let last = last.iter().map(|(_, when)| *when).max().unwrap_or(0);
    assert!(world.now <= last + shortest, "a suspicion after the last");
}

/// "a" among a hundred, of whom "slow" found "b" silent.
fn one_accused() -> Core {
    let mut core = core_of("a");
    for n in 0..97 {
        gossip(&mut core, 0, &format!("n{n}"), vec![]);
    }
    gossip(&mut core, 0, "b", vec![]);
    accuse(&mut core, "slow", "b");
    core.take_outputs();
    core
}

fn accuse(core: &mut Core, by: &str, about: &str) {
    let state = state(about, 1, 0, MemberStatus::Suspected);
    gossip(core, 1, by, vec![state]);
}

/// How long "a" waits for who confirms it, and how many of them.
fn wait_of(core: &Core, about: &str) -> (u64, u32) {
    let mut all = core.suspicions(at(1)).into_iter();
    let view = all.find(|v| v.about.as_str() == about).expect("suspected");
    (view.ends_in_ms, view.wanted)
}

fn refutes(core: &mut Core, name: &str) {
    let state = state(name, 1, 1, MemberStatus::Alive);
    gossip(core, 1, "slow", vec![state]);
}

#[test]
fn one_slow_accuser_of_many_waits_for_confirmations() {
    let mut core = one_accused();
    assert_eq!(wait_of(&core, "b"), (48_000, 2));
    // the slow one has nobody's answers: two others are left, itself among them
    for n in 0..96 {
        accuse(&mut core, "slow", &format!("n{n}"));
    }
    assert_eq!(wait_of(&core, "b"), (48_000, 2));
    assert_eq!(wait_of(&core, "n95"), (48_000, 2));
    // and now too few
    accuse(&mut core, "slow", "n96");
    for name in ["b", "n7", "n96"] {
        assert_eq!(wait_of(&core, name), (8_000, 0), "{name}");
    }
    // what came before the end is said as it was known then
    let said = happenings(&mut core);
    let said = |about: &str| {
        said.iter().find_map(|h| match h {
            Happening::Suspected {
                id,
                wait_ms,
                least_ms,
                ..
            } if id.as_str() == about => Some((*wait_ms, *least_ms)),
            _ => None,
        })
    };
    assert_eq!(said("n95"), Some((48_000, 8_000)));
    assert_eq!(said("n96"), Some((8_000, 8_000)));
}

#[test]
fn who_comes_back_changes_what_begins_and_not_what_runs() {
    let mut core = one_accused();
    for n in 0..97 {
        accuse(&mut core, "slow", &format!("n{n}"));
    }
    for n in 0..50 {
        refutes(&mut core, &format!("n{n}"));
    }
    assert_eq!(wait_of(&core, "b"), (8_000, 0), "the end never moves later");
    core.members.excuse_suspected(700);
    assert_eq!(wait_of(&core, "b"), (8_700, 0), "but for standing still");
    let again = state("n3", 1, 1, MemberStatus::Suspected);
    gossip(&mut core, 1, "slow", vec![again]);
    assert_eq!(wait_of(&core, "n3"), (48_000, 2));
}

#[test]
fn confirmations_that_were_given_stay() {
    let mut core = one_accused();
    accuse(&mut core, "n96", "b");
    assert_eq!(wait_of(&core, "b"), (22_763, 2));
    for n in 0..97 {
        accuse(&mut core, "slow", &format!("n{n}"));
    }
    assert_eq!(wait_of(&core, "b"), (8_000, 1));
    let before = core.confirmations();
    accuse(&mut core, "n95", "b");
    assert_eq!(
        (wait_of(&core, "b"), core.confirmations()),
        ((8_000, 1), before)
    );
}

/// A node that was cut off lists everybody as dead. That is nobody's finding yet, and the slow
/// keep their time.
#[test]
fn a_list_of_the_dead_is_no_proof_that_all_are_silent() {
    let mut core = one_accused();
    let dead = |n| Arc::new(state(&format!("n{n}"), 1, 0, MemberStatus::Dead));
    let list: Vec<_> = (0..97).map(dead).collect();
    core.merge(at(1), &id("x"), list);
    assert_eq!(
        core.members.count(MemberStatus::Alive),
        1,
        "only the slow one"
    );
    assert_eq!(wait_of(&core, "b"), (48_000, 2));
    assert_eq!(wait_of(&core, "n5"), (8_000, 0), "found elsewhere already");
    for n in 0..97 {
        accuse(&mut core, "slow", &format!("n{n}"));
    }
    assert_eq!(
        wait_of(&core, "b"),
        (8_000, 0),
        "now somebody did find it so"
    );
}

#[test]
fn a_list_that_is_new_to_a_node_is_no_small_cluster() {
    let mut list = vec![state("b", 1, 0, MemberStatus::Suspected)];
    list.extend((0..98).map(|n| member(&format!("n{n}"))));
    let list: Vec<_> = list.into_iter().map(Arc::new).collect();
    // of 99 members that are known before
    let mut core = core_of("a");
    core.welcome(at(1), list.clone());
    assert_eq!(wait_of(&core, "b"), (47_892, 2));
    let mut core = core_of("a");
    core.merge(at(1), &id("n5"), list);
    assert_eq!(wait_of(&core, "b"), (47_892, 2));
}

/// Ten thousand members, nearly all of them suspected: each that follows is one more walk, and
/// all end together.
#[test]
fn in_a_large_cluster_all_fall_at_once() {
    let mut core = core_of("a");
    let name = |n: usize| format!("n{n}");
    let all: Vec<_> = (0..9_999).map(|n| Arc::new(member(&name(n)))).collect();
    core.welcome(at(0), all);
    for n in 0..9_999 {
        core.suspect(at(1), &id(&name(n)));
        let left = 9_999 - n - 1;
        if left == 2 {
            assert_eq!(wait_of(&core, "n0"), (96_000, 2));
        }
    }
    let views = core.suspicions(at(1));
    assert_eq!(views.len(), 9_999);
    assert!(
        views
            .iter()
            .all(|v| (v.ends_in_ms, v.wanted) == (16_000, 0))
    );
}
