//! The other nodes, as replication needs them: who is there, and one request to one of them.
//! A trait, so that tests run a cluster of real stores in one process and break its network.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use ringmaster_shared::id::{Epoch, NodeId};
use tokio::sync::watch;

use super::{
    frames::{Request, Response},
    peers::{self, Class, PeerError, Peers, Pending},
};
use crate::gossip::{GossipHandle, Members};

pub trait Network: Send + Sync + 'static {
    /// All members as gossip sees them, this node included.
    fn members(&self) -> Members;

    /// Wakes when that list changed.
    fn watch(&self) -> watch::Receiver<Members>;

    /// One request to a member; never tried twice here. It is on its way when this returns, where
    /// that is possible without waiting. The caller sets the deadline; `timeout` is what the other
    /// side is told of it.
    fn call(
        &self,
        node: &NodeId,
        class: Class,
        epoch: Epoch,
        request: &Request,
        timeout: Duration,
    ) -> Call;
}

/// An answer on its way.
pub enum Call {
    /// Over an open connection.
    Sent(Pending, Duration),
    /// Whatever else it takes.
    Boxed(BoxFuture<'static, Result<Response, PeerError>>),
}

impl Future for Call {
    type Output = Result<Response, PeerError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Sent(pending, timeout) => match Pin::new(&mut *pending).poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(why)) => {
                    Poll::Ready(Err(peers::fault(why, pending.address(), *timeout)))
                }
            },
            Self::Boxed(future) => future.as_mut().poll(cx),
        }
    }
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
        node: &NodeId,
        class: Class,
        epoch: Epoch,
        request: &Request,
        timeout: Duration,
    ) -> Call {
        match self.peers.begin(node, class, epoch, request, timeout) {
            Some(Ok(pending)) => Call::Sent(pending, timeout),
            Some(Err(error)) => Call::Boxed(Box::pin(std::future::ready(Err(error)))),
            None => {
                let (peers, node, request) = (self.peers.clone(), node.clone(), request.clone());
                Call::Boxed(Box::pin(async move {
                    peers.call(&node, class, epoch, request, timeout).await
                }))
            }
        }
    }
}
