//! Clients whose every answer is written down for the checks, and the look at the whole cluster
//! when all is over.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use reqwest::Method;
use ringmaster_shared::{
    api::data::{ReadResponse, ReplicasResponse, SiblingInfo, WriteResponse},
    context,
    error::{ErrorBody, ErrorCode},
    id::ClusterId,
    key::Key,
    version::VersionVector,
};
use serde_json::json;

use super::{
    checks::{
        convergence,
        ended::{End, KeyEnd, NodeEnd, ReplicaEnd},
        record::{Did, Op, Outcome, Returned, Seen, Sent, Write},
    },
    client::{Api, Reply},
    history::Recorder,
    wait::eventually,
};

/// Values are never written twice, not even in two campaigns on one cluster.
static NEXT_VALUE: AtomicU64 = AtomicU64::new(1);

/// One client, who asks one node at a time.
#[derive(Clone, Copy)]
pub struct Observer<'a> {
    pub recorder: &'a Recorder,
    pub client: usize,
}

/// What a read gave a client to send along with its next write.
#[derive(Debug, Clone)]
pub struct Knowledge {
    token: String,
    sent: Sent,
}

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Put,
    Delete,
}

fn key_of(key: &str) -> Key {
    Key::new(key).expect("a plain key")
}

/// The vector behind a context of this cluster.
fn decoded(cluster: &ClusterId, key: &str, token: &str) -> VersionVector {
    context::decode(cluster, &key_of(key), token).expect("the node's own context")
}

impl Observer<'_> {
    fn record(self, node: &str, key: &str, did: Did, called: u64, outcome: Outcome) {
        self.recorder.add(Op {
            client: self.client,
            node: node.to_owned(),
            key: key.to_owned(),
            did,
            called,
            outcome,
        });
    }

    /// A quorum read; `None` when it was not answered.
    pub async fn read(self, node: &str, api: &Api, key: &str) -> Option<(Seen, Option<Knowledge>)> {
        let cluster = self.recorder.cluster(api).await?;
        let called = self.recorder.now();
        let reply = api.read(key).await.ok()?;
        let at = self.recorder.now();
        let (seen, token) = seen(cluster, key, &reply)?;
        self.record(
            node,
            key,
            Did::Read(seen.clone()),
            called,
            Outcome::Done(at),
        );
        let knowledge = token.map(|token| Knowledge {
            token,
            sent: Sent {
                clock: seen.clock.clone(),
                shown: seen.values.iter().copied().collect::<BTreeSet<u64>>(),
                at,
            },
        });
        Some((seen, knowledge))
    }

    /// A write of a value that nobody else writes, or a delete; whether it was acknowledged.
    pub async fn write(
        self,
        node: &str,
        api: &Api,
        key: &str,
        change: Change,
        knowledge: Option<&Knowledge>,
    ) -> bool {
        let Some(cluster) = self.recorder.cluster(api).await else {
            return false; // nothing was sent
        };
        let id = NEXT_VALUE.fetch_add(1, Ordering::Relaxed);
        let path = format!("/api/v1/data/{key}");
        let mut body = json!({});
        if let Some(knowledge) = knowledge {
            body["context"] = knowledge.token.as_str().into();
        }
        let method = match change {
            Change::Put => {
                body["value"] = id.into();
                Method::PUT
            }
            Change::Delete => Method::DELETE,
        };
        let called = self.recorder.now();
        let result = api.send(method, &path, Some(&body)).await;
        let outcome = match fate(&result) {
            Fate::Done => Outcome::Done(self.recorder.now()),
            Fate::NotDone => Outcome::Refused,
            Fate::Unknown => Outcome::Unknown,
        };
        let returned = match (&result, outcome) {
            (Ok(reply), Outcome::Done(_)) => {
                let answer: WriteResponse = reply.json().expect("the published shape");
                Returned::of(node, decoded(cluster, key, &answer.context))
            }
            _ => None,
        };
        let write = Write {
            id,
            deletes: change == Change::Delete,
            sent: knowledge.map(|k| k.sent.clone()),
            returned,
        };
        self.record(node, key, Did::Write(write), called, outcome);
        matches!(outcome, Outcome::Done(_))
    }
}

/// What an answer says about a write.
enum Fate {
    Done,
    /// Refused before anything was done.
    NotDone,
    Unknown,
}

fn fate(result: &reqwest::Result<Reply>) -> Fate {
    match result {
        Ok(reply) if reply.status == 200 => Fate::Done,
        Ok(reply) => match reply.json::<ErrorBody>().map(|error| error.code) {
            Ok(ErrorCode::QuorumNotMet | ErrorCode::NotServing | ErrorCode::TooBusy) => {
                Fate::NotDone
            }
            Ok(ErrorCode::BadContext | ErrorCode::BadBody | ErrorCode::BadRequest) => {
                panic!("a test sends what is refused: {}", reply.text())
            }
            _ => Fate::Unknown,
        },
        Err(error) if error.is_connect() => Fate::NotDone,
        Err(_) => Fate::Unknown,
    }
}

/// What an answer to a read shows, and its context; `None` when it shows nothing.
fn seen(cluster: &ClusterId, key: &str, reply: &Reply) -> Option<(Seen, Option<String>)> {
    match reply.status {
        200 => {
            let read: ReadResponse = reply.json().expect("the published shape");
            let clock = decoded(cluster, key, &read.context);
            let (mut values, tombstones) = match &read.siblings {
                Some(siblings) => counted(siblings),
                None => (Vec::new(), 0),
            };
            let winner = read.value.as_u64().expect("only numbers were written");
            if read.siblings.is_none() {
                values.push(winner);
            }
            assert_eq!(values.first(), Some(&winner), "the winner comes first");
            let seen = Seen {
                values,
                tombstones,
                found: true,
                clock,
            };
            Some((seen, Some(read.context)))
        }
        404 => {
            let error: ErrorBody = reply.json().ok()?;
            if error.code != ErrorCode::KeyNotFound {
                return None;
            }
            let token = error.details["context"].as_str().map(str::to_owned);
            let listed = error.details.get("siblings").cloned();
            let listed = listed.and_then(|s| serde_json::from_value::<Vec<SiblingInfo>>(s).ok());
            let (values, tombstones) = match &listed {
                Some(siblings) => counted(siblings),
                None => (Vec::new(), usize::from(token.is_some())),
            };
            let clock = token.as_deref().map(|token| decoded(cluster, key, token));
            let seen = Seen {
                values,
                tombstones,
                found: false,
                clock: clock.unwrap_or_default(),
            };
            Some((seen, token))
        }
        _ => None,
    }
}

fn counted(siblings: &[SiblingInfo]) -> (Vec<u64>, usize) {
    let values = siblings.iter().filter_map(|s| s.value.as_ref());
    let values: Vec<u64> = values
        .map(|v| v.as_u64().expect("only numbers were written"))
        .collect();
    let tombstones = siblings.len() - values.len();
    (values, tombstones)
}

/// What each node tells of itself.
async fn node_end(node: &str, api: &Api) -> Result<NodeEnd, String> {
    let status = api.status().await.map_err(|e| format!("{e:#}"))?;
    let members = api.members().await.map_err(|e| format!("{e:#}"))?;
    let ring = api.ring().await.map_err(|e| format!("{e:#}"))?;
    Ok(NodeEnd {
        node: node.to_owned(),
        cluster: status.cluster.cluster_id,
        ring_epoch: ring.epoch,
        ring_digest: ring.digest,
        membership_digest: members.membership_digest,
        changing: ring.transition.is_some(),
    })
}

/// Asks all nodes about all keys. The replicas before the reads: those would mend them.
pub async fn look(nodes: &[(String, Api)], keys: &[String]) -> Result<End, String> {
    let mut end = End::default();
    for (node, api) in nodes {
        end.nodes.push(node_end(node, api).await?);
    }
    for key in keys {
        let mut of_key = KeyEnd::default();
        for (node, api) in nodes {
            let path = format!("/api/v1/data/{key}/replicas");
            let answer: ReplicasResponse = api.get(&path).await.map_err(|e| format!("{e:#}"))?;
            let replicas = answer.replicas.into_iter().map(|replica| ReplicaEnd {
                node: replica.node_id.to_string(),
                fingerprint: replica.fingerprint,
                error: replica.error,
            });
            of_key.replicas.push((node.clone(), replicas.collect()));
        }
        end.keys.insert(key.clone(), of_key);
    }
    let cluster = end.nodes.first().map_or("", |node| &node.cluster);
    let cluster = ClusterId::new(cluster).map_err(|e| e.to_string())?;
    for key in keys {
        for (node, api) in nodes {
            let path = format!("/api/v1/data/{key}?consistency=all");
            let reply = api.send(Method::GET, &path, None).await;
            let reply = reply.map_err(|e| e.to_string())?;
            let (seen, _) = seen(&cluster, key, &reply)
                .ok_or_else(|| format!("{key} at {node}: {}", reply.text()))?;
            if let Some(of_key) = end.keys.get_mut(key) {
                of_key.reads.push((node.clone(), seen));
            }
        }
    }
    Ok(end)
}

/// Looks until all replicas agree, with nobody writing; after `limit` as it is then.
pub async fn settled(nodes: &[(String, Api)], keys: &[String], limit: Duration) -> End {
    let began = std::time::Instant::now();
    let found = eventually("the cluster can be looked at", limit * 2, async || {
        let end = look(nodes, keys).await?;
        let agrees = convergence::check(&end).violations == 0;
        if agrees || began.elapsed() > limit {
            Ok(end)
        } else {
            Err("its replicas differ".to_owned())
        }
    });
    found.await
}
