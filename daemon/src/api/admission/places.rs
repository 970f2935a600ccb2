//! The places that requests take, from the router down: each is given back once, whatever became of
//! its request.

use std::time::Duration;

use axum::{body::Body, http::Request};
use ringmaster_shared::member::Lifecycle;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::{
    api,
    config::{Config, layers::Layers},
    health::tests::id,
    identity::IdentityStore,
    lifecycle::{facts::Phase, orders},
    node::{Node, SharedNode},
    replication::tests::lab::{Lab, Wire, cluster, settled, until},
};

/// Requests that the node lets in at once.
const PLACES: usize = 2;
/// A value of the large lane.
const LARGE: usize = 200 * 1024;

/// The HTTP side of node `a` over a cluster whose wires the test holds.
struct Front {
    lab: Lab,
    node: SharedNode,
    _folder: TempDir,
}

impl Front {
    fn start() -> Self {
        let names = ["a", "b", "c"];
        let lab = Lab::start(&settled(1, &names), &names);
        let folder = tempfile::tempdir().expect("temp dir");
        let data = folder.path().display().to_string();
        let settings = [
            ("node_id", "a"),
            ("data_dir", data.as_str()),
            ("limits.requests", &PLACES.to_string()),
            // longer than the test takes on any machine
            ("limits.request_timeout", "10m"),
        ];
        let settings = settings.map(|(key, text)| (key.to_owned(), vec![text.to_owned()]));
        let config = Config::resolve(&Layers::of_flags(settings.into()));
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let identity = IdentityStore::open(folder.path(), &id("a")).expect("identity");
        identity.set_cluster(cluster()).expect("cluster");
        let (orders, _) = orders::channel();
        let node = Node::new(config, identity, None, orders, Phase::Starting);
        let node = node.unwrap_or_else(|error| panic!("{error}"));
        node.lifecycle.set(Lifecycle::Serving, None);
        let coordinator = lab.node("a").coordinator.clone();
        assert!(node.coordinator.set(coordinator).is_ok());
        Self {
            lab,
            node,
            _folder: folder,
        }
    }

    /// A request under way; to abort it is to do what the server does when its client has left.
    fn ask(&self, method: &str, key: &str, bytes: usize) -> JoinHandle<u16> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/data/{key}"))
            .header("content-type", "application/octet-stream")
            .header("content-length", bytes)
            .body(Body::from(vec![b'x'; bytes]))
            .expect("a request");
        let answer = api::router(&self.node).oneshot(request);
        tokio::spawn(async move { answer.await.expect("an answer").status().as_u16() })
    }

    async fn status(&self, method: &str, key: &str, bytes: usize) -> u16 {
        self.ask(method, key, bytes).await.expect("it ran")
    }

    /// Nothing gets past this node.
    fn hold(&self, held: bool) {
        for other in ["b", "c"] {
            let wire = if held { Wire::Held } else { Wire::Up };
            self.lab.wire(other, wire);
        }
    }

    /// Places taken: all, those of small requests, and bytes of large ones.
    fn taken(&self) -> (usize, usize, usize) {
        let load = self.node.gates.admission.pressure().load;
        (load.requests, load.small.0, load.large.0)
    }

    async fn until_taken(&self, requests: usize, small: usize, large: usize) {
        let wanted = (requests, small, large);
        until(&format!("{wanted:?} are taken"), || self.taken() == wanted).await;
    }

    /// All places are taken, and asking for more changes nothing.
    async fn is_full(&self) {
        let before = self.taken();
        for (method, bytes) in [("GET", 0), ("PUT", 10), ("PUT", LARGE), ("DELETE", 0)] {
            assert_eq!(self.status(method, "more", bytes).await, 429, "{method}");
            assert_eq!(self.taken(), before, "after a refused {method}");
        }
    }
}

async fn leave(request: JoinHandle<u16>) {
    request.abort();
    assert!(request.await.is_err_and(|error| error.is_cancelled()));
}

#[tokio::test]
async fn each_place_is_given_back_once() {
    let front = Front::start();
    // after the answer
    for (method, bytes, want) in [
        ("PUT", 10, 200),
        ("PUT", LARGE, 200),
        ("GET", 0, 200),
        ("DELETE", 0, 200),
        ("GET", 0, 404),
    ] {
        assert_eq!(front.status(method, "k", bytes).await, want, "{method}");
        front.until_taken(0, 0, 0).await;
    }
    assert_eq!(front.status("PUT", "k", 10).await, 200);
    front.until_taken(0, 0, 0).await;

    // after refusals; then the client of a read goes away, and its place is free
    front.hold(true);
    let write = front.ask("PUT", "written", LARGE);
    front.until_taken(1, 0, LARGE).await;
    // one that is answered beside it
    let answered = front.status("GET", "k?consistency=one", 0).await;
    assert_eq!((answered, front.taken()), (200, (1, 0, LARGE)));
    let read = front.ask("GET", "k", 0);
    front.until_taken(2, 1, LARGE).await;
    front.is_full().await;
    leave(read).await;
    front.until_taken(1, 0, LARGE).await;

    // a write goes on without its client, and keeps its place for as long
    leave(write).await;
    assert_eq!(front.taken(), (1, 0, LARGE));
    let read = front.ask("GET", "k", 0);
    front.until_taken(2, 1, LARGE).await;
    front.is_full().await;
    front.hold(false);
    assert_eq!(read.await.expect("it ran"), 200);
    front.until_taken(0, 0, 0).await;
    assert_eq!(front.status("GET", "written", 0).await, 200);

    // in the end there are as many places as there were
    front.hold(true);
    let both = [front.ask("GET", "k", 0), front.ask("PUT", "k", 10)];
    front.until_taken(2, 2, 0).await;
    front.is_full().await;
    front.hold(false);
    for request in both {
        assert_eq!(request.await.expect("it ran"), 200);
    }
    tokio::time::timeout(Duration::from_secs(60), front.until_taken(0, 0, 0))
        .await
        .expect("all are free again");
}
