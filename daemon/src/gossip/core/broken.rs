//! Rules that a test can have a core break on purpose, to see the simulator's checkers bite.
//! Outside of tests nothing is ever broken.

use std::sync::Arc;

#[cfg(test)]
use ringmaster_shared::member::MemberStatus;

use super::Core;
use crate::gossip::MemberState;

/// What a broken core does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))] // made by tests alone
pub enum Broken {
    /// Believes every claim, however old.
    BelievesAnything,
    /// Accuses others of an incarnation they never had.
    InventsIncarnations,
    /// Lets accusations against itself stand.
    NeverRefutes,
    /// Believes the accusations against itself.
    BelievesItsAccusers,
    /// Probes the same member again and again.
    ProbesOne,
    /// Gives suspected members no time.
    IsHasty,
    /// Fills its packets beyond the budget.
    OverfillsPackets,
    /// Never tries again who is gone, nor any address it was given.
    ForgetsTheGone,
    /// Takes the dead off its list, as if they had left long ago.
    ReapsTheDead,
    /// Leaves the status out of what it compares in an exchange.
    ComparesWithoutStatus,
    /// Forgets one of the ranges that differ when it answers in an exchange.
    DropsARange,
}

impl Core {
    #[cfg(test)]
    pub fn break_rule(&mut self, broken: Broken) {
        self.broken = Some(broken);
        match broken {
            Broken::IsHasty => self.config.suspicion_mult = 1,
            Broken::OverfillsPackets => self.config.packet_bytes_max *= 3,
            Broken::ForgetsTheGone => self.due.reconnect = u64::MAX,
            _ => {}
        }
    }

    #[cfg(test)]
    pub(super) fn breaks(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// A probe begins, out of turn or not: rules for tests allow for those.
    #[cfg(test)]
    pub(super) fn count_again(&mut self, again: bool) {
        self.probed_again += u64::from(again);
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)] // the same call as in tests
    pub(super) const fn count_again(&self, _: bool) {}

    /// The list as a core that leaves the status out compares it.
    #[cfg(test)]
    pub(super) fn compared(&self) -> Vec<Arc<MemberState>> {
        let mut list = self.states();
        if self.breaks(Broken::ComparesWithoutStatus) {
            for state in &mut list {
                Arc::make_mut(state).status = MemberStatus::Alive;
            }
        }
        list
    }

    #[cfg(not(test))]
    pub(super) fn compared(&self) -> Vec<Arc<MemberState>> {
        self.states()
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)] // the same call as in tests
    pub(super) const fn breaks(&self, _: Broken) -> bool {
        false
    }
}
