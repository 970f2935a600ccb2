//! What a node sends, when nothing happens and while a crash is told.

use super::{SIZES, formed, largest, table};
use crate::gossip::{GossipConfig, core::suspicion_timeout, simulation::world::World};

/// Over so long, each.
const IDLE_MS: u64 = 30_000;

struct Rate {
    packets_per_s: f64,
    bytes_per_s: f64,
    exchange_bytes_per_s: f64,
}

/// Runs for a while; per node and second.
fn rate(world: &mut World, for_ms: u64) -> Rate {
    let before = world.counters.clone();
    world.run_for(for_ms);
    let after = &world.counters;
    let per_node = |count: u64| count as f64 * 1000.0 / for_ms as f64 / world.nodes.len() as f64;
    Rate {
        packets_per_s: per_node(after.sent - before.sent),
        bytes_per_s: per_node(after.sent_bytes - before.sent_bytes),
        exchange_bytes_per_s: per_node(after.exchange_bytes - before.exchange_bytes),
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
        busiest = busiest.max(rate.bytes_per_s);
        told += rate.bytes_per_s - idle.bytes_per_s;
        if rate.bytes_per_s > 1.2 * idle.bytes_per_s {
            last_busy = second;
        }
    }
    vec![
        n.to_string(),
        format!("{:.1}", idle.packets_per_s),
        format!("{:.0}", idle.bytes_per_s),
        format!("{:.0}", idle.exchange_bytes_per_s),
        format!("{busiest:.0}"),
        format!("{:.1}", told / 1024.0),
        last_busy.to_string(),
    ]
}

#[test]
#[ignore = "minutes; prints a table of docs/gossip.md"]
fn bytes_per_second() {
    let sizes = SIZES.into_iter().filter(|n| *n <= largest());
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
    assert!(large.bytes_per_s < small.bytes_per_s * 1.2);
    // a ping a second, answered, and pinged by one other on average
    assert!(
        (1.8..2.2).contains(&large.packets_per_s),
        "{}",
        large.packets_per_s
    );
}
