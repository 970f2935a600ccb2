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
