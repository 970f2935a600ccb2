//! Who has not all of its data: known of a node that goes down in the middle of getting it back only
//! by what it said before, for then it says no more than that it drains.

use std::collections::BTreeSet;

use ringmaster_shared::{
    id::{Generation, NodeId},
    member::Lifecycle,
};

use crate::gossip::MemberView;

/// Lives last seen without all of their data.
#[derive(Debug, Default)]
pub struct Unfilled(BTreeSet<(NodeId, Generation)>);

impl Unfilled {
    /// Those of these who have not all of their data, whether they are up or not.
    pub fn look(&mut self, members: &[MemberView]) -> BTreeSet<NodeId> {
        let life = |m: &MemberView| (m.state.id.clone(), m.state.generation);
        let unfilled = members.iter().filter(|m| match m.state.lifecycle {
            Lifecycle::Recovering => true,
            Lifecycle::Draining => self.0.contains(&life(m)),
            _ => false,
        });
        self.0 = unfilled.map(life).collect();
        self.0.iter().map(|(id, _)| id.clone()).collect()
    }
}
