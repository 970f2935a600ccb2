//! Several real nodes, and what they must come to agree on.

use std::time::Duration;

use reqwest::Client;
use ringmaster_shared::member::{Lifecycle, MemberStatus};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    client::{Api, http},
    node::Node,
    wait::{GENEROUS, eventually, same},
};

/// Clusters that run at the same time in one process; more would only be slow together.
static PLACES: Semaphore = Semaphore::const_new(2);
/// Ports that are tried when others take them.
const PORT_ATTEMPTS: usize = 5;
/// Lines of each node's output shown when a test fails.
const LOG_TAIL: usize = 60;

pub struct Cluster {
    pub nodes: Vec<Node>,
    http: Client,
    root: TempDir,
    environment: Vec<(String, String)>,
    _place: SemaphorePermit<'static>,
}

impl Cluster {
    /// No nodes yet.
    pub async fn empty() -> Self {
        Self {
            nodes: Vec::new(),
            http: http(),
            root: tempfile::tempdir().expect("a temporary folder"),
            environment: Vec::new(),
            _place: PLACES.acquire().await.expect("never closed"),
        }
    }

    /// `count` nodes started in the guide's order, agreed.
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, &[]).await
    }

    /// The same, with an environment of their own.
    pub async fn start_with(count: usize, environment: &[(&str, &str)]) -> Self {
        let mut cluster = Self::empty().await;
        for (name, value) in environment {
            let pair = ((*name).to_owned(), (*value).to_owned());
            cluster.environment.push(pair);
        }
        for i in 0..count {
            let seeds = if i == 0 { vec![] } else { cluster.seed(0) };
            cluster.add(&seeds).await;
            cluster.agree().await;
        }
        cluster
    }

    /// Where node `i` has its data, or will have it.
    pub fn data_dir(&self, i: usize) -> std::path::PathBuf {
        self.root
            .path()
            .join(format!("node-{}", i + 1))
            .join("data")
    }

    /// For every node started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The flag that names node `i` as a seed.
    pub fn seed(&self, i: usize) -> Vec<String> {
        vec![format!("--seed-node={}", self.nodes[i].address())]
    }

    /// Starts a new node, `node-1` the first, and waits until its port answers; its index.
    pub async fn add(&mut self, flags: &[String]) -> usize {
        self.add_wrapped(flags, Vec::new(), &[]).await
    }

    /// The same, run by another program and with more environment; see [`Node::set_wrapper`].
    pub async fn add_wrapped(
        &mut self,
        flags: &[String],
        wrapper: Vec<String>,
        environment: &[(&str, &str)],
    ) -> usize {
        let index = self.nodes.len();
        let name = format!("node-{}", index + 1);
        let mut node = Node::new(&name, self.root.path());
        node.set_wrapper(wrapper);
        for (name, value) in &self.environment {
            node.set_env(name, value);
        }
        for (name, value) in environment {
            node.set_env(name, value);
        }
        self.nodes.push(node);
        for _ in 0..PORT_ATTEMPTS {
            self.nodes[index].start(flags);
            if self.answers(index).await {
                return index;
            }
            let log = self.nodes[index].log();
            assert!(log.contains("use"), "{name} ended by itself");
            self.nodes[index].kill9();
            self.nodes[index].take_another_port();
        }
        panic!("{name} found no port in {PORT_ATTEMPTS} attempts");
    }

    /// Whether the node's port comes to answer; `false` when its process ended.
    pub async fn answers(&mut self, index: usize) -> bool {
        let api = self.api(index);
        let node = &mut self.nodes[index];
        eventually("the port answers", GENEROUS, async || {
            if node.ended().is_some() {
                return Ok(false);
            }
            match api.get::<serde_json::Value>("/api/v1/status").await {
                Ok(_) => Ok(true),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await
    }

    pub fn api(&self, index: usize) -> Api {
        Api::new(self.http.clone(), self.nodes[index].port)
    }

    /// Indexes of the nodes whose process runs.
    pub fn running(&mut self) -> Vec<usize> {
        let nodes = self.nodes.iter_mut().enumerate();
        nodes
            .filter_map(|(i, node)| node.is_running().then_some(i))
            .collect()
    }

    /// All nodes that run serve, see one another and nobody else alive, and go by the same
    /// settled ring, in which every partition has a quorum, or all replicas when all run.
    pub async fn agree(&mut self) {
        let running = self.running();
        let apis: Vec<Api> = running.iter().map(|i| self.api(*i)).collect();
        let what = format!("{} nodes agree", apis.len());
        eventually(&what, GENEROUS, async || agreement(&apis).await).await;
    }

    /// Node `index` sees exactly this many alive.
    pub async fn sees_alive(&self, index: usize, count: usize) {
        let api = self.api(index);
        let what = format!("{} sees {count} alive", self.nodes[index].id);
        eventually(&what, GENEROUS, async || {
            let members = api.members().await.map_err(|e| format!("{e:#}"))?;
            same("alive_members", &members.alive_members, &count)
        })
        .await;
    }

    /// Node `index` says whether every partition has a quorum.
    pub async fn sees_quorum(&self, index: usize, want: bool) {
        let api = self.api(index);
        let what = format!("{}: quorum_available {want}", self.nodes[index].id);
        eventually(&what, GENEROUS, async || {
            let status = api.status().await.map_err(|e| format!("{e:#}"))?;
            same(
                "quorum_available",
                &status.replication.quorum_available,
                &want,
            )
        })
        .await;
    }

    /// A write of `value` through node `index` is acknowledged, if need be after some attempts.
    pub async fn write(&self, index: usize, key: &str, value: &serde_json::Value, limit: Duration) {
        let api = self.api(index);
        let what = format!("a write of {key} through {}", self.nodes[index].id);
        eventually(&what, limit, async || {
            let reply = api.put(key, value).await.map_err(|e| e.to_string())?;
            same("status", &reply.status, &200).map_err(|e| format!("{e}: {}", reply.text()))
        })
        .await;
    }

    /// A read through node `index` returns `value`, if need be after some attempts.
    pub async fn reads(&self, index: usize, key: &str, value: &serde_json::Value) {
        let api = self.api(index);
        let what = format!("a read of {key} through {}", self.nodes[index].id);
        eventually(&what, GENEROUS, async || {
            let found = api.value(key).await.map_err(|e| format!("{e:#}"))?;
            same("the value", &found.as_ref(), &Some(value))
        })
        .await;
    }
}

/// This node votes on changes of the ring.
pub async fn votes(api: &Api) -> Result<(), String> {
    let status = api.status().await.map_err(|e| format!("{e:#}"))?;
    let mut problems = status.cluster.problems.into_iter();
    match problems.find(|p| p.code == "VOTES_FORGOTTEN") {
        Some(told) => Err(told.message),
        None => Ok(()),
    }
}

/// All of them serve and go by the same members and the same settled ring.
pub async fn agreement(apis: &[Api]) -> Result<(), String> {
    let mut rings = Vec::new();
    for api in apis {
        let members = api.members().await.map_err(|e| format!("{e:#}"))?;
        let status = api.status().await.map_err(|e| format!("{e:#}"))?;
        let who = &members.current_node;
        same(
            &format!("alive_members at {who}"),
            &members.alive_members,
            &apis.len(),
        )?;
        for (id, member) in &members.cluster_members {
            if member.status == MemberStatus::Alive && member.lifecycle != Lifecycle::Serving {
                let lifecycle = member.lifecycle.as_str();
                return Err(format!("{who} sees {id} {lifecycle}"));
            }
        }
        let partitions = status.replication.partitions;
        same(
            &format!("partitions with a quorum at {who}"),
            &partitions.quorum,
            &partitions.total,
        )?;
        if partitions.total == 0 {
            return Err(format!("{who} has no ring"));
        }
        let ring = api.ring().await.map_err(|e| format!("{e:#}"))?;
        let complete = ring.ring.physical_nodes == apis.len();
        if complete && partitions.all_replicas != partitions.total {
            return Err(format!("{who} misses replicas: {partitions:?}"));
        }
        if ring.transition.is_some() {
            return Err(format!("{who} knows of a change under way"));
        }
        rings.push((ring.digest, status.cluster.cluster_id));
    }
    rings
        .windows(2)
        .try_for_each(|w| same("a ring", &w[0], &w[1]))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for node in &self.nodes {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
            eprintln!("--- {} ({})\n{}", node.id, node.address(), tail.join("\n"));
        }
    }
}
