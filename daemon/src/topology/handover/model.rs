//! The three steps of a handover, model-checked: whoever lags, whatever overlaps, a read that
//! begins after a write was acknowledged sees it.
//!
//! One partition moves from `a b c` to `b c d`. The model is small and abstract: replicas with
//! their view of the epoch, one write that goes on under later epochs until enough have it, the
//! gates of the steps, the filling of `d`, giving up midway. What operations need in each epoch
//! is asked of the real [`Topology::requirement`]. Reads are not acts: a read under an epoch
//! that misses the write exists exactly when the replicas that ever could have answered it so,
//! since the write was acknowledged, are enough for one; these are kept by epoch.
//!
//! In a second search one replica loses its store at any moment, beginning in the first step: it answers
//! no read until it has scanned the others, and that only by a ring later than the one of its loss.
//!
//! Each gate and check, left out, is shown to let a read miss the write.

use std::collections::BTreeSet;

use ringmaster_shared::{
    id::NodeId,
    topology::{Access, ChangeKind, Step, Topology, Transition},
};
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::topology::fixture::{id, topology};

const REPLICAS: usize = 4;
/// The replica that gains the partition.
const GAINER: usize = 3;
/// Epochs of one change at most: before, filling, dual, after.
const EPOCHS: usize = 4;
const THREADS: usize = 2;

/// A set of replicas.
type Set = u8;

const OLD: Set = 0b0111;
const NEW: Set = 0b1110;

/// What an epoch asks of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Old,
    Filling,
    Dual,
    New,
}

/// A rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The dual step is taken although nobody was filled.
    DoesNotFill,
    /// One old replica is enough to fill from.
    FillsFromOne,
    /// Replicas are scanned while writes of the epoch before are still being served.
    ScansUnsettled,
    /// The new table stands alone before the old replicas know of the dual step.
    FinishesEarly,
    /// Replicas serve callers of earlier epochs.
    ServesAnyEpoch,
    /// What was lost is scanned by the ring by which it was lost.
    RefillsAtOnce,
    /// One other is enough to get back from what was lost.
    RefillsFromOne,
    /// Who lost its data answers reads.
    ReadsTheLost,
}

/// A replica that lost its store, and has not all of it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Loss {
    replica: usize,
    /// The epoch it went by.
    at: u8,
    /// Whom it has scanned since, by the ring it goes by.
    scanned: Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct World {
    /// What was decided, epoch by epoch.
    path: [Kind; EPOCHS],
    /// The last decided epoch.
    decided: u8,
    /// The epoch each replica goes by.
    views: [u8; REPLICAS],
    /// The epoch under which each replica is serving the write at the moment.
    serving: [Option<u8>; REPLICAS],
    has: Set,
    scanned: Set,
    lost: Option<Loss>,
    /// Whether it may still happen.
    may_lose: bool,
    /// The epoch the writer goes by, and who acknowledged under it.
    writer: u8,
    acks: Set,
    acknowledged: bool,
    /// By epoch: who could have answered a read without the write since it was acknowledged.
    blind: [Set; EPOCHS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// The change goes on, or is given up.
    Decide(Kind),
    /// A replica takes over the next epoch.
    Enter(usize),
    /// A replica begins, and ends, to serve the write.
    Serve(usize),
    Store(usize),
    /// The writer takes over the next epoch and begins again.
    Follow,
    Scan(usize),
    /// Its store is gone, and all that it was serving.
    Lose,
    /// It scans another to have back what it lost.
    Rescan(usize),
}

fn bit(replica: usize) -> Set {
    1 << replica
}

/// Who has not got its data back.
fn lost_in(world: &World) -> Set {
    world.lost.as_ref().map_or(0, |loss| bit(loss.replica))
}

fn majority_of(group: Set, of: Set) -> bool {
    2 * (group & of).count_ones() > group.count_ones()
}

struct Handover {
    fault: Fault,
    /// Who loses its store, if anybody does. Then all go by the first step at the beginning.
    loses: Option<usize>,
    /// At most [`EPOCHS`].
    epochs: usize,
    /// Whether a set of answers is enough, by kind, access and set.
    enough: [[[bool; 1 << REPLICAS]; 2]; 4],
}

impl Handover {
    fn new(fault: Fault) -> Self {
        let kinds = [Kind::Old, Kind::Filling, Kind::Dual, Kind::New];
        let enough = kinds.map(|kind| {
            let ring = ring(kind);
            [Access::Read, Access::Write].map(|access| {
                let need = ring.requirement(0, access);
                std::array::from_fn(|set| need.is_met(&names_of(set as Set)))
            })
        });
        Self {
            fault,
            loses: None,
            epochs: EPOCHS,
            enough,
        }
    }

    fn losing(fault: Fault, victim: usize, epochs: usize) -> Self {
        Self {
            loses: Some(victim),
            epochs,
            ..Self::new(fault)
        }
    }

    fn is_enough(&self, kind: Kind, access: Access, set: Set) -> bool {
        self.enough[kind as usize][usize::from(access == Access::Write)][usize::from(set)]
    }

    /// Who is a replica in an epoch.
    fn replicas(kind: Kind) -> Set {
        match kind {
            Kind::Old => OLD,
            Kind::Filling | Kind::Dual => OLD | NEW,
            Kind::New => NEW,
        }
    }

    /// The epoch of which no earlier request is being served here.
    fn settled(world: &World, replica: usize) -> u8 {
        match world.serving[replica] {
            Some(earlier) => earlier.min(world.views[replica]),
            None => world.views[replica],
        }
    }

    fn settled_at(world: &World, epoch: u8) -> Set {
        let at = (0..REPLICAS).filter(|r| Self::settled(world, *r) >= epoch);
        at.map(bit).sum()
    }

    fn is_filled(&self, world: &World) -> bool {
        match self.fault {
            Fault::DoesNotFill => true,
            Fault::FillsFromOne => world.scanned != 0,
            _ => majority_of(OLD, world.scanned),
        }
    }

    /// What may be decided next.
    fn next(&self, world: &World) -> Vec<Kind> {
        let epoch = world.decided;
        let settled = Self::settled_at(world, epoch);
        match world.path[usize::from(epoch)] {
            Kind::Old if epoch == 0 => vec![Kind::Filling],
            Kind::Filling => {
                let whole = settled & !lost_in(world);
                let gated = majority_of(OLD, settled) && whole & bit(GAINER) != 0;
                let gated = gated || self.fault == Fault::DoesNotFill;
                let on = gated && self.is_filled(world);
                let anew = self.loses.map(|_| Kind::Filling);
                on.then_some(Kind::Dual)
                    .into_iter()
                    .chain([Kind::Old])
                    .chain(anew)
                    .collect()
            }
            Kind::Dual => {
                let gated = majority_of(OLD, settled) && majority_of(NEW, settled);
                let on = gated || self.fault == Fault::FinishesEarly;
                on.then_some(Kind::New)
                    .into_iter()
                    .chain([Kind::Old])
                    .collect()
            }
            Kind::Old | Kind::New => self
                .loses
                .map(|_| world.path[usize::from(epoch)])
                .into_iter()
                .collect(),
        }
    }

    fn serves(&self, world: &World, replica: usize, epoch: u8) -> bool {
        let kind = world.path[usize::from(epoch)];
        let current = world.views[replica] == epoch
            || (self.fault == Fault::ServesAnyEpoch && world.views[replica] > epoch);
        current && Self::replicas(kind) & bit(replica) != 0
    }

    fn may_scan(&self, world: &World, from: usize) -> bool {
        let epoch = world.decided;
        let current = world.path[usize::from(epoch)] == Kind::Filling
            && world.views[GAINER] == epoch
            && world.views[from] == epoch;
        let settled = Self::settled(world, from) >= epoch || self.fault == Fault::ScansUnsettled;
        current
            && settled
            && OLD & bit(from) != 0
            && (lost_in(world) & (bit(from) | bit(GAINER))) == 0
            && world.scanned & bit(from) == 0
            && !majority_of(OLD, world.scanned)
    }

    fn may_rescan(&self, world: &World, from: usize) -> bool {
        let Some(loss) = &world.lost else {
            return false;
        };
        let epoch = world.views[loss.replica];
        let later = epoch > loss.at || self.fault == Fault::RefillsAtOnce;
        let current = world.views[from] == epoch && Self::settled(world, from) >= epoch;
        let group = Self::in_force(world.path[usize::from(epoch)]);
        let fresh = bit(from) & (loss.scanned | bit(loss.replica)) == 0;
        later && current && fresh && group & bit(from) != 0
    }

    /// Whether no quorum fits into what this one has not seen, itself among that.
    fn is_refilled(&self, kind: Kind, loss: &Loss) -> bool {
        let group = Self::in_force(kind);
        let unseen = (group & !loss.scanned) | bit(loss.replica);
        !majority_of(group, unseen) || self.fault == Fault::RefillsFromOne
    }

    fn in_force(kind: Kind) -> Set {
        match kind {
            Kind::Old | Kind::Filling | Kind::Dual => OLD,
            Kind::New => NEW,
        }
    }

    /// Who could answer a read now, and would not show the write.
    fn remember_blind(&self, world: &mut World) {
        if !world.acknowledged {
            return;
        }
        let silent = match self.fault {
            Fault::ReadsTheLost => 0,
            _ => lost_in(world),
        };
        for epoch in 0..=world.decided {
            let blind = (0..REPLICAS)
                .filter(|r| (world.has | silent) & bit(*r) == 0 && self.serves(world, *r, epoch))
                .map(bit)
                .sum::<Set>();
            world.blind[usize::from(epoch)] |= blind;
        }
    }

    fn misses(&self, world: &World) -> bool {
        (0..EPOCHS).any(|epoch| self.is_enough(world.path[epoch], Access::Read, world.blind[epoch]))
    }
}

impl World {
    /// What decides nothing any more makes no difference.
    fn forget_the_past(&mut self) {
        if self.path[usize::from(self.decided)] != Kind::Filling {
            self.scanned = 0;
        }
        if self.acknowledged {
            self.acks = 0;
        }
    }

    /// `b` and `c` are both in the old and in the new group: which is which makes no difference.
    fn swapped(mut self) -> Self {
        let swap = |set: Set| (set & 0b1001) | (set & 0b0010) << 1 | (set & 0b0100) >> 1;
        self.views.swap(1, 2);
        self.serving.swap(1, 2);
        self.has = swap(self.has);
        if let Some(loss) = &mut self.lost {
            loss.scanned = swap(loss.scanned);
            loss.replica = [0, 2, 1, 3][loss.replica];
        }
        self.scanned = swap(self.scanned);
        self.acks = swap(self.acks);
        self.blind = self.blind.map(swap);
        self
    }
}

fn names_of(set: Set) -> BTreeSet<NodeId> {
    let names = ["a", "b", "c", "d"].into_iter().enumerate();
    names
        .filter(|(at, _)| set & bit(*at) != 0)
        .map(|(_, name)| id(name))
        .collect()
}

/// A real topology of one partition.
fn ring(kind: Kind) -> Topology {
    let mut ring = topology(5, &["a", "b", "c", "d"]);
    let (old, new) = (vec![vec![0, 1, 2]], vec![vec![1, 2, 3]]);
    let under_way = |step| Transition {
        kind: ChangeKind::Join,
        step,
        joining: vec![id("d")],
        leaving: Vec::new(),
        target: new.clone(),
    };
    (ring.table, ring.transition) = match kind {
        Kind::Old => (old, None),
        Kind::Filling => (old, Some(under_way(Step::Filling))),
        Kind::Dual => (old, Some(under_way(Step::Dual))),
        Kind::New => (new.clone(), None),
    };
    assert!(ring.is_well_formed());
    ring
}

impl Model for Handover {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let first = match self.loses {
            Some(_) => Kind::Filling,
            None => Kind::Old,
        };
        let mut path = [Kind::Old; EPOCHS];
        path[0] = first;
        vec![World {
            path,
            decided: 0,
            views: [0; REPLICAS],
            serving: [None; REPLICAS],
            has: 0,
            scanned: 0,
            lost: None,
            may_lose: self.loses.is_some(),
            writer: 0,
            acks: 0,
            acknowledged: false,
            blind: [0; EPOCHS],
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        if usize::from(world.decided) + 1 < self.epochs {
            acts.extend(self.next(world).into_iter().map(Act::Decide));
        }
        if world.may_lose {
            acts.push(Act::Lose);
        }
        for replica in 0..REPLICAS {
            if world.views[replica] < world.decided {
                acts.push(Act::Enter(replica));
            }
            if world.serving[replica].is_some() {
                acts.push(Act::Store(replica));
            } else if !world.acknowledged
                && world.acks & bit(replica) == 0
                && self.serves(world, replica, world.writer)
            {
                acts.push(Act::Serve(replica));
            }
            if self.may_scan(world, replica) {
                acts.push(Act::Scan(replica));
            }
            if self.may_rescan(world, replica) {
                acts.push(Act::Rescan(replica));
            }
        }
        if !world.acknowledged && world.writer < world.decided {
            acts.push(Act::Follow);
        }
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = *world;
        match act {
            Act::Decide(kind) => {
                next.decided += 1;
                next.path[usize::from(next.decided)] = kind;
            }
            Act::Enter(replica) => {
                next.views[replica] += 1;
                if let Some(loss) = next.lost.as_mut().filter(|l| l.replica == replica) {
                    loss.scanned = 0;
                }
            }
            Act::Serve(replica) => next.serving[replica] = Some(next.writer),
            Act::Store(replica) => {
                let under = next.serving[replica].take();
                next.has |= bit(replica);
                if under == Some(next.writer) {
                    next.acks |= bit(replica);
                }
                let kind = next.path[usize::from(next.writer)];
                next.acknowledged |= self.is_enough(kind, Access::Write, next.acks);
            }
            Act::Follow => {
                next.writer += 1;
                next.acks = 0;
            }
            Act::Scan(from) => {
                next.scanned |= bit(from);
                if next.has & bit(from) != 0 {
                    next.has |= bit(GAINER);
                }
            }
            Act::Lose => {
                let replica = self.loses?;
                next.may_lose = false;
                next.has &= !bit(replica);
                next.serving[replica] = None;
                if replica == GAINER {
                    next.scanned = 0;
                }
                next.lost = Some(Loss {
                    replica,
                    at: next.views[replica],
                    scanned: 0,
                });
            }
            Act::Rescan(from) => {
                let mut loss = next.lost?;
                loss.scanned |= bit(from);
                if next.has & bit(from) != 0 {
                    next.has |= bit(loss.replica);
                }
                let kind = next.path[usize::from(next.views[loss.replica])];
                next.lost = (!self.is_refilled(kind, &loss)).then_some(loss);
            }
        }
        self.remember_blind(&mut next);
        next.forget_the_past();
        if next.may_lose
            && self
                .loses
                .is_some_and(|replica| bit(replica) & OLD & NEW != 0)
        {
            return Some(next); // which of the two it is makes a difference
        }
        Some(next.min(next.swapped()))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let back = Property::sometimes("lost, and back", |_, world: &World| {
            let after = world.path[usize::from(world.decided)] == Kind::New;
            world.acknowledged && after && !world.may_lose && world.lost.is_none()
        });
        let mut properties = vec![
            Property::always("a read sees the write", |model: &Self, world| {
                !model.misses(world)
            }),
            Property::sometimes("written before, read after", |_, world: &World| {
                let after = world.path[usize::from(world.decided)] == Kind::New;
                let there = world.views.iter().all(|view| *view == world.decided);
                world.acknowledged && world.writer == 0 && after && there
            }),
            Property::sometimes("written midway", |_, world: &World| {
                let midway = world.path[usize::from(world.writer)];
                world.acknowledged && midway == Kind::Filling && world.decided > world.writer
            }),
            Property::sometimes("given up after a write", |_, world: &World| {
                let last = usize::from(world.decided);
                world.acknowledged && last > 0 && world.path[last] == Kind::Old
            }),
            // a replica that was passed over lags behind, and yet nothing is missed
            Property::sometimes("one lags behind", |_, world: &World| {
                let after = world.path[usize::from(world.decided)] == Kind::New;
                world.acknowledged && after && world.views[0] == 0
            }),
        ];
        properties.extend(self.loses.map(|_| back));
        properties
    }
}

#[test]
fn no_read_misses_an_acknowledged_write() {
    let checker = Handover::new(Fault::None)
        .checker()
        .threads(THREADS)
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    println!("{states} states, {} steps deep", checker.max_depth());
    checker.assert_properties();
    assert!(states > 1_000, "{states} states are no search");
}

#[test]
fn each_rule_left_out_is_found() {
    for fault in [
        Fault::DoesNotFill,
        Fault::FillsFromOne,
        Fault::ScansUnsettled,
        Fault::FinishesEarly,
        Fault::ServesAnyEpoch,
    ] {
        let checker = Handover::new(fault)
            .checker()
            .threads(THREADS)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let trace = checker.discovery("a read sees the write");
        let trace = trace.unwrap_or_else(|| panic!("{fault:?} goes unnoticed"));
        println!(
            "{fault:?}: missed after {} steps",
            trace.into_actions().len()
        );
    }
}

/// Every moment of the loss, in a change that goes on, is given up, or begins anew.
fn lose_in_every_way(victim: usize, epochs: usize) {
    let checker = Handover::losing(Fault::None, victim, epochs)
        .checker()
        .threads(THREADS)
        .spawn_bfs()
        .join();
    let (states, deep) = (checker.unique_state_count(), checker.max_depth());
    println!("{victim} in {epochs} epochs: {states} states, {deep} steps deep");
    checker.assert_properties();
}

#[test]
fn the_replica_that_gains_hides_no_write_when_it_loses_its_store() {
    lose_in_every_way(GAINER, 3);
}

#[test]
#[ignore = "a hundred million states: minutes in a release build; run when the handover or the refill changes"]
fn no_replica_hides_a_write_when_it_loses_its_store() {
    for epochs in [3, EPOCHS] {
        for victim in [0, 1, GAINER] {
            lose_in_every_way(victim, epochs);
        }
    }
}

#[test]
fn each_rule_of_getting_back_what_was_lost_left_out_is_found() {
    for fault in [
        Fault::RefillsAtOnce,
        Fault::RefillsFromOne,
        Fault::ReadsTheLost,
    ] {
        let found = [0, 1, GAINER].into_iter().find(|victim| {
            let checker = Handover::losing(fault, *victim, 3)
                .checker()
                .threads(THREADS)
                .finish_when(HasDiscoveries::AnyFailures)
                .spawn_bfs()
                .join();
            checker.discovery("a read sees the write").is_some()
        });
        println!("{fault:?}: {found:?}");
        assert!(found.is_some(), "{fault:?} goes unnoticed");
    }
}
