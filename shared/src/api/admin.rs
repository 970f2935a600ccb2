//! Orders to one node, and its events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{event::Event, id::NodeId, member::Lifecycle};

/// How long a standby lasts when nobody says otherwise, seconds.
pub const HOLD_SECONDS_DEFAULT: u64 = 120;
/// Longest accepted hold, seconds.
pub const HOLD_SECONDS_MAX: u64 = 3600;

/// `POST /api/v1/admin/drain` and `/resume`: body may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// For the log: who asks and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /api/v1/admin/restart`: drain, flush, replace the process by the binary on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartOrder {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /api/v1/admin/standby`: like restart, but come back holding: the port answers,
/// nothing is served, gossip is silent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StandbyOrder {
    /// Seconds after which the node starts by itself from what it remembers; 120 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /api/v1/admin/clear-gossip`: only in standby. Forgets remembered members, nothing
/// else: identity, generation, ring, data and hints stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClearGossipResponse {
    #[schema(value_type = String)]
    pub node_id: NodeId,
    /// Members that were forgotten.
    pub forgotten: usize,
}

/// `POST /api/v1/admin/start`: only in standby.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartOrder {
    /// Seeds to use instead of those of the command line; empty means none: start from what
    /// the data folder knows.
    #[serde(default)]
    pub seeds: Option<Vec<String>>,
}

/// `POST /api/v1/admin/adopt`: give up this node's cluster, push everything it holds into the one
/// that the seeds belong to, and join that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptOrder {
    /// Nodes of the cluster to join, `host:port`.
    pub seeds: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /api/v1/admin/refill`: only when `REFILL_BLOCKED` is shown: get back the lost data from the
/// replicas that have theirs, and count what they do not have as lost. Or, with all data back, when
/// `VOTES_FORGOTTEN` is shown: vote on changes of the ring as if nothing had been voted before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefillOrder {
    /// Must be true: writes that only the emptied replicas had acknowledged are gone, and a change
    /// of the ring that only the emptied voters had decided may be decided a second time.
    pub accept_loss: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer to every order: what the node is going to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderResponse {
    #[schema(value_type = String)]
    pub node_id: NodeId,
    pub accepted: bool,
    pub lifecycle: Lifecycle,
    /// One sentence.
    pub message: String,
}

/// `GET /api/v1/events?since=&limit=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventsResponse {
    #[schema(value_type = String)]
    pub current_node: NodeId,
    pub events: Vec<Event>,
    /// Pass as `since` to get what follows.
    pub next: u64,
    /// Events older than the first one kept were dropped.
    pub truncated: bool,
}

/// `POST /api/v1/repair`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepairResponse {
    pub started: bool,
    pub message: String,
}
