//! The gossip engine: traffic, refusals, suspicions, health, queues, probes, members, seeds.
//!
//! Everything but the round trips is taken from the engine's own report when somebody asks.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use ringmaster_shared::api::membership::GossipStatus;

use super::IntGauge;

/// Upper bounds of the round trips, seconds.
const ROUND_TRIP_BUCKETS: [f64; 13] = [
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0,
];

type Count = Counter<u64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    /// `udp` or `exchange`.
    way: &'static str,
    /// `sent` or `received`.
    direction: &'static str,
}

/// One word: a reason, a status, a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    /// `equal` or `differing`.
    result: &'static str,
}

pub struct GossipMetrics {
    /// Seconds; the engine adds to it.
    pub round_trips: Histogram,
    bytes: Family<Direction, Count>,
    packets: Family<Direction, Count>,
    rejected: Family<Reason, Count>,
    exchanges: Family<Result, Count>,
    suspicions_started: Count,
    suspicions_refuted: Count,
    suspicions_confirmed: Count,
    deaths: Count,
    self_refuted: Count,
    queues: Family<Queue, IntGauge>,
    members: Family<Status, IntGauge>,
    suspicions: IntGauge,
    udp_blocked: IntGauge,
    own_udp_blocked: IntGauge,
    seeds: IntGauge,
    seeds_reachable: IntGauge,
}

impl GossipMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            round_trips: Histogram::new(ROUND_TRIP_BUCKETS),
            bytes: Family::default(),
            packets: Family::default(),
            rejected: Family::default(),
            exchanges: Family::default(),
            suspicions_started: Count::default(),
            suspicions_refuted: Count::default(),
            suspicions_confirmed: Count::default(),
            deaths: Count::default(),
            self_refuted: Count::default(),
            queues: Family::default(),
            members: Family::default(),
            suspicions: IntGauge::default(),
            udp_blocked: IntGauge::default(),
            own_udp_blocked: IntGauge::default(),
            seeds: IntGauge::default(),
            seeds_reachable: IntGauge::default(),
        };
        metrics.register_traffic(registry);
        metrics.register_counts(registry);
        metrics.register_gauges(registry);
        metrics
    }

    fn register_traffic(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "gossip_traffic",
            "Gossip sent and received: datagrams, and messages of exchanges over TCP",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "gossip_packets",
            "Datagrams of gossip sent and received",
            self.packets.clone(),
        );
        registry.register(
            "gossip_rejected",
            "Gossip refused, by reason",
            self.rejected.clone(),
        );
        registry.register(
            "gossip_exchanges",
            "Exchanges of lists this node began that found both lists equal, or differing",
            self.exchanges.clone(),
        );
        registry.register_with_unit(
            "gossip_probe_round_trip",
            "Time from a ping to its answer",
            Unit::Seconds,
            self.round_trips.clone(),
        );
    }

    fn register_counts(&self, registry: &mut Registry) {
        let counts = [
            (
                "gossip_suspicions_started",
                "Members that became suspected here",
                &self.suspicions_started,
            ),
            (
                "gossip_suspicions_refuted",
                "Suspected members that answered in time",
                &self.suspicions_refuted,
            ),
            (
                "gossip_suspicions_confirmed",
                "Times that a further accuser confirmed a suspicion",
                &self.suspicions_confirmed,
            ),
            (
                "gossip_deaths",
                "Members that came to be held dead here",
                &self.deaths,
            ),
            (
                "gossip_self_refuted",
                "Times that this node refuted what others held of it",
                &self.self_refuted,
            ),
        ];
        for (name, help, count) in counts {
            registry.register(name, help, count.clone());
        }
    }

    fn register_gauges(&self, registry: &mut Registry) {
        registry.register(
            "gossip_queue_depth",
            "What waits in the engine, or is under way",
            self.queues.clone(),
        );
        registry.register(
            "gossip_members",
            "Members by status, as this node sees them",
            self.members.clone(),
        );
        let gauges = [
            (
                "gossip_suspicions",
                "Suspicions that run now",
                &self.suspicions,
            ),
            (
                "gossip_udp_blocked_members",
                "Members that answer over TCP, but not over UDP",
                &self.udp_blocked,
            ),
            (
                "gossip_own_udp_blocked",
                "1 while this node's own UDP is blocked: nobody answers it over UDP, others do over TCP",
                &self.own_udp_blocked,
            ),
            ("gossip_seeds", "Configured seeds", &self.seeds),
            (
                "gossip_seeds_reachable",
                "Configured seeds behind which a reachable member is known",
                &self.seeds_reachable,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
    }

    /// Takes the figures of the engine over.
    pub fn set(&self, status: &GossipStatus) {
        self.set_traffic(status);
        for (reason, n) in &status.rejected {
            let reason = reason.clone();
            raise(&self.rejected.get_or_create(&Reason { reason }), *n);
        }
        let counts = &status.counts;
        raise(&self.suspicions_started, counts.suspicions_started);
        raise(&self.suspicions_refuted, counts.suspicions_refuted);
        raise(&self.suspicions_confirmed, counts.suspicions_confirmed);
        raise(&self.deaths, counts.deaths);
        raise(&self.self_refuted, counts.self_refuted);
        let queues = &status.queues;
        for (queue, n) in [
            ("rumors", queues.rumors),
            ("waiting_for_names", queues.waiting_for_names),
            ("exchanges", queues.exchanges),
            ("jobs", queues.jobs),
            ("commands", queues.commands),
            ("probes", queues.probes),
            ("relays", queues.relays),
        ] {
            set(&self.queues.get_or_create(&Queue { queue }), n);
        }
        for (status, n) in [
            ("alive", status.alive_nodes),
            ("suspected", status.suspected_nodes),
            ("dead", status.dead_nodes),
            ("stopped", status.stopped_nodes),
        ] {
            set(&self.members.get_or_create(&Status { status }), n);
        }
        set(&self.suspicions, status.suspicions.len());
        set(&self.udp_blocked, status.udp_blocked.len());
        let own = status.own_udp_blocked_since.is_some();
        set(&self.own_udp_blocked, usize::from(own));
        set(&self.seeds, status.seeds.len());
        let reachable = status.seeds.iter().filter(|s| s.reachable).count();
        set(&self.seeds_reachable, reachable);
    }

    fn set_traffic(&self, status: &GossipStatus) {
        let traffic = &status.traffic;
        for (way, direction, bytes, packets) in [
            (
                "udp",
                "sent",
                traffic.udp_sent_bytes,
                Some(traffic.udp_sent_packets),
            ),
            (
                "udp",
                "received",
                traffic.udp_received_bytes,
                Some(traffic.udp_received_packets),
            ),
            ("exchange", "sent", traffic.exchange_bytes_sent, None),
            (
                "exchange",
                "received",
                traffic.exchange_bytes_received,
                None,
            ),
        ] {
            let label = Direction { way, direction };
            raise(&self.bytes.get_or_create(&label), bytes);
            if let Some(packets) = packets {
                raise(&self.packets.get_or_create(&label), packets);
            }
        }
        for (result, n) in [
            ("equal", traffic.exchanges_equal),
            ("differing", traffic.exchanges_differing),
        ] {
            raise(&self.exchanges.get_or_create(&Result { result }), n);
        }
    }
}

/// Brings a counter to `to`; it never falls.
fn raise(counter: &Count, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

fn set(gauge: &IntGauge, to: usize) {
    gauge.set(i64::try_from(to).unwrap_or(i64::MAX));
}
