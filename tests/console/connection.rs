//! Connected, Fallback Mode, Disconnected: each one when it is true, and none of them an end.

use serde_json::json;

use super::{LONG, connected_to, endpoints, feed_proxy::FeedProxy, is_well, open, state};
use crate::support::{
    cluster::Cluster,
    pty::Terminal,
    wait::{GENEROUS, eventually},
};

/// Leaves by the key for it; the terminal is as it was.
pub fn quits(console: &mut Terminal) {
    console.press("Q");
    assert_eq!(console.wait_exit(GENEROUS), 0);
    console.wait_restored(GENEROUS);
}

#[tokio::test]
async fn it_moves_to_another_node_and_outlives_all_of_them() {
    let mut cluster = Cluster::start(3).await;
    let all = endpoints(&cluster);
    let mut console = open(&all);
    let seen = console.wait_for("three nodes serving", GENEROUS, |s| is_well(s, 3));
    assert!(console.is_fullscreen());
    for node in &cluster.nodes {
        assert!(seen.contains(&node.id), "{} is not shown: {seen}", node.id);
    }
    let first = connected_to(&seen).expect("connected somewhere");
    let killed = all.iter().position(|e| *e == first).expect("one of ours");
    cluster.nodes[killed].kill9();
    let other = |s: &str| connected_to(s).is_some_and(|e| e != first && all.contains(&e));
    console.wait_for("another node", GENEROUS, other);
    let noticed = |s: &str| other(s) && s.contains("dead") && s.contains("degraded");
    console.wait_for("the dead node told as such", GENEROUS, noticed);

    for node in &mut cluster.nodes {
        node.kill9();
    }
    let cut = console.wait_for("the end of all connections", GENEROUS, |s| {
        state(s) == Some("Disconnected") && s.contains("STALE")
    });
    for node in &cluster.nodes {
        assert!(cut.contains(&node.id), "the last state is gone: {cut}");
    }
    assert!(cut.contains("was "), "old health told as today's: {cut}");
    console.press("2");
    console.wait_for("another screen, stale as well", GENEROUS, |s| {
        s.contains("3 members") && s.contains("STALE")
    });
    console.press("1");
    assert!(console.is_running());

    for i in 0..3 {
        cluster.nodes[i].start(&[]);
    }
    console.wait_for("everything again", LONG, |s| is_well(s, 3));
    assert!(!console.text().contains("STALE"));
    quits(&mut console);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_states_through_a_proxy_that_refuses_the_feed() {
    let proxy = FeedProxy::bind().await;
    let front = format!("localhost:{}", proxy.port);
    // else the console would learn the node's own address, and go round the proxy
    let advertise = [("RINGD_ADVERTISE", front.as_str())];
    let mut cluster = Cluster::start_with(1, &advertise).await;
    proxy.pass_to(cluster.nodes[0].port);
    proxy.let_feed_pass(false);
    let mut console = open(std::slice::from_ref(&front));
    let in_fallback = |s: &str| state(s) == Some("Fallback Mode") && s.contains(&front);
    let seen = console.wait_for("polling", GENEROUS, |s| {
        in_fallback(s) && s.contains("healthy") && s.contains("node-1")
    });
    let header = seen.lines().next().unwrap_or_default();
    assert!(
        header.contains("age") && header.contains("ws try"),
        "{header}"
    );
    assert!(
        !seen.contains("STALE"),
        "fresh answers told as stale: {seen}"
    );

    proxy.let_feed_pass(true);
    console.wait_for("the feed", GENEROUS, |s| is_well(s, 1));
    proxy.let_feed_pass(false);
    console.wait_for("polling again", GENEROUS, in_fallback);
    // what changes is seen by polling, too
    console.press("5");
    cluster.write(0, "by-poll", &json!(1), GENEROUS).await;
    console.press(":get by-poll\r");
    console.wait_for("a value", GENEROUS, |s| {
        s.contains("by-poll") && s.contains("read from")
    });
    console.press("1");

    cluster.nodes[0].kill9();
    console.wait_for("nothing", GENEROUS, |s| {
        state(s) == Some("Disconnected") && s.contains("STALE") && s.contains("node-1")
    });
    cluster.nodes[0].start(&[]);
    assert!(cluster.answers(0).await);
    console.wait_for("polling after the restart", GENEROUS, in_fallback);
    proxy.let_feed_pass(true);
    console.wait_for("the feed after the restart", GENEROUS, |s| is_well(s, 1));
    assert!(console.is_running());
    quits(&mut console);
}

#[tokio::test]
async fn it_opens_without_any_node_and_finds_the_first_that_comes() {
    let mut cluster = Cluster::start(1).await;
    let all = endpoints(&cluster);
    assert!(cluster.nodes[0].stop().await.success());
    let mut console = open(&all);
    console.wait_for("where it tries", GENEROUS, |s| {
        state(s) == Some("Disconnected")
            && s.contains("No node has answered yet")
            && s.contains(&all[0])
    });
    cluster.nodes[0].start(&[]);
    eventually("it serves", GENEROUS, async || {
        cluster.api(0).status().await.map_err(|e| e.to_string())
    })
    .await;
    console.wait_for("the node", GENEROUS, |s| is_well(s, 1));
    // it waits for the next beat of the cluster, not for its own back-off, when told so
    console.press("r");
    assert!(console.is_running());
    quits(&mut console);
}
