//! One key read or written: get, put, del.
//!
//! A write that may have been stored is not tried elsewhere; `batch/many.rs` has the verbs of many keys.

use reqwest::Method;
use ringmaster_shared::{
    api::data::{Consistency, ReadResponse, WriteResponse},
    id::NodeId,
};
use serde::Serialize;
use serde_json::Value;

use super::answer::{Outcome, first};
use crate::{
    batch::{Output, explain_write, print_json, print_lines},
    client::{Client, ClientError, PATIENT_TIMEOUT},
    exit,
};

/// When a write holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key is exactly as the read that returned this context saw it.
    Match(String),
    /// The key has no value.
    Absent,
}

impl Condition {
    pub(super) fn header(&self) -> (&'static str, String) {
        match self {
            Self::Match(context) => ("if-match", format!("\"{context}\"")),
            Self::Absent => ("if-none-match", "*".to_owned()),
        }
    }
}

pub(in crate::batch) fn query(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::One => "?consistency=one",
        Consistency::Quorum => "",
        Consistency::All => "?consistency=all",
    }
}

pub(super) async fn get(
    client: &Client,
    endpoints: &[String],
    path: &str,
    output: Output,
) -> Outcome {
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

pub(super) async fn written<B: Serialize>(
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

/// A string as its text, anything else as compact JSON.
pub(in crate::batch) fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
