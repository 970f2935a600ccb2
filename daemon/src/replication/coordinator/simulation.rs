//! A cluster in memory, in virtual time: the real read and write machines against replicas that
//! lose messages, are slow, have wrong clocks, raise their floors and crash, coordinators included.
//! Each operation asks its replicas in an order of its own and hedges at moments of its own. Same
//! seed, same run. Every history is checked for linearizability, and that no acknowledged write
//! vanishes unless a write that had seen it took its place.

mod world;

use self::world::{Counters, Simulation};
use super::{history::is_linearizable, round::Breaks};

/// Runs seeds until one is not linearizable.
fn first_violation(seeds: std::ops::Range<u64>, breaks: Breaks) -> Option<u64> {
    seeds
        .into_iter()
        .find(|seed| !is_linearizable(&Simulation::new(*seed, breaks).run().history))
}

#[test]
fn reads_and_writes_are_linearizable_under_faults() {
    let mut sum = Counters::default();
    for seed in 0..1500 {
        let end = Simulation::new(seed, Breaks::default()).run();
        assert!(
            is_linearizable(&end.history),
            "seed {seed}: {:#?}",
            end.history
        );
        assert_eq!(
            end.vanished(),
            0,
            "seed {seed}: an acknowledged write vanished"
        );
        assert_eq!(
            end.shared_wins(),
            0,
            "seed {seed}: two replaced one version"
        );
        sum.exclusive += end.counters.exclusive;
        sum.beside += end.counters.beside;
        sum.not_so += end.counters.not_so;
        sum.lost += end.counters.lost;
        sum.crashes += end.counters.crashes;
        sum.unknown += end.counters.unknown;
        sum.refused += end.counters.refused;
        sum.repaired += end.counters.repaired;
        sum.hedged += end.counters.hedged;
        sum.stale += end.counters.stale;
        sum.again += end.counters.again;
        sum.acknowledged += end.counters.acknowledged;
        sum.siblings += end.counters.siblings;
    }
    for (what, count) in [
        ("lost messages", sum.lost),
        ("crashes", sum.crashes),
        ("unknown outcomes", sum.unknown),
        ("refusals", sum.refused),
        ("repairs", sum.repaired),
        ("hedges", sum.hedged),
        ("stale refusals", sum.stale),
        ("operations begun again", sum.again),
        ("acknowledged writes", sum.acknowledged),
        ("writes beside siblings", sum.siblings),
        ("conditional writes", sum.exclusive),
        ("conditional writes beside another", sum.beside),
        ("conditions that did not hold", sum.not_so),
    ] {
        assert!(count > 100, "the simulation must have had {what}: {sum:?}");
    }
}

#[test]
fn the_checker_notices_a_missing_write_back() {
    let breaks = Breaks {
        write_back: true,
        ..Breaks::default()
    };
    assert!(first_violation(0..1500, breaks).is_some());
}

#[test]
fn the_checker_notices_a_missing_version_query() {
    let breaks = Breaks {
        version_query: true,
        ..Breaks::default()
    };
    assert!(first_violation(0..1500, breaks).is_some());
}

#[test]
fn the_checker_notices_a_missing_last_question() {
    let breaks = Breaks {
        last_question: true,
        ..Breaks::default()
    };
    let wins = |seed| Simulation::new(seed, breaks).run().shared_wins();
    assert!((0..1500).any(|seed| wins(seed) > 0));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        format!(
            "{:?}",
            Simulation::new(seed, Breaks::default()).run().history
        )
    };
    assert_eq!(run(7), run(7));
}
