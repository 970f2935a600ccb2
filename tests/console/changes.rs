//! Changes of the ring and adopting, ordered by the verbs, on real nodes.

use ringmaster_shared::member::MemberStatus;
use serde_json::{Value, json};

use super::{
    endpoints,
    run::{Ended, ringmaster},
};
use crate::support::{
    cluster::Cluster,
    wait::{GENEROUS, eventually, same},
};

const KEYS: usize = 20;

async fn ends_with(all: &[String], args: &[&str], code: i32) -> Ended {
    let ended = ringmaster(all, args).await;
    assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
    assert!(!ended.err.contains("panicked"), "{args:?}: {ended:?}");
    ended
}

/// Held dead by node `index`, not only suspected.
async fn is_dead(cluster: &Cluster, index: usize, node: &str) {
    let api = cluster.api(index);
    eventually("it is held dead", GENEROUS, async || {
        let members = api.members().await.map_err(|e| format!("{e:#}"))?;
        let mut seen = members.cluster_members.values();
        let status = seen.find(|m| m.node_id.as_str() == node).map(|m| m.status);
        same("status", &status, &Some(MemberStatus::Dead))
    })
    .await;
}

/// The node `index` sees exactly these in the ring, and nothing moves.
async fn ring_is(cluster: &Cluster, index: usize, want: &[&str]) {
    let api = cluster.api(index);
    eventually("the ring has these members", GENEROUS, async || {
        let ring = api.ring().await.map_err(|e| format!("{e:#}"))?;
        let names: Vec<String> = ring.nodes.iter().map(|n| n.id.to_string()).collect();
        same(
            "members",
            &names,
            &want.iter().map(ToString::to_string).collect(),
        )?;
        same("under way", &ring.transition.is_some(), &false)
    })
    .await;
}

/// Three nodes, and keys for [`all_kept`].
async fn filled() -> Cluster {
    let cluster = Cluster::start(3).await;
    for n in 0..KEYS {
        let key = format!("k{n}");
        cluster.write(n % 3, &key, &json!(n), GENEROUS).await;
    }
    cluster
}

async fn all_kept(cluster: &Cluster, index: usize) {
    for n in 0..KEYS {
        cluster.reads(index, &format!("k{n}"), &json!(n)).await;
    }
}

/// Both other voters fall silent between the plan and the order; nobody holds them dead yet.
#[tokio::test]
async fn an_order_that_may_still_come_about_says_so() {
    let mut cluster = Cluster::start(3).await;
    let at = &endpoints(&cluster)[..1];
    let plan = ["ring", "plan", "leave", "node-3", "--output", "json"];
    let plan = ends_with(at, &plan, 0).await.json();
    let plan = plan["plan_id"].as_str().expect("an id");
    for node in [1, 2] {
        cluster.nodes[node].pause();
    }
    let ended = ends_with(at, &["ring", "apply", plan], 1).await;
    for node in [1, 2] {
        cluster.nodes[node].resume();
    }
    for part in ["the change may still come about", "outcome: not known"] {
        assert!(ended.err.contains(part), "no {part}: {ended:?}");
    }
}

#[tokio::test]
async fn the_verbs_take_members_in_and_out() {
    let mut cluster = filled().await;
    let all = endpoints(&cluster);

    // what is no change is said in words, and nothing is done without --yes
    let living = ends_with(&all, &["ring", "plan", "remove", "node-2"], 4).await;
    assert!(living.err.contains("use leave"), "{living:?}");
    let shown = ends_with(
        &all,
        &["ring", "plan", "leave", "node-2", "--output", "json"],
        0,
    )
    .await;
    let plan: Value = shown.json();
    let id = plan["plan_id"].as_str().expect("a plan").to_owned();
    ends_with(&all, &["leave", "node-2"], 0).await;
    ring_is(&cluster, 0, &["node-1", "node-2", "node-3"]).await;

    let mut flags = cluster.seed(0);
    flags.push("--join=manual".into());
    let candidate = cluster.add(&flags).await;
    let api = cluster.api(candidate);
    eventually("it is a candidate", GENEROUS, async || {
        let status = api.status().await.map_err(|e| format!("{e:#}"))?;
        same("lifecycle", &status.node.lifecycle.as_str(), &"candidate")
    })
    .await;
    cluster.nodes[2].kill9();
    is_dead(&cluster, 0, "node-3").await;
    ends_with(&all, &["replace", "node-3", "node-4", "--yes"], 0).await;
    ring_is(&cluster, 0, &["node-1", "node-2", "node-4"]).await;
    all_kept(&cluster, candidate).await;

    // the ring moved on since that plan
    let late = ends_with(&all, &["ring", "apply", &id], 4).await;
    assert!(late.err.contains("epoch"), "{late:?}");
    ends_with(&all, &["leave", "node-2", "--yes"], 0).await;
    ring_is(&cluster, 0, &["node-1", "node-4"]).await;
    eventually("who left has ended well", GENEROUS, async || {
        let code = cluster.nodes[1].ended().map(|e| e.code());
        same("its exit code", &code, &Some(Some(0)))
    })
    .await;
    all_kept(&cluster, 0).await;
}

#[tokio::test]
async fn a_removed_member_comes_back_with_what_it_holds() {
    let mut cluster = filled().await;
    let all = endpoints(&cluster);
    cluster.nodes[1].kill9();
    is_dead(&cluster, 0, "node-2").await;
    ends_with(&all, &["remove", "node-2", "--yes"], 0).await;
    ring_is(&cluster, 0, &["node-1", "node-3"]).await;

    let mut flags = cluster.seed(0);
    cluster.nodes[1].start(&flags);
    eventually("it is turned away", GENEROUS, async || {
        let code = cluster.nodes[1].ended().map(|e| e.code());
        same("its exit code", &code, &Some(Some(1)))
    })
    .await;
    let log = cluster.nodes[1].log();
    assert!(log.contains("was taken out of cluster"), "{log}");
    flags.push("--adopt".into());
    cluster.nodes[1].kill9();
    cluster.nodes[1].start(&flags);
    ring_is(&cluster, 0, &["node-1", "node-2", "node-3"]).await;
    cluster.agree().await;
    all_kept(&cluster, 1).await;
}

#[tokio::test]
async fn the_verb_adopts_a_split_cluster() {
    let mut cluster = Cluster::start(2).await;
    let founder = cluster.add(&[]).await;
    cluster.write(0, "here", &json!("a"), GENEROUS).await;
    cluster.write(founder, "there", &json!("b"), GENEROUS).await;
    let losing = cluster.nodes[founder].address();
    let into = cluster.nodes[0].address();
    let plan = ends_with(&[], &["adopt", "--endpoints", &losing, "--into", &into], 0).await;
    assert!(plan.out.contains("node-3"), "{plan:?}");
    let before = cluster.api(founder).status().await.expect("answers");
    let kept = cluster.api(0).status().await.expect("answers");
    assert_ne!(before.cluster.cluster_id, kept.cluster.cluster_id);

    let order = ["adopt", "--endpoints", &losing, "--into", &into, "--yes"];
    ends_with(&[], &order, 0).await;
    ring_is(&cluster, 0, &["node-1", "node-2", "node-3"]).await;
    cluster.agree().await;
    for (key, value) in [("here", "a"), ("there", "b")] {
        cluster.reads(1, key, &json!(value)).await;
    }
}
