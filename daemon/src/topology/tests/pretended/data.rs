//! A model of the data plane over the pretended cluster: one register a partition, replicas that
//! serve under the real epoch gate, coordinators that go by the real requirements, new replicas
//! filled from the old ones; messages that are late, and lost.
//!
//! The value of a register is the number of its latest write; each has one writer, so that what
//! a read may return is known: nothing below what was acknowledged, or read, before it began.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use ringmaster_shared::{
    id::{NodeId, PartitionId},
    quorum::{Group, Requirement},
    topology::{Access, Topology},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{Cluster, Seat};
use crate::topology::{EpochMismatch, TopologyHandle};

/// For one round of an operation.
const ROUND: Duration = Duration::from_millis(800);
/// Copies of partitions a node lost are kept so long, as in the real replication room.
const FORGET_AFTER: Duration = Duration::from_secs(10);

/// How new replicas are filled; the wrong way shows that the checks bite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::topology::tests) enum Filling {
    #[default]
    FromAQuorum,
    FromOne,
}

/// What clients know of one register.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// The last number handed out for a write.
    issued: u64,
    /// No read that begins now may return less.
    floor: u64,
}

#[derive(Default)]
pub(super) struct Data {
    /// Survives crashes, but not [`Cluster::lose_data`].
    stores: BTreeMap<NodeId, BTreeMap<PartitionId, u64>>,
    known: BTreeMap<PartitionId, Known>,
    filling: Filling,
    random: Option<StdRng>,
    violations: Vec<String>,
    acknowledged: usize,
    reads: usize,
}

/// What the clients did, so that a test can show that something happened.
#[derive(Debug, Clone, Default)]
pub(in crate::topology::tests) struct Checks {
    pub violations: Vec<String>,
    pub acknowledged: usize,
    pub reads: usize,
}

#[derive(Debug, Clone, Copy)]
enum Ask {
    Read,
    /// A read that is answered only when no request of an earlier epoch is under way.
    Scan,
    /// Answered with the same number once it is stored.
    Write(u64),
}

#[derive(Debug, Clone)]
enum Answer {
    Has(u64),
    Behind(Arc<Topology>),
    /// The replica is behind the caller.
    Ahead,
    No,
}

/// How one round ended.
enum Round {
    /// The answers of a quorum.
    Met(BTreeMap<NodeId, u64>),
    /// Go by a later topology and start over.
    Moved,
    Failed,
}

impl Cluster {
    pub(in crate::topology::tests) fn fill_in_this_way(&self, filling: Filling, seed: u64) {
        let mut world = self.lock();
        world.data.filling = filling;
        world.data.random = Some(StdRng::seed_from_u64(seed));
    }

    pub(in crate::topology::tests) fn checks(&self) -> Checks {
        let data = &self.lock().data;
        Checks {
            violations: data.violations.clone(),
            acknowledged: data.acknowledged,
            reads: data.reads,
        }
    }

    /// What this node stored is gone.
    pub(in crate::topology::tests) fn lose_data(&self, node: &NodeId) {
        self.lock().data.stores.remove(node);
    }

    /// Up, and in the ring it goes by.
    pub(in crate::topology::tests) fn coordinators(&self) -> Vec<NodeId> {
        let world = self.lock();
        let up = world
            .nodes
            .iter()
            .filter(|(id, _)| !world.down.contains(*id));
        up.filter(|(id, node)| {
            let ring = node.handle.as_ref().and_then(TopologyHandle::current);
            ring.is_some_and(|t| t.settled_members().any(|m| m.id == **id))
        })
        .map(|(id, _)| id.clone())
        .collect()
    }

    fn seat(&self, node: &NodeId) -> Seat {
        Seat {
            me: node.clone(),
            cluster: self.clone(),
        }
    }

    /// One client that writes and one that reads, until told to end, at any node that is up.
    pub(in crate::topology::tests) async fn client(self, partition: PartitionId, writes: bool) {
        loop {
            let pause = self.draw(40..300);
            sleep(Duration::from_millis(pause)).await;
            let nodes = self.coordinators();
            if nodes.is_empty() {
                continue;
            }
            let seat = self.seat(&nodes[self.draw(0..nodes.len() as u64) as usize]);
            if writes {
                seat.write(partition).await;
            } else {
                seat.read(partition).await;
            }
        }
    }

    /// A write through some node that is up succeeds within the time.
    pub(in crate::topology::tests) async fn is_available(
        &self,
        partition: PartitionId,
        within: Duration,
    ) -> bool {
        let until = Instant::now() + within;
        while Instant::now() < until {
            for node in self.coordinators() {
                if self.seat(&node).write(partition).await {
                    return true;
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Every quorum of every partition holds what was acknowledged, or read.
    pub(in crate::topology::tests) fn every_quorum_knows(&self, ring: &Topology) -> Vec<String> {
        let world = self.lock();
        let mut missing = Vec::new();
        for p in 0..ring.partition_count() {
            let floor = world.data.known.get(&p).map_or(0, |k| k.floor);
            let replicas = ring.replicas(p);
            let has = |id: &NodeId| world.data.stores.get(id).and_then(|s| s.get(&p)).copied();
            let without: Vec<&NodeId> = replicas
                .iter()
                .filter(|id| has(id).unwrap_or(0) < floor)
                .collect();
            // a quorum made of those who miss it would answer without it
            if without.len() >= Group::majority_of(replicas.clone()).need {
                missing.push(format!("partition {p}: {floor} is unknown to {without:?}"));
            }
        }
        missing
    }

    /// What this node does not hold of these partitions although it is known.
    pub(in crate::topology::tests) fn lacks(
        &self,
        node: &NodeId,
        ring: &Topology,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Vec<String> {
        let world = self.lock();
        let held = world.data.stores.get(node);
        let held = |p: PartitionId| held.and_then(|s| s.get(&p)).copied().unwrap_or(0);
        let floor = |p: PartitionId| world.data.known.get(&p).map_or(0, |k| k.floor);
        let lacking = partitions.filter(|p| ring.is_replica(*p, node) && held(*p) < floor(*p));
        lacking
            .map(|p| format!("{node} has not got back partition {p}"))
            .collect()
    }

    /// From the seeded source of the run.
    fn draw(&self, range: Range<u64>) -> u64 {
        let mut world = self.lock();
        let random = world
            .data
            .random
            .get_or_insert_with(|| StdRng::seed_from_u64(0));
        random.random_range(range)
    }

    fn note(&self, partition: PartitionId, note: impl FnOnce(&mut Known)) {
        note(self.lock().data.known.entry(partition).or_default());
    }
}

impl Seat {
    /// Whether it was acknowledged.
    async fn write(&self, partition: PartitionId) -> bool {
        let number = {
            let mut world = self.cluster.lock();
            let known = world.data.known.entry(partition).or_default();
            known.issued += 1;
            known.issued
        };
        let until = Instant::now() + 3 * ROUND;
        while Instant::now() < until {
            let Some(ring) = self.ring() else {
                return false;
            };
            let needed = ring.requirement(partition, Access::Write);
            let asked = self.round(&ring, partition, needed, Ask::Write(number));
            match asked.await {
                Round::Met(_) => {
                    self.cluster
                        .note(partition, |k| k.floor = k.floor.max(number));
                    self.cluster.lock().data.acknowledged += 1;
                    return true;
                }
                Round::Moved => {}
                Round::Failed => return false,
            }
        }
        false
    }

    async fn read(&self, partition: PartitionId) {
        let floor = {
            let world = self.cluster.lock();
            world.data.known.get(&partition).map_or(0, |k| k.floor)
        };
        let until = Instant::now() + 3 * ROUND;
        while Instant::now() < until {
            let Some(ring) = self.ring() else { return };
            let needed = ring.requirement(partition, Access::Read);
            let asked = self.round(&ring, partition, needed, Ask::Read);
            let found = match asked.await {
                Round::Met(found) => found,
                Round::Moved => continue,
                Round::Failed => return,
            };
            let value = found.values().copied().max().unwrap_or(0);
            let holders = found.iter().filter(|(_, v)| **v == value);
            let holders: BTreeSet<NodeId> = holders.map(|(id, _)| id.clone()).collect();
            let write = ring.requirement(partition, Access::Write);
            if value > 0 && !write.is_met(&holders) {
                let back = self.round(&ring, partition, write, Ask::Write(value));
                match back.await {
                    Round::Met(_) => {}
                    Round::Moved => continue,
                    Round::Failed => return,
                }
            }
            let mut world = self.cluster.lock();
            world.data.reads += 1;
            if value < floor {
                let text = format!(
                    "{} read {value} of partition {partition} at epoch {}, {floor} was known before",
                    self.me, ring.epoch
                );
                world.data.violations.push(text);
            }
            let known = world.data.known.entry(partition).or_default();
            known.floor = known.floor.max(value);
            return;
        }
    }

    fn ring(&self) -> Option<Arc<Topology>> {
        let handle = self.cluster.handle_of(&self.me)?;
        handle.current()
    }

    /// Asks the replicas (a read only those it needs) and waits until enough have answered.
    async fn round(
        &self,
        ring: &Arc<Topology>,
        partition: PartitionId,
        needed: Requirement,
        ask: Ask,
    ) -> Round {
        let whom = match ask {
            Ask::Read | Ask::Scan => needed.replicas(),
            Ask::Write(_) => ring.all_replicas(partition),
        };
        let until = Instant::now() + ROUND;
        let (sender, mut answers) = mpsc::channel(whom.len().max(1) * 4);
        for id in whom {
            tokio::spawn(
                self.clone()
                    .deliver(id, ring.clone(), partition, ask, sender.clone()),
            );
        }
        drop(sender);
        let mut met = BTreeMap::new();
        while let Ok(Some((id, answer))) = timeout_at(until, answers.recv()).await {
            match answer {
                Answer::Has(value) => {
                    met.insert(id, value);
                    if needed.is_met(&met.keys().cloned().collect()) {
                        return Round::Met(met);
                    }
                }
                Answer::Behind(later) => {
                    let Some(handle) = self.cluster.handle_of(&self.me) else {
                        return Round::Failed;
                    };
                    handle.install((*later).clone()).await.expect("well formed");
                    return Round::Moved;
                }
                Answer::Ahead | Answer::No => {}
            }
        }
        Round::Failed
    }

    /// One question on its way: it may be late, it may be lost, and so may its answer. It goes
    /// on when nobody waits for it any more.
    async fn deliver(
        self,
        to: NodeId,
        ring: Arc<Topology>,
        partition: PartitionId,
        ask: Ask,
        answers: mpsc::Sender<(NodeId, Answer)>,
    ) {
        for _ in 0..2 {
            let late = match self.cluster.draw(0..40) {
                0 => self.cluster.draw(300..3000),
                _ => self.cluster.draw(1..15),
            };
            if to != self.me {
                sleep(Duration::from_millis(late)).await;
            }
            if to != self.me && self.loses() {
                return;
            }
            let Some(handle) = self.cluster.handle_of(&to) else {
                return;
            };
            let answer = self.serve(&to, &handle, &ring, partition, ask).await;
            if let Answer::Ahead = answer {
                // teach it and ask again
                let _ = handle.install((*ring).clone()).await;
                continue;
            }
            if to != self.me && self.loses() {
                return;
            }
            let _ = answers.send((to, answer)).await;
            return;
        }
    }

    /// The replica's side, under the real gate; it takes a while before the store is reached.
    async fn serve(
        &self,
        to: &NodeId,
        handle: &TopologyHandle,
        ring: &Topology,
        partition: PartitionId,
        ask: Ask,
    ) -> Answer {
        let guard = match handle.guard(ring.epoch) {
            Ok(guard) => guard,
            Err(EpochMismatch::CallerBehind(later)) => return Answer::Behind(later),
            Err(_) => return Answer::Ahead,
        };
        if !guard.topology.is_replica(partition, to) {
            return Answer::No;
        }
        let identity = &handle.inner.identity;
        let refused = match ask {
            Ask::Write(_) => identity.forgot_votes(),
            Ask::Read => identity.needs_refill(),
            Ask::Scan => identity.needs_refill() || handle.settled_epoch() < ring.epoch,
        };
        if refused {
            return Answer::No;
        }
        sleep(Duration::from_millis(self.cluster.draw(0..20))).await;
        let mut world = self.cluster.lock();
        // it died meanwhile, and its folder with the guard's promise is as it was
        if world.down.contains(to) {
            return Answer::No;
        }
        let store = world.data.stores.entry(to.clone()).or_default();
        let held = store.entry(partition).or_default();
        match ask {
            Ask::Read | Ask::Scan => Answer::Has(*held),
            Ask::Write(number) => {
                *held = number.max(*held);
                Answer::Has(number)
            }
        }
    }

    /// Fills what this change brings to this node; `false`: not now.
    pub(super) async fn copy_gained(&self, topology: &Arc<Topology>) -> bool {
        let filling = self.cluster.lock().data.filling;
        for partition in topology.gained_by(&self.me) {
            let mut needed = topology.requirement(partition, Access::Read);
            if filling == Filling::FromOne {
                let old = topology.replicas(partition);
                let one = self.cluster.draw(0..old.len() as u64);
                needed.groups = vec![Group::majority_of(vec![old[one as usize].clone()])];
            }
            if !self.copy(topology, partition, needed).await {
                return false;
            }
        }
        true
    }

    /// Gets back what this node lost of all that it holds; `false`: not now. Without clients there is
    /// nothing to be lost, whoever is down.
    pub(super) async fn copy_lost(&self, topology: &Arc<Topology>) -> bool {
        if self.cluster.lock().data.known.is_empty() {
            return true;
        }
        for partition in 0..topology.partition_count() {
            if !topology.is_replica(partition, &self.me) {
                continue;
            }
            let mut others = topology.replicas(partition);
            let group = Group::majority_of(others.clone());
            others.retain(|id| *id != self.me);
            // no quorum fits into this one and those that were not scanned
            let need = (group.members.len() - group.need + 1).min(others.len());
            let groups = vec![Group {
                members: others,
                need,
            }];
            if need > 0 && !self.copy(topology, partition, Requirement { groups }).await {
                return false;
            }
        }
        true
    }

    async fn copy(
        &self,
        topology: &Arc<Topology>,
        partition: PartitionId,
        needed: Requirement,
    ) -> bool {
        let Round::Met(found) = self.round(topology, partition, needed, Ask::Scan).await else {
            return false;
        };
        let value = found.values().copied().max().unwrap_or(0);
        let mut world = self.cluster.lock();
        let store = world.data.stores.entry(self.me.clone()).or_default();
        let held = store.entry(partition).or_default();
        *held = value.max(*held);
        true
    }

    /// Drops what this node does not hold any more, if the ring is still the same then.
    pub(super) fn forget_later(&self, topology: &Topology) {
        if topology.transition.is_some() {
            return;
        }
        let (this, epoch) = (self.clone(), topology.epoch);
        tokio::spawn(async move {
            sleep(FORGET_AFTER).await;
            let Some(ring) = this.ring().filter(|t| t.epoch == epoch) else {
                return;
            };
            let mut world = this.cluster.lock();
            if let Some(store) = world.data.stores.get_mut(&this.me) {
                store.retain(|p, _| ring.is_replica(*p, &this.me));
            }
        });
    }
}
