//! What tests may look at that the engine itself has no use for, and starts it does not have.

use ringmaster_shared::id::NodeId;

use super::Core;
use crate::gossip::MemberState;

/// Lengths of everything that could grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depths {
    pub members: usize,
    pub rumors: usize,
    pub probes: usize,
    pub relays: usize,
    pub rotation: usize,
}

impl Core {
    pub fn local(&self) -> &MemberState {
        &self.local
    }

    /// What is held of another member.
    pub fn held(&self, id: &NodeId) -> Option<&MemberState> {
        self.members.get(id).map(|m| &*m.state)
    }

    /// What is held of all others.
    pub fn all_held(&self) -> impl Iterator<Item = &MemberState> {
        self.members.iter().map(|m| &*m.state)
    }

    pub fn depths(&self) -> Depths {
        Depths {
            members: self.members.len(),
            rumors: self.rumors.len(),
            probes: self.probes.len(),
            relays: self.relays.len(),
            rotation: self.rotation.len(),
        }
    }
}
