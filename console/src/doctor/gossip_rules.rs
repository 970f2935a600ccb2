//! The gossip engine: UDP that does not pass, nodes that answer late, seeds that are gone.

use jiff::Timestamp;
use ringmaster_shared::{
    api::health::GossipHealth,
    event::{EventCode, Severity},
    id::NodeId,
    member::MemberStatus,
};

use super::{Case, Finding, node_rules::recent, port_of};
use crate::format;

/// From this score on a node's own health is worth a finding; one lost answer is not.
const SCORE_BAD: u32 = 3;
/// Pairs and seeds named.
const NAMED_MAX: usize = 6;

pub(super) fn check(case: &Case, found: &mut Vec<Finding>) {
    own_udp_blocked(case, found);
    udp_blocked(case, found);
    local_health(case, found);
    seeds(case, found);
}

/// The nodes that answer and tell how their gossip is.
fn engines<'a>(case: &Case<'a>) -> Vec<(&'a NodeId, &'a GossipHealth)> {
    case.answering()
        .filter_map(|(id, node)| Some((id, node.status.as_ref()?.value.gossip.as_ref()?)))
        .collect()
}

/// Nodes that nobody answers over UDP, as they say themselves.
fn without_udp<'a>(case: &Case<'a>) -> Vec<(&'a NodeId, Timestamp)> {
    engines(case)
        .into_iter()
        .filter_map(|(id, gossip)| Some((id, gossip.own_udp_blocked_since?)))
        .collect()
}

fn own_udp_blocked(case: &Case, found: &mut Vec<Finding>) {
    for (id, since) in without_udp(case) {
        let address = case.address_of(id);
        let port = port_of(address);
        found.push(Finding {
            code: "OWN_UDP_BLOCKED",
            severity: Severity::Warning,
            title: format!("UDP of {id} is blocked: nobody answers it over UDP"),
            explanation: "TCP passes, so it stays a member, keeps its data and gets the news once a \
                          second; but it notices failures late, and others notice its own late. It is \
                          not the others: whatever it asks over UDP is lost on its way there or back."
                .to_owned(),
            evidence: vec![format!(
                "{id}: its own UDP is blocked; others answer it over TCP"
            )],
            fix: vec![
                format!("On the machine of {id}, look whether ringd listens and what filters UDP:"),
                format!("$ ss -lun 'sport = :{port}'"),
                "$ sudo nft list ruleset || sudo iptables -nvL".to_owned(),
                format!(
                    "Allow UDP from and to port {port}, there and in the firewalls on the way."
                ),
            ],
            since: Some(since),
        });
    }
}

/// Pairs, but those one of whom has no UDP at all.
fn udp_blocked(case: &Case, found: &mut Vec<Finding>) {
    let mut pairs: Vec<(NodeId, NodeId)> = Vec::new();
    for (id, gossip) in engines(case) {
        pairs.extend(gossip.udp_blocked.iter().map(|to| (id.clone(), to.clone())));
    }
    let observations = case.cluster.observations.as_ref();
    for observer in observations.iter().flat_map(|o| &o.value.observers) {
        let blocked = observer.views.iter().filter(|(_, v)| v.udp_blocked);
        pairs.extend(blocked.map(|(to, _)| (observer.node_id.clone(), to.clone())));
    }
    let told: Vec<&NodeId> = without_udp(case).into_iter().map(|(id, _)| id).collect();
    pairs.retain(|(by, to)| !told.contains(&by) && !told.contains(&to));
    pairs.sort();
    pairs.dedup();
    let Some((_, to)) = pairs.first() else {
        return;
    };
    let address = case.address_of(to);
    let port = port_of(address);
    let events = recent(case, EventCode::UdpBlocked);
    let more = pairs.len().saturating_sub(NAMED_MAX);
    let mut evidence: Vec<String> = pairs
        .iter()
        .take(NAMED_MAX)
        .map(|(by, to)| format!("{by} reaches {to} over TCP, not over UDP"))
        .collect();
    if more > 0 {
        evidence.push(format!("and {} like that", format::plural(more, "pair")));
    }
    found.push(Finding {
        code: "UDP_BLOCKED",
        severity: Severity::Warning,
        title: match pairs.as_slice() {
            [(by, to)] => format!("UDP does not pass between {by} and {to}"),
            _ => "Gossip over UDP does not get through everywhere".to_owned(),
        },
        explanation: "TCP does, so they still know of each other, but failures are noticed later and \
                      wrongly more often. Each node needs UDP and TCP on its one port, in both \
                      directions. Which pairs it is shows Members (2), w."
            .to_owned(),
        evidence,
        fix: vec![
            format!("$ ss -lun 'sport = :{port}'"),
            format!("There, look whether ringd listens; then allow UDP port {port} in the firewalls between the two."),
        ],
        since: events.iter().map(|e| e.time).min(),
    });
}

fn local_health(case: &Case, found: &mut Vec<Finding>) {
    let mut bad: Vec<(&NodeId, &GossipHealth)> = engines(case)
        .into_iter()
        .filter(|(_, g)| g.health_score >= SCORE_BAD)
        .collect();
    bad.sort_by_key(|(_, g)| std::cmp::Reverse(g.health_score));
    let Some((worst, _)) = bad.first() else {
        return;
    };
    let ids: Vec<&NodeId> = bad.iter().map(|(id, _)| *id).collect();
    let evidence = bad.iter().map(|(id, g)| {
        let why = g.health_reasons.first().map_or("", String::as_str);
        format!("{id}: health score {}: {why}", g.health_score)
    });
    let events = recent(case, EventCode::LocalHealth);
    let newest = events.iter().find(|e| e.severity == Severity::Warning);
    let address = case.address_of(worst);
    found.push(Finding {
        code: "LOCAL_HEALTH",
        severity: Severity::Warning,
        title: if let [one] = ids.as_slice() {
            format!("{one} answers late or loses packets")
        } else {
            format!("{} answer late or lose packets", format::names(&ids))
        },
        explanation: "The fault is likely its own: a starved CPU, a paused machine, a slow disk, or a \
                      network card that drops packets. It knows, and waits longer before it suspects \
                      others; its clients wait longer, too. It passes by itself when the cause does."
            .to_owned(),
        evidence: evidence.take(NAMED_MAX).collect(),
        fix: vec![
            format!("On the machine of {worst}:"),
            "$ top -b -n 1 | head -20".to_owned(),
            "$ nstat -az UdpRcvbufErrors UdpInErrors".to_owned(),
            format!("$ curl -s http://{address}/gossip/status | jq .gossip_status"),
        ],
        since: newest.map(|e| e.time),
    });
}

/// Seeds that nobody answers at. One that is a member held dead or stopped is told as that.
fn seeds(case: &Case, found: &mut Vec<Finding>) {
    let members = case.cluster.members.as_ref();
    let is_down = |address: &str| {
        let mut all = members
            .iter()
            .flat_map(|m| m.value.cluster_members.values());
        all.any(|m| {
            m.address == address && matches!(m.status, MemberStatus::Dead | MemberStatus::Stopped)
        })
    };
    let mut lost: Vec<(&str, Vec<&NodeId>)> = Vec::new();
    for (id, gossip) in engines(case) {
        for seed in gossip.seeds_unreachable.iter().filter(|s| !is_down(s)) {
            match lost.iter_mut().find(|(address, _)| address == seed) {
                Some((_, by)) => by.push(id),
                None => lost.push((seed, vec![id])),
            }
        }
    }
    let Some((address, by)) = lost.first() else {
        return;
    };
    let events = recent(case, EventCode::SeedUnreachable);
    let evidence = lost
        .iter()
        .take(NAMED_MAX)
        .map(|(address, by)| format!("{address}: no answer to {}", format::names(by)));
    found.push(Finding {
        code: "SEED_UNREACHABLE",
        severity: Severity::Info,
        title: match lost.len() {
            1 => format!("The seed {address} does not answer"),
            n => format!("{n} seeds do not answer"),
        },
        explanation: "The cluster runs without it. But a node that starts with an empty data folder \
                      and has only this seed waits for it. Start a node there, or give the nodes other \
                      seeds."
            .to_owned(),
        evidence: evidence.collect(),
        fix: vec![
            format!("$ curl http://{address}/api/v1/status"),
            format!(
                "Or restart {} with --seed-node={}.",
                format::names(by),
                by.first().map_or(String::new(), |id| case.seed_for(id))
            ),
        ],
        since: events.first().map(|e| e.time),
    });
}
