//! What a node sends, when nothing happens and while a crash is told.

use super::{SIZES, formed, largest, table};
use crate::gossip::simulation::world::World;

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
    let victim = n / 2;
    world.crash(victim);
    // from the crash on, second by second: the busiest
    let mut busiest = 0.0f64;
    let (mut packets, mut seconds) = (0.0, 0);
    while seconds < 60 && !(seconds > 10 && packets < idle.packets_per_s * 1.05) {
        let second = rate(&mut world, 1000);
        busiest = busiest.max(second.bytes_per_s);
        packets = second.packets_per_s;
        seconds += 1;
    }
    vec![
        n.to_string(),
        format!("{:.1}", idle.packets_per_s),
        format!("{:.0}", idle.bytes_per_s),
        format!("{:.0}", idle.exchange_bytes_per_s),
        format!("{busiest:.0}"),
        seconds.to_string(),
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
        "bytes/s after a crash, at most",
        "quiet again after, s",
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
