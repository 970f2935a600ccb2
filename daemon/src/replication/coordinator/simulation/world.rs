//! The simulated cluster: nodes with clocks and stores, messages under way, operations, faults.

use std::collections::{BTreeMap, VecDeque};

use rand::{Rng, SeedableRng, rngs::StdRng};
use ringmaster_shared::{
    api::data::Consistency,
    clock::Hlc,
    id::NodeId,
    quorum::{Group, Requirement},
    version::{Dot, Record, VersionVector},
};

use super::super::{
    history::{Effect, Operation},
    read::{ReadDone, ReadMachine},
    round::{Ask, Breaks, Failure, FailureKind, Reach, Said, Step, Unmet},
    write::{Condition, Needs, WriteIntent, WriteMachine, Written},
};
use crate::replication::testing::{dot, head, id, number};

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
    /// When it began, or began again.
    issued: u64,
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
        issued: u64,
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
    /// The replicas raise their floors, one soon after the other, and refuse from then on what was
    /// issued before.
    Forget {
        replica: usize,
        floor: u64,
    },
}

struct Node {
    id: NodeId,
    stored: Record,
    /// What was issued by then is refused when it would change something.
    floor: u64,
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
pub struct Counters {
    pub lost: usize,
    pub crashes: usize,
    pub unknown: usize,
    pub refused: usize,
    pub repaired: usize,
    pub hedged: usize,
    /// Refused as stale, and begun again for that.
    pub stale: usize,
    pub again: usize,
    pub acknowledged: usize,
    pub siblings: usize,
    /// Conditional writes: answered well, stored beside another, refused.
    pub exclusive: usize,
    pub beside: usize,
    pub not_so: usize,
}

pub struct Simulation {
    random: StdRng,
    now: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    ops: Vec<Op>,
    left: Vec<usize>,
    contexts: Vec<Option<VersionVector>>,
    pub history: Vec<Operation>,
    breaks: Breaks,
    loss: f64,
    pub counters: Counters,
}

const REPLICAS: usize = 3;
/// One more node that coordinates without holding the key.
const NODES: usize = 4;

impl Simulation {
    pub fn new(seed: u64, breaks: Breaks) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = (0..NODES)
            .map(|n| Node {
                id: id(&format!("n{n}")),
                stored: Record::default(),
                floor: 0,
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
        for _ in 0..simulation.random.random_range(0..6) {
            let floor = simulation.random.random_range(30..900);
            for replica in 0..REPLICAS {
                let late = simulation.random.random_range(0..20);
                simulation.at(floor + late, Event::Forget { replica, floor });
            }
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

    pub fn run(mut self) -> Self {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            self.handle(event);
        }
        self
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Begin { client } => self.begin(client),
            Event::Asked {
                op,
                round,
                at,
                ask,
                issued,
            } => self.serve((op, round), at, ask, issued),
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
            Event::Forget { replica, floor } => {
                let node = &mut self.nodes[replica];
                node.floor = node.floor.max(floor);
            }
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
            issued: self.now,
        });
        self.at(self.now + PATIENCE, Event::Deadline { op: id });
        if !write {
            self.start_read(id);
        } else if self.nodes[*home].holder.is_none() {
            self.start_write(id);
        } else {
            self.nodes[*home].queue.push_back(id);
        }
    }

    fn start_read(&mut self, id: OpId) {
        let (machine, step) = ReadMachine::start(
            Consistency::Quorum,
            self.breaks,
            needs(&self.nodes),
            &self.unreachable(),
        );
        self.ops[id].machine = Machine::Read(machine);
        self.read_step(id, step);
    }

    /// As the driver does it: answers to what was asked before are not handed in any more.
    fn begin_again(&mut self, id: OpId) {
        self.counters.again += 1;
        let off = self.unreachable();
        let op = &mut self.ops[id];
        op.round += 1;
        op.issued = self.now;
        match &mut op.machine {
            Machine::Write(machine) => {
                let step = machine.begin_again(&off);
                self.write_step(id, step);
            }
            Machine::Read(_) => self.start_read(id),
            Machine::Gone => {}
        }
    }

    fn start_write(&mut self, id: OpId) {
        let op = &self.ops[id];
        self.nodes[op.home].holder = Some(id);
        let intent = WriteIntent {
            value: Some(number(op.value)),
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
            Step::Again => self.begin_again(id),
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
        let dot = dot(node.id.as_str(), node.counter);
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
            Step::Wait | Step::Stamp { .. } | Step::Again => {}
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
            let issued = self.ops[op].issued;
            let event = Event::Asked {
                op,
                round,
                at,
                ask,
                issued,
            };
            self.within(30, event);
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

    fn serve(&mut self, (op, round): (OpId, u32), at: usize, ask: Ask, issued: u64) {
        if !self.nodes[at].up {
            return self.maybe_report((op, round), at);
        }
        let floor = self.nodes[at].floor;
        let stored = &mut self.nodes[at].stored;
        let known = !stored.clock.is_empty();
        let said = match ask {
            Ask::Version => Ok(Said::Version(known.then(|| stored.version()))),
            Ask::Record => Ok(Said::Record(known.then(|| stored.clone()))),
            Ask::Store(record) => {
                let merged = stored.merge(&record);
                if issued <= floor && merged != *stored {
                    self.counters.stale += 1;
                    Err(Failure {
                        kind: FailureKind::Stale,
                        why: "stale".into(),
                    })
                } else {
                    *stored = merged;
                    Ok(Said::Stored)
                }
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
                said,
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
            Machine::Read(_)
                if !op.decided && matches!(&said, Err(f) if f.kind == FailureKind::Stale) =>
            {
                self.begin_again(id);
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
    pub fn vanished(&self) -> usize {
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
    pub fn shared_wins(&self) -> usize {
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
