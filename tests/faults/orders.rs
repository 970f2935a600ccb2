//! Orders and accidents of one node's life: a second Ctrl+C, one while it restarts, a restart into
//! a new binary or into none, an order whose client goes away, two processes under one id, a joiner
//! that dies again and again.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::Engine;
use reqwest::Method;
use ringmaster_shared::{
    api::{
        health::{NodeStatus, StatusResponse},
        keys::KeysResponse,
    },
    member::Lifecycle,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::support::{
    binaries::binaries,
    client::{Api, http},
    cluster::Cluster,
    node::{Node, free_port},
    skip::skipped,
    trace,
    wait::{GENEROUS, eventually, same},
};

pub async fn signal(api: &Api, signal: Signal) {
    let status = api.status().await.expect("it answers");
    let pid = i32::try_from(status.node.pid).expect("a pid");
    let pid = Pid::from_raw(pid).expect("a pid");
    kill_process(pid, signal).expect("the signal is sent");
}

pub async fn drains(api: &Api) {
    eventually("it drains", GENEROUS, async || {
        let status = api.status().await.map_err(|e| e.to_string())?;
        same("lifecycle", &status.node.lifecycle, &Lifecycle::Draining)
    })
    .await;
}

/// A request that does not finish and so holds up the graceful end, until it is dropped.
pub async fn half_a_request(node: &Node, api: &Api) -> TcpStream {
    let mut held = TcpStream::connect(("127.0.0.1", node.port))
        .await
        .expect("it listens");
    let half = b"PUT /api/v1/data/half HTTP/1.1\r\nhost: h\r\n\
        content-type: application/json\r\ncontent-length: 12\r\n\r\n{\"val";
    held.write_all(half).await.expect("sent");
    eventually("the half request is under way", GENEROUS, async || {
        let metrics = api.send(Method::GET, "/metrics", None).await;
        let metrics = metrics.map_err(|e| e.to_string())?.text();
        // this one and the half one
        if metrics.contains("ringd_http_requests_in_flight 2") {
            Ok(())
        } else {
            Err("it was not counted".into())
        }
    })
    .await;
    held
}

pub async fn ends_with(node: &mut Node, code: i32) {
    let what = format!("{} ends", node.id);
    let status = eventually(&what, GENEROUS, async || {
        node.ended().ok_or_else(|| "it runs".to_owned())
    })
    .await;
    assert_eq!(status.code(), Some(code), "{}", node.log());
}

#[tokio::test]
async fn a_second_interrupt_ends_a_node_at_once_and_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(1, "before", &json!(1), GENEROUS).await;
    let api = cluster.api(1);
    let _held = half_a_request(&cluster.nodes[1], &api).await;
    signal(&api, Signal::INT).await;
    drains(&api).await;
    signal(&api, Signal::INT).await;
    ends_with(&mut cluster.nodes[1], 130).await;
    cluster.nodes[1].kill9();
    cluster.nodes[1].start(&[]);
    cluster.agree().await;
    cluster.reads(1, "before", &json!(1)).await;
    cluster.reads(0, "before", &json!(1)).await;
}

/// Asked to stop while it is on its way into another life, it does not come back.
#[tokio::test]
async fn one_signal_stops_a_node_that_was_to_come_back() {
    let patient = [
        ("RINGD_LIMITS_DRAIN_TIMEOUT", "600s"),
        ("RINGD_LIMITS_BODY_TIMEOUT", "600s"),
    ];
    let mut cluster = Cluster::empty().await;
    // whatever this process was told to ignore, as under `nohup`
    let wrapper = ["env", "--default-signal=HUP"].map(String::from);
    cluster.add_wrapped(&[], wrapper.to_vec(), &patient).await;
    cluster.agree().await;
    cluster.write(0, "kept", &json!(1), GENEROUS).await;
    let cases = [
        ("restart", Signal::TERM, "SIGTERM"),
        ("standby", Signal::HUP, "the terminal was closed"),
        ("restart", Signal::INT, "Ctrl+C"),
    ];
    for (index, (order, sent, told)) in cases.into_iter().enumerate() {
        let api = cluster.api(0);
        let held = half_a_request(&cluster.nodes[0], &api).await;
        let path = format!("/api/v1/admin/{order}");
        let reply = api.send(Method::POST, &path, None).await;
        assert_eq!(reply.expect("answered").status, 202);
        drains(&api).await;
        signal(&api, sent).await;
        let node = &cluster.nodes[0];
        let line = format!("node-1 does not start again: {told}");
        eventually("it says what becomes of it", GENEROUS, async || {
            let log = node.log();
            if log.contains(&line) {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await;
        drop(held);
        ends_with(&mut cluster.nodes[0], 0).await;
        let log = cluster.nodes[0].log();
        assert_eq!(log.matches("node-1 runs at").count(), index + 1, "{log}");
        assert!(!log.contains("waiting for an order to start"), "{log}");
        // for the process that has ended to be waited for
        cluster.nodes[0].kill9();
        cluster.nodes[0].start(&[]);
        cluster.agree().await;
        cluster.reads(0, "kept", &json!(1)).await;
    }
}

/// Whoever starts it so wants it to outlive the terminal.
#[tokio::test]
async fn a_node_that_was_started_with_nohup_does_not_mind_a_closed_terminal() {
    let mut cluster = Cluster::empty().await;
    cluster.add_wrapped(&[], vec!["nohup".into()], &[]).await;
    cluster.agree().await;
    let api = cluster.api(0);
    signal(&api, Signal::HUP).await;
    signal(&api, Signal::TERM).await;
    // a second signal that counts would end it with another code
    ends_with(&mut cluster.nodes[0], 0).await;
    let log = cluster.nodes[0].log();
    assert!(
        log.contains("SIGTERM") && !log.contains("terminal was closed"),
        "{log}"
    );
}

/// A `ringd` that runs from a file of its own.
struct Own {
    child: Child,
    binary: PathBuf,
    log: PathBuf,
    api: Api,
}

impl Own {
    fn start(root: &Path) -> Self {
        let binary = root.join("ringd");
        install(&binary);
        let port = free_port();
        let log = root.join("output.log");
        let output = fs::File::create(&log).expect("a file for the output");
        let child = Command::new(&binary)
            .args(["--node-id=node-1", &format!("--port={port}")])
            .arg(format!("--data-dir={}", root.join("data").display()))
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a second handle"))
            .stdout(output)
            .spawn()
            .expect("ringd starts");
        let api = Api::new(http(), port);
        Self {
            child,
            binary,
            log,
            api,
        }
    }

    async fn serves(&self, later_than: u64) -> NodeStatus {
        eventually("it serves anew", GENEROUS, async || {
            let status: StatusResponse = self.api.status().await.map_err(|e| e.to_string())?;
            if status.node.generation <= later_than {
                return Err(format!("generation {}", status.node.generation));
            }
            same("lifecycle", &status.node.lifecycle, &Lifecycle::Serving)?;
            Ok(status.node)
        })
        .await
    }

    async fn restart(&self, before: &NodeStatus) -> NodeStatus {
        let path = "/api/v1/admin/restart";
        let reply = self.api.send(Method::POST, path, None).await;
        assert_eq!(reply.expect("answered").status, 202);
        self.serves(before.generation).await
    }

    /// The file that the process runs from, as the system tells it.
    fn image(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/exe", self.child.id())).ok()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // it may have ended
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copied by a process of its own: a file that this one has open for writing could not be run.
fn install(to: &Path) {
    let copied = Command::new("cp").arg(&binaries().ringd).arg(to).status();
    assert!(copied.expect("cp runs").success());
}

#[tokio::test]
async fn a_restart_takes_up_the_binary_on_disk_or_goes_on_without_one() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let own = Own::start(root.path());
    let first = own.serves(0).await;
    let put = own.api.put("kept", &json!("through all lives")).await;
    assert_eq!(put.expect("answered").status, 200);

    let upgrade = root.path().join("upgrade");
    install(&upgrade);
    fs::rename(&upgrade, &own.binary).expect("replaced");
    let second = own.restart(&first).await;
    assert_eq!(second.pid, first.pid);
    if let Some(image) = own.image() {
        let want = own.binary.canonicalize().expect("it is there");
        assert_eq!(image, want, "it runs from the replaced file");
    }

    fs::remove_file(&own.binary).expect("removed");
    let third = own.restart(&second).await;
    assert_eq!(third.pid, first.pid);
    let log = fs::read_to_string(&own.log).expect("its output");
    assert!(log.contains("cannot start"), "{log}");
    let value = own.api.value("kept").await.expect("answered");
    assert_eq!(value, Some(json!("through all lives")));
}

#[tokio::test]
async fn of_two_processes_with_one_id_the_older_stops_and_says_why() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(0, "kept", &json!(1), GENEROUS).await;
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let mut newer = Node::new("node-2", elsewhere.path());
    // a copy of the folder, as a backup or a cloned machine makes it
    assert!(cluster.nodes[1].stop().await.success());
    copy_folder(&cluster.nodes[1].data_dir(), &newer.data_dir());
    cluster.nodes[1].start(&[]);
    cluster.agree().await;
    newer.start(&cluster.seed(0));
    ends_with(&mut cluster.nodes[1], 1).await;
    let log = cluster.nodes[1].log();
    let address = format!("localhost:{}", newer.port);
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("ringd: ") && last.contains(&address) && last.contains("node-2"),
        "{log}"
    );
    cluster.nodes[1].kill9();
    std::mem::swap(&mut cluster.nodes[1], &mut newer);
    cluster.agree().await;
    cluster.reads(1, "kept", &json!(1)).await;
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

/// Two of one name at once would each acknowledge writes for one replica.
#[tokio::test]
async fn nobody_takes_the_place_of_a_living_node_but_of_a_dead_one() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(0, "kept", &json!(1), GENEROUS).await;
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let mut heir = Node::new("node-2", elsewhere.path());
    heir.start(&cluster.seed(0));
    eventually("it waits and says why", GENEROUS, async || {
        let log = heir.log();
        if log.contains("node-2 is alive at") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    assert!(cluster.nodes[1].is_running());
    cluster.agree().await;
    cluster.nodes[1].kill9();
    std::mem::swap(&mut cluster.nodes[1], &mut heir);
    cluster.agree().await;
    cluster.reads(1, "kept", &json!(1)).await;
}

/// A key for the gossip, as it is written in files and orders.
fn gossip_key(byte: u8) -> String {
    base64::engine::general_purpose::STANDARD.encode([byte; 32])
}

/// Skipped where `strace`, which makes the disk of one node slow, cannot trace.
#[tokio::test]
async fn a_change_of_keys_is_carried_out_whole_though_its_client_is_gone() {
    if let Some(why) = trace::impossible() {
        return skipped(&why);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("key");
    fs::write(&file, gossip_key(1)).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
    let mut cluster = Cluster::empty().await;
    cluster.set_env("RINGD_GOSSIP_KEYRING_FILE", &file.display().to_string());
    // where the node that is given the order writes its new keyring, slowly
    let written = cluster.data_dir(0).join("keyring.tmp");
    let slowly = ["-D", "-f", "-qq", "-o", "/dev/null", "--trace=fsync", "-P"];
    let mut wrapper: Vec<String> = ["strace"]
        .into_iter()
        .chain(slowly)
        .map(Into::into)
        .collect();
    wrapper.push(written.display().to_string());
    wrapper.push("--inject=fsync:delay_enter=5000000".to_owned());
    cluster.add_wrapped(&[], wrapper, &[]).await;
    let seed = cluster.seed(0);
    cluster.add(&seed).await;
    cluster.agree().await;

    let api = cluster.api(0);
    let client = tokio::spawn({
        let (api, path) = (api.clone(), "/api/v1/gossip/keys");
        let order = json!({"operation": "install", "key": gossip_key(2)});
        async move { api.send(Method::POST, path, Some(&order)).await }
    });
    let node = &cluster.nodes[0];
    eventually("the node itself is at it", GENEROUS, async || {
        if written.exists() || node.log().contains("was installed") {
            Ok(())
        } else {
            Err(node.log())
        }
    })
    .await;
    client.abort();
    eventually("both hold the new key", GENEROUS, async || {
        let shown: KeysResponse = api
            .get("/api/v1/gossip/keys")
            .await
            .map_err(|e| e.to_string())?;
        let rings = shown.nodes.iter().filter_map(|n| n.keyring.as_ref());
        let counts: Vec<usize> = rings.map(|ring| ring.keys.len()).collect();
        same("keys", &counts, &vec![2, 2])
    })
    .await;
    let line = "was installed, as ordered through node-1";
    for node in &cluster.nodes {
        assert!(node.log().contains(line), "{}", node.log());
    }
}

/// Writes distinct keys through the first three nodes until told to stop.
struct Writers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<HashSet<String>>>,
}

impl Writers {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<Mutex<HashSet<String>>> = Arc::default();
        let mut tasks = JoinSet::new();
        for writer in 0..3 {
            let api = cluster.api(writer);
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            tasks.spawn(async move {
                for i in 0_u32.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("joining-{writer}-{i}");
                    let reply = api.put(&key, &json!(key)).await.expect("answered");
                    if reply.status == 200 {
                        let mut all = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                        all.insert(key);
                    } else {
                        // nothing but what a client may try again
                        let told = reply.headers.contains_key("retry-after");
                        assert!(told || reply.status == 504, "{}", reply.text());
                    }
                }
            });
        }
        Self {
            tasks,
            stop,
            acknowledged,
        }
    }

    fn count(&self) -> usize {
        let all = self.acknowledged.lock();
        all.unwrap_or_else(PoisonError::into_inner).len()
    }

    async fn at_least(&self, more: usize) {
        let want = self.count() + more;
        eventually("writes go on", GENEROUS, async || match self.count() {
            n if n >= want => Ok(()),
            n => Err(format!("{n} of {want}")),
        })
        .await;
    }

    async fn end(mut self) -> HashSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no writer was answered wrongly");
        }
        let mut all = self.acknowledged.lock();
        std::mem::take(all.as_mut().expect("no writer panicked"))
    }
}

#[tokio::test]
async fn joiners_that_die_midway_or_come_together_lose_no_write() {
    let mut cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster);
    writers.at_least(100).await;
    let seed = cluster.seed(1);
    let fourth = cluster.add(&seed).await;
    for waits_for in ["let this node in", "copied to it"] {
        let api = cluster.api(fourth);
        // it may have passed the point already: then it dies a little later
        eventually("it gets that far", GENEROUS, async || {
            let node = api.status().await.map_err(|e| e.to_string())?.node;
            let waiting = node.waiting_for.unwrap_or_default();
            if waiting.contains(waits_for) || node.lifecycle == Lifecycle::Serving {
                Ok(())
            } else {
                Err(waiting)
            }
        })
        .await;
        cluster.nodes[fourth].kill9();
        writers.at_least(30).await;
        cluster.nodes[fourth].start(&seed);
        assert!(cluster.answers(fourth).await);
    }
    cluster.add(&seed).await;
    let through_the_joiner = cluster.seed(fourth);
    cluster.add(&through_the_joiner).await;
    cluster.agree().await;
    writers.at_least(30).await;
    let acknowledged = writers.end().await;
    for (i, key) in acknowledged.iter().enumerate() {
        let api = cluster.api(i % cluster.nodes.len());
        let value = api.value(key).await.expect("answered");
        assert_eq!(value, Some(json!(key)), "an acknowledged write is lost");
    }
}
