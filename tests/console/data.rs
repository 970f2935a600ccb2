//! A key written, read and deleted with the data screen's keys.

use serde_json::json;

use super::{connection::quits, endpoints, is_well, open};
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
    let found = cluster.api(0).value("k").await;
    assert_eq!(found.expect("an answer"), None);
}
