//! How long until all know all, from nothing.

use super::{is_wanted, parameters, table};
use crate::gossip::simulation::world::World;

const SIZES: [usize; 5] = [10, 100, 1_000, 3_000, 10_000];
/// More than so many, one after another, take hours.
const ONE_BY_ONE_MAX: usize = 3_000;
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

/// Everybody starts within `within_ms`.
fn at_once(n: usize, within_ms: u64) -> Option<Start> {
    one_after_another(n, within_ms / n as u64)
}

fn one_after_another(n: usize, gap_ms: u64) -> Option<Start> {
    let mut world = World::empty(parameters(1, n));
    let seeds = world.seed_addresses();
    for _ in 0..n {
        world.join(0, &seeds);
        world.run_for(gap_ms);
    }
    until_agreed(&mut world)
}

fn seconds(start: Option<&Start>) -> String {
    start.map_or("never".into(), |s| {
        format!("{:.1}", s.agreed_ms as f64 / 1000.0)
    })
}

fn kib(start: Option<&Start>) -> String {
    start.map_or("-".into(), |s| (s.bytes_per_node / 1024).to_string())
}

#[test]
#[ignore = "minutes; prints a table of docs/gossip.md"]
fn cold_start() {
    let row = |n: usize| {
        let once = at_once(n, 0);
        let one_by_one = n <= ONE_BY_ONE_MAX;
        let later = one_by_one.then(|| one_after_another(n, 100));
        vec![
            n.to_string(),
            seconds(once.as_ref()),
            kib(once.as_ref()),
            later.as_ref().map_or("-".into(), |l| seconds(l.as_ref())),
            kib(later.flatten().as_ref()),
        ]
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
    let start = at_once(40, 0).expect("they find together");
    assert!(start.agreed_ms < 10_000, "{} ms", start.agreed_ms);
}
