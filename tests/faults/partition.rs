//! Real networks that fail: nodes in namespaces of their own, whose links lose packets. A
//! minority never answers for the cluster, nothing acknowledged is lost, and whoever was cut
//! off is found again without anybody's help.
//!
//! Skipped, with a line that says why, where namespaces cannot be had.

mod newcomers;
mod recycled;
mod reunion;
mod without_udp;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use ringmaster_shared::{
    api::{
        admin::EventsResponse,
        membership::{GossipStatusResponse, MembersResponse, ObservationsResponse},
    },
    error::{ErrorBody, ErrorCode},
    event::EventCode,
    id::{Epoch, NodeId},
    member::MemberStatus,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::campaign::{Crowd, run_beside};
use crate::support::{
    client::{Api, Reply},
    history::Recorder,
    netns::{Cluster, Loses},
    wait::{GENEROUS, eventually, same},
};

/// Keys written in each phase of a test.
const KEYS: usize = 40;
/// Longer than a suspicion lasts among three.
const LONGER_THAN_SUSPICION: Duration = Duration::from_secs(15);

fn id(index: usize) -> NodeId {
    NodeId::new(&format!("node-{}", index + 1)).expect("a valid name")
}

/// Says how long it took; figures, not verdicts.
async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = work.await;
    eprintln!("{what}: {:.1} s", began.elapsed().as_secs_f64());
    done
}

/// What each node sees of each, e.g. `node-1 [alive alive dead] quorum`.
async fn picture(cluster: &Cluster) -> String {
    let mut lines = Vec::new();
    for (name, api) in cluster.apis() {
        let (Ok(members), Ok(status)) = (api.members().await, api.status().await) else {
            lines.push(format!("{name} silent"));
            continue;
        };
        let seen = members.cluster_members.values();
        let seen: Vec<&str> = seen.map(|m| m.status.as_str()).collect();
        let quorum = if status.replication.quorum_available {
            "quorum"
        } else {
            "no quorum"
        };
        lines.push(format!("{name} [{}] {quorum}", seen.join(" ")));
    }
    lines.join("; ")
}

/// The cluster and the ring a node goes by.
async fn belongs(api: &Api) -> (String, Epoch, String) {
    let cluster = api.status().await.expect("answers").cluster;
    (cluster.cluster_id, cluster.ring_epoch, cluster.ring_digest)
}

/// `index` comes to see exactly `alive` as alive and all others as dead.
async fn sees(cluster: &Cluster, index: usize, alive: &[usize]) {
    let api = cluster.api(index);
    let want: Vec<(NodeId, MemberStatus)> = (0..cluster.nodes.len())
        .map(|i| {
            let here = alive.contains(&i);
            (
                id(i),
                if here {
                    MemberStatus::Alive
                } else {
                    MemberStatus::Dead
                },
            )
        })
        .collect();
    let what = format!("{} sees the others as they are", id(index));
    eventually(&what, GENEROUS, async || {
        let members = api.members().await.map_err(|e| format!("{e:#}"))?;
        let seen = members.cluster_members.into_iter();
        let seen: Vec<_> = seen.map(|(id, m)| (id, m.status)).collect();
        same("the list", &seen, &want)
    })
    .await;
}

/// All agree on the ring, and on every member to the letter.
async fn agree(cluster: &Cluster) {
    cluster.agree().await;
    let apis = cluster.apis();
    eventually("one membership", GENEROUS, async || {
        let mut all: Vec<MembersResponse> = Vec::new();
        for (_, api) in &apis {
            all.push(api.members().await.map_err(|e| format!("{e:#}"))?);
        }
        for m in &all {
            same("alive_members", &m.alive_members, &apis.len())?;
            same(
                "membership_digest",
                &m.membership_digest,
                &all[0].membership_digest,
            )?;
        }
        Ok(())
    })
    .await;
}

/// Writes that were acknowledged.
#[derive(Default)]
struct Ledger(Vec<(String, Value)>);

impl Ledger {
    /// Every one of these writes must be acknowledged at the first attempt.
    async fn write(&mut self, cluster: &Cluster, through: &[usize], phase: &str) {
        let mut slowest = Duration::ZERO;
        for n in 0..KEYS {
            let index = through[n % through.len()];
            let (key, value) = (format!("{phase}-{n}"), json!(n));
            let began = Instant::now();
            let reply = cluster.api(index).put(&key, &value).await;
            let reply = reply.expect("answered");
            assert_eq!(
                reply.status,
                200,
                "{key} at {}: {}",
                id(index),
                reply.text()
            );
            slowest = slowest.max(began.elapsed());
            self.0.push((key, value));
        }
        eprintln!(
            "{phase}: {KEYS} writes acknowledged, the slowest after {} ms",
            slowest.as_millis()
        );
    }

    async fn readable(&self, cluster: &Cluster, through: &[usize]) {
        for index in through {
            let api = cluster.api(*index);
            for (key, value) in &self.0 {
                let found = api.value(key).await.expect("readable");
                assert_eq!(found.as_ref(), Some(value), "{key} at {}", id(*index));
            }
        }
    }
}

/// Refused for want of a quorum, with the names of those that are missed.
fn refusal(reply: &Reply, missing: &[usize]) -> Result<(), String> {
    if reply.status < 400 {
        return Err(format!("it answers {}: {}", reply.status, reply.text()));
    }
    let error: ErrorBody = reply.error();
    same("the code", &error.code, &ErrorCode::QuorumNotMet)
        .map_err(|e| format!("{e}: {}", error.error))?;
    for other in missing {
        let name = id(*other).to_string();
        let listed = error.details["missing"].to_string().contains(&name);
        if !listed || !error.error.contains(&name) {
            return Err(format!("{name} is not named: {error:?}"));
        }
    }
    Ok(())
}

/// Reads and writes through `index` come to be refused at once, with who is missing.
async fn refuses(cluster: &Cluster, index: usize, missing: &[usize]) {
    let api = cluster.api(index);
    let first = timed("its first answer", api.read("before-0")).await;
    let first = first.expect("answered");
    eprintln!("it was: {} {}", first.status, first.text());
    if first.status == 504 {
        let error: ErrorBody = first.error();
        assert_eq!(error.details["outcome"], "none", "a read changes nothing");
        assert!(!error.error.contains("write"), "{}", error.error);
    }
    eventually("reads and writes are refused", GENEROUS, async || {
        let status = api.status().await.map_err(|e| format!("{e:#}"))?;
        let available = status.replication.quorum_available;
        same("quorum_available", &available, &false)?;
        let began = Instant::now();
        let read = api.read("before-0").await.map_err(|e| e.to_string())?;
        refusal(&read, missing)?;
        let write = api.put("lone", &json!(1)).await;
        let write = write.map_err(|e| e.to_string())?;
        refusal(&write, missing)?;
        let took = began.elapsed().as_millis();
        eprintln!("a read and a write refused in {took} ms: {}", write.text());
        Ok(())
    })
    .await;
    // and stay so: the promise is about every key, not about a lucky one
    for n in 0..KEYS {
        let read = api.read(&format!("before-{n}")).await.expect("answered");
        assert_eq!(refusal(&read, missing), Ok(()));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Senders are told at once (blackhole routes).
    Refused,
    /// Packets vanish.
    Silent,
}

async fn one_cut_off(kind: Kind) {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let mut ledger = Ledger::default();
    ledger.write(&cluster, &[0, 1, 2], "before").await;
    let before = belongs(&cluster.api(2)).await;
    match kind {
        Kind::Refused => cluster.network.refuse(2),
        Kind::Silent => cluster.network.isolate(2, Loses::Everything),
    }
    ledger.write(&cluster, &[0, 1], "undetected").await;
    timed("until the lone node refuses", refuses(&cluster, 2, &[0, 1])).await;
    for i in [0, 1] {
        timed("until the majority knows", sees(&cluster, i, &[0, 1])).await;
        let status = cluster.api(i).status().await.expect("answers");
        assert!(status.replication.quorum_available, "{status:?}");
    }
    ledger.write(&cluster, &[0, 1], "detected").await;
    ledger.readable(&cluster, &[0, 1]).await;
    for i in 0..3 {
        assert_eq!(belongs(&cluster.api(i)).await, before, "{}", id(i));
    }
    cluster.network.heal();
    timed("until all agree again", agree(&cluster)).await;
    ledger.readable(&cluster, &[2, 0, 1]).await;
    for i in 0..3 {
        assert_eq!(belongs(&cluster.api(i)).await, before, "{}", id(i));
    }
    let lone = cluster.api(0).value("lone").await.expect("readable");
    assert_eq!(lone, None, "what was refused never happened");
}

#[tokio::test]
async fn a_node_cut_off_refuses_while_the_others_serve() {
    one_cut_off(Kind::Refused).await;
}

#[tokio::test]
async fn a_node_cut_off_in_silence_refuses_while_the_others_serve() {
    one_cut_off(Kind::Silent).await;
}

#[tokio::test]
async fn nodes_that_held_each_other_dead_find_each_other_again() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let before = belongs(&cluster.api(0)).await;
    let mut ledger = Ledger::default();
    // one apart, another apart, and each alone
    for (round, apart) in [&[2][..], &[0], &[0, 1, 2]].into_iter().enumerate() {
        let phase = format!("round{round}");
        ledger.write(&cluster, &[0, 1, 2], &phase).await;
        for host in apart {
            cluster.network.isolate(*host, Loses::Everything);
        }
        for i in 0..3 {
            let alone = apart.contains(&i);
            let others = (0..3).filter(|o| !alone && !apart.contains(o) || *o == i);
            let others: Vec<usize> = others.collect();
            timed("until held dead", sees(&cluster, i, &others)).await;
        }
        eprintln!("{phase}: {}", picture(&cluster).await);
        cluster.network.heal();
        timed("until all agree again", agree(&cluster)).await;
        ledger.readable(&cluster, &[0, 1, 2]).await;
        for i in 0..3 {
            assert_eq!(belongs(&cluster.api(i)).await, before, "{}", id(i));
        }
    }
}

const CROWD: Crowd = Crowd {
    keys: 6,
    writers: 3,
    readers: 4,
    seed: 7,
};

/// One register per key, and enough happened to mean something.
fn judge(history: &Recorder, reads: usize, writes: usize) {
    if let Err(violation) = history.verify() {
        panic!("{}", violation.story);
    }
    let counts = history.counts();
    eprintln!("{counts:?}");
    assert!(counts.reads > reads && counts.writes > writes, "{counts:?}");
}

/// Keeps the links as they are for a while, and shows what the nodes make of it.
async fn hold(cluster: &Cluster, what: &str, length: Duration) {
    let began = Instant::now();
    let mut last = String::new();
    while began.elapsed() < length {
        let now = picture(cluster).await;
        if now != last {
            eprintln!("{what}, {:.1} s: {now}", began.elapsed().as_secs_f64());
            last = now;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn links_that_work_in_one_direction_only_split_nothing() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let before = belongs(&cluster.api(0)).await;
    for (what, lost) in [
        ("node-3 is deaf", [(0, 2), (1, 2)]),
        ("node-3 is mute", [(2, 0), (2, 1)]),
    ] {
        let nodes = cluster.apis();
        let disturbance = async {
            for (from, to) in lost {
                cluster.network.lose(from, to, Loses::Everything);
            }
            hold(&cluster, what, LONGER_THAN_SUSPICION).await;
            for i in [0, 1] {
                let status = cluster.api(i).status().await.expect("answers");
                assert!(status.replication.quorum_available, "{what}: {status:?}");
            }
            // what node-3 says of the others is refuted in time
            let dead = reported(&cluster, &[EventCode::MemberDead]).await;
            let wrong = dead
                .iter()
                .find(|m| !m.starts_with("node-3: ") && !m.contains(": node-3: no answer"));
            assert_eq!(wrong, None, "{what}");
        };
        let (history, ()) = run_beside(disturbance, nodes, &what.replace(' ', "-"), CROWD).await;
        cluster.network.heal();
        timed("until all agree again", agree(&cluster)).await;
        judge(&history, 200, 100);
        for i in 0..3 {
            assert_eq!(belongs(&cluster.api(i)).await, before, "{what}: {}", id(i));
        }
    }
}

/// Events of these codes that any node reported.
async fn reported(cluster: &Cluster, codes: &[EventCode]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, api) in cluster.apis() {
        let path = "/api/v1/events?limit=1000";
        let answer: EventsResponse = api.get(path).await.expect("answers");
        let wanted = answer.events.iter().filter(|e| codes.contains(&e.code));
        found.extend(wanted.map(|e| format!("{name}: {}", e.message)));
    }
    found
}

#[tokio::test]
async fn a_link_lost_between_two_is_bridged_by_the_third() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let nodes = cluster.apis();
    let disturbance = async {
        cluster.network.cut(0, 2, Loses::Everything);
        hold(&cluster, "node-1 and node-3 apart", LONGER_THAN_SUSPICION).await;
    };
    let (history, ()) = run_beside(disturbance, nodes, "bridged", CROWD).await;
    let dead = reported(&cluster, &[EventCode::MemberDead]).await;
    assert!(dead.is_empty(), "node-2 reaches both: {dead:?}");
    let mut ledger = Ledger::default();
    ledger.write(&cluster, &[0, 1, 2], "bridged").await;
    ledger.readable(&cluster, &[0, 1, 2]).await;
    cluster.network.heal();
    timed("until all agree again", agree(&cluster)).await;
    judge(&history, 200, 100);
}

#[tokio::test]
async fn a_node_without_udp_stays_a_member_and_is_warned_of() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let mut ledger = Ledger::default();
    cluster.network.isolate(2, Loses::Udp);
    let warned = async {
        eventually("a warning that UDP is blocked", GENEROUS, async || {
            let found = reported(&cluster, &[EventCode::UdpBlocked]).await;
            let about = found.iter().any(|m| m.contains("node-3 answers over TCP"));
            about.then_some(()).ok_or(format!("{found:?}"))
        })
        .await;
    };
    timed("until the warning", warned).await;
    hold(&cluster, "no UDP", LONGER_THAN_SUSPICION).await;
    ledger.write(&cluster, &[0, 1, 2], "tcp-only").await;
    ledger.readable(&cluster, &[0, 1, 2]).await;
    for warning in reported(&cluster, &[EventCode::UdpBlocked]).await {
        eprintln!("{warning}");
    }
    let dead = reported(&cluster, &[EventCode::MemberDead]).await;
    assert!(dead.is_empty(), "it answered over TCP: {dead:?}");
    for i in 0..3 {
        sees(&cluster, i, &[0, 1, 2]).await;
    }
    eventually(
        "everybody told of UDP that does not pass",
        GENEROUS,
        async || blocked(&cluster, 0, true).await,
    )
    .await;
    cluster.network.heal();
    agree(&cluster).await;
    eventually("UDP that passes again", GENEROUS, async || {
        blocked(&cluster, 0, false).await
    })
    .await;
    eventually("the word that it does", GENEROUS, async || {
        let said = reported(&cluster, &[EventCode::UdpOpen]).await;
        (!said.is_empty())
            .then_some(())
            .ok_or_else(|| "silence".to_owned())
    })
    .await;
}

/// Whether the matrix, the list and the engine of `index` say that node-3 is reached over TCP only.
async fn blocked(cluster: &Cluster, index: usize, want: bool) -> Result<(), String> {
    let api = cluster.api(index);
    let error = |e: anyhow::Error| format!("{e:#}");
    let seen: ObservationsResponse = api.get("/api/v1/observations").await.map_err(error)?;
    let members = api.members().await.map_err(error)?;
    let status: GossipStatusResponse = api.get("/gossip/status").await.map_err(error)?;
    let status = status.gossip_status;
    let observers = seen.observers.iter().filter(|o| o.node_id != id(2));
    let views: Vec<bool> = observers
        .map(|o| o.views.get(&id(2)).is_some_and(|v| v.udp_blocked))
        .collect();
    let listed = members.cluster_members[&id(2)].udp_blocked;
    let told = status.udp_blocked.contains(&id(2));
    let all = views.iter().all(|b| *b == want) && listed == want && told == want;
    all.then_some(())
        .ok_or(format!("{views:?}, listed {listed}, told {told}"))
}

#[tokio::test]
async fn one_register_while_links_are_cut_and_healed() {
    let Some(mut cluster) = Cluster::start(3).await else {
        return;
    };
    let nodes = cluster.apis();
    let mut random = StdRng::seed_from_u64(3);
    let mut cuts = 0;
    let disturbance = async {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(random.random_range(200..1500))).await;
            let victim = random.random_range(0..3);
            match random.random_range(0..4) {
                0 => cluster.network.refuse(victim),
                1 => cluster
                    .network
                    .lose(victim, (victim + 1) % 3, Loses::Everything),
                _ => cluster.network.isolate(victim, Loses::Everything),
            }
            cuts += 1;
            sleep(Duration::from_millis(random.random_range(300..7000))).await;
            cluster.network.heal();
        }
    };
    let (history, ()) = run_beside(disturbance, nodes, "cut", CROWD).await;
    eprintln!("{cuts} cuts");
    assert!(cuts > 4, "{cuts}");
    judge(&history, 200, 100);
    timed("until all agree again", agree(&cluster)).await;
}
