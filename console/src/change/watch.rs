//! How far a change of the ring has come: judged from nothing but the ring itself.
//!
//! Pure. A change that was decided is done when the ring is what it was to become, and given up
//! when the ring has gone on without it; which of the two is told by the members, and where the
//! members stay the same, by the table.

use ringmaster_shared::{
    api::ring::{Change, PlanResponse, RingNode, RingResponse},
    id::{Epoch, NodeId},
    topology::{ChangeKind, Step, Table},
};

/// Epochs from the one that begins a change to the one that ends it: filling, dual, done.
const EPOCHS_TO_THE_END: Epoch = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The node that was asked has not learned the epoch yet.
    Unheard,
    Moving {
        step: Step,
        /// Partitions whose replicas change.
        moving: usize,
    },
    Done,
    /// The ring went on without it.
    GivenUp,
}

/// Replicas of each partition by name, so that tables with other members compare.
type Named = Vec<Vec<NodeId>>;

/// One change that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    change: Change,
    /// The epoch that began it.
    epoch: Epoch,
    /// Where the table was going, once that is known.
    target: Option<Named>,
}

impl Watch {
    pub fn new(change: Change, epoch: Epoch) -> Self {
        Self {
            change,
            epoch,
            target: None,
        }
    }

    /// With the table of the plan that was applied.
    #[must_use]
    pub fn planned(mut self, plan: &PlanResponse) -> Self {
        self.target = Some(named(&plan.members, &plan.target));
        self
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn change(&self) -> &Change {
        &self.change
    }

    /// Judges a ring; remembers where it was going.
    pub fn look(&mut self, ring: &RingResponse) -> Standing {
        if ring.epoch < self.epoch {
            return Standing::Unheard;
        }
        if let Some(moving) = self.moving(ring) {
            return moving;
        }
        if self.is_done(ring) {
            Standing::Done
        } else {
            Standing::GivenUp
        }
    }

    /// While it is under way in this ring.
    fn moving(&mut self, ring: &RingResponse) -> Option<Standing> {
        let t = ring.transition.as_ref()?;
        let mine = match &self.change {
            Change::Join { nodes } => nodes.iter().any(|n| t.joining.contains(n)),
            Change::Leave { node } | Change::Remove { node } => t.leaving.contains(node),
            Change::Replace { dead, with } => t.leaving.contains(dead) || t.joining.contains(with),
            Change::Rebalance {} => t.kind == ChangeKind::Rebalance,
            // undone is a change as soon as another epoch stands
            Change::Cancel {} => ring.epoch == self.epoch,
        };
        if !mine {
            return None;
        }
        if !t.target.is_empty() && self.target.is_none() {
            let ids: Vec<NodeId> = ring.nodes.iter().map(|n| n.id.clone()).collect();
            self.target = Some(named(&ids, &t.target));
        }
        Some(Standing::Moving {
            step: t.step,
            moving: t.moving,
        })
    }

    fn is_done(&self, ring: &RingResponse) -> bool {
        let settled = |id: &NodeId| ring.nodes.iter().any(|n| &n.id == id && !n.joining);
        let gone = |id: &NodeId| !ring.nodes.iter().any(|n| &n.id == id);
        match &self.change {
            Change::Join { nodes } => nodes.iter().all(settled),
            Change::Leave { node } | Change::Remove { node } => gone(node),
            Change::Replace { dead, with } => gone(dead) && settled(with),
            Change::Rebalance {} => self.is_balanced(ring),
            Change::Cancel {} => true,
        }
    }

    /// The members tell nothing here: the table does, or else the number of epochs.
    fn is_balanced(&self, ring: &RingResponse) -> bool {
        match &self.target {
            Some(target) if !ring.table.is_empty() => {
                let ids: Vec<NodeId> = ring.nodes.iter().map(id_of).collect();
                &named(&ids, &ring.table) == target
            }
            _ => ring.epoch >= self.epoch + EPOCHS_TO_THE_END,
        }
    }
}

fn id_of(node: &RingNode) -> NodeId {
    node.id.clone()
}

fn named(members: &[NodeId], table: &Table) -> Named {
    let name = |i: &u16| members.get(usize::from(*i)).cloned();
    let row = |row: &Vec<u16>| row.iter().filter_map(name).collect();
    table.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::{
        api::ring::ring_response,
        topology::{Topology, Transition},
    };

    use super::*;
    use crate::fixture::{id, topology};

    fn begun(kind: ChangeKind, joining: &[&str], leaving: &[&str]) -> Topology {
        let mut t = topology(4);
        let target = t.table.iter().map(|r| vec![r[1], r[0], r[2]]).collect();
        t.transition = Some(Transition {
            kind,
            step: Step::Filling,
            joining: joining.iter().map(|n| id(n)).collect(),
            leaving: leaving.iter().map(|n| id(n)).collect(),
            target,
        });
        t
    }

    fn without(t: &Topology, node: &str) -> Topology {
        let mut t = t.clone();
        let at = t.members.iter().position(|m| m.id == id(node));
        let at = at.expect("a member") as u16;
        t.members.remove(usize::from(at));
        for row in &mut t.table {
            row.retain(|i| *i != at);
            for i in row.iter_mut() {
                *i -= u16::from(*i > at);
            }
        }
        t
    }

    /// Filling, dual, then either end.
    fn walk(change: &Change, begun: &Topology, done: &Topology, back: &Topology) {
        let look = |watch: &mut Watch, t: &Topology| watch.look(&ring_response(t));
        let mut watch = Watch::new(change.clone(), begun.epoch);
        let mut early = begun.clone();
        early.epoch -= 1;
        assert_eq!(look(&mut watch, &early), Standing::Unheard);
        let moving = Standing::Moving {
            step: Step::Filling,
            moving: 256,
        };
        assert_eq!(look(&mut watch, begun), moving, "{change:?}");
        let mut dual = begun.clone();
        dual.epoch += 1;
        dual.transition.as_mut().expect("under way").step = Step::Dual;
        let moving = Standing::Moving {
            step: Step::Dual,
            moving: 256,
        };
        assert_eq!(look(&mut watch, &dual), moving, "{change:?}");
        let mut at = |t: &Topology| {
            let mut t = t.clone();
            t.epoch = dual.epoch + 1;
            t.transition = None;
            look(&mut watch, &t)
        };
        assert_eq!(at(done), Standing::Done, "{change:?}");
        assert_eq!(at(back), Standing::GivenUp, "{change:?}");
    }

    #[test]
    fn each_change_ends_as_done_or_given_up() {
        let (node, dead, with) = (id("node-4"), id("node-3"), id("node-4"));
        let join = begun(ChangeKind::Join, &["node-4"], &[]);
        let change = Change::Join {
            nodes: vec![node.clone()],
        };
        walk(&change, &join, &join, &without(&join, "node-4"));

        let leave = begun(ChangeKind::Leave, &[], &["node-4"]);
        let change = Change::Leave { node: node.clone() };
        walk(&change, &leave, &without(&leave, "node-4"), &leave);

        let remove = begun(ChangeKind::Remove, &[], &["node-4"]);
        let change = Change::Remove { node };
        walk(&change, &remove, &without(&remove, "node-4"), &remove);

        let replace = begun(ChangeKind::Replace, &["node-4"], &["node-3"]);
        let change = Change::Replace { dead, with };
        walk(
            &change,
            &replace,
            &without(&replace, "node-3"),
            &without(&replace, "node-4"),
        );

        let old = begun(ChangeKind::Rebalance, &[], &[]);
        let mut new = old.clone();
        new.table = old.transition.clone().expect("under way").target;
        walk(&Change::Rebalance {}, &old, &new, &old);
    }

    #[test]
    fn a_change_of_others_afterwards_does_not_confuse() {
        let mut watch = Watch::new(
            Change::Join {
                nodes: vec![id("node-3")],
            },
            5,
        );
        // node-3 is in, and somebody takes in node-4 already
        let next = begun(ChangeKind::Join, &["node-4"], &[]);
        assert_eq!(watch.look(&ring_response(&next)), Standing::Done);
    }

    #[test]
    fn a_cancel_is_done_when_nothing_moves() {
        let mut watch = Watch::new(Change::Cancel {}, 5);
        assert_eq!(watch.look(&ring_response(&topology(3))), Standing::Done);
    }
}
