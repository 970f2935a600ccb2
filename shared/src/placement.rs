//! Which replicas each partition should have.
//!
//! [`plan`] takes the table in force and the members wanted, and answers with the table to go
//! to. It promises, in this order: distinct replicas, as many as the replication factor and the
//! members allow; every partition spread over zones as evenly as the zones allow; nodes balanced
//! to within one partition where the zones let them be; few replicas moved; primaries balanced to
//! within one as well. The same input gives the same table on every node. It leaves to others
//! when and whether to go there.
//!
//! How: rows are repaired in place (drop who left, fill up, mend the zones), then load is shifted
//! from the fullest node to the emptiest along shortest chains of single replacements. The rows
//! that a zone rule allows are the bases of a matroid, so when no such chain is left no better
//! balance exists (the argument of "Semi-matchings", Harvey et al. 2006).

mod balance;
mod primary;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::{
    id::NodeId,
    topology::{RingMember, Table, Topology},
};

use balance::Planner;

/// Where a change leads. Both tables index `members`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Old and wanted members, sorted by id; a wanted one's own description wins.
    pub members: Vec<RingMember>,
    /// The table in force, in terms of `members`.
    pub current: Table,
    /// The table to go to; names only wanted members.
    pub target: Table,
}

impl Placement {
    /// Partitions whose set of replicas changes.
    pub fn partitions_moved(&self) -> usize {
        self.current
            .iter()
            .zip(&self.target)
            .filter(|(old, new)| old.len() != new.len() || new.iter().any(|i| !old.contains(i)))
            .count()
    }
}

/// The placement for `wanted`, starting from the table in force. With nobody wanted nothing
/// moves.
pub fn plan(topology: &Topology, wanted: &[RingMember]) -> Placement {
    let (members, current) = union(topology, wanted);
    let index_of: BTreeMap<_, u16> = (0..).zip(&members).map(|(i, m)| (&m.id, i)).collect();
    let mut wanted: Vec<u16> = wanted
        .iter()
        .filter_map(|m| index_of.get(&m.id).copied())
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Placement {
            target: current.clone(),
            members,
            current,
        };
    }

    let replicas = usize::from(topology.replication_factor).min(wanted.len());
    let mut planner = Planner::new(&members, &wanted, &current, replicas);
    planner.fill_rows();
    planner.mend_zones();
    planner.balance();
    let mut target = in_old_order(&current, &planner.into_rows());
    primary::balance(&current, &mut target, members.len());
    Placement {
        members,
        current,
        target,
    }
}

/// The placement that puts `with` exactly in the place of `gone`: the fewest moves there are.
/// Nothing moves when `gone` is no member.
pub fn replace(topology: &Topology, gone: &NodeId, with: &RingMember) -> Placement {
    let (members, current) = union(topology, std::slice::from_ref(with));
    let index_of = |id: &NodeId| {
        (0..)
            .zip(&members)
            .find(|(_, m)| m.id == *id)
            .map(|(i, _)| i)
    };
    let (gone, with): (Option<u16>, Option<u16>) = (index_of(gone), index_of(&with.id));
    let swapped = |i: &u16| {
        if Some(*i) == gone {
            with.unwrap_or(*i)
        } else {
            *i
        }
    };
    let target = current
        .iter()
        .map(|row| row.iter().map(swapped).collect())
        .collect();
    Placement {
        members,
        current,
        target,
    }
}

/// Old and wanted members by id, and the table in force in terms of them.
fn union(topology: &Topology, wanted: &[RingMember]) -> (Vec<RingMember>, Table) {
    let union: BTreeMap<_, _> = topology
        .members
        .iter()
        .chain(wanted)
        .map(|m| (m.id.clone(), m.clone()))
        .collect();
    let members: Vec<RingMember> = union.into_values().collect();
    let index_of: BTreeMap<_, u16> = (0..).zip(&members).map(|(i, m)| (&m.id, i)).collect();
    let current: Table = topology
        .table
        .iter()
        .map(|row| {
            row.iter()
                .filter_map(|old| topology.members.get(usize::from(*old)))
                .filter_map(|m| index_of.get(&m.id).copied())
                .collect()
        })
        .collect();
    (members, current)
}

/// Keeps each replica that stays in its old position and puts new ones where others left, so
/// that a change shows as what it is and primaries move only when they must.
fn in_old_order(current: &Table, rows: &[Vec<u16>]) -> Table {
    current
        .iter()
        .zip(rows)
        .map(|(old, new)| {
            let mut arriving = new.iter().filter(|i| !old.contains(i)).copied();
            let mut row: Vec<u16> = old
                .iter()
                .filter_map(|i| {
                    if new.contains(i) {
                        Some(*i)
                    } else {
                        arriving.next()
                    }
                })
                .collect();
            row.extend(arriving);
            row
        })
        .collect()
}

/// A fixed scramble that breaks ties differently in each partition, so that the partitions of
/// one node are shared with many others and not always with the same two.
fn scramble(a: u16, b: u16) -> u32 {
    let mut x = (u32::from(a) << 16 | u32::from(b)).wrapping_mul(0x9e37_79b1);
    x ^= x >> 15;
    x = x.wrapping_mul(0x85eb_ca77);
    x ^ (x >> 13)
}
