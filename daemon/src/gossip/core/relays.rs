//! Pings made for others: who asked, and what it is owed.
//!
//! Whoever asks gets the target's answer passed on, or a nack when there is none in time: either
//! way it learns that this node heard it. Promises: bounded in all and for each target, so that
//! nobody can have somebody flooded through this node; an answer is only passed on when it comes
//! from the target itself.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

use ringmaster_shared::id::NodeId;

/// Pings made for others at a time.
const RELAYS_MAX: usize = 1024;
/// And to the same member.
const RELAYS_TO_ONE_MAX: usize = 16;

/// A ping made for another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    pub target: NodeId,
    pub asker: NodeId,
    pub source: SocketAddr,
    /// The asker's number.
    pub asker_seq: u32,
}

/// Those under way, by the number of the ping made.
#[derive(Default)]
pub struct Relays {
    entries: HashMap<u32, Entry>,
    /// By age: they all live, and wait for their nack, equally long.
    by_age: VecDeque<u32>,
    unnacked: VecDeque<u32>,
    to_target: HashMap<NodeId, usize>,
}

struct Entry {
    relay: Relay,
    nack_ms: u64,
    ends_ms: u64,
}

impl Relays {
    /// Whether one more ping to `target` is within bounds; forgets those whose time is over.
    pub fn has_room(&mut self, now_ms: u64, target: &NodeId) -> bool {
        while let Some(oldest) = self.by_age.front().copied() {
            if self
                .entries
                .get(&oldest)
                .is_some_and(|e| now_ms < e.ends_ms)
            {
                break;
            }
            self.remove(oldest);
            self.by_age.pop_front();
        }
        let to_it = self.to_target.get(target).copied().unwrap_or(0);
        self.by_age.len() < RELAYS_MAX && to_it < RELAYS_TO_ONE_MAX
    }

    /// A ping goes out as `seq`.
    pub fn begin(&mut self, seq: u32, relay: Relay, nack_ms: u64, ends_ms: u64) {
        *self.to_target.entry(relay.target.clone()).or_default() += 1;
        let entry = Entry {
            relay,
            nack_ms,
            ends_ms,
        };
        self.entries.insert(seq, entry);
        self.by_age.push_back(seq);
        self.unnacked.push_back(seq);
    }

    /// `from` answered the ping `seq`: to whom that has to be passed on.
    pub fn answered(&mut self, now_ms: u64, seq: u32, from: &NodeId) -> Option<Relay> {
        let entry = self.entries.get(&seq)?;
        let in_time = now_ms < entry.ends_ms;
        if entry.relay.target != *from {
            return None;
        }
        // its place in the order of age is given up when its time is over
        self.remove(seq).filter(|_| in_time)
    }

    /// Those whose askers are told now that there was no answer. The answer is still passed on
    /// if it comes.
    pub fn take_overdue(&mut self, now_ms: u64) -> Vec<Relay> {
        let mut overdue = Vec::new();
        while let Some(seq) = self.unnacked.front() {
            match self.entries.get(seq) {
                Some(entry) if now_ms < entry.nack_ms => break,
                // too late to be of use: this node stood still itself
                Some(entry) if now_ms >= entry.ends_ms => {}
                Some(entry) => overdue.push(entry.relay.clone()),
                None => {}
            }
            self.unnacked.pop_front();
        }
        overdue
    }

    /// When [`Self::take_overdue`] is next wanted.
    pub fn next_nack_ms(&self) -> Option<u64> {
        let mut waiting = self.unnacked.iter();
        waiting.find_map(|seq| self.entries.get(seq).map(|e| e.nack_ms))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, seq: u32) -> Option<Relay> {
        let relay = self.entries.remove(&seq)?.relay;
        if let Some(count) = self.to_target.get_mut(&relay.target) {
            *count -= 1;
            if *count == 0 {
                self.to_target.remove(&relay.target);
            }
        }
        Some(relay)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::testing::id, *};

    fn relay(target: &str, asker_seq: u32) -> Relay {
        Relay {
            target: id(target),
            asker: id("asker"),
            source: ([127, 0, 0, 1], 9).into(),
            asker_seq,
        }
    }

    #[test]
    fn an_answer_is_passed_on_once_also_after_the_nack() {
        let mut relays = Relays::default();
        relays.begin(1, relay("t", 41), 400, 1000);
        assert_eq!(relays.next_nack_ms(), Some(400));
        assert_eq!(
            relays.answered(10, 1, &id("other")),
            None,
            "not from the target"
        );
        assert_eq!(relays.take_overdue(399), vec![]);
        assert_eq!(relays.take_overdue(400), [relay("t", 41)]);
        assert_eq!(relays.take_overdue(401), vec![], "told once");
        assert_eq!(relays.next_nack_ms(), None);
        assert_eq!(relays.answered(999, 1, &id("t")), Some(relay("t", 41)));
        assert_eq!(relays.answered(999, 1, &id("t")), None);
        relays.begin(2, relay("t", 42), 400, 1000);
        assert_eq!(relays.answered(1000, 2, &id("t")), None, "too late");
        assert_eq!(relays.len(), 0);
    }

    #[test]
    fn who_answered_is_not_nacked() {
        let mut relays = Relays::default();
        relays.begin(1, relay("a", 1), 400, 1000);
        relays.begin(2, relay("b", 2), 405, 1005);
        relays.answered(10, 1, &id("a"));
        assert_eq!(relays.next_nack_ms(), Some(405));
        assert_eq!(relays.take_overdue(500), [relay("b", 2)]);
    }

    #[test]
    fn a_node_that_stood_still_sends_no_stale_nacks() {
        let mut relays = Relays::default();
        relays.begin(1, relay("a", 1), 400, 1000);
        assert_eq!(relays.take_overdue(60_000), vec![]);
    }

    #[test]
    fn there_is_room_for_so_many_and_for_so_many_to_one() {
        let mut relays = Relays::default();
        let mut seq = 0;
        while relays.has_room(0, &id("t")) {
            relays.begin(seq, relay("t", seq), 400, 1000);
            seq += 1;
        }
        assert_eq!(relays.len(), RELAYS_TO_ONE_MAX);
        loop {
            let target = format!("n{}", seq % 200);
            if !relays.has_room(0, &id(&target)) {
                break;
            }
            relays.begin(seq, relay(&target, seq), 400, 1000);
            seq += 1;
        }
        assert_eq!(relays.len(), RELAYS_MAX);
        assert!(relays.has_room(1000, &id("t")), "their time is over");
        assert_eq!((relays.len(), relays.to_target.len()), (0, 0));
    }

    proptest! {
        /// Nothing piles up: what is counted for each target is what is there, and after the
        /// longest life nothing is left.
        #[test]
        fn nothing_is_left_behind(
            steps in prop::collection::vec((0..4usize, 0..40u32, 0..300u64), 0..120)
        ) {
            let (mut relays, mut now, mut seq) = (Relays::default(), 0, 0);
            for (target, what, wait) in steps {
                now += wait;
                let target = id(&format!("t{target}"));
                if what < 25 {
                    if relays.has_room(now, &target) {
                        relays.begin(seq, relay(target.as_str(), seq), now + 400, now + 1000);
                        seq += 1;
                    }
                } else {
                    relays.answered(now, seq.saturating_sub(what - 24), &target);
                }
                relays.take_overdue(now);
                prop_assert!(relays.next_nack_ms().is_none_or(|at| at > now));
                let counted: usize = relays.to_target.values().sum();
                prop_assert_eq!(counted, relays.len());
            }
            now += 1000;
            relays.take_overdue(now);
            prop_assert!(relays.has_room(now, &id("t0")));
            let left = relays.len() + relays.by_age.len() + relays.unnacked.len();
            prop_assert_eq!(left + relays.to_target.len(), 0);
        }
    }
}
