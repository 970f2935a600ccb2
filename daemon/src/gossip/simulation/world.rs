//! The nodes, the time, and what goes from one to the other.
//!
//! One thread, one clock of milliseconds. A run is a function of its [`Parameters`]: every
//! random number comes from the seed, and nothing is iterated in the order of a hash.

use rand::{SeedableRng, rngs::SmallRng};

use super::{
    agenda::Agenda,
    chaos::Fault,
    checks::{Checks, Violation},
    connections::Call,
    counters::Counters,
    holds::{Hold, Stretch},
    judging::Noted,
    keys::Order,
    names::{self, Place, Who},
    network::{Link, Network},
    nodes::{Condition, Node},
    wiring::{Letter, Wiring},
};
use crate::gossip::{
    GossipConfig,
    claim::Now,
    core::{Output, broken::Broken},
};

const UNIX_MS: u64 = 1_780_000_000_000;
/// Packets the socket of a node that stands still keeps; about what 208 KiB hold.
const SOCKET_PACKETS: usize = 256;
/// How often the checks that need a walk are made.
const WALK_MS: u64 = 1_000;

/// What a run is a function of.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub seed: u64,
    pub nodes: usize,
    pub config: GossipConfig,
    /// Everybody is given the addresses of the first so many.
    pub seeds: usize,
    pub link: Link,
    pub wiring: Wiring,
    /// Every other life of a node speaks one version more: upgrades, and ways back.
    pub mixed: bool,
    /// Nodes move, new ones come, and addresses are used again.
    pub roams: bool,
    /// How long things go wrong.
    pub chaos_ms: u64,
    /// The seeds are down when that is over, and stay so where all nodes stayed where they were.
    pub ends_without_seeds: bool,
    /// Every change of every list is judged.
    pub checked: bool,
    /// Of this kind of fault only such a share comes, to see that it is missed.
    pub rarer: Option<(Fault, f64)>,
}

impl Parameters {
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            nodes,
            config: GossipConfig::default(),
            seeds: 1,
            link: Link::JITTERY,
            wiring: Wiring::Plain,
            mixed: true,
            roams: true,
            chaos_ms: 60_000,
            ends_without_seeds: false,
            checked: true,
            rarer: None,
        }
    }
}

pub enum Event {
    Wake(Who),
    Arrival(Arrival),
    /// A hold ends, if it is still that one.
    Release(Who, u32),
    /// The next stretch of a node that is blocked now and then.
    BlockAgain(Who, Stretch),
    /// The time of an exchange is up, if it is still that one.
    ExchangeOver(Who, Place, u64),
    /// The operator's next order about keys reaches a node.
    Order(Who),
}

/// What reaches an address.
pub struct Arrival {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) what: What,
}

impl Arrival {
    pub fn udp(from: Place, to: Place, letter: Letter) -> Self {
        let what = What::Udp(letter);
        Self { from, to, what }
    }
}

pub enum What {
    Udp(Letter),
    Tcp(Box<Call>),
}

/// What a core is in the middle of, for those who look at what it sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Ticking,
    Answering,
}

pub struct World {
    pub parameters: Parameters,
    pub now: u64,
    pub rng: SmallRng,
    pub nodes: Vec<Node>,
    /// Who was last at an address; it may be down.
    pub occupants: Vec<Option<Who>>,
    pub network: Network,
    pub counters: Counters,
    pub checks: Checks,
    /// The first rule broken, where that is expected; else it panics.
    pub violation: Option<Violation>,
    pub violation_expected: bool,
    /// New cores break this.
    pub broken: Option<Broken>,
    /// Changes to anything but alive are noted here while somebody wants them.
    pub noted: Option<Vec<Noted>>,
    /// Pairs (observer, other), both up, where the other is held alive in its present life.
    pub right_pairs: usize,
    pub(super) agenda: Agenda<Event>,
    pub(super) orders: Vec<Order>,
    pub(super) trace: u64,
    pub(super) next_walk_ms: u64,
    _told: Told,
}

/// Whatever panics in a run, in a core too, the run is named.
struct Told {
    seed: u64,
    nodes: usize,
}

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was seed {}, {} nodes at first", self.seed, self.nodes);
        }
    }
}

impl World {
    pub fn new(parameters: Parameters) -> Self {
        let n = parameters.nodes;
        let mut world = Self::empty(parameters);
        for _ in 0..n {
            let contacts = world.seed_addresses();
            world.join(0, &contacts);
        }
        world
    }

    /// No nodes yet.
    pub fn empty(parameters: Parameters) -> Self {
        let config = &parameters.config;
        let checks = Checks::new(ms(config.probe_interval) * u64::from(config.suspicion_mult));
        Self {
            now: 0,
            rng: SmallRng::seed_from_u64(parameters.seed),
            nodes: Vec::with_capacity(parameters.nodes),
            occupants: Vec::new(),
            network: Network::new(parameters.link.clone()),
            counters: Counters::default(),
            checks,
            violation: None,
            violation_expected: false,
            broken: None,
            noted: None,
            right_pairs: 0,
            agenda: Agenda::new(),
            orders: Vec::new(),
            trace: 0,
            next_walk_ms: 0,
            _told: Told {
                seed: parameters.seed,
                nodes: parameters.nodes,
            },
            parameters,
        }
    }

    pub fn time(&self) -> Now {
        Now {
            ms: self.now,
            unix_ms: UNIX_MS + self.now,
        }
    }

    /// Digest of all that changed, was said to have happened and was sent, in order.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    pub fn run_until(&mut self, end_ms: u64) {
        while self.violation.is_none() {
            let Some((at, event)) = self.agenda.pop(end_ms) else {
                break;
            };
            self.now = at;
            self.perform(event);
            if self.parameters.checked && self.now >= self.next_walk_ms {
                self.next_walk_ms = self.now + WALK_MS;
                self.walk();
            }
        }
        self.now = end_ms;
    }

    pub fn run_for(&mut self, ms: u64) {
        self.run_until(self.now + ms);
    }

    pub fn schedule(&mut self, delay_ms: u64, event: Event) {
        self.agenda.push(self.now + delay_ms, event);
    }

    pub(super) fn perform(&mut self, event: Event) {
        match event {
            Event::Wake(who) => self.wake(who),
            Event::Arrival(arrival) => self.arrive(arrival),
            Event::Release(who, holds) => {
                if self.nodes[who].holds == holds {
                    self.release(who);
                }
            }
            Event::BlockAgain(who, stretch) => self.block_again(who, stretch),
            Event::ExchangeOver(who, place, number) => self.exchange_over(who, place, number),
            Event::Order(who) => self.order_arrives(who),
        }
    }

    pub(super) fn runs(&self, who: Who) -> bool {
        match self.nodes[who].condition {
            Condition::Up => true,
            Condition::Stopped | Condition::Left => !self.nodes[who].core.is_silent(),
            Condition::Crashed => false,
        }
    }

    pub(super) fn wake(&mut self, who: Who) {
        if self.nodes[who].wake_ms != self.now {
            return;
        }
        self.nodes[who].wake_ms = u64::MAX;
        if self.runs(who) && self.nodes[who].hold != Some(Hold::Paused) {
            self.tick(who);
        }
    }

    pub(super) fn tick(&mut self, who: Who) {
        let now = self.time();
        if self.nodes[who].core.next_wake() <= now.ms {
            self.nodes[who].core.tick(now);
        }
        self.after_step(who, Doing::Ticking);
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let Some(to) = self.occupants.get(arrival.to).copied().flatten() else {
            self.counters.unheard += 1;
            return;
        };
        if !self.runs(to) {
            self.counters.unheard += 1;
        } else if self.nodes[to].hold.is_none() {
            self.take_in(to, arrival);
        } else if self.nodes[to].waiting.len() < SOCKET_PACKETS {
            self.counters.waited += 1;
            self.nodes[to].waiting.push_back(arrival);
        } else {
            self.counters.overflowed += 1;
        }
    }

    pub(super) fn take_in(&mut self, who: Who, arrival: Arrival) {
        let letter = match arrival.what {
            What::Tcp(call) => return self.take_call(who, arrival.from, *call),
            What::Udp(letter) => letter,
        };
        let Some(packet) = self.open_letter(who, arrival.from, letter) else {
            return;
        };
        self.counters.delivered += 1;
        let (now, source) = (self.time(), names::socket(arrival.from));
        self.nodes[who].core.handle(now, source, packet);
        self.after_step(who, Doing::Answering);
    }

    /// A node was told something by its operator.
    pub fn after_word(&mut self, who: Who) {
        self.after_step(who, Doing::Answering);
    }

    /// Takes what the node wants done, judges what it did, and sees to its next wake.
    pub(super) fn after_step(&mut self, who: Who, doing: Doing) {
        let outputs = self.nodes[who].core.take_outputs();
        if self.parameters.checked {
            self.judge_own_word(who, outputs.len());
        }
        self.judge_changes(who);
        let blocked = self.nodes[who].hold == Some(Hold::Blocked);
        for output in outputs {
            if let Output::Happened(happening) = output {
                self.note_happening(who, &happening);
                continue;
            }
            if self.parameters.checked && doing == Doing::Ticking {
                self.note_probe(who, &output);
            }
            if blocked {
                self.nodes[who].unsent.push(output);
            } else {
                self.emit(who, output);
            }
        }
        let node = &mut self.nodes[who];
        let next = node.core.next_wake().max(self.now);
        if next < node.wake_ms && next != u64::MAX {
            node.wake_ms = next;
            self.agenda.push(next, Event::Wake(who));
        }
    }
}

pub fn ms(duration: std::time::Duration) -> u64 {
    duration.as_millis() as u64
}
