//! "Troubleshooting", and what the guide promises about quorum.

use ringmaster_shared::error::ErrorCode;
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
        let both = said.contains(&our_id) && said.contains(&their_id);
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
