//! Keys of the gossip on the whole cluster: who holds which, and carrying out an order on every
//! member. Orders travel over the nodes' connections, sealed, for one process of one node alone.
//!
//! Promises: a key is made primary only when every living member said that it holds it, and removed
//! only when each said that it does not seal with it. Who is away keeps what it has, and comes back
//! as long as one of its keys is still held by the others.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use ringmaster_shared::{
    api::keys::{KeyOperation, KeyOutcome, KeyringInfo, NodeKeyOutcome, NodeKeys},
    event::EventCode,
    id::NodeId,
    member::MemberStatus,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Node, SharedNode};
use crate::{
    events::Events,
    gossip::{
        GossipHandle, claim,
        secrecy::{Change, ChangeError, Fingerprint, Purpose, Secrecy},
    },
    replication::{
        frames::{KeyringState, RefusalCode, Request, Response},
        peers::{Class, Peers},
    },
    time::unix_ms,
};

/// How long one node has to answer; it syncs its keyring meanwhile.
const ANSWER_TIME: Duration = Duration::from_secs(3);
const AT_ONCE: usize = 32;
/// Bytes of a sealed order are few; more are none.
const ORDER_BYTES_MAX: usize = 1024;

/// What one node is told to do.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// Of the process it is for.
    session: [u8; 16],
    change: Change,
}

/// A member and its keyring, as far as it could be learned.
#[derive(Debug, Clone)]
pub struct Held {
    pub node: NodeId,
    pub state: Result<KeyringState, Missing>,
}

/// Why a member shows no keyring.
#[derive(Debug, Clone)]
pub enum Missing {
    /// It is down, or suspected and does not answer.
    Away(String),
    /// It is held alive and did not answer: nobody knows what it holds.
    Silent(String),
    /// It answers, and has none.
    NoKeyring(String),
}

impl Held {
    pub fn info(self) -> NodeKeys {
        let (keyring, message) = match self.state {
            Ok(state) => (Some(info(&state)), None),
            Err(Missing::Away(why) | Missing::Silent(why) | Missing::NoKeyring(why)) => {
                (None, Some(why))
            }
        };
        NodeKeys {
            node_id: self.node,
            keyring,
            message,
        }
    }
}

fn info(state: &KeyringState) -> KeyringInfo {
    let mut keys: Vec<String> = state.keys.iter().map(ToString::to_string).collect();
    keys.sort_unstable();
    KeyringInfo {
        primary: state
            .keys
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
        keys,
        verify_incoming: state.verify_incoming,
        verify_outgoing: state.verify_outgoing,
    }
}

/// This node's own.
pub fn state_of(secrecy: &Secrecy) -> KeyringState {
    let verify = secrecy.verify();
    KeyringState {
        keys: secrecy.fingerprints(),
        verify_incoming: verify.incoming,
        verify_outgoing: verify.outgoing,
        session: secrecy.session(),
    }
}

/// All members by id, each asked what it holds; not those that have left. Whom the ring has and
/// nothing was heard of in this life is away.
pub async fn survey(node: &Node) -> Vec<Held> {
    let own = Held {
        node: node.facts.id.clone(),
        state: match &node.secrecy {
            Some(secrecy) => Ok(state_of(secrecy)),
            None => Err(Missing::NoKeyring(NO_KEYRING.into())),
        },
    };
    let members = node
        .gossip
        .get()
        .map(GossipHandle::members)
        .unwrap_or_default();
    let others = members
        .iter()
        // who left for good holds keys of no interest
        .filter(|m| m.state.id != node.facts.id && m.state.status != MemberStatus::Left)
        .map(|m| (m.state.id.clone(), m.state.status));
    let others: Vec<_> = others.collect();
    let ring = node.topology.current();
    let ring = ring.iter().flat_map(|ring| &ring.members);
    let unseen = unseen(
        ring.map(|m| &m.id),
        members.iter().map(|m| &m.state.id),
        &own.node,
    );
    let mut held: Vec<Held> = stream::iter(others)
        .map(|(id, status)| ask(node, id, status))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    held.extend(unseen);
    held.push(own);
    held.sort_by(|a, b| a.node.cmp(&b.node));
    held
}

/// Members of the ring that the gossip knows nothing of.
fn unseen<'a>(
    ring: impl Iterator<Item = &'a NodeId>,
    known: impl Iterator<Item = &'a NodeId>,
    own: &'a NodeId,
) -> Vec<Held> {
    let known: BTreeSet<&NodeId> = known.chain([own]).collect();
    let missing = ring.filter(|id| !known.contains(id));
    let away = |id: &NodeId| Held {
        node: id.clone(),
        state: Err(Missing::Away(
            "has not been heard of since this node started".into(),
        )),
    };
    missing.map(away).collect()
}

const NO_KEYRING: &str = "has no keyring: start it with gossip.keyring_file";

async fn ask(node: &Node, id: NodeId, status: MemberStatus) -> Held {
    let silent = |why: String| Err(unanswered(status, why));
    let state = match node.peers.get() {
        Some(peers) if status.is_reachable() => {
            let request = Request::Keyring;
            match peers
                .call(&id, Class::Control, 0, request, ANSWER_TIME)
                .await
            {
                Ok(Response::Keyring { state: Some(state) }) => Ok(state),
                Ok(Response::Keyring { state: None }) => Err(Missing::NoKeyring(NO_KEYRING.into())),
                Ok(_) => silent("gave an answer that makes no sense".into()),
                Err(error) => silent(error.to_string()),
            }
        }
        _ => Err(Missing::Away(format!("is {}", status.as_str()))),
    };
    Held { node: id, state }
}

/// What a question that was not answered says of a member held so.
fn unanswered(status: MemberStatus, why: String) -> Missing {
    if status == MemberStatus::Alive {
        Missing::Silent(why)
    } else {
        Missing::Away(why)
    }
}

/// Why the order must not be given, if so.
pub fn objection(held: &[Held], operation: KeyOperation, key: Fingerprint) -> Option<String> {
    let those = |fits: &dyn Fn(&KeyringState) -> bool| {
        let names = held.iter().filter(|h| h.state.as_ref().is_ok_and(fits));
        let names: Vec<&str> = names.map(|h| h.node.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let known = match operation {
        KeyOperation::Install => return None,
        KeyOperation::Use => those(&|s| !s.keys.contains(&key))
            .map(|who| format!("key {key} is not installed on {who}: install it first")),
        KeyOperation::Remove => those(&|s| s.keys.first() == Some(&key))
            .map(|who| format!("key {key} is the primary of {who}: use another one first")),
    };
    known.or_else(|| silence(held))
}

/// Who lives and did not say what it holds.
fn silence(held: &[Held]) -> Option<String> {
    let silent = held.iter().filter_map(|h| match &h.state {
        Err(Missing::Silent(why)) => Some(format!("{} ({why})", h.node)),
        _ => None,
    });
    let silent: Vec<String> = silent.collect();
    (!silent.is_empty()).then(|| {
        format!(
            "held alive, and did not say which keys it holds: {}. Try again when it answers, or is held dead",
            silent.join(", ")
        )
    })
}

/// Has every member carry the change out, this node first; in a task of its own, so that a caller
/// that goes away leaves no cluster in which only some have done so.
pub async fn carry_out(
    node: SharedNode,
    secrecy: Secrecy,
    held: Vec<Held>,
    change: Change,
) -> anyhow::Result<Vec<NodeKeyOutcome>> {
    let carrying = async move {
        // the node does not end before it is done, though nobody waits for the answer
        let _under_way = node.metrics.request_guard();
        carry_on(&node, &secrecy, held, &change).await
    };
    let carried = tokio::spawn(carrying).await;
    carried.context("carrying out a change of keys failed")
}

async fn carry_on(
    node: &Node,
    secrecy: &Secrecy,
    held: Vec<Held>,
    change: &Change,
) -> Vec<NodeKeyOutcome> {
    let outcome = |node_id, outcome, message| NodeKeyOutcome {
        node_id,
        outcome,
        message,
    };
    let me = &node.facts.id;
    // what this node holds before: it seals the orders with a key the other side has
    let ours = secrecy.fingerprints();
    let own = match apply(secrecy, &node.events, me, change.clone()).await {
        Ok(true) => outcome(me.clone(), KeyOutcome::Done, None),
        Ok(false) => outcome(me.clone(), KeyOutcome::Already, None),
        Err(why) => return vec![outcome(me.clone(), KeyOutcome::Refused, Some(why))],
    };
    let others = held.into_iter().filter(|h| h.node != *me);
    let mut outcomes: Vec<NodeKeyOutcome> = stream::iter(others)
        .map(|held| {
            let ours = &ours;
            async move {
                let id = held.node.clone();
                let (what, message) = match held.state {
                    Err(Missing::Away(why) | Missing::Silent(why)) => {
                        (KeyOutcome::Unreachable, Some(why))
                    }
                    Err(Missing::NoKeyring(why)) => (KeyOutcome::Refused, Some(why)),
                    Ok(state) => tell(node, secrecy, &id, &state, ours, change).await,
                };
                outcome(id, what, message)
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    outcomes.push(own);
    outcomes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    outcomes
}

async fn tell(
    node: &Node,
    secrecy: &Secrecy,
    id: &NodeId,
    theirs: &KeyringState,
    ours: &[Fingerprint],
    change: &Change,
) -> (KeyOutcome, Option<String>) {
    let (Some(peers), Some(cluster)) = (node.peers.get(), node.identity.cluster_id()) else {
        return (
            KeyOutcome::Unreachable,
            Some("this node is not running".into()),
        );
    };
    let Some(common) = ours.iter().find(|key| theirs.keys.contains(key)) else {
        let why = "holds none of this node's keys: give it the right gossip.keyring_file";
        return (KeyOutcome::Refused, Some(why.into()));
    };
    let order = Order {
        session: theirs.session,
        change: change.clone(),
    };
    let about = bound_to(cluster.as_str(), &node.facts.id, id);
    let Some(sealed) = sealed(secrecy, &about, *common, &order) else {
        return (
            KeyOutcome::Refused,
            Some("the order cannot be written".into()),
        );
    };
    send(peers, id, sealed).await
}

/// The order under that key. It may hold a key, so it is written where it is wiped, at once and
/// without growing.
fn sealed(secrecy: &Secrecy, about: &[&[u8]], with: Fingerprint, order: &Order) -> Option<Vec<u8>> {
    let mut buffer = Zeroizing::new([0; ORDER_BYTES_MAX]);
    let plain = postcard::to_slice(order, buffer.as_mut_slice()).ok()?;
    Some(secrecy.seal_with(Purpose::Order, about, Some(with), plain))
}

/// What an order is sealed about. Of the sender too: numbers are counted for each sender, and the
/// connection only says who that is, so the same bytes under another name would pass again.
fn bound_to<'a>(cluster: &'a str, from: &'a NodeId, to: &'a NodeId) -> [&'a [u8]; 3] {
    [
        cluster.as_bytes(),
        from.as_str().as_bytes(),
        to.as_str().as_bytes(),
    ]
}

async fn send(peers: &Peers, id: &NodeId, sealed: Vec<u8>) -> (KeyOutcome, Option<String>) {
    let request = Request::ChangeKeys { sealed };
    match peers
        .call(id, Class::Control, 0, request, ANSWER_TIME)
        .await
    {
        Ok(Response::KeysChanged { changed: true }) => (KeyOutcome::Done, None),
        Ok(Response::KeysChanged { changed: false }) => (KeyOutcome::Already, None),
        Ok(Response::Refused { reason, .. }) => (KeyOutcome::Refused, Some(reason)),
        Ok(_) => (
            KeyOutcome::Refused,
            Some("gave an answer that makes no sense".into()),
        ),
        Err(error) => (KeyOutcome::Unreachable, Some(error.to_string())),
    }
}

/// An order of `from` to this node.
pub async fn obey(
    secrecy: Option<&Secrecy>,
    events: &Events,
    (cluster, me): (&str, &NodeId),
    from: &NodeId,
    sealed: &[u8],
) -> Response {
    let refused = |code, reason: String| Response::Refused { code, reason };
    let keys = |reason: String| refused(RefusalCode::Keys, reason);
    let Some(secrecy) = secrecy else {
        return keys(NO_KEYRING.into());
    };
    if sealed.len() > ORDER_BYTES_MAX {
        return keys("the order is too long to be one".into());
    }
    let about = bound_to(cluster, from, me);
    let opened = match secrecy.open(Purpose::Order, &about, sealed) {
        Ok(opened) => opened,
        Err(error) => return keys(format!("the order is {error}")),
    };
    // before its number is taken note of: it would pass for one of the sender's latest life
    if claim::is_too_far_ahead(opened.generation(), unix_ms()) {
        let why =
            "the order is of a life that begins too far in the future: set its node's clock right";
        return keys(why.into());
    }
    let Ok(order) = postcard::from_bytes::<Order>(&opened.plain) else {
        return keys("the order makes no sense".into());
    };
    if order.session != secrecy.session() || !secrecy.admit(Purpose::Order, from, &opened) {
        return keys("the order is an old one, or was meant for another process".into());
    }
    match apply(secrecy, events, from, order.change).await {
        Ok(changed) => Response::KeysChanged { changed },
        Err(why) => refused(RefusalCode::Storage, why),
    }
}

/// On this node: off the async threads, for it waits for the disk.
async fn apply(
    secrecy: &Secrecy,
    events: &Events,
    by: &NodeId,
    change: Change,
) -> Result<bool, String> {
    let key = change.about();
    let what = match &change {
        Change::Install(_) => "installed",
        Change::Use(_) => "made the primary",
        Change::Remove(_) => "removed",
    };
    let secrecy = secrecy.clone();
    let changing = tokio::task::spawn_blocking(move || secrecy.change(change));
    let changed = changing.await.map_err(|error| error.to_string())?;
    let changed = changed.map_err(|error: ChangeError| error.to_string())?;
    if changed {
        let message = format!("gossip key {key} was {what}, as ordered through {by}");
        events.info(EventCode::KeyringChanged, None, message);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::secrecy::{Key, Verify};

    const ON: Verify = Verify {
        incoming: true,
        outgoing: true,
    };

    fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn held(name: &str, keys: &[u8]) -> Held {
        let state = if keys.is_empty() {
            Err(Missing::Away("is dead".into()))
        } else {
            Ok(state_of(&Secrecy::for_tests(keys, ON, 1)))
        };
        Held {
            node: id(name),
            state,
        }
    }

    /// Else a key that it needs would be removed while it is away, and nobody would have been told.
    #[test]
    fn who_is_in_the_ring_and_was_never_heard_of_is_away() {
        let ring = ["a", "b", "c"].map(id);
        let found = unseen(ring.iter(), [id("b"), id("x")].iter(), &id("a"));
        let names: Vec<&str> = found.iter().map(|held| held.node.as_str()).collect();
        assert_eq!(names, ["c"]);
        assert!(matches!(found[0].state, Err(Missing::Away(_))));
        assert!(unseen(ring.iter(), ring.iter(), &id("a")).is_empty());
    }

    #[test]
    fn orders_that_would_split_the_cluster_are_not_given() {
        let key = |n| Key::new([n; 32]).fingerprint();
        let nodes = [held("a", &[1, 2]), held("b", &[1]), held("c", &[])];
        let check = |operation, n| objection(&nodes, operation, key(n));
        assert_eq!(check(KeyOperation::Install, 9), None);
        let lacks = check(KeyOperation::Use, 2).expect("b lacks it");
        assert!(lacks.contains("not installed on b"), "{lacks}");
        assert_eq!(
            check(KeyOperation::Use, 1),
            None,
            "who is away does not matter"
        );
        let primary = check(KeyOperation::Remove, 1).expect("it is in use");
        assert!(primary.contains("primary of a, b"), "{primary}");
        assert_eq!(check(KeyOperation::Remove, 2), None);
    }

    /// It may hold none of the keys that the others would seal with from then on.
    #[test]
    fn who_lives_and_does_not_answer_objects() {
        let key = |n| Key::new([n; 32]).fingerprint();
        let asked = |status| {
            let state = Err(unanswered(status, "no answer within 3 s".into()));
            [
                held("a", &[2, 1]),
                Held {
                    node: id("b"),
                    state,
                },
            ]
        };
        for (operation, n, objects) in [
            (KeyOperation::Install, 3, false),
            (KeyOperation::Use, 2, true),
            (KeyOperation::Remove, 1, true),
        ] {
            let alive = objection(&asked(MemberStatus::Alive), operation, key(n));
            assert_eq!(alive.is_some(), objects, "{operation:?}");
            assert!(alive.is_none_or(|why| why.contains("b (no answer within 3 s)")));
            // the probe does not get through either
            let suspected = objection(&asked(MemberStatus::Suspected), operation, key(n));
            assert_eq!(suspected, None, "{operation:?}");
        }
    }

    #[tokio::test]
    async fn an_order_counts_once_for_its_process_and_under_a_held_key() {
        let (a, b) = (
            Secrecy::for_tests(&[1], ON, 1),
            Secrecy::for_tests(&[1], ON, 2),
        );
        let other = Secrecy::for_tests(&[7], ON, 3);
        let events = Events::new(id("b"));
        let new = Key::new([2; 32]);
        let sealed = |by: &Secrecy, session, to: &[u8]| {
            let order = Order {
                session,
                change: Change::Install(new.clone()),
            };
            sealed(by, &[b"c", b"a", to], by.fingerprints()[0], &order).expect("encodes")
        };
        let give_as = async |from: &str, sealed: Vec<u8>| match obey(
            Some(&b),
            &events,
            ("c", &id("b")),
            &id(from),
            &sealed,
        )
        .await
        {
            Response::KeysChanged { changed } => Ok(changed),
            Response::Refused { reason, .. } => Err(reason),
            other => panic!("{other:?}"),
        };
        let give = async |sealed| give_as("a", sealed).await;
        assert!(
            give(sealed(&other, b.session(), b"b")).await.is_err(),
            "another key"
        );
        assert!(
            give(sealed(&a, [0; 16], b"b")).await.is_err(),
            "another process"
        );
        assert!(
            give(sealed(&a, b.session(), b"z")).await.is_err(),
            "another node"
        );
        let far = unix_ms() + 2 * 365 * 24 * 3600 * 1000;
        let ahead = Secrecy::for_tests(&[1], ON, far);
        let why = give(sealed(&ahead, b.session(), b"b")).await;
        assert!(why.is_err_and(|why| why.contains("future")));
        let good = sealed(&a, b.session(), b"b");
        assert_eq!(
            give(good.clone()).await,
            Ok(true),
            "the far life counts for nothing"
        );
        assert!(give(good.clone()).await.is_err(), "a replay");
        assert!(
            give_as("zz", good).await.is_err(),
            "a replay under another name"
        );
        assert_eq!(give(sealed(&a, b.session(), b"b")).await, Ok(false));
        assert_eq!(b.fingerprints()[1], new.fingerprint());
        let told = events.newest(10);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(!format!("{told:?}").contains(&*new.to_base64()));
    }
}
