//! Several keys in one request. No transactions: each key is read or written by itself, a few at
//! a time, and has the result that the single request would have had.

use std::collections::HashMap;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use ringmaster_shared::{
    api::{
        HEADER_REQUEST_ID,
        data::{BATCH_MAX, BatchGetRequest, BatchPutRequest, BatchResponse, Consistency},
    },
    error::ErrorCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::Semaphore;

use super::{
    ENVELOPE_BYTES, Level, absent,
    desk::{Desk, Order},
    key, value,
};
use crate::{
    api::{Answer, ApiError, body::Held, query::Query},
    large::LARGE_BYTES,
    node::{Node, SharedNode},
    replication::coordinator::Condition,
};

/// Keys of one batch under way at once.
const AT_ONCE: usize = 16;
/// Bytes of a batch's body, unless a single value may be larger, and of its answer.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// `BatchResult`, with values as text.
#[derive(Debug, Serialize)]
struct KeyResult {
    key: String,
    status: u16,
    answer: Box<RawValue>,
}

/// `BatchResponse`, with values as text.
#[derive(Serialize)]
struct BatchAnswer {
    results: Vec<KeyResult>,
    succeeded: usize,
    failed: usize,
}

/// `BatchPutRequest`, with values as text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody<'a> {
    #[serde(borrow)]
    entries: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(default)]
    context: Option<String>,
}

/// One batch under way.
struct Batch<'a> {
    desk: Desk<'a>,
    node: &'a Node,
    level: Consistency,
    request_id: &'a str,
}

/// Reads several keys; each by itself.
#[utoipa::path(post, path = "/api/v1/batch/get", tag = "data", request_body = BatchGetRequest,
    params(("consistency" = Option<Consistency>, Query, description = "quorum by default")),
    responses((status = 200, body = BatchResponse)))]
pub async fn get(
    State(node): State<SharedNode>,
    Query(level): Query<Level>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let held = body_of(&node, &headers, body).await?;
    let batch = Batch::open(&node, &level, &headers)?;
    let wanted: BatchGetRequest = parsed(&headers, &held)?;
    bounded(wanted.keys.len())?;
    let reads = wanted.keys.into_iter().map(|text| batch.read(text));
    let mut reads = stream::iter(reads).buffered(AT_ONCE);
    let (mut results, mut bytes) = (Vec::new(), 0);
    while let Some(mut result) = reads.next().await {
        bytes += result.answer.get().len();
        if bytes > BATCH_BYTES_MAX {
            bytes -= result.answer.get().len();
            result = batch.result(result.key, Err(answer_full()));
        }
        results.push(result);
    }
    node.gates.answers.answer(whole(results)).await
}

/// Writes several keys; each by itself, one key's entries in their order.
#[utoipa::path(post, path = "/api/v1/batch/put", tag = "data", request_body = BatchPutRequest,
    params(("consistency" = Option<Consistency>, Query, description = "quorum by default")),
    responses((status = 200, body = BatchResponse)))]
pub async fn put(
    State(node): State<SharedNode>,
    Query(level): Query<Level>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let held = body_of(&node, &headers, body).await?;
    let batch = Batch::open(&node, &level, &headers)?;
    let wanted: PutBody = parsed(&headers, &held)?;
    bounded(wanted.entries.len())?;
    let room = Semaphore::new(AT_ONCE);
    let chains = by_key(wanted.entries.iter().map(|entry| entry.key.as_str()));
    let chains = chains.into_iter().map(|chain| {
        let (batch, entries, room) = (&batch, &wanted.entries, &room);
        async move {
            let mut results = Vec::with_capacity(chain.len());
            for n in chain {
                results.push((n, batch.write(&entries[n], room).await));
            }
            results
        }
    });
    let done: Vec<Vec<(usize, KeyResult)>> = stream::iter(chains)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut results: Vec<(usize, KeyResult)> = done.into_iter().flatten().collect();
    results.sort_by_key(|(n, _)| *n);
    let results = results.into_iter().map(|(_, result)| result).collect();
    node.gates.answers.answer(whole(results)).await
}

/// Indexes of entries, those of one key together and in their order.
fn by_key<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<Vec<usize>> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut chains: Vec<Vec<usize>> = Vec::new();
    for (n, key) in keys.enumerate() {
        let place = *places.entry(key).or_insert_with(|| {
            chains.push(Vec::new());
            chains.len() - 1
        });
        chains[place].push(n);
    }
    chains
}

async fn body_of(node: &Node, headers: &HeaderMap, body: Body) -> Answer<Held> {
    let single = node.config.limits.value_bytes + ENVELOPE_BYTES;
    let most = BATCH_BYTES_MAX.max(single);
    node.gates.bodies.read(headers, body, most).await
}

fn parsed<'a, T: Deserialize<'a>>(headers: &HeaderMap, held: &'a Held) -> Answer<T> {
    crate::api::body::parse(headers, &held.bytes)
}

fn bounded(keys: usize) -> Answer<()> {
    if keys <= BATCH_MAX {
        return Ok(());
    }
    let why = format!("a batch may have {BATCH_MAX} keys, this one has {keys}; send several");
    let error = ApiError::new(ErrorCode::TooLarge, why);
    Err(error.details(json!({"limit_keys": BATCH_MAX})))
}

fn answer_full() -> ApiError {
    let why = "the answer to the whole batch would be too large; read this key by itself or in a smaller batch";
    ApiError::new(ErrorCode::TooLarge, why).details(json!({"limit_bytes": BATCH_BYTES_MAX}))
}

fn whole(results: Vec<KeyResult>) -> Response {
    let succeeded = results.iter().filter(|r| r.status == 200).count();
    let failed = results.len() - succeeded;
    let answer = BatchAnswer {
        results,
        succeeded,
        failed,
    };
    Json(answer).into_response()
}

impl<'a> Batch<'a> {
    fn open(node: &'a Node, level: &Level, headers: &'a HeaderMap) -> Answer<Self> {
        let request_id = headers.get(HEADER_REQUEST_ID);
        Ok(Self {
            desk: Desk::open(node)?,
            node,
            level: level.consistency,
            request_id: request_id.and_then(|v| v.to_str().ok()).unwrap_or_default(),
        })
    }

    async fn read(&self, text: String) -> KeyResult {
        let answer = async {
            let key = key::parse(&text)?;
            let outcome = self.desk.read(&key, self.level).await?;
            let head = outcome.record.head().and_then(|s| s.value.as_ref());
            let value = head.ok_or_else(|| absent(&self.desk, &key, &outcome))?;
            let token = self.desk.token(&key, &outcome.record.clock);
            shown(&value::read_answer(&key, token, &outcome, value)?)
        };
        let answer = answer.await;
        self.result(text, answer)
    }

    async fn write(&self, entry: &Entry<'_>, room: &Semaphore) -> KeyResult {
        let answer = async {
            let key = key::parse(&entry.key)?;
            let value = value::kept(entry.value, self.node.config.limits.value_bytes)?;
            let context = entry.context.as_deref();
            let context = context
                .map(|token| self.desk.seen(&key, token))
                .transpose()?;
            // large values go alone, so that a batch never crowds itself out
            let share = if value.len() > LARGE_BYTES {
                AT_ONCE
            } else {
                1
            };
            let _room = room.acquire_many(share as u32).await;
            let order = Order {
                key: key.clone(),
                value: Some(value.clone()),
                context,
                condition: Condition::Always,
                consistency: self.level,
            };
            let outcome = self.desk.write(order).await?;
            let token = self.desk.token(&key, &outcome.record.clock);
            // the client knows what it sent
            shown(&value::write_answer(&key, token, &outcome, None)?)
        };
        let answer = answer.await;
        self.result(entry.key.clone(), answer)
    }

    fn result(&self, key: String, answer: Answer<Box<RawValue>>) -> KeyResult {
        let (status, answer) = match answer {
            Ok(answer) => (200, answer),
            Err(error) => {
                let body = error.body(self.request_id);
                let text = to_raw_value(&body).unwrap_or_else(|_| RawValue::NULL.to_owned());
                (body.code.http_status(), text)
            }
        };
        KeyResult {
            key,
            status,
            answer,
        }
    }
}

fn shown<T: Serialize>(answer: &T) -> Answer<Box<RawValue>> {
    to_raw_value(answer).map_err(|e| {
        let why = format!("the answer cannot be written: {e}");
        ApiError::new(ErrorCode::Internal, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_one_key_stay_in_order() {
        let chains = by_key(["a", "b", "a", "c", "b", "a"].into_iter());
        assert_eq!(chains, [vec![0, 2, 5], vec![1, 4], vec![3]]);
    }

    #[test]
    fn batches_are_bounded() {
        assert!(bounded(BATCH_MAX).is_ok());
        let error = bounded(BATCH_MAX + 1).expect_err("too many");
        assert_eq!(error.code(), ErrorCode::TooLarge);
    }
}
