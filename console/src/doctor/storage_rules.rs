//! Disks and what waits for somebody: full, broken, owed to, to be compared, not to be forgotten,
//! written by many at once, asked too much.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_shared::{
    api::health::StatusResponse,
    event::{Event, EventCode, Severity},
    id::NodeId,
    member::Lifecycle,
};

use super::{Case, DISK_FREE_LOW_BYTES, Finding, HINTS_MANY, node_rules::recent};
use crate::format;

pub(super) fn check(case: &Case, found: &mut Vec<Finding>) {
    for (id, node) in case.answering() {
        if let Some(status) = node.status.as_ref().map(|s| &s.value) {
            found.extend(disk(case, id, status));
        }
    }
    hints(case, found);
    dirty(case, found);
    refills(case, found);
    tombstones(case, found);
    siblings(case, found);
    overloaded(case, found);
}

/// The worst thing about one node's disk.
fn disk(case: &Case, id: &NodeId, status: &StatusResponse) -> Option<Finding> {
    let started = status.node.start_time;
    let poisoned =
        |e: &&Event| e.code == EventCode::StoragePoisoned && &e.reporter == id && e.time >= started;
    let mut events = case.cluster.events.iter().rev();
    if let Some(event) = events.find(poisoned) {
        return Some(broken(case, id, event));
    }
    if status.storage.read_only {
        return Some(full(case, id, status));
    }
    let free = status.storage.disk_free_bytes?;
    (free < DISK_FREE_LOW_BYTES).then(|| nearly_full(id, status, free))
}

fn broken(case: &Case, id: &NodeId, event: &Event) -> Finding {
    Finding {
        code: "STORAGE_POISONED",
        severity: Severity::Error,
        title: format!("{id} cannot write to its disk and has stopped serving"),
        explanation: "A write or a sync failed. The node does not guess what reached the disk: it \
                      serves nothing until it is started again and has checked its log. Nothing it \
                      acknowledged is lost."
            .to_owned(),
        evidence: vec![event.message.clone()],
        fix: vec![
            "On that machine look at the kernel's messages and the free space:".to_owned(),
            "$ dmesg | tail -50; df -h".to_owned(),
            "then stop the node (Ctrl+C) and start it again:".to_owned(),
            case.start_command(id),
        ],
        since: Some(event.time),
    }
}

fn full(case: &Case, id: &NodeId, status: &StatusResponse) -> Finding {
    let storage = &status.storage;
    let mut evidence: Vec<String> = storage.read_only_reason.iter().cloned().collect();
    let free = storage.disk_free_bytes;
    let free = free.map_or(String::new(), |b| format!(", {} free", format::bytes(b)));
    evidence.push(format!(
        "{} on disk by this node{free}",
        format::bytes(storage.bytes_on_disk)
    ));
    let told = case.cluster.events.iter().rev();
    let mut told = told.filter(|e| e.code == EventCode::DiskNearlyFull && &e.reporter == id);
    Finding {
        code: "STORAGE_READ_ONLY",
        severity: Severity::Error,
        title: format!("{id} takes no writes: its disk is nearly full"),
        explanation: "It stays readable and keeps a reserve to start and to compact. Writes need a \
                      quorum of the other replicas meanwhile; where two of three are full, they are \
                      refused. It takes writes again by itself once there is space."
            .to_owned(),
        evidence,
        fix: vec![
            "Free some space on that machine:".to_owned(),
            "$ df -h".to_owned(),
        ],
        since: told.next().map(|e| e.time),
    }
}

fn nearly_full(id: &NodeId, status: &StatusResponse, free: u64) -> Finding {
    Finding {
        code: "DISK_NEARLY_FULL",
        severity: Severity::Warning,
        title: format!("{} are free on the disk of {id}", format::bytes(free)),
        explanation:
            "When it is nearly used up the node takes no more writes, so that it can still \
                      start and compact. Deleted keys take space until every replica has confirmed \
                      them."
                .to_owned(),
        evidence: vec![format!(
            "{} on disk by this node",
            format::bytes(status.storage.bytes_on_disk)
        )],
        fix: vec![
            "Free some space on that machine, or give the cluster another node:".to_owned(),
            "$ df -h".to_owned(),
        ],
        since: None,
    }
}

fn hints(case: &Case, found: &mut Vec<Finding>) {
    let mut owed: Vec<(&NodeId, &NodeId, u64)> = Vec::new();
    for (id, node) in case.answering() {
        let hints = node.status.as_ref().map(|s| &s.value.storage.hints_owed);
        for (to, n) in hints.into_iter().flatten() {
            owed.push((id, to, *n));
        }
    }
    let total: u64 = owed.iter().map(|(_, _, n)| n).sum();
    if total < HINTS_MANY {
        return;
    }
    owed.retain(|(_, _, n)| *n > 0);
    let mut targets: Vec<&NodeId> = owed.iter().map(|(_, to, _)| *to).collect();
    targets.sort_unstable();
    targets.dedup();
    let available = case.cluster.available();
    let away = targets.iter().copied();
    let away = away.filter(|t| !available.contains(*t));
    let how = "Bring the node back; hints are handed over by themselves:";
    let mut fix = case.bring_back(how, away);
    if fix.is_empty() {
        fix.push("They are being handed over; the figure should fall within minutes.".to_owned());
    }
    found.push(Finding {
        code: "HINTS_PILING_UP",
        severity: Severity::Warning,
        title: format!("{} hints wait for {}", format::count(total), format::names(&targets)),
        explanation: "Writes that a replica missed are kept on the nodes that took them. Their number \
                      is bounded: past it the range is repaired by comparison instead, which costs more."
            .to_owned(),
        evidence: owed
            .iter()
            .map(|(from, to, n)| format!("{from} holds {} for {to}", format::count(*n)))
            .collect(),
        fix,
        since: None,
    });
}

/// Hints were dropped: these partitions are compared instead.
fn dirty(case: &Case, found: &mut Vec<Finding>) {
    let mut by_target: BTreeMap<&NodeId, Vec<String>> = BTreeMap::new();
    for (id, node) in case.answering() {
        let dirty = node
            .status
            .as_ref()
            .map(|s| &s.value.storage.dirty_partitions);
        for (target, n) in dirty.into_iter().flatten().filter(|(_, n)| **n > 0) {
            let seen = format!(
                "{id}: {} with {target}",
                format::plural(*n as usize, "partition")
            );
            by_target.entry(target).or_default().push(seen);
        }
    }
    if by_target.is_empty() {
        return;
    }
    let available = case.cluster.available();
    let targets: Vec<&NodeId> = by_target.keys().copied().collect();
    let away = targets.iter().copied();
    let away = away.filter(|t| !available.contains(*t));
    let how = "Bring the node back; it is compared by itself:";
    let mut fix = case.bring_back(how, away);
    let severity = if fix.is_empty() {
        fix.push("They are being compared; the figure should fall within minutes.".to_owned());
        Severity::Info
    } else {
        Severity::Warning
    };
    found.push(Finding {
        code: "PARTITIONS_DIRTY",
        severity,
        title: format!(
            "Partitions must be compared with {}",
            format::names(&targets)
        ),
        explanation:
            "More writes were missed than hints may keep, so the rest is found by comparing \
                      whole partitions. That costs more than hints and loses nothing: a quorum has \
                      every acknowledged write."
                .to_owned(),
        evidence: by_target.into_values().flatten().collect(),
        fix,
        since: case.newest(EventCode::PartitionsDirty),
    });
}

/// Deleted keys stay until every member has confirmed them; somebody has not, for long.
fn tombstones(case: &Case, found: &mut Vec<Finding>) {
    let mut waited_for: BTreeSet<&NodeId> = BTreeSet::new();
    let mut evidence = Vec::new();
    let mut since = None;
    for (id, node) in case.answering() {
        let Some(status) = node.status.as_ref().map(|s| &s.value) else {
            continue;
        };
        let told = |e: &&Event| {
            e.code == EventCode::TombstonesBlocked
                && &e.reporter == id
                && e.time >= status.node.start_time
        };
        // that somebody is waited for is usual; the node says when it has lasted too long
        let waits = &status.storage.tombstones_wait_for;
        let Some(event) = case.cluster.events.iter().rev().find(told) else {
            continue;
        };
        if !waits.is_empty() {
            waited_for.extend(waits);
            evidence.push(format!("{id}: {}", event.message));
            since = since.max(Some(event.time));
        }
    }
    if waited_for.is_empty() {
        return;
    }
    let who: Vec<&NodeId> = waited_for.into_iter().collect();
    let available = case.cluster.available();
    let away = || who.iter().copied().filter(|t| !available.contains(*t));
    let how = "Start it again, and it confirms by itself:";
    let mut fix = case.bring_back(how, away());
    if fix.is_empty() {
        fix.push("It answers: a comparison of the replicas usually settles it:".to_owned());
        fix.push("$ ringmaster repair".to_owned());
    }
    if let Some(down) = away().find(|id| case.runs(id).is_none()) {
        fix.push("Or, if it will not come back, take it out of the ring:".to_owned());
        fix.push(format!("$ ringmaster remove {down}"));
    }
    found.push(Finding {
        code: "TOMBSTONES_BLOCKED",
        severity: Severity::Warning,
        title: format!("Deleted keys cannot be forgotten: {} does not confirm", format::names(&who)),
        explanation: "A deleted key is remembered until every member has confirmed the deletion; \
                      otherwise one that was away could bring the old value back. Until then deleted \
                      keys take space. Nothing else suffers."
            .to_owned(),
        evidence,
        fix,
        since,
    });
}

/// Replicas that lost their data and wait for one another.
fn refills(case: &Case, found: &mut Vec<Finding>) {
    for (id, node) in case.answering() {
        let Some(status) = node.status.as_ref().map(|s| &s.value) else {
            continue;
        };
        let told = |e: &&Event| {
            e.code == EventCode::RefillBlocked
                && &e.reporter == id
                && e.time >= status.node.start_time
        };
        let Some(event) = case.cluster.events.iter().rev().find(told) else {
            continue;
        };
        if status.node.lifecycle != Lifecycle::Recovering {
            continue;
        }
        found.push(Finding {
            code: "REFILL_BLOCKED",
            severity: Severity::Error,
            title: format!("{id} lost its data together with another replica and waits for a decision"),
            explanation: "Each needs the data of the other, so neither gets its own back by itself. What \
                          the remaining replicas hold is all there is. Writes that only the emptied ones \
                          had acknowledged are lost: that can be accepted only by you."
                .to_owned(),
            evidence: vec![format!("{id}: {}", event.message)],
            fix: vec![
                "Accept it on one of them; the others follow by themselves:".to_owned(),
                format!("$ ringmaster refill {id} --accept-loss --yes"),
            ],
            since: Some(event.time),
        });
    }
}

fn siblings(case: &Case, found: &mut Vec<Finding>) {
    let events = recent(case, EventCode::SiblingsMany);
    let Some(newest) = events.first() else {
        return;
    };
    found.push(Finding {
        code: "SIBLINGS_MANY",
        severity: Severity::Warning,
        title: "A key gathers concurrent versions".to_owned(),
        explanation:
            "Several clients write it with contexts that do not cover each other. Nothing is \
                      lost, but each read carries all versions, and past a limit writes that would \
                      add one are refused. A client should read, merge, and write with the context \
                      of that read."
                .to_owned(),
        evidence: events.iter().map(|e| e.message.clone()).collect(),
        fix: vec![
            "Look at its versions, and write the value that is meant, without a context:"
                .to_owned(),
            "$ ringmaster get KEY --output json".to_owned(),
        ],
        since: Some(newest.time),
    });
}

fn overloaded(case: &Case, found: &mut Vec<Finding>) {
    let events = recent(case, EventCode::Overloaded);
    let Some(newest) = events.first() else {
        return;
    };
    let who: Vec<&NodeId> = events.iter().map(|e| &e.reporter).collect();
    found.push(Finding {
        code: "OVERLOADED",
        severity: Severity::Warning,
        title: format!("{} refused requests: too many at once", format::names(&who)),
        explanation: "Past its limit a node refuses quickly (429, with Retry-After) instead of \
                      letting everybody wait. What was refused was not done. Clients should wait and \
                      spread over the nodes; if it stays, the cluster is too small."
            .to_owned(),
        evidence: events.iter().map(|e| e.message.clone()).collect(),
        fix: vec![
            "Compare the nodes' rates and latency on Overview (1); is one asked more than the others?"
                .to_owned(),
        ],
        since: Some(newest.time),
    });
}
