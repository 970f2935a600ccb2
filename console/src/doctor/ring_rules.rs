//! The ring: changes that do not get on, two contents of one epoch, nodes that wait to be let in.

use std::collections::BTreeSet;

use ringmaster_shared::{
    api::health::Problem,
    event::{EventCode, Severity},
    id::NodeId,
    member::{Lifecycle, MemberStatus},
};

use super::{Case, Finding, node_rules::recent};
use crate::{
    change::{self, candidates, seen, words},
    format,
};

pub(super) fn check(case: &Case, found: &mut Vec<Finding>) {
    votes(case, found);
    stalled(case, found);
    fork(case, found);
    candidates_wait(case, found);
}

/// A change under way, or one that cannot begin, that somebody holds up.
fn stalled(case: &Case, found: &mut Vec<Finding>) {
    let told = recent(case, EventCode::RingChangeStalled);
    let under_way = change::transition(case.cluster);
    let joining = case.cluster.members.as_ref().is_some_and(|m| {
        let all = m.value.cluster_members.values();
        all.into_iter()
            .any(|m| m.status == MemberStatus::Alive && m.lifecycle == Lifecycle::Joining)
    });
    if told.is_empty() || !(under_way.is_some() || joining) {
        return;
    }
    let silent = silent(case);
    let title = match under_way {
        Some(t) => format!("A change of the ring does not get on: {}", words(&seen(t))),
        None => "A change of the ring cannot begin".to_owned(),
    };
    let how = "Start who does not answer; the change goes on by itself:";
    let mut fix = case.bring_back(how, silent.iter().take(3));
    if under_way.is_some() {
        fix.push("Or give it up; the ring stays as it was (it asks first):".to_owned());
        fix.push("$ ringmaster ring plan cancel".to_owned());
    }
    if fix.is_empty() {
        fix.push("Look at Members (2): who is waited for?".to_owned());
    }
    found.push(Finding {
        code: "RING_CHANGE_STALLED",
        severity: Severity::Warning,
        title,
        explanation: "Each step needs the acknowledgement of a quorum of every partition's replicas, \
                      so that no mix of views can lose a write. Until they answer it waits; data is \
                      served as before."
            .to_owned(),
        evidence: told.iter().map(|e| e.message.clone()).collect(),
        fix,
        since: told.last().map(|e| e.time),
    });
}

/// Voters that lost their folder, and with it their votes. One sees to it by itself; too many of
/// them can no longer.
fn votes(case: &Case, found: &mut Vec<Finding>) {
    let Some(ring) = case.cluster.topology.as_ref() else {
        return;
    };
    let forgot: Vec<(&NodeId, &Problem)> = case
        .answering()
        .filter_map(|(id, node)| {
            let problems = &node.status.as_ref()?.value.cluster.problems;
            let told = problems.iter().find(|p| p.code == "VOTES_FORGOTTEN")?;
            Some((id, told))
        })
        .collect();
    if forgot.is_empty() {
        return;
    }
    let voters = ring.voters();
    let lost = |id: &NodeId| forgot.iter().any(|(other, _)| *other == id);
    let vote_again = voters.iter().find(|id| lost(id));
    let up = taking_part(case);
    let able = voters.iter().filter(|id| up.contains(*id) && !lost(id));
    let too_few = able.count() < ring.voter_majority();
    // one that never had a vote has none to be given back
    let stuck = vote_again.filter(|_| too_few);
    let who: Vec<&NodeId> = forgot.iter().map(|(id, _)| *id).collect();
    let lost_what = match who.len() {
        1 => "lost its folder",
        _ => "lost their folders",
    };
    let who = format::names(&who);
    let since = forgot.iter().map(|(_, told)| told.since).min();
    let evidence = forgot
        .iter()
        .map(|(id, told)| format!("{id}: {}", told.message));
    let (severity, title, explanation, fix) = if let Some(first) = stuck {
        (
            Severity::Error,
            format!("The ring cannot change any more: {who} {lost_what}"),
            "Who lost its folder does not know what it had voted on the ring, and too few others are \
             left to decide without it. Nobody can join, leave or be replaced, and who does not know \
             by which rings it went takes no writes. Only you can accept what a second vote may cost: a \
             change that only the lost folders knew to be decided could be decided again."
                .to_owned(),
            let_vote(case, first, voters.iter().filter(|id| !up.contains(*id))),
        )
    } else {
        (
            Severity::Warning,
            format!("No vote on changes of the ring: {who}"),
            "It lost its folder, and with it what it had voted on. It has the others decide the ring \
             anew, which takes seconds while a majority of them answers, and votes again. Until then \
             the loss of another folder may be one too many."
                .to_owned(),
            vec!["Wait until it is gone before you empty or replace another node.".to_owned()],
        )
    };
    found.push(Finding {
        code: "VOTES_FORGOTTEN",
        severity,
        title,
        explanation,
        evidence: evidence.collect(),
        fix,
        since,
    });
}

/// First those that are `down`, for each of them may be the one that was missing; then one that
/// forgot.
fn let_vote<'a>(
    case: &Case,
    first: &NodeId,
    down: impl Iterator<Item = &'a NodeId>,
) -> Vec<String> {
    let how = "Start all members that are down first:";
    let mut fix = case.bring_back(how, down.take(3));
    if fix.is_empty() {
        fix.push("Let one vote again, and look for RING_FORK afterwards:".to_owned());
    } else {
        fix.push(
            "If that is not enough, or not possible, let one vote again, and look for RING_FORK \
             afterwards:"
                .to_owned(),
        );
    }
    fix.push(format!("$ ringmaster refill {first} --accept-loss --yes"));
    fix
}

/// Who can answer when the ring is decided. One whose data is copied back votes all the same, so
/// these are not those that count for the quorum of a key.
fn taking_part(case: &Case) -> BTreeSet<NodeId> {
    let members = case.cluster.members.iter();
    let all = members.flat_map(|m| m.value.cluster_members.values());
    let up = all.filter(|m| m.status == MemberStatus::Alive && m.lifecycle.replicates());
    up.map(|m| m.node_id.clone()).collect()
}

/// Members of the ring that do not count as answering.
fn silent(case: &Case) -> BTreeSet<NodeId> {
    let up = case.cluster.available();
    let members = case.cluster.topology.iter().flat_map(|t| &t.members);
    let silent = members.filter(|m| !up.contains(&m.id));
    silent.map(|m| m.id.clone()).collect()
}

/// A node has seen it, also when the members agree again by now.
fn fork(case: &Case, found: &mut Vec<Finding>) {
    let told = recent(case, EventCode::RingFork);
    let Some(newest) = told.first() else {
        return;
    };
    let seen = told
        .iter()
        .map(|e| format!("{}: {}", e.reporter, e.message));
    // the digests that gossip tells may have shown it already
    if let Some(finding) = found.iter_mut().find(|f| f.code == "RING_FORK") {
        finding.evidence.extend(seen);
        return;
    }
    found.push(Finding {
        code: "RING_FORK",
        severity: Severity::Error,
        title: "Two different rings carried the same epoch".to_owned(),
        explanation: FORK.to_owned(),
        evidence: seen.collect(),
        fix: fork_fix(),
        since: Some(newest.time),
    });
}

pub(super) const FORK: &str = "An epoch is decided once, by a majority; this must not happen. \
    Usually a data folder was copied, or set back to an older state. Stop the node whose folder that \
    is, keep all folders as they are, and compare.";

pub(super) fn fork_fix() -> Vec<String> {
    vec![
        "Save what the nodes hold for the ring, then look for a copied folder:".to_owned(),
        "$ ringmaster ring --output json > ring.json".to_owned(),
    ]
}

fn candidates_wait(case: &Case, found: &mut Vec<Finding>) {
    let waiting = candidates(case.cluster);
    if waiting.is_empty() {
        return;
    }
    let members = case
        .cluster
        .members
        .as_ref()
        .map(|m| &m.value.cluster_members);
    let since = waiting
        .iter()
        .filter_map(|id| Some(members?.get(id)?.status_since))
        .min();
    let all: Vec<&NodeId> = waiting.iter().collect();
    let words: Vec<&str> = waiting.iter().map(NodeId::as_str).collect();
    let mut fix = vec![
        "Give it a share of the ring (shows the plan; --yes carries it out):".to_owned(),
        format!("$ ringmaster join {}", words.join(" ")),
    ];
    let dead = members.into_iter().flat_map(|m| m.values());
    let in_ring = |id: &NodeId| {
        case.cluster
            .topology
            .as_ref()
            .is_some_and(|t| t.contains(id))
    };
    let mut dead = dead.filter(|m| m.status == MemberStatus::Dead && in_ring(&m.node_id));
    if let Some(dead) = dead.next() {
        fix.push("Or put it in the place of the dead node:".to_owned());
        fix.push(format!(
            "$ ringmaster replace {} {}",
            dead.node_id, words[0]
        ));
    }
    let verb = if all.len() == 1 { "waits" } else { "wait" };
    found.push(Finding {
        code: "CANDIDATE_WAITING",
        severity: Severity::Info,
        title: format!("{} {verb} to be taken in", format::names(&all)),
        explanation:
            "It was started with --join manual: the members know it, and it holds nothing \
                      until somebody says what it is for."
                .to_owned(),
        evidence: vec![],
        fix,
        since,
    });
}
