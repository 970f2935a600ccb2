//! `/api/v1/data`: keys and values.

pub mod batch;
mod conditions;
mod desk;
mod key;
mod value;

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
    error::ErrorCode,
    key::Key,
    version::Value,
};
use serde::Deserialize;
use serde_json::json;

use self::desk::{Desk, Order};
use super::{
    Answer, ApiError,
    body::{self, Media},
    query::{NoParameters, Query},
};
use crate::{
    node::SharedNode,
    replication::coordinator::{Condition, ReadOutcome},
};

/// Room for the context and white space around a value, bytes.
const ENVELOPE_BYTES: usize = 64 * 1024;
const LIST_DEFAULT: usize = 100;
const LIST_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    #[serde(default)]
    consistency: Consistency,
}

/// Reads one key.
#[utoipa::path(get, path = "/api/v1/data/{key}", tag = "data",
    params(("key" = String, Path, description = "Percent-encoded; a '/' is %2F"),
           ("consistency" = Option<Consistency>, Query, description = "quorum by default"),
           ("If-None-Match" = Option<String>, Header, description = "An ETag: 304 when the key is still so")),
    responses((status = 200, body = ReadResponse), (status = 304, description = "As If-None-Match says")))]
pub async fn read(
    State(node): State<SharedNode>,
    uri: Uri,
    Query(level): Query<Level>,
    headers: HeaderMap,
) -> Answer<Response> {
    let key = key::from_path(uri.path())?;
    let desk = Desk::open(&node)?;
    let outcome = desk.read(&key, level.consistency).await?;
    let head = outcome.record.head().and_then(|s| s.value.as_ref());
    let Some(head) = head else {
        return Err(absent(&desk, &key, &outcome));
    };
    let token = desk.token(&key, &outcome.record.clock);
    if conditions::is_known(&headers, &token)? {
        return Ok(conditions::not_modified(&token));
    }
    let answer = match head {
        Value::Raw(bytes) if wants_raw(&headers) => {
            let kind = HeaderValue::from_static("application/octet-stream");
            let answer = ([(header::CONTENT_TYPE, kind)], bytes.clone()).into_response();
            conditions::mark(answer, &token, true)
        }
        value => {
            let answer = value::read_answer(&key, token.clone(), &outcome, value)?;
            conditions::mark(Json(answer).into_response(), &token, false)
        }
    };
    node.gates.answers.answer(answer).await
}

fn absent(desk: &Desk, key: &Key, outcome: &ReadOutcome) -> ApiError {
    let mut details = json!({"key": key, "read_result": value::read_result(outcome)});
    if !outcome.record.clock.is_empty() {
        details["context"] = desk.token(key, &outcome.record.clock).into();
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

/// Writes one key; answered when a quorum has it on disk.
#[utoipa::path(put, path = "/api/v1/data/{key}", tag = "data", request_body = PutRequest,
    params(("key" = String, Path, description = "Percent-encoded; a '/' is %2F"),
           ("consistency" = Option<Consistency>, Query, description = "quorum by default"),
           ("If-Match" = Option<String>, Header, description = "An ETag: writes only when the key is still exactly so; * when it has a value"),
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
    let media = body::media_type(&headers)?;
    let most = node.config.limits.value_bytes;
    let envelope = if media == Media::Json {
        ENVELOPE_BYTES
    } else {
        0
    };
    let bodies = &node.gates.bodies;
    let body = bodies
        .if_room(&node.gates.admission, &headers, body)
        .await?;
    let held = bodies.read(&headers, body, most + envelope).await?;
    // only now: a connection with a body that nobody read cannot be used again
    let desk = Desk::open(&node)?;
    let put = match media {
        Media::Json => value::parse_put(&held.bytes, most)?,
        Media::Raw => value::Put {
            value: Value::Raw(held.bytes.clone()),
            context: None,
        },
    };
    let in_body = put.context.as_deref();
    let change = Some(put.value.clone());
    let order = order(&desk, key, change, &headers, in_body, level.consistency)?;
    let answer = carry_out(&desk, order).await?;
    held.answer(answer).await
}

/// Deletes one key; deleting what is absent is fine.
#[utoipa::path(delete, path = "/api/v1/data/{key}", tag = "data", request_body = Option<DeleteRequest>,
    params(("key" = String, Path, description = "Percent-encoded; a '/' is %2F"),
           ("consistency" = Option<Consistency>, Query, description = "quorum by default"),
           ("If-Match" = Option<String>, Header, description = "An ETag: deletes only when the key is still exactly so; * when it has a value")),
    responses((status = 200, body = WriteResponse)))]
pub async fn delete(
    State(node): State<SharedNode>,
    uri: Uri,
    Query(level): Query<Level>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let key = key::from_path(uri.path())?;
    let delete: DeleteRequest = node.gates.bodies.order(&headers, body).await?;
    let desk = Desk::open(&node)?;
    let in_body = delete.context.as_deref();
    let order = order(&desk, key, None, &headers, in_body, level.consistency)?;
    if order.condition == Condition::Absent {
        return Err(ApiError::bad_request(
            "If-None-Match makes no sense for a delete: there would be nothing to delete",
        ));
    }
    carry_out(&desk, order).await
}

/// A write with what its headers say.
fn order(
    desk: &Desk,
    key: Key,
    value: Option<Value>,
    headers: &HeaderMap,
    in_body: Option<&str>,
    consistency: Consistency,
) -> Answer<Order> {
    let (condition, context) = conditions::of_write(desk, &key, headers, in_body)?;
    Ok(Order {
        key,
        value,
        context,
        condition,
        consistency,
    })
}

async fn carry_out(desk: &Desk<'_>, order: Order) -> Answer<Response> {
    let (key, value) = (order.key.clone(), order.value.clone());
    let outcome = desk.write(order).await?;
    let token = desk.token(&key, &outcome.record.clock);
    let answer = value::write_answer(&key, token.clone(), &outcome, value.as_ref())?;
    Ok(conditions::mark(
        Json(answer).into_response(),
        &token,
        false,
    ))
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
    let desk = Desk::open(&node)?;
    let _place = desk.place()?;
    let timeout = node.config.limits.request_timeout;
    let found = desk
        .coordinator
        .list(&page.prefix, after.as_deref(), limit, timeout)
        .await?;
    Ok(Json(ListResponse {
        keys: found.keys.iter().map(ToString::to_string).collect(),
        cursor: found.after.map(|after| URL_SAFE_NO_PAD.encode(after)),
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
    let desk = Desk::open(&node)?;
    let _place = desk.place()?;
    let timeout = node.config.limits.request_timeout;
    let (partition, replicas) = desk.coordinator.replicas(&key, timeout).await;
    Ok(Json(ReplicasResponse {
        key: key.to_string(),
        partition,
        replicas,
    }))
}

pub async fn empty_key() -> ApiError {
    key::empty()
}
