//! The verbs that ask one question: status, members, ring, quorum, check, get, put, del.
//!
//! Here is which verb is which question, and what the exit code is when no answer came; each
//! question, and how its answer is printed, has a file of its own.

mod answer;
mod cluster;
pub(super) mod data;
mod quorum;
mod ring;

use reqwest::Method;
use ringmaster_shared::api::data::{Consistency, DeleteRequest, PutRequest};
use serde_json::Value;

use super::{Output, explain};
use crate::{
    client::{Client, data_path},
    exit::Exit,
};
use answer::Failure;
use data::{Condition, query};

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

/// Runs it; the exit code says how it went.
pub async fn run(
    client: &Client,
    endpoints: &[String],
    verb: Verb,
    output: Output,
) -> anyhow::Result<Exit> {
    let result = match verb {
        Verb::Status => cluster::status(client, endpoints, output).await,
        Verb::Members => cluster::members(client, endpoints, output).await,
        Verb::Ring { key: None } => ring::ring(client, endpoints, output).await,
        Verb::Ring { key: Some(key) } => ring::locate(client, endpoints, &key, output).await,
        Verb::Quorum => quorum::quorum(client, endpoints, output).await,
        Verb::Check => cluster::check(client, endpoints, output).await,
        Verb::Get { key, consistency } => {
            let path = format!("{}{}", data_path(&key), query(consistency));
            data::get(client, endpoints, &path, output).await
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
            data::written(client, endpoints, write, &body, output).await
        }
        Verb::Del {
            key,
            context,
            consistency,
        } => {
            let path = format!("{}{}", data_path(&key), query(consistency));
            let body = DeleteRequest { context };
            let write = (Method::DELETE, path, None);
            data::written(client, endpoints, write, &body, output).await
        }
    };
    match result {
        Ok(code) => Ok(code),
        Err(Failure::Client(e)) => Ok(explain(&e)),
        Err(Failure::Other(e)) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        exit,
        fixture::server::{FakeNode, Reply, nobody},
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
        let node = FakeNode::prepared(vec![reply]).await;
        let client = Client::new().expect("client");
        let all = [node.address.clone(), nobody()];
        let exit = run(&client, &all, verb, Output::Table).await;
        node.asked().await;
        exit.expect("explained")
    }

    #[tokio::test]
    async fn refused_and_unanswered_are_said_only_where_nothing_was_stored() {
        let conflict = |outcome| {
            let details = json!({"outcome": outcome});
            Reply::refusal(409, "CONFLICT", &details)
        };
        let failed = json!({"exists": true, "outcome": "none"});
        let failed = Reply::refusal(412, "PRECONDITION_FAILED", &failed);
        let cases = [
            (Reply::Dies, exit::FAILED),
            (conflict("stored"), exit::FAILED),
            (conflict("none"), exit::REFUSED),
            (failed, exit::REFUSED),
            (Reply::text(502, "<html>"), exit::FAILED),
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
        let refusal = || Reply::refusal(503, "NOT_SERVING", &json!({}));
        let key = json!({"error": "no", "code": "KEY_NOT_FOUND"}).to_string();
        for verb in [read(), write()] {
            let first = FakeNode::prepared(vec![refusal()]).await;
            let second = FakeNode::prepared(vec![Reply::text(404, &key)]).await;
            let all = [first.address.clone(), second.address.clone()];
            let client = Client::new().expect("client");
            let exit = run(&client, &all, verb, Output::Table).await;
            assert_eq!(exit.expect("explained"), exit::FAILED);
            first.asked().await;
            assert_eq!(second.asked().await.len(), 1, "it was asked");
        }
        // where nobody else is, that is what is said
        assert_eq!(ends(write(), refusal()).await, exit::FAILED);
    }
}
