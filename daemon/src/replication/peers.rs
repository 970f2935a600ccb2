//! Connections to other nodes: long-lived, pipelined, obtained by HTTP Upgrade.
//!
//! The pool keeps at most one connection for each node and [`Class`] and makes it when it is
//! needed. Promises: every call ends by its timeout; nothing is sent twice; a connection to the
//! wrong node or the wrong cluster is never used. Whether to try again is left to the caller.

mod connection;
pub mod handshake;
mod pool;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::Rng;
use ringmaster_shared::id::{ClusterId, Epoch, Generation, NodeId};
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};

pub use self::connection::{Fault, Pending};
use self::{connection::Connection, handshake::Hello, pool::Slot};
use super::frames::{Request, Response};

/// Connections a call tries before it gives up, when each was closed before it could be used.
const CONNECTIONS_PER_CALL: usize = 3;

/// Where a node can be reached; gossip first, then the topology.
pub trait AddressBook: Send + Sync + 'static {
    fn address_of(&self, node: &NodeId) -> Option<String>;

    /// Whether that is `address`; asked before each call.
    fn is_at(&self, node: &NodeId, address: &str) -> bool {
        self.address_of(node).as_deref() == Some(address)
    }
}

/// Separate connections, so that nothing urgent waits behind bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Gossip, topology, probes.
    Control,
    /// Quorum reads and writes.
    Data,
    /// Quorum writes of large records, behind which a small one would wait for a MiB or more.
    Large,
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

/// Bounds of the pool and its connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For one address: connect and handshake.
    pub connect: Duration,
    /// For one attempt: all addresses of the name.
    pub attempt: Duration,
    /// After a failed attempt calls fail at once for this long, and up to as much again by
    /// chance, so that many nodes do not knock at the same moment.
    pub backoff: Duration,
    /// A connection on which nothing arrived for so long while requests waited is given up.
    pub silence: Duration,
    /// A connection nobody used for so long is closed; less than the server's patience.
    pub idle: Duration,
    /// Requests under way on one connection.
    pub in_flight: usize,
    /// Bytes of requests that wait to be sent on one connection.
    pub bytes_in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            attempt: Duration::from_secs(5),
            backoff: Duration::from_millis(100),
            silence: Duration::from_secs(5),
            idle: Duration::from_secs(40),
            in_flight: 8192,
            bytes_in_flight: 128 * 1024 * 1024,
        }
    }
}

/// Cheap handle of the connection pool.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    local: LocalPeer,
    limits: Limits,
    cluster: RwLock<Option<ClusterId>>,
    book: RwLock<Option<Arc<dyn AddressBook>>>,
    slots: Mutex<HashMap<(NodeId, Class), Arc<Slot>>>,
    /// Ids are unique over all connections.
    next_id: AtomicU64,
}

impl Peers {
    pub fn new(local: LocalPeer) -> Self {
        Self::with_limits(local, Limits::default())
    }

    pub fn with_limits(local: LocalPeer, limits: Limits) -> Self {
        Self {
            inner: Arc::new(Inner {
                local,
                limits,
                cluster: RwLock::new(None),
                book: RwLock::new(None),
                slots: Mutex::new(HashMap::new()),
                next_id: AtomicU64::new(1),
            }),
        }
    }

    /// Connections made before, as nobody's or another cluster's, are dropped.
    pub fn set_cluster(&self, cluster_id: ClusterId) {
        let mut cluster = self
            .inner
            .cluster
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if cluster.as_ref() == Some(&cluster_id) {
            return;
        }
        *cluster = Some(cluster_id);
        drop(cluster);
        let slots = std::mem::take(&mut *self.slots());
        for slot in slots.values() {
            slot.clear();
        }
    }

    pub fn cluster(&self) -> Option<ClusterId> {
        let cluster = self.inner.cluster.read();
        cluster.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_address_book(&self, book: Arc<dyn AddressBook>) {
        let mut current = self
            .inner
            .book
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Some(book);
    }

    /// One request to a member to which a connection is open already; `None` when there is none,
    /// and nothing was sent. The answer sets no deadline: whoever awaits it does.
    pub fn begin(
        &self,
        node: &NodeId,
        class: Class,
        epoch: Epoch,
        request: &Request,
        timeout: Duration,
    ) -> Option<Result<Pending, PeerError>> {
        let connection = self.slot(node, class).ready()?;
        let book = self.inner.book.read();
        let book = book.unwrap_or_else(PoisonError::into_inner);
        if !book.as_ref()?.is_at(node, connection.address()) {
            return None;
        }
        drop(book);
        match connection.send(self.next_id(), epoch, millis(timeout), request) {
            Ok(pending) => Some(Ok(pending)),
            Err(Fault::Closed) => None,
            Err(other) => Some(Err(fault(other, connection.address(), timeout))),
        }
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
        let address = self.address_of(node)?;
        let deadline = Instant::now() + timeout;
        let slot = self.slot(node, class);
        for _ in 0..CONNECTIONS_PER_CALL {
            let connecting = self.connection(&slot, node, &address);
            let connection = match timeout_at(deadline, connecting).await {
                Ok(connection) => connection?,
                Err(_) => return Err(fault(Fault::Timeout, &address, timeout)),
            };
            let ask = (epoch, &request, timeout);
            match self.exchange(&connection, ask, deadline).await {
                Ok(response) => return Ok(response),
                // closed between the pool and here, so nothing was sent
                Err(Fault::Closed) => {}
                Err(other) => return Err(fault(other, &address, timeout)),
            }
        }
        Err(fault(Fault::Closed, &address, timeout))
    }

    /// Sends `(epoch, request, timeout)` and waits for the answer.
    async fn exchange(
        &self,
        connection: &Connection,
        (epoch, request, timeout): (Epoch, &Request, Duration),
        deadline: Instant,
    ) -> Result<Response, Fault> {
        let pending = connection.send(self.next_id(), epoch, millis(timeout), request)?;
        match timeout_at(deadline, pending).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::Timeout),
        }
    }

    /// One request to whoever answers at `host:port` (seeds, gossip at new addresses), over a
    /// connection of its own.
    pub async fn call_address(
        &self,
        address: &str,
        request: Request,
        timeout: Duration,
    ) -> Result<(RemotePeer, Response), PeerError> {
        let deadline = Instant::now() + timeout;
        let visit = self.visit(address, timeout).await?;
        let response = visit.call(&request, deadline - Instant::now()).await?;
        Ok((visit.peer().clone(), response))
    }

    /// A connection of its own to whoever answers at `host:port`, for a few requests; closed when
    /// it is dropped.
    pub async fn visit(&self, address: &str, timeout: Duration) -> Result<Visit, PeerError> {
        let each = self.inner.limits.connect.min(timeout);
        let connecting = open(
            address.to_owned(),
            self.hello(None),
            self.inner.limits,
            each,
        );
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connection) => Ok(Visit {
                peers: self.clone(),
                connection: connection?,
                address: address.to_owned(),
            }),
            Err(_) => Err(fault(Fault::Timeout, address, timeout)),
        }
    }

    fn address_of(&self, node: &NodeId) -> Result<String, PeerError> {
        let book = self.inner.book.read();
        let book = book.unwrap_or_else(PoisonError::into_inner).clone();
        book.and_then(|book| book.address_of(node))
            .ok_or_else(|| PeerError::UnknownAddress { node: node.clone() })
    }

    fn next_id(&self) -> u64 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn connection(
        &self,
        slot: &Arc<Slot>,
        node: &NodeId,
        address: &str,
    ) -> Result<Connection, PeerError> {
        let limits = self.inner.limits;
        let connect = || {
            open(
                address.to_owned(),
                self.hello(Some(node)),
                limits,
                limits.connect,
            )
        };
        let backoff = limits.backoff.mul_f64(rand::rng().random_range(1.0..2.0));
        slot.connection(address, connect, backoff).await
    }

    fn hello(&self, target: Option<&NodeId>) -> Hello {
        Hello {
            local: self.inner.local.clone(),
            cluster: self.cluster(),
            target: target.cloned(),
        }
    }

    fn slot(&self, node: &NodeId, class: Class) -> Arc<Slot> {
        let mut slots = self.slots();
        let slot = slots.entry((node.clone(), class));
        Arc::clone(slot.or_insert_with(|| Arc::new(Slot::new())))
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<(NodeId, Class), Arc<Slot>>> {
        self.inner
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to an address, outside the pool.
pub struct Visit {
    peers: Peers,
    connection: Connection,
    address: String,
}

impl Visit {
    /// Who answers there.
    pub fn peer(&self) -> &RemotePeer {
        self.connection.peer()
    }

    pub async fn call(&self, request: &Request, timeout: Duration) -> Result<Response, PeerError> {
        let deadline = Instant::now() + timeout;
        let ask = (0, request, timeout);
        let answer = self.peers.exchange(&self.connection, ask, deadline).await;
        answer.map_err(|f| fault(f, &self.address, timeout))
    }
}

async fn open(
    address: String,
    hello: Hello,
    limits: Limits,
    each: Duration,
) -> Result<Connection, PeerError> {
    let connecting = handshake::connect(&address, &hello, each);
    match timeout(limits.attempt.max(each), connecting).await {
        Ok(Ok((stream, peer))) => Ok(Connection::start(stream, address, peer, limits)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(PeerError::Unreachable {
            address,
            why: format!(
                "no address of it answered within {} ms",
                limits.attempt.as_millis()
            ),
        }),
    }
}

fn millis(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)
}

/// The fault of a call to `address` that was given `waited`.
pub fn fault(fault: Fault, address: &str, waited: Duration) -> PeerError {
    let address = address.to_owned();
    match fault {
        Fault::Frame(error) => PeerError::Protocol {
            address,
            why: format!("the request cannot be sent: {error}"),
        },
        Fault::Closed | Fault::Lost => PeerError::Lost { address },
        Fault::Full => PeerError::Full { address },
        Fault::Timeout => PeerError::Timeout {
            address,
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        },
    }
}
