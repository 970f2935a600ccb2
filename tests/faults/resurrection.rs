//! A deleted key stays deleted, although its tombstone is forgotten in the end: also when a
//! replica that still had the value was away for longer than every timeout.

use reqwest::Method;
use ringmaster_shared::api::{data::ReplicasResponse, health::StorageStatus};
use serde_json::json;

use crate::support::{
    client::Api,
    cluster::Cluster,
    wait::{GENEROUS, eventually},
};

const KEYS: usize = 24;
/// Of each `REBORN` deleted keys one is written again while the replica is away.
const REBORN: usize = 6;

/// Everything that has a time limit here ends within about a second.
const HASTY: [(&str, &str); 2] = [
    ("RINGD_STORAGE_TOMBSTONE_GRACE", "1s"),
    ("RINGD_STORAGE_HINT_MAX_AGE", "1s"),
];

#[derive(Debug, Clone, Copy)]
enum Absence {
    Killed,
    Paused,
}

fn key(i: usize) -> String {
    format!("mortal-{i}")
}

fn is_reborn(i: usize) -> bool {
    i.is_multiple_of(REBORN)
}

/// Keys that stay deleted.
fn dead() -> u64 {
    (0..KEYS).filter(|i| !is_reborn(*i)).count() as u64
}

async fn ask(api: &Api, method: Method, i: usize) -> u16 {
    let path = format!("/api/v1/data/{}?consistency=quorum", key(i));
    let reply = api.send(method, &path, None).await;
    reply.expect("answered").status
}

async fn storage(api: &Api) -> Result<StorageStatus, String> {
    let status = api.status().await.map_err(|e| format!("{e:#}"))?;
    Ok(status.storage)
}

/// Writes all keys on all three nodes.
async fn populate(cluster: &Cluster) {
    for i in 0..KEYS {
        let reply = cluster.api(i % 3).put(&key(i), &json!({"life": 1})).await;
        assert_eq!(reply.expect("answered").status, 200);
    }
    eventually("all replicas hold all keys", GENEROUS, async || {
        for i in 0..KEYS {
            let path = format!("/api/v1/data/{}/replicas", key(i));
            let answer: ReplicasResponse =
                cluster.api(0).get(&path).await.map_err(|e| e.to_string())?;
            if !answer.replicas.iter().all(|r| r.present) {
                return Err(format!("{} is missing somewhere: {answer:?}", key(i)));
            }
        }
        Ok(())
    })
    .await;
}

/// Deletes all keys through the two nodes that are left, and writes some of them again.
async fn delete(cluster: &Cluster) {
    for i in 0..KEYS {
        let api = cluster.api(i % 2);
        eventually("a delete is acknowledged", GENEROUS, async || {
            match ask(&api, Method::DELETE, i).await {
                200 | 404 => Ok(()),
                status => Err(format!("status {status}")),
            }
        })
        .await;
        if is_reborn(i) {
            let limit = GENEROUS;
            cluster
                .write(i % 2, &key(i), &json!({"life": 2}), limit)
                .await;
        }
    }
}

/// Takes node 3 away, deletes everything, waits until all hints are given up, and looks what
/// becomes of the tombstones (`kept`: whether they wait); then brings it back.
async fn outlive(cluster: &mut Cluster, absence: Absence, kept: bool) {
    populate(cluster).await;
    match absence {
        Absence::Killed => cluster.nodes[2].kill9(),
        Absence::Paused => cluster.nodes[2].pause(),
    }
    cluster.sees_alive(0, 2).await;
    cluster.sees_alive(1, 2).await;
    delete(cluster).await;
    for at in [0, 1] {
        let api = cluster.api(at);
        eventually("the hints are given up", GENEROUS, async || {
            let storage = storage(&api).await?;
            let dirty = storage.dirty_partitions.values().sum::<u64>() > 0;
            if storage.hints_owed.values().all(|n| *n == 0) && dirty {
                return Ok(());
            }
            Err(format!("{storage:?}"))
        })
        .await;
    }
    if kept {
        tombstones_wait(cluster).await;
    } else {
        // all but those that node 3 looks after
        eventually("tombstones are forgotten", GENEROUS, async || {
            for at in [0, 1] {
                let tombstones = storage(&cluster.api(at)).await?.tombstones;
                if tombstones > dead() / 2 {
                    return Err(format!("node {} holds {tombstones}", at + 1));
                }
            }
            Ok(())
        })
        .await;
    }
    match absence {
        Absence::Killed => cluster.nodes[2].start(&[]),
        Absence::Paused => cluster.nodes[2].resume(),
    }
    cluster.agree().await;
}

/// Node 3 is named, in the status and in an event; nothing is forgotten meanwhile.
async fn tombstones_wait(cluster: &Cluster) {
    eventually("node 3 is waited for", GENEROUS, async || {
        let mut named = Vec::new();
        for at in [0, 1] {
            named.extend(storage(&cluster.api(at)).await?.tombstones_wait_for);
        }
        let name = &cluster.nodes[2].id;
        if !named.is_empty() && named.iter().all(|id| id.as_str() == name) {
            return Ok(());
        }
        Err(format!("waits for {named:?}"))
    })
    .await;
    // told when it has lasted for a grace; so the tombstones are older than two of them
    eventually("the wait is told", GENEROUS, async || {
        for at in [0, 1] {
            if cluster.nodes[at].log().contains("TOMBSTONES_BLOCKED") {
                return Ok(());
            }
        }
        Err("no event".to_owned())
    })
    .await;
    for at in [0, 1] {
        let tombstones = storage(&cluster.api(at)).await.expect("answers").tombstones;
        assert_eq!(tombstones, dead(), "at node {}", at + 1);
    }
}

async fn tombstones_are_gone(cluster: &Cluster, at: &[usize]) {
    eventually("the tombstones are forgotten", GENEROUS, async || {
        for at in at {
            let storage = storage(&cluster.api(*at)).await?;
            if storage.tombstones != 0 || !storage.tombstones_wait_for.is_empty() {
                return Err(format!("node {}: {storage:?}", at + 1));
            }
        }
        Ok(())
    })
    .await;
}

/// Deleted keys that can be read, or that a replica holds a value of.
async fn resurrected(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for i in (0..KEYS).filter(|i| !is_reborn(*i)) {
        for at in 0..3 {
            let path = format!("/api/v1/data/{}?consistency=all", key(i));
            let reply = cluster.api(at).send(Method::GET, &path, None).await;
            match reply.expect("answered").status {
                404 => {}
                200 => found.push(format!("{} through node {}", key(i), at + 1)),
                status => panic!("{}: status {status}", key(i)),
            }
        }
        let path = format!("/api/v1/data/{}/replicas", key(i));
        let answer: ReplicasResponse = cluster.api(i % 3).get(&path).await.expect("answers");
        for replica in answer.replicas {
            assert_eq!(replica.error, None);
            if replica.present {
                found.push(format!("{} on {}", key(i), replica.node_id));
            }
        }
    }
    found
}

async fn nothing_comes_back(absence: Absence) {
    let mut cluster = Cluster::start_with(3, &HASTY).await;
    outlive(&mut cluster, absence, true).await;
    tombstones_are_gone(&cluster, &[0, 1, 2]).await;
    eventually("what was dirty is compared", GENEROUS, async || {
        for at in [0, 1] {
            let storage = storage(&cluster.api(at)).await?;
            if !storage.dirty_partitions.is_empty() {
                return Err(format!("{storage:?}"));
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(resurrected(&cluster).await, Vec::<String>::new());
    for i in (0..KEYS).filter(|i| is_reborn(*i)) {
        for at in 0..3 {
            cluster.reads(at, &key(i), &json!({"life": 2})).await;
        }
    }
    // a forgotten key is a key like any other
    cluster
        .write(2, &key(1), &json!({"life": 3}), GENEROUS)
        .await;
    cluster.reads(0, &key(1), &json!({"life": 3})).await;
}

#[tokio::test]
async fn deletes_hold_against_a_node_that_was_dead_for_longer_than_every_timeout() {
    nothing_comes_back(Absence::Killed).await;
}

#[tokio::test]
async fn deletes_hold_against_a_node_that_was_paused_for_longer_than_every_timeout() {
    nothing_comes_back(Absence::Paused).await;
}

/// The same, with nodes that forget tombstones when they are old, without asking: the check above
/// must notice.
#[tokio::test]
async fn forgetting_by_age_alone_is_noticed() {
    let mut environment = HASTY.to_vec();
    environment.push(("RINGD_BREAK", "gc-without-acks"));
    let mut cluster = Cluster::start_with(3, &environment).await;
    outlive(&mut cluster, Absence::Killed, false).await;
    eventually("a deleted key is back", GENEROUS, async || {
        let found = resurrected(&cluster).await;
        if found.is_empty() {
            return Err("none is".to_owned());
        }
        Ok(())
    })
    .await;
}
