//! `/gossip/*`.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use ringmaster_shared::{
    api::{
        membership::{
            GossipStatus, GossipStatusResponse, JoinRequest, JoinResponse, MembersResponse,
            RumorsResponse,
        },
        ring::PlanResponse,
    },
    error::ErrorCode,
};

use super::{
    Answer, ApiError, not_serving,
    query::{NoParameters, Query},
};
use crate::{
    config::seeds,
    gossip::GossipHandle,
    node::{Node, SharedNode},
};

type None = Query<NoParameters>;

/// All members as this node sees them.
#[utoipa::path(get, path = "/gossip/members", tag = "membership",
    responses((status = 200, body = MembersResponse)))]
pub async fn members(State(node): State<SharedNode>, _: None) -> Json<MembersResponse> {
    Json(node.views().members)
}

/// The state of the gossip engine.
#[utoipa::path(get, path = "/gossip/status", tag = "membership",
    responses((status = 200, body = GossipStatusResponse)))]
pub async fn gossip_status(State(node): State<SharedNode>, _: None) -> Json<GossipStatusResponse> {
    Json(match node.gossip.get() {
        Some(gossip) => GossipStatusResponse {
            gossip_status: gossip.status(),
            config: gossip.config_info(),
        },
        None => silent(&node),
    })
}

/// The engine is not running: standby, or no cluster yet.
fn silent(node: &Node) -> GossipStatusResponse {
    GossipStatusResponse {
        gossip_status: GossipStatus::silent(node.facts.id.clone()),
        config: node.config.gossip.in_words(1),
    }
}

/// What is being spread.
#[utoipa::path(get, path = "/gossip/rumors", tag = "membership",
    responses((status = 200, body = RumorsResponse)))]
pub async fn rumors(State(node): State<SharedNode>, _: None) -> Json<RumorsResponse> {
    Json(RumorsResponse {
        current_node: node.facts.id.clone(),
        rumors: node
            .gossip
            .get()
            .map(GossipHandle::rumors)
            .unwrap_or_default(),
    })
}

/// Contacts an address and exchanges member lists with who answers there.
#[utoipa::path(post, path = "/gossip/join", tag = "membership", request_body = JoinRequest,
    responses((status = 200, body = JoinResponse)))]
pub async fn join(
    State(node): State<SharedNode>,
    _: None,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<JoinResponse>> {
    let order: JoinRequest = node.gates.bodies.json(&headers, body).await?;
    let address = seeds::check_address(&order.address)
        .map_err(|why| ApiError::bad_request(format!("address: {why}")))?;
    let gossip = node.gossip.get().ok_or_else(|| not_serving(&node))?;
    let found = gossip.contact(&address).await.map_err(|e| {
        ApiError::new(
            ErrorCode::Conflict,
            format!("cannot exchange members with {address}: {e:#}"),
        )
    })?;
    if let Some(wanted) = order.node_id.filter(|wanted| *wanted != found) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("{address} is {found}, not {wanted}"),
        ));
    }
    Ok(Json(JoinResponse {
        contacted: address,
        node_id: found,
        total_members: gossip.members().len(),
    }))
}

/// This node hands over all it holds, then leaves the ring for good and ends.
#[utoipa::path(post, path = "/gossip/leave", tag = "membership",
    responses((status = 202, body = PlanResponse)))]
pub async fn leave(
    State(node): State<SharedNode>,
    _: None,
) -> Answer<(StatusCode, Json<PlanResponse>)> {
    super::ring::leave_now(&node).await
}
