//! How soon a node finds out that it is cut off, and how soon it is known that many died at once:
//! where there is hardly anybody left who could confirm a suspicion.

use rand::{Rng, seq::index};
use ringmaster_shared::member::MemberStatus;

use super::{
    detection::{Crashes, Figures},
    false_positives::of_one_blocked,
    formed, median_and_99th, table,
};
use crate::gossip::{
    GossipConfig,
    core::suspicion_timeout,
    simulation::{names::Who, nodes::Condition},
};

/// Longer than any of it takes.
const PATIENCE_MS: u64 = 600_000;

/// Milliseconds, one of each for every node that was cut off.
#[derive(Default)]
struct CutOff {
    /// Until it held more than half of the cluster dead.
    majority: Vec<u64>,
    /// Until it held everybody else dead.
    all: Vec<u64>,
}

fn cut_off(seed: u64, n: usize, sum: &mut CutOff) {
    let mut world = formed(seed, n);
    let who = world.rng.random_range(0..n);
    let pause = world.rng.random_range(0..2_000);
    world.run_for(pause);
    world.noted = Some(Vec::new());
    let (place, start) = (world.nodes[who].place, world.now);
    world.network.group(place, 1);
    let mut deaths: Vec<u64> = Vec::new();
    while deaths.len() < n - 1 && world.now < start + PATIENCE_MS {
        world.run_for(1_000);
        let noted = world.noted.replace(Vec::new()).unwrap_or_default();
        let own = noted
            .iter()
            .filter(|noted| noted.observer == who && noted.change.after.1 == MemberStatus::Dead);
        deaths.extend(own.map(|noted| noted.at_ms - start));
    }
    assert_eq!(deaths.len(), n - 1, "seed {seed}: it gives all of them up");
    sum.majority.push(deaths[n / 2]);
    sum.all.push(deaths[n - 2]);
}

fn cut_off_of(n: usize, worlds: u64) -> CutOff {
    let mut sum = CutOff::default();
    for seed in 0..worlds {
        cut_off(seed, n, &mut sum);
    }
    sum
}

/// Kills so many of `n` at once; the times of each, and until the last survivor knew of the last.
fn kill(seed: u64, n: usize, killed: usize, figures: &mut Figures) -> u64 {
    let mut world = formed(seed, n);
    let pause = world.rng.random_range(0..2_000);
    world.run_for(pause);
    world.noted = Some(Vec::new());
    let mut watch = Crashes::default();
    for victim in index::sample(&mut world.rng, n, killed) {
        watch.crash(&mut world, victim);
    }
    let up = |w: &Who| world.nodes[*w].condition == Condition::Up;
    let survivors: Vec<Who> = (0..n).filter(up).collect();
    let end = world.now + PATIENCE_MS;
    while world.now < end && !watch.all_known(&survivors) {
        world.run_for(500);
        watch.take(&world.noted.replace(Vec::new()).unwrap_or_default());
    }
    let before = figures.all_dead.len();
    watch.figures(&survivors, figures);
    let times = figures.all_dead[before..].iter();
    assert_eq!(times.len(), killed, "seed {seed}: all are found");
    times.max().copied().unwrap_or(0)
}

fn killed_at_once(n: usize, killed: usize, worlds: u64) -> (Figures, Vec<u64>) {
    let mut figures = Figures::default();
    let last = (0..worlds).map(|seed| kill(seed, n, killed, &mut figures));
    let last = last.collect();
    (figures, last)
}

#[test]
#[ignore = "half a minute; prints two tables of docs/gossip.md"]
fn where_few_are_left() {
    let shortest = |n| {
        let least = suspicion_timeout(&GossipConfig::default(), n);
        format!("{:.1}", least.as_secs_f64())
    };
    let mut rows = Vec::new();
    for (n, worlds) in [(3, 300), (4, 300), (5, 300), (7, 200), (10, 200), (20, 100)] {
        let mut sum = cut_off_of(n, worlds);
        rows.push(vec![
            n.to_string(),
            worlds.to_string(),
            shortest(n),
            median_and_99th(&mut sum.majority),
            median_and_99th(&mut sum.all),
        ]);
    }
    let head = ["N", "runs", "least", "majority held dead", "all held dead"];
    println!(
        "\nOne node is cut off from all, seconds until it knows, median / 99th:\n\n{}",
        table(&head, &rows)
    );
    let mut rows = Vec::new();
    for (n, killed, worlds) in [
        (3, 1, 300),
        (4, 2, 300),
        (5, 3, 300),
        (8, 4, 200),
        (10, 8, 200),
        (16, 8, 100),
    ] {
        let (mut figures, mut last) = killed_at_once(n, killed, worlds);
        rows.push(vec![
            format!("{killed} of {n}"),
            worlds.to_string(),
            shortest(n),
            median_and_99th(&mut figures.first_dead),
            median_and_99th(&mut last),
        ]);
    }
    let head = [
        "killed",
        "runs",
        "least",
        "first held dead",
        "all dead everywhere",
    ];
    println!(
        "\nSeveral are killed at once, seconds until the others know, median / 99th:\n\n{}",
        table(&head, &rows)
    );
}

/// The price: a member that is blocked takes as many of the others for dead as one that is cut
/// off, and says so when the block ends.
#[test]
#[ignore = "half a minute; prints a table of docs/gossip.md"]
fn false_positives_where_few_are_left() {
    let row = |n: usize| {
        let (at_healthy, at_all) = of_one_blocked(n);
        vec![n.to_string(), format!("{at_healthy} / {at_all}")]
    };
    let rows: Vec<_> = [3, 4, 5, 7, 10, 20].map(row).into();
    println!(
        "\nFalse positives at healthy members / at all, one blocked:\n\n{}",
        table(&["N", "deaths"], &rows)
    );
}

/// What the tables must keep to, at sizes that take no time.
#[test]
fn few_find_out_soon() {
    for n in [4, 5] {
        let config = GossipConfig::default();
        let least = suspicion_timeout(&config, n).as_millis() as u64;
        let mut sum = cut_off_of(n, 10);
        // each of the others is probed once, some twice, ever more slowly; then the last has its
        // time, and nobody else's word is waited for
        let others = n as u64 - 1;
        let longest = others.min(u64::from(config.awareness_max)) * 1_000;
        let bound = 2 * others * longest + least;
        let all = super::percentile(&mut sum.all, 99).expect("some");
        assert!(all <= bound, "{n}: {all} ms");
    }
    let (mut figures, mut last) = killed_at_once(4, 2, 20);
    let found = super::percentile(&mut figures.first_suspected, 99).expect("some");
    let all = super::percentile(&mut last, 99).expect("some");
    // the second to be found has the least time, and so has the first from then on
    assert!(all <= found + 4_000 + 1_000, "{found} and {all} ms");
}
