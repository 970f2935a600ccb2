//! Asks every member for its view; one that does not answer is an answer too.

use futures_util::future::join_all;
use ringmaster_shared::api::{
    health::StatusResponse, membership::MembersResponse, ring::ClusterResponse,
};

use crate::{
    client::{Client, ClientError},
    progress::Target,
};

/// What the cluster looks like from all its members.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Members of the ring, sorted by id.
    pub targets: Vec<Target>,
    /// The picture of each target, in the same order.
    pub views: Vec<Result<ClusterResponse, String>>,
}

impl Survey {
    /// Asks the first endpoint that answers who the members are, then every member.
    pub async fn take(client: &Client, endpoints: &[String]) -> Result<Self, ClientError> {
        let first = first_answer(client, endpoints).await?;
        let mut targets: Vec<Target> = first
            .ring
            .nodes
            .iter()
            .map(|n| {
                // gossip knows a changed address before the ring does
                let live = first.members.cluster_members.get(&n.id);
                let address = live.map_or_else(|| n.address.clone(), |m| m.address.clone());
                Target {
                    id: n.id.clone(),
                    address,
                }
            })
            .collect();
        targets.sort();
        let views = join_all(targets.iter().map(|t| async {
            let view: Result<ClusterResponse, _> = client.get(&t.address, "/api/v1/cluster").await;
            match view {
                Ok(view) if view.status.node.id == t.id => Ok(view),
                Ok(view) => Err(format!(
                    "{} is {}, not {}",
                    t.address, view.status.node.id, t.id
                )),
                Err(e) => Err(e.to_string()),
            }
        }))
        .await;
        Ok(Self { targets, views })
    }
}

/// The whole picture from the first endpoint that gives one.
pub async fn first_answer(
    client: &Client,
    endpoints: &[String],
) -> Result<ClusterResponse, ClientError> {
    let mut last = ClientError::no_endpoint();
    for endpoint in endpoints {
        match client.get(endpoint, "/api/v1/cluster").await {
            Ok(answer) => return Ok(answer),
            // a refusal says more than a closed port
            Err(e) if e.is_unreachable() && !last.is_unreachable() => {}
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// `/api/v1/status` of each target.
pub async fn statuses(
    client: &Client,
    targets: &[Target],
) -> Vec<(Target, Result<StatusResponse, ClientError>)> {
    join_all(
        targets
            .iter()
            .map(|t| async { (t.clone(), client.get(&t.address, "/api/v1/status").await) }),
    )
    .await
}

/// `/gossip/members` of each target.
pub async fn members(
    client: &Client,
    targets: &[Target],
) -> Vec<(Target, Result<MembersResponse, ClientError>)> {
    join_all(
        targets
            .iter()
            .map(|t| async { (t.clone(), client.get(&t.address, "/gossip/members").await) }),
    )
    .await
}
