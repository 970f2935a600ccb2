//! What an operator's change would do, and whether it can be done now.
//!
//! Pure: the ring, what gossip says, and a change in; the answer for the operator and the next
//! topology out. The same picture gives the same plan on every node, so a plan made on one can
//! be applied through another: [`resume`] makes it again and refuses when it came out different.
//! Leaves to others: having it decided (`change`), and the steps after that (`handover`).

mod risks;
#[cfg(test)]
mod tests;
mod ticket;

use std::collections::BTreeMap;

use ringmaster_shared::{
    api::ring::{Change, PlanResponse, PlannedShare},
    id::{Epoch, NodeId},
    member::{Lifecycle, MemberStatus},
    topology::{ChangeKind, RingMember, Table, Topology},
};
use thiserror::Error;

use super::{handover, news, steps};
use crate::gossip::MemberState;
use ticket::Ticket;

/// What a plan rests on.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    pub topology: &'a Topology,
    /// All members and candidates as gossip knows them, this node included.
    pub members: &'a [MemberState],
}

/// A change thought through.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub response: PlanResponse,
    /// What to propose; `None` when there is no such change.
    pub next: Option<Topology>,
}

/// Why a plan cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    #[error("the plan_id is not one that /api/v1/ring/plan gave: it is damaged or was edited")]
    Damaged,
    #[error("the plan is for cluster {theirs}, this node belongs to {ours}")]
    OtherCluster { ours: String, theirs: String },
    #[error(
        "the plan was made at ring epoch {planned}, this node goes by epoch {current}; plan again"
    )]
    Outdated { planned: Epoch, current: Epoch },
    #[error(
        "the plan would come out differently now, because nodes came, went or moved; plan again"
    )]
    Different,
    #[error("{}", .0.join("; "))]
    Obstacles(Vec<String>),
}

impl Picture<'_> {
    fn member(&self, id: &NodeId) -> Option<&MemberState> {
        self.members.iter().find(|m| m.id == *id)
    }

    fn answers(&self, id: &NodeId) -> bool {
        self.member(id)
            .is_some_and(|m| m.status.is_reachable() && m.lifecycle.replicates())
    }

    /// Whether it answers and holds what it should.
    fn counts(&self, id: &NodeId) -> bool {
        self.answers(id)
            && self
                .member(id)
                .is_some_and(|m| m.lifecycle.counts_for_quorum())
    }

    /// `dead`, `stopped`; nothing is known of it: `not seen`.
    fn state_of(&self, id: &NodeId) -> &'static str {
        match self.member(id) {
            None => "not seen",
            Some(m) if m.status == MemberStatus::Alive => m.lifecycle.as_str(),
            Some(m) => m.status.as_str(),
        }
    }

    /// A node that waits to be taken in, as the ring would describe it.
    fn candidate(&self, id: &NodeId) -> Result<RingMember, String> {
        if self.topology.contains(id) {
            return Err(format!("{id} is a member of the ring already"));
        }
        let waits = |m: &&MemberState| {
            let lifecycle = matches!(m.lifecycle, Lifecycle::Candidate | Lifecycle::Joining);
            m.status == MemberStatus::Alive && lifecycle
        };
        match self.member(id).filter(waits) {
            Some(m) => Ok(RingMember {
                id: m.id.clone(),
                address: m.address.clone(),
                zone: m.zone.clone(),
            }),
            None => Err(format!(
                "{id} is {}: start it with --join manual and a seed, so that it waits as a candidate",
                self.state_of(id)
            )),
        }
    }
}

/// Thinks a change through. Nothing is done.
pub fn plan(picture: &Picture<'_>, change: &Change) -> Plan {
    let topology = picture.topology;
    let drafted = draft(picture, change);
    let (next, mut obstacles) = match drafted {
        Ok(next) => (Some(next), vec![]),
        Err(why) => (None, vec![why]),
    };
    // where there is no such change, the ring as it is
    let shown = next.as_ref().unwrap_or(topology);
    obstacles.extend(risks::obstacles(picture, shown));
    let risks = match &next {
        Some(next) => risks::risks(picture, change, next),
        None => vec![],
    };
    let copies = copies(shown);
    let copied: usize = copies.values().sum();
    let response = PlanResponse {
        plan_id: Ticket::of(topology, next.as_ref(), change).to_text(),
        base_epoch: topology.epoch,
        change: change.clone(),
        summary: summary(picture, change, next.as_ref(), copied),
        partitions_moved: handover::moving(shown).count(),
        bytes_moved: bytes(picture, copied),
        copies,
        before: shares(shown, &shown.table, |id| !shown.is_joining(id)),
        after: shares(shown, target(shown), |id| !shown.is_leaving(id)),
        risks,
        obstacles,
        members: shown.members.iter().map(|m| m.id.clone()).collect(),
        table: shown.table.clone(),
        target: target(shown).clone(),
    };
    Plan { response, next }
}

/// The plan behind a plan id, made again from what is known now; with the topology to propose.
pub fn resume(picture: &Picture<'_>, plan_id: &str) -> Result<(Plan, Topology), PlanError> {
    let topology = picture.topology;
    let ticket = Ticket::parse(plan_id).ok_or(PlanError::Damaged)?;
    let change = ticket.change().ok_or(PlanError::Damaged)?;
    if ticket.cluster != topology.cluster_id.as_str() {
        return Err(PlanError::OtherCluster {
            ours: topology.cluster_id.to_string(),
            theirs: ticket.cluster,
        });
    }
    if (ticket.epoch, ticket.digest) != (topology.epoch, topology.digest()) {
        return Err(PlanError::Outdated {
            planned: ticket.epoch,
            current: topology.epoch,
        });
    }
    let plan = plan(picture, &change);
    if !plan.response.obstacles.is_empty() {
        return Err(PlanError::Obstacles(plan.response.obstacles));
    }
    match plan.next.clone() {
        Some(next) if next.digest() == ticket.outcome => Ok((plan, next)),
        _ => Err(PlanError::Different),
    }
}

/// The first step of the change, or why there is none.
fn draft(picture: &Picture<'_>, change: &Change) -> Result<Topology, String> {
    let ring = picture.topology;
    if let (Some(under_way), false) = (&ring.transition, matches!(change, Change::Cancel {})) {
        return Err(format!(
            "a change is under way ({}); wait until it is done, or cancel it",
            news::intent(under_way)
        ));
    }
    match change {
        Change::Join { nodes } => join(picture, nodes),
        Change::Leave { node } => {
            must_be_member(ring, node)?;
            if ring.members.len() == 1 {
                return Err(format!(
                    "{node} is the last member and holds everything; the last one cannot leave"
                ));
            }
            if !picture.answers(node) {
                return Err(format!(
                    "{node} is {} and cannot hand over what it holds: start it, or remove it",
                    picture.state_of(node)
                ));
            }
            Ok(steps::without_member(ring, ChangeKind::Leave, node))
        }
        Change::Remove { node } => {
            must_be_member(ring, node)?;
            must_be_down(picture, node, "use leave, then it hands over what it holds")?;
            if ring.members.len() == 1 {
                return Err(format!("{node} is the last member; it cannot be removed"));
            }
            Ok(steps::without_member(ring, ChangeKind::Remove, node))
        }
        Change::Replace { dead, with } => {
            must_be_member(ring, dead)?;
            must_be_down(
                picture,
                dead,
                "take the new node in with join, then let this one leave",
            )?;
            let with = picture.candidate(with)?;
            Ok(steps::replacing(ring, dead, &with))
        }
        Change::Rebalance {} => {
            let next = steps::rebalancing(ring);
            if *target(&next) == ring.table {
                return Err(
                    "there is nothing to move: the ring is as balanced as its zones allow".into(),
                );
            }
            Ok(next)
        }
        Change::Cancel {} => match &ring.transition {
            Some(under_way) => Ok(steps::reverted(ring, under_way)),
            None => Err("no change is under way, so there is nothing to cancel".into()),
        },
    }
}

fn join(picture: &Picture<'_>, nodes: &[NodeId]) -> Result<Topology, String> {
    if nodes.is_empty() {
        return Err("name the nodes to take in".into());
    }
    let mut joiners: BTreeMap<&NodeId, RingMember> = BTreeMap::new();
    for node in nodes {
        if joiners.insert(node, picture.candidate(node)?).is_some() {
            return Err(format!("{node} is named twice"));
        }
    }
    let joiners = joiners.into_values().collect();
    Ok(steps::joining(picture.topology, joiners))
}

fn must_be_member(ring: &Topology, node: &NodeId) -> Result<(), String> {
    if ring.contains(node) {
        return Ok(());
    }
    let members: Vec<&str> = ring.members.iter().map(|m| m.id.as_str()).collect();
    Err(format!(
        "{node} is no member of the ring (members: {})",
        members.join(", ")
    ))
}

fn must_be_down(picture: &Picture<'_>, node: &NodeId, instead: &str) -> Result<(), String> {
    match picture.member(node).map(|m| m.status) {
        Some(MemberStatus::Alive) => Err(format!("{node} answers: {instead}")),
        Some(MemberStatus::Suspected) => Err(format!(
            "{node} is only suspected so far; wait until it answers again or is held dead"
        )),
        _ => Ok(()),
    }
}

/// Where the ring goes; the table in force when no change is in it.
fn target(ring: &Topology) -> &Table {
    ring.transition.as_ref().map_or(&ring.table, |t| &t.target)
}

/// Replica copies to be made, by who receives them.
fn copies(ring: &Topology) -> BTreeMap<NodeId, usize> {
    let mut copies = BTreeMap::new();
    for (partition, target) in handover::moving(ring) {
        let old = ring.replicas(partition);
        for id in target.into_iter().filter(|id| !old.contains(id)) {
            *copies.entry(id).or_default() += 1;
        }
    }
    copies
}

/// So many copies of partitions, at what a copy takes on the members that say so.
fn bytes(picture: &Picture<'_>, copies: usize) -> u64 {
    let ring = picture.topology;
    let (mut bytes, mut places) = (0_u64, 0_usize);
    for share in shares(ring, &ring.table, |_| true) {
        if let Some(m) = picture
            .member(&share.node_id)
            .filter(|_| share.replicas > 0)
        {
            bytes = bytes.saturating_add(m.load.bytes_on_disk);
            places += share.replicas;
        }
    }
    if places == 0 {
        return 0;
    }
    (bytes as f64 / places as f64 * copies as f64) as u64
}

fn shares(ring: &Topology, table: &Table, counts: impl Fn(&NodeId) -> bool) -> Vec<PlannedShare> {
    let members = ring.members.iter().enumerate();
    members
        .filter(|(_, m)| counts(&m.id))
        .map(|(at, m)| {
            let is = |i: &u16| usize::from(*i) == at;
            PlannedShare {
                node_id: m.id.clone(),
                zone: m.zone.clone(),
                replicas: table.iter().filter(|row| row.iter().any(is)).count(),
                primaries: table
                    .iter()
                    .filter(|row| row.first().is_some_and(is))
                    .count(),
            }
        })
        .collect()
}

fn summary(
    picture: &Picture<'_>,
    change: &Change,
    next: Option<&Topology>,
    copied: usize,
) -> String {
    let Some(next) = next else {
        return "this change cannot be made".to_owned();
    };
    let Some(transition) = &next.transition else {
        let under_way = picture.topology.transition.as_ref();
        let what = under_way.map_or_else(String::new, |t| format!(" ({})", news::intent(t)));
        return format!("the change under way{what} is given up, the ring stays as it was");
    };
    let members = next.members.len() - transition.leaving.len();
    let moving = handover::moving(next).count();
    let what = match change {
        Change::Leave { node } => format!("{node} hands over all it holds and leaves"),
        Change::Remove { node } => format!("{node} is taken out of the ring"),
        _ => news::intent(transition),
    };
    format!(
        "{what}: {} change replicas, {} made (about {}), then the ring has {}",
        risks::counted(moving, "partition"),
        if copied == 1 {
            "1 copy is".into()
        } else {
            format!("{copied} copies are")
        },
        risks::size(bytes(picture, copied)),
        risks::counted(members, "member"),
    )
}
