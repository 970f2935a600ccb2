//! When to exchange full lists, and with whom: at the start with a few, then now and then with
//! somebody reachable, and for ever with those that are gone and with addresses once given.
//!
//! The last is what brings isolated nodes and healed partitions back: nobody else ever talks to
//! a member that is held dead (`hashicorp/memberlist#222`, `hashicorp/consul#7750`). Whose turn it
//! is then is in `contacts.rs`, what blocked UDP calls for in `catching_up.rs`.

use std::sync::Arc;

use rand::Rng;
use ringmaster_shared::id::NodeId;

use super::{Core, Dest, Output, ms};
use crate::gossip::{claim::Now, codec::Body, rejected::Rejected};

/// Exchanges at the start, and attempts of a node that reaches nobody.
const FEW: usize = 3;
/// Attempts of a node that reaches nobody and has many to try.
const MANY: usize = 8;
/// From so many addresses to try on, there are more attempts.
const MANY_FROM: usize = 64;
/// Up to this many members the interval is as configured (`memberlist`'s push/pull scale).
const SCALE_FROM: usize = 32;
/// Members a node tells by itself that it is there.
const GREETED_MAX: usize = 64;

/// Whether a node has told those it knows that it is there; once in a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It knows nobody yet.
    Waits,
    Due,
    Done,
}

impl Core {
    /// Addresses of members known from earlier lives, to be tried as seeds are.
    pub fn remember(&mut self, addresses: impl IntoIterator<Item = String>) {
        self.contacts.add(addresses, false, &self.local.address);
    }

    pub(super) fn exchange_when_due(&mut self, now: Now) {
        if now.ms >= self.due.exchange {
            let interval = self.exchange_interval_ms().min(self.exchange_gap_ms);
            self.exchange_gap_ms = interval.saturating_mul(2);
            let jittered = self.jittered(interval);
            self.due.exchange = now.ms + jittered;
            if std::mem::replace(&mut self.introduced, true) {
                self.exchange_with_members(1);
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
        self.catch_up_when_due(now);
    }

    /// Grows with the logarithm of the cluster, so that the exchanged bytes stay bounded.
    pub(super) fn exchange_interval_ms(&self) -> u64 {
        ms(self.config.push_pull_interval).saturating_mul(self.list_scale())
    }

    /// How much rarer than in a small cluster lists are exchanged.
    pub(super) fn list_scale(&self) -> u64 {
        let n = self.members.reachable_count() + 1;
        let doublings = n.div_ceil(SCALE_FROM).next_power_of_two().ilog2();
        u64::from(doublings) + 1
    }

    /// Four fifths to six fifths of the interval, so that nodes started together drift apart.
    fn jittered(&mut self, interval_ms: u64) -> u64 {
        let interval = interval_ms.max(5);
        self.rng.random_range(interval * 4 / 5..=interval * 6 / 5)
    }

    /// A node that was let in asks who let it in first of all: all who came meanwhile came that
    /// way as well.
    fn introduce(&mut self) {
        let welcomed = self.members.reachable_count() > 0;
        let seed = self.seeds.first().filter(|_| welcomed).map(str::to_owned);
        let asked = usize::from(seed.is_some());
        self.out
            .extend(seed.map(|address| Output::Exchange { address }));
        let met = asked + self.exchange_with_members(FEW - asked);
        self.try_contacts(FEW.saturating_sub(met));
    }

    /// Whether those this node knows by now are still to be told that it is there.
    pub(super) fn is_to_greet(&self) -> bool {
        self.greeting == Greeting::Due && self.members.reachable_count() > 0
    }

    /// This node came to know its cluster, or much of it.
    pub(super) fn knows_whom_to_greet(&mut self) {
        if self.greeting == Greeting::Waits {
            self.greeting = Greeting::Due;
        }
    }

    /// Tells many at once, and nobody a second time, that this node is there: it is the one that
    /// nobody has heard of, and those who let it in cannot know who else came since. News of it
    /// spread beside that as all news do; these packets do not count for them.
    pub(super) fn greet(&mut self) {
        self.greeting = Greeting::Done;
        let greeted = self
            .members
            .pick_reachable(&mut self.rng, GREETED_MAX, |m| !m.udp_blocked());
        let greeted: Vec<_> = greeted.iter().map(|m| Arc::clone(&m.state)).collect();
        for member in greeted {
            let mut packet = self.answer_packet(member.id.clone(), Body::Gossip, None);
            packet.intro = Some(Arc::clone(&self.local));
            self.send(Dest::Address(member.address.clone()), packet);
        }
    }

    /// Exchanges with up to `few` reachable members; how many they are.
    pub(super) fn exchange_with_members(&mut self, few: usize) -> usize {
        let picked = self.members.pick_reachable(&mut self.rng, few, |_| true);
        let picked: Vec<NodeId> = picked.iter().map(|m| m.state.id.clone()).collect();
        for id in &picked {
            self.exchange_with_member(id);
        }
        picked.len()
    }

    /// Exchanges with a member; what this node learns from now on is news to it again.
    pub(super) fn exchange_with_member(&mut self, id: &NodeId) {
        let Some(member) = self.members.get(id) else {
            return;
        };
        let address = member.state.address.clone();
        self.udp.exchange_begins(id, self.revision);
        self.out.push(Output::Exchange { address });
    }

    /// One attempt; a few for a node that reaches nobody.
    pub(super) fn reconnect(&mut self) {
        let attempts = if self.members.reachable_count() > 0 {
            1
        } else if self.contacts.len() + self.members.gone().count() < MANY_FROM {
            FEW
        } else {
            MANY
        };
        self.try_contacts(attempts);
    }

    fn try_contacts(&mut self, attempts: usize) {
        let (me, members) = (&self.local.id, &self.members);
        let chosen = self.contacts.next(attempts, me, members, &mut self.rng);
        for address in chosen {
            self.out.push(Output::Exchange { address });
        }
    }

    /// Who answered at an address.
    pub fn contact_answered(&mut self, now: Now, address: &str, by: &NodeId) {
        self.contacts.answered(address, by);
        self.seeds.answered(now, address, by, &self.local.id);
    }

    /// Too many exchanges are under way for one more; if nobody reachable is at the address, it
    /// is tried as soon as any.
    pub fn exchange_not_started(&mut self, address: String) {
        let mut reachable = self.members.reachable();
        if !reachable.any(|m| m.state.address == address) {
            self.contacts.postpone(address);
        }
    }

    /// Who was contacted over TCP, or contacted this node, belongs to another cluster.
    pub fn contact_is_foreign(&mut self, now: Now, source: &str, theirs: &str) {
        self.count_rejected(Rejected::OtherCluster);
        self.note_foreign(now, source.to_owned(), theirs.to_owned());
    }
}
