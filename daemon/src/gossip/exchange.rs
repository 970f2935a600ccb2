//! What gossip needs of TCP, so that the driver can be tested without connections.

use std::{future::Future, time::Duration};

use ringmaster_shared::id::{ClusterId, NodeId};

use super::MemberState;
use crate::replication::{
    frames::{Request, Response},
    peers::{PeerError, Peers, RemotePeer},
};

/// Calls over TCP. Every call ends within its timeout.
pub trait Exchange: Clone + Send + Sync + 'static {
    /// Who answers at the address.
    fn ping(
        &self,
        address: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<NodeId, PeerError>> + Send;

    /// Gives a full list, gets a full list.
    fn push_pull(
        &self,
        address: &str,
        members: Vec<MemberState>,
        timeout: Duration,
    ) -> impl Future<Output = Result<(NodeId, Vec<MemberState>), PeerError>> + Send;
}

/// The real thing. `cluster` guards against a peer that did not check.
#[derive(Clone)]
pub struct OverPeers {
    pub peers: Peers,
    pub cluster: ClusterId,
}

impl OverPeers {
    async fn call(
        &self,
        address: &str,
        request: Request,
        timeout: Duration,
    ) -> Result<(RemotePeer, Response), PeerError> {
        let call = self.peers.call_address(address, request, timeout);
        // `call_address` keeps to the timeout; this is for name resolution that hangs
        let (peer, response) = tokio::time::timeout(timeout + Duration::from_secs(1), call)
            .await
            .map_err(|_| PeerError::Timeout {
                address: address.to_owned(),
                waited_ms: timeout.as_millis() as u64,
            })??;
        match &peer.cluster_id {
            Some(theirs) if *theirs != self.cluster => Err(PeerError::WrongCluster {
                address: address.to_owned(),
                theirs: theirs.to_string(),
                ours: self.cluster.to_string(),
            }),
            _ => Ok((peer, response)),
        }
    }
}

impl Exchange for OverPeers {
    async fn ping(&self, address: &str, timeout: Duration) -> Result<NodeId, PeerError> {
        match self.call(address, Request::Ping, timeout).await? {
            (peer, Response::Pong) => Ok(peer.node_id),
            (_, other) => Err(unexpected(address, &other)),
        }
    }

    async fn push_pull(
        &self,
        address: &str,
        members: Vec<MemberState>,
        timeout: Duration,
    ) -> Result<(NodeId, Vec<MemberState>), PeerError> {
        let request = Request::PushPull { members };
        match self.call(address, request, timeout).await? {
            (peer, Response::Members { members }) => Ok((peer.node_id, members)),
            (_, other) => Err(unexpected(address, &other)),
        }
    }
}

fn unexpected(address: &str, response: &Response) -> PeerError {
    let why = match response {
        Response::NotReady { reason } | Response::Refused { reason, .. } => reason.clone(),
        _ => "an answer to another question".to_owned(),
    };
    PeerError::Protocol {
        address: address.to_owned(),
        why,
    }
}
