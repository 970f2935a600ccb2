//! The topologies a change goes through, from its first step to its end or back. Pure; when each
//! is due is decided in `handover`, whether a change makes sense in `plan`.

use ringmaster_shared::{
    id::NodeId,
    placement::{self, Placement},
    topology::{ChangeKind, RingMember, Step, Table, Topology, Transition},
};

/// Takes these in; they are balanced with the others.
pub fn joining(topology: &Topology, joiners: Vec<RingMember>) -> Topology {
    let ids = joiners.iter().map(|m| m.id.clone()).collect();
    let wanted: Vec<RingMember> = topology.members.iter().cloned().chain(joiners).collect();
    let placement = placement::plan(topology, &wanted);
    begun(topology, ChangeKind::Join, placement, ids, vec![])
}

/// The others take over all that this member holds.
pub fn without_member(topology: &Topology, kind: ChangeKind, gone: &NodeId) -> Topology {
    let stay = topology.members.iter().filter(|m| m.id != *gone);
    let wanted: Vec<RingMember> = stay.cloned().collect();
    let placement = placement::plan(topology, &wanted);
    begun(topology, kind, placement, vec![], vec![gone.clone()])
}

/// `with` takes over exactly what `gone` holds.
pub fn replacing(topology: &Topology, gone: &NodeId, with: &RingMember) -> Topology {
    let placement = placement::replace(topology, gone, with);
    let (joining, leaving) = (vec![with.id.clone()], vec![gone.clone()]);
    begun(topology, ChangeKind::Replace, placement, joining, leaving)
}

/// The same members, placed as if anew with the fewest moves.
pub fn rebalancing(topology: &Topology) -> Topology {
    let placement = placement::plan(topology, &topology.members);
    begun(topology, ChangeKind::Rebalance, placement, vec![], vec![])
}

fn begun(
    topology: &Topology,
    kind: ChangeKind,
    placement: Placement,
    joining: Vec<NodeId>,
    leaving: Vec<NodeId>,
) -> Topology {
    Topology {
        epoch: topology.epoch + 1,
        members: placement.members,
        table: placement.current,
        transition: Some(Transition {
            kind,
            step: Step::Filling,
            joining,
            leaving,
            target: placement.target,
        }),
        ..topology.clone()
    }
}

/// Reads need a quorum of both tables from here on.
pub fn reading_both(topology: &Topology, transition: &Transition) -> Topology {
    Topology {
        epoch: topology.epoch + 1,
        transition: Some(Transition {
            step: Step::Dual,
            ..transition.clone()
        }),
        ..topology.clone()
    }
}

/// The new table alone, without those who left.
pub fn finished(topology: &Topology, transition: &Transition) -> Topology {
    settled(topology, &transition.target, &transition.leaving)
}

/// The old table, without those who were joining.
pub fn reverted(topology: &Topology, transition: &Transition) -> Topology {
    settled(topology, &topology.table, &transition.joining)
}

/// No change under way: this table, which does not name those who are gone.
fn settled(topology: &Topology, table: &Table, gone: &[NodeId]) -> Topology {
    let stays: Vec<bool> = topology
        .members
        .iter()
        .map(|m| !gone.contains(&m.id))
        .collect();
    let place = |old: u16| stays[..usize::from(old)].iter().filter(|s| **s).count() as u16;
    let members = topology.members.iter().zip(&stays);
    Topology {
        epoch: topology.epoch + 1,
        members: members
            .filter(|(_, stays)| **stays)
            .map(|(m, _)| m.clone())
            .collect(),
        table: table
            .iter()
            .map(|row| row.iter().map(|i| place(*i)).collect())
            .collect(),
        transition: None,
        ..topology.clone()
    }
}
