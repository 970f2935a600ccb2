//! Anti-entropy: replicas compare the digests of the partitions they share and exchange what
//! differs, so that a replica that was away ends up with all it missed without anyone asking.
//!
//! Promises: what goes over the wire follows the difference (roots, branches, leaves, versions,
//! records: each only where the one above differs), and is counted; who returned and what is dirty
//! comes first; one round at a time; bounded messages. Partitions that are being moved are left to
//! `transfer`; damaged records are asked for by name before, whatever moves (`mending`). Both sides
//! only ever join, so two rounds at once or a round cut short do no harm.
//! What one partition's comparison says is in `compare`.

#[cfg(test)]
mod bytes;
mod compare;
#[cfg(test)]
mod damage;
mod mending;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::Rng;
use ringmaster_shared::{
    event::{EventCode, Severity},
    id::{Epoch, NodeId, PartitionId},
    member::MemberStatus,
    topology::Topology,
};
use serde_json::json;
use tokio::{sync::Notify, time::Instant};

use self::{
    compare::{Comparison, Tally},
    mending::Mending,
};
use super::site::Site;
use crate::{breaks::broken, gossip::MemberView};

/// Between two rounds when nothing happens; up to a quarter is added at random.
const EVERY: Duration = Duration::from_secs(60);
/// The same while nothing changes here and the last round found all the same: where something
/// did change, that node compares by itself.
const EVERY_WHEN_QUIET: Duration = Duration::from_secs(600);
/// After this node's start, a member's return, a finished topology change, or when a record was found
/// damaged: within this range.
const SOON_MS: std::ops::Range<u64> = 1_000..3_000;

/// The last round that found all the same with everybody.
#[derive(Debug, Clone, Copy)]
struct Clean {
    at: Instant,
    epoch: Epoch,
    /// Changes of what is held here, when it began.
    changes: u64,
}

/// Cheap handle of the worker.
#[derive(Clone)]
pub struct AntiEntropy {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Members to begin with, because they returned or are known to be behind.
    urgent: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    /// Asked for, and about to begin.
    Queued,
    Running,
}

impl AntiEntropy {
    /// Starts the worker; it ends with the site's stop token.
    pub fn start(site: Arc<Site>) -> Self {
        Self::begin(site, Mending::default())
    }

    fn begin(site: Arc<Site>, mending: Mending) -> Self {
        let handle = Self {
            state: Arc::default(),
            wake: Arc::default(),
        };
        let worker = handle.clone();
        tokio::spawn(async move {
            let stop = site.stop.clone();
            stop.run_until_cancelled(worker.run(site, mending)).await;
        });
        handle
    }

    /// Runs a round now; `false` when one is under way, or about to begin.
    pub fn now(&self) -> bool {
        let mut state = self.lock();
        let idle = state.phase == Phase::Idle;
        if idle {
            state.phase = Phase::Queued;
            self.wake.notify_one();
        }
        idle
    }

    /// This member is known to be behind: a round soon, which begins with it.
    pub fn soon(&self, member: &NodeId) {
        self.lock().urgent.insert(member.clone());
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self, site: Arc<Site>, mut mending: Mending) {
        let mut members = site.network.watch();
        let mut topologies = site.replica.topology.watch();
        let mut answering = who_answers(&site.network.members());
        let mut next = Instant::now() + soon();
        let mut clean: Option<Clean> = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    if self.may_skip(&site, clean) {
                        next = Instant::now() + pause();
                        continue;
                    }
                }
                () = self.wake.notified() => {
                    if self.lock().phase != Phase::Queued {
                        next = next.min(Instant::now() + soon());
                        continue;
                    }
                }
                () = site.replica.store.damage_found() => {
                    next = next.min(Instant::now() + soon());
                    continue;
                }
                changed = members.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = who_answers(&members.borrow_and_update());
                    let returned = returned(&answering, &now);
                    if !returned.is_empty() {
                        next = next.min(Instant::now() + soon());
                        self.lock().urgent.extend(returned);
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
            let urgent = {
                let mut state = self.lock();
                state.phase = Phase::Running;
                std::mem::take(&mut state.urgent)
            };
            let ended = round(&site, &urgent, &mut mending).await;
            self.lock().phase = Phase::Idle;
            next = Instant::now();
            if !ended.mends_on {
                next += pause();
            }
            clean = ended.clean;
        }
    }

    /// Whether a round that is only due by the clock would find what the last one found.
    fn may_skip(&self, site: &Site, clean: Option<Clean>) -> bool {
        let epoch = site.replica.topology.current().map(|t| t.epoch);
        let changes = site.replica.store.digest_changes();
        stands(clean, epoch, changes, Instant::now()) && self.lock().urgent.is_empty()
    }
}

/// Whether what the last round found still holds.
fn stands(clean: Option<Clean>, epoch: Option<Epoch>, changes: u64, now: Instant) -> bool {
    clean.is_some_and(|clean| {
        now.saturating_duration_since(clean.at) < EVERY_WHEN_QUIET
            && epoch == Some(clean.epoch)
            && changes == clean.changes
    })
}

fn pause() -> Duration {
    EVERY.mul_f64(rand::rng().random_range(1.0..1.25))
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

/// Who answers that did not before, or is another process now.
fn returned(before: &BTreeMap<NodeId, u64>, now: &BTreeMap<NodeId, u64>) -> Vec<NodeId> {
    let new = now
        .iter()
        .filter(|(id, life)| before.get(*id) != Some(*life));
    new.map(|(id, _)| id.clone()).collect()
}

/// Dirty partitions by member, with the number of each mark.
type Marks = BTreeMap<NodeId, BTreeMap<PartitionId, u64>>;

/// What came of a round.
#[derive(Default)]
struct Ended {
    /// Something when all of them answered and had the same.
    clean: Option<Clean>,
    /// Damaged records came back, and there are more: the next round is due at once.
    mends_on: bool,
}

/// Asks for what is damaged here, and compares with each reachable node that shares partitions.
async fn round(site: &Site, urgent: &BTreeSet<NodeId>, mending: &mut Mending) -> Ended {
    let Some(topology) = site.replica.topology.current() else {
        return Ended::default();
    };
    if broken("no-repair") || !site.replica.lifecycle.get().replicates() {
        return Ended::default();
    }
    site.tell_damaged();
    let mends_on = mending.round(site, &topology).await;
    let clean = compare_all(site, &topology, urgent).await;
    Ended {
        // it would put off the next one
        clean: clean.filter(|_| !mends_on),
        mends_on,
    }
}

/// What it says is something when all of them answered and had the same.
async fn compare_all(site: &Site, topology: &Topology, urgent: &BTreeSet<NodeId>) -> Option<Clean> {
    let found = Clean {
        at: Instant::now(),
        epoch: topology.epoch,
        changes: site.replica.store.digest_changes(),
    };
    let marks = site.replica.store.dirty_marks();
    let dirty: BTreeMap<NodeId, Vec<PartitionId>> = marks
        .iter()
        .map(|(id, seen)| (id.clone(), seen.keys().copied().collect()))
        .collect();
    let mut all_same = topology.transition.is_none() && dirty.is_empty();
    let shared = shared_with(topology, site.me());
    for (peer, partitions) in in_order(shared, &dirty, urgent) {
        if !site.is_reachable(&peer) {
            all_same = false;
            continue;
        }
        // before anything is read
        let issued = site.issued();
        let mut comparison = Comparison::new(site, &peer, topology.epoch, issued);
        let ended = comparison.run(&partitions).await;
        let (tally, clean) = (comparison.tally, comparison.clean);
        all_same &= ended.is_ok() && partitions.iter().all(|p| clean.contains(p));
        if tally.partitions > 0 {
            report(site, &peer, tally);
        }
        if let Err(why) = ended {
            tracing::debug!(peer = %peer, "comparing partitions ended early: {why}");
        }
        let marked = dirty.get(&peer).map_or(&[][..], Vec::as_slice);
        let cleaned: Vec<PartitionId> = marked
            .iter()
            .filter(|p| clean.contains(p))
            .copied()
            .collect();
        clear(site, &marks, &peer, cleaned).await;
    }
    for (target, partitions) in dirty {
        settle_dirty(site, topology, &marks, &target, partitions).await;
    }
    all_same.then_some(found)
}

/// Whom to compare with what, the pressing things first: members that returned or have dirty
/// partitions, and of each its dirty partitions.
fn in_order(
    shared: BTreeMap<NodeId, Vec<PartitionId>>,
    dirty: &BTreeMap<NodeId, Vec<PartitionId>>,
    urgent: &BTreeSet<NodeId>,
) -> Vec<(NodeId, Vec<PartitionId>)> {
    let mut order: Vec<_> = shared.into_iter().collect();
    for (peer, partitions) in &mut order {
        if let Some(dirty) = dirty.get(peer) {
            partitions.sort_by_key(|p| !dirty.contains(p));
        }
    }
    order.sort_by_key(|(peer, _)| !(urgent.contains(peer) || dirty.contains_key(peer)));
    order
}

/// Dirty marks that no comparison of this node's own copies can clear: of partitions the target
/// no longer holds, and of partitions this node only coordinated writes for. Of the latter the
/// others compare their copies; here it is only asked whether they are the same by now.
async fn settle_dirty(
    site: &Site,
    topology: &Topology,
    marks: &Marks,
    target: &NodeId,
    partitions: Vec<PartitionId>,
) {
    let (held, gone): (Vec<_>, Vec<_>) = partitions
        .into_iter()
        .partition(|p| topology.is_replica(*p, target));
    clear(site, marks, target, gone).await;
    let elsewhere: Vec<PartitionId> = held
        .into_iter()
        .filter(|p| !topology.is_replica(*p, site.me()))
        .collect();
    if elsewhere.is_empty() || !site.is_reachable(target) {
        return;
    }
    match compare::same_elsewhere(site, topology, target, &elsewhere).await {
        Ok(same) => clear(site, marks, target, same).await,
        Err(why) => tracing::debug!(node = %target, "dirty partitions stay marked: {why}"),
    }
}

/// By their numbers when the round began: what was marked since stays.
async fn clear(site: &Site, marks: &Marks, target: &NodeId, partitions: Vec<PartitionId>) {
    let Some(seen) = marks.get(target).filter(|_| !partitions.is_empty()) else {
        return;
    };
    let cleaned = partitions
        .into_iter()
        .filter_map(|p| Some((p, *seen.get(&p)?)))
        .collect();
    if let Err(error) = site.replica.store.clear_dirty(target, cleaned).await {
        tracing::debug!(node = %target, "dirty partitions stay marked: {error}");
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
        "compared with {peer}: took over {} keys and handed over {} in {} partitions, with {} bytes",
        tally.pulled,
        tally.pushed,
        tally.partitions,
        tally.traffic.total()
    );
    let details = json!({
        "pulled": tally.pulled, "pushed": tally.pushed, "partitions": tally.partitions,
        "bytes_sent": tally.traffic.sent, "bytes_received": tally.traffic.received,
    });
    let code = EventCode::RepairFinished;
    site.events
        .emit(code, Severity::Info, Some(peer), what, details);
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::{
        id::ClusterId,
        topology::{RingMember, Step, Transition},
    };

    use super::*;
    use crate::replication::testing::id;

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
        let cases: [(Faces, Faces, &[&str]); 4] = [
            (&[("a", 1)], &[("a", 1)], &[]),
            (&[("a", 1), ("b", 1)], &[("a", 1)], &[]),
            (&[("a", 1)], &[("a", 1), ("b", 1)], &["b"]),
            (&[("a", 1), ("b", 1)], &[("a", 2), ("b", 1)], &["a"]),
        ];
        for (before, now, want) in cases {
            let want: Vec<NodeId> = want.iter().map(|n| id(n)).collect();
            assert_eq!(returned(&set(before), &set(now)), want);
        }
    }

    #[test]
    fn who_returned_and_what_is_dirty_comes_first() {
        let shared = BTreeMap::from([
            (id("a"), vec![1, 2, 3]),
            (id("b"), vec![4, 5]),
            (id("c"), vec![6, 7, 8]),
        ]);
        let dirty = BTreeMap::from([(id("c"), vec![8, 40])]);
        let order = in_order(shared.clone(), &dirty, &[id("b")].into());
        let want = [
            (id("b"), vec![4, 5]),
            (id("c"), vec![8, 6, 7]),
            (id("a"), vec![1, 2, 3]),
        ];
        assert_eq!(order, want);
        let calm = in_order(shared.clone(), &BTreeMap::new(), &BTreeSet::new());
        assert!(calm.into_iter().eq(shared));
    }

    #[test]
    fn a_clean_round_stands_for_the_next_ones_while_nothing_changes() {
        let at = Instant::now();
        let clean = Some(Clean {
            at,
            epoch: 3,
            changes: 7,
        });
        let cases = [
            (clean, Some(3), 7, Duration::ZERO, true),
            (None, Some(3), 7, Duration::ZERO, false),
            (clean, Some(4), 7, Duration::ZERO, false),
            (clean, None, 7, Duration::ZERO, false),
            (clean, Some(3), 8, Duration::ZERO, false),
            (clean, Some(3), 7, EVERY_WHEN_QUIET, false),
        ];
        for (clean, epoch, changes, later, want) in cases {
            let stands = stands(clean, epoch, changes, at + later);
            assert_eq!(stands, want, "{clean:?} {epoch:?} {changes} {later:?}");
        }
    }

    #[test]
    fn a_queued_round_is_not_begun_twice() {
        let handle = AntiEntropy {
            state: Arc::default(),
            wake: Arc::default(),
        };
        assert!(handle.now());
        assert!(!handle.now(), "queued");
        handle.lock().phase = Phase::Running;
        assert!(!handle.now(), "running");
        handle.lock().phase = Phase::Idle;
        assert!(handle.now());
    }
}
