//! Real sockets on 127.0.0.1: both halves of a connection, and servers that misbehave.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{Router, extract::Request as HttpRequest, routing::any};
use ringmaster_shared::key::Key;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::replication::{
    server::{
        Handler, PEER_PATH, accept,
        gate::{Caller, Doorkeeper},
    },
    testing::id,
};

const OURS: &str = "0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";
const THEIRS: &str = "1b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";
/// Far beyond what any of these take.
const GENEROUS: Duration = Duration::from_secs(30);

fn cluster(text: &str) -> ClusterId {
    ClusterId::new(text).expect("valid")
}

/// Answers by key: `echo`, `stuck` (never), `gate` (when told), else the epoch it was asked in.
#[derive(Clone, Default)]
struct Fake {
    gate: Arc<Notify>,
    arrived: Arc<Notify>,
}

impl Handler for Fake {
    async fn handle(&self, _: &Caller, epoch: Epoch, request: Request) -> Response {
        match request {
            Request::ReadRecord { key } if key.as_str() == "stuck" => {
                self.arrived.notify_one();
                std::future::pending().await
            }
            Request::ReadRecord { key } if key.as_str() == "gate" => {
                self.arrived.notify_one();
                self.gate.notified().await;
                Response::Done
            }
            Request::ReadRecord { key } => Response::Keys { keys: vec![key] },
            Request::Scan { max_bytes, .. } => Response::NotReady {
                reason: "x".repeat(max_bytes as usize),
            },
            Request::Ping => Response::Pong,
            _ => Response::EpochAhead { epoch },
        }
    }
}

/// A node as far as its peer connections go; gone when dropped.
struct Node {
    address: SocketAddr,
    upgrades: Arc<AtomicUsize>,
    fake: Fake,
    accepting: AbortHandle,
    _stop: DropGuard,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn start(name: &str, cluster_id: Option<&str>, address: &str) -> Node {
    let listener = TcpListener::bind(address).await.expect("free");
    let address = listener.local_addr().expect("bound");
    let (fake, stop) = (Fake::default(), CancellationToken::new());
    let upgrades = Arc::new(AtomicUsize::new(0));
    let door = Doorkeeper {
        node_id: id(name),
        cluster: cluster_id.map(cluster),
    };
    let (handler, ended, count) = (fake.clone(), stop.clone(), Arc::clone(&upgrades));
    let route = any(move |request: HttpRequest| {
        count.fetch_add(1, Ordering::Relaxed);
        let response = accept(&door, request, || handler.clone(), ended.clone());
        std::future::ready(response)
    });
    let app = Router::new().route(PEER_PATH, route);
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    Node {
        address,
        upgrades,
        fake,
        accepting: serving.abort_handle(),
        _stop: stop.drop_guard(),
    }
}

struct Book(Mutex<HashMap<NodeId, String>>);

impl AddressBook for Book {
    fn address_of(&self, node: &NodeId) -> Option<String> {
        self.0.lock().expect("unpoisoned").get(node).cloned()
    }
}

fn quick() -> Limits {
    Limits {
        connect: Duration::from_millis(500),
        backoff: Duration::from_millis(50),
        silence: Duration::from_millis(500),
        ..Limits::default()
    }
}

fn peers(limits: Limits, known: &[(&str, String)]) -> Peers {
    let local = LocalPeer {
        node_id: id("asker"),
        generation: 1,
    };
    let peers = Peers::with_limits(local, limits);
    peers.set_cluster(cluster(OURS));
    let known = known.iter().map(|(name, at)| (id(name), at.clone()));
    peers.set_address_book(Arc::new(Book(Mutex::new(known.collect()))));
    peers
}

fn read(key: &str) -> Request {
    Request::ReadRecord {
        key: Key::new(key).expect("valid"),
    }
}

async fn ask(peers: &Peers, key: &str, timeout: Duration) -> Result<Response, PeerError> {
    peers
        .call(&id("b"), Class::Data, 3, read(key), timeout)
        .await
}

fn echo(key: &str) -> Response {
    let keys = vec![Key::new(key).expect("valid")];
    Response::Keys { keys }
}

#[tokio::test]
async fn answers_may_come_in_any_order_over_one_connection() {
    let node = start("b", Some(OURS), "127.0.0.1:0").await;
    let peers = peers(Limits::default(), &[("b", node.address.to_string())]);
    let slow = tokio::spawn({
        let peers = peers.clone();
        async move { ask(&peers, "gate", GENEROUS).await }
    });
    node.fake.arrived.notified().await;
    let mut calls = JoinSet::new();
    for n in 0..500 {
        let peers = peers.clone();
        calls.spawn(async move {
            let key = format!("key-{n}");
            assert_eq!(ask(&peers, &key, GENEROUS).await, Ok(echo(&key)));
        });
    }
    while let Some(call) = calls.join_next().await {
        call.expect("answered");
    }
    assert!(!slow.is_finished(), "the first question is still open");
    node.fake.gate.notify_one();
    assert_eq!(slow.await.expect("no panic"), Ok(Response::Done));
    assert_eq!(node.upgrades.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn callers_at_the_same_moment_share_one_attempt_and_classes_do_not() {
    let node = start("b", Some(OURS), "127.0.0.1:0").await;
    let peers = peers(Limits::default(), &[("b", node.address.to_string())]);
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let peers = peers.clone();
        calls.spawn(async move { ask(&peers, "k", GENEROUS).await });
    }
    for result in calls.join_all().await {
        assert_eq!(result, Ok(echo("k")));
    }
    assert_eq!(node.upgrades.load(Ordering::Relaxed), 1);
    let b = id("b");
    let bulk = peers.call(&b, Class::Bulk, 0, Request::Ping, GENEROUS);
    assert_eq!(bulk.await, Ok(Response::Pong));
    assert_eq!(node.upgrades.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_timeout_ends_one_call_only() {
    let node = start("b", Some(OURS), "127.0.0.1:0").await;
    let peers = peers(Limits::default(), &[("b", node.address.to_string())]);
    let late = ask(&peers, "stuck", Duration::from_millis(50)).await;
    assert!(matches!(late, Err(PeerError::Timeout { .. })), "{late:?}");
    assert_eq!(ask(&peers, "k", GENEROUS).await, Ok(echo("k")));
    assert_eq!(node.upgrades.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_slow_answer_is_no_dead_connection() {
    let node = start("b", Some(OURS), "127.0.0.1:0").await;
    let limits = quick();
    let peers = peers(limits, &[("b", node.address.to_string())]);
    let slow = tokio::spawn({
        let peers = peers.clone();
        async move { ask(&peers, "gate", GENEROUS).await }
    });
    // the time has to pass: what is asserted is that nothing happens in it
    tokio::time::sleep(limits.silence * 3).await;
    node.fake.gate.notify_one();
    assert_eq!(slow.await.expect("no panic"), Ok(Response::Done));
    assert_eq!(node.upgrades.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_lost_connection_fails_all_and_the_next_call_reconnects() {
    let node = start("b", Some(OURS), "127.0.0.1:0").await;
    let address = node.address.to_string();
    let peers = peers(quick(), &[("b", address.clone())]);
    let mut waiting = JoinSet::new();
    for _ in 0..10 {
        let peers = peers.clone();
        waiting.spawn(async move { ask(&peers, "stuck", GENEROUS).await });
        node.fake.arrived.notified().await;
    }
    drop(node);
    for result in waiting.join_all().await {
        assert!(matches!(result, Err(PeerError::Lost { .. })), "{result:?}");
    }
    let refused = ask(&peers, "k", GENEROUS).await;
    assert!(
        matches!(refused, Err(PeerError::Unreachable { .. })),
        "{refused:?}"
    );
    let node = start("b", Some(OURS), &address).await;
    let deadline = Instant::now() + GENEROUS;
    while ask(&peers, "k", GENEROUS).await != Ok(echo("k")) {
        assert!(Instant::now() < deadline, "never reconnected");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.upgrades.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn after_a_failure_calls_fail_fast_for_a_while() {
    let knocks = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn({
        let knocks = Arc::clone(&knocks);
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                knocks.fetch_add(1, Ordering::Relaxed);
                drop(stream);
            }
        }
    });
    let limits = Limits {
        backoff: GENEROUS,
        ..quick()
    };
    let peers = peers(limits, &[("b", address)]);
    let first = ask(&peers, "k", GENEROUS).await;
    assert!(matches!(first, Err(PeerError::Unreachable { .. })));
    for _ in 0..20 {
        assert_eq!(ask(&peers, "k", GENEROUS).await, first);
    }
    assert_eq!(knocks.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn wrong_cluster_and_wrong_node_are_named() {
    let other = start("b", Some(THEIRS), "127.0.0.1:0").await;
    let moved = start("c", Some(OURS), "127.0.0.1:0").await;
    let fresh = start("d", None, "127.0.0.1:0").await;
    let (at_other, at_moved) = (other.address.to_string(), moved.address.to_string());
    let peers = peers(quick(), &[("b", at_other.clone()), ("x", at_moved.clone())]);
    let foreign = PeerError::WrongCluster {
        address: at_other.clone(),
        theirs: THEIRS.into(),
        ours: OURS.into(),
    };
    assert_eq!(ask(&peers, "k", GENEROUS).await, Err(foreign.clone()));
    let called = peers.call_address(&at_other, Request::Ping, GENEROUS).await;
    assert_eq!(called, Err(foreign));
    let wrong = peers
        .call(&id("x"), Class::Control, 0, Request::Ping, GENEROUS)
        .await;
    let not_x = PeerError::WrongNode {
        address: at_moved,
        found: id("c"),
        wanted: id("x"),
    };
    assert_eq!(wrong, Err(not_x));
    let unknown = peers
        .call(&id("nobody"), Class::Data, 0, Request::Ping, GENEROUS)
        .await;
    let node = id("nobody");
    assert_eq!(unknown, Err(PeerError::UnknownAddress { node }));
    // one without a cluster may be talked to, by either family of localhost
    let address = format!("localhost:{}", fresh.address.port());
    let (who, pong) = peers
        .call_address(&address, Request::Ping, GENEROUS)
        .await
        .expect("answers");
    assert_eq!((who.node_id, who.cluster_id), (id("d"), None));
    assert_eq!(pong, Response::Pong);
}

#[tokio::test]
async fn a_changed_cluster_or_address_means_a_new_connection() {
    let (first, second) = (
        start("b", None, "127.0.0.1:0").await,
        start("b", None, "127.0.0.1:0").await,
    );
    let known = Mutex::new(HashMap::from([(id("b"), first.address.to_string())]));
    let book = Arc::new(Book(known));
    let peers = peers(quick(), &[]);
    peers.set_address_book(Arc::clone(&book) as Arc<dyn AddressBook>);
    assert_eq!(ask(&peers, "k", GENEROUS).await, Ok(echo("k")));
    peers.set_cluster(cluster(OURS));
    assert_eq!(ask(&peers, "k", GENEROUS).await, Ok(echo("k")));
    assert_eq!(
        first.upgrades.load(Ordering::Relaxed),
        1,
        "the same cluster"
    );
    peers.set_cluster(cluster(THEIRS));
    assert_eq!(peers.cluster(), Some(cluster(THEIRS)));
    assert_eq!(ask(&peers, "k", GENEROUS).await, Ok(echo("k")));
    assert_eq!(first.upgrades.load(Ordering::Relaxed), 2);
    let address = second.address.to_string();
    book.0.lock().expect("unpoisoned").insert(id("b"), address);
    assert_eq!(ask(&peers, "k", GENEROUS).await, Ok(echo("k")));
    assert_eq!(second.upgrades.load(Ordering::Relaxed), 1);
}

/// Answers every connection with `bytes` after the first bytes came, then stays silent.
async fn says(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        let mut open: Vec<TcpStream> = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() && stream.write_all(bytes).await.is_ok() {
                open.push(stream);
            }
        }
    });
    address
}

const WELCOME: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
    upgrade: ringmaster-peer/1\r\nx-ring-node: b\r\n\r\n";

#[tokio::test]
async fn servers_that_are_no_ringd_are_described() {
    let cases: [(&[u8], &str); 3] = [
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "not HTTP"),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "404",
        ),
        (
            b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\
              x-ring-node: b\r\n\r\n",
            "h2c",
        ),
    ];
    for (bytes, want) in cases {
        let address = says(bytes).await;
        let peers = peers(quick(), &[("b", address)]);
        let error = ask(&peers, "k", GENEROUS).await.expect_err("no ringd");
        assert!(matches!(error, PeerError::Protocol { .. }), "{error}");
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[tokio::test]
async fn a_node_that_takes_no_connections_says_why_itself() {
    let refusal =
        b"HTTP/1.1 503 Service Unavailable\r\nx-ring-node: b\r\ncontent-length: 49\r\n\r\n\
        {\"error\":\"this is stopping\",\"code\":\"NOT_SERVING\"}";
    let address = says(refusal).await;
    let peers = peers(quick(), &[("b", address.clone())]);
    let error = ask(&peers, "k", GENEROUS).await.expect_err("it stops");
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    assert_eq!(error.to_string(), format!("{address}: this is stopping"));
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_deadline() {
    let address = says(b"").await;
    let peers = peers(quick(), &[("b", address.clone())]);
    let error = ask(&peers, "k", GENEROUS).await.expect_err("silent");
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    let brief = Duration::from_millis(50);
    let error = peers.call_address(&address, Request::Ping, brief).await;
    assert!(
        matches!(
            error,
            Err(PeerError::Timeout { .. } | PeerError::Unreachable { .. })
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up() {
    let address = says(WELCOME).await;
    let peers = peers(quick(), &[("b", address)]);
    let error = ask(&peers, "k", GENEROUS).await.expect_err("silent");
    assert!(matches!(error, PeerError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn nonsense_and_oversized_answers_end_the_connection() {
    let oversized = [WELCOME, &[0xff, 0xff, 0xff, 0xff]].concat();
    let nonsense = [WELCOME, &[0, 0, 0, 3, 1, 99, 99]].concat();
    for bytes in [oversized, nonsense] {
        let address = says(bytes.leak()).await;
        let peers = peers(Limits::default(), &[("b", address)]);
        let error = ask(&peers, "k", GENEROUS).await.expect_err("nonsense");
        // which one depends on whether the request was on its way already
        assert!(
            matches!(
                error,
                PeerError::Lost { .. } | PeerError::Unreachable { .. }
            ),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_server_ends_connections_that_send_nonsense() {
    let node = start("b", Some(OURS), "127.0.0.1:0").await;
    let hello = "GET /internal/peer HTTP/1.1\r\nhost: b\r\nconnection: upgrade\r\n\
        upgrade: ringmaster-peer/1\r\nx-ring-node: a\r\nx-ring-generation: 1\r\n\r\n";
    let frames: [&[u8]; 3] = [
        &[0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 2, 1, 2],
        &[0, 0, 0, 5, 1, 0, 0, 250, 250],
    ];
    for frame in frames {
        let mut stream = TcpStream::connect(node.address).await.expect("listens");
        let bytes = [hello.as_bytes(), frame].concat();
        stream.write_all(&bytes).await.expect("sent");
        let mut answer = Vec::new();
        // an end, by FIN or by RST, is what is asked for; the timeout would be the failure
        let ended = timeout(GENEROUS, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{frame:?} was put up with");
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{frame:?}");
    }
}

#[tokio::test]
async fn bounds_hold() {
    let node = start("b", Some(OURS), "127.0.0.1:0").await;
    let limits = Limits {
        in_flight: 3,
        ..Limits::default()
    };
    let peers = peers(limits, &[("b", node.address.to_string())]);
    let mut waiting = JoinSet::new();
    for _ in 0..3 {
        let peers = peers.clone();
        waiting.spawn(async move { ask(&peers, "gate", GENEROUS).await });
        node.fake.arrived.notified().await;
    }
    let full = ask(&peers, "k", GENEROUS).await;
    assert!(matches!(full, Err(PeerError::Full { .. })), "{full:?}");
    // a call that is given up makes room
    waiting.shutdown().await;
    assert_eq!(ask(&peers, "k", GENEROUS).await, Ok(echo("k")));

    let large = |max_bytes| Request::Scan {
        partition: 0,
        after: None,
        max_bytes,
    };
    let calls = [(1 << 20, true), (40 << 20, false)];
    for (bytes, fits) in calls {
        let answer = peers
            .call(&id("b"), Class::Bulk, 0, large(bytes), GENEROUS)
            .await
            .expect("answered either way");
        let refused = matches!(answer, Response::Refused { .. });
        assert_eq!(refused, !fits, "{bytes} bytes");
    }
    let reason = "x".repeat(codec_limit() + 1);
    let key = Key::new("k").expect("valid");
    let huge = Request::ListKeys {
        partitions: vec![],
        prefix: reason,
        after: Some(key.to_string()),
        limit: 0,
    };
    let unsent = peers
        .call(&id("b"), Class::Bulk, 0, huge, GENEROUS)
        .await
        .expect_err("too large");
    assert!(matches!(unsent, PeerError::Protocol { .. }), "{unsent}");
}

fn codec_limit() -> usize {
    crate::replication::frames::FRAME_BYTES_MAX
}

/// A name may stand for all nodes of a cluster, the asking one included.
#[tokio::test]
async fn of_a_name_with_many_addresses_another_node_is_rather_met_than_oneself() {
    let own = start("me", Some(OURS), "127.0.0.1:0").await;
    let other = start("b", Some(OURS), "127.0.0.1:0").await;
    let gone = start("c", Some(OURS), "127.0.0.1:0").await;
    let nobody = gone.address;
    drop(gone);
    let cases = [
        (vec![own.address, other.address], "b"),
        (vec![other.address, own.address], "b"),
        (vec![own.address, nobody, other.address], "b"),
        (vec![own.address], "me"),
        (vec![nobody, own.address, nobody], "me"),
    ];
    for (resolved, met) in cases {
        let hello = Hello {
            local: LocalPeer {
                node_id: id("me"),
                generation: 1,
            },
            cluster: Some(cluster(OURS)),
            target: None,
        };
        let text = format!("{resolved:?}");
        let connecting = handshake::connect_any("svc:1", resolved, &hello, GENEROUS);
        let (_, peer) = connecting.await.expect("somebody is there");
        assert_eq!(peer.node_id, id(met), "{text}");
    }
}
