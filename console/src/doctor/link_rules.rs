//! The console's own connection: problem 4 of the operations guide.

use ringmaster_shared::{
    api::health::StatusResponse, event::Severity, id::NodeId, member::Lifecycle,
};

use super::{Case, Finding};
use crate::{
    format,
    link::{EndpointView, LinkState, Way},
};

pub(super) fn check(case: &Case, found: &mut Vec<Finding>) {
    match case.link.state {
        LinkState::Connected => clock_skew(case, found),
        LinkState::Fallback => found.push(fallback(case)),
        LinkState::Disconnected => return found.push(disconnected(case)),
    }
    found.extend(case.lonely_viewer().map(|viewer| sees_one(case, viewer)));
}

/// Nobody else delivers, and the one node that does knows nobody.
fn sees_one(case: &Case, viewer: &StatusResponse) -> Finding {
    let id = &viewer.node.id;
    let doing = match viewer.node.lifecycle {
        Lifecycle::Standby => "held in standby",
        Lifecycle::Joining => "still starting",
        _ => "on its way out",
    };
    let ring = case.cluster.topology.iter().flat_map(|ring| &ring.members);
    let others: Vec<&NodeId> = ring.map(|m| &m.id).filter(|other| *other != id).collect();
    let waits = viewer.node.waiting_for.iter();
    let waits = waits.map(|what| format!("{id} waits for: {}", what.trim_end_matches('.')));
    let heard = others.iter().map(|other| {
        let error = case
            .cluster
            .nodes
            .get(*other)
            .and_then(|n| n.error.as_ref());
        match (case.answer_of(other), error) {
            (Some(own), _) => format!("{other} says: {}", own.node.lifecycle.as_str()),
            (None, Some(error)) => format!("{other} does not answer here: {}", error.message),
            (None, None) => format!("{other}: nothing heard here"),
        }
    });
    let addresses: Vec<&str> = others.iter().map(|other| case.address_of(other)).collect();
    Finding {
        code: "CONSOLE_SEES_ONE",
        severity: Severity::Warning,
        title: format!("This console looks through {id}, which is {doing}"),
        explanation: "Such a node knows the ring, and of its members only itself: from there nobody can                       tell whether the others run and whether quorum holds. This console moves on by                       itself once another endpoint delivers the live feed."
            .to_owned(),
        evidence: waits.chain(heard).collect(),
        fix: vec![
            "Look through the others, and start those that are down:".to_owned(),
            format!("$ ringmaster --endpoint {}", addresses.join(",")),
        ],
        since: None,
    }
}

fn since(case: &Case) -> Option<jiff::Timestamp> {
    let ago = case.now_ms.saturating_sub(case.link.since_ms);
    case.utc
        .checked_sub(jiff::SignedDuration::from_millis(ago.try_into().ok()?))
        .ok()
}

fn endpoint_line(e: &EndpointView) -> String {
    let way = |w: Way| match w {
        Way::Untried => "not tried",
        Way::Trying => "trying",
        Way::Up => "answers",
        Way::Down => "fails",
    };
    let why = e.last_error.as_ref().map(|w| format!(" ({w})"));
    let ways = format!("{}  /ws {}, REST {}", e.address, way(e.ws), way(e.rest));
    ways + &why.unwrap_or_default()
}

fn fallback(case: &Case) -> Finding {
    let link = case.link;
    let answers: Vec<&str> = link
        .endpoints
        .iter()
        .filter(|e| e.rest == Way::Up)
        .map(|e| e.address.as_str())
        .collect();
    let at = link
        .endpoint
        .as_deref()
        .or(answers.first().copied())
        .unwrap_or("localhost:8081");
    Finding {
        code: "CONSOLE_FALLBACK",
        severity: Severity::Warning,
        title: "No live feed: polling over REST".to_owned(),
        explanation:
            "REST answers, but no endpoint accepts the WebSocket at /ws. What is shown is \
                      true and a little older than usual; the feed is tried again all the time. A \
                      proxy that does not pass upgrades is the usual cause."
                .to_owned(),
        evidence: link.endpoints.iter().map(endpoint_line).collect(),
        fix: vec![
            format!("$ curl -i http://{at}/ws"),
            "426 UPGRADE_REQUIRED from there is the healthy answer; anything else comes from \
             something in between."
                .to_owned(),
        ],
        since: since(case),
    }
}

fn disconnected(case: &Case) -> Finding {
    let link = case.link;
    let never = link.last_data_ms.is_none();
    let down = link
        .endpoints
        .iter()
        .filter(|e| e.rest == Way::Down)
        .count();
    let title = if never {
        "No node answers yet".to_owned()
    } else {
        "The console lost every node".to_owned()
    };
    let first = link
        .endpoints
        .first()
        .map_or("localhost:8081", |e| &e.address);
    let mut fix = vec![format!("$ curl http://{first}/api/v1/status")];
    if never {
        fix.push("Start a first node:".to_owned());
        fix.push("$ ringd --node-id=node-1 --port=8081 --data-dir=./data/node-1".to_owned());
        fix.push("or say where one runs:".to_owned());
        fix.push("$ ringmaster --endpoint HOST:PORT".to_owned());
    } else {
        fix.push("Look at the terminals of the nodes; start what is down again:".to_owned());
        let members = case.cluster.members.as_ref();
        let down = members
            .into_iter()
            .flat_map(|m| m.value.cluster_members.values());
        fix.extend(down.map(|m| case.start_command(&m.node_id)));
    }
    Finding {
        code: "CONSOLE_DISCONNECTED",
        severity: Severity::Error,
        title,
        explanation: format!(
            "Of {}, {down} cannot be reached. The console goes on trying all of them; press r to try now. \
             {}",
            format::plural(link.endpoints.len(), "endpoint"),
            if never {
                "Nothing is known of the cluster."
            } else {
                "The screens keep the last known state, marked stale. The cluster itself may be \
                 well: only this console's way to it is known to be broken."
            }
        ),
        evidence: link.endpoints.iter().map(endpoint_line).collect(),
        fix,
        since: since(case),
    }
}

fn clock_skew(case: &Case, found: &mut Vec<Finding>) {
    let Some(skew) = case.cluster.clock_skew_ms else {
        return;
    };
    if skew.abs() <= super::SKEW_MAX_MS {
        return;
    }
    let at = case.link.endpoint.as_deref().unwrap_or("the node");
    let by = format::age(std::time::Duration::from_millis(skew.unsigned_abs()));
    let way = if skew > 0 { "ahead of" } else { "behind" };
    found.push(Finding {
        code: "CLOCK_SKEW",
        severity: Severity::Warning,
        title: format!("The clock of {at} is {by} {way} this machine's"),
        explanation: "Ages are counted from when things arrived here and stay right; times of \
                      events are the daemons' own. Which of two concurrent writes wins depends on \
                      the nodes' clocks."
            .to_owned(),
        evidence: vec![],
        fix: vec![
            "$ timedatectl status".to_owned(),
            "$ chronyc tracking".to_owned(),
        ],
        since: None,
    });
}
