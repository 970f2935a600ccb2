//! What the next topology should be, and when: the rules of `docs/protocol.md`, "The handover".
//!
//! Pure: a situation in, a decision out; durations are handed in. Promises that a step is taken
//! only when, for each partition that moves, enough replicas are past the step before, so that
//! no mix of epochs can read past a write:
//!
//! - Filling to dual: a quorum of the old replicas has settled the filling epoch (no write to the
//!   old ones alone can still succeed), and every replica that gains a partition has settled it
//!   and is filled.
//! - Dual to done: a quorum of the old and of the new replicas has settled the dual epoch (no
//!   read of the old ones alone can still succeed).
//! - Going back is safe at any time: until it is done, every write also went to a quorum of the
//!   old replicas.
//! - The first step may be taken once more: what is filled stays so.
//!
//! Where a replica lost its data the end is also a matter of what the others hold: it is taken when the
//! new replicas that have their data hold all that was acknowledged, else given up when the old ones
//! do, for those that go forget what they have. Where neither do it is taken all the same.
//!
//! The rules are the same whatever a change is for. They hold for rows that lose at most one
//! replica in one change: any quorum of the old row and of the shorter one still meet.
//!
//! Leaves to the driver: asking, proposing, and the clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringmaster_shared::{
    id::{Epoch, NodeId, PartitionId},
    member::{Lifecycle, MemberStatus},
    quorum::Group,
    topology::{RingMember, Step, Topology, Transition},
};

use super::steps;

/// A joiner is taken in when nobody else has come for this long, so that several join together.
pub const JOIN_QUIET: Duration = Duration::from_millis(400);
/// But no joiner waits longer than this for others.
pub const JOIN_WAIT_MAX: Duration = Duration::from_millis(1500);
/// A member's new address or zone must have been seen for this long.
pub const ADDRESS_QUIET: Duration = Duration::from_secs(1);
/// A change is given up when one that gains partitions is down for this long, and its end waits no
/// longer for those who may say that they have their data.
pub const GAINER_DOWN_MAX: Duration = Duration::from_secs(30);
/// Time for everyone to be asked about an epoch before it may be given up.
pub const EPOCH_CHANCE: Duration = Duration::from_secs(2);
/// Each further proposer in line waits this much longer for those before it.
pub const PROPOSER_PATIENCE: Duration = Duration::from_secs(10);

/// What gossip says of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub id: NodeId,
    pub address: String,
    pub zone: String,
    pub status: MemberStatus,
    pub lifecycle: Lifecycle,
    /// How long all of the above have been as they are, as far as this node knows.
    pub since: Duration,
}

impl Sighting {
    fn is_alive(&self) -> bool {
        self.status == MemberStatus::Alive
    }

    fn wants_in(&self) -> bool {
        self.is_alive() && self.lifecycle == Lifecycle::Joining
    }

    fn may_propose(&self) -> bool {
        self.is_alive() && matches!(self.lifecycle, Lifecycle::Serving | Lifecycle::Recovering)
    }

    fn is_down(&self) -> bool {
        !self.status.is_reachable()
    }
}

/// What a member answered when it was asked how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub settled: Epoch,
    /// Has all that it should have by the current step; not one whose data is lost.
    pub filled: bool,
}

/// All that a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub me: &'a NodeId,
    pub topology: &'a Topology,
    pub sightings: &'a [Sighting],
    /// Answers about the current epoch.
    pub progress: &'a BTreeMap<NodeId, Progress>,
    /// Since this node goes by the current epoch.
    pub in_epoch: Duration,
}

/// What a proposal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Join,
    ReadFromBoth,
    Finish,
    /// One that gains partitions is down for too long.
    Abort,
    /// The new replicas lost what the old ones have.
    Undo,
    NewDescription,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// All is as it should be.
    Rest,
    /// Others are before this node in line, or the time has not come; look again after this.
    Later(Duration),
    /// A change waits for these; ask them how far they are.
    Await(BTreeSet<NodeId>),
    /// A join cannot begin while one that would gain partitions does not answer.
    Blocked(BTreeSet<NodeId>),
    Propose {
        next: Box<Topology>,
        purpose: Purpose,
    },
}

impl Situation<'_> {
    fn sighting(&self, id: &NodeId) -> Option<&Sighting> {
        self.sightings.iter().find(|s| &s.id == id)
    }

    /// Settled members that could propose, in order.
    fn line(&self) -> Vec<&NodeId> {
        let settled = self.topology.settled_members().map(|m| &m.id);
        settled
            .filter(|id| *id == self.me || self.sighting(id).is_some_and(Sighting::may_propose))
            .collect()
    }

    /// How long the one whose turn it is has had: `Ok` when this node may act.
    fn my_turn(&self, pending: Duration) -> Result<(), Decision> {
        let place = self.line().iter().position(|id| *id == self.me);
        let Some(place) = place else {
            return Err(Decision::Rest);
        };
        let patience = PROPOSER_PATIENCE * u32::try_from(place).unwrap_or(u32::MAX);
        match patience.checked_sub(pending) {
            Some(left) if !left.is_zero() => Err(Decision::Later(left)),
            _ => Ok(()),
        }
    }
}

/// What should happen now, if it is this node's turn.
pub fn decide(now: &Situation<'_>) -> Decision {
    let me = now.sighting(now.me);
    let fit = me.is_some_and(Sighting::may_propose);
    if !fit || !now.topology.settled_members().any(|m| &m.id == now.me) {
        return Decision::Rest;
    }
    match &now.topology.transition {
        Some(transition) => carry_on(now, transition),
        None => new_description(now).unwrap_or_else(|| take_in(now)),
    }
}

fn propose(next: Topology, purpose: Purpose) -> Decision {
    Decision::Propose {
        next: Box::new(next),
        purpose,
    }
}

/// Members that wait to be taken in, once they have stopped coming.
fn take_in(now: &Situation<'_>) -> Decision {
    let joiners: Vec<&Sighting> = now
        .sightings
        .iter()
        .filter(|s| s.wants_in() && !now.topology.contains(&s.id))
        .collect();
    let (Some(youngest), Some(oldest)) = (
        joiners.iter().map(|s| s.since).min(),
        joiners.iter().map(|s| s.since).max(),
    ) else {
        return Decision::Rest;
    };
    let quiet = JOIN_QUIET.saturating_sub(youngest);
    let left = quiet.min(JOIN_WAIT_MAX.saturating_sub(oldest));
    if !left.is_zero() {
        return Decision::Later(left);
    }
    if let Err(not_yet) = now.my_turn(oldest) {
        return not_yet;
    }
    let next = joined(now.topology, &joiners);
    let absent: BTreeSet<NodeId> = gainers(&next)
        .into_iter()
        .filter(|id| !now.sighting(id).is_some_and(Sighting::is_alive))
        .collect();
    if absent.is_empty() {
        propose(next, Purpose::Join)
    } else {
        Decision::Blocked(absent)
    }
}

/// The first step of taking these in.
fn joined(topology: &Topology, joiners: &[&Sighting]) -> Topology {
    let joining = joiners.iter().map(|s| RingMember {
        id: s.id.clone(),
        address: s.address.clone(),
        zone: s.zone.clone(),
    });
    steps::joining(topology, joining.collect(), &[])
}

/// A member that answers at another address, or says another zone, than the ring remembers.
/// Moves no data; a later change of the ring goes by the new zone.
fn new_description(now: &Situation<'_>) -> Option<Decision> {
    let moved: BTreeMap<&NodeId, &Sighting> = now
        .sightings
        .iter()
        .filter(|s| {
            let remembered = now.topology.member(&s.id);
            s.is_alive() && remembered.is_some_and(|m| m.address != s.address || m.zone != s.zone)
        })
        .map(|s| (&s.id, s))
        .collect();
    let youngest = moved.values().map(|s| s.since).min()?;
    let left = ADDRESS_QUIET.saturating_sub(youngest);
    if !left.is_zero() {
        return Some(Decision::Later(left));
    }
    if let Err(not_yet) = now.my_turn(youngest) {
        return Some(not_yet);
    }
    let mut next = now.topology.clone();
    next.epoch += 1;
    for m in &mut next.members {
        if let Some(s) = moved.get(&m.id) {
            m.address.clone_from(&s.address);
            m.zone.clone_from(&s.zone);
        }
    }
    Some(propose(next, Purpose::NewDescription))
}

/// The next step of a change, or the way back.
fn carry_on(now: &Situation<'_>, transition: &Transition) -> Decision {
    if let Err(not_yet) = now.my_turn(now.in_epoch) {
        return not_yet;
    }
    let ring = now.topology;
    let back = |purpose| propose(steps::reverted(ring, transition), purpose);
    let awaited = match transition.step {
        Step::Filling => awaited_to_read_from_both(now),
        Step::Dual => awaited_to_finish(now),
    };
    if !awaited.is_empty() {
        if is_hopeless(now) {
            return back(Purpose::Abort);
        }
        return Decision::Await(awaited);
    }
    match transition.step {
        Step::Filling => propose(steps::reading_both(ring, transition), Purpose::ReadFromBoth),
        Step::Dual => match at_the_end(now) {
            End::Taken => propose(steps::finished(ring, transition), Purpose::Finish),
            End::Unsure(whom) => Decision::Await(whom),
            End::Undone => back(Purpose::Undo),
        },
    }
}

/// Partitions that the change touches, with the replicas they move to.
pub fn moving(topology: &Topology) -> impl Iterator<Item = (PartitionId, Vec<NodeId>)> + '_ {
    (0..topology.partition_count()).filter_map(|p| Some((p, topology.target_replicas(p)?)))
}

/// Replicas that gain at least one partition.
pub fn gainers(topology: &Topology) -> BTreeSet<NodeId> {
    moving(topology)
        .flat_map(|(p, target)| {
            let old = topology.replicas(p);
            target.into_iter().filter(move |id| !old.contains(id))
        })
        .collect()
}

/// Of a group that is not past this epoch by a quorum, those who are missing.
fn missing_quorum(now: &Situation<'_>, replicas: Vec<NodeId>, missing: &mut BTreeSet<NodeId>) {
    let group = Group::majority_of(replicas);
    let settled = group
        .members
        .iter()
        .filter(|id| has_settled(now, id))
        .cloned()
        .collect();
    if !group.is_met(&settled) {
        missing.extend(group.members.into_iter().filter(|id| !settled.contains(id)));
    }
}

fn has_settled(now: &Situation<'_>, id: &NodeId) -> bool {
    let progress = now.progress.get(id);
    progress.is_some_and(|p| p.settled >= now.topology.epoch)
}

/// Has settled, and has its data.
fn is_whole(now: &Situation<'_>, id: &NodeId) -> bool {
    has_settled(now, id) && now.progress.get(id).is_some_and(|p| p.filled)
}

fn awaited_to_read_from_both(now: &Situation<'_>) -> BTreeSet<NodeId> {
    let mut missing: BTreeSet<NodeId> = gainers(now.topology)
        .into_iter()
        .filter(|id| !is_whole(now, id))
        .collect();
    for (p, _) in moving(now.topology) {
        missing_quorum(now, now.topology.replicas(p), &mut missing);
    }
    missing
}

fn awaited_to_finish(now: &Situation<'_>) -> BTreeSet<NodeId> {
    let mut missing = BTreeSet::new();
    for (p, target) in moving(now.topology) {
        missing_quorum(now, now.topology.replicas(p), &mut missing);
        missing_quorum(now, target, &mut missing);
    }
    missing
}

/// What is to come of a change whose second step is settled.
enum End {
    Taken,
    Undone,
    /// These may yet say that they have their data.
    Unsure(BTreeSet<NodeId>),
}

fn at_the_end(now: &Situation<'_>) -> End {
    if moving(now.topology).all(|(p, target)| hold_all(now, now.topology.replicas(p), target)) {
        return End::Taken;
    }
    let replicas = moving(now.topology).flat_map(|(p, _)| now.topology.all_replicas(p));
    let unsure: BTreeSet<NodeId> = replicas
        .filter(|id| !has_settled(now, id))
        .filter(|id| !now.sighting(id).is_none_or(is_long_down))
        .collect();
    if !unsure.is_empty() && now.in_epoch <= GAINER_DOWN_MAX {
        return End::Unsure(unsure);
    }
    let old_ones_do = moving(now.topology)
        .all(|(p, _)| !fits_a_quorum(now.topology.replicas(p), |id| !is_whole(now, id)));
    if old_ones_do { End::Undone } else { End::Taken }
}

/// Whether the new replicas of a partition that have their data hold between them all that was
/// acknowledged. What was written in the change is on a quorum of them; what was written before is on
/// a quorum of the old ones, and on each that gained it.
fn hold_all(now: &Situation<'_>, old: Vec<NodeId>, target: Vec<NodeId>) -> bool {
    let whole: BTreeSet<NodeId> = target
        .iter()
        .filter(|id| is_whole(now, id))
        .cloned()
        .collect();
    let one_gained = whole.iter().any(|id| !old.contains(id));
    let lacks = |id: &NodeId| !whole.contains(id);
    !fits_a_quorum(target, lacks) && (one_gained || !fits_a_quorum(old, lacks))
}

/// Whether those of these replicas that lack something may be a quorum of them.
fn fits_a_quorum(replicas: Vec<NodeId>, lacks: impl Fn(&NodeId) -> bool) -> bool {
    let group = Group::majority_of(replicas);
    let those = group.members.iter().filter(|id| lacks(id)).cloned();
    group.is_met(&those.collect())
}

/// Those without whom the change cannot be finished: all who join or gain partitions.
pub fn needed(topology: &Topology) -> BTreeSet<NodeId> {
    let joining = topology.transition.iter().flat_map(|t| &t.joining);
    gainers(topology)
        .into_iter()
        .chain(joining.cloned())
        .collect()
}

/// Whether one of them has been down, or unknown to gossip, for too long.
fn is_hopeless(now: &Situation<'_>) -> bool {
    now.in_epoch > EPOCH_CHANCE
        && needed(now.topology)
            .iter()
            .any(|id| match now.sighting(id) {
                Some(s) => is_long_down(s),
                None => now.in_epoch > GAINER_DOWN_MAX,
            })
}

fn is_long_down(member: &Sighting) -> bool {
    member.is_down() && member.since > GAINER_DOWN_MAX
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
