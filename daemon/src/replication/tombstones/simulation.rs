//! One key, three replicas, four coordinators, and everything that can be late: frames, paused
//! operations, hints, comparisons, clocks far apart, a store that is lost. The rules decide when
//! its tombstone goes; whatever was superseded by an acknowledged write must never be seen again.
//! Each rule left out is noticed. A seed gives the same run every time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use ringmaster_shared::{
    clock::Hlc,
    id::NodeId,
    key::Key,
    version::{Actor, Dot, Record, Sibling, Value, VersionVector},
};

use super::rules::{Answer, Book, Pending, judge};
use crate::replication::frames::TombstoneState;

const GRACE_MS: u64 = 1000;
const REPLICAS: usize = 3;
const NODES: usize = 4;
const STEPS: usize = 1500;
const WRITES_MAX: usize = 24;
/// Writes come in bursts; between them there is time to forget.
const CYCLE: usize = 220;
const BURST: usize = 30;
const FRAMES_MAX: usize = 40;

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
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
}

#[derive(Default)]
struct Replica {
    record: Record,
    floor: Hlc,
    recovering: bool,
}

#[derive(Clone)]
enum Frame {
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

struct Write {
    record: Record,
    acks: BTreeSet<usize>,
    acknowledged: bool,
}

struct World {
    random: StdRng,
    broken: Broken,
    now: u64,
    steps: usize,
    skew: [i64; NODES],
    last: [Hlc; NODES],
    replicas: Vec<Replica>,
    frames: Vec<Frame>,
    /// Frames and work that are stuck until a step: for longer than forgetting takes.
    stuck_frames: Vec<(usize, Frame)>,
    stuck_work: Vec<(usize, Work)>,
    work: Vec<Work>,
    /// Holder, target, record, and the step before which it is not handed over.
    hints: Vec<(usize, usize, Record, usize)>,
    writes: Vec<Write>,
    contexts: Vec<VersionVector>,
    /// Dots that an acknowledged write superseded.
    superseded: BTreeSet<Dot>,
    book: Book,
    check: Option<Check>,
    /// Whether stores are lost; then clocks are close, as that needs.
    loses: bool,
    forgotten: usize,
    refused: usize,
}

fn name(node: usize) -> NodeId {
    NodeId::new(&format!("n{node}")).expect("valid")
}

fn key() -> Key {
    Key::new("k").expect("valid")
}

impl World {
    fn new(seed: u64, broken: Broken) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let loses = random.random_bool(0.4);
        let most = if loses {
            (GRACE_MS / 8).cast_signed()
        } else {
            6000
        };
        let mut book = Book::new(GRACE_MS);
        book.enter(1);
        Self {
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
            book,
            check: None,
            loses,
            forgotten: 0,
            refused: 0,
        }
    }

    fn wall(&self, node: usize) -> u64 {
        self.now.saturating_add_signed(self.skew[node])
    }

    fn stamp(&mut self, node: usize, seen: Hlc) -> Hlc {
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
    fn loosen(&mut self) {
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
        let replica = &mut self.replicas[to];
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

    fn step(&mut self) -> Result<(), String> {
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
                let number = self.writes.len() as u64;
                let actor = Actor {
                    node: name(at),
                    epoch: number,
                };
                let sibling = Sibling {
                    dot: Dot { actor, counter: 1 },
                    hlc,
                    value: (!deletes).then(|| Value::Json(Bytes::from(number.to_string()))),
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

    fn deliver(&mut self) {
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

    fn lose_or_refill(&mut self) {
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

    fn lose(&mut self, lost: usize) {
        let floor = self.wall(lost).saturating_sub(GRACE_MS / 4);
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
    fn collect(&mut self) {
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
                    self.start_check(vec![(key(), record.fingerprint())], None);
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
            check.answers.insert(name(node), Answer { states, clock });
        }
        if check.answers.len() < NODES {
            self.check = Some(check);
            return;
        }
        let asked = (0..NODES).map(|n| (name(n), n < REPLICAS)).collect();
        let verdict = judge(&check.keys, &asked, &check.answers);
        match check.second {
            Some(pending) if !verdict.confirmed.is_empty() => self.drop_everywhere(&pending),
            Some(_) => {}
            None => {
                let took = self.now - check.started;
                self.book.confirm(0, verdict, check.began, took, 1);
            }
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
    fn look(&mut self) -> Result<(), String> {
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

#[derive(Default)]
struct Totals {
    forgotten: usize,
    refused: usize,
    acknowledged: usize,
}

fn run(seed: u64, broken: Broken, totals: &mut Totals) -> Result<(), String> {
    let mut world = World::new(seed, broken);
    let mut result = Ok(());
    for step in 0..STEPS {
        result = world.step();
        if let Err(what) = &mut result {
            *what = format!("seed {seed}, step {step}: {what}");
            break;
        }
    }
    totals.forgotten += world.forgotten;
    totals.refused += world.refused;
    totals.acknowledged += world.writes.iter().filter(|w| w.acknowledged).count();
    result
}

#[test]
fn what_was_superseded_never_comes_back() {
    let mut totals = Totals::default();
    for seed in 0..150 {
        let result = run(seed, Broken::Nothing, &mut totals);
        assert_eq!(result, Ok(()));
    }
    println!(
        "{} acknowledged writes, {} tombstones forgotten, {} late frames refused",
        totals.acknowledged, totals.forgotten, totals.refused
    );
    assert!(totals.acknowledged > 300 && totals.forgotten > 300 && totals.refused > 300);
}

#[test]
fn each_rule_left_out_is_noticed() {
    // with the seed from which on it is noticed soon
    for (broken, from) in [
        (Broken::FloorsIgnored, 179),
        (Broken::HintsForgotten, 183),
        (Broken::WritesByStamp, 2404),
        (Broken::ComparisonsBySending, 167),
    ] {
        let mut totals = Totals::default();
        let red = (from..from + 3000).find_map(|seed| run(seed, broken, &mut totals).err());
        println!("{broken:?}: {red:?}");
        assert!(red.is_some(), "{broken:?} goes unnoticed");
    }
}

/// A replica loses its store after it confirmed and before the drop. What a comparison had read
/// at a third replica, before that one heard of the tombstone, is above the floor it starts with.
fn lose_a_store_between(broken: Broken) -> Result<(), String> {
    let mut world = World::new(1, broken);
    world.skew = [0; NODES];
    let sibling = |n: usize, at: u64, value| {
        let actor = Actor {
            node: name(n),
            epoch: n as u64,
        };
        Sibling {
            dot: Dot { actor, counter: 1 },
            hlc: Hlc::from_parts(at, 0),
            value,
        }
    };
    let (none, old) = (VersionVector::default(), Value::Json(Bytes::from("1")));
    let value = sibling(0, world.now, Some(old));
    world.superseded.insert(value.dot.clone());
    let value = Record::written(&Record::default(), &none, value);
    let gone = sibling(1, world.now + 1, None);
    let gone = Record::written(&value, &value.clock, gone);
    for (replica, record) in [(0, &gone), (1, &gone), (2, &value)] {
        world.replicas[replica].record = record.clone();
    }
    world.now += 2 * GRACE_MS;
    let comparison = Frame::Merge {
        to: 1,
        issued: world.stamp(2, Hlc(0)),
        record: value.clone(),
        write: None,
    };
    world.replicas[2].record = gone;
    while !world.book.is_pending(0) {
        world.collect();
    }
    world.lose(1);
    world.frames.push(comparison);
    while !world.frames.is_empty() {
        world.deliver();
    }
    assert_eq!(
        world.replicas[1].record, value,
        "it was not below the floor"
    );
    world.now += 2 * GRACE_MS;
    for _ in 0..20 {
        world.collect();
        world.steps += 1000;
        world.loosen();
        while !world.frames.is_empty() {
            world.deliver();
        }
    }
    world.lose_or_refill();
    (0..50).try_for_each(|_| world.look())
}

#[test]
fn the_second_check_notices_a_store_that_was_lost_after_the_first() {
    assert_eq!(lose_a_store_between(Broken::Nothing), Ok(()));
    let red = lose_a_store_between(Broken::OneCheck);
    assert!(red.is_err(), "without it nothing would be noticed");
}
