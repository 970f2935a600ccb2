//! Several keys in one call: `get` with several keys, `get --batch` and `put --batch`.
//!
//! Each key succeeds or fails by itself; the program ends with 0 only when all did. More keys
//! than a request may have are sent as several requests, one after the other.

use std::io::Read;

use anyhow::{Context, bail};
use ringmaster_shared::api::data::{
    BATCH_MAX, BatchGetRequest, BatchPut, BatchPutRequest, BatchResponse, BatchResult, Consistency,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    INPUT_BYTES_MAX, Output, explain, print_json, print_lines,
    table::{Align, Table},
    verbs::{plain, query},
};
use crate::{
    client::{Client, ClientError, PATIENT_TIMEOUT},
    exit::{self, Exit},
};

/// Reads all keys; the values, or why not, in their order.
pub async fn get(
    client: &Client,
    endpoints: &[String],
    keys: Vec<String>,
    consistency: Consistency,
    output: Output,
) -> anyhow::Result<Exit> {
    let chunks = keys.chunks(BATCH_MAX).map(|keys| BatchGetRequest {
        keys: keys.to_vec(),
    });
    let path = format!("/api/v1/batch/get{}", query(consistency));
    let answer = match send(client, endpoints, &path, chunks, true).await {
        Ok(answer) => answer,
        Err(error) => return Ok(explain(&error)),
    };
    show(&answer, output, |result| {
        plain(result.answer.get("value").unwrap_or(&Value::Null))
    })
}

/// Writes all entries; who has them, or why not, in their order.
pub async fn put(
    client: &Client,
    endpoints: &[String],
    entries: Vec<BatchPut>,
    consistency: Consistency,
    output: Output,
) -> anyhow::Result<Exit> {
    let chunks = entries.chunks(BATCH_MAX).map(|entries| BatchPutRequest {
        entries: entries.to_vec(),
    });
    let path = format!("/api/v1/batch/put{}", query(consistency));
    let answer = match send(client, endpoints, &path, chunks, false).await {
        Ok(answer) => answer,
        Err(error) => return Ok(explain(&error)),
    };
    show(&answer, output, |result| {
        let synced = result.answer["replication_result"]["successful_nodes"].as_array();
        let names = synced.into_iter().flatten().filter_map(Value::as_str);
        format!("synced on {}", names.collect::<Vec<_>>().join(", "))
    })
}

/// Sends the requests one after the other to the first endpoint that takes them. A read may be
/// asked again elsewhere; a write only where the node was certainly not reached.
async fn send<B: Serialize>(
    client: &Client,
    endpoints: &[String],
    path: &str,
    chunks: impl Iterator<Item = B>,
    harmless: bool,
) -> Result<BatchResponse, ClientError> {
    let client = client.within(PATIENT_TIMEOUT);
    let mut all = BatchResponse {
        results: Vec::new(),
        succeeded: 0,
        failed: 0,
    };
    let mut at = 0;
    for chunk in chunks {
        let mut last = ClientError::no_endpoint();
        let answer: BatchResponse = loop {
            let Some(endpoint) = endpoints.get(at) else {
                return Err(last);
            };
            match client.post(endpoint, path, &chunk).await {
                Ok(answer) => break answer,
                Err(e) if e.is_refused_connection() || (harmless && e.is_unreachable()) => {
                    last = e;
                    at += 1;
                }
                Err(e) => return Err(e),
            }
        };
        all.succeeded += answer.succeeded;
        all.failed += answer.failed;
        all.results.extend(answer.results);
    }
    Ok(all)
}

fn show(
    answer: &BatchResponse,
    output: Output,
    good: impl Fn(&BatchResult) -> String,
) -> anyhow::Result<Exit> {
    match output {
        Output::Json => print_json(answer)?,
        Output::Table => {
            let mut table = Table::new(&[
                ("KEY", Align::Left),
                ("STATUS", Align::Right),
                ("", Align::Left),
            ]);
            for result in &answer.results {
                let text = match result.status {
                    200..=299 => good(result),
                    _ => plain(result.answer.get("error").unwrap_or(&Value::Null)),
                };
                table.row([result.key.clone(), result.status.to_string(), text]);
            }
            print_lines(table.lines());
        }
    }
    if answer.failed > 0 {
        let all = answer.succeeded + answer.failed;
        eprintln!("ringmaster: {} of {all} keys failed", answer.failed);
        return Ok(exit::FAILED);
    }
    Ok(exit::OK)
}

/// Keys from a file, one a line; `-` is standard input.
pub fn keys_from(file: &str) -> anyhow::Result<Vec<String>> {
    let text = text_of(file)?;
    let lines = text.lines().filter(|l| !l.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// Entries from a file: an object of keys and values, or a list of objects with `key`, `value`
/// and perhaps `context`; `-` is standard input.
pub fn entries_from(file: &str) -> anyhow::Result<Vec<BatchPut>> {
    entries(&text_of(file)?).with_context(|| format!("{file} is no batch of writes"))
}

fn entries(text: &str) -> anyhow::Result<Vec<BatchPut>> {
    match serde_json::from_str(text)? {
        Value::Object(map) => {
            let entry = |(key, value)| BatchPut {
                key,
                value,
                context: None,
            };
            Ok(map.into_iter().map(entry).collect())
        }
        list @ Value::Array(_) => Ok(serde_json::from_value(list)?),
        _ => {
            bail!("expected an object of keys and values, or a list of objects with key and value")
        }
    }
}

fn text_of(file: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == "-" {
        std::io::stdin()
            .take(INPUT_BYTES_MAX)
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
    } else {
        std::fs::File::open(file)
            .and_then(|f| f.take(INPUT_BYTES_MAX).read_to_string(&mut text))
            .with_context(|| format!("cannot read {file}"))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_read_in_both_spellings() {
        let object = entries(r#"{"a": 1, "b": {"c": [2]}}"#).expect("valid");
        let list = entries(r#"[{"key": "a", "value": 1}, {"key": "b", "value": {"c": [2]}}]"#);
        assert_eq!(object, list.expect("valid"));
        let context = entries(r#"[{"key": "a", "value": 1, "context": "x"}]"#).expect("valid");
        assert_eq!(context[0].context.as_deref(), Some("x"));
        for bad in [
            "",
            "7",
            r#"[{"key": "a"}]"#,
            r#"[{"key": "a", "value": 1, "ttl": 2}]"#,
        ] {
            assert!(entries(bad).is_err(), "{bad:?}");
        }
    }
}
