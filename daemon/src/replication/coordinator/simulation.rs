//! A cluster in memory, in virtual time: the real read and write machines against replicas that
//! lose messages, are slow, have wrong clocks and crash, coordinators included. Each operation asks
//! its replicas in an order of its own and hedges at moments of its own. Same seed, same run. Every history is checked for linearizability, and that no acknowledged write vanishes
//! unless a write that had seen it took its place.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use ringmaster_shared::{
    api::data::Consistency,
    clock::Hlc,
    id::NodeId,
    quorum::{Group, Requirement},
    version::{Actor, Dot, Record, Value, VersionVector},
};

use super::{
    history::{Effect, Operation, is_linearizable},
    read::{ReadDone, ReadMachine},
    round::{Ask, Breaks, Failure, FailureKind, Reach, Said, Step, Unmet},
    write::{Condition, Needs, WriteIntent, WriteMachine, Written},
};

const CLIENTS: usize = 4;
const OPERATIONS: usize = 8;
/// How long a coordinator waits, in ticks; a message takes 1 to 30.
const PATIENCE: u64 = 150;
/// Latest moment of a hedge, in ticks after the questions before it: also long before a first answer
/// could be there, and long after the last.
const HEDGE: u64 = 70;

type OpId = usize;

enum Machine {
    Write(WriteMachine),
    Read(ReadMachine),
    /// The coordinator crashed.
    Gone,
}

struct Op {
    client: usize,
    home: usize,
    machine: Machine,
    /// 0 for a read.
    value: u64,
    invoked: u64,
    decided: bool,
    dot: Option<Dot>,
    /// What the write superseded knowingly.
    covered: VersionVector,
    acknowledged: bool,
    context: Option<VersionVector>,
    condition: Condition,
    /// Counts the rounds of questions; answers to an earlier one are not handed in.
    round: u32,
}

enum Event {
    Begin {
        client: usize,
    },
    Asked {
        op: OpId,
        round: u32,
        at: usize,
        ask: Ask,
    },
    Replied {
        op: OpId,
        round: u32,
        from: usize,
        said: Result<Said, Failure>,
    },
    Late {
        op: OpId,
    },
    Deadline {
        op: OpId,
    },
    Crash {
        node: usize,
    },
    Recover {
        node: usize,
    },
}

struct Node {
    id: NodeId,
    stored: Record,
    up: bool,
    clock: Hlc,
    /// Added to the virtual time.
    skew: u64,
    counter: u64,
    /// The write that holds the key's lock, and those that wait for it.
    holder: Option<OpId>,
    queue: VecDeque<OpId>,
}

/// Proof that the faults took place.
#[derive(Debug, Default)]
struct Counters {
    lost: usize,
    crashes: usize,
    unknown: usize,
    refused: usize,
    repaired: usize,
    hedged: usize,
    acknowledged: usize,
    siblings: usize,
    /// Conditional writes: answered well, stored beside another, refused.
    exclusive: usize,
    beside: usize,
    not_so: usize,
}

struct Simulation {
    random: StdRng,
    now: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    ops: Vec<Op>,
    left: Vec<usize>,
    contexts: Vec<Option<VersionVector>>,
    history: Vec<Operation>,
    breaks: Breaks,
    loss: f64,
    counters: Counters,
}

const REPLICAS: usize = 3;
/// One more node that coordinates without holding the key.
const NODES: usize = 4;

impl Simulation {
    fn new(seed: u64, breaks: Breaks) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = (0..NODES)
            .map(|n| Node {
                id: NodeId::new(&format!("n{n}")).expect("valid"),
                stored: Record::default(),
                up: true,
                clock: Hlc(0),
                skew: random.random_range(0..400),
                counter: 0,
                holder: None,
                queue: VecDeque::new(),
            })
            .collect();
        let loss = [0.0, 0.05, 0.2][random.random_range(0..3)];
        let mut simulation = Self {
            random,
            now: 0,
            sequence: 0,
            events: BTreeMap::new(),
            nodes,
            ops: Vec::new(),
            left: vec![OPERATIONS; CLIENTS],
            contexts: vec![None; CLIENTS],
            history: Vec::new(),
            breaks,
            loss,
            counters: Counters::default(),
        };
        for client in 0..CLIENTS {
            simulation.within(60, Event::Begin { client });
        }
        for _ in 0..simulation.random.random_range(0..4) {
            let node = simulation.random.random_range(0..NODES);
            simulation.within(900, Event::Crash { node });
        }
        simulation
    }

    fn within(&mut self, ticks: u64, event: Event) {
        let at = self.now + self.random.random_range(1..=ticks);
        self.at(at, event);
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    fn run(mut self) -> Self {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            self.handle(event);
        }
        self
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Begin { client } => self.begin(client),
            Event::Asked { op, round, at, ask } => self.serve((op, round), at, ask),
            Event::Replied {
                op,
                round,
                from,
                said,
            } => {
                if self.ops[op].round == round {
                    self.reply(op, from, said);
                }
            }
            Event::Late { op } => self.late(op),
            Event::Deadline { op } => self.deadline(op),
            Event::Crash { node } => self.crash(node),
            Event::Recover { node } => {
                let skew = self.random.random_range(0..400);
                let node = &mut self.nodes[node];
                (node.up, node.clock, node.skew) = (true, Hlc(0), skew);
            }
        }
    }

    fn begin(&mut self, client: usize) {
        if self.left[client] == 0 {
            return;
        }
        self.left[client] -= 1;
        let up: Vec<usize> = (0..NODES).filter(|n| self.nodes[*n].up).collect();
        let Some(home) = up.get(self.random.random_range(0..NODES) % up.len().max(1)) else {
            return self.within(50, Event::Begin { client });
        };
        let id = self.ops.len();
        let write = self.random.random_bool(0.5);
        let aware = write && self.random.random_bool(0.5);
        let with_context = self.contexts[client].clone().filter(|_| aware);
        let conditional = self.random.random_bool(0.6);
        let condition = with_context.clone().map(Condition::Exactly);
        let condition = condition.filter(|_| conditional);
        self.ops.push(Op {
            client,
            home: *home,
            machine: Machine::Gone,
            value: if write { id as u64 + 1 } else { 0 },
            invoked: self.now,
            decided: false,
            dot: None,
            covered: VersionVector::default(),
            acknowledged: false,
            context: with_context.filter(|_| !conditional),
            condition: condition.unwrap_or_default(),
            round: 0,
        });
        self.at(self.now + PATIENCE, Event::Deadline { op: id });
        if !write {
            let (machine, step) = ReadMachine::start(
                Consistency::Quorum,
                self.breaks,
                needs(&self.nodes),
                &self.unreachable(),
            );
            self.ops[id].machine = Machine::Read(machine);
            self.read_step(id, step);
        } else if self.nodes[*home].holder.is_none() {
            self.start_write(id);
        } else {
            self.nodes[*home].queue.push_back(id);
        }
    }

    fn start_write(&mut self, id: OpId) {
        let op = &self.ops[id];
        self.nodes[op.home].holder = Some(id);
        let intent = WriteIntent {
            value: Some(Value::Json(Bytes::from(op.value.to_string()))),
            context: op.context.clone(),
            condition: op.condition.clone(),
            consistency: Consistency::Quorum,
            breaks: self.breaks,
        };
        let (machine, step) = WriteMachine::start(intent, needs(&self.nodes), &self.unreachable());
        self.ops[id].machine = Machine::Write(machine);
        self.write_step(id, step);
    }

    /// What gossip knows: now and then that a crashed node is dead. And somebody comes first.
    fn unreachable(&mut self) -> Reach {
        let mut reach = Reach::default();
        for node in &self.nodes {
            if !node.up && self.random.random_bool(0.5) {
                reach.off.insert(node.id.clone(), "dead".into());
            }
        }
        for node in &self.nodes[..REPLICAS] {
            let at = self.random.random_range(0..=reach.order.len());
            reach.order.insert(at, node.id.clone());
        }
        reach
    }

    /// The driver finds that answers are late.
    fn late(&mut self, id: OpId) {
        let op = &mut self.ops[id];
        if op.decided {
            return;
        }
        match &mut op.machine {
            Machine::Write(machine) => {
                let step = machine.on_late();
                if let Step::Ask(more) = &step {
                    self.counters.hedged += more.len();
                }
                self.write_step(id, step);
            }
            Machine::Read(machine) => {
                let step = machine.on_late();
                if let Step::Ask(more) = &step {
                    self.counters.hedged += more.len();
                }
                self.read_step(id, step);
            }
            Machine::Gone => {}
        }
    }

    fn write_step(&mut self, id: OpId, step: Step<Written>) {
        match step {
            Step::Wait => {}
            Step::Ask(asks) => self.send(id, asks),
            Step::Stamp { seen } => self.stamp(id, seen),
            Step::Done(written) => {
                self.counters.acknowledged += 1;
                self.counters.siblings += usize::from(written.record.siblings.len() > 1);
                self.ops[id].acknowledged = true;
                let conditional = self.ops[id].condition != Condition::Always;
                self.counters.exclusive += usize::from(conditional);
                let client = self.ops[id].client;
                self.contexts[client] = Some(written.record.clock.clone());
                self.decide(id, Some(Effect::Write(self.ops[id].value)), true);
            }
            Step::Failed(unmet) => self.fail_write(id, &unmet),
        }
    }

    fn fail_write(&mut self, id: OpId, unmet: &Unmet) {
        let unknown = matches!(
            unmet,
            Unmet::Unanswered {
                may_have_written: true,
                ..
            }
        );
        self.counters.unknown += usize::from(unknown);
        self.counters.refused += usize::from(!unknown);
        let beside = matches!(unmet, Unmet::NotAlone { .. });
        self.counters.beside += usize::from(beside);
        self.counters.not_so += usize::from(matches!(unmet, Unmet::Precondition { .. }));
        let stored = unknown || beside;
        let effect = stored.then_some(Effect::Write(self.ops[id].value));
        self.decide(id, effect, false);
    }

    fn stamp(&mut self, id: OpId, seen: Hlc) {
        let off = self.unreachable();
        let op = &mut self.ops[id];
        let node = &mut self.nodes[op.home];
        node.counter += 1;
        node.clock = node.clock.next(seen, self.now + node.skew);
        let dot = Dot {
            actor: Actor {
                node: node.id.clone(),
                epoch: 1,
            },
            counter: node.counter,
        };
        op.dot = Some(dot.clone());
        op.round += 1;
        let Machine::Write(machine) = &mut op.machine else {
            panic!("only writes stamp");
        };
        let step = machine.stamp(dot, node.clock, &off);
        if let Step::Ask(asks) = &step
            && let Some((_, Ask::Store(record))) = asks.first()
        {
            op.covered = op.context.clone().unwrap_or_else(|| record.clock.clone());
        }
        self.write_step(id, step);
    }

    fn read_step(&mut self, id: OpId, step: Step<ReadDone>) {
        match step {
            Step::Wait | Step::Stamp { .. } => {}
            Step::Ask(asks) => self.send(id, asks),
            Step::Done(done) => {
                self.counters.repaired += done.repaired.len();
                let client = self.ops[id].client;
                self.contexts[client] = Some(done.record.clock.clone());
                self.decide(id, Some(Effect::Read(head(&done.record))), true);
                if let Machine::Read(machine) = &mut self.ops[id].machine {
                    let asks = machine.leftovers();
                    self.send(id, asks);
                }
            }
            Step::Failed(_) => self.decide(id, None, false),
        }
    }

    /// Ends an operation for its client and hands the key's lock on.
    fn decide(&mut self, id: OpId, effect: Option<Effect>, returned: bool) {
        let op = &mut self.ops[id];
        op.decided = true;
        if let Some(effect) = effect {
            self.history.push(Operation {
                effect,
                invoked: op.invoked,
                returned: returned.then_some(self.now),
            });
        }
        let (client, home) = (op.client, op.home);
        self.within(40, Event::Begin { client });
        if self.nodes[home].holder == Some(id) {
            self.nodes[home].holder = None;
            if let Some(next) = self.nodes[home].queue.pop_front() {
                self.start_write(next);
            }
        }
    }

    fn send(&mut self, op: OpId, asks: Vec<(NodeId, Ask)>) {
        for (to, ask) in asks {
            let at = self.nodes.iter().position(|n| n.id == to).expect("a node");
            let round = self.ops[op].round;
            if self.lost() {
                self.maybe_report((op, round), at);
                continue;
            }
            self.within(30, Event::Asked { op, round, at, ask });
        }
        let hedges = match &self.ops[op].machine {
            Machine::Write(machine) => machine.can_hedge(),
            Machine::Read(machine) => machine.can_hedge(),
            Machine::Gone => false,
        };
        if hedges {
            self.within(HEDGE, Event::Late { op });
        }
    }

    fn lost(&mut self) -> bool {
        let lost = self.random.random_bool(self.loss);
        self.counters.lost += usize::from(lost);
        lost
    }

    /// A lost message is sometimes noticed as a lost connection, else only by the deadline.
    fn maybe_report(&mut self, (op, round): (OpId, u32), from: usize) {
        if self.random.random_bool(0.5) {
            let said = Err(Failure {
                kind: FailureKind::Unknown,
                why: "connection lost".into(),
            });
            let event = Event::Replied {
                op,
                round,
                from,
                said,
            };
            self.within(30, event);
        }
    }

    fn serve(&mut self, (op, round): (OpId, u32), at: usize, ask: Ask) {
        if !self.nodes[at].up {
            return self.maybe_report((op, round), at);
        }
        let stored = &mut self.nodes[at].stored;
        let known = !stored.clock.is_empty();
        let said = match ask {
            Ask::Version => Said::Version(known.then(|| stored.version())),
            Ask::Record => Said::Record(known.then(|| stored.clone())),
            Ask::Store(record) => {
                *stored = stored.merge(&record);
                Said::Stored
            }
        };
        if self.lost() {
            return self.maybe_report((op, round), at);
        }
        self.within(
            30,
            Event::Replied {
                op,
                round,
                from: at,
                said: Ok(said),
            },
        );
    }

    fn reply(&mut self, id: OpId, from: usize, said: Result<Said, Failure>) {
        let who = self.nodes[from].id.clone();
        let op = &mut self.ops[id];
        match &mut op.machine {
            Machine::Write(_) if op.decided => {}
            Machine::Write(machine) => {
                let step = match said {
                    Ok(said) => machine.on_said(&who, said),
                    Err(failure) => machine.on_failure(&who, failure),
                };
                self.write_step(id, step);
            }
            Machine::Read(machine) => {
                let step = match said {
                    Ok(said) => machine.on_said(&who, said),
                    Err(failure) => machine.on_failure(&who, failure),
                };
                if !op.decided || matches!(step, Step::Ask(_)) {
                    self.read_step(id, step);
                }
            }
            Machine::Gone => {}
        }
    }

    fn deadline(&mut self, id: OpId) {
        if self.ops[id].decided {
            return;
        }
        match &self.ops[id].machine {
            Machine::Write(machine) => {
                let unmet = machine.on_deadline();
                self.fail_write(id, &unmet);
            }
            Machine::Read(_) => self.decide(id, None, false),
            Machine::Gone => {
                // it never got the key's lock
                let home = self.ops[id].home;
                self.nodes[home].queue.retain(|waiting| *waiting != id);
                self.decide(id, None, false);
            }
        }
    }

    /// Messages under way stay under way; what the coordinator knew is gone.
    fn crash(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.counters.crashes += 1;
        self.nodes[node].up = false;
        self.nodes[node].queue.clear();
        self.nodes[node].holder = None;
        for id in 0..self.ops.len() {
            let op = &mut self.ops[id];
            if op.home != node {
                continue;
            }
            op.machine = Machine::Gone;
            if !op.decided {
                let effect = (op.dot.is_some()).then_some(Effect::Write(op.value));
                self.counters.unknown += usize::from(effect.is_some());
                self.decide(id, effect, false);
            }
        }
        self.within(300, Event::Recover { node });
    }

    /// Acknowledged writes that are neither there nor superseded by a write that knew them.
    fn vanished(&self) -> usize {
        let end = self.nodes[..REPLICAS]
            .iter()
            .fold(Record::default(), |all, n| all.merge(&n.stored));
        let gone = |op: &&Op| {
            let Some(dot) = op.dot.as_ref().filter(|_| op.acknowledged) else {
                return false;
            };
            let there = end.siblings.iter().any(|s| s.dot == *dot);
            let superseded =
                |other: &Op| other.dot.as_ref() != Some(dot) && other.covered.covers(dot);
            !there && !self.ops.iter().any(superseded)
        };
        self.ops.iter().filter(gone).count()
    }
}

impl Simulation {
    /// Versions that more than one conditional write was told to have replaced.
    fn shared_wins(&self) -> usize {
        let wins: Vec<&Condition> = self
            .ops
            .iter()
            .filter(|op| op.acknowledged && op.condition != Condition::Always)
            .map(|op| &op.condition)
            .collect();
        let twice = |(n, won): (usize, &&Condition)| wins[..n].contains(won);
        wins.iter().enumerate().filter(|it| twice(*it)).count()
    }
}

fn needs(nodes: &[Node]) -> Needs {
    let replicas = nodes[..REPLICAS].iter().map(|n| n.id.clone()).collect();
    let need = Requirement {
        groups: vec![Group::majority_of(replicas)],
    };
    Needs {
        read: need.clone(),
        write: need,
    }
}

fn head(record: &Record) -> u64 {
    match record.head().and_then(|s| s.value.as_ref()) {
        Some(Value::Json(text) | Value::Raw(text)) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .expect("a number was stored"),
        None => 0,
    }
}

/// Runs seeds until one is not linearizable.
fn first_violation(seeds: std::ops::Range<u64>, breaks: Breaks) -> Option<u64> {
    seeds
        .into_iter()
        .find(|seed| !is_linearizable(&Simulation::new(*seed, breaks).run().history))
}

#[test]
fn reads_and_writes_are_linearizable_under_faults() {
    let mut sum = Counters::default();
    for seed in 0..1500 {
        let end = Simulation::new(seed, Breaks::default()).run();
        assert!(
            is_linearizable(&end.history),
            "seed {seed}: {:#?}",
            end.history
        );
        assert_eq!(
            end.vanished(),
            0,
            "seed {seed}: an acknowledged write vanished"
        );
        assert_eq!(
            end.shared_wins(),
            0,
            "seed {seed}: two replaced one version"
        );
        sum.exclusive += end.counters.exclusive;
        sum.beside += end.counters.beside;
        sum.not_so += end.counters.not_so;
        sum.lost += end.counters.lost;
        sum.crashes += end.counters.crashes;
        sum.unknown += end.counters.unknown;
        sum.refused += end.counters.refused;
        sum.repaired += end.counters.repaired;
        sum.hedged += end.counters.hedged;
        sum.acknowledged += end.counters.acknowledged;
        sum.siblings += end.counters.siblings;
    }
    for (what, count) in [
        ("lost messages", sum.lost),
        ("crashes", sum.crashes),
        ("unknown outcomes", sum.unknown),
        ("refusals", sum.refused),
        ("repairs", sum.repaired),
        ("hedges", sum.hedged),
        ("acknowledged writes", sum.acknowledged),
        ("writes beside siblings", sum.siblings),
        ("conditional writes", sum.exclusive),
        ("conditional writes beside another", sum.beside),
        ("conditions that did not hold", sum.not_so),
    ] {
        assert!(count > 100, "the simulation must have had {what}: {sum:?}");
    }
}

#[test]
fn the_checker_notices_a_missing_write_back() {
    let breaks = Breaks {
        write_back: true,
        ..Breaks::default()
    };
    assert!(first_violation(0..1500, breaks).is_some());
}

#[test]
fn the_checker_notices_a_missing_version_query() {
    let breaks = Breaks {
        version_query: true,
        ..Breaks::default()
    };
    assert!(first_violation(0..1500, breaks).is_some());
}

#[test]
fn the_checker_notices_a_missing_last_question() {
    let breaks = Breaks {
        last_question: true,
        ..Breaks::default()
    };
    let wins = |seed| Simulation::new(seed, breaks).run().shared_wins();
    assert!((0..1500).any(|seed| wins(seed) > 0));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        format!(
            "{:?}",
            Simulation::new(seed, Breaks::default()).run().history
        )
    };
    assert_eq!(run(7), run(7));
}
