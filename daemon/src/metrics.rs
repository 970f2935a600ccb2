//! Counters of this node: for Prometheus, and the small load summary that gossip carries.

pub mod gossip;
pub mod pressure;
pub mod rates;

use std::{
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use ringmaster_shared::api::{health::StatusResponse, membership::GossipStatus};

use crate::{replication::coordinator::RepairLook, storage::StoreStats};
use gossip::GossipMetrics;
use pressure::PressureGauges;
use rates::Rates;

/// Upper bounds of the latency histogram, seconds.
const LATENCY_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 5.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub method: &'static str,
    /// The pattern, never the path: keys do not belong in metrics.
    pub route: String,
    pub code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    pub method: &'static str,
    pub route: String,
}

type IntGauge = Gauge<i64, AtomicI64>;

/// All metrics; shared by reference.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    in_flight: IntGauge,
    connections: IntGauge,
    feeds: IntGauge,
    gauges: Gauges,
    pub gossip: GossipMetrics,
    pub pressure: PressureGauges,
    pub rates: Rates,
}

/// Set from the views when somebody asks.
#[derive(Default)]
struct Gauges {
    keys: IntGauge,
    tombstones: IntGauge,
    bytes_on_disk: IntGauge,
    disk_free: IntGauge,
    read_only: IntGauge,
    hints: IntGauge,
    log_syncs: IntGauge,
    log_records: IntGauge,
    members: IntGauge,
    members_alive: IntGauge,
    ring_epoch: IntGauge,
    partitions_without_quorum: IntGauge,
    partitions_incomplete: IntGauge,
    serving: IntGauge,
    repair_sent: IntGauge,
    repair_received: IntGauge,
    dirty_partitions: IntGauge,
    tombstones_forgotten: IntGauge,
    tombstones_waiting: IntGauge,
    rumors: IntGauge,
    gossip_health: IntGauge,
    gossip_rejected: IntGauge,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("ringd");
        let requests = Family::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let latency: Family<_, _, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS));
        registry.register_with_unit(
            "http_request_duration",
            "Time from head to answer",
            Unit::Seconds,
            latency.clone(),
        );
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = IntGauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let in_flight = gauge(
            &mut registry,
            "http_requests_in_flight",
            "Requests under way",
        );
        let connections = gauge(&mut registry, "http_connections", "Open connections");
        let feeds = gauge(&mut registry, "feeds", "Open live feeds");
        let gauges = Gauges::default();
        for (name, help, gauge) in gauges.named() {
            registry.register(name, help, gauge.clone());
        }
        let gossip = GossipMetrics::register(&mut registry);
        let pressure = PressureGauges::default();
        for (name, help, gauge) in pressure.named() {
            registry.register(name, help, gauge.clone());
        }
        Self {
            registry,
            requests,
            latency,
            in_flight,
            connections,
            feeds,
            gauges,
            gossip,
            pressure,
            rates: Rates::default(),
        }
    }

    pub fn answered(&self, method: &'static str, route: &str, code: u16, took: Duration) {
        self.requests
            .get_or_create(&RequestLabels {
                method,
                route: route.to_owned(),
                code,
            })
            .inc();
        self.latency
            .get_or_create(&RouteLabels {
                method,
                route: route.to_owned(),
            })
            .observe(took.as_secs_f64());
    }

    /// Counts one request until it is dropped, however it ends.
    pub fn request_guard(&self) -> GaugeGuard {
        GaugeGuard::new(&self.in_flight)
    }

    pub fn connection_guard(&self) -> GaugeGuard {
        GaugeGuard::new(&self.connections)
    }

    pub fn feed_guard(&self) -> GaugeGuard {
        GaugeGuard::new(&self.feeds)
    }

    pub fn requests_in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// The text format of Prometheus.
    pub fn render(
        &self,
        status: &StatusResponse,
        store: &StoreStats,
        repair: &RepairLook,
        gossip: Option<&GossipStatus>,
    ) -> String {
        self.gauges.set(status, store, gossip);
        self.gauges.set_repair(store, repair);
        if let Some(gossip) = gossip {
            self.gossip.set(gossip);
        }
        let mut out = String::new();
        // writing to a String cannot fail
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

impl Gauges {
    fn named(&self) -> [(&'static str, &'static str, &IntGauge); 22] {
        [
            ("storage_keys", "Keys with a value on this node", &self.keys),
            (
                "storage_tombstones",
                "Deleted keys still remembered",
                &self.tombstones,
            ),
            ("storage_disk_bytes", "Bytes on disk", &self.bytes_on_disk),
            (
                "storage_disk_free_bytes",
                "Free space on the disk of the data folder",
                &self.disk_free,
            ),
            (
                "storage_read_only",
                "1 while nothing new is stored because the disk is nearly full",
                &self.read_only,
            ),
            (
                "hints_owed",
                "Writes kept for nodes that do not answer",
                &self.hints,
            ),
            (
                "commit_log_syncs",
                "Syncs of the commit log since the start",
                &self.log_syncs,
            ),
            (
                "commit_log_records",
                "Records appended since the start",
                &self.log_records,
            ),
            ("members", "Members known", &self.members),
            ("members_alive", "Members alive", &self.members_alive),
            (
                "ring_epoch",
                "Epoch of the ring this node goes by",
                &self.ring_epoch,
            ),
            (
                "partitions_without_quorum",
                "Partitions nobody can read or write",
                &self.partitions_without_quorum,
            ),
            (
                "partitions_incomplete",
                "Partitions some replica of which does not answer",
                &self.partitions_incomplete,
            ),
            (
                "repair_sent_bytes",
                "Bytes that repair sent to other nodes since the start",
                &self.repair_sent,
            ),
            (
                "repair_received_bytes",
                "Bytes that repair got from other nodes since the start",
                &self.repair_received,
            ),
            (
                "dirty_partitions",
                "Partitions to be compared because hints for them were given up",
                &self.dirty_partitions,
            ),
            (
                "tombstones_forgotten",
                "Deleted keys forgotten since the start",
                &self.tombstones_forgotten,
            ),
            (
                "tombstones_waiting",
                "Deleted keys that cannot be forgotten until others confirm",
                &self.tombstones_waiting,
            ),
            ("serving", "1 while this node serves clients", &self.serving),
            ("gossip_rumors", "Updates being spread", &self.rumors),
            (
                "gossip_health_score",
                "0 is healthy; higher: this node answers late",
                &self.gossip_health,
            ),
            (
                "gossip_rejected_messages",
                "Gossip refused since the start",
                &self.gossip_rejected,
            ),
        ]
    }

    fn set_repair(&self, store: &StoreStats, repair: &RepairLook) {
        let set = |gauge: &IntGauge, n: u64| {
            gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        };
        set(&self.repair_sent, repair.traffic.sent);
        set(&self.repair_received, repair.traffic.received);
        set(&self.dirty_partitions, repair.dirty.values().sum());
        set(&self.tombstones_forgotten, store.tombstones_forgotten);
        set(&self.tombstones_waiting, repair.tombstones_waiting);
    }

    fn set(&self, status: &StatusResponse, store: &StoreStats, gossip: Option<&GossipStatus>) {
        let set = |gauge: &IntGauge, n: u64| {
            gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        };
        let partitions = status.replication.partitions;
        set(&self.keys, store.keys);
        set(&self.tombstones, store.tombstones);
        set(&self.bytes_on_disk, store.bytes_on_disk);
        set(&self.disk_free, store.disk_free_bytes.unwrap_or(0));
        set(&self.read_only, store.read_only.is_some().into());
        set(&self.hints, status.storage.hints_owed.values().sum());
        set(&self.log_syncs, store.log_syncs);
        set(&self.log_records, store.log_records);
        set(&self.members, status.replication.total_nodes as u64);
        set(&self.members_alive, status.replication.alive_nodes as u64);
        set(&self.ring_epoch, status.cluster.ring_epoch);
        set(
            &self.partitions_without_quorum,
            partitions.unavailable.into(),
        );
        set(
            &self.partitions_incomplete,
            u64::from(partitions.total - partitions.all_replicas),
        );
        let serving = status.node.lifecycle == ringmaster_shared::member::Lifecycle::Serving;
        set(&self.serving, serving.into());
        if let Some(gossip) = gossip {
            set(&self.rumors, gossip.active_rumors as u64);
            set(&self.gossip_health, gossip.health_score.into());
            set(&self.gossip_rejected, gossip.rejected_messages);
        }
    }
}

/// One up while it lives.
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_method_route_and_code() {
        let metrics = Metrics::new();
        let guard = metrics.request_guard();
        assert_eq!(metrics.requests_in_flight(), 1);
        drop(guard);
        assert_eq!(metrics.requests_in_flight(), 0);
        metrics.answered("GET", "/api/v1/data/{key}", 200, Duration::from_millis(3));
        let mut out = String::new();
        text::encode(&mut out, &metrics.registry).expect("a string");
        let line =
            r#"ringd_http_requests_total{method="GET",route="/api/v1/data/{key}",code="200"} 1"#;
        assert!(out.contains(line), "{out}");
        assert!(out.contains("ringd_http_request_duration_seconds_bucket"));
        assert!(out.contains("ringd_storage_keys 0"));
    }
}
