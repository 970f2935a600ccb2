//! The cluster as a whole: one or several, one view or several, quorum, epochs, versions.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_shared::{
    api::{health::StatusResponse, membership::Disagreement},
    event::Severity,
    id::NodeId,
    member::Lifecycle,
    topology::Topology,
};

use super::{Case, Finding};
use crate::format;

/// Disagreements written out.
const DISPUTES_MAX: usize = 4;

pub(super) fn check(case: &Case, found: &mut Vec<Finding>) {
    split_brain(case, found);
    quorum(case, found);
    inconsistent_views(case, found);
    epochs(case, found);
    versions(case, found);
}

fn statuses<'a>(case: &Case<'a>) -> Vec<(&'a NodeId, &'a StatusResponse)> {
    case.answering()
        .filter_map(|(id, node)| Some((id, &node.status.as_ref()?.value)))
        .collect()
}

/// Problem 1 of the guide.
fn split_brain(case: &Case, found: &mut Vec<Finding>) {
    let all = statuses(case);
    let mut clusters: BTreeMap<&str, Vec<&NodeId>> = BTreeMap::new();
    for (id, status) in &all {
        if !status.cluster.cluster_id.is_empty() {
            let of = clusters.entry(&status.cluster.cluster_id).or_default();
            of.push(*id);
        }
    }
    let alone: Vec<&NodeId> = all
        .iter()
        .filter(|(_, s)| s.replication.alive_nodes <= 1 && s.node.lifecycle == Lifecycle::Serving)
        .map(|(id, _)| *id)
        .collect();
    let evidence: Vec<String> = all
        .iter()
        .map(|(id, s)| {
            format!(
                "{id}: alive_members {}, cluster {}",
                s.replication.alive_nodes,
                short(&s.cluster.cluster_id)
            )
        })
        .collect();
    if clusters.len() > 1 {
        found.push(foreign_clusters(case, &clusters, evidence));
    } else if alone.len() > 1 {
        found.push(Finding {
            code: "SPLIT_BRAIN",
            severity: Severity::Error,
            title: format!("Split brain: {} each see only themselves", format::names(&alone)),
            explanation: "They belong to one cluster and answer this console, but not each other. \
                          No write is acknowledged without a quorum, so nothing diverges; but nothing \
                          is served either. If their ports reach each other (UDP and TCP), a clean \
                          restart brings them together."
                .to_owned(),
            evidence,
            fix: vec!["$ ringmaster restart --clean --yes".to_owned()],
            since: None,
        });
    }
}

fn foreign_clusters(
    case: &Case,
    clusters: &BTreeMap<&str, Vec<&NodeId>>,
    evidence: Vec<String>,
) -> Finding {
    let largest = clusters
        .iter()
        .max_by_key(|(_, nodes)| nodes.len())
        .map(|(id, _)| *id);
    let addresses = |nodes: &[&NodeId]| -> String {
        let known = nodes.iter().filter_map(|id| case.cluster.nodes.get(*id));
        let known: Vec<&str> = known.map(|n| n.address.as_str()).collect();
        known.join(",")
    };
    let into = largest.and_then(|id| clusters.get(id));
    let into = into.map_or(String::new(), |nodes| addresses(nodes));
    let mut fix = vec![
        "Decide which cluster stays (here the one with more nodes). The nodes of the other give \
         theirs up, push what they hold into it, and join it; a key written in both keeps both \
         values. Name all nodes of the losing side; without --yes only the plan is shown:"
            .to_owned(),
    ];
    for (cluster, nodes) in clusters {
        if Some(*cluster) != largest {
            fix.push(format!(
                "$ ringmaster adopt --endpoints {} --into {into} --yes",
                addresses(nodes)
            ));
        }
    }
    Finding {
        code: "SPLIT_BRAIN",
        severity: Severity::Error,
        title: format!("Split brain: the nodes answer for {} clusters", clusters.len()),
        explanation: "They were founded apart: a node started without a seed and with an empty data \
                      folder makes a cluster of its own. They never mix by themselves, and a key may \
                      hold different values in each."
            .to_owned(),
        evidence,
        fix,
        since: None,
    }
}

/// Quorum lost, or not all replicas.
fn quorum(case: &Case, found: &mut Vec<Finding>) {
    let Some(counts) = case.cluster.partition_counts() else {
        return;
    };
    let missing = missing_replicas(case);
    // who sees only itself cannot tell
    if counts.unavailable == 0 || counts.total == 0 || case.lonely_viewer().is_some() {
        return;
    }
    let fix = case.bring_back("", &missing);
    let missing: Vec<&NodeId> = missing.iter().collect();
    found.push(Finding {
        code: "QUORUM_LOST",
        severity: Severity::Error,
        title: format!(
            "No quorum for {} of {} partitions",
            format::count(counts.unavailable.into()),
            format::count(counts.total.into())
        ),
        explanation: format!(
            "Reads and writes of keys in {} are refused (503 QUORUM_NOT_MET) until enough replicas \
             answer again. Nothing acknowledged is lost{}",
            if counts.quorum == 0 {
                "any partition"
            } else {
                "these partitions"
            },
            if counts.quorum == 0 {
                "."
            } else {
                "; the other partitions go on."
            },
        ),
        evidence: vec![format!(
            "replicas that do not take part: {}",
            format::names(&missing)
        )],
        fix,
        since: None,
    });
}

/// Members of the ring that do not count as answering.
fn missing_replicas(case: &Case) -> Vec<NodeId> {
    let available = case.cluster.available();
    let topology = case.cluster.topology.as_ref();
    topology
        .into_iter()
        .flat_map(Topology::settled_members)
        .filter(|m| !available.contains(&m.id))
        .map(|m| m.id.clone())
        .collect()
}

/// Problem 3 of the guide.
fn inconsistent_views(case: &Case, found: &mut Vec<Finding>) {
    let all: Vec<_> = statuses(case)
        .into_iter()
        // a node that waits or holds has no view yet: that is another rule's finding
        .filter(|(_, s)| {
            !s.cluster.cluster_id.is_empty()
                && matches!(s.node.lifecycle, Lifecycle::Serving | Lifecycle::Recovering)
        })
        .collect();
    let clusters: BTreeSet<&str> = all
        .iter()
        .map(|(_, s)| s.cluster.cluster_id.as_str())
        .collect();
    let digests: BTreeSet<&str> = all
        .iter()
        .map(|(_, s)| s.cluster.membership_digest.as_str())
        .collect();
    let counts: BTreeSet<usize> = all.iter().map(|(_, s)| s.replication.alive_nodes).collect();
    let disputes = disputes(case);
    let same = digests.len() <= 1 && counts.len() <= 1;
    // right after a change they differ for a moment, as views that travel do
    let lasting = disputes.iter().any(|d| lasts(case, d));
    if clusters.len() > 1 || (same && !lasting) {
        return;
    }
    if found.iter().any(|f| f.code == "SPLIT_BRAIN") {
        return;
    }
    let last_change = case.last_change();
    let settled = lasting || last_change.is_none_or(|t| case.ms_since(t) > super::CONVERGENCE_MS);
    let sentences = disputes
        .iter()
        .take(DISPUTES_MAX)
        .map(|d| format!("{}: {}", d.sentence(), d.question()));
    let views = all.iter().map(|(id, s)| {
        format!(
            "{id}: alive_members {}, digest {}",
            s.replication.alive_nodes,
            short(&s.cluster.membership_digest)
        )
    });
    let evidence = sentences.chain(views).collect();
    let (code, severity, title, fix) = if settled {
        (
            "INCONSISTENT_VIEWS",
            Severity::Warning,
            "The nodes disagree about the members",
            vec![
                "Look at Members (2), w, for who sees whom as what, and check that UDP and TCP pass \
                 between those who differ; if it stays:"
                    .to_owned(),
                "$ ringmaster restart --clean --yes".to_owned(),
            ],
        )
    } else {
        (
            "VIEWS_CONVERGING",
            Severity::Info,
            "The nodes' views differ, after a recent change",
            vec!["Wait: gossip usually needs a few seconds, at most a minute.".to_owned()],
        )
    };
    found.push(Finding {
        code,
        severity,
        title: title.to_owned(),
        explanation:
            "Each node keeps its own list of members and gossip makes the lists equal. Lists \
                      that stay different longer than half a minute mean that some messages do not \
                      get through."
                .to_owned(),
        evidence,
        fix,
        since: last_change,
    });
}

/// Where the members that told what they see differ, when that is not old.
fn disputes<'a>(case: &Case<'a>) -> &'a [Disagreement] {
    let observations = case.cluster.observations.as_ref();
    match observations.filter(|o| !o.is_stale(case.now_ms)) {
        Some(known) => &known.value.disagreements,
        None => &[],
    }
}

fn lasts(case: &Case, dispute: &Disagreement) -> bool {
    let since = dispute.since;
    since.is_some_and(|t| case.ms_since(t) > super::CONVERGENCE_MS)
}

fn epochs(case: &Case, found: &mut Vec<Finding>) {
    let Some(members) = &case.cluster.members else {
        return;
    };
    let stamps: Vec<_> = members
        .value
        .cluster_members
        .values()
        .filter(|m| m.status.is_reachable() && m.lifecycle == Lifecycle::Serving)
        .map(|m| (&m.node_id, m.ring_epoch, m.ring_digest.as_str()))
        .collect();
    let epochs: BTreeSet<_> = stamps.iter().map(|s| s.1).collect();
    let versions: BTreeSet<_> = stamps.iter().map(|s| (s.1, s.2)).collect();
    let evidence: Vec<String> = stamps
        .iter()
        .map(|(id, epoch, digest)| format!("{id}: epoch {epoch}, digest {}", short(digest)))
        .collect();
    let changing = case
        .cluster
        .topology
        .as_ref()
        .is_some_and(|t| t.transition.is_some());
    if versions.len() > epochs.len() {
        found.push(Finding {
            code: "RING_FORK",
            severity: Severity::Error,
            title: "Two different rings carry the same epoch".to_owned(),
            explanation: super::ring_rules::FORK.to_owned(),
            evidence,
            fix: super::ring_rules::fork_fix(),
            since: None,
        });
    } else if epochs.len() > 1 {
        found.push(Finding {
            code: "EPOCHS_DIFFER",
            severity: if changing {
                Severity::Info
            } else {
                Severity::Warning
            },
            title: "Not all nodes go by the newest ring".to_owned(),
            explanation:
                "A node behind learns the newer epoch by gossip, or from the first request \
                          that carries it; until then it refuses and is told. This should pass \
                          within seconds."
                    .to_owned(),
            evidence,
            fix: vec![
                "Wait; if it stays, the nodes behind do not hear gossip: see Members (2)."
                    .to_owned(),
            ],
            since: None,
        });
    }
}

fn versions(case: &Case, found: &mut Vec<Finding>) {
    let Some(members) = &case.cluster.members else {
        return;
    };
    let mut versions: BTreeMap<&str, Vec<&NodeId>> = BTreeMap::new();
    for m in members.value.cluster_members.values() {
        if m.status.is_reachable() {
            versions.entry(&m.version).or_default().push(&m.node_id);
        }
    }
    if versions.len() > 1 {
        found.push(Finding {
            code: "VERSIONS_MIXED",
            severity: Severity::Info,
            title: format!("{} versions run side by side", versions.len()),
            explanation: "That is fine during an upgrade. A restart picks up the binary on disk."
                .to_owned(),
            evidence: versions
                .iter()
                .map(|(v, ids)| format!("{v}: {}", format::names(ids)))
                .collect(),
            fix: vec!["$ ringmaster restart --rolling --yes".to_owned()],
            since: None,
        });
    }
}

/// The first eight characters of a digest or cluster id.
fn short(id: &str) -> &str {
    if id.is_empty() {
        return "none";
    }
    id.get(..8).unwrap_or(id)
}
