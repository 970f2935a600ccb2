//! "Troubleshooting", and what the guide promises about quorum.

use ringmaster_shared::{api::data::ReadResponse, error::ErrorCode};
use serde_json::json;

use crate::support::{
    cluster::Cluster,
    wait::{GENEROUS, eventually},
};

#[tokio::test]
async fn alone_out_of_three_there_is_no_quorum_and_nothing_is_done() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(0, "k", &json!("old"), GENEROUS).await;
    cluster.nodes[1].kill9();
    cluster.nodes[2].kill9();
    cluster.sees_quorum(0, false).await;
    let api = cluster.api(0);
    let put = api.put("k", &json!("new")).await.expect("answered");
    let error = put.error();
    assert_eq!(error.code, ErrorCode::QuorumNotMet);
    assert!(put.headers.contains_key("retry-after"));
    for missing in ["node-2", "node-3"] {
        assert!(
            error.error.contains(missing) || error.details.to_string().contains(missing),
            "{missing} is not named: {error:?}"
        );
    }
    let read = api.read("k").await.expect("answered").error();
    assert_eq!(read.code, ErrorCode::QuorumNotMet);
    let status = api.status().await.expect("answers");
    assert_eq!(status.replication.alive_nodes, 1);
    assert_eq!(status.replication.total_nodes, 3);
    // with one more there is a quorum again, and the refused write left no trace
    let seeds = cluster.seed(0);
    cluster.nodes[1].start(&seeds);
    cluster.sees_quorum(0, true).await;
    cluster.reads(1, "k", &json!("old")).await;
}

#[tokio::test]
async fn two_clusters_never_mix_by_accident() {
    let mut ours = Cluster::start(2).await;
    let mut theirs = Cluster::start(1).await;
    let id = async |cluster: &Cluster| {
        let status = cluster.api(0).status().await.expect("answers");
        status.cluster.cluster_id
    };
    let (our_id, their_id) = (id(&ours).await, id(&theirs).await);
    assert_ne!(our_id, their_id);
    let length = ours.nodes[1].log().len();
    assert!(ours.nodes[1].stop().await.success());
    let wrong_seed = theirs.seed(0);
    ours.nodes[1].start(&wrong_seed);
    let node = &ours.nodes[1];
    eventually("the refusal names both clusters", GENEROUS, async || {
        let said = node.log()[length..].to_owned();
        let both = said.contains(&our_id) && said.contains(&their_id) && said.contains("--adopt");
        if both {
            Ok(())
        } else {
            Err(format!("it says {said}"))
        }
    })
    .await;
    let members = theirs.api(0).members().await.expect("answers");
    assert_eq!(members.total_members, 1, "nobody was let in");
    assert!(theirs.nodes[0].is_running());
    // asking for it by hand is refused as well
    let body = json!({"address": ours.nodes[0].address()});
    let join = theirs
        .api(0)
        .send(reqwest::Method::POST, "/gossip/join", Some(&body))
        .await;
    assert_ne!(join.expect("answered").status, 200);
    assert_eq!(id(&ours).await, our_id);
    assert_eq!(id(&theirs).await, their_id);
}

#[tokio::test]
async fn views_converge_after_a_pause() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[2].pause();
    cluster.sees_alive(0, 2).await;
    cluster.sees_alive(1, 2).await;
    cluster.nodes[2].resume();
    cluster.agree().await;
}

/// Problem 1: every node was founded alone, and each took writes.
#[tokio::test]
async fn a_split_brain_is_healed_by_a_restart_in_order_with_seeds() {
    let mut cluster = Cluster::empty().await;
    for i in 0..3 {
        cluster.add(&[]).await;
        let key = format!("of-{i}");
        cluster.write(i, &key, &json!(i), GENEROUS).await;
        cluster.write(i, "shared", &json!(i), GENEROUS).await;
        cluster.sees_alive(i, 1).await;
    }
    let mut ids = Vec::new();
    for i in 0..3 {
        let status = cluster.api(i).status().await.expect("answers");
        ids.push(status.cluster.cluster_id);
        cluster.nodes[i].kill9();
    }
    cluster.nodes[0].start(&[]);
    assert!(cluster.answers(0).await);
    // with a seed alone a node refuses, and names the way
    let seed = cluster.seed(0);
    cluster.nodes[1].start(&seed);
    let node = &mut cluster.nodes[1];
    let status = eventually("it ends", GENEROUS, async || {
        node.ended().ok_or_else(|| "it runs".to_owned())
    })
    .await;
    assert_eq!(status.code(), Some(1));
    let log = node.log();
    let last = log.lines().last().unwrap_or_default();
    for part in [ids[0].as_str(), ids[1].as_str(), "--adopt"] {
        assert!(last.contains(part), "{part} is not in: {last}");
    }
    node.kill9();
    let flags = [seed, vec!["--adopt".to_owned()]].concat();
    for i in [1, 2] {
        cluster.nodes[i].start(&flags);
    }
    cluster.agree().await;
    for i in 0..3 {
        let api = cluster.api(i);
        let members = api.members().await.expect("answers");
        assert_eq!((members.alive_members, members.total_members), (3, 3));
        for n in 0..3 {
            cluster.reads(i, &format!("of-{n}"), &json!(n)).await;
        }
        let read: ReadResponse = api.get("/api/v1/data/shared").await.expect("found");
        let siblings = read.siblings.expect("three wrote it");
        assert_eq!(siblings.len(), 3, "{siblings:?}");
    }
}
