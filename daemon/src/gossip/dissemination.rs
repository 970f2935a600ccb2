//! What is being spread: at most one claim per member, the newest, each sent a bounded number of
//! times, the least sent first.
//!
//! Promises: a newer claim replaces the older one about the same member (so the queue is never
//! longer than the member list), a claim that does not fit a packet does not block smaller ones,
//! and taking a packet's worth does not walk the whole queue.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

use ringmaster_shared::{api::membership::Rumor, id::NodeId};

use super::{MemberState, claim::Claim, codec};

/// Claims looked at for one packet; beyond it the packet goes as it is.
const LOOKED_AT_MAX: usize = 128;

/// `mult * ceil(log10(n + 1))`: how often a claim is sent in a cluster of `n`.
pub fn transmit_limit(mult: u32, n: usize) -> u32 {
    // ceil(log10(n + 1)) is the number of decimal digits of n, without floating point
    let digits = n.checked_ilog10().map_or(0, |d| d + 1);
    mult.saturating_mul(digits.max(1)).max(1)
}

/// The queue of claims to be piggybacked.
#[derive(Default)]
pub struct Dissemination {
    entries: HashMap<NodeId, Entry>,
    /// Least sent first, among equals the newest first.
    order: BTreeSet<(u32, Reverse<u64>, NodeId)>,
    next_number: u64,
}

struct Entry {
    claim: Claim,
    number: u64,
    transmissions: u32,
    bytes: usize,
}

impl Dissemination {
    /// Starts to spread `claim`; whatever was being spread about that member is dropped.
    pub fn enqueue(&mut self, claim: Claim) {
        let id = claim.state.id.clone();
        self.remove(&id);
        let number = self.next_number;
        self.next_number += 1;
        let bytes = codec::claim_bytes(&claim);
        self.order.insert((0, Reverse(number), id.clone()));
        self.entries.insert(
            id,
            Entry {
                claim,
                number,
                transmissions: 0,
                bytes,
            },
        );
    }

    pub fn remove(&mut self, id: &NodeId) {
        if let Some(entry) = self.entries.remove(id) {
            self.order
                .remove(&(entry.transmissions, Reverse(entry.number), id.clone()));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn contains(&self, id: &NodeId) -> bool {
        self.entries.contains_key(id)
    }

    /// Claims for one packet with `budget` bytes left, counted as sent. `skip` leaves a claim
    /// out uncounted (the receiver has it by other means).
    pub fn take(
        &mut self,
        mut budget: usize,
        limit: u32,
        skip: impl Fn(&MemberState) -> bool,
    ) -> Vec<Claim> {
        let mut chosen = Vec::new();
        for (_, _, id) in self.order.iter().take(LOOKED_AT_MAX) {
            let Some(entry) = self.entries.get(id) else {
                continue;
            };
            if entry.bytes <= budget && !skip(&entry.claim.state) {
                budget -= entry.bytes;
                chosen.push(id.clone());
            }
        }
        chosen
            .into_iter()
            .filter_map(|id| self.count_as_sent(&id, limit))
            .collect()
    }

    /// Counts one transmission of what is being spread about `id`, if anything; the claim is
    /// dropped from the queue at the limit.
    pub fn count_as_sent(&mut self, id: &NodeId, limit: u32) -> Option<Claim> {
        let entry = self.entries.get_mut(id)?;
        self.order
            .remove(&(entry.transmissions, Reverse(entry.number), id.clone()));
        entry.transmissions += 1;
        if entry.transmissions >= limit {
            return self.entries.remove(id).map(|e| e.claim);
        }
        self.order
            .insert((entry.transmissions, Reverse(entry.number), id.clone()));
        Some(entry.claim.clone())
    }

    /// What is being spread, at most `max`, the least sent first.
    pub fn rumors(&self, limit: u32, max: usize) -> Vec<Rumor> {
        self.order
            .iter()
            .take(max)
            .filter_map(|(_, _, id)| self.entries.get(id))
            .map(|e| Rumor {
                about: e.claim.state.id.clone(),
                status: e.claim.state.status,
                generation: e.claim.state.generation,
                incarnation: e.claim.state.incarnation,
                from: e.claim.from.clone(),
                transmissions: e.transmissions,
                limit,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{id, member},
        *,
    };

    fn claim(name: &str) -> Claim {
        Claim {
            state: member(name),
            from: id("origin"),
        }
    }

    fn names(claims: &[Claim]) -> Vec<&str> {
        claims.iter().map(|c| c.state.id.as_str()).collect()
    }

    #[test]
    fn limits_follow_the_digits_of_n() {
        for (n, limit) in [(1, 4), (3, 4), (9, 4), (10, 8), (99, 8), (100, 12), (0, 4)] {
            assert_eq!(transmit_limit(4, n), limit, "n = {n}");
        }
        assert_eq!(transmit_limit(0, 3), 1, "never nothing");
    }

    #[test]
    fn least_sent_go_first_and_end_at_the_limit() {
        let mut queue = Dissemination::default();
        let one = codec::claim_bytes(&claim("a"));
        queue.enqueue(claim("a"));
        queue.enqueue(claim("b"));
        let no = |_: &MemberState| false;
        assert_eq!(names(&queue.take(one, 3, no)), ["b"], "newest of equals");
        assert_eq!(names(&queue.take(one, 3, no)), ["a"], "then the least sent");
        for _ in 0..4 {
            assert_eq!(queue.take(one, 3, no).len(), 1);
        }
        assert!(queue.is_empty(), "each was sent three times");
    }

    #[test]
    fn a_newer_claim_replaces_the_older_one_and_starts_again() {
        let mut queue = Dissemination::default();
        queue.enqueue(claim("a"));
        queue.take(10_000, 4, |_| false);
        let mut newer = claim("a");
        newer.state.incarnation = 7;
        queue.enqueue(newer);
        let rumors = queue.rumors(4, 10);
        assert_eq!(rumors.len(), 1);
        assert_eq!((rumors[0].incarnation, rumors[0].transmissions), (7, 0));
        queue.remove(&id("a"));
        assert!(queue.is_empty() && queue.rumors(4, 10).is_empty());
    }

    #[test]
    fn a_large_claim_does_not_block_small_ones() {
        let mut queue = Dissemination::default();
        queue.enqueue(claim("small"));
        let mut large = claim("large");
        large.state.address = "x".repeat(200);
        queue.enqueue(large);
        let budget = codec::claim_bytes(&claim("small"));
        assert_eq!(names(&queue.take(budget, 4, |_| false)), ["small"]);
        assert!(
            queue.take(10_000, 4, |s| s.id.as_str() == "large").len() == 1,
            "what is skipped is not counted"
        );
        assert_eq!(queue.rumors(4, 10)[0].transmissions, 0);
    }
}
