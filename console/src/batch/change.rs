//! Changes of the ring without a terminal: `ring plan`, `ring apply`, and the short forms that
//! plan, show, apply and wait.
//!
//! Nothing is done without `--yes` or a plan id. An exit code of 0 means: for a plan, that it can
//! be applied now; for an order, that it was decided; with waiting, that the ring is what it was
//! to become.

use std::time::Duration;

use futures_util::future::join_all;
use ringmaster_shared::{
    api::ring::{ApplyResponse, Change, PlanResponse, RingResponse},
    error::ErrorCode,
    id::{Epoch, NodeId},
    topology::Step,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    Output, explain, explain_order, print_json, print_lines,
    table::{Align, Table},
};
use crate::{
    change::{
        ChangeVerb,
        watch::{Standing, Watch},
        words,
    },
    client::{Client, ClientError},
    exit::{self, Exit},
    format,
    procedure::survey::seeing_first,
};

/// How often the ring is looked at while waiting.
const POLL: Duration = Duration::from_millis(200);
/// A node that is slower is not waited for; another one tells.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// A ring that moves on between plan and order is planned anew so often.
const ATTEMPTS: u32 = 3;

/// What a short form is to do.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Without it only the plan is shown.
    pub yes: bool,
    pub timeout: Duration,
    pub output: Output,
}

/// What came of an order that was waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Outcome {
    ok: bool,
    /// `done`, `given_up`, `timed_out` or `interrupted`.
    state: &'static str,
    /// The newest epoch that was seen.
    epoch: Epoch,
    message: String,
}

/// What the short forms print as JSON with `--yes`.
#[derive(Serialize)]
struct Report<'a> {
    plan: &'a PlanResponse,
    applied: &'a ApplyResponse,
    outcome: &'a Outcome,
}

/// `ring plan`: the preview; 0 when it can be applied.
pub async fn plan(
    client: &Client,
    endpoints: &[String],
    change: &Change,
    output: Output,
) -> anyhow::Result<Exit> {
    let (plan, _) = match planned(client, endpoints, change).await {
        Ok(plan) => plan,
        Err(error) => return Ok(explain(&error)),
    };
    match output {
        Output::Json => print_json(&plan)?,
        Output::Table => {
            print_lines(lines(&plan));
            if plan.obstacles.is_empty() {
                print_lines([format!(
                    "apply with: ringmaster ring apply {}",
                    plan.plan_id
                )]);
            }
        }
    }
    Ok(verdict(&plan))
}

fn verdict(plan: &PlanResponse) -> Exit {
    for why in &plan.obstacles {
        eprintln!("ringmaster: it cannot be applied now: {why}");
    }
    if plan.obstacles.is_empty() {
        exit::OK
    } else {
        exit::REFUSED
    }
}

/// `ring apply`: has a plan decided, and waits for its end when that is wanted.
pub async fn apply(
    client: &Client,
    endpoints: &[String],
    plan_id: &str,
    wait: Option<Duration>,
    output: Output,
) -> anyhow::Result<Exit> {
    let (applied, by) = match applied_at(client, endpoints, plan_id).await {
        Ok(applied) => applied,
        Err(error) => return Ok(explain_order(&error)),
    };
    if output == Output::Table {
        print_lines([applied.message.clone()]);
    }
    let Some(timeout) = wait else {
        if output == Output::Json {
            print_json(&applied)?;
        }
        return Ok(exit::OK);
    };
    let watch = Watch::new(applied.change.clone(), applied.epoch);
    let asked = in_front(&by, endpoints);
    let outcome = follow(client, &asked, watch, timeout, output).await;
    if output == Output::Json {
        print_json(&serde_json::json!({"applied": applied, "outcome": outcome}))?;
    }
    Ok(ended(&outcome, output))
}

/// The short forms: plan, show, and with `--yes` apply and wait.
pub async fn carry_out(
    client: &Client,
    endpoints: &[String],
    change: &Change,
    orders: &Orders,
) -> anyhow::Result<Exit> {
    let mut attempt = 1;
    let (plan, applied, by) = loop {
        let (plan, by) = match planned(client, endpoints, change).await {
            Ok(plan) => plan,
            Err(error) => return Ok(explain(&error)),
        };
        if orders.output == Output::Table {
            print_lines(lines(&plan));
        }
        if !orders.yes || !plan.obstacles.is_empty() {
            if orders.output == Output::Json {
                print_json(&plan)?;
            }
            let exit = verdict(&plan);
            if exit == exit::OK {
                eprintln!("ringmaster: this is the plan, nothing was done; --yes carries it out");
            }
            return Ok(exit);
        }
        match applied_at(client, &in_front(&by, endpoints), &plan.plan_id).await {
            Ok((applied, by)) => break (plan, applied, by),
            Err(error) if error.is(ErrorCode::Conflict) && attempt < ATTEMPTS => {
                eprintln!("ringmaster: {}; planning anew", error.why());
                attempt += 1;
            }
            Err(error) => return Ok(explain_order(&error)),
        }
    };
    if orders.output == Output::Table {
        print_lines([applied.message.clone()]);
    }
    let watch = Watch::new(applied.change.clone(), applied.epoch).planned(&plan);
    let asked = in_front(&by, endpoints);
    let outcome = follow(client, &asked, watch, orders.timeout, orders.output).await;
    if orders.output == Output::Json {
        print_json(&Report {
            plan: &plan,
            applied: &applied,
            outcome: &outcome,
        })?;
    }
    Ok(ended(&outcome, orders.output))
}

fn ended(outcome: &Outcome, output: Output) -> Exit {
    if !outcome.ok {
        eprintln!("ringmaster: {}", outcome.message);
    } else if output == Output::Table {
        print_lines([outcome.message.clone()]);
    }
    match outcome.state {
        "done" => exit::OK,
        "interrupted" => exit::INTERRUPTED,
        _ => exit::FAILED,
    }
}

fn in_front(first: &str, endpoints: &[String]) -> Vec<String> {
    let rest = endpoints.iter().filter(|e| *e != first).cloned();
    std::iter::once(first.to_owned()).chain(rest).collect()
}

/// The plan of the first endpoint that makes one, and which that was. Asking is harmless. One that
/// sees only itself comes last: it would find everybody away.
async fn planned(
    client: &Client,
    endpoints: &[String],
    change: &Change,
) -> Result<(PlanResponse, String), ClientError> {
    let mut last = ClientError::no_endpoint();
    for endpoint in seeing_first(client, endpoints).await {
        match client.plan(&endpoint, change).await {
            Ok(plan) => return Ok((plan, endpoint)),
            // one that is not in the ring, or not up, knows less than the next
            Err(e) if e.is_unreachable() || e.did_nothing() => last.outdone_by(e),
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// Only a node that certainly did nothing may be skipped: any other may have had it decided.
async fn applied_at(
    client: &Client,
    endpoints: &[String],
    plan_id: &str,
) -> Result<(ApplyResponse, String), ClientError> {
    let mut last = ClientError::no_endpoint();
    for endpoint in endpoints {
        match client.apply(endpoint, plan_id).await {
            Ok(applied) => return Ok((applied, endpoint.clone())),
            Err(e) if e.did_nothing() => last.outdone_by(e),
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// Looks at the ring until the change is done, given up, or has taken too long.
async fn follow(
    client: &Client,
    endpoints: &[String],
    mut watch: Watch,
    timeout: Duration,
    output: Output,
) -> Outcome {
    let client = client.within(LOOK_TIMEOUT);
    let what = words(watch.change());
    let deadline = Instant::now() + timeout;
    let mut asked: Vec<String> = endpoints.to_vec();
    let mut told = None;
    let mut epoch = watch.epoch();
    let outcome = |ok, state, epoch, message| Outcome {
        ok,
        state,
        epoch,
        message,
    };
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let ring = tokio::select! {
            ring = newest(&client, &mut asked) => ring,
            _ = &mut interrupt => {
                let message = format!("interrupted; the change goes on without this program: {what}");
                return outcome(false, "interrupted", epoch, message);
            }
        };
        if let Some(ring) = ring {
            epoch = epoch.max(ring.epoch);
            match watch.look(&ring) {
                Standing::Done => {
                    return outcome(
                        true,
                        "done",
                        epoch,
                        format!("done at epoch {epoch}: {what}"),
                    );
                }
                Standing::GivenUp => {
                    let message = format!("given up at epoch {epoch}: {what}");
                    return outcome(false, "given_up", epoch, message);
                }
                Standing::Moving { step, moving } => {
                    if output == Output::Table && told.replace(step) != Some(step) {
                        print_lines([step_line(epoch, step, moving)]);
                    }
                }
                Standing::Unheard => {}
            }
        }
        if Instant::now() >= deadline {
            let message = format!(
                "still under way after {} s, and it goes on: {what}; look with: ringmaster ring",
                timeout.as_secs()
            );
            return outcome(false, "timed_out", epoch, message);
        }
        sleep(POLL).await;
    }
}

fn step_line(epoch: Epoch, step: Step, moving: usize) -> String {
    let what = match step {
        Step::Filling => "the new replicas are being filled",
        Step::Dual => "reads ask old and new",
    };
    format!(
        "epoch {epoch}: {}, {what}",
        format::plural(moving, "partition")
    )
}

/// The newest ring that anybody tells. A node that has left the ring hears nothing of it any
/// more, so all are asked, also those that are learned on the way.
async fn newest(client: &Client, asked: &mut Vec<String>) -> Option<RingResponse> {
    let answers = join_all(asked.iter().map(|e| client.ring(e))).await;
    let rings = answers.into_iter().flatten().filter(|r| r.epoch > 0);
    let newest = rings.max_by_key(|r| r.epoch)?;
    for node in &newest.nodes {
        if !asked.contains(&node.address) {
            asked.push(node.address.clone());
        }
    }
    Some(newest)
}

/// The plan for people.
fn lines(plan: &PlanResponse) -> Vec<String> {
    let copies: usize = plan.copies.values().sum();
    let mut lines = vec![
        format!(
            "{}: {}",
            ChangeVerb::of(&plan.change).word(),
            plan.summary.trim_end_matches('.')
        ),
        format!(
            "epoch {}: {} of {} move, {}, about {}",
            plan.base_epoch,
            plan.partitions_moved,
            format::plural(plan.table.len(), "partition"),
            format::plural_of(copies, "replica copy", "replica copies"),
            format::bytes(plan.bytes_moved),
        ),
    ];
    // where there is no such change, there is nothing to compare
    if plan.partitions_moved == 0 && !plan.obstacles.is_empty() {
        lines.truncate(1);
        return lines;
    }
    lines.extend(shares(plan));
    lines.extend(plan.risks.iter().map(|r| format!("risk: {r}")));
    lines
}

fn shares(plan: &PlanResponse) -> Vec<String> {
    let mut table = Table::new(&[
        ("MEMBER", Align::Left),
        ("ZONE", Align::Left),
        ("HOLDS", Align::Right),
        ("THEN", Align::Right),
        ("FIRST OF", Align::Right),
        ("THEN", Align::Right),
        ("COPIES", Align::Right),
    ]);
    let mut ids: Vec<&NodeId> = Vec::new();
    for share in plan.before.iter().chain(&plan.after) {
        if !ids.contains(&&share.node_id) {
            ids.push(&share.node_id);
        }
    }
    for id in ids {
        let before = plan.before.iter().find(|s| &s.node_id == id);
        let after = plan.after.iter().find(|s| &s.node_id == id);
        let number = |n: Option<usize>| n.map_or("-".to_owned(), |n| n.to_string());
        let zone = before.or(after).map_or("", |s| s.zone.as_str());
        table.row([
            id.to_string(),
            zone.to_owned(),
            number(before.map(|s| s.replicas)),
            number(after.map(|s| s.replicas)),
            number(before.map(|s| s.primaries)),
            number(after.map(|s| s.primaries)),
            plan.copies.get(id).copied().unwrap_or(0).to_string(),
        ]);
    }
    table.lines()
}

#[cfg(test)]
mod tests;
