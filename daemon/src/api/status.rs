//! Health, status, metrics and the whole picture.

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use ringmaster_shared::{
    api::{health::StatusResponse, ring::ClusterResponse},
    member::Lifecycle,
};

use super::{
    Answer, not_serving,
    query::{NoParameters, Query},
};
use crate::{
    gossip::GossipHandle, node::SharedNode, replication::coordinator::Coordinator, storage::Store,
};

type None = Query<NoParameters>;

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health",
    responses((status = 200, description = "The process answers", body = String)))]
pub async fn healthz(_: None) -> &'static str {
    "ok\n"
}

/// Serving, and not draining.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, description = "Requests may be sent here", body = String)))]
pub async fn readyz(State(node): State<SharedNode>, _: None) -> Answer<&'static str> {
    if node.lifecycle.get() == Lifecycle::Serving {
        Ok("ready\n")
    } else {
        Err(not_serving(&node))
    }
}

/// The text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "OpenMetrics text", body = String)))]
pub async fn metrics(State(node): State<SharedNode>, _: None) -> Response {
    let views = node.views();
    let store = node.store.get().map(Store::stats).unwrap_or_default();
    let gossip = node.gossip.get().map(GossipHandle::status);
    node.metrics.pressure.set(&node.gates.admission.pressure());
    let repair = node.coordinator.get().map(Coordinator::repair_look);
    let repair = repair.unwrap_or_default();
    let text = node
        .metrics
        .render(&views.status, &store, &repair, gossip.as_ref());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The node, its storage, its replication and the cluster as it sees it.
#[utoipa::path(get, path = "/api/v1/status", tag = "health",
    responses((status = 200, body = StatusResponse)))]
pub async fn status(State(node): State<SharedNode>, _: None) -> Json<StatusResponse> {
    Json(node.views().status)
}

/// Status, members and ring in one answer.
#[utoipa::path(get, path = "/api/v1/cluster", tag = "health",
    responses((status = 200, body = ClusterResponse)))]
pub async fn cluster(State(node): State<SharedNode>, _: None) -> Json<ClusterResponse> {
    let views = node.views();
    Json(ClusterResponse {
        status: views.status,
        members: views.members,
        ring: (*views.ring).clone(),
    })
}
