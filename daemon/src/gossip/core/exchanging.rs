//! When to exchange full lists, and with whom: at the start with a few, then now and then with
//! somebody reachable, and for ever with those that are gone and with addresses once given.
//!
//! The last is what brings isolated nodes and healed partitions back: nobody else ever talks to
//! a member that is held dead (`hashicorp/memberlist#222`, `hashicorp/consul#7750`).

use rand::{Rng, seq::IndexedRandom};
use ringmaster_shared::id::NodeId;

use super::{Core, Output, ms};
use crate::gossip::{
    claim::{ADDRESS_BYTES_MAX, Now},
    rejected::Rejected,
};

/// Addresses kept to be tried.
const CONTACTS_MAX: usize = 512;
/// Exchanges at the start, and attempts of a node that reaches nobody.
const FEW: usize = 3;
/// Up to this many members the interval is as configured (`memberlist`'s push/pull scale).
const SCALE_FROM: usize = 32;

/// An address to be tried until who answers there is a reachable member.
pub(super) struct Contact {
    address: String,
    /// Who answered there last; it may go by another address.
    answered_by: Option<NodeId>,
}

impl Contact {
    pub(super) fn list(
        addresses: impl IntoIterator<Item = String>,
        own_address: &str,
    ) -> Vec<Self> {
        let mut contacts: Vec<Self> = Vec::new();
        for address in addresses {
            let usable = address != own_address
                && !address.is_empty()
                && address.len() <= ADDRESS_BYTES_MAX
                && contacts.len() < CONTACTS_MAX;
            if usable && contacts.iter().all(|c| c.address != address) {
                contacts.push(Self {
                    address,
                    answered_by: None,
                });
            }
        }
        contacts
    }
}

impl Core {
    pub(super) fn exchange_when_due(&mut self, now: Now) {
        if now.ms >= self.due.exchange {
            let interval = self.exchange_interval_ms().min(self.exchange_gap_ms);
            self.exchange_gap_ms = interval.saturating_mul(2);
            let jittered = self.jittered(interval);
            self.due.exchange = now.ms + jittered;
            if std::mem::replace(&mut self.introduced, true) {
                self.exchange_with_somebody();
            } else {
                self.introduce();
            }
        }
        if now.ms >= self.due.reconnect {
            let jittered = self.jittered(ms(self.config.reconnect_interval));
            self.due.reconnect = now.ms + jittered;
            self.reconnect();
        }
    }

    /// Grows with the logarithm of the cluster, so that the exchanged bytes stay bounded.
    pub(super) fn exchange_interval_ms(&self) -> u64 {
        let n = self.members.reachable_count() + 1;
        let doublings = n.div_ceil(SCALE_FROM).next_power_of_two().ilog2();
        ms(self.config.push_pull_interval).saturating_mul(u64::from(doublings) + 1)
    }

    /// Four fifths to six fifths of the interval, so that nodes started together drift apart.
    fn jittered(&mut self, interval_ms: u64) -> u64 {
        let interval = interval_ms.max(5);
        self.rng.random_range(interval * 4 / 5..=interval * 6 / 5)
    }

    fn introduce(&mut self) {
        let mut addresses: Vec<String> = self
            .members
            .pick_reachable(&mut self.rng, FEW, |_| true)
            .into_iter()
            .map(|m| m.state.address.clone())
            .collect();
        let contacts = self.open_contacts();
        let wanted = FEW.saturating_sub(addresses.len());
        let more: Vec<String> = contacts
            .choose_multiple(&mut self.rng, wanted)
            .cloned()
            .collect();
        addresses.extend(more);
        self.exchange_with(addresses);
    }

    fn exchange_with_somebody(&mut self) {
        let picked = self.members.pick_reachable(&mut self.rng, 1, |_| true);
        let addresses = picked.iter().map(|m| m.state.address.clone()).collect();
        self.exchange_with(addresses);
    }

    /// One attempt; a few for a node that reaches nobody.
    pub(super) fn reconnect(&mut self) {
        let attempts = if self.members.reachable_count() == 0 {
            FEW
        } else {
            1
        };
        let gone = self.members.gone();
        let mut pool: Vec<String> = gone.map(|m| m.state.address.clone()).collect();
        pool.extend(self.open_contacts());
        pool.sort_unstable();
        pool.dedup();
        let chosen: Vec<String> = pool
            .choose_multiple(&mut self.rng, attempts)
            .cloned()
            .collect();
        self.exchange_with(chosen);
    }

    /// Contacts behind which no reachable member is known.
    fn open_contacts(&self) -> Vec<String> {
        if self.contacts.is_empty() {
            return Vec::new();
        }
        let reachable: std::collections::HashSet<&str> = self
            .members
            .reachable()
            .map(|m| m.state.address.as_str())
            .collect();
        let settled = |contact: &&Contact| {
            let by_name = contact.answered_by.as_ref().is_some_and(|id| {
                *id == self.local.id
                    || self
                        .members
                        .get(id)
                        .is_some_and(|m| m.state.status.is_reachable())
            });
            by_name || reachable.contains(contact.address.as_str())
        };
        self.contacts
            .iter()
            .filter(|c| !settled(c))
            .map(|c| c.address.clone())
            .collect()
    }

    fn exchange_with(&mut self, addresses: Vec<String>) {
        for address in addresses {
            self.out.push(Output::Exchange { address });
        }
    }

    /// Who answered at an address: a seed may know a member by another name of its host, or be
    /// this node itself.
    pub fn contact_answered(&mut self, address: &str, by: &NodeId) {
        if let Some(contact) = self.contacts.iter_mut().find(|c| c.address == address) {
            contact.answered_by = Some(by.clone());
        }
    }

    /// A contacted node belongs to another cluster.
    pub fn contact_is_foreign(&mut self, now: Now, address: &str, theirs: &str) {
        self.count_rejected(Rejected::OtherCluster);
        self.note_foreign(now, address.to_owned(), theirs.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_are_few_distinct_and_not_this_node() {
        let given = ["a:1", "b:1", "a:1", "", "me:1"].map(String::from);
        let list = Contact::list(given, "me:1");
        let addresses: Vec<_> = list.iter().map(|c| c.address.as_str()).collect();
        assert_eq!(addresses, ["a:1", "b:1"]);
        let many = (0..2 * CONTACTS_MAX).map(|n| format!("n{n}:1"));
        assert_eq!(Contact::list(many, "me:1").len(), CONTACTS_MAX);
    }
}
