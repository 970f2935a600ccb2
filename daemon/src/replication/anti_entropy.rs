//! Anti-entropy: replicas compare the digests of the partitions they share and exchange what
//! differs, so that a replica that was away ends up with all it missed without anyone asking.
//!
//! Promises: cost follows the difference (roots, then leaves, then versions, then records); one
//! exchange at a time; bounded messages. Partitions that are being moved are left to `transfer`.
//! Both sides only ever join, so two rounds at once or a round cut short do no harm.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::Rng;
use ringmaster_shared::{
    clock::Hlc,
    event::EventCode,
    id::{Epoch, NodeId, PartitionId},
    key::Key,
    member::MemberStatus,
    topology::Topology,
    version::Record,
};
use serde_json::json;
use tokio::{sync::Notify, time::Instant};

use super::{
    frames::{Request, Response},
    hints::parts,
    peers::Class,
    site::Site,
};
use crate::{breaks::broken, gossip::MemberView, storage::Store, time::unix_ms};

/// Between two rounds when nothing happens; up to a quarter is added at random.
const EVERY: Duration = Duration::from_secs(60);
/// After this node's start, a member's return or a finished topology change: within this range.
const SOON_MS: std::ops::Range<u64> = 1_000..3_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Records asked for at once.
const FETCH_KEYS: usize = 128;
/// Pause between messages that carry records.
const PAUSE: Duration = Duration::from_millis(5);

/// Cheap handle of the worker.
#[derive(Clone)]
pub struct AntiEntropy {
    running: Arc<AtomicBool>,
    wake: Arc<Notify>,
}

/// What one round moved.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    partitions: usize,
    pulled: usize,
    pushed: usize,
}

impl AntiEntropy {
    /// Starts the worker; it ends with the site's stop token.
    pub fn start(site: Arc<Site>) -> Self {
        let handle = Self {
            running: Arc::default(),
            wake: Arc::default(),
        };
        let worker = handle.clone();
        tokio::spawn(async move {
            let stop = site.stop.clone();
            stop.run_until_cancelled(worker.run(site)).await;
        });
        handle
    }

    /// Runs a round now; `false` when one is under way.
    pub fn now(&self) -> bool {
        if self.running.load(Ordering::Acquire) {
            return false;
        }
        self.wake.notify_one();
        true
    }

    async fn run(self, site: Arc<Site>) {
        let mut members = site.network.watch();
        let mut topologies = site.replica.topology.watch();
        let mut answering = who_answers(&site.network.members());
        let mut next = Instant::now() + soon();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.wake.notified() => {}
                changed = members.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = who_answers(&members.borrow_and_update());
                    if has_returned(&answering, &now) {
                        next = next.min(Instant::now() + soon());
                    }
                    answering = now;
                    continue;
                }
                changed = topologies.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let settled = topologies
                        .borrow_and_update()
                        .as_ref()
                        .is_some_and(|t| t.transition.is_none());
                    if settled {
                        next = next.min(Instant::now() + soon());
                    }
                    continue;
                }
            }
            self.running.store(true, Ordering::Release);
            round(&site).await;
            self.running.store(false, Ordering::Release);
            next = Instant::now() + EVERY.mul_f64(rand::rng().random_range(1.0..1.25));
        }
    }
}

fn soon() -> Duration {
    Duration::from_millis(rand::rng().random_range(SOON_MS))
}

/// Members that answer, with the generation of their process.
fn who_answers(members: &[MemberView]) -> BTreeMap<NodeId, u64> {
    members
        .iter()
        .filter(|m| m.state.status == MemberStatus::Alive && m.state.lifecycle.replicates())
        .map(|m| (m.state.id.clone(), m.state.generation))
        .collect()
}

/// Whether somebody answers who did not before, or is another process now.
fn has_returned(before: &BTreeMap<NodeId, u64>, now: &BTreeMap<NodeId, u64>) -> bool {
    now.iter()
        .any(|(id, generation)| before.get(id) != Some(generation))
}

/// Compares with each reachable node that shares partitions.
async fn round(site: &Site) {
    if broken("no-repair") {
        return;
    }
    let Some(topology) = site.replica.topology.current() else {
        return;
    };
    if !site.replica.lifecycle.get().replicates() {
        return;
    }
    for (peer, partitions) in shared_with(&topology, site.me()) {
        if !site.is_reachable(&peer) {
            continue;
        }
        match compare(site, &peer, topology.epoch, &partitions).await {
            Ok(tally) if tally == Tally::default() => {}
            Ok(tally) => report(site, &peer, tally),
            Err(why) => tracing::debug!(peer = %peer, "comparing partitions ended early: {why}"),
        }
    }
}

/// Partitions that `me` holds together with each other node, those being moved left out.
fn shared_with(topology: &Topology, me: &NodeId) -> BTreeMap<NodeId, Vec<PartitionId>> {
    let mut shared: BTreeMap<NodeId, Vec<PartitionId>> = BTreeMap::new();
    for partition in 0..topology.partition_count() {
        let replicas = topology.replicas(partition);
        if !replicas.contains(me) || topology.target_replicas(partition).is_some() {
            continue;
        }
        for other in replicas.into_iter().filter(|id| id != me) {
            shared.entry(other).or_default().push(partition);
        }
    }
    shared
}

fn report(site: &Site, peer: &NodeId, tally: Tally) {
    let what = format!(
        "compared with {peer}: took over {} keys and handed over {} in {} partitions",
        tally.pulled, tally.pushed, tally.partitions
    );
    let details = json!({
        "pulled": tally.pulled, "pushed": tally.pushed, "partitions": tally.partitions,
    });
    let severity = ringmaster_shared::event::Severity::Info;
    let code = EventCode::RepairFinished;
    site.events.emit(code, severity, Some(peer), what, details);
}

async fn compare(
    site: &Site,
    peer: &NodeId,
    epoch: Epoch,
    partitions: &[PartitionId],
) -> Result<Tally, String> {
    let request = Request::DigestRoots {
        partitions: partitions.to_vec(),
    };
    let Response::Roots { roots: theirs } = ask(site, peer, epoch, request).await? else {
        return Err(NOT_ASKED.to_owned());
    };
    let wanted = partitions.to_vec();
    let ours: Vec<u64> = off_thread(site, move |store| {
        Ok(wanted.iter().map(|p| store.digest_root(*p)).collect())
    })
    .await?;
    let mut tally = Tally::default();
    for at in different(&ours, &theirs) {
        let moved = compare_partition(site, peer, epoch, partitions[at]).await?;
        if moved != Tally::default() {
            tally.partitions += 1;
            tally.pulled += moved.pulled;
            tally.pushed += moved.pushed;
        }
    }
    Ok(tally)
}

/// Positions at which two digests differ; what one of them lacks is not compared.
fn different(ours: &[u64], theirs: &[u64]) -> Vec<usize> {
    let pairs = ours.iter().zip(theirs).enumerate();
    pairs
        .filter(|(_, (a, b))| a != b)
        .map(|(at, _)| at)
        .collect()
}

async fn compare_partition(
    site: &Site,
    peer: &NodeId,
    epoch: Epoch,
    partition: PartitionId,
) -> Result<Tally, String> {
    let request = Request::DigestLeaves { partition };
    let Response::Leaves { leaves: theirs } = ask(site, peer, epoch, request).await? else {
        return Err(NOT_ASKED.to_owned());
    };
    let ours = off_thread(site, move |store| Ok(store.digest_leaves(partition))).await?;
    let mut tally = Tally::default();
    for leaf in different(&ours, &theirs) {
        let leaf = u16::try_from(leaf).map_err(|e| e.to_string())?;
        let request = Request::LeafVersions { partition, leaf };
        let Response::Versions { versions: theirs } = ask(site, peer, epoch, request).await? else {
            return Err(NOT_ASKED.to_owned());
        };
        let ours = off_thread(site, move |store| store.leaf_versions(partition, leaf)).await?;
        let plan = Exchange::of(&ours, theirs);
        tally.pulled += pull(site, peer, epoch, &plan.pull).await?;
        tally.pushed += push(site, peer, epoch, &plan).await?;
    }
    Ok(tally)
}

/// What one leaf's comparison asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Exchange {
    /// The other has it, and we have nothing or something else.
    pull: Vec<Key>,
    /// We have it, and the other nothing or something else: with the fingerprint it had there
    /// (0 for nothing), since after pulling there may be nothing left to push.
    push: Vec<(Key, u64)>,
}

impl Exchange {
    fn of(ours: &[(Key, u64)], theirs: Vec<(Key, u64)>) -> Self {
        let mine: BTreeMap<&Key, u64> = ours.iter().map(|(k, f)| (k, *f)).collect();
        let theirs: BTreeMap<Key, u64> = theirs.into_iter().collect();
        let mut exchange = Self::default();
        for (key, fingerprint) in &mine {
            let there = theirs.get(*key).copied().unwrap_or(0);
            if there != *fingerprint {
                exchange.push.push(((*key).clone(), there));
            }
        }
        for (key, fingerprint) in theirs {
            if mine.get(&key) != Some(&fingerprint) {
                exchange.pull.push(key);
            }
        }
        exchange
    }
}

async fn pull(site: &Site, peer: &NodeId, epoch: Epoch, keys: &[Key]) -> Result<usize, String> {
    let mut changed = 0;
    for chunk in keys.chunks(FETCH_KEYS) {
        let mut rest = chunk;
        // an answer stops when it is full; what follows its last key is asked for again
        while !rest.is_empty() {
            let request = Request::FetchRecords {
                keys: rest.to_vec(),
            };
            let Response::Records { mut entries } = ask(site, peer, epoch, request).await? else {
                return Err(NOT_ASKED.to_owned());
            };
            let Some((last, _)) = entries.last() else {
                break;
            };
            let Some(at) = rest.iter().position(|key| key == last) else {
                return Err(NOT_ASKED.to_owned());
            };
            rest = &rest[at + 1..];
            entries.retain(|(_, record)| !site.is_absurd(peer, record.max_hlc()));
            let merged = site.replica.store.merge_many(entries).await;
            changed += merged.map_err(|error| error.to_string())?;
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(changed)
}

async fn push(site: &Site, peer: &NodeId, epoch: Epoch, plan: &Exchange) -> Result<usize, String> {
    let mut changed = 0;
    for chunk in plan.push.chunks(FETCH_KEYS) {
        let wanted = chunk.to_vec();
        let entries = off_thread(site, move |store| {
            let mut entries: Vec<(Key, Record)> = Vec::new();
            for (key, there) in wanted {
                if let Some(record) = store.get(&key)?
                    && record.fingerprint() != there
                {
                    entries.push((key, record));
                }
            }
            Ok(entries)
        })
        .await?;
        for part in parts(entries) {
            let request = Request::Merge {
                entries: part,
                issued: Hlc::from_parts(unix_ms(), 0),
            };
            let Response::Merged { changed: n } = ask(site, peer, epoch, request).await? else {
                return Err(NOT_ASKED.to_owned());
            };
            changed += n as usize;
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(changed)
}

const NOT_ASKED: &str = "answered something else than was asked";

async fn ask(
    site: &Site,
    peer: &NodeId,
    epoch: Epoch,
    request: Request,
) -> Result<Response, String> {
    let deadline = Instant::now() + CALL_TIMEOUT;
    let answer = site.ask(peer, Class::Bulk, epoch, request, deadline).await;
    answer.map_err(|error| error.why())
}

async fn off_thread<T, F>(site: &Site, read: F) -> Result<T, String>
where
    T: Send + 'static,
    F: FnOnce(&Store) -> Result<T, crate::storage::StorageError> + Send + 'static,
{
    let store = site.replica.store.clone();
    let read = tokio::task::spawn_blocking(move || read(&store)).await;
    read.map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringmaster_shared::{
        id::ClusterId,
        topology::{RingMember, Step, Transition},
    };

    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn versions(list: &[(u8, u64)]) -> Vec<(Key, u64)> {
        let mut map = BTreeMap::new();
        for (k, f) in list {
            map.insert(Key::new(&format!("k{k}")).expect("valid"), f + 1);
        }
        map.into_iter().collect()
    }

    proptest! {
        #[test]
        fn exactly_the_difference_is_exchanged(
            ours in prop::collection::vec((0_u8..12, 0_u64..3), 0..12),
            theirs in prop::collection::vec((0_u8..12, 0_u64..3), 0..12),
        ) {
            let (ours, theirs) = (versions(&ours), versions(&theirs));
            let plan = Exchange::of(&ours, theirs.clone());
            for entry in &ours {
                let pushed = plan.push.iter().any(|(k, _)| *k == entry.0);
                prop_assert_eq!(pushed, !theirs.contains(entry));
            }
            for entry in &theirs {
                prop_assert_eq!(plan.pull.contains(&entry.0), !ours.contains(entry));
            }
            let mirrored = Exchange::of(&theirs, ours);
            let pushed: Vec<&Key> = plan.push.iter().map(|(k, _)| k).collect();
            prop_assert_eq!(pushed, mirrored.pull.iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn partitions_on_the_move_are_left_alone() {
        let member = |n: &str| RingMember {
            id: id(n),
            address: format!("{n}:1"),
            zone: "default".into(),
        };
        let topology = Topology {
            cluster_id: ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid"),
            epoch: 1,
            replication_factor: 2,
            members: ["a", "b", "c"].map(member).to_vec(),
            table: vec![vec![0, 1], vec![0, 1], vec![1, 2], vec![0, 2]],
            transition: Some(Transition {
                step: Step::Dual,
                kind: ringmaster_shared::topology::ChangeKind::Join,
                leaving: vec![],
                joining: vec![],
                target: vec![vec![0, 2], vec![0, 1], vec![1, 2], vec![0, 2]],
            }),
        };
        let shared = shared_with(&topology, &id("a"));
        assert_eq!(
            shared,
            BTreeMap::from([(id("b"), vec![1]), (id("c"), vec![3])])
        );
    }

    #[test]
    fn a_return_is_a_new_face_or_a_new_life() {
        type Faces = &'static [(&'static str, u64)];
        let set = |list: Faces| list.iter().map(|(n, g)| (id(n), *g)).collect();
        let cases: [(Faces, Faces, bool); 4] = [
            (&[("a", 1)], &[("a", 1)], false),
            (&[("a", 1), ("b", 1)], &[("a", 1)], false),
            (&[("a", 1)], &[("a", 1), ("b", 1)], true),
            (&[("a", 1)], &[("a", 2)], true),
        ];
        for (before, now, want) in cases {
            assert_eq!(has_returned(&set(before), &set(now)), want);
        }
    }
}
