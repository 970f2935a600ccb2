//! Membership by SWIM gossip. (Interface first.)

use std::{net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use ringmaster_shared::{
    api::membership::{GossipConfigInfo, GossipStatus, Rumor},
    id::{ClusterId, Generation, Incarnation, NodeId},
    member::{Lifecycle, Load, MemberStatus, RingStamp},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{events::Events, replication::peers::Peers};

/// Times and counts of the protocol; memberlist's LAN profile by default.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    pub probe_interval: Duration,
    pub probe_timeout: Duration,
    pub indirect_probes: usize,
    pub gossip_interval: Duration,
    pub gossip_fanout: usize,
    pub suspicion_mult: u32,
    pub retransmit_mult: u32,
    pub push_pull_interval: Duration,
    /// How often dead members, seeds and remembered members are tried again.
    pub reconnect_interval: Duration,
    pub packet_bytes_max: usize,
}

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
    pub state: MemberState,
    pub last_seen: Timestamp,
    pub status_since: Timestamp,
    /// Messages received from it in this generation.
    pub heartbeat_seq: u64,
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

/// What the driver needs to start.
pub struct GossipParts {
    pub config: GossipConfig,
    pub cluster_id: ClusterId,
    /// This node, alive.
    pub local: MemberState,
    /// The UDP socket on the node's port.
    pub socket: std::net::UdpSocket,
    pub seeds: Vec<String>,
    /// Members known from earlier lives, to be tried until they answer: addresses.
    pub remembered: Vec<String>,
    pub peers: Peers,
    pub events: Events,
    pub stop: CancellationToken,
}

pub type Members = Arc<Vec<MemberView>>;

/// Cheap handle of the running engine.
#[derive(Clone)]
pub struct GossipHandle {}

#[allow(unused_variables)]
impl GossipHandle {
    /// Starts the engine's task; `members` are merged first (from the seed's welcome).
    pub fn start(parts: GossipParts, members: Vec<MemberState>) -> Self {
        todo!()
    }

    /// All members but those that left, sorted by id.
    pub fn members(&self) -> Members {
        todo!()
    }

    /// Wakes when the list changed in anything but counters and times.
    pub fn watch(&self) -> watch::Receiver<Members> {
        todo!()
    }

    pub fn notices(&self) -> watch::Receiver<Option<GossipNotice>> {
        todo!()
    }

    pub fn set_lifecycle(&self, lifecycle: Lifecycle) {
        todo!()
    }

    pub fn set_ring(&self, ring: RingStamp) {
        todo!()
    }

    pub fn set_load(&self, load: Load) {
        todo!()
    }

    /// Server half of a push/pull over TCP: merges what came, returns all this node knows.
    pub async fn exchange(&self, from: &NodeId, theirs: Vec<MemberState>) -> Vec<MemberState> {
        todo!()
    }

    /// Push/pull with that address now; returns who answered.
    pub async fn contact(&self, address: &str) -> anyhow::Result<NodeId> {
        todo!()
    }

    pub fn status(&self) -> GossipStatus {
        todo!()
    }

    pub fn config_info(&self) -> GossipConfigInfo {
        todo!()
    }

    pub fn rumors(&self) -> Vec<Rumor> {
        todo!()
    }

    /// Tells the others that this node stops on purpose; returns when it was sent (bounded).
    pub async fn announce_stopped(&self) {
        todo!()
    }
}

/// Local UDP address, for messages.
pub fn local_addr(socket: &std::net::UdpSocket) -> Option<SocketAddr> {
    socket.local_addr().ok()
}
