//! The verbs for scripts: what they print, and the codes they end with.

use serde_json::{Value, json};

use super::{
    endpoints,
    run::{Ended, ringmaster},
};
use crate::support::{
    cluster::Cluster,
    node::free_port,
    wait::{GENEROUS, eventually, same},
};

async fn ok(all: &[String], args: &[&str]) -> Ended {
    let ended = ringmaster(all, args).await;
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    ended
}

async fn ok_json(all: &[String], args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
    ok(all, &args).await.json()
}

/// A sentence on standard error that says `why`, nothing on standard output.
async fn fails(all: &[String], args: &[&str], code: i32, why: &str) {
    let ended = ringmaster(all, args).await;
    assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
    assert!(ended.err.contains(why), "{args:?}: {ended:?}");
    assert!(!ended.err.contains("panicked"), "{args:?}: {ended:?}");
    assert_eq!(ended.out, "", "{args:?}");
}

#[tokio::test]
async fn answers_codes_and_json() {
    let mut cluster = Cluster::start(3).await;
    let all = endpoints(&cluster);
    tables(&all).await;
    documents(&cluster, &all).await;
    data(&cluster, &all).await;
    misuse(&all).await;

    cluster.nodes[2].kill9();
    cluster.sees_alive(0, 2).await;
    let members = ringmaster(&all, &["members"]).await;
    assert_eq!(members.code, Some(1), "{members:?}");
    assert!(members.out.contains("2 of 3 alive"), "{members:?}");
    let check = ringmaster(&all, &["check", "--output", "json"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    assert_eq!(check.json()["ok"], false);
    assert!(check.out.contains("node-3"), "{check:?}");
    ok(&all, &["status"]).await;
    ok(&all, &["quorum"]).await;
    ok(&all, &["put", "with:two", "enough"]).await;
    // the first endpoint is gone: the next one answers
    let turned: Vec<String> = all.iter().rev().cloned().collect();
    ok(&turned, &["get", "with:two"]).await;

    cluster.nodes[1].kill9();
    cluster.sees_quorum(0, false).await;
    for verb in ["status", "quorum", "members", "check"] {
        let ended = ringmaster(&all, &[verb]).await;
        assert_eq!(ended.code, Some(1), "{verb}: {ended:?}");
    }
    fails(&all[..1], &["put", "k", "v"], 1, "replicas").await;
    fails(&all[..1], &["get", "with:two"], 1, "replicas").await;
    cluster.nodes[0].kill9();
    let verbs: [&[&str]; 8] = [
        &["status"],
        &["members"],
        &["ring"],
        &["quorum"],
        &["check"],
        &["get", "k"],
        &["put", "k", "v"],
        &["restart", "--clean", "--yes"],
    ];
    for verb in verbs {
        fails(&all, verb, 3, "does not answer").await;
    }
}

async fn tables(all: &[String]) {
    let status = ok(all, &["status"]).await.out;
    assert!(
        status.contains("node-1") && status.contains("healthy"),
        "{status}"
    );
    assert!(status.contains("3 of 3 alive"), "{status}");
    let members = ok(all, &["members"]).await.out;
    assert!(members.starts_with("NODE"), "{members}");
    assert_eq!(members.matches("serving").count(), 3, "{members}");
    let ring = ok(all, &["ring"]).await.out;
    assert!(
        ring.contains("OWNS %") && ring.contains("256 partitions"),
        "{ring}"
    );
    let located = ok(all, &["ring", "user:42"]).await.out;
    assert!(located.contains("user:42 hashes to"), "{located}");
    let quorum = ok(all, &["quorum"]).await.out;
    assert!(quorum.contains("256 with all replicas"), "{quorum}");
    let check = ok(all, &["check"]).await.out;
    assert!(
        check.contains("views_agree") && !check.contains("FAILED"),
        "{check}"
    );
}

async fn documents(cluster: &Cluster, all: &[String]) {
    let status = ok_json(all, &["status"]).await;
    assert_eq!(status["node"]["id"], "node-1");
    assert_eq!(status["replication"]["quorum_available"], true);
    let members = ok_json(all, &["members"]).await;
    assert_eq!(members["alive_members"], 3);
    let ring = ok_json(all, &["ring"]).await;
    let rest = cluster.api(0).ring().await.expect("answers");
    assert_eq!(ring["digest"], json!(rest.digest));
    let located = ok_json(all, &["ring", "user:42"]).await;
    assert_eq!(located["replicas"].as_array().map(Vec::len), Some(3));
    let quorum = ok_json(all, &["quorum"]).await;
    assert_eq!(quorum["partitions"]["all_replicas"], 256);
    assert_eq!(quorum["would_lose"].as_array().map(Vec::len), Some(3));
    let check = ok_json(all, &["check"]).await;
    assert_eq!(check["ok"], true);
}

async fn data(cluster: &Cluster, all: &[String]) {
    let written = ok_json(all, &["put", "dir/a key", "{\"n\": 1}"]).await;
    assert_eq!(written["value"], json!({"n": 1}));
    let read = ok_json(all, &["get", "dir/a key"]).await;
    assert_eq!(read["value"], json!({"n": 1}));
    let context = read["context"].as_str().expect("a context").to_owned();
    ok(all, &["put", "dir/a key", "text", "--context", &context]).await;
    let read = ok(all, &["get", "dir/a key", "--consistency", "all"]).await;
    assert_eq!(read.out, "text\n");
    ok(all, &["put", "negative", "-5"]).await;
    let api = cluster.api(1);
    eventually("negative", GENEROUS, async || {
        let found = api.value("negative").await.map_err(|e| e.to_string())?;
        same("the value", &found, &Some(json!(-5)))
    })
    .await;
    let gone = ok(all, &["del", "dir/a key"]).await;
    assert!(gone.out.contains("dir/a key: synced on"), "{gone:?}");
    fails(all, &["get", "dir/a key"], 1, "not found").await;
}

async fn misuse(all: &[String]) {
    fails(all, &["frobnicate"], 2, "frobnicate").await;
    fails(all, &["restart"], 2, "--clean").await;
    fails(all, &["status", "--output", "yaml"], 2, "yaml").await;
    let long = "k".repeat(2000);
    fails(all, &["get", &long], 2, "1024").await;
    let nobody = [format!("localhost:{}", free_port())];
    fails(&nobody, &["status"], 3, &nobody[0]).await;
    fails(all, &["--read-only", "del", "negative"], 4, "read-only").await;
}
