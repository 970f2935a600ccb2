//! Quorum arithmetic: how many answers are enough, and how healthy partitions are.
//! This is the only place that counts replicas.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{NodeId, PartitionId},
    topology::{Access, Topology},
};

/// The effective quorum of a cluster: `floor(min(RF, members) / 2) + 1`.
pub fn quorum_size(replication_factor: usize, members: usize) -> usize {
    replication_factor.min(members) / 2 + 1
}

/// A set of replicas of which `need` must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub members: Vec<NodeId>,
    pub need: usize,
}

impl Group {
    pub fn majority_of(members: Vec<NodeId>) -> Self {
        let need = members.len() / 2 + 1;
        Self { members, need }
    }

    /// Enough of the group has answered.
    pub fn is_met(&self, answered: &BTreeSet<NodeId>) -> bool {
        self.count(answered) >= self.need
    }

    /// The same for a few ids in a list.
    pub fn is_met_by(&self, answered: &[NodeId]) -> bool {
        self.members.iter().filter(|m| answered.contains(m)).count() >= self.need
    }

    fn count(&self, answered: &BTreeSet<NodeId>) -> usize {
        self.members
            .iter()
            .filter(|m| answered.contains(*m))
            .count()
    }
}

/// What an operation needs: every group must be satisfied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub groups: Vec<Group>,
}

impl Requirement {
    /// Enough has answered.
    pub fn is_met(&self, answered: &BTreeSet<NodeId>) -> bool {
        self.groups.iter().all(|g| g.is_met(answered))
    }

    /// The same for a few ids in a list.
    pub fn is_met_by(&self, answered: &[NodeId]) -> bool {
        self.groups.iter().all(|g| g.is_met_by(answered))
    }

    /// `consistency=one`: one answer from any replica of each group.
    #[must_use]
    pub fn one(mut self) -> Self {
        for g in &mut self.groups {
            g.need = g.need.min(1);
        }
        self
    }

    /// `consistency=all`.
    #[must_use]
    pub fn all(mut self) -> Self {
        for g in &mut self.groups {
            g.need = g.members.len();
        }
        self
    }

    /// Every replica that counts, each once, in order.
    pub fn replicas(&self) -> Vec<NodeId> {
        let mut all = Vec::new();
        for id in self.groups.iter().flat_map(|g| &g.members) {
            if !all.contains(id) {
                all.push(id.clone());
            }
        }
        all
    }
}

/// How many replicas of one partition answer, against its quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartitionHealth {
    /// No quorum: refuses reads and writes.
    Unavailable,
    /// A quorum, but not all.
    Quorum,
    /// Every replica.
    AllReplicas,
}

/// Counts over all partitions; `quorum` includes `all_replicas`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionCounts {
    pub total: u16,
    /// Partitions whose every replica answers.
    pub all_replicas: u16,
    /// Partitions with at least a quorum.
    pub quorum: u16,
    /// Partitions without one.
    pub unavailable: u16,
}

/// Health of the whole key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusterHealth {
    /// All replicas of all partitions.
    Healthy,
    /// A quorum of all partitions.
    Degraded,
    /// Some partition has no quorum.
    Unavailable,
}

impl PartitionCounts {
    pub fn health(&self) -> ClusterHealth {
        if self.total == 0 || self.unavailable > 0 {
            ClusterHealth::Unavailable
        } else if self.all_replicas < self.total {
            ClusterHealth::Degraded
        } else {
            ClusterHealth::Healthy
        }
    }
}

/// Health of one partition when exactly `available` answer. Both reads and writes must find
/// their quorum.
pub fn partition_health(
    topology: &Topology,
    partition: PartitionId,
    available: &BTreeSet<NodeId>,
) -> PartitionHealth {
    let write = topology.requirement(partition, Access::Write);
    if !write.is_met(available)
        || !topology
            .requirement(partition, Access::Read)
            .is_met(available)
    {
        PartitionHealth::Unavailable
    } else if write.all().is_met(available) {
        PartitionHealth::AllReplicas
    } else {
        PartitionHealth::Quorum
    }
}

pub fn partition_counts(topology: &Topology, available: &BTreeSet<NodeId>) -> PartitionCounts {
    let mut counts = PartitionCounts {
        total: topology.partition_count(),
        ..Default::default()
    };
    for p in 0..counts.total {
        match partition_health(topology, p, available) {
            PartitionHealth::AllReplicas => {
                counts.all_replicas += 1;
                counts.quorum += 1;
            }
            PartitionHealth::Quorum => counts.quorum += 1,
            PartitionHealth::Unavailable => counts.unavailable += 1,
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::ClusterId,
        topology::{RingMember, Step, Transition},
    };

    fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn set(names: &[&str]) -> BTreeSet<NodeId> {
        names.iter().map(|n| id(n)).collect()
    }

    fn topology() -> Topology {
        let member = |n: &str| RingMember {
            id: id(n),
            address: format!("{n}:1"),
            zone: "default".into(),
        };
        Topology {
            cluster_id: ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid"),
            epoch: 1,
            replication_factor: 3,
            members: ["a", "b", "c", "d"].map(member).to_vec(),
            table: vec![vec![0, 1, 2], vec![1, 2, 3]],
            transition: None,
        }
    }

    #[test]
    fn effective_quorum() {
        let cases = [
            (3, 1, 1),
            (3, 2, 2),
            (3, 3, 2),
            (3, 9, 2),
            (1, 5, 1),
            (5, 5, 3),
        ];
        for (rf, members, want) in cases {
            assert_eq!(quorum_size(rf, members), want, "rf {rf}, {members} members");
        }
    }

    #[test]
    fn partitions_are_counted_by_who_answers() {
        let t = topology();
        let cases: [(&[&str], u16, u16, u16, ClusterHealth); 4] = [
            (&["a", "b", "c", "d"], 2, 2, 0, ClusterHealth::Healthy),
            (&["b", "c", "d"], 1, 2, 0, ClusterHealth::Degraded),
            (&["a", "b"], 0, 1, 1, ClusterHealth::Unavailable),
            (&[], 0, 0, 2, ClusterHealth::Unavailable),
        ];
        for (alive, all, quorum, lost, health) in cases {
            let counts = partition_counts(&t, &set(alive));
            assert_eq!(
                (counts.all_replicas, counts.quorum, counts.unavailable),
                (all, quorum, lost)
            );
            assert_eq!(counts.health(), health, "{alive:?}");
        }
    }

    #[test]
    fn a_change_needs_both_sides() {
        let mut t = topology();
        t.transition = Some(Transition {
            step: Step::Dual,
            kind: crate::topology::ChangeKind::Join,
            leaving: vec![],
            joining: vec![],
            target: vec![vec![0, 1, 3], vec![1, 2, 3]],
        });
        // b and c are a quorum of the old {a,b,c} but not of the new {a,b,d}
        assert_eq!(
            partition_health(&t, 0, &set(&["b", "c"])),
            PartitionHealth::Unavailable
        );
        assert_eq!(
            partition_health(&t, 0, &set(&["a", "b"])),
            PartitionHealth::Quorum
        );
        assert_eq!(
            partition_health(&t, 0, &set(&["a", "b", "c", "d"])),
            PartitionHealth::AllReplicas
        );
    }

    #[test]
    fn levels_change_the_need() {
        let need = Requirement {
            groups: vec![Group::majority_of(vec![id("a"), id("b"), id("c")])],
        };
        assert!(need.is_met(&set(&["a", "c"])) && !need.is_met(&set(&["a", "x"])));
        assert!(need.clone().one().is_met(&set(&["c"])));
        assert!(!need.clone().all().is_met(&set(&["a", "b"])));
    }
}
