//! Which partitions a node must forget its leftovers of before it enters a topology.
//!
//! What a node still holds of a partition it gave up may have been deleted meanwhile, and the
//! tombstone forgotten, for it was no longer asked. So when it gains the partition again it starts
//! from nothing, also when it was away and never heard that it had given the partition up. Pure.

use ringmaster_shared::{
    id::{NodeId, PartitionId},
    topology::Topology,
};

/// The partitions that `me` is to hold in `next` and does not hold by right in `mine`, the
/// topology it goes by until now.
///
/// It holds by right what it held before and holds in force in `next`: a replica comes into force
/// only after it settled and filled the change that made it one, so it has missed none. What it
/// is only to gain in `next` it holds by right when that is the change `mine` is in already.
pub(super) fn gained_anew(
    mine: Option<&Topology>,
    next: &Topology,
    me: &NodeId,
) -> Vec<PartitionId> {
    let held = |p: PartitionId| mine.is_some_and(|t| t.is_replica(p, me));
    let same_change = |p: PartitionId| {
        mine.is_some_and(|t| {
            t.epoch + 1 == next.epoch && t.target_replicas(p) == next.target_replicas(p)
        })
    };
    (0..next.partition_count())
        .filter(|p| next.is_replica(*p, me))
        .filter(|p| {
            let in_force = next.replicas(*p).contains(me);
            !(held(*p) && (in_force || same_change(*p)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::{
        id::{ClusterId, Epoch},
        topology::{ChangeKind, RingMember, Step, Transition},
    };

    use super::*;

    /// One partition with these replicas (members `a` to `d`), and those it moves to.
    fn topology(epoch: Epoch, row: &[u16], step: Option<(Step, &[u16])>) -> Topology {
        let member = |name: &str| RingMember {
            id: NodeId::new(name).expect("valid"),
            address: format!("{name}:1"),
            zone: "default".into(),
        };
        Topology {
            cluster_id: ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid"),
            epoch,
            replication_factor: 3,
            members: ["a", "b", "c", "d"].map(member).to_vec(),
            table: vec![row.to_vec()],
            transition: step.map(|(step, target)| Transition {
                kind: ChangeKind::Rebalance,
                step,
                joining: vec![],
                leaving: vec![],
                target: vec![target.to_vec()],
            }),
        }
    }

    #[test]
    fn who_left_and_comes_back_starts_from_nothing() {
        use Step::{Dual, Filling};
        let with = &[0, 1, 3][..];
        let without = &[0, 1, 2][..];
        type State<'a> = (Epoch, &'a [u16], Option<(Step, &'a [u16])>);
        // what d goes by, what it is to enter, whether it starts from nothing
        let cases: [(Option<State<'_>>, State<'_>, bool); 14] = [
            (None, (5, without, Some((Filling, with))), true),
            (None, (1, with, None), true),
            (
                Some((4, without, None)),
                (5, without, Some((Filling, with))),
                true,
            ),
            (
                Some((1, without, None)),
                (5, without, Some((Filling, with))),
                true,
            ),
            // the change goes on, or ends
            (
                Some((5, without, Some((Filling, with)))),
                (6, without, Some((Dual, with))),
                false,
            ),
            (
                Some((6, without, Some((Dual, with)))),
                (7, with, None),
                false,
            ),
            (
                Some((5, without, Some((Filling, with)))),
                (7, with, None),
                false,
            ),
            // it had held it, left without knowing, and gains it again
            (
                Some((2, with, None)),
                (9, without, Some((Filling, with))),
                true,
            ),
            (
                Some((2, with, None)),
                (9, without, Some((Dual, with))),
                true,
            ),
            // it is leaving, or stays; it never stopped holding it
            (
                Some((2, with, None)),
                (3, with, Some((Filling, without))),
                false,
            ),
            (
                Some((2, with, None)),
                (9, with, Some((Dual, without))),
                false,
            ),
            (Some((2, with, None)), (9, with, None), false),
            // a change was given up, and another began meanwhile
            (
                Some((5, without, Some((Filling, with)))),
                (7, without, Some((Filling, with))),
                true,
            ),
            // it gave the partition up: nothing to forget before, others may still read
            (Some((2, with, None)), (9, without, None), false),
        ];
        let d = NodeId::new("d").expect("valid");
        for (n, (mine, next, anew)) in cases.into_iter().enumerate() {
            let mine = mine.map(|(epoch, row, step)| topology(epoch, row, step));
            let next = topology(next.0, next.1, next.2);
            let gained = gained_anew(mine.as_ref(), &next, &d);
            assert_eq!(!gained.is_empty(), anew, "case {n}");
        }
    }
}
