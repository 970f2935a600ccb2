//! Happenings in an operator's words, in bounded numbers.

mod limiter;

use ringmaster_shared::{
    event::{EventCode, Severity},
    id::{ClusterId, NodeId},
    member::MemberStatus,
};
use serde_json::{Value, json};

use super::{HealthReason, HealthView, Strain, core::Happening, ledger::HealthNews};
use crate::events::{Events, code_name};
use limiter::Limiter;

/// Reports happenings as events; of a flood the first, and how many the others were.
pub struct Reporter {
    events: Events,
    cluster: ClusterId,
    limiter: Limiter,
}

impl Reporter {
    pub fn new(events: Events, cluster: ClusterId) -> Self {
        Self {
            events,
            cluster,
            limiter: Limiter::default(),
        }
    }

    pub fn report(&mut self, now_ms: u64, happening: &Happening) {
        let line = describe(happening, &self.cluster);
        self.emit(now_ms, line);
    }

    /// This node's own health, when it is worth a word.
    pub fn health(&mut self, now_ms: u64, news: HealthNews, view: &HealthView) {
        self.emit(now_ms, describe_health(news, view));
    }

    /// Tells how many were not told; to be called now and then.
    pub fn catch_up(&mut self, now_ms: u64) {
        for held in self.limiter.take_due(now_ms) {
            let (code, severity, count) = (held.code, held.severity, held.count);
            let message = format!(
                "{count} more of {} within a minute are not told one by one; the list of members \
                 has how all stand now",
                code_name(code)
            );
            let details = json!({"not_told": count});
            self.events.emit(code, severity, None, message, details);
        }
    }

    fn emit(&mut self, now_ms: u64, line: Line) {
        if self.limiter.admits(line.code, line.severity, now_ms) {
            self.events.emit(
                line.code,
                line.severity,
                line.subject.as_ref(),
                line.message,
                line.details,
            );
        }
    }
}

struct Line {
    code: EventCode,
    severity: Severity,
    subject: Option<NodeId>,
    message: String,
    details: Value,
}

fn describe(happening: &Happening, cluster: &ClusterId) -> Line {
    use Severity::{Error, Info, Warning};
    let line = |code, severity, subject: Option<&NodeId>, message: String, details| Line {
        code,
        severity,
        subject: subject.cloned(),
        message,
        details,
    };
    match happening {
        Happening::Joined { id, address } => line(
            EventCode::MemberJoined,
            Info,
            Some(id),
            format!("{id} at {address} joined"),
            json!({"address": address}),
        ),
        Happening::Suspected {
            id,
            by,
            wait_ms,
            least_ms,
        } => line(
            EventCode::MemberSuspected,
            Warning,
            Some(id),
            suspected_text(id, by, *wait_ms, *least_ms),
            json!({"by": by, "wait_ms": wait_ms, "least_ms": least_ms}),
        ),
        Happening::Dead {
            id,
            accusers,
            silent_ms,
        } => line(
            EventCode::MemberDead,
            Error,
            Some(id),
            dead_text(id, accusers, *silent_ms),
            json!({"no_answer_to": accusers, "silent_ms": silent_ms}),
        ),
        Happening::Returned { id, was, after_ms } => line(
            EventCode::MemberReturned,
            Info,
            Some(id),
            format!(
                "{id} is back, {} after it was {}",
                seconds(*after_ms),
                past(*was)
            ),
            json!({"was": was, "after_ms": after_ms}),
        ),
        Happening::Restarted { id, was } => line(
            EventCode::MemberRestarted,
            Info,
            Some(id),
            match was {
                MemberStatus::Alive => {
                    format!("{id} restarted, faster than its absence was noticed")
                }
                _ => format!("{id} restarted"),
            },
            json!({"was": was}),
        ),
        Happening::Stopped { id } => line(
            EventCode::MemberStopped,
            Info,
            Some(id),
            format!("{id} stopped on purpose"),
            Value::Null,
        ),
        Happening::Left { id } => line(
            EventCode::MemberLeft,
            Info,
            Some(id),
            format!("{id} left the cluster"),
            Value::Null,
        ),
        Happening::AddressChanged { id, from, to } => line(
            EventCode::MemberAddressChanged,
            Info,
            Some(id),
            format!("{id} moved from {from} to {to}"),
            json!({"from": from, "to": to}),
        ),
        Happening::SelfRefuted {
            by,
            claimed,
            incarnation,
        } => line(
            EventCode::SelfRefuted,
            Warning,
            None,
            format!(
                "{by} held this node {}; refuted. If this repeats, this node is overloaded or its \
                 network loses packets",
                past(*claimed)
            ),
            json!({"by": by, "claimed": claimed, "incarnation": incarnation}),
        ),
        Happening::UdpBlocked { id, address } => line(
            EventCode::UdpBlocked,
            Warning,
            Some(id),
            format!(
                "{id} answers over TCP but not over UDP; allow UDP to {address} in both directions, \
                 or it refuses this node's gossip: look for KEY_MISMATCH and PROTOCOL_MISMATCH \
                 there. Until then it stays a member, but failures are noticed late, and it gets \
                 the news over TCP if at all"
            ),
            json!({"address": address}),
        ),
        Happening::SeedUnreachable {
            address,
            silent_ms,
            error,
        } => line(
            EventCode::SeedUnreachable,
            Warning,
            None,
            seed_text(address, *silent_ms, error.as_deref()),
            json!({"address": address, "silent_ms": silent_ms, "error": error}),
        ),
        Happening::SeedAnswers { address, after_ms } => line(
            EventCode::SeedAnswers,
            Info,
            None,
            format!(
                "the seed {address} answers again, after {}",
                seconds(*after_ms)
            ),
            json!({"address": address, "after_ms": after_ms}),
        ),
        Happening::OwnUdpBlocked { address, over_tcp } => line(
            EventCode::UdpBlocked,
            Warning,
            None,
            format!(
                "this node's own UDP is blocked: nobody answers over UDP, {over_tcp} members in a row \
                 answered over TCP alone; allow UDP from and to {address}, or they refuse this \
                 node's gossip: look for KEY_MISMATCH and PROTOCOL_MISMATCH on them. Until then it \
                 gets the news over TCP if at all, and failures are noticed late"
            ),
            json!({"address": address, "over_tcp": over_tcp}),
        ),
        Happening::UdpOpen { id, after_ms } => line(
            EventCode::UdpOpen,
            Info,
            id.as_ref(),
            match id {
                Some(id) => format!("{id} answers over UDP again, after {}", seconds(*after_ms)),
                None => format!("this node's UDP works again, after {}", seconds(*after_ms)),
            },
            json!({"after_ms": after_ms}),
        ),
        Happening::Foreign { source, theirs } => line(
            EventCode::ForeignMessages,
            Warning,
            None,
            format!(
                "{source} belongs to cluster {theirs}, this node to {cluster}; what it says is \
                 refused. Check the seeds and addresses of both"
            ),
            json!({"source": source, "theirs": theirs, "ours": cluster}),
        ),
        Happening::Superseded {
            address,
            generation,
        } => line(
            EventCode::DuplicateNodeId,
            Error,
            None,
            format!(
                "a later process at {address} goes by this node's id; this one stops. Give each \
                 node its own --node-id and --data-dir"
            ),
            json!({"address": address, "generation": generation}),
        ),
    }
}

fn seed_text(address: &str, silent_ms: u64, error: Option<&str>) -> String {
    let why = error.map_or_else(String::new, |e| format!(" ({e})"));
    format!(
        "the seed {address} has not answered for {}{why}; this node goes on trying, but with this \
         seed alone it could not find the cluster after a restart. Start that node, or name others",
        seconds(silent_ms)
    )
}

fn describe_health(news: HealthNews, view: &HealthView) -> Line {
    let reasons = health_reasons(view);
    match news {
        HealthNews::Bad { score } => Line {
            code: EventCode::LocalHealth,
            severity: Severity::Warning,
            subject: None,
            message: format!(
                "this node answers late or loses packets (health score {score}, 0 is well): {}. It \
                 waits longer before it suspects others. Look for a starved CPU, a paused machine, \
                 or a network that drops UDP",
                reasons.first().map_or("no reason is known", String::as_str)
            ),
            details: json!({"score": score, "score_max": view.score_max, "reasons": reasons}),
        },
        HealthNews::Good { after_ms } => Line {
            code: EventCode::LocalHealth,
            severity: Severity::Info,
            subject: None,
            message: format!("this node is well again, after {}", seconds(after_ms)),
            details: json!({"score": 0, "after_ms": after_ms}),
        },
    }
}

/// What tells against this node, in sentences, the weightiest first.
pub fn health_reasons(view: &HealthView) -> Vec<String> {
    let reason = |r: &HealthReason| {
        let times = match r.times {
            1 => "once".to_owned(),
            n => format!("{n} times"),
        };
        let what = match r.strain {
            Strain::MissedAnswers => "answers to its probes did not arrive, not even of helpers",
            Strain::RefutedItself => "others held it suspected or dead, and were wrong",
            Strain::StoodStill => "it stood still: its own timers went off late",
        };
        format!("{what} ({times})")
    };
    view.reasons.iter().map(reason).collect()
}

fn suspected_text(id: &NodeId, by: &NodeId, wait_ms: u64, least_ms: u64) -> String {
    let mut wait = format!("{} at most", seconds(wait_ms));
    if least_ms < wait_ms {
        let least = seconds(least_ms);
        wait = format!("{wait} ({least} if others confirm it, or too few are left to)");
    }
    if id == by {
        // from a seed's list, which does not say who found it so
        format!("{id}: said not to answer; held dead in {wait}, unless it does")
    } else {
        format!("{id}: {by} got no answer; held dead in {wait}, unless it answers")
    }
}

fn dead_text(id: &NodeId, accusers: &[NodeId], silent_ms: u64) -> String {
    format!("{id}: {}", no_answer(accusers, silent_ms))
}

/// Why a member is held suspected or dead; nothing for any other status.
pub fn reason(status: MemberStatus, accusers: &[NodeId], silent_ms: u64) -> Option<String> {
    matches!(status, MemberStatus::Suspected | MemberStatus::Dead)
        .then(|| no_answer(accusers, silent_ms))
}

fn no_answer(accusers: &[NodeId], silent_ms: u64) -> String {
    let names: Vec<&str> = accusers.iter().map(NodeId::as_str).collect();
    let whom = match names.as_slice() {
        [] => "anybody".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    };
    if silent_ms == 0 {
        format!("no answer to {whom}")
    } else {
        format!("no answer to {whom} for {}", seconds(silent_ms))
    }
}

fn past(status: MemberStatus) -> &'static str {
    match status {
        MemberStatus::Left => "gone",
        other => other.as_str(),
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{cluster, id},
        *,
    };

    #[test]
    fn sentences_say_who_and_how_long() {
        let text = |h| describe(&h, &cluster()).message;
        let dead = |accusers: &[&str], silent_ms| Happening::Dead {
            id: id("node-3"),
            accusers: accusers.iter().map(|a| id(a)).collect(),
            silent_ms,
        };
        assert_eq!(
            text(dead(&["node-1", "node-2"], 5_123)),
            "node-3: no answer to node-1 and node-2 for 5.1 s"
        );
        assert_eq!(
            text(dead(&["a", "b", "c"], 900)),
            "node-3: no answer to a, b and c for 0.9 s"
        );
        assert_eq!(text(dead(&["node-1"], 0)), "node-3: no answer to node-1");
        for (wait_ms, wait) in [
            (4_000, "4.0 s at most"),
            (
                24_000,
                "24.0 s at most (4.0 s if others confirm it, or too few are left to)",
            ),
        ] {
            let happening = |by| Happening::Suspected {
                id: id("node-3"),
                by: id(by),
                wait_ms,
                least_ms: 4_000,
            };
            assert_eq!(
                text(happening("node-1")),
                format!("node-3: node-1 got no answer; held dead in {wait}, unless it answers")
            );
            assert_eq!(
                text(happening("node-3")),
                format!("node-3: said not to answer; held dead in {wait}, unless it does")
            );
        }
        let foreign = text(Happening::Foreign {
            source: "node-9 at 127.0.0.1:9".into(),
            theirs: "other".into(),
        });
        assert!(foreign.contains("other") && foreign.contains(cluster().as_str()));
        let own = text(Happening::OwnUdpBlocked {
            address: "10.0.0.3:8081".into(),
            over_tcp: 4,
        });
        assert!(own.starts_with("this node's own UDP is blocked: nobody answers over UDP, 4 "));
        let one = text(Happening::UdpBlocked {
            id: id("node-3"),
            address: "10.0.0.3:8081".into(),
        });
        // other keys look the same from here as packets that a firewall drops
        for told in [own, one] {
            let both = told.contains("KEY_MISMATCH") && told.contains("PROTOCOL_MISMATCH");
            assert!(both && told.contains("allow UDP"), "{told}");
        }
        let open = |id| {
            text(Happening::UdpOpen {
                id,
                after_ms: 61_200,
            })
        };
        assert_eq!(
            open(Some(id("node-3"))),
            "node-3 answers over UDP again, after 61.2 s"
        );
        assert_eq!(open(None), "this node's UDP works again, after 61.2 s");
    }
}
