//! Diagnosis: from what the console knows to findings a tired person can act on.
//!
//! Pure: the same knowledge gives the same findings. It recognises the four problems of the
//! operations guide (split brain, a node that does not join, views that differ, a console without
//! its feed) and what the cluster's figures and events tell besides. A finding names what is
//! wrong, what that means, what was seen, and the command that helps; it changes nothing.

mod cluster_rules;
mod gossip_rules;
mod link_rules;
mod node_rules;
mod ring_rules;
mod storage_rules;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use ringmaster_shared::{
    api::{health::StatusResponse, membership::MemberInfo},
    event::Severity,
    id::NodeId,
    member::{Lifecycle, MemberStatus},
};

use crate::{
    cli,
    cluster::{Cluster, NodeKnowledge},
    format,
    link::LinkView,
};

/// Views may differ for so long after the last change before that is a problem; the guide says
/// thirty to sixty seconds.
pub const CONVERGENCE_MS: u64 = 30_000;
/// An event that tells of a lasting condition counts for so long.
const EVENT_FRESH_MS: u64 = 300_000;
/// Hints owed in total from which on somebody should look.
const HINTS_MANY: u64 = 1_000;
/// Less free space than this on a node's disk is worth a look, bytes.
const DISK_FREE_LOW_BYTES: u64 = 1_000_000_000;
/// A member that has been dead for so long may not come back.
const LONG_GONE_MS: u64 = 600_000;
/// Clocks may differ by so much.
const SKEW_MAX_MS: i64 = 500;

const KEYRING_FLAG: &str = "--gossip-keyring-file=";

/// Something that is wrong, or about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Stable, e.g. `SPLIT_BRAIN`.
    pub code: &'static str,
    pub severity: Severity,
    /// One line, without a full stop.
    pub title: String,
    /// What it means, in a few sentences.
    pub explanation: String,
    /// What was seen, one line each.
    pub evidence: Vec<String>,
    /// What to do, in order; a line that starts with `$ ` is a command to run as it stands.
    pub fix: Vec<String>,
    pub since: Option<Timestamp>,
}

/// What a rule looks at.
pub(crate) struct Case<'a> {
    pub cluster: &'a Cluster,
    pub link: &'a LinkView,
    pub now_ms: u64,
    pub utc: Timestamp,
}

/// Everything that is wrong, the most urgent first; empty when all is well.
pub fn diagnose(cluster: &Cluster, link: &LinkView, now_ms: u64, utc: Timestamp) -> Vec<Finding> {
    let case = Case {
        cluster,
        link,
        now_ms,
        utc,
    };
    let mut found = Vec::new();
    link_rules::check(&case, &mut found);
    cluster_rules::check(&case, &mut found);
    storage_rules::check(&case, &mut found);
    ring_rules::check(&case, &mut found);
    node_rules::check(&case, &mut found);
    gossip_rules::check(&case, &mut found);
    reported(&case, &mut found);
    let fixes = found.iter_mut().flat_map(|f| &mut f.fix);
    fixes.for_each(|fix| reach(&case, fix));
    // the sort is stable: within one severity the order of the rules is the order of urgency
    found.sort_by_key(|f| std::cmp::Reverse(f.severity));
    found
}

/// A command for this cluster has to find it: without an endpoint it would go to the default ones.
fn reach(case: &Case, fix: &mut String) {
    let usual = |e: &str| cli::ENDPOINTS_DEFAULT.split(',').any(|d| d == e);
    let known = case.link.endpoints.iter().filter(|e| !e.learned);
    let known: Vec<&str> = known.map(|e| e.address.as_str()).collect();
    let names_some = fix.contains(" --endpoint") || fix.contains(" --into ");
    if fix.starts_with("$ ringmaster ") && !names_some && !known.iter().any(|e| usual(e)) {
        let at = case.link.endpoint.as_deref().or(known.first().copied());
        if let Some(at) = at {
            let (command, rest) = fix.split_once(" > ").unwrap_or((fix.as_str(), ""));
            let rest = if rest.is_empty() {
                String::new()
            } else {
                format!(" > {rest}")
            };
            *fix = format!("{command} --endpoint {at}{rest}");
        }
    }
}

/// Problems the daemon reports itself and no rule has covered.
fn reported(case: &Case, found: &mut Vec<Finding>) {
    let Some(status) = &case.cluster.status else {
        return;
    };
    let own = [
        "QUORUM_LOST",
        "MEMBER_DEAD",
        "MEMBER_SUSPECTED",
        "MEMBER_STOPPED",
    ];
    // told by a rule under another name
    let elsewhere = |code: &str| {
        let name = match code {
            "NODE_CANDIDATE" => "CANDIDATE_WAITING",
            "STORAGE_STOPPED" => "STORAGE_POISONED",
            "MEMBER_UNSEEN" => "CONSOLE_SEES_ONE",
            _ => return false,
        };
        found.iter().any(|f| f.code == name)
    };
    let elsewhere: Vec<&str> = status
        .value
        .cluster
        .problems
        .iter()
        .map(|p| p.code.as_str())
        .filter(|code| elsewhere(code))
        .collect();
    for problem in &status.value.cluster.problems {
        let covered = own.contains(&problem.code.as_str())
            || elsewhere.contains(&problem.code.as_str())
            || found.iter().any(|f| f.code == problem.code.as_str());
        if !covered {
            found.push(Finding {
                code: "REPORTED",
                severity: problem.severity,
                title: problem.message.trim_end_matches('.').to_owned(),
                explanation: format!(
                    "{} reports this itself, with code {}.",
                    status.value.node.id, problem.code
                ),
                evidence: vec![],
                fix: vec![format!(
                    "$ curl -s http://{}/api/v1/status | jq .cluster.problems",
                    status.value.node.address
                )],
                since: Some(problem.since),
            });
        }
    }
}

impl<'a> Case<'a> {
    /// Milliseconds from `then` to now; 0 when it is ahead.
    fn ms_since(&self, then: Timestamp) -> u64 {
        let ms = self.utc.as_millisecond() - then.as_millisecond();
        ms.try_into().unwrap_or(0)
    }

    /// The nodes that answer this console now.
    fn answering(&self) -> impl Iterator<Item = (&'a NodeId, &'a NodeKnowledge)> {
        let now_ms = self.now_ms;
        let nodes = self.cluster.nodes.iter();
        nodes.filter(move |(_, node)| node.answer(now_ms).is_some())
    }

    /// What `id` says of itself, if it answers this console now.
    fn answer_of(&self, id: &NodeId) -> Option<&'a StatusResponse> {
        self.cluster.nodes.get(id)?.answer(self.now_ms)
    }

    fn member(&self, id: &NodeId) -> Option<&'a MemberInfo> {
        let members = self.cluster.members.as_ref()?;
        members.value.cluster_members.get(id)
    }

    /// The node this console looks through, while it can say nothing of the others.
    fn lonely_viewer(&self) -> Option<&'a StatusResponse> {
        self.cluster.lonely_viewer(self.now_ms)
    }

    /// What to do instead of starting `id`, where it runs, or may well run: two processes with one
    /// folder are the last thing that is needed then.
    fn runs(&self, id: &NodeId) -> Option<Vec<String>> {
        let waits = |doing: &str| vec![format!("{id} runs and is {doing}: do not start it again.")];
        if let Some(own) = self.answer_of(id) {
            if own.node.lifecycle == Lifecycle::Standby {
                return Some(vec![
                    format!("{id} runs and is in standby: do not start it again, let it go on:"),
                    go_on(&own.node.address),
                ]);
            }
            return Some(waits(own.node.lifecycle.as_str()));
        }
        if let Some(viewer) = self.lonely_viewer() {
            let blind = &viewer.node.id;
            return Some(vec![
                format!("Whether {id} runs cannot be seen from {blind}; look first:"),
                format!("$ curl http://{}/api/v1/status", self.address_of(id)),
            ]);
        }
        let member = self.member(id)?;
        match member.status {
            MemberStatus::Alive => Some(waits(member.lifecycle.as_str())),
            MemberStatus::Suspected => Some(vec![format!(
                "{id} is suspected: wait a few seconds, until it is alive again or dead."
            )]),
            MemberStatus::Dead | MemberStatus::Stopped | MemberStatus::Left => None,
        }
    }

    /// How to have `ids` take part again: those that run are told as such, and `how` introduces the
    /// commands that start the others.
    fn bring_back<'i>(&self, how: &str, ids: impl IntoIterator<Item = &'i NodeId>) -> Vec<String> {
        let (mut lines, mut commands) = (Vec::new(), Vec::new());
        for id in ids {
            match self.runs(id) {
                Some(what) => lines.extend(what),
                None => commands.push(self.start_command(id)),
            }
        }
        if !commands.is_empty() && !how.is_empty() {
            lines.push(how.to_owned());
        }
        lines.extend(commands);
        lines
    }

    /// A node to name as seed for `id`: answering and serving, or at least listed as alive.
    fn seed_for(&self, id: &NodeId) -> String {
        let serving = self.answering().find_map(|(other, node)| {
            let status = node.status.as_ref()?;
            (other != id && status.value.node.lifecycle == Lifecycle::Serving)
                .then(|| status.value.node.address.clone())
        });
        let listed = || {
            let members = &self.cluster.members.as_ref()?.value.cluster_members;
            let alive = |m: &&MemberInfo| &m.node_id != id && m.status.is_reachable();
            members.values().find(alive).map(|m| m.address.clone())
        };
        serving
            .or_else(listed)
            .unwrap_or_else(|| "<a node that runs>".to_owned())
    }

    /// The command that starts `id` again as it was set up and lets it find the others: for one that
    /// is known to be down, or is stopped before.
    ///
    /// What is not known stands in angle brackets, at which a shell stops: a guess could start an
    /// empty node, or one that the others refuse.
    fn start_command(&self, id: &NodeId) -> String {
        let told = self.flags_of(id);
        let flags: Vec<String> = if told.is_empty() {
            self.guessed_flags(id)
        } else {
            told.iter().map(|f| format::shell_word(f)).collect()
        };
        let seed = self.seed_for(id);
        format!("$ ringd {} --seed-node={seed}", flags.join(" "))
    }

    /// What a node said that starts it again, as long as it was heard at all.
    fn flags_of(&self, id: &NodeId) -> &'a [String] {
        let node = self.cluster.nodes.get(id);
        let status = node.and_then(|n| n.status.as_ref());
        status.map_or(&[], |s| &s.value.node.start_flags)
    }

    /// For a node that was never heard: what its address and the others tell.
    fn guessed_flags(&self, id: &NodeId) -> Vec<String> {
        let member = self.member(id);
        let mut flags = vec![
            format!("--node-id={id}"),
            format!("--port={}", port_of(self.address_of(id))),
            "--data-dir=<its data dir>".to_owned(),
        ];
        // another zone would be a change of the ring
        let zone = member.map(|m| &m.zone).filter(|z| *z != "default");
        flags.extend(zone.map(|z| format::shell_word(&format!("--zone={z}"))));
        // gossip is set up alike on all nodes
        let like = self
            .cluster
            .nodes
            .keys()
            .find(|n| !self.flags_of(n).is_empty());
        let gossip = like.map_or(&[][..], |n| self.flags_of(n)).iter();
        flags.extend(gossip.filter(|f| f.starts_with("--gossip-")).map(|f| {
            if f.starts_with(KEYRING_FLAG) {
                format!("{KEYRING_FLAG}<its keyring>")
            } else {
                format::shell_word(f)
            }
        }));
        flags
    }

    /// Where a node is said to answer.
    fn address_of(&self, id: &NodeId) -> &'a str {
        let ring = || self.cluster.topology.as_ref()?.member(id);
        let own = || self.cluster.nodes.get(id)?.status.as_ref();
        let listed = self.member(id).map(|m| m.address.as_str());
        listed
            .or_else(|| ring().map(|m| m.address.as_str()))
            .or_else(|| own().map(|s| s.value.node.address.as_str()))
            .unwrap_or("")
    }

    /// When something of the kind was told last.
    fn newest(&self, code: ringmaster_shared::event::EventCode) -> Option<Timestamp> {
        let mut events = self.cluster.events.iter().rev();
        events.find(|e| e.code == code).map(|e| e.time)
    }

    /// When the membership shown changed last.
    fn last_change(&self) -> Option<Timestamp> {
        let members = &self.cluster.members.as_ref()?.value.cluster_members;
        members.values().map(|m| m.status_since).max()
    }
}

/// The command that ends the hold of a node in standby.
fn go_on(address: &str) -> String {
    format!("$ curl -X POST http://{address}/api/v1/admin/start")
}

/// The port of `host:port`, or a placeholder that reads as one.
fn port_of(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() => port,
        _ => "<port>",
    }
}
