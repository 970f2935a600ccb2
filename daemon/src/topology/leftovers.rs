//! Which partitions a node must forget its leftovers of before it enters a topology.
//!
//! What a node still holds of a partition it gave up may have been deleted meanwhile, and the
//! tombstone forgotten, for it was no longer asked. So when it gains the partition again it starts
//! from nothing, also when it was away and never heard that it had given the partition up.
//!
//! And which it should have the data of and has not: a member that lost its folder may have been
//! let in by a node that goes by an older ring, which does not name it. Pure.

use ringmaster_shared::{
    id::{Epoch, NodeId, PartitionId},
    topology::{Step, Topology},
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
    if mine.is_none() && next.epoch == 1 {
        return Vec::new(); // who founds a cluster gains nothing from anybody
    }
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

/// The partitions that `me` holds in force in `next`, or is read for in its second step, and neither
/// held in force by `mine` nor filled in the change that `mine` is in: an earlier life did, and its
/// data is gone. `filled`: the last epoch whose gains this node had all of, in this folder.
///
/// Nobody else gets here. The second step follows only after each replica that gains settled the
/// first and was filled, so whoever is read for what it gained went by the change itself before, and
/// filled it. Who goes by no ring yet founds one, or was told by the ring it enters what it lost
/// (`node::entry`). To have gone by the change is not enough: whoever is let in by a ring from before
/// the change that took its earlier life in may hear of that change late, when the others are past it
/// and it can no longer be filled, or when they count it as filled because the earlier life said so.
pub(super) fn never_filled(
    mine: Option<&Topology>,
    next: &Topology,
    me: &NodeId,
    filled: Epoch,
) -> Vec<PartitionId> {
    let Some(mine) = mine else {
        return Vec::new();
    };
    // the second step follows the first at once
    let began = mine.transition.as_ref().map(|t| match t.step {
        Step::Filling => mine.epoch,
        Step::Dual => mine.epoch.saturating_sub(1),
    });
    let filled_it = began.is_some_and(|began| filled >= began);
    let by_right = |p: PartitionId| {
        mine.replicas(p).contains(me)
            || (filled_it && mine.target_replicas(p).is_some_and(|t| t.contains(me)))
    };
    let is_dual = next.transition.as_ref().map(|t| t.step) == Some(Step::Dual);
    let is_read = |p: PartitionId| {
        let gains = || next.target_replicas(p).is_some_and(|t| t.contains(me));
        next.replicas(p).contains(me) || (is_dual && gains())
    };
    (0..next.partition_count())
        .filter(|p| is_read(*p) && !by_right(*p))
        .collect()
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::{
        id::ClusterId,
        topology::{ChangeKind, RingMember, Transition},
    };

    use super::*;

    /// Epoch, replicas, and the change under way.
    type State<'a> = (Epoch, &'a [u16], Option<(Step, &'a [u16])>);

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
        // what d goes by, what it is to enter, whether it starts from nothing
        let cases: [(Option<State<'_>>, State<'_>, bool); 15] = [
            (None, (5, without, Some((Filling, with))), true),
            (None, (1, with, None), false),
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
            // its first step is decided anew
            (
                Some((5, without, Some((Filling, with)))),
                (6, without, Some((Filling, with))),
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
    /// Every way into a ring; only who lost its folder gets back what it never filled.
    #[test]
    fn only_who_lost_its_folder_holds_in_force_what_it_never_filled() {
        use Step::{Dual, Filling};
        let with = &[0, 1, 3][..];
        let without = &[0, 1, 2][..];
        let cases: [(&str, Option<State<'_>>, Epoch, State<'_>, bool); 22] = [
            ("founds", None, 0, (1, with, None), false),
            ("is told as it enters", None, 0, (5, with, None), false),
            (
                "joins",
                Some((4, without, None)),
                0,
                (5, without, Some((Filling, with))),
                false,
            ),
            (
                "joins and missed epochs",
                Some((1, without, None)),
                0,
                (6, without, Some((Filling, with))),
                false,
            ),
            (
                "joins again after a change that was given up",
                Some((5, without, Some((Filling, with)))),
                5,
                (7, without, Some((Filling, with))),
                false,
            ),
            (
                "filled, and goes on",
                Some((5, without, Some((Filling, with)))),
                5,
                (6, without, Some((Dual, with))),
                false,
            ),
            (
                "filled, missed the first step of the next change",
                Some((6, without, Some((Dual, with)))),
                5,
                (9, with, Some((Dual, without))),
                false,
            ),
            (
                "filled, missed the second step",
                Some((5, without, Some((Filling, with)))),
                5,
                (7, with, None),
                false,
            ),
            (
                "filled, was away for long",
                Some((5, without, Some((Filling, with)))),
                5,
                (19, with, None),
                false,
            ),
            (
                "filled",
                Some((6, without, Some((Dual, with)))),
                5,
                (7, with, None),
                false,
            ),
            (
                "the change is given up",
                Some((5, without, Some((Filling, with)))),
                0,
                (6, without, None),
                false,
            ),
            (
                "was away, and stays",
                Some((2, with, None)),
                0,
                (9, with, None),
                false,
            ),
            (
                "leaves",
                Some((2, with, None)),
                0,
                (3, with, Some((Filling, without))),
                false,
            ),
            (
                "stays after all",
                Some((3, with, Some((Dual, without)))),
                0,
                (4, with, None),
                false,
            ),
            (
                "lost its folder, let in by one who lagged",
                Some((4, without, None)),
                0,
                (7, with, None),
                true,
            ),
            (
                "the same, as it is to leave",
                Some((4, without, None)),
                0,
                (9, with, Some((Dual, without))),
                true,
            ),
            (
                "the same, and heard of the change that took its earlier life in when that was done",
                Some((5, without, Some((Filling, with)))),
                0,
                (7, with, None),
                true,
            ),
            (
                "the same, and heard of its second step first",
                Some((6, without, Some((Dual, with)))),
                0,
                (7, with, None),
                true,
            ),
            (
                "the same, and had filled an earlier change",
                Some((6, without, Some((Dual, with)))),
                4,
                (7, with, None),
                true,
            ),
            (
                "the same, before the change is done",
                Some((5, without, Some((Filling, with)))),
                0,
                (6, without, Some((Dual, with))),
                true,
            ),
            (
                "the same, and hears of the second step alone",
                Some((4, without, None)),
                0,
                (6, without, Some((Dual, with))),
                true,
            ),
            (
                "the same, let in at a change that was given up",
                Some((4, without, Some((Filling, &[0, 2, 1])))),
                0,
                (9, with, None),
                true,
            ),
        ];
        let d = NodeId::new("d").expect("valid");
        for (who, mine, filled, next, lost) in cases {
            let mine = mine.map(|(epoch, row, step)| topology(epoch, row, step));
            let next = topology(next.0, next.1, next.2);
            let missing = never_filled(mine.as_ref(), &next, &d, filled);
            assert_eq!(!missing.is_empty(), lost, "{who}");
        }
    }
}
