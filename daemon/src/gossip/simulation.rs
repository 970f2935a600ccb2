//! A whole cluster of cores in one thread, on a simulated clock and network.
//!
//! Same seed, same run. Chaos first (loss, delay, partitions, crashes, restarts, pauses, stops),
//! then calm for a time that follows from the protocol's own parameters, then everybody must
//! agree on the truth. After every step of a node its list is compared with the one before:
//! freshness never falls, nobody comes back to life by an old claim, nobody is thought to have
//! said what it never said. Counters prove that the faults happened.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use ringmaster_shared::{
    id::NodeId,
    member::{DigestEntry, Freshness, MemberStatus, membership_digest},
};

use super::{
    GossipConfig, MemberState,
    claim::{self, Now},
    codec::{self, Packet},
    core::{Core, Dest, Happening, Output},
    testing::{cluster, member},
};

const UNIX_MS: u64 = 1_780_000_000_000;

/// What travels or happens at a time.
enum Step {
    Deliver {
        from: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    /// A full list arrives over TCP; `answer` says whether it is the second half.
    Exchange {
        from: usize,
        to: usize,
        states: Vec<Arc<MemberState>>,
        answer: bool,
    },
    TcpAnswer {
        to: usize,
        seq: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Condition {
    Up,
    Crashed,
    Stopped,
    /// Stands still (as under SIGSTOP) until then; what is sent to it waits.
    Paused(u64),
}

struct Node {
    core: Core,
    generation: u64,
    condition: Condition,
    /// What it held after its last step, by member.
    held: BTreeMap<NodeId, (Freshness, MemberStatus)>,
}

#[derive(Default, Debug, PartialEq, Eq, Clone)]
struct Counters {
    delivered: u64,
    lost: u64,
    cut: u64,
    crashes: u64,
    restarts: u64,
    stops: u64,
    pauses: u64,
    partitions: BTreeSet<Vec<u8>>,
    suspected: u64,
    dead: u64,
    refuted: u64,
    returned: u64,
    restarted: u64,
    bytes: u64,
}

struct World {
    seed: u64,
    now: u64,
    rng: SmallRng,
    nodes: Vec<Node>,
    steps: BTreeMap<(u64, u64), Step>,
    next_step: u64,
    loss: f64,
    /// Nodes talk only within the same group.
    groups: Vec<u8>,
    /// The highest incarnation each node ever issued, by generation.
    issued: HashMap<(usize, u64), u64>,
    counters: Counters,
    trace: u64,
}

fn name(n: usize) -> String {
    format!("n{n:03}")
}

fn socket_of(n: usize) -> SocketAddr {
    ([10, 0, 0, 1], 1000 + n as u16).into()
}

/// What one step of a node may do to what it holds of one member.
fn check_transition(
    before: Option<(Freshness, MemberStatus)>,
    after: (Freshness, MemberStatus),
) -> Result<(), String> {
    let Some(before) = before else { return Ok(()) };
    if after.0 < before.0 {
        return Err(format!("freshness fell from {before:?} to {after:?}"));
    }
    if after.0 == before.0 && after.1 < before.1 {
        return Err(format!(
            "better news without a new word of the member: {before:?} to {after:?}"
        ));
    }
    Ok(())
}

impl World {
    fn new(seed: u64, n: usize) -> Self {
        let mut world = Self {
            seed,
            now: 0,
            rng: SmallRng::seed_from_u64(seed),
            nodes: Vec::new(),
            steps: BTreeMap::new(),
            next_step: 0,
            loss: 0.0,
            groups: vec![0; n],
            issued: HashMap::new(),
            counters: Counters::default(),
            trace: 0,
        };
        for at in 0..n {
            // everybody is given the first node as seed, as in the guide
            let node = world.born(at, 1, &[name(0) + ":1"]);
            world.nodes.push(node);
        }
        world
    }

    fn born(&mut self, at: usize, generation: u64, contacts: &[String]) -> Node {
        let local = MemberState {
            generation,
            ..member(&name(at))
        };
        let core = Core::new(
            GossipConfig::default(),
            cluster(),
            local,
            contacts.iter().cloned(),
            SmallRng::seed_from_u64(self.rng.random()),
            self.time(),
        );
        Node {
            core,
            generation,
            condition: Condition::Up,
            held: BTreeMap::new(),
        }
    }

    fn time(&self) -> Now {
        Now {
            ms: self.now,
            unix_ms: UNIX_MS + self.now,
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}, at {} ms: {what}", self.seed, self.now);
    }

    fn at_address(address: &str) -> Option<usize> {
        address.strip_prefix('n')?.strip_suffix(":1")?.parse().ok()
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        self.groups[a] == self.groups[b]
    }

    fn runs(&self, n: usize) -> bool {
        match self.nodes[n].condition {
            Condition::Up => true,
            // it finishes its farewell
            Condition::Stopped => !self.nodes[n].core.is_silent(),
            Condition::Paused(until) => self.now >= until,
            Condition::Crashed => false,
        }
    }

    fn schedule(&mut self, delay: u64, step: Step) {
        self.next_step += 1;
        self.steps.insert((self.now + delay, self.next_step), step);
    }

    // ---- running ----------------------------------------------------------------------------

    fn run_until(&mut self, end: u64) {
        loop {
            let wake = (0..self.nodes.len())
                .filter(|n| self.nodes[*n].condition != Condition::Crashed)
                .map(|n| match self.nodes[n].condition {
                    Condition::Paused(until) => until.max(self.nodes[n].core.next_wake()),
                    _ => self.nodes[n].core.next_wake(),
                })
                .min()
                .unwrap_or(u64::MAX);
            let arrival = self.steps.keys().next().map_or(u64::MAX, |k| k.0);
            let next = wake.min(arrival);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if arrival <= self.now
                && let Some((_, step)) = self.steps.pop_first()
            {
                self.perform(step);
            }
            self.tick_all();
        }
    }

    fn tick_all(&mut self) {
        for n in 0..self.nodes.len() {
            if self.runs(n) && self.nodes[n].core.next_wake() <= self.now {
                if let Condition::Paused(_) = self.nodes[n].condition {
                    self.nodes[n].condition = Condition::Up;
                }
                let now = self.time();
                self.nodes[n].core.tick(now);
                self.collect(n);
            }
        }
    }

    fn perform(&mut self, step: Step) {
        let to = match &step {
            Step::Deliver { to, .. } | Step::Exchange { to, .. } | Step::TcpAnswer { to, .. } => {
                *to
            }
        };
        if let Condition::Paused(until) = self.nodes[to].condition
            && self.now < until
        {
            let delay = until - self.now;
            return self.schedule(delay, step);
        }
        if !self.runs(to) {
            return;
        }
        let now = self.time();
        match step {
            Step::Deliver { from, bytes, .. } => {
                self.counters.delivered += 1;
                self.counters.bytes += bytes.len() as u64;
                let packet: Packet = match codec::decode(&bytes) {
                    Ok(packet) => packet,
                    Err(e) => self.fail(&format!("a packet cannot be read: {e}")),
                };
                self.nodes[to].core.handle(now, socket_of(from), packet);
            }
            Step::Exchange {
                from,
                states,
                answer,
                ..
            } => {
                let by = member(&name(from)).id;
                if answer {
                    self.nodes[to]
                        .core
                        .contact_answered(&(name(from) + ":1"), &by);
                }
                self.nodes[to].core.merge(now, &by, states);
                if !answer && self.connected(from, to) {
                    let states = self.nodes[to].core.states();
                    self.schedule(
                        2,
                        Step::Exchange {
                            from: to,
                            to: from,
                            states,
                            answer: true,
                        },
                    );
                }
            }
            Step::TcpAnswer { seq, .. } => self.nodes[to].core.tcp_answered(now, seq),
        }
        self.collect(to);
    }

    /// Takes what the node wants done, and checks what its step did.
    fn collect(&mut self, n: usize) {
        for output in self.nodes[n].core.take_outputs() {
            match output {
                Output::Send { to, packet } => self.send(n, &to, &packet),
                Output::TcpProbe { seq, address, .. } => {
                    if let Some(to) = Self::at_address(&address)
                        && self.connected(n, to)
                        && self.nodes[to].condition == Condition::Up
                    {
                        self.schedule(5, Step::TcpAnswer { to: n, seq });
                    }
                }
                Output::Exchange { address } => {
                    if let Some(to) = Self::at_address(&address)
                        && to != n
                        && self.connected(n, to)
                    {
                        let states = self.nodes[n].core.states();
                        self.schedule(
                            3,
                            Step::Exchange {
                                from: n,
                                to,
                                states,
                                answer: false,
                            },
                        );
                    }
                }
                Output::Happened(happening) => self.count(n, &happening),
            }
        }
        self.check_step(n);
    }

    fn send(&mut self, from: usize, to: &Dest, packet: &Packet) {
        let to = match to {
            Dest::Address(address) => Self::at_address(address),
            Dest::Source(source) => Some(usize::from(source.port()) - 1000),
        };
        let Some(to) = to else { return };
        if !self.connected(from, to) {
            self.counters.cut += 1;
            return;
        }
        if self.rng.random_bool(self.loss) {
            self.counters.lost += 1;
            return;
        }
        let bytes = codec::encode(packet).expect("encodes");
        assert!(bytes.len() <= 1400, "{} bytes", bytes.len());
        let copies = if self.rng.random_bool(0.01) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.rng.random_range(1..=15);
            let bytes = bytes.clone();
            self.schedule(delay, Step::Deliver { from, to, bytes });
        }
    }

    fn count(&mut self, n: usize, happening: &Happening) {
        // an order-sensitive digest of everything that was said
        let said = xxhash_rust::xxh3::xxh3_64(format!("{n} {} {happening:?}", self.now).as_bytes());
        self.trace = self.trace.rotate_left(5) ^ said;
        let counters = &mut self.counters;
        match happening {
            Happening::Suspected { .. } => counters.suspected += 1,
            Happening::Dead { .. } => counters.dead += 1,
            Happening::SelfRefuted { .. } => counters.refuted += 1,
            Happening::Returned { .. } => counters.returned += 1,
            Happening::Restarted { .. } => counters.restarted += 1,
            Happening::Superseded { .. } => self.fail("nobody has a namesake here"),
            _ => {}
        }
    }

    // ---- checks -----------------------------------------------------------------------------

    fn check_step(&mut self, n: usize) {
        let own = name(n);
        for state in self.nodes[n].core.states() {
            let after = (claim::freshness(&state), state.status);
            if state.id.as_str() == own {
                let issued = self.issued.entry((n, state.generation)).or_default();
                *issued = (*issued).max(state.incarnation);
            } else if let Some(about) = Self::at_address(&state.address) {
                let issued = self.issued.get(&(about, state.generation)).copied();
                if issued.is_none_or(|i| i < state.incarnation) {
                    self.fail(&format!(
                        "{own} believes {state:?}, but {issued:?} was said"
                    ));
                }
            }
            let before = self.nodes[n].held.insert(state.id.clone(), after);
            if let Err(what) = check_transition(before, after) {
                self.fail(&format!("{own} about {}: {what}", state.id));
            }
        }
    }

    /// Whether what is held of node `n` is right. A life that crashed unheard of leaves what was
    /// known before, and a farewell that nobody could hear leaves a death.
    fn is_true(&self, n: usize, held: Option<&MemberState>) -> bool {
        use MemberStatus::{Alive, Dead, Stopped};
        let node = &self.nodes[n];
        let Some(held) = held else {
            // down since before any of those running now could hear of it; whether they agree
            // on that is for the digest
            return matches!(node.condition, Condition::Crashed | Condition::Stopped);
        };
        let this_life = held.generation == node.generation;
        match node.condition {
            Condition::Up | Condition::Paused(_) => held.status == Alive && this_life,
            Condition::Crashed if this_life => held.status == Dead,
            Condition::Crashed | Condition::Stopped => matches!(held.status, Dead | Stopped),
        }
    }

    /// Who holds something untrue, or something other than the rest.
    fn disagreement(&self) -> Option<String> {
        let mut agreed: Option<String> = None;
        for n in 0..self.nodes.len() {
            if self.nodes[n].condition != Condition::Up {
                continue;
            }
            let states = self.nodes[n].core.states();
            for m in 0..self.nodes.len() {
                let held = states.iter().find(|s| s.id.as_str() == name(m));
                if !self.is_true(m, held.map(|h| &**h)) {
                    let truth = self.nodes[m].condition;
                    return Some(format!(
                        "{} is {truth:?}; {} holds {held:?}",
                        name(m),
                        name(n)
                    ));
                }
            }
            let digest = membership_digest(states.iter().map(|s| DigestEntry {
                id: &s.id,
                address: &s.address,
                generation: s.generation,
                status: s.status,
            }));
            if *agreed.get_or_insert_with(|| digest.clone()) != digest {
                return Some(format!("{} differs from the first", name(n)));
            }
        }
        None
    }

    fn all_hold(&self, about: usize, status: MemberStatus) -> bool {
        self.nodes
            .iter()
            .filter(|node| node.condition == Condition::Up)
            .all(|node| {
                let held = node.core.states();
                held.iter()
                    .any(|s| s.id.as_str() == name(about) && s.status == status)
            })
    }

    /// Runs until nobody disagrees; returns how long that took.
    fn settle(&mut self, within: u64) -> u64 {
        let start = self.now;
        while self.now < start + within {
            if self.disagreement().is_none() {
                return self.now - start;
            }
            self.run_until(self.now + 200);
        }
        match self.disagreement() {
            None => within,
            Some(what) => self.fail(&format!("no agreement after {within} ms: {what}")),
        }
    }

    // ---- faults -----------------------------------------------------------------------------

    fn crash(&mut self, n: usize) {
        self.nodes[n].condition = Condition::Crashed;
        self.counters.crashes += 1;
    }

    fn stop(&mut self, n: usize) {
        let now = self.time();
        self.nodes[n].core.stop(now, MemberStatus::Stopped);
        self.nodes[n].condition = Condition::Stopped;
        self.counters.stops += 1;
        self.collect(n);
    }

    /// Comes back with the addresses it remembers, at incarnation 0 of a later life.
    fn restart(&mut self, n: usize) {
        let remembered: Vec<String> = (0..self.nodes.len())
            .filter(|m| *m != n)
            .map(|m| name(m) + ":1")
            .collect();
        let generation = self.nodes[n].generation + 1;
        self.nodes[n] = self.born(n, generation, &remembered);
        self.counters.restarts += 1;
        self.collect(n);
    }

    fn partition(&mut self, groups: u8) {
        for at in 0..self.groups.len() {
            self.groups[at] = self.rng.random_range(0..groups);
        }
        if groups > 1 {
            self.counters.partitions.insert(self.groups.clone());
        }
    }

    fn one_fault(&mut self) {
        let up: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].condition == Condition::Up)
            .collect();
        let down: Vec<usize> = (0..self.nodes.len())
            .filter(|n| {
                matches!(
                    self.nodes[*n].condition,
                    Condition::Crashed | Condition::Stopped
                )
            })
            .collect();
        let enough = up.len() * 2 > self.nodes.len();
        let some_up = up.choose(&mut self.rng).copied().filter(|_| enough);
        let some_down = down.choose(&mut self.rng).copied();
        match (self.rng.random_range(0..8), some_up, some_down) {
            (0 | 1, Some(n), _) => self.crash(n),
            (2, Some(n), _) => self.stop(n),
            (3, Some(n), _) => {
                let length = self.rng.random_range(500..12_000);
                self.nodes[n].condition = Condition::Paused(self.now + length);
                self.counters.pauses += 1;
            }
            // some come back before anybody noticed
            (4, Some(n), _) => {
                self.crash(n);
                self.restart(n);
            }
            (5, _, Some(n)) => self.restart(n),
            (6, ..) => {
                let groups = self.rng.random_range(1..=3);
                self.partition(groups);
            }
            _ => self.loss = self.rng.random_range(0.0..0.4),
        }
    }

    fn chaos(&mut self, duration: u64) {
        let end = self.now + duration;
        while self.now < end {
            self.one_fault();
            let pause = self.rng.random_range(200..4_000);
            self.run_until(self.now + pause);
        }
    }

    fn calm(&mut self) {
        self.loss = 0.0;
        self.groups.fill(0);
        let longest = 12_000;
        self.run_until(self.now + longest);
    }
}

/// How long until everybody agrees once all is calm: a member that is down is first probed by
/// somebody within a round and suspected, times out (a suspicion may start again once, by
/// hearsay), and a few reconnections may be needed to join halves that hold each other dead.
fn calm_bound_ms(n: usize) -> u64 {
    let config = GossipConfig::default();
    let suspicion = super::core::suspicion_timeout(&config, n).as_millis() as u64;
    let round = config.probe_interval.as_millis() as u64 * 2 * n as u64;
    let reconnect = config.reconnect_interval.as_millis() as u64;
    round + 3 * suspicion + 6 * reconnect
}

fn chaos_run(seed: u64, n: usize, duration: u64) -> (Counters, u64) {
    let mut world = World::new(seed, n);
    world.settle(20_000);
    world.chaos(duration);
    world.calm();
    world.settle(calm_bound_ms(n));
    (world.counters, world.trace)
}

#[test]
fn after_chaos_everybody_agrees_on_the_truth() {
    let mut sum = Counters::default();
    for (seed, n) in [
        (1, 3),
        (2, 5),
        (3, 8),
        (4, 13),
        (5, 20),
        (6, 20),
        (7, 4),
        (8, 50),
    ] {
        let (c, _) = chaos_run(seed, n, 60_000);
        sum.lost += c.lost;
        sum.cut += c.cut;
        sum.delivered += c.delivered;
        sum.crashes += c.crashes;
        sum.restarts += c.restarts;
        sum.stops += c.stops;
        sum.pauses += c.pauses;
        sum.suspected += c.suspected;
        sum.dead += c.dead;
        sum.refuted += c.refuted;
        sum.returned += c.returned;
        sum.restarted += c.restarted;
        sum.partitions.extend(c.partitions);
    }
    println!("{sum:?}");
    // the faults really happened
    assert!(sum.lost > 1000 && sum.cut > 1000, "{sum:?}");
    assert!(sum.crashes > 5 && sum.restarts > 5 && sum.stops > 5 && sum.pauses > 5);
    assert!(sum.partitions.len() > 5);
    assert!(sum.suspected > 50 && sum.dead > 50 && sum.refuted > 5);
    assert!(sum.returned > 50 && sum.restarted > 20);
}

/// More seeds; `cargo test -p ringd gossip::simulation -- --ignored`.
#[test]
#[ignore = "minutes of simulated chaos; run when the protocol changes"]
fn after_much_chaos_everybody_agrees_on_the_truth() {
    for seed in 1000..1100 {
        let n = 2 + (seed as usize * 7) % 24;
        chaos_run(seed, n, 120_000);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let first = chaos_run(42, 8, 30_000);
    assert_eq!(first, chaos_run(42, 8, 30_000));
    assert_ne!(first.1, chaos_run(43, 8, 30_000).1);
}

#[test]
fn in_calm_nobody_is_ever_suspected() {
    let mut world = World::new(9, 30);
    let formed = world.settle(20_000);
    world.run_until(world.now + 300_000);
    assert_eq!(world.counters.suspected, 0);
    assert!(formed <= 5_000, "formed in {formed} ms of simulated time");
}

#[test]
fn a_crash_is_noticed_within_the_bound_of_swim() {
    for seed in 0..5 {
        let mut world = World::new(seed, 10);
        world.settle(20_000);
        world.crash(4);
        let took = world.settle(20_000);
        // nine others probe once a second: soon found, then a second's probe and the suspicion
        assert!((4_000..9_000).contains(&took), "seed {seed}: {took} ms");
    }
}

#[test]
fn a_stop_is_known_at_once_and_is_not_a_death() {
    let mut world = World::new(3, 12);
    world.settle(20_000);
    world.stop(5);
    let took = world.settle(3_000);
    assert!(took <= 1_000, "{took} ms");
    world.run_until(world.now + 60_000);
    assert!(world.all_hold(5, MemberStatus::Stopped));
    assert_eq!(world.counters.dead + world.counters.suspected, 0);
}

/// `hashicorp/memberlist#222`: halves that long hold each other dead find together again.
#[test]
fn a_long_partition_heals() {
    for n in [2, 3, 20] {
        let mut world = World::new(11, n);
        world.settle(20_000);
        for at in 0..n {
            world.groups[at] = u8::from(at >= n / 2);
        }
        world.run_until(world.now + 600_000);
        let dead_before = world.counters.dead;
        assert!(dead_before >= 2, "each side gave the other up");
        world.groups.fill(0);
        world.settle(30_000);
    }
}

/// `hashicorp/serf#333`, `consul#526`: all down at once; they come back one after another, each
/// knowing only addresses.
#[test]
fn a_cluster_that_was_all_down_finds_together() {
    let mut world = World::new(12, 5);
    world.settle(20_000);
    for n in 0..5 {
        if n % 2 == 0 {
            world.crash(n);
        } else {
            world.stop(n);
        }
    }
    world.run_until(world.now + 60_000);
    for n in 0..5 {
        world.restart(n);
        world.run_until(world.now + 10_000);
    }
    world.settle(30_000);
}

/// A seed that starts last, and restarts, still forms one cluster (`akka/akka#18757`).
#[test]
fn the_seed_may_come_last_and_restart() {
    let mut world = World::new(13, 4);
    world.nodes[0].condition = Condition::Crashed;
    world.run_until(30_000);
    world.restart(0);
    world.settle(30_000);
    world.crash(0);
    world.restart(0);
    world.settle(10_000);
}

#[test]
fn the_checker_bites() {
    use MemberStatus::{Alive, Dead, Suspected};
    let good = [
        (None, ((1, 0), Dead)),
        (Some(((1, 0), Alive)), ((1, 0), Suspected)),
        (Some(((1, 0), Dead)), ((1, 1), Alive)),
        (Some(((1, 9), Dead)), ((2, 0), Alive)),
    ];
    for (before, after) in good {
        assert_eq!(check_transition(before, after), Ok(()));
    }
    let bad = [
        (((1, 0), Dead), ((1, 0), Alive)),
        (((1, 3), Dead), ((1, 2), Alive)),
        (((2, 0), Alive), ((1, 9), Dead)),
        (((1, 0), Dead), ((1, 0), Suspected)),
    ];
    for (before, after) in bad {
        assert!(
            check_transition(Some(before), after).is_err(),
            "{before:?} to {after:?}"
        );
    }
    // and agreement is not found where there is none
    let mut world = World::new(1, 3);
    world.settle(20_000);
    world.nodes[2].condition = Condition::Crashed;
    assert!(world.disagreement().is_some());
}
