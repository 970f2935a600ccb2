//! Nodes leave, are removed, are replaced; the ring is balanced anew, a change is called off, its
//! driver dies: under clients that write and read all the time. Nothing acknowledged is lost, each
//! key stays one register, and who is out knows it.

use std::time::{Duration, Instant};

use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use ringmaster_shared::{
    api::ring::{ApplyResponse, PlanResponse, RingResponse},
    error::ErrorCode,
    member::{Lifecycle, MemberStatus},
};
use serde_json::{Value, json};

use super::campaign::{Crowd, run_beside};
use crate::support::{
    client::{Api, Reply},
    cluster::Cluster,
    history::Recorder,
    wait::{GENEROUS, eventually, same},
};

/// Written before a change and looked for after it.
const KEYS: usize = 60;

fn crowd(seed: u64) -> Crowd {
    Crowd {
        keys: 12,
        writers: 4,
        readers: 4,
        seed,
    }
}

fn apis(cluster: &Cluster) -> Vec<(String, Api)> {
    (0..cluster.nodes.len())
        .map(|i| (cluster.nodes[i].id.clone(), cluster.api(i)))
        .collect()
}

/// One register a key, and the clients really worked.
fn judge(history: &Recorder) {
    if let Err(violation) = history.verify() {
        panic!("{}", violation.story);
    }
    let counts = history.counts();
    eprintln!("{counts:?}");
    assert!(counts.reads > 50 && counts.writes > 50, "{counts:?}");
}

async fn fill(cluster: &Cluster) {
    for i in 0..KEYS {
        let key = format!("kept-{i}");
        cluster.write(i % 3, &key, &json!(i), GENEROUS).await;
    }
}

async fn all_kept(cluster: &mut Cluster) {
    let running = cluster.running();
    let mut random = StdRng::seed_from_u64(7);
    for i in 0..KEYS {
        let through = *running.choose(&mut random).expect("somebody runs");
        cluster
            .reads(through, &format!("kept-{i}"), &json!(i))
            .await;
    }
}

async fn post(api: &Api, path: &str, body: &Value) -> Reply {
    let reply = api.send(Method::POST, path, Some(body)).await;
    reply.expect("answered")
}

async fn plan(api: &Api, change: &Value) -> PlanResponse {
    let reply = post(api, "/api/v1/ring/plan", &json!({ "change": change })).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json().expect("the published shape")
}

async fn apply(api: &Api, plan: &PlanResponse) -> Reply {
    let order = json!({ "plan_id": plan.plan_id });
    post(api, "/api/v1/ring/apply", &order).await
}

/// Plans at one node, once nothing is in the way, and applies through another.
async fn carry_out(at: &Api, through: &Api, change: &Value) -> PlanResponse {
    let what = format!("{change} can be made");
    eventually(&what, GENEROUS, async || {
        let plan = plan(at, change).await;
        same("obstacles", &plan.obstacles, &vec![])?;
        let reply = apply(through, &plan).await;
        same("status", &reply.status, &202).map_err(|e| format!("{e}: {}", reply.text()))?;
        let decided: ApplyResponse = reply.json().expect("the published shape");
        assert_eq!(decided.epoch, plan.base_epoch + 1);
        Ok(plan)
    })
    .await
}

/// Everybody who runs agrees, and lists nobody else.
async fn only_these_are_left(cluster: &mut Cluster) {
    cluster.agree().await;
    let running = cluster.running();
    for i in &running {
        let api = cluster.api(*i);
        eventually("nobody else is listed", GENEROUS, async || {
            let members = api.members().await.map_err(|e| e.to_string())?;
            let ring = api.ring().await.map_err(|e| e.to_string())?;
            same("total_members", &members.total_members, &running.len())?;
            same("nodes of the ring", &ring.nodes.len(), &running.len())
        })
        .await;
    }
}

/// Waits for the process to end by itself; its exit code.
async fn ends(cluster: &mut Cluster, index: usize) -> Option<i32> {
    let node = &mut cluster.nodes[index];
    let what = format!("{} ends", node.id);
    eventually(&what, GENEROUS, async || {
        let ended = node.ended();
        ended.map(|s| s.code()).ok_or_else(|| "it runs".to_owned())
    })
    .await
}

/// The same folder does not start again.
async fn stays_out(cluster: &mut Cluster, index: usize) {
    cluster.nodes[index].kill9();
    let seed = cluster.seed(0);
    cluster.nodes[index].start(&seed);
    assert_eq!(ends(cluster, index).await, Some(1));
    let log = cluster.nodes[index].log();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("ringd: ") && last.contains("empty --data-dir"),
        "{last}"
    );
}

async fn ring(cluster: &Cluster, index: usize) -> RingResponse {
    cluster.api(index).ring().await.expect("answers")
}

#[tokio::test]
async fn nodes_leave_under_load() {
    let mut cluster = Cluster::start(4).await;
    fill(&cluster).await;
    let nodes = apis(&cluster);
    let leaving = async {
        let made = carry_out(
            &cluster.api(0),
            &cluster.api(1),
            &json!({"type": "leave", "node": "node-4"}),
        )
        .await;
        assert!(
            made.partitions_moved > 0 && made.risks.is_empty(),
            "{made:?}"
        );
        assert_eq!(ends(&mut cluster, 3).await, Some(0));
        let log = cluster.nodes[3].log();
        assert!(log.contains("node-4 has left cluster"), "{log}");
        only_these_are_left(&mut cluster).await;
        // and from three to two, by the node's own word
        let reply = post(&cluster.api(2), "/gossip/leave", &json!({})).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        let made: PlanResponse = reply.json().expect("the published shape");
        assert!(
            made.risks.iter().any(|r| r.contains("one failure stops")),
            "{made:?}"
        );
        assert_eq!(ends(&mut cluster, 2).await, Some(0));
        only_these_are_left(&mut cluster).await;
    };
    let (history, ()) = run_beside(leaving, nodes, "leave", crowd(1)).await;
    judge(&history);
    all_kept(&mut cluster).await;
    stays_out(&mut cluster, 3).await;
    // from two to one, and back with an empty folder
    carry_out(
        &cluster.api(0),
        &cluster.api(0),
        &json!({"type": "leave", "node": "node-2"}),
    )
    .await;
    assert_eq!(ends(&mut cluster, 1).await, Some(0));
    only_these_are_left(&mut cluster).await;
    all_kept(&mut cluster).await;
    let last = plan(&cluster.api(0), &json!({"type": "leave", "node": "node-1"})).await;
    assert!(
        last.obstacles[0].contains("the last one cannot leave"),
        "{last:?}"
    );
    std::fs::remove_dir_all(cluster.nodes[1].data_dir()).expect("removed");
    cluster.nodes[1].kill9();
    let seed = cluster.seed(0);
    cluster.nodes[1].start(&seed);
    assert!(cluster.answers(1).await);
    only_these_are_left(&mut cluster).await;
}

#[tokio::test]
async fn a_dead_node_is_removed_under_load() {
    let mut cluster = Cluster::start(4).await;
    fill(&cluster).await;
    let nodes = apis(&cluster);
    let remove = json!({"type": "remove", "node": "node-2"});
    let removing = async {
        let alive = plan(&cluster.api(0), &remove).await;
        assert!(alive.obstacles[0].contains("use leave"), "{alive:?}");
        let refused = apply(&cluster.api(0), &alive).await.error();
        assert_eq!(refused.code, ErrorCode::Conflict);
        cluster.nodes[1].kill9();
        let made = carry_out(&cluster.api(0), &cluster.api(2), &remove).await;
        only_these_are_left(&mut cluster).await;
        let late = apply(&cluster.api(0), &made).await.error();
        assert_eq!(
            late.code,
            ErrorCode::Conflict,
            "the ring moved on: {late:?}"
        );
        assert!(late.details["current_epoch"].as_u64() > late.details["base_epoch"].as_u64());
        // it comes back, learns that it is out, and says so
        let seed = cluster.seed(0);
        cluster.nodes[1].start(&seed);
        assert_eq!(ends(&mut cluster, 1).await, Some(1));
        let log = cluster.nodes[1].log();
        assert!(log.contains("node-2 was taken out of cluster"), "{log}");
        stays_out(&mut cluster, 1).await;
        only_these_are_left(&mut cluster).await;
    };
    let (history, ()) = run_beside(removing, nodes, "remove", crowd(2)).await;
    judge(&history);
    all_kept(&mut cluster).await;
}

#[tokio::test]
async fn a_dead_node_is_replaced_by_a_candidate_under_load() {
    let mut cluster = Cluster::start(4).await;
    fill(&cluster).await;
    let mut flags = cluster.seed(0);
    flags.push("--join=manual".into());
    let candidate = cluster.add(&flags).await;
    let nodes = apis(&cluster);
    let replace = json!({"type": "replace", "dead": "node-3", "with": "node-5"});
    let replacing = async {
        let before = ring(&cluster, 0).await;
        let api = cluster.api(candidate);
        eventually("it is a candidate", GENEROUS, async || {
            let status = api.status().await.map_err(|e| e.to_string())?;
            same("lifecycle", &status.node.lifecycle, &Lifecycle::Candidate)
        })
        .await;
        cluster.nodes[2].kill9();
        let made = carry_out(&cluster.api(3), &cluster.api(0), &replace).await;
        assert_eq!(made.copies.len(), 1, "only the new one receives: {made:?}");
        only_these_are_left(&mut cluster).await;
        let after = ring(&cluster, 0).await;
        let names = |ring: &RingResponse| -> Vec<Vec<String>> {
            let name = |i: &u16| ring.nodes[usize::from(*i)].id.to_string();
            ring.table
                .iter()
                .map(|row| row.iter().map(name).collect())
                .collect()
        };
        let mut want = names(&before);
        for id in want.iter_mut().flatten().filter(|id| *id == "node-3") {
            *id = "node-5".into();
        }
        assert_eq!(names(&after), want, "exactly the place of the dead one");
    };
    let (history, ()) = run_beside(replacing, nodes, "replace", crowd(3)).await;
    judge(&history);
    all_kept(&mut cluster).await;
}

#[tokio::test]
async fn new_zones_are_known_at_once_and_used_after_a_rebalance() {
    let mut cluster = Cluster::start(4).await;
    fill(&cluster).await;
    let nodes = apis(&cluster);
    let rebalance = json!({"type": "rebalance"});
    let zoning = async {
        let balanced = plan(&cluster.api(0), &rebalance).await;
        assert!(
            balanced.obstacles[0].contains("nothing to move"),
            "{balanced:?}"
        );
        let before = ring(&cluster, 0).await.table;
        for (i, zone) in ["x", "x", "y", "z"].iter().enumerate() {
            assert!(cluster.nodes[i].stop().await.success());
            let mut flags = cluster.seed((i + 1) % 4);
            flags.push(format!("--zone={zone}"));
            cluster.nodes[i].start(&flags);
            cluster.agree().await;
        }
        let api = cluster.api(0);
        eventually("the ring knows the zones", GENEROUS, async || {
            let ring = api.ring().await.map_err(|e| e.to_string())?;
            let zones: Vec<&str> = ring.nodes.iter().map(|n| n.zone.as_str()).collect();
            same("zones", &zones, &vec!["x", "x", "y", "z"])
        })
        .await;
        assert_eq!(
            ring(&cluster, 0).await.table,
            before,
            "nothing moved by itself"
        );
        carry_out(&cluster.api(2), &cluster.api(3), &rebalance).await;
        only_these_are_left(&mut cluster).await;
        let after = ring(&cluster, 0).await;
        for row in &after.table {
            let mut zones: Vec<&str> = row
                .iter()
                .map(|i| after.nodes[usize::from(*i)].zone.as_str())
                .collect();
            zones.sort_unstable();
            assert_eq!(zones, ["x", "y", "z"]);
        }
    };
    let (history, ()) = run_beside(zoning, nodes, "zones", crowd(4)).await;
    judge(&history);
    all_kept(&mut cluster).await;
}

/// Begins the join of the candidate while it stands still, so that it cannot be filled.
async fn begin_stuck_join(cluster: &mut Cluster, candidate: usize, through: usize) -> RingResponse {
    let node = cluster.nodes[candidate].id.clone();
    let join = json!({"type": "join", "nodes": [node]});
    let began = Instant::now();
    loop {
        carry_on_until_alive(cluster, candidate).await;
        cluster.nodes[candidate].pause();
        let api = cluster.api(through);
        let plan = plan(&api, &join).await;
        if plan.obstacles.is_empty() && apply(&api, &plan).await.status == 202 {
            let ring = ring(cluster, through).await;
            assert!(ring.transition.is_some(), "{ring:?}");
            return ring;
        }
        assert!(
            began.elapsed() < GENEROUS,
            "the join does not begin: {plan:?}"
        );
        cluster.nodes[candidate].resume();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn carry_on_until_alive(cluster: &Cluster, candidate: usize) {
    let (api, id) = (cluster.api(0), cluster.nodes[candidate].id.clone());
    eventually("the candidate is seen alive", GENEROUS, async || {
        let members = api.members().await.map_err(|e| e.to_string())?;
        let seen = members
            .cluster_members
            .values()
            .find(|m| m.node_id.as_str() == id);
        let seen = seen.map(|m| (m.status, m.lifecycle));
        same(
            "it",
            &seen,
            &Some((MemberStatus::Alive, Lifecycle::Candidate)),
        )
    })
    .await;
}

#[tokio::test]
async fn a_change_is_called_off_midway_and_survives_its_driver() {
    let mut cluster = Cluster::start(3).await;
    fill(&cluster).await;
    let mut flags = cluster.seed(0);
    flags.push("--join=manual".into());
    let candidate = cluster.add(&flags).await;
    let nodes = apis(&cluster);
    let stuck = async {
        let before = ring(&cluster, 0).await;
        begin_stuck_join(&mut cluster, candidate, 1).await;
        let other = json!({"type": "leave", "node": "node-3"});
        let other = plan(&cluster.api(0), &other).await;
        assert!(
            other.obstacles[0].contains("a change is under way (node-4 joins)"),
            "{other:?}"
        );
        assert_eq!(apply(&cluster.api(0), &other).await.status, 409);
        carry_out(&cluster.api(0), &cluster.api(2), &json!({"type": "cancel"})).await;
        let after = ring(&cluster, 2).await;
        assert_eq!((after.table, after.transition), (before.table, None));
        cluster.nodes[candidate].resume();
        // now in earnest: the first in line drives, and dies midway
        begin_stuck_join(&mut cluster, candidate, 1).await;
        cluster.nodes[0].kill9();
        cluster.nodes[candidate].resume();
        let api = cluster.api(1);
        eventually("the next in line finishes it", GENEROUS, async || {
            let ring = api.ring().await.map_err(|e| e.to_string())?;
            same("a change", &ring.transition.is_some(), &false)?;
            same("members", &ring.nodes.len(), &4)
        })
        .await;
        let seed = cluster.seed(1);
        cluster.nodes[0].start(&seed);
        only_these_are_left(&mut cluster).await;
    };
    let (history, ()) = run_beside(stuck, nodes, "stuck", crowd(5)).await;
    judge(&history);
    all_kept(&mut cluster).await;
}
