//! What happens when: a timer wheel of milliseconds, so that the next event is found without
//! looking at every node, however many there are.
//!
//! Promises: events come out by time, and those of one millisecond in the order they went in.

use std::collections::{BTreeMap, VecDeque};

/// Milliseconds the wheel holds; what is further ahead waits in a map.
const SPAN_MS: u64 = 4096;

pub struct Agenda<E> {
    wheel: Vec<VecDeque<E>>,
    /// Events in the wheel.
    near: usize,
    far: BTreeMap<u64, Vec<E>>,
    now_ms: u64,
}

impl<E> Agenda<E> {
    pub fn new() -> Self {
        Self {
            wheel: (0..SPAN_MS).map(|_| VecDeque::new()).collect(),
            near: 0,
            far: BTreeMap::new(),
            now_ms: 0,
        }
    }

    /// What is due already happens now.
    pub fn push(&mut self, at_ms: u64, event: E) {
        let at_ms = at_ms.max(self.now_ms);
        if at_ms < self.now_ms + SPAN_MS {
            self.wheel[(at_ms % SPAN_MS) as usize].push_back(event);
            self.near += 1;
        } else {
            self.far.entry(at_ms).or_default().push(event);
        }
    }

    /// The next event up to and including `until_ms`, with its time.
    pub fn pop(&mut self, until_ms: u64) -> Option<(u64, E)> {
        loop {
            let slot = (self.now_ms % SPAN_MS) as usize;
            if let Some(event) = self.wheel[slot].pop_front() {
                self.near -= 1;
                return Some((self.now_ms, event));
            }
            if self.now_ms >= until_ms {
                return None;
            }
            self.advance(until_ms);
        }
    }

    /// To the next millisecond, or over an empty stretch.
    fn advance(&mut self, until_ms: u64) {
        let next_far = self.far.first_key_value().map(|(at, _)| *at);
        self.now_ms = match next_far {
            _ if self.near > 0 => self.now_ms + 1,
            Some(far) => far.min(until_ms),
            None => until_ms,
        };
        if next_far == Some(self.now_ms)
            && let Some((_, events)) = self.far.pop_first()
        {
            // whatever is in the slot already was pushed later: it was near by then
            self.near += events.len();
            let slot = &mut self.wheel[(self.now_ms % SPAN_MS) as usize];
            for event in events.into_iter().rev() {
                slot.push_front(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the plain way: a sorted list.
        #[test]
        fn events_come_by_time_and_then_by_age(
            batches in prop::collection::vec(
                (prop::collection::vec(0..20_000u64, 0..20), 0..9_000u64), 1..20)
        ) {
            let mut agenda = Agenda::new();
            let mut plain: Vec<(u64, usize)> = Vec::new();
            let (mut now, mut number) = (0, 0);
            for (delays, step) in batches {
                for delay in delays {
                    agenda.push(now + delay, number);
                    plain.push((now + delay, number));
                    number += 1;
                }
                now += step;
                plain.sort_unstable();
                while let Some((at, event)) = agenda.pop(now) {
                    prop_assert_eq!((at, event), plain.remove(0));
                }
                prop_assert!(plain.first().is_none_or(|(at, _)| *at > now));
            }
        }
    }
}
