//! Who sees whom, why, and who does not answer: what the daemons tell of it, and what the console
//! makes of it; with a killed node, a paused one, and a seed nobody listens at.

use ringmaster_shared::{
    api::{
        membership::{GossipStatusResponse, ObservationsResponse, RumorsResponse},
        observations::disagreements,
    },
    id::NodeId,
    member::MemberStatus,
};

use super::{connection::quits, endpoints, is_well, open};
use crate::support::{
    client::Api,
    cluster::Cluster,
    node::free_port,
    wait::{GENEROUS, eventually},
};

fn id(index: usize) -> NodeId {
    NodeId::new(&format!("node-{}", index + 1)).expect("a name")
}

async fn observed(api: &Api) -> Result<ObservationsResponse, String> {
    let seen = api.get("/api/v1/observations").await;
    seen.map_err(|e| format!("{e:#}"))
}

async fn engine(api: &Api) -> Result<GossipStatusResponse, String> {
    let status = api.get("/gossip/status").await;
    status.map_err(|e| format!("{e:#}"))
}

#[tokio::test]
async fn a_healthy_cluster_tells_of_itself() {
    let mut cluster = Cluster::start(3).await;
    cluster.agree().await;
    let api = cluster.api(0);
    let seen = eventually("three views that agree", GENEROUS, async || {
        let seen = observed(&api).await?;
        let answered = seen.observers.iter().filter(|o| o.answered).count();
        let full = seen.observers.iter().all(|o| o.sees.len() == 3);
        (answered == 3 && full && seen.disagreements.is_empty())
            .then_some(seen.clone())
            .ok_or(format!("{seen:?}"))
    })
    .await;
    for observer in &seen.observers {
        for (about, sight) in &observer.views {
            assert_eq!(sight.status, MemberStatus::Alive, "{about}");
            assert!(sight.since.is_some() && sight.reason.is_none() && !sight.udp_blocked);
        }
    }
    // the same in short: nobody is in trouble
    let trouble: ObservationsResponse = api
        .get("/api/v1/observations?only=trouble")
        .await
        .expect("answered");
    assert_eq!(trouble.well, 3);
    assert!(trouble.observers.iter().all(|o| o.sees.is_empty()));
    let status = eventually("probes that were answered", GENEROUS, async || {
        let status = engine(&api).await?.gossip_status;
        (status.probes.direct > 2)
            .then_some(status.clone())
            .ok_or(format!("{status:?}"))
    })
    .await;
    assert!(status.probes.round_trip_p50_ms.is_some_and(|ms| ms > 0.0));
    assert!(status.traffic.udp_sent_packets > 0 && status.traffic.udp_received_bytes > 0);
    assert!(status.suspicions.is_empty() && status.udp_blocked.is_empty());
    let sum: u64 = status.rejected.values().sum();
    assert_eq!(status.rejected_messages, sum);
    let rumors: RumorsResponse = api.get("/gossip/rumors").await.expect("answered");
    assert!(rumors.rumors.iter().all(|r| r.transmissions <= r.limit));
    let own = api.status().await.expect("answered").gossip;
    assert!(own.is_some_and(|g| g.udp_blocked.is_empty() && g.seeds_unreachable.is_empty()));
}

#[tokio::test]
async fn a_killed_node_is_told_with_the_reason_and_does_not_answer() {
    let mut cluster = Cluster::start(3).await;
    cluster.agree().await;
    let mut console = open(&endpoints(&cluster));
    console.wait_for("a connection", GENEROUS, |s| is_well(s, 3));
    cluster.nodes[2].kill9();
    let api = cluster.api(0);
    eventually("node-3 dead to both, with accusers", GENEROUS, async || {
        let seen = observed(&api).await?;
        let dead = |i: usize| {
            let sight = seen.observers[i].views.get(&id(2));
            sight.is_some_and(|s| s.status == MemberStatus::Dead && !s.by.is_empty())
        };
        (seen.observers.len() == 3 && dead(0) && dead(1))
            .then_some(())
            .ok_or(format!("{seen:?}"))
    })
    .await;
    let seen = observed(&api).await.expect("answered");
    let silent = &seen.observers[2];
    assert!(!silent.answered && silent.error.is_some() && silent.sees.is_empty());
    assert_eq!(seen.disagreements, disagreements(&seen.observers));
    let members = api.members().await.expect("answered");
    let reason = members.cluster_members[&id(2)].reason.clone();
    let reason = reason.expect("a reason");
    assert!(reason.starts_with("no answer to node-"), "{reason}");
    let counts = engine(&api).await.expect("answered").gossip_status.counts;
    assert!(
        counts.deaths >= 1 && counts.suspicions_started >= 1,
        "{counts:?}"
    );

    console.press("2");
    console.wait_for("the members", GENEROUS, |s| {
        s.contains("3 members, 2 alive")
    });
    console.press("w");
    console.wait_for("the matrix", GENEROUS, |s| {
        s.contains("Who sees whom") && s.contains("✖ dead") && !s.contains("3 members")
    });
    console.wait_for("who does not answer", GENEROUS, |s| {
        s.lines().any(|l| l.contains("node-3   ? "))
    });
    console.press_until("\x1b", "the table again", GENEROUS, |s| {
        s.contains("3 members")
    });
    console.press(":node node-3\r");
    console.wait_for("the reason", GENEROUS, |s| s.contains("no answer to node-"));
    quits(&mut console);
}

#[tokio::test]
async fn a_paused_node_is_suspected_by_name_and_the_seed_nobody_has_is_told() {
    let mut cluster = Cluster::start(2).await;
    let nowhere = format!("localhost:{}", free_port());
    let mut flags = cluster.seed(0);
    flags.push(format!("--seed-node={nowhere}"));
    let third = cluster.add(&flags).await;
    cluster.agree().await;
    let api = cluster.api(third);
    eventually(
        "one seed that answers and one that does not",
        GENEROUS,
        async || {
            let seeds = engine(&api).await?.gossip_status.seeds;
            let [first, second] = seeds.as_slice() else {
                return Err(format!("{seeds:?}"));
            };
            let good = first.reachable && first.answered_by == Some(id(0));
            let bad = !second.reachable && second.address == nowhere && second.last_error.is_some();
            (good && bad).then_some(()).ok_or(format!("{seeds:?}"))
        },
    )
    .await;
    cluster.nodes[1].pause();
    let suspicion = eventually("a suspicion that runs", GENEROUS, async || {
        let status = engine(&api).await?.gossip_status;
        let about = status.suspicions.iter().find(|s| s.about == id(1));
        let named = about.filter(|s| !s.accusers.is_empty());
        named.cloned().ok_or(format!("{:?}", status.suspicions))
    })
    .await;
    assert!(suspicion.ends_in_ms > 0 && suspicion.confirmations <= suspicion.wanted);
    cluster.nodes[1].resume();
    cluster.agree().await;
    eventually(
        "a suspicion that was refuted, or a death",
        GENEROUS,
        async || {
            let counts = engine(&api).await?.gossip_status.counts;
            (counts.suspicions_refuted + counts.deaths > 0)
                .then_some(())
                .ok_or(format!("{counts:?}"))
        },
    )
    .await;
}
