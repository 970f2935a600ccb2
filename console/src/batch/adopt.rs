//! `ringmaster adopt`: heals a split brain from the outside. Each node of the losing cluster is
//! ordered to push what it holds into the other one and to join it, one after the other.
//!
//! The daemon does the work and loses nothing; here it is decided who is asked, in which order,
//! and when it is done: every node shows the other cluster's id and serves.

use std::time::Duration;

use futures_util::future::join_all;
use ringmaster_shared::{
    api::{
        admin::{AdoptOrder, OrderResponse},
        health::StatusResponse,
        membership::MembersResponse,
    },
    id::NodeId,
    member::Lifecycle,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{Output, explain, print_json, print_lines};
use crate::{
    client::{Client, ClientError, Left, PATIENT_TIMEOUT},
    exit::{self, Exit},
    procedure::Refusal,
};

const POLL: Duration = Duration::from_millis(200);
/// How often it is said what a node waits for.
const TELL: Duration = Duration::from_secs(5);

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// Nodes of the cluster that is given up.
    pub losing: Vec<String>,
    /// Nodes of the cluster that stays.
    pub into: Vec<String>,
    pub yes: bool,
    /// For each node.
    pub timeout: Duration,
    pub reason: Option<String>,
    pub output: Output,
}

/// One node of the losing side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    node_id: NodeId,
    endpoint: String,
    /// The cluster it belongs to now.
    cluster_id: String,
    /// `pending`, `already_there`, `adopted` or `failed`.
    state: &'static str,
    message: String,
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The cluster that stays.
    into_cluster: String,
    steps: Vec<Step>,
    /// Members of the losing side that were not named: what only they hold stays there.
    left_out: Vec<String>,
}

/// What was learned of both sides.
#[derive(Debug, Clone)]
struct Sides {
    /// The cluster that stays, and who is in it.
    into: MembersResponse,
    losing: Vec<(String, StatusResponse, MembersResponse)>,
}

pub async fn run(client: &Client, adoption: &Adoption) -> anyhow::Result<Exit> {
    let sides = match look(client, adoption).await {
        Ok(sides) => sides,
        Err(error) => return Ok(explain(&error)),
    };
    let mut plan = match plan(&sides) {
        Ok(plan) => plan,
        Err(refusal) => {
            eprintln!("ringmaster: refused: {refusal}");
            return Ok(exit::REFUSED);
        }
    };
    if adoption.output == Output::Table {
        print_lines(lines(&plan));
    }
    for address in &plan.left_out {
        eprintln!(
            "ringmaster: {address} belongs to the losing side and was not named: what only it \
             holds stays there"
        );
    }
    if !adoption.yes {
        if adoption.output == Output::Json {
            print_json(&plan)?;
        }
        eprintln!("ringmaster: this is the plan, nothing was done; --yes carries it out");
        return Ok(exit::OK);
    }
    let exit = carry_out(client, adoption, &mut plan).await;
    if adoption.output == Output::Json {
        let ok = exit == exit::OK;
        print_json(&serde_json::json!({
            "ok": ok, "into_cluster": plan.into_cluster, "steps": plan.steps,
            "left_out": plan.left_out,
        }))?;
    }
    Ok(exit)
}

/// Everybody must answer: half of an adoption on a guess is worse than none.
async fn look(client: &Client, adoption: &Adoption) -> Result<Sides, ClientError> {
    let mut into = Err(ClientError::no_endpoint());
    for endpoint in &adoption.into {
        into = client.get(endpoint, "/gossip/members").await;
        if into.is_ok() {
            break;
        }
    }
    let losing = join_all(adoption.losing.iter().map(|endpoint| async move {
        let status = client.status(endpoint).await?;
        let members = client.get(endpoint, "/gossip/members").await?;
        Ok((endpoint.clone(), status, members))
    }));
    let losing: Result<Vec<_>, ClientError> = losing.await.into_iter().collect();
    Ok(Sides {
        into: into?,
        losing: losing?,
    })
}

/// Who is to be asked, in the order in which they were named.
fn plan(sides: &Sides) -> Result<Plan, Refusal> {
    let into = &sides.into.cluster_id;
    if into.is_empty() {
        return Err(Refusal(format!(
            "{} belongs to no cluster yet; name a node of the cluster that is to stay",
            sides.into.current_node
        )));
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut left_out = Vec::new();
    for (endpoint, status, members) in &sides.losing {
        let id = &status.node.id;
        if steps.iter().any(|s| &s.node_id == id) {
            continue;
        }
        let own = &status.cluster.cluster_id;
        if own != into
            && let Some(twin) = sides.into.cluster_members.get(id)
            && twin.status.is_reachable()
        {
            return Err(Refusal(format!(
                "{id} is also the name of a living member of the cluster that stays, at {}; a \
                 name can be there once: start that node of the losing side under another name",
                twin.address
            )));
        }
        steps.push(Step {
            node_id: id.clone(),
            endpoint: endpoint.clone(),
            cluster_id: own.clone(),
            state: if own == into {
                "already_there"
            } else {
                "pending"
            },
            message: String::new(),
        });
        if own != into {
            let others = members.cluster_members.values();
            let unnamed =
                others.filter(|m| !sides.losing.iter().any(|(_, s, _)| s.node.id == m.node_id));
            left_out.extend(unnamed.map(|m| format!("{} ({})", m.node_id, m.address)));
        }
    }
    left_out.sort();
    left_out.dedup();
    Ok(Plan {
        into_cluster: into.clone(),
        steps,
        left_out,
    })
}

fn lines(plan: &Plan) -> Vec<String> {
    let mut lines = vec![format!("adopt into cluster {}", plan.into_cluster)];
    for (n, step) in plan.steps.iter().enumerate() {
        let what = if step.state == "already_there" {
            "belongs to it already".to_owned()
        } else {
            format!(
                "gives up cluster {}, pushes what it holds, joins",
                step.cluster_id
            )
        };
        lines.push(format!(
            "  {}. {} at {} {what}",
            n + 1,
            step.node_id,
            step.endpoint
        ));
    }
    lines.push(
        "  keys written on both sides keep both values, as siblings; nothing is lost".to_owned(),
    );
    lines
}

async fn carry_out(client: &Client, adoption: &Adoption, plan: &mut Plan) -> Exit {
    let into = plan.into_cluster.clone();
    let mut done = false;
    for step in &mut plan.steps {
        if step.state == "already_there" {
            continue;
        }
        let work = adopt_one(client, adoption, &into, step);
        let result = tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => {
                eprintln!(
                    "ringmaster: interrupted; {} goes on with what it was told, the others were \
                     not asked",
                    step.node_id
                );
                return exit::INTERRUPTED;
            }
        };
        match result {
            Ok(message) => {
                done = true;
                step.state = "adopted";
                step.message = message;
                if adoption.output == Output::Table {
                    print_lines([format!("{}: {}", step.node_id, step.message)]);
                }
            }
            Err(failure) => {
                step.state = "failed";
                step.message.clone_from(&failure.0);
                eprintln!("ringmaster: {}: {}", step.node_id, failure.0);
                // "refused" and "nobody answered" are for when nothing was done
                return if done { exit::FAILED } else { failure.1 };
            }
        }
    }
    exit::OK
}

/// Why one failed, and what the program ends with.
struct Failure(String, Exit);

async fn adopt_one(
    client: &Client,
    adoption: &Adoption,
    into: &str,
    step: &Step,
) -> Result<String, Failure> {
    let began = Instant::now();
    let order = AdoptOrder {
        seeds: adoption.into.clone(),
        reason: Some(
            adoption
                .reason
                .clone()
                .unwrap_or_else(|| "split brain".to_owned()),
        ),
    };
    let patient = client.within(PATIENT_TIMEOUT);
    let told: Result<OrderResponse, ClientError> = patient
        .post(&step.endpoint, "/api/v1/admin/adopt", &order)
        .await;
    match told {
        Ok(answer) if adoption.output == Output::Table => {
            print_lines([format!("{}: {}", step.node_id, answer.message)]);
        }
        Ok(_) => {}
        Err(error) => {
            let exit = match error.leaves() {
                Left::Nothing => super::code(&error),
                Left::Stored | Left::Unknown => exit::FAILED,
            };
            return Err(Failure(error.to_string(), exit));
        }
    }
    let deadline = began + adoption.timeout;
    let mut told = began;
    loop {
        let status = client.status(&step.endpoint).await;
        let why = match arrived(&status, into, &step.node_id) {
            Ok(()) => {
                return Ok(format!(
                    "serves in cluster {into}, after {:.1} s",
                    began.elapsed().as_secs_f64()
                ));
            }
            Err(why) => why,
        };
        if Instant::now() >= deadline {
            let text = format!(
                "not there after {} s: {why}; it goes on by itself",
                adoption.timeout.as_secs()
            );
            return Err(Failure(text, exit::FAILED));
        }
        if told.elapsed() >= TELL && adoption.output == Output::Table {
            told = Instant::now();
            print_lines([format!("{}: {why}", step.node_id)]);
        }
        sleep(POLL).await;
    }
}

/// Whether the node is a serving member of the cluster that stays; what is missing otherwise.
fn arrived(
    status: &Result<StatusResponse, ClientError>,
    into: &str,
    id: &NodeId,
) -> Result<(), String> {
    let status = status.as_ref().map_err(|e| e.why().to_owned())?;
    if &status.node.id != id {
        return Err(format!("{} answers at its address", status.node.id));
    }
    let waits = status.node.waiting_for.as_ref();
    let waits = waits.map_or(String::new(), |w| format!(", waiting for: {w}"));
    let lifecycle = status.node.lifecycle;
    if status.cluster.cluster_id != into {
        let old = "it is not in the other cluster yet";
        return Err(format!("{old}; {}{waits}", lifecycle.as_str()));
    }
    match lifecycle {
        Lifecycle::Serving => Ok(()),
        other => Err(format!("it is {}{waits}", other.as_str())),
    }
}

#[cfg(test)]
mod tests;
