//! Rolling restart, the pure part: whether the next node may go, and when it is back.
//!
//! Back means more than its own word: every *peer* sees it serving in its new life, and nobody
//! owes it a write any more (`scylla-operator#1077`: the next stop came too early).

use std::collections::BTreeSet;

use ringmaster_shared::{
    api::ring::topology_of,
    id::{ClusterId, Generation, NodeId},
    member::{Lifecycle, MemberStatus},
    quorum::partition_counts,
};

use super::{
    Gate, Refusal, is_at_work, remedy,
    survey::{Survey, doing},
};

use crate::progress::Target;

/// What is going to happen.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub cluster_id: String,
    /// In this order, one at a time.
    pub order: Vec<Target>,
}

impl Plan {
    /// One sentence a step.
    pub fn steps(&self) -> Vec<String> {
        let step = |t: &Target| {
            format!(
                "restart {}; go on when every peer sees it serving, its hints are drained and a canary passes",
                t.id
            )
        };
        self.order.iter().map(step).collect()
    }

    /// What clients will notice.
    pub fn effects() -> Vec<String> {
        vec![
            "one node at a time, only while every partition keeps its quorum without it".to_owned(),
            "a client that retries once sees no failed request".to_owned(),
        ]
    }
}

/// Makes the plan, or says why there is none.
pub fn plan(survey: &Survey) -> Result<Plan, Refusal> {
    if let Some(split) = survey.split() {
        return Err(Refusal(split));
    }
    let first = survey.views.iter().find_map(|v| v.as_ref().ok());
    let Some(first) = first else {
        return Err(Refusal(if survey.targets.is_empty() {
            survey.nobody()
        } else {
            "no member answers".to_owned()
        }));
    };
    let plan = Plan {
        cluster_id: first.status.cluster.cluster_id.clone(),
        order: survey.targets.clone(),
    };
    for target in &plan.order {
        if let Some(why) = may_go(survey, &target.id).why() {
            return Err(Refusal(why.to_owned()));
        }
    }
    Ok(plan)
}

/// Whether `node` may be restarted now.
pub fn may_go(survey: &Survey, node: &NodeId) -> Gate {
    let mut serving = BTreeSet::new();
    for (target, view) in survey.targets.iter().zip(&survey.views) {
        match view {
            Err(why) => return Gate::Waiting(format!("{} must answer first: {why}", target.id)),
            Ok(v) if v.status.node.lifecycle != Lifecycle::Serving => {
                let why = format!("{} is not serving but {}", target.id, doing(&v.status));
                return if is_at_work(&v.status) {
                    Gate::Working(why)
                } else {
                    Gate::Waiting(format!("{why}; {}", remedy(&v.status)))
                };
            }
            Ok(v) if v.ring.transition.is_some() => {
                return Gate::Waiting("a ring change is under way".to_owned());
            }
            Ok(v) => {
                if let Some((to, n)) = v.status.storage.hints_owed.iter().find(|(_, n)| **n > 0) {
                    return Gate::Working(format!("{} still owes {n} hints to {to}", target.id));
                }
                let sees_all = survey.targets.iter().find_map(|t| {
                    match v.members.cluster_members.get(&t.id) {
                        Some(m) if m.status == MemberStatus::Alive => None,
                        Some(m) => Some(format!("{} as {}", t.id, m.status.as_str())),
                        None => Some(format!("no {}", t.id)),
                    }
                });
                if let Some(what) = sees_all {
                    return Gate::Waiting(format!("{} sees {what}", target.id));
                }
                serving.insert(target.id.clone());
            }
        }
    }
    serving.remove(node);
    keeps_quorum(survey, node, &serving)
}

fn keeps_quorum(survey: &Survey, node: &NodeId, without: &BTreeSet<NodeId>) -> Gate {
    let newest = survey.views.iter().flatten().max_by_key(|v| v.ring.epoch);
    let topology = newest.and_then(|v| {
        let cluster = ClusterId::new(&v.status.cluster.cluster_id).ok()?;
        topology_of(&v.ring, &cluster)
    });
    let Some(topology) = topology else {
        return Gate::Waiting("no member shows a ring".to_owned());
    };
    let counts = partition_counts(&topology, without);
    if counts.unavailable > 0 {
        return Gate::Waiting(format!(
            "without {node}, {} of {} partitions would have no quorum; use a clean restart, or add nodes first",
            counts.unavailable, counts.total
        ));
    }
    Gate::Met(format!(
        "without {node} all {} partitions keep a quorum",
        counts.total
    ))
}

/// Whether `node` is back from its restart, for itself and for every peer.
pub fn is_back(survey: &Survey, node: &NodeId, old: Generation) -> Gate {
    // what it says itself comes first: the others only see that it is away
    if let Some(gate) = not_back(survey, node, old) {
        return gate;
    }
    for (target, view) in survey.targets.iter().zip(&survey.views) {
        let view = match view {
            Ok(view) => view,
            Err(why) => return Gate::Waiting(format!("{}: {why}", target.id)),
        };
        match view.members.cluster_members.get(node) {
            Some(m)
                if m.status == MemberStatus::Alive
                    && m.lifecycle == Lifecycle::Serving
                    && m.generation > old => {}
            Some(m) if m.generation <= old => {
                return Gate::Waiting(format!("{} has not seen {node}'s new life", target.id));
            }
            Some(m) => {
                let what = if m.status == MemberStatus::Alive {
                    m.lifecycle.as_str()
                } else {
                    m.status.as_str()
                };
                return Gate::Waiting(format!("{} sees {node} as {what}", target.id));
            }
            None => return Gate::Waiting(format!("{} does not list {node}", target.id)),
        }
        if let Some(n) = view.status.storage.hints_owed.get(node).filter(|n| **n > 0) {
            return Gate::Working(format!("{} owes {n} hints to {node}", target.id));
        }
    }
    let digests: BTreeSet<&str> = survey
        .views
        .iter()
        .flatten()
        .map(|v| v.members.membership_digest.as_str())
        .collect();
    if digests.len() > 1 {
        return Gate::Waiting("the views differ".to_owned());
    }
    Gate::Met(format!(
        "{node} serving, seen by all {}",
        survey.targets.len()
    ))
}

/// How far `node` is by its own word; nothing once it serves in a new life.
fn not_back(survey: &Survey, node: &NodeId, old: Generation) -> Option<Gate> {
    let mut own = survey.targets.iter().zip(&survey.views);
    let (_, view) = own.find(|(t, _)| &t.id == node)?;
    let status = match view {
        Ok(view) => &view.status,
        Err(why) => return Some(Gate::Waiting(format!("{node}: {why}"))),
    };
    let lifecycle = status.node.lifecycle;
    if status.node.generation <= old {
        let why = format!("{node} has not restarted yet, it is {}", doing(status));
        return Some(Gate::by(is_at_work(status), why));
    }
    (lifecycle != Lifecycle::Serving).then(|| Gate::not_yet(node, status))
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{heard, id, survey},
        *,
    };

    #[test]
    fn a_node_goes_only_while_quorum_stays() {
        let three = survey(&["a", "b", "c"], &[5, 5, 5]);
        assert!(matches!(may_go(&three, &id("b")), Gate::Met(_)));
        let two = survey(&["a", "b"], &[5, 5]);
        let why = plan(&two).expect_err("quorum of two is two").0;
        assert!(why.contains("would have no quorum"), "{why}");
    }

    #[test]
    fn it_is_refused_where_the_endpoints_are_of_two_clusters() {
        let mut split = survey(&["a", "b", "c"], &[5, 5, 5]);
        assert!(plan(&split).is_ok());
        split.heard = vec![heard("z:1", "z", "another")];
        let why = plan(&split).expect_err("two clusters").0;
        assert!(why.contains("another at z:1 (z)"), "{why}");
        let mut nobody = survey(&[], &[]);
        nobody.heard = vec![heard("z:1", "z", "")];
        let why = plan(&nobody).expect_err("no ring").0;
        assert!(why.contains("z:1 (z) is serving"), "{why}");
    }

    #[test]
    fn hints_views_and_silence_hold_it_back() {
        let mut owed = survey(&["a", "b", "c"], &[5, 5, 5]);
        if let Ok(v) = &mut owed.views[2] {
            v.status.storage.hints_owed.insert(id("a"), 7);
        }
        assert_eq!(
            may_go(&owed, &id("b")),
            Gate::Working("c still owes 7 hints to a".into())
        );

        let mut dead = survey(&["a", "b", "c"], &[5, 5, 5]);
        if let Ok(v) = &mut dead.views[0] {
            let m = v.members.cluster_members.get_mut(&id("c")).expect("c");
            m.status = MemberStatus::Suspected;
        }
        assert_eq!(
            may_go(&dead, &id("b")),
            Gate::Waiting("a sees c as suspected".into())
        );

        let mut silent = survey(&["a", "b", "c"], &[5, 5, 5]);
        silent.views[1] = Err("no answer in time".into());
        assert!(matches!(may_go(&silent, &id("a")), Gate::Waiting(_)));
    }

    /// Waiting for it would be waiting for an operator.
    #[test]
    fn one_that_is_drained_is_not_at_work_and_what_helps_is_said() {
        let mut drained = survey(&["a", "b", "c"], &[5, 5, 5]);
        if let Ok(v) = &mut drained.views[2] {
            v.status.node.lifecycle = Lifecycle::Draining;
            v.status.node.waiting_for = Some("drained by an operator (backup)".into());
        }
        let Gate::Waiting(why) = may_go(&drained, &id("b")) else {
            panic!("nobody is at work");
        };
        for part in ["c is not serving but draining: drained by", "admin/resume"] {
            assert!(why.contains(part), "no {part}: {why}");
        }
    }

    #[test]
    fn back_needs_every_peer() {
        let mut s = survey(&["a", "b", "c"], &[5, 5, 5]);
        assert!(
            matches!(is_back(&s, &id("b"), 1), Gate::Waiting(_)),
            "same generation"
        );
        assert!(matches!(is_back(&s, &id("b"), 0), Gate::Met(_)));
        if let Ok(v) = &mut s.views[2] {
            let m = v.members.cluster_members.get_mut(&id("b")).expect("b");
            m.lifecycle = Lifecycle::Joining;
        }
        assert_eq!(
            is_back(&s, &id("b"), 0),
            Gate::Waiting("c sees b as joining".into())
        );
    }
    #[test]
    fn on_its_way_down_and_up_it_is_at_work() {
        let with = |generation, lifecycle, waits: Option<&str>| {
            let mut s = survey(&["a", "b", "c"], &[5, 5, 5]);
            if let Ok(v) = &mut s.views[1] {
                v.status.node.generation = generation;
                v.status.node.lifecycle = lifecycle;
                v.status.node.waiting_for = waits.map(str::to_owned);
            }
            // the others see no more than that it is away
            for view in s.views.iter_mut().flatten() {
                let m = view.members.cluster_members.get_mut(&id("b")).expect("b");
                m.status = MemberStatus::Stopped;
            }
            is_back(&s, &id("b"), 1)
        };
        let down = with(1, Lifecycle::Draining, Some("it is about to stop"));
        let want = "b has not restarted yet, it is draining: it is about to stop";
        assert_eq!(down, Gate::Working(want.into()));
        let opens = with(2, Lifecycle::Joining, Some("the store to open"));
        let want = "b is joining, waiting for the store to open";
        assert_eq!(opens, Gate::Working(want.into()));
        let refilled = with(2, Lifecycle::Recovering, None);
        assert_eq!(refilled, Gate::Working("b is recovering".into()));
        // it has not heard, or has heard something else
        assert!(matches!(
            with(1, Lifecycle::Serving, None),
            Gate::Waiting(_)
        ));
        assert!(matches!(
            with(2, Lifecycle::Standby, None),
            Gate::Waiting(_)
        ));
    }
}
