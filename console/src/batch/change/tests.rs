//! The verbs against a node that answers as it is told.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use ringmaster_shared::{
    api::{health::StatusResponse, ring::ring_response},
    member::Lifecycle,
    topology::{ChangeKind, Topology},
};

use super::*;
use crate::fixture::{
    self,
    changes::{begin, plan_of},
    id,
    server::{FakeNode, Reply, nobody, ok, refused},
};

fn remove() -> Change {
    Change::Remove { node: id("node-3") }
}

fn orders(yes: bool) -> Orders {
    Orders {
        yes,
        timeout: Duration::from_secs(60),
        output: Output::Table,
    }
}

fn plan_at(epoch: Epoch) -> PlanResponse {
    let mut topology = fixture::topology(5);
    topology.epoch = epoch;
    let stay: Vec<_> = topology.members.clone();
    let stay: Vec<_> = stay.into_iter().filter(|m| m.id != id("node-3")).collect();
    plan_of(&topology, remove(), &stay)
}

fn applied_at_epoch(epoch: Epoch) -> Reply {
    let answer = ApplyResponse {
        epoch,
        change: remove(),
        message: format!("decided as epoch {epoch}"),
    };
    Reply::json(202, &answer)
}

/// The ring after so many looks: filling, dual, then without node-3, or as before.
fn ring_at(look: usize, gone: bool) -> RingResponse {
    let mut cluster = fixture::cluster(5);
    let step = if look == 0 { Step::Filling } else { Step::Dual };
    begin(&mut cluster, ChangeKind::Remove, "node-3", step);
    let mut t: Topology = cluster.topology.expect("a ring");
    t.epoch += look as u64;
    if look >= 2 {
        t.transition = None;
        if gone {
            t.members.retain(|m| m.id != id("node-3"));
            t.table = vec![vec![0, 1, 2]; t.table.len()];
        }
    }
    ring_response(&t)
}

/// A node at epoch 5 that plans, takes the order, and ends the change in three looks.
async fn node(gone: bool) -> (FakeNode, Arc<AtomicUsize>) {
    let applies = Arc::new(AtomicUsize::new(0));
    let counted = applies.clone();
    let mut looks = 0;
    let node = FakeNode::start(move |request, body| match request {
        "POST /api/v1/ring/plan" => {
            let asked = serde_json::from_value(body["change"].clone());
            assert_eq!(asked.ok(), Some(remove()));
            ok(&plan_at(5))
        }
        "POST /api/v1/ring/apply" => {
            assert_eq!(body["plan_id"], plan_at(5).plan_id);
            counted.fetch_add(1, Relaxed);
            applied_at_epoch(6)
        }
        "GET /api/v1/ring" => {
            looks += 1;
            ok(&ring_at(looks - 1, gone))
        }
        "GET /api/v1/status" => ok(&serving()),
        other => panic!("nobody asks {other}"),
    })
    .await;
    (node, applies)
}

fn serving() -> StatusResponse {
    fixture::cluster(5).status.expect("a status").value
}

fn client() -> Client {
    Client::new().expect("a client")
}

#[tokio::test]
async fn a_change_is_planned_applied_and_waited_for() {
    let (node, applies) = node(true).await;
    let endpoints = [nobody(), node.address.clone()];
    let exit = carry_out(&client(), &endpoints, &remove(), &orders(false)).await;
    assert_eq!(exit.expect("an end"), exit::OK);
    assert_eq!(applies.load(Relaxed), 0, "without --yes nothing is done");
    let exit = carry_out(&client(), &endpoints, &remove(), &orders(true)).await;
    assert_eq!(exit.expect("an end"), exit::OK);
    assert_eq!(applies.load(Relaxed), 1);
}

#[tokio::test]
async fn a_change_that_is_given_up_is_a_failure() {
    let (node, _) = node(false).await;
    let endpoints = [node.address.clone()];
    let exit = carry_out(&client(), &endpoints, &remove(), &orders(true)).await;
    assert_eq!(exit.expect("an end"), exit::FAILED);
}

#[tokio::test]
async fn what_takes_too_long_is_a_failure_that_says_it_goes_on() {
    let node = FakeNode::start(|request, _| match request {
        "POST /api/v1/ring/apply" => applied_at_epoch(6),
        _ => ok(&ring_at(0, true)),
    })
    .await;
    let endpoints = [node.address.clone()];
    let watch = Watch::new(remove(), 6);
    let outcome = follow(&client(), &endpoints, watch, Duration::ZERO, Output::Json).await;
    assert_eq!(outcome.state, "timed_out");
    let wait = Some(Duration::ZERO);
    let exit = apply(&client(), &endpoints, "p", wait, Output::Table).await;
    assert_eq!(exit.expect("an end"), exit::FAILED);
    let exit = apply(&client(), &endpoints, "p", None, Output::Table).await;
    assert_eq!(exit.expect("an end"), exit::OK, "decided is enough");
}

#[tokio::test]
async fn a_ring_that_moved_on_is_planned_anew() {
    let mut orders_given = 0;
    let mut looks = 0;
    let node = FakeNode::start(move |request, _| match request {
        "POST /api/v1/ring/plan" => ok(&plan_at(5)),
        "POST /api/v1/ring/apply" => {
            orders_given += 1;
            if orders_given == 1 {
                refused(ErrorCode::Conflict, "the ring is at epoch 5 by now")
            } else {
                applied_at_epoch(6)
            }
        }
        _ => {
            looks += 1;
            ok(&ring_at(looks - 1, true))
        }
    })
    .await;
    let endpoints = [node.address.clone()];
    let exit = carry_out(&client(), &endpoints, &remove(), &orders(true)).await;
    assert_eq!(exit.expect("an end"), exit::OK);

    let node = FakeNode::start(|request, _| match request {
        "POST /api/v1/ring/plan" => ok(&plan_at(5)),
        _ => refused(ErrorCode::Conflict, "the ring never rests"),
    })
    .await;
    let endpoints = [node.address.clone()];
    let exit = carry_out(&client(), &endpoints, &remove(), &orders(true)).await;
    assert_eq!(exit.expect("an end"), exit::REFUSED, "not for ever");
}

#[tokio::test]
async fn obstacles_refuse_and_nothing_is_ordered() {
    let node = FakeNode::start(|request, _| match request {
        "POST /api/v1/ring/plan" => ok(&PlanResponse {
            obstacles: vec!["node-3 is alive".to_owned()],
            ..plan_at(5)
        }),
        other => panic!("nobody asks {other}"),
    })
    .await;
    let endpoints = [node.address.clone()];
    let exit = carry_out(&client(), &endpoints, &remove(), &orders(true)).await;
    assert_eq!(exit.expect("an end"), exit::REFUSED);
    let exit = plan(&client(), &endpoints, &remove(), Output::Table).await;
    assert_eq!(exit.expect("an end"), exit::REFUSED);
}

/// It would find that nobody else is there.
#[tokio::test]
async fn a_held_node_makes_the_plan_only_where_nobody_else_can() {
    let plans = Arc::new(AtomicUsize::new(0));
    let counted = plans.clone();
    let held = FakeNode::start(move |request, _| match request {
        "GET /api/v1/status" => {
            let mut status = serving();
            status.node.lifecycle = Lifecycle::Standby;
            status.gossip = None;
            ok(&status)
        }
        other => {
            assert_eq!(other, "POST /api/v1/ring/plan");
            counted.fetch_add(1, Relaxed);
            ok(&PlanResponse {
                obstacles: vec!["node-2 does not answer".to_owned()],
                ..plan_at(5)
            })
        }
    })
    .await;
    let (serves, _) = node(true).await;
    let all = [held.address.clone(), nobody(), serves.address.clone()];
    let exit = plan(&client(), &all, &remove(), Output::Table).await;
    assert_eq!(exit.expect("an end"), exit::OK);
    assert_eq!(plans.load(Relaxed), 0);
    let exit = plan(&client(), &all[..2], &remove(), Output::Table).await;
    assert_eq!(exit.expect("an end"), exit::REFUSED);
    assert_eq!(plans.load(Relaxed), 1);
}

#[tokio::test]
async fn an_unknown_node_is_misuse_and_silence_is_unreachable() {
    let node = FakeNode::start(|_, _| refused(ErrorCode::BadRequest, "who is node-3?")).await;
    let endpoints = [node.address.clone()];
    let exit = plan(&client(), &endpoints, &remove(), Output::Table).await;
    assert_eq!(exit.expect("an end"), exit::USAGE);
    let endpoints = [nobody()];
    let exit = plan(&client(), &endpoints, &remove(), Output::Table).await;
    assert_eq!(exit.expect("an end"), exit::UNREACHABLE);
}

#[test]
fn the_plan_reads_as_a_table() {
    let lines = lines(&plan_at(5));
    assert!(
        lines[0].starts_with("remove: node-3 is removed"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("epoch 5: 152 of 256 partitions move"),
        "{lines:?}"
    );
    assert!(lines[2].starts_with("MEMBER  ZONE"), "{lines:?}");
    assert_eq!(lines.len(), 3 + 5 + 1);
}
