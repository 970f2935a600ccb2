//! "Clean Restart Procedure" by hand: Ctrl+C everywhere, then the bootstrap sequence again.

use serde_json::json;

use crate::support::{cluster::Cluster, wait::GENEROUS};

#[tokio::test]
async fn after_ctrl_c_and_the_same_sequence_everything_is_there() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..30 {
        let key = format!("kept-{n}");
        cluster
            .write(n % 3, &key, &json!({ "n": n }), GENEROUS)
            .await;
    }
    let before = cluster.api(0).status().await.expect("answers");
    let mut lengths = Vec::new();
    for i in 0..3 {
        lengths.push(cluster.nodes[i].log().len());
        let status = cluster.nodes[i].stop().await;
        assert!(status.success(), "{status}");
    }
    for (node, length) in cluster.nodes.iter().zip(&lengths) {
        let said = node.log()[*length..].to_lowercase();
        assert!(
            said.contains("stop"),
            "no graceful shutdown messages: {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
    }

    cluster.nodes[0].start(&[]);
    assert!(cluster.answers(0).await);
    // alone out of three it answers, and says that there is no quorum
    cluster.sees_alive(0, 1).await;
    cluster.sees_quorum(0, false).await;
    let refused = cluster.api(0).put("kept-0", &json!(0)).await;
    assert_eq!(refused.expect("answered").error().code.http_status(), 503);
    let seeds = cluster.seed(0);
    cluster.nodes[1].start(&seeds);
    cluster.agree().await;
    cluster.sees_quorum(0, true).await;
    cluster.nodes[2].start(&seeds);
    cluster.agree().await;

    let mut digests = Vec::new();
    for i in 0..3 {
        let members = cluster.api(i).members().await.expect("answers");
        assert_eq!((members.alive_members, members.total_members), (3, 3));
        let status = cluster.api(i).status().await.expect("answers");
        assert_eq!(status.cluster.cluster_id, before.cluster.cluster_id);
        assert!(status.cluster.ring_epoch >= before.cluster.ring_epoch);
        digests.push(members.membership_digest);
        for n in 0..30 {
            cluster
                .reads(i, &format!("kept-{n}"), &json!({ "n": n }))
                .await;
        }
    }
    assert!(digests.windows(2).all(|w| w[0] == w[1]), "{digests:?}");
}

#[tokio::test]
async fn others_see_a_stop_on_purpose_for_what_it_is() {
    let mut cluster = Cluster::start(3).await;
    assert!(cluster.nodes[2].stop().await.success());
    cluster.sees_alive(0, 2).await;
    let members = cluster.api(0).members().await.expect("answers");
    let third = members
        .cluster_members
        .iter()
        .find(|(id, _)| id.as_str() == "node-3")
        .map(|(_, member)| member.status.as_str());
    assert_eq!(third, Some("stopped"), "stopped, not dead and not left");
    let seeds = cluster.seed(1);
    cluster.nodes[2].start(&seeds);
    cluster.agree().await;
}
