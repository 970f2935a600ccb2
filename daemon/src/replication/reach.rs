//! Who is worth asking, and why the others are not. Pure; gossip's view and the time come in.

use std::collections::BTreeMap;

use jiff::Timestamp;
use ringmaster_shared::{
    id::NodeId,
    member::{Lifecycle, MemberStatus},
};

use crate::gossip::MemberView;

/// Replicas that are not worth asking, with the reason in words that follow their name.
pub fn unreachable(
    members: &[MemberView],
    me: (&NodeId, Lifecycle),
    replicas: &[NodeId],
    now: Timestamp,
) -> BTreeMap<NodeId, String> {
    replicas
        .iter()
        .filter_map(|id| {
            let why = if id == me.0 {
                lifecycle_why_not(me.1)
            } else {
                match members.iter().find(|m| &m.state.id == id) {
                    Some(view) => why_not(view, now),
                    None => Some("unknown to gossip here".to_owned()),
                }
            };
            why.map(|why| (id.clone(), why))
        })
        .collect()
}

/// Whether requests to this member are worth sending.
pub fn is_reachable(view: &MemberView) -> bool {
    view.state.status.is_reachable() && view.state.lifecycle.replicates()
}

fn why_not(view: &MemberView, now: Timestamp) -> Option<String> {
    let seconds = now
        .as_second()
        .saturating_sub(view.status_since.as_second());
    match view.state.status {
        MemberStatus::Alive | MemberStatus::Suspected => lifecycle_why_not(view.state.lifecycle),
        MemberStatus::Dead => Some(format!("dead for {} s", seconds.max(0))),
        MemberStatus::Stopped => Some(format!("stopped for {} s", seconds.max(0))),
        MemberStatus::Left => Some("no longer a member".to_owned()),
    }
}

fn lifecycle_why_not(lifecycle: Lifecycle) -> Option<String> {
    (!lifecycle.replicates()).then(|| match lifecycle {
        Lifecycle::Standby => "in standby".to_owned(),
        other => other.as_str().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{id, member};

    fn view(name: &str, status: MemberStatus, lifecycle: Lifecycle) -> MemberView {
        let at = Timestamp::from_second(100).expect("valid");
        MemberView {
            last_seen: at,
            status_since: at,
            ..member(name, status, lifecycle)
        }
    }

    #[test]
    fn each_silence_has_its_reason() {
        let cases = [
            (MemberStatus::Alive, Lifecycle::Serving, None),
            (MemberStatus::Suspected, Lifecycle::Serving, None),
            (MemberStatus::Alive, Lifecycle::Recovering, None),
            (MemberStatus::Alive, Lifecycle::Standby, Some("in standby")),
            (
                MemberStatus::Dead,
                Lifecycle::Serving,
                Some("dead for 14 s"),
            ),
            (
                MemberStatus::Stopped,
                Lifecycle::Stopped,
                Some("stopped for 14 s"),
            ),
        ];
        let now = Timestamp::from_second(114).expect("valid");
        let replicas = [id("other")];
        for (status, lifecycle, want) in cases {
            let members = [view("other", status, lifecycle)];
            let off = unreachable(&members, (&id("me"), Lifecycle::Serving), &replicas, now);
            assert_eq!(off.get(&id("other")).map(String::as_str), want);
            assert_eq!(is_reachable(&members[0]), want.is_none());
        }
        let off = unreachable(
            &[],
            (&id("me"), Lifecycle::Standby),
            &[id("me"), id("x")],
            now,
        );
        assert_eq!(off.len(), 2);
    }
}
