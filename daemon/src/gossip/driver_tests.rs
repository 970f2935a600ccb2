//! Engines on real UDP sockets of this machine; TCP is a table of the others' handles.

mod doors;
mod guarded;

use std::{
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;
use ringmaster_shared::{
    event::EventCode,
    id::{ClusterId, NodeId},
    member::{Lifecycle, MemberStatus, RingStamp},
};
use tokio_util::sync::CancellationToken;

use super::{
    EngineParts, GossipConfig, GossipHandle, GossipNotice, MemberState, Members, Served,
    codec::{self, Body, Packet, RejectReason},
    envelope::Speaks,
    exchange::{Exchange, Refused, Said},
    secrecy::Secrecy,
    testing::{cluster, id, member},
};
use crate::{events::Events, replication::peers::PeerError};

const GENEROUS: Duration = Duration::from_secs(30);

/// TCP without connections: who is registered at an address answers.
#[derive(Clone, Default)]
struct Wire {
    nodes: Arc<Mutex<HashMap<String, (NodeId, GossipHandle)>>>,
    /// Who calls; set for each engine.
    caller: Option<NodeId>,
}

impl Wire {
    fn at(&self, address: &str) -> Result<(NodeId, GossipHandle), PeerError> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes
            .get(address)
            .cloned()
            .ok_or_else(|| PeerError::Unreachable {
                address: address.to_owned(),
                why: "connection refused".into(),
            })
    }

    fn register(&self, address: &str, node: NodeId, handle: GossipHandle) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.insert(address.to_owned(), (node, handle));
    }

    fn unregister(&self, address: &str) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.remove(address);
    }
}

impl Exchange for Wire {
    type Visit = ();

    async fn ping(&self, address: &str, _timeout: Duration) -> Result<NodeId, PeerError> {
        self.at(address).map(|(node, _)| node)
    }

    async fn say(
        &self,
        _visit: Option<()>,
        address: &str,
        message: Vec<u8>,
        _timeout: Duration,
    ) -> Result<Said<()>, PeerError> {
        let (by, handle) = self.at(address)?;
        let caller = self.caller.clone().unwrap_or_else(|| id("nobody"));
        let reply = match handle.exchange(&caller, message).await {
            Served::Answer(reply) => Ok(reply),
            Served::Refused { code, reason } => Err(Refused { code, reason }),
        };
        Ok(Said {
            by,
            visit: (),
            reply,
        })
    }
}

struct Engine {
    handle: GossipHandle,
    events: Events,
    stop: CancellationToken,
    address: String,
    generation: u64,
}

/// Ten times faster than in earnest.
fn quick() -> GossipConfig {
    GossipConfig {
        probe_interval: Duration::from_millis(100),
        probe_timeout: Duration::from_millis(50),
        gossip_interval: Duration::from_millis(20),
        push_pull_interval: Duration::from_secs(3),
        reconnect_interval: Duration::from_millis(300),
        ..GossipConfig::default()
    }
}

fn engine_on(
    wire: &Wire,
    socket: UdpSocket,
    host: &str,
    name: &str,
    generation: u64,
    contacts: &[String],
) -> Engine {
    engine_with(wire, socket, (host, name, generation), contacts, |_| ())
}

fn engine_with(
    wire: &Wire,
    socket: UdpSocket,
    (host, name, generation): (&str, &str, u64),
    contacts: &[String],
    change: impl FnOnce(&mut EngineParts<Wire>),
) -> Engine {
    engine_knowing(
        wire,
        socket,
        (host, name, generation),
        contacts,
        vec![],
        change,
    )
}

fn engine_knowing(
    wire: &Wire,
    socket: UdpSocket,
    (host, name, generation): (&str, &str, u64),
    contacts: &[String],
    known: Vec<MemberState>,
    change: impl FnOnce(&mut EngineParts<Wire>),
) -> Engine {
    let port = socket.local_addr().expect("bound").port();
    let address = format!("{host}:{port}");
    let events = Events::new(id(name));
    let stop = CancellationToken::new();
    let mut parts = EngineParts {
        config: quick(),
        cluster_id: cluster(),
        local: MemberState {
            generation,
            address: address.clone(),
            ..member(name)
        },
        socket,
        seeds: contacts.to_vec(),
        remembered: Vec::new(),
        round_trips: Histogram::new([1.0]),
        exchange: Wire {
            caller: Some(id(name)),
            ..wire.clone()
        },
        events: events.clone(),
        secrecy: None,
        speaks: Speaks::OURS,
        stop: stop.clone(),
    };
    change(&mut parts);
    let handle = GossipHandle::start_engine(parts, known);
    wire.register(&address, id(name), handle.clone());
    Engine {
        handle,
        events,
        stop,
        address,
        generation,
    }
}

fn engine(wire: &Wire, name: &str, contacts: &[String]) -> Engine {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    engine_on(wire, socket, "localhost", name, 1, contacts)
}

impl Engine {
    /// Waits until `fits` holds of the member list.
    async fn until(&self, what: &str, fits: impl Fn(&Members) -> bool) {
        let mut watch = self.handle.watch();
        let waited = tokio::time::timeout(GENEROUS, async {
            loop {
                if fits(&watch.borrow_and_update()) {
                    return;
                }
                // counters change without a wake
                let _ = tokio::time::timeout(Duration::from_millis(20), watch.changed()).await;
            }
        });
        let in_time = waited.await.is_ok();
        assert!(in_time, "{what}: {:?}", self.handle.members());
    }

    async fn until_status(&self, name: &str, status: MemberStatus) {
        self.until(&format!("{name} {status:?}"), |members| {
            members
                .iter()
                .any(|m| m.state.id.as_str() == name && m.state.status == status)
        })
        .await;
    }

    async fn until_event(&self, code: EventCode) -> String {
        let mut feed = self.events.subscribe();
        let found = |events: Vec<ringmaster_shared::event::Event>| {
            events
                .into_iter()
                .find(|e| e.code == code)
                .map(|e| e.message)
        };
        tokio::time::timeout(GENEROUS, async {
            loop {
                if let Some(message) = found(self.events.newest(1000)) {
                    return message;
                }
                let _ = feed.recv().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no {code:?}: {:?}", self.events.newest(1000)))
    }
}

fn all_alive(members: &Members, n: usize) -> bool {
    members.len() == n
        && members
            .iter()
            .all(|m| m.state.status == MemberStatus::Alive)
}

async fn three(wire: &Wire) -> [Engine; 3] {
    let a = engine(wire, "a", &[]);
    let seeds = [a.address.clone()];
    let b = engine(wire, "b", &seeds);
    let c = engine(wire, "c", &seeds);
    for e in [&a, &b, &c] {
        e.until("all three are there", |m| all_alive(m, 3)).await;
    }
    [a, b, c]
}

#[tokio::test]
async fn three_find_together_through_localhost_and_count_heartbeats() {
    let wire = Wire::default();
    let [a, b, _c] = three(&wire).await;
    a.until("heartbeats", |m| {
        m.iter().filter(|m| m.heartbeat_seq > 3).count() == 2
    })
    .await;
    let status = a.handle.status();
    assert_eq!((status.cluster_size, status.alive_nodes), (3, 3));
    assert_eq!(status.current_node, id("a"));
    b.until_event(EventCode::MemberJoined).await;
    // what a node says of itself reaches the others
    a.handle.set_lifecycle(Lifecycle::Draining);
    a.handle.set_ring(RingStamp {
        epoch: 7,
        digest: 1,
    });
    b.until("the news of a", |m| {
        m[0].state.lifecycle == Lifecycle::Draining && m[0].state.ring.epoch == 7
    })
    .await;
    // load rides along with pings
    let load = ringmaster_shared::member::Load {
        keys: 99,
        ..Default::default()
    };
    a.handle.set_load(load);
    b.until("the load of a", |m| m[0].state.load.keys == 99)
        .await;
}

#[tokio::test]
async fn a_vanished_node_is_dead_and_comes_back_elsewhere_as_a_later_life() {
    let wire = Wire::default();
    let [a, b, c] = three(&wire).await;
    c.stop.cancel();
    wire.unregister(&c.address);
    for e in [&a, &b] {
        e.until_status("c", MemberStatus::Dead).await;
    }
    let message = a.until_event(EventCode::MemberDead).await;
    assert!(message.starts_with("c: no answer to "), "{message}");
    // through the other one as seed, on another port
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let back = engine_on(
        &wire,
        socket,
        "127.0.0.1",
        "c",
        c.generation + 1,
        std::slice::from_ref(&b.address),
    );
    for e in [&a, &b, &back] {
        e.until("all three again", |m| all_alive(m, 3)).await;
    }
    a.until_event(EventCode::MemberAddressChanged).await;
    a.until_event(EventCode::MemberReturned).await;
}

#[tokio::test]
async fn a_node_that_stops_is_stopped_and_not_dead() {
    let wire = Wire::default();
    let [a, b, c] = three(&wire).await;
    c.handle.announce_stopped().await;
    c.stop.cancel();
    wire.unregister(&c.address);
    for e in [&a, &b] {
        e.until_status("c", MemberStatus::Stopped).await;
        e.until_event(EventCode::MemberStopped).await;
        let events = e.events.newest(1000);
        assert!(events.iter().all(|e| e.code != EventCode::MemberDead));
    }
    assert_eq!(a.handle.status().stopped_nodes, 1);
}

#[tokio::test]
async fn contact_joins_two_and_says_who_answered() {
    let wire = Wire::default();
    let (a, b) = (engine(&wire, "a", &[]), engine(&wire, "b", &[]));
    let answered = a.handle.contact(&b.address).await.expect("b answers");
    assert_eq!(answered, id("b"));
    assert_eq!(
        a.handle.members().len(),
        2,
        "merged when the answer is there"
    );
    let refused = a
        .handle
        .contact("localhost:1")
        .await
        .expect_err("nobody there");
    assert!(
        refused.to_string().contains("connection refused"),
        "{refused}"
    );
}

#[tokio::test]
async fn with_udp_blocked_the_member_stays_and_it_is_said() {
    let wire = Wire::default();
    let (a, b) = (engine(&wire, "a", &[]), engine(&wire, "b", &[]));
    // b is known at an address where TCP answers and UDP does not
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    wire.register(&address, id("b"), b.handle.clone());
    b.stop.cancel();
    let state = MemberState {
        address,
        incarnation: 5,
        ..member("b")
    };
    a.handle.admit(state).await;
    let message = a.until_event(EventCode::UdpBlocked).await;
    assert!(message.contains("UDP"), "{message}");
    assert_eq!(a.handle.members()[1].state.status, MemberStatus::Alive);
}

#[tokio::test]
async fn the_older_of_two_namesakes_is_told_to_stop() {
    let wire = Wire::default();
    let a = engine(&wire, "a", &[]);
    let older = engine(&wire, "b", std::slice::from_ref(&a.address));
    a.until("b is there", |m| all_alive(m, 2)).await;
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let younger = engine_on(
        &wire,
        socket,
        "localhost",
        "b",
        2,
        std::slice::from_ref(&a.address),
    );
    let mut notices = older.handle.notices();
    let told = tokio::time::timeout(GENEROUS, notices.wait_for(Option::is_some))
        .await
        .expect("in time")
        .expect("running")
        .clone();
    let expected = GossipNotice::Superseded {
        address: younger.address.clone(),
        generation: 2,
    };
    assert_eq!(told, Some(expected));
    assert!(younger.handle.notices().borrow().is_none());
}

#[tokio::test]
async fn garbage_is_counted_and_a_foreign_cluster_gets_a_readable_no() {
    let wire = Wire::default();
    let a = engine(&wire, "a", &[]);
    let port: u16 = a
        .address
        .rsplit(':')
        .next()
        .and_then(|p| p.parse().ok())
        .expect("a port");
    let to: SocketAddr = ([127, 0, 0, 1], port).into();
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    stranger.set_read_timeout(Some(GENEROUS)).expect("set");
    let theirs = ClusterId::new("11111111-2f43-4a52-9f7e-3c1de9c0a111").expect("valid");
    let ping = Packet {
        cluster: theirs.clone(),
        to: id("a"),
        from: codec::Brief::of(&member("z")),
        intro: Some(member("z").into()),
        ask: false,
        body: Body::Ping { seq: 1 },
        claims: vec![],
    };
    stranger.send_to(b"", to).expect("sent");
    stranger
        .send_to(b"GET / HTTP/1.1\r\n\r\n", to)
        .expect("sent");
    stranger.send_to(&[0xff; 9000], to).expect("sent");
    stranger
        .send_to(&codec::encode(&ping).expect("encodes"), to)
        .expect("sent");
    let message = a.until_event(EventCode::ForeignMessages).await;
    assert!(message.contains(theirs.as_str()) && message.contains(cluster().as_str()));
    let answer = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 2000];
        let n = stranger.recv(&mut buffer).expect("an answer");
        codec::decode(&buffer[..n])
    });
    let answer = answer.await.expect("joined").expect("readable");
    let reason = RejectReason::OtherCluster;
    assert_eq!(answer.body, Body::Reject { reason });
    assert_eq!(answer.cluster, cluster());
    a.until("four are counted", |_| {
        a.handle.status().rejected_messages == 4
    })
    .await;
    assert_eq!(a.handle.members().len(), 1);
}

#[tokio::test]
async fn who_is_turned_away_at_the_door_is_counted_and_told() {
    let a = engine(&Wire::default(), "a", &[]);
    let theirs = ClusterId::new("9b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("an id");
    a.handle.met_stranger(&id("z"), &theirs);
    a.until("it is counted", |_| {
        a.handle.status().rejected["other_cluster"] == 1
    })
    .await;
    let message = a.until_event(EventCode::ForeignMessages).await;
    assert!(
        message.starts_with("z belongs to cluster 9b9c7c1e"),
        "{message}"
    );
}

#[tokio::test]
async fn config_is_told_in_words() {
    let wire = Wire::default();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let mut parts = EngineParts {
        config: GossipConfig::default(),
        cluster_id: cluster(),
        local: member("a"),
        socket,
        seeds: vec![],
        remembered: Vec::new(),
        round_trips: Histogram::new([1.0]),
        exchange: wire,
        events: Events::new(id("a")),
        secrecy: None,
        speaks: Speaks::OURS,
        stop: CancellationToken::new(),
    };
    parts.local.zone = "z".repeat(300);
    let handle = GossipHandle::start_engine(parts, vec![member("b")]);
    assert_eq!(handle.members().len(), 2, "merged before the start returns");
    let config = handle.config_info();
    assert_eq!(config.gossip_interval, "200ms");
    assert_eq!(config.probe_interval, "1s");
    assert_eq!(config.probe_timeout, "500ms");
    assert_eq!(config.suspicion_timeout, "4s");
    assert_eq!(config.push_pull_interval, "30s");
    assert_eq!((config.indirect_probes, config.gossip_fanout), (3, 3));
}
