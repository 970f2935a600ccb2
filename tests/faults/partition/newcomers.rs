//! Nodes that join, move or stay behind while links are lost.

use ringmaster_shared::{
    event::EventCode,
    member::{Lifecycle, MemberStatus},
};

use super::{
    LONGER_THAN_SUSPICION, Ledger, agree, belongs, hold, id, refuses, reported, sees, timed,
};
use crate::support::{
    netns::{Cluster, Loses},
    wait::{GENEROUS, eventually, same},
};

#[tokio::test]
async fn a_joiner_goes_on_to_the_seed_it_can_reach() {
    let Some(mut cluster) = Cluster::start(2).await else {
        return;
    };
    let before = belongs(&cluster.api(0)).await;
    let joiner = cluster.add();
    cluster.network.cut(joiner, 0, Loses::Everything);
    let seeds = cluster.seeds(&[0, 1]);
    cluster.run(joiner, &seeds).await;
    let api = cluster.api(joiner);
    let enters = async {
        eventually("it joins through the second seed", GENEROUS, async || {
            let status = api.status().await.map_err(|e| format!("{e:#}"))?;
            let waits = status.node.waiting_for;
            same("cluster", &status.cluster.cluster_id, &before.0)
                .map_err(|e| format!("{e}; it waits for {waits:?}"))
        })
        .await;
    };
    timed("until it joined", enters).await;
    for i in [1, joiner] {
        timed("until seen", sees(&cluster, i, &[0, 1, 2])).await;
    }
    hold(&cluster, "its link to node-1 lost", LONGER_THAN_SUSPICION).await;
    let node = api.status().await.expect("answers").node;
    eprintln!(
        "meanwhile it is {}, {:?}",
        node.lifecycle.as_str(),
        node.waiting_for
    );
    let mut ledger = Ledger::default();
    ledger.write(&cluster, &[0, 1], "joining").await;
    ledger.readable(&cluster, &[0, 1]).await;
    cluster.network.heal();
    timed("until all agree", agree(&cluster)).await;
    let status = api.status().await.expect("answers");
    assert_eq!(status.node.lifecycle, Lifecycle::Serving);
    assert_eq!(status.cluster.cluster_id, before.0);
    ledger.write(&cluster, &[0, 1, joiner], "joined").await;
    ledger.readable(&cluster, &[0, 1, joiner]).await;
}

#[tokio::test]
async fn a_node_cut_off_catches_up_with_a_ring_that_changed_without_it() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let mut ledger = Ledger::default();
    ledger.write(&cluster, &[0, 1, 2], "before").await;
    let before = belongs(&cluster.api(2)).await;
    cluster.network.isolate(2, Loses::Everything);
    sees(&cluster, 0, &[0, 1]).await;
    let joiner = cluster.add();
    // the host is new: what cuts node-3 off has to hold for it as well
    cluster.network.cut(2, joiner, Loses::Everything);
    let seeds = cluster.seeds(&[0]);
    cluster.run(joiner, &seeds).await;
    let api = cluster.api(joiner);
    let serves = async {
        eventually("the newcomer serves", GENEROUS, async || {
            let status = api.status().await.map_err(|e| format!("{e:#}"))?;
            let waits = status.node.waiting_for;
            same("lifecycle", &status.node.lifecycle, &Lifecycle::Serving)
                .map_err(|e| format!("{e}; it waits for {waits:?}"))
        })
        .await;
    };
    timed("until the newcomer serves", serves).await;
    ledger.write(&cluster, &[0, 1, joiner], "without").await;
    let behind = belongs(&cluster.api(2)).await;
    assert_eq!(behind, before, "alone it decides nothing");
    refuses(&cluster, 2, &[0, 1]).await;
    cluster.network.heal();
    timed("until all agree", agree(&cluster)).await;
    let after = belongs(&cluster.api(2)).await;
    assert!(after.0 == before.0 && after.1 > before.1, "{after:?}");
    ledger.readable(&cluster, &[2, 0, 1, joiner]).await;
}

#[tokio::test]
async fn a_node_that_moved_is_found_at_its_new_address() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let mut ledger = Ledger::default();
    ledger.write(&cluster, &[0, 1, 2], "before").await;
    let (old, before) = (cluster.address(2), belongs(&cluster.api(0)).await);
    cluster.nodes[2].kill9();
    cluster.network.move_host(2);
    let new = cluster.address(2);
    // without seeds: it has remembered the others
    cluster.run(2, &[]).await;
    for i in 0..3 {
        let api = cluster.api(i);
        let found = async {
            eventually(
                "the new address in ring and members",
                GENEROUS,
                async || {
                    let members = api.members().await.map_err(|e| format!("{e:#}"))?;
                    let member = members.cluster_members.get(&id(2));
                    let seen = member.map(|m| (m.address.clone(), m.status));
                    let want = Some((new.clone(), MemberStatus::Alive));
                    same("the member", &seen, &want)?;
                    let ring = api.ring().await.map_err(|e| format!("{e:#}"))?;
                    let node = ring.nodes.iter().find(|n| n.id == id(2));
                    same("the ring", &node.map(|n| n.address.as_str()), &Some(&new))
                },
            )
            .await;
        };
        timed(&format!("until {} knows of {old} -> {new}", id(i)), found).await;
    }
    agree(&cluster).await;
    let moved = reported(&cluster, &[EventCode::MemberAddressChanged]).await;
    assert!(!moved.is_empty(), "nobody reported the move");
    let after = belongs(&cluster.api(0)).await;
    assert_eq!(after.0, before.0);
    assert_eq!(after.1, before.1 + 1, "one decision, and it moved no data");
    ledger.readable(&cluster, &[2, 0, 1]).await;
    // the others are found by it, and it by them, after one more restart elsewhere
    cluster.nodes[0].kill9();
    cluster.run(0, &[]).await;
    agree(&cluster).await;
}
