//! The simulated world: one key, its replicas and coordinators, what is under way, and the collector.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use ringmaster_shared::{
    clock::Hlc,
    id::NodeId,
    key::Key,
    version::{Dot, Record, Sibling, VersionVector},
};

use crate::replication::{
    frames::TombstoneState,
    testing::{dot_of, id, key, number},
    tombstones::rules::{Answer, Book, Pending, judge},
};

/// The longest that anybody goes by.
pub const GRACE_MS: u64 = 1000;
const REPLICAS: usize = 3;
pub const NODES: usize = 4;
pub const STEPS: usize = 1500;
const WRITES_MAX: usize = 24;
/// Writes come in bursts; between them there is time to forget.
const CYCLE: usize = 220;
const BURST: usize = 30;
const FRAMES_MAX: usize = 40;

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    FloorsIgnored,
    /// Nobody is asked whether it keeps hints, and hints have no age.
    HintsForgotten,
    /// A write is issued at its own stamp, although it may carry on what was read before.
    WritesByStamp,
    /// A comparison is issued when it sends.
    ComparisonsBySending,
    /// No second check, while stores are lost.
    OneCheck,
    /// The collector goes by its own grace, however long those of others are.
    OthersGraceIgnored,
}

#[derive(Default)]
pub struct Replica {
    pub record: Record,
    floor: Hlc,
    recovering: bool,
}

#[derive(Clone)]
pub enum Frame {
    Merge {
        to: usize,
        record: Record,
        issued: Hlc,
        write: Option<usize>,
    },
    Drop {
        to: usize,
        fingerprint: u64,
        floor: Hlc,
    },
}

/// Work that was begun and waits, for as long as it likes.
enum Work {
    /// A write that has read `base`.
    Stamp {
        at: usize,
        issued: Hlc,
        base: Record,
        covered: VersionVector,
        deletes: bool,
    },
    /// A comparison that is about to read at `from` what it sends to `to`.
    Read { from: usize, to: usize, issued: Hlc },
}

struct Check {
    second: Option<Pending>,
    keys: Vec<(Key, u64)>,
    began: Hlc,
    started: u64,
    answers: BTreeMap<NodeId, Answer>,
}

pub struct Write {
    record: Record,
    acks: BTreeSet<usize>,
    pub acknowledged: bool,
}

pub struct World {
    random: StdRng,
    broken: Broken,
    pub now: u64,
    pub steps: usize,
    pub skew: [i64; NODES],
    /// The collector's is the first.
    pub grace_ms: [u64; NODES],
    last: [Hlc; NODES],
    pub replicas: Vec<Replica>,
    pub frames: Vec<Frame>,
    /// Frames and work that are stuck until a step: for longer than forgetting takes.
    stuck_frames: Vec<(usize, Frame)>,
    stuck_work: Vec<(usize, Work)>,
    work: Vec<Work>,
    /// Holder, target, record, and the step before which it is not handed over.
    hints: Vec<(usize, usize, Record, usize)>,
    pub writes: Vec<Write>,
    contexts: Vec<VersionVector>,
    /// Dots that an acknowledged write superseded.
    pub superseded: BTreeSet<Dot>,
    pub book: Book,
    check: Option<Check>,
    /// Whether stores are lost; then clocks are close, as that needs.
    loses: bool,
    pub forgotten: usize,
    pub refused: usize,
}

fn name(node: usize) -> NodeId {
    id(&format!("n{node}"))
}

fn book(grace_ms: u64) -> Book {
    let mut book = Book::new(grace_ms);
    book.enter(1);
    book
}

/// The dot of the write with this number, made by this node as an actor of its own.
pub fn dot(node: usize, number: u64) -> Dot {
    dot_of(&format!("n{node}"), number, 1)
}

impl World {
    pub fn new(seed: u64, broken: Broken) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let loses = random.random_bool(0.4);
        // each goes by a grace of its own, drawn apart from all else
        let mut graces = StdRng::seed_from_u64(!seed);
        let grace_ms = std::array::from_fn(|_| GRACE_MS >> graces.random_range(0..=2));
        let most = if loses {
            let longest = grace_ms.into_iter().max().unwrap_or(GRACE_MS);
            (longest / 8).cast_signed()
        } else {
            6000
        };
        Self {
            grace_ms,
            skew: std::array::from_fn(|_| random.random_range(-most..=most)),
            random,
            broken,
            now: 1_000_000,
            steps: 0,
            last: [Hlc(0); NODES],
            replicas: (0..REPLICAS).map(|_| Replica::default()).collect(),
            frames: Vec::new(),
            stuck_frames: Vec::new(),
            stuck_work: Vec::new(),
            work: Vec::new(),
            hints: Vec::new(),
            writes: Vec::new(),
            contexts: vec![VersionVector::default()],
            superseded: BTreeSet::new(),
            book: book(grace_ms[0]),
            check: None,
            loses,
            forgotten: 0,
            refused: 0,
        }
    }

    /// They are set to these graces.
    pub fn go_by(&mut self, grace_ms: [u64; NODES]) {
        self.grace_ms = grace_ms;
        self.book = book(grace_ms[0]);
    }

    /// A clock is set right, and its node started anew.
    pub fn set_clock(&mut self, node: usize) {
        self.skew[node] = 0;
        self.last[node] = Hlc(0);
    }

    fn wall(&self, node: usize) -> u64 {
        self.now.saturating_add_signed(self.skew[node])
    }

    pub fn stamp(&mut self, node: usize, seen: Hlc) -> Hlc {
        let floor = self.replicas.get(node).map_or(Hlc(0), |r| r.floor);
        let next = self.last[node].next(seen.max(floor), self.wall(node));
        self.last[node] = next;
        next
    }

    fn any_node(&mut self) -> usize {
        self.random.random_range(0..NODES)
    }

    /// What a quorum of replicas that may answer holds.
    fn read(&mut self) -> Option<Record> {
        let able = (0..REPLICAS).filter(|r| !self.replicas[*r].recovering);
        let quorum = able.choose_multiple(&mut self.random, 2);
        let records = quorum.iter().map(|r| &self.replicas[*r].record);
        (quorum.len() == 2).then(|| records.fold(Record::default(), |all, r| all.merge(r)))
    }

    fn send(&mut self, frame: Frame) {
        if self.frames.len() >= FRAMES_MAX {
            let lost = self.random.random_range(0..self.frames.len());
            self.frames.swap_remove(lost);
        }
        if self.random.random_bool(0.15) {
            let until = self.later();
            self.stuck_frames.push((until, frame));
        } else {
            self.frames.push(frame);
        }
    }

    fn begin(&mut self, work: Work) {
        if self.random.random_bool(0.25) {
            let until = self.later();
            self.stuck_work.push((until, work));
        } else {
            self.work.push(work);
        }
    }

    /// A step far ahead.
    fn later(&mut self) -> usize {
        self.steps + self.random.random_range(60..500)
    }

    /// What was stuck comes free.
    pub fn loosen(&mut self) {
        let now = self.steps;
        let loose = |(until, _): &mut (usize, Frame)| *until <= now;
        let frames = self.stuck_frames.extract_if(.., loose);
        self.frames.extend(frames.map(|(_, frame)| frame));
        let loose = |(until, _): &mut (usize, Work)| *until <= now;
        let work = self.stuck_work.extract_if(.., loose);
        self.work.extend(work.map(|(_, work)| work));
    }

    fn send_all(&mut self, record: &Record, issued: Hlc, write: Option<usize>) {
        for to in 0..REPLICAS {
            let record = record.clone();
            self.send(Frame::Merge {
                to,
                record,
                issued,
                write,
            });
        }
    }

    /// As the store does it; whether the record is held now.
    fn merge(&mut self, to: usize, record: &Record, issued: Hlc) -> bool {
        let wall = self.wall(to);
        let replica = &mut self.replicas[to];
        if record.max_hlc().is_absurd(wall) {
            return false;
        }
        let merged = replica.record.merge(record);
        if merged == replica.record {
            return true;
        }
        let enforced = self.broken != Broken::FloorsIgnored;
        if enforced && replica.floor > Hlc(0) && issued <= replica.floor {
            self.refused += 1;
            return false;
        }
        replica.record = merged;
        true
    }

    pub fn step(&mut self) -> Result<(), String> {
        self.now += self.random.random_range(0..60);
        self.steps += 1;
        self.loosen();
        match self.random.random_range(0..100) {
            0..5 if self.steps % CYCLE < BURST => self.begin_write(),
            0..8 => self.begin_read(),
            8..14 => self.begin_comparison(),
            14..26 => self.go_on(),
            26..56 => self.deliver(),
            56..64 => self.replay(),
            64..67 => self.lose_or_refill(),
            67..88 => self.collect(),
            _ => self.look()?,
        }
        Ok(())
    }

    fn begin_write(&mut self) {
        if self.writes.len() >= WRITES_MAX {
            return;
        }
        let at = self.any_node();
        let issued = self.stamp(at, Hlc(0));
        let Some(base) = self.read() else { return };
        let covered = if self.random.random_bool(0.85) {
            base.clock.clone()
        } else {
            let old = self.contexts.iter().choose(&mut self.random);
            old.cloned().unwrap_or_default()
        };
        self.contexts.push(base.clock.clone());
        let deletes = self.random.random_bool(0.7);
        self.begin(Work::Stamp {
            at,
            issued,
            base,
            covered,
            deletes,
        });
    }

    fn begin_read(&mut self) {
        let at = self.any_node();
        let issued = self.stamp(at, Hlc(0));
        if let Some(record) = self.read() {
            self.send_all(&record, issued, None);
        }
    }

    fn begin_comparison(&mut self) {
        let at = self.random.random_range(0..REPLICAS);
        let other = (at + self.random.random_range(1..REPLICAS)) % REPLICAS;
        let issued = self.stamp(at, Hlc(0));
        let pulls = self.random.random_bool(0.5);
        let (from, to) = if pulls { (other, at) } else { (at, other) };
        self.begin(Work::Read { from, to, issued });
    }

    fn go_on(&mut self) {
        if self.work.is_empty() {
            return;
        }
        let which = self.random.random_range(0..self.work.len());
        match self.work.swap_remove(which) {
            Work::Read { from, to, issued } => {
                let record = self.replicas[from].record.clone();
                let late = self.broken == Broken::ComparisonsBySending;
                // stamped at the last moment, it is above every floor
                let issued = if late { Hlc(u64::MAX) } else { issued };
                self.send(Frame::Merge {
                    to,
                    record,
                    issued,
                    write: None,
                });
            }
            Work::Stamp {
                at,
                issued,
                base,
                covered,
                deletes,
            } => {
                let hlc = self.stamp(at, base.max_hlc());
                let which = self.writes.len() as u64;
                let sibling = Sibling {
                    dot: dot(at, which),
                    hlc,
                    value: (!deletes).then(|| number(which)),
                };
                let record = Record::written(&base, &covered, sibling);
                let by_stamp = self.broken == Broken::WritesByStamp;
                let issued = if by_stamp { hlc } else { issued };
                self.send_all(&record, issued, Some(self.writes.len()));
                if self.random.random_bool(0.3) {
                    let target = self.random.random_range(0..REPLICAS);
                    let until = if self.random.random_bool(0.4) {
                        self.later()
                    } else {
                        0
                    };
                    self.hints.push((at, target, record.clone(), until));
                }
                self.writes.push(Write {
                    record,
                    acks: BTreeSet::new(),
                    acknowledged: false,
                });
            }
        }
    }

    /// A client writes through this node; how many replicas took it.
    pub fn write_through(&mut self, at: usize) -> usize {
        let issued = self.stamp(at, Hlc(0));
        let base = (0..REPLICAS).fold(Record::default(), |all, r| {
            all.merge(&self.replicas[r].record)
        });
        let hlc = self.stamp(at, base.max_hlc());
        let which = (100 + self.writes.len()) as u64;
        let sibling = Sibling {
            dot: dot(at, which),
            hlc,
            value: Some(number(which)),
        };
        let record = Record::written(&base, &base.clock, sibling);
        self.writes.push(Write {
            record: record.clone(),
            acks: BTreeSet::new(),
            acknowledged: false,
        });
        (0..REPLICAS)
            .filter(|to| self.merge(*to, &record, issued))
            .count()
    }

    pub fn deliver(&mut self) {
        if self.frames.is_empty() {
            return;
        }
        let which = self.random.random_range(0..self.frames.len());
        let again = self.random.random_bool(0.1);
        let frame = if again {
            self.frames[which].clone()
        } else {
            self.frames.swap_remove(which)
        };
        match frame {
            Frame::Merge {
                to,
                record,
                issued,
                write,
            } => {
                if self.merge(to, &record, issued)
                    && let Some(write) = write
                {
                    self.acknowledge(write, to);
                }
            }
            Frame::Drop {
                to,
                fingerprint,
                floor,
            } => {
                let early = floor.unix_ms() > self.wall(to);
                let replica = &mut self.replicas[to];
                if early || replica.recovering {
                    return;
                }
                if replica.record.fingerprint() == fingerprint {
                    replica.record = Record::default();
                    self.forgotten += 1;
                }
                replica.floor = replica.floor.max(floor);
            }
        }
    }

    fn acknowledge(&mut self, write: usize, by: usize) {
        let write = &mut self.writes[write];
        write.acks.insert(by);
        if write.acknowledged || write.acks.len() < 2 {
            return;
        }
        write.acknowledged = true;
        let record = write.record.clone();
        let dots = self.writes.iter().map(own_dot);
        let covered = dots.filter(|dot| {
            record.clock.covers(dot) && !record.siblings.iter().any(|s| s.dot == *dot)
        });
        self.superseded.extend(covered);
    }

    fn replay(&mut self) {
        let due = (0..self.hints.len()).filter(|h| self.hints[*h].3 <= self.steps);
        let Some(which) = due.choose(&mut self.random) else {
            return;
        };
        let (_, target, record, _) = self.hints[which].clone();
        let oldest = record.siblings.iter().map(|s| s.hlc).min();
        let mut issued = oldest.unwrap_or_default();
        if self.broken == Broken::HintsForgotten {
            issued = Hlc(u64::MAX);
        }
        // a late copy as well
        if self.random.random_bool(0.3) {
            self.send(Frame::Merge {
                to: target,
                record: record.clone(),
                issued,
                write: None,
            });
        }
        self.merge(target, &record, issued);
        self.hints.swap_remove(which);
    }

    pub fn lose_or_refill(&mut self) {
        if let Some(lost) = (0..REPLICAS).find(|r| self.replicas[*r].recovering) {
            let issued = self.stamp(lost, Hlc(0));
            let others = (0..REPLICAS).filter(|r| *r != lost);
            let records: Vec<Record> = others.map(|r| self.replicas[r].record.clone()).collect();
            let mut whole = true;
            for record in records {
                whole &= self.merge(lost, &record, issued);
            }
            self.replicas[lost].recovering = !whole;
        } else if self.loses && self.random.random_bool(0.3) {
            let lost = self.random.random_range(0..REPLICAS);
            self.lose(lost);
        }
    }

    pub fn lose(&mut self, lost: usize) {
        let floor = self.wall(lost).saturating_sub(self.grace_ms[lost] / 4);
        self.replicas[lost] = Replica {
            record: Record::default(),
            floor: Hlc::from_parts(floor, 0),
            recovering: true,
        };
        for write in self.writes.iter_mut().filter(|w| !w.acknowledged) {
            write.acks.remove(&lost);
        }
    }

    /// Node 0 looks after the key.
    pub fn collect(&mut self) {
        let wall = self.wall(0);
        if self.check.is_none() {
            if let Some((_, pending)) = self.book.take_due(wall, 1).pop() {
                if self.broken == Broken::OneCheck {
                    return self.drop_everywhere(&pending);
                }
                self.start_check(pending.keys.clone(), Some(pending));
            } else if !self.book.is_pending(0) {
                let record = &self.replicas[0].record;
                let old = record.max_hlc() <= self.book.until(wall);
                if !record.clock.is_empty() && record.is_deleted() && old {
                    self.start_check(vec![(key("k"), record.fingerprint())], None);
                }
            }
        }
        for _ in 0..self.random.random_range(0..=NODES) {
            self.ask_next();
        }
    }

    fn start_check(&mut self, keys: Vec<(Key, u64)>, second: Option<Pending>) {
        self.check = Some(Check {
            second,
            keys,
            began: self.stamp(0, Hlc(0)),
            started: self.now,
            answers: BTreeMap::new(),
        });
    }

    fn ask_next(&mut self) {
        let Some(mut check) = self.check.take() else {
            return;
        };
        let open = (0..NODES).filter(|n| !check.answers.contains_key(&name(*n)));
        if let Some(node) = open.choose(&mut self.random) {
            if self.replicas.get(node).is_some_and(|r| r.recovering) {
                return; // it does not answer, and the check is over
            }
            let hinted = self.hints.iter().any(|(holder, ..)| *holder == node);
            let state = match self.replicas.get(node) {
                _ if hinted && self.broken != Broken::HintsForgotten => TombstoneState::Hinted,
                None => TombstoneState::Gone,
                Some(r) if r.record.fingerprint() == check.keys[0].1 => TombstoneState::Holds,
                Some(_) => TombstoneState::Differs,
            };
            let clock = self.stamp(node, Hlc(0));
            let states = vec![state];
            let ignored = self.broken == Broken::OthersGraceIgnored;
            let answer = Answer {
                states,
                clock,
                grace_ms: self.grace_ms[if ignored { 0 } else { node }],
            };
            check.answers.insert(name(node), answer);
        }
        if check.answers.len() < NODES {
            self.check = Some(check);
            return;
        }
        let asked = (0..NODES).map(|n| (name(n), n < REPLICAS)).collect();
        let verdict = judge(&check.keys, &asked, &check.answers);
        if let Some(pending) = check.second {
            if let Some(pending) = pending.confirmed_by(verdict) {
                self.drop_everywhere(&pending);
            }
        } else {
            let took = self.now - check.started;
            self.book.confirm(0, verdict, check.began, took, 1);
        }
    }

    fn drop_everywhere(&mut self, pending: &Pending) {
        for to in 0..REPLICAS {
            self.send(Frame::Drop {
                to,
                fingerprint: pending.keys[0].1,
                floor: pending.floor,
            });
        }
    }

    /// A quorum shows nothing that was superseded, and everything that nobody superseded.
    pub fn look(&mut self) -> Result<(), String> {
        let Some(seen) = self.read() else {
            return Ok(());
        };
        for sibling in seen.siblings.iter().filter(|s| s.value.is_some()) {
            if self.superseded.contains(&sibling.dot) {
                return Err(format!("{:?} is back", sibling.dot));
            }
        }
        for write in self.writes.iter().filter(|w| w.acknowledged) {
            let dot = own_dot(write);
            let is_value = write
                .record
                .siblings
                .iter()
                .any(|s| s.dot == dot && s.value.is_some());
            let attempted = |w: &Write| own_dot(w) != dot && w.record.clock.covers(&dot);
            let kept = seen.siblings.iter().any(|s| s.dot == dot);
            if is_value && !kept && !self.writes.iter().any(attempted) {
                return Err(format!("{dot:?} is lost"));
            }
        }
        Ok(())
    }
}

/// The dot that a write added: the one of the latest actor in its record.
fn own_dot(write: &Write) -> Dot {
    let actors = write.record.clock.0.iter();
    let (actor, counter) = actors.max_by_key(|(a, _)| a.epoch).expect("written");
    Dot {
        actor: actor.clone(),
        counter: *counter,
    }
}
