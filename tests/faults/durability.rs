//! P1: a write that was acknowledged survives the death of every node at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};

use crate::support::{client::Api, cluster::Cluster};

const WRITERS: usize = 12;
const ROUNDS: u64 = 3;
/// Acknowledged writes before the kill.
const WRITES_BEFORE_KILL: u32 = 150;

/// What one writer knows of its own key, which nobody else writes.
#[derive(Debug, Default)]
struct Known {
    acknowledged: Option<u64>,
    attempted: u64,
}

/// Writes 1, 2, 3... to its key through a random node until told to stop; the last
/// acknowledged must not be lost, later ones may or may not have happened.
async fn write_until(
    apis: Vec<Api>,
    key: String,
    seed: u64,
    acknowledged: Arc<Semaphore>,
    stop: Arc<Notify>,
) -> (String, Known) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut known = Known::default();
    let writing = async {
        loop {
            let api = &apis[random.random_range(0..apis.len())];
            known.attempted += 1;
            match api.put(&key, &json!(known.attempted)).await {
                Ok(reply) if reply.status == 200 => {
                    known.acknowledged = Some(known.attempted);
                    acknowledged.add_permits(1);
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = stop.notified() => {}
    }
    (key, known)
}

#[tokio::test]
async fn killing_all_nodes_at_once_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start(3).await;
    let mut all: HashMap<String, Known> = HashMap::new();
    for round in 0..ROUNDS {
        let apis: Vec<Api> = (0..3).map(|i| cluster.api(i)).collect();
        let acknowledged = Arc::new(Semaphore::new(0));
        let stop = Arc::new(Notify::new());
        let mut writers = JoinSet::new();
        for w in 0..WRITERS {
            let key = format!("round-{round}-{w}");
            let seed = round * 100 + w as u64;
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            writers.spawn(write_until(apis.clone(), key, seed, acknowledged, stop));
        }
        let enough = acknowledged.acquire_many(WRITES_BEFORE_KILL).await;
        enough.expect("never closed").forget();
        // in the middle of writing
        for node in &mut cluster.nodes {
            node.kill9();
        }
        stop.notify_waiters();
        all.extend(writers.join_all().await);
        // nobody first: each comes back from its own folder
        for node in &mut cluster.nodes {
            node.start(&[]);
        }
        cluster.agree().await;
        for (key, known) in &all {
            let i = key.len() % 3;
            let found = cluster.api(i).value(key).await.expect("readable");
            let found = found.and_then(|v| v.as_u64());
            assert!(
                found >= known.acknowledged && found.unwrap_or(0) <= known.attempted,
                "{key}: found {found:?}, {known:?}"
            );
        }
    }
    let kept = all.values().filter(|k| k.acknowledged.is_some()).count();
    assert!(kept > WRITERS, "hardly anything was written");
}
