//! When a clean restart may go on: at each gate, from what the nodes say of themselves and of each
//! other, whether it is met, and if not, who is waited for.

use ringmaster_shared::{
    api::{health::StatusResponse, membership::MembersResponse},
    id::NodeId,
    member::{Lifecycle, MemberStatus},
};

use super::Plan;
use crate::procedure::{Gate, is_at_work, survey::doing};

/// Every node says standby: the barrier.
pub fn barrier(statuses: &[(NodeId, Result<StatusResponse, String>)]) -> Gate {
    let mut standing = Vec::new();
    let mut waiting = Vec::new();
    let mut at_work = false;
    for (id, status) in statuses {
        match status {
            Ok(s) if s.node.lifecycle == Lifecycle::Standby => standing.push(id.to_string()),
            Ok(s) => {
                at_work |= is_at_work(s.node.lifecycle);
                waiting.push(format!("{id} is {}", doing(s)));
            }
            // between the old process image and the new one the port is closed for a moment
            Err(why) => waiting.push(format!("{id}: {why}")),
        }
    }
    if waiting.is_empty() {
        Gate::Met(format!("{} in standby", standing.join(", ")))
    } else {
        Gate::by(at_work, waiting.join("; "))
    }
}

/// The bootstrap node serves, and has kept its cluster and its ring.
pub fn bootstrapped(plan: &Plan, status: &Result<StatusResponse, String>) -> Gate {
    let id = &plan.bootstrap().id;
    match status {
        Err(why) => Gate::Waiting(format!("{id}: {why}")),
        Ok(s) if s.node.lifecycle != Lifecycle::Serving => {
            Gate::not_yet(id, s.node.lifecycle, &doing(s))
        }
        Ok(s) if s.cluster.cluster_id != plan.cluster_id => Gate::Waiting(format!(
            "{id} came back in cluster {}",
            s.cluster.cluster_id
        )),
        Ok(s) if s.cluster.ring_epoch < plan.epoch => Gate::Waiting(format!(
            "{id} is at epoch {}, not {}",
            s.cluster.ring_epoch, plan.epoch
        )),
        Ok(s) => Gate::Met(format!("{id} serving, epoch {}", s.cluster.ring_epoch)),
    }
}

/// What a node that was told to start says of itself; met once it serves.
pub fn started(id: &NodeId, status: &Result<StatusResponse, String>) -> Gate {
    match status {
        Err(why) => Gate::Waiting(format!("{id}: {why}")),
        Ok(s) if s.node.lifecycle != Lifecycle::Serving => {
            Gate::not_yet(id, s.node.lifecycle, &doing(s))
        }
        Ok(_) => Gate::Met(format!("{id} serving")),
    }
}

/// Every started node sees exactly the started nodes, all alive and serving, with one digest.
pub fn agreed(started: &[NodeId], views: &[(NodeId, Result<MembersResponse, String>)]) -> Gate {
    let mut digests: Vec<&str> = Vec::new();
    for (id, view) in views {
        let view = match view {
            Ok(view) => view,
            Err(why) => return Gate::Waiting(format!("{id}: {why}")),
        };
        for other in started {
            match view.cluster_members.get(other) {
                None => return Gate::Waiting(format!("{id} does not know {other} yet")),
                Some(m) if m.status != MemberStatus::Alive => {
                    let status = m.status.as_str();
                    return Gate::Waiting(format!("{id} sees {other} as {status}"));
                }
                Some(m) if m.lifecycle != Lifecycle::Serving => {
                    let lifecycle = m.lifecycle.as_str();
                    let why = format!("{id} sees {other} still {lifecycle}");
                    return Gate::by(is_at_work(m.lifecycle), why);
                }
                Some(_) => {}
            }
        }
        if let Some(extra) = view.cluster_members.keys().find(|k| !started.contains(k)) {
            return Gate::Waiting(format!("{id} lists {extra}, which was not started"));
        }
        digests.push(&view.membership_digest);
    }
    match digests.first() {
        Some(first) if digests.iter().all(|d| d == first) => Gate::Met(format!(
            "{} of {} views agree, digest {}",
            digests.len(),
            started.len(),
            &first[..first.len().min(8)]
        )),
        _ => Gate::Waiting("the views differ".to_owned()),
    }
}

/// At the end: one epoch everywhere, not older than before, and every partition has a quorum.
pub fn verified(plan: &Plan, statuses: &[(NodeId, Result<StatusResponse, String>)]) -> Gate {
    let mut epochs = Vec::new();
    for (id, status) in statuses {
        match status {
            Err(why) => return Gate::Waiting(format!("{id}: {why}")),
            Ok(s) if is_at_work(s.node.lifecycle) => {
                return Gate::not_yet(id, s.node.lifecycle, &doing(s));
            }
            Ok(s) if !s.replication.quorum_available => {
                return Gate::Waiting(format!("{id} has no quorum yet"));
            }
            Ok(s) => epochs.push((s.cluster.ring_epoch, s.cluster.ring_digest.clone())),
        }
    }
    match epochs.first() {
        Some(first) if first.0 >= plan.epoch && epochs.iter().all(|e| e == first) => {
            Gate::Met(format!(
                "epoch {} on all {}, quorum available",
                first.0,
                epochs.len()
            ))
        }
        _ => Gate::Waiting("not all members are at the same epoch".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedure::{
        clean::plan,
        fixture::{id, members, status, survey},
    };

    #[test]
    fn the_barrier_needs_everybody() {
        let stands = |n: &str| (id(n), Ok(status(n, Lifecycle::Standby, 5)));
        let serves = |n: &str| (id(n), Ok(status(n, Lifecycle::Serving, 5)));
        assert!(matches!(barrier(&[stands("a"), stands("b")]), Gate::Met(_)));
        assert_eq!(
            barrier(&[stands("a"), serves("b")]),
            Gate::Waiting("b is serving".into())
        );
        let gone = (id("b"), Err("connection refused".to_owned()));
        assert!(matches!(barrier(&[stands("a"), gone]), Gate::Waiting(_)));
        let mut down = status("b", Lifecycle::Draining, 5);
        down.node.waiting_for = Some("it is about to stop".into());
        assert_eq!(
            barrier(&[stands("a"), (id("b"), Ok(down))]),
            Gate::Working("b is draining: it is about to stop".into())
        );
    }

    #[test]
    fn one_that_opens_its_store_is_at_work_and_says_so() {
        let plan = plan(&survey(&["a", "b"], &[5, 5])).expect("a plan");
        let mut opens = status("a", Lifecycle::Joining, 5);
        opens.node.waiting_for = Some("the store to open".into());
        let opens = Ok(opens);
        let want = Gate::Working("a is joining, waiting for the store to open".into());
        assert_eq!(started(&id("a"), &opens), want);
        assert_eq!(bootstrapped(&plan, &opens), want);
        assert_eq!(verified(&plan, &[(id("a"), opens)]), want);
        let held = Ok(status("a", Lifecycle::Standby, 5));
        let want = Gate::Waiting("a is standby".into());
        assert_eq!(started(&id("a"), &held), want);
        let serves = Ok(status("a", Lifecycle::Serving, 5));
        assert!(matches!(started(&id("a"), &serves), Gate::Met(_)));
        let silent = Err("connection refused".to_owned());
        assert!(matches!(started(&id("a"), &silent), Gate::Waiting(_)));
    }

    #[test]
    fn views_must_name_exactly_the_started_nodes() {
        let alive = |n| (n, MemberStatus::Alive, Lifecycle::Serving);
        let started = [id("a"), id("b")];
        let view = |who: &str, all: &[_]| (id(who), Ok(members(who, all)));
        let good = [alive("a"), alive("b")];
        assert!(matches!(
            agreed(&started, &[view("a", &good), view("b", &good)]),
            Gate::Met(_)
        ));
        let cases = [
            (vec![alive("a")], "does not know b"),
            (
                vec![alive("a"), ("b", MemberStatus::Dead, Lifecycle::Serving)],
                "as dead",
            ),
            (
                vec![alive("a"), ("b", MemberStatus::Alive, Lifecycle::Joining)],
                "still joining",
            ),
            (vec![alive("a"), alive("b"), alive("ghost")], "lists ghost"),
        ];
        for (members, want) in cases {
            let gate = agreed(&started, &[view("a", &good), view("b", &members)]);
            assert!(gate.why().is_some_and(|why| why.contains(want)), "{gate:?}");
        }
    }

    #[test]
    fn the_end_needs_one_epoch_and_quorum() {
        let plan = plan(&survey(&["a", "b"], &[5, 5])).expect("a plan");
        let at = |n: &str, e| (id(n), Ok(status(n, Lifecycle::Serving, e)));
        assert!(matches!(
            verified(&plan, &[at("a", 5), at("b", 5)]),
            Gate::Met(_)
        ));
        assert!(matches!(
            verified(&plan, &[at("a", 5), at("b", 6)]),
            Gate::Waiting(_)
        ));
        assert!(matches!(
            verified(&plan, &[at("a", 4), at("b", 4)]),
            Gate::Waiting(_)
        ));
        assert!(matches!(
            bootstrapped(&plan, &at("a", 4).1),
            Gate::Waiting(_)
        ));
        assert!(matches!(bootstrapped(&plan, &at("a", 5).1), Gate::Met(_)));
    }
}
