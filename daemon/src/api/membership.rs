//! `/gossip/*`.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use ringmaster_shared::{
    api::{
        membership::{
            GossipConfigInfo, GossipCounts, GossipQueues, GossipStatus, GossipStatusResponse,
            GossipTraffic, JoinRequest, JoinResponse, MembersResponse, ProbeFigures,
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
    config::{in_words, seeds},
    gossip::{GossipConfig, GossipHandle},
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
        gossip_status: GossipStatus {
            current_node: node.facts.id.clone(),
            cluster_size: 1,
            alive_nodes: 1,
            suspected_nodes: 0,
            dead_nodes: 0,
            stopped_nodes: 0,
            active_rumors: 0,
            health_score: 0,
            queue_depth: 0,
            rejected_messages: 0,
            rejected: BTreeMap::new(),
            health_reasons: Vec::new(),
            queues: GossipQueues::default(),
            suspicions: Vec::new(),
            seeds: Vec::new(),
            udp_blocked: Vec::new(),
            traffic: GossipTraffic::default(),
            probes: ProbeFigures::default(),
            counts: GossipCounts::default(),
        },
        config: config_info(&node.config.gossip),
    }
}

fn config_info(config: &GossipConfig) -> GossipConfigInfo {
    GossipConfigInfo {
        gossip_interval: in_words(config.gossip_interval),
        probe_interval: in_words(config.probe_interval),
        probe_timeout: in_words(config.probe_timeout),
        // with so few members the logarithm in the formula is 1
        suspicion_timeout: in_words(config.probe_interval * config.suspicion_mult),
        push_pull_interval: in_words(config.push_pull_interval),
        indirect_probes: config.indirect_probes as u32,
        gossip_fanout: config.gossip_fanout as u32,
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
