//! Misuse of the command line: one sentence that names the culprit, and an exit code.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use crate::support::{binaries::binaries, cluster::Cluster, node::free_port};

/// Runs `ringd` to its end; only for what cannot start.
fn ringd(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    let output = command
        .arg("60")
        .arg(&binaries().ringd)
        .args(arguments)
        .output();
    output.expect("coreutils' timeout starts ringd")
}

fn flags(port: u16, data_dir: &Path) -> [String; 3] {
    [
        "--node-id=node-1".into(),
        format!("--port={port}"),
        format!("--data-dir={}", data_dir.display()),
    ]
}

/// It ended by itself, by this code, with one readable sentence that names `culprit`.
fn assert_refused(output: &Output, codes: &[i32], culprit: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(
        code.is_some_and(|c| codes.contains(&c)),
        "{culprit}: exit code {code:?}, not {codes:?}: {said}"
    );
    assert!(
        said.contains(culprit),
        "{culprit} is not named in this: {said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn misuse_of_flags_ends_with_two() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("data");
    let good = flags(free_port(), &data);
    let good: Vec<&str> = good.iter().map(String::as_str).collect();
    let cases: [(&[&str], &str); 10] = [
        (&["--nonsense"], "--nonsense"),
        (&["--port=99999"], "port"),
        (&["--port=abc"], "port"),
        (&["--port=0"], "port"),
        (&["--seed-node=nowhere"], "nowhere"),
        (&["--seed-node=host:port"], "host:port"),
        (&["--seed-nodes=localhost:8081,,x"], "seed"),
        (&["--bind=300.1.1.1"], "bind"),
        (
            &["--config=/nonexistent/ringd.toml"],
            "/nonexistent/ringd.toml",
        ),
        (&["surplus"], "surplus"),
    ];
    for (wrong, culprit) in cases {
        // the wrong one stands for the right one where both would name the same setting
        let name = wrong[0].split('=').next().unwrap_or_default();
        let rest = good.iter().filter(|flag| !flag.starts_with(name));
        let all: Vec<&str> = rest.copied().chain(wrong.iter().copied()).collect();
        assert_refused(&ringd(&all), &[2], culprit);
    }
    assert_refused(&ringd(&good[1..]), &[2], "--node-id");
    let mut bad_name = good.clone();
    bad_name[0] = "--node-id=a b";
    assert_refused(&ringd(&bad_name), &[2], "node");
    assert!(!data.exists(), "misuse left something behind");
}

#[test]
fn help_and_version_are_answers() {
    let (daemon, console) = (&binaries().ringd, &binaries().ringmaster);
    let cases = [
        (daemon, "--help", "--seed-node"),
        (daemon, "--version", "ringd"),
        (console, "--help", "--endpoint"),
        (console, "--version", "ringmaster"),
    ];
    for (program, flag, want) in cases {
        let output = Command::new(program).arg(flag).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{} {flag}", program.display());
        assert!(said.contains(want), "{} {flag}: {said}", program.display());
    }
}

#[test]
fn a_taken_port_and_a_useless_folder_are_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let taken = free_port();
    let _listener = TcpListener::bind(("127.0.0.1", taken)).expect("free");
    let arguments = flags(taken, &dir.path().join("a"));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_refused(&ringd(&arguments), &[1, 2], &taken.to_string());

    let file = dir.path().join("a-file");
    std::fs::write(&file, b"not a folder").expect("written");
    let arguments = flags(free_port(), &file);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_refused(&ringd(&arguments), &[1, 2], "a-file");
}

#[tokio::test]
async fn a_folder_belongs_to_one_process_and_one_node() {
    let mut cluster = Cluster::start(1).await;
    let folder = cluster.nodes[0].data_dir();
    let second = flags(free_port(), &folder);
    let run = |arguments: [String; 3]| {
        tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            ringd(&arguments)
        })
    };
    let folder_name = folder.display().to_string();
    let output = run(second).await.expect("ran");
    assert_refused(&output, &[1, 2], &folder_name);
    assert!(cluster.nodes[0].stop().await.success());

    let mut foreign = flags(free_port(), &folder);
    foreign[0] = "--node-id=node-9".into();
    let output = run(foreign).await.expect("ran");
    assert_refused(&output, &[1, 2], "node-1");
}
