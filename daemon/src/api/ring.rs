//! `/api/v1/ring`: who owns what, and changing it by plan and apply.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use ringmaster_shared::{
    api::ring::{
        ApplyRequest, ApplyResponse, LocateResponse, PlanRequest, PlanResponse, RingResponse,
    },
    error::ErrorCode,
    event::EventCode,
    id::Epoch,
    key::Key,
    member::RingStamp,
    topology::Topology,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    Answer, ApiError, not_serving,
    query::{NoParameters, Query},
};
use crate::{
    gossip::MemberState,
    node::SharedNode,
    topology::{
        ChangeError,
        plan::{self, Picture, Plan, PlanError},
    },
    view,
};

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

/// What a plan is made from, at one moment.
struct Present {
    topology: Arc<Topology>,
    members: Vec<MemberState>,
}

impl Present {
    fn of(node: &SharedNode) -> Answer<Self> {
        let look = node.look();
        let Some(topology) = look.topology.clone() else {
            return Err(not_serving(node));
        };
        let members = look.members(&node.facts, RingStamp::default());
        Ok(Self {
            topology,
            members: members.iter().map(|m| (*m.state).clone()).collect(),
        })
    }

    fn picture(&self) -> Picture<'_> {
        Picture {
            topology: &self.topology,
            members: &self.members,
        }
    }
}

/// What a change of the ring would do. Nothing is done.
#[utoipa::path(post, path = "/api/v1/ring/plan", tag = "ring", request_body = PlanRequest,
    responses((status = 200, body = PlanResponse)))]
pub async fn plan(
    State(node): State<SharedNode>,
    _: Query<NoParameters>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<PlanResponse>> {
    let order: PlanRequest = node.gates.bodies.json(&headers, body).await?;
    let present = Present::of(&node)?;
    Ok(Json(plan::plan(&present.picture(), &order.change).response))
}

/// Begins the change of a plan; answers once it is decided.
#[utoipa::path(post, path = "/api/v1/ring/apply", tag = "ring", request_body = ApplyRequest,
    responses((status = 202, body = ApplyResponse)))]
pub async fn apply(
    State(node): State<SharedNode>,
    _: Query<NoParameters>,
    headers: HeaderMap,
    body: Body,
) -> Answer<(StatusCode, Json<ApplyResponse>)> {
    let order: ApplyRequest = node.gates.bodies.json(&headers, body).await?;
    let present = Present::of(&node)?;
    let resumed = plan::resume(&present.picture(), &order.plan_id);
    let (plan, next) = resumed.map_err(refusal)?;
    let epoch = begin(&node, &present.topology, &plan, &next).await?;
    let response = ApplyResponse {
        epoch,
        message: format!("decided as epoch {epoch}: {}", plan.response.summary),
        change: plan.response.change,
    };
    Ok((StatusCode::ACCEPTED, Json(response)))
}

/// Plans and applies in one: this node hands over all it holds and leaves for good.
pub async fn leave_now(node: &SharedNode) -> Answer<(StatusCode, Json<PlanResponse>)> {
    let present = Present::of(node)?;
    let change = ringmaster_shared::api::ring::Change::Leave {
        node: node.facts.id.clone(),
    };
    let plan = plan::plan(&present.picture(), &change);
    let obstacles = plan.response.obstacles.clone();
    match &plan.next {
        Some(next) if obstacles.is_empty() => {
            begin(node, &present.topology, &plan, next).await?;
            Ok((StatusCode::ACCEPTED, Json(plan.response)))
        }
        _ => Err(refusal(PlanError::Obstacles(obstacles))),
    }
}

/// Has the first step decided, from this node.
async fn begin(node: &SharedNode, base: &Topology, plan: &Plan, next: &Topology) -> Answer<Epoch> {
    if !base.settled_members().any(|m| m.id == node.facts.id) {
        let message = format!(
            "{} is not in the ring and cannot change it; apply the plan at a member",
            node.facts.id
        );
        return Err(ApiError::new(ErrorCode::NotServing, message));
    }
    let message = format!("ordered by an operator: {}", plan.response.summary);
    node.events.info(EventCode::OrderReceived, None, message);
    let changed = node.topology.change(base, next).await;
    changed.map_err(|error| undecided(&error, base.epoch))
}

fn undecided(error: &ChangeError, base: Epoch) -> ApiError {
    let no_quorum = |outcome: &str| {
        ApiError::new(ErrorCode::QuorumNotMet, error.to_string())
            .details(json!({ "base_epoch": base, "outcome": outcome }))
            .retry_after(1)
    };
    match error {
        ChangeError::Overtaken { now } => ApiError::new(
            ErrorCode::Conflict,
            format!("{error}; look at the ring and plan again"),
        )
        .details(json!({ "base_epoch": base, "current_epoch": now })),
        ChangeError::NotRunning => no_quorum("none"),
        ChangeError::NoMajority(_) => no_quorum("unknown"),
    }
}

fn refusal(error: PlanError) -> ApiError {
    let message = error.to_string();
    match error {
        PlanError::Damaged => ApiError::bad_request(message),
        PlanError::OtherCluster { ours, theirs } => ApiError::new(ErrorCode::WrongCluster, message)
            .details(json!({ "cluster_id": ours, "plan_cluster_id": theirs })),
        PlanError::Outdated { planned, current } => ApiError::new(ErrorCode::Conflict, message)
            .details(json!({ "base_epoch": planned, "current_epoch": current })),
        PlanError::Different => ApiError::new(ErrorCode::Conflict, message),
        PlanError::Obstacles(obstacles) => {
            ApiError::new(ErrorCode::Conflict, message).details(json!({ "obstacles": obstacles }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever gave the order is to look at the ring before the next one, unless nothing was done.
    #[test]
    fn a_change_that_was_not_decided_says_whether_it_may_still_come_about() {
        let no_majority = ChangeError::NoMajority("1 of its 2 voters answer".into());
        for (error, outcome) in [
            (ChangeError::NotRunning, json!("none")),
            (no_majority, json!("unknown")),
            (ChangeError::Overtaken { now: 8 }, json!(null)),
        ] {
            let body = undecided(&error, 7).body("request");
            assert_eq!(body.details["base_epoch"], 7, "{error}");
            assert_eq!(body.details["outcome"], outcome, "{error}");
        }
    }
}
