//! "Node Recovery & Rejoining": a node dies, the others go on, and it returns through any of them.

use ringmaster_shared::api::data::ReplicasResponse;
use serde_json::json;

use crate::support::{
    cluster::Cluster,
    wait::{GENEROUS, eventually},
};

/// Every replica of the key holds the same, without anybody having asked for a repair.
async fn all_replicas_same(cluster: &Cluster, key: &str) {
    let api = cluster.api(0);
    let path = format!("/api/v1/data/{key}/replicas");
    eventually("all replicas hold the same", GENEROUS, async || {
        let found = api.get::<ReplicasResponse>(&path).await;
        let replicas = found.map_err(|e| format!("{e:#}"))?.replicas;
        let first = replicas.first().and_then(|r| r.fingerprint.clone());
        let same = first.is_some() && replicas.iter().all(|r| r.fingerprint == first);
        if same {
            Ok(())
        } else {
            Err(format!("{replicas:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn the_bootstrap_node_dies_and_returns_through_another() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(0, "before", &json!(1), GENEROUS).await;
    cluster.nodes[0].kill9();
    for i in [1, 2] {
        cluster.sees_alive(i, 2).await;
        cluster.sees_quorum(i, true).await;
    }
    cluster.reads(1, "before", &json!(1)).await;
    cluster.write(1, "before", &json!(2), GENEROUS).await;
    for n in 0..30 {
        let key = format!("missed-{n}");
        cluster.write(2, &key, &json!(n), GENEROUS).await;
    }
    let seeds = cluster.seed(2);
    cluster.nodes[0].start(&seeds);
    cluster.agree().await;
    let members = cluster.api(1).members().await.expect("answers");
    assert_eq!((members.alive_members, members.total_members), (3, 3));
    cluster.reads(0, "before", &json!(2)).await;
    for n in 0..30 {
        all_replicas_same(&cluster, &format!("missed-{n}")).await;
    }
}

#[tokio::test]
async fn a_node_returns_without_any_seed() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[1].kill9();
    cluster.sees_alive(0, 2).await;
    cluster.nodes[1].start(&[]);
    cluster.agree().await;
}

#[tokio::test]
async fn a_fourth_node_joins_through_any() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..40 {
        let key = format!("k-{n}");
        cluster.write(n % 3, &key, &json!(n), GENEROUS).await;
    }
    let seeds = cluster.seed(1);
    let fourth = cluster.add(&seeds).await;
    cluster.agree().await;
    for i in 0..4 {
        let members = cluster.api(i).members().await.expect("answers");
        assert_eq!((members.alive_members, members.total_members), (4, 4));
        let ring = cluster.api(i).ring().await.expect("answers");
        assert_eq!(ring.ring.physical_nodes, 4);
        // 256 partitions, three replicas each, over four nodes
        let shares: Vec<_> = ring.nodes.iter().map(|n| n.replicas).collect();
        assert!(
            shares.iter().all(|share| share.abs_diff(192) <= 1),
            "{shares:?}"
        );
    }
    for n in 0..40 {
        cluster.reads(fourth, &format!("k-{n}"), &json!(n)).await;
    }
}

#[tokio::test]
async fn a_node_that_lost_its_data_is_filled_again() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..40 {
        let key = format!("k-{n}");
        cluster.write(0, &key, &json!(n), GENEROUS).await;
    }
    cluster.nodes[2].kill9();
    std::fs::remove_dir_all(cluster.nodes[2].data_dir()).expect("removed");
    let seeds = cluster.seed(0);
    cluster.nodes[2].start(&seeds);
    cluster.agree().await;
    for n in 0..40 {
        all_replicas_same(&cluster, &format!("k-{n}")).await;
    }
}
