//! The other nodes, as replication needs them: who is there, and one request to one of them.
//! A trait, so that tests run a cluster of real stores in one process and break its network.

use std::time::Duration;

use futures_util::future::BoxFuture;
use ringmaster_shared::id::{Epoch, NodeId};
use tokio::sync::watch;

use super::{
    frames::{Request, Response},
    peers::{Class, PeerError, Peers},
};
use crate::gossip::{GossipHandle, Members};

pub trait Network: Send + Sync + 'static {
    /// All members as gossip sees them, this node included.
    fn members(&self) -> Members;

    /// Wakes when that list changed.
    fn watch(&self) -> watch::Receiver<Members>;

    /// One request to a member; never tried twice here.
    fn call(
        &self,
        node: NodeId,
        class: Class,
        epoch: Epoch,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Response, PeerError>>;
}

/// Gossip and the peer connections.
pub struct LiveNetwork {
    pub gossip: GossipHandle,
    pub peers: Peers,
}

impl Network for LiveNetwork {
    fn members(&self) -> Members {
        self.gossip.members()
    }

    fn watch(&self) -> watch::Receiver<Members> {
        self.gossip.watch()
    }

    fn call(
        &self,
        node: NodeId,
        class: Class,
        epoch: Epoch,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Response, PeerError>> {
        let peers = self.peers.clone();
        Box::pin(async move { peers.call(&node, class, epoch, request, timeout).await })
    }
}
