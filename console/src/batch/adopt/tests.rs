use super::*;
use crate::fixture::{self, id};

const OTHER: &str = "0f3e9a11-77aa-4bd2-8f10-aa20c1de0001";

/// The fixture's three-node cluster stays; nodes of another one are given up.
fn sides(losing: &[&str]) -> Sides {
    let cluster = fixture::cluster(3);
    let into = cluster.members.clone().expect("members").value;
    let one = |name: &&str| {
        let mut status = cluster.status.clone().expect("a status").value;
        status.node.id = id(name);
        OTHER.clone_into(&mut status.cluster.cluster_id);
        let mut members = into.clone();
        members.cluster_id = OTHER.to_owned();
        members.cluster_members = losing
            .iter()
            .map(|n| {
                let mut member = into.cluster_members[&id("node-1")].clone();
                member.node_id = id(n);
                member.address = format!("{n}:1");
                (id(n), member)
            })
            .collect();
        (format!("{name}:1"), status, members)
    };
    Sides {
        losing: losing.iter().map(one).collect(),
        into,
    }
}

fn states(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(|s| s.state).collect()
}

#[test]
fn each_node_is_asked_in_the_order_given() {
    let plan = plan(&sides(&["x", "y"])).expect("a plan");
    assert_eq!(states(&plan), ["pending", "pending"]);
    assert_eq!(plan.into_cluster, fixture::CLUSTER);
    assert!(plan.left_out.is_empty());
    assert!(lines(&plan)[1].contains("1. x at x:1 gives up"));
}

#[test]
fn who_is_there_already_is_left_alone_and_who_is_missing_is_named() {
    let mut case = sides(&["x", "y"]);
    case.losing[0].1.cluster.cluster_id = fixture::CLUSTER.to_owned();
    assert_eq!(
        states(&plan(&case).expect("a plan")),
        ["already_there", "pending"]
    );
    let mut case = sides(&["x", "y"]);
    case.losing.pop();
    assert_eq!(plan(&case).expect("a plan").left_out, ["y (y:1)"]);
}

#[test]
fn a_name_that_lives_on_both_sides_is_refused() {
    let why = plan(&sides(&["node-2"])).expect_err("refused").0;
    assert!(why.contains("node-2 is also the name"), "{why}");
    let mut case = sides(&["node-2"]);
    let twin = case.into.cluster_members.get_mut(&id("node-2"));
    twin.expect("a member").status = ringmaster_shared::member::MemberStatus::Dead;
    assert!(plan(&case).is_ok(), "the dead one comes back by this");
}

#[test]
fn arrived_is_who_serves_there() {
    let status = sides(&["x"]).losing.remove(0).1;
    let at = |status: &StatusResponse| arrived(&Ok(status.clone()), fixture::CLUSTER, &id("x"));
    assert!(at(&status).is_err(), "still in the old one");
    let mut moved = status.clone();
    moved.cluster.cluster_id = fixture::CLUSTER.to_owned();
    assert_eq!(at(&moved), Ok(()));
    moved.node.lifecycle = Lifecycle::Joining;
    assert_eq!(at(&moved), Err("it is joining".to_owned()));
    moved.node.id = id("z");
    assert!(at(&moved).is_err(), "somebody else is there");
}

/// A node of the losing side that, once ordered, is gone for a while and then serves there.
async fn losing(name: &'static str, comes: bool) -> crate::fixture::server::FakeNode {
    use crate::fixture::server::{FakeNode, ok, refused};
    let (_, status, members) = sides(&[name]).losing.remove(0);
    let mut since = None;
    FakeNode::start(move |request, body| match request {
        "POST /api/v1/admin/adopt" => {
            assert_eq!(body["seeds"].as_array().map(Vec::len), Some(1));
            since = Some(0);
            ok(&OrderResponse {
                node_id: id(name),
                accepted: true,
                lifecycle: Lifecycle::Draining,
                message: "restarts".to_owned(),
            })
        }
        "GET /api/v1/status" => {
            let mut status = status.clone();
            if let Some(asked) = &mut since {
                *asked += 1;
                match *asked {
                    1 => {
                        let code = ringmaster_shared::error::ErrorCode::NotServing;
                        return refused(code, "restarting");
                    }
                    2 => {}
                    _ if comes => status.cluster.cluster_id = fixture::CLUSTER.to_owned(),
                    _ => {}
                }
            }
            ok(&status)
        }
        _ => ok(&members),
    })
    .await
}

async fn staying() -> crate::fixture::server::FakeNode {
    let into = sides(&[]).into;
    crate::fixture::server::FakeNode::start(move |_, _| crate::fixture::server::ok(&into)).await
}

fn adoption(losing: Vec<String>, into: &str, timeout: Duration) -> Adoption {
    Adoption {
        losing,
        into: vec![into.to_owned()],
        yes: true,
        timeout,
        reason: None,
        output: Output::Table,
    }
}

#[tokio::test]
async fn nodes_are_adopted_one_after_the_other() {
    let client = Client::new().expect("a client");
    let (x, y, stays) = (
        losing("x", true).await,
        losing("y", true).await,
        staying().await,
    );
    let both = vec![x.address.clone(), y.address.clone()];
    let patient = Duration::from_secs(60);
    let exit = run(&client, &adoption(both.clone(), &stays.address, patient)).await;
    assert_eq!(exit.expect("an end"), exit::OK);
    let exit = run(&client, &adoption(both, &stays.address, patient)).await;
    assert_eq!(
        exit.expect("an end"),
        exit::OK,
        "again: nothing is left to do"
    );
}

#[tokio::test]
async fn one_that_does_not_come_stops_the_rest() {
    let client = Client::new().expect("a client");
    let (x, stays) = (losing("x", false).await, staying().await);
    let silent = crate::fixture::server::nobody();
    let hasty = Duration::ZERO;
    let exit = run(
        &client,
        &adoption(vec![x.address.clone()], &stays.address, hasty),
    )
    .await;
    assert_eq!(exit.expect("an end"), exit::FAILED);
    let both = vec![x.address.clone(), silent];
    let exit = run(&client, &adoption(both, &stays.address, hasty)).await;
    assert_eq!(
        exit.expect("an end"),
        exit::UNREACHABLE,
        "before anything is done"
    );
}

/// A node of the losing side that refuses the order.
async fn refusing(name: &'static str) -> crate::fixture::server::FakeNode {
    use crate::fixture::server::{FakeNode, ok, refused};
    let (_, status, members) = sides(&[name]).losing.remove(0);
    FakeNode::start(move |request, _| match request {
        "POST /api/v1/admin/adopt" => {
            refused(ringmaster_shared::error::ErrorCode::Conflict, "not now")
        }
        "GET /api/v1/status" => ok(&status),
        _ => ok(&members),
    })
    .await
}

#[tokio::test]
async fn refused_is_said_only_where_nobody_was_adopted_before() {
    let client = Client::new().expect("a client");
    let (x, y, stays) = (
        losing("x", true).await,
        refusing("y").await,
        staying().await,
    );
    let patient = Duration::from_secs(60);
    let alone = adoption(vec![y.address.clone()], &stays.address, patient);
    let exit = run(&client, &alone).await.expect("an end");
    assert_eq!(exit, exit::REFUSED);
    let both = vec![x.address.clone(), y.address.clone()];
    let after = adoption(both, &stays.address, patient);
    let exit = run(&client, &after).await.expect("an end");
    assert_eq!(exit, exit::FAILED, "x was adopted");
}
