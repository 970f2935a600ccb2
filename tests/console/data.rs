//! A key written, read and deleted with the data screen's keys.

use reqwest::Method;
use ringmaster_shared::member::Lifecycle;
use serde_json::json;

use super::{
    connected_to,
    connection::quits,
    endpoints, is_well, open,
    run::{ringmaster, ringmaster_with},
};
use crate::support::{
    cluster::Cluster,
    wait::{GENEROUS, eventually, same},
};

#[tokio::test]
async fn a_key_is_written_read_and_deleted_from_the_screen() {
    let cluster = Cluster::start(3).await;
    let mut console = open(&endpoints(&cluster));
    console.wait_for("a connection", GENEROUS, |s| is_well(s, 3));
    console.press("5");
    console.wait_for("the screen", GENEROUS, |s| s.contains(":get user:42"));
    console.press("p");
    console.wait_for("the prompt", GENEROUS, |s| s.contains(":put "));
    console.press("screen:key {\"n\": 7}\r");
    console.wait_for("the receipt", GENEROUS, |s| {
        s.contains("written, on disk at")
    });
    cluster.reads(1, "screen:key", &json!({"n": 7})).await;

    let elsewhere = json!("written elsewhere");
    cluster.write(2, "screen:key", &elsewhere, GENEROUS).await;
    console.press("o");
    console.wait_for("the last key again", GENEROUS, |s| {
        s.contains(":get screen:key")
    });
    console.press("\r");
    let seen = console.wait_for("the value", GENEROUS, |s| s.contains("written elsewhere"));
    for id in ["node-1", "node-2", "node-3"] {
        assert!(seen.contains(id), "no replica {id}: {seen}");
    }

    console.press("x");
    console.wait_for("the prompt", GENEROUS, |s| s.contains(":del screen:key"));
    console.press("\r");
    console.wait_for("the question", GENEROUS, |s| s.contains("Type delete"));
    console.press("no\r");
    console.wait_for("no deletion yet", GENEROUS, |s| {
        s.contains("type exactly: delete")
    });
    cluster.reads(0, "screen:key", &elsewhere).await;
    console.press("\x15delete\r");
    console.wait_for("the receipt", GENEROUS, |s| {
        s.contains("deleted, on disk at")
    });
    eventually("it is gone", GENEROUS, async || {
        let found = cluster.api(0).value("screen:key").await;
        same("the value", &found.map_err(|e| e.to_string())?, &None)
    })
    .await;
    console.press("o");
    console.wait_for("the prompt", GENEROUS, |s| s.contains(":get screen:key"));
    console.press("\r");
    console.wait_for("that it is gone", GENEROUS, |s| s.contains("404"));
    quits(&mut console);
}

#[tokio::test]
async fn a_read_only_console_writes_nothing() {
    let cluster = Cluster::start(1).await;
    let all = endpoints(&cluster);
    let mut flags = super::flags(&all);
    flags.push("--read-only");
    let program = &crate::support::binaries::binaries().ringmaster;
    let mut console =
        crate::support::pty::Terminal::spawn(program, &flags, super::ROWS, super::COLUMNS);
    console.wait_for("a connection", GENEROUS, |s| is_well(s, 1));
    console.press(":put k v\r");
    console.wait_for("the refusal", GENEROUS, |s| s.contains("--read-only"));
    let found = cluster.api(0).value("k").await;
    assert_eq!(found.expect("an answer"), None);
    let ended = super::run::ringmaster(&all, &["--read-only", "put", "k", "v"]).await;
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.err.contains("read-only"), "{ended:?}");
    for (word, code) in [("1", 4), ("yes", 4), ("", 0), ("0", 0), ("off", 0)] {
        let env = [("RINGMASTER_READ_ONLY", word)];
        let ended = ringmaster_with(&all, &["status"], &env).await;
        assert_eq!(ended.code, Some(0), "{word:?}: {ended:?}");
        let ended = ringmaster_with(&all, &["put", &format!("k{code}"), "v"], &env).await;
        assert_eq!(ended.code, Some(code), "{word:?}: {ended:?}");
    }
    for refused in ["k", "k4"] {
        let found = cluster.api(0).value(refused).await;
        assert_eq!(found.expect("an answer"), None);
    }
}

/// Tells a node to do what `order` says, and waits until it is so.
async fn is_told(cluster: &Cluster, node: usize, order: &str, becomes: Lifecycle) {
    let api = cluster.api(node);
    let path = format!("/api/v1/admin/{order}");
    let body = match becomes {
        // longer than any test
        Lifecycle::Standby => json!({"hold_seconds": 3600}),
        _ => json!({}),
    };
    let told = api.send(Method::POST, &path, Some(&body)).await;
    let told = told.expect("answers");
    assert!(told.status < 300, "{order}: {}", told.text());
    eventually(order, GENEROUS, async || {
        let status = api.status().await.map_err(|e| format!("{e:#}"))?;
        same("lifecycle", &status.node.lifecycle, &becomes)
    })
    .await;
}

#[tokio::test]
async fn endpoints_that_serve_nobody_now_are_passed_over() {
    let cluster = Cluster::start(3).await;
    let all = endpoints(&cluster);
    is_told(&cluster, 0, "standby", Lifecycle::Standby).await;
    is_told(&cluster, 1, "drain", Lifecycle::Draining).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.json");
    std::fs::write(&file, r#"{"b": 2, "c": 3}"#).expect("written");
    let file = file.display().to_string();
    let verbs: [&[&str]; 5] = [
        &["put", "a", "1"],
        &["put", "--batch", &file],
        &["get", "a"],
        &["get", "a", "b", "c"],
        &["del", "a"],
    ];
    for verb in verbs {
        let ended = ringmaster(&all, verb).await;
        assert_eq!(ended.code, Some(0), "{verb:?}: {ended:?}");
    }
    // nobody else is named: then that is what is said, and nothing was done
    let ended = ringmaster(&all[..1], &["put", "d", "4"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("standby"), "{ended:?}");
    let found = cluster.api(2).value("d").await;
    assert_eq!(found.expect("an answer"), None);
}

/// It knows the ring and nobody in it: it would tell of an outage that is none.
#[tokio::test]
async fn a_held_node_that_is_named_first_is_not_taken_for_the_cluster() {
    let cluster = Cluster::start(3).await;
    let all = endpoints(&cluster);
    is_told(&cluster, 0, "standby", Lifecycle::Standby).await;
    eventually("the others know", GENEROUS, async || {
        let seen = cluster
            .api(1)
            .members()
            .await
            .map_err(|e| format!("{e:#}"))?;
        same("alive", &seen.alive_members, &2)
    })
    .await;
    for verb in [vec!["status"], vec!["quorum"], vec!["ring", "user:42"]] {
        let ended = ringmaster(&all, &verb).await;
        assert_eq!(ended.code, Some(0), "{verb:?}: {ended:?}");
    }
    let members = ringmaster(&all, &["members"]).await;
    assert_eq!(members.code, Some(1), "{members:?}");
    assert!(members.out.contains("2 of 3 alive"), "{members:?}");
    let refill = ["refill", "node-2", "--accept-loss"];
    let refill = ringmaster(&all, &refill).await;
    assert!(
        refill.err.contains("waits for no such decision"),
        "{refill:?}"
    );
    // nobody but the held one stands in the way of a change, and it is named by who sees it
    let of = async |endpoints: &[String]| {
        let plan = ["ring", "plan", "leave", "node-3", "--output", "json"];
        ringmaster(endpoints, &plan).await.json()["obstacles"].clone()
    };
    assert_eq!(of(&all).await, of(&all[1..]).await);
    assert_ne!(of(&all).await, of(&all[..1]).await);

    let mut console = open(&all);
    let seen = console.wait_for("who serves", GENEROUS, |s| {
        s.contains("degraded") && s.contains("2 of 3 serving")
    });
    assert_eq!(connected_to(&seen).as_ref(), Some(&all[1]), "{seen}");
    console.press("8");
    let seen = console.wait_for("the diagnosis", GENEROUS, |s| s.contains("NODE_STANDBY"));
    assert!(seen.contains("/api/v1/admin/start"), "{seen}");
    for wrong in ["No quorum", "ringd --node-id"] {
        assert!(!seen.contains(wrong), "{wrong}: {seen}");
    }
    quits(&mut console);

    // only it is named: what is shown is what it knows, and that is said
    let mut console = open(&all[..1]);
    console.press("8");
    let seen = console.wait_for("the diagnosis", GENEROUS, |s| {
        s.contains("CONSOLE_SEES_ONE")
    });
    for wrong in ["No quorum", "nothing was heard"] {
        assert!(!seen.contains(wrong), "{wrong}: {seen}");
    }
    is_told(&cluster, 0, "start", Lifecycle::Serving).await;
    console.press("1");
    console.wait_for("all three", GENEROUS, |s| is_well(s, 3));
    quits(&mut console);
}

#[tokio::test]
async fn keys_of_dots_are_keys_like_others() {
    let cluster = Cluster::start(1).await;
    let all = endpoints(&cluster);
    for key in [".", "..", "..."] {
        let value = format!("of {key}");
        let put = ringmaster(&all, &["put", key, &value, "--if-absent"]).await;
        assert_eq!(put.code, Some(0), "{put:?}");
        let again = ringmaster(&all, &["put", key, "other", "--if-absent"]).await;
        assert_eq!(again.code, Some(4), "{again:?}");
        let get = ringmaster(&all, &["get", key]).await;
        assert_eq!(
            (get.code, get.out.trim()),
            (Some(0), value.as_str()),
            "{get:?}"
        );
        let many = ringmaster(&all, &["get", key, "..", "--output", "json"]).await;
        assert_eq!(
            many.json()["results"][0]["answer"]["value"],
            value,
            "{many:?}"
        );
        let del = ringmaster(&all, &["del", key]).await;
        assert_eq!(del.code, Some(0), "{del:?}");
        let gone = ringmaster(&all, &["get", key]).await;
        assert_eq!(gone.code, Some(1), "{gone:?}");
    }
}
