//! kill -9 of a real process in the middle of its writes, several times over one folder: what it
//! said was stored is there.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{open, reopen};
use crate::storage::testing::{key, record, tombstone};

/// Set for the process that is to be killed: the folder to write in.
const CHILD_DIR: &str = "RINGD_TEST_KILL_DIR";
const WRITERS: u64 = 8;

/// Keys are written again and again; every fifth write is large, every seventh a tombstone.
fn write_of(counter: u64) -> ringmaster_shared::version::Record {
    match counter {
        n if n % 7 == 0 => tombstone("a", n, n),
        n if n % 5 == 0 => record("a", n, n, 40_000),
        n => record("a", n, n, 100),
    }
}

/// Not a test of its own: the process that [`acknowledged_writes_survive_kills`] kills.
#[test]
#[ignore = "started by acknowledged_writes_survive_kills in a process of its own"]
fn child() {
    let Ok(dir) = env::var(CHILD_DIR) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (store, report) = reopen(Path::new(&dir));
    println!("\nopen {}", report.replayed);
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for w in 0..WRITERS {
            let store = store.clone();
            writers.spawn(async move {
                let known = store.version(&key(&format!("w{w}-0"))).expect("readable");
                let last = known.and_then(|v| v.clock.0.values().copied().max());
                for counter in last.unwrap_or(0) + 1.. {
                    for k in 0..20 {
                        let name = format!("w{w}-{k}");
                        store
                            .merge(key(&name), write_of(counter))
                            .await
                            .expect("stored");
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "ack {name} {counter}").expect("the parent reads");
                        out.flush().expect("the parent reads");
                    }
                }
            });
        }
        writers.join_all().await;
    });
}

fn start(dir: &Path) -> Child {
    let this = env::current_exe().expect("the test binary");
    let module = module_path!().split_once("::").expect("in a crate").1;
    Command::new(this)
        .args([
            &format!("{module}::child"),
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

#[test]
fn acknowledged_writes_survive_kills() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut acked: BTreeMap<String, u64> = BTreeMap::new();
    let mut replays = 0;
    for round in 0..6_usize {
        let mut child = start(dir.path());
        let mut out = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut lines = 0;
        let mut opened = false;
        // the pipe keeps what was written before the kill, so read it to its end
        while let Some(Ok(line)) = out.next() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("open") => opened = true,
                Some("ack") => {
                    let name = words.next().expect("a key").to_owned();
                    // the last line may be cut by the kill
                    if let Some(counter) = words.next().and_then(|c| c.parse().ok()) {
                        acked.insert(name, counter);
                    }
                    lines += 1;
                    if lines == 300 + round * 157 {
                        child.kill().expect("killed");
                    }
                }
                _ => {}
            }
        }
        assert!(
            !child.wait().expect("ended").success(),
            "it was killed, not done"
        );
        assert!(
            opened && lines >= 300 + round * 157,
            "round {round}: {lines} lines"
        );

        let (store, report) = reopen(dir.path());
        replays += report.replayed;
        for (name, counter) in &acked {
            let stored = store
                .get(&key(name))
                .expect("readable")
                .expect("was acknowledged");
            let found = stored.clock.0.values().copied().max().unwrap_or(0);
            assert!(
                found >= *counter,
                "{name}: {counter} was acknowledged, {found} is stored"
            );
            assert_eq!(stored, write_of(found), "whole and as written");
        }
    }
    assert!(replays > 0, "the kills left something to replay");
}

/// A forked child holds its parent's locks until it has become another program, so a lock that
/// was just let go may still look taken for a moment.
#[test]
fn children_started_meanwhile_do_not_keep_a_closed_store_locked() {
    let dir = tempfile::tempdir().expect("temp dir");
    let done = AtomicBool::new(false);
    let started = std::thread::scope(|scope| {
        let spawner = scope.spawn(|| {
            let mut started = 0;
            while !done.load(Ordering::Relaxed) {
                Command::new("true").status().expect("started");
                started += 1;
            }
            started
        });
        for _ in 0..60 {
            drop(open(dir.path()));
        }
        done.store(true, Ordering::Relaxed);
        spawner.join().expect("spawned")
    });
    assert!(started > 10, "only {started} children came in between");
}
