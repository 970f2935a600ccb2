//! Clients that write and read all the while, and try what fails once more elsewhere.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use crate::support::{client::Api, client::Reply, cluster::Cluster};

/// Between two requests: the machine has other things to do as well.
const PACE: Duration = Duration::from_millis(5);
const CLIENTS: u64 = 4;
/// A client's keys are used again after so many writes.
const KEYS: u64 = 40;

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    pub done: u64,
    /// Done at the second attempt.
    pub retried: u64,
    /// Failed twice, and how.
    pub failed: Vec<String>,
}

pub struct Load {
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Begins to write and read through all nodes in turn.
    pub fn begin(cluster: &Cluster) -> Self {
        let apis: Vec<Api> = (0..cluster.nodes.len()).map(|i| cluster.api(i)).collect();
        let (stop, stopped) = watch::channel(false);
        let client = |name| tokio::spawn(client(name, apis.clone(), stopped.clone()));
        let clients = (0..CLIENTS).map(client).collect();
        Self { stop, clients }
    }

    pub async fn end(self) -> Tally {
        self.stop.send_replace(true);
        let mut all = Tally::default();
        for client in self.clients {
            let one = client.await.expect("the client finds what it wrote");
            all.done += one.done;
            all.retried += one.retried;
            all.failed.extend(one.failed);
        }
        all
    }
}

/// Has keys of its own, so that it knows what it must read.
async fn client(name: u64, apis: Vec<Api>, stopped: watch::Receiver<bool>) -> Tally {
    let mut tally = Tally::default();
    let mut n = name;
    while !*stopped.borrow() {
        n += 1;
        let path = format!("/api/v1/data/load-{name}-{}", n % KEYS);
        step(&apis, &path, n, &mut tally).await;
        tokio::time::sleep(PACE).await;
    }
    tally
}

/// One write, and a read of the same key through another node, which must return it.
async fn step(apis: &[Api], path: &str, n: u64, tally: &mut Tally) {
    let at = n as usize % apis.len();
    let body = json!({ "value": n });
    let written = twice(apis, at, Method::PUT, path, Some(&body), tally).await;
    if written.is_none() {
        return;
    }
    let read = twice(apis, at + 1, Method::GET, path, None, tally).await;
    if let Some(reply) = read {
        let found: Value = reply.json().expect("JSON");
        assert_eq!(
            found["value"],
            json!(n),
            "{path} does not return what was written"
        );
    }
}

/// Sends to node `at`, and if nothing was done there, once more to the next.
async fn twice(
    apis: &[Api],
    at: usize,
    method: Method,
    path: &str,
    body: Option<&Value>,
    tally: &mut Tally,
) -> Option<Reply> {
    let mut told = Vec::new();
    for attempt in 0..2 {
        let api = &apis[(at + attempt) % apis.len()];
        match api.send(method.clone(), path, body).await {
            Ok(reply) if reply.status == 200 => {
                tally.done += 1;
                tally.retried += attempt as u64;
                return Some(reply);
            }
            Ok(reply) => {
                told.push(reply.text());
                if reply.status != 503 {
                    break;
                }
            }
            Err(error) => told.push(format!("{:#}", anyhow::Error::from(error))),
        }
    }
    tally
        .failed
        .push(format!("{method} {path}: {}", told.join("; then ")));
    None
}
