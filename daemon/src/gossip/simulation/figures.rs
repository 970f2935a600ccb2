//! The figures of `docs/gossip.md`, printed as its tables:
//!
//! `cargo test --release -p ringd gossip::simulation::figures -- --ignored --nocapture
//! --test-threads=1`
//!
//! All times are simulated ones, on a quiet network of 1 to 2 ms, with the default parameters.
//! Nothing here asserts a wish: small runs of the same code, in `detection.rs` and its
//! neighbours, hold the figures to what the protocol promises.

mod cold_start;
mod detection;
mod false_positives;
mod few_left;
mod traffic;

use std::fmt::Write as _;

use super::{
    network::Link,
    wiring::Wiring,
    world::{Parameters, World},
};
use crate::gossip::GossipConfig;

/// Sizes that stand in the tables.
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

/// `RINGD_FIGURES_LARGEST` leaves out what is larger, less time and memory, and
/// `RINGD_FIGURES_SMALLEST` what is smaller.
fn is_wanted(nodes: usize) -> bool {
    let bound = |name: &str, other| {
        let wanted = std::env::var(name).ok();
        wanted.and_then(|n| n.parse().ok()).unwrap_or(other)
    };
    let smallest = bound("RINGD_FIGURES_SMALLEST", 0);
    (smallest..=bound("RINGD_FIGURES_LARGEST", usize::MAX)).contains(&nodes)
}

/// As a figure wants it: a quiet network, packets handed over, nothing judged.
fn parameters(seed: u64, nodes: usize) -> Parameters {
    Parameters {
        link: Link::LAN,
        wiring: Wiring::Values,
        checked: false,
        seeds: 3,
        ..Parameters::new(seed, nodes)
    }
}

fn formed(seed: u64, nodes: usize) -> World {
    formed_with(seed, nodes, GossipConfig::default())
}

fn formed_with(seed: u64, nodes: usize, config: GossipConfig) -> World {
    let mut world = World::formed(Parameters {
        config,
        ..parameters(seed, nodes)
    });
    // probes and exchanges come to be spread over their intervals
    world.run_for(3_000);
    world
}

/// The value below which so many percent lie; none of none.
fn percentile(values: &mut [u64], percent: usize) -> Option<u64> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    Some(values[(values.len() * percent / 100).min(last)])
}

/// "2.3 / 4.0": seconds, median and 99th.
fn median_and_99th(values: &mut [u64]) -> String {
    let seconds = |percent, values: &mut [u64]| {
        percentile(values, percent).map_or("-".into(), |ms| format!("{:.1}", ms as f64 / 1000.0))
    };
    format!("{} / {}", seconds(50, values), seconds(99, values))
}

/// A table in Markdown, columns padded.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
    };
    line(&mut head.iter().map(|h| (*h).to_owned()));
    line(&mut widths.iter().map(|w| "-".repeat(*w)));
    for row in rows {
        line(&mut row.iter().cloned());
    }
    text
}

#[test]
fn percentiles_and_tables() {
    let mut values: Vec<u64> = (1..=100).rev().collect();
    assert_eq!(percentile(&mut values, 50), Some(51));
    assert_eq!(percentile(&mut values, 99), Some(100));
    assert_eq!(percentile(&mut [], 50), None);
    assert_eq!(median_and_99th(&mut [1500]), "1.5 / 1.5");
    let printed = table(&["N", "time"], &[vec!["1000".into(), "2".into()]]);
    assert_eq!(
        printed,
        "| N    | time |\n| ---- | ---- |\n| 1000 | 2    |\n"
    );
}
