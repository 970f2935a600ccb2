//! Chaos, then calm, then agreement within a time that follows from the protocol.
//!
//! `RINGD_SIMULATION_SEEDS=1000..1200 cargo test --release -p ringd gossip::simulation::chaos --
//! --ignored` runs seeds of one's own, `RINGD_SIMULATION_NODES` fixes how many nodes, and
//! `RINGD_SIMULATION_CHAOS_MS` for how long things go wrong. `floors.rs` asks whether enough did.

use rand::{Rng, seq::IndexedRandom};

use super::{
    counters::Counters,
    floors::{BAND_RUNS, Band},
    holds::{Hold, Stretch},
    names::Who,
    network::Link,
    wiring::Wiring,
    world::{Parameters, World},
};
use crate::gossip::{GossipConfig, core};

/// The longest a node stands still.
const HOLD_MS_MAX: u64 = 12_000;
/// No more nodes than these times the first ones.
const GROWTH_MAX: usize = 2;

/// A kind of thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Crash,
    Stop,
    Leave,
    Pause,
    Overload,
    /// Back before anybody noticed.
    FastRestart,
    Restart,
    Move,
    Recycle,
    ForeignRecycle,
    Join,
    Partition,
    OneWayCut,
    UdpBlock,
    BadLink,
    Burial,
    /// The network is mended.
    Relief,
    Weather,
    // what is in weather and on bad links
    Loss,
    Duplication,
    Lateness,
    Damage,
    SlowTcp,
    /// The operator gives the next order about keys.
    NewKeys,
    /// The seeds are down when all else is calm.
    SeedsDown,
}

/// What comes next is one of these; what cannot be just then is weather.
const DRAWN: [Fault; 20] = [
    Fault::Crash,
    Fault::Crash,
    Fault::Stop,
    Fault::Leave,
    Fault::Pause,
    Fault::Overload,
    Fault::FastRestart,
    Fault::Restart,
    Fault::Restart,
    Fault::Move,
    Fault::Recycle,
    Fault::ForeignRecycle,
    Fault::Join,
    Fault::Partition,
    Fault::OneWayCut,
    Fault::UdpBlock,
    Fault::BadLink,
    Fault::Burial,
    Fault::Relief,
    Fault::Weather,
];

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
        let roams = self.parameters.roams;
        let seeds = self.parameters.seeds;
        let free_place = down
            .iter()
            .copied()
            .filter(|n| *n >= seeds && self.is_free(*n));
        let free_place = free_place.collect::<Vec<_>>();
        let free_place = free_place.choose(&mut self.rng).copied();
        let few = roams && self.nodes.len() < GROWTH_MAX * self.parameters.nodes + 4;
        if self.rng.random_bool(0.3) && self.takes_place(Fault::NewKeys) {
            self.rotate_keys();
        }
        let fault = *DRAWN.choose(&mut self.rng).expect("there are some");
        if fault != Fault::Weather && !self.takes_place(fault) {
            return;
        }
        match (fault, some_up, some_down) {
            (Fault::Crash, Some(n), _) => self.crash(n),
            (Fault::Stop, Some(n), _) => self.stop(n),
            // the seed stays: it is the one address that everybody keeps
            (Fault::Leave, Some(n), _) if n >= seeds => self.leave(n),
            (Fault::Pause, Some(n), _) => {
                let length = self.rng.random_range(500..HOLD_MS_MAX);
                self.pause(n, length);
            }
            (Fault::Overload, Some(n), _) => self.some_overload(n),
            (Fault::FastRestart, Some(n), _) | (Fault::Restart, _, Some(n)) => self.restart(n),
            (Fault::Move, _, Some(n)) if roams && n >= seeds => {
                self.move_to_new_place(n);
            }
            (Fault::Recycle, ..) if few && free_place.is_some() => {
                let contacts = self.some_contacts();
                free_place.map(|n| self.recycle(n, 0, &contacts));
            }
            (Fault::ForeignRecycle, ..) if few && free_place.is_some() => {
                // the addresses of our members, as seeds of the wrong cluster
                let contacts = [self.addresses_of(&up), self.foreign_addresses()].concat();
                free_place.map(|n| self.recycle(n, 1, &contacts));
            }
            (Fault::Join, ..) if few => {
                let count = self.rng.random_range(1..4);
                let contacts = self.some_contacts();
                self.join_many(count, &contacts);
            }
            (Fault::Partition, ..) => {
                let groups = self.rng.random_range(1..=3);
                self.partition(groups);
            }
            (Fault::OneWayCut, ..) => {
                if let (Some(a), Some(b)) = (up.first().copied(), other_up) {
                    let (a, b) = (self.nodes[a].place, self.nodes[b].place);
                    if a != b {
                        self.cut_one_way(a, b);
                    }
                }
            }
            (Fault::UdpBlock, ..) => {
                if let Some(n) = other_up {
                    self.block_udp(self.nodes[n].place);
                }
            }
            (Fault::BadLink, ..) => {
                if let (Some(a), Some(b)) = (some_up, other_up) {
                    let (a, b) = (self.nodes[a].place, self.nodes[b].place);
                    let bad = self.some_weather();
                    self.spoil_link(a, b, bad);
                }
            }
            (Fault::Burial, Some(by), _) => {
                let shown = down.into_iter().filter(|n| self.could_bury(by, *n));
                let shown = shown.collect::<Vec<_>>();
                if let Some(n) = shown.choose(&mut self.rng) {
                    self.bury(by, *n);
                }
            }
            // much of it passes
            (Fault::Relief, ..) => self.relieve(),
            _ => self.some_weather_for_all(),
        }
    }

    /// Whether a fault comes when it is its turn: always, unless a test makes it rare.
    fn takes_place(&mut self, fault: Fault) -> bool {
        match self.parameters.rarer {
            Some((rarer, share)) if rarer == fault => self.rng.random_bool(share),
            _ => true,
        }
    }

    /// A rate up to `most`, or nought where a test makes the fault rare.
    fn some_rate(&mut self, fault: Fault, most: f64) -> f64 {
        let rate = self.rng.random_range(0.0..most);
        if self.takes_place(fault) { rate } else { 0.0 }
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
            loss: self.some_rate(Fault::Loss, 0.4),
            duplication: self.some_rate(Fault::Duplication, 0.1),
            late: self.some_rate(Fault::Lateness, 0.2),
            late_ms: self.rng.random_range(10..2_000),
            damage: self.some_rate(Fault::Damage, 0.02),
        }
    }

    fn some_weather_for_all(&mut self) {
        let weather = self.some_weather();
        let mut tcp_extra_ms = self.rng.random_range(0..3) * 150;
        if !self.takes_place(Fault::SlowTcp) {
            tcp_extra_ms = 0;
        }
        if self.takes_place(Fault::Weather) {
            self.weather(weather, tcp_extra_ms);
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

    /// The network is whole again, and whoever stood still goes on. Where nodes came to other
    /// places the seeds are up as well: the one address that a moved or new node and those that
    /// were there before have in common. Where all stayed they find each other without.
    pub fn calm(&mut self) {
        self.network.calm(self.parameters.link.clone());
        let c = &self.counters;
        let came = c.moves + c.joins + c.recycled + c.recycled_by_foreigners > 0;
        for seed in 0..self.parameters.seeds {
            self.calm_seed(seed, came);
        }
        self.run_for(2 * HOLD_MS_MAX + 4_000);
    }

    fn calm_seed(&mut self, seed: Who, came: bool) {
        let down = self.nodes[seed].condition.is_down();
        let ends = !came && (down || self.parameters.ends_without_seeds);
        if !ends || !self.takes_place(Fault::SeedsDown) {
            if down {
                self.restart(seed);
            }
            return;
        }
        if !down {
            if self.nodes[seed].hold.is_some() {
                self.release(seed);
            }
            self.crash(seed);
        }
        self.counters.seeds_down += 1;
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
    /// Until the first agreement, and until that after the chaos.
    pub formed_ms: u64,
    pub took_ms: u64,
    /// How much of the bound that took, in percent.
    pub used_percent: u64,
}

pub fn chaos_run(parameters: Parameters) -> Outcome {
    let mut world = World::new(parameters);
    let formed_ms = world.settle(20_000);
    world.chaos(world.parameters.chaos_ms);
    world.calm();
    let bound = calm_bound_ms(&world.parameters.config, world.nodes.len());
    let took = world.settle(bound);
    Outcome {
        trace: world.trace(),
        counters: world.counters,
        formed_ms,
        took_ms: took,
        used_percent: took * 100 / bound,
    }
}

/// Every third run has keys. In every fourth nobody moves and nobody is new, and every other of
/// those ends without seeds.
pub fn wired(seed: u64, n: usize) -> Parameters {
    let wiring = if seed % 3 == 1 {
        Wiring::Sealed
    } else {
        Wiring::Plain
    };
    Parameters {
        wiring,
        roams: !seed.is_multiple_of(4),
        ends_without_seeds: seed % 8 == 4,
        ..Parameters::new(seed, n)
    }
}

/// The seeds of a continuous integration run: seconds.
#[test]
fn after_chaos_everybody_agrees_on_the_truth() {
    let band = Band::run(0, |_| ());
    println!("{}", band.told());
    band.assert_sound();
}

/// A larger band; see the head of this file.
#[test]
#[ignore = "minutes of simulated chaos; run when the protocol changes"]
fn after_much_chaos_everybody_agrees_on_the_truth() {
    let (first, last) = seeds_wanted();
    let fixed: Option<usize> = number("RINGD_SIMULATION_NODES");
    let chaos_ms = number("RINGD_SIMULATION_CHAOS_MS");
    let mut band = Band::default();
    for seed in first..last {
        let n = fixed.unwrap_or(2 + (seed as usize * 7) % 40);
        band.add(Parameters {
            chaos_ms: chaos_ms.unwrap_or(60_000 + seed % 7 * 20_000),
            ..wired(seed, n)
        });
    }
    println!("{}", band.told());
    // no fewer runs than the floors are for, and no smaller ones
    if last - first >= 2 * BAND_RUNS && fixed.is_none() && chaos_ms.is_none() {
        band.assert_sound();
    }
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

pub fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed, wiring| {
        let parameters = Parameters {
            wiring,
            mixed: false,
            chaos_ms: 30_000,
            ..Parameters::new(seed, 8)
        };
        chaos_run(parameters)
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
