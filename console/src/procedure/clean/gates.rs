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
                at_work |= is_at_work(s);
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

/// Who came to standby without the cluster it was in, and what to do: its folder went while it
/// restarted. Started alone it would found a second one.
pub fn forgot(
    plan: &Plan,
    statuses: &[(NodeId, Result<StatusResponse, String>)],
) -> Option<String> {
    let forgot = statuses.iter().filter_map(|(id, status)| {
        let status = status.as_ref().ok()?;
        (status.cluster.cluster_id != plan.cluster_id).then(|| id.to_string())
    });
    let forgot: Vec<String> = forgot.collect();
    (!forgot.is_empty()).then(|| {
        format!(
            "{} came to standby without its cluster: its --data-dir was lost or changed meanwhile",
            forgot.join(", ")
        )
    })
}

/// It is up, and takes part in gossip. One that lost its store stays recovering until the others
/// run, because it gets its data back from them: they are not to wait for it.
fn is_up(lifecycle: Lifecycle) -> bool {
    matches!(lifecycle, Lifecycle::Serving | Lifecycle::Recovering)
}

/// The bootstrap node is up, and has kept its cluster and its ring.
pub fn bootstrapped(plan: &Plan, status: &Result<StatusResponse, String>) -> Gate {
    let id = &plan.bootstrap().id;
    match status {
        Err(why) => Gate::Waiting(format!("{id}: {why}")),
        Ok(s) if !is_up(s.node.lifecycle) => Gate::not_yet(id, s),
        Ok(s) if s.cluster.cluster_id != plan.cluster_id => Gate::Waiting(format!(
            "{id} came back in cluster {}",
            s.cluster.cluster_id
        )),
        Ok(s) if s.cluster.ring_epoch < plan.epoch => Gate::Waiting(format!(
            "{id} is at epoch {}, not {}",
            s.cluster.ring_epoch, plan.epoch
        )),
        Ok(s) => Gate::Met(format!(
            "{id} {}, epoch {}",
            s.node.lifecycle.as_str(),
            s.cluster.ring_epoch
        )),
    }
}

/// What a node that was told to start says of itself; met once it is up.
pub fn started(id: &NodeId, status: &Result<StatusResponse, String>) -> Gate {
    match status {
        Err(why) => Gate::Waiting(format!("{id}: {why}")),
        Ok(s) if !is_up(s.node.lifecycle) => Gate::not_yet(id, s),
        Ok(s) => Gate::Met(format!("{id} {}", s.node.lifecycle.as_str())),
    }
}

/// Every started node sees exactly the started nodes, all alive and up, with one digest.
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
                Some(m) if !is_up(m.lifecycle) => {
                    let lifecycle = m.lifecycle.as_str();
                    let why = format!("{id} sees {other} still {lifecycle}");
                    // none of them is going down: they have just been started
                    return Gate::by(m.lifecycle == Lifecycle::Joining, why);
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

/// At the end: nobody is at work any more, one epoch everywhere, not older than before, and every
/// partition has a quorum.
pub fn verified(plan: &Plan, statuses: &[(NodeId, Result<StatusResponse, String>)]) -> Gate {
    // first: while data is copied back the others may lack their quorum
    let at_work = statuses.iter().find_map(|(id, status)| {
        let status = status.as_ref().ok()?;
        is_at_work(status).then(|| Gate::not_yet(id, status))
    });
    if let Some(gate) = at_work {
        return gate;
    }
    let mut epochs = Vec::new();
    for (id, status) in statuses {
        match status {
            Err(why) => return Gate::Waiting(format!("{id}: {why}")),
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

    /// It needs the others for that, so they are started first; the end waits for it.
    #[test]
    fn one_that_gets_its_data_back_does_not_keep_the_others_from_starting() {
        let plan = plan(&survey(&["a", "b"], &[5, 5])).expect("a plan");
        let mut refilled = status("a", Lifecycle::Recovering, 5);
        refilled.node.waiting_for = Some("its data to be copied back".into());
        let mut poor = status("b", Lifecycle::Serving, 5);
        poor.replication.quorum_available = false;
        let refilled = Ok(refilled);
        let met = |gate: Gate, words: &str| assert_eq!(gate, Gate::Met(words.into()));
        met(bootstrapped(&plan, &refilled), "a recovering, epoch 5");
        met(started(&id("a"), &refilled), "a recovering");
        let both = [
            ("a", MemberStatus::Alive, Lifecycle::Recovering),
            ("b", MemberStatus::Alive, Lifecycle::Serving),
        ];
        let ids = [id("a"), id("b")];
        let views = ["a", "b"].map(|who| (id(who), Ok(members(who, &both))));
        assert!(matches!(agreed(&ids, &views), Gate::Met(_)));
        let want = Gate::Working("a is recovering, waiting for its data to be copied back".into());
        let end = [(id("b"), Ok(poor)), (id("a"), refilled)];
        assert_eq!(verified(&plan, &end), want);
    }

    #[test]
    fn one_that_lost_its_folder_on_the_way_is_named() {
        let plan = plan(&survey(&["a", "b"], &[5, 5])).expect("a plan");
        let stands = |n: &str| (id(n), Ok(status(n, Lifecycle::Standby, 5)));
        assert_eq!(forgot(&plan, &[stands("a"), stands("b")]), None);
        let mut empty = stands("a");
        empty.1.as_mut().expect("stands").cluster.cluster_id.clear();
        let why = forgot(&plan, &[empty, stands("b")]).expect("one forgot");
        assert!(
            why.starts_with("a came to standby without its cluster"),
            "{why}"
        );
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
