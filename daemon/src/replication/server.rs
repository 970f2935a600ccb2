//! The receiving half: what this node answers to others.
//!
//! `gate` lets callers in, `session` carries frames, `dispatch` finds who answers. Promises:
//! nobody of another cluster is served, and every request is answered exactly once. What the
//! answers are is decided by gossip, topology and replica.

mod dispatch;
pub mod gate;
mod session;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{extract::Request as HttpRequest, response::Response as HttpResponse};
use hyper_util::rt::TokioIo;
use ringmaster_shared::id::NodeId;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;

pub use self::session::Handler;
use self::{
    dispatch::Dispatch,
    gate::{Doorkeeper, Refusal},
};
use crate::{
    events::Events,
    gossip::{GossipHandle, secrecy::Secrecy},
    identity::IdentityStore,
    lifecycle::LifecycleHandle,
    replication::clock::HybridClock,
    storage::Store,
    topology::TopologyHandle,
};

/// Path of the upgrade.
pub const PEER_PATH: &str = "/internal/peer";
/// Connections of other nodes to this process: four classes, and room for far more nodes than
/// a cluster of this kind has.
static CONNECTIONS: Semaphore = Semaphore::const_new(4096);
/// How long the switch from HTTP to frames may take.
const SWITCH: Duration = Duration::from_secs(10);

/// Everything needed to answer peers. Gossip is set when this node has a cluster.
pub struct PeerServer {
    pub node_id: NodeId,
    pub identity: IdentityStore,
    /// The keys of the gossip: who joins must show one.
    pub secrecy: Option<Secrecy>,
    pub events: Events,
    pub lifecycle: LifecycleHandle,
    pub store: Store,
    pub topology: TopologyHandle,
    pub clock: HybridClock,
    /// `storage.tombstone_grace`, ms.
    pub grace_ms: u64,
    pub gossip: Arc<std::sync::OnceLock<GossipHandle>>,
    pub stop: CancellationToken,
}

impl PeerServer {
    /// Answers `GET /internal/peer` with `Upgrade: ringmaster-peer/1`: checks cluster and
    /// target, then serves frames until the connection ends or `stop`.
    #[expect(clippy::unused_async, reason = "called as an axum handler")]
    pub async fn upgrade(self: Arc<Self>, request: HttpRequest) -> HttpResponse {
        let door = Doorkeeper {
            node_id: self.node_id.clone(),
            cluster: self.identity.cluster_id(),
        };
        // who is turned away here never says a message that gossip could count
        if let (Some(gossip), Some((who, theirs))) =
            (self.gossip.get(), door.stranger(request.headers()))
        {
            gossip.met_stranger(&who, &theirs);
        }
        let stop = self.stop.clone();
        accept(&door, request, || Dispatch::new(self), stop)
    }
}

/// Lets the caller in or refuses it; a caller that is let in is served by a task of its own.
pub fn accept<H: Handler>(
    door: &Doorkeeper,
    request: HttpRequest,
    handler: impl FnOnce() -> H,
    stop: CancellationToken,
) -> HttpResponse {
    if stop.is_cancelled() {
        return door.refuse(Refusal::stopping(), request.headers());
    }
    let caller = match door.check(request.method(), request.headers()) {
        Ok(caller) => caller,
        Err(refusal) => {
            tracing::debug!(reason = %refusal.sentence, "a peer connection was refused");
            return door.refuse(refusal, request.headers());
        }
    };
    let Ok(place) = CONNECTIONS.try_acquire() else {
        let full = Refusal::busy("too many nodes are connected");
        return door.refuse(full, request.headers());
    };
    let handler = Arc::new(handler());
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _place = place;
        match timeout(SWITCH, upgrade).await {
            Ok(Ok(stream)) => session::run(TokioIo::new(stream), caller, handler, stop).await,
            Ok(Err(error)) => tracing::debug!(node = %caller.node_id, %error, "upgrade failed"),
            Err(_) => tracing::debug!(node = %caller.node_id, "upgrade took too long"),
        }
    });
    door.welcome()
}
