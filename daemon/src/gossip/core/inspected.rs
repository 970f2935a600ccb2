//! What tests may look at that the engine itself has no use for, and starts it does not have.

use std::sync::Arc;

use rand::Rng;
use ringmaster_shared::id::NodeId;

use super::{Core, Greeting};
use crate::gossip::{MemberState, claim::Now, dissemination::Dissemination};

/// Lengths of everything that could grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depths {
    pub members: usize,
    pub rumors: usize,
    pub probes: usize,
    pub relays: usize,
    pub rotation: usize,
    /// Not a length: the probes made out of turn until now.
    pub probed_again: u64,
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
            probed_again: self.probed_again,
        }
    }

    /// Takes part in a cluster that has long been formed: knows everybody, has no news, and
    /// exchanges lists at its usual pace.
    pub fn form(&mut self, now: Now, states: &[Arc<MemberState>]) {
        self.members.reserve(states.len());
        self.rotation.reserve_exact(states.len());
        let me = self.local.id.clone();
        for state in states.iter().filter(|s| s.id != me) {
            self.members.put(Arc::clone(state), now, None);
            self.put_into_rotation(&state.id);
        }
        self.rumors = Dissemination::default();
        self.introduced = true;
        self.greeting = Greeting::Done;
        self.exchange_gap_ms = u64::MAX / 8;
        let interval = self.exchange_interval_ms();
        self.due.exchange = now.ms + self.rng.random_range(0..interval);
    }
}
