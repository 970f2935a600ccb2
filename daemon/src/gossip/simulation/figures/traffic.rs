//! What a node sends, when nothing happens and while a crash is told.

use super::{SIZES, formed, is_wanted, table};
use crate::gossip::{GossipConfig, core::suspicion_timeout, simulation::world::World};

/// Over so long, each.
const IDLE_MS: u64 = 30_000;

/// Per node and second.
struct Rate {
    packets: f64,
    bytes: f64,
    exchanged: f64,
}

/// Runs for a while.
fn rate(world: &mut World, for_ms: u64) -> Rate {
    let before = world.counters.clone();
    world.run_for(for_ms);
    let after = &world.counters;
    let per_node = |count: u64| count as f64 * 1000.0 / for_ms as f64 / world.nodes.len() as f64;
    Rate {
        packets: per_node(after.sent - before.sent),
        bytes: per_node(after.sent_bytes - before.sent_bytes),
        exchanged: per_node(after.exchange_bytes - before.exchange_bytes),
    }
}

fn row(n: usize) -> Vec<String> {
    let mut world = formed(1, n);
    let idle = rate(&mut world, IDLE_MS);
    world.crash(n / 2);
    // second by second, until the death is old news everywhere
    let watched_s = 30 + suspicion_timeout(&GossipConfig::default(), n).as_secs();
    let (mut busiest, mut told, mut last_busy) = (0.0f64, 0.0, 0);
    for second in 1..=watched_s {
        let rate = rate(&mut world, 1000);
        busiest = busiest.max(rate.bytes);
        told += rate.bytes - idle.bytes;
        if rate.bytes > 1.2 * idle.bytes {
            last_busy = second;
        }
    }
    vec![
        n.to_string(),
        format!("{:.1}", idle.packets),
        format!("{:.0}", idle.bytes),
        format!("{:.0}", idle.exchanged),
        format!("{busiest:.0}"),
        format!("{:.1}", told / 1024.0),
        last_busy.to_string(),
    ]
}

#[test]
#[ignore = "minutes; prints a table of docs/gossip.md"]
fn bytes_per_second() {
    let sizes = SIZES.into_iter().filter(|n| is_wanted(*n));
    let rows: Vec<_> = sizes.map(row).collect();
    let head = [
        "N",
        "packets/s idle",
        "bytes/s idle",
        "exchange bytes/s idle",
        "crash: busiest second, bytes",
        "crash: KiB in all",
        "crash: quiet after, s",
    ];
    println!("\nWhat each node sends:\n\n{}", table(&head, &rows));
}

/// A node's idle traffic does not grow with the cluster.
#[test]
fn idle_traffic_does_not_grow() {
    let [small, large] = [8, 80].map(|n| rate(&mut formed(1, n), 10_000));
    assert!(large.bytes < small.bytes * 1.2);
    // a ping a second, answered, and pinged by one other on average
    assert!((1.8..2.2).contains(&large.packets), "{}", large.packets);
}
