//! What stands in the way of a change, and what an operator should know before making it.

use std::collections::BTreeSet;

use ringmaster_shared::{
    api::ring::Change,
    id::NodeId,
    member::{Lifecycle, MemberStatus},
    quorum::Group,
    topology::Topology,
};

use super::{Picture, bytes, copies};
use crate::topology::handover::{moving, needed};

/// Copying more than this is worth a word.
const MUCH: u64 = 64 * 1024 * 1024;

/// Why the step to `next` cannot be taken, or could not get on, now.
pub(super) fn obstacles(picture: &Picture<'_>, next: &Topology) -> Vec<String> {
    let mut found = Vec::new();
    let base = picture.topology;
    let voters = base.voters();
    let answering = voters.iter().filter(|id| picture.answers(id)).count();
    if answering < base.voter_majority() {
        found.push(format!(
            "the ring cannot change: {answering} of its {} voters answer, {} are needed",
            voters.len(),
            base.voter_majority()
        ));
    }
    // a change under way goes on by itself; the way back needs nobody but the voters
    if base.transition.is_some() || next.transition.is_none() {
        return found;
    }
    for id in needed(next).iter().filter(|id| !picture.answers(id)) {
        found.push(format!(
            "{id} would take over {}, but is {}",
            counted(next.gained_by(id).len(), "partition"),
            picture.state_of(id)
        ));
    }
    found.extend(without_sources(picture, next));
    found.extend(without_writers(picture, next));
    found
}

/// New replicas are filled from a quorum of the old ones.
fn without_sources(picture: &Picture<'_>, next: &Topology) -> Option<String> {
    let (mut stuck, mut missing) = (0, BTreeSet::new());
    for (partition, _) in moving(next) {
        let group = Group::majority_of(next.replicas(partition));
        let (there, away): (BTreeSet<_>, BTreeSet<_>) = group
            .members
            .iter()
            .cloned()
            .partition(|id| picture.counts(id));
        if !group.is_met(&there) {
            stuck += 1;
            missing.extend(away);
        }
    }
    (stuck > 0).then(|| {
        format!(
            "{} that would move have lost their quorum, so what was written cannot be told for \
             certain: bring back one or more of {}",
            counted(stuck, "partition"),
            listed(&missing)
        )
    })
}

/// From the first step on, writes need a quorum of the new replicas as well.
fn without_writers(picture: &Picture<'_>, next: &Topology) -> Option<String> {
    let (mut stuck, mut missing) = (0, BTreeSet::new());
    for (_, target) in moving(next) {
        let group = Group::majority_of(target);
        let (there, away): (BTreeSet<_>, BTreeSet<_>) = group
            .members
            .iter()
            .cloned()
            .partition(|id| picture.answers(id));
        if !group.is_met(&there) {
            stuck += 1;
            missing.extend(away);
        }
    }
    (stuck > 0).then(|| {
        format!(
            "{} would go to replicas of which too few answer, and could not be written: {} must \
             be back first",
            counted(stuck, "partition"),
            listed(&missing)
        )
    })
}

/// In the order in which an operator would ask.
pub(super) fn risks(picture: &Picture<'_>, change: &Change, next: &Topology) -> Vec<String> {
    let mut found = Vec::new();
    let Some(transition) = &next.transition else {
        return cancelling(picture);
    };
    let before = picture.topology.members.len();
    let after = next.members.len() - transition.leaving.len();
    let copies_after = usize::from(next.replication_factor).min(after);
    if after < before && copies_after == 1 {
        found.push("afterwards a single member holds the only copy of everything".to_owned());
    } else if after < before && copies_after == 2 {
        found.push(format!(
            "from {before} to {after} members: afterwards there are 2 copies of each key, and one \
             failure stops reads and writes"
        ));
    }
    let down: Vec<&NodeId> = picture
        .topology
        .members
        .iter()
        .map(|m| &m.id)
        .filter(|id| !picture.counts(id) && !transition.leaving.contains(id))
        .collect();
    for id in down {
        found.push(format!(
            "{id} is {}: until it is back, partitions it holds can lose one replica less",
            picture.state_of(id)
        ));
    }
    if let Change::Remove { node } | Change::Replace { dead: node, .. } = change {
        if picture
            .member(node)
            .is_some_and(|m| m.status == MemberStatus::Stopped)
        {
            found.push(format!(
                "{node} stopped on purpose and may be expected back; once out, it must join anew \
                 with an empty folder"
            ));
        }
    }
    if let Change::Replace { dead, with } = change {
        let zone = |id: &NodeId| next.member(id).map(|m| m.zone.clone()).unwrap_or_default();
        if zone(dead) != zone(with) {
            found.push(format!(
                "{with} is in zone {}, {dead} was in {}: replicas may share a zone until a rebalance",
                zone(with),
                zone(dead)
            ));
        }
    }
    found.extend(owed(picture));
    let copied = bytes(picture, copies(next).values().sum());
    if copied > MUCH {
        found.push(format!(
            "about {} is copied between nodes; requests may be slower meanwhile",
            size(copied)
        ));
    }
    found
}

fn cancelling(picture: &Picture<'_>) -> Vec<String> {
    let joining = picture.topology.transition.iter().flat_map(|t| &t.joining);
    let come_again = |id: &&NodeId| {
        // a candidate shows as joining as well while it is taken in; only its flags tell
        let member = picture.member(id);
        member.is_some_and(|m| m.status.is_reachable() && m.lifecycle == Lifecycle::Joining)
    };
    joining
        .filter(come_again)
        .map(|id| {
            format!(
                "{id} joins again by itself, unless it is stopped or was started with --join manual"
            )
        })
        .collect()
}

fn owed(picture: &Picture<'_>) -> Option<String> {
    let owing: Vec<String> = picture
        .members
        .iter()
        .filter(|m| m.status.is_reachable() && m.load.hints > 0)
        .map(|m| format!("{} ({})", m.id, m.load.hints))
        .collect();
    (!owing.is_empty()).then(|| {
        format!(
            "writes are still owed to nodes that were away, kept by {}: wait until they are \
             replayed, or let comparing replicas make up for them",
            owing.join(", ")
        )
    })
}

pub(super) fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// `1.5 MB`, in powers of ten.
pub(super) fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    if unit == "bytes" {
        format!("{bytes} bytes")
    } else {
        format!("{value:.1} {unit}")
    }
}

fn listed(ids: &BTreeSet<NodeId>) -> String {
    let names: Vec<&str> = ids.iter().map(NodeId::as_str).collect();
    names.join(", ")
}
