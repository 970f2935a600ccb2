//! `ringmaster demo`: a cluster that is there while it is looked at, and leaves nothing behind.

use std::path::PathBuf;

use ringmaster_shared::api::{health::StatusResponse, membership::MembersResponse};
use rustix::process::{Pid, test_kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
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

#[tokio::test]
async fn without_a_console_it_serves_until_ctrl_c() {
    binaries();
    let mut demo = run::begin(&[], &["demo", "--no-console"]);
    let mut lines = BufReader::new(demo.stdout.take().expect("piped")).lines();
    let (mut endpoints, mut folder) = (Vec::new(), None);
    while endpoints.is_empty() || folder.is_none() {
        let line = timeout(LONG, lines.next_line())
            .await
            .expect("it says something");
        let line = line.expect("readable").expect("it ended too early");
        if let Some(list) = line.strip_prefix("ready: ") {
            endpoints = list.split_whitespace().map(str::to_owned).collect();
        }
        if let Some(path) = line.strip_prefix("data and logs: ") {
            folder = Some(PathBuf::from(path));
        }
    }
    assert_eq!(endpoints.len(), 3);
    let folder = folder.expect("told above");
    assert!(folder.is_dir());
    let mut pids = Vec::new();
    for endpoint in &endpoints {
        pids.push(pid(endpoint).await);
        let members = api(endpoint).members().await.expect("answers");
        assert_eq!(members.alive_members, 3);
    }
    let put = run::ringmaster(&endpoints, &["put", "demo", "works"]).await;
    assert_eq!(put.code, Some(0), "{put:?}");
    let check = run::ringmaster(&endpoints, &["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");

    run::interrupt(&demo);
    let ended = run::end(demo).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    all_gone(&pids).await;
    assert!(!folder.exists(), "{} was left behind", folder.display());
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
