//! The decided topology of this node, and how the next one is decided.
//!
//! Promises: what is current here is on the disk; epochs only rise; two nodes never go by
//! different topologies of one epoch; what the acceptor promised is synced before it is said.
//! Leaves to others: filling the partitions a node gains (replication), telling who answers
//! (gossip).
//!
//! `register` is the pure register that decides, `recall` the rule for a voter that lost its
//! folder, `handover` the pure rules of when to propose, `steps` the topologies a change goes
//! through, `plan` what an operator's change would do, `change` having it done, `epoch_gate` the
//! book of which epochs are in use, `driver` the task that acts.

mod change;
mod driver;
mod epoch_gate;
#[cfg(test)]
mod fixture;
mod handover;
mod leftovers;
mod news;
pub mod plan;
mod recall;
mod register;
mod steps;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock, PoisonError};

use anyhow::Context;
use futures_util::future::BoxFuture;
use ringmaster_shared::{
    event::EventCode,
    id::{Epoch, Generation, NodeId, PartitionId},
    topology::{Step, Topology},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    events::Events,
    gossip::GossipHandle,
    identity::{AcceptorState, IdentityStore},
    replication::peers::Peers,
};

pub use change::ChangeError;
use driver::ballots::Proposing;
use epoch_gate::EpochGate;
pub use epoch_gate::EpochGuard;

/// A proposer's number; ordered by round, ties by node. With the life of the node that drew it, so
/// that one that lost its folder draws none of an earlier life.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    pub round: u64,
    pub node: NodeId,
    #[serde(default)]
    pub life: Generation,
}

/// Proposer to acceptor; decides epoch `base.epoch + 1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterRequest {
    /// `base` is the decided topology the proposal builds on; an acceptor behind it adopts it.
    Prepare { base: Topology, ballot: Ballot },
    Accept {
        base_epoch: Epoch,
        ballot: Ballot,
        value: Topology,
    },
    /// From one that lost its folder: what have you accepted on top of this ring? An acceptor behind
    /// it adopts it.
    Recall { base: Topology },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterReply {
    Promised {
        accepted: Option<(Ballot, Topology)>,
    },
    Accepted,
    /// Promised to a higher ballot.
    Rejected {
        promised: Ballot,
    },
    /// This node already goes by a later epoch.
    Newer(Topology),
    /// This node is not at the base epoch and cannot judge.
    Behind {
        epoch: Epoch,
    },
    /// This node goes by that ring and remembers whether it accepted anything on top of it.
    Recalled {
        accepted: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EpochMismatch {
    /// We know a later topology; send it along.
    #[error("this node goes by epoch {}", .0.epoch)]
    CallerBehind(Arc<Topology>),
    #[error("this node is at epoch {mine}, the request says {theirs}")]
    CallerAhead { mine: Epoch, theirs: Epoch },
    #[error("this node has no topology yet")]
    NoTopology,
}

/// Makes ready for partitions that this node is about to gain: forgets what it still holds of them.
pub type BeforeGaining =
    Box<dyn Fn(Vec<PartitionId>) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// Cheap handle.
#[derive(Clone)]
pub struct TopologyHandle {
    inner: Arc<Inner>,
}

struct Inner {
    identity: IdentityStore,
    events: Events,
    gate: EpochGate,
    current: watch::Sender<Option<Arc<Topology>>>,
    before_gaining: OnceLock<BeforeGaining>,
    /// One at a time judges proposals or moves to another epoch. Whoever writes takes the lock
    /// along to the blocking thread, so that a caller that gives up cannot let a later write
    /// overtake an earlier one.
    acceptor: Arc<Mutex<Option<AcceptorState>>>,
    /// Held by whoever proposes from this node: one at a time, so that ballots are used once. The
    /// last round that was drawn in this life, for an acceptor here may not remember it: one that
    /// abstains promises nothing, not even to itself.
    proposing: Mutex<u64>,
    /// How this node proposes, while its driver runs. It leads back here, so that it must go with
    /// the driver, or this would never be freed.
    proposer: std::sync::Mutex<Option<Proposing<driver::Live>>>,
}

/// Ends a node's proposing when its driver ends, however that is.
struct Withdraw(TopologyHandle);

impl Drop for Withdraw {
    fn drop(&mut self) {
        self.0.set_proposer(None);
    }
}

impl TopologyHandle {
    /// Starts from what the identity file remembers (topology and acceptor state).
    pub fn new(identity: IdentityStore, events: Events) -> anyhow::Result<Self> {
        let topology = identity.topology().map(Arc::new);
        if let Some(topology) = &topology {
            anyhow::ensure!(
                topology.is_well_formed()
                    && identity.cluster_id().as_ref() == Some(&topology.cluster_id),
                "the topology of epoch {} in the identity file is malformed or of another cluster",
                topology.epoch
            );
        }
        let epoch = topology.as_ref().map_or(0, |t| t.epoch);
        let acceptor = identity.acceptor().filter(|a| a.base_epoch == epoch);
        let inner = Inner {
            gate: EpochGate::new(topology.clone()),
            current: watch::Sender::new(topology),
            before_gaining: OnceLock::new(),
            acceptor: Arc::new(Mutex::new(acceptor)),
            proposing: Mutex::new(0),
            proposer: std::sync::Mutex::default(),
            identity,
            events,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    pub fn current(&self) -> Option<Arc<Topology>> {
        self.inner.gate.current()
    }

    /// What is done, and finished, before this node enters a topology in which it gains
    /// partitions that it does not hold by right. The first one set stays.
    pub fn before_gaining(&self, prepare: BeforeGaining) {
        let _ = self.inner.before_gaining.set(prepare);
    }

    pub fn watch(&self) -> watch::Receiver<Option<Arc<Topology>>> {
        self.inner.current.subscribe()
    }

    /// Checks the epoch of a request and holds it.
    pub fn guard(&self, epoch: Epoch) -> Result<EpochGuard, EpochMismatch> {
        self.inner.gate.guard(epoch)
    }

    /// Takes over a decided topology if it is newer: persists it, makes it current, waits until
    /// no request of an earlier epoch is in flight. Returns whether it was newer.
    ///
    /// Whoever calls this must not hold a guard. The node's cluster must be known before.
    pub async fn adopt(&self, topology: Topology) -> anyhow::Result<bool> {
        let epoch = topology.epoch;
        if !self.install(topology).await? {
            return Ok(false);
        }
        let mut settled = self.inner.gate.watch_settled();
        // the sender lives as long as this handle does
        let _ = settled.wait_for(|settled| *settled >= epoch).await;
        Ok(true)
    }

    /// The highest epoch that is current *and* settled (no earlier request in flight).
    pub fn settled_epoch(&self) -> Epoch {
        self.inner.gate.settled()
    }

    /// What `Request::TopologyProgress { epoch }` is answered with: the settled epoch, and whether
    /// this node has its data: none of it is lost, and what it gains in the first step of the change at
    /// `epoch` is filled.
    pub fn progress(&self, epoch: Epoch) -> (Epoch, bool) {
        let identity = &self.inner.identity;
        let ring = self.current().filter(|ring| ring.epoch == epoch);
        let fills = ring.is_none_or(|ring| {
            let step = ring.transition.as_ref().map(|change| change.step);
            step == Some(Step::Filling) && !ring.gained_by(identity.node_id()).is_empty()
        });
        let filled = !fills || identity.filled_epoch() >= epoch;
        (self.settled_epoch(), filled && !identity.needs_refill())
    }

    /// Acceptor half of the register; what it promises is synced before it answers.
    pub async fn register(&self, request: RegisterRequest) -> RegisterReply {
        if let RegisterRequest::Prepare { base, .. } | RegisterRequest::Recall { base } = &request
            && self.epoch() < base.epoch
            && let Err(why) = self.install(base.clone()).await
        {
            tracing::warn!(
                "epoch {} came with a proposal and was refused: {why:#}",
                base.epoch
            );
        }
        let mut slot = Arc::clone(&self.inner.acceptor).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let judged = tokio::task::spawn_blocking(move || inner.judge(&mut slot, request));
        judged.await.unwrap_or_else(|why| {
            tracing::error!("a proposal could not be judged: {why}");
            RegisterReply::Behind {
                epoch: self.epoch(),
            }
        })
    }

    /// Why this node takes no writes, or does not vote on changes of the ring, if it lost its folder.
    pub fn votes_forgotten(&self) -> Option<String> {
        let current = self.current()?;
        let identity = &self.inner.identity;
        let me = identity.node_id();
        if identity.forgot_votes() && current.contains(me) {
            return Some(recall::waits_for(&current, me));
        }
        let barred = recall::is_barred(identity.abstains_through(), &current);
        (barred && current.voters().contains(me)).then(|| {
            format!(
                "{me} lost its data folder, and with it what it had voted on changes of the ring; it votes again \
                 when the others have decided the ring anew, which it sees to by itself. Do not \
                 empty another node before that"
            )
        })
    }

    /// An operator accepts what that may cost: from here on this node votes as if it had never
    /// voted before.
    pub async fn vote_again(&self) -> anyhow::Result<()> {
        let slot = Arc::clone(&self.inner.acceptor).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        let written = tokio::task::spawn_blocking(move || {
            let written = inner.identity.vote_again();
            drop(slot);
            written
        });
        written.await?
    }

    /// The highest ballot promised here for the successor of the current topology.
    async fn promised(&self) -> Option<Ballot> {
        let slot = self.inner.acceptor.lock().await;
        slot.as_ref().and_then(|a| a.promised.clone())
    }

    /// Drives changes: proposes joins, takes the steps, aborts what cannot finish, catches up
    /// with later epochs seen in gossip. Runs until `stop`.
    pub fn spawn_driver(&self, parts: DriverParts) {
        let around = driver::Live {
            gossip: parts.gossip,
            peers: parts.peers,
        };
        let proposing = Proposing {
            handle: self.clone(),
            around: around.clone(),
            stop: parts.stop.clone(),
        };
        self.set_proposer(Some(proposing));
        let withdraw = Withdraw(self.clone());
        let driver = driver::Driver::new(self.clone(), around, parts.stop);
        tokio::spawn(async move {
            let _withdraw = withdraw;
            driver.run().await;
        });
    }

    fn set_proposer(&self, proposing: Option<Proposing<driver::Live>>) {
        let proposer = self.inner.proposer.lock();
        *proposer.unwrap_or_else(PoisonError::into_inner) = proposing;
    }

    fn proposer(&self) -> Option<Proposing<driver::Live>> {
        let proposer = self.inner.proposer.lock();
        proposer.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn epoch(&self) -> Epoch {
        self.current().map_or(0, |t| t.epoch)
    }

    /// Persists and makes current, without waiting for earlier requests.
    async fn install(&self, topology: Topology) -> anyhow::Result<bool> {
        let mut slot = Arc::clone(&self.inner.acceptor).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        // under the lock: what it holds by right must not change between this and the entry
        inner.make_ready(&topology).await?;
        tokio::task::spawn_blocking(move || inner.take_over(&mut slot, topology))
            .await
            .context("the thread that stores topologies failed")?
    }
}

impl Inner {
    async fn make_ready(&self, next: &Topology) -> anyhow::Result<()> {
        let current = self.gate.current();
        let later = current.as_ref().is_none_or(|c| c.epoch < next.epoch);
        let ours = self.identity.cluster_id().as_ref() == Some(&next.cluster_id);
        let Some(prepare) = self.before_gaining.get() else {
            return Ok(());
        };
        // what will be refused costs nothing
        if !(later && ours && next.is_well_formed()) {
            return Ok(());
        }
        let me = self.identity.node_id();
        let gained = leftovers::gained_anew(current.as_deref(), next, me);
        if gained.is_empty() {
            return Ok(());
        }
        let ready = prepare(gained).await;
        ready.with_context(|| format!("cannot make ready for epoch {}", next.epoch))
    }

    /// Under the acceptor's lock.
    fn take_over(
        &self,
        acceptor: &mut Option<AcceptorState>,
        topology: Topology,
    ) -> anyhow::Result<bool> {
        let current = self.gate.current();
        if current.as_ref().is_some_and(|c| c.epoch > topology.epoch) {
            return Ok(false);
        }
        if let Some(current) = current.as_ref().filter(|c| c.epoch == topology.epoch) {
            if **current != topology {
                self.report_fork(&topology);
            }
            return Ok(false);
        }
        let me = self.identity.node_id();
        let filled = self.identity.filled_epoch();
        let lost = leftovers::never_filled(current.as_deref(), &topology, me, filled);
        // who lost its data already knows by which rings, and gets all of it back by this one; each
        // refuses another cluster's and malformed ones
        if lost.is_empty() || self.identity.needs_refill() {
            self.identity.save_topology(&topology)?;
        } else {
            self.identity.save_topology_of_lost_data(&topology)?;
            self.report_lost(&topology, lost.len());
        }
        *acceptor = None;
        let topology = Arc::new(topology);
        self.gate.enter(Arc::clone(&topology));
        self.current.send_replace(Some(topology));
        Ok(true)
    }

    fn report_lost(&self, topology: &Topology, partitions: usize) {
        let me = self.identity.node_id();
        let message = format!(
            "by the ring of epoch {} {me} holds {partitions} partitions that were never copied into \
             its folder, or are lost: it is taken for a member that lost its folder and was let in by a \
             node that did not know it yet; its data is copied back from the other replicas",
            topology.epoch
        );
        self.events
            .warn(EventCode::StorageRecovered, Some(me), message);
    }

    /// Two decided topologies of one epoch cannot be; keeping ours is the least harm.
    fn report_fork(&self, theirs: &Topology) {
        self.events.error(
            EventCode::RingFork,
            None,
            format!(
                "epoch {} was sent with a content that differs from what this node goes by; \
                 this is a bug or a mixed-up data dir: compare the ring digests of all nodes",
                theirs.epoch
            ),
        );
    }

    /// Under the acceptor's lock.
    fn judge(&self, slot: &mut Option<AcceptorState>, request: RegisterRequest) -> RegisterReply {
        let current = self.gate.current();
        let epoch = current.as_ref().map_or(0, |c| c.epoch);
        let Some(current) = current else {
            return RegisterReply::Behind { epoch };
        };
        let (base_epoch, sound) = match &request {
            RegisterRequest::Prepare { base, .. } | RegisterRequest::Recall { base } => {
                (base.epoch, *base == *current)
            }
            RegisterRequest::Accept {
                base_epoch, value, ..
            } => {
                let follows = value.epoch == base_epoch + 1;
                let ours = value.cluster_id == current.cluster_id && value.is_well_formed();
                (*base_epoch, follows && ours)
            }
        };
        if epoch > base_epoch {
            return RegisterReply::Newer((*current).clone());
        }
        if epoch < base_epoch || !sound {
            return RegisterReply::Behind { epoch };
        }

        let through = self.identity.abstains_through();
        // who is no voter votes for nobody: there is nothing that it could have forgotten
        let votes = current.voters().contains(self.identity.node_id());
        if votes && recall::is_barred(through, &current) {
            return RegisterReply::Behind { epoch: 0 };
        }

        let before = slot.clone().unwrap_or_else(|| AcceptorState::fresh(epoch));
        let mut state = before.clone();
        let reply = match request {
            RegisterRequest::Prepare { ballot, .. } => state.prepare(ballot),
            RegisterRequest::Accept { ballot, value, .. } => state.accept(ballot, value),
            RegisterRequest::Recall { .. } => recall::answer(epoch, through, slot.as_ref()),
        };
        if state != before {
            if let Err(why) = self.identity.save_acceptor(&state) {
                tracing::error!("a vote could not be synced and is not given: {why:#}");
                return RegisterReply::Behind { epoch };
            }
            *slot = Some(state);
        }
        reply
    }
}

pub struct DriverParts {
    pub gossip: GossipHandle,
    pub peers: Peers,
    pub stop: CancellationToken,
}
