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
        health::StatusResponse,
        membership::MembersResponse,
        ring::{ClusterResponse, RingResponse},
    },
    id::NodeId,
    member::{ABOUT_TO_STOP, Lifecycle},
};
use tokio::sync::{mpsc, watch};

use crate::{
    client::Client,
    cluster::{Cluster, NodeKnowledge},
    format,
    link::{EndpointView, same_place},
    progress::{Preview, ProcedureKind, Progress, Target},
};
use runner::{Runner, Wires};
use survey::{Heard, Survey, doing};

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
    fn not_yet(id: &NodeId, status: &StatusResponse) -> Self {
        Self::by(is_at_work(status), format!("{id} is {}", doing(status)))
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

/// On its way down, or up: takes time of its own, and says so. One that is drained is at nothing:
/// it waits for somebody.
fn is_at_work(status: &StatusResponse) -> bool {
    match status.node.lifecycle {
        Lifecycle::Joining | Lifecycle::Recovering => true,
        Lifecycle::Draining => {
            let why = status.node.waiting_for.as_deref();
            why.is_some_and(|why| why.starts_with(ABOUT_TO_STOP))
        }
        Lifecycle::Candidate | Lifecycle::Serving | Lifecycle::Standby | Lifecycle::Stopped => {
            false
        }
    }
}

/// What to do about one that does not serve.
fn remedy(status: &StatusResponse) -> &'static str {
    match status.node.lifecycle {
        Lifecycle::Draining if !is_at_work(status) => {
            "it serves again once it is resumed (POST /api/v1/admin/resume at it) or restarted"
        }
        Lifecycle::Standby => "start it first (POST /api/v1/admin/start at it)",
        _ => "wait until it serves",
    }
}

/// Why a procedure does not start, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What `kind` would do to the cluster as it is known now, from those that are `asked` themselves.
/// The runner asks again before it acts, and asks all.
pub fn preview(
    kind: ProcedureKind,
    cluster: &Cluster,
    asked: &[EndpointView],
    now_ms: u64,
) -> Preview {
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
    if let Some(why) = too_many(kind, &survey.targets, asked) {
        return blocked(why);
    }
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

/// Why the dashboard cannot judge it: it asks so many nodes itself and no more.
fn too_many(kind: ProcedureKind, members: &[Target], asked: &[EndpointView]) -> Option<String> {
    let is_asked = |t: &Target| asked.iter().any(|e| same_place(&e.address, &t.address));
    let others = members.iter().filter(|t| !is_asked(t)).count();
    let through = asked.first().filter(|_| others > 0)?;
    let flag = match kind {
        ProcedureKind::CleanRestart => "--clean",
        ProcedureKind::RollingRestart => "--rolling",
    };
    Some(format!(
        "this dashboard does not ask {} of {} itself, so it cannot tell whether they may restart; \
         from a shell, `ringmaster restart {flag} -e {}` asks all of them",
        others,
        format::plural(members.len(), "member"),
        through.address
    ))
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
        let status = node.status.as_ref().ok_or("it has not answered yet")?;
        if status.is_stale(now_ms) {
            return Err("its last answer is too old".to_owned());
        }
        let status = status.value.clone();
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
    use crate::{
        fixture::{self, id},
        procedure::fixture::status,
    };

    /// The plans the screen previews refuse what those of the command line do.
    #[test]
    fn nothing_is_previewed_while_the_endpoints_are_of_two_clusters() {
        let app = fixture::healthy();
        let two = fixture::changes::two_clusters();
        for kind in ProcedureKind::ALL {
            let fine = preview(kind, &app.cluster, &app.link.endpoints, app.now_ms);
            assert_eq!(fine.blocked, Vec::<String>::new(), "{kind:?}");
            let split = preview(kind, &two.cluster, &two.link.endpoints, two.now_ms);
            let why = split.blocked.join("; ");
            assert!(why.contains("2 clusters"), "{kind:?}: {why}");
            assert!(why.contains("localhost:8089 (node-9)"), "{kind:?}: {why}");
            assert!(split.steps.is_empty());
        }
    }

    /// Of a large cluster only some are asked, and the others have not failed to answer.
    #[test]
    fn who_is_not_asked_is_not_said_to_be_silent() {
        let mut app = fixture::healthy();
        app.cluster
            .nodes
            .get_mut(&id("node-3"))
            .expect("a node")
            .status = None;
        let [why] = &preview_of(&app).blocked[..] else {
            panic!("one reason");
        };
        assert!(why.contains("node-3 (it has not answered yet)"), "{why}");
        app.link
            .endpoints
            .retain(|e| e.address != fixture::address(2));
        let [why] = &preview_of(&app).blocked[..] else {
            panic!("one reason");
        };
        for part in [
            "does not ask 1 of 3 members",
            "ringmaster restart --clean -e localhost:8081",
        ] {
            assert!(why.contains(part), "no {part}: {why}");
        }
    }

    fn preview_of(app: &crate::app::App) -> Preview {
        let (cluster, asked) = (&app.cluster, &app.link.endpoints);
        preview(ProcedureKind::CleanRestart, cluster, asked, app.now_ms)
    }

    #[test]
    fn who_is_drained_by_an_operator_is_at_nothing_and_is_to_be_resumed() {
        let mut drained = status("a", Lifecycle::Draining, 5);
        drained.node.waiting_for = Some("drained by an operator (backup) until resumed".into());
        assert!(!is_at_work(&drained));
        assert!(remedy(&drained).contains("/api/v1/admin/resume"));
        let mut stops = drained.clone();
        stops.node.waiting_for = Some(format!("{ABOUT_TO_STOP}, for a clean restart"));
        assert!(is_at_work(&stops));
        assert_eq!(remedy(&stops), "wait until it serves");
    }
}
