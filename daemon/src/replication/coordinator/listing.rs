//! Listings of keys, and what each replica holds of one key.
//!
//! A listing asks all reachable replicas for their lowest keys and joins the answers, once each
//! partition has a read quorum of answers. A key whose write was acknowledged before the listing
//! began is therefore found, and a key whose delete was acknowledged before is not: where the
//! replicas of a partition disagree about a key, it is read with a quorum. Keys that are written
//! or deleted meanwhile may or may not appear, and two pages are two moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use jiff::Timestamp;
use ringmaster_shared::{
    api::data::{Consistency, ReplicaView},
    id::{NodeId, PartitionId},
    key::Key,
    topology::{Access, Topology},
    version::RecordVersion,
};
use tokio::time::{Instant, timeout_at};

use super::{Inner, ReplicationError, drive};
use crate::{
    replication::{
        frames::{Request, Response},
        peers::Class,
        reach,
        replica::KEYS_MAX,
        site::AskError,
    },
    time::timestamp_of_ms,
};

/// Keys about which replicas disagree that are read at the same time.
const CHECKS_AT_ONCE: usize = 8;
/// How often one listing follows a topology change or goes on after deleted keys; then the page says
/// where the next one begins.
const PAGES_MAX: usize = 64;

/// One page of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// In byte order.
    pub keys: Vec<Key>,
    /// Where the next page begins, when there may be one. A page can be short, or have no keys at
    /// all, and not be the last: it then led through nothing but deleted keys.
    pub after: Option<String>,
}

/// One node's answer: its lowest keys, and whether there may be more.
struct Page {
    keys: Vec<Key>,
    full: bool,
}

/// Answers of one round, by node.
type Pages = BTreeMap<NodeId, Page>;

/// The part of the joined answers that is complete.
#[derive(Debug, PartialEq, Eq)]
struct Joined {
    /// In byte order; `true` when every replica that answered has it.
    keys: Vec<(Key, bool)>,
    /// There may be more keys after the last one.
    more: bool,
}

enum Round {
    Pages(Pages),
    TopologyChanged,
}

impl Inner {
    pub(super) async fn list(
        self: &Arc<Self>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        timeout: Duration,
    ) -> Result<Listing, ReplicationError> {
        let limit = limit.clamp(1, KEYS_MAX);
        let deadline = Instant::now() + timeout;
        let mut after = after.map(str::to_owned);
        let (mut found, mut more, mut progress) = (Vec::new(), true, false);
        for _ in 0..PAGES_MAX {
            let topology = self.topology()?;
            let wanted = Request::ListKeys {
                partitions: Vec::new(),
                prefix: prefix.to_owned(),
                after: after.clone(),
                limit: limit as u32,
            };
            let Round::Pages(pages) = self.list_round(&topology, wanted, deadline).await? else {
                continue;
            };
            let joined = join(&pages, limit, |key, node| {
                let need = topology.requirement(topology.partition_of(key), Access::Read);
                need.replicas().contains(node)
            });
            progress = true;
            let Some((last, _)) = joined.keys.last() else {
                more = false;
                break;
            };
            (after, more) = (Some(last.as_str().to_owned()), joined.more);
            found.extend(self.checked(joined.keys, deadline).await?);
            if found.len() >= limit || !more {
                break;
            }
        }
        if !progress {
            return Err(ReplicationError::Deadline {
                needed: 1,
                answered: 0,
                missing: BTreeMap::new(),
                may_have_written: false,
            });
        }
        Ok(page(found, limit, after.filter(|_| more)))
    }

    /// Asks every replica that answers; fails unless each partition gets its read quorum.
    async fn list_round(
        &self,
        topology: &Arc<Topology>,
        wanted: Request,
        deadline: Instant,
    ) -> Result<Round, ReplicationError> {
        let mut missing = self.off(topology);
        let mut asked: BTreeMap<NodeId, Vec<PartitionId>> = BTreeMap::new();
        for partition in 0..topology.partition_count() {
            for id in topology.requirement(partition, Access::Read).replicas() {
                if !missing.contains_key(&id) {
                    asked.entry(id).or_default().push(partition);
                }
            }
        }
        let reachable: BTreeSet<NodeId> = asked.keys().cloned().collect();
        covered(topology, &reachable, &missing)?;
        let questions = asked.into_iter().map(|(id, partitions)| {
            let request = with_partitions(&wanted, partitions);
            async move {
                let ask = self
                    .site
                    .ask(&id, Class::Bulk, topology.epoch, request, deadline);
                let answer = ask.await;
                (id, answer)
            }
        });
        let mut answers: FuturesUnordered<_> = questions.collect();
        let mut pages = Pages::new();
        let mut have = BTreeSet::new();
        while let Ok(Some((id, answer))) = timeout_at(deadline, answers.next()).await {
            match answer {
                Ok(Response::Keys { keys }) => {
                    let full = keys.len() >= limit_of(&wanted);
                    have.insert(id.clone());
                    pages.insert(id, Page { keys, full });
                }
                Ok(_) => {
                    missing.insert(id, "answered something else than was asked".into());
                }
                Err(AskError::Newer { topology, .. }) => {
                    drop(answers);
                    let adopted = self.site.adopt(*topology, deadline).await;
                    adopted.map_err(ReplicationError::Storage)?;
                    return Ok(Round::TopologyChanged);
                }
                Err(AskError::Failed(failure)) => {
                    missing.insert(id, failure.why);
                }
            }
            if covered(topology, &have, &missing).is_ok() {
                return Ok(Round::Pages(pages));
            }
        }
        covered(topology, &have, &missing).map(|()| Round::Pages(pages))
    }

    /// Drops keys that turn out to be deleted; brings their replicas up on the way.
    async fn checked(
        self: &Arc<Self>,
        keys: Vec<(Key, bool)>,
        deadline: Instant,
    ) -> Result<Vec<Key>, ReplicationError> {
        let checks = keys.into_iter().map(|(key, sure)| async move {
            if sure {
                return Ok(Some(key));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let read = drive::read(self.clone(), key.clone(), Consistency::Quorum, left);
            let outcome = read.await?;
            let present = outcome.record.head().is_some_and(|s| s.value.is_some());
            Ok(present.then_some(key))
        });
        let kept: Vec<Result<Option<Key>, ReplicationError>> = stream::iter(checks)
            .buffered(CHECKS_AT_ONCE)
            .collect()
            .await;
        kept.into_iter().filter_map(Result::transpose).collect()
    }

    pub(super) async fn replicas(
        &self,
        key: &Key,
        timeout: Duration,
    ) -> (PartitionId, Vec<ReplicaView>) {
        let Ok(topology) = self.topology() else {
            return (0, Vec::new());
        };
        let partition = topology.partition_of(key);
        let off = self.off(&topology);
        let deadline = Instant::now() + timeout;
        let views = topology.all_replicas(partition).into_iter().map(|id| {
            let off = off.get(&id).cloned();
            let request = Request::ReadVersion { key: key.clone() };
            let epoch = topology.epoch;
            async move {
                if let Some(why) = off {
                    return view(id, Err(why));
                }
                let ask = self.site.ask(&id, Class::Data, epoch, request, deadline);
                let said = match timeout_at(deadline, ask).await {
                    Ok(Ok(Response::Version { version })) => Ok(version),
                    Ok(Ok(_)) => Err("answered something else than was asked".to_owned()),
                    Ok(Err(error)) => Err(error.why()),
                    Err(_) => Err("no answer in time".to_owned()),
                };
                view(id, said)
            }
        });
        let views = futures_util::future::join_all(views).await;
        (partition, views)
    }

    /// Members of the ring that are not worth asking.
    fn off(&self, topology: &Topology) -> BTreeMap<NodeId, String> {
        let ids: Vec<NodeId> = topology.members.iter().map(|m| m.id.clone()).collect();
        reach::unreachable(
            &self.site.network.members(),
            (self.site.me(), self.site.replica.lifecycle.get()),
            &ids,
            Timestamp::now(),
        )
    }
}

/// The first `limit` of what was found up to `after`, beyond which there may be more if it is given.
fn page(mut keys: Vec<Key>, limit: usize, after: Option<String>) -> Listing {
    let cut = keys.len() > limit;
    keys.truncate(limit);
    let last = keys.last().map(|key| key.as_str().to_owned());
    let after = if cut { last } else { after };
    Listing { keys, after }
}

/// Whether `have` is a read quorum of every partition.
fn covered(
    topology: &Topology,
    have: &BTreeSet<NodeId>,
    missing: &BTreeMap<NodeId, String>,
) -> Result<(), ReplicationError> {
    for partition in 0..topology.partition_count() {
        let need = topology.requirement(partition, Access::Read);
        if need.is_met(have) {
            continue;
        }
        let replicas = need.replicas();
        let mut missing = missing.clone();
        missing.retain(|id, _| replicas.contains(id));
        for id in replicas.iter().filter(|id| !have.contains(*id)) {
            missing
                .entry(id.clone())
                .or_insert_with(|| "no answer in time".into());
        }
        return Err(ReplicationError::QuorumNotMet {
            partition,
            needed: need.groups.first().map_or(0, |g| g.need),
            available: replicas.len() - missing.len(),
            missing,
        });
    }
    Ok(())
}

fn with_partitions(wanted: &Request, partitions: Vec<PartitionId>) -> Request {
    let mut request = wanted.clone();
    if let Request::ListKeys { partitions: p, .. } = &mut request {
        *p = partitions;
    }
    request
}

fn limit_of(wanted: &Request) -> usize {
    match wanted {
        Request::ListKeys { limit, .. } => *limit as usize,
        _ => 0,
    }
}

/// Joins the pages up to the smallest last key of a full one: beyond it that node may hold keys
/// that it did not send.
fn join(pages: &Pages, limit: usize, is_replica: impl Fn(&Key, &NodeId) -> bool) -> Joined {
    let horizon = pages
        .values()
        .filter(|page| page.full)
        .filter_map(|page| page.keys.last())
        .min()
        .cloned();
    let mut holders: BTreeMap<&Key, BTreeSet<&NodeId>> = BTreeMap::new();
    for (node, page) in pages {
        for key in &page.keys {
            if horizon.as_ref().is_none_or(|h| key <= h) {
                holders.entry(key).or_default().insert(node);
            }
        }
    }
    let more = horizon.is_some() || holders.len() > limit;
    let keys = holders
        .into_iter()
        .take(limit)
        .map(|(key, have)| {
            let mut replicas = pages.keys().filter(|node| is_replica(key, node));
            (key.clone(), replicas.all(|node| have.contains(node)))
        })
        .collect();
    Joined { keys, more }
}

fn view(node_id: NodeId, said: Result<Option<RecordVersion>, String>) -> ReplicaView {
    let (version, error) = match said {
        Ok(version) => (version, None),
        Err(why) => (None, Some(why)),
    };
    ReplicaView {
        node_id,
        error,
        fingerprint: version.as_ref().map(|v| format!("{:016x}", v.fingerprint)),
        written_at: version.as_ref().map(|v| timestamp_of_ms(v.hlc.unix_ms())),
        present: version.is_some_and(|v| v.present),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&str], full: bool) -> Page {
        Page {
            keys: keys.iter().map(|k| Key::new(k).expect("valid")).collect(),
            full,
        }
    }

    fn joined(pages: &[(&str, Page)], limit: usize) -> (Vec<(String, bool)>, bool) {
        let pages = pages
            .iter()
            .map(|(n, p)| {
                let page = Page {
                    keys: p.keys.clone(),
                    full: p.full,
                };
                (NodeId::new(n).expect("valid"), page)
            })
            .collect();
        let joined = join(&pages, limit, |_, _| true);
        let keys = joined.keys.into_iter();
        (
            keys.map(|(k, sure)| (k.to_string(), sure)).collect(),
            joined.more,
        )
    }

    #[test]
    fn a_page_says_where_the_next_one_begins() {
        let keys = |names: &[&str]| -> Vec<Key> {
            names.iter().map(|k| Key::new(k).expect("valid")).collect()
        };
        let next = |names: &[&str], after: Option<&str>| {
            let listing = super::page(keys(names), 2, after.map(str::to_owned));
            assert!(listing.keys.len() <= 2);
            listing.after
        };
        assert_eq!(next(&["a", "b"], None), None);
        assert_eq!(next(&["a"], Some("c")), Some("c".into()));
        assert_eq!(
            next(&[], Some("c")),
            Some("c".into()),
            "nothing but deleted keys"
        );
        assert_eq!(
            next(&["a", "b", "c"], Some("d")),
            Some("b".into()),
            "c comes again"
        );
        assert_eq!(next(&["a", "b", "c"], None), Some("b".into()));
    }

    #[test]
    fn pages_are_joined_as_far_as_they_are_complete() {
        let yes = |k: &str| (k.to_owned(), true);
        let no = |k: &str| (k.to_owned(), false);
        let same = [
            ("x", page(&["a", "b"], false)),
            ("y", page(&["a", "b"], false)),
        ];
        assert_eq!(joined(&same, 2), (vec![yes("a"), yes("b")], false));

        let differ = [("x", page(&["a", "c"], false)), ("y", page(&["a"], false))];
        assert_eq!(joined(&differ, 9), (vec![yes("a"), no("c")], false));

        // y stopped at b, so nothing is known of what it holds after b
        let cut = [
            ("x", page(&["c", "d"], true)),
            ("y", page(&["a", "b"], true)),
        ];
        assert_eq!(joined(&cut, 2), (vec![no("a"), no("b")], true));

        let long = [("x", page(&["a", "b", "c"], false))];
        assert_eq!(joined(&long, 2), (vec![yes("a"), yes("b")], true));
    }
}
