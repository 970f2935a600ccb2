//! Chaos, then calm, then agreement within a time that follows from the protocol.
//!
//! `RINGD_SIMULATION_SEEDS=1000..1200 cargo test --release -p ringd gossip::simulation::chaos --
//! --ignored` runs a band of seeds of one's own, `RINGD_SIMULATION_NODES` fixes how many nodes.

use rand::{Rng, seq::IndexedRandom};

use super::{
    counters::Counters,
    holds::{Hold, Stretch},
    network::Link,
    nodes::Condition,
    wiring::Wiring,
    world::{Parameters, World},
};
use crate::gossip::{GossipConfig, core};

/// The longest a node stands still.
const HOLD_MS_MAX: u64 = 12_000;
/// No more nodes than these times the first ones.
const GROWTH_MAX: usize = 2;

impl World {
    /// One thing goes wrong, or is mended.
    pub fn one_fault(&mut self) {
        let up = self.who_is_up();
        let down = self.who_is_down();
        let free: Vec<_> = up
            .iter()
            .copied()
            .filter(|n| self.nodes[*n].hold.is_none())
            .collect();
        let enough = up.len() * 2 > self.parameters.nodes;
        let some_up = free.choose(&mut self.rng).copied().filter(|_| enough);
        let other_up = up.choose(&mut self.rng).copied();
        let some_down = down.choose(&mut self.rng).copied();
        let few = self.nodes.len() < GROWTH_MAX * self.parameters.nodes + 4;
        if self.rng.random_bool(0.3) {
            self.rotate_keys();
        }
        let kind = self.rng.random_range(0..19);
        match (kind, some_up, some_down) {
            (0 | 1, Some(n), _) => self.crash(n),
            (2, Some(n), _) => self.stop(n),
            // the seed stays: it is the one address that everybody keeps
            (3, Some(n), _) if n >= self.parameters.seeds => self.leave(n),
            (4, Some(n), _) => {
                let length = self.rng.random_range(500..HOLD_MS_MAX);
                self.pause(n, length);
            }
            (5, Some(n), _) => self.some_overload(n),
            // some come back before anybody noticed
            (6, Some(n), _) | (7 | 8, _, Some(n)) => self.restart(n),
            (9, _, Some(n)) if n >= self.parameters.seeds => self.move_to_new_place(n),
            (10, _, Some(n)) if n >= self.parameters.seeds && few => {
                let cluster = self.rng.random_range(0..2);
                let contacts = match cluster {
                    0 => self.some_contacts(),
                    // the addresses of our members, as seeds of the wrong cluster
                    _ => [self.addresses_of(&up), self.foreign_addresses()].concat(),
                };
                self.recycle(n, cluster, &contacts);
            }
            (11, ..) if few => {
                let count = self.rng.random_range(1..4);
                let contacts = self.some_contacts();
                self.join_many(count, &contacts);
            }
            (12, ..) => {
                let groups = self.rng.random_range(1..=3);
                self.partition(groups);
            }
            (13, ..) => {
                if let (Some(a), Some(b)) = (up.first().copied(), other_up) {
                    let (a, b) = (self.nodes[a].place, self.nodes[b].place);
                    if a != b {
                        self.cut_one_way(a, b);
                    }
                }
            }
            (14, ..) => {
                if let Some(n) = other_up {
                    self.block_udp(self.nodes[n].place);
                }
            }
            (15, ..) => {
                if let (Some(a), Some(b)) = (some_up, other_up) {
                    let (a, b) = (self.nodes[a].place, self.nodes[b].place);
                    let bad = self.some_weather();
                    self.spoil_link(a, b, bad);
                }
            }
            (16, Some(by), Some(n)) => self.bury(by, n),
            // much of it passes
            (17, ..) => self.network.calm(Link::JITTERY),
            _ => {
                let weather = self.some_weather();
                let tcp_extra_ms = self.rng.random_range(0..3) * 150;
                self.weather(weather, tcp_extra_ms);
            }
        }
    }

    fn some_overload(&mut self, who: usize) {
        let stretch = Stretch {
            hold: if self.rng.random_bool(0.5) {
                Hold::Blocked
            } else {
                Hold::Paused
            },
            blocked_ms: self.rng.random_range(100..4_000),
            free_ms: self.rng.random_range(1..1_000),
            until_ms: self.now + self.rng.random_range(1_000..HOLD_MS_MAX),
        };
        self.overload(who, stretch);
    }

    fn some_weather(&mut self) -> Link {
        Link {
            delay_ms: 1..=self.rng.random_range(1..60),
            loss: self.rng.random_range(0.0..0.4),
            duplication: self.rng.random_range(0.0..0.1),
            late: self.rng.random_range(0.0..0.2),
            late_ms: self.rng.random_range(10..2_000),
            damage: self.rng.random_range(0.0..0.02),
        }
    }

    /// What an operator would give a new node: the seeds, and somebody who is up.
    fn some_contacts(&mut self) -> Vec<String> {
        let up = self.who_is_up();
        let one = up.choose(&mut self.rng).copied();
        let mut contacts = self.seed_addresses();
        contacts.extend(self.addresses_of(one.as_slice()));
        contacts
    }

    fn foreign_addresses(&self) -> Vec<String> {
        let foreign = |n: &usize| self.nodes[*n].cluster != 0;
        let all: Vec<_> = (0..self.nodes.len()).filter(foreign).collect();
        self.addresses_of(&all)
    }

    pub fn chaos(&mut self, duration_ms: u64) {
        let end = self.now + duration_ms;
        while self.now < end && self.violation.is_none() {
            self.one_fault();
            let pause = self.rng.random_range(100..3_000);
            self.run_for(pause);
        }
    }

    /// The network is whole again, whoever stood still goes on, and the seeds are up: the one
    /// address that a moved node and those it left behind have in common.
    pub fn calm(&mut self) {
        self.network.calm(Link::JITTERY);
        for seed in 0..self.parameters.seeds {
            if self.nodes[seed].condition.is_down() {
                self.restart(seed);
            }
        }
        self.run_for(2 * HOLD_MS_MAX + 4_000);
    }
}

/// How long until everybody agrees once all is calm. What may still be to do, one after the
/// other at worst:
///
/// 1. Nodes that found others silent probe seldom (Lifeguard's health): each probe that is
///    answered takes one off a score of `awareness_max`, so the first takes that many intervals,
///    the next one fewer, and so on.
/// 2. Halves that hold each other dead, or have never heard of each other, meet when one tries
///    the right address out of all that are gone: at most one in the members' number `n`, and
///    each half tries one each (jittered, so 6/5 of the) reconnect interval. To miss it
///    `3 n` times has a chance of e^-3 for a single node that tries; there are at least two, and
///    what is not found so is found through the seed, which is a contact of all.
/// 3. A member that is down but held alive is probed within `2 n - 1` probes of whoever holds
///    that, suspected a probe later, and dead after the longest suspicion. A suspicion that
///    began with a refuted or outdated claim may have to begin once more.
/// 4. What a rumor did not reach (its transmissions were used up while the cluster was in
///    parts) is exchanged: with somebody at random each (jittered) push/pull interval, so a few.
pub fn calm_bound_ms(config: &GossipConfig, n: usize) -> u64 {
    let probe = config.probe_interval.as_millis() as u64;
    let recovery =
        u64::from(config.awareness_max) * (u64::from(config.awareness_max) + 1) / 2 * probe;
    let meeting = 3 * n as u64 * config.reconnect_interval.as_millis() as u64 * 6 / 5;
    let suspicion = u64::from(config.suspicion_max_mult)
        * core::suspicion_timeout(config, n).as_millis() as u64;
    let detection = 2 * n as u64 * probe + 2 * suspicion;
    let exchanges = 3 * config.push_pull_interval.as_millis() as u64 * 6 / 5;
    recovery + meeting + detection + exchanges
}

pub struct Outcome {
    pub counters: Counters,
    pub trace: u64,
    /// How much of the bound agreement took, in percent.
    pub used_percent: u64,
}

pub fn chaos_run(parameters: Parameters, duration_ms: u64) -> Outcome {
    let mut world = World::new(parameters);
    world.settle(30_000);
    world.chaos(duration_ms);
    world.calm();
    let up = world
        .nodes
        .iter()
        .filter(|n| n.condition == Condition::Up)
        .count();
    let bound = calm_bound_ms(&world.parameters.config, world.nodes.len().max(up));
    let took = world.settle(bound);
    Outcome {
        trace: world.trace(),
        counters: world.counters,
        used_percent: took * 100 / bound,
    }
}

/// Every fault there is was there, and the members took notice.
fn assert_not_vacuous(c: &Counters) {
    let seen = [
        ("lost", c.lost, 1000),
        ("cut", c.cut, 1000),
        ("duplicated", c.duplicated, 100),
        ("held up", c.held_up, 100),
        ("unheard", c.unheard, 100),
        ("waited", c.waited, 100),
        ("crashes", c.crashes, 5),
        ("stops", c.stops, 3),
        ("leaves", c.leaves, 3),
        ("pauses", c.pauses, 3),
        ("blocks", c.blocks, 3),
        ("restarts", c.restarts, 5),
        ("fast restarts", c.fast_restarts, 3),
        ("moves", c.moves, 1),
        ("joins", c.joins, 5),
        ("burials", c.burials, 1),
        ("recycled", c.recycled, 1),
        ("recycled by foreigners", c.recycled_by_foreigners, 1),
        ("partitions", c.partitions, 3),
        ("one-way cuts", c.one_way_cuts, 1),
        ("udp blocks", c.udp_blocks, 1),
        ("bad links", c.bad_links, 1),
        ("slow tcp", c.slow_tcp, 10),
        ("flipped", c.flipped, 50),
        ("cut short", c.cut_short, 20),
        ("refused as damaged", c.refused_damaged, 50),
        ("refused under a seal", c.refused_sealed, 20),
        ("refused as replays", c.refused_replays, 20),
        ("newer version", c.newer_version, 100),
        ("refused for their version", c.refused_version, 1),
        ("exchanges equal", c.exchanges_equal, 100),
        ("exchanges differing", c.exchanges_differing, 100),
        ("exchanged lists", c.exchange_lists, 100),
        ("exchanges cut", c.exchanges_cut, 50),
        ("exchanges late", c.exchanges_late, 50),
        ("exchanges refused", c.exchanges_refused, 1),
        ("keys installed", c.keys_installed, 20),
        ("keys used", c.keys_used, 10),
        ("keys removed", c.keys_removed, 5),
        ("tcp probes", c.tcp_probes, 50),
        ("tcp answers", c.tcp_answers, 10),
        ("suspected", c.suspected, 50),
        ("dead", c.dead, 50),
        ("refuted", c.refuted, 5),
        ("returned", c.returned, 50),
        ("restarted", c.restarted, 20),
        ("stopped", c.stopped, 10),
        ("left", c.left, 10),
        ("moved", c.moved, 10),
        ("udp noticed", c.udp_noticed, 1),
        ("foreign", c.foreign_met + c.foreign_contacts, 1),
    ];
    for (name, count, least) in seen {
        assert!(count >= least, "{name}: {count} of at least {least}; {c:?}");
    }
}

/// Every third run has keys.
fn wired(seed: u64, n: usize) -> Parameters {
    let wiring = if seed.is_multiple_of(3) {
        Wiring::Sealed
    } else {
        Wiring::Plain
    };
    Parameters {
        wiring,
        ..Parameters::new(seed, n)
    }
}

/// The seeds of a continuous integration run: seconds.
#[test]
fn after_chaos_everybody_agrees_on_the_truth() {
    let mut sum = Counters::default();
    let mut slowest = 0;
    let small = (1..=10).map(|seed| (seed, 2 + seed as usize % 5));
    let larger = (11..=18).map(|seed| (seed, 8 + 2 * (seed as usize - 11)));
    let large = [(19, 40), (20, 60)];
    for (seed, n) in small.chain(larger).chain(large) {
        let outcome = chaos_run(wired(seed, n), 60_000);
        sum.add(&outcome.counters);
        slowest = slowest.max(outcome.used_percent);
    }
    println!("{sum:?}\nat most {slowest} % of the bound");
    assert_not_vacuous(&sum);
}

/// A larger band; see the head of this file.
#[test]
#[ignore = "minutes of simulated chaos; run when the protocol changes"]
fn after_much_chaos_everybody_agrees_on_the_truth() {
    let (first, last) = seeds_wanted();
    let fixed: Option<usize> = number("RINGD_SIMULATION_NODES");
    let (mut sum, mut slowest) = (Counters::default(), 0);
    for seed in first..last {
        let n = fixed.unwrap_or(2 + (seed as usize * 7) % 40);
        let outcome = chaos_run(wired(seed, n), 60_000 + seed % 7 * 20_000);
        sum.add(&outcome.counters);
        slowest = slowest.max(outcome.used_percent);
    }
    println!("{sum:?}\nat most {slowest} % of the bound");
}

/// `RINGD_SIMULATION_SEEDS`: one number, or `first..last`.
fn seeds_wanted() -> (u64, u64) {
    let text = std::env::var("RINGD_SIMULATION_SEEDS").unwrap_or_else(|_| "1000..1100".into());
    let seeds = match text.split_once("..") {
        Some((first, last)) => first.parse().ok().zip(last.parse().ok()),
        None => text.parse().ok().map(|one: u64| (one, one + 1)),
    };
    seeds.expect("RINGD_SIMULATION_SEEDS is a number or first..last")
}

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed, wiring| {
        let parameters = Parameters {
            wiring,
            mixed: false,
            ..Parameters::new(seed, 8)
        };
        chaos_run(parameters, 30_000)
    };
    let first = run(42, Wiring::Plain);
    let again = run(42, Wiring::Plain);
    assert_eq!(first.trace, again.trace);
    assert_eq!(first.counters, again.counters);
    assert_ne!(first.trace, run(43, Wiring::Plain).trace);
    // and the codec changes nothing
    assert_eq!(first.trace, run(42, Wiring::Values).trace);
    let sealed = run(42, Wiring::Sealed);
    assert_eq!(sealed.trace, run(42, Wiring::Sealed).trace);
    assert_ne!(sealed.trace, first.trace, "what is doubled is taken once");
}
