//! What is said through the door of gossip: claims about members, how this node sees them, how
//! well it is itself, and what it is told to do.

use std::sync::Arc;

use jiff::Timestamp;
use ringmaster_shared::{
    id::{Generation, Incarnation, NodeId},
    member::{Lifecycle, Load, MemberStatus, RingStamp},
};
use serde::{Deserialize, Serialize};

use super::report;

/// What one node claims about a member; on the wire in packets and push/pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    pub id: NodeId,
    /// `host:port`, HTTP and gossip alike.
    pub address: String,
    pub zone: String,
    pub version: String,
    pub status: MemberStatus,
    pub lifecycle: Lifecycle,
    pub generation: Generation,
    pub incarnation: Incarnation,
    pub ring: RingStamp,
    pub load: Load,
}

/// A member as this node sees it, itself included.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberView {
    pub state: Arc<MemberState>,
    pub last_seen: Timestamp,
    pub status_since: Timestamp,
    /// Messages received from it in this generation.
    pub heartbeat_seq: u64,
    pub doubts: Doubts,
}

impl MemberView {
    /// Why it is held suspected or dead, in a sentence.
    pub fn reason(&self) -> Option<String> {
        let doubts = &self.doubts;
        report::reason(self.state.status, &doubts.accusers, doubts.silent_ms)
    }
}

/// What speaks against a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Who got no answer from it, while it is held suspected or dead.
    pub accusers: Vec<NodeId>,
    /// How long it had been silent when its status changed; 0 when that is not known.
    pub silent_ms: u64,
    /// It answers over TCP, but not over UDP.
    pub udp_blocked: bool,
}

/// A suspicion that this node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuspicionView {
    pub about: NodeId,
    /// Who got no answer from it, in the order this node heard of them, at most eight. Empty when
    /// it came with a list that does not say who found it so.
    pub accusers: Vec<NodeId>,
    /// How many milliseconds ago it began here.
    pub since_ms: u64,
    /// Milliseconds until the member is held dead, unless it answers; less when others confirm, or
    /// too few are left to.
    pub ends_in_ms: u64,
    /// Accusers after the first that counted.
    pub confirmations: u32,
    /// So many bring it down to the shortest time; what there are when it waits for no more of
    /// them, 0 from the start.
    pub wanted: u32,
}

/// A sign that the fault may be this node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strain {
    /// Nobody answered a probe, not even those that were asked to help with it.
    MissedAnswers,
    /// Others held this node suspected or dead.
    RefutedItself,
    /// It was paused or starved: its own timers went off late.
    StoodStill,
}

impl Strain {
    pub const ALL: [Self; 3] = [Self::MissedAnswers, Self::RefutedItself, Self::StoodStill];
}

/// How well this node itself is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthView {
    /// 0 is well; its probes take `score + 1` intervals.
    pub score: u32,
    pub score_max: u32,
    /// What told against it since it was last well, the most frequent first; empty at 0.
    pub reasons: Vec<HealthReason>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReason {
    pub strain: Strain,
    /// How often; for missed answers, how many were missed.
    pub times: u64,
    pub last_ms_ago: u64,
}

/// What gossip tells the node to do, beyond the member list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GossipNotice {
    /// Another live process uses this node's id with a later generation: stop.
    Superseded {
        address: String,
        generation: Generation,
    },
}

/// Sorted by id.
pub type Members = Arc<Vec<MemberView>>;
