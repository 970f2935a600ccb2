//! `GET /api/v1/status`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    event::Severity,
    id::{Epoch, Generation, NodeId},
    member::{Lifecycle, MemberStatus},
    quorum::{ClusterHealth, PartitionCounts},
};

/// The node, its storage, its replication and the cluster as it sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusResponse {
    pub node: NodeStatus,
    pub storage: StorageStatus,
    pub replication: ReplicationStatus,
    pub cluster: ClusterStatus,
    /// How its gossip engine is; absent while it is silent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gossip: Option<GossipHealth>,
    /// Unix seconds.
    pub timestamp: i64,
}

/// The gossip engine of a node, in short; `/gossip/status` has all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GossipHealth {
    /// 0 is healthy; higher means this node itself answers late.
    pub health_score: u32,
    /// Why, in sentences, the weightiest first.
    #[serde(default)]
    pub health_reasons: Vec<String>,
    /// Members that answer it over TCP, but not over UDP.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub udp_blocked: Vec<NodeId>,
    /// Since when its own UDP has been blocked: nobody answers it over UDP, others do over TCP.
    /// Absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub own_udp_blocked_since: Option<Timestamp>,
    /// Configured seeds that have not answered for a minute: addresses.
    #[serde(default)]
    pub seeds_unreachable: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    #[schema(value_type = String)]
    pub id: NodeId,
    /// `host:port` others are told.
    pub address: String,
    pub status: MemberStatus,
    pub lifecycle: Lifecycle,
    /// What the node waits for while it is not serving, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    pub zone: String,
    pub version: String,
    /// Git commit the binary was built from, `unknown` outside a checkout.
    pub commit: String,
    pub generation: Generation,
    #[schema(value_type = String, format = DateTime)]
    pub start_time: Timestamp,
    pub uptime_seconds: u64,
    pub pid: u32,
    /// Flags of `ringd` that start this node again as it is set up, wherever the settings came
    /// from; paths are absolute. Without seeds: those that were right once may be gone.
    #[serde(default)]
    pub start_flags: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StorageStatus {
    /// `sled`.
    pub engine: String,
    /// Keys with a value on this node.
    pub key_count: u64,
    pub tombstones: u64,
    pub bytes_on_disk: u64,
    /// `fsync`: acknowledged writes are synced.
    pub durability: String,
    pub read_only: bool,
    /// Why, in a sentence; absent when it is writable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_reason: Option<String>,
    /// Free on the disk of the data folder; absent when it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// Hints this node holds for others, by the node they are owed to.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub hints_owed: BTreeMap<NodeId, u64>,
    /// Partitions by the member that has to be compared in them, because hints for it were dropped.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub dirty_partitions: BTreeMap<NodeId, u64>,
    /// Members that deleted keys wait for before they can be forgotten.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub tombstones_wait_for: Vec<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReplicationStatus {
    pub replication_factor: u8,
    /// `floor(min(RF, members) / 2) + 1`.
    pub quorum_size: usize,
    pub total_nodes: usize,
    pub alive_nodes: usize,
    /// Every partition can reach its quorum from here.
    pub quorum_available: bool,
    #[schema(value_type = String)]
    pub current_node: NodeId,
    pub partitions: PartitionCounts,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// Empty while the node has not joined a cluster.
    pub cluster_id: String,
    pub health: ClusterHealth,
    pub ring_epoch: Epoch,
    pub ring_digest: String,
    pub membership_digest: String,
    pub problems: Vec<Problem>,
}

/// Something an operator should know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable, e.g. `MEMBER_DEAD`.
    pub code: String,
    pub severity: Severity,
    pub message: String,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}
