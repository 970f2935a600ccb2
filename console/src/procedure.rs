//! Restart procedures: a plan that can be previewed, gates that decide, a runner that acts.
//!
//! [`clean`] and [`rolling`] are pure: from what the nodes answered they make the plan and judge
//! each gate. [`survey`] asks, [`runner`] gives the orders and waits. A gate that is not met is a
//! sentence that says who is waited for, [`patience`] says for how long; a cancelled or failed
//! procedure leaves nodes that come back by themselves, because a standby ends when its hold time
//! is over.

pub mod clean;
#[cfg(test)]
pub mod fixture;
pub mod patience;
pub mod rolling;
pub mod runner;
pub mod survey;

use ringmaster_shared::{
    api::{
        membership::MembersResponse,
        ring::{ClusterResponse, RingResponse},
    },
    id::NodeId,
    member::Lifecycle,
};
use tokio::sync::{mpsc, watch};

use crate::{
    client::Client,
    cluster::{Cluster, NodeKnowledge},
    progress::{Preview, ProcedureKind, Progress, Target},
};
use runner::{Runner, Wires};
use survey::{Heard, Survey};

/// How a gate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Go on; what was seen.
    Met(String),
    /// Not yet, and for whom or what.
    Waiting(String),
    /// Not yet, and who is waited for says that it is at it: it stops, starts, or is refilled.
    Working(String),
}

impl Gate {
    /// `id` is not where it is wanted.
    fn not_yet(id: &NodeId, lifecycle: Lifecycle, doing: &str) -> Self {
        Self::by(is_at_work(lifecycle), format!("{id} is {doing}"))
    }

    fn by(at_work: bool, why: String) -> Self {
        if at_work {
            Self::Working(why)
        } else {
            Self::Waiting(why)
        }
    }

    /// What is waited for, while it is not met.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Met(_) => None,
            Self::Waiting(why) | Self::Working(why) => Some(why),
        }
    }
}

/// On its way down, or up: takes time of its own, and says so.
fn is_at_work(lifecycle: Lifecycle) -> bool {
    matches!(
        lifecycle,
        Lifecycle::Draining | Lifecycle::Joining | Lifecycle::Recovering
    )
}

/// Why a procedure does not start, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What `kind` would do to the cluster as it is known now. The runner asks again before it acts.
pub fn preview(kind: ProcedureKind, cluster: &Cluster, now_ms: u64) -> Preview {
    let blocked = |why: String| Preview {
        kind,
        nodes: Vec::new(),
        steps: Vec::new(),
        effects: Vec::new(),
        blocked: vec![why],
    };
    if cluster.is_stale(now_ms) {
        return blocked("the picture of the cluster is too old to act on".to_owned());
    }
    let Some(survey) = known(cluster, now_ms) else {
        return blocked("the ring is not known yet".to_owned());
    };
    let plan = match kind {
        ProcedureKind::CleanRestart => {
            clean::plan(&survey).map(|p| (p.order.clone(), p.steps(), p.effects()))
        }
        ProcedureKind::RollingRestart => {
            rolling::plan(&survey).map(|p| (p.order.clone(), p.steps(), rolling::Plan::effects()))
        }
    };
    match plan {
        Err(refusal) => blocked(refusal.0),
        Ok((order, steps, effects)) => Preview {
            kind,
            nodes: order.into_iter().map(|t| t.id).collect(),
            steps,
            effects,
            blocked: Vec::new(),
        },
    }
}

/// What the dashboard knows, in the form the plans are made from: each node's own status, with
/// the members and the ring of the node at the other end of the link.
fn known(cluster: &Cluster, now_ms: u64) -> Option<Survey> {
    let members: &MembersResponse = &cluster.members.as_ref()?.value;
    let ring: &RingResponse = &cluster.ring.as_ref()?.value;
    if ring.table.is_empty() {
        return None;
    }
    let mut targets: Vec<Target> = ring
        .nodes
        .iter()
        .map(|n| Target {
            id: n.id.clone(),
            address: members
                .cluster_members
                .get(&n.id)
                .map_or_else(|| n.address.clone(), |m| m.address.clone()),
        })
        .collect();
    targets.sort();
    let view = |node: Option<&NodeKnowledge>| {
        let node = node.ok_or("it was never asked")?;
        if let Some(error) = &node.error {
            return Err(error.message.clone());
        }
        let status = node.status.as_ref().filter(|s| !s.is_stale(now_ms));
        let status = status.ok_or("its last answer is too old")?.value.clone();
        let mut members = members.clone();
        members
            .membership_digest
            .clone_from(&status.cluster.membership_digest);
        let mut ring = ring.clone();
        ring.epoch = status.cluster.ring_epoch;
        ring.digest.clone_from(&status.cluster.ring_digest);
        Ok(ClusterResponse {
            status,
            members,
            ring,
        })
    };
    let views = targets
        .iter()
        .map(|t| view(cluster.nodes.get(&t.id)))
        .collect();
    // also those who are in no list: the endpoints this console was given
    let fresh = cluster.nodes.values().filter(|n| n.error.is_none());
    let heard = fresh.filter_map(|n| {
        let status = n.status.as_ref().filter(|s| !s.is_stale(now_ms))?;
        Some(Heard::of(&n.address, &status.value))
    });
    Some(Survey {
        heard: heard.collect(),
        targets,
        views,
    })
}

/// Carries it out, telling `progress` after every change; the last one has an outcome. `cancel`
/// turns true when the operator wants it to stop at the next safe point.
pub async fn run(
    kind: ProcedureKind,
    targets: Vec<Target>,
    progress: mpsc::Sender<Progress>,
    cancel: watch::Receiver<bool>,
) {
    let endpoints: Vec<String> = targets.into_iter().map(|t| t.address).collect();
    match Client::new() {
        Ok(client) => {
            Runner::new(client, kind, Wires { progress, cancel })
                .run(&endpoints)
                .await;
        }
        Err(error) => tracing::error!("cannot make an HTTP client: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    /// The plans the screen previews refuse what those of the command line do.
    #[test]
    fn nothing_is_previewed_while_the_endpoints_are_of_two_clusters() {
        let app = fixture::healthy();
        let two = fixture::changes::two_clusters();
        for kind in ProcedureKind::ALL {
            let fine = preview(kind, &app.cluster, app.now_ms);
            assert_eq!(fine.blocked, Vec::<String>::new(), "{kind:?}");
            let split = preview(kind, &two.cluster, two.now_ms);
            let why = split.blocked.join("; ");
            assert!(why.contains("2 clusters"), "{kind:?}: {why}");
            assert!(why.contains("localhost:8089 (node-9)"), "{kind:?}: {why}");
            assert!(split.steps.is_empty());
        }
    }
}
