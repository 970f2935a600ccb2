//! What this node knows, for full-state exchanges, for the rest of the node and for people.
//! Reads only.

use std::sync::Arc;

use jiff::Timestamp;
use ringmaster_shared::{
    api::membership::{GossipStatus, Rumor},
    member::MemberStatus,
};

use super::{Core, probe_log::ProbeLog};
use crate::gossip::{
    HealthView, MemberState, MemberView, SuspicionView, claim::Now, members::Member,
};

/// Rumors listed for a person.
pub(super) const RUMORS_LISTED_MAX: usize = 1000;

impl Core {
    /// Everything this node knows, itself included, for a full-state exchange.
    pub fn states(&self) -> Vec<Arc<MemberState>> {
        std::iter::once(&self.local)
            .chain(self.members.iter().map(|m| &m.state))
            .cloned()
            .collect()
    }

    /// All but those that left, this node included, sorted by id.
    pub fn views(&self, now: Now) -> Vec<MemberView> {
        let others = self.members.iter();
        let mut views: Vec<MemberView> = others
            .filter(|m| m.state.status != MemberStatus::Left)
            .map(|m| MemberView {
                state: Arc::clone(&m.state),
                last_seen: self.wall_time(m.last_seen_ms()),
                status_since: self.wall_time(m.status_since_ms),
                heartbeat_seq: m.heartbeat_seq(),
            })
            .collect();
        views.push(MemberView {
            state: Arc::clone(&self.local),
            last_seen: crate::time::timestamp_of_ms(now.unix_ms),
            status_since: crate::time::timestamp_of_ms(self.born.unix_ms),
            heartbeat_seq: 0,
        });
        views.sort_unstable_by(|a, b| a.state.id.cmp(&b.state.id));
        views
    }

    /// A monotonic time as people read it.
    pub(super) fn wall_time(&self, ms: u64) -> Timestamp {
        crate::time::timestamp_of_ms(ms.saturating_add(self.wall_offset_ms))
    }

    /// Grows whenever the list changed in anything but counters, times and load.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Other members on the list.
    pub fn others(&self) -> usize {
        self.members.len()
    }

    pub fn status(&self, queue_depth: usize) -> GossipStatus {
        let count = |status| self.members.count(status);
        let alive_nodes =
            count(MemberStatus::Alive) + usize::from(self.local.status == MemberStatus::Alive);
        let stopped_nodes =
            count(MemberStatus::Stopped) + usize::from(self.local.status == MemberStatus::Stopped);
        let suspected_nodes = count(MemberStatus::Suspected);
        let dead_nodes = count(MemberStatus::Dead);
        GossipStatus {
            current_node: self.local.id.clone(),
            cluster_size: alive_nodes + stopped_nodes + suspected_nodes + dead_nodes,
            alive_nodes,
            suspected_nodes,
            dead_nodes,
            stopped_nodes,
            active_rumors: self.rumors.len(),
            health_score: self.health.score(),
            queue_depth,
            rejected_messages: self.rejected.sum(),
            rejected: self.rejected.by_reason(),
        }
    }

    /// The suspicions this node holds, the next to end first.
    pub fn suspicions(&self, now: Now) -> Vec<SuspicionView> {
        let view = |m: &Member| {
            m.suspicion().map(|s| SuspicionView {
                about: m.state.id.clone(),
                accusers: m.accusers().to_vec(),
                since_ms: now.ms.saturating_sub(s.since_ms()),
                ends_in_ms: s.ends_ms().saturating_sub(now.ms),
                confirmations: s.confirmations(),
                wanted: s.wanted(),
            })
        };
        self.members.suspected().filter_map(view).collect()
    }

    /// How well this node itself is, and what tells against it.
    pub fn health(&self, now: Now) -> HealthView {
        self.health.view(now)
    }

    /// How this node's latest probes ended, the oldest first.
    pub fn probe_log(&self) -> &ProbeLog {
        &self.log
    }

    /// Own probes, and pings made for others, that wait for their answer.
    pub fn probes_under_way(&self) -> (usize, usize) {
        (self.probes.len(), self.relays.len())
    }

    /// How often a further accuser shortened a suspicion, since the start.
    pub fn confirmations(&self) -> u64 {
        self.confirmed
    }

    pub fn rumors(&self) -> Vec<Rumor> {
        self.rumors.rumors(self.transmit_limit(), RUMORS_LISTED_MAX)
    }
}
