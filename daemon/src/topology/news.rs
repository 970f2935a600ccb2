//! What a person is told when this node goes over to a later epoch. Pure.

use std::{collections::BTreeSet, time::Duration};

use ringmaster_shared::{
    event::EventCode,
    id::NodeId,
    topology::{ChangeKind, RingMember, Step, Topology, Transition},
};

/// One event; the subject when it is about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub code: EventCode,
    pub subject: Option<NodeId>,
    pub message: String,
}

/// What is new in `next`, a change having gone on for `took`. Epochs between the two may have
/// been missed.
pub fn between(before: &Topology, next: &Topology, took: Option<Duration>) -> Option<News> {
    if let Some(change) = &next.transition {
        return started(before, next, change);
    }
    if let Some(change) = &before.transition
        && is_as_before(before, next)
    {
        let message = format!(
            "epoch {}: {} was called off, by an operator or because a node that takes over \
             partitions was down too long or lost its data; the ring is as before",
            next.epoch,
            named(change),
        );
        return Some(news(EventCode::RingChangeAborted, &about(change), message));
    }
    let joined: Vec<NodeId> = difference(settled(next), &settled(before));
    let left: Vec<NodeId> = difference(settled(before), &settled(next));
    let moved = moved_between(before, next);
    let rebalanced = before
        .transition
        .as_ref()
        .is_some_and(|t| t.kind == ChangeKind::Rebalance);
    if joined.is_empty() && left.is_empty() && moved == 0 && !rebalanced {
        return Some(described_anew(before, next));
    }
    let took = took.map_or_else(String::new, |t| format!(" in {:.1} s", t.as_secs_f64()));
    let message = format!(
        "epoch {}: {}, {} moved{took}",
        next.epoch,
        outcome(before, &joined, &left),
        partitions(moved),
    );
    let subjects: Vec<NodeId> = joined.into_iter().chain(left).collect();
    Some(news(EventCode::RingChanged, &subjects, message))
}

/// The beginning of a change is news, also when it begins anew; its second step is not.
fn started(before: &Topology, next: &Topology, change: &Transition) -> Option<News> {
    let anew = next.begins_anew(before);
    if change.step == Step::Dual || before.transition.is_some() && !anew {
        return None;
    }
    let message = format!(
        "epoch {}: {}, {} are being handed over{}",
        next.epoch,
        intent(change),
        partitions(moving(next)),
        if anew {
            "; it begins anew because a member lost its data"
        } else {
            ""
        },
    );
    let about = about(change);
    Some(news(EventCode::RingChangeStarted, &about, message))
}

/// Whom a change is about: who comes and who goes.
fn about(change: &Transition) -> Vec<NodeId> {
    let both = change.joining.iter().chain(&change.leaving);
    both.cloned().collect()
}

/// What a change sets out to do; no full stop.
pub fn intent(change: &Transition) -> String {
    let (joining, leaving) = (&change.joining, &change.leaving);
    match change.kind {
        ChangeKind::Join => sentence(joining, "joins", "join"),
        ChangeKind::Leave => sentence(leaving, "is leaving", "are leaving"),
        ChangeKind::Remove => sentence(leaving, "is being removed", "are being removed"),
        ChangeKind::Replace => format!(
            "{} the place of {}",
            sentence(joining, "takes", "take"),
            names(leaving)
        ),
        ChangeKind::Rebalance => "the ring is balanced anew".to_owned(),
    }
}

/// A change as the subject of a sentence.
fn named(change: &Transition) -> String {
    let (joining, leaving) = (names(&change.joining), names(&change.leaving));
    match change.kind {
        ChangeKind::Join => format!("the join of {joining}"),
        ChangeKind::Leave => format!("the leave of {leaving}"),
        ChangeKind::Remove => format!("the removal of {leaving}"),
        ChangeKind::Replace => format!("the replacement of {leaving} by {joining}"),
        ChangeKind::Rebalance => "the rebalancing".to_owned(),
    }
}

/// How a change ended, as far as the members tell.
fn outcome(before: &Topology, joined: &[NodeId], left: &[NodeId]) -> String {
    let kind = before.transition.as_ref().map(|t| t.kind);
    match (kind, joined, left) {
        (_, [], []) => "the ring is balanced anew".to_owned(),
        (Some(ChangeKind::Replace), [new], [old]) => format!("{new} took the place of {old}"),
        (Some(ChangeKind::Remove), [], left) => sentence(left, "was removed", "were removed"),
        (_, joined, left) => {
            let who: Vec<String> = [(joined, "joined"), (left, "left")]
                .into_iter()
                .filter(|(ids, _)| !ids.is_empty())
                .map(|(ids, verb)| sentence(ids, verb, verb))
                .collect();
            who.join(", ")
        }
    }
}

/// The same settled members hold the same; a change in between came to nothing.
fn is_as_before(before: &Topology, next: &Topology) -> bool {
    let holders = |t: &Topology, p| t.replicas(p);
    let mut all = 0..next.partition_count();
    settled(before) == settled(next)
        && before.partition_count() == next.partition_count()
        && all.all(|p| holders(before, p) == holders(next, p))
}

/// Nothing moved: only addresses or zones are told anew.
fn described_anew(before: &Topology, next: &Topology) -> News {
    let differs = |what: fn(&RingMember) -> &str| -> Vec<NodeId> {
        let members = next.members.iter();
        members
            .filter(|m| before.member(&m.id).is_some_and(|b| what(b) != what(m)))
            .map(|m| m.id.clone())
            .collect()
    };
    let (moved, rezoned) = (differs(|m| &m.address), differs(|m| &m.zone));
    let said: Vec<String> = [
        (&moved, "is at a new address", "are at a new address"),
        (&rezoned, "is in another zone", "are in other zones"),
    ]
    .into_iter()
    .filter(|(ids, ..)| !ids.is_empty())
    .map(|(ids, one, many)| sentence(ids, one, many))
    .collect();
    let said = if said.is_empty() {
        "nothing moved".to_owned()
    } else {
        said.join(", ")
    };
    let more = if rezoned.is_empty() {
        ""
    } else {
        "; nothing moves by itself, rebalance to spread replicas over the zones"
    };
    let message = format!("epoch {}: {said}{more}", next.epoch);
    let mut about = moved;
    about.extend(rezoned);
    about.dedup();
    news(EventCode::RingChanged, &about, message)
}

fn news(code: EventCode, about: &[NodeId], message: String) -> News {
    let subject = match about {
        [one] => Some(one.clone()),
        _ => None,
    };
    News {
        code,
        subject,
        message,
    }
}

fn settled(topology: &Topology) -> BTreeSet<NodeId> {
    topology.settled_members().map(|m| m.id.clone()).collect()
}

fn difference(of: BTreeSet<NodeId>, without: &BTreeSet<NodeId>) -> Vec<NodeId> {
    of.into_iter().filter(|id| !without.contains(id)).collect()
}

fn moving(topology: &Topology) -> usize {
    let all = 0..topology.partition_count();
    all.filter(|p| topology.target_replicas(*p).is_some())
        .count()
}

/// Partitions whose replicas are not the same nodes.
fn moved_between(before: &Topology, next: &Topology) -> usize {
    let set = |t: &Topology, p| -> BTreeSet<NodeId> { t.replicas(p).into_iter().collect() };
    let all = 0..next.partition_count();
    all.filter(|p| set(before, *p) != set(next, *p)).count()
}

fn partitions(count: usize) -> String {
    match count {
        1 => "1 partition".into(),
        n => format!("{n} partitions"),
    }
}

fn sentence(ids: &[NodeId], one: &str, many: &str) -> String {
    let verb = if ids.len() > 1 { many } else { one };
    format!("{} {verb}", names(ids))
}

/// As people list them.
fn names(ids: &[NodeId]) -> String {
    let names: Vec<&str> = ids.iter().map(NodeId::as_str).collect();
    match names.as_slice() {
        [] => "nobody".to_owned(),
        [name] => (*name).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{
        fixture::{id, member, topology},
        steps,
    };

    fn filling(from: &Topology, joiner: &str) -> Topology {
        steps::joining(from, vec![member(joiner)], &[])
    }

    fn done(from: &Topology) -> Topology {
        steps::finished(from, from.transition.as_ref().expect("a change"))
    }

    /// Begin, end and calling off of each kind, in words.
    #[test]
    fn every_kind_of_change_has_its_words() {
        let old = topology(3, &["n1", "n2", "n3", "n4"]);
        let gone = id("n2");
        let mut skewed = old.clone();
        skewed.table = vec![vec![0, 1, 2]; 16];
        let cases = [
            (
                &old,
                steps::without_member(&old, ChangeKind::Leave, &gone, &[]),
                "epoch 4: n2 is leaving, 12 partitions are being handed over",
                "epoch 5: n2 left, 12 partitions moved",
                "the leave of n2 was called off",
            ),
            (
                &old,
                steps::without_member(&old, ChangeKind::Remove, &gone, &[]),
                "epoch 4: n2 is being removed, 12 partitions are being handed over",
                "epoch 5: n2 was removed, 12 partitions moved",
                "the removal of n2 was called off",
            ),
            (
                &old,
                steps::replacing(&old, &gone, &member("n9")),
                "epoch 4: n9 takes the place of n2, 12 partitions are being handed over",
                "epoch 5: n9 took the place of n2, 12 partitions moved",
                "the replacement of n2 by n9 was called off",
            ),
            (
                &skewed,
                steps::rebalancing(&skewed),
                "epoch 4: the ring is balanced anew, 12 partitions are being handed over",
                "epoch 5: the ring is balanced anew, 12 partitions moved",
                "the rebalancing was called off",
            ),
        ];
        for (old, begun, start, end, off) in cases {
            assert!(begun.is_well_formed(), "{begun:?}");
            let told = between(old, &begun, None).expect("news");
            assert_eq!(told.message, start);
            let done = done(&begun);
            assert!(done.is_well_formed());
            let told = between(&begun, &done, None).expect("news");
            assert_eq!(
                (told.code, told.message.as_str()),
                (EventCode::RingChanged, end)
            );
            let back = steps::reverted(&begun, begun.transition.as_ref().expect("a change"));
            assert_eq!((&back.members, &back.table), (&old.members, &old.table));
            let told = between(&begun, &back, None).expect("news");
            assert_eq!(told.code, EventCode::RingChangeAborted);
            assert!(told.message.contains(off), "{}", told.message);
        }
    }

    #[test]
    fn a_join_is_told_from_begin_to_end() {
        let old = topology(3, &["n1", "n2", "n3"]);
        let filling = filling(&old, "n4");
        let started = between(&old, &filling, None).expect("news");
        assert_eq!(started.code, EventCode::RingChangeStarted);
        assert_eq!(
            started.message,
            "epoch 4: n4 joins, 12 partitions are being handed over"
        );

        let mut dual = filling.clone();
        dual.epoch += 1;
        dual.transition.as_mut().expect("a change").step = Step::Dual;
        assert_eq!(between(&filling, &dual, None), None);

        let mut done = dual.clone();
        done.epoch += 1;
        done.table = done.transition.take().expect("a change").target;
        let took = Some(Duration::from_millis(840));
        let want = News {
            code: EventCode::RingChanged,
            subject: Some(id("n4")),
            message: "epoch 6: n4 joined, 12 partitions moved in 0.8 s".into(),
        };
        assert_eq!(between(&dual, &done, took), Some(want.clone()));
        assert_eq!(
            between(&old, &done, took),
            Some(want),
            "steps may be missed"
        );

        let mut back = old.clone();
        back.epoch = 6;
        let aborted = between(&dual, &back, None).expect("news");
        assert_eq!(aborted.code, EventCode::RingChangeAborted);
        assert!(
            aborted.message.contains("the join of n4 was called off"),
            "{}",
            aborted.message
        );
    }

    #[test]
    fn a_new_address_is_told() {
        let old = topology(3, &["n1", "n2"]);
        let mut next = old.clone();
        next.epoch = 4;
        next.members[1].address = "elsewhere:1".into();
        let told = between(&old, &next, None).expect("news");
        assert_eq!(told.message, "epoch 4: n2 is at a new address");
        next.members[0].zone = "east".into();
        let told = between(&old, &next, None).expect("news");
        assert!(
            told.message
                .starts_with("epoch 4: n2 is at a new address, n1 is in another zone;"),
            "{}",
            told.message
        );
    }

    #[test]
    fn names_are_listed_as_people_do() {
        let ids = ["a", "b", "c"].map(id);
        assert_eq!(sentence(&ids[..1], "joins", "join"), "a joins");
        assert_eq!(sentence(&ids[..2], "joins", "join"), "a and b join");
        assert_eq!(sentence(&ids, "joins", "join"), "a, b and c join");
    }
}
