//! `/api/v1/gossip/keys`. What an order leads to is decided in `node::keys`.

use axum::{Json, body::Body, extract::State, http::HeaderMap};
use ringmaster_shared::{
    api::keys::{KeyOperation, KeysChanged, KeysOrder, KeysResponse, NodeKeys},
    error::ErrorCode,
};
use zeroize::Zeroizing;

use super::{
    Answer, ApiError,
    admin::{heard, running_only},
    query::{NoParameters, Query},
};
use crate::{
    gossip::secrecy::{Change, Fingerprint, Key},
    node::{SharedNode, keys},
};

type None = Query<NoParameters>;

/// Which keys encrypt the gossip, node by node, by fingerprint.
#[utoipa::path(get, path = "/api/v1/gossip/keys", tag = "operating",
    responses((status = 200, body = KeysResponse)))]
pub async fn list(State(node): State<SharedNode>, _: None) -> Json<KeysResponse> {
    let held = keys::survey(&node).await;
    let nodes: Vec<NodeKeys> = held.into_iter().map(keys::Held::info).collect();
    let mut shown = nodes.iter().filter_map(|n| n.keyring.as_ref());
    let first = shown.next();
    let same = shown.all(|k| first.is_some_and(|f| (&f.primary, &f.keys) == (&k.primary, &k.keys)));
    Json(KeysResponse {
        current_node: node.facts.id.clone(),
        agreed: first.is_some() && same,
        nodes,
    })
}

/// Installs a key on all members, makes one the primary of all, or removes one from all.
#[utoipa::path(post, path = "/api/v1/gossip/keys", tag = "operating", request_body = KeysOrder,
    responses((status = 200, body = KeysChanged)))]
pub async fn change(
    State(node): State<SharedNode>,
    _: None,
    h: HeaderMap,
    b: Body,
) -> Answer<Json<KeysChanged>> {
    let order: KeysOrder = node.gates.bodies.json(&h, b).await?;
    let operation = order.operation;
    let change = parse(order)?;
    running_only(&node, "told to change keys")?;
    let Some(secrecy) = &node.secrecy else {
        let why = format!(
            "{} has no keyring, and a key must not travel unsealed: start all nodes with gossip.keyring_file first (docs/operations.md, \"Encrypting gossip\")",
            node.facts.id
        );
        return Err(ApiError::new(ErrorCode::Conflict, why));
    };
    let key = change.about();
    let held = keys::survey(&node).await;
    if let Some(why) = keys::objection(&held, operation, key) {
        return Err(ApiError::new(ErrorCode::Conflict, why));
    }
    heard(&node, &format!("{} gossip key {key}", operation.as_str()));
    let carried = keys::carry_out(node.clone(), secrecy.clone(), held, change).await;
    let nodes = carried.map_err(|e| ApiError::new(ErrorCode::Internal, format!("{e:#}")))?;
    Ok(Json(KeysChanged {
        current_node: node.facts.id.clone(),
        operation,
        fingerprint: key.to_string(),
        complete: nodes.iter().all(|n| n.outcome.is_good()),
        nodes,
    }))
}

fn parse(order: KeysOrder) -> Answer<Change> {
    let bad = |why: String| ApiError::bad_request(why);
    let text = order.key.map(Zeroizing::new);
    let key = text.map(|text| Key::from_base64(&text));
    let key = key.transpose().map_err(|e| bad(format!("key: {e}")))?;
    let name = order.fingerprint.map(|text| text.parse::<Fingerprint>());
    let name = name
        .transpose()
        .map_err(|e| bad(format!("fingerprint: {e}")))?;
    if let (Some(key), Some(name)) = (&key, name)
        && key.fingerprint() != name
    {
        return Err(bad("key and fingerprint name different keys".into()));
    }
    let named = name.or(key.as_ref().map(Key::fingerprint));
    match (order.operation, key, named) {
        (KeyOperation::Install, Some(key), _) => Ok(Change::Install(key)),
        (KeyOperation::Install, Option::None, _) => {
            Err(bad("key: an order to install needs it".into()))
        }
        (KeyOperation::Use, _, Some(name)) => Ok(Change::Use(name)),
        (KeyOperation::Remove, _, Some(name)) => Ok(Change::Remove(name)),
        (_, _, Option::None) => Err(bad("fingerprint: say which key is meant".into())),
    }
}
