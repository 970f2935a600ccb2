//! Single nodes: gone, held, waiting, deaf.

use ringmaster_shared::{
    api::membership::MemberInfo,
    event::{Event, EventCode, Severity},
    member::{Lifecycle, MemberStatus},
};

use super::{Case, EVENT_FRESH_MS, Finding, go_on};
use crate::format;

pub(super) fn check(case: &Case, found: &mut Vec<Finding>) {
    wont_join(case, found);
    members(case, found);
    standby(case, found);
    unanswered(case, found);
    node_clocks(case, found);
}

/// Problem 2 of the guide.
fn wont_join(case: &Case, found: &mut Vec<Finding>) {
    for (id, node) in case.answering() {
        let Some(status) = node.status.as_ref().map(|s| &s.value) else {
            continue;
        };
        let alone = status.replication.total_nodes <= 1;
        if status.node.lifecycle != Lifecycle::Joining || !alone {
            continue;
        }
        let seed = case.seed_for(id);
        let waiting = status
            .node
            .waiting_for
            .as_deref()
            .unwrap_or("a seed that answers");
        found.push(Finding {
            code: "NODE_WONT_JOIN",
            severity: Severity::Warning,
            title: format!("{id} does not get into the cluster"),
            explanation:
                "It runs and tries its seeds again and again, and will join by itself as soon \
                          as one of them answers. Until then it serves nothing. Check the seed's \
                          address, or give it another one."
                    .to_owned(),
            evidence: vec![
                format!("{id}: joining, total_members 1"),
                format!("it waits for: {}", waiting.trim_end_matches('.')),
            ],
            fix: vec![
                format!("$ curl http://{seed}/gossip/status"),
                "Or stop it (Ctrl+C) and start it with that seed:".to_owned(),
                case.start_command(id),
            ],
            since: Some(status.node.start_time),
        });
    }
}

fn members(case: &Case, found: &mut Vec<Finding>) {
    let Some(members) = &case.cluster.members else {
        return;
    };
    let lost = case.cluster.partition_counts().map_or(0, |c| c.unavailable);
    let quorum = if lost == 0 {
        "quorum holds"
    } else {
        "quorum is lost"
    };
    let all = || members.value.cluster_members.values();
    let down = [
        MemberStatus::Dead,
        MemberStatus::Suspected,
        MemberStatus::Stopped,
    ];
    for status in down {
        found.extend(
            all()
                .filter(|m| m.status == status && !is_held(case, m))
                .map(|m| gone(case, m, quorum)),
        );
    }
}

/// It said goodbye, runs, and waits to be told to start: [`standby`] tells that.
fn is_held(case: &Case, m: &MemberInfo) -> bool {
    let own = case.answer_of(&m.node_id);
    own.is_some_and(|own| own.node.lifecycle == Lifecycle::Standby)
}

fn gone(case: &Case, m: &MemberInfo, quorum: &str) -> Finding {
    let id = &m.node_id;
    let start = || case.bring_back("Start it again with any seed:", [id]);
    let asked = format!("$ curl http://{}/api/v1/status", m.address);
    let (code, severity, title, explanation, fix) = match m.status {
        MemberStatus::Suspected => (
            "MEMBER_SUSPECTED",
            Severity::Warning,
            format!("{id} did not answer a probe; {quorum}"),
            "Others are being asked. It answers in time and is alive again, or it is dead in a few \
             seconds. A node that comes and goes is overloaded, or loses UDP packets.",
            vec!["Wait a few seconds.".to_owned(), asked],
        ),
        MemberStatus::Stopped => (
            "MEMBER_STOPPED",
            Severity::Warning,
            match case.answer_of(id).map(|own| own.node.lifecycle) {
                Some(Lifecycle::Joining) => format!("{id} is starting again; {quorum}"),
                _ => format!("{id} was stopped on purpose; {quorum}"),
            },
            "It said goodbye and is expected back. Its partitions have one replica less; what can \
             be written meanwhile is kept for it as hints.",
            start(),
        ),
        _ => (
            "MEMBER_DEAD",
            Severity::Warning,
            format!("{id} is dead; {quorum}"),
            "Nobody could reach it for the suspicion timeout. No data has moved: its partitions have \
             one replica less, and what can be written meanwhile is kept for it as hints. Started \
             again, it catches up by itself.",
            start(),
        ),
    };
    let mut fix = fix;
    let is_down = m.status == MemberStatus::Dead && case.runs(id).is_none();
    if is_down && case.ms_since(m.status_since) > super::LONG_GONE_MS {
        fix.push("Or, if it will not come back, let the others take over what it held:".to_owned());
        fix.push(format!("$ ringmaster remove {id}"));
    }
    let heard = format::age(format::between(m.last_seen, case.utc));
    let reason = m.reason.iter().map(|r| format!("{id}: {r}"));
    Finding {
        code,
        severity,
        title,
        explanation: explanation.to_owned(),
        evidence: std::iter::once(format!(
            "{} as {} sees it, last heard {heard} ago",
            m.status.as_str(),
            case.cluster
                .members
                .as_ref()
                .map_or("the cluster", |k| k.value.current_node.as_str()),
        ))
        .chain(reason)
        .collect(),
        fix,
        since: Some(m.status_since),
    }
}

fn standby(case: &Case, found: &mut Vec<Finding>) {
    for (id, node) in case.answering() {
        let Some(status) = node.status.as_ref().map(|s| &s.value.node) else {
            continue;
        };
        if status.lifecycle == Lifecycle::Standby {
            let why = status
                .waiting_for
                .as_deref()
                .unwrap_or("the order to start");
            // a clean restart holds nodes for seconds; longer, nobody is coming
            let held_ms = case.ms_since(status.start_time);
            found.push(Finding {
                code: "NODE_STANDBY",
                severity: if held_ms < super::CONVERGENCE_MS {
                    Severity::Info
                } else {
                    Severity::Warning
                },
                title: format!("{id} is held in standby"),
                explanation:
                    "It answers and serves nothing until it is told to start; when its hold \
                              time runs out it starts by itself from what it remembers. A clean \
                              restart does this on purpose."
                        .to_owned(),
                evidence: vec![format!("it waits for: {}", why.trim_end_matches('.'))],
                fix: vec![go_on(&status.address)],
                since: Some(status.start_time),
            });
        }
    }
}

/// Gossip hears it, this console does not.
fn unanswered(case: &Case, found: &mut Vec<Finding>) {
    let Some(members) = &case.cluster.members else {
        return;
    };
    if case.link.state == crate::link::LinkState::Disconnected {
        return;
    }
    for (id, node) in &case.cluster.nodes {
        let alive = members
            .value
            .cluster_members
            .get(id)
            .is_some_and(|m| m.status == MemberStatus::Alive);
        let Some(error) = node.error.as_ref().filter(|_| alive) else {
            continue;
        };
        found.push(Finding {
            code: "NODE_UNREACHABLE",
            severity: Severity::Warning,
            title: format!("{id} is alive, but this console cannot reach it"),
            explanation: "The other nodes hear it. Its advertised address may be wrong from here, or \
                          a firewall lets the nodes through and not this machine. Its own figures are \
                          missing."
                .to_owned(),
            evidence: vec![format!("{}: {}", node.address, error.message)],
            fix: vec![format!("$ curl http://{}/api/v1/status", node.address)],
            since: None,
        });
    }
}

/// The newest event of a code, one for each reporter, not older than a few minutes.
pub(super) fn recent<'a>(case: &Case<'a>, code: EventCode) -> Vec<&'a Event> {
    let mut seen: Vec<&Event> = Vec::new();
    for event in case.cluster.events.iter().rev() {
        let fresh = event.code == code && case.ms_since(event.time) <= EVENT_FRESH_MS;
        if fresh && !seen.iter().any(|e| e.reporter == event.reporter) {
            seen.push(event);
        }
    }
    seen
}

fn node_clocks(case: &Case, found: &mut Vec<Finding>) {
    let events = recent(case, EventCode::ClockSkew);
    if let Some(newest) = events.first()
        && !found.iter().any(|f| f.code == "CLOCK_SKEW")
    {
        found.push(Finding {
            code: "CLOCK_SKEW",
            severity: Severity::Warning,
            title: "The nodes' clocks differ".to_owned(),
            explanation:
                "Which of two concurrent writes wins depends on the clocks; nothing is lost \
                          by it, but the later write may lose."
                    .to_owned(),
            evidence: events.iter().map(|e| e.message.clone()).collect(),
            fix: vec![
                "$ timedatectl status".to_owned(),
                "$ chronyc tracking".to_owned(),
            ],
            since: Some(newest.time),
        });
    }
}
