//! `ringmaster repair`: has every member compare its partitions with the other replicas now,
//! instead of at the next scheduled round.

use futures_util::future::join_all;
use ringmaster_shared::{api::admin::RepairResponse, id::NodeId};
use serde::Serialize;

use super::{
    Output, explain, print_json, print_lines,
    table::{Align, Table},
};
use crate::{
    client::Client,
    exit::{self, Exit},
    procedure::survey::{members_of, newest_answer},
    progress::Target,
};

#[derive(Serialize)]
struct Told {
    node_id: NodeId,
    endpoint: String,
    /// Whether a round began; false also when one was under way already.
    started: bool,
    /// It answered.
    ok: bool,
    message: String,
}

pub async fn run(client: &Client, endpoints: &[String], output: Output) -> anyhow::Result<Exit> {
    let view = match newest_answer(client, endpoints).await {
        Ok(view) => view,
        Err(error) => return Ok(explain(&error)),
    };
    let told = join_all(members_of(&view).into_iter().map(|t| tell(client, t))).await;
    let ok = told.iter().all(|t| t.ok);
    if output == Output::Json {
        print_json(&serde_json::json!({"ok": ok, "nodes": told}))?;
    } else {
        let mut table = Table::new(&[("NODE", Align::Left), ("", Align::Left)]);
        for t in told {
            table.row([t.node_id.to_string(), t.message]);
        }
        print_lines(table.lines());
    }
    Ok(if ok { exit::OK } else { exit::FAILED })
}

async fn tell(client: &Client, target: Target) -> Told {
    let nothing = serde_json::json!({});
    let answer = client
        .post(&target.address, "/api/v1/repair", &nothing)
        .await;
    let (ok, started, message) = match answer {
        Ok(RepairResponse { started, message }) => (true, started, message),
        Err(error) => (false, false, error.to_string()),
    };
    Told {
        node_id: target.id,
        endpoint: target.address,
        started,
        ok,
        message,
    }
}
