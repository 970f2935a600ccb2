use std::sync::{Arc, Mutex, OnceLock};

use ringmaster_shared::{
    api::{
        data::{ReadResponse, ReadResult},
        ring::ClusterResponse,
    },
    error::ErrorCode,
    member::Lifecycle,
};
use serde_json::Value;

use super::*;
use crate::{
    fixture::server::{FakeNode, Reply, ok, refused},
    procedure::fixture::{id, status, survey},
};

/// Named nodes that answer as one cluster, all serving, unless `script` knows better.
pub(crate) struct Fakes {
    nodes: Vec<FakeNode>,
}

impl Fakes {
    /// `script` gets the node's name, the request and its body.
    pub async fn start(
        names: &'static [&'static str],
        script: impl Fn(&str, &str, &Value) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let pictures: Arc<OnceLock<Vec<ClusterResponse>>> = Arc::default();
        let script = Arc::new(script);
        let mut nodes = Vec::new();
        for (n, name) in names.iter().enumerate() {
            let (pictures, script) = (pictures.clone(), script.clone());
            let node = FakeNode::start(move |request, body| {
                let told = script(name, request, body);
                told.unwrap_or_else(|| match (request, pictures.get()) {
                    ("GET /api/v1/cluster", Some(all)) => ok(&all[n]),
                    ("GET /api/v1/status", Some(all)) => ok(&all[n].status),
                    ("GET /gossip/members", Some(all)) => ok(&all[n].members),
                    _ => refused(ErrorCode::NotFound, "nobody knows of that"),
                })
            });
            nodes.push(node.await);
        }
        let views = survey(names, &vec![5; names.len()]).views;
        let pictures_of = views.into_iter().map(|view| {
            let mut view = view.expect("a view");
            for (name, node) in names.iter().zip(&nodes) {
                let member = view.members.cluster_members.get_mut(&id(name));
                member.expect("listed").address.clone_from(&node.address);
            }
            view
        });
        let set = pictures.set(pictures_of.collect());
        assert!(set.is_ok(), "set once");
        Self { nodes }
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.address.clone()).collect()
    }

    fn target(&self, n: usize, name: &str) -> Target {
        Target {
            id: id(name),
            address: self.nodes[n].address.clone(),
        }
    }
}

/// What a node answers to an order it takes.
pub(crate) fn accepted(name: &str, message: &str) -> Reply {
    ok(&OrderResponse {
        node_id: id(name),
        accepted: true,
        lifecycle: Lifecycle::Draining,
        message: message.to_owned(),
    })
}

fn runner(kind: ProcedureKind) -> (Runner, mpsc::Receiver<Progress>, watch::Sender<bool>) {
    let (progress, reports) = mpsc::channel(10_000);
    let (cancel, cancelled) = watch::channel(false);
    let wires = Wires {
        progress,
        cancel: cancelled,
    };
    let client = Client::new().expect("a client");
    (Runner::new(client, kind, wires), reports, cancel)
}

fn read_of(value: &Value) -> Reply {
    ok(&ReadResponse {
        key: canary::KEY.to_owned(),
        value: value.clone(),
        siblings: None,
        context: "c".to_owned(),
        responsible_node: id("a"),
        replication_nodes: vec![id("a")],
        read_result: ReadResult {
            nodes_responded: vec![id("a")],
            quorum_achieved: true,
            repaired: vec![],
        },
        timestamp: 0,
    })
}

fn written() -> Reply {
    ok(&serde_json::json!({
        "key": canary::KEY, "context": "c", "responsible_node": "a", "replication_nodes": ["a"],
        "replication_result": {"successful_nodes": ["a"], "failed_nodes": [], "quorum_achieved": true},
        "timestamp": 0
    }))
}

/// A key as one node keeps it; it reads the value before for so many reads.
#[derive(Default)]
struct Kept {
    value: Value,
    stale: usize,
    reads: usize,
    deleted: usize,
}

async fn keeping(
    kept: &Arc<Mutex<Kept>>,
    on_read: impl Fn(usize) + Send + Sync + 'static,
) -> Fakes {
    let kept = kept.clone();
    Fakes::start(&["a"], move |_, request, body| {
        let mut kept = kept.lock().expect("unpoisoned");
        match request.split_once(' ')? {
            ("PUT", _) => {
                kept.value = body["value"].clone();
                Some(written())
            }
            ("DELETE", _) => {
                kept.deleted += 1;
                Some(written())
            }
            ("GET", path) if path.starts_with("/api/v1/data/") => {
                kept.reads += 1;
                on_read(kept.reads);
                let old = kept.reads <= kept.stale;
                Some(read_of(if old { &Value::Null } else { &kept.value }))
            }
            _ => None,
        }
    })
    .await
}

#[tokio::test]
async fn the_canary_passes_only_when_what_was_written_is_read() {
    let kept = Arc::new(Mutex::new(Kept {
        stale: 2,
        ..Kept::default()
    }));
    let node = keeping(&kept, |_| {}).await;
    let (mut runner, _reports, _cancel) = runner(ProcedureKind::RollingRestart);
    let passed = runner.pass_canary(&node.target(0, "a")).await;
    assert!(passed.is_ok(), "in the end");
    assert_eq!(kept.lock().expect("unpoisoned").reads, 3);
    assert_eq!(runner.progress().waiting_for, None, "it has passed");
}

#[tokio::test]
async fn a_run_that_ends_early_takes_its_canary_along() {
    let kept = Arc::new(Mutex::new(Kept {
        stale: usize::MAX,
        ..Kept::default()
    }));
    let (mut runner, _reports, cancel) = runner(ProcedureKind::RollingRestart);
    let node = keeping(&kept, move |reads| {
        if reads == 2 {
            let _ = cancel.send(true);
        }
    });
    let node = node.await;
    let stopped = runner.pass_canary(&node.target(0, "a")).await;
    let Err(stop) = stopped else {
        panic!("it never read what it wrote");
    };
    let end = runner.end(Err(stop)).await;
    assert_eq!(
        end.outcome,
        Some(Err("cancelled by the operator".to_owned()))
    );
    assert_eq!(kept.lock().expect("unpoisoned").deleted, 1);
    assert_eq!(end.log, Vec::<String>::new());
}

#[tokio::test]
async fn a_canary_that_stays_is_told() {
    let node = Fakes::start(&["a"], |_, request, _| {
        request.starts_with("PUT").then(written)
    })
    .await;
    let (mut runner, _reports, _cancel) = runner(ProcedureKind::RollingRestart);
    let target = node.target(0, "a");
    let client = runner.client.clone();
    runner.canary.write(&client, &target).await.expect("put");
    let end = runner
        .end(Err(Stop::Failed("for a reason".to_owned())))
        .await;
    assert_eq!(end.log.len(), 1, "{:?}", end.log);
    assert!(
        end.log[0].contains("ringmaster del ringmaster:canary"),
        "{:?}",
        end.log
    );
}

/// `a` stands by when it is told, and starts; `b` refuses; `c` was never asked.
#[tokio::test]
async fn who_certainly_did_not_hear_the_order_is_not_waited_for() {
    let stands = Arc::new(Mutex::new(false));
    let node_a = stands.clone();
    let nodes = Fakes::start(&["a", "b", "c"], move |name, request, _| {
        let mut stands = node_a.lock().expect("unpoisoned");
        match (name, request) {
            ("a", "POST /api/v1/admin/standby") => {
                *stands = true;
                Some(accepted("a", "holds"))
            }
            (_, "POST /api/v1/admin/standby") => Some(refused(ErrorCode::Conflict, "not now")),
            ("a", "POST /api/v1/admin/start") => Some(accepted("a", "starts from memory")),
            ("a", "GET /api/v1/status") if *stands => Some(ok(&status("a", Lifecycle::Standby, 5))),
            _ => None,
        }
    })
    .await;
    let (runner, mut reports, _cancel) = runner(ProcedureKind::CleanRestart);
    let end = runner.run(&nodes.endpoints()).await;
    let why = end.outcome.expect("ended").expect_err("failed");
    assert!(why.contains("not now"), "{why}");
    let told = "telling every node in standby to start from what it remembers";
    assert_eq!(end.log, ["a: holds", told, "a: starts from memory"]);
    // the step had failed before anybody was told, and not after
    let mut seen = 0;
    while let Ok(progress) = reports.try_recv() {
        if progress.log.last().is_some_and(|line| line == told) {
            seen += 1;
            assert_eq!(progress.steps[1].state, StepState::Failed, "{progress:?}");
        }
    }
    assert!(seen > 0, "the way back is reported as it goes");
}

#[tokio::test]
async fn while_nobody_is_brought_down_no_write_is_refused() {
    let nodes = Fakes::start(&["a", "b", "c"], |_, request, _| {
        (request == "POST /api/v1/admin/standby").then(|| {
            // long enough to be counted
            std::thread::sleep(Duration::from_millis(5));
            refused(ErrorCode::Conflict, "not now")
        })
    })
    .await;
    let (runner, _reports, _cancel) = runner(ProcedureKind::CleanRestart);
    let end = runner.run(&nodes.endpoints()).await;
    assert!(end.outcome.is_some_and(|o| o.is_err()));
    assert_eq!(
        end.log,
        ["nobody was sent to standby: all go on as they were"]
    );
    assert_eq!(end.writes_refused_ms, 0);
}

#[test]
fn what_becomes_of_one_that_was_not_told_depends_on_what_it_is() {
    assert!(
        clean::left_to_itself(Some(Lifecycle::Draining)).starts_with("it starts by itself 120 s")
    );
    assert!(clean::left_to_itself(Some(Lifecycle::Serving)).starts_with("it goes on as it was"));
    assert!(clean::left_to_itself(None).ends_with("if not, start it"));
}
