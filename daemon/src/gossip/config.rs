//! Times and counts of the protocol, and how they are told.

use std::time::Duration;

use ringmaster_shared::api::membership::GossipConfigInfo;

use super::core;
use crate::config::in_words;

/// Times and counts of the protocol; memberlist's LAN profile by default.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// One member is probed in each.
    pub probe_interval: Duration,
    /// After this others are asked to probe.
    pub probe_timeout: Duration,
    /// How many are asked.
    pub indirect_probes: usize,
    pub gossip_interval: Duration,
    /// Members that get news in each gossip interval.
    pub gossip_fanout: usize,
    /// A suspicion that others confirmed lasts this many probe intervals (times the logarithm of
    /// the cluster).
    pub suspicion_mult: u32,
    /// One that nobody confirmed lasts this many times longer.
    pub suspicion_max_mult: u32,
    /// Local health has this many levels; at the worst a probe takes as many intervals.
    pub awareness_max: u32,
    /// A claim is sent this many times (times the digits of the cluster's size).
    pub retransmit_mult: u32,
    /// Between full-state exchanges; grows with the cluster.
    pub push_pull_interval: Duration,
    /// How often dead members, seeds and remembered members are tried again.
    pub reconnect_interval: Duration,
    pub packet_bytes_max: usize,
    pub lifeguard: Lifeguard,
}

/// The parts of Lifeguard, each of which can be left out to compare; all are on in a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifeguard {
    /// A node that is slow itself gives others more time.
    pub health: bool,
    /// A suspicion by one node alone lasts long; each further accuser shortens it.
    pub confirmations: bool,
    /// Whoever meets a suspected member tells it so first of all.
    pub buddy: bool,
}

impl Default for Lifeguard {
    fn default() -> Self {
        Self {
            health: true,
            confirmations: true,
            buddy: true,
        }
    }
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_probes: 3,
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 3,
            suspicion_mult: 4,
            suspicion_max_mult: 6,
            awareness_max: 8,
            retransmit_mult: 4,
            push_pull_interval: Duration::from_secs(30),
            reconnect_interval: Duration::from_secs(5),
            packet_bytes_max: 1400,
            lifeguard: Lifeguard::default(),
        }
    }
}

impl GossipConfig {
    /// As people read it; `reachable` members decide how long a suspicion lasts.
    pub fn in_words(&self, reachable: usize) -> GossipConfigInfo {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        GossipConfigInfo {
            gossip_interval: in_words(self.gossip_interval),
            probe_interval: in_words(self.probe_interval),
            probe_timeout: in_words(self.probe_timeout),
            suspicion_timeout: in_words(core::suspicion_timeout(self, reachable)),
            push_pull_interval: in_words(self.push_pull_interval),
            indirect_probes: count(self.indirect_probes),
            gossip_fanout: count(self.gossip_fanout),
        }
    }
}
