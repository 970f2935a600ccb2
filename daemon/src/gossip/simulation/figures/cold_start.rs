//! How long until all know all, from nothing.

use super::{is_wanted, parameters, percentile, table};
use crate::gossip::simulation::world::World;

const SIZES: [usize; 5] = [10, 100, 1_000, 3_000, 10_000];
/// More than so many, one after another, take hours.
const ONE_BY_ONE_MAX: usize = 3_000;
/// Up to so many, a row is the median of several runs.
const SEVERAL_MAX: usize = 1_000;
const PATIENCE_MS: u64 = 1_800_000;

struct Start {
    agreed_ms: u64,
    bytes_per_node: u64,
}

/// Runs until all know all; from the start of the last.
fn until_agreed(world: &mut World) -> Option<Start> {
    let last = world.now;
    while !world.all_are_right() {
        if world.now - last > PATIENCE_MS {
            return None;
        }
        world.run_for(50);
    }
    let counters = &world.counters;
    Some(Start {
        agreed_ms: world.now - last,
        bytes_per_node: (counters.sent_bytes + counters.exchange_bytes) / world.nodes.len() as u64,
    })
}

/// All start in the same millisecond.
fn at_once(n: usize, seed: u64) -> Option<Start> {
    one_after_another(n, 0, seed)
}

fn one_after_another(n: usize, gap_ms: u64, seed: u64) -> Option<Start> {
    let mut world = World::empty(parameters(seed, n));
    let seeds = world.seed_addresses();
    for _ in 0..n {
        world.join(0, &seeds);
        world.run_for(gap_ms);
    }
    until_agreed(&mut world)
}

/// Several runs, as far as that is a matter of minutes; none if one of them never came to an end.
fn runs(n: usize, run: impl Fn(u64) -> Option<Start>) -> Option<Vec<Start>> {
    let seeds = if n <= SEVERAL_MAX { 5 } else { 1 };
    (1..=seeds).map(run).collect()
}

/// "4.2 (0.7-5.1)": the median, and the least and most of several; then the KiB of a node.
fn cells(starts: Option<Vec<Start>>) -> [String; 2] {
    let Some(starts) = starts else {
        return ["never".into(), "-".into()];
    };
    let mut times: Vec<u64> = starts.iter().map(|s| s.agreed_ms).collect();
    let mut bytes: Vec<u64> = starts.iter().map(|s| s.bytes_per_node).collect();
    let at = |percent, values: &mut [u64]| percentile(values, percent).unwrap_or_default();
    let seconds = |percent, times: &mut [u64]| format!("{:.1}", at(percent, times) as f64 / 1000.0);
    let median = seconds(50, &mut times);
    let (least, most) = (seconds(0, &mut times), seconds(100, &mut times));
    let time = if times.len() > 1 {
        format!("{median} ({least}-{most})")
    } else {
        median
    };
    [time, (at(50, &mut bytes) / 1024).to_string()]
}

#[test]
#[ignore = "minutes; prints a table of docs/gossip.md"]
fn cold_start() {
    let row = |n: usize| {
        let once = cells(runs(n, |seed| at_once(n, seed)));
        let later = if n <= ONE_BY_ONE_MAX {
            cells(runs(n, |seed| one_after_another(n, 100, seed)))
        } else {
            ["-".into(), "-".into()]
        };
        [vec![n.to_string()], once.into(), later.into()].concat()
    };
    let sizes = SIZES.into_iter().filter(|n| is_wanted(*n));
    let rows: Vec<_> = sizes.map(row).collect();
    let head = [
        "N",
        "all at once: s",
        "KiB a node",
        "one each 100 ms: s after the last",
        "KiB a node",
    ];
    println!(
        "\nCold start with three seeds, until all know all:\n\n{}",
        table(&head, &rows)
    );
}

#[test]
fn a_cold_start_takes_seconds() {
    let start = at_once(40, 1).expect("they find together");
    assert!(start.agreed_ms < 10_000, "{} ms", start.agreed_ms);
}
