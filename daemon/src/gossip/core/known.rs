//! What this node knows, for full-state exchanges, for the rest of the node and for people.
//! Reads only.

use std::sync::Arc;

use jiff::Timestamp;
use ringmaster_shared::{
    api::membership::{GossipStatus, Rumor, SuspicionInfo},
    id::NodeId,
    member::MemberStatus,
};

use super::{Core, probe_log::ProbeLog};
use crate::gossip::{
    Doubts, HealthView, MemberState, MemberView, SuspicionView,
    claim::{self, Now},
    members::Member,
    report,
};

/// Suspicions, and members reached over TCP only, listed for a person.
const LISTED_MAX: usize = 256;
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
                doubts: doubts(m),
            })
            .collect();
        views.push(MemberView {
            state: Arc::clone(&self.local),
            last_seen: crate::time::timestamp_of_ms(now.unix_ms),
            status_since: crate::time::timestamp_of_ms(self.born.unix_ms),
            heartbeat_seq: 0,
            doubts: Doubts::default(),
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

    /// Who is held to be at an address, rather one that may be reached.
    pub fn member_at(&self, address: &str) -> Option<&NodeId> {
        let there = self.members.iter().map(|m| &m.state);
        let there = there.filter(|state| state.address == address);
        let best = there.max_by_key(|s| (s.status.is_reachable(), claim::freshness(s)));
        best.map(|state| &state.id)
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
            ..GossipStatus::silent(self.local.id.clone())
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

    /// What `/gossip/status` tells beyond the counts; `status` fills the rest.
    pub fn tell_more(&self, now: Now, status: &mut GossipStatus) {
        let info = |s: SuspicionView| SuspicionInfo {
            about: s.about,
            accusers: s.accusers,
            since: self.wall_time(now.ms.saturating_sub(s.since_ms)),
            ends_in_ms: s.ends_in_ms,
            confirmations: s.confirmations,
            wanted: s.wanted,
        };
        let suspicions = self.suspicions(now).into_iter();
        status.suspicions = suspicions.take(LISTED_MAX).map(info).collect();
        status.seeds = self.seed_infos();
        let blocked = self.members.iter().filter(|m| m.udp_blocked());
        let blocked = blocked.filter(|m| m.state.status.is_reachable());
        status.udp_blocked = blocked
            .map(|m| m.state.id.clone())
            .take(LISTED_MAX)
            .collect();
        status.udp_blocked.sort_unstable();
        let own_since_ms = self.udp.own_blocked_since_ms();
        status.own_udp_blocked_since = own_since_ms.map(|ms| self.wall_time(ms));
        status.health_reasons = report::health_reasons(&self.health.view(now));
        status.queues.rumors = self.rumors.len();
        (status.queues.probes, status.queues.relays) = self.probes_under_way();
        status.counts.suspicions_confirmed = self.confirmations();
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

fn doubts(member: &Member) -> Doubts {
    if !matches!(
        member.state.status,
        MemberStatus::Suspected | MemberStatus::Dead
    ) {
        return Doubts {
            udp_blocked: member.udp_blocked(),
            ..Doubts::default()
        };
    }
    Doubts {
        accusers: member.accusers().to_vec(),
        silent_ms: member.status_since_ms.saturating_sub(member.last_seen_ms()),
        udp_blocked: member.udp_blocked(),
    }
}
