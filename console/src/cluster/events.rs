//! The merged event list: every node reports what it saw; the console shows them in order of
//! time, each once, and keeps a bounded number.

use ringmaster_shared::event::Event;

use super::{Cluster, EVENTS_MAX};

impl Cluster {
    /// Adds events of any node; those already known are skipped.
    pub(super) fn add_events(&mut self, events: Vec<Event>) {
        for event in events {
            // Sequence numbers start again with each life of a node, so the time is part of
            // an event's identity.
            let same = |e: &Event| {
                e.seq == event.seq && e.time == event.time && e.reporter == event.reporter
            };
            let at = self.events.partition_point(|e| e.time <= event.time);
            let known = self
                .events
                .range(..at)
                .rev()
                .take_while(|e| e.time == event.time)
                .any(same);
            if known || (at == 0 && self.events.len() >= EVENTS_MAX) {
                continue;
            }
            self.events.insert(at, event);
            if self.events.len() > EVENTS_MAX {
                self.events.pop_front();
            }
        }
    }
}
