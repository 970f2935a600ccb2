//! How the latest probes of this node ended, for people.

use std::collections::VecDeque;

use super::super::claim::Now;

/// Ends kept: some minutes' worth at one probe a second.
const KEPT_MAX: usize = 512;

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The member, after so long; more than the probe timeout when others were asked meanwhile.
    Itself {
        round_trip_ms: u64,
    },
    /// Only others reached it.
    ThroughOthers,
    /// Only TCP reached it.
    OverTcp,
    Never,
}

#[derive(Debug, Default)]
pub struct ProbeLog {
    /// With the monotonic milliseconds they ended at.
    ends: VecDeque<(u64, Answered)>,
}

impl ProbeLog {
    pub fn note(&mut self, now: Now, end: Answered) {
        if self.ends.len() == KEPT_MAX {
            self.ends.pop_front();
        }
        self.ends.push_back((now.ms, end));
    }

    /// Those that ended at `since_ms` or later, the oldest first.
    pub fn since(&self, since_ms: u64) -> impl Iterator<Item = Answered> {
        let from = self.ends.partition_point(|(at, _)| *at < since_ms);
        self.ends.iter().skip(from).map(|(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept() {
        let mut log = ProbeLog::default();
        for ms in 0..2 * KEPT_MAX as u64 {
            let end = Answered::Itself { round_trip_ms: ms };
            log.note(Now { ms, unix_ms: ms }, end);
        }
        assert_eq!(log.since(0).count(), KEPT_MAX);
        let last: Vec<Answered> = log.since(1022).collect();
        let took = |round_trip_ms| Answered::Itself { round_trip_ms };
        assert_eq!(last, [took(1022), took(1023)]);
    }
}
