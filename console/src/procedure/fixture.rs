//! Small clusters as the procedures see them, for tests: what every node answers, and what is known of
//! who was named.

use std::collections::BTreeMap;

use ringmaster_shared::{
    api::{
        health::StatusResponse,
        membership::{MemberInfo, MembersResponse},
        ring::{ClusterResponse, ring_response},
    },
    id::{ClusterId, Epoch, NodeId},
    member::{DigestEntry, Lifecycle, MemberStatus, membership_digest},
    topology::{RingMember, Topology},
};

use super::survey::{Heard, Survey};
use crate::progress::Target;

pub const CLUSTER: &str = "0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";

pub fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

pub fn topology(names: &[&str], epoch: Epoch) -> Topology {
    let member = |n: &&str| RingMember {
        id: id(n),
        address: format!("{n}:1"),
        zone: "z".into(),
    };
    let founder = RingMember {
        id: id("a"),
        address: "a:1".into(),
        zone: "z".into(),
    };
    let cluster = ClusterId::new(CLUSTER).expect("valid");
    let mut t = Topology::founded(cluster, founder, 3, 4);
    t.members = names.iter().map(member).collect();
    t.table = vec![(0..names.len().min(3) as u16).collect(); 4];
    t.epoch = epoch;
    t
}

pub fn members(who: &str, all: &[(&str, MemberStatus, Lifecycle)]) -> MembersResponse {
    let info = |n: &str, status, lifecycle| MemberInfo {
        node_id: id(n),
        address: format!("{n}:1"),
        status,
        lifecycle,
        last_seen: jiff::Timestamp::UNIX_EPOCH,
        status_since: jiff::Timestamp::UNIX_EPOCH,
        generation: 1,
        incarnation: 0,
        heartbeat_seq: 0,
        zone: "z".into(),
        version: "0".into(),
        ring_epoch: 5,
        ring_digest: String::new(),
        load: ringmaster_shared::member::Load::default(),
        udp_blocked: false,
        accusers: vec![],
        reason: None,
    };
    let map: BTreeMap<_, _> = all
        .iter()
        .map(|(n, s, l)| (id(n), info(n, *s, *l)))
        .collect();
    let entry = |m: &MemberInfo| (m.node_id.clone(), m.address.clone(), m.status);
    let entries: Vec<_> = map.values().map(entry).collect();
    let digest = membership_digest(entries.iter().map(|(id, address, status)| DigestEntry {
        id,
        address,
        generation: 1,
        status: *status,
    }));
    MembersResponse {
        cluster_id: CLUSTER.into(),
        current_node: id(who),
        total_members: all.len(),
        alive_members: all.iter().filter(|m| m.1 == MemberStatus::Alive).count(),
        cluster_members: map,
        membership_digest: digest,
    }
}

pub fn status(who: &str, lifecycle: Lifecycle, epoch: Epoch) -> StatusResponse {
    let json = serde_json::json!({
        "node": {"id": who, "address": format!("{who}:1"), "status": "alive",
            "lifecycle": lifecycle, "zone": "z", "version": "0", "commit": "x",
            "generation": 1, "start_time": "2026-01-01T00:00:00Z", "uptime_seconds": 1, "pid": 1},
        "storage": {"engine": "sled", "key_count": 0, "tombstones": 0, "bytes_on_disk": 0,
            "durability": "fsync", "read_only": false, "hints_owed": {}},
        "replication": {"replication_factor": 3, "quorum_size": 2, "total_nodes": 3,
            "alive_nodes": 3, "quorum_available": true, "current_node": who,
            "partitions": {"total": 4, "all_replicas": 4, "quorum": 4, "unavailable": 0}},
        "cluster": {"cluster_id": CLUSTER, "health": "healthy", "ring_epoch": epoch,
            "ring_digest": format!("{epoch}"), "membership_digest": "d", "problems": []},
        "timestamp": 0});
    serde_json::from_value(json).expect("a status")
}

pub fn survey(names: &[&str], epochs: &[Epoch]) -> Survey {
    let all: Vec<_> = names
        .iter()
        .map(|n| (*n, MemberStatus::Alive, Lifecycle::Serving))
        .collect();
    let view = |(n, e): (&&str, &Epoch)| {
        Ok(ClusterResponse {
            status: status(n, Lifecycle::Serving, *e),
            members: members(n, &all),
            ring: ring_response(&topology(names, *e)),
        })
    };
    Survey {
        targets: names
            .iter()
            .map(|n| Target {
                id: id(n),
                address: format!("{n}:1"),
            })
            .collect(),
        views: names.iter().zip(epochs).map(view).collect(),
        heard: Vec::new(),
    }
}

/// Somebody who was named and answered.
pub fn heard(endpoint: &str, who: &str, cluster: &str) -> Heard {
    Heard {
        endpoint: endpoint.into(),
        id: id(who),
        cluster_id: cluster.into(),
        state: "serving".into(),
    }
}
