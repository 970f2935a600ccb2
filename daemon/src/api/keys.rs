//! `/api/v1/gossip/keys`. What an order leads to is decided in `node::keys`.
//!
//! However many ask, all members are asked by one round at a time, which serves all who waited for
//! it to begin (`rounds.rs`); nobody gets an answer from before it asked.

use std::{sync::Arc, time::Duration};

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
    rounds::Rounds,
};
use crate::{
    gossip::secrecy::{Change, Fingerprint, Key},
    lifecycle::facts::Phase,
    node::{
        Node, SharedNode,
        keys::{self, Held},
    },
};

/// Which member holds which keys, as last asked.
pub struct Keyrings(Rounds<Vec<Held>>);

impl Default for Keyrings {
    fn default() -> Self {
        Self(Rounds::new(Duration::ZERO))
    }
}

impl Keyrings {
    async fn of(&self, node: &Node) -> Arc<Vec<Held>> {
        self.0.recent(keys::survey(node)).await
    }
}

type None = Query<NoParameters>;

/// Which keys encrypt the gossip, node by node, by fingerprint.
#[utoipa::path(get, path = "/api/v1/gossip/keys", tag = "operating",
    responses((status = 200, body = KeysResponse)))]
pub async fn list(State(node): State<SharedNode>, _: None) -> Json<KeysResponse> {
    let held = node.gates.keyrings.of(&node).await;
    let nodes: Vec<NodeKeys> = held.iter().cloned().map(Held::info).collect();
    Json(KeysResponse {
        current_node: node.facts.id.clone(),
        // who does not run knows of nobody
        agreed: node.control.facts().phase == Phase::Running && agreed(&nodes),
        nodes,
    })
}

/// Everybody shows the same keys. Who is away may come back with others, and who has no keyring
/// speaks plainly: as long as there is one of these, nothing is agreed.
fn agreed(nodes: &[NodeKeys]) -> bool {
    let mut rings = nodes.iter().map(|n| {
        let ring = n.keyring.as_ref()?;
        Some((&ring.primary, &ring.keys))
    });
    let first = rings.next().flatten();
    first.is_some() && rings.all(|ring| ring == first)
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
    let held = node.gates.keyrings.of(&node).await;
    if let Some(why) = keys::objection(&held, operation, key) {
        return Err(ApiError::new(ErrorCode::Conflict, why));
    }
    heard(&node, &format!("{} gossip key {key}", operation.as_str()));
    let carried = keys::carry_out(node.clone(), secrecy.clone(), held.to_vec(), change).await;
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

#[cfg(test)]
mod tests {
    use ringmaster_shared::api::keys::KeyringInfo;

    use futures_util::FutureExt;

    use super::*;
    use crate::{
        config::{Config, layers::Layers},
        health::tests::id,
        identity::IdentityStore,
        lifecycle::orders,
    };

    /// Else each of many who ask would have all members asked once more.
    #[tokio::test]
    async fn who_asks_while_the_members_are_asked_waits_for_that_answer() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().display().to_string();
        let settings = [("node_id", "a"), ("data_dir", data.as_str())];
        let settings = settings.map(|(key, text)| (key.to_owned(), vec![text.to_owned()]));
        let config = Config::resolve(&Layers::of_flags(settings.into())).expect("valid");
        let identity = IdentityStore::open(folder.path(), &id("a")).expect("opens");
        let (orders, _) = orders::channel();
        let node = Node::new(config, identity, Option::None, orders, Phase::Running);
        let node = node.expect("starts");
        let ask = || list(State(node.clone()), Query(NoParameters {}));
        let names = |answer: Json<KeysResponse>| answer.0.nodes.len();
        let mut asking = Box::pin(node.gates.keyrings.0.recent(std::future::pending()));
        assert!((&mut asking).now_or_never().is_none());
        assert!(ask().now_or_never().is_none());
        drop(asking);
        assert_eq!(names(ask().await), 1);
    }

    #[test]
    fn nothing_is_agreed_while_one_is_away_or_speaks_plainly() {
        let ring = |primary: &str, keys: &[&str]| {
            Some(KeyringInfo {
                primary: primary.into(),
                keys: keys.iter().map(|key| (*key).to_owned()).collect(),
                verify_incoming: true,
                verify_outgoing: true,
            })
        };
        let ours = || ring("aa", &["aa", "bb"]);
        let cases = [
            (vec![ours()], true),
            (vec![ours(), ours(), ours()], true),
            (vec![ours(), ring("bb", &["aa", "bb"])], false),
            (vec![ours(), ring("aa", &["aa"])], false),
            (vec![ours(), Option::None], false),
            (vec![Option::None, ours()], false),
            (vec![Option::None, Option::None], false),
            (vec![], false),
        ];
        for (rings, want) in cases {
            let nodes: Vec<NodeKeys> = rings
                .into_iter()
                .enumerate()
                .map(|(n, keyring)| NodeKeys {
                    node_id: id(&format!("n{n}")),
                    keyring,
                    message: Option::None,
                })
                .collect();
            assert_eq!(agreed(&nodes), want, "{nodes:?}");
        }
    }
}
