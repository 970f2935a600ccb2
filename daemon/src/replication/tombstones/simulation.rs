//! One key, three replicas, four coordinators, and everything that can be late: frames, paused
//! operations, hints, comparisons, clocks far apart, a store that is lost. The rules decide when
//! its tombstone goes; whatever was superseded by an acknowledged write must never be seen again.
//! Each rule left out is noticed. A seed gives the same run every time.

mod world;

use ringmaster_shared::{
    clock::Hlc,
    version::{Record, Sibling},
};

use self::world::{Broken, Frame, GRACE_MS, NODES, STEPS, World, dot};
use crate::replication::testing::{alone, number};

#[derive(Default)]
struct Totals {
    forgotten: usize,
    refused: usize,
    acknowledged: usize,
}

fn run(seed: u64, broken: Broken, totals: &mut Totals) -> Result<(), String> {
    let mut world = World::new(seed, broken);
    let mut result = Ok(());
    for step in 0..STEPS {
        result = world.step();
        if let Err(what) = &mut result {
            *what = format!("seed {seed}, step {step}: {what}");
            break;
        }
    }
    totals.forgotten += world.forgotten;
    totals.refused += world.refused;
    totals.acknowledged += world.writes.iter().filter(|w| w.acknowledged).count();
    result
}

#[test]
fn what_was_superseded_never_comes_back() {
    let mut totals = Totals::default();
    for seed in 0..150 {
        let result = run(seed, Broken::Nothing, &mut totals);
        assert_eq!(result, Ok(()));
    }
    println!(
        "{} acknowledged writes, {} tombstones forgotten, {} late frames refused",
        totals.acknowledged, totals.forgotten, totals.refused
    );
    assert!(totals.acknowledged > 300 && totals.forgotten > 300 && totals.refused > 300);
}

#[test]
fn each_rule_left_out_is_noticed() {
    // with the seed from which on it is noticed soon
    for (broken, from) in [
        (Broken::FloorsIgnored, 192),
        (Broken::HintsForgotten, 183),
        (Broken::WritesByStamp, 2341),
        (Broken::ComparisonsBySending, 192),
    ] {
        let mut totals = Totals::default();
        let red = (from..from + 3000).find_map(|seed| run(seed, broken, &mut totals).err());
        println!("{broken:?}: {red:?}");
        assert!(red.is_some(), "{broken:?} goes unnoticed");
    }
}

/// A deleted key, held as such by all, and what a comparison had read at a third replica, before
/// that one heard of the tombstone.
fn late_comparison(world: &mut World) -> Frame {
    let sibling = |n: usize, at: u64, value| Sibling {
        dot: dot(n, n as u64),
        hlc: Hlc::from_parts(at, 0),
        value,
    };
    let value = sibling(0, world.now, Some(number(1)));
    world.superseded.insert(value.dot.clone());
    let value = alone(value);
    let gone = sibling(1, world.now + 1, None);
    let gone = Record::written(&value, &value.clock, gone);
    for replica in 0..3 {
        world.replicas[replica].record = gone.clone();
    }
    world.now += 2 * GRACE_MS;
    Frame::Merge {
        to: 1,
        issued: world.stamp(2, Hlc(0)),
        record: value,
        write: None,
    }
}

/// What is under way arrives, however stuck.
fn deliver_all(world: &mut World) {
    world.steps += 1000;
    world.loosen();
    while !world.frames.is_empty() {
        world.deliver();
    }
}

/// A replica loses its store after it confirmed and before the drop. What the comparison had read
/// is above the floor it starts with.
fn lose_a_store_between(broken: Broken) -> Result<(), String> {
    let mut world = World::new(1, broken);
    world.skew = [0; NODES];
    world.go_by([GRACE_MS; NODES]);
    let comparison = late_comparison(&mut world);
    while !world.book.is_pending(0) {
        world.collect();
    }
    let Frame::Merge { record: value, .. } = comparison.clone() else {
        unreachable!("a comparison merges")
    };
    world.lose(1);
    world.frames.push(comparison);
    deliver_all(&mut world);
    assert_eq!(
        world.replicas[1].record, value,
        "it was not below the floor"
    );
    world.now += 2 * GRACE_MS;
    for _ in 0..20 {
        world.collect();
        deliver_all(&mut world);
    }
    world.lose_or_refill();
    (0..50).try_for_each(|_| world.look())
}

#[test]
fn the_second_check_notices_a_store_that_was_lost_after_the_first() {
    assert_eq!(lose_a_store_between(Broken::Nothing), Ok(()));
    let red = lose_a_store_between(Broken::OneCheck);
    assert!(red.is_err(), "without it nothing would be noticed");
}

/// A replica that goes by a longer grace than the collector loses its store as soon as the tombstone
/// is gone everywhere. Its clock is behind, that of who compared is ahead.
fn lose_a_store_after(broken: Broken) -> Result<(), String> {
    let mut world = World::new(1, broken);
    let skew = (GRACE_MS / 10).cast_signed();
    world.skew = [0, -skew, skew, 0];
    world.go_by([GRACE_MS / 4, GRACE_MS, GRACE_MS, GRACE_MS]);
    let comparison = late_comparison(&mut world);
    while !world.book.is_pending(0) {
        world.collect();
    }
    for _ in 0..3 * GRACE_MS {
        world.now += 1;
        for _ in 0..NODES {
            world.collect();
        }
        deliver_all(&mut world);
        if world.forgotten == 3 {
            break;
        }
    }
    assert_eq!(world.forgotten, 3, "it was let go in time");
    world.lose(1);
    world.frames.push(comparison);
    deliver_all(&mut world);
    world.lose_or_refill();
    (0..50).try_for_each(|_| world.look())
}

#[test]
fn the_grace_of_who_waits_longest_keeps_its_floor_above_what_is_late() {
    assert_eq!(lose_a_store_after(Broken::Nothing), Ok(()));
    let red = lose_a_store_after(Broken::OthersGraceIgnored);
    assert!(red.is_err(), "without it nothing would be noticed");
}

/// The collector's clock is three days ahead for many graces, and is then set right: no floor of that
/// time is left that would refuse what is written from then on.
#[test]
fn a_clock_that_was_days_ahead_leaves_no_floor_behind() {
    const DAYS: u64 = 3 * 24 * 60 * 60 * 1000;
    let mut world = World::new(1, Broken::Nothing);
    world.skew = [DAYS.cast_signed(), 0, 0, 0];
    world.go_by([GRACE_MS; NODES]);
    drop(late_comparison(&mut world));
    let graces = |world: &mut World| {
        for _ in 0..8 * GRACE_MS {
            world.now += 1;
            for _ in 0..NODES {
                world.collect();
            }
            deliver_all(world);
        }
    };
    graces(&mut world);
    world.set_clock(0);
    for at in 0..NODES {
        assert_eq!(world.write_through(at), 3, "through n{at}");
    }
    assert_eq!(world.forgotten, 0);
    // and what waited is forgotten, now that the clocks agree
    drop(late_comparison(&mut world));
    graces(&mut world);
    assert_eq!(world.forgotten, 3);
}
