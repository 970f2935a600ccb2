//! Ready-made states of the console for tests: what a console would know of small clusters that
//! are well, hurt, gone, never seen, or being restarted. Only tests use it.

pub mod changes;
mod connection;
mod matrix;
mod members;
pub mod overlays;
mod procedures;
pub mod server;

pub use changes::candidate;
pub use connection::{disconnected, fallback, link, never_connected};
pub use matrix::{matrix, matrix_large};
pub use members::{
    disagreeing, dissent, five_one_dead, looking_through_a_held_one, one_dead, one_without_udp,
    silence, two_dead, without_udp,
};
pub use procedures::{clean_restart, failed_restart};

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use ringmaster_shared::{
    api::{
        health::{
            ClusterStatus, GossipHealth, NodeStatus, ReplicationStatus, StatusResponse,
            StorageStatus,
        },
        membership::{MemberInfo, MembersResponse, ObservationsResponse, Observer, Sight},
        observations::disagreements,
        ring::ring_response,
    },
    event::{Event, EventCode, Severity},
    id::{ClusterId, NodeId},
    member::{DigestEntry, Lifecycle, Load, MemberStatus, membership_digest},
    quorum::{partition_counts, quorum_size},
    topology::{RingMember, Topology},
};
use serde_json::Value;

use crate::{
    app::App,
    cluster::{Cluster, History, Known, NodeError, NodeKnowledge},
    config::{ColorTier, Display},
    link::LinkView,
};

pub const NOW_MS: u64 = 7_900_000;
pub const CLUSTER: &str = "0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";

pub fn utc() -> Timestamp {
    "2026-11-22T12:04:31Z".parse().expect("a time")
}

pub fn before(seconds: i64) -> Timestamp {
    utc()
        .checked_sub(SignedDuration::from_secs(seconds))
        .expect("in range")
}

pub fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("a node id")
}

fn node_name(i: usize) -> String {
    format!("node-{}", i + 1)
}

pub fn address(i: usize) -> String {
    format!("localhost:{}", 8081 + i)
}

pub fn topology(nodes: usize) -> Topology {
    let member = |i| RingMember {
        id: id(&node_name(i)),
        address: address(i),
        zone: ["a", "b", "c"][i % 3].to_owned(),
    };
    // replicas in a scattered order, as a real table has them
    let row = |p: usize| {
        let first = (p * 7 + p / 5 + p / 31) % nodes;
        let step = 1 + (p / 3) % 2;
        let mut row: Vec<u16> = Vec::new();
        let mut at = first;
        while row.len() < nodes.min(3) {
            if !row.contains(&(at as u16)) {
                row.push(at as u16);
            }
            at = (at + if row.len() == 1 { step } else { 1 }) % nodes;
        }
        row
    };
    Topology {
        cluster_id: ClusterId::new(CLUSTER).expect("an id"),
        epoch: 5,
        replication_factor: 3,
        members: (0..nodes).map(member).collect(),
        table: (0..256).map(row).collect(),
        transition: None,
    }
}

fn load(i: usize) -> Load {
    Load {
        keys: 12_031 + 149 * (i as u64 % 3),
        bytes_on_disk: 41_200_000 + 310_000 * i as u64,
        puts_per_s: 812 - 22 * i as u32,
        gets_per_s: 2_204 - 24 * i as u32,
        p99_us: 3_140 + 170 * i as u32,
        hints: 0,
    }
}

fn all_alive(topology: &Topology) -> MembersResponse {
    let digest = format!("{:016x}", topology.digest());
    let info = |(i, m): (usize, &RingMember)| MemberInfo {
        node_id: m.id.clone(),
        address: m.address.clone(),
        status: MemberStatus::Alive,
        lifecycle: Lifecycle::Serving,
        last_seen: before(0),
        status_since: before(7_860),
        generation: 1_763_836_800_123 + i as u64,
        incarnation: 0,
        heartbeat_seq: 39_141 + i as u64,
        zone: m.zone.clone(),
        version: "0.1.0".to_owned(),
        ring_epoch: topology.epoch,
        ring_digest: digest.clone(),
        load: load(i),
        udp_blocked: false,
        accusers: vec![],
        reason: None,
    };
    let all: BTreeMap<NodeId, MemberInfo> = topology
        .members
        .iter()
        .enumerate()
        .map(|(i, m)| (m.id.clone(), info((i, m))))
        .collect();
    MembersResponse {
        cluster_id: CLUSTER.to_owned(),
        current_node: id("node-1"),
        total_members: all.len(),
        alive_members: all.len(),
        cluster_members: all,
        membership_digest: String::new(),
    }
}

pub fn known<T>(value: T) -> Known<T> {
    Known {
        value,
        stamped: utc(),
        received_ms: NOW_MS - 200,
        interval_ms: 1000,
    }
}

fn status(cluster: &Cluster, i: usize) -> StatusResponse {
    let topology = cluster.topology.as_ref().expect("a ring");
    let members = &cluster.members.as_ref().expect("members").value;
    let info = &members.cluster_members[&topology.members[i].id];
    let counts = partition_counts(topology, &cluster.available());
    StatusResponse {
        node: NodeStatus {
            id: info.node_id.clone(),
            address: info.address.clone(),
            status: info.status,
            lifecycle: info.lifecycle,
            waiting_for: None,
            zone: info.zone.clone(),
            version: info.version.clone(),
            commit: "4f0c2aa".to_owned(),
            generation: info.generation,
            start_time: before(7_860),
            uptime_seconds: 7_860,
            pid: 4_100 + i as u32,
            start_flags: vec![],
        },
        storage: StorageStatus {
            engine: "sled".to_owned(),
            key_count: info.load.keys,
            tombstones: 12,
            bytes_on_disk: info.load.bytes_on_disk,
            durability: "fsync".to_owned(),
            read_only: false,
            hints_owed: BTreeMap::new(),
            read_only_reason: None,
            disk_free_bytes: None,
            dirty_partitions: std::collections::BTreeMap::new(),
            tombstones_wait_for: vec![],
        },
        replication: ReplicationStatus {
            replication_factor: 3,
            quorum_size: quorum_size(3, members.total_members),
            total_nodes: members.total_members,
            alive_nodes: members.alive_members,
            quorum_available: counts.unavailable == 0,
            current_node: info.node_id.clone(),
            partitions: counts,
        },
        cluster: ClusterStatus {
            cluster_id: CLUSTER.to_owned(),
            health: counts.health(),
            ring_epoch: topology.epoch,
            ring_digest: format!("{:016x}", topology.digest()),
            membership_digest: members.membership_digest.clone(),
            problems: vec![],
        },
        gossip: Some(GossipHealth::default()),
        timestamp: utc().as_second(),
    }
}

pub fn event(
    seconds_ago: i64,
    code: EventCode,
    severity: Severity,
    by: &str,
    message: &str,
) -> Event {
    Event {
        seq: 1,
        time: before(seconds_ago),
        code,
        severity,
        reporter: id(by),
        subject: None,
        message: message.to_owned(),
        details: Value::Null,
    }
}

/// What follows from the members: digest, counts, each node's own answer, observations.
pub fn settle(cluster: &mut Cluster) {
    let topology = cluster.topology.clone().expect("a ring");
    let members = &mut cluster.members.as_mut().expect("members").value;
    members.alive_members = members
        .cluster_members
        .values()
        .filter(|m| m.status == MemberStatus::Alive)
        .count();
    members.membership_digest =
        membership_digest(members.cluster_members.values().map(|m| DigestEntry {
            id: &m.node_id,
            address: &m.address,
            generation: m.generation,
            status: m.status,
        }));
    let sees: BTreeMap<NodeId, MemberStatus> = members
        .cluster_members
        .values()
        .map(|m| (m.node_id.clone(), m.status))
        .collect();
    let up = |id: &NodeId| sees.get(id).is_some_and(|s| s.is_reachable());
    let sights: BTreeMap<NodeId, Sight> = members
        .cluster_members
        .values()
        .map(|m| (m.node_id.clone(), sight(m)))
        .collect();
    let observers = sees.keys().map(|node| {
        let answered = up(node);
        Observer {
            node_id: node.clone(),
            at: before(0),
            answered,
            error: (!answered).then(|| "connection refused".to_owned()),
            sees: if answered {
                sees.clone()
            } else {
                BTreeMap::new()
            },
            views: if answered {
                sights.clone()
            } else {
                BTreeMap::new()
            },
        }
    });
    cluster.observations = Some(known(observed(observers.collect())));
    cluster.ring = Some(known(ring_response(&topology)));
    cluster.status = Some(known(status(cluster, 0)));
    for (i, member) in topology.members.iter().enumerate() {
        let up = up(&member.id);
        let answer = known(status(cluster, i));
        let error = (!up).then(|| NodeError {
            message: "connection refused".to_owned(),
            since_ms: NOW_MS - 14_000,
        });
        let knowledge = NodeKnowledge {
            address: member.address.clone(),
            status: Some(answer),
            error,
            rtt_ms: up.then_some(1),
            history: History::default(),
        };
        cluster.nodes.insert(member.id.clone(), knowledge);
    }
}

/// What the daemon answers when these told what they see.
pub fn observed(observers: Vec<Observer>) -> ObservationsResponse {
    ObservationsResponse {
        current_node: id("node-1"),
        disagreements: disagreements(&observers),
        observers,
        well: 0,
        not_asked: 0,
    }
}

fn sight(m: &MemberInfo) -> Sight {
    Sight {
        status: m.status,
        generation: m.generation,
        incarnation: m.incarnation,
        since: Some(m.status_since),
        by: m.accusers.clone(),
        reason: m.reason.clone(),
        udp_blocked: m.udp_blocked,
    }
}

pub fn cluster(nodes: usize) -> Cluster {
    let topology = topology(nodes);
    let mut cluster = Cluster {
        members: Some(known(all_alive(&topology))),
        topology: Some(topology),
        clock_skew_ms: Some(2),
        ..Cluster::default()
    };
    for s in 0..60_u64 {
        let wave = (s * 37 % 23) as u32;
        cluster.totals.push(Some(Load {
            puts_per_s: 1_180 + wave * 22,
            gets_per_s: 6_200 + wave * 40,
            p99_us: 2_900 + wave * 25,
            ..Load::default()
        }));
    }
    cluster.events = VecDeque::from([
        event(
            402,
            EventCode::MemberJoined,
            Severity::Info,
            "node-1",
            "node-3 joined at localhost:8083",
        ),
        event(
            389,
            EventCode::RingChanged,
            Severity::Info,
            "node-1",
            "epoch 5: node-3 joined, 85 partitions moved in 0.8 s",
        ),
    ]);
    settle(&mut cluster);
    cluster
}

fn app(link: LinkView, cluster: Cluster) -> App {
    let display = Display {
        tier: ColorTier::None,
        ascii: false,
    };
    let mut app = App::new(display, true, utc());
    app.set_time(NOW_MS, utc());
    app.link = link;
    app.cluster = cluster;
    app
}

pub fn healthy() -> App {
    app(link(), cluster(3))
}

/// All of them by name, for sweeps.
pub fn all() -> Vec<(&'static str, App)> {
    let mut all = vec![
        ("healthy", healthy()),
        ("one_dead", one_dead()),
        ("five_one_dead", five_one_dead()),
        ("two_dead", two_dead()),
        ("held_viewer", looking_through_a_held_one()),
        ("disagreeing", disagreeing()),
        ("one_without_udp", one_without_udp()),
        ("disconnected", disconnected()),
        ("fallback", fallback()),
        ("never_connected", never_connected()),
        ("clean_restart", clean_restart()),
        ("failed_restart", failed_restart()),
        ("matrix", matrix()),
        ("matrix_large", matrix_large()),
    ];
    all.extend(overlays::overlays());
    all.extend(changes::all());
    all
}
