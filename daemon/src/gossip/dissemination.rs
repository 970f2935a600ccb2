//! What is being spread: at most one claim per member, the newest, each sent a bounded number of
//! times, the least sent first.
//!
//! Promises: a newer claim replaces the older one about the same member (so the queue is never
//! longer than the member list), a claim that does not fit a packet does not block smaller ones,
//! and taking a packet's worth does not walk the whole queue.
//!
//! Thousands of members that are all news at once (a large cluster starts, or heals) would take
//! minutes to be sent so often, while exchanges of lists tell them in seconds. So beyond
//! [`COMMON_MAX`] entries, those that say of another that it is alive give way, the most sent
//! first. Bad news and this node's own never do.

use ringmaster_shared::{api::membership::Rumor, id::NodeId, member::MemberStatus};

use super::{
    MemberState,
    claim::Claim,
    codec,
    roster::{OfNode, Roster, Slot},
};

/// Claims looked at for one packet; beyond it the packet goes as it is.
const LOOKED_AT_MAX: usize = 128;

/// Entries from which on good news of others gives way.
pub const COMMON_MAX: usize = 1024;

/// `mult * ceil(log10(n + 1))`: how often a claim is sent in a cluster of `n`.
pub fn transmit_limit(mult: u32, n: usize) -> u32 {
    // ceil(log10(n + 1)) is the number of decimal digits of n, without floating point
    let digits = n.checked_ilog10().map_or(0, |d| d + 1);
    mult.saturating_mul(digits.max(1)).max(1)
}

/// The queue of claims to be piggybacked.
#[derive(Default)]
pub struct Dissemination {
    entries: Roster<Entry>,
    /// By how often they were sent; in each the last is the next to go. What points to an entry
    /// that was replaced or moved on is skipped, and dropped when it is met.
    levels: Vec<Vec<Turn>>,
    next_stamp: u32,
    /// Turns that are outdated.
    stale: usize,
}

struct Entry {
    claim: Claim,
    stamp: u32,
    transmissions: u32,
    bytes: u32,
    /// Stays, however many there are.
    vital: bool,
}

impl OfNode for Entry {
    fn node(&self) -> &NodeId {
        &self.claim.state.id
    }
}

#[derive(Clone, Copy)]
struct Turn {
    slot: Slot,
    stamp: u32,
}

impl Dissemination {
    /// Starts to spread `claim`; whatever was being spread about that member is dropped.
    pub fn enqueue(&mut self, claim: Claim) {
        let vital = claim.state.status != MemberStatus::Alive;
        self.put(claim, vital);
        if self.entries.len() > COMMON_MAX {
            self.give_way();
        }
    }

    /// The same for what this node says of itself.
    pub fn enqueue_own(&mut self, claim: Claim) {
        self.put(claim, true);
    }

    fn put(&mut self, claim: Claim, vital: bool) {
        self.remove(&claim.state.id.clone());
        let bytes = u32::try_from(codec::claim_bytes(&claim)).unwrap_or(u32::MAX);
        let stamp = self.new_stamp();
        let slot = self.entries.put(Entry {
            claim,
            stamp,
            transmissions: 0,
            bytes,
            vital,
        });
        self.line_up(0, Turn { slot, stamp });
        self.sweep();
    }

    /// Drops one that is not vital: of the most sent, the oldest.
    fn give_way(&mut self) {
        let mut looked_at = 0;
        for level in self.levels.iter_mut().rev() {
            let mut at = 0;
            while at < level.len() && looked_at < LOOKED_AT_MAX {
                looked_at += 1;
                let Some(entry) = current(&self.entries, level[at]) else {
                    level.remove(at);
                    self.stale = self.stale.saturating_sub(1);
                    continue;
                };
                if entry.vital {
                    at += 1;
                    continue;
                }
                let id = entry.claim.state.id.clone();
                level.remove(at);
                self.entries.remove(&id);
                return;
            }
        }
    }

    pub fn remove(&mut self, id: &NodeId) {
        if self.entries.remove(id).is_some() {
            self.stale += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn contains(&self, id: &NodeId) -> bool {
        self.entries.slot_of(id).is_some()
    }

    /// Claims for one packet with `budget` bytes left, counted as sent. `skip` leaves a claim
    /// out uncounted (the receiver has it by other means).
    pub fn take(
        &mut self,
        budget: usize,
        limit: u32,
        skip: impl Fn(&MemberState) -> bool,
    ) -> Vec<Claim> {
        let mut budget = u32::try_from(budget).unwrap_or(u32::MAX);
        let mut looked_at = 0;
        let mut chosen = Vec::new();
        let mut moved_on = Vec::new();
        for level in &mut self.levels {
            let mut at = level.len();
            while at > 0 && looked_at < LOOKED_AT_MAX {
                at -= 1;
                looked_at += 1;
                let turn = level[at];
                let Some(entry) = current(&self.entries, turn) else {
                    level.remove(at);
                    self.stale = self.stale.saturating_sub(1);
                    continue;
                };
                if entry.bytes <= budget && !skip(&entry.claim.state) {
                    budget -= entry.bytes;
                    level.remove(at);
                    chosen.push(entry.claim.clone());
                    moved_on.push(turn);
                }
            }
        }
        for turn in moved_on {
            self.move_on(turn, limit);
        }
        chosen
    }

    /// Counts one transmission of what is being spread about `id`, if anything.
    pub fn count_as_sent(&mut self, id: &NodeId, limit: u32) {
        let Some(slot) = self.entries.slot_of(id) else {
            return;
        };
        let stamp = self.new_stamp();
        if let Some(entry) = self.entries.at_mut(slot) {
            // its turn in the old level points nowhere from here on
            entry.stamp = stamp;
            self.stale += 1;
            self.move_on(Turn { slot, stamp }, limit);
            self.sweep();
        }
    }

    /// An entry whose turn was taken goes to the next level, or out at the limit.
    fn move_on(&mut self, turn: Turn, limit: u32) {
        let Some(entry) = self.entries.at_mut(turn.slot) else {
            return;
        };
        entry.transmissions += 1;
        let sent = entry.transmissions;
        if sent >= limit {
            let id = entry.claim.state.id.clone();
            self.entries.remove(&id);
        } else {
            self.line_up(sent as usize, turn);
        }
    }

    fn line_up(&mut self, level: usize, turn: Turn) {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        self.levels[level].push(turn);
    }

    fn new_stamp(&mut self) -> u32 {
        self.next_stamp = self.next_stamp.wrapping_add(1);
        self.next_stamp
    }

    /// Keeps outdated turns from piling up.
    fn sweep(&mut self) {
        if self.stale <= self.entries.len() + LOOKED_AT_MAX {
            return;
        }
        self.stale = 0;
        for level in &mut self.levels {
            level.retain(|turn| current(&self.entries, *turn).is_some());
        }
    }

    /// What is being spread, at most `max`, the least sent first.
    pub fn rumors(&self, limit: u32, max: usize) -> Vec<Rumor> {
        self.levels
            .iter()
            .flat_map(|level| level.iter().rev())
            .filter_map(|turn| current(&self.entries, *turn))
            .take(max)
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

fn current(entries: &Roster<Entry>, turn: Turn) -> Option<&Entry> {
    entries.at(turn.slot).filter(|e| e.stamp == turn.stamp)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{
        super::testing::{id, member},
        *,
    };

    fn claim(name: &str) -> Claim {
        Claim {
            state: member(name).into(),
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
        Arc::make_mut(&mut newer.state).incarnation = 7;
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
        Arc::make_mut(&mut large.state).address = "x".repeat(200);
        queue.enqueue(large);
        let budget = codec::claim_bytes(&claim("small"));
        assert_eq!(names(&queue.take(budget, 4, |_| false)), ["small"]);
        assert!(
            queue.take(10_000, 4, |s| s.id.as_str() == "large").len() == 1,
            "what is skipped is not counted"
        );
        assert_eq!(queue.rumors(4, 10)[0].transmissions, 0);
    }

    #[test]
    fn of_too_many_the_most_sent_of_the_living_give_way() {
        let mut queue = Dissemination::default();
        queue.enqueue_own(claim("me"));
        let mut dead = claim("dead");
        Arc::make_mut(&mut dead.state).status = MemberStatus::Dead;
        queue.enqueue(dead);
        let named = |n: usize| claim(&format!("n{n}"));
        for n in 0..COMMON_MAX - 2 {
            queue.enqueue(named(n));
        }
        assert_eq!(queue.len(), COMMON_MAX, "nobody had to go");
        let sent = queue.take(1_000, 9, |s| s.id.as_str() != "n7");
        assert!(sent.is_empty(), "it is looked for no further than allowed");
        let sent = queue.take(10_000, 9, |_| false);
        let (first, sent) = (sent[0].state.id.clone(), sent.len());
        for n in 0..sent {
            queue.enqueue(named(COMMON_MAX + n));
        }
        assert_eq!(queue.len(), COMMON_MAX);
        assert!(!queue.contains(&first) && queue.contains(&id("n0")));
        queue.enqueue(named(9_000));
        assert!(!queue.contains(&id("n0")), "then the oldest unsent");
        for n in 10_000..13_000 {
            queue.enqueue(named(n));
        }
        assert_eq!(queue.len(), COMMON_MAX);
        assert!(queue.contains(&id("me")) && queue.contains(&id("dead")));
        let turns: usize = queue.levels.iter().map(Vec::len).sum();
        assert!(turns <= 2 * COMMON_MAX + LOOKED_AT_MAX + 1);
    }

    proptest! {
        /// Whatever is enqueued, replaced and removed between packets: each claim is sent as
        /// often as its limit says, and outdated turns do not pile up.
        #[test]
        fn each_is_sent_to_its_limit(steps in prop::collection::vec((0..8usize, 0..4u8), 1..120)) {
            let mut queue = Dissemination::default();
            let mut left = std::collections::BTreeMap::new();
            for (who, what) in steps {
                let name = format!("n{who}");
                match what {
                    0 => {
                        queue.remove(&id(&name));
                        left.remove(&name);
                    }
                    1 => {
                        let one = left.get_mut(&name).map(|n| { *n -= 1; *n });
                        queue.count_as_sent(&id(&name), 5);
                        if one == Some(0) {
                            left.remove(&name);
                        }
                    }
                    2 => {
                        queue.enqueue(claim(&name));
                        left.insert(name, 5);
                    }
                    _ => {
                        for sent in queue.take(150, 5, |_| false) {
                            let name = sent.state.id.to_string();
                            let n = left.get_mut(&name).expect("it is being spread");
                            *n -= 1;
                            if *n == 0 {
                                left.remove(&name);
                            }
                        }
                    }
                }
                prop_assert_eq!(queue.len(), left.len());
                let rumors = queue.rumors(5, 100);
                prop_assert_eq!(rumors.len(), left.len());
                for rumor in rumors {
                    prop_assert_eq!(5 - rumor.transmissions, left[rumor.about.as_str()]);
                }
                let turns: usize = queue.levels.iter().map(Vec::len).sum();
                prop_assert!(turns <= 2 * left.len() + LOOKED_AT_MAX + 1);
            }
        }
    }
}
