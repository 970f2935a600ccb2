use ringmaster_shared::api::ring::RingNode;

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
        let ring = cluster.ring.clone().expect("a ring").value.nodes;
        let ring = losing.iter().zip(ring).map(|(n, node)| RingNode {
            id: id(n),
            address: format!("{n}:0"),
            ..node
        });
        let ring = ring.collect();
        (format!("{name}:1"), status, Others { members, ring })
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
fn who_only_the_ring_still_names_is_missing_too() {
    // it has restarted alone, and gossip knows nobody else
    let mut case = sides(&["x", "y"]);
    case.losing.pop();
    let heard = &mut case.losing[0].2.members.cluster_members;
    heard.retain(|member, _| *member == id("x"));
    let plan = plan(&case).expect("a plan");
    assert_eq!(plan.left_out, ["y (y:0)"]);
    let said = lines(&plan).pop().expect("lines");
    assert!(
        said.ends_with("of what these nodes hold nothing is lost"),
        "{said}"
    );
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

fn step_of(name: &str) -> Step {
    plan(&sides(&[name])).expect("a plan").steps.remove(0)
}

#[test]
fn arrived_is_who_serves_there() {
    let status = sides(&["x"]).losing.remove(0).1;
    let (step, before) = (step_of("x"), status.node.generation);
    let at = |status: &StatusResponse| stands(&Ok(status.clone()), fixture::CLUSTER, &step, before);
    let on_its_way = |said: Stands| matches!(said, Stands::OnItsWay(_));
    assert!(on_its_way(at(&status)), "still in the old one");
    let mut moved = status.clone();
    moved.cluster.cluster_id = fixture::CLUSTER.to_owned();
    moved.node.generation += 2;
    assert_eq!(at(&moved), Stands::Arrived);
    moved.node.lifecycle = Lifecycle::Joining;
    assert_eq!(at(&moved), Stands::OnItsWay("it is joining".to_owned()));
    moved.node.id = id("z");
    assert!(on_its_way(at(&moved)), "somebody else is there");
}

#[test]
fn gave_back_is_who_serves_its_old_cluster_in_a_later_life() {
    let status = sides(&["x"]).losing.remove(0).1;
    let (step, before) = (step_of("x"), status.node.generation);
    let cases = [
        (0, Lifecycle::Serving, OTHER, false),
        (0, Lifecycle::Draining, OTHER, false),
        (1, Lifecycle::Joining, OTHER, false),
        (1, Lifecycle::Serving, OTHER, true),
        (1, Lifecycle::Recovering, OTHER, true),
        (1, Lifecycle::Joining, "", false),
        (1, Lifecycle::Serving, fixture::CLUSTER, false),
    ];
    for (lives, lifecycle, cluster, given_back) in cases {
        let mut status = status.clone();
        status.node.generation += lives;
        status.node.lifecycle = lifecycle;
        cluster.clone_into(&mut status.cluster.cluster_id);
        let said = stands(&Ok(status), fixture::CLUSTER, &step, before);
        assert_eq!(
            said == Stands::GaveBack,
            given_back,
            "{lives} {lifecycle:?}: {said:?}"
        );
    }
}

#[test]
fn only_one_that_gave_up_its_cluster_is_said_to_go_on() {
    let status = sides(&["x"]).losing.remove(0).1;
    let step = step_of("x");
    let next = |status: &StatusResponse| what_next(&Ok(status.clone()), &step);
    let goes_on = |said: &str| said.contains("goes on by itself");
    let mut given_up = status.clone();
    given_up.cluster.cluster_id.clear();
    assert!(goes_on(&next(&given_up)));
    assert!(
        next(&status).contains("status --endpoint x:1"),
        "{}",
        next(&status)
    );
    let silent = what_next(&Err(ClientError::no_endpoint()), &step);
    assert!(!goes_on(&next(&status)) && !goes_on(&silent), "{silent}");
}

/// What a node of the losing side does with the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Comes,
    Stays,
    /// It restarts, and serves its old cluster.
    GivesBack,
}

/// A node of the losing side that, once ordered, is gone for a while and then serves there.
async fn losing(name: &'static str, then: Then) -> crate::fixture::server::FakeNode {
    use crate::fixture::server::{FakeNode, ok, refused};
    let (_, status, Others { members, .. }) = sides(&[name]).losing.remove(0);
    let ring = fixture::cluster(3).ring.expect("a ring").value;
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
                    _ => match then {
                        Then::Comes => fixture::CLUSTER.clone_into(&mut status.cluster.cluster_id),
                        Then::Stays => {}
                        Then::GivesBack => status.node.generation += 1,
                    },
                }
            }
            ok(&status)
        }
        "GET /api/v1/ring" => ok(&ring),
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
        losing("x", Then::Comes).await,
        losing("y", Then::Comes).await,
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
    let (x, stays) = (losing("x", Then::Stays).await, staying().await);
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

/// What is said of one that did not come.
async fn said_of(then: Then, patience: Duration) -> String {
    let client = Client::new().expect("a client");
    let (x, stays) = (losing("x", then).await, staying().await);
    let wanted = adoption(vec![x.address.clone()], &stays.address, patience);
    let mut plan = plan(&look(&client, &wanted).await.expect("all answer")).expect("a plan");
    assert_eq!(carry_out(&client, &wanted, &mut plan).await, exit::FAILED);
    assert_eq!(states(&plan), ["failed"]);
    plan.steps.remove(0).message
}

#[tokio::test]
async fn one_that_gives_the_order_back_is_not_waited_for() {
    let said = said_of(Then::GivesBack, Duration::from_secs(60)).await;
    assert!(said.starts_with("it gave the order back"), "{said}");
    let said = said_of(Then::Stays, Duration::ZERO).await;
    assert!(said.starts_with("not there after 0 s"), "{said}");
    assert!(!said.contains("goes on by itself"), "{said}");
}

#[tokio::test]
async fn nothing_is_ordered_of_somebody_else_who_answers_there_now() {
    let client = Client::new().expect("a client");
    let (x, stays) = (losing("x", Then::Comes).await, staying().await);
    let wanted = adoption(vec![x.address.clone()], &stays.address, Duration::ZERO);
    let mut plan = plan(&look(&client, &wanted).await.expect("all answer")).expect("a plan");
    plan.steps[0].node_id = id("z");
    assert_eq!(carry_out(&client, &wanted, &mut plan).await, exit::REFUSED);
    assert!(
        plan.steps[0]
            .message
            .contains("x answers at its address now")
    );
}

/// A node of the losing side that refuses the order.
async fn refusing(name: &'static str) -> crate::fixture::server::FakeNode {
    use crate::fixture::server::{FakeNode, ok, refused};
    let (_, status, Others { members, .. }) = sides(&[name]).losing.remove(0);
    let ring = fixture::cluster(3).ring.expect("a ring").value;
    FakeNode::start(move |request, _| match request {
        "POST /api/v1/admin/adopt" => {
            refused(ringmaster_shared::error::ErrorCode::Conflict, "not now")
        }
        "GET /api/v1/status" => ok(&status),
        "GET /api/v1/ring" => ok(&ring),
        _ => ok(&members),
    })
    .await
}

#[tokio::test]
async fn refused_is_said_only_where_nobody_was_adopted_before() {
    let client = Client::new().expect("a client");
    let (x, y, stays) = (
        losing("x", Then::Comes).await,
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
