//! `GET /api/v1/observations`: asks the members whom they see as what.
//!
//! However many ask at the same time, and however often, the members are asked once in
//! [`FRESH`] (see `rounds.rs`), at most [`OBSERVERS_MAX`] of them, and all within [`ROUND_TIME`]. Who does not answer
//! is told with the reason. Which answers make which picture is in `assemble.rs` (pure).

mod assemble;

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use ringmaster_shared::{api::membership::ObservationsResponse, id::NodeId};
use serde::Deserialize;
use tokio::time::timeout_at;

use super::{query::Query, rounds::Rounds};
use crate::{
    gossip::{
        MemberView,
        sight::{self, Marks, Told},
    },
    node::{Node, SharedNode},
    replication::{
        frames::{Request as PeerRequest, Response as PeerResponse},
        peers::Class,
    },
};
use assemble::{Answer, Round, Shown, choose};

/// How long a member has to tell what it sees.
const OBSERVE_TIME: Duration = Duration::from_millis(500);
/// How long all of them have together.
const ROUND_TIME: Duration = Duration::from_millis(1500);
/// Members asked at the same time.
const OBSERVE_AT_ONCE: usize = 64;
/// Most members asked for one answer.
const OBSERVERS_MAX: usize = 256;
/// So long an answer serves everybody who asks.
const FRESH: Duration = Duration::from_millis(500);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    only: Option<Only>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Only {
    Trouble,
}

/// One round at a time, and the last one's answers.
pub struct Observations(Rounds<Round>);

impl Default for Observations {
    fn default() -> Self {
        Self(Rounds::new(FRESH))
    }
}

/// Who sees whom as what: asks the members, also those that are held dead.
#[utoipa::path(get, path = "/api/v1/observations", tag = "membership",
    params(("only" = Option<String>, Query,
        description = "`trouble` leaves out the members that everybody holds alive")),
    responses((status = 200, body = ObservationsResponse)))]
pub async fn observations(
    State(node): State<SharedNode>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let shown = match wanted.only {
        Some(Only::Trouble) => Shown::Trouble,
        None => Shown::All,
    };
    let round = node.gates.observations.0.recent(ask_all(&node)).await;
    Json(round.response(shown)).into_response()
}

async fn ask_all(node: &Node) -> Round {
    let views = node.look().members(&node.facts, node.ring_stamp());
    let marks = Marks::of(&views);
    let chosen = choose(&views, &node.facts.id, OBSERVERS_MAX);
    let deadline = tokio::time::Instant::now() + ROUND_TIME;
    let mut asked = stream::iter(chosen.asked.clone())
        .map(|id| ask(node, id, &views, &marks))
        .buffer_unordered(OBSERVE_AT_ONCE);
    let mut answers = Vec::new();
    while let Ok(Some(answer)) = timeout_at(deadline, asked.next()).await {
        answers.push(answer);
    }
    drop(asked);
    Round::new(
        node.facts.id.clone(),
        views.clone(),
        chosen,
        answers,
        Timestamp::now(),
    )
}

async fn ask(node: &Node, id: NodeId, views: &[MemberView], marks: &Marks) -> Answer {
    let told = match node.peers.get() {
        Some(peers) => {
            let marks_sent = marks.clone();
            let request = PeerRequest::Observe { marks: marks_sent };
            let answer = peers
                .call(&id, Class::Control, 0, request, OBSERVE_TIME)
                .await;
            answer
                .map_err(|error| error.to_string())
                .and_then(|response| understood(views, marks, response))
        }
        None => Err("this node has not joined a cluster yet".to_owned()),
    };
    Answer {
        node_id: id,
        at: Timestamp::now(),
        told,
    }
}

fn understood(views: &[MemberView], marks: &Marks, response: PeerResponse) -> Result<Told, String> {
    match response {
        PeerResponse::Observed { sighting } => {
            sight::read(views, marks, sighting).map_err(|left_out| {
                format!("its view differs too much to be told here ({left_out} members did not fit); ask it itself")
            })
        }
        PeerResponse::Refused { reason, .. } | PeerResponse::NotReady { reason } => Err(reason),
        _ => Err("it gave an answer to another question".to_owned()),
    }
}
