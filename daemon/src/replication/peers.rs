//! Connections to other nodes: long-lived, pipelined, obtained by HTTP Upgrade. (Interface first.)

use std::{sync::Arc, time::Duration};

use ringmaster_shared::id::{ClusterId, Epoch, Generation, NodeId};
use thiserror::Error;

use super::frames::{Request, Response};

/// Where a node can be reached; gossip first, then the topology.
pub trait AddressBook: Send + Sync + 'static {
    fn address_of(&self, node: &NodeId) -> Option<String>;
}

/// Separate connections, so that nothing urgent waits behind bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Gossip, topology, probes.
    Control,
    /// Quorum reads and writes.
    Data,
    /// Hints, repair, transfer, listing.
    Bulk,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerError {
    #[error("{node}: no address is known")]
    UnknownAddress { node: NodeId },
    #[error("{address}: {why}")]
    Unreachable { address: String, why: String },
    #[error("{address} belongs to cluster {theirs}, this node to {ours}")]
    WrongCluster {
        address: String,
        theirs: String,
        ours: String,
    },
    #[error("{address} is {found}, not {wanted}")]
    WrongNode {
        address: String,
        found: NodeId,
        wanted: NodeId,
    },
    #[error("{address}: no answer within {waited_ms} ms")]
    Timeout { address: String, waited_ms: u64 },
    #[error("{address}: connection lost before the answer")]
    Lost { address: String },
    #[error("{address}: does not speak this protocol: {why}")]
    Protocol { address: String, why: String },
    #[error("{address}: too many requests under way")]
    Full { address: String },
}

/// Who this node is, for handshakes; the cluster is set once it is known.
#[derive(Debug, Clone)]
pub struct LocalPeer {
    pub node_id: NodeId,
    pub generation: Generation,
}

/// Who answered a call to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotePeer {
    pub node_id: NodeId,
    pub cluster_id: Option<ClusterId>,
}

/// Cheap handle of the connection pool.
#[derive(Clone)]
pub struct Peers {}

#[allow(unused_variables)]
impl Peers {
    pub fn new(local: LocalPeer) -> Self {
        todo!()
    }

    pub fn set_cluster(&self, cluster_id: ClusterId) {
        todo!()
    }

    pub fn cluster(&self) -> Option<ClusterId> {
        todo!()
    }

    pub fn set_address_book(&self, book: Arc<dyn AddressBook>) {
        todo!()
    }

    /// One request to a member. Connects when needed; a lost connection is not retried here.
    pub async fn call(
        &self,
        node: &NodeId,
        class: Class,
        epoch: Epoch,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, PeerError> {
        todo!()
    }

    /// One request to whoever answers at `host:port` (seeds, gossip at new addresses), over a
    /// connection of its own.
    pub async fn call_address(
        &self,
        address: &str,
        request: Request,
        timeout: Duration,
    ) -> Result<(RemotePeer, Response), PeerError> {
        todo!()
    }

    /// Drops connections to a node (it died or moved).
    pub fn forget(&self, node: &NodeId) {
        todo!()
    }
}
