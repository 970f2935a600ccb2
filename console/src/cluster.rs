//! What the console knows of the cluster, and since when.
//!
//! The screens draw from [`Cluster`] and from nothing else. Every value is a [`Known`]: it says
//! when the daemon made it and when it was last confirmed here, so that nothing is shown without
//! its age. A snapshot replaces, a delta replaces the parts it carries, and nothing is merged.

mod absorb;
mod events;

pub use absorb::Arrival;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use ringmaster_shared::{
    api::{
        health::StatusResponse,
        membership::{MembersResponse, ObservationsResponse, Observer},
        ring::{ClusterResponse, RingResponse},
    },
    event::Event,
    feed::Frame,
    id::{NodeId, PartitionId},
    member::{Lifecycle, Load, MemberStatus},
    quorum::{PartitionCounts, PartitionHealth, partition_counts, partition_health},
    topology::Topology,
};

/// A value older than so many of its intervals is stale.
pub const STALE_INTERVALS: u64 = 3;
/// Samples a sparkline holds, one a second.
pub const HISTORY_SAMPLES: usize = 60;
/// Events kept.
pub const EVENTS_MAX: usize = 1000;

/// Whether who says this knows nobody but itself: it is held, or its store is not open yet, and its
/// gossip is silent. It knows the ring, and sees nobody of it.
pub fn sees_only_itself(status: &StatusResponse) -> bool {
    use Lifecycle::{Candidate, Recovering, Serving};
    let takes_part = matches!(status.node.lifecycle, Serving | Recovering | Candidate);
    status.gossip.is_none() && !takes_part
}

/// A value, and since when it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Known<T> {
    pub value: T,
    /// The daemon's clock when it made or last confirmed the value.
    pub stamped: Timestamp,
    /// This console's monotonic clock when it arrived or was last confirmed.
    pub received_ms: u64,
    /// How often it is expected to be confirmed.
    pub interval_ms: u64,
}

impl<T> Known<T> {
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.received_ms)
    }

    pub fn is_stale(&self, now_ms: u64) -> bool {
        self.age_ms(now_ms) > STALE_INTERVALS * self.interval_ms
    }
}

/// What one node says of itself and of the cluster, asked directly.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeKnowledge {
    /// Where it was asked.
    pub address: String,
    /// Its last answer; kept, with its age, when it stops answering.
    pub status: Option<Known<StatusResponse>>,
    /// Why the last question failed; absent when it was answered.
    pub error: Option<NodeError>,
    /// Round trip of the last answer.
    pub rtt_ms: Option<u64>,
    pub history: History,
}

impl NodeKnowledge {
    /// What it says of itself, unless it does not answer now.
    pub fn answer(&self, now_ms: u64) -> Option<&StatusResponse> {
        let told = self.status.as_ref().filter(|s| !s.is_stale(now_ms))?;
        self.error.is_none().then_some(&told.value)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeError {
    pub message: String,
    /// Console clock when it began to fail.
    pub since_ms: u64,
}

/// One load sample a second, oldest first; `None` where nothing fresh was known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    pub samples: VecDeque<Option<Load>>,
}

impl History {
    pub fn push(&mut self, sample: Option<Load>) {
        if self.samples.len() == HISTORY_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The samples through `read`, oldest first.
    pub fn series(&self, read: impl Fn(&Load) -> u64) -> Vec<Option<u64>> {
        self.samples.iter().map(|s| s.as_ref().map(&read)).collect()
    }
}

/// Something that reached the console from a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// From the live feed.
    Frame(Box<Frame>),
    /// The whole picture through REST, with the interval of the polls.
    Picture {
        picture: Box<ClusterResponse>,
        interval_ms: u64,
    },
    /// The ring with its table, which the feed's first snapshot leaves out.
    Ring(Box<RingResponse>),
    Observations {
        observations: Box<ObservationsResponse>,
        interval_ms: u64,
    },
    Events(Vec<Event>),
    /// What came of asking one node directly.
    Node(Box<NodeReport>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    pub address: String,
    pub result: Result<StatusResponse, String>,
    pub rtt_ms: u64,
    /// How often it is asked.
    pub interval_ms: u64,
}

/// Everything known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// As the node at the other end of the link sees it.
    pub status: Option<Known<StatusResponse>>,
    pub members: Option<Known<MembersResponse>>,
    pub ring: Option<Known<RingResponse>>,
    /// Who sees whom as what.
    pub observations: Option<Known<ObservationsResponse>>,
    /// The ring as a topology, for the shared arithmetic; made whenever the ring arrives.
    pub topology: Option<Topology>,
    /// Each node asked directly: the members, and configured endpoints that are in no list.
    pub nodes: BTreeMap<NodeId, NodeKnowledge>,
    /// Configured endpoints that never told a name, with the reason.
    pub nameless: BTreeMap<String, NodeError>,
    /// Merged from all nodes, newest last, at most [`EVENTS_MAX`].
    pub events: VecDeque<Event>,
    /// Sum over all members (`p99_us`: the worst).
    pub totals: History,
    /// Daemon's clock minus this machine's, as of the last frame.
    pub clock_skew_ms: Option<i64>,
}

impl Cluster {
    /// Whether the picture is too old to act on.
    pub fn is_stale(&self, now_ms: u64) -> bool {
        self.members.as_ref().is_none_or(|m| m.is_stale(now_ms))
            || self.status.as_ref().is_none_or(|s| s.is_stale(now_ms))
    }

    /// Age of the picture, milliseconds; `None` when nothing ever arrived.
    pub fn age_ms(&self, now_ms: u64) -> Option<u64> {
        self.members.as_ref().map(|m| m.age_ms(now_ms))
    }

    /// The node looked through, while it sees only itself: nothing it lists says how the other members
    /// of the ring are. Absent where all of them say themselves that they are no further.
    pub fn lonely_viewer(&self, now_ms: u64) -> Option<&StatusResponse> {
        let viewer = &self.status.as_ref()?.value;
        let ring = self.topology.as_ref()?;
        let is_known = |id: &NodeId| {
            let own = self.nodes.get(id).and_then(|n| n.answer(now_ms));
            own.is_some_and(sees_only_itself)
        };
        let mut others = ring.members.iter().filter(|m| m.id != viewer.node.id);
        (sees_only_itself(viewer) && others.any(|m| !is_known(&m.id))).then_some(viewer)
    }

    /// The nodes that count as answering: reachable by gossip and taking part.
    pub fn available(&self) -> BTreeSet<NodeId> {
        self.members
            .as_ref()
            .map(|m| m.value.available())
            .unwrap_or_default()
    }

    /// Health of one partition as the members shown make it; `None` without a ring.
    pub fn partition_health(
        &self,
        partition: PartitionId,
        available: &BTreeSet<NodeId>,
    ) -> Option<PartitionHealth> {
        let topology = self.topology.as_ref()?;
        (partition < topology.partition_count())
            .then(|| partition_health(topology, partition, available))
    }

    pub fn partition_counts(&self) -> Option<PartitionCounts> {
        Some(partition_counts(self.topology.as_ref()?, &self.available()))
    }

    /// How many of the others that told what they see see `id` alive, and how many there are.
    pub fn seen_alive_by(&self, id: &NodeId) -> Option<(usize, usize)> {
        let observations = &self.observations.as_ref()?.value;
        let observers = &observations.observers;
        let others = || observers.iter().filter(|o| &o.node_id != id && o.answered);
        let all = others().count();
        let left_out = observations.well > 0 && observers.iter().all(|o| !o.sees.contains_key(id));
        if left_out
            && self
                .members
                .as_ref()?
                .value
                .cluster_members
                .contains_key(id)
        {
            return Some((all, all));
        }
        let alive = |o: &&Observer| o.sees.get(id) == Some(&MemberStatus::Alive);
        Some((others().filter(alive).count(), all))
    }

    /// Since when nobody has answered `id` over UDP, as it says itself; nothing while it is silent.
    pub fn own_udp_blocked_since(&self, id: &NodeId) -> Option<Timestamp> {
        let node = self.nodes.get(id).filter(|n| n.error.is_none())?;
        let gossip = node.status.as_ref()?.value.gossip.as_ref();
        gossip?.own_udp_blocked_since
    }

    /// Whether `id` answered with another view of the members than the one shown.
    pub fn disagrees(&self, id: &NodeId) -> bool {
        let shown = self.status.as_ref().map(|s| &s.value.cluster);
        let own = self.nodes.get(id).and_then(|n| n.status.as_ref());
        match (shown, own.map(|s| &s.value.cluster)) {
            (Some(shown), Some(own)) => {
                shown.membership_digest != own.membership_digest
                    || shown.ring_digest != own.ring_digest
                    || shown.cluster_id != own.cluster_id
            }
            _ => false,
        }
    }
}
