//! `/api/v1/data`: keys and values.

mod key;
mod value;

use std::time::Instant;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ringmaster_shared::{
    api::data::{
        Consistency, DeleteRequest, ListResponse, PutRequest, ReadResponse, ReplicasResponse,
        WriteResponse,
    },
    context,
    error::ErrorCode,
    key::Key,
    member::Lifecycle,
    version::{Value, VersionVector},
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::SemaphorePermit;

use super::{
    Answer, ApiError,
    body::{self, Media},
    not_serving,
    query::{NoParameters, Query},
};
use crate::{
    metrics::rates::Kind,
    node::{Node, SharedNode},
    replication::coordinator::{Coordinator, ReadOutcome, WriteRequest},
    time,
};

/// Room for the context and white space around a value, bytes.
const ENVELOPE_BYTES: usize = 64 * 1024;
/// Carries the context beside raw bytes, both ways.
const HEADER_CONTEXT: &str = "x-ring-context";
const LIST_DEFAULT: usize = 100;
const LIST_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    #[serde(default)]
    consistency: Consistency,
}

/// A request for data that was let in; its place is free again when this is dropped.
struct Admitted<'a> {
    node: &'a Node,
    coordinator: &'a Coordinator,
    kind: Kind,
    since: Instant,
    _place: SemaphorePermit<'a>,
}

impl<'a> Admitted<'a> {
    fn new(node: &'a Node, kind: Kind) -> Answer<Self> {
        let place = node
            .gates
            .requests
            .try_acquire()
            .map_err(|_| body::busy("too many requests for data are under way"))?;
        let open = matches!(
            node.lifecycle.get(),
            Lifecycle::Serving | Lifecycle::Recovering
        );
        let coordinator = node.coordinator.get().filter(|_| open);
        Ok(Self {
            node,
            coordinator: coordinator.ok_or_else(|| not_serving(node))?,
            kind,
            since: Instant::now(),
            _place: place,
        })
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let now_s = time::unix_ms() / 1000;
        self.node
            .metrics
            .rates
            .record(now_s, self.kind, self.since.elapsed());
    }
}

/// Reads one key.
#[utoipa::path(get, path = "/api/v1/data/{key}", tag = "data",
    params(("key" = String, Path, description = "Percent-encoded; a '/' is %2F"),
           ("consistency" = Option<Consistency>, Query, description = "quorum by default")),
    responses((status = 200, body = ReadResponse)))]
pub async fn read(
    State(node): State<SharedNode>,
    uri: Uri,
    Query(level): Query<Level>,
    headers: HeaderMap,
) -> Answer<Response> {
    let key = key::from_path(uri.path())?;
    let admitted = Admitted::new(&node, Kind::Get)?;
    let timeout = node.config.limits.request_timeout;
    let outcome = admitted
        .coordinator
        .read(key.clone(), level.consistency, timeout)
        .await?;
    let head = outcome.record.head().and_then(|s| s.value.as_ref());
    let answer = match head {
        None => return Err(absent(&key, &outcome)),
        Some(Value::Raw(bytes)) if wants_raw(&headers) => raw(&key, &outcome, bytes.clone()),
        Some(value) => value::read_answer(&key, &outcome, value)?.into_response(),
    };
    node.gates.answers.answer(answer).await
}

fn absent(key: &Key, outcome: &ReadOutcome) -> ApiError {
    let mut details = json!({"key": key, "read_result": value::read_result(outcome)});
    if !outcome.record.clock.is_empty() {
        details["context"] = context::encode(key, &outcome.record.clock).into();
    }
    // a delete won over a concurrent write, which must stay visible
    if !outcome.record.is_deleted() {
        details["siblings"] = json!(value::siblings(&outcome.record));
    }
    ApiError::new(ErrorCode::KeyNotFound, "key not found").details(details)
}

fn wants_raw(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter();
    accepts
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| {
            let kind = v.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("application/octet-stream")
        })
}

fn raw(key: &Key, outcome: &ReadOutcome, bytes: bytes::Bytes) -> Response {
    let kind = HeaderValue::from_static("application/octet-stream");
    let mut response = ([(header::CONTENT_TYPE, kind)], bytes).into_response();
    let token = context::encode(key, &outcome.record.clock);
    if let Ok(token) = HeaderValue::from_str(&token) {
        response.headers_mut().insert(HEADER_CONTEXT, token);
    }
    response
}

/// Writes one key; answered when a quorum has it on disk.
#[utoipa::path(put, path = "/api/v1/data/{key}", tag = "data", request_body = PutRequest,
    params(("key" = String, Path, description = "Percent-encoded; a '/' is %2F"),
           ("consistency" = Option<Consistency>, Query, description = "quorum by default"),
           ("If-None-Match" = Option<String>, Header, description = "* writes only when the key is absent")),
    responses((status = 200, body = WriteResponse)))]
pub async fn write(
    State(node): State<SharedNode>,
    uri: Uri,
    Query(level): Query<Level>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let key = key::from_path(uri.path())?;
    let only_if_absent = only_if_absent(&headers)?;
    let media = body::media_type(&headers)?;
    let most = node.config.limits.value_bytes;
    let envelope = if media == Media::Json {
        ENVELOPE_BYTES
    } else {
        0
    };
    let held = node
        .gates
        .bodies
        .read(&headers, body, most + envelope)
        .await?;
    let put = match media {
        Media::Json => value::parse_put(&held.bytes, most)?,
        Media::Raw => value::Put {
            value: Value::Raw(held.bytes.clone()),
            context: None,
        },
    };
    let request = WriteRequest {
        context: seen(&key, put.context.as_deref(), &headers)?,
        value: Some(put.value.clone()),
        only_if_absent,
        consistency: level.consistency,
        timeout: node.config.limits.request_timeout,
        key: key.clone(),
    };
    let admitted = Admitted::new(&node, Kind::Put)?;
    let outcome = admitted.coordinator.write(request).await?;
    let answer = value::write_answer(&key, &outcome, Some(&put.value))?;
    held.answer(answer.into_response()).await
}

/// Deletes one key; deleting what is absent is fine.
#[utoipa::path(delete, path = "/api/v1/data/{key}", tag = "data", request_body = Option<DeleteRequest>,
    params(("key" = String, Path, description = "Percent-encoded; a '/' is %2F"),
           ("consistency" = Option<Consistency>, Query, description = "quorum by default")),
    responses((status = 200, body = WriteResponse)))]
pub async fn delete(
    State(node): State<SharedNode>,
    uri: Uri,
    Query(level): Query<Level>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let key = key::from_path(uri.path())?;
    let order: DeleteRequest = node.gates.bodies.order(&headers, body).await?;
    let request = WriteRequest {
        context: seen(&key, order.context.as_deref(), &headers)?,
        value: None,
        only_if_absent: false,
        consistency: level.consistency,
        timeout: node.config.limits.request_timeout,
        key: key.clone(),
    };
    let admitted = Admitted::new(&node, Kind::Put)?;
    let outcome = admitted.coordinator.write(request).await?;
    Ok(value::write_answer(&key, &outcome, None)?.into_response())
}

fn only_if_absent(headers: &HeaderMap) -> Answer<bool> {
    match headers
        .get(header::IF_NONE_MATCH)
        .map(HeaderValue::as_bytes)
    {
        None => Ok(false),
        Some(b"*") => Ok(true),
        Some(_) => Err(ApiError::bad_request(
            "If-None-Match takes only *: write when the key is absent",
        )),
    }
}

/// The context of the body, else of the header.
fn seen(key: &Key, in_body: Option<&str>, headers: &HeaderMap) -> Answer<Option<VersionVector>> {
    let in_header = headers
        .get(HEADER_CONTEXT)
        .map(|v| v.to_str().unwrap_or("?"));
    in_body
        .or(in_header)
        .map(|token| context::decode(key, token))
        .transpose()
        .map_err(|e| ApiError::new(ErrorCode::BadContext, e.to_string()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    #[serde(default)]
    prefix: String,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Keys in byte order.
#[utoipa::path(get, path = "/api/v1/data", tag = "data",
    params(("prefix" = Option<String>, Query, description = "Only keys that begin so"),
           ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
           ("cursor" = Option<String>, Query, description = "From the page before")),
    responses((status = 200, body = ListResponse)))]
pub async fn list(
    State(node): State<SharedNode>,
    Query(page): Query<Page>,
) -> Answer<Json<ListResponse>> {
    let limit = page.limit.unwrap_or(LIST_DEFAULT);
    if !(1..=LIST_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "query string: limit must be 1 to {LIST_MAX}"
        )));
    }
    let after = page.cursor.as_deref().map(cursor_key).transpose()?;
    let admitted = Admitted::new(&node, Kind::Get)?;
    let timeout = node.config.limits.request_timeout;
    let keys = admitted
        .coordinator
        .list(&page.prefix, after.as_deref(), limit, timeout)
        .await?;
    let cursor = (keys.len() >= limit)
        .then(|| keys.last().map(|k| URL_SAFE_NO_PAD.encode(k.as_str())))
        .flatten();
    Ok(Json(ListResponse {
        keys: keys.iter().map(ToString::to_string).collect(),
        cursor,
    }))
}

fn cursor_key(cursor: &str) -> Answer<String> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    bytes
        .and_then(|b| String::from_utf8(b).ok())
        .ok_or_else(|| ApiError::bad_request("query string: cursor is not one a page returned"))
}

/// What each replica holds of a key: versions, not values.
#[utoipa::path(get, path = "/api/v1/data/{key}/replicas", tag = "data",
    params(("key" = String, Path, description = "Percent-encoded; a '/' is %2F")),
    responses((status = 200, body = ReplicasResponse)))]
pub async fn replicas(
    State(node): State<SharedNode>,
    uri: Uri,
    _: Query<NoParameters>,
) -> Answer<Json<ReplicasResponse>> {
    let path = uri.path().strip_suffix("/replicas").unwrap_or_default();
    let key = key::from_path(path)?;
    let admitted = Admitted::new(&node, Kind::Get)?;
    let timeout = node.config.limits.request_timeout;
    let (partition, replicas) = admitted.coordinator.replicas(&key, timeout).await;
    Ok(Json(ReplicasResponse {
        key: key.to_string(),
        partition,
        replicas,
    }))
}

pub async fn empty_key() -> ApiError {
    key::empty()
}
