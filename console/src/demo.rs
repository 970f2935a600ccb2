//! `ringmaster demo`: a local cluster to look at, gone when it is left.
//!
//! Starts the daemons as children in process groups of their own (so that Ctrl+C reaches the
//! console first), waits until all agree, and ends them the way an operator would: an interrupt
//! each, a kill only for one that does not heed it. If this program is killed itself, the daemons
//! stop as well: they hold on to a pipe that ends with it.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use ringmaster_shared::{api::ring::ClusterResponse, id::NodeId};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, ChildStdin, Command};

use crate::{
    batch::print_lines,
    cli::{Common, DemoArgs},
    client::Client,
    config::Settings,
    exit,
    procedure::{Gate, clean::gates::agreed, survey::members},
    progress::Target,
    runtime,
};

/// Ports that are used when they are free, as in the operations guide.
const FIRST_PORT: u16 = 8081;
/// How long the nodes may take to agree.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a daemon may take to end after an interrupt.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);
/// How often other ports are tried when a node ends at once.
const ATTEMPTS: u32 = 4;

/// Starts the daemons, opens the console on them (or waits), stops them.
pub async fn run(common: &Common, args: DemoArgs) -> ExitCode {
    eprintln!("starting {} local nodes ...", args.nodes);
    let start = DemoCluster::start(&args);
    let started = tokio::select! {
        started = start => started,
        _ = tokio::signal::ctrl_c() => {
            // the half-started cluster is killed when it is dropped
            eprintln!("ringmaster: interrupted");
            return exit::INTERRUPTED.into();
        }
    };
    let mut cluster = match started {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("ringmaster: {error:#}");
            return exit::FAILED.into();
        }
    };
    let code = if args.no_console {
        wait(&cluster).await
    } else {
        let mut common = common.clone();
        common.endpoints = cluster.endpoints();
        runtime::run(Settings::new(&common)).await
    };
    eprintln!("stopping the nodes ...");
    cluster.stop().await;
    code
}

/// Prints where the nodes answer and waits for an interrupt.
async fn wait(cluster: &DemoCluster) -> ExitCode {
    let endpoints = cluster.endpoints();
    print_lines([
        format!("ready: {}", endpoints.join(" ")),
        format!("data and logs: {}", cluster.dir().display()),
        format!(
            "console: ringmaster --endpoint {}",
            endpoints.join(" --endpoint ")
        ),
        "Ctrl+C stops the nodes".to_owned(),
    ]);
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
    exit::OK.into()
}

/// A running local cluster.
pub struct DemoCluster {
    nodes: Vec<DemoNode>,
    dir: PathBuf,
    /// Removes the folder when dropped.
    _temporary: Option<TempDir>,
}

struct DemoNode {
    target: Target,
    child: Child,
    log: PathBuf,
    /// Closed with this process, however it ends; the daemon stops then.
    _leash: Option<ChildStdin>,
}

impl DemoCluster {
    /// Starts the daemons and waits until every one sees all others serving.
    pub async fn start(args: &DemoArgs) -> anyhow::Result<Self> {
        let ringd = args.ringd.clone().map_or_else(find_ringd, Ok)?;
        let (dir, temporary) = if let Some(dir) = &args.data_dir {
            (dir.clone(), None)
        } else {
            let temporary = tempfile::Builder::new()
                .prefix("ringmaster-demo-")
                .tempdir()?;
            (temporary.path().to_owned(), Some(temporary))
        };
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create the data folder {}", dir.display()))?;
        let mut cluster = Self {
            nodes: Vec::new(),
            dir,
            _temporary: temporary,
        };
        let mut attempt = 1;
        loop {
            let ports = free_ports(FIRST_PORT, args.nodes, attempt == 1)?;
            let launched = cluster.launch(&ringd, &ports).await;
            if matches!(launched, Ok(None)) {
                return Ok(cluster);
            }
            cluster.stop().await;
            cluster.nodes.clear();
            // between the look at a port and its use another program may have taken it
            if let Some(why) = launched?
                && attempt == ATTEMPTS
            {
                bail!(why);
            }
            attempt += 1;
        }
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|n| n.target.address.clone())
            .collect()
    }

    /// Where data and logs are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Until all agree; `Some` when a node ended by itself, and what it said.
    async fn launch(&mut self, ringd: &Path, ports: &[u16]) -> anyhow::Result<Option<String>> {
        for (i, port) in ports.iter().enumerate() {
            let seed = (i > 0).then(|| format!("localhost:{}", ports[0]));
            let node = spawn(ringd, &self.dir, i + 1, *port, seed)?;
            self.nodes.push(node);
        }
        self.wait_until_agreed().await
    }

    async fn wait_until_agreed(&mut self) -> anyhow::Result<Option<String>> {
        let client = Client::new()?;
        let targets: Vec<Target> = self.nodes.iter().map(|n| n.target.clone()).collect();
        let ids: Vec<NodeId> = targets.iter().map(|t| t.id.clone()).collect();
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            for node in &mut self.nodes {
                if let Some(status) = node.child.try_wait()? {
                    let said = last_line(&node.log);
                    let id = &node.target.id;
                    let why = format!("{id} ended at once ({status}): {said}");
                    return Ok(Some(why));
                }
            }
            let views = members(&client, &targets).await;
            let plain: Vec<_> = views
                .into_iter()
                .map(|(t, r)| (t.id, r.map_err(|e| e.to_string())))
                .collect();
            let mut gate = agreed(&ids, &plain);
            if matches!(gate, Gate::Met(_)) {
                gate = ring_is_settled(&client, &targets).await;
            }
            match gate {
                Gate::Met(_) => return Ok(None),
                Gate::Waiting(why) | Gate::Working(why) if Instant::now() >= deadline => {
                    bail!(
                        "the nodes did not agree within {} s: {why}; logs are in {}",
                        START_DEADLINE.as_secs(),
                        self.dir.display()
                    )
                }
                Gate::Waiting(_) | Gate::Working(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Ends all daemons; returns when they are gone.
    pub async fn stop(&mut self) {
        for node in &self.nodes {
            interrupt(&node.child);
        }
        for node in &mut self.nodes {
            if tokio::time::timeout(STOP_DEADLINE, node.child.wait())
                .await
                .is_err()
            {
                // it did not heed the interrupt; a demo leaves nothing behind
                let _ = node.child.kill().await;
            }
        }
    }
}

async fn ring_is_settled(client: &Client, targets: &[Target]) -> Gate {
    for target in targets {
        match client
            .get::<ClusterResponse>(&target.address, "/api/v1/cluster")
            .await
        {
            Err(e) => return Gate::Waiting(e.to_string()),
            Ok(v) if v.ring.transition.is_some() || v.ring.nodes.len() < targets.len() => {
                return Gate::Waiting(format!("{} still sees the ring change", target.id));
            }
            Ok(_) => {}
        }
    }
    Gate::Met(String::new())
}

fn interrupt(child: &Child) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // already gone is fine
        let _ = kill_process(pid, Signal::INT);
    }
}

fn spawn(
    ringd: &Path,
    dir: &Path,
    number: usize,
    port: u16,
    seed: Option<String>,
) -> anyhow::Result<DemoNode> {
    let name = format!("node-{number}");
    let log = dir.join(format!("{name}.log"));
    let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(ringd);
    command
        .arg(format!("--node-id={name}"))
        .arg(format!("--port={port}"))
        .arg(format!("--data-dir={}", dir.join(&name).display()))
        .arg("--exit-with-parent")
        .stdin(Stdio::piped())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .kill_on_drop(true);
    if let Some(seed) = seed {
        command.arg(format!("--seed-node={seed}"));
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start the daemon {}", ringd.display()))?;
    let target = Target {
        id: NodeId::new(&name)?,
        address: format!("localhost:{port}"),
    };
    // out of the child, which would close it before it is told to stop
    let leash = child.stdin.take();
    Ok(DemoNode {
        target,
        child,
        log,
        _leash: leash,
    })
}

/// The guide's ports, from `first` on, when they are wanted and all free, otherwise whatever the
/// system gives.
fn free_ports(first: u16, count: u8, guides: bool) -> anyhow::Result<Vec<u16>> {
    let guide: Vec<u16> = (0..u16::from(count))
        .map(|i| first.saturating_add(i))
        .collect();
    // a node needs its number for TCP and for UDP
    let free = |port: &u16| {
        let place = (Ipv4Addr::LOCALHOST, *port);
        TcpListener::bind(place).is_ok() && UdpSocket::bind(place).is_ok()
    };
    if guides && guide.iter().all(free) {
        return Ok(guide);
    }
    // held together until all are known, so that they differ
    let held = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<Vec<_>, _>>()
        .context("no free ports")?;
    held.iter().map(|l| Ok(l.local_addr()?.port())).collect()
}

/// The daemon beside this program, or the one on the PATH.
fn find_ringd() -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("ringd");
    if beside.is_file() {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join("ringd")).find(|p| p.is_file()).with_context(
        || {
            format!(
                "the daemon was not found at {} nor on the PATH; build it with: cargo build --release -p ringd",
                beside.display()
            )
        },
    )
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .rev()
        .find(|l| !l.trim().is_empty())
        .unwrap_or("it said nothing")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_moves_all_of_them() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let taken = held.local_addr().expect("bound").port();
        let ports = free_ports(taken, 3, true).expect("ports");
        assert_eq!(ports.len(), 3);
        assert!(!ports.contains(&taken), "this test holds it");
        assert!(ports[0] != ports[1] && ports[1] != ports[2]);
    }

    #[tokio::test]
    async fn a_missing_or_failing_daemon_is_a_sentence() {
        let dir = tempfile::tempdir().expect("temp dir");
        let args = |ringd: &str| DemoArgs {
            nodes: 1,
            data_dir: Some(dir.path().to_owned()),
            ringd: Some(ringd.into()),
            no_console: true,
        };
        let Err(missing) = DemoCluster::start(&args("/no/such/ringd")).await else {
            panic!("there is no such daemon")
        };
        assert!(missing.to_string().contains("/no/such/ringd"), "{missing}");
        let Err(failing) = DemoCluster::start(&args("/bin/false")).await else {
            panic!("it cannot run")
        };
        assert!(
            failing.to_string().contains("node-1 ended at once"),
            "{failing}"
        );
    }
}
