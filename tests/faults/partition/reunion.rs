//! Whoever was apart is together again without anybody's help: after any length of time, after all
//! stood still, at other addresses, and after a restart that nobody could notice.

use ringmaster_shared::{event::EventCode, member::MemberStatus};

use super::{
    Ledger, agree, belongs, id, sees, timed,
    without_udp::{QUICK, events, hears, says},
};
use crate::support::{
    netns::{Cluster, Loses},
    wait::{GENEROUS, eventually, same},
};

/// More messages than come in while every timeout passes a few times over: suspicions and the
/// attempts to reach those held dead.
const LONG: u64 = 80;

#[tokio::test]
async fn halves_apart_for_longer_than_every_timeout_find_each_other() {
    let Some(mut cluster) = Cluster::start_with(4, &QUICK).await else {
        return;
    };
    let before = belongs(&cluster.api(0)).await;
    let mut ledger = Ledger::default();
    ledger.write(&cluster, &[0, 1, 2, 3], "before").await;
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        cluster.network.cut(a, b, Loses::Everything);
    }
    for (half, of) in [([0, 1], 0), ([0, 1], 1), ([2, 3], 2), ([2, 3], 3)] {
        sees(&cluster, of, &half).await;
    }
    tokio::join!(hears(&cluster, 0, 1, LONG), hears(&cluster, 2, 3, LONG));
    cluster.network.heal();
    timed("until all agree again", agree(&cluster)).await;
    ledger.readable(&cluster, &[0, 1, 2, 3]).await;
    for i in 0..4 {
        assert_eq!(belongs(&cluster.api(i)).await, before, "{}", id(i));
    }
}

/// `by` comes to see `about` alive at its present address.
async fn finds(cluster: &Cluster, by: usize, about: usize) {
    let api = cluster.api(by);
    let what = format!("{} finds {}", id(by), id(about));
    let want = (MemberStatus::Alive, cluster.address(about));
    eventually(&what, GENEROUS, async || {
        let members = api.members().await.map_err(|e| format!("{e:#}"))?;
        let member = members.cluster_members.get(&id(about));
        let member = member.ok_or("not listed")?;
        same("it", &(member.status, member.address.clone()), &want)
    })
    .await;
}

#[tokio::test]
async fn after_all_stood_still_they_find_each_other_though_most_moved_and_the_seed_is_gone() {
    let Some(mut cluster) = Cluster::start_with(4, &QUICK).await else {
        return;
    };
    let before = belongs(&cluster.api(0)).await;
    for node in &mut cluster.nodes {
        node.kill9();
    }
    // node-1 was everybody's seed; what the others remember of each other is old but for node-2
    for moved in [2, 3] {
        cluster.network.move_host(moved);
    }
    for i in [2, 3, 1] {
        cluster.run(i, &[]).await;
    }
    let found = async {
        for (by, about) in [(1, 2), (1, 3), (2, 3), (3, 2), (2, 1), (3, 1)] {
            finds(&cluster, by, about).await;
        }
    };
    timed("until those left found each other", found).await;
    for i in [1, 2, 3] {
        let here = belongs(&cluster.api(i)).await;
        assert_eq!(here.0, before.0, "{}", id(i));
        let members = cluster.api(i).members().await.expect("answers");
        assert!(members.cluster_members.len() <= 4, "{members:?}");
    }
    // and the seed, when it comes back after all
    cluster.run(0, &[]).await;
    timed("until all agree", agree(&cluster)).await;
}

#[tokio::test]
async fn a_restart_that_nobody_could_notice_is_told_all_the_same() {
    let slow = [QUICK.as_slice(), &[("RINGD_GOSSIP_SUSPICION_MULT", "60")]].concat();
    let Some(mut cluster) = Cluster::start_with(3, &slow).await else {
        return;
    };
    let life = async |by: usize| {
        let members = cluster.api(by).members().await.expect("answers");
        members.cluster_members[&id(2)].generation
    };
    let first = life(0).await;
    cluster.nodes[2].kill9();
    cluster.run(2, &[]).await;
    for by in [0, 1] {
        let told = says(
            &cluster,
            by,
            EventCode::MemberRestarted,
            "node-3 restarted",
            1,
        );
        timed("until the restart is told", told).await;
    }
    agree(&cluster).await;
    for by in [0, 1] {
        let members = cluster.api(by).members().await.expect("answers");
        assert!(members.cluster_members[&id(2)].generation > first);
        let dead = events(&cluster.api(by), EventCode::MemberDead).await;
        assert_eq!(dead.expect("answers").len(), 0, "at {}", id(by));
    }
}
