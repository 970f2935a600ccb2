//! `/gossip/*` and who sees whom.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use ringmaster_shared::{
    api::{
        membership::{
            GossipConfigInfo, GossipStatus, GossipStatusResponse, JoinRequest, JoinResponse,
            MembersResponse, ObservationsResponse, Observer, RumorsResponse,
        },
        ring::PlanResponse,
    },
    error::ErrorCode,
    id::NodeId,
    member::MemberStatus,
};

use super::{
    Answer, ApiError, not_serving,
    query::{NoParameters, Query},
};
use crate::{
    config::{in_words, seeds},
    gossip::{GossipConfig, GossipHandle, MemberState},
    node::{Node, SharedNode},
    replication::{
        frames::{Request as PeerRequest, Response as PeerResponse},
        peers::Class,
    },
};

/// How long a member has to tell what it sees.
const OBSERVE_TIME: Duration = Duration::from_millis(500);
/// Members asked at the same time.
const OBSERVE_AT_ONCE: usize = 32;
/// Most members asked for one answer.
const OBSERVERS_MAX: usize = 256;

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

/// Who sees whom as what: asks every member that answers.
#[utoipa::path(get, path = "/api/v1/observations", tag = "membership",
    responses((status = 200, body = ObservationsResponse)))]
pub async fn observations(State(node): State<SharedNode>, _: None) -> Json<ObservationsResponse> {
    let views = node.views();
    let own = Observer {
        node_id: node.facts.id.clone(),
        at: Timestamp::now(),
        sees: views
            .members
            .cluster_members
            .iter()
            .map(|(id, m)| (id.clone(), m.status))
            .collect(),
    };
    let others: Vec<NodeId> = views
        .members
        .cluster_members
        .values()
        .filter(|m| m.status.is_reachable() && m.node_id != node.facts.id)
        .map(|m| m.node_id.clone())
        .take(OBSERVERS_MAX)
        .collect();
    let mut observers: Vec<Observer> = stream::iter(others)
        .map(|id| ask(&node, id))
        .buffer_unordered(OBSERVE_AT_ONCE)
        .filter_map(async |observer| observer)
        .collect()
        .await;
    observers.push(own);
    observers.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    Json(ObservationsResponse {
        current_node: node.facts.id.clone(),
        observers,
    })
}

async fn ask(node: &Node, id: NodeId) -> Option<Observer> {
    let peers = node.peers.get()?;
    let request = PeerRequest::Members;
    let answer = peers
        .call(&id, Class::Control, 0, request, OBSERVE_TIME)
        .await;
    match answer {
        Ok(PeerResponse::Members { members }) => Some(Observer {
            node_id: id,
            at: Timestamp::now(),
            sees: statuses(members),
        }),
        // who does not answer has no row
        _ => None,
    }
}

fn statuses(members: Vec<MemberState>) -> BTreeMap<NodeId, MemberStatus> {
    members.into_iter().map(|m| (m.id, m.status)).collect()
}
