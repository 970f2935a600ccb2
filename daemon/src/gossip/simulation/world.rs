//! The nodes, the time, and what goes from one to the other.
//!
//! One thread, one clock of milliseconds. A run is a function of its [`Parameters`]: every
//! random number comes from the seed, and nothing is iterated in the order of a hash.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use ringmaster_shared::{id::NodeId, member::MemberStatus};

use super::{
    agenda::Agenda,
    checks::{self, Change, Checks, Held, Rounds, Rule, Violation},
    counters::Counters,
    names::{self, Place, Who},
    network::{Fate, Link, Network},
};
use crate::gossip::{
    GossipConfig, MemberState,
    claim::{self, Now},
    codec::{self, Body, Packet},
    core::{Core, Dest, Output},
    testing,
};

const UNIX_MS: u64 = 1_780_000_000_000;
/// Packets the socket of a node that stands still keeps; about what 208 KiB hold.
const SOCKET_PACKETS: usize = 256;
/// As the driver: packets taken in before the timers are looked at.
const PACKETS_AT_ONCE: usize = 64;
/// As the driver: exchanges under way, and how long one may take.
const EXCHANGES_MAX: usize = 8;
const EXCHANGE_TIMEOUT_MS: u64 = 10_000;
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
    /// Packets go through the codec; else they are handed over, and only measured.
    pub encoded: bool,
    /// Every change of every list is judged.
    pub checked: bool,
}

impl Parameters {
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            nodes,
            config: GossipConfig::default(),
            seeds: 1,
            link: Link::JITTERY,
            encoded: true,
            checked: true,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    Up,
    Crashed,
    /// It said so; it finishes its farewell.
    Stopped,
    Left,
}

impl Condition {
    pub fn is_down(self) -> bool {
        self != Self::Up
    }
}

/// Why a node does not do what is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// The whole process stands still, as under SIGSTOP.
    Paused,
    /// Its timers run, but nothing it sends or is sent gets through until later: the overloaded
    /// member of the Lifeguard paper.
    Blocked,
}

pub struct Node {
    pub core: Core,
    pub id: NodeId,
    pub cluster: u8,
    pub place: Place,
    pub generation: u64,
    pub condition: Condition,
    pub hold: Option<Hold>,
    /// Counts holds, so that an old end of one is known.
    pub holds: u32,
    /// Counts processes: connections end with theirs.
    life: u32,
    /// The wake that is on the agenda.
    wake_ms: u64,
    waiting: VecDeque<Arrival>,
    unsent: Vec<Output>,
    exchanging: HashSet<Place>,
    rounds: Rounds,
}

pub enum Event {
    Wake(Who),
    Arrival(Arrival),
    /// A hold ends, if it is still that one.
    Release(Who, u32),
    /// The next stretch of a node that is blocked now and then.
    BlockAgain(Who, Stretch),
    ExchangeOver(Who, u32, Place),
}

/// A node blocked for a while, free for a while, again and again.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    pub hold: Hold,
    pub blocked_ms: u64,
    pub free_ms: u64,
    pub until_ms: u64,
}

/// What reaches an address.
pub struct Arrival {
    from: Place,
    to: Place,
    what: What,
}

enum What {
    Bytes(Vec<u8>),
    Packet(Box<Packet>),
    Tcp(Box<Call>),
}

/// A call over TCP, or its answer.
enum Call {
    Ping {
        by: (Who, u32),
        seq: u32,
        wanted: NodeId,
        deadline_ms: u64,
    },
    Pong {
        to: (Who, u32),
        seq: u32,
        deadline_ms: u64,
    },
    PushPull {
        by: (Who, u32),
        states: Vec<Arc<MemberState>>,
        deadline_ms: u64,
    },
    Pulled {
        to: (Who, u32),
        by: NodeId,
        states: Vec<Arc<MemberState>>,
        deadline_ms: u64,
    },
    Foreign {
        to: (Who, u32),
        theirs: u8,
    },
}

/// What a core is in the middle of, for those who look at what it sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
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
    /// Changes to anything but alive are noted here while somebody wants them.
    pub noted: Option<Vec<Noted>>,
    /// Pairs (observer, other), both up, where the other is held alive in its present life.
    pub right_pairs: i64,
    agenda: Agenda<Event>,
    trace: u64,
    next_walk_ms: u64,
}

/// A change, and where.
#[derive(Debug, Clone, Copy)]
pub struct Noted {
    pub at_ms: u64,
    pub observer: Who,
    pub change: Change,
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
            noted: None,
            right_pairs: 0,
            agenda: Agenda::new(),
            trace: 0,
            next_walk_ms: 0,
            parameters,
        }
    }

    pub fn seed_addresses(&self) -> Vec<String> {
        (0..self.parameters.seeds).map(names::address).collect()
    }

    /// A new node at a new address.
    pub fn join(&mut self, cluster: u8, contacts: &[String]) -> Who {
        let place = self.occupants.len();
        self.occupants.push(None);
        self.join_at(cluster, place, contacts)
    }

    /// A new node at an address that may have been somebody else's.
    pub fn join_at(&mut self, cluster: u8, place: Place, contacts: &[String]) -> Who {
        let who = self.nodes.len();
        let core = self.born(who, cluster, place, 1, contacts);
        self.nodes.push(Node {
            core,
            id: names::node_id(who),
            cluster,
            place,
            generation: 1,
            condition: Condition::Up,
            hold: None,
            holds: 0,
            life: 0,
            wake_ms: u64::MAX,
            waiting: VecDeque::new(),
            unsent: Vec::new(),
            exchanging: HashSet::new(),
            rounds: Rounds::default(),
        });
        self.occupants[place] = Some(who);
        self.begin(who);
        who
    }

    fn born(
        &mut self,
        who: Who,
        cluster: u8,
        place: Place,
        generation: u64,
        contacts: &[String],
    ) -> Core {
        let local = MemberState {
            generation,
            address: names::address(place),
            ..testing::member(names::node_id(who).as_str())
        };
        let rng = SmallRng::seed_from_u64(self.rng.random());
        let mut core = Core::new(
            self.parameters.config.clone(),
            names::cluster(cluster),
            local,
            contacts.iter().cloned(),
            rng,
            self.time(),
        );
        core.record_mutations();
        core
    }

    /// Another process of the same node, at `place`.
    pub fn reborn(&mut self, who: Who, place: Place, contacts: &[String]) {
        let (cluster, generation) = (self.nodes[who].cluster, self.nodes[who].generation + 1);
        self.counts_no_more(who);
        let core = self.born(who, cluster, place, generation, contacts);
        let node = &mut self.nodes[who];
        node.core = core;
        node.place = place;
        node.generation = generation;
        node.condition = Condition::Up;
        node.life += 1;
        node.wake_ms = u64::MAX;
        node.rounds = Rounds::default();
        node.exchanging.clear();
        self.end_hold(who);
        self.nodes[who].waiting.clear();
        self.nodes[who].unsent.clear();
        self.occupants[place] = Some(who);
        self.begin(who);
    }

    fn begin(&mut self, who: Who) {
        let now = self.now;
        self.nodes[who].rounds.stood_still(now);
        self.after_step(who, Doing::Answering);
    }

    fn end_hold(&mut self, who: Who) {
        self.nodes[who].hold = None;
        self.nodes[who].holds += 1;
    }

    /// Leaves the count of right pairs before its life ends: what it holds, and what is held of
    /// it.
    pub fn counts_no_more(&mut self, who: Who) {
        if self.nodes[who].condition.is_down() {
            return;
        }
        let held: Vec<MemberState> = self.nodes[who].core.all_held().cloned().collect();
        let own = held.iter().filter(|s| self.is_right(who, s)).count();
        let id = self.nodes[who].id.clone();
        let of_it = (0..self.nodes.len())
            .filter(|o| *o != who && !self.nodes[*o].condition.is_down())
            .filter(|o| {
                let held = self.nodes[*o].core.held(&id);
                held.is_some_and(|s| self.is_right(*o, s))
            })
            .count();
        self.right_pairs -= (own + of_it) as i64;
    }

    fn is_right(&self, observer: Who, state: &MemberState) -> bool {
        let Some(about) = names::who(&state.id) else {
            return false;
        };
        about != observer
            && state.status == MemberStatus::Alive
            && self.nodes.get(about).is_some_and(|n| {
                !n.condition.is_down()
                    && n.generation == state.generation
                    && n.cluster == self.nodes[observer].cluster
            })
    }

    pub fn time(&self) -> Now {
        Now {
            ms: self.now,
            unix_ms: UNIX_MS + self.now,
        }
    }

    /// Digest of all that changed, in order.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    // ---- running ----------------------------------------------------------------------------

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

    fn perform(&mut self, event: Event) {
        match event {
            Event::Wake(who) => self.wake(who),
            Event::Arrival(arrival) => self.arrive(arrival),
            Event::Release(who, holds) => {
                if self.nodes[who].holds == holds {
                    self.release(who);
                }
            }
            Event::BlockAgain(who, stretch) => self.block_again(who, stretch),
            Event::ExchangeOver(who, life, place) => {
                if self.nodes[who].life == life {
                    self.nodes[who].exchanging.remove(&place);
                }
            }
        }
    }

    fn runs(&self, who: Who) -> bool {
        match self.nodes[who].condition {
            Condition::Up => true,
            Condition::Stopped | Condition::Left => !self.nodes[who].core.is_silent(),
            Condition::Crashed => false,
        }
    }

    fn wake(&mut self, who: Who) {
        if self.nodes[who].wake_ms != self.now {
            return;
        }
        self.nodes[who].wake_ms = u64::MAX;
        if self.runs(who) && self.nodes[who].hold != Some(Hold::Paused) {
            self.tick(who);
        }
    }

    fn tick(&mut self, who: Who) {
        let now = self.time();
        if self.nodes[who].core.next_wake() <= now.ms {
            self.nodes[who].core.tick(now);
        }
        self.after_step(who, Doing::Ticking);
    }

    fn arrive(&mut self, arrival: Arrival) {
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

    fn take_in(&mut self, who: Who, arrival: Arrival) {
        let packet = match arrival.what {
            What::Tcp(call) => return self.take_call(who, arrival.from, *call),
            What::Packet(packet) => *packet,
            What::Bytes(bytes) => match codec::decode(&bytes) {
                Ok(packet) => packet,
                Err(e) => panic!("a packet of ours cannot be read: {e}"),
            },
        };
        self.counters.delivered += 1;
        let (now, source) = (self.time(), names::socket(arrival.from));
        self.nodes[who].core.handle(now, source, packet);
        self.after_step(who, Doing::Answering);
    }

    // ---- standing still ---------------------------------------------------------------------

    /// Holds a node up for so long.
    pub fn hold(&mut self, who: Who, hold: Hold, for_ms: u64) {
        let node = &mut self.nodes[who];
        node.hold = Some(hold);
        node.holds += 1;
        let event = Event::Release(who, node.holds);
        self.schedule(for_ms, event);
    }

    /// It goes on: what it had to say leaves, what waited arrives in a burst, and its timers run
    /// in between as the driver's loop lets them.
    fn release(&mut self, who: Who) {
        self.end_hold(who);
        for output in std::mem::take(&mut self.nodes[who].unsent) {
            self.emit(who, output);
        }
        let mut taken = 0;
        while let Some(arrival) = self.nodes[who].waiting.pop_front() {
            self.take_in(who, arrival);
            taken += 1;
            if taken % PACKETS_AT_ONCE == 0 {
                self.tick(who);
            }
        }
        if self.runs(who) {
            self.tick(who);
        }
        let now = self.now;
        self.nodes[who].rounds.stood_still(now);
    }

    /// Starts the stretches of an overloaded node.
    pub fn block_again(&mut self, who: Who, stretch: Stretch) {
        if self.now < stretch.until_ms && self.nodes[who].condition == Condition::Up {
            self.hold(who, stretch.hold, stretch.blocked_ms);
            let pause = stretch.blocked_ms + stretch.free_ms;
            self.schedule(pause, Event::BlockAgain(who, stretch));
        }
    }

    /// A node was told something by its operator.
    pub fn after_word(&mut self, who: Who) {
        self.after_step(who, Doing::Answering);
    }

    // ---- after a step -----------------------------------------------------------------------

    /// Takes what the node wants done, judges what it did, and sees to its next wake.
    fn after_step(&mut self, who: Who, doing: Doing) {
        let outputs = self.nodes[who].core.take_outputs();
        if self.parameters.checked {
            self.judge_own_word(who, outputs.len());
        }
        self.judge_changes(who);
        let blocked = self.nodes[who].hold == Some(Hold::Blocked);
        for output in outputs {
            if let Output::Happened(happening) = output {
                self.counters.count(&happening);
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

    fn note_probe(&mut self, who: Who, output: &Output) {
        let Output::Send { packet, .. } = output else {
            return;
        };
        let Body::Ping { .. } = packet.body else {
            return;
        };
        let n = self.nodes[who].core.depths().members + 1;
        if let Some(about) = names::who(&packet.to) {
            let judged = self.nodes[who].rounds.probed(self.now, about, n);
            self.judged(who, judged);
        }
    }

    fn judge_own_word(&mut self, who: Who, outputs: usize) {
        let node = &self.nodes[who];
        let local = node.core.local();
        let held = (claim::freshness(local), local.status);
        let may_end = matches!(node.condition, Condition::Stopped | Condition::Left);
        let depths = node.core.depths();
        let judged = self
            .checks
            .word(who, held, may_end)
            .and_then(|()| checks::within_bounds(depths, outputs));
        self.judged(who, judged);
    }

    fn judge_changes(&mut self, who: Who) {
        for change in self.changes(who) {
            let Change {
                about,
                before,
                after,
            } = change;
            let up_generation = |held: Held| {
                let node = &self.nodes[about];
                held.1 == MemberStatus::Alive
                    && held.0.0 == node.generation
                    && node.condition == Condition::Up
            };
            let was_right = before.is_some_and(up_generation);
            let is_right = up_generation(after);
            if self.nodes[who].condition == Condition::Up {
                self.right_pairs += i64::from(is_right) - i64::from(was_right);
            }
            self.trace = trace(self.trace, self.now, who, &change);
            if self.parameters.checked {
                let judged = self.checks.change(self.now, &change);
                self.judged(who, judged);
                if after.1.is_reachable() {
                    self.nodes[who].rounds.reachable(self.now, about);
                } else {
                    self.nodes[who].rounds.gone(about);
                }
            }
            let plain =
                after.1 == MemberStatus::Alive && before.is_none_or(|b| b.1 == MemberStatus::Alive);
            if let Some(noted) = self.noted.as_mut().filter(|_| !plain) {
                noted.push(Noted {
                    at_ms: self.now,
                    observer: who,
                    change,
                });
            }
        }
    }

    /// What changed in a node's list since this was last asked.
    fn changes(&mut self, who: Who) -> Vec<Change> {
        let mutations = self.nodes[who].core.take_mutations();
        let mut changes = Vec::with_capacity(mutations.len());
        for mutation in mutations {
            // forgotten: a day after it left
            let Some(after) = mutation.after else {
                continue;
            };
            let cluster = self.nodes[who].cluster;
            let about = names::who(&mutation.about)
                .filter(|a| self.nodes.get(*a).is_some_and(|n| n.cluster == cluster));
            let Some(about) = about else {
                let what = format!("{} is not of its cluster", mutation.about);
                let rule = Rule::Stranger;
                self.judged(who, Err(Violation { rule, what }));
                continue;
            };
            changes.push(Change {
                about,
                before: mutation.before,
                after,
            });
        }
        changes
    }

    /// The checks that look at everything a node keeps.
    fn walk(&mut self) {
        // the slowest a node may probe by its own account, and a hold or two
        let gap_max_ms = 20 * ms(self.parameters.config.probe_interval);
        for who in 0..self.nodes.len() {
            let node = &self.nodes[who];
            if node.condition == Condition::Up && node.hold.is_none() {
                let judged = node.rounds.check(self.now, gap_max_ms);
                self.judged(who, judged);
            }
        }
    }

    /// A broken rule ends the run, in a way that says how to see it again.
    pub fn judged(&mut self, who: Who, judged: Result<(), Violation>) {
        let Err(violation) = judged else { return };
        if self.violation_expected {
            self.violation.get_or_insert(violation);
            return;
        }
        let id = &self.nodes[who].id;
        self.fail(&format!("{id} breaks a rule. {violation}"));
    }

    pub fn no_convergence(&mut self, what: &str) {
        let rule = Rule::Convergence;
        if self.violation_expected {
            let what = what.to_owned();
            self.violation.get_or_insert(Violation { rule, what });
            return;
        }
        self.fail(what);
    }

    pub fn fail(&self, what: &str) -> ! {
        let Parameters { seed, nodes, .. } = self.parameters;
        panic!(
            "seed {seed}, {nodes} nodes, at {} ms: {what}\nSee it again with: \
             RINGD_SIMULATION_SEEDS={seed} RINGD_SIMULATION_NODES={nodes} cargo test -p ringd \
             gossip::simulation::chaos -- --ignored --nocapture",
            self.now
        );
    }

    // ---- out --------------------------------------------------------------------------------

    fn emit(&mut self, who: Who, output: Output) {
        match output {
            Output::Send { to, packet } => {
                let place = match &to {
                    Dest::Address(address) => names::place(address),
                    Dest::Source(source) => names::place_of_socket(*source),
                };
                if let Some(place) = place {
                    self.send(who, place, packet);
                }
            }
            Output::TcpProbe { seq, node, address } => {
                self.counters.tcp_probes += 1;
                let config = &self.parameters.config;
                let left = config.probe_interval.saturating_sub(config.probe_timeout);
                let deadline_ms = self.now + ms(left).max(50);
                let by = (who, self.nodes[who].life);
                if let Some(place) = names::place(&address) {
                    let call = Call::Ping {
                        by,
                        seq,
                        wanted: node,
                        deadline_ms,
                    };
                    self.call(who, place, call);
                }
            }
            Output::Exchange { address } => {
                if let Some(place) = names::place(&address) {
                    self.exchange(who, place);
                }
            }
            Output::Happened(_) => {}
        }
    }

    fn send(&mut self, who: Who, to: Place, packet: Box<Packet>) {
        let from = self.nodes[who].place;
        let budget = self.parameters.config.packet_bytes_max;
        let (bytes, what) = if self.parameters.encoded {
            let bytes = codec::encode(&packet).expect("what a core sends can be encoded");
            (bytes.len(), What::Bytes(bytes))
        } else {
            (codec::packet_bytes(&packet), What::Packet(packet))
        };
        self.counters.sent += 1;
        self.counters.sent_bytes += bytes as u64;
        self.counters.largest_packet = self.counters.largest_packet.max(bytes as u64);
        let judged = checks::packet_fits(bytes, budget);
        self.judged(who, judged);
        match self.network.udp(&mut self.rng, from, to) {
            Fate::Cut => self.counters.cut += 1,
            Fate::Lost => self.counters.lost += 1,
            Fate::Arrives {
                after_ms,
                again_after_ms,
                held_up,
            } => {
                self.counters.held_up += u64::from(held_up);
                if let Some(again) = again_after_ms {
                    self.counters.duplicated += 1;
                    let what = match &what {
                        What::Bytes(bytes) => What::Bytes(bytes.clone()),
                        What::Packet(packet) => What::Packet(packet.clone()),
                        What::Tcp(_) => return,
                    };
                    self.schedule(again, Event::Arrival(Arrival { from, to, what }));
                }
                self.schedule(after_ms, Event::Arrival(Arrival { from, to, what }));
            }
        }
    }

    // ---- connections ------------------------------------------------------------------------

    /// Sends one half of a call; false when there is no way.
    fn call(&mut self, who: Who, to: Place, call: Call) -> bool {
        let from = self.nodes[who].place;
        let Some(delay) = self.network.tcp(&mut self.rng, from, to) else {
            return false;
        };
        if self.network.tcp_extra_ms > 0 {
            self.counters.slow_tcp += 1;
        }
        let what = What::Tcp(Box::new(call));
        self.schedule(delay, Event::Arrival(Arrival { from, to, what }));
        true
    }

    fn exchange(&mut self, who: Who, to: Place) {
        let node = &mut self.nodes[who];
        if node.exchanging.len() >= EXCHANGES_MAX || !node.exchanging.insert(to) {
            return;
        }
        self.counters.exchanges += 1;
        let (life, states) = (node.life, node.core.states());
        self.counters.exchange_bytes += self.list_bytes(&states);
        let deadline_ms = self.now + EXCHANGE_TIMEOUT_MS;
        let by = (who, life);
        self.schedule(EXCHANGE_TIMEOUT_MS, Event::ExchangeOver(who, life, to));
        let call = Call::PushPull {
            by,
            states,
            deadline_ms,
        };
        if !self.call(who, to, call) {
            self.counters.exchanges_cut += 1;
        }
    }

    /// About what a list takes on the wire: all its states are about equally long.
    fn list_bytes(&self, states: &[Arc<MemberState>]) -> u64 {
        let one = states.first().map_or(0, |state| {
            let claim = claim::Claim {
                state: state.clone(),
                from: state.id.clone(),
            };
            codec::claim_bytes(&claim)
        });
        (one * states.len()) as u64
    }

    /// A connection ends with its process, whoever has the address now.
    fn is_this_process(&self, who: Who, caller: (Who, u32)) -> bool {
        caller == (who, self.nodes[who].life)
    }

    fn take_call(&mut self, who: Who, from: Place, call: Call) {
        let now = self.time();
        match call {
            Call::Ping {
                by,
                seq,
                wanted,
                deadline_ms,
            } => {
                // another node (or another cluster's) at that address is no answer
                let is_it = self.nodes[who].id == wanted
                    && self.nodes[who].cluster == self.nodes[by.0].cluster;
                if is_it {
                    let to = by;
                    self.call(
                        who,
                        from,
                        Call::Pong {
                            to,
                            seq,
                            deadline_ms,
                        },
                    );
                }
            }
            Call::Pong {
                to,
                seq,
                deadline_ms,
            } => {
                if now.ms > deadline_ms {
                    self.counters.tcp_too_late += 1;
                } else if self.is_this_process(who, to) {
                    self.counters.tcp_answers += 1;
                    self.nodes[who].core.tcp_answered(now, seq);
                    self.after_step(who, Doing::Answering);
                }
            }
            Call::PushPull {
                by,
                states,
                deadline_ms,
            } => self.answer_push_pull(who, from, by, states, deadline_ms),
            Call::Pulled {
                to,
                by,
                states,
                deadline_ms,
            } => {
                if self.is_this_process(who, to) && now.ms <= deadline_ms {
                    let address = names::address(from);
                    let node = &mut self.nodes[who];
                    node.exchanging.remove(&from);
                    node.core.contact_answered(&address, &by);
                    node.core.merge(now, &by, states);
                    self.after_step(who, Doing::Answering);
                }
            }
            Call::Foreign { to, theirs } => {
                if self.is_this_process(who, to) {
                    self.counters.foreign_contacts += 1;
                    let (address, theirs) = (names::address(from), names::cluster(theirs));
                    let node = &mut self.nodes[who];
                    node.exchanging.remove(&from);
                    node.core.contact_is_foreign(now, &address, theirs.as_str());
                    self.after_step(who, Doing::Answering);
                }
            }
        }
    }

    fn answer_push_pull(
        &mut self,
        who: Who,
        from: Place,
        by: (Who, u32),
        states: Vec<Arc<MemberState>>,
        deadline_ms: u64,
    ) {
        let theirs = self.nodes[who].cluster;
        if theirs != self.nodes[by.0].cluster {
            self.call(who, from, Call::Foreign { to: by, theirs });
            return;
        }
        let (now, caller) = (self.time(), self.nodes[by.0].id.clone());
        self.nodes[who].core.merge(now, &caller, states);
        let states = self.nodes[who].core.states();
        self.counters.exchange_bytes += self.list_bytes(&states);
        let id = self.nodes[who].id.clone();
        self.after_step(who, Doing::Answering);
        let pulled = Call::Pulled {
            to: by,
            by: id,
            states,
            deadline_ms,
        };
        self.call(who, from, pulled);
    }
}

fn ms(duration: std::time::Duration) -> u64 {
    duration.as_millis() as u64
}

/// An order-sensitive digest.
fn trace(so_far: u64, now: u64, who: Who, change: &Change) -> u64 {
    let ((generation, incarnation), status) = change.after;
    let mut bytes = [0; 41];
    for (at, number) in [
        now,
        who as u64,
        change.about as u64,
        generation,
        incarnation,
    ]
    .into_iter()
    .enumerate()
    {
        bytes[8 * at..8 * at + 8].copy_from_slice(&number.to_le_bytes());
    }
    bytes[40] = status as u8;
    xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, so_far)
}
