//! Which sealed messages were seen before. Pure.
//!
//! Each process numbers what it seals; who opens it keeps, for each sender, the highest number
//! and a window of 1024 below it. A number seen before or below the window is refused, and so is
//! an earlier life of the sender. The windows are in memory: what a replay can do to a node that
//! has just started is told in `docs/protocol.md`.

use std::collections::HashMap;

use ringmaster_shared::id::{Generation, NodeId};

/// Numbers below the highest that may still come; packets overtake each other by far less.
pub const WINDOW: u64 = 1024;
/// One word more than the window, so that the oldest word can be emptied while in use.
const WORDS: u64 = WINDOW / 64 + 1;
/// Senders remembered. Only holders of a key get an entry.
const SENDERS_MAX: usize = 32_768;

/// The numbers of one life of one sender.
#[derive(Debug, Clone)]
struct Window {
    generation: Generation,
    highest: u64,
    seen: [u64; WORDS as usize],
}

impl Window {
    fn new(generation: Generation) -> Self {
        Self {
            generation,
            highest: 0,
            seen: [0; WORDS as usize],
        }
    }

    /// RFC 6479: a ring of words, of which those passed over are emptied.
    fn admit(&mut self, number: u64) -> bool {
        if self.highest.saturating_sub(number) >= WINDOW {
            return false;
        }
        let word = number / 64;
        if number > self.highest {
            let top = self.highest / 64;
            let passed = (word - top).min(WORDS);
            for w in 1..=passed {
                self.seen[((top + w) % WORDS) as usize] = 0;
            }
            self.highest = number;
        }
        let slot = &mut self.seen[(word % WORDS) as usize];
        let bit = 1 << (number % 64);
        let fresh = *slot & bit == 0;
        *slot |= bit;
        fresh
    }
}

/// The windows of all senders, in a bounded number: those not heard of for long go first.
#[derive(Debug, Default)]
pub struct Replays {
    recent: HashMap<NodeId, Window>,
    older: HashMap<NodeId, Window>,
}

impl Replays {
    /// Takes note of a message; false when it must not be taken (again).
    pub fn admit(&mut self, sender: &NodeId, generation: Generation, number: u64) -> bool {
        self.keep(sender, generation);
        let Some(window) = self.recent.get_mut(sender) else {
            return false;
        };
        if generation < window.generation {
            return false;
        }
        if generation > window.generation {
            *window = Window::new(generation);
        }
        window.admit(number)
    }

    /// The latest life of the sender of which a message was taken.
    pub fn latest(&self, sender: &NodeId) -> Option<Generation> {
        let window = self.recent.get(sender).or_else(|| self.older.get(sender));
        window.map(|window| window.generation)
    }

    /// Sees to it that the sender's window is among the recent ones.
    fn keep(&mut self, sender: &NodeId, generation: Generation) {
        if self.recent.contains_key(sender) {
            return;
        }
        if self.recent.len() >= SENDERS_MAX / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        let window = self.older.remove(sender);
        let window = window.unwrap_or_else(|| Window::new(generation));
        self.recent.insert(sender.clone(), window);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{super::super::testing::id, *};

    #[test]
    fn once_in_any_order_within_the_window() {
        let (mut replays, a) = (Replays::default(), id("a"));
        for number in [1, 3, 2, 1000, 999] {
            assert!(replays.admit(&a, 5, number), "{number}");
            assert!(!replays.admit(&a, 5, number), "{number} again");
        }
        assert!(replays.admit(&a, 5, 2000));
        assert!(!replays.admit(&a, 5, 976), "below the window");
        assert!(replays.admit(&a, 5, 977), "the last of the window");
        assert!(replays.admit(&id("b"), 5, 1), "each sender has its own");
    }

    #[test]
    fn a_later_life_counts_anew_and_an_earlier_one_is_over() {
        let (mut replays, a) = (Replays::default(), id("a"));
        assert!(replays.admit(&a, 5, 70));
        assert_eq!(replays.latest(&a), Some(5));
        assert!(replays.admit(&a, 6, 1));
        assert!(!replays.admit(&a, 5, 71));
        assert_eq!(replays.latest(&a), Some(6));
        assert_eq!(replays.latest(&id("b")), None);
        assert!(replays.admit(&a, 6, 2));
    }

    #[test]
    fn senders_are_bounded_and_the_busy_ones_stay() {
        let (mut replays, busy) = (Replays::default(), id("busy"));
        for n in 0..3 * SENDERS_MAX {
            assert!(replays.admit(&id(&format!("n{n}")), 1, 1));
            assert!(replays.admit(&busy, 1, n as u64 + 1));
            if n % 5000 == 0 {
                assert!(!replays.admit(&busy, 1, n as u64 + 1), "remembered");
            }
        }
        assert!(replays.recent.len() + replays.older.len() <= SENDERS_MAX + 1);
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set(steps in prop::collection::vec((0..3000u64, 0..4u8), 1..300)) {
            let (mut window, mut seen, mut highest) = (Window::new(1), BTreeSet::new(), 0);
            let mut base = 0;
            for (number, jump) in steps {
                base += if jump == 0 { 5000 } else { 0 };
                let number = base + number;
                let expected = highest - number.min(highest) < WINDOW && !seen.contains(&number);
                prop_assert_eq!(window.admit(number), expected, "{} of {}", number, highest);
                if expected {
                    seen.insert(number);
                }
                highest = highest.max(number);
            }
        }
    }
}
