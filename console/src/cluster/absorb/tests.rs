//! What replaces what, what only confirms, and what never happens.

use jiff::{SignedDuration, Timestamp};
use ringmaster_shared::{
    api::ring::ClusterResponse,
    event::{Event, EventCode, Severity},
    feed::{Delta, Frame, FrameBody, HEARTBEAT_MS, Snapshot},
    id::NodeId,
};
use serde_json::Value;

use super::*;
use crate::{
    cluster::{EVENTS_MAX, HISTORY_SAMPLES, STALE_INTERVALS},
    fixture,
};

fn at(now_ms: u64) -> Arrival {
    let utc = fixture::utc() + SignedDuration::from_millis(now_ms.cast_signed());
    Arrival { now_ms, utc }
}

fn picture() -> ClusterResponse {
    let known = fixture::healthy().cluster;
    ClusterResponse {
        status: known.status.expect("known").value,
        members: known.members.expect("known").value,
        ring: known.ring.expect("known").value,
    }
}

fn frame(now_ms: u64, body: FrameBody) -> Report {
    Report::Frame(Box::new(Frame {
        seq: 1,
        time: at(now_ms).utc,
        body,
    }))
}

fn snapshot(now_ms: u64, picture: ClusterResponse) -> Report {
    let ClusterResponse {
        status,
        members,
        ring,
    } = picture;
    let snapshot = Snapshot {
        status,
        members,
        ring,
        events: vec![],
    };
    frame(now_ms, FrameBody::Snapshot(Box::new(snapshot)))
}

fn heartbeat(now_ms: u64) -> Report {
    let node_id = NodeId::new("node-1").expect("valid");
    frame(now_ms, FrameBody::Heartbeat { node_id })
}

fn event(seq: u64, reporter: &str, second: i64) -> Event {
    Event {
        seq,
        time: Timestamp::from_second(1_700_000_000 + second).expect("a time"),
        code: EventCode::MemberDead,
        severity: Severity::Error,
        reporter: NodeId::new(reporter).expect("valid"),
        subject: None,
        message: String::new(),
        details: Value::Null,
    }
}

#[test]
fn heartbeats_keep_the_picture_fresh_and_silence_makes_it_stale() {
    let mut cluster = Cluster::default();
    assert!(cluster.is_stale(0), "nothing known is not fresh");
    cluster.absorb(snapshot(0, picture()), at(0));
    assert!(!cluster.is_stale(STALE_INTERVALS * HEARTBEAT_MS));
    assert!(cluster.is_stale(STALE_INTERVALS * HEARTBEAT_MS + 1));
    cluster.absorb(heartbeat(3_000), at(3_000));
    assert!(!cluster.is_stale(6_000));
    assert_eq!(cluster.age_ms(3_500), Some(500));
    let gap = frame(6_000, FrameBody::Gap { dropped: 7 });
    cluster.absorb(gap, at(6_000));
    assert!(cluster.is_stale(6_001), "a gap confirms nothing");
    let polled = Report::Picture {
        picture: Box::new(picture()),
        interval_ms: 2_000,
    };
    cluster.absorb(polled, at(6_001));
    assert!(!cluster.is_stale(12_001) && cluster.is_stale(12_002));
}

#[test]
fn a_snapshot_replaces_and_a_delta_replaces_its_parts() {
    let mut cluster = Cluster::default();
    cluster.absorb(snapshot(0, picture()), at(0));
    let mut members = picture().members;
    members.cluster_members.pop_last();
    members.total_members = 2;
    let delta = Delta {
        members: Some(members),
        ..Delta::default()
    };
    cluster.absorb(frame(500, FrameBody::Delta(Box::new(delta))), at(500));
    let shown = |c: &Cluster| c.members.as_ref().map(|m| m.value.cluster_members.len());
    assert_eq!(shown(&cluster), Some(2));
    assert_eq!(cluster.status.as_ref().map(|s| s.received_ms), Some(500));
    cluster.absorb(snapshot(900, picture()), at(900));
    assert_eq!(shown(&cluster), Some(3));
}

#[test]
fn a_ring_without_its_table_keeps_the_table_of_the_same_ring() {
    let mut cluster = Cluster::default();
    cluster.absorb(snapshot(0, picture()), at(0));
    assert!(cluster.topology.is_some());
    let mut bare = picture();
    bare.ring.table.clear();
    bare.ring.ring.ring.clear();
    cluster.absorb(snapshot(100, bare.clone()), at(100));
    assert!(cluster.topology.is_some());
    bare.ring.epoch += 1;
    bare.ring.digest = "another".into();
    cluster.absorb(snapshot(200, bare), at(200));
    assert!(cluster.topology.is_none());
    let mut whole = picture().ring;
    whole.epoch += 1;
    whole.digest = "another".into();
    cluster.absorb(Report::Ring(Box::new(whole)), at(300));
    assert!(cluster.topology.is_some());
}

#[test]
fn a_node_that_stops_answering_keeps_its_last_answer_and_says_since_when() {
    let mut cluster = Cluster::default();
    cluster.absorb(snapshot(0, picture()), at(0));
    let status = picture().status;
    let id = status.node.id.clone();
    let address = status.node.address.clone();
    let asked = |address: &str, result| {
        Report::Node(Box::new(NodeReport {
            address: address.to_owned(),
            result,
            rtt_ms: 2,
            interval_ms: 2_000,
        }))
    };
    cluster.absorb(asked(&address, Ok(status)), at(1_000));
    for now in [3_000, 5_000] {
        cluster.absorb(asked(&address, Err("connection refused".into())), at(now));
    }
    let node = &cluster.nodes[&id];
    assert_eq!(node.error.as_ref().map(|e| e.since_ms), Some(3_000));
    assert_eq!(node.status.as_ref().map(|s| s.received_ms), Some(1_000));
    cluster.absorb(asked("nowhere:1", Err("refused".into())), at(5_000));
    assert!(cluster.nameless.contains_key("nowhere:1"));
}

#[test]
fn events_are_merged_in_order_once_and_bounded() {
    let mut cluster = Cluster::default();
    let page = vec![event(1, "node-1", 10), event(2, "node-1", 30)];
    cluster.absorb(Report::Events(page.clone()), at(0));
    cluster.absorb(Report::Events(page), at(1));
    cluster.absorb(
        Report::Events(vec![event(1, "node-2", 20), event(9, "node-2", 30)]),
        at(2),
    );
    // The same number in another life of the node is another event.
    cluster.absorb(Report::Events(vec![event(1, "node-1", 40)]), at(3));
    let order: Vec<(String, u64)> = cluster
        .events
        .iter()
        .map(|e| (e.reporter.to_string(), e.seq))
        .collect();
    let want = [
        ("node-1", 1),
        ("node-2", 1),
        ("node-1", 2),
        ("node-2", 9),
        ("node-1", 1),
    ];
    assert_eq!(order, want.map(|(n, s)| (n.to_owned(), s)));
    let many = (0..3 * EVENTS_MAX as u64).map(|n| event(n, "node-3", 100 + n.cast_signed()));
    cluster.absorb(Report::Events(many.collect()), at(4));
    assert_eq!(cluster.events.len(), EVENTS_MAX);
    cluster.absorb(Report::Events(vec![event(5, "node-4", 0)]), at(5));
    assert_eq!(
        cluster.events.len(),
        EVENTS_MAX,
        "older than all that is kept"
    );
}

#[test]
fn sparklines_hold_a_minute_and_show_holes() {
    let mut cluster = Cluster::default();
    cluster.absorb(snapshot(0, picture()), at(0));
    for second in 0..100u64 {
        cluster.sample(second * 1_000);
    }
    let samples = &cluster.totals.samples;
    assert_eq!(samples.len(), HISTORY_SAMPLES);
    assert!(
        samples.iter().all(Option::is_none),
        "nothing fresh, nothing drawn"
    );
    cluster.absorb(heartbeat(100_000), at(100_000));
    cluster.sample(100_000);
    assert!(cluster.totals.samples.back().is_some_and(Option::is_some));
    let node = cluster.nodes.values().next().expect("a node");
    assert!(node.history.samples.back().is_some_and(Option::is_some));
}
