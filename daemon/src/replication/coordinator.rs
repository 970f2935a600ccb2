//! Quorum reads and writes on behalf of clients. (Interface first.)

mod read;
mod round;
#[cfg(test)]
mod simulation;
mod write;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringmaster_shared::{
    api::data::{Consistency, ReplicaView},
    id::{NodeId, PartitionId},
    key::Key,
    version::{Record, Value, VersionVector},
};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::peers::Peers;
use crate::{
    events::Events, gossip::GossipHandle, identity::IdentityStore, lifecycle::LifecycleHandle,
    storage::Store, topology::TopologyHandle,
};

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
    #[error(
        "{answered} of {needed} replicas answered in time; whether the write took place is not known"
    )]
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
        .map(|(id, why)| format!("{id} is {why}"))
        .collect();
    format!(
        "quorum not met: {available} of the {needed} replicas needed answer; {}",
        who.join(", ")
    )
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
pub struct Coordinator {}

#[allow(unused_variables)]
impl Coordinator {
    /// Also starts the background workers: hint replay, anti-entropy, filling of partitions
    /// this node gains, refill after loss.
    pub fn start(parts: CoordinatorParts) -> Self {
        todo!()
    }

    pub async fn write(&self, request: WriteRequest) -> Result<WriteOutcome, ReplicationError> {
        todo!()
    }

    pub async fn read(
        &self,
        key: Key,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<ReadOutcome, ReplicationError> {
        todo!()
    }

    /// Keys in byte order, over all partitions; a quorum of each must answer.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        timeout: Duration,
    ) -> Result<Vec<Key>, ReplicationError> {
        todo!()
    }

    pub async fn replicas(&self, key: &Key, timeout: Duration) -> (PartitionId, Vec<ReplicaView>) {
        todo!()
    }

    /// Runs a round of anti-entropy now; `false` when one is under way.
    pub fn repair_now(&self) -> bool {
        todo!()
    }

    /// Requests of clients under way here, for draining.
    pub fn in_flight(&self) -> usize {
        todo!()
    }
}

pub type SharedCoordinator = Arc<Coordinator>;
