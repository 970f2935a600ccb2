//! Nodes whose UDP is blocked, in one direction or both: they stay members as long as TCP works,
//! everybody says what is the matter and when it is over, and the news gets through both ways.

use ringmaster_shared::{
    api::admin::EventsResponse,
    event::{Event, EventCode},
    member::MemberStatus,
};

use super::{Ledger, agree, id, reported, sees, timed};
use crate::support::{
    client::Api,
    netns::{Cluster, Loses},
    wait::{GENEROUS, eventually, same},
};

/// Times that let a test see many rounds. Lists are exchanged for other reasons than blocked UDP
/// once an hour only, so that nothing else can bring the news.
pub const QUICK: [(&str, &str); 5] = [
    ("RINGD_GOSSIP_PROBE_INTERVAL", "250ms"),
    ("RINGD_GOSSIP_PROBE_TIMEOUT", "120ms"),
    ("RINGD_GOSSIP_INTERVAL", "100ms"),
    ("RINGD_GOSSIP_RECONNECT_INTERVAL", "1s"),
    ("RINGD_GOSSIP_PUSH_PULL_INTERVAL", "60m"),
];
/// Messages of a member that can be heard: one each probe interval at least, so that this is more
/// than two of the longest suspicions.
const MESSAGES: u64 = 60;

pub async fn events(api: &Api, code: EventCode) -> Result<Vec<Event>, String> {
    let path = "/api/v1/events?limit=1000";
    let answer: EventsResponse = api.get(path).await.map_err(|e| format!("{e:#}"))?;
    let all = answer.events.into_iter();
    Ok(all.filter(|e| e.code == code).collect())
}

/// `by` reports, `times` in all, something with these words.
pub async fn says(cluster: &Cluster, by: usize, code: EventCode, words: &str, times: usize) {
    let api = cluster.api(by);
    let what = format!("{} says {words:?} for the {times}. time", id(by));
    eventually(&what, GENEROUS, async || {
        let all = events(&api, code).await?;
        let fitting = all.iter().filter(|e| e.message.contains(words)).count();
        let said: Vec<&str> = all.iter().map(|e| e.message.as_str()).collect();
        same("how often", &fitting, &times).map_err(|e| format!("{e}: {said:?}"))
    })
    .await;
}

/// `by` hears so many more messages of `from`.
pub async fn hears(cluster: &Cluster, by: usize, from: usize, messages: u64) {
    let api = cluster.api(by);
    let heard = async || {
        let members = api.members().await.map_err(|e| format!("{e:#}"))?;
        let member = members.cluster_members.get(&id(from));
        member
            .map(|m| m.heartbeat_seq)
            .ok_or("not listed".to_owned())
    };
    let first = eventually("the counter", GENEROUS, heard).await;
    eventually("messages come in", GENEROUS, async || {
        let now = heard().await?;
        let more = now.saturating_sub(first);
        (more >= messages)
            .then_some(())
            .ok_or(format!("{more} did"))
    })
    .await;
}

/// Nobody was ever suspected or dead.
async fn nobody_was_doubted(cluster: &Cluster) {
    let doubts = reported(
        cluster,
        &[EventCode::MemberSuspected, EventCode::MemberDead],
    )
    .await;
    assert!(doubts.is_empty(), "{doubts:?}");
}

const OF_ITSELF: &str = "this node's own UDP is blocked: nobody answers over UDP, 2 members";

/// All know whose UDP is blocked, the node itself included.
async fn all_say_so(cluster: &Cluster, times: usize) {
    let blocked = async {
        for by in [0, 1] {
            let words = "node-3 answers over TCP but not over UDP";
            says(cluster, by, EventCode::UdpBlocked, words, times).await;
        }
        says(cluster, 2, EventCode::UdpBlocked, OF_ITSELF, times).await;
    };
    timed("until all say that UDP is blocked", blocked).await;
}

async fn all_say_it_is_over(cluster: &Cluster, times: usize) {
    let over = async {
        for by in [0, 1] {
            let words = "node-3 answers over UDP again";
            says(cluster, by, EventCode::UdpOpen, words, times).await;
        }
        let words = "this node's UDP works again";
        says(cluster, 2, EventCode::UdpOpen, words, times).await;
    };
    timed("until all say that it is over", over).await;
}

/// `by` comes to see `about` in this state, in a life later than `after`; returns which.
async fn sees_life(
    cluster: &Cluster,
    by: usize,
    about: usize,
    status: MemberStatus,
    after: u64,
) -> u64 {
    let api = cluster.api(by);
    let what = format!("{} sees {} {}", id(by), id(about), status.as_str());
    eventually(&what, GENEROUS, async || {
        let members = api.members().await.map_err(|e| format!("{e:#}"))?;
        let member = members.cluster_members.get(&id(about));
        let member = member.ok_or("not listed")?;
        same("its status", &member.status, &status)?;
        let later = member.generation > after;
        later
            .then_some(member.generation)
            .ok_or(format!("{member:?}"))
    })
    .await
}

#[tokio::test]
async fn without_udp_a_node_hears_the_news_and_tells_its_own() {
    let Some(mut cluster) = Cluster::start_with(3, &QUICK).await else {
        return;
    };
    let mut ledger = Ledger::default();
    cluster.network.isolate(2, Loses::Udp);
    all_say_so(&cluster, 1).await;
    hears(&cluster, 0, 1, MESSAGES).await;
    nobody_was_doubted(&cluster).await;
    ledger.write(&cluster, &[0, 1, 2], "tcp-only").await;
    ledger.readable(&cluster, &[0, 1, 2]).await;

    // news of another: its death, and its next life
    let first = sees_life(&cluster, 2, 1, MemberStatus::Alive, 0).await;
    cluster.nodes[1].kill9();
    let dead = sees_life(&cluster, 2, 1, MemberStatus::Dead, 0);
    timed("until node-3 holds node-2 dead", dead).await;
    cluster.run(1, &[]).await;
    let back = sees_life(&cluster, 2, 1, MemberStatus::Alive, first);
    timed("until node-3 sees it back", back).await;

    // its own news: another life of it
    let first = sees_life(&cluster, 0, 2, MemberStatus::Alive, 0).await;
    cluster.nodes[2].kill9();
    cluster.run(2, &[]).await;
    for by in [0, 1] {
        let told = sees_life(&cluster, by, 2, MemberStatus::Alive, first);
        timed("until told of node-3's next life", told).await;
    }
    // the events of a life go with it: node-2 and node-3 say all for the first time
    says(&cluster, 2, EventCode::UdpBlocked, OF_ITSELF, 1).await;
    cluster.network.heal();
    let words = "this node's UDP works again";
    says(&cluster, 2, EventCode::UdpOpen, words, 1).await;
    timed("until all agree", agree(&cluster)).await;
    ledger.readable(&cluster, &[0, 1, 2]).await;
}

#[tokio::test]
async fn one_direction_without_udp_is_as_good_as_none_and_one_bad_link_is_nothing() {
    let Some(mut cluster) = Cluster::start_with(3, &QUICK).await else {
        return;
    };
    let mut ledger = Ledger::default();
    let ways = [("deaf", [(0, 2), (1, 2)]), ("mute", [(2, 0), (2, 1)])];
    for (round, (what, lost)) in (1..).zip(ways) {
        for (from, to) in lost {
            cluster.network.lose(from, to, Loses::Udp);
        }
        all_say_so(&cluster, round).await;
        hears(&cluster, 0, 1, MESSAGES / 2).await;
        ledger.write(&cluster, &[0, 1, 2], what).await;
        cluster.network.heal();
        all_say_it_is_over(&cluster, round).await;
    }
    // everything from node-1 to node-3 is lost, so TCP between them is dead, too
    cluster.network.lose(0, 2, Loses::Everything);
    hears(&cluster, 1, 0, MESSAGES).await;
    hears(&cluster, 1, 2, MESSAGES).await;
    for by in 0..3 {
        sees(&cluster, by, &[0, 1, 2]).await;
    }
    nobody_was_doubted(&cluster).await;
    ledger.write(&cluster, &[0, 1, 2], "one-way").await;
    cluster.network.heal();
    agree(&cluster).await;
    ledger.readable(&cluster, &[0, 1, 2]).await;
}
