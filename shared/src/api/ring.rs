//! `/api/v1/ring` and `/api/v1/cluster`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{health::StatusResponse, membership::MembersResponse},
    id::{ClusterId, Epoch, NodeId, PartitionId},
    member::{Lifecycle, MemberStatus},
    topology::{ChangeKind, RingMember, Step, Table, Topology, Transition},
};

/// `GET /api/v1/ring`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RingResponse {
    pub ring: RingSummary,
    pub nodes: Vec<RingNode>,
    pub epoch: Epoch,
    pub digest: String,
    /// By partition: indexes into `nodes`, the primary first.
    pub table: Table,
    pub transition: Option<TransitionInfo>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RingSummary {
    pub physical_nodes: usize,
    /// Partitions times replicas: places on the ring that some node fills.
    pub virtual_nodes: usize,
    pub replicas: u8,
    pub partitions: u16,
    /// Where each partition begins and who is its primary, in ring order.
    pub ring: Vec<RingPoint>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RingPoint {
    /// Sixteen hex digits: the first hash of the slice.
    pub hash: String,
    #[schema(value_type = String)]
    pub node_id: NodeId,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RingNode {
    #[schema(value_type = String)]
    pub id: NodeId,
    pub address: String,
    pub zone: String,
    /// Partitions it is the primary of.
    pub primaries: usize,
    /// Partitions it holds.
    pub replicas: usize,
    /// Share of all replica places, percent.
    pub owns_percent: f64,
    pub joining: bool,
    /// Being taken out by the change under way.
    #[serde(default)]
    pub leaving: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TransitionInfo {
    #[serde(default)]
    pub kind: ChangeKind,
    pub step: Step,
    /// Members that will be gone when the change is done.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub leaving: Vec<NodeId>,
    #[schema(value_type = Vec<String>)]
    pub joining: Vec<NodeId>,
    /// Partitions whose replicas change.
    pub moving: usize,
    pub target: Table,
}

/// Builds the answer from a topology; used by both programs.
pub fn ring_response(topology: &Topology) -> RingResponse {
    let partitions = topology.partition_count();
    let places: usize = topology.table.iter().map(Vec::len).sum();
    let nodes = topology.members.iter().enumerate().map(|(i, m)| {
        let holds = |row: &&Vec<u16>| row.iter().any(|r| usize::from(*r) == i);
        let replicas = topology.table.iter().filter(holds).count();
        let first = |row: &&Vec<u16>| row.first().is_some_and(|r| usize::from(*r) == i);
        RingNode {
            id: m.id.clone(),
            address: m.address.clone(),
            zone: m.zone.clone(),
            primaries: topology.table.iter().filter(first).count(),
            replicas,
            owns_percent: 100.0 * replicas as f64 / places.max(1) as f64,
            joining: topology.is_joining(&m.id),
            leaving: topology.is_leaving(&m.id),
        }
    });
    let ring = (0..partitions).filter_map(|p| {
        Some(RingPoint {
            hash: format!("{:016x}", crate::key::first_hash_of(p, partitions)),
            node_id: topology.replicas(p).first()?.clone(),
        })
    });
    RingResponse {
        ring: RingSummary {
            physical_nodes: topology.settled_members().count(),
            virtual_nodes: places,
            replicas: topology.replication_factor,
            partitions,
            ring: ring.collect(),
        },
        nodes: nodes.collect(),
        epoch: topology.epoch,
        digest: format!("{:016x}", topology.digest()),
        table: topology.table.clone(),
        transition: topology.transition.as_ref().map(|t| TransitionInfo {
            kind: t.kind,
            step: t.step,
            joining: t.joining.clone(),
            leaving: t.leaving.clone(),
            moving: t
                .target
                .iter()
                .zip(&topology.table)
                .filter(|(a, b)| a != b)
                .count(),
            target: t.target.clone(),
        }),
    }
}

/// The topology behind an answer, for the arithmetic in `quorum`. `None` when the answer came
/// without its table or does not hold together.
pub fn topology_of(ring: &RingResponse, cluster_id: &ClusterId) -> Option<Topology> {
    let member = |n: &RingNode| RingMember {
        id: n.id.clone(),
        address: n.address.clone(),
        zone: n.zone.clone(),
    };
    let topology = Topology {
        cluster_id: cluster_id.clone(),
        epoch: ring.epoch,
        replication_factor: ring.ring.replicas,
        members: ring.nodes.iter().map(member).collect(),
        table: ring.table.clone(),
        transition: ring.transition.as_ref().map(|t| Transition {
            kind: t.kind,
            step: t.step,
            joining: t.joining.clone(),
            leaving: t.leaving.clone(),
            target: t.target.clone(),
        }),
    };
    topology.is_well_formed().then_some(topology)
}

/// What an operator wants done to the ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Take in candidates (nodes started with `--join manual`).
    Join {
        #[schema(value_type = Vec<String>)]
        nodes: Vec<NodeId>,
    },
    /// Hand over all that a living member holds, then let it go (decommission).
    Leave {
        #[schema(value_type = String)]
        node: NodeId,
    },
    /// Take a dead member out; the others take over what it held.
    Remove {
        #[schema(value_type = String)]
        node: NodeId,
    },
    /// Put a candidate exactly in the place of a dead member.
    Replace {
        #[schema(value_type = String)]
        dead: NodeId,
        #[schema(value_type = String)]
        with: NodeId,
    },
    /// Balance the same members anew, also over zones.
    Rebalance {},
    /// Give up the change under way and go back to the table in force.
    Cancel {},
}

/// `POST /api/v1/ring/plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    pub change: Change,
}

/// What a change would do. Nothing has been done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanResponse {
    /// Opaque; any node of the cluster takes it while `base_epoch` stands.
    pub plan_id: String,
    pub base_epoch: Epoch,
    pub change: Change,
    /// One sentence.
    pub summary: String,
    /// Partitions whose replicas change.
    pub partitions_moved: usize,
    /// Replica copies that are made, by the node that receives them.
    #[schema(value_type = std::collections::BTreeMap<String, usize>)]
    pub copies: std::collections::BTreeMap<NodeId, usize>,
    /// About how many bytes are copied, from what the members say they hold.
    pub bytes_moved: u64,
    /// Members as they are and as they would be, with how many partitions each holds.
    pub before: Vec<PlannedShare>,
    pub after: Vec<PlannedShare>,
    /// What the operator should know before applying; empty when there is nothing.
    pub risks: Vec<String>,
    /// Why it cannot be applied now; empty when it can.
    pub obstacles: Vec<String>,
    /// The replication table in force and the one to go to; indexes into `members`.
    #[schema(value_type = Vec<String>)]
    pub members: Vec<NodeId>,
    pub table: Table,
    pub target: Table,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedShare {
    #[schema(value_type = String)]
    pub node_id: NodeId,
    pub zone: String,
    /// Partitions it holds.
    pub replicas: usize,
    /// Partitions it is the primary of.
    pub primaries: usize,
}

/// `POST /api/v1/ring/apply`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    pub plan_id: String,
}

/// The change is decided and under way; `GET /api/v1/ring` shows how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApplyResponse {
    /// The epoch that began it.
    pub epoch: Epoch,
    pub change: Change,
    /// One sentence.
    pub message: String,
}

/// `GET /api/v1/ring/locate?key=K`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LocateResponse {
    pub key: String,
    /// Sixteen hex digits.
    pub hash: String,
    pub partition: PartitionId,
    pub epoch: Epoch,
    /// In order, the primary first.
    pub replicas: Vec<LocatedReplica>,
    pub quorum_available: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LocatedReplica {
    #[schema(value_type = String)]
    pub node_id: NodeId,
    pub address: String,
    pub status: MemberStatus,
    pub lifecycle: Lifecycle,
    /// Only a replica of the table the change leads to.
    pub incoming: bool,
}

/// `GET /api/v1/cluster`: the whole picture in one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterResponse {
    pub status: StatusResponse,
    pub members: MembersResponse,
    pub ring: RingResponse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topology_survives_the_answer() {
        let cluster = ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid");
        let member = |n: &str| RingMember {
            id: NodeId::new(n).expect("valid"),
            address: format!("{n}:1"),
            zone: "z".into(),
        };
        let mut topology = Topology::founded(cluster.clone(), member("a"), 3, 4);
        topology.members.push(member("b"));
        topology.transition = Some(Transition {
            kind: ChangeKind::Join,
            leaving: vec![],
            step: Step::Filling,
            joining: vec![NodeId::new("b").expect("valid")],
            target: vec![vec![0, 1]; 4],
        });
        let answer = ring_response(&topology);
        assert_eq!(answer.transition.as_ref().map(|t| t.moving), Some(4));
        let owned: f64 = answer.nodes.iter().map(|n| n.owns_percent).sum();
        assert!((owned - 100.0).abs() < 1e-9);
        assert_eq!(topology_of(&answer, &cluster), Some(topology));
        let bare = RingResponse {
            table: vec![],
            ..answer
        };
        assert_eq!(topology_of(&bare, &cluster), None);
    }
}
