//! News where UDP does not get through: lists are exchanged over TCP, soon and at a bounded rate.
//!
//! A node that nobody answers over UDP exchanges with somebody in every probe interval (a few, in
//! a large cluster). Whoever holds news that a member with blocked UDP lacks does the same with
//! it, by chance so weighed that such a member is not called by everybody at once: where it is one
//! of many, about [`CALLS`] calls reach it in an interval, and each node makes one at most.

use rand::{Rng, seq::IteratorRandom};
use ringmaster_shared::id::NodeId;

use super::{Core, Happening, next_due, udp::Finding};
use crate::gossip::claim::Now;

/// Calls that reach a member with blocked UDP in an interval, if there is news, as expected.
const CALLS: u32 = 2;

impl Core {
    /// Whether there may be anything to do for want of UDP.
    pub(super) fn is_to_catch_up(&self) -> bool {
        !self.udp.is_empty()
    }

    pub(super) fn catch_up_when_due(&mut self, now: Now) {
        if now.ms < self.due.catch_up || !self.is_to_catch_up() {
            return;
        }
        self.due.catch_up = next_due(self.due.catch_up, self.catch_up_interval_ms(), now);
        if self.udp.is_deaf(self.members.reachable_count()) {
            self.exchange_with_members(1);
        } else if let Some(id) = self.pick_cut_off() {
            self.exchange_with_member(&id);
        }
    }

    /// A probe interval; grows with the logarithm of the cluster as that of exchanges does.
    fn catch_up_interval_ms(&self) -> u64 {
        self.probe_interval_ms().saturating_mul(self.list_scale())
    }

    /// A member that this node's gossip does not reach and that lacks some of its news, if it is
    /// this node's turn to tell it.
    fn pick_cut_off(&mut self) -> Option<NodeId> {
        let of = |id: &&NodeId| {
            let member = self.members.get(id);
            member.is_some_and(|m| m.udp_blocked() && m.state.status.is_reachable())
        };
        let blocked: Vec<&NodeId> = self.udp.blocked().filter(of).collect();
        let reachable = u32::try_from(self.members.reachable_count()).unwrap_or(u32::MAX);
        let calls = CALLS.saturating_mul(u32::try_from(blocked.len()).unwrap_or(u32::MAX));
        if calls == 0
            || !self
                .rng
                .random_ratio(calls.min(reachable.max(1)), reachable.max(1))
        {
            return None;
        }
        let lacking = blocked.into_iter();
        let lacking = lacking.filter(|id| self.udp.lacks(id, self.revision));
        lacking.choose(&mut self.rng).cloned()
    }

    /// `with` holds what this node held when the exchange of lists began, and the other way round.
    pub fn lists_exchanged(&mut self, with: &NodeId) {
        self.udp.exchanged(with, self.revision);
        self.knows_whom_to_greet();
    }

    /// A probe was answered by TCP alone.
    pub(super) fn found_only_tcp(&mut self, id: &NodeId, began_ms: u64, lost: u32) {
        let others = self.members.reachable_count();
        let found = self.udp.only_tcp(id, began_ms, lost, others);
        self.probe_again = self.udp.is_to_be_probed_again(id).then(|| id.clone());
        self.note_udp_of(id);
        self.tell_findings(found);
    }

    /// A probe was answered over UDP.
    pub(super) fn found_udp(&mut self, now: Now, id: &NodeId) {
        let others = self.members.reachable_count();
        let had_own = self.udp.own_is_blocked();
        let found = self.udp.answered(now.ms, id, others);
        self.note_udp_of(id);
        if had_own {
            let ids: Vec<NodeId> = self
                .members
                .reachable()
                .map(|m| m.state.id.clone())
                .collect();
            for id in ids {
                self.note_udp_of(&id);
            }
        }
        self.tell_findings(found);
    }

    /// Another life of it, or it is down: nothing is held against it.
    pub(super) fn forget_udp_of(&mut self, id: &NodeId) {
        self.udp.forget(id);
        self.note_udp_of(id);
    }

    /// The member itself says so, too: it is asked in every round of gossip.
    fn note_udp_of(&mut self, id: &NodeId) {
        let blocked = self.udp.is_blocked(id);
        if let Some(member) = self
            .members
            .get_mut(id)
            .filter(|m| m.udp_blocked() != blocked)
        {
            member.dealings_mut().udp_blocked = blocked;
        }
    }

    fn tell_findings(&mut self, found: Vec<Finding>) {
        for finding in found {
            let happening = match finding {
                Finding::Blocked { id } => {
                    let Some(member) = self.members.get(&id) else {
                        continue;
                    };
                    let address = member.state.address.clone();
                    Happening::UdpBlocked { id, address }
                }
                Finding::Open { id, after_ms } => Happening::UdpOpen {
                    id: Some(id),
                    after_ms,
                },
                Finding::OwnBlocked { over_tcp } => Happening::OwnUdpBlocked {
                    address: self.local.address.clone(),
                    over_tcp,
                },
                Finding::OwnOpen { after_ms } => Happening::UdpOpen { id: None, after_ms },
            };
            self.happened(happening);
        }
    }
}
