//! `ringmaster refill`: tells a node that lost its data, together with another replica, to go on with
//! what the remaining replicas hold. Nobody else can decide that: acknowledged writes may be gone. The
//! same order lets a node vote again, and take writes, that lost its votes with its folder, when too
//! few others are left to decide the ring without it.

use ringmaster_shared::{
    api::{
        admin::{OrderResponse, RefillOrder},
        health::StatusResponse,
    },
    id::NodeId,
};

use super::{Output, explain, explain_order, print_json, print_lines};
use crate::{
    client::Client,
    exit::{self, Exit},
    procedure::survey::newest_answer,
};

/// What the node says when it waits for this, the weightier first.
const CODES: [&str; 2] = ["REFILL_BLOCKED", "VOTES_FORGOTTEN"];

#[derive(Debug, Clone)]
pub struct Refill {
    pub node: NodeId,
    pub yes: bool,
    pub reason: Option<String>,
    pub output: Output,
}

pub async fn run(client: &Client, endpoints: &[String], wanted: Refill) -> anyhow::Result<Exit> {
    let view = match newest_answer(client, endpoints).await {
        Ok(view) => view,
        Err(error) => return Ok(explain(&error)),
    };
    let Some(member) = view.members.cluster_members.get(&wanted.node) else {
        eprintln!("ringmaster: {} is no member of the cluster", wanted.node);
        return Ok(exit::FAILED);
    };
    let address = &member.address;
    let status: StatusResponse = match client.get(address, "/api/v1/status").await {
        Ok(status) => status,
        Err(error) => return Ok(explain(&error)),
    };
    if let Some(why) = other(
        &status,
        address,
        &wanted.node,
        &view.status.cluster.cluster_id,
    ) {
        eprintln!("ringmaster: refused: {why}; nothing was ordered");
        return Ok(exit::REFUSED);
    }
    let problems = &status.cluster.problems;
    let told = |code: &&str| problems.iter().find(|p| p.code == *code);
    let Some(waits) = CODES.iter().find_map(told) else {
        eprintln!("ringmaster: {} waits for no such decision", wanted.node);
        return Ok(exit::FAILED);
    };
    if !wanted.yes {
        return show(&wanted, &waits.message);
    }
    let order = RefillOrder {
        accept_loss: true,
        reason: wanted.reason,
    };
    let told: Result<OrderResponse, _> = client.post(address, "/api/v1/admin/refill", &order).await;
    match told {
        Ok(answer) if wanted.output == Output::Json => print_json(&answer)?,
        Ok(answer) => print_lines([answer.message]),
        Err(error) => return Ok(explain_order(&error)),
    }
    Ok(exit::OK)
}

/// Who answers where `node` of `cluster` was last known, if it is not that one: its loss is not the
/// one that was accepted.
fn other(status: &StatusResponse, address: &str, node: &NodeId, cluster: &str) -> Option<String> {
    let (who, whose) = (&status.node.id, &status.cluster.cluster_id);
    if who != node {
        return Some(format!("{address} is {who} now, not {node}"));
    }
    if whose != cluster {
        return Some(format!(
            "{node} at {address} belongs to cluster {whose}, not {cluster}"
        ));
    }
    None
}

/// What would be accepted.
fn show(wanted: &Refill, waits: &str) -> anyhow::Result<Exit> {
    if wanted.output == Output::Json {
        print_json(&serde_json::json!({"node_id": wanted.node, "waits": waits, "ordered": false}))?;
    } else {
        print_lines([
            waits.to_owned(),
            "Nothing was ordered; give --yes to accept the loss.".to_owned(),
        ]);
    }
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use ringmaster_shared::{
        api::{health::Problem, ring::ClusterResponse},
        event::Severity,
        member::Lifecycle,
    };

    use super::*;
    use crate::fixture::{
        self, id,
        server::{FakeNode, ok},
    };

    /// Orders node-2 to go on, and has it answer as `change` makes it; the exit code, and how often
    /// something was ordered.
    async fn ordered(change: impl FnOnce(&mut StatusResponse)) -> (Exit, usize) {
        let cluster = fixture::cluster(3);
        let mut status = cluster.nodes[&id("node-2")]
            .status
            .clone()
            .expect("known")
            .value;
        status.cluster.problems.push(Problem {
            code: CODES[0].to_owned(),
            severity: Severity::Error,
            message: "waits".to_owned(),
            since: fixture::before(9),
        });
        change(&mut status);
        let orders = Arc::new(AtomicUsize::new(0));
        let count = orders.clone();
        let second = FakeNode::start(move |request, _| {
            if request == "GET /api/v1/status" {
                return ok(&status);
            }
            count.fetch_add(1, Ordering::SeqCst);
            ok(&OrderResponse {
                node_id: id("node-2"),
                accepted: true,
                lifecycle: Lifecycle::Recovering,
                message: "goes on".to_owned(),
            })
        })
        .await;
        let mut view = ClusterResponse {
            status: cluster.status.expect("a status").value,
            members: cluster.members.expect("members").value,
            ring: cluster.ring.expect("a ring").value,
        };
        let member = view.members.cluster_members.get_mut(&id("node-2"));
        member
            .expect("a member")
            .address
            .clone_from(&second.address);
        let first = FakeNode::start(move |_, _| ok(&view)).await;
        let wanted = Refill {
            node: id("node-2"),
            yes: true,
            reason: None,
            output: Output::Table,
        };
        let client = Client::new().expect("a client");
        let exit = run(&client, std::slice::from_ref(&first.address), wanted).await;
        (exit.expect("an end"), orders.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn only_the_node_that_was_named_is_told_to_accept_the_loss() {
        assert_eq!(ordered(|_| {}).await, (exit::OK, 1));
        let stranger = ordered(|s| s.node.id = id("node-9")).await;
        assert_eq!(stranger, (exit::REFUSED, 0), "another node answers there");
        let moved = ordered(|s| s.cluster.cluster_id = "0f3e9a11".to_owned()).await;
        assert_eq!(moved, (exit::REFUSED, 0), "it is of another cluster");
    }
}
