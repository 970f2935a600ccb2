//! `/api/v1/ring`: who owns what.

use axum::{Json, extract::State};
use ringmaster_shared::{
    api::ring::{LocateResponse, RingResponse},
    error::ErrorCode,
    key::Key,
    member::RingStamp,
};
use serde::Deserialize;

use super::{
    Answer, ApiError, not_serving,
    query::{NoParameters, Query},
};
use crate::{node::SharedNode, view};

/// The whole table; empty, with epoch 0, before this node knows one.
#[utoipa::path(get, path = "/api/v1/ring", tag = "ring",
    responses((status = 200, body = RingResponse)))]
pub async fn ring(State(node): State<SharedNode>, _: Query<NoParameters>) -> Json<RingResponse> {
    Json((*node.views().ring).clone())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    key: String,
}

/// The replicas of one key, in order, and whether they answer.
#[utoipa::path(get, path = "/api/v1/ring/locate", tag = "ring",
    params(("key" = String, Query, description = "1 to 1024 bytes")),
    responses((status = 200, body = LocateResponse)))]
pub async fn locate(
    State(node): State<SharedNode>,
    Query(which): Query<Which>,
) -> Answer<Json<LocateResponse>> {
    let key = Key::new(&which.key).map_err(|e| ApiError::new(ErrorCode::BadKey, e.to_string()))?;
    let look = node.look();
    let Some(topology) = look.topology.clone() else {
        return Err(not_serving(&node));
    };
    let members = look.members(&node.facts, RingStamp::default());
    Ok(Json(view::locate(&topology, &members, &key)))
}
