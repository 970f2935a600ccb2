//! A node that was away, or lost what it stored, ends up with everything, without anyone asking.

use std::fs;

use ringmaster_shared::{api::data::ReplicasResponse, member::Lifecycle};
use serde_json::json;

use crate::support::{
    client::Api,
    cluster::{Cluster, votes},
    wait::{GENEROUS, eventually},
};

const KEYS: usize = 60;

fn key(i: usize) -> String {
    format!("away-{i}")
}

async fn write_all(api: &Api, round: usize) {
    for i in 0..KEYS {
        let reply = api.put(&key(i), &json!({"round": round, "i": i})).await;
        assert_eq!(reply.expect("answered").status, 200);
    }
}

/// Every replica of every key holds the same, the tombstones included.
async fn all_the_same(api: &Api) -> Result<(), String> {
    for i in 0..KEYS {
        let path = format!("/api/v1/data/{}/replicas", key(i));
        let answer: ReplicasResponse = api.get(&path).await.map_err(|e| e.to_string())?;
        let first = answer.replicas.first().and_then(|r| r.fingerprint.clone());
        if first.is_none() {
            return Err(format!("{} is not on its first replica", key(i)));
        }
        for replica in &answer.replicas {
            if replica.error.is_some() || replica.fingerprint != first {
                return Err(format!("{} differs: {replica:?}", key(i)));
            }
        }
    }
    Ok(())
}

async fn everywhere(cluster: &Cluster) {
    let api = cluster.api(1);
    let all = async || all_the_same(&api).await;
    eventually("all replicas hold the same", GENEROUS, all).await;
}

#[tokio::test]
async fn hints_bring_a_returning_node_up() {
    let mut cluster = Cluster::start(3).await;
    write_all(&cluster.api(0), 0).await;
    cluster.nodes[2].kill9();
    write_all(&cluster.api(0), 1).await;
    cluster.nodes[2].start(&[]);
    cluster.agree().await;
    everywhere(&cluster).await;
    // comparing replicas would have mended it as well, only later
    eventually("hints were replayed", GENEROUS, async || {
        let log = cluster.nodes[0].log();
        if log.contains("HINTS_REPLAYED") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
}

#[tokio::test]
async fn anti_entropy_brings_a_returning_node_up_when_no_hints_were_kept() {
    // the smallest budget: no record fits, every hint is dropped
    let mut cluster = Cluster::start_with(3, &[("RINGD_STORAGE_HINT_BYTES", "1")]).await;
    write_all(&cluster.api(0), 0).await;
    cluster.nodes[2].kill9();
    write_all(&cluster.api(0), 1).await;
    for i in 0..KEYS / 2 {
        let path = format!("/api/v1/data/{}", key(i));
        let reply = cluster
            .api(1)
            .send(reqwest::Method::DELETE, &path, None)
            .await;
        assert_eq!(reply.expect("answered").status, 200);
    }
    let owed = cluster
        .api(0)
        .status()
        .await
        .expect("answers")
        .storage
        .hints_owed;
    assert!(
        owed.values().all(|n| *n == 0),
        "the budget kept hints out: {owed:?}"
    );
    cluster.nodes[2].start(&[]);
    cluster.agree().await;
    everywhere(&cluster).await;
}

#[tokio::test]
async fn an_emptied_store_is_refilled_before_it_counts() {
    let mut cluster = Cluster::start(3).await;
    write_all(&cluster.api(0), 0).await;
    for lost in ["store", ""] {
        assert!(cluster.nodes[2].stop().await.success());
        let gone = cluster.nodes[2].data_dir().join(lost);
        fs::remove_dir_all(&gone).expect("removed");
        let seed = cluster.seed(0);
        cluster.nodes[2].start(&seed);
        cluster.agree().await;
        let log = cluster.nodes[2].log();
        assert!(
            log.contains("recovering"),
            "it knew that its data was lost ({lost}):\n{log}"
        );
        let lifecycle = cluster
            .api(2)
            .status()
            .await
            .expect("answers")
            .node
            .lifecycle;
        assert_eq!(lifecycle, Lifecycle::Serving);
        everywhere(&cluster).await;
    }
}

/// Each has the ring decided anew by the others before the next one is lost; else those that abstain
/// would be too many in the end.
#[tokio::test]
async fn nodes_lose_their_folders_one_after_the_other_and_the_ring_still_changes() {
    let mut cluster = Cluster::start(3).await;
    write_all(&cluster.api(0), 0).await;
    for victim in [2, 1] {
        assert!(cluster.nodes[victim].stop().await.success());
        fs::remove_dir_all(cluster.nodes[victim].data_dir()).expect("removed");
        let seed = cluster.seed(0);
        cluster.nodes[victim].start(&seed);
        cluster.agree().await;
        let api = cluster.api(victim);
        eventually("it votes again by itself", GENEROUS, async || {
            votes(&api).await
        })
        .await;
    }
    let seed = cluster.seed(0);
    cluster.add(&seed).await;
    cluster.agree().await;
    everywhere(&cluster).await;
}

/// After all lost their power, the one without its disk is let in by the one that was away when
/// it joined, so by a ring that does not know it.
#[tokio::test]
async fn a_member_without_its_folder_let_in_by_one_that_lags_is_refilled_before_it_counts() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[2].kill9();
    let seed = cluster.seed(0);
    cluster.add(&seed).await;
    cluster.agree().await;
    write_all(&cluster.api(0), 1).await;
    for i in [0, 1, 3] {
        cluster.nodes[i].kill9();
    }
    fs::remove_dir_all(cluster.nodes[3].data_dir()).expect("removed");

    cluster.nodes[2].start(&[]);
    assert!(cluster.answers(2).await);
    let lags = cluster.seed(2);
    cluster.nodes[3].start(&lags);
    eventually("it is let in by the one that lags", GENEROUS, async || {
        let log = cluster.nodes[3].log();
        let last = log.rsplit("joined cluster").next().unwrap_or_default();
        let let_in = log.contains("CLUSTER_JOINED") && last.contains(&cluster.nodes[2].address());
        if let_in { Ok(()) } else { Err(log) }
    })
    .await;
    cluster.nodes[1].start(&[]);
    let api = cluster.api(3);
    eventually("it knows that it lost its data", GENEROUS, async || {
        let node = api.status().await.map_err(|e| format!("{e:#}"))?.node;
        // what a replica that is down had acknowledged is on no other
        match node.lifecycle {
            Lifecycle::Recovering => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    cluster.nodes[0].start(&[]);
    cluster.agree().await;
    everywhere(&cluster).await;
    for i in 0..KEYS {
        cluster
            .reads(3, &key(i), &json!({"round": 1, "i": i}))
            .await;
    }
}
