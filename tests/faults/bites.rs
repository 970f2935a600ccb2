//! The checks bite: each is shown red on a real daemon that breaks its rule (`RINGD_BREAK`), and
//! green on one that does not, in the same scene. Builds for release do not know how to break.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use crate::support::{
    checks::{Check, Report, ended::End},
    client::Api,
    cluster::Cluster,
    history::Recorder,
    observer::{Change, Observer, settled},
    wait::GENEROUS,
};

/// Attempts at a scene in which a broken rule shows by chance only.
const ATTEMPTS: usize = 5;

async fn cluster(broken: Option<&str>) -> Cluster {
    let environment: Vec<(&str, &str)> = broken.iter().map(|w| ("RINGD_BREAK", *w)).collect();
    let mut cluster = Cluster::start_with(3, &environment).await;
    if let Some(word) = broken {
        let said = cluster.nodes[0].log();
        assert!(said.contains("BROKEN ON PURPOSE"), "{word}: {said}");
    }
    cluster.agree().await;
    cluster
}

/// Green, having examined something, on a daemon that is whole.
fn green(recorder: &Recorder, end: &End, checks: &[Check]) {
    recorder.must_hold(end, checks);
}

fn red(word: &str, report: &Report, checks: &[Check]) {
    eprintln!("{word}:\n{report}");
    for check in checks {
        assert!(report.is_red(*check), "{word} went unnoticed by {check}");
    }
}

/// `(name, api)` of each node.
fn nodes(cluster: &Cluster) -> Vec<(String, Api)> {
    let nodes = cluster.nodes.iter().enumerate();
    nodes.map(|(i, n)| (n.id.clone(), cluster.api(i))).collect()
}

const WRITERS: usize = 24;
/// Acknowledged writes before the others are stopped.
const WRITES: u32 = 150;
/// Acknowledgements after that which were not under way before.
const EARLY: u32 = 2 * WRITERS as u32;

/// Writes through one node; the others stop in the middle of it, all are killed, and the one
/// that took the writes loses its store. What a quorum had is still there.
async fn one_copy_is_lost(cluster: &mut Cluster, attempt: usize) -> (Arc<Recorder>, End) {
    let recorder = Arc::new(Recorder::new());
    let acknowledged = Arc::new(Semaphore::new(0));
    let mut writers = JoinSet::new();
    let (name, api) = nodes(cluster).swap_remove(0);
    for client in 0..WRITERS {
        let (recorder, acknowledged) = (recorder.clone(), acknowledged.clone());
        let (name, api) = (name.clone(), api.clone());
        writers.spawn(async move {
            let observer = Observer {
                recorder: &recorder,
                client,
            };
            for n in 0.. {
                let key = format!("copy-{attempt}-{client}-{n}");
                let done = observer.write(&name, &api, &key, Change::Put, None);
                if done.await.is_none() {
                    return;
                }
                acknowledged.add_permits(1);
            }
        });
    }
    let enough = acknowledged.acquire_many(WRITES).await;
    enough.expect("never closed").forget();
    cluster.nodes[1].pause();
    cluster.nodes[2].pause();
    acknowledged.forget_permits(Semaphore::MAX_PERMITS);
    let refused = async {
        while let Some(ended) = writers.join_next().await {
            ended.expect("a writer ends well");
        }
    };
    // either each writer hears that there is no quorum, or there is no need of one
    let settled_down = async {
        tokio::select! {
            () = refused => {}
            early = acknowledged.acquire_many(EARLY) => early.expect("never closed").forget(),
        }
    };
    timeout(GENEROUS, settled_down)
        .await
        .expect("writers are answered");
    for node in &mut cluster.nodes {
        node.kill9();
    }
    recorder.all_killed();
    writers.join_all().await;
    cluster.nodes[0].lose("store");
    for node in &mut cluster.nodes {
        node.start(&[]);
    }
    cluster.agree().await;
    let keys = recorder.keys();
    let (name, api) = nodes(cluster).swap_remove(1);
    for key in &keys {
        let client = key.split('-').nth(2).and_then(|c| c.parse().ok());
        let observer = Observer {
            recorder: &recorder,
            client: client.expect("its writer"),
        };
        let read = observer.read(&name, &api, key).await;
        assert!(read.is_some(), "{key} can be read");
    }
    let end = settled(&nodes(cluster), &keys, GENEROUS).await;
    (recorder, end)
}

#[tokio::test]
async fn an_answer_before_the_quorum_is_noticed() {
    let checks = [Check::NothingLost, Check::Sessions, Check::Durability];
    let (recorder, end) = one_copy_is_lost(&mut cluster(None).await, 0).await;
    green(&recorder, &end, &checks);
    // without the query before it a write needs nobody else at all, whatever was under way when they stopped
    let mut broken = cluster(Some("early-ack,version-query")).await;
    for attempt in 0..ATTEMPTS {
        let (recorder, end) = one_copy_is_lost(&mut broken, attempt).await;
        let report = recorder.judge(&end);
        if report.is_red(Check::NothingLost) || attempt + 1 == ATTEMPTS {
            red("early-ack", &report, &checks);
            return;
        }
    }
}

const KEYS: usize = 12;

/// Node 3 takes writes, loses its folder, comes back, and takes writes of the same keys.
async fn a_node_forgets(cluster: &mut Cluster) -> (Recorder, End) {
    let recorder = Recorder::new();
    let observer = Observer {
        recorder: &recorder,
        client: 0,
    };
    let (name, api) = nodes(cluster).swap_remove(2);
    let (other, reader) = nodes(cluster).swap_remove(0);
    let keys: Vec<String> = (0..KEYS).map(|n| format!("forget-{n}")).collect();
    for life in 0..2 {
        if life == 1 {
            cluster.nodes[2].kill9();
            cluster.nodes[2].lose("");
            let seed = cluster.seed(0);
            cluster.nodes[2].start(&seed);
            cluster.agree().await;
        }
        for key in &keys {
            let done = observer.write(&name, &api, key, Change::Put, None).await;
            assert!(done.is_some(), "{key} is written");
            observer.read(&other, &reader, key).await;
        }
    }
    let end = settled(&nodes(cluster), &keys, GENEROUS).await;
    (recorder, end)
}

#[tokio::test]
async fn a_wiped_node_that_went_on_as_the_same_actor_is_noticed() {
    let checks = [Check::NoFalseDominance, Check::DotsAreUnique];
    let (recorder, end) = a_node_forgets(&mut cluster(None).await).await;
    green(&recorder, &end, &checks);
    let (recorder, end) = a_node_forgets(&mut cluster(Some("reuse-actor")).await).await;
    red("reuse-actor", &recorder.judge(&end), &checks);
}

/// Node 3 misses writes; nobody reads them.
async fn a_node_misses_writes(cluster: &mut Cluster, limit: Duration) -> (Recorder, End) {
    let recorder = Recorder::new();
    let observer = Observer {
        recorder: &recorder,
        client: 0,
    };
    cluster.nodes[2].kill9();
    let (name, api) = nodes(cluster).swap_remove(0);
    let keys: Vec<String> = (0..KEYS).map(|n| format!("missed-{n}")).collect();
    for key in &keys {
        observer.write(&name, &api, key, Change::Put, None).await;
    }
    cluster.nodes[2].start(&[]);
    cluster.agree().await;
    let end = settled(&nodes(cluster), &keys, limit).await;
    (recorder, end)
}

#[tokio::test]
async fn missing_repair_is_noticed() {
    let mut whole = cluster(None).await;
    let began = Instant::now();
    let (recorder, end) = a_node_misses_writes(&mut whole, GENEROUS).await;
    let took = began.elapsed();
    green(&recorder, &end, &[Check::Convergence]);
    // the broken one gets twice the time that the whole one needed for everything
    let mut broken = cluster(Some("no-repair")).await;
    let (recorder, end) = a_node_misses_writes(&mut broken, took * 2).await;
    red("no-repair", &recorder.judge(&end), &[Check::Convergence]);
}

/// Writes and deletes with contexts that are older than what is there.
async fn old_contexts(cluster: &Cluster) -> (Recorder, End) {
    let recorder = Recorder::new();
    let observer = Observer {
        recorder: &recorder,
        client: 0,
    };
    let all = nodes(cluster);
    let keys: Vec<String> = (0..KEYS).map(|n| format!("stale-{n}")).collect();
    for (n, key) in keys.iter().enumerate() {
        let (name, api) = &all[n % 3];
        let (other, another) = &all[(n + 1) % 3];
        observer.write(name, api, key, Change::Put, None).await;
        let read = observer.read(other, another, key).await;
        let (_, knowledge) = read.expect("readable");
        observer.write(name, api, key, Change::Put, None).await;
        let change = [Change::Put, Change::Delete][n % 2];
        let stale = observer.write(other, another, key, change, knowledge.as_ref());
        assert!(stale.await.is_some(), "{key} is written");
        observer.read(name, api, key).await;
    }
    let end = settled(&all, &keys, GENEROUS).await;
    (recorder, end)
}

#[tokio::test]
async fn an_ignored_context_is_noticed() {
    let checks = [Check::StaleContexts, Check::NoFalseDominance];
    let (recorder, end) = old_contexts(&cluster(None).await).await;
    green(&recorder, &end, &checks);
    let (recorder, end) = old_contexts(&cluster(Some("ignore-context")).await).await;
    red("ignore-context", &recorder.judge(&end), &checks);
}

/// Writes one after the other, and in the end some at the same time.
async fn one_after_the_other(cluster: &Cluster) -> (Recorder, End) {
    let recorder = Recorder::new();
    let observer = Observer {
        recorder: &recorder,
        client: 0,
    };
    let all = nodes(cluster);
    let keys: Vec<String> = (0..KEYS).map(|n| format!("after-{n}")).collect();
    let [(a, one), (b, two), (c, three)] = &all[..] else {
        panic!("three nodes");
    };
    for key in &keys {
        for (name, api) in &all {
            observer.write(name, api, key, Change::Put, None).await;
            observer.read(name, api, key).await;
        }
        // through different nodes at once: siblings that may be
        tokio::join!(
            observer.write(a, one, key, Change::Put, None),
            observer.write(b, two, key, Change::Put, None),
            observer.write(c, three, key, Change::Put, None),
        );
        observer.read(a, one, key).await;
    }
    let end = settled(&all, &keys, GENEROUS).await;
    (recorder, end)
}

#[tokio::test]
async fn siblings_that_should_be_gone_are_noticed() {
    let checks = [Check::SiblingsAreConcurrent, Check::NoResurrection];
    let (recorder, end) = one_after_the_other(&cluster(None).await).await;
    green(&recorder, &end, &checks);
    let (recorder, end) = one_after_the_other(&cluster(Some("keep-superseded")).await).await;
    red("keep-superseded", &recorder.judge(&end), &checks);
}
