//! When to exchange full lists, and with whom: at the start with a few, then now and then with
//! somebody reachable, and for ever with those that are gone and with addresses once given.
//!
//! The last is what brings isolated nodes and healed partitions back: nobody else ever talks to
//! a member that is held dead (`hashicorp/memberlist#222`, `hashicorp/consul#7750`).

use rand::{Rng, seq::IndexedRandom};
use ringmaster_shared::{api::membership::SeedInfo, id::NodeId};

use super::{Core, Happening, Output, ms};
use crate::gossip::{
    claim::{ADDRESS_BYTES_MAX, Now},
    members::Member,
    rejected::Rejected,
};

/// Addresses kept to be tried.
const CONTACTS_MAX: usize = 512;
/// A seed that has not answered for so long is worth a word.
const SEED_PATIENCE_MS: u64 = 60_000;
/// Seeds listed for a person.
const SEEDS_LISTED_MAX: usize = 64;
/// Exchanges at the start, and attempts of a node that reaches nobody.
const FEW: usize = 3;
/// Up to this many members the interval is as configured (`memberlist`'s push/pull scale).
const SCALE_FROM: usize = 32;

/// An address to be tried until who answers there is a reachable member.
pub(super) struct Contact {
    address: String,
    /// Who answered there last; it may go by another address.
    answered_by: Option<NodeId>,
    /// Present for a configured seed.
    seed: Option<Seed>,
}

/// What is known of a configured seed, for people.
#[derive(Debug, Clone, Default)]
struct Seed {
    tried_ms: Option<u64>,
    /// Why the last attempt failed.
    error: Option<String>,
    /// Since when no reachable member is known behind it.
    silent_since_ms: Option<u64>,
    /// That it does not answer was said.
    said: bool,
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
                    seed: None,
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
            self.watch_seeds(now);
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
        self.contacts
            .iter()
            .filter(|c| !self.is_known_by_name(c) && !reachable.contains(c.address.as_str()))
            .map(|c| c.address.clone())
            .collect()
    }

    /// Who answered there last is a reachable member, or this node itself.
    fn is_known_by_name(&self, contact: &Contact) -> bool {
        contact.answered_by.as_ref().is_some_and(|id| {
            let member = || self.members.get(id);
            *id == self.local.id || member().is_some_and(|m| m.state.status.is_reachable())
        })
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
            if let Some(seed) = &mut contact.seed {
                seed.error = None;
            }
        }
    }

    /// Nobody answered at an address; `why` is for people.
    pub fn contact_failed(&mut self, now: Now, address: &str, why: &str) {
        let contact = self.contacts.iter_mut().find(|c| c.address == address);
        if let Some(seed) = contact.and_then(|c| c.seed.as_mut()) {
            seed.tried_ms = Some(now.ms);
            seed.error = Some(why.to_owned());
        }
    }

    // ---- seeds, for people ------------------------------------------------------------------

    /// Which of the contacts are configured seeds; the others are members remembered.
    pub fn mark_seeds(&mut self, now: Now, addresses: &[String]) {
        for contact in &mut self.contacts {
            if addresses.contains(&contact.address) {
                contact.seed = Some(Seed {
                    silent_since_ms: Some(now.ms),
                    ..Seed::default()
                });
            }
        }
    }

    /// The seeds as they stand, and whether each is reachable.
    pub(super) fn seeds(&self) -> Vec<SeedInfo> {
        let seeds = self
            .contacts
            .iter()
            .filter_map(|c| Some((c, c.seed.as_ref()?)));
        let info = |(contact, seed): (&Contact, &Seed)| SeedInfo {
            address: contact.address.clone(),
            reachable: self.is_reachable(contact),
            answered_by: contact.answered_by.clone().or_else(|| {
                let at = self
                    .members
                    .reachable()
                    .find(|m| m.state.address == contact.address);
                at.map(|m| m.state.id.clone())
            }),
            silent_since: seed.silent_since_ms.map(|ms| self.wall_time(ms)),
            last_tried: seed.tried_ms.map(|ms| self.wall_time(ms)),
            last_error: seed.error.clone(),
        };
        seeds.take(SEEDS_LISTED_MAX).map(info).collect()
    }

    fn is_reachable(&self, contact: &Contact) -> bool {
        let at = |m: &Member| m.state.address == contact.address;
        self.is_known_by_name(contact) || self.members.reachable().any(at)
    }

    /// Says once that a seed has not answered for long, and once that it does again.
    fn watch_seeds(&mut self, now: Now) {
        for at in 0..self.contacts.len() {
            if self.contacts[at].seed.is_none() {
                continue;
            }
            let reachable = self.is_reachable(&self.contacts[at]);
            let contact = &mut self.contacts[at];
            let Some(seed) = &mut contact.seed else {
                continue;
            };
            let address = contact.address.clone();
            if reachable {
                seed.error = None;
                let since = seed.silent_since_ms.take().unwrap_or(now.ms);
                if std::mem::take(&mut seed.said) {
                    let after_ms = now.ms.saturating_sub(since);
                    self.happened(Happening::SeedAnswers { address, after_ms });
                }
                continue;
            }
            let since = *seed.silent_since_ms.get_or_insert(now.ms);
            let silent_ms = now.ms.saturating_sub(since);
            if silent_ms >= SEED_PATIENCE_MS && !std::mem::replace(&mut seed.said, true) {
                let error = seed.error.clone();
                self.happened(Happening::SeedUnreachable {
                    address,
                    silent_ms,
                    error,
                });
            }
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
