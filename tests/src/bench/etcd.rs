//! Three etcd nodes on this machine, to measure against: same disk, same generator.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::Full;
use hyper::{Method, Request, body::Bytes};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    cluster::free_ports,
    load::{Dialect, Kind, Target},
};

const NODES: usize = 3;
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// Ends when dropped.
pub struct Etcd {
    nodes: Vec<(String, u16, Child)>,
    leader: String,
}

/// `etcd` in one of the folders of `PATH`.
pub fn in_path() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let candidates = std::env::split_paths(&folders).map(|folder| folder.join("etcd"));
    candidates.into_iter().find(|path| path.is_file())
}

impl Etcd {
    /// Starts three members with data below `folder` and waits for a leader.
    pub async fn start(etcd: &Path, folder: &Path) -> anyhow::Result<Self> {
        let ports = free_ports(2 * NODES)?;
        let (clients, peers) = ports.split_at(NODES);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let names: Vec<String> = (1..=NODES).map(|n| format!("etcd-{n}")).collect();
        let cluster: Vec<String> = names
            .iter()
            .zip(peers)
            .map(|(name, port)| format!("{name}={}", url(port)))
            .collect();
        let mut nodes = Vec::new();
        for ((name, client), peer) in names.iter().zip(clients).zip(peers) {
            let child = Command::new(etcd)
                .args(["--name", name, "--initial-cluster-state", "new"])
                .args(["--data-dir", &folder.join(name).display().to_string()])
                .args(["--listen-client-urls", &url(client)])
                .args(["--advertise-client-urls", &url(client)])
                .args(["--listen-peer-urls", &url(peer)])
                .args(["--initial-advertise-peer-urls", &url(peer)])
                .args(["--initial-cluster", &cluster.join(",")])
                .args(["--log-level", "error"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("cannot start {}", etcd.display()))?;
            nodes.push((name.clone(), *client, child));
        }
        let leader = find_leader(clients).await?;
        Ok(Self { nodes, leader })
    }

    /// Asked at its leader, where it is fastest.
    pub fn target(&self) -> Target {
        Target {
            name: "etcd, at its leader".into(),
            addresses: vec![self.leader.clone()],
            dialect: Dialect::Etcd,
            pids: self.nodes.iter().filter_map(|n| n.2.id()).collect(),
        }
    }

    pub fn processes(&self) -> Vec<(String, u32)> {
        let pid = |(name, _, child): &(String, u16, Child)| Some((name.clone(), child.id()?));
        self.nodes.iter().filter_map(pid).collect()
    }
}

async fn find_leader(ports: &[u16]) -> anyhow::Result<String> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        for port in ports {
            let asked = http
                .post(format!("http://127.0.0.1:{port}/v3/maintenance/status"))
                .json(&json!({}))
                .timeout(Duration::from_secs(2))
                .send();
            let Ok(answer) = asked.await else { continue };
            let Ok(status) = answer.json::<Value>().await else {
                continue;
            };
            let leader = &status["leader"];
            if leader.is_string() && *leader == status["header"]["member_id"] {
                return Ok(format!("127.0.0.1:{port}"));
            }
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("etcd has no leader after {} s", DEADLINE.as_secs())
}

/// One call of the v3 JSON gateway; a read is linearizable unless it says otherwise.
pub fn request(
    address: &str,
    kind: Kind,
    key: &str,
    value: &str,
) -> anyhow::Result<Request<Full<Bytes>>> {
    let key = STANDARD.encode(key);
    let (path, body) = match kind {
        Kind::Get => ("/v3/kv/range", format!("{{\"key\":\"{key}\"}}")),
        Kind::Put => {
            let value = STANDARD.encode(value);
            let body = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}");
            ("/v3/kv/put", body)
        }
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", address)
        .header("content-type", "application/json");
    Ok(request.body(Full::new(Bytes::from(body)))?)
}
