//! `/api/v1/ring` and `/api/v1/cluster`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{health::StatusResponse, membership::MembersResponse},
    id::{Epoch, NodeId, PartitionId},
    member::{Lifecycle, MemberStatus},
    topology::{Step, Table, Topology},
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
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TransitionInfo {
    pub step: Step,
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
            step: t.step,
            joining: t.joining.clone(),
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
