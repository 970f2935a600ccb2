//! What gossip needs of TCP, so that the driver can be tested without connections.

use std::{future::Future, time::Duration};

use ringmaster_shared::id::{ClusterId, NodeId};

use tokio::time::Instant;

use crate::replication::{
    frames::{RefusalCode, Request, Response},
    peers::{PeerError, Peers, Visit},
};

/// Calls over TCP. Every call ends within its timeout.
pub trait Exchange: Clone + Send + Sync + 'static {
    /// A connection kept between the messages of one exchange.
    type Visit: Send + 'static;

    /// Who answers at the address.
    fn ping(
        &self,
        address: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<NodeId, PeerError>> + Send;

    /// Says one message of an exchange to who is at the address and waits for the reply: over
    /// `visit`, when an earlier message of the same exchange made one.
    fn say(
        &self,
        visit: Option<Self::Visit>,
        address: &str,
        message: Vec<u8>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Said<Self::Visit>, PeerError>> + Send;
}

/// What came of a message.
pub struct Said<V> {
    pub by: NodeId,
    /// For the next message.
    pub visit: V,
    pub reply: Result<Vec<u8>, Refused>,
}

/// The other side did not take the message.
#[derive(Debug)]
pub struct Refused {
    pub code: RefusalCode,
    pub reason: String,
}

/// The real thing. `cluster` guards against a peer that did not check.
#[derive(Clone)]
pub struct OverPeers {
    pub peers: Peers,
    pub cluster: ClusterId,
}

impl OverPeers {
    /// Connects to who is at the address.
    async fn visit(&self, address: &str, timeout: Duration) -> Result<Visit, PeerError> {
        let connecting = self.peers.visit(address, timeout);
        // `visit` keeps to the timeout; this is for name resolution that hangs
        let late = || PeerError::Timeout {
            address: address.to_owned(),
            waited_ms: timeout.as_millis() as u64,
        };
        let patience = timeout + Duration::from_secs(1);
        let visit = tokio::time::timeout(patience, connecting).await;
        let visit = visit.map_err(|_| late())??;
        match &visit.peer().cluster_id {
            Some(theirs) if *theirs != self.cluster => Err(PeerError::WrongCluster {
                address: address.to_owned(),
                theirs: theirs.to_string(),
                ours: self.cluster.to_string(),
            }),
            _ => Ok(visit),
        }
    }
}

impl Exchange for OverPeers {
    type Visit = Visit;

    async fn ping(&self, address: &str, timeout: Duration) -> Result<NodeId, PeerError> {
        let deadline = Instant::now() + timeout;
        let visit = self.visit(address, timeout).await?;
        let left = deadline - Instant::now();
        match visit.call(&Request::Ping, left).await? {
            Response::Pong => Ok(visit.peer().node_id.clone()),
            other => Err(unexpected(address, &other)),
        }
    }

    async fn say(
        &self,
        visit: Option<Visit>,
        address: &str,
        message: Vec<u8>,
        timeout: Duration,
    ) -> Result<Said<Visit>, PeerError> {
        let deadline = Instant::now() + timeout;
        let visit = match visit {
            Some(visit) => visit,
            None => self.visit(address, timeout).await?,
        };
        let left = deadline - Instant::now();
        let reply = match visit.call(&Request::Gossip { message }, left).await? {
            Response::Gossip { message } => Ok(message),
            Response::Refused { code, reason } => Err(Refused { code, reason }),
            other => return Err(unexpected(address, &other)),
        };
        let by = visit.peer().node_id.clone();
        Ok(Said { by, visit, reply })
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
