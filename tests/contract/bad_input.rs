//! Mistakes by table: each gets the one error format with the right code, and changes nothing.

use ringmaster_shared::{
    api::data::{ListResponse, WriteResponse},
    error::ErrorCode::{
        self, BadBody, BadContext, BadKey, BadRequest, Conflict, KeyNotFound, MethodNotAllowed,
        NotFound, PreconditionFailed, TooLarge, UnsupportedMediaType, UpgradeRequired,
        WrongCluster,
    },
};
use serde_json::json;

use crate::support::{cluster::Cluster, raw};

const JSON: &str = "content-type: application/json\r\n";
const PLAIN: &str = "content-type: text/plain\r\n";
const LATIN: &str = "content-type: application/json; charset=latin1\r\n";
const ABSENT: &str = "if-none-match: *\r\ncontent-type: application/json\r\n";
const PUT_OK: &[u8] = b"{\"value\": 1}";
const UPGRADE: &str = "connection: upgrade\r\nupgrade: ringmaster-peer/1\r\n\
    x-ring-node: stranger\r\nx-ring-generation: 1\r\n";

type Case<'a> = (&'a str, &'a str, &'a str, &'a [u8], ErrorCode);

fn put(body: &[u8], code: ErrorCode) -> Case<'_> {
    ("PUT", "/api/v1/data/k", JSON, body, code)
}

fn post<'a>(path: &'a str, body: &'a [u8], code: ErrorCode) -> Case<'a> {
    ("POST", path, JSON, body, code)
}

/// Every case is answered as it says, and the keys are the same as before.
async fn refused(cluster: &mut Cluster, cases: &[Case<'_>]) {
    let api = cluster.api(0);
    let keys = async || {
        let list: ListResponse = api.get("/api/v1/data").await.expect("the list of keys");
        list.keys
    };
    let before = keys().await;
    for (method, path, headers, body, want) in cases {
        let shown: String = path.chars().take(80).collect();
        let body_shown: String = String::from_utf8_lossy(body).chars().take(80).collect();
        let port = cluster.nodes[0].port;
        let reply = raw::request(port, method, path, headers, body).await;
        let error = reply.error();
        assert_eq!(
            error.code, *want,
            "{method} {shown} {body_shown}: {}",
            error.error
        );
    }
    assert_eq!(keys().await, before, "something was stored or deleted");
    assert!(cluster.nodes[0].is_running());
}

#[tokio::test]
async fn keys() {
    let mut cluster = Cluster::start(1).await;
    let long = format!("/api/v1/data/{}", "k".repeat(1025));
    let encoded = format!("/api/v1/data/{}", "%C3%A4".repeat(513));
    let cases: [Case; 13] = [
        ("PUT", "/api/v1/data/", JSON, PUT_OK, BadKey),
        ("GET", "/api/v1/data/", "", b"", BadKey),
        ("PUT", "/api/v1/data/%", JSON, PUT_OK, BadKey),
        ("PUT", "/api/v1/data/%2", JSON, PUT_OK, BadKey),
        ("PUT", "/api/v1/data/%zz", JSON, PUT_OK, BadKey),
        ("PUT", "/api/v1/data/a%ff", JSON, PUT_OK, BadKey),
        ("PUT", "/api/v1/data/%C3", JSON, PUT_OK, BadKey),
        ("PUT", &long, JSON, PUT_OK, BadKey),
        ("GET", &encoded, "", b"", BadKey),
        ("DELETE", &long, "", b"", BadKey),
        ("PUT", "/api/v1/data/a/b", JSON, PUT_OK, NotFound),
        ("GET", "/api/v1/data/nobody", "", b"", KeyNotFound),
        ("GET", "/api/v1/ring/locate?key=", "", b"", BadKey),
    ];
    refused(&mut cluster, &cases).await;
}

#[tokio::test]
async fn bodies() {
    let mut cluster = Cluster::start(1).await;
    let deep = format!("{{\"value\": {}1{}}}", "[".repeat(500), "]".repeat(500));
    let large = format!("{{\"value\": \"{}\"}}", "x".repeat(3 << 20));
    let cases: [Case; 17] = [
        put(b"", BadBody),
        put(b"{", BadBody),
        put(b"{}", BadBody),
        put(b"[]", BadBody),
        put(b"5", BadBody),
        put(b"{\"valeu\": 1}", BadBody),
        put(b"{\"value\": 1, \"ttl\": 5}", BadBody),
        put(b"{\"value\": 1, \"value\": 2}", BadBody),
        put(b"{\"value\": 1} tail", BadBody),
        put(b"{\"value\": 1e999}", BadBody),
        put(b"{\"value\": \"\xff\"}", BadBody),
        put(b"{\"value\": 1, \"context\": 5}", BadBody),
        put(deep.as_bytes(), BadBody),
        put(large.as_bytes(), TooLarge),
        (
            "PUT",
            "/api/v1/data/k",
            PLAIN,
            b"hello",
            UnsupportedMediaType,
        ),
        ("PUT", "/api/v1/data/k", LATIN, PUT_OK, UnsupportedMediaType),
        (
            "DELETE",
            "/api/v1/data/k",
            JSON,
            b"{\"contxt\": \"\"}",
            BadBody,
        ),
    ];
    refused(&mut cluster, &cases).await;
}

#[tokio::test]
async fn contexts() {
    let mut cluster = Cluster::start(1).await;
    let api = cluster.api(0);
    let mut tokens = Vec::new();
    for key in ["mine", "other"] {
        let reply = api.put(key, &json!(1)).await.expect("answered");
        let written: WriteResponse = reply.json().expect("written");
        tokens.push(written.context);
    }
    let (mine, other) = (&tokens[0], &tokens[1]);
    let mut edited = mine.clone();
    let last = edited.pop().expect("not empty");
    edited.push(if last == 'A' { 'B' } else { 'A' });
    let body = |token: &str| json!({"value": 2, "context": token}).to_string();
    let bad = [
        body("garbage"),
        body(""),
        body(&edited),
        body(&mine[..mine.len() / 2]),
        body(other),
        body(&"A".repeat(20_000)),
    ];
    let mut cases: Vec<Case> = vec![
        (
            "DELETE",
            "/api/v1/data/mine",
            JSON,
            b"{\"context\": \"garbage\"}",
            BadContext,
        ),
        (
            "PUT",
            "/api/v1/data/mine",
            ABSENT,
            PUT_OK,
            PreconditionFailed,
        ),
    ];
    let put = |body| ("PUT", "/api/v1/data/mine", JSON, body, BadContext);
    cases.extend(bad.iter().map(|body| put(body.as_bytes())));
    refused(&mut cluster, &cases).await;
    assert_eq!(api.value("mine").await.expect("answered"), Some(json!(1)));
}

#[tokio::test]
async fn methods_paths_and_queries() {
    let mut cluster = Cluster::start(1).await;
    let long = format!("/{}", "x".repeat(5000));
    let cases: [Case; 23] = [
        ("GET", "/", "", b"", NotFound),
        ("GET", "/nowhere", "", b"", NotFound),
        ("GET", "/api/v2/status", "", b"", NotFound),
        ("GET", "/api/v1/status/", "", b"", NotFound),
        ("GET", "/../../etc/passwd", "", b"", NotFound),
        ("GET", &long, "", b"", NotFound),
        ("POST", "/api/v1/status", JSON, b"{}", MethodNotAllowed),
        ("PATCH", "/api/v1/data/k", JSON, PUT_OK, MethodNotAllowed),
        ("POST", "/api/v1/data/k", JSON, PUT_OK, MethodNotAllowed),
        ("DELETE", "/gossip/members", "", b"", MethodNotAllowed),
        ("GET", "/api/v1/admin/drain", "", b"", MethodNotAllowed),
        ("BREW", "/healthz", "", b"", MethodNotAllowed),
        ("GET", "/api/v1/data?limit=abc", "", b"", BadRequest),
        ("GET", "/api/v1/data?limit=-1", "", b"", BadRequest),
        ("GET", "/api/v1/data?cursor=%21%21", "", b"", BadRequest),
        (
            "GET",
            "/api/v1/data/k?consistency=most",
            "",
            b"",
            BadRequest,
        ),
        (
            "PUT",
            "/api/v1/data/k?consistency=two",
            JSON,
            PUT_OK,
            BadRequest,
        ),
        ("GET", "/api/v1/events?since=abc", "", b"", BadRequest),
        ("GET", "/api/v1/ring/locate", "", b"", BadRequest),
        ("GET", "/ws", "", b"", UpgradeRequired),
        ("GET", "/internal/peer", "", b"", UpgradeRequired),
        ("POST", "/internal/peer", JSON, b"{}", MethodNotAllowed),
        ("POST", "/gossip/join", JSON, b"{\"address\": 5}", BadBody),
    ];
    refused(&mut cluster, &cases).await;
}

#[tokio::test]
async fn orders() {
    let mut cluster = Cluster::start(1).await;
    let cases: [Case; 10] = [
        post("/api/v1/admin/drain", b"{\"x\": 1}", BadBody),
        post("/api/v1/admin/restart", b"[", BadBody),
        post("/api/v1/admin/standby", b"{\"hold_seconds\": -1}", BadBody),
        post(
            "/api/v1/admin/standby",
            b"{\"hold_seconds\": 999999}",
            BadRequest,
        ),
        post("/api/v1/admin/start", b"{}", Conflict),
        post("/api/v1/admin/clear-gossip", b"", Conflict),
        post("/api/v1/admin/start", b"{\"seeds\": \"x\"}", BadBody),
        post("/api/v1/admin/adopt", b"", BadBody),
        post("/api/v1/admin/adopt", b"{\"seeds\": []}", BadRequest),
        post("/api/v1/admin/adopt", b"{\"seeds\": [\"x\"]}", BadRequest),
    ];
    refused(&mut cluster, &cases).await;
    let status = cluster.api(0).status().await.expect("it still answers");
    assert_eq!(status.node.lifecycle.as_str(), "serving");
}

#[tokio::test]
async fn peers_of_another_cluster_or_for_another_node() {
    let mut cluster = Cluster::start(1).await;
    let foreign = format!("{UPGRADE}x-ring-cluster: 0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111\r\n");
    let misaddressed = format!("{UPGRADE}x-ring-target: node-9\r\n");
    let nameless = "connection: upgrade\r\nupgrade: ringmaster-peer/1\r\n";
    let newer = UPGRADE.replace("peer/1", "peer/99");
    let peer = |headers, code| ("GET", "/internal/peer", headers, b"" as &[u8], code);
    let cases: [Case; 4] = [
        peer(foreign.as_str(), WrongCluster),
        peer(&misaddressed, WrongCluster),
        peer(nameless, BadRequest),
        peer(&newer, UpgradeRequired),
    ];
    refused(&mut cluster, &cases).await;
}
