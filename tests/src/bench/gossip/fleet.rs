//! The processes of one trial: started, asked, killed, and gone when dropped.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::future::join_all;
use ringmaster_shared::{
    api::{admin::EventsResponse, health::StatusResponse, membership::MembersResponse},
    event::EventCode,
    member::{Lifecycle, MemberStatus},
};
use tokio::sync::Mutex;

use super::{Kind, serf::Rpc};
use crate::cluster::free_ports;

const DEADLINE: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(2);

/// What one process says of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Alive,
    Dead,
    Otherwise,
}

/// How often a member was thought badly of.
#[derive(Debug, Default, Clone, Copy)]
pub struct Blame {
    pub suspicions: usize,
    pub deaths: usize,
}

pub type View = HashMap<String, Seen>;

struct Agent {
    name: String,
    port: u16,
    /// Serf answers on a port of its own; `ringd` on the one it has.
    asked_at: u16,
    child: Option<Child>,
    rpc: Mutex<Option<Rpc>>,
}

pub struct Fleet {
    kind: Kind,
    binary: PathBuf,
    folder: tempfile::TempDir,
    agents: Vec<Agent>,
    http: reqwest::Client,
}

impl Fleet {
    /// Names and ports for so many processes; none runs yet.
    pub fn new(kind: Kind, binary: &Path, count: usize) -> anyhow::Result<Self> {
        let ports = free_ports(2 * count)?;
        let (first, second) = ports.split_at(count);
        let agents = first
            .iter()
            .zip(second)
            .enumerate()
            .map(|(i, (port, rpc))| Agent {
                name: format!("node-{}", i + 1),
                port: *port,
                asked_at: if kind == Kind::Serf { *rpc } else { *port },
                child: None,
                rpc: Mutex::default(),
            });
        Ok(Self {
            kind,
            binary: binary.to_owned(),
            folder: tempfile::tempdir()?,
            agents: agents.collect(),
            http: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    pub fn len(&self) -> usize {
        self.agents.len()
    }

    pub fn name(&self, i: usize) -> &str {
        &self.agents[i].name
    }

    pub fn pids(&self) -> Vec<u32> {
        let children = self.agents.iter().filter_map(|a| a.child.as_ref());
        children.map(Child::id).collect()
    }

    /// All but the first join through the first.
    pub fn spawn(&mut self, i: usize) -> anyhow::Result<()> {
        let seed = self.agents[0].port;
        let log = self.log_of(i);
        let agent = &mut self.agents[i];
        let mut words: Vec<std::ffi::OsString> = ends_with_parent().map(Into::into).collect();
        words.push(self.binary.clone().into());
        words.extend(match self.kind {
            Kind::Serf => vec![
                "agent".into(),
                format!("-node={}", agent.name).into(),
                format!("-bind=127.0.0.1:{}", agent.port).into(),
                format!("-rpc-addr=127.0.0.1:{}", agent.asked_at).into(),
                "-profile=lan".into(),
            ],
            Kind::Ringd => vec![
                format!("--node-id={}", agent.name).into(),
                format!("--port={}", agent.port).into(),
                format!(
                    "--data-dir={}",
                    self.folder.path().join(&agent.name).display()
                )
                .into(),
            ],
        });
        if i > 0 {
            words.push(match self.kind {
                Kind::Serf => format!("-join=127.0.0.1:{seed}").into(),
                Kind::Ringd => format!("--seed-node=127.0.0.1:{seed}").into(),
            });
        }
        let log = File::options().create(true).append(true).open(log)?;
        let child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        agent.child = Some(child);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self, i: usize) -> anyhow::Result<()> {
        let agent = &mut self.agents[i];
        *agent.rpc.get_mut() = None;
        let mut child = agent.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn log_of(&self, i: usize) -> PathBuf {
        self.folder
            .path()
            .join(format!("{}.log", self.agents[i].name))
    }

    /// Seconds until what each of `who` sees is as it should be.
    pub async fn until(
        &mut self,
        what: &str,
        who: impl IntoIterator<Item = usize>,
        holds: impl Fn(&View) -> bool,
    ) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut waiting: Vec<usize> = who.into_iter().collect();
        // many processes are asked less often, or the asking is what is measured
        let pause = Duration::from_millis((2 * self.len() as u64).clamp(20, 100));
        loop {
            let asked = waiting.iter().map(|i| self.view(*i));
            let views = join_all(asked).await;
            let answers = waiting.iter().copied().zip(views);
            waiting = answers
                .filter(|(_, view)| !view.as_ref().is_some_and(&holds))
                .map(|(i, _)| i)
                .collect();
            if waiting.is_empty() {
                return Ok(began.elapsed().as_secs_f64());
            }
            for i in &waiting {
                self.check_runs(*i)?;
            }
            if began.elapsed() > DEADLINE {
                let names: Vec<&str> = waiting.iter().map(|i| self.name(*i)).collect();
                bail!("{what}: not so after {DEADLINE:?} at {}", names.join(", "));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits until the first lets others in. An agent of Serf does when it answers; `ringd` answers
    /// from the start on, also while it opens its store.
    pub async fn until_open(&mut self) -> anyhow::Result<()> {
        self.until("it answers", [0], |view| view.len() == 1)
            .await?;
        let began = Instant::now();
        loop {
            let status: Option<StatusResponse> = match self.kind {
                Kind::Serf => return Ok(()),
                Kind::Ringd => self.json(&self.agents[0], "/api/v1/status").await,
            };
            if status.is_some_and(|s| s.node.lifecycle == Lifecycle::Serving) {
                return Ok(());
            }
            anyhow::ensure!(began.elapsed() < DEADLINE, "the first does not serve");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for what only `ringd` has: that every node serves and knows the same ring.
    pub async fn until_settled(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.kind == Kind::Ringd && !self.is_settled().await {
            anyhow::ensure!(began.elapsed() < DEADLINE, "the ring does not settle");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    async fn is_settled(&self) -> bool {
        let asked = self.agents.iter().map(|a| self.json(a, "/api/v1/status"));
        let all: Vec<StatusResponse> = join_all(asked).await.into_iter().flatten().collect();
        let serves = |s: &StatusResponse| {
            let partitions = &s.replication.partitions;
            s.node.lifecycle == Lifecycle::Serving && partitions.all_replicas == partitions.total
        };
        let same = all
            .windows(2)
            .all(|w| w[0].cluster.ring_digest == w[1].cluster.ring_digest);
        all.len() == self.len() && same && all.iter().all(serves)
    }

    fn check_runs(&mut self, i: usize) -> anyhow::Result<()> {
        let log = self.log_of(i);
        let agent = &mut self.agents[i];
        let Some(child) = &mut agent.child else {
            bail!("{} was not started", agent.name);
        };
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            bail!("{} ended with {status}: {last}", agent.name);
        }
        Ok(())
    }

    async fn view(&self, i: usize) -> Option<View> {
        let agent = &self.agents[i];
        match self.kind {
            Kind::Serf => agent.serf_view().await,
            Kind::Ringd => {
                let members = self
                    .json::<MembersResponse>(agent, "/gossip/members")
                    .await?;
                let seen = |status| match status {
                    MemberStatus::Alive => Seen::Alive,
                    MemberStatus::Dead => Seen::Dead,
                    _ => Seen::Otherwise,
                };
                let all = members.cluster_members.into_values();
                Some(
                    all.map(|m| (m.node_id.to_string(), seen(m.status)))
                        .collect(),
                )
            }
        }
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, agent: &Agent, path: &str) -> Option<T> {
        let url = format!("http://127.0.0.1:{}{path}", agent.asked_at);
        let answer = self.http.get(url).timeout(PATIENCE).send().await.ok()?;
        answer.json().await.ok()
    }

    /// Closes the connections the questions went over, so that nobody pays for them while idle.
    pub async fn hang_up(&mut self) -> anyhow::Result<()> {
        for agent in &mut self.agents {
            *agent.rpc.get_mut() = None;
        }
        self.http = reqwest::Client::builder().no_proxy().build()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    /// Accusations made by who got no answer, and deaths declared, so far, all processes together.
    pub async fn blamed(&self) -> anyhow::Result<Blame> {
        let mut sum = Blame::default();
        for (i, agent) in self.agents.iter().enumerate() {
            let blame = match self.kind {
                Kind::Serf => blame_in_log(&std::fs::read_to_string(self.log_of(i))?),
                Kind::Ringd => self.blame_in_events(agent).await?,
            };
            sum.suspicions += blame.suspicions;
            sum.deaths += blame.deaths;
        }
        Ok(sum)
    }

    async fn blame_in_events(&self, agent: &Agent) -> anyhow::Result<Blame> {
        let path = "/api/v1/events?since=0&limit=1000";
        let page = self.json::<EventsResponse>(agent, path).await;
        let page = page.context("no events")?;
        let of = |code| page.events.iter().filter(move |e| e.code == code);
        // the others only heard of it
        let own = of(EventCode::MemberSuspected).filter(|e| e.details["by"] == e.reporter.as_str());
        Ok(Blame {
            suspicions: own.count(),
            deaths: of(EventCode::MemberDead).count(),
        })
    }
}

/// Serf's own words.
fn blame_in_log(log: &str) -> Blame {
    let count = |words: &str| log.lines().filter(|l| l.contains(words)).count();
    Blame {
        suspicions: count("memberlist: Suspect "),
        deaths: count("EventMemberFailed: "),
    }
}

impl Agent {
    async fn serf_view(&self) -> Option<View> {
        let mut rpc = self.rpc.lock().await;
        if rpc.is_none() {
            *rpc = Rpc::connect(self.asked_at).await.ok();
        }
        let answer = rpc.as_mut()?.members().await;
        if answer.is_err() {
            *rpc = None;
        }
        let seen = |status: &str| match status {
            "alive" => Seen::Alive,
            "failed" => Seen::Dead,
            _ => Seen::Otherwise,
        };
        let members = answer.ok()?.into_iter();
        Some(
            members
                .map(|(name, status)| (name, seen(&status)))
                .collect(),
        )
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let children: Vec<&mut Child> = self
            .agents
            .iter_mut()
            .filter_map(|a| a.child.as_mut())
            .collect();
        // all at once first: nobody shall start mourning
        for child in children {
            let _ = child.kill();
        }
        for agent in &mut self.agents {
            if let Some(child) = &mut agent.child {
                let _ = child.wait();
            }
        }
    }
}

/// Words before a command that let it end when this process does, however that ends. The process
/// keeps its pid.
pub fn ends_with_parent() -> impl Iterator<Item = &'static str> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&folders).any(|folder| folder.join("setpriv").is_file());
    let words: &[&str] = if there {
        &["setpriv", "--pdeathsig", "KILL", "--"]
    } else {
        &[]
    };
    words.iter().copied()
}
