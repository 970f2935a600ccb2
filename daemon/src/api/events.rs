//! `GET /api/v1/events`.

use axum::{Json, extract::State};
use ringmaster_shared::api::admin::EventsResponse;
use serde::Deserialize;

use super::{Answer, ApiError, query::Query};
use crate::node::SharedNode;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    #[serde(default)]
    since: u64,
    limit: Option<usize>,
}

/// Events of this node, oldest first.
#[utoipa::path(get, path = "/api/v1/events", tag = "operating",
    params(("since" = Option<u64>, Query, description = "Only events after this number"),
           ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default")),
    responses((status = 200, body = EventsResponse)))]
pub async fn events(
    State(node): State<SharedNode>,
    Query(page): Query<Page>,
) -> Answer<Json<EventsResponse>> {
    let limit = page.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "query string: limit must be 1 to {LIMIT_MAX}"
        )));
    }
    let page = node.events.since(page.since, limit);
    Ok(Json(EventsResponse {
        current_node: node.facts.id.clone(),
        events: page.events,
        next: page.next,
        truncated: page.truncated,
    }))
}
