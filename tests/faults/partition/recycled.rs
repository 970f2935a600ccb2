//! A node of another cluster at the address of a dead one: the two clusters never merge, both say
//! who knocks at whose door, and neither floods the other.

use std::collections::BTreeSet;

use ringmaster_shared::{
    api::membership::GossipStatusResponse, event::EventCode, id::NodeId, member::MemberStatus,
};

use super::{
    agree, belongs, id, sees, timed,
    without_udp::{QUICK, events, hears},
};
use crate::support::{
    client::Api,
    netns::Cluster,
    wait::{GENEROUS, eventually},
};

/// What is refused for want of the same cluster, in so many messages of a living member: each
/// stands for a probe interval at most.
const MESSAGES: u64 = 40;

async fn refused(api: &Api) -> u64 {
    let status: GossipStatusResponse = api.get("/gossip/status").await.expect("answers");
    status.gossip_status.rejected["other_cluster"]
}

async fn listed(api: &Api) -> BTreeSet<NodeId> {
    let members = api.members().await.expect("answers");
    members.cluster_members.into_keys().collect()
}

/// It reports that the other cluster was met.
async fn tells_of(api: &Api, theirs: &str) {
    eventually("a word about the other cluster", GENEROUS, async || {
        let all = events(api, EventCode::ForeignMessages).await?;
        let said: Vec<&str> = all.iter().map(|e| e.message.as_str()).collect();
        let readable = said
            .iter()
            .any(|m| m.contains(theirs) && m.contains("Check the seeds and addresses of both"));
        readable.then_some(()).ok_or(format!("{said:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_stranger_at_the_address_of_a_dead_member_merges_nothing() {
    let Some(mut cluster) = Cluster::start_with(3, &QUICK).await else {
        return;
    };
    let ours = belongs(&cluster.api(0)).await;
    let members = listed(&cluster.api(0)).await;
    for stranger in ["node-9", "node-3"] {
        cluster.nodes[2].kill9();
        let mut foreign = cluster.run_stranger(2, stranger).await;
        let theirs = belongs(&cluster.api(2)).await;
        assert_ne!(theirs.0, ours.0);
        tells_of(&cluster.api(2), &ours.0).await;
        for i in [0, 1] {
            timed("until node-3 is dead", sees(&cluster, i, &[0, 1])).await;
        }
        tells_of(&cluster.api(0), &theirs.0).await;

        // it is tried for ever, at a bounded rate
        let before = (
            refused(&cluster.api(0)).await,
            refused(&cluster.api(2)).await,
        );
        hears(&cluster, 0, 1, MESSAGES).await;
        let after = (
            refused(&cluster.api(0)).await,
            refused(&cluster.api(2)).await,
        );
        eprintln!("refused in {MESSAGES} messages: {before:?} -> {after:?}");
        assert!(after.0 > 0 && after.1 > 0, "both refused something");
        let grown = (after.0 - before.0).max(after.1 - before.1);
        assert!(grown < 2 * MESSAGES, "{grown} in {MESSAGES} messages");
        for i in [0, 1, 2] {
            let said = events(&cluster.api(i), EventCode::ForeignMessages).await;
            let said = said.expect("answers").len();
            assert!(said <= 4, "{} said it {said} times", id(i));
        }

        for i in [0, 1] {
            assert_eq!(belongs(&cluster.api(i)).await, ours);
            assert_eq!(listed(&cluster.api(i)).await, members);
            let view = cluster.api(i).members().await.expect("answers");
            assert_eq!(view.cluster_members[&id(2)].status, MemberStatus::Dead);
        }
        let alone = NodeId::new(stranger).expect("a valid name");
        assert_eq!(listed(&cluster.api(2)).await, BTreeSet::from([alone]));
        assert_eq!(belongs(&cluster.api(2)).await.0, theirs.0);

        // the address is free again, and its member comes home
        foreign.kill9();
        cluster.run(2, &[]).await;
        timed("until all agree again", agree(&cluster)).await;
    }
}
