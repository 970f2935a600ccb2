//! Several keys in one call: `get` with several keys, `get --batch` and `put --batch`.
//!
//! Each key succeeds or fails by itself; the program ends with 0 only when all did. More keys
//! than a request may have are sent as several requests, one after the other; when one of them
//! fails, what the others brought is shown all the same.

use std::io::Read;

use anyhow::{Context, bail};
use ringmaster_shared::api::data::{
    BATCH_MAX, BatchGetRequest, BatchPut, BatchPutRequest, BatchResponse, BatchResult, Consistency,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    INPUT_BYTES_MAX, Output, explain, print_json, print_lines,
    table::{Align, Table},
    verbs::data::{plain, query},
};
use crate::{
    client::{Client, ClientError, Left, PATIENT_TIMEOUT},
    exit::{self, Exit},
};

/// Stands where a key has no HTTP status, because no node answered for it.
const NO_ANSWER: u16 = 0;

/// What is asked of each request of a batch.
struct Course<'a> {
    path: String,
    /// Reads: what was not answered may be asked again of anybody.
    harmless: bool,
    client: Client,
    endpoints: &'a [String],
}

/// What came of all requests: a result for every key, and why the requests ended early if they did.
#[derive(Debug)]
struct Gathered {
    answer: BatchResponse,
    cut: Option<ClientError>,
}

/// Reads all keys; the values, or why not, in their order.
pub async fn get(
    client: &Client,
    endpoints: &[String],
    keys: Vec<String>,
    consistency: Consistency,
    output: Output,
) -> anyhow::Result<Exit> {
    let course = Course {
        path: format!("/api/v1/batch/get{}", query(consistency)),
        harmless: true,
        client: client.within(PATIENT_TIMEOUT),
        endpoints,
    };
    let body = |keys: &[String]| BatchGetRequest {
        keys: keys.to_vec(),
    };
    match course.send(&keys, Clone::clone, body).await {
        Ok(gathered) => show(&gathered, output, |result| {
            plain(result.answer.get("value").unwrap_or(&Value::Null))
        }),
        Err(error) => Ok(explain(&error)),
    }
}

/// Writes all entries; who has them, or why not, in their order.
pub async fn put(
    client: &Client,
    endpoints: &[String],
    entries: Vec<BatchPut>,
    consistency: Consistency,
    output: Output,
) -> anyhow::Result<Exit> {
    let course = Course {
        path: format!("/api/v1/batch/put{}", query(consistency)),
        harmless: false,
        client: client.within(PATIENT_TIMEOUT),
        endpoints,
    };
    let key = |entry: &BatchPut| entry.key.clone();
    let body = |entries: &[BatchPut]| BatchPutRequest {
        entries: entries.to_vec(),
    };
    match course.send(&entries, key, body).await {
        Ok(gathered) => show(&gathered, output, |result| {
            let synced = result.answer["replication_result"]["successful_nodes"].as_array();
            let names = synced.into_iter().flatten().filter_map(Value::as_str);
            format!("synced on {}", names.collect::<Vec<_>>().join(", "))
        }),
        Err(error) => Ok(explain(&error)),
    }
}

impl Course<'_> {
    /// Sends the requests one after the other. When one fails for good, what was gathered is kept,
    /// and the rest is marked with what is known of it; an error only where nothing was done at all.
    async fn send<T, B: Serialize>(
        &self,
        all: &[T],
        key: impl Fn(&T) -> String,
        body: impl Fn(&[T]) -> B,
    ) -> Result<Gathered, ClientError> {
        let mut answer = BatchResponse {
            results: Vec::new(),
            succeeded: 0,
            failed: 0,
        };
        let mut at = 0;
        for chunk in all.chunks(BATCH_MAX) {
            match self.send_one(&body(chunk), &mut at).await {
                Ok(got) => {
                    answer.succeeded += got.succeeded;
                    answer.failed += got.failed;
                    answer.results.extend(got.results);
                }
                Err(error) => {
                    let nothing = self.harmless || error.leaves() == Left::Nothing;
                    if answer.results.is_empty() && nothing {
                        return Err(error);
                    }
                    let asked = answer.results.len()..answer.results.len() + chunk.len();
                    for (n, item) in all.iter().enumerate().skip(asked.start) {
                        let fate = match (asked.contains(&n), nothing) {
                            (true, false) => Fate::Unknown,
                            (true, true) => Fate::Failed,
                            (false, _) => Fate::NotSent,
                        };
                        answer.results.push(mark(key(item), fate, &error));
                        answer.failed += 1;
                    }
                    let cut = Some(error);
                    return Ok(Gathered { answer, cut });
                }
            }
        }
        Ok(Gathered { answer, cut: None })
    }

    /// The endpoint that took the last one is asked first. A read may be asked again elsewhere; a
    /// write only where the node certainly did nothing.
    async fn send_one<B: Serialize>(
        &self,
        body: &B,
        at: &mut usize,
    ) -> Result<BatchResponse, ClientError> {
        let mut last = ClientError::no_endpoint();
        for _ in self.endpoints {
            let endpoint = &self.endpoints[*at % self.endpoints.len()];
            match self.client.post(endpoint, &self.path, body).await {
                Ok(answer) => return Ok(answer),
                Err(e) if e.did_nothing() || (self.harmless && e.is_unreachable()) => {
                    last.outdone_by(e);
                    *at += 1;
                }
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }
}

/// What became of a key that no node gave a result for.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// A write that may have been stored.
    Unknown,
    Failed,
    NotSent,
}

fn mark(key: String, fate: Fate, error: &ClientError) -> BatchResult {
    let why = error.why();
    let (text, outcome) = match fate {
        Fate::Unknown => (format!("not known whether it was stored: {why}"), "unknown"),
        Fate::Failed => (format!("not done: {why}"), "none"),
        Fate::NotSent => (
            "not sent, because an earlier part failed".to_owned(),
            "none",
        ),
    };
    BatchResult {
        key,
        status: NO_ANSWER,
        answer: json!({"error": text, "details": {"outcome": outcome}}),
    }
}

fn show(
    gathered: &Gathered,
    output: Output,
    good: impl Fn(&BatchResult) -> String,
) -> anyhow::Result<Exit> {
    let answer = &gathered.answer;
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
                let status = match result.status {
                    NO_ANSWER => "-".to_owned(),
                    status => status.to_string(),
                };
                table.row([result.key.clone(), status, text]);
            }
            print_lines(table.lines());
        }
    }
    if let Some(error) = &gathered.cut {
        eprintln!("ringmaster: {error}");
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
    use crate::fixture::server::{FakeNode, Reply, nobody};

    fn entries_of(count: usize) -> Vec<BatchPut> {
        let entry = |n| BatchPut {
            key: format!("k{n}"),
            value: json!(n),
            context: None,
        };
        (0..count).map(entry).collect()
    }

    /// All of one request written.
    fn written(count: usize) -> Reply {
        let result = |n| json!({"key": format!("k{n}"), "status": 200, "answer": {}});
        let results: Vec<Value> = (0..count).map(result).collect();
        let body = json!({"results": results, "succeeded": count, "failed": 0});
        Reply::text(200, &body.to_string())
    }

    fn not_serving() -> Reply {
        Reply::refusal(503, "NOT_SERVING", &json!({}))
    }

    async fn sent(endpoints: &[String], count: usize) -> Result<Gathered, ClientError> {
        let course = Course {
            path: "/api/v1/batch/put".to_owned(),
            harmless: false,
            client: Client::new().expect("client"),
            endpoints,
        };
        let body = |entries: &[BatchPut]| BatchPutRequest {
            entries: entries.to_vec(),
        };
        let all = entries_of(count);
        course.send(&all, |e: &BatchPut| e.key.clone(), body).await
    }

    /// How many results have this status and this outcome.
    fn count(gathered: &Gathered, status: u16, outcome: Option<&str>) -> usize {
        let results = gathered.answer.results.iter();
        let is = |r: &&BatchResult| {
            r.status == status && r.answer["details"]["outcome"].as_str() == outcome
        };
        results.filter(is).count()
    }

    #[tokio::test]
    async fn what_was_written_before_a_request_failed_is_kept_and_the_rest_is_marked() {
        let node = FakeNode::prepared(vec![written(BATCH_MAX), Reply::Dies]).await;
        let all = [node.address.clone()];
        let gathered = sent(&all, 2 * BATCH_MAX + 10).await.expect("a part");
        assert_eq!(count(&gathered, 200, None), BATCH_MAX);
        assert_eq!(count(&gathered, NO_ANSWER, Some("unknown")), BATCH_MAX);
        assert_eq!(count(&gathered, NO_ANSWER, Some("none")), 10);
        let answer = &gathered.answer;
        assert_eq!((answer.succeeded, answer.failed), (256, 266));
        let keys: Vec<&str> = answer.results.iter().map(|r| r.key.as_str()).collect();
        assert_eq!((keys[256], keys[512], keys.len()), ("k256", "k512", 522));
        assert!(gathered.cut.is_some());
        let exit = show(&gathered, Output::Table, |_| String::new());
        assert_eq!(exit.expect("printed"), exit::FAILED);
        node.asked().await;

        // refused later on: nothing of that request was stored
        let too_large = Reply::refusal(413, "TOO_LARGE", &json!({}));
        let node = FakeNode::prepared(vec![written(BATCH_MAX), too_large]).await;
        let gathered = sent(std::slice::from_ref(&node.address), BATCH_MAX + 5).await;
        let gathered = gathered.expect("a part");
        assert_eq!(count(&gathered, NO_ANSWER, Some("none")), 5);
    }

    #[tokio::test]
    async fn the_first_request_alone_says_how_it_ended() {
        let client = Client::new().expect("client");
        let put_two = async |endpoint: String| {
            let (all, entries) = ([endpoint], entries_of(2));
            let exit = put(&client, &all, entries, Consistency::Quorum, Output::Table).await;
            exit.expect("explained")
        };
        // may have been written: never "nobody answered"
        let node = FakeNode::prepared(vec![Reply::Dies]).await;
        assert_eq!(put_two(node.address.clone()).await, exit::FAILED);
        // certainly not
        assert_eq!(put_two(nobody()).await, exit::UNREACHABLE);
    }

    #[tokio::test]
    async fn who_serves_nobody_now_is_passed_over_and_may_come_back() {
        let first = FakeNode::prepared(vec![not_serving(), written(10)]).await;
        let second = FakeNode::prepared(vec![written(BATCH_MAX), not_serving()]).await;
        let all = [first.address.clone(), second.address.clone()];
        let gathered = sent(&all, BATCH_MAX + 10).await.expect("all");
        assert_eq!(gathered.answer.failed, 0);
        assert_eq!(gathered.answer.succeeded, BATCH_MAX + 10);
        assert_eq!(first.asked().await.len() + second.asked().await.len(), 4);
        // nobody serves: nothing was done
        let only = FakeNode::prepared(vec![not_serving()]).await;
        let error = sent(&[only.address.clone(), nobody()], 3).await;
        assert!(error.expect_err("refused").did_nothing());
    }

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
