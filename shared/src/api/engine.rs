//! What the gossip engine tells of itself in `GET /gossip/status`: queues, suspicions, seeds,
//! traffic, probes.
//!
//! Counts run from the start of the process, unless they name a window.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::NodeId;

/// What waits in the engine, or is under way; all of it is bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GossipQueues {
    /// Updates being spread.
    pub rumors: usize,
    /// Packets that wait for a host name to be resolved.
    pub waiting_for_names: usize,
    /// Exchanges of lists that this node began and that have not ended.
    pub exchanges: usize,
    /// Lookups of names and probes over TCP under way.
    pub jobs: usize,
    /// Orders of the rest of the node that wait for the engine.
    pub commands: usize,
    /// Probes that wait for their answer.
    pub probes: usize,
    /// Pings made for others that wait for their answer.
    pub relays: usize,
}

/// A suspicion that runs: its member has to answer before it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SuspicionInfo {
    #[schema(value_type = String)]
    pub about: NodeId,
    /// Who got no answer; the first eight.
    #[schema(value_type = Vec<String>)]
    pub accusers: Vec<NodeId>,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Milliseconds until it is held dead, unless it answers. Less when others confirm the
    /// suspicion, or too few are left to.
    pub ends_in_ms: u64,
    /// Accusers beyond the first: each makes the suspicion end sooner.
    pub confirmations: u32,
    /// With so many it ends after the shortest time. Falls to `confirmations` when too few are
    /// left to confirm.
    pub wanted: u32,
}

/// A configured seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeedInfo {
    /// `host:port` as configured.
    pub address: String,
    /// A member that answers is known there.
    pub reachable: bool,
    /// Who answered there last, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub answered_by: Option<NodeId>,
    /// When this node last tried it; a seed that is a reachable member is not tried any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_tried: Option<Timestamp>,
    /// Since when no member that answers is known there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub silent_since: Option<Timestamp>,
    /// Why the last attempt failed; absent when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What gossip sent and received since its start. Bytes are those of datagrams and of messages
/// inside frames; what TCP, HTTP and the kernel put around them is not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GossipTraffic {
    pub udp_sent_bytes: u64,
    pub udp_received_bytes: u64,
    pub udp_sent_packets: u64,
    pub udp_received_packets: u64,
    /// Exchanges of lists over TCP, whoever began them; questions that nobody took are not counted.
    pub exchange_bytes_sent: u64,
    pub exchange_bytes_received: u64,
    /// Exchanges this node began in which both held the same already.
    pub exchanges_equal: u64,
    /// Exchanges this node began in which something differed.
    pub exchanges_differing: u64,
}

/// How this node's probes ended within the last minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProbeFigures {
    /// Seconds looked back on.
    pub window_s: u64,
    /// The member answered itself.
    pub direct: u64,
    /// Others reached it.
    pub by_others: u64,
    /// Only TCP reached it.
    pub by_tcp: u64,
    /// Nobody got an answer.
    pub unanswered: u64,
    /// Round trip of a ping that was answered, milliseconds: the median; absent without answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_p50_ms: Option<f64>,
    /// And the 99th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_p99_ms: Option<f64>,
}

/// What this node saw happen, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GossipCounts {
    /// Members that became suspected.
    pub suspicions_started: u64,
    /// Suspected members that answered in time.
    pub suspicions_refuted: u64,
    /// Times that a further accuser confirmed a suspicion.
    pub suspicions_confirmed: u64,
    /// Members that came to be held dead.
    pub deaths: u64,
    /// Times that this node had to refute what others held of it.
    pub self_refuted: u64,
}
