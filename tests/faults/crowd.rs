//! Clients of every manner on few keys: plain writes, writes and deletes with fresh and with old
//! contexts, reads; all of it recorded. The keys change from phase to phase, so that no history
//! grows without end, and now and then an old key is looked at again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{
    client::Api,
    history::Recorder,
    observer::{Change, Knowledge, Observer},
};

const CLIENTS: usize = 8;
/// Keys of a phase on which nobody deletes, so that they can be judged as registers.
const REGISTERS: usize = 3;
/// Keys of a phase on which everything is done.
const VERSIONED: usize = 3;
/// Between two operations of one client, milliseconds.
const PACE_MS: std::ops::Range<u64> = 2..12;

/// Works until it is told to stop.
pub struct Crowd {
    stage: Arc<Stage>,
    clients: JoinSet<()>,
}

/// What all clients see.
struct Stage {
    recorder: Arc<Recorder>,
    prefix: String,
    phase: AtomicUsize,
    over: AtomicBool,
    nodes: Mutex<Vec<(String, Api)>>,
}

impl Crowd {
    pub fn start(
        recorder: &Arc<Recorder>,
        nodes: Vec<(String, Api)>,
        prefix: &str,
        seed: u64,
    ) -> Self {
        let stage = Arc::new(Stage {
            recorder: recorder.clone(),
            prefix: prefix.to_owned(),
            phase: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            nodes: Mutex::new(nodes),
        });
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client {
                number,
                stage: stage.clone(),
                random: StdRng::seed_from_u64(seed.wrapping_mul(1000) + number as u64),
                known: HashMap::new(),
            };
            clients.spawn(client.run());
        }
        Self { stage, clients }
    }

    /// From now on new keys.
    pub fn next_phase(&self) {
        self.stage.phase.fetch_add(1, Ordering::Relaxed);
    }

    /// Keys of the phase under way.
    pub fn keys(&self) -> Vec<String> {
        let phase = self.stage.phase.load(Ordering::Relaxed);
        let keys = 0..REGISTERS + VERSIONED;
        keys.map(|k| self.stage.key(phase, k)).collect()
    }

    /// Whom they ask from now on.
    pub fn meet(&self, nodes: Vec<(String, Api)>) {
        *self.stage.nodes() = nodes;
    }

    pub async fn stop(self) {
        self.stage.over.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
    }
}

impl Stage {
    fn key(&self, phase: usize, key: usize) -> String {
        format!("{}-{phase}-{key}", self.prefix)
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, Vec<(String, Api)>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Client {
    number: usize,
    stage: Arc<Stage>,
    random: StdRng,
    /// What it last learned of each key; it may be old by the time it is used.
    known: HashMap<String, Knowledge>,
}

impl Client {
    async fn run(mut self) {
        while !self.stage.over.load(Ordering::Relaxed) {
            if !self.act().await {
                sleep(Duration::from_millis(self.random.random_range(5..50))).await;
            }
            sleep(Duration::from_millis(self.random.random_range(PACE_MS))).await;
        }
    }

    /// One operation; whether it was answered.
    async fn act(&mut self) -> bool {
        let stage = self.stage.clone();
        let observer = Observer {
            recorder: &stage.recorder,
            client: self.number,
        };
        let (node, api) = {
            let nodes = stage.nodes();
            nodes[self.random.random_range(0..nodes.len())].clone()
        };
        let phase = stage.phase.load(Ordering::Relaxed);
        let number = self.random.random_range(0..REGISTERS + VERSIONED);
        let dice = self.random.random_range(0..100);
        if dice < 8 && phase > 0 {
            let old = stage.key(self.random.random_range(0..phase), number);
            return observer.read(&node, &api, &old).await.is_some();
        }
        let key = stage.key(phase, number);
        if dice < 50 {
            let read = observer.read(&node, &api, &key).await;
            let answered = read.is_some();
            if let Some((_, Some(knowledge))) = read {
                self.known.insert(key, knowledge);
            }
            return answered;
        }
        let known = self.known.get(&key);
        let (change, knowledge) = match dice {
            50..65 => (Change::Put, None),
            65..85 => (Change::Put, known),
            _ if number < REGISTERS => (Change::Put, None),
            85..93 => (Change::Delete, known),
            _ => (Change::Delete, None),
        };
        let write = observer.write(&node, &api, &key, change, knowledge);
        write.await
    }
}
