//! Endpoints that do not belong together: nothing that asks "all" is content with a part.

use ringmaster_shared::member::Lifecycle;

use super::{
    endpoints,
    restart::statuses,
    run::{Ended, ringmaster},
};
use crate::support::{
    cluster::Cluster,
    node::free_port,
    wait::{GENEROUS, eventually, same},
};

/// Every cluster and every endpoint is named, and the way out.
fn names_all(text: &str, ids: &[String], all: &[String], said: &Ended) {
    for part in ids.iter().chain(all) {
        assert!(text.contains(part.as_str()), "no {part}: {said:?}");
    }
    assert!(text.contains("ringmaster adopt"), "{said:?}");
}

#[tokio::test]
async fn three_founders_pass_no_check_and_are_not_restarted() {
    let mut cluster = Cluster::empty().await;
    for i in 0..3 {
        cluster.add(&[]).await;
        cluster.sees_quorum(i, true).await;
    }
    let all = endpoints(&cluster);
    let before = statuses(&cluster).await;
    let ids: Vec<String> = before
        .iter()
        .map(|s| s.cluster.cluster_id.clone())
        .collect();

    let check = ringmaster(&all, &["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    names_all(&check.out, &ids, &all, &check);
    let check = ringmaster(&all, &["check", "--output", "json"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    assert_eq!(check.json()["ok"], false);

    for how in ["--clean", "--rolling"] {
        let refused = ringmaster(&all, &["restart", how, "--yes"]).await;
        assert_eq!(refused.code, Some(4), "{how}: {refused:?}");
        assert!(refused.err.contains("refused"), "{how}: {refused:?}");
        names_all(&refused.err, &ids, &all, &refused);
    }
    for (old, new) in before.iter().zip(statuses(&cluster).await) {
        let id = &old.node.id;
        assert_eq!(new.node.generation, old.node.generation, "{id} restarted");
        assert_eq!(new.node.lifecycle, Lifecycle::Serving, "{id}");
    }
    // each for itself is a cluster
    let one = ringmaster(&all[1..2], &["check"]).await;
    assert_eq!(one.code, Some(0), "{one:?}");
}

#[tokio::test]
async fn one_that_waits_to_join_does_not_hide_the_cluster() {
    let mut cluster = Cluster::start(1).await;
    let nobody = format!("--seed-node=localhost:{}", free_port());
    cluster.add(&[nobody]).await;
    let waits = cluster.api(1);
    eventually("it waits", GENEROUS, async || {
        let status = waits.status().await.map_err(|e| format!("{e:#}"))?;
        same("lifecycle", &status.node.lifecycle, &Lifecycle::Joining)?;
        same("waits", &status.node.waiting_for.is_some(), &true)
    })
    .await;
    let all: Vec<String> = endpoints(&cluster).into_iter().rev().collect();
    let check = ringmaster(&all, &["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.out.contains("all 1 members answer"), "{check:?}");
    let repair = ringmaster(&all, &["repair"]).await;
    assert!(repair.out.contains("node-1"), "{repair:?}");
    // alone it is nobody's cluster, and not a healthy one of no members
    let check = ringmaster(&all[..1], &["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.out.contains("(node-2) is joining"), "{check:?}");
}
