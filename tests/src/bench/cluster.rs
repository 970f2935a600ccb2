//! Three daemons on this machine, started, asked, killed and stopped by the benchmark.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use ringmaster_shared::{
    api::{health::StatusResponse, membership::MembersResponse},
    id::NodeId,
    member::{Lifecycle, MemberStatus},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::load::{Dialect, Target};

const NODES: usize = 3;
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub struct Cluster {
    nodes: Vec<(String, u16, Child)>,
    http: reqwest::Client,
    /// From the start of the last node until all three agreed.
    pub agreed_after_s: f64,
    folder: PathBuf,
}

impl Cluster {
    /// Starts three nodes with data below `folder`.
    pub async fn start(ringd: &Path, folder: &Path) -> anyhow::Result<Self> {
        let ports = free_ports(NODES)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let mut cluster = Self {
            nodes: Vec::new(),
            http,
            agreed_after_s: 0.0,
            folder: folder.to_owned(),
        };
        for (i, port) in ports.iter().enumerate() {
            let began = Instant::now();
            cluster.spawn(ringd, i, *port, ports[0])?;
            cluster.wait_agreed().await?;
            cluster.agreed_after_s = began.elapsed().as_secs_f64();
        }
        Ok(cluster)
    }

    fn spawn(&mut self, ringd: &Path, i: usize, port: u16, seed: u16) -> anyhow::Result<()> {
        let name = format!("node-{}", i + 1);
        let mut command = Command::new(ringd);
        command
            .arg(format!("--node-id={name}"))
            .arg(format!("--port={port}"))
            .arg(format!("--data-dir={}", self.folder.join(&name).display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        if i > 0 {
            command.arg(format!("--seed-node=localhost:{seed}"));
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", ringd.display()))?;
        self.nodes.push((name, port, child));
        Ok(())
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, port: u16, path: &str) -> Option<T> {
        let url = format!("http://127.0.0.1:{port}{path}");
        let answer = self
            .http
            .get(url)
            .timeout(Duration::from_secs(2))
            .send()
            .await
            .ok()?;
        answer.json().await.ok()
    }

    /// Every node serves, sees all others serving, and knows a settled ring of all.
    async fn wait_agreed(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if self.is_agreed().await {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("the nodes did not agree within {} s", DEADLINE.as_secs())
    }

    async fn is_agreed(&self) -> bool {
        let mut epochs = Vec::new();
        for (_, port, _) in &self.nodes {
            let Some(members) = self.get::<MembersResponse>(*port, "/gossip/members").await else {
                return false;
            };
            let Some(status) = self.get::<StatusResponse>(*port, "/api/v1/status").await else {
                return false;
            };
            let all_serve = members
                .cluster_members
                .values()
                .all(|m| m.status == MemberStatus::Alive && m.lifecycle == Lifecycle::Serving);
            let partitions = status.replication.partitions;
            if members.alive_members != self.nodes.len()
                || !all_serve
                || partitions.total == 0
                || partitions.all_replicas != partitions.total
            {
                return false;
            }
            epochs.push(status.cluster.ring_digest);
        }
        epochs.windows(2).all(|w| w[0] == w[1])
    }

    /// Asked evenly at all three.
    pub fn target(&self) -> Target {
        let address = |(_, port, _): &(String, u16, Child)| format!("127.0.0.1:{port}");
        Target {
            name: "ringd, quorum".into(),
            addresses: self.nodes.iter().map(address).collect(),
            dialect: Dialect::Ring,
            pids: self.nodes.iter().filter_map(|n| n.2.id()).collect(),
        }
    }

    pub fn processes(&self) -> Vec<(String, u32)> {
        let pid = |(name, _, child): &(String, u16, Child)| Some((name.clone(), child.id()?));
        self.nodes.iter().filter_map(pid).collect()
    }

    /// SIGKILL to the last node; seconds until both others hold it for dead.
    pub async fn kill_last_and_wait(&mut self) -> anyhow::Result<f64> {
        let (name, _, child) = self.nodes.last_mut().context("no nodes")?;
        let victim = NodeId::new(name)?;
        child.kill().await?;
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            let mut dead = 0;
            for (_, port, _) in &self.nodes[..NODES - 1] {
                let view = self.get::<MembersResponse>(*port, "/gossip/members").await;
                let status = view.and_then(|v| v.cluster_members.get(&victim).map(|m| m.status));
                dead += usize::from(status == Some(MemberStatus::Dead));
            }
            if dead == NODES - 1 {
                return Ok(began.elapsed().as_secs_f64());
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("nobody noticed the kill within {} s", DEADLINE.as_secs())
    }

    pub async fn stop(&mut self) {
        for (_, _, child) in &mut self.nodes {
            let pid = child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .and_then(Pid::from_raw);
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::INT);
                let _ = tokio::time::timeout(Duration::from_secs(15), child.wait()).await;
            }
        }
    }
}

pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let held = (0..count)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>()?;
    held.iter().map(|l| Ok(l.local_addr()?.port())).collect()
}
