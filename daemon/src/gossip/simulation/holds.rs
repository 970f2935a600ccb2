//! Nodes that stand still, or that nothing gets through to, for a while.

use super::{
    names::Who,
    nodes::Condition,
    world::{Event, World},
};

/// As the driver: packets taken in before the timers are looked at.
const PACKETS_AT_ONCE: usize = 64;

/// Why a node does not do what is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// The whole process stands still, as under SIGSTOP.
    Paused,
    /// Its timers run, but nothing it sends or is sent gets through until later: the overloaded
    /// member of the Lifeguard paper.
    Blocked,
}

/// A node blocked for a while, free for a while, again and again.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    pub hold: Hold,
    pub blocked_ms: u64,
    pub free_ms: u64,
    pub until_ms: u64,
}

impl World {
    /// Holds a node up for so long.
    pub fn hold(&mut self, who: Who, hold: Hold, for_ms: u64) {
        let node = &mut self.nodes[who];
        node.hold = Some(hold);
        node.holds += 1;
        let event = Event::Release(who, node.holds);
        self.schedule(for_ms, event);
    }

    pub(super) fn end_hold(&mut self, who: Who) {
        self.nodes[who].hold = None;
        self.nodes[who].holds += 1;
    }

    /// It goes on: what it had to say leaves, what waited arrives in a burst, and its timers run
    /// in between as the driver's loop lets them.
    pub(super) fn release(&mut self, who: Who) {
        self.end_hold(who);
        for output in std::mem::take(&mut self.nodes[who].unsent) {
            self.emit(who, output);
        }
        let mut taken = 0;
        while let Some(arrival) = self.nodes[who].waiting.pop_front() {
            self.take_in(who, arrival);
            taken += 1;
            if taken % PACKETS_AT_ONCE == 0 {
                self.tick(who);
            }
        }
        if self.runs(who) {
            self.tick(who);
        }
        let now = self.now;
        self.nodes[who].rounds.stood_still(now);
    }

    /// Starts the stretches of an overloaded node.
    pub fn block_again(&mut self, who: Who, stretch: Stretch) {
        if self.now < stretch.until_ms && self.nodes[who].condition == Condition::Up {
            self.hold(who, stretch.hold, stretch.blocked_ms);
            let pause = stretch.blocked_ms + stretch.free_ms;
            self.schedule(pause, Event::BlockAgain(who, stretch));
        }
    }
}
