//! What a person is told when this node goes over to a later epoch. Pure.

use std::{collections::BTreeSet, time::Duration};

use ringmaster_shared::{
    event::EventCode,
    id::NodeId,
    topology::{Step, Topology},
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
    let joined: Vec<NodeId> = difference(settled(next), &settled(before));
    let left: Vec<NodeId> = difference(settled(before), &settled(next));
    let took = took.map_or_else(String::new, |t| format!(" in {:.1} s", t.as_secs_f64()));
    if let Some(change) = &next.transition {
        let was_filling = before.transition.as_ref().map(|t| t.step);
        if change.step == Step::Dual || was_filling.is_some() {
            return None;
        }
        let message = format!(
            "epoch {}: {}, {} are being handed over",
            next.epoch,
            sentence(&change.joining, "joins", "join"),
            partitions(moving(next)),
        );
        return Some(news(EventCode::RingChangeStarted, &change.joining, message));
    }
    let gave_up: Vec<NodeId> = before
        .transition
        .iter()
        .flat_map(|t| t.joining.clone())
        .filter(|id| !next.contains(id))
        .collect();
    if !gave_up.is_empty() {
        let message = format!(
            "epoch {}: the change was given up because {} down too long, the ring is as before; \
             a node that comes back joins by itself",
            next.epoch,
            sentence(&gave_up, "was", "were"),
        );
        return Some(news(EventCode::RingChangeAborted, &gave_up, message));
    }
    if joined.is_empty() && left.is_empty() {
        let moved = changed_address(before, next);
        let message = match moved.as_slice() {
            [] => format!(
                "epoch {}: {} moved",
                next.epoch,
                partitions(moved_between(before, next))
            ),
            some => format!(
                "epoch {}: {} at a new address",
                next.epoch,
                sentence(some, "is", "are")
            ),
        };
        return Some(news(EventCode::RingChanged, &moved, message));
    }
    let who: Vec<String> = [(&joined, "joined"), (&left, "left")]
        .into_iter()
        .filter(|(ids, _)| !ids.is_empty())
        .map(|(ids, verb)| sentence(ids, verb, verb))
        .collect();
    let message = format!(
        "epoch {}: {}, {} moved{took}",
        next.epoch,
        who.join(", "),
        partitions(moved_between(before, next)),
    );
    let subjects: Vec<NodeId> = joined.into_iter().chain(left).collect();
    Some(news(EventCode::RingChanged, &subjects, message))
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

fn changed_address(before: &Topology, next: &Topology) -> Vec<NodeId> {
    let members = next.members.iter();
    members
        .filter(|m| before.member(&m.id).is_some_and(|b| b.address != m.address))
        .map(|m| m.id.clone())
        .collect()
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
    let names: Vec<&str> = ids.iter().map(NodeId::as_str).collect();
    match names.as_slice() {
        [] => format!("nobody {one}"),
        [name] => format!("{name} {one}"),
        [rest @ .., last] => format!("{} and {last} {many}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::{placement, topology::Transition};

    use super::*;
    use crate::topology::fixture::{id, member, topology};

    fn filling(from: &Topology, joiner: &str) -> Topology {
        let mut wanted = from.members.clone();
        wanted.push(member(joiner));
        let placement = placement::plan(from, &wanted);
        Topology {
            epoch: from.epoch + 1,
            members: placement.members,
            table: placement.current,
            transition: Some(Transition {
                step: Step::Filling,
                kind: ringmaster_shared::topology::ChangeKind::Join,
                leaving: vec![],
                joining: vec![id(joiner)],
                target: placement.target,
            }),
            ..from.clone()
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
            aborted.message.contains("n4 was down too long"),
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
    }

    #[test]
    fn names_are_listed_as_people_do() {
        let ids = ["a", "b", "c"].map(id);
        assert_eq!(sentence(&ids[..1], "joins", "join"), "a joins");
        assert_eq!(sentence(&ids[..2], "joins", "join"), "a and b join");
        assert_eq!(sentence(&ids, "joins", "join"), "a, b and c join");
    }
}
