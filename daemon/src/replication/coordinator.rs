//! Quorum reads and writes on behalf of clients.
//!
//! Promises: with the defaults every key is one linearizable register, through whichever node it
//! is read and written; a write answered well is synced on a write quorum; an error says whether
//! anything may have been stored. Below: the pure decisions (`round`, `write`, `read`), their
//! driver (`drive`), listings (`listing`). Leaves what one replica does to `replica`, and
//! bringing replicas up later to `hints`, `anti_entropy` and `transfer`.

mod calls;
mod clock;
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
mod write;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringmaster_shared::{
    api::data::{Consistency, ReplicaView},
    id::{NodeId, PartitionId},
    key::Key,
    member::Lifecycle,
    topology::Topology,
    version::{Record, Value, VersionVector},
};
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use self::{clock::HybridClock, key_locks::KeyLocks, round::Breaks, sight::Sight};
use super::{
    anti_entropy::AntiEntropy,
    hints::Hints,
    network::{LiveNetwork, Network},
    peers::Peers,
    replica::ReplicaContext,
    site::Site,
    transfer,
};
use crate::{
    events::Events, gossip::GossipHandle, identity::IdentityStore, lifecycle::LifecycleHandle,
    storage::Store, topology::TopologyHandle,
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
    /// `If-None-Match: *`.
    pub only_if_absent: bool,
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
    /// What the write left behind, for the client's next context.
    pub record: Record,
}

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
    #[error("{}", deadline_sentence(.missing, *.needed, *.answered, *.may_have_written))]
    Deadline {
        needed: usize,
        answered: usize,
        missing: BTreeMap<NodeId, String>,
        /// False when nothing can have changed (a read, or a write that was still reading).
        may_have_written: bool,
    },
    #[error("the key exists already")]
    Exists,
    #[error("this node is not serving: {0}")]
    NotServing(String),
    #[error("too many requests for this key or node are under way")]
    TooBusy,
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
    pub stop: CancellationToken,
}

/// Cheap handle.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
    repair: AntiEntropy,
}

struct Inner {
    site: Arc<Site>,
    hints: Hints,
    clock: HybridClock,
    locks: Arc<KeyLocks>,
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
        };
        let network = LiveNetwork {
            gossip: parts.gossip,
            peers: parts.peers,
        };
        Self::over(replica, Arc::new(network), parts.events, parts.stop)
    }

    /// The same over any network.
    pub fn over(
        replica: ReplicaContext,
        network: Arc<dyn Network>,
        events: Events,
        stop: CancellationToken,
    ) -> Self {
        let site = Arc::new(Site::new(replica, network, events, stop));
        let hints = Hints::start(site.clone());
        let repair = AntiEntropy::start(site.clone());
        transfer::start(site.clone());
        let inner = Inner {
            site,
            hints,
            clock: HybridClock::new(test_skew_ms()),
            locks: Arc::default(),
            sight: Sight::new(),
            operations: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            tails: Arc::new(Semaphore::new(TAIL_KIB_MAX)),
            breaks: test_breaks(),
        };
        Self {
            inner: Arc::new(inner),
            repair,
        }
    }

    /// Stores a value or a tombstone. Goes on to its end when the caller stops waiting.
    ///
    /// `only_if_absent` is a check before the write, not one atomic step with it: two such
    /// writes at the same moment may both succeed and leave siblings.
    pub async fn write(&self, request: WriteRequest) -> Result<WriteOutcome, ReplicationError> {
        let slot = self.inner.admit()?;
        let (reply, answer) = oneshot::channel();
        tokio::spawn(drive::write(self.inner.clone(), request, reply));
        let outcome = answer.await.unwrap_or_else(|_| Err(interrupted()));
        drop(slot);
        if let Ok(done) = &outcome {
            tracing::trace!(partition = done.partition, by = ?done.successful, "written");
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
    ) -> Result<Vec<Key>, ReplicationError> {
        let _slot = self.inner.admit()?;
        self.inner.list(prefix, after, limit, timeout).await
    }

    /// What each replica of the key holds, old and new ones during a change.
    pub async fn replicas(&self, key: &Key, timeout: Duration) -> (PartitionId, Vec<ReplicaView>) {
        self.inner.replicas(key, timeout).await
    }

    /// Runs a round of anti-entropy now; `false` when one is under way.
    pub fn repair_now(&self) -> bool {
        self.repair.now()
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

/// Steps of the protocol to leave out, from `RINGD_BREAK` (`write-back`, `version-query`, `hedging`,
/// with commas between them). Test builds only: it exists to show that the checkers notice.
fn test_breaks() -> Breaks {
    if !cfg!(debug_assertions) {
        return Breaks::default();
    }
    let wanted = std::env::var("RINGD_BREAK").unwrap_or_default();
    let breaks = Breaks {
        write_back: wanted.split(',').any(|word| word == "write-back"),
        version_query: wanted.split(',').any(|word| word == "version-query"),
        hedging: wanted.split(',').any(|word| word == "hedging"),
    };
    if breaks != Breaks::default() {
        tracing::warn!("RINGD_BREAK={wanted}: THIS NODE IS BROKEN ON PURPOSE, for tests only");
    }
    breaks
}

/// Milliseconds added to the wall clock in version stamps, from `RINGD_CLOCK_SKEW_MS`. Test
/// builds only: on one machine all clocks agree, and a missing version query would go unnoticed.
fn test_skew_ms() -> i64 {
    if !cfg!(debug_assertions) {
        return 0;
    }
    let skew = std::env::var("RINGD_CLOCK_SKEW_MS").ok();
    let skew = skew.and_then(|text| text.parse().ok()).unwrap_or(0);
    if skew != 0 {
        tracing::warn!("RINGD_CLOCK_SKEW_MS={skew}: version stamps are off on purpose, for tests");
    }
    skew
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
