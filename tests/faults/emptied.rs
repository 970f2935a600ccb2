//! Two of three replicas lose their folders at once. Neither can get its data back by the other, so
//! both wait, and say so; a person decides, and what the third one holds is served again. And the only
//! member of a ring loses its folder: nobody can tell it whether that ring was the last.

use ringmaster_shared::{event::EventCode, member::Lifecycle};
use serde_json::{Value, json};

use crate::{
    console::run::ringmaster,
    support::{
        cluster::{Cluster, votes},
        wait::{GENEROUS, eventually, same},
    },
};

const KEYS: usize = 40;

fn key(n: usize) -> String {
    format!("kept-{n}")
}

/// The node itself says, by this problem, that it waits for a decision.
async fn waits(cluster: &Cluster, node: usize, code: &str) -> Result<String, String> {
    let status = cluster.api(node).status().await;
    let status = status.map_err(|e| format!("{e:#}"))?;
    let problems = status.cluster.problems;
    let found = problems.iter().find(|p| p.code == code);
    let found = found.ok_or_else(|| format!("{:?} {problems:?}", status.node.lifecycle))?;
    same("lifecycle", &status.node.lifecycle, &Lifecycle::Recovering)?;
    Ok(found.message.clone())
}

#[tokio::test]
async fn two_emptied_replicas_wait_for_a_decision_and_then_go_on_with_what_is_left() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..KEYS {
        cluster.write(0, &key(n), &json!(n), GENEROUS).await;
    }
    let seed = cluster.seed(0);
    for node in [1, 2] {
        cluster.nodes[node].kill9();
        cluster.nodes[node].lose("");
    }
    for node in [1, 2] {
        cluster.nodes[node].start(&seed);
    }
    for node in [1, 2] {
        let what = "it waits for a decision";
        let why = eventually(what, GENEROUS, async || {
            waits(&cluster, node, "REFILL_BLOCKED").await
        })
        .await;
        let command = format!("ringmaster refill node-{} --accept-loss", node + 1);
        assert!(why.contains(&command), "{why}");
    }
    let refused = cluster.api(0).read(&key(0)).await.expect("answered");
    assert_eq!(refused.status, 503, "one replica is no quorum");

    // the whole one has nothing to decide
    let endpoints = [cluster.nodes[0].address()];
    let ended = ringmaster(&endpoints, &["refill", "node-1", "--accept-loss", "--yes"]).await;
    assert_ne!(ended.code, Some(0), "{ended:?}");
    // without --yes it is only shown
    let ended = ringmaster(&endpoints, &["refill", "node-2", "--accept-loss"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("node-3"), "{ended:?}");
    let still = waits(&cluster, 1, "REFILL_BLOCKED").await;
    assert!(still.is_ok(), "{still:?}");

    let ended = ringmaster(&endpoints, &["refill", "node-2", "--accept-loss", "--yes"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    cluster.agree().await;
    for node in 0..3 {
        for n in 0..KEYS {
            cluster.reads(node, &key(n), &json!(n)).await;
        }
        let key = format!("after-{node}");
        cluster.write(node, &key, &json!(node), GENEROUS).await;
    }
    let page: Value = cluster
        .api(1)
        .get("/api/v1/events?limit=1000")
        .await
        .expect("events");
    let events = page["events"].as_array().expect("a list");
    let told = |code: EventCode| {
        let code = serde_json::to_value(code).expect("a name");
        events.iter().any(|e| e["code"] == code)
    };
    assert!(told(EventCode::RefillBlocked) && told(EventCode::OrderReceived));

    // both had forgotten what they voted; rings are decided again all the same
    cluster.add(&seed).await;
    cluster.agree().await;
    for n in 0..KEYS {
        cluster.reads(3, &key(n), &json!(n)).await;
    }
}

#[tokio::test]
async fn the_only_member_that_lost_its_folder_goes_on_when_told_that_there_is_no_later_ring() {
    let mut cluster = Cluster::start(1).await;
    let mut flags = cluster.seed(0);
    flags.push("--join=manual".into());
    let candidate = cluster.add(&flags).await;
    cluster.sees_alive(candidate, 2).await;
    let seed = cluster.seed(candidate);
    cluster.nodes[0].kill9();
    cluster.nodes[0].lose("");
    cluster.nodes[0].start(&seed);
    let why = eventually("it waits for a decision", GENEROUS, async || {
        waits(&cluster, 0, "VOTES_FORGOTTEN").await
    })
    .await;
    assert!(
        why.contains("ringmaster refill node-1 --accept-loss"),
        "{why}"
    );
    let refused = cluster.api(0).put("k", &json!(1)).await.expect("answered");
    assert_eq!(refused.status, 503, "{}", refused.text());

    let endpoints = [cluster.nodes[candidate].address()];
    let ended = ringmaster(&endpoints, &["refill", "node-1", "--accept-loss", "--yes"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    cluster.write(0, "k", &json!(2), GENEROUS).await;
    cluster.reads(0, "k", &json!(2)).await;
    eventually("nothing is left to be decided", GENEROUS, async || {
        votes(&cluster.api(0)).await
    })
    .await;
}
