//! The register, model-checked: every order of everything that can happen, within bounds.
//!
//! Three acceptors, as many attempts as there are ballots, and a network that loses, doubles and
//! reorders at will: a message once sent stays, and may be delivered never, now, or again at any
//! later time. Acceptors restart at any time with what they had synced; a proposer that starts
//! over is one more attempt. The steps are those of the real [`AcceptorState`] and [`Proposer`];
//! modelled is only the world around them. For so many attempts the search is complete.
//!
//! What keeps it small and takes nothing away: all attempts have begun at the start (nobody has
//! to hear of one); a proposer takes its answers in one act once it has enough of them (nobody
//! sees what it knows in between); a promise to an attempt that has gone on is forgotten (it
//! ignores it, which is checked); worlds that differ only in which acceptor is which are one.
//!
//! The same search finds two values as soon as an acceptor forgets a promise when it restarts,
//! accepts below one, or a proposer passes over what was accepted.

use std::{
    array,
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::{PoisonError, RwLock},
};

use ringmaster_shared::id::NodeId;
use stateright::{Checker, HasDiscoveries, Model, Property};

use super::*;
use crate::topology::fixture::{id, topology};

mod wiped;

const ACCEPTORS: usize = 3;
/// Attempts, and so ballots and values, at most.
const MOST: usize = 4;
/// Threads of one search.
const THREADS: usize = 2;

/// What a broken implementation would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// A restarted acceptor knows what it accepted, but not what it promised.
    ForgetsPromises,
    /// An acceptor takes any value, whatever it promised.
    AcceptsAnything,
    /// A proposer sends its own value, whatever it was told.
    OwnValue,
}

/// A ballot, in their order. The value its attempt would propose has the same number.
type Number = u8;

/// Ballot and value.
type Accepted = Option<(Number, Number)>;

/// An acceptor, and all the answers it ever gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Acceptor {
    promised: Option<Number>,
    accepted: Accepted,
    /// By ballot: what it said it had accepted when it promised, one bit for each ([`bit_of`]).
    promises: [u32; MOST],
    /// By ballot.
    accepts: [bool; MOST],
}

/// All there is; requests stay on their way for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    /// In order, whichever is which.
    acceptors: [Acceptor; ACCEPTORS],
    /// By ballot: the value that was sent to be accepted.
    sent: [Option<Number>; MOST],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Request {
    Prepare { ballot: Number },
    Accept { ballot: Number, value: Number },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Promised { accepted: Accepted },
    Accepted,
    Rejected { promised: Number },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Ask {
        to: usize,
        request: Request,
    },
    /// The attempt hears two promises, in this order.
    Hear {
        ballot: Number,
        told: [Accepted; 2],
    },
    Restart(usize),
}

fn bit_of(accepted: Accepted) -> u32 {
    let at = accepted.map_or(0, |(b, v)| 1 + usize::from(b) * MOST + usize::from(v));
    1 << at
}

/// What the bits stand for.
fn told(bits: u32) -> impl Iterator<Item = Accepted> {
    let number = |n: usize| n as Number;
    let all = (0..MOST).flat_map(move |b| (0..MOST).map(move |v| Some((number(b), number(v)))));
    std::iter::once(None)
        .chain(all)
        .filter(move |accepted| bits & bit_of(*accepted) != 0)
}

/// All pairs of promises that an attempt could hear, of what each acceptor promised to it, in bits.
fn pairs(promised: [u32; ACCEPTORS]) -> Vec<[Accepted; 2]> {
    let mut pairs = Vec::new();
    for first in 0..ACCEPTORS {
        for second in (0..ACCEPTORS).filter(|second| *second != first) {
            for one in told(promised[first]) {
                for other in told(promised[second]) {
                    if !pairs.contains(&[one, other]) {
                        pairs.push([one, other]);
                    }
                }
            }
        }
    }
    pairs
}

/// Results of the real code by its input: it is pure, so each step is taken once.
struct Memo<K, V>(RwLock<HashMap<K, V>>);

impl<K: Hash + Eq + Copy, V: Copy> Memo<K, V> {
    fn new() -> Self {
        Self(RwLock::new(HashMap::new()))
    }

    fn get(&self, key: K, step: impl FnOnce() -> V) -> V {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.get(&key) {
            return *value;
        }
        drop(known);
        let value = step();
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(key, value);
        value
    }
}

/// What an acceptor knows: promised, accepted.
type Known = (Option<Number>, Accepted);

struct Register {
    fault: Fault,
    attempts: usize,
    base: Topology,
    names: Vec<NodeId>,
    ballots: Vec<Ballot>,
    values: Vec<Topology>,
    judged: Memo<(Known, Request), (Known, Reply)>,
    heard: Memo<(Number, [Accepted; 2]), Number>,
}

impl Register {
    fn new(attempts: usize, fault: Fault) -> Self {
        let names = ["a", "b", "c"];
        let base = topology(1, &names);
        let mut ballots = Vec::new();
        let mut values = Vec::new();
        for n in 0..attempts {
            // the fourth attempt is the first one's next
            let (name, round) = (names[n % names.len()], n / names.len() + 1);
            ballots.push(Ballot {
                round: round as u64,
                node: id(name),
                life: 1,
            });
            let mut value = base.clone();
            value.epoch += 1;
            value.members[0].address = format!("{name}-{round}:1");
            values.push(value);
        }
        assert!(ballots.is_sorted(), "numbers stand for ballots in order");
        Self {
            fault,
            attempts,
            base,
            names: names.iter().map(|n| id(n)).collect(),
            ballots,
            values,
            judged: Memo::new(),
            heard: Memo::new(),
        }
    }

    fn ballot(&self, number: Number) -> Ballot {
        self.ballots[usize::from(number)].clone()
    }

    fn value(&self, number: Number) -> Topology {
        self.values[usize::from(number)].clone()
    }

    fn number_of(&self, ballot: &Ballot) -> Number {
        let at = self.ballots.iter().position(|b| b == ballot);
        at.expect("a known ballot") as Number
    }

    fn number_of_value(&self, value: &Topology) -> Number {
        let at = self.values.iter().position(|v| v == value);
        at.expect("a known value") as Number
    }

    fn real_accepted(&self, accepted: Accepted) -> Option<(Ballot, Topology)> {
        accepted.map(|(ballot, value)| (self.ballot(ballot), self.value(value)))
    }

    fn accepted_of(&self, real: Option<&(Ballot, Topology)>) -> Accepted {
        real.map(|(ballot, value)| (self.number_of(ballot), self.number_of_value(value)))
    }

    /// One step of a real acceptor.
    fn judge(&self, (promised, accepted): Known, request: Request) -> (Known, Reply) {
        let mut real = AcceptorState {
            base_epoch: self.base.epoch,
            promised: promised.map(|p| self.ballot(p)),
            accepted: self.real_accepted(accepted),
        };
        let reply = match request {
            Request::Prepare { ballot } => real.prepare(self.ballot(ballot)),
            Request::Accept { ballot, value } => {
                if self.fault == Fault::AcceptsAnything {
                    real.promised = None;
                }
                real.accept(self.ballot(ballot), self.value(value))
            }
        };
        let after = (
            real.promised.as_ref().map(|p| self.number_of(p)),
            self.accepted_of(real.accepted.as_ref()),
        );
        let reply = match reply {
            RegisterReply::Promised { accepted } => Reply::Promised {
                accepted: self.accepted_of(accepted.as_ref()),
            },
            RegisterReply::Accepted => Reply::Accepted,
            RegisterReply::Rejected { promised } => Reply::Rejected {
                promised: self.number_of(&promised),
            },
            other => panic!("an acceptor at the base does not say {other:?}"),
        };
        (after, reply)
    }

    fn begin(&self, ballot: Number) -> Proposer {
        let real = Proposer::new(self.base.clone(), self.value(ballot), self.ballot(ballot));
        let RegisterRequest::Prepare { ballot: asked, .. } = real.prepare() else {
            panic!("an attempt begins with a prepare");
        };
        assert_eq!(asked, self.ballot(ballot));
        real
    }

    /// A real proposer from its first promise to its decision: the value it sends.
    fn hear(&self, ballot: Number, told: [Accepted; 2]) -> Number {
        let mut real = self.begin(ballot);
        let [first, second] = told.map(|accepted| RegisterReply::Promised {
            accepted: match self.fault {
                Fault::OwnValue => None,
                _ => self.real_accepted(accepted),
            },
        });
        let [a, b, c] = [0, 1, 2].map(|at: usize| &self.names[at]);
        for _ in 0..2 {
            assert_eq!(real.on_reply(a, first.clone()), Step::Wait, "doubled");
        }
        let sent = real.on_reply(b, second);
        let Step::Send(RegisterRequest::Accept {
            ballot: under,
            value,
            ..
        }) = sent
        else {
            panic!("a majority promised, and it does {sent:?}");
        };
        assert_eq!(under, self.ballot(ballot));
        for late in [a, c] {
            assert_eq!(real.on_reply(late, first.clone()), Step::Wait, "too late");
        }
        for _ in 0..2 {
            let once = real.on_reply(a, RegisterReply::Accepted);
            assert_eq!(once, Step::Wait, "one acceptor is no majority");
        }
        let decided = real.on_reply(c, RegisterReply::Accepted);
        assert_eq!(decided, Step::Decided(value.clone()));
        self.number_of_value(&value)
    }

    /// What a rejection does to an attempt: it is over, which loses nothing but time.
    fn outbid(&self, ballot: Number, promised: Number) {
        let promised = self.ballot(promised);
        let reply = RegisterReply::Rejected {
            promised: promised.clone(),
        };
        let told = self.begin(ballot).on_reply(&self.names[0], reply);
        assert_eq!(told, Step::Outbid(promised));
    }

    fn ask(&self, world: &World, to: usize, request: Request) -> World {
        let mut next = *world;
        let acceptor = &mut next.acceptors[to];
        let known = (acceptor.promised, acceptor.accepted);
        let asked = (known, request);
        let (after, reply) = self.judged.get(asked, || {
            let (after, reply) = self.judge(known, request);
            if let Reply::Rejected { promised } = reply {
                let (Request::Prepare { ballot } | Request::Accept { ballot, .. }) = request;
                self.outbid(ballot, promised);
            }
            (after, reply)
        });
        (acceptor.promised, acceptor.accepted) = after;
        let (Request::Prepare { ballot } | Request::Accept { ballot, .. }) = request;
        let ballot = usize::from(ballot);
        match reply {
            Reply::Promised { accepted } if next.sent[ballot].is_none() => {
                acceptor.promises[ballot] |= bit_of(accepted);
            }
            Reply::Accepted => acceptor.accepts[ballot] = true,
            Reply::Promised { .. } | Reply::Rejected { .. } => {}
        }
        next
    }

    /// What a majority accepted under one ballot, whether or not anybody knows it.
    fn chosen(world: &World) -> BTreeSet<Number> {
        let is_chosen = |ballot: usize| {
            let by = world.acceptors.iter().filter(|a| a.accepts[ballot]);
            by.count() > ACCEPTORS / 2
        };
        (0..MOST)
            .filter(|ballot| is_chosen(*ballot))
            .filter_map(|ballot| world.sent[ballot])
            .collect()
    }

    fn requests(&self, world: &World) -> Vec<Request> {
        let mut all = Vec::new();
        for n in 0..self.attempts {
            let ballot = n as Number;
            all.push(Request::Prepare { ballot });
            if let Some(value) = world.sent[n] {
                all.push(Request::Accept { ballot, value });
            }
        }
        all
    }
}

impl Model for Register {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            acceptors: [Acceptor::default(); ACCEPTORS],
            sent: [None; MOST],
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        for to in 0..ACCEPTORS {
            if to > 0 && world.acceptors[to] == world.acceptors[to - 1] {
                continue; // the same again
            }
            for request in self.requests(world) {
                acts.push(Act::Ask { to, request });
            }
            acts.push(Act::Restart(to));
        }
        for ballot in (0..self.attempts).filter(|b| world.sent[*b].is_none()) {
            let promised = world.acceptors.map(|a| a.promises[ballot]);
            let ballot = ballot as Number;
            for told in pairs(promised) {
                acts.push(Act::Hear { ballot, told });
            }
        }
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = match act {
            Act::Ask { to, request } => self.ask(world, to, request),
            Act::Hear { ballot, told } => {
                let value = self.heard.get((ballot, told), || self.hear(ballot, told));
                let mut next = *world;
                let ballot = usize::from(ballot);
                next.sent[ballot] = Some(value);
                for acceptor in &mut next.acceptors {
                    acceptor.promises[ballot] = 0;
                }
                next
            }
            Act::Restart(acceptor) => {
                // all of an acceptor's state was synced before it answered, so it is all there
                let mut next = *world;
                if self.fault == Fault::ForgetsPromises {
                    next.acceptors[acceptor].promised = None;
                }
                next
            }
        };
        next.acceptors.sort_unstable();
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one value", |_, world| Self::chosen(world).len() <= 1),
            Property::sometimes("something is decided", |_, world| {
                !Self::chosen(world).is_empty()
            }),
            Property::sometimes("another's value is carried on", |_, world: &World| {
                let mut sent = (0..).zip(&world.sent);
                sent.any(|(ballot, value)| value.is_some_and(|v| v != ballot))
            }),
            Property::sometimes("all attempts get on", |model: &Self, world: &World| {
                world.sent.iter().flatten().count() == model.attempts
            }),
            Property::sometimes("a value is chosen twice", |_, world: &World| {
                let by_all = |ballot: usize| {
                    let of: [bool; ACCEPTORS] =
                        array::from_fn(|a| world.acceptors[a].accepts[ballot]);
                    of.iter().filter(|a| **a).count() > ACCEPTORS / 2
                };
                (0..MOST).filter(|b| by_all(*b)).count() > 1
            }),
        ]
    }
}

/// Searches everything; returns how many states there were.
fn explore(attempts: usize) -> usize {
    let checker = Register::new(attempts, Fault::None)
        .checker()
        .threads(THREADS)
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    println!(
        "{attempts} attempts: {states} states, {} steps deep",
        checker.max_depth()
    );
    checker.assert_properties();
    states
}

#[test]
fn two_attempts_decide_one_value() {
    explore(2);
}

#[test]
fn three_attempts_decide_one_value() {
    explore(3);
}

#[test]
fn four_attempts_decide_one_value() {
    let states = explore(4);
    assert!(states > 10_000, "{states} states are no search");
}

#[test]
fn each_broken_rule_is_found() {
    for fault in [
        Fault::ForgetsPromises,
        Fault::AcceptsAnything,
        Fault::OwnValue,
    ] {
        let checker = Register::new(2, fault)
            .checker()
            .threads(THREADS)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let trace = checker.discovery("one value");
        let trace = trace.unwrap_or_else(|| panic!("{fault:?} goes unnoticed"));
        let acts = trace.into_actions();
        println!("{fault:?}: {} steps to two values", acts.len());
    }
}
