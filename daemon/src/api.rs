//! REST and the live feed: one file a resource, no decisions.
//!
//! Every answer passes [`framing`], which gives it its id and epoch, turns [`ApiError`]s into
//! the one error format and counts it. [`server`] owns connections and their limits.

mod admin;
mod admission;
mod body;
mod data;
mod error;
mod events;
mod feed;
mod framing;
mod keys;
mod membership;
mod observations;
mod openapi;
mod query;
mod ring;
mod rounds;
pub mod server;
mod status;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, Uri},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use ringmaster_shared::error::ErrorCode;

pub use admission::{Admission, Bounds, Pressure};
pub use body::BodyLimits;
pub use error::ApiError;
pub use keys::Keyrings;
pub use observations::Observations;

use crate::{
    node::{Node, SharedNode},
    replication::{peers::handshake::introduce, server::PEER_PATH},
};

/// What handlers return.
type Answer<T> = Result<T, ApiError>;

/// All paths of one node.
pub fn router(node: &SharedNode) -> Router {
    let routes = Router::new()
        .merge(operating())
        .merge(membership_and_ring())
        .merge(data_keys())
        .route("/ws", get(feed::connect))
        .route(PEER_PATH, any(peer));
    let frame = framing::Frame {
        metrics: node.metrics.clone(),
        epoch: {
            let node = node.clone();
            Arc::new(move || node.epoch())
        },
    };
    framing::wrap(routes.with_state(node.clone()), frame)
}

fn operating() -> Router<SharedNode> {
    Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/cluster", get(status::cluster))
        .route("/api/v1/openapi.json", get(openapi::document))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/repair", post(admin::repair))
        .route("/api/v1/admin/drain", post(admin::drain))
        .route("/api/v1/admin/resume", post(admin::resume))
        .route("/api/v1/admin/restart", post(admin::restart))
        .route("/api/v1/admin/standby", post(admin::standby))
        .route("/api/v1/admin/start", post(admin::start))
        .route("/api/v1/admin/adopt", post(admin::adopt))
        .route("/api/v1/admin/refill", post(admin::refill))
        .route("/api/v1/admin/clear-gossip", post(admin::clear_gossip))
}

fn membership_and_ring() -> Router<SharedNode> {
    Router::new()
        .route("/gossip/members", get(membership::members))
        .route("/gossip/status", get(membership::gossip_status))
        .route("/gossip/rumors", get(membership::rumors))
        .route("/gossip/join", post(membership::join))
        .route("/gossip/leave", post(membership::leave))
        .route("/api/v1/observations", get(observations::observations))
        .route("/api/v1/gossip/keys", get(keys::list).post(keys::change))
        .route("/api/v1/ring", get(ring::ring))
        .route("/api/v1/ring/locate", get(ring::locate))
        .route("/api/v1/ring/plan", post(ring::plan))
        .route("/api/v1/ring/apply", post(ring::apply))
}

fn data_keys() -> Router<SharedNode> {
    Router::new()
        .route("/api/v1/data", get(data::list))
        .route(
            "/api/v1/data/",
            get(data::empty_key)
                .put(data::empty_key)
                .delete(data::empty_key),
        )
        .route(
            "/api/v1/data/{key}",
            get(data::read).put(data::write).delete(data::delete),
        )
        .route("/api/v1/data/{key}/replicas", get(data::replicas))
        .route("/api/v1/batch/get", post(data::batch::get))
        .route("/api/v1/batch/put", post(data::batch::put))
}

/// Other nodes connect here; they are answered once the store is open.
async fn peer(State(node): State<SharedNode>, request: Request) -> Response {
    if let Some(server) = node.peer_server.get() {
        return server.clone().upgrade(request).await;
    }
    let mut answer = not_serving(&node).into_response();
    let cluster = node.identity.cluster_id();
    introduce(answer.headers_mut(), &node.facts.id, cluster.as_ref());
    answer
}

/// Why this node does not do it now.
fn not_serving(node: &Node) -> ApiError {
    let state = node.lifecycle.state();
    let sentence = state.sentence(&node.facts.id);
    let details = serde_json::json!({
        "node_id": node.facts.id, "lifecycle": state.lifecycle,
    });
    ApiError::new(
        ErrorCode::NotServing,
        format!("{sentence}; ask another node or try again"),
    )
    .details(details)
    .retry_after(1)
}

async fn no_such_path(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    let hint = if path.starts_with("/api/v1/data/") {
        "; a '/' inside a key is written %2F"
    } else {
        "; /api/v1/openapi.json lists all paths"
    };
    ApiError::new(
        ErrorCode::NotFound,
        format!("there is nothing at {method} {path}{hint}"),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(
        ErrorCode::MethodNotAllowed,
        format!("{path} does not take {method}; the Allow header names what it takes"),
    )
}
