//! The decided topology of this node, and how the next one is decided. (Interface first.)

use std::sync::Arc;

use ringmaster_shared::{
    id::{Epoch, NodeId},
    topology::Topology,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    events::Events, gossip::GossipHandle, identity::IdentityStore, replication::peers::Peers,
};

/// A proposer's number; ordered by round, ties by node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    pub round: u64,
    pub node: NodeId,
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

/// Held while one replica request is served; a topology counts as settled here only when all
/// guards of earlier epochs are gone.
pub struct EpochGuard {
    pub topology: Arc<Topology>,
}

/// Cheap handle.
#[derive(Clone)]
pub struct TopologyHandle {}

#[allow(unused_variables)]
impl TopologyHandle {
    /// Starts from what the identity file remembers (topology and acceptor state).
    pub fn new(identity: IdentityStore, events: Events) -> anyhow::Result<Self> {
        todo!()
    }

    pub fn current(&self) -> Option<Arc<Topology>> {
        todo!()
    }

    pub fn watch(&self) -> watch::Receiver<Option<Arc<Topology>>> {
        todo!()
    }

    /// Checks the epoch of a request and holds it.
    pub fn guard(&self, epoch: Epoch) -> Result<EpochGuard, EpochMismatch> {
        todo!()
    }

    /// Takes over a decided topology if it is newer: persists it, makes it current, waits until
    /// no request of an earlier epoch is in flight. Returns whether it was newer.
    pub async fn adopt(&self, topology: Topology) -> anyhow::Result<bool> {
        todo!()
    }

    /// The highest epoch that is current *and* settled (no earlier request in flight).
    pub fn settled_epoch(&self) -> Epoch {
        todo!()
    }

    /// Acceptor half of the register; what it promises is synced before it answers.
    pub async fn register(&self, request: RegisterRequest) -> RegisterReply {
        todo!()
    }

    /// Drives changes: proposes joins, takes the steps, aborts what cannot finish, catches up
    /// with later epochs seen in gossip. Runs until `stop`.
    pub fn spawn_driver(&self, parts: DriverParts) {
        todo!()
    }
}

pub struct DriverParts {
    pub gossip: GossipHandle,
    pub peers: Peers,
    pub stop: CancellationToken,
}
