//! Looking at another cluster from outside: which it is, who is in it. Changes nothing there:
//! asking to be let in would put this node into its ring before it has anything to say there.

use std::time::Duration;

use super::plan::Seen;
use crate::{
    node::SharedNode,
    replication::{
        frames::{Request, Response},
        peers::{LocalPeer, Peers},
    },
};

/// How long one question may take.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Connections of nobody's, to look with.
#[derive(Clone)]
pub struct Scout {
    peers: Peers,
}

impl Scout {
    pub fn new(node: &SharedNode) -> Self {
        Self {
            peers: Peers::new(local(node)),
        }
    }

    /// What the node at `seed` goes by; otherwise why that cannot be known now.
    pub async fn look(&self, seed: &str) -> Result<Seen, String> {
        let topology = match self.ask(seed, Request::FetchTopology).await? {
            Response::Topology {
                topology: Some(topology),
            } if topology.is_well_formed() => topology,
            Response::Topology { .. } | Response::NotReady { .. } => {
                return Err(format!("{seed}: has not joined a cluster yet"));
            }
            Response::Refused { reason, .. } => return Err(format!("{seed}: {reason}")),
            _ => return Err(format!("{seed}: gave an answer that makes no sense")),
        };
        let members = match self.ask(seed, Request::Members).await? {
            Response::Members { members } => members,
            Response::NotReady { reason } | Response::Refused { reason, .. } => {
                return Err(format!("{seed}: {reason}"));
            }
            _ => return Err(format!("{seed}: gave an answer that makes no sense")),
        };
        Ok(Seen {
            seed: seed.to_owned(),
            topology,
            members,
        })
    }

    async fn ask(&self, seed: &str, request: Request) -> Result<Response, String> {
        let answer = self.peers.call_address(seed, request, ANSWER_TIME).await;
        answer
            .map(|(_, response)| response)
            .map_err(|e| e.to_string())
    }
}

pub fn local(node: &SharedNode) -> LocalPeer {
    LocalPeer {
        node_id: node.facts.id.clone(),
        generation: node.facts.generation,
    }
}
