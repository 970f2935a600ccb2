//! Engines that reach each other over TCP as nodes do: through the door for nodes of a real
//! server. Who is refused there, and by whom, is counted where operators look.

use std::sync::OnceLock;

use axum::{Router, extract::Request as HttpRequest, routing::any};
use tokio::{net::TcpListener, task::AbortHandle};
use tokio_util::sync::DropGuard;

use super::*;
use crate::{
    gossip::{GossipParts, secrecy::Verify},
    identity::IdentityStore,
    lifecycle::LifecycleHandle,
    replication::{
        clock::HybridClock,
        peers::{LocalPeer, Peers},
        server::{PEER_PATH, PeerServer},
    },
    storage::{Store, StoreConfig},
    topology::TopologyHandle,
};

const THEIRS: &str = "11111111-2f43-4a52-9f7e-3c1de9c0a111";

/// A node as far as others can talk gossip with it; gone when dropped.
struct House {
    engine: Engine,
    accepting: AbortHandle,
    _stop: DropGuard,
    _folder: tempfile::TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What this node tells operators of the messages that were not taken, but for the zeros.
fn rejected(house: &House) -> Vec<(String, u64)> {
    let counts = house.engine.handle.status().rejected.into_iter();
    counts.filter(|(_, count)| *count > 0).collect()
}

fn once(why: &str) -> Vec<(String, u64)> {
    vec![(why.to_owned(), 1)]
}

fn store(folder: &tempfile::TempDir) -> Store {
    let config = StoreConfig {
        dir: folder.path().join("store"),
        partition_count: 16,
        segment_bytes: 4 << 20,
        cache_bytes: 4 << 20,
        hint_bytes_max: 4 << 20,
        reserve_bytes: 0,
        min_free_bytes: 0,
    };
    Store::open(config).expect("opens").0
}

/// A node of that cluster; with keys it insists on them.
async fn house(name: &str, cluster_id: &ClusterId, keys: &[u8]) -> House {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let identity = IdentityStore::open(folder.path(), &id(name)).expect("opens");
    identity.set_cluster(cluster_id.clone()).expect("written");
    let (events, stop) = (Events::new(id(name)), CancellationToken::new());
    let generation = identity.generation();
    let on = Verify {
        incoming: true,
        outgoing: true,
    };
    let secrecy = (!keys.is_empty()).then(|| Secrecy::for_tests(keys, on, generation));
    let peers = Peers::new(LocalPeer {
        node_id: id(name),
        generation,
    });
    peers.set_cluster(cluster_id.clone());
    let parts = GossipParts {
        config: quick(),
        cluster_id: cluster_id.clone(),
        local: MemberState {
            generation,
            address: address.clone(),
            ..member(name)
        },
        socket: UdpSocket::bind("127.0.0.1:0").expect("a free port"),
        seeds: Vec::new(),
        remembered: Vec::new(),
        peers,
        events: events.clone(),
        round_trips: Histogram::new([1.0]),
        secrecy: secrecy.clone(),
        stop: stop.clone(),
    };
    let handle = GossipHandle::start(parts, Vec::new());
    let server = Arc::new(PeerServer {
        node_id: id(name),
        topology: TopologyHandle::new(identity.clone(), events.clone()).expect("starts"),
        identity,
        secrecy,
        events: events.clone(),
        lifecycle: LifecycleHandle::new(Lifecycle::Serving),
        store: store(&folder),
        clock: HybridClock::default(),
        grace_ms: 600_000,
        gossip: Arc::new(OnceLock::from(handle.clone())),
        stop: stop.clone(),
    });
    let door = any(move |request: HttpRequest| Arc::clone(&server).upgrade(request));
    let app = Router::new().route(PEER_PATH, door);
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    House {
        engine: Engine {
            handle,
            events,
            stop: stop.clone(),
            address,
            generation,
        },
        accepting: serving.abort_handle(),
        _stop: stop.drop_guard(),
        _folder: folder,
    }
}

#[tokio::test]
async fn a_foreign_node_is_counted_where_it_knocks_and_where_it_comes_from() {
    let theirs = ClusterId::new(THEIRS).expect("valid");
    let here = house("a", &cluster(), &[]).await;
    let foreign = house("z", &theirs, &[]).await;
    let refused = foreign.engine.handle.contact(&here.engine.address).await;
    let refused = refused.expect_err("another cluster").to_string();
    assert!(refused.contains(THEIRS), "{refused}");
    assert!(refused.contains(cluster().as_str()), "{refused}");
    assert_eq!(rejected(&foreign), once("other_cluster"));
    here.engine
        .until("it is counted at the door", |_| {
            rejected(&here) == once("other_cluster")
        })
        .await;
    let message = here.engine.until_event(EventCode::ForeignMessages).await;
    let begins = format!("z belongs to cluster {THEIRS}");
    assert!(message.starts_with(&begins), "{message}");
    for house in [&here, &foreign] {
        assert_eq!(house.engine.handle.members().len(), 1, "nobody is let in");
    }
}

#[tokio::test]
async fn a_refused_exchange_is_counted_on_both_sides() {
    for (ours, theirs, why) in [(1, Some(2), "unopened"), (1, None, "unsealed")] {
        let here = house("a", &cluster(), &[ours]).await;
        let keys: Vec<u8> = theirs.into_iter().collect();
        let other = house("b", &cluster(), &keys).await;
        let refused = other.engine.handle.contact(&here.engine.address).await;
        assert!(refused.is_err(), "{why}: {refused:?}");
        assert_eq!(rejected(&other), once("refused"), "{why}");
        let message = other.engine.until_event(EventCode::KeyMismatch).await;
        assert!(message.starts_with("a at "), "{message}");
        here.engine
            .until("it is counted where it was refused", |_| {
                rejected(&here) == once(why)
            })
            .await;
    }
}

/// The same way leads in who belongs here.
#[tokio::test]
async fn who_is_of_this_cluster_passes_the_door_uncounted() {
    let here = house("a", &cluster(), &[1]).await;
    let other = house("b", &cluster(), &[1]).await;
    let answered = other.engine.handle.contact(&here.engine.address).await;
    assert_eq!(answered.expect("a answers"), id("a"));
    assert_eq!(other.engine.handle.members().len(), 2);
    for house in [&here, &other] {
        assert_eq!(rejected(house), []);
    }
}
