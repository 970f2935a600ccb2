//! Many clients on few keys through all nodes, while nodes are killed and paused; everything
//! they do and see goes into a history.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{
    client::Api,
    cluster::Cluster,
    history::Recorder,
    observer::{Change, Observer},
};

/// What disturbs the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// Nodes join, one after the other, and the ring rebalances under the clients.
    Joins,
    /// One node at a time is killed or paused for a while.
    KillsAndPauses,
    /// Nodes are paused for moments, often, so that replicas lag behind one another.
    Stutter,
}

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub keys: usize,
    pub writers: usize,
    pub readers: usize,
    pub length: Duration,
    pub faults: Faults,
    pub seed: u64,
}

/// The clients of a campaign.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    pub keys: usize,
    pub writers: usize,
    pub readers: usize,
    pub seed: u64,
}

/// Faults that really happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Injected {
    pub kills: usize,
    pub pauses: usize,
    pub joins: usize,
}

/// Nodes beyond which nobody joins any more.
const NODES_MAX: usize = 5;

/// Runs the plan; the keys must not have been used before.
pub async fn run(cluster: &mut Cluster, prefix: &str, plan: Plan) -> (Recorder, Injected) {
    let nodes: Vec<(String, Api)> = (0..cluster.nodes.len())
        .map(|i| (cluster.nodes[i].id.clone(), cluster.api(i)))
        .collect();
    let crowd = Crowd {
        keys: plan.keys,
        writers: plan.writers,
        readers: plan.readers,
        seed: plan.seed,
    };
    run_beside(disturb(cluster, plan), nodes, prefix, crowd).await
}

/// The same with a disturbance of one's own; the clients work until it ends.
pub async fn run_beside<T>(
    disturbance: impl Future<Output = T>,
    nodes: Vec<(String, Api)>,
    prefix: &str,
    crowd: Crowd,
) -> (Recorder, T) {
    let recorder = Arc::new(Recorder::new());
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..crowd.writers + crowd.readers {
        let client = Client {
            number,
            writes: number < crowd.writers,
            nodes: nodes.clone(),
            keys: (0..crowd.keys).map(|k| format!("{prefix}-{k}")).collect(),
            recorder: Arc::clone(&recorder),
            random: StdRng::seed_from_u64(crowd.seed * 1000 + number as u64),
        };
        clients.spawn(client.run(Arc::clone(&over)));
    }
    let injected = disturbance.await;
    over.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let recorder = Arc::into_inner(recorder).expect("all clients have ended");
    (recorder, injected)
}

/// Injects faults for the length of the plan; leaves all nodes running.
async fn disturb(cluster: &mut Cluster, plan: Plan) -> Injected {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut injected = Injected::default();
    let end = tokio::time::Instant::now() + plan.length;
    let between = match plan.faults {
        Faults::Joins => 200..1500,
        Faults::KillsAndPauses => 500..2000,
        Faults::Stutter => 5..60,
    };
    while tokio::time::Instant::now() < end {
        sleep(Duration::from_millis(random.random_range(between.clone()))).await;
        if plan.faults == Faults::Joins {
            if cluster.nodes.len() < NODES_MAX {
                let seeds = cluster.seed(random.random_range(0..cluster.nodes.len()));
                cluster.add(&seeds).await;
                cluster.agree().await;
                injected.joins += 1;
            }
            continue;
        }
        let victim = random.random_range(0..cluster.nodes.len());
        let kill = plan.faults == Faults::KillsAndPauses && random.random_bool(0.5);
        let down = match plan.faults {
            Faults::Stutter => random.random_range(5..80),
            _ => random.random_range(500..6000),
        };
        if kill {
            injected.kills += 1;
            cluster.nodes[victim].kill9();
            sleep(Duration::from_millis(down)).await;
            let seeds = cluster.seed((victim + 1) % cluster.nodes.len());
            cluster.nodes[victim].start(&seeds);
        } else {
            injected.pauses += 1;
            cluster.nodes[victim].pause();
            sleep(Duration::from_millis(down)).await;
            cluster.nodes[victim].resume();
        }
    }
    injected
}

struct Client {
    number: usize,
    writes: bool,
    nodes: Vec<(String, Api)>,
    keys: Vec<String>,
    recorder: Arc<Recorder>,
    random: StdRng,
}

impl Client {
    async fn run(mut self, over: Arc<AtomicBool>) {
        let recorder = self.recorder.clone();
        let observer = Observer {
            recorder: &recorder,
            client: self.number,
        };
        while !over.load(Ordering::Relaxed) {
            let (node, api) = self.nodes[self.random.random_range(0..self.nodes.len())].clone();
            let key = self.keys[self.random.random_range(0..self.keys.len())].clone();
            let answered = if self.writes {
                let put = observer.write(&node, &api, &key, Change::Put, None);
                put.await
            } else {
                observer.read(&node, &api, &key).await.is_some()
            };
            if !answered {
                sleep(Duration::from_millis(self.random.random_range(5..50))).await;
            }
        }
    }
}
