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
//! first, down to [`COMMON_KEPT`]. Bad news and this node's own never do.

use std::cmp::Reverse;

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

/// So much good news of others stays, however much bad news there is: who refuted its death is
/// among it.
const COMMON_KEPT: usize = 256;

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
    /// By how often they were sent.
    levels: Vec<Level>,
    /// Entries that are not vital.
    common: usize,
    next_place: u64,
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

/// In each list the last is the next to go, and of both that which lined up last. What points to
/// an entry that was replaced or moved on is skipped, and dropped when it is met. There are two
/// lists so that what gives way is found without looking at what never does.
#[derive(Default)]
struct Level {
    vital: Vec<Turn>,
    common: Vec<Turn>,
}

impl Level {
    /// The list of one kind of entries.
    fn of(&mut self, vital: bool) -> &mut Vec<Turn> {
        if vital {
            &mut self.vital
        } else {
            &mut self.common
        }
    }

    /// Of what stands before these places in the two lists, the list whose turn it is.
    fn next_before(&self, vital: usize, common: usize) -> Option<bool> {
        let place = |turns: &[Turn], at: usize| Some(turns[at.checked_sub(1)?].place);
        let (vital, common) = (place(&self.vital, vital), place(&self.common, common));
        (vital.is_some() || common.is_some()).then_some(vital > common)
    }

    /// All, the next to go first.
    fn in_turn(&self) -> Vec<Turn> {
        let vital = self.vital.iter().rev();
        let mut all: Vec<Turn> = vital.chain(self.common.iter().rev()).copied().collect();
        all.sort_by_key(|turn| Reverse(turn.place));
        all
    }
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
    /// Counts up over all that line up.
    place: u64,
}

impl Turn {
    /// One that has not lined up yet.
    fn of(slot: Slot, stamp: u32) -> Self {
        Self {
            slot,
            stamp,
            place: 0,
        }
    }
}

impl Dissemination {
    /// Starts to spread `claim`; whatever was being spread about that member is dropped.
    pub fn enqueue(&mut self, claim: Claim) {
        let vital = claim.state.status != MemberStatus::Alive;
        self.put(claim, vital);
        if self.entries.len() > COMMON_MAX && self.common > COMMON_KEPT {
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
        self.common += usize::from(!vital);
        self.line_up(0, vital, Turn::of(slot, stamp));
        self.sweep();
    }

    /// Drops one that is not vital: of the most sent, the oldest. What is outdated before it goes
    /// with it, so over time this looks at no more turns than there were.
    fn give_way(&mut self) {
        for level in self.levels.iter_mut().rev() {
            let entries = &self.entries;
            let oldest = level.common.iter().enumerate();
            let mut oldest = oldest.filter_map(|(at, turn)| Some((at, current(entries, *turn)?)));
            let oldest = oldest.next().map(|(at, e)| (at, e.claim.state.id.clone()));
            let outdated = oldest.as_ref().map_or(level.common.len(), |(at, _)| *at);
            self.stale = self.stale.saturating_sub(outdated);
            let Some((at, id)) = oldest else {
                level.common.clear();
                continue;
            };
            level.common.drain(..=at);
            self.forget(&id);
            return;
        }
    }

    pub fn remove(&mut self, id: &NodeId) {
        if self.forget(id) {
            self.stale += 1;
        }
    }

    /// Drops an entry whose turn is dropped, or counted as outdated, by the caller.
    fn forget(&mut self, id: &NodeId) -> bool {
        let entry = self.entries.remove(id);
        self.common -= usize::from(entry.as_ref().is_some_and(|e| !e.vital));
        entry.is_some()
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
            let (mut vital, mut common) = (level.vital.len(), level.common.len());
            while looked_at < LOOKED_AT_MAX {
                let Some(is_vital) = level.next_before(vital, common) else {
                    break;
                };
                let at = if is_vital { &mut vital } else { &mut common };
                *at -= 1;
                looked_at += 1;
                let (at, turns) = (*at, level.of(is_vital));
                let turn = turns[at];
                let Some(entry) = current(&self.entries, turn) else {
                    turns.remove(at);
                    self.stale = self.stale.saturating_sub(1);
                    continue;
                };
                if entry.bytes <= budget && !skip(&entry.claim.state) {
                    budget -= entry.bytes;
                    turns.remove(at);
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
            self.move_on(Turn::of(slot, stamp), limit);
            self.sweep();
        }
    }

    /// An entry whose turn was taken goes to the next level, or out at the limit.
    fn move_on(&mut self, turn: Turn, limit: u32) {
        let Some(entry) = self.entries.at_mut(turn.slot) else {
            return;
        };
        entry.transmissions += 1;
        let (sent, vital) = (entry.transmissions, entry.vital);
        if sent >= limit {
            let id = entry.claim.state.id.clone();
            self.forget(&id);
        } else {
            self.line_up(sent as usize, vital, turn);
        }
    }

    fn line_up(&mut self, level: usize, vital: bool, mut turn: Turn) {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Level::default);
        }
        turn.place = self.next_place;
        self.next_place += 1;
        self.levels[level].of(vital).push(turn);
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
            for turns in [&mut level.vital, &mut level.common] {
                turns.retain(|turn| current(&self.entries, *turn).is_some());
            }
        }
    }

    /// What is being spread, at most `max`, the least sent first.
    pub fn rumors(&self, limit: u32, max: usize) -> Vec<Rumor> {
        self.levels
            .iter()
            .flat_map(Level::in_turn)
            .filter_map(|turn| current(&self.entries, turn))
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

    fn dead(name: &str) -> Claim {
        let mut dead = claim(name);
        Arc::make_mut(&mut dead.state).status = MemberStatus::Dead;
        dead
    }

    fn turns(queue: &Dissemination) -> usize {
        let levels = queue.levels.iter();
        levels.map(|l| l.vital.len() + l.common.len()).sum()
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
    fn of_those_sent_equally_often_the_newest_goes_first_whatever_it_says() {
        let mut queue = Dissemination::default();
        let news = [claim("a"), dead("b"), dead("c"), claim("d"), dead("e")];
        for claim in news {
            queue.enqueue(claim);
        }
        for level in 0..3 {
            let rumors = queue.rumors(3, 10);
            let listed: Vec<_> = rumors.iter().map(|r| r.about.as_str()).collect();
            let sent = queue.take(10_000, 3, |_| false);
            assert_eq!(names(&sent), listed, "sent {level} times");
            let first = if level % 2 == 0 { "e" } else { "a" };
            assert_eq!((sent.len(), listed[0]), (5, first));
        }
        assert!(queue.is_empty());
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
        queue.enqueue(dead("dead"));
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
        assert!(turns(&queue) <= 2 * COMMON_MAX + LOOKED_AT_MAX + 1);
    }

    /// However often the bad news were sent: they do not stand before the good ones that give way.
    #[test]
    fn the_living_give_way_beside_much_bad_news() {
        let mut queue = Dissemination::default();
        for n in 0..200 {
            queue.enqueue(dead(&format!("dead{n}")));
        }
        while queue.rumors(9, 1)[0].transmissions == 0 {
            queue.take(1_300, 9, |_| false);
        }
        for n in 0..3_000 {
            queue.enqueue(claim(&format!("n{n}")));
        }
        assert!(queue.len() <= COMMON_MAX + 200, "{}", queue.len());
        for n in 0..200 {
            assert!(queue.contains(&id(&format!("dead{n}"))), "dead{n}");
        }
        assert!(queue.contains(&id("n2999")), "the newest stays");
        // more bad news than there is room: the good ones keep a little
        for n in 0..2_000 {
            queue.enqueue(dead(&format!("later{n}")));
        }
        for n in 0..1_000 {
            queue.enqueue(claim(&format!("refuted{n}")));
        }
        assert_eq!(queue.len(), 2_200 + COMMON_KEPT);
        assert!(queue.contains(&id("refuted999")));
        for n in 0..2_000 {
            queue.enqueue(claim(&format!("later{n}")));
        }
        assert_eq!(queue.len(), COMMON_MAX, "they refuted it");
        assert_eq!(queue.common, COMMON_MAX - 200);
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
                        let is_dead = who % 2 == 0;
                        queue.enqueue(if is_dead { dead(&name) } else { claim(&name) });
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
                let odd = |name: &String| ["n1", "n3", "n5", "n7"].contains(&name.as_str());
                prop_assert_eq!(queue.common, left.keys().filter(|n| odd(n)).count());
                prop_assert!(turns(&queue) <= 2 * left.len() + LOOKED_AT_MAX + 1);
            }
        }
    }
}
