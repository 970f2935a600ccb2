//! Voters that lose their folder, model-checked over several epochs.
//!
//! Three voters, the same in each of the rings 1, 2, ..; on top of each the next is decided, by one or two
//! attempts (one has nothing to quarrel with and sends its value unasked, which allows more than can
//! happen). Voters go over to decided rings late, in any order, or never; a wiped one is let in by any
//! ring that was ever decided, however old. Whatever was sent or answered may arrive at any later
//! time: also votes of lives that have ended. The steps are those of the real acceptor, proposer and
//! [`Recall`].
//!
//! The rule that is in use decides one value on each ring, with any number of wipes within the
//! bounds. The same search finds two with the rule that was in use before, and with each part of the rule
//! left out.

use super::*;
use crate::topology::recall::{self, Heard, Recall};

/// Rings that something is decided on top of, at most.
const RINGS: usize = 3;
/// Attempts on one ring, at most.
const TRIES: usize = 2;
/// Abstains on everything.
const EVERYTHING: u8 = u8::MAX;

/// When a wiped voter votes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Beyond one more than the ring that it was let in by, asking nobody.
    OneBeyond,
    /// The rule in use.
    Recalls,
    /// It counts those that abstain themselves,
    CountsTheForgetful,
    /// those that accepted something,
    CountsTheAccepting,
    /// or is content with one that accepted nothing.
    AsksOne,
}

/// Rings are numbered from 1; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Voter {
    ring: u8,
    /// On top of its ring.
    promised: Option<Number>,
    accepted: Accepted,
    through: u8,
    wiped: bool,
    /// The ring it asks about, and which others have said "nothing", one bit for each.
    asked: u8,
    clear: u8,
    /// All answers it ever gave, in all its lives: by ring and ballot.
    promises: [[u32; TRIES]; RINGS],
    accepts: [[bool; TRIES]; RINGS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Rings {
    voters: [Voter; ACCEPTORS],
    /// By ring and ballot: the value that was sent to be accepted.
    sent: [[Option<Number>; TRIES]; RINGS],
    wipes: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// Of the attempts on top of the voter's ring.
    Vote {
        to: usize,
        request: Request,
    },
    Hear {
        ring: usize,
        ballot: Number,
        told: [Accepted; 2],
    },
    Enter {
        who: usize,
        ring: u8,
    },
    /// It loses its folder and is let in by this ring.
    Wipe {
        who: usize,
        ring: u8,
    },
    Question(usize),
    Answer {
        to: usize,
        by: usize,
    },
}

struct Wiped {
    rule: Rule,
    /// By ring.
    attempts: Vec<usize>,
    wipes: u8,
    register: Register,
    /// By what a voter abstains through, and its ring.
    barred: Memo<(u8, u8), bool>,
    judged: Memo<(Known, Request), (Known, Reply)>,
    heard: Memo<(Number, [Accepted; 2]), Number>,
    /// By ring, who asks, who had said "nothing", who answers, through what it abstains, and
    /// whether it accepted anything: what follows.
    recalled: Memo<(u8, usize, u8, usize, u8, bool), Recalled>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recalled {
    Ignored,
    Counted,
    Known,
}

impl Wiped {
    fn new(rule: Rule, attempts: &[usize], wipes: u8) -> Self {
        assert!(attempts.len() <= RINGS && attempts.iter().all(|n| (1..=TRIES).contains(n)));
        Self {
            rule,
            attempts: attempts.to_vec(),
            wipes,
            register: Register::new(TRIES, Fault::None),
            barred: Memo::new(),
            judged: Memo::new(),
            heard: Memo::new(),
            recalled: Memo::new(),
        }
    }

    /// What a majority accepted on top of a ring under one ballot.
    fn chosen(world: &Rings, ring: usize) -> impl Iterator<Item = Number> {
        (0..TRIES).filter_map(move |ballot| {
            let by = world.voters.iter().filter(|v| v.accepts[ring][ballot]);
            let enough = by.count() > ACCEPTORS / 2;
            world.sent[ring][ballot].filter(|_| enough)
        })
    }

    /// The last ring that was decided.
    fn last(&self, world: &Rings) -> u8 {
        let decided =
            (0..self.attempts.len()).take_while(|ring| Self::chosen(world, *ring).next().is_some());
        1 + decided.count() as u8
    }

    fn ring(epoch: u8) -> Topology {
        topology(u64::from(epoch), &["a", "b", "c"])
    }

    fn epoch(through: u8) -> u64 {
        match through {
            EVERYTHING => u64::MAX,
            through => u64::from(through),
        }
    }

    fn is_barred(&self, voter: &Voter) -> bool {
        let bars = || recall::is_barred(Self::epoch(voter.through), &Self::ring(voter.ring));
        self.barred.get((voter.through, voter.ring), bars)
    }

    fn vote(&self, world: &Rings, to: usize, request: Request) -> Rings {
        let mut next = *world;
        let voter = &mut next.voters[to];
        let ring = usize::from(voter.ring) - 1;
        let known = (voter.promised, voter.accepted);
        let judge = || self.register.judge(known, request);
        let (after, reply) = self.judged.get((known, request), judge);
        (voter.promised, voter.accepted) = after;
        let (Request::Prepare { ballot } | Request::Accept { ballot, .. }) = request;
        let ballot = usize::from(ballot);
        match reply {
            Reply::Promised { accepted } if world.sent[ring][ballot].is_none() => {
                voter.promises[ring][ballot] |= bit_of(accepted);
            }
            Reply::Accepted => voter.accepts[ring][ballot] = true,
            Reply::Promised { .. } | Reply::Rejected { .. } => {}
        }
        next
    }

    fn hear(&self, world: &Rings, ring: usize, ballot: Number, told: [Accepted; 2]) -> Rings {
        let hear = || self.register.hear(ballot, told);
        let value = self.heard.get((ballot, told), hear);
        let mut next = *world;
        next.sent[ring][usize::from(ballot)] = Some(value);
        for voter in &mut next.voters {
            voter.promises[ring][usize::from(ballot)] = 0;
        }
        next
    }

    fn enter(voter: &mut Voter, ring: u8) {
        voter.ring = ring;
        voter.promised = None;
        voter.accepted = None;
    }

    fn wipe(&self, world: &Rings, who: usize, ring: u8) -> Rings {
        let mut next = *world;
        next.wipes += 1;
        let voter = &mut next.voters[who];
        Self::enter(voter, ring);
        voter.wiped = true;
        voter.asked = 0;
        voter.clear = 0;
        voter.through = match self.rule {
            Rule::OneBeyond => ring + 1,
            _ => EVERYTHING,
        };
        next
    }

    /// `by` answers now what `to` asked; that the answer comes late changes nothing for `to`, who
    /// abstains meanwhile.
    fn hear_of(&self, world: &Rings, to: usize, by: usize) -> Option<Rings> {
        let mut next = *world;
        let (asker, other) = (&mut next.voters[to], &world.voters[by]);
        let accepted = other.accepted.is_some();
        let question = (asker.asked, to, asker.clear, by, other.through, accepted);
        let recalled = self.recalled.get(question, || self.recall(question));
        match recalled {
            Recalled::Ignored => return None,
            Recalled::Counted => asker.clear |= 1 << by,
            Recalled::Known => {
                asker.through = asker.asked;
                asker.asked = 0;
                asker.clear = 0;
            }
        }
        Some(next)
    }

    /// One step of the real [`Recall`], with a real answer.
    fn recall(&self, question: (u8, usize, u8, usize, u8, bool)) -> Recalled {
        let (ring, to, clear, by, through, accepted) = question;
        let names = &self.register.names;
        let base = Self::ring(ring);
        let epoch = base.epoch;
        let mut round = Recall::new(base, names[to].clone());
        let nothing = RegisterReply::Recalled { accepted: false };
        for other in (0..ACCEPTORS).filter(|other| clear & (1 << other) != 0) {
            assert_eq!(round.on_reply(&names[other], nothing.clone()), Heard::More);
        }
        let through = match self.rule {
            Rule::CountsTheForgetful => 0,
            _ => Self::epoch(through),
        };
        let mut state = AcceptorState::fresh(epoch);
        if accepted && self.rule != Rule::CountsTheAccepting {
            state.accepted = self.register.real_accepted(Some((0, 0)));
        }
        let reply = recall::answer(epoch, through, Some(&state));
        let counts = reply == nothing;
        match round.on_reply(&names[by], reply) {
            Heard::Through(known) => {
                assert_eq!(known, epoch);
                Recalled::Known
            }
            Heard::More if counts && self.rule == Rule::AsksOne => Recalled::Known,
            Heard::More if counts => Recalled::Counted,
            Heard::More => Recalled::Ignored,
            Heard::Later(ring) => panic!("nobody answered with {ring:?}"),
        }
    }

    fn votes(&self, world: &Rings, to: usize, events: &mut Vec<Event>) {
        let voter = &world.voters[to];
        let ring = usize::from(voter.ring) - 1;
        let Some(attempts) = self.attempts.get(ring).copied() else {
            return; // nothing is decided on top of the last
        };
        if self.is_barred(voter) {
            return;
        }
        for n in 0..attempts {
            let ballot = n as Number;
            if attempts > 1 {
                let request = Request::Prepare { ballot };
                events.push(Event::Vote { to, request });
            }
            if let Some(value) = world.sent[ring][n] {
                let request = Request::Accept { ballot, value };
                events.push(Event::Vote { to, request });
            }
        }
    }
}

/// Worlds that differ only in which voter is which are one.
fn sorted(world: Rings) -> Rings {
    let mut order = [0, 1, 2];
    let key = |at: &usize| {
        let voter = world.voters[*at];
        let by: [bool; ACCEPTORS] =
            array::from_fn(|other| world.voters[other].clear & (1 << *at) != 0);
        let heard_by = by.iter().filter(|by| **by).count();
        (
            Voter { clear: 0, ..voter },
            voter.clear.count_ones(),
            heard_by,
        )
    };
    order.sort_by_key(key);
    let mut next = world;
    for (place, at) in order.iter().enumerate() {
        let voter = world.voters[*at];
        let moved = order.iter().enumerate();
        let clear = moved
            .filter(|(_, was)| voter.clear & (1 << **was) != 0)
            .fold(0, |bits, (is, _)| bits | 1 << is);
        next.voters[place] = Voter { clear, ..voter };
    }
    next
}

impl Model for Wiped {
    type State = Rings;
    type Action = Event;

    fn init_states(&self) -> Vec<Rings> {
        let voter = Voter {
            ring: 1,
            ..Voter::default()
        };
        let mut sent = [[None; TRIES]; RINGS];
        for (ring, attempts) in self.attempts.iter().enumerate() {
            if *attempts == 1 {
                sent[ring][0] = Some(0);
            }
        }
        vec![Rings {
            voters: [voter; ACCEPTORS],
            sent,
            wipes: 0,
        }]
    }

    fn actions(&self, world: &Rings, events: &mut Vec<Event>) {
        let last = self.last(world);
        for who in 0..ACCEPTORS {
            let voter = &world.voters[who];
            self.votes(world, who, events);
            events.extend((voter.ring + 1..=last).map(|ring| Event::Enter { who, ring }));
            if world.wipes < self.wipes {
                events.extend((1..=last).map(|ring| Event::Wipe { who, ring }));
            }
            if voter.through != EVERYTHING {
                continue;
            }
            if voter.asked != voter.ring {
                events.push(Event::Question(who));
            }
            for by in (0..ACCEPTORS).filter(|by| *by != who) {
                if voter.asked == world.voters[by].ring && voter.clear & (1 << by) == 0 {
                    events.push(Event::Answer { to: who, by });
                }
            }
        }
        for (ring, attempts) in self.attempts.iter().enumerate() {
            for ballot in (0..*attempts).filter(|b| world.sent[ring][*b].is_none()) {
                let promised = world.voters.map(|v| v.promises[ring][ballot]);
                let ballot = ballot as Number;
                for told in pairs(promised) {
                    events.push(Event::Hear { ring, ballot, told });
                }
            }
        }
    }

    fn next_state(&self, world: &Rings, event: Event) -> Option<Rings> {
        let mut next = *world;
        let next = match event {
            Event::Vote { to, request } => self.vote(world, to, request),
            Event::Hear { ring, ballot, told } => self.hear(world, ring, ballot, told),
            Event::Enter { who, ring } => {
                Self::enter(&mut next.voters[who], ring);
                next
            }
            Event::Wipe { who, ring } => self.wipe(world, who, ring),
            Event::Question(who) => {
                let voter = &mut next.voters[who];
                voter.asked = voter.ring;
                voter.clear = 0;
                next
            }
            Event::Answer { to, by } => self.hear_of(world, to, by)?,
        };
        let next = sorted(next);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one value on each ring", |model: &Self, world| {
                (0..model.attempts.len()).all(|ring| {
                    let chosen: BTreeSet<Number> = Self::chosen(world, ring).collect();
                    chosen.len() <= 1
                })
            }),
            Property::sometimes("a wiped voter votes again", |_, world: &Rings| {
                let mut voters = world.voters.iter();
                voters.any(|v| v.wiped && v.accepted.is_some())
            }),
            Property::sometimes("the last ring is decided", |model: &Self, world| {
                usize::from(model.last(world)) > model.attempts.len()
            }),
        ]
    }
}

/// Searches everything; the rule in use holds.
fn explore(attempts: &[usize], wipes: u8) {
    let checker = Wiped::new(Rule::Recalls, attempts, wipes)
        .checker()
        .threads(THREADS)
        .spawn_bfs()
        .join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{attempts:?}, {wipes} wipes: {states} states, {depth} steps deep");
    checker.assert_properties();
    assert!(states > 10_000, "{states} states are no search");
}

/// What leads to two values under a rule that is not enough.
fn broken(rule: Rule, attempts: &[usize], wipes: u8) {
    let checker = Wiped::new(rule, attempts, wipes)
        .checker()
        .threads(THREADS)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    let trace = checker.discovery("one value on each ring");
    let trace = trace.unwrap_or_else(|| panic!("{rule:?} goes unnoticed in {states} states"));
    let events = trace.into_actions();
    println!(
        "{rule:?}: {} steps to two values, {states} states",
        events.len()
    );
}

#[test]
fn a_wiped_voter_that_asked_decides_nothing_twice() {
    explore(&[1, 2], 1);
    explore(&[1, 1, 2], 1);
}

#[test]
fn two_wipes_decide_nothing_twice() {
    explore(&[1, 2], 2);
}

#[test]
fn a_wiped_voter_that_goes_by_what_it_was_told_votes_twice() {
    broken(Rule::OneBeyond, &[1, 1, 2], 1);
}

#[test]
fn each_part_of_the_rule_is_needed() {
    broken(Rule::CountsTheAccepting, &[1, 2], 1);
    broken(Rule::AsksOne, &[1, 2], 1);
    broken(Rule::CountsTheForgetful, &[1, 2], 2);
}
