//! `/gossip/*`. What the engine tells of itself is in [`super::engine`].

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use super::{
    engine::{GossipCounts, GossipQueues, GossipTraffic, ProbeFigures, SeedInfo, SuspicionInfo},
    observations::{Disagreement, ObservationsResponse, Observer, Sight},
};
use crate::{
    id::{Epoch, Generation, Incarnation, NodeId},
    member::{Lifecycle, Load, MemberStatus},
};

/// `GET /gossip/members`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MembersResponse {
    /// Empty while the node has not joined a cluster.
    pub cluster_id: String,
    #[schema(value_type = String)]
    pub current_node: NodeId,
    /// By node id; those that left are not listed.
    #[schema(value_type = BTreeMap<String, MemberInfo>)]
    pub cluster_members: BTreeMap<NodeId, MemberInfo>,
    pub total_members: usize,
    pub alive_members: usize,
    pub membership_digest: String,
}

impl MembersResponse {
    /// The nodes that can be part of a quorum, as this node sees them. Who is only suspected is
    /// still asked, but nobody should count on it.
    pub fn available(&self) -> BTreeSet<NodeId> {
        let counts =
            |m: &&MemberInfo| m.status == MemberStatus::Alive && m.lifecycle.counts_for_quorum();
        let members = self.cluster_members.values();
        members.filter(counts).map(|m| m.node_id.clone()).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberInfo {
    #[schema(value_type = String)]
    pub node_id: NodeId,
    pub address: String,
    pub status: MemberStatus,
    pub lifecycle: Lifecycle,
    /// When this node last had proof of life of it.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// When its status last changed here.
    #[schema(value_type = String, format = DateTime)]
    pub status_since: Timestamp,
    pub generation: Generation,
    pub incarnation: Incarnation,
    /// Messages received from it in this generation, counted here.
    pub heartbeat_seq: u64,
    pub zone: String,
    pub version: String,
    pub ring_epoch: Epoch,
    pub ring_digest: String,
    pub load: Load,
    /// It answers this node over TCP, but not over UDP: failures of it are noticed late.
    #[serde(default)]
    pub udp_blocked: bool,
    /// Who got no answer from it, while it is suspected or dead; the first eight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub accusers: Vec<NodeId>,
    /// Why it is held suspected or dead, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `GET /gossip/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GossipStatusResponse {
    pub gossip_status: GossipStatus,
    pub config: GossipConfigInfo,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GossipStatus {
    #[schema(value_type = String)]
    pub current_node: NodeId,
    pub cluster_size: usize,
    pub alive_nodes: usize,
    pub suspected_nodes: usize,
    pub dead_nodes: usize,
    pub stopped_nodes: usize,
    pub active_rumors: usize,
    /// 0 is healthy; higher means this node itself answers late.
    pub health_score: u32,
    pub queue_depth: usize,
    /// Messages refused: another cluster, another target, damaged, too new.
    pub rejected_messages: u64,
    /// The same by reason; every reason is listed.
    #[serde(default)]
    pub rejected: BTreeMap<String, u64>,
    /// Why `health_score` is not 0: sentences, the weightiest first; empty when it is.
    #[serde(default)]
    pub health_reasons: Vec<String>,
    /// What waits or is under way. `queue_depth` is the sum of names, exchanges, jobs and commands:
    /// what this node itself is behind with. Rumors, probes and relays wait for others.
    #[serde(default)]
    pub queues: GossipQueues,
    /// The suspicions that run here now, the next to end first.
    #[serde(default)]
    pub suspicions: Vec<SuspicionInfo>,
    /// The configured seeds, in the order given; without this node itself.
    #[serde(default)]
    pub seeds: Vec<SeedInfo>,
    /// Members that answer this node over TCP, but not over UDP.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub udp_blocked: Vec<NodeId>,
    /// Since when nobody has answered this node over UDP while others answered over TCP: its own
    /// UDP is blocked. Absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub own_udp_blocked_since: Option<Timestamp>,
    #[serde(default)]
    pub traffic: GossipTraffic,
    #[serde(default)]
    pub probes: ProbeFigures,
    #[serde(default)]
    pub counts: GossipCounts,
}

impl GossipStatus {
    /// An engine that is silent: the node knows of nobody but itself.
    pub fn silent(current_node: NodeId) -> Self {
        Self {
            current_node,
            cluster_size: 1,
            alive_nodes: 1,
            suspected_nodes: 0,
            dead_nodes: 0,
            stopped_nodes: 0,
            active_rumors: 0,
            health_score: 0,
            queue_depth: 0,
            rejected_messages: 0,
            rejected: BTreeMap::new(),
            health_reasons: Vec::new(),
            queues: GossipQueues::default(),
            suspicions: Vec::new(),
            seeds: Vec::new(),
            udp_blocked: Vec::new(),
            own_udp_blocked_since: None,
            traffic: GossipTraffic::default(),
            probes: ProbeFigures::default(),
            counts: GossipCounts::default(),
        }
    }
}

/// Durations as text, e.g. `200ms`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GossipConfigInfo {
    pub gossip_interval: String,
    pub probe_interval: String,
    pub probe_timeout: String,
    pub suspicion_timeout: String,
    pub push_pull_interval: String,
    pub indirect_probes: u32,
    pub gossip_fanout: u32,
}

/// `GET /gossip/rumors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RumorsResponse {
    #[schema(value_type = String)]
    pub current_node: NodeId,
    pub rumors: Vec<Rumor>,
}

/// One update that is being spread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rumor {
    #[schema(value_type = String)]
    pub about: NodeId,
    pub status: MemberStatus,
    pub generation: Generation,
    pub incarnation: Incarnation,
    /// Who started it, as far as the message says.
    #[schema(value_type = String)]
    pub from: NodeId,
    /// How often this node has sent it.
    pub transmissions: u32,
    /// After so many it is dropped.
    pub limit: u32,
}

/// `POST /gossip/join`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub node_id: Option<NodeId>,
    /// `host:port` to contact.
    pub address: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JoinResponse {
    pub contacted: String,
    #[schema(value_type = String)]
    pub node_id: NodeId,
    pub total_members: usize,
}
