//! What is so, and whether everybody knows it.

use ringmaster_shared::member::{DigestEntry, MemberStatus, membership_digest};

use super::{
    names::{self, Who},
    nodes::Condition,
    world::World,
};
use crate::gossip::{MemberState, reconcile};

/// Any will do.
const SALT: u64 = 7;

impl World {
    /// Whether what is held of a node is right. A life that crashed unheard of leaves what was
    /// known before, and a farewell that nobody could hear leaves a death.
    fn is_true(&self, about: Who, held: Option<&MemberState>) -> bool {
        use MemberStatus::{Alive, Dead, Left, Stopped};
        let node = &self.nodes[about];
        let Some(held) = held else {
            // down since before any of those running now could hear of it; whether they agree
            // on that is for the digest
            return node.condition.is_down();
        };
        let this_life = held.generation == node.generation;
        match node.condition {
            Condition::Up => {
                let right_place = *held.address == names::address(node.place);
                held.status == Alive && this_life && right_place
            }
            // left, if an operator said so
            Condition::Crashed if this_life => matches!(held.status, Dead | Left),
            // an earlier life may have ended in any way
            Condition::Crashed | Condition::Stopped | Condition::Left => {
                matches!(held.status, Dead | Stopped | Left)
            }
        }
    }

    /// Who holds something untrue, or something other than the rest of its cluster: by the digest
    /// that people compare, and by the one that exchanges begin with.
    pub fn disagreement(&self) -> Option<String> {
        let mut agreed: [Option<String>; 8] = Default::default();
        for (n, node) in self.nodes.iter().enumerate() {
            if node.condition != Condition::Up {
                continue;
            }
            for (m, other) in self.nodes.iter().enumerate() {
                if other.cluster != node.cluster {
                    continue;
                }
                let held = if m == n {
                    Some(node.core.local())
                } else {
                    node.core.held(&other.id)
                };
                if !self.is_true(m, held) {
                    return Some(format!(
                        "{} is {:?}, generation {}, at {}; {} holds {held:?}",
                        other.id, other.condition, other.generation, other.place, node.id
                    ));
                }
            }
            let digest = self.digest_of(n);
            let sum = reconcile::sum_of_list(SALT, &node.core.states());
            let digest = format!("{digest} {sum:x}");
            let first = &mut agreed[usize::from(node.cluster)];
            if *first.get_or_insert_with(|| digest.clone()) != digest {
                return Some(format!("the digest of {} differs from the first", node.id));
            }
        }
        None
    }

    pub fn digest_of(&self, who: Who) -> String {
        let core = &self.nodes[who].core;
        let states = std::iter::once(core.local()).chain(core.all_held());
        membership_digest(states.map(|s| DigestEntry {
            id: &s.id,
            address: &s.address,
            generation: s.generation,
            status: s.status,
        }))
    }

    /// Whether all that are up in the first cluster hold this of a node.
    pub fn all_hold(&self, about: Who, status: MemberStatus) -> bool {
        let id = &self.nodes[about].id;
        self.who_is_up()
            .into_iter()
            .filter(|n| *n != about)
            .all(|n| {
                let held = self.nodes[n].core.held(id);
                held.is_some_and(|s| s.status == status)
            })
    }

    /// Whether everybody up holds everybody up alive, in the first cluster. Costs nothing.
    pub fn all_are_right(&self) -> bool {
        let up = |cluster: u8| {
            let is_up =
                |n: &&super::nodes::Node| n.condition == Condition::Up && n.cluster == cluster;
            self.nodes.iter().filter(is_up).count()
        };
        let pairs: usize = (0..8).map(|c| up(c) * up(c).saturating_sub(1)).sum();
        self.right_pairs == pairs
    }

    /// Runs until nobody disagrees; returns how long that took.
    pub fn settle(&mut self, within_ms: u64) -> u64 {
        let start = self.now;
        while self.now < start + within_ms && self.violation.is_none() {
            if self.all_are_right() && self.disagreement().is_none() {
                return self.now - start;
            }
            self.run_for(100);
        }
        if let Some(what) = self.disagreement() {
            self.no_convergence(&format!("no agreement after {within_ms} ms: {what}"));
        }
        within_ms
    }
}
