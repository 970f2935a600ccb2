//! Orders to this node. What they lead to is decided in `lifecycle` and `node`.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use ringmaster_shared::{
    api::admin::{
        AdoptOrder, ClearGossipResponse, DrainOrder, HOLD_SECONDS_MAX, OrderResponse, RefillOrder,
        RepairResponse, RestartOrder, StandbyOrder, StartOrder,
    },
    error::ErrorCode,
    event::EventCode,
    member::Lifecycle,
};

use super::{
    Answer, ApiError, not_serving,
    query::{NoParameters, Query},
};
use crate::{
    config::seeds,
    lifecycle::{Ticket, facts::Phase, orders::Order},
    node::{
        Node, SharedNode,
        adopt::{self, Declined},
    },
    time,
};

type None = Query<NoParameters>;
type Accepted = Answer<(StatusCode, Json<OrderResponse>)>;

/// Seeds one order to adopt may name.
const ADOPT_SEEDS_MAX: usize = 16;
const STOPPING: &str = "is stopping already";
/// Longest reason kept, characters.
const REASON_MAX: usize = 200;

/// Takes no more requests of clients; replicas are still served.
#[utoipa::path(post, path = "/api/v1/admin/drain", tag = "operating", request_body = Option<DrainOrder>,
    responses((status = 200, body = OrderResponse)))]
pub async fn drain(State(node): State<SharedNode>, _: None, h: HeaderMap, b: Body) -> Accepted {
    let order: DrainOrder = node.gates.bodies.order(&h, b).await?;
    let reason = reason(order.reason.as_deref());
    running_only(&node, "drained")?;
    heard(&node, &format!("drain ({reason})"));
    let why = format!("drained by an operator ({reason}) until resumed");
    node.control.update(|facts| facts.drained = Some(why));
    let message = "takes no more requests of clients until it is resumed; replicas are served";
    Ok(done(&node, StatusCode::OK, message))
}

/// Takes requests of clients again.
#[utoipa::path(post, path = "/api/v1/admin/resume", tag = "operating", request_body = Option<DrainOrder>,
    responses((status = 200, body = OrderResponse)))]
pub async fn resume(State(node): State<SharedNode>, _: None, h: HeaderMap, b: Body) -> Accepted {
    let order: DrainOrder = node.gates.bodies.order(&h, b).await?;
    running_only(&node, "resumed")?;
    heard(
        &node,
        &format!("resume ({})", reason(order.reason.as_deref())),
    );
    node.control.update(|facts| facts.drained = None);
    Ok(done(
        &node,
        StatusCode::OK,
        "takes requests of clients again",
    ))
}

/// Drains, flushes, and replaces the process by the binary on disk.
#[utoipa::path(post, path = "/api/v1/admin/restart", tag = "operating", request_body = Option<RestartOrder>,
    responses((status = 202, body = OrderResponse)))]
pub async fn restart(State(node): State<SharedNode>, _: None, h: HeaderMap, b: Body) -> Accepted {
    let order: RestartOrder = node.gates.bodies.order(&h, b).await?;
    let why = reason(order.reason.as_deref());
    heard(&node, &format!("restart ({why})"));
    give(&node, Order::Restart { why, adopt: None })?;
    Ok(done(
        &node,
        StatusCode::ACCEPTED,
        "stops and starts again as the binary on disk",
    ))
}

/// The same, but comes back holding; in standby, holds on.
#[utoipa::path(post, path = "/api/v1/admin/standby", tag = "operating", request_body = Option<StandbyOrder>,
    responses((status = 202, body = OrderResponse)))]
pub async fn standby(State(node): State<SharedNode>, _: None, h: HeaderMap, b: Body) -> Accepted {
    let order: StandbyOrder = node.gates.bodies.order(&h, b).await?;
    if order.hold_seconds.is_some_and(|s| s > HOLD_SECONDS_MAX) {
        return Err(ApiError::bad_request(format!(
            "hold_seconds: at most {HOLD_SECONDS_MAX}, because a held node serves nobody"
        )));
    }
    let why = reason(order.reason.as_deref());
    let ticket = Ticket::new(time::unix_ms(), order.hold_seconds, Some(&why));
    let seconds = ticket.remaining_ms(time::unix_ms()).div_ceil(1000);
    heard(&node, &format!("standby for {seconds} s ({why})"));
    give(&node, Order::Standby(ticket))?;
    let message = format!("holds for {seconds} s, or until it is told to start");
    Ok(done(&node, StatusCode::ACCEPTED, &message))
}

/// Ends standby.
#[utoipa::path(post, path = "/api/v1/admin/start", tag = "operating", request_body = Option<StartOrder>,
    responses((status = 202, body = OrderResponse)))]
pub async fn start(State(node): State<SharedNode>, _: None, h: HeaderMap, b: Body) -> Accepted {
    let order: StartOrder = node.gates.bodies.order(&h, b).await?;
    for seed in order.seeds.iter().flatten() {
        seeds::check_address(seed)
            .map_err(|why| ApiError::bad_request(format!("seeds: {seed:?}: {why}")))?;
    }
    standby_only(&node, "told to start")?;
    let how = match &order.seeds {
        Some(seeds) if seeds.is_empty() => "without seeds".to_owned(),
        Some(seeds) => format!("through {}", seeds.join(", ")),
        None => "through its own seeds".to_owned(),
    };
    heard(&node, &format!("start {how}"));
    give(&node, Order::Start { seeds: order.seeds })?;
    Ok(done(&node, StatusCode::ACCEPTED, &format!("starts {how}")))
}

/// Gives up this node's cluster, pushes all it holds into that of the seeds, and joins it.
#[utoipa::path(post, path = "/api/v1/admin/adopt", tag = "operating", request_body = AdoptOrder,
    responses((status = 202, body = OrderResponse)))]
pub async fn adopt(State(node): State<SharedNode>, _: None, h: HeaderMap, b: Body) -> Accepted {
    let order: AdoptOrder = node.gates.bodies.json(&h, b).await?;
    for seed in &order.seeds {
        seeds::check_address(seed)
            .map_err(|why| ApiError::bad_request(format!("seeds: {seed:?}: {why}")))?;
    }
    let config = &node.config;
    let others = seeds::without_self(&order.seeds, &config.advertise, config.bind, config.port);
    if others.is_empty() || others.len() > ADOPT_SEEDS_MAX {
        return Err(ApiError::bad_request(format!(
            "seeds: name 1 to {ADOPT_SEEDS_MAX} nodes of the cluster to join, and not this one"
        )));
    }
    running_only(&node, "made to adopt another cluster")?;
    let why = format!(
        "to adopt the cluster of {} ({})",
        others.join(", "),
        reason(order.reason.as_deref())
    );
    let looked = tokio::select! {
        looked = adopt::may_be_ordered(&node, &others) => looked,
        // it would be refused, and hold up the end
        () = stops(&node) => return Err(conflict(&node, STOPPING)),
    };
    looked.map_err(|declined| match declined {
        Declined::No(why) => ApiError::new(ErrorCode::Conflict, why),
        Declined::NotNow(why) => {
            let sentence = format!("no seed lets it be seen which cluster it is of: {why}");
            ApiError::new(ErrorCode::Conflict, sentence).retry_after(5)
        }
    })?;
    // from here to the end nothing is awaited: a client that goes away leaves nothing half done
    heard(&node, &why);
    let message = format!("restarts {why}; it serves nobody until it is a member there");
    let adopt = Some(others);
    give(&node, Order::Restart { why, adopt })?;
    Ok(done(&node, StatusCode::ACCEPTED, &message))
}

/// Until this node is on its way out.
async fn stops(node: &Node) {
    let mut states = node.lifecycle.watch();
    while node.control.facts().phase != Phase::Stopping {
        // its sender is a part of the node and outlives this
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Forgets remembered members and nothing else.
#[utoipa::path(post, path = "/api/v1/admin/clear-gossip", tag = "operating",
    responses((status = 200, body = ClearGossipResponse)))]
pub async fn clear_gossip(
    State(node): State<SharedNode>,
    _: None,
) -> Answer<Json<ClearGossipResponse>> {
    standby_only(&node, "made to forget its members")?;
    heard(&node, "clear gossip");
    let identity = node.identity.clone();
    let (forgotten, left) = tokio::task::spawn_blocking(move || {
        let forgotten = identity.clear_remembered();
        (forgotten, identity.remembered().len())
    })
    .await
    .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    if left > 0 {
        let why = "the identity file cannot be written, so nothing was forgotten; the log says why";
        return Err(ApiError::new(ErrorCode::StorageUnavailable, why));
    }
    Ok(Json(ClearGossipResponse {
        node_id: node.facts.id.clone(),
        forgotten,
    }))
}

/// Ends a wait that nobody else can end: two replicas lost their data, and each needs the other's;
/// or so many voters lost their folders that the ring can no longer be decided without their votes.
#[utoipa::path(post, path = "/api/v1/admin/refill", tag = "operating", request_body = RefillOrder,
    responses((status = 202, body = OrderResponse)))]
pub async fn refill(State(node): State<SharedNode>, _: None, h: HeaderMap, b: Body) -> Accepted {
    let order: RefillOrder = node.gates.bodies.json(&h, b).await?;
    if !order.accept_loss {
        return Err(ApiError::bad_request(
            "accept_loss: must be true; without accepting a loss nothing is left to be ordered",
        ));
    }
    running_only(&node, "refilled")?;
    let coordinator = node.coordinator.get().ok_or_else(|| not_serving(&node))?;
    let why = reason(order.reason.as_deref());
    let Some(stuck) = coordinator.accept_loss() else {
        if node.topology.votes_forgotten().is_none() {
            let why = if node.identity.needs_refill() {
                "is getting its data back from the others and waits for nobody's decision"
            } else {
                "has its data"
            };
            return Err(conflict(&node, why));
        }
        heard(
            &node,
            &format!("go by this ring and vote, whatever its life before did ({why})"),
        );
        let written = node.topology.vote_again().await;
        written.map_err(|e| ApiError::new(ErrorCode::StorageUnavailable, format!("{e:#}")))?;
        let what =
            "goes by the ring it knows and votes on changes of it, as if it had never voted before";
        return Ok(done(&node, StatusCode::ACCEPTED, what));
    };
    let what = format!(
        "gets its data back without that of {}, which lost theirs in {} partitions as well",
        stuck
            .with
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
        stuck.partitions
    );
    heard(&node, &format!("refill, accepting loss ({why})"));
    Ok(done(&node, StatusCode::ACCEPTED, &what))
}

/// Compares all partitions with the other replicas now.
#[utoipa::path(post, path = "/api/v1/repair", tag = "operating",
    responses((status = 202, body = RepairResponse)))]
pub async fn repair(
    State(node): State<SharedNode>,
    _: None,
) -> Answer<(StatusCode, Json<RepairResponse>)> {
    let coordinator = node.coordinator.get().ok_or_else(|| not_serving(&node))?;
    let started = coordinator.repair_now();
    let message = if started {
        "a round of repair has begun"
    } else {
        "a round of repair is under way already"
    };
    let body = RepairResponse {
        started,
        message: message.to_owned(),
    };
    Ok((StatusCode::ACCEPTED, Json(body)))
}

fn reason(given: Option<&str>) -> String {
    let text: String = given
        .unwrap_or("no reason given")
        .chars()
        .filter(|c| !c.is_control())
        .take(REASON_MAX)
        .collect();
    text
}

pub(super) fn heard(node: &Node, what: &str) {
    let message = format!("ordered by an operator: {what}");
    node.events
        .info(EventCode::OrderReceived, Some(&node.facts.id), message);
}

fn give(node: &Node, order: Order) -> Answer<()> {
    if node.control.facts().phase == Phase::Stopping {
        return Err(conflict(node, STOPPING));
    }
    node.orders
        .try_send(order)
        .map_err(|_| conflict(node, "has other orders to carry out first"))
}

pub(super) fn running_only(node: &Node, verb: &str) -> Answer<()> {
    match node.control.facts().phase {
        Phase::Running => Ok(()),
        _ => Err(conflict(
            node,
            &format!("is not running and cannot be {verb}"),
        )),
    }
}

fn standby_only(node: &Node, verb: &str) -> Answer<()> {
    if node.lifecycle.get() == Lifecycle::Standby {
        return Ok(());
    }
    Err(conflict(
        node,
        &format!("is not in standby and cannot be {verb}"),
    ))
}

fn conflict(node: &Node, what: &str) -> ApiError {
    let lifecycle = node.lifecycle.get().as_str();
    ApiError::new(ErrorCode::Conflict, format!("{} {what}", node.facts.id))
        .details(serde_json::json!({"lifecycle": lifecycle}))
}

fn done(node: &Node, status: StatusCode, what: &str) -> (StatusCode, Json<OrderResponse>) {
    let body = OrderResponse {
        node_id: node.facts.id.clone(),
        accepted: true,
        lifecycle: node.lifecycle.get(),
        message: format!("{} {what}", node.facts.id),
    };
    (status, Json(body))
}
