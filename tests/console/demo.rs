//! `ringmaster demo`: a cluster that is there while it is looked at, and leaves nothing behind.

use std::path::PathBuf;

use ringmaster_shared::{
    api::{health::StatusResponse, membership::MembersResponse},
    member::Lifecycle,
};
use rustix::process::{Pid, test_kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    time::timeout,
};

use super::{COLUMNS, LONG, ROWS, connected_to, connection::quits, is_well, run};
use crate::support::{
    binaries::binaries,
    client::{Api, http},
    pty::Terminal,
    wait::{GENEROUS, eventually},
};

fn api(endpoint: &str) -> Api {
    let port = endpoint
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    Api::new(http(), port.expect("host:port"))
}

async fn pid(endpoint: &str) -> Pid {
    let status: StatusResponse = api(endpoint).status().await.expect("answers");
    let raw = status.node.pid.try_into().ok();
    raw.and_then(Pid::from_raw).expect("a process id")
}

async fn all_gone(pids: &[Pid]) {
    eventually("the daemons are gone", GENEROUS, async || {
        let left: Vec<&Pid> = pids
            .iter()
            .filter(|pid| test_kill_process(**pid).is_ok())
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?} are left"))
        }
    })
    .await;
}

/// A demo without its console, ready.
struct Running {
    program: Child,
    endpoints: Vec<String>,
    folder: PathBuf,
    pids: Vec<Pid>,
}

impl Running {
    async fn begin(more: &[&str]) -> Self {
        binaries();
        let args: Vec<&str> = ["demo", "--no-console"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        let mut program = run::begin(&[], &args);
        let stdout = program.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines();
        let (mut endpoints, mut folder) = (Vec::new(), None);
        while endpoints.is_empty() || folder.is_none() {
            let line = timeout(LONG, lines.next_line()).await;
            let line = line.expect("it says something").expect("readable");
            let line = line.expect("it ended too early");
            if let Some(list) = line.strip_prefix("ready: ") {
                endpoints = list.split_whitespace().map(str::to_owned).collect();
            }
            if let Some(path) = line.strip_prefix("data and logs: ") {
                folder = Some(PathBuf::from(path));
            }
        }
        let mut pids = Vec::new();
        for endpoint in &endpoints {
            pids.push(pid(endpoint).await);
        }
        Self {
            program,
            endpoints,
            folder: folder.expect("told above"),
            pids,
        }
    }

    /// Ctrl+C, and everything has ended.
    async fn end(self) {
        run::interrupt(&self.program);
        let ended = run::end(self.program).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        all_gone(&self.pids).await;
    }
}

#[tokio::test]
async fn without_a_console_it_serves_until_ctrl_c() {
    let demo = Running::begin(&[]).await;
    assert_eq!(demo.endpoints.len(), 3);
    assert!(demo.folder.is_dir());
    for endpoint in &demo.endpoints {
        let members = api(endpoint).members().await.expect("answers");
        assert_eq!(members.alive_members, 3);
    }
    let put = run::ringmaster(&demo.endpoints, &["put", "demo", "works"]).await;
    assert_eq!(put.code, Some(0), "{put:?}");
    let check = run::ringmaster(&demo.endpoints, &["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    let folder = demo.folder.clone();
    demo.end().await;
    assert!(!folder.exists(), "{} was left behind", folder.display());
}

#[tokio::test]
async fn a_folder_of_ones_own_is_kept_for_the_next_time() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = root.path().join("mine");
    let flag = format!("--data-dir={}", folder.display());
    let demo = Running::begin(&[&flag, "--nodes=2"]).await;
    assert_eq!(demo.endpoints.len(), 2);
    let put = run::ringmaster(&demo.endpoints, &["put", "kept", "yes"]).await;
    assert_eq!(put.code, Some(0), "{put:?}");
    demo.end().await;
    assert!(folder.is_dir(), "it is not the demo's to remove");
    let demo = Running::begin(&[&flag, "--nodes=2"]).await;
    let get = run::ringmaster(&demo.endpoints, &["get", "kept"]).await;
    assert_eq!((get.code, get.out.as_str()), (Some(0), "yes\n"), "{get:?}");
    demo.end().await;
}

#[tokio::test]
async fn a_demo_that_is_killed_takes_its_nodes_with_it() {
    let mut demo = Running::begin(&["--nodes=2"]).await;
    // also a node that has replaced its process image
    let (pid_before, first) = (demo.pids[0], api(&demo.endpoints[0]));
    let old = first.status().await.expect("answers").node.generation;
    let restart = format!("http://{}/api/v1/admin/restart", demo.endpoints[0]);
    let answer = http().post(restart).send().await.expect("answers");
    assert!(answer.status().is_success(), "{answer:?}");
    eventually("it serves again", GENEROUS, async || {
        let node = first.status().await.map_err(|e| e.to_string())?.node;
        if node.generation > old && node.lifecycle == Lifecycle::Serving {
            Ok(())
        } else {
            Err(format!("{:?} of {}", node.lifecycle, node.generation))
        }
    })
    .await;
    assert_eq!(
        pid(&demo.endpoints[0]).await,
        pid_before,
        "the same process"
    );
    demo.program.kill().await.expect("it can be killed");
    all_gone(&demo.pids).await;
    // nobody was left to remove it
    let _ = std::fs::remove_dir_all(&demo.folder);
}

#[tokio::test]
async fn in_a_terminal_it_ends_with_the_console() {
    let mut console = Terminal::spawn(&binaries().ringmaster, &["demo"], ROWS, COLUMNS);
    let seen = console.wait_for("three nodes", LONG, |s| is_well(s, 3));
    let endpoint = connected_to(&seen).expect("an endpoint");
    let members: MembersResponse = api(&endpoint).members().await.expect("answers");
    let mut pids = Vec::new();
    for member in members.cluster_members.values() {
        pids.push(pid(&member.address).await);
    }
    assert_eq!(pids.len(), 3);
    quits(&mut console);
    all_gone(&pids).await;
}
