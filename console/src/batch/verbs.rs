//! The verbs that ask one question: status, members, ring, quorum, check, get, put, del.

use std::collections::BTreeMap;

use reqwest::Method;
use ringmaster_shared::{
    api::{
        data::{Consistency, DeleteRequest, PutRequest, ReadResponse, WriteResponse},
        ring::{ClusterResponse, LocateResponse, topology_of},
    },
    id::{ClusterId, NodeId},
    quorum::{PartitionHealth, partition_counts, partition_health},
    topology::Step,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    Output, check, explain, explain_write, print_json, print_lines,
    table::{Align, Table},
};
use crate::{
    client::{Client, ClientError, PATIENT_TIMEOUT, data_path, encode},
    exit::{self, Exit},
    procedure::survey::{Survey, first_answer},
};

/// One verb with its arguments.
#[derive(Debug, Clone)]
pub enum Verb {
    Status,
    Members,
    /// The ring, or where one key lives.
    Ring {
        key: Option<String>,
    },
    Quorum,
    Check,
    Get {
        key: String,
        consistency: Consistency,
    },
    Put {
        key: String,
        value: Value,
        context: Option<String>,
        condition: Option<Condition>,
        consistency: Consistency,
    },
    Del {
        key: String,
        context: Option<String>,
        consistency: Consistency,
    },
}

/// When a write holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key is exactly as the read that returned this context saw it.
    Match(String),
    /// The key has no value.
    Absent,
}

impl Condition {
    fn header(&self) -> (&'static str, String) {
        match self {
            Self::Match(context) => ("if-match", format!("\"{context}\"")),
            Self::Absent => ("if-none-match", "*".to_owned()),
        }
    }
}

/// Runs it; the exit code says how it went.
pub async fn run(
    client: &Client,
    endpoints: &[String],
    verb: Verb,
    output: Output,
) -> anyhow::Result<Exit> {
    let result = match verb {
        Verb::Status => status(client, endpoints, output).await,
        Verb::Members => members(client, endpoints, output).await,
        Verb::Ring { key: None } => ring(client, endpoints, output).await,
        Verb::Ring { key: Some(key) } => locate(client, endpoints, &key, output).await,
        Verb::Quorum => quorum(client, endpoints, output).await,
        Verb::Check => check(client, endpoints, output).await,
        Verb::Get { key, consistency } => {
            let path = format!("{}{}", data_path(&key), query(consistency));
            get(client, endpoints, &path, output).await
        }
        Verb::Put {
            key,
            value,
            context,
            condition,
            consistency,
        } => {
            let path = format!("{}{}", data_path(&key), query(consistency));
            let body = PutRequest { value, context };
            let condition = condition.as_ref().map(Condition::header);
            let write = (Method::PUT, path, condition);
            written(client, endpoints, write, &body, output).await
        }
        Verb::Del {
            key,
            context,
            consistency,
        } => {
            let path = format!("{}{}", data_path(&key), query(consistency));
            let body = DeleteRequest { context };
            let write = (Method::DELETE, path, None);
            written(client, endpoints, write, &body, output).await
        }
    };
    match result {
        Ok(code) => Ok(code),
        Err(Failure::Client(e)) => Ok(explain(&e)),
        Err(Failure::Other(e)) => Err(e),
    }
}

enum Failure {
    Client(ClientError),
    Other(anyhow::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

type Outcome = Result<Exit, Failure>;

pub(super) fn query(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::One => "?consistency=one",
        Consistency::Quorum => "",
        Consistency::All => "?consistency=all",
    }
}

async fn status(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let view = first_answer(client, endpoints).await?;
    let s = &view.status;
    if output == Output::Json {
        print_json(s)?;
    } else {
        let p = s.replication.partitions;
        let mut lines = vec![
            format!(
                "node        {} at {}, {}",
                s.node.id,
                s.node.address,
                s.node.lifecycle.as_str()
            ),
            format!(
                "cluster     {}, epoch {}",
                s.cluster.cluster_id, s.cluster.ring_epoch
            ),
            format!(
                "health      {}",
                serde_json::to_value(s.cluster.health)
                    .ok()
                    .and_then(|v| v.as_str().map(str::to_owned))
                    .unwrap_or_default()
            ),
            format!(
                "nodes       {} of {} alive",
                s.replication.alive_nodes, s.replication.total_nodes
            ),
            format!(
                "partitions  {}: {} with all replicas, {} at quorum, {} without quorum",
                p.total,
                p.all_replicas,
                p.quorum - p.all_replicas,
                p.unavailable
            ),
            format!("keys        {} on this node", s.storage.key_count),
        ];
        if let Some(waiting) = &s.node.waiting_for {
            lines.push(format!("waits for   {waiting}"));
        }
        lines.extend(
            s.cluster
                .problems
                .iter()
                .map(|p| format!("problem     {}: {}", p.code, p.message)),
        );
        print_lines(lines);
    }
    Ok(if s.replication.quorum_available {
        exit::OK
    } else {
        exit::FAILED
    })
}

async fn members(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let view = first_answer(client, endpoints).await?;
    let m = &view.members;
    if output == Output::Json {
        print_json(m)?;
    } else {
        let mut table = Table::new(&[
            ("NODE", Align::Left),
            ("STATUS", Align::Left),
            ("LIFECYCLE", Align::Left),
            ("ADDRESS", Align::Left),
            ("ZONE", Align::Left),
            ("EPOCH", Align::Right),
            ("INCARNATION", Align::Right),
            ("KEYS", Align::Right),
            ("VERSION", Align::Left),
        ]);
        for info in m.cluster_members.values() {
            table.row([
                info.node_id.to_string(),
                info.status.as_str().to_owned(),
                info.lifecycle.as_str().to_owned(),
                info.address.clone(),
                info.zone.clone(),
                info.ring_epoch.to_string(),
                info.incarnation.to_string(),
                info.load.keys.to_string(),
                info.version.clone(),
            ]);
        }
        let mut lines = table.lines();
        lines.push(format!(
            "{} of {} alive, seen by {}, digest {}",
            m.alive_members, m.total_members, m.current_node, m.membership_digest
        ));
        print_lines(lines);
    }
    Ok(if m.alive_members == m.total_members {
        exit::OK
    } else {
        exit::FAILED
    })
}

async fn ring(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let view = first_answer(client, endpoints).await?;
    let r = &view.ring;
    if output == Output::Json {
        print_json(r)?;
        return Ok(exit::OK);
    }
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("ZONE", Align::Left),
        ("PRIMARIES", Align::Right),
        ("REPLICAS", Align::Right),
        ("OWNS %", Align::Right),
        ("", Align::Left),
    ]);
    for n in &r.nodes {
        table.row([
            n.id.to_string(),
            n.zone.clone(),
            n.primaries.to_string(),
            n.replicas.to_string(),
            format!("{:.1}", n.owns_percent),
            match (n.joining, n.leaving) {
                (true, _) => "joining".to_owned(),
                (_, true) => "leaving".to_owned(),
                _ => String::new(),
            },
        ]);
    }
    let mut lines = table.lines();
    lines.push(format!(
        "epoch {}, {} partitions, up to {} replicas, digest {}",
        r.epoch, r.ring.partitions, r.ring.replicas, r.digest
    ));
    if let Some(t) = &r.transition {
        lines.push(format!(
            "a change is under way: {}; {} partitions move, {}",
            crate::change::words(&crate::change::seen(t)),
            t.moving,
            match t.step {
                Step::Filling => "new replicas are being filled",
                Step::Dual => "reads ask old and new",
            }
        ));
    }
    print_lines(lines);
    Ok(exit::OK)
}

async fn locate(client: &Client, endpoints: &[String], key: &str, output: Output) -> Outcome {
    let path = format!("/api/v1/ring/locate?key={}", encode(key));
    let l: LocateResponse = first(client, endpoints, &path).await?;
    if output == Output::Json {
        print_json(&l)?;
    } else {
        let mut table = Table::new(&[
            ("REPLICA", Align::Left),
            ("ADDRESS", Align::Left),
            ("STATUS", Align::Left),
            ("LIFECYCLE", Align::Left),
            ("", Align::Left),
        ]);
        for r in &l.replicas {
            table.row([
                r.node_id.to_string(),
                r.address.clone(),
                r.status.as_str().to_owned(),
                r.lifecycle.as_str().to_owned(),
                if r.incoming {
                    "incoming".to_owned()
                } else {
                    String::new()
                },
            ]);
        }
        let mut lines = vec![format!(
            "{} hashes to {}, partition {}, epoch {}",
            l.key, l.hash, l.partition, l.epoch
        )];
        lines.extend(table.lines());
        print_lines(lines);
    }
    Ok(if l.quorum_available {
        exit::OK
    } else {
        exit::FAILED
    })
}

/// What `quorum --output json` prints.
#[derive(Serialize)]
struct QuorumReport {
    epoch: u64,
    partitions: ringmaster_shared::quorum::PartitionCounts,
    /// Partitions without all replicas: number, health, who is missing.
    short: Vec<ShortPartition>,
    /// By node: partitions that would lose their quorum if it stopped now.
    would_lose: Vec<WouldLose>,
}

#[derive(Serialize)]
struct ShortPartition {
    partition: u16,
    health: PartitionHealth,
    missing: Vec<NodeId>,
}

#[derive(Serialize)]
struct WouldLose {
    node_id: NodeId,
    partitions: u16,
}

fn quorum_report(view: &ClusterResponse) -> Option<QuorumReport> {
    let cluster = ClusterId::new(&view.status.cluster.cluster_id).ok()?;
    let topology = topology_of(&view.ring, &cluster)?;
    let up = view.members.available();
    let partitions = partition_counts(&topology, &up);
    let short = (0..topology.partition_count())
        .filter_map(|p| {
            let health = partition_health(&topology, p, &up);
            let missing = || {
                topology
                    .all_replicas(p)
                    .into_iter()
                    .filter(|id| !up.contains(id))
                    .collect()
            };
            (health != PartitionHealth::AllReplicas).then(|| ShortPartition {
                partition: p,
                health,
                missing: missing(),
            })
        })
        .collect();
    let would_lose = up
        .iter()
        .map(|id| {
            let mut rest = up.clone();
            rest.remove(id);
            let lost = partition_counts(&topology, &rest).unavailable;
            WouldLose {
                node_id: id.clone(),
                partitions: lost - partitions.unavailable,
            }
        })
        .collect();
    Some(QuorumReport {
        epoch: topology.epoch,
        partitions,
        short,
        would_lose,
    })
}

async fn quorum(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let view = first_answer(client, endpoints).await?;
    let Some(report) = quorum_report(&view) else {
        eprintln!("ringmaster: {} has no ring yet", view.status.node.id);
        return Ok(exit::FAILED);
    };
    let p = report.partitions;
    if output == Output::Json {
        print_json(&report)?;
    } else {
        let mut lines = vec![format!(
            "{} partitions: {} with all replicas, {} at quorum, {} without quorum",
            p.total,
            p.all_replicas,
            p.quorum - p.all_replicas,
            p.unavailable
        )];
        let mut missing: BTreeMap<String, usize> = BTreeMap::new();
        for s in &report.short {
            let names: Vec<&str> = s.missing.iter().map(NodeId::as_str).collect();
            *missing.entry(names.join(", ")).or_default() += 1;
        }
        lines.extend(
            missing
                .iter()
                .map(|(who, n)| format!("  {n} partitions miss {who}")),
        );
        let mut table = Table::new(&[
            ("IF THIS STOPS", Align::Left),
            ("PARTITIONS LOST", Align::Right),
        ]);
        for w in &report.would_lose {
            table.row([w.node_id.to_string(), w.partitions.to_string()]);
        }
        lines.extend(table.lines());
        print_lines(lines);
    }
    Ok(if p.total > 0 && p.unavailable == 0 {
        exit::OK
    } else {
        exit::FAILED
    })
}

async fn check(client: &Client, endpoints: &[String], output: Output) -> Outcome {
    let survey = Survey::take(client, endpoints).await?;
    let verdicts = check::verdicts(&survey);
    let ok = verdicts.iter().all(|v| v.ok);
    if output == Output::Json {
        print_json(&serde_json::json!({"ok": ok, "checks": verdicts}))?;
    } else {
        let mark = |ok| if ok { "ok    " } else { "FAILED" };
        print_lines(
            verdicts
                .iter()
                .map(|v| format!("{}  {:<15} {}", mark(v.ok), v.check, v.message)),
        );
    }
    Ok(if ok { exit::OK } else { exit::FAILED })
}

async fn get(client: &Client, endpoints: &[String], path: &str, output: Output) -> Outcome {
    let answer: ReadResponse = first(&client.within(PATIENT_TIMEOUT), endpoints, path).await?;
    if output == Output::Json {
        print_json(&answer)?;
        return Ok(exit::OK);
    }
    print_lines([plain(&answer.value)]);
    if let Some(siblings) = &answer.siblings {
        eprintln!(
            "ringmaster: {} concurrent versions; see --output json",
            siblings.len()
        );
    }
    Ok(exit::OK)
}

async fn written<B: Serialize>(
    client: &Client,
    endpoints: &[String],
    (method, path, condition): (Method, String, Option<(&'static str, String)>),
    body: &B,
    output: Output,
) -> Outcome {
    let client = client.within(PATIENT_TIMEOUT);
    let condition = condition
        .as_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let mut last = ClientError::no_endpoint();
    for endpoint in endpoints {
        let answer: Result<WriteResponse, _> = client
            .call_if(method.clone(), endpoint, &path, condition, body)
            .await;
        match answer {
            Ok(answer) => {
                if output == Output::Json {
                    print_json(&answer)?;
                } else {
                    let names: Vec<&str> = answer
                        .replication_result
                        .successful_nodes
                        .iter()
                        .map(NodeId::as_str)
                        .collect();
                    print_lines([format!("{}: synced on {}", answer.key, names.join(", "))]);
                }
                return Ok(exit::OK);
            }
            // only a node that certainly did nothing may be skipped: any other may have written
            Err(e) if e.did_nothing() => last.outdone_by(e),
            Err(e) => return Ok(explain_write(&e)),
        }
    }
    Ok(explain_write(&last))
}

/// The first endpoint that gives an answer; a daemon's own error is an answer too, unless it only
/// says that it serves nobody now.
async fn first<T: serde::de::DeserializeOwned>(
    client: &Client,
    endpoints: &[String],
    path: &str,
) -> Result<T, ClientError> {
    let mut last = ClientError::no_endpoint();
    for endpoint in endpoints {
        match client.get(endpoint, path).await {
            Err(e) if e.is_unreachable() || e.did_nothing() => last.outdone_by(e),
            other => return other,
        }
    }
    Err(last)
}

/// A string as its text, anything else as compact JSON.
pub(super) fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::member::MemberStatus;
    use serde_json::json;

    use super::*;
    use crate::{
        client::fake::{FakeNode, Reply, nobody},
        procedure::clean::tests::{id, survey},
    };

    fn write() -> Verb {
        Verb::Put {
            key: "k".into(),
            value: json!(1),
            context: None,
            condition: Some(Condition::Absent),
            consistency: Consistency::Quorum,
        }
    }

    fn read() -> Verb {
        Verb::Get {
            key: "k".into(),
            consistency: Consistency::Quorum,
        }
    }

    /// How a verb ends with the one answer that its endpoint gives.
    async fn ends(verb: Verb, reply: Reply) -> Exit {
        let node = FakeNode::start(vec![reply]).await;
        let client = Client::new().expect("client");
        let all = [node.endpoint.clone(), nobody()];
        let exit = run(&client, &all, verb, Output::Table).await;
        node.asked().await;
        exit.expect("explained")
    }

    #[tokio::test]
    async fn refused_and_unanswered_are_said_only_where_nothing_was_stored() {
        let conflict = |outcome| {
            let details = json!({"outcome": outcome});
            Reply::refusal("409 Conflict", "CONFLICT", &details)
        };
        let failed = json!({"exists": true, "outcome": "none"});
        let failed = Reply::refusal("412 Precondition Failed", "PRECONDITION_FAILED", &failed);
        let cases = [
            (Reply::Dies, exit::FAILED),
            (conflict("stored"), exit::FAILED),
            (conflict("none"), exit::REFUSED),
            (failed, exit::REFUSED),
            (Reply::new("502 Bad Gateway", "<html>"), exit::FAILED),
        ];
        for (reply, want) in cases {
            let del = Verb::Del {
                key: "k".into(),
                context: None,
                consistency: Consistency::Quorum,
            };
            for verb in [write(), del] {
                assert_eq!(
                    ends(verb.clone(), reply.clone()).await,
                    want,
                    "{verb:?} {reply:?}"
                );
            }
        }
        assert_eq!(ends(read(), Reply::Dies).await, exit::UNREACHABLE);
        let client = Client::new().expect("client");
        let exit = run(&client, &[nobody()], write(), Output::Table).await;
        assert_eq!(exit.expect("explained"), exit::UNREACHABLE);
    }

    #[tokio::test]
    async fn who_serves_nobody_now_is_passed_over() {
        let refusal = || Reply::refusal("503 Service Unavailable", "NOT_SERVING", &json!({}));
        let key = json!({"error": "no", "code": "KEY_NOT_FOUND"}).to_string();
        for verb in [read(), write()] {
            let first = FakeNode::start(vec![refusal()]).await;
            let second = FakeNode::start(vec![Reply::new("404 Not Found", &key)]).await;
            let all = [first.endpoint.clone(), second.endpoint.clone()];
            let client = Client::new().expect("client");
            let exit = run(&client, &all, verb, Output::Table).await;
            assert_eq!(exit.expect("explained"), exit::FAILED);
            first.asked().await;
            assert_eq!(second.asked().await.len(), 1, "it was asked");
        }
        // where nobody else is, that is what is said
        assert_eq!(ends(write(), refusal()).await, exit::FAILED);
    }

    #[test]
    fn the_quorum_report_counts_what_a_stop_would_cost() {
        let s = survey(&["a", "b", "c"], &[5, 5, 5]);
        let mut view = s.views[0].clone().expect("a view");
        let healthy = quorum_report(&view).expect("a report");
        assert!(healthy.short.is_empty());
        assert!(healthy.would_lose.iter().all(|w| w.partitions == 0));

        let dead = view.members.cluster_members.get_mut(&id("c")).expect("c");
        dead.status = MemberStatus::Dead;
        let report = quorum_report(&view).expect("a report");
        assert_eq!(report.partitions.all_replicas, 0);
        assert_eq!(report.short[0].missing, [id("c")]);
        assert!(report.would_lose.iter().all(|w| w.partitions == 4));
    }
}
