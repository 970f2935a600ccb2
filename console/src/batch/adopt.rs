//! `ringmaster adopt`: heals a split brain from the outside. Each node of the losing cluster is
//! ordered to push what it holds into the other one and to join it, one after the other.
//!
//! The daemon does the work and loses nothing; here it is decided who is asked, in which order,
//! and when it is done: every node shows the other cluster's id and serves.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use ringmaster_shared::{
    api::{
        admin::{AdoptOrder, OrderResponse},
        health::StatusResponse,
        membership::MembersResponse,
        ring::RingNode,
    },
    id::{Generation, NodeId},
    member::Lifecycle,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{Output, explain, print_json, print_lines};
use crate::{
    client::{Client, ClientError, Left, PATIENT_TIMEOUT},
    exit::{self, Exit},
    format::said_by,
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
    losing: Vec<(String, StatusResponse, Others)>,
}

/// The others of a losing cluster: who is heard of, and who is in its ring. Gossip alone forgets: a
/// lone survivor that has restarted knows nobody any more, and its ring still names them.
#[derive(Debug, Clone)]
struct Others {
    members: MembersResponse,
    ring: Vec<RingNode>,
}

impl Others {
    /// Everybody with the address that is newest.
    fn all(&self) -> BTreeMap<&NodeId, &str> {
        let ring = self.ring.iter().map(|n| (&n.id, n.address.as_str()));
        let heard = self.members.cluster_members.values();
        ring.chain(heard.map(|m| (&m.node_id, m.address.as_str())))
            .collect()
    }
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
        let ring = client.ring(endpoint).await?.nodes;
        Ok((endpoint.clone(), status, Others { members, ring }))
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
    for (endpoint, status, others) in &sides.losing {
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
            let all = others.all().into_iter();
            let unnamed =
                all.filter(|(id, _)| !sides.losing.iter().any(|(_, s, _)| s.node.id == **id));
            left_out.extend(unnamed.map(|(id, address)| format!("{id} ({address})")));
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
    let kept = if plan.left_out.is_empty() {
        "nothing is lost"
    } else {
        "of what these nodes hold nothing is lost"
    };
    lines.push(format!(
        "  keys written on both sides keep both values, as siblings; {kept}"
    ));
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
    let before = life_to_end(client, step).await?;
    order(client, adoption, step).await?;
    let deadline = began + adoption.timeout;
    let mut told = began;
    loop {
        let status = client.status(&step.endpoint).await;
        let why = match stands(&status, into, step, before) {
            Stands::Arrived => {
                return Ok(format!(
                    "serves in cluster {into}, after {:.1} s",
                    began.elapsed().as_secs_f64()
                ));
            }
            Stands::GaveBack => return Err(Failure(gave_back(step), exit::FAILED)),
            Stands::OnItsWay(why) => why,
        };
        if Instant::now() >= deadline {
            let waited = adoption.timeout.as_secs();
            let next = what_next(&status, step);
            let text = format!("not there after {waited} s: {why}; {next}");
            return Err(Failure(text, exit::FAILED));
        }
        if told.elapsed() >= TELL && adoption.output == Output::Table {
            told = Instant::now();
            print_lines([format!("{}: {why}", step.node_id)]);
        }
        sleep(POLL).await;
    }
}

/// The life in which the order will be given. Looked at again: when the first of several was asked
/// may be long ago, and one that started meanwhile must not look like one that gave the order back.
async fn life_to_end(client: &Client, step: &Step) -> Result<Generation, Failure> {
    let status = client.status(&step.endpoint).await;
    let status = status.map_err(|e| Failure(e.to_string(), super::code(&e)))?;
    if status.node.id != step.node_id {
        let text = format!(
            "{} answers at its address now; nothing was ordered",
            status.node.id
        );
        return Err(Failure(text, exit::REFUSED));
    }
    Ok(status.node.generation)
}

async fn order(client: &Client, adoption: &Adoption, step: &Step) -> Result<(), Failure> {
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
            print_lines([said_by(&step.node_id, &answer.message)]);
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
    Ok(())
}

/// How far a node that was ordered has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stands {
    /// A serving member of the cluster that stays.
    Arrived,
    /// What is missing.
    OnItsWay(String),
    /// It serves its old cluster in a life after that of the order, and will not go any more: it
    /// looks at the seeds before it serves.
    GaveBack,
}

/// `before`: the life in which it took the order.
fn stands(
    status: &Result<StatusResponse, ClientError>,
    into: &str,
    step: &Step,
    before: Generation,
) -> Stands {
    let status = match status {
        Ok(status) => status,
        Err(error) => return Stands::OnItsWay(error.why().to_owned()),
    };
    if status.node.id != step.node_id {
        return Stands::OnItsWay(format!("{} answers at its address", status.node.id));
    }
    let waits = status.node.waiting_for.as_ref();
    let waits = waits.map_or(String::new(), |w| format!(", waiting for: {w}"));
    let lifecycle = status.node.lifecycle;
    let cluster = &status.cluster.cluster_id;
    match lifecycle {
        Lifecycle::Serving if cluster == into => Stands::Arrived,
        Lifecycle::Serving | Lifecycle::Recovering
            if *cluster == step.cluster_id && status.node.generation > before =>
        {
            Stands::GaveBack
        }
        other if cluster == into => Stands::OnItsWay(format!("it is {}{waits}", other.as_str())),
        other => Stands::OnItsWay(format!(
            "it is not in the other cluster yet; {}{waits}",
            other.as_str()
        )),
    }
}

fn gave_back(step: &Step) -> String {
    format!(
        "it gave the order back and stays in cluster {} with all it holds; its log says why \
         (`SEED_REFUSED`; no such line: it ended before it had written the order down). When a node \
         of --into answers it, run this again",
        step.cluster_id
    )
}

/// What becomes of one that is not waited for any longer. Only one that has given up its cluster
/// goes on whatever happens.
fn what_next(status: &Result<StatusResponse, ClientError>, step: &Step) -> String {
    let endpoint = &step.endpoint;
    match status {
        Ok(status) if status.node.id != step.node_id => {
            format!("look where {} runs now", step.node_id)
        }
        Ok(status) if status.cluster.cluster_id != step.cluster_id => {
            "it goes on by itself".to_owned()
        }
        Ok(_) => format!(
            "it has not given up its cluster; whether it still will, \
             `ringmaster status --endpoint {endpoint}` and its log say"
        ),
        Err(_) => "look at its log, and start it if it is down: one that has given up its cluster \
                   goes on then, one that has not says so (`SEED_REFUSED`)"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests;
