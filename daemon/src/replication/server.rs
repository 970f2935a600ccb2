//! The receiving half: what this node answers to others. (Interface first.)

use std::sync::Arc;

use axum::{extract::Request as HttpRequest, response::Response as HttpResponse};
use ringmaster_shared::id::NodeId;
use tokio_util::sync::CancellationToken;

use crate::{
    gossip::GossipHandle, identity::IdentityStore, lifecycle::LifecycleHandle, storage::Store,
    topology::TopologyHandle,
};

/// Path of the upgrade.
pub const PEER_PATH: &str = "/internal/peer";

/// Everything needed to answer peers. Gossip is set when this node has a cluster.
pub struct PeerServer {
    pub node_id: NodeId,
    pub identity: IdentityStore,
    pub lifecycle: LifecycleHandle,
    pub store: Store,
    pub topology: TopologyHandle,
    pub gossip: Arc<std::sync::OnceLock<GossipHandle>>,
    pub stop: CancellationToken,
}

#[allow(unused_variables)]
impl PeerServer {
    /// Answers `GET /internal/peer` with `Upgrade: ringmaster-peer/1`: checks cluster and
    /// target, then serves frames until the connection ends or `stop`.
    pub async fn upgrade(self: Arc<Self>, request: HttpRequest) -> HttpResponse {
        todo!()
    }
}
