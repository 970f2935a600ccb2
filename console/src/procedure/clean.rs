//! Clean restart, the pure part: who takes part, who starts first, and when it is refused. When
//! each gate is met stands in [`gates`].
//!
//! The barrier comes first: **all** members stand by before **any** gossip state is cleared, and
//! it is cleared on all before any starts. One survivor would teach the others the old state
//! again (`scylladb#14991`, `#3192`).

pub mod gates;

use std::collections::BTreeMap;

use ringmaster_shared::{
    api::ring::ClusterResponse,
    id::{ClusterId, Epoch, NodeId},
    member::Lifecycle,
};

use super::{
    Refusal, remedy,
    survey::{Survey, doing},
};
use crate::progress::Target;

/// What is going to happen.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub cluster_id: String,
    /// In starting order: the bootstrap node first, then by id.
    pub order: Vec<Target>,
    pub epoch: Epoch,
    /// Things that are odd but do not stand in the way.
    pub notes: Vec<String>,
}

impl Plan {
    pub fn bootstrap(&self) -> &Target {
        &self.order[0]
    }

    /// One sentence a step.
    pub fn steps(&self) -> Vec<String> {
        let names: Vec<&str> = self.order.iter().map(|t| t.id.as_str()).collect();
        let all = names.join(", ");
        let mut steps = vec![
            format!("bring to standby: {all}; go on only when all have proven it"),
            format!("clear gossip state on {all}; identity, ring and data stay"),
            format!("start {} alone with what it remembers", self.bootstrap().id),
        ];
        let seed = &self.bootstrap().address;
        steps.extend(
            self.order
                .iter()
                .skip(1)
                .map(|t| format!("start {} with seed {seed}", t.id)),
        );
        steps.push(
            "verify: the same members and epoch everywhere, quorum, a write and a read through every node"
                .to_owned(),
        );
        steps
    }

    /// What clients will notice, and what is odd already.
    pub fn effects(&self) -> Vec<String> {
        let mut effects = vec![
            "reads and writes are refused from the first step until a quorum is back".to_owned(),
            "a node that is not told to start for 120 s starts by itself".to_owned(),
        ];
        effects.extend(self.notes.iter().cloned());
        effects
    }
}

/// Makes the plan, or says why there is none.
pub fn plan(survey: &Survey) -> Result<Plan, Refusal> {
    if let Some(split) = survey.split() {
        return Err(Refusal(split));
    }
    let missing: Vec<String> = survey
        .targets
        .iter()
        .zip(&survey.views)
        .filter_map(|(t, v)| v.as_ref().err().map(|why| format!("{} ({why})", t.id)))
        .collect();
    if !missing.is_empty() {
        return Err(Refusal(format!(
            "a clean restart needs every member, or the missing one brings the old state back: no answer from {}",
            missing.join(", ")
        )));
    }
    let views: Vec<(&Target, &ClusterResponse)> = survey
        .targets
        .iter()
        .zip(&survey.views)
        .filter_map(|(t, v)| v.as_ref().ok().map(|v| (t, v)))
        .collect();
    let ids = views.iter().map(|(_, v)| &v.status.cluster.cluster_id);
    let Some(cluster_id) = ids
        .into_iter()
        .find(|id| ClusterId::new(id.as_str()).is_ok())
    else {
        return Err(Refusal(survey.nobody()));
    };
    for (target, view) in &views {
        let id = &target.id;
        if view.status.cluster.cluster_id != *cluster_id {
            return Err(Refusal(format!("{id} does not belong to a cluster yet")));
        }
        if view.ring.transition.is_some() {
            return Err(Refusal(format!(
                "{id} is in the middle of a ring change; wait until it is done"
            )));
        }
        if view.status.node.lifecycle != Lifecycle::Serving {
            return Err(Refusal(format!(
                "{id} is not serving but {}; {}",
                doing(&view.status),
                remedy(&view.status)
            )));
        }
    }
    let strangers = outside(&views);
    if !strangers.is_empty() {
        return Err(Refusal(format!(
            "a clean restart needs every node down at the same time, and it stops members of the ring only: {}",
            strangers.join("; ")
        )));
    }
    let bootstrap = choose_bootstrap(&views).id.clone();
    let mut order: Vec<Target> = views.iter().map(|(t, _)| (*t).clone()).collect();
    order.sort_by_key(|t| (t.id != bootstrap, t.id.clone()));
    let epoch = views.iter().map(|(_, v)| v.ring.epoch).max().unwrap_or(0);
    Ok(Plan {
        cluster_id: cluster_id.clone(),
        order,
        epoch,
        notes: notes(&views),
    })
}

/// Who is reachable and in no ring, and what to do about it. One that goes on would tell the others,
/// once they start, what they were to forget.
fn outside(views: &[(&Target, &ClusterResponse)]) -> Vec<String> {
    let mut outside = BTreeMap::new();
    for (_, view) in views {
        for (id, member) in &view.members.cluster_members {
            let in_ring = views.iter().any(|(t, _)| &t.id == id);
            if member.status.is_reachable() && !in_ring {
                outside.insert(id, member.lifecycle);
            }
        }
    }
    let says = |(id, lifecycle): (&NodeId, Lifecycle)| match lifecycle {
        Lifecycle::Candidate => format!("{id} is a candidate: stop it first, or take it in"),
        Lifecycle::Joining => format!("{id} is joining: stop it first, or wait until it serves"),
        other => format!(
            "{id} is {} and not in the ring: stop it first",
            other.as_str()
        ),
    };
    outside.into_iter().map(says).collect()
}

/// Newest topology first, then the lowest id; the views are sorted by id.
fn choose_bootstrap<'a>(views: &[(&'a Target, &ClusterResponse)]) -> &'a Target {
    let mut best = &views[0];
    for candidate in views {
        if candidate.1.ring.epoch > best.1.ring.epoch {
            best = candidate;
        }
    }
    best.0
}

fn notes(views: &[(&Target, &ClusterResponse)]) -> Vec<String> {
    let mut notes = Vec::new();
    let digest = |v: &ClusterResponse| v.members.membership_digest.clone();
    if views.windows(2).any(|w| digest(w[0].1) != digest(w[1].1)) {
        notes.push("the members disagree about who is alive; the clean restart ends that".into());
    }
    if views
        .windows(2)
        .any(|w| w[0].1.ring.epoch != w[1].1.ring.epoch)
    {
        notes.push("not all members know the newest ring yet; they will learn it".into());
    }
    notes
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::member::MemberStatus;

    use super::*;
    use crate::procedure::fixture::{CLUSTER, heard, id, members, survey};

    #[test]
    fn the_newest_ring_bootstraps_then_the_lowest_id() {
        let same = plan(&survey(&["a", "b", "c"], &[5, 5, 5])).expect("a plan");
        assert_eq!(same.bootstrap().id, id("a"));
        let newer = plan(&survey(&["a", "b", "c"], &[5, 6, 6])).expect("a plan");
        let order: Vec<&str> = newer.order.iter().map(|t| t.id.as_str()).collect();
        assert_eq!((order, newer.epoch), (vec!["b", "a", "c"], 6));
        assert!(newer.steps().iter().any(|l| l == "start c with seed b:1"));
        assert_eq!(newer.notes.len(), 1);
    }

    type Edit = fn(&mut ClusterResponse);

    #[test]
    fn it_is_refused_when_somebody_is_missing_changing_or_foreign() {
        let mut split = survey(&["a"], &[5]);
        split.heard = vec![heard("z:1", "z", &CLUSTER.replace('0', "1"))];
        let why = plan(&split).expect_err("refused").0;
        assert!(why.contains("z:1 (z)"), "{why}");

        let mut missing = survey(&["a", "b"], &[5, 5]);
        missing.views[1] = Err("b:1 does not answer: connection refused".into());
        let why = plan(&missing).expect_err("refused").0;
        assert!(why.contains("no answer from b ("), "{why}");

        let edits: [(Edit, &str); 4] = [
            (
                |v| v.status.cluster.cluster_id = CLUSTER.replace('0', "1"),
                "ringmaster adopt",
            ),
            (|v| v.status.cluster.cluster_id.clear(), "b does not belong"),
            (
                |v| v.status.node.lifecycle = Lifecycle::Draining,
                "b is not serving but draining; it serves again once it is resumed",
            ),
            (
                |v| {
                    v.ring.transition = Some(ringmaster_shared::api::ring::TransitionInfo {
                        kind: ringmaster_shared::topology::ChangeKind::Join,
                        step: ringmaster_shared::topology::Step::Filling,
                        joining: vec![],
                        leaving: vec![],
                        moving: 1,
                        target: vec![],
                    });
                },
                "ring change",
            ),
        ];
        for (edit, want) in edits {
            let mut bad = survey(&["a", "b"], &[5, 5]);
            if let Ok(view) = &mut bad.views[1] {
                edit(view);
            }
            let why = plan(&bad).expect_err("refused").0;
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn it_is_refused_while_somebody_outside_the_ring_is_up() {
        let with = |status, lifecycle| {
            let mut s = survey(&["a", "b"], &[5, 5]);
            let stranger = members("b", &[("e", status, lifecycle)]);
            // one view is enough
            if let Ok(view) = &mut s.views[1] {
                let all = &mut view.members.cluster_members;
                all.extend(stranger.cluster_members);
            }
            plan(&s)
        };
        let alive = MemberStatus::Alive;
        let cases = [
            (alive, Lifecycle::Candidate, "e is a candidate: stop it"),
            (
                MemberStatus::Suspected,
                Lifecycle::Candidate,
                "e is a candidate: stop it",
            ),
            (alive, Lifecycle::Joining, "e is joining: stop it first"),
            (
                alive,
                Lifecycle::Draining,
                "e is draining and not in the ring",
            ),
        ];
        for (status, lifecycle, want) in cases {
            let why = with(status, lifecycle).expect_err("refused").0;
            assert!(why.contains(want), "{why}");
            assert!(why.contains("every node down"), "{why}");
        }
        for gone in [
            MemberStatus::Dead,
            MemberStatus::Stopped,
            MemberStatus::Left,
        ] {
            assert!(with(gone, Lifecycle::Candidate).is_ok(), "{gone:?}");
        }
    }
}
