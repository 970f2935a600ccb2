//! Quorum reads and writes on behalf of clients.
//!
//! Promises: with the defaults every key is one linearizable register, through whichever node it
//! is read and written; a write answered well is synced on a write quorum; an error says whether
//! anything may have been stored. Below: the pure decisions (`round`, `write`, `read`), their
//! driver (`drive`), listings (`listing`). Leaves what one replica does to `replica`, and
//! bringing replicas up later to `hints`, `anti_entropy` and `transfer`.

mod calls;
mod drive;
#[cfg(test)]
pub mod history;
mod key_locks;
mod latency;
mod listing;
mod read;
pub mod round;
mod sight;
#[cfg(test)]
mod simulation;
mod unresolved;
mod write;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringmaster_shared::{
    api::data::{Consistency, ReplicaView},
    event::{EventCode, Severity},
    id::{NodeId, PartitionId},
    key::Key,
    member::Lifecycle,
    topology::Topology,
    version::{Record, Value, VersionVector},
};
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::listing::Listing;
pub use self::write::{Condition, SIBLINGS_MAX};
use self::{
    key_locks::KeyLocks, round::Breaks, sight::Sight, unresolved::Unresolved, write::SIBLINGS_WARN,
};
use super::{
    anti_entropy::AntiEntropy,
    clock::HybridClock,
    hints::Hints,
    network::{LiveNetwork, Network},
    peers::Peers,
    replica::ReplicaContext,
    settings::{RepairSettings, Traffic},
    site::Site,
    tombstones::{self, Collector},
    transfer::{
        self,
        refill::{Refill, Stuck},
    },
};
use crate::{
    breaks::{self, broken},
    events::Events,
    gossip::GossipHandle,
    identity::IdentityStore,
    lifecycle::LifecycleHandle,
    storage::Store,
    topology::TopologyHandle,
};

/// Client operations under way at once; more are turned away.
const OPERATIONS_MAX: usize = 4096;
/// KiB of records kept for replicas that were not needed for the answer.
const TAIL_KIB_MAX: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub struct WriteRequest {
    pub key: Key,
    /// `None` deletes.
    pub value: Option<Value>,
    /// What the client had seen; `None` supersedes whatever is there.
    pub context: Option<VersionVector>,
    pub condition: Condition,
    pub consistency: Consistency,
    pub timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct WriteOutcome {
    pub partition: PartitionId,
    pub replicas: Vec<NodeId>,
    pub successful: Vec<NodeId>,
    pub failed: Vec<NodeId>,
    pub quorum_achieved: bool,
    /// What the write left behind; its clock is what the client knows now, for its next context.
    pub record: Record,
    /// For earlier writes of the same key.
    pub waited: Duration,
}

/// What is done as soon as a write has ended, before its caller hears of it.
type Ended = Box<dyn FnOnce(&Result<WriteOutcome, ReplicationError>) + Send>;

#[derive(Debug, Clone)]
pub struct ReadOutcome {
    pub partition: PartitionId,
    pub replicas: Vec<NodeId>,
    pub responded: Vec<NodeId>,
    pub repaired: Vec<NodeId>,
    pub quorum_achieved: bool,
    /// Merged over all that answered; without siblings when nobody holds the key.
    pub record: Record,
}

#[derive(Debug, Clone, Error)]
pub enum ReplicationError {
    /// Known before anything was sent.
    #[error("{}", quorum_sentence(.missing, *.needed, *.available))]
    QuorumNotMet {
        partition: PartitionId,
        needed: usize,
        available: usize,
        /// Who does not answer, and why.
        missing: BTreeMap<NodeId, String>,
    },
    /// There would be a quorum if it were not for replicas whose disks are nearly full; nothing
    /// was stored.
    #[error("{}", read_only_sentence(.missing, *.needed, *.available))]
    ReadOnly {
        partition: PartitionId,
        needed: usize,
        available: usize,
        missing: BTreeMap<NodeId, String>,
    },
    #[error("{}", deadline_sentence(.missing, *.needed, *.answered, *.may_have_written))]
    Deadline {
        needed: usize,
        answered: usize,
        missing: BTreeMap<NodeId, String>,
        /// False when nothing can have changed (a read, or a write that was still reading).
        may_have_written: bool,
    },
    #[error("{}", if *.present { "the key is not as the condition says" } else { "the key has no value" })]
    Precondition {
        /// What is there now.
        clock: VersionVector,
        present: bool,
    },
    /// A conditional write met another one.
    #[error(
        "another write of the key took place at the same moment; this one is stored beside it or superseded by it: read again, settle the siblings, and write with that context"
    )]
    NotAlone { clock: VersionVector },
    #[error(
        "the key has {count} versions side by side that the context does not cover: read it, settle the siblings, and write with that read's context (or without any)"
    )]
    Siblings { clock: VersionVector, count: usize },
    #[error("this node is not serving: {0}")]
    NotServing(String),
    #[error("too many requests for this key or node are under way")]
    TooBusy,
    /// See [`unresolved`].
    #[error(
        "what became of an earlier write of this key through this node is not known, and that was so too often of late; nothing was stored: write through another node, or in some minutes"
    )]
    TooOftenUnknown,
    #[error("{0}")]
    Storage(String),
}

fn quorum_sentence(missing: &BTreeMap<NodeId, String>, needed: usize, available: usize) -> String {
    let who: Vec<String> = missing
        .iter()
        .map(|(id, why)| format!("{id} ({why})"))
        .collect();
    format!(
        "quorum not met: {available} of the {needed} replicas needed answer; missing: {}",
        who.join(", ")
    )
}

fn read_only_sentence(
    missing: &BTreeMap<NodeId, String>,
    needed: usize,
    available: usize,
) -> String {
    let who: Vec<String> = missing
        .iter()
        .map(|(id, why)| format!("{id} ({why})"))
        .collect();
    format!(
        "not written, disks are nearly full: {available} of the {needed} replicas needed take writes; missing: {}",
        who.join(", ")
    )
}

fn deadline_sentence(
    missing: &BTreeMap<NodeId, String>,
    needed: usize,
    answered: usize,
    may_have_written: bool,
) -> String {
    let outcome = if may_have_written {
        "whether the write took place is not known"
    } else {
        "nothing was changed; try again"
    };
    let who: Vec<String> = missing
        .iter()
        .map(|(id, why)| format!("{id} ({why})"))
        .collect();
    let who = if who.is_empty() {
        String::new()
    } else {
        format!("; missing: {}", who.join(", "))
    };
    format!("{answered} of the {needed} replicas needed answered in time{who}; {outcome}")
}

pub struct CoordinatorParts {
    pub node_id: NodeId,
    pub identity: IdentityStore,
    pub lifecycle: LifecycleHandle,
    pub store: Store,
    pub topology: TopologyHandle,
    pub gossip: GossipHandle,
    pub peers: Peers,
    pub events: Events,
    /// The clock that answers to others go by as well.
    pub clock: HybridClock,
    pub repair: RepairSettings,
    pub stop: CancellationToken,
}

/// Cheap handle.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
    repair: AntiEntropy,
    tombstones: Collector,
    refill: Refill,
}

/// What background repair has to say about itself.
#[derive(Debug, Clone, Default)]
pub struct RepairLook {
    /// Partitions by the member that has to be compared in them.
    pub dirty: BTreeMap<NodeId, u64>,
    /// Members that deleted keys wait for.
    pub tombstones_wait_for: Vec<NodeId>,
    /// Deleted keys that were old enough to be forgotten when last looked at, and are not yet.
    pub tombstones_waiting: u64,
    pub traffic: Traffic,
    /// Why lost data does not come back before an operator decides, if so.
    pub refill_blocked: Option<String>,
}

struct Inner {
    site: Arc<Site>,
    hints: Hints,
    locks: Arc<KeyLocks>,
    unresolved: Unresolved,
    sight: Sight,
    operations: Arc<Semaphore>,
    tails: Arc<Semaphore>,
    breaks: Breaks,
}

impl Coordinator {
    /// Also starts the background workers: hint replay, anti-entropy, filling of partitions
    /// this node gains, refill after loss.
    pub fn start(parts: CoordinatorParts) -> Self {
        let replica = ReplicaContext {
            node_id: parts.node_id,
            identity: parts.identity,
            store: parts.store,
            topology: parts.topology,
            lifecycle: parts.lifecycle,
            clock: parts.clock,
            grace_ms: parts.repair.grace_ms(),
        };
        let network = LiveNetwork {
            gossip: parts.gossip,
            peers: parts.peers,
        };
        let network = Arc::new(network);
        Self::over(replica, network, parts.events, parts.repair, parts.stop)
    }

    /// The same over any network.
    pub fn over(
        replica: ReplicaContext,
        network: Arc<dyn Network>,
        events: Events,
        settings: RepairSettings,
        stop: CancellationToken,
    ) -> Self {
        let site = Arc::new(Site::new(replica, network, events, settings, stop));
        let hints = Hints::start(site.clone());
        let repair = AntiEntropy::start(site.clone());
        let refill = transfer::start(site.clone());
        let tombstones = tombstones::start(site.clone(), repair.clone());
        let inner = Inner {
            site,
            hints,
            locks: Arc::default(),
            unresolved: Unresolved::default(),
            sight: Sight::new(),
            operations: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            tails: Arc::new(Semaphore::new(TAIL_KIB_MAX)),
            breaks: test_breaks(),
        };
        Self {
            inner: Arc::new(inner),
            repair,
            tombstones,
            refill,
        }
    }

    /// [`Self::write_then`] with nothing to do at the end.
    #[cfg(test)]
    pub async fn write(&self, request: WriteRequest) -> Result<WriteOutcome, ReplicationError> {
        self.write_then(request, |_| {}).await
    }

    /// Stores a value or a tombstone. Goes on to its end when the caller stops waiting; `ended` is
    /// called there, and what it holds is held until then.
    ///
    /// Of several writes with the same condition (`Absent`, `Exactly`) at most one succeeds,
    /// through whichever coordinators; see `write`.
    pub async fn write_then(
        &self,
        request: WriteRequest,
        ended: impl FnOnce(&Result<WriteOutcome, ReplicationError>) + Send + 'static,
    ) -> Result<WriteOutcome, ReplicationError> {
        let slot = self.inner.admit()?;
        let (to, answer) = oneshot::channel();
        let ended: Ended = Box::new(move |outcome| {
            drop(slot);
            ended(outcome);
        });
        let reply = drive::Reply { ended, to };
        tokio::spawn(drive::write(self.inner.clone(), request, reply));
        let outcome = answer.await.unwrap_or_else(|_| Err(interrupted()));
        if let Ok(done) = &outcome {
            tracing::trace!(partition = done.partition, by = ?done.successful, "written");
            self.inner.count_siblings(done.partition, &done.record);
        }
        outcome
    }

    pub async fn read(
        &self,
        key: Key,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<ReadOutcome, ReplicationError> {
        let slot = self.inner.admit()?;
        let outcome = drive::read(self.inner.clone(), key, consistency, timeout).await;
        drop(slot);
        if let Ok(done) = &outcome {
            tracing::trace!(partition = done.partition, by = ?done.responded, "read");
            self.inner.count_siblings(done.partition, &done.record);
        }
        outcome
    }

    /// Keys in byte order, over all partitions; a quorum of each must answer. See `listing`.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        timeout: Duration,
    ) -> Result<Listing, ReplicationError> {
        let _slot = self.inner.admit()?;
        self.inner.list(prefix, after, limit, timeout).await
    }

    /// What each replica of the key holds, old and new ones during a change.
    pub async fn replicas(&self, key: &Key, timeout: Duration) -> (PartitionId, Vec<ReplicaView>) {
        self.inner.replicas(key, timeout).await
    }

    /// Runs a round of anti-entropy now; `false` when one is under way or about to begin.
    pub fn repair_now(&self) -> bool {
        self.repair.now()
    }

    pub fn repair_look(&self) -> RepairLook {
        let dirty = self.inner.site.replica.store.dirty().into_iter();
        let (tombstones_wait_for, tombstones_waiting) = self.tombstones.waiting();
        let stuck = self.refill.stuck();
        RepairLook {
            dirty: dirty.map(|(id, p)| (id, p.len() as u64)).collect(),
            tombstones_wait_for,
            tombstones_waiting,
            traffic: self.inner.site.meter.read(),
            refill_blocked: stuck.map(|stuck| stuck.sentence(self.inner.site.me())),
        }
    }

    /// An operator accepts that what the other replicas do not hold is lost; `None` when nothing
    /// waits for that.
    pub fn accept_loss(&self) -> Option<Stuck> {
        self.refill.accept_loss()
    }

    /// Takes all room for the tails of writes until it is dropped.
    #[cfg(test)]
    pub(in crate::replication) fn without_tails(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = self.inner.tails.clone();
        let all = all.try_acquire_many_owned(TAIL_KIB_MAX as u32);
        all.expect("no tail is under way")
    }

    /// Requests of clients under way here, for draining.
    pub fn in_flight(&self) -> usize {
        OPERATIONS_MAX - self.inner.operations.available_permits()
    }
}

impl Inner {
    /// Takes one of the slots of client operations, if this node serves clients at all.
    fn admit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, ReplicationError> {
        let lifecycle = &self.site.replica.lifecycle;
        let takes_clients = matches!(
            lifecycle.get(),
            Lifecycle::Joining | Lifecycle::Recovering | Lifecycle::Serving
        );
        if !takes_clients || self.topology().is_err() {
            let state = lifecycle.state();
            let waiting = state
                .waiting_for
                .map(|what| format!(", waiting for {what}"));
            return Err(ReplicationError::NotServing(format!(
                "{}{}",
                state.lifecycle.as_str(),
                waiting.unwrap_or_default()
            )));
        }
        let slot = self.operations.clone().try_acquire_owned();
        slot.map_err(|_| ReplicationError::TooBusy)
    }

    /// Tells the operator of a key whose versions nobody settles, without naming the key.
    fn count_siblings(&self, partition: PartitionId, record: &Record) {
        let count = record.siblings.len();
        if count < SIBLINGS_WARN || !self.site.worth_reporting(EventCode::SiblingsMany, None) {
            return;
        }
        let message = format!(
            "a key of partition {partition} has {count} versions side by side; past {SIBLINGS_MAX} writes with a context that leaves them are refused: its clients must read, settle them and write with the read's context"
        );
        let details = serde_json::json!({
            "partition": partition, "siblings": count, "limit": SIBLINGS_MAX,
        });
        let events = &self.site.events;
        events.emit(
            EventCode::SiblingsMany,
            Severity::Warning,
            None,
            message,
            details,
        );
    }

    fn topology(&self) -> Result<Arc<Topology>, ReplicationError> {
        let topology = self.site.replica.topology.current();
        topology.ok_or_else(|| ReplicationError::NotServing("it has no topology yet".to_owned()))
    }
}

/// The task of a write died, which only a bug can do.
fn interrupted() -> ReplicationError {
    ReplicationError::Deadline {
        needed: 0,
        answered: 0,
        missing: BTreeMap::new(),
        may_have_written: true,
    }
}

/// Steps of the protocol to leave out; test builds only.
fn test_breaks() -> Breaks {
    breaks::confess();
    Breaks {
        write_back: broken("write-back") || broken("no-repair"),
        version_query: broken("version-query"),
        hedging: broken("hedging"),
        last_question: broken("last-question"),
        early_ack: broken("early-ack"),
        ignore_context: broken("ignore-context"),
        keep_superseded: broken("keep-superseded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_deadline_says_who_and_what_became_of_it() {
        let text = |may_have_written, missing: &[(&str, &str)]| {
            let missing = missing.iter().map(|(id, why)| {
                let id = NodeId::new(id).expect("valid");
                (id, (*why).to_owned())
            });
            ReplicationError::Deadline {
                needed: 2,
                answered: 1,
                missing: missing.collect(),
                may_have_written,
            }
            .to_string()
        };
        assert_eq!(
            text(false, &[("node-2", "no answer in time")]),
            "1 of the 2 replicas needed answered in time; missing: node-2 (no answer in time); \
             nothing was changed; try again"
        );
        assert_eq!(
            text(true, &[]),
            "1 of the 2 replicas needed answered in time; whether the write took place is not known"
        );
    }
}
