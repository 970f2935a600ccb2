//! Who this node is, across restarts: a small synced file beside the store. (Interface first.)

use std::path::Path;

use ringmaster_shared::{
    id::{ClusterId, Generation, NodeId},
    topology::Topology,
    version::{Actor, Dot},
};
use serde::{Deserialize, Serialize};

use crate::topology::Ballot;

/// A member seen in an earlier life, to be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedMember {
    pub id: NodeId,
    pub address: String,
}

/// What an acceptor of the topology register must never forget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptorState {
    /// The epoch these promises are about: they decide `base_epoch + 1`.
    pub base_epoch: u64,
    pub promised: Option<Ballot>,
    pub accepted: Option<(Ballot, Topology)>,
}

/// Cheap handle of the identity file; every setter returns after the file is synced
/// (written beside, fsync, rename, fsync of the folder). Blocking, but small.
#[derive(Clone)]
pub struct IdentityStore {}

#[allow(unused_variables)]
impl IdentityStore {
    /// Opens or creates `identity.json` in the data dir for `node_id`; takes the folder's lock;
    /// bumps the generation; leases dot counters. Errors are sentences for a person.
    pub fn open(data_dir: &Path, node_id: &NodeId) -> anyhow::Result<Self> {
        todo!()
    }

    pub fn node_id(&self) -> &NodeId {
        todo!()
    }

    pub fn generation(&self) -> Generation {
        todo!()
    }

    pub fn cluster_id(&self) -> Option<ClusterId> {
        todo!()
    }

    pub fn set_cluster(&self, id: ClusterId) -> anyhow::Result<()> {
        todo!()
    }

    pub fn topology(&self) -> Option<Topology> {
        todo!()
    }

    pub fn save_topology(&self, topology: &Topology) -> anyhow::Result<()> {
        todo!()
    }

    pub fn acceptor(&self) -> Option<AcceptorState> {
        todo!()
    }

    pub fn save_acceptor(&self, state: &AcceptorState) -> anyhow::Result<()> {
        todo!()
    }

    pub fn remembered(&self) -> Vec<RememberedMember> {
        todo!()
    }

    pub fn remember(&self, members: Vec<RememberedMember>) -> anyhow::Result<()> {
        todo!()
    }

    /// The data was lost (fresh folder of a known member, quarantine): a new actor, and reads
    /// do not count here until refilled.
    pub fn set_needs_refill(&self, needs: bool) -> anyhow::Result<()> {
        todo!()
    }

    pub fn needs_refill(&self) -> bool {
        todo!()
    }

    /// Partitions of the change at `epoch` that have been filled from a quorum of the old replicas.
    pub fn set_filled_epoch(&self, epoch: u64) -> anyhow::Result<()> {
        todo!()
    }

    pub fn filled_epoch(&self) -> u64 {
        todo!()
    }

    pub fn actor(&self) -> Actor {
        todo!()
    }

    /// A dot never given before, not even by an earlier life of this data.
    pub fn next_dot(&self) -> anyhow::Result<Dot> {
        todo!()
    }
}
