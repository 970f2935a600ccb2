//! "Cluster Bootstrap Process": one starts alone, the others join, in whatever order.

use ringmaster_shared::quorum::ClusterHealth;
use serde_json::json;

use crate::support::{
    cluster::Cluster,
    node::{Node, free_port},
    wait::{GENEROUS, eventually, same},
};

#[tokio::test]
async fn three_nodes_one_after_the_other() {
    let mut cluster = Cluster::empty().await;
    for count in 1..=3 {
        let seeds = if count == 1 { vec![] } else { cluster.seed(0) };
        cluster.add(&seeds).await;
        cluster.agree().await;
        for i in 0..count {
            let members = cluster.api(i).members().await.expect("answers");
            assert_eq!(
                (members.alive_members, members.total_members),
                (count, count)
            );
            assert_eq!(members.current_node.as_str(), format!("node-{}", i + 1));
            let ring = cluster.api(i).ring().await.expect("answers");
            assert_eq!(ring.ring.physical_nodes, count, "the ring rebalances");
            let status = cluster.api(i).status().await.expect("answers");
            assert!(status.replication.quorum_available);
            assert_eq!(status.replication.quorum_size, count.min(3) / 2 + 1);
            assert_eq!(status.cluster.health, ClusterHealth::Healthy);
        }
    }
    // all see the same, down to every member's address and generation
    let mut digests = Vec::new();
    for i in 0..3 {
        let members = cluster.api(i).members().await.expect("answers");
        let addresses: Vec<_> = members
            .cluster_members
            .values()
            .map(|m| &m.address)
            .collect();
        let own: Vec<_> = cluster.nodes.iter().map(Node::address).collect();
        assert_eq!(addresses, own.iter().collect::<Vec<_>>());
        digests.push(members.membership_digest);
    }
    assert!(digests.windows(2).all(|w| w[0] == w[1]), "{digests:?}");
}

#[tokio::test]
async fn data_written_early_is_spread_over_who_comes_later() {
    let mut cluster = Cluster::start(1).await;
    for n in 0..50 {
        let key = format!("early-{n}");
        cluster.write(0, &key, &json!(n), GENEROUS).await;
    }
    for _ in 0..2 {
        let seeds = cluster.seed(0);
        cluster.add(&seeds).await;
        cluster.agree().await;
    }
    for n in 0..50 {
        cluster.reads(2, &format!("early-{n}"), &json!(n)).await;
    }
    // nodes 2 and 3 hold all of it: node 1 is not needed any more
    cluster.nodes[0].kill9();
    for n in 0..50 {
        cluster.reads(1, &format!("early-{n}"), &json!(n)).await;
    }
}

#[tokio::test]
async fn a_node_whose_seed_is_not_up_waits_and_says_so() {
    let mut cluster = Cluster::empty().await;
    let seed_port = free_port();
    let waiting = cluster
        .add(&[format!("--seed-node=localhost:{seed_port}")])
        .await;
    let api = cluster.api(waiting);
    // the port answers already, and soon says what the node waits for
    let status = eventually("it names the seed", GENEROUS, async || {
        let status = api.status().await.map_err(|e| format!("{e:#}"))?;
        let waits_for = status.node.waiting_for.clone().unwrap_or_default();
        let named = waits_for.contains(&seed_port.to_string());
        if named {
            Ok(status)
        } else {
            Err(format!("it waits for {waits_for:?}"))
        }
    })
    .await;
    assert_eq!(status.node.lifecycle.as_str(), "joining");
    assert_eq!(
        status.cluster.cluster_id, "",
        "it founds no cluster of its own"
    );
    let members = api.members().await.expect("answers");
    assert_eq!(members.total_members, 1);
    let put = api.put("k", &json!(1)).await.expect("answered");
    assert_eq!(put.error().code.http_status(), 503);

    // the seed comes up late
    let root = cluster.nodes[waiting].data_dir();
    let root = root.parent().and_then(|p| p.parent()).expect("a folder");
    let mut late = Node::new("late-seed", root);
    late.port = seed_port;
    late.start(&[]);
    cluster.nodes.push(late);
    assert!(cluster.answers(1).await);
    cluster.agree().await;
    let ids: Vec<_> = [cluster.api(0), cluster.api(1)].into();
    let mut clusters = Vec::new();
    for api in ids {
        clusters.push(api.members().await.expect("answers").cluster_id);
    }
    assert_eq!(clusters[0], clusters[1]);
}

#[tokio::test]
async fn several_seeds_of_which_some_are_dead_or_this_node_itself() {
    let mut cluster = Cluster::start(1).await;
    let (dead, alive) = (free_port(), cluster.nodes[0].port);
    let list = format!("--seed-nodes=localhost:{dead},localhost:{alive}");
    let second = cluster.add(&[list]).await;
    cluster.agree().await;
    // a list of all, its own address included, in the other spelling of flags
    let own = cluster.nodes[second].address();
    assert!(cluster.nodes[second].stop().await.success());
    let list = format!("{own},localhost:{dead},localhost:{alive}");
    cluster.nodes[second].start(&["--seed-nodes".into(), list]);
    cluster.agree().await;
}

#[tokio::test]
async fn all_at_once() {
    let mut cluster = Cluster::empty().await;
    cluster.add(&[]).await;
    let seeds = cluster.seed(0);
    for _ in 0..3 {
        cluster.add(&seeds).await;
    }
    cluster.agree().await;
    let api = cluster.api(3);
    eventually("the ring has four nodes", GENEROUS, async || {
        let ring = api.ring().await.map_err(|e| format!("{e:#}"))?;
        same("physical_nodes", &ring.ring.physical_nodes, &4)
    })
    .await;
}
