//! Clean restart: from the screen, from a script, refused, cancelled, and cut off in the middle.

use reqwest::Method;
use ringmaster_shared::{api::health::StatusResponse, member::Lifecycle};
use serde_json::{Value, json};

use super::{
    LONG,
    connection::quits,
    endpoints, is_well, open,
    run::{begin, end, interrupt, ringmaster},
};
use crate::support::{
    cluster::Cluster,
    pty::Terminal,
    wait::{GENEROUS, eventually, same},
};

const KEYS: usize = 30;

/// What each node said of itself, by index.
pub async fn statuses(cluster: &Cluster) -> Vec<StatusResponse> {
    let mut all = Vec::new();
    for i in 0..cluster.nodes.len() {
        all.push(cluster.api(i).status().await.expect("answers"));
    }
    all
}

/// Three nodes that hold [`KEYS`] keys.
pub async fn filled() -> Cluster {
    let cluster = Cluster::start(3).await;
    for n in 0..KEYS {
        let key = format!("kept-{n}");
        cluster
            .write(n % 3, &key, &json!({ "n": n }), GENEROUS)
            .await;
    }
    cluster
}

/// The same processes in a new life: one cluster, the same one, with everything in it.
pub async fn came_back(cluster: &mut Cluster, before: &[StatusResponse]) {
    cluster.agree().await;
    let after = statuses(cluster).await;
    for (old, new) in before.iter().zip(&after) {
        let id = &old.node.id;
        assert_eq!(new.node.pid, old.node.pid, "{id} is another process");
        assert!(
            new.node.generation > old.node.generation,
            "{id} never restarted"
        );
        assert_eq!(new.cluster.cluster_id, old.cluster.cluster_id, "{id}");
        assert!(new.cluster.ring_epoch >= old.cluster.ring_epoch, "{id}");
        assert_eq!(
            new.cluster.ring_digest, after[0].cluster.ring_digest,
            "{id}"
        );
    }
    for i in 0..cluster.nodes.len() {
        for n in 0..KEYS {
            cluster
                .reads(i, &format!("kept-{n}"), &json!({ "n": n }))
                .await;
        }
    }
}

/// The cluster it was, with everything in it, whichever nodes restarted.
pub async fn still_one(cluster: &Cluster, before: &[StatusResponse]) {
    for status in statuses(cluster).await {
        let id = &status.cluster.cluster_id;
        assert_eq!(id, &before[0].cluster.cluster_id, "{}", status.node.id);
    }
    for i in 0..cluster.nodes.len() {
        for n in 0..KEYS {
            let key = format!("kept-{n}");
            cluster.reads(i, &key, &json!({ "n": n })).await;
        }
    }
}

/// Waits until a node is on its way down.
async fn has_begun(cluster: &Cluster) {
    eventually("the restart begins", GENEROUS, async || {
        for i in 0..cluster.nodes.len() {
            match cluster.api(i).status().await {
                Ok(status) if status.node.lifecycle == Lifecycle::Serving => {}
                _ => return Ok(()),
            }
        }
        Err("all nodes serve".to_owned())
    })
    .await;
}

#[tokio::test]
async fn from_the_screen_with_a_preview_and_a_typed_confirmation() {
    let mut cluster = filled().await;
    let before = statuses(&cluster).await;
    let mut console = open(&endpoints(&cluster));
    let steps = [
        "bring to standby",
        "clear gossip state",
        "with seed",
        "verify",
    ];
    previews(&mut console, "clean", &steps);
    console.press("\r");
    let question = "Type clean restart 3 nodes";
    console.wait_for("the question", GENEROUS, |s| s.contains(question));
    console.press("yes\r");
    let refused = "type exactly: clean restart 3 nodes";
    console.wait_for("no start yet", GENEROUS, |s| s.contains(refused));
    for (old, new) in before.iter().zip(statuses(&cluster).await) {
        let (old, new) = (old.node.generation, new.node.generation);
        assert_eq!(old, new, "it began unconfirmed");
    }
    console.press("\x15clean restart 3 nodes\r");
    let running = |s: &str| s.contains("stop all") && s.contains("clear gossip");
    console.wait_for("its progress", GENEROUS, running);
    let seen = console.wait_for("its end", LONG, |s| s.contains("clean restart done in"));
    for step in ["preflight", "bootstrap node-", "start node-", "verify"] {
        assert!(seen.contains(step), "no {step}: {seen}");
    }
    assert!(seen.contains("Writes were refused for"), "{seen}");
    console.press("l");
    console.wait_for("its log", GENEROUS, |s| s.contains("holds for"));
    console.press("1");
    console.wait_for("all is well", GENEROUS, |s| is_well(s, 3));
    came_back(&mut cluster, &before).await;
    let canary = cluster.api(0).value("ringmaster:canary").await;
    let canary = canary.expect("an answer");
    assert_eq!(canary, None, "the canary was left behind");

    // one after the other, from the same screen
    let before = statuses(&cluster).await;
    previews(&mut console, "rolling", &["restart node-1; go on when"]);
    confirms(&mut console, "rolling");
    let done = "rolling restart of 3 nodes done in";
    console.wait_for("its end", LONG, |s| s.contains(done));
    came_back(&mut cluster, &before).await;
    quits(&mut console);
}

#[tokio::test]
async fn cancelled_on_the_screen_it_brings_the_nodes_back() {
    let mut cluster = filled().await;
    let before = statuses(&cluster).await;
    let mut console = open(&endpoints(&cluster));
    previews(&mut console, "clean", &[]);
    confirms(&mut console, "clean");
    has_begun(&cluster).await;
    console.press("Q");
    console.wait_for("a warning", GENEROUS, |s| s.contains("Q again leaves it"));
    console.press("c");
    let cancelled = "cancelled by the operator";
    console.wait_for("the end", LONG, |s| s.contains(cancelled));
    cluster.agree().await;
    still_one(&cluster, &before).await;
    console.press("1");
    console.wait_for("all is well", GENEROUS, |s| is_well(s, 3));
    quits(&mut console);
}

fn confirms(console: &mut Terminal, kind: &str) {
    console.press("\r");
    let words = format!("{kind} restart 3 nodes");
    let question = format!("Type {words}");
    console.wait_for("the question", GENEROUS, |s| s.contains(&question));
    console.press(&format!("{words}\r"));
}

/// The preview of a restart, as soon as every node's own answer is in.
fn previews(console: &mut Terminal, kind: &str, steps: &[&str]) {
    console.wait_for("a connection", GENEROUS, |s| is_well(s, 3));
    let command = format!(":restart {kind}\r");
    let ready = |s: &str| s.contains("Nothing stands in the way");
    let seen = console.press_until(&command, "the preview", GENEROUS, ready);
    assert!(seen.contains("not started"), "{seen}");
    for step in steps {
        assert!(seen.contains(step), "no {step}: {seen}");
    }
}

#[tokio::test]
async fn from_a_script_with_a_plan_first() {
    let mut cluster = filled().await;
    let all = endpoints(&cluster);
    let before = statuses(&cluster).await;
    let plan = ringmaster(&all, &["restart", "--clean"]).await;
    assert_eq!(plan.code, Some(0), "{plan:?}");
    assert!(
        plan.out
            .contains("bring to standby: node-1, node-2, node-3"),
        "{plan:?}"
    );
    assert!(plan.err.contains("nothing was done"), "{plan:?}");
    let plan = ringmaster(&all, &["restart", "--clean", "--output", "json"]).await;
    assert_eq!(plan.code, Some(0), "{plan:?}");
    assert_eq!(
        plan.json()["steps"].as_array().map(Vec::len),
        Some(6),
        "{plan:?}"
    );
    for (old, new) in before.iter().zip(statuses(&cluster).await) {
        assert_eq!(
            old.node.generation, new.node.generation,
            "a plan restarted it"
        );
    }

    let done = ringmaster(&all, &["restart", "--clean", "--yes", "-o", "json"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let report = done.json();
    assert_eq!(report["procedure"], "clean_restart");
    assert_eq!(report["ok"], true);
    assert_eq!(report["nodes"].as_array().map(Vec::len), Some(3));
    assert!(report["writes_refused_ms"].as_u64() > Some(0), "{report}");
    let steps = report["steps"].as_array().expect("steps");
    assert!(steps.iter().all(|step| step["state"] == "done"), "{report}");
    came_back(&mut cluster, &before).await;

    let before = statuses(&cluster).await;
    let done = ringmaster(&all, &["restart", "--clean", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("clean restart done in"), "{done:?}");
    came_back(&mut cluster, &before).await;
}

#[tokio::test]
async fn it_is_refused_while_a_member_is_down() {
    let mut cluster = filled().await;
    let all = endpoints(&cluster);
    cluster.nodes[2].kill9();
    let before = [0, 1].map(|i| cluster.api(i));
    for how in ["--clean", "--rolling"] {
        let refused = ringmaster(&all, &["restart", how, "--yes"]).await;
        assert_eq!(refused.code, Some(4), "{how}: {refused:?}");
        assert!(refused.err.contains("refused"), "{how}: {refused:?}");
        assert!(refused.err.contains("node-3"), "{how}: {refused:?}");
    }
    for api in &before {
        let status = api.status().await.expect("answers");
        assert_eq!(status.node.lifecycle, Lifecycle::Serving);
    }
    // nor from the screen
    cluster.sees_alive(0, 2).await;
    let mut console = open(&all[..1]);
    console.wait_for("the dead node", GENEROUS, |s| s.contains("2 of 3 serving"));
    console.press(":restart clean\r");
    let seen = console.wait_for("why not", GENEROUS, |s| s.contains("node-3"));
    assert!(!seen.contains("Nothing stands in the way"), "{seen}");
    console.press("\r");
    console.wait_for("the refusal", GENEROUS, |s| s.contains("not now"));
    assert!(
        !console.text().contains("Type restart"),
        "it may be confirmed"
    );
    quits(&mut console);
}

/// The same order to every node, which must take it.
async fn order(cluster: &Cluster, path: &str, body: &Value) {
    for i in 0..cluster.nodes.len() {
        let reply = cluster.api(i).send(Method::POST, path, Some(body)).await;
        let reply = reply.expect("answers");
        assert!(reply.status < 300, "{path}: {}", reply.text());
    }
}

const STANDBY: &str = "/api/v1/admin/standby";

#[tokio::test]
async fn a_hold_that_runs_out_brings_all_nodes_back() {
    let mut cluster = filled().await;
    let before = statuses(&cluster).await;
    order(&cluster, STANDBY, &json!({"hold_seconds": 2})).await;
    in_new_life(&cluster, &before).await;
    came_back(&mut cluster, &before).await;
}

#[tokio::test]
async fn so_it_does_when_their_gossip_was_cleared_already() {
    let mut cluster = filled().await;
    let before = statuses(&cluster).await;
    order(&cluster, STANDBY, &json!({"hold_seconds": 300})).await;
    eventually("all in standby", GENEROUS, async || {
        for i in 0..3 {
            let status = cluster.api(i).status().await;
            let lifecycle = status.map_err(|e| format!("{e:#}"))?.node.lifecycle;
            same("lifecycle", &lifecycle, &Lifecycle::Standby)?;
        }
        Ok(())
    })
    .await;
    order(&cluster, "/api/v1/admin/clear-gossip", &json!({})).await;
    // held, they can be told to hold for another while
    order(&cluster, STANDBY, &json!({"hold_seconds": 1})).await;
    came_back(&mut cluster, &before).await;
}

/// All nodes answer as the process that came after.
async fn in_new_life(cluster: &Cluster, before: &[StatusResponse]) {
    eventually("new lives", LONG, async || {
        for (i, old) in before.iter().enumerate() {
            let status = cluster
                .api(i)
                .status()
                .await
                .map_err(|e| format!("{e:#}"))?;
            if status.node.generation <= old.node.generation {
                return Err(format!("{} still lives its old life", old.node.id));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_console_killed_in_the_middle_leaves_nodes_that_can_be_started() {
    let mut cluster = filled().await;
    let before = statuses(&cluster).await;
    let mut restart = begin(&endpoints(&cluster), &["restart", "--clean", "--yes"]);
    eventually("a node in standby", GENEROUS, async || {
        for i in 0..3 {
            let status = cluster.api(i).status().await;
            if status.is_ok_and(|s| s.node.lifecycle == Lifecycle::Standby) {
                return Ok(());
            }
        }
        Err("none is".to_owned())
    })
    .await;
    restart.kill().await.expect("SIGKILL");
    // each waits for its hold to end; somebody who comes along may end it sooner
    eventually("all serve", LONG, async || {
        let mut waiting = Vec::new();
        for i in 0..3 {
            let api = cluster.api(i);
            let status = api.status().await.map_err(|e| format!("{e:#}"))?;
            if status.node.lifecycle == Lifecycle::Standby {
                let order = json!({});
                let told = api
                    .send(Method::POST, "/api/v1/admin/start", Some(&order))
                    .await;
                let told = told.map_err(|e| e.to_string())?;
                waiting.push(format!("{}: {}", status.node.id, told.text()));
            } else if status.node.lifecycle != Lifecycle::Serving {
                waiting.push(format!("{} is {:?}", status.node.id, status.node.lifecycle));
            }
        }
        if waiting.is_empty() {
            Ok(())
        } else {
            Err(waiting.join("; "))
        }
    })
    .await;
    cluster.agree().await;
    still_one(&cluster, &before).await;
}

#[tokio::test]
async fn cancelled_by_ctrl_c_it_brings_the_nodes_back() {
    let mut cluster = filled().await;
    let before = statuses(&cluster).await;
    let restart = begin(&endpoints(&cluster), &["restart", "--clean", "--yes"]);
    has_begun(&cluster).await;
    interrupt(&restart);
    let ended = end(restart).await;
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(ended.err.contains("cancelled by the operator"), "{ended:?}");
    // all of them at once, long before their hold ends
    cluster.agree().await;
    still_one(&cluster, &before).await;
}
