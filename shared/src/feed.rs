//! Frames of `/ws`: text frames of JSON, tagged by `type`, numbered by `seq`.
//!
//! The first frame is a snapshot, and after any gap another one. A snapshot replaces everything
//! the client knew; a delta replaces the parts it carries. Heartbeats come every second.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::{health::StatusResponse, membership::MembersResponse, ring::RingResponse},
    event::Event,
    id::NodeId,
};

/// Milliseconds between heartbeats.
pub const HEARTBEAT_MS: u64 = 1000;
/// Largest frame a client may send, bytes.
pub const CLIENT_FRAME_MAX_BYTES: usize = 4096;

/// Daemon to client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Counts up by one per frame of this connection.
    pub seq: u64,
    /// When the daemon made it.
    pub time: Timestamp,
    #[serde(flatten)]
    pub body: FrameBody,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FrameBody {
    Snapshot(Box<Snapshot>),
    /// Parts that changed, whole; absent parts did not change.
    Delta(Box<Delta>),
    Event {
        event: Event,
    },
    Heartbeat {
        node_id: NodeId,
    },
    /// The receiver was too slow, frames were dropped; a snapshot follows.
    Gap {
        dropped: u64,
    },
    /// The client's frame was not understood.
    Error {
        error: String,
    },
    /// From a newer daemon.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub status: StatusResponse,
    pub members: MembersResponse,
    /// The table and points are empty unless `ring_table` was asked for.
    pub ring: RingResponse,
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusResponse>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<MembersResponse>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingResponse>,
}

/// Parts of the feed a client can ask for; all by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    Status,
    Members,
    Ring,
    Events,
}

/// Client to daemon; anything else is answered with an `error` frame.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFrame {
    /// Absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Vec<Topic>>,
    /// Whether ring frames carry the whole table.
    #[serde(default)]
    pub ring_table: bool,
}
