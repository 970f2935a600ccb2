//! What this node knows, for full-state exchanges, for the rest of the node and for people.
//! Reads only.

use ringmaster_shared::{
    api::membership::{
        GossipCounts, GossipQueues, GossipStatus, GossipTraffic, ProbeFigures, Rumor,
    },
    member::MemberStatus,
};

use super::Core;
use crate::gossip::{Doubts, MemberState, MemberView, claim::Now, members::Member};

/// Rumors listed for a person.
pub(super) const RUMORS_LISTED_MAX: usize = 1000;

impl Core {
    /// Everything this node knows, itself included, for a full-state exchange.
    pub fn states(&self) -> Vec<MemberState> {
        std::iter::once(&self.local)
            .chain(self.members.iter().map(|m| &m.state))
            .cloned()
            .collect()
    }

    /// All but those that left, this node included, sorted by id.
    pub fn views(&self, now: Now) -> Vec<MemberView> {
        let me = MemberView {
            state: self.local.clone(),
            last_seen: crate::time::timestamp_of_ms(now.unix_ms),
            status_since: crate::time::timestamp_of_ms(self.born.unix_ms),
            heartbeat_seq: 0,
            doubts: Doubts::default(),
        };
        let others = self
            .members
            .iter()
            .filter(|m| m.state.status != MemberStatus::Left);
        let mut views: Vec<MemberView> = others
            .map(|m| MemberView {
                state: m.state.clone(),
                last_seen: crate::time::timestamp_of_ms(m.last_seen_unix_ms),
                status_since: crate::time::timestamp_of_ms(m.status_since_unix_ms),
                heartbeat_seq: m.heartbeat_seq,
                doubts: doubts(m),
            })
            .collect();
        let at = views.partition_point(|v| v.state.id < me.state.id);
        views.insert(at, me);
        views
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
            health_score: 0,
            queue_depth,
            rejected_messages: self.rejected,
            health_reasons: Vec::new(),
            queues: GossipQueues::default(),
            suspicions: Vec::new(),
            seeds: Vec::new(),
            udp_blocked: Vec::new(),
            traffic: GossipTraffic::default(),
            probes: ProbeFigures::default(),
            counts: GossipCounts::default(),
        }
    }

    pub fn rumors(&self) -> Vec<Rumor> {
        self.rumors.rumors(self.transmit_limit(), RUMORS_LISTED_MAX)
    }
}

fn doubts(member: &Member) -> Doubts {
    if !matches!(
        member.state.status,
        MemberStatus::Suspected | MemberStatus::Dead
    ) {
        return Doubts {
            udp_blocked: member.udp_blocked,
            ..Doubts::default()
        };
    }
    let heard = member.heard_ms.unwrap_or(member.known_since_ms);
    Doubts {
        accusers: member.accusers.clone(),
        silent_ms: member.status_since_ms.saturating_sub(heard),
        udp_blocked: member.udp_blocked,
    }
}
