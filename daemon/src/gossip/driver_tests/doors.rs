//! Engines that reach each other over TCP as nodes do: through the door for nodes of a real
//! server. Who is refused there, and by whom, is counted where operators look.

use std::sync::OnceLock;

use axum::{Router, extract::Request as HttpRequest, routing::any};
use ringmaster_shared::topology::{RingMember, Topology};
use tokio::{net::TcpListener, task::AbortHandle};
use tokio_util::sync::DropGuard;

use super::*;
use crate::{
    config::{Config, layers::Layers},
    gossip::{
        GossipParts,
        claim::INCARNATION_MAX,
        secrecy::{Verify, joining::Proof},
    },
    identity::IdentityStore,
    lifecycle::{LifecycleHandle, facts::Phase, orders},
    node::{
        Node, SharedNode,
        seeds::{Meanwhile, knock},
    },
    replication::{
        clock::HybridClock,
        frames::{RefusalCode, Request, Response},
        peers::{LocalPeer, Peers},
        server::{PEER_PATH, PeerServer},
    },
    storage::{Store, StoreConfig},
    time::unix_ms,
    topology::TopologyHandle,
};

const THEIRS: &str = "11111111-2f43-4a52-9f7e-3c1de9c0a111";

/// A node as far as others can talk gossip with it; gone when dropped.
struct House {
    engine: Engine,
    identity: IdentityStore,
    secrecy: Option<Secrecy>,
    topology: TopologyHandle,
    peers: Peers,
    accepting: AbortHandle,
    _stop: DropGuard,
    folder: tempfile::TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl House {
    /// What it tells operators of the messages that were not taken for this reason.
    fn rejected(&self, why: &str) -> u64 {
        self.engine.handle.status().rejected[why]
    }

    /// The node around it, which knocks at seeds while it serves.
    fn node(&self) -> SharedNode {
        let folder = self.folder.path().display().to_string();
        let name = self.identity.node_id().to_string();
        let flags = [
            ("node_id", name),
            ("data_dir", folder),
            ("advertise", self.engine.address.clone()),
        ];
        let flags = flags.map(|(flag, value)| (flag.to_owned(), vec![value]));
        let config = Config::resolve(&Layers::of_flags(flags.into())).expect("valid");
        let (orders, _) = orders::channel();
        let (identity, secrecy) = (self.identity.clone(), self.secrecy.clone());
        let node = Node::new(config, identity, secrecy, orders, Phase::Running).expect("starts");
        let _ = node.gossip.set(self.engine.handle.clone());
        let _ = node.peers.set(self.peers.clone());
        node
    }
}

/// Both on one port.
async fn sockets() -> (TcpListener, UdpSocket) {
    for _ in 0..50 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        if let Ok(socket) = UdpSocket::bind(address) {
            return (listener, socket);
        }
    }
    panic!("no port is free for both");
}

/// A node of that cluster; with keys it insists on them.
async fn house(name: &str, cluster_id: &ClusterId, keys: &[u8]) -> House {
    house_in(empty_folder(), name, cluster_id, keys).await
}

fn empty_folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

async fn house_in(
    folder: tempfile::TempDir,
    name: &str,
    cluster_id: &ClusterId,
    keys: &[u8],
) -> House {
    let (listener, socket) = sockets().await;
    let address = listener.local_addr().expect("bound").to_string();
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
        socket,
        seeds: Vec::new(),
        remembered: Vec::new(),
        peers: peers.clone(),
        events: events.clone(),
        round_trips: Histogram::new([1.0]),
        secrecy: secrecy.clone(),
        stop: stop.clone(),
    };
    let handle = GossipHandle::start(parts, Vec::new());
    let topology = TopologyHandle::new(identity.clone(), events.clone()).expect("starts");
    let store = StoreConfig::for_tests(folder.path(), 16);
    let (store, _) = Store::open(store).expect("opens");
    let server = Arc::new(PeerServer {
        node_id: id(name),
        topology: topology.clone(),
        identity: identity.clone(),
        secrecy: secrecy.clone(),
        events: events.clone(),
        lifecycle: LifecycleHandle::new(Lifecycle::Serving),
        store,
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
        identity,
        secrecy,
        topology,
        peers,
        accepting: serving.abort_handle(),
        _stop: stop.drop_guard(),
        folder,
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
    assert_eq!(foreign.rejected("other_cluster"), 1);
    here.engine
        .until("it is counted at the door", |_| {
            here.rejected("other_cluster") == 1
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
    for (keys, why) in [(&[2][..], "unopened"), (&[], "unsealed")] {
        let here = house("a", &cluster(), &[1]).await;
        let other = house("b", &cluster(), keys).await;
        let refused = other.engine.handle.contact(&here.engine.address).await;
        assert!(refused.is_err(), "{why}: {refused:?}");
        assert_eq!(other.rejected("refused"), 1, "{why}");
        let message = other.engine.until_event(EventCode::KeyMismatch).await;
        assert!(message.starts_with("a at "), "{message}");
        here.engine
            .until("it is counted where it was refused", |_| {
                here.rejected(why) == 1
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
        for why in ["other_cluster", "refused", "unopened", "unsealed"] {
            assert_eq!(house.rejected(why), 0, "{why}");
        }
    }
}

/// A process that refuted what nothing else was above goes on as a later life of its node, and
/// knocks at its seeds as that: at others, and at itself under a name that stands for many.
#[tokio::test]
async fn who_went_on_as_a_later_life_is_let_in_as_that() {
    for keys in [&[1][..], &[]] {
        let here = house("a", &cluster(), keys).await;
        let other = house("b", &cluster(), keys).await;
        let member = RingMember {
            id: id("b"),
            address: other.engine.address.clone(),
            zone: "default".into(),
        };
        let ring = Topology::founded(cluster(), member, 3, 16);
        for house in [&here, &other] {
            let adopted = house.topology.adopt(ring.clone()).await;
            adopted.expect("a ring");
        }
        let begun = other.engine.generation;
        let accused = MemberState {
            status: MemberStatus::Dead,
            generation: begun,
            incarnation: INCARNATION_MAX,
            ..member_of(&other)
        };
        other.engine.handle.admit(accused).await;
        assert_eq!(other.engine.handle.generation(), begun + 1);
        let told = other.engine.handle.contact(&here.engine.address).await;
        told.expect("the other one hears of it");
        let node = other.node();
        for seed in [&here.engine.address, &other.engine.address] {
            let seeds = std::slice::from_ref(seed);
            let let_in = tokio::time::timeout(GENEROUS, knock(&node, seeds, Meanwhile::Serves));
            let let_in = let_in.await.expect("it is let in, and not told to wait");
            assert_eq!(let_in.expect("of this cluster").seed, *seed);
        }
        let known = here.engine.handle.states();
        let known = known.iter().find(|m| m.id == id("b")).expect("known");
        assert_eq!(known.generation, begun + 1);
        for house in [&here, &other] {
            let told = house.engine.events.newest(100);
            let mismatch = told.iter().find(|e| e.code == EventCode::KeyMismatch);
            assert_eq!(mismatch, None, "nobody is taken for one without a key");
        }
    }
}

/// Of the node itself alone.
async fn give_ring(house: &House) {
    let member = RingMember {
        id: house.identity.node_id().clone(),
        address: house.engine.address.clone(),
        zone: "default".into(),
    };
    let ring = Topology::founded(cluster(), member, 3, 16);
    house.topology.adopt(ring).await.expect("a ring");
}

/// Who could neither hear the members nor be heard by them is no reason to change the ring.
#[tokio::test]
async fn who_seals_where_nobody_has_keys_is_refused_before_it_is_taken_in() {
    let here = house("a", &cluster(), &[]).await;
    give_ring(&here).await;
    let joiner = house("b", &cluster(), &[1]).await;
    let member = member_of(&joiner);
    let proof = Proof::of(joiner.secrecy.as_ref(), &member).bytes;
    let ask = |proof| {
        let member = member.clone();
        let request = Request::Join { member, proof };
        joiner
            .peers
            .call_address(&here.engine.address, request, GENEROUS)
    };
    let (_, answer) = ask(proof).await.expect("a answers");
    let Response::Refused { code, reason } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(code, RefusalCode::Keys);
    assert!(reason.contains("gossip.keyring_file"), "{reason}");
    assert_eq!(here.engine.handle.members().len(), 1, "nobody is taken in");
    let (_, answer) = ask(Vec::new()).await.expect("a answers");
    assert!(matches!(answer, Response::Welcome { .. }), "{answer:?}");
    assert_eq!(here.engine.handle.members().len(), 2);
}

/// A node was begun with a clock ahead, lost its disk and comes with the right time: it is shown
/// what is held of it, to go on above that, and nothing it says as it is counts.
#[tokio::test]
async fn an_earlier_life_is_shown_the_later_one_that_is_over() {
    for keys in [&[1][..], &[]] {
        let here = house("a", &cluster(), keys).await;
        give_ring(&here).await;
        let folder = empty_folder();
        let ahead = unix_ms() + 5 * 3600 * 1000;
        let identity = IdentityStore::open(folder.path(), &id("b")).expect("opens");
        identity.outlive(ahead).expect("written");
        drop(identity);
        let seeds = std::slice::from_ref(&here.engine.address);
        let let_in = async |house: &House| {
            let node = house.node();
            let knocking = tokio::time::timeout(GENEROUS, knock(&node, seeds, Meanwhile::Serves));
            let welcome = knocking.await.expect("it is let in, and not told to wait");
            welcome.expect("of this cluster").members
        };
        let held = || {
            let states = here.engine.handle.states();
            states.into_iter().find(|m| m.id == id("b"))
        };
        let first = house_in(folder, "b", &cluster(), keys).await;
        let later = first.engine.generation;
        assert!(later > ahead);
        let_in(&first).await;
        drop(first);
        here.engine
            .until("it is held dead", |_| {
                held().is_some_and(|m| m.status == MemberStatus::Dead)
            })
            .await;
        let second = house("b", &cluster(), keys).await;
        assert!(second.engine.generation < ahead, "of an empty folder");
        let members = let_in(&second).await;
        let shown = members.iter().find(|m| m.id == id("b"));
        let shown = shown.expect("what is held of it");
        assert_eq!(
            (shown.status, shown.generation),
            (MemberStatus::Dead, later),
            "{keys:?}"
        );
        let held = held().expect("known");
        assert_eq!((held.status, held.generation), (shown.status, later));
    }
}

fn member_of(house: &House) -> MemberState {
    let states = house.engine.handle.states();
    let mut own = states
        .into_iter()
        .filter(|s| s.id == *house.identity.node_id());
    own.next().expect("it lists itself")
}
