//! What the engine counts for people: what happened, how probes went within the last minutes, how
//! long answers took, and when this node's own health is worth a word.
//!
//! Pure: times are handed in. Promises: bounded memory whatever arrives; health is told once
//! when it gets bad and once when it is good again. Leaves sockets to `driver.rs` and words to
//! `report.rs`.

use std::collections::VecDeque;

use ringmaster_shared::{
    api::membership::{GossipCounts, ProbeFigures},
    member::MemberStatus,
};

use super::core::{Happening, probe_log::Answered};

/// A slot of the window, milliseconds, and how many there are.
const SLOT_MS: u64 = 60_000;
const SLOTS: u64 = 5;
/// How far figures look back, milliseconds.
pub const WINDOW_MS: u64 = SLOT_MS * SLOTS;
/// Round trips kept for a slot; more than that are thinned out.
const SAMPLES_MAX: usize = 512;
/// Pings whose answer is waited for.
const PINGS_MAX: usize = 256;
/// From this score on this node's health is bad, when it lasts.
const BAD_FROM: u32 = 3;
/// So long a score must be bad, or good again, before that is said.
const LASTS_MS: u64 = 5_000;

/// One minute.
#[derive(Debug, Clone, Default)]
struct Slot {
    number: u64,
    /// Microseconds.
    round_trips: Vec<u32>,
    seen: u64,
}

/// This node's health has changed in a way worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthNews {
    Bad { score: u32 },
    Good { after_ms: u64 },
}

#[derive(Debug, Default)]
pub struct Ledger {
    counts: GossipCounts,
    slots: VecDeque<Slot>,
    /// Number and time of pings under way, microseconds; the oldest first.
    pings: VecDeque<(u32, u64)>,
    /// Since when the score has been on the side that was not said yet.
    turning_ms: Option<u64>,
    /// Since when bad health has been said.
    bad_ms: Option<u64>,
}

impl Ledger {
    pub fn happened(&mut self, happening: &Happening) {
        let counts = &mut self.counts;
        match happening {
            Happening::Suspected { .. } => counts.suspicions_started += 1,
            Happening::Returned { was, .. } if *was == MemberStatus::Suspected => {
                counts.suspicions_refuted += 1;
            }
            Happening::Dead { .. } => counts.deaths += 1,
            Happening::SelfRefuted { .. } => counts.self_refuted += 1,
            _ => {}
        }
    }

    /// The counts kept here; the core has the others.
    pub fn counts(&self) -> GossipCounts {
        self.counts
    }

    fn slot(&mut self, now_ms: u64) -> &mut Slot {
        let number = now_ms / SLOT_MS;
        if self.slots.back().is_none_or(|s| s.number != number) {
            self.slots.push_back(Slot {
                number,
                ..Slot::default()
            });
        }
        while self
            .slots
            .front()
            .is_some_and(|s| s.number + SLOTS <= number)
        {
            self.slots.pop_front();
        }
        let last = self.slots.len() - 1;
        &mut self.slots[last]
    }

    pub fn ping_sent(&mut self, seq: u32, at_us: u64) {
        if self.pings.len() == PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back((seq, at_us));
    }

    /// The round trip of a ping that was answered, microseconds; nothing for an answer to no ping.
    pub fn ping_answered(&mut self, seq: u32, at_us: u64) -> Option<u64> {
        let at = self.pings.iter().position(|(s, _)| *s == seq)?;
        let (_, sent) = self.pings.remove(at)?;
        let took = at_us.saturating_sub(sent);
        let slot = self.slot(at_us / 1000);
        slot.seen += 1;
        let us = u32::try_from(took).unwrap_or(u32::MAX);
        if slot.round_trips.len() < SAMPLES_MAX {
            slot.round_trips.push(us);
        } else {
            // the later ones overwrite the earlier, spread evenly
            let place = (slot.seen.wrapping_mul(0x9e37_79b9) % SAMPLES_MAX as u64) as usize;
            slot.round_trips[place] = us;
        }
        Some(took)
    }

    /// The last minutes; `ended` is how the probes of [`WINDOW_MS`] ended, from the core.
    pub fn figures(&self, now_ms: u64, ended: impl Iterator<Item = Answered>) -> ProbeFigures {
        let number = now_ms / SLOT_MS;
        let recent = self.slots.iter().filter(|s| s.number + SLOTS > number);
        let mut trips: Vec<u32> = recent.flat_map(|s| s.round_trips.iter().copied()).collect();
        trips.sort_unstable();
        let at = |percent: usize| {
            let place = (trips.len() * percent).div_ceil(100).saturating_sub(1);
            trips.get(place).map(|us| f64::from(*us) / 1000.0)
        };
        let mut figures = ProbeFigures {
            window_s: WINDOW_MS.min(now_ms) / 1000,
            round_trip_p50_ms: at(50),
            round_trip_p99_ms: at(99),
            ..ProbeFigures::default()
        };
        for end in ended {
            *match end {
                Answered::Itself { .. } => &mut figures.direct,
                Answered::ThroughOthers => &mut figures.by_others,
                Answered::OverTcp => &mut figures.by_tcp,
                Answered::Never => &mut figures.unanswered,
            } += 1;
        }
        figures
    }

    /// Looks at the score; the answer is said once, after it has lasted.
    pub fn health(&mut self, now_ms: u64, score: u32) -> Option<HealthNews> {
        let turned = match self.bad_ms {
            None => score >= BAD_FROM,
            Some(_) => score == 0,
        };
        if !turned {
            self.turning_ms = None;
            return None;
        }
        let since = *self.turning_ms.get_or_insert(now_ms);
        if now_ms < since + LASTS_MS {
            return None;
        }
        self.turning_ms = None;
        match self.bad_ms.take() {
            None => {
                self.bad_ms = Some(since);
                Some(HealthNews::Bad { score })
            }
            Some(bad_ms) => Some(HealthNews::Good {
                after_ms: now_ms.saturating_sub(bad_ms),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> impl Iterator<Item = Answered> {
        std::iter::empty()
    }

    #[test]
    fn round_trips_are_those_of_pings_and_slide_out() {
        let mut ledger = Ledger::default();
        for n in 0..100_u32 {
            let at = u64::from(n) * 1_000_000;
            ledger.ping_sent(n, at);
            let took = if n == 50 { 90_000 } else { 400 };
            assert_eq!(ledger.ping_answered(n, at + took), Some(took));
            assert_eq!(ledger.ping_answered(n, at + took), None, "only once");
        }
        assert_eq!(ledger.ping_answered(7_777, 0), None, "never asked");
        let figures = ledger.figures(100_000, none());
        assert_eq!(figures.round_trip_p50_ms, Some(0.4));
        assert_eq!(figures.round_trip_p99_ms, Some(0.4));
        assert_eq!(
            ledger
                .figures(100_000 + 10 * SLOT_MS, none())
                .round_trip_p50_ms,
            None
        );
        for n in 0..10_000 {
            ledger.ping_sent(n, 0);
        }
        assert_eq!(ledger.pings.len(), PINGS_MAX);
        for n in 0..10_000 {
            ledger.ping_sent(n, 0);
            ledger.ping_answered(n, 1_000);
        }
        assert!(
            ledger
                .slots
                .iter()
                .all(|s| s.round_trips.len() <= SAMPLES_MAX)
        );
    }

    #[test]
    fn probes_are_counted_by_who_answered() {
        let ended = [
            Answered::Itself { round_trip_ms: 1 },
            Answered::Never,
            Answered::Itself { round_trip_ms: 9 },
            Answered::OverTcp,
            Answered::ThroughOthers,
        ];
        let figures = Ledger::default().figures(70_000, ended.into_iter());
        let got = (
            figures.direct,
            figures.by_others,
            figures.by_tcp,
            figures.unanswered,
        );
        assert_eq!(got, (2, 1, 1, 1));
        assert_eq!(figures.window_s, 70);
    }

    #[test]
    fn bad_health_is_told_once_when_it_lasts_and_good_health_too() {
        let mut ledger = Ledger::default();
        let cases = [
            (0, 4, None),
            (4_000, 1, None),
            (5_000, 3, None),
            (9_000, 5, None),
            (10_000, 5, Some(HealthNews::Bad { score: 5 })),
            (20_000, 7, None),
            (30_000, 1, None),
            (31_000, 0, None),
            (33_000, 2, None),
            (34_000, 0, None),
            (39_000, 0, Some(HealthNews::Good { after_ms: 34_000 })),
            (60_000, 0, None),
        ];
        for (ms, score, expected) in cases {
            assert_eq!(ledger.health(ms, score), expected, "at {ms} ms");
        }
    }

    #[test]
    fn suspicions_end_one_way_or_the_other() {
        let id = |n: &str| super::super::testing::id(n);
        let mut ledger = Ledger::default();
        let happenings = [
            Happening::Suspected {
                id: id("a"),
                by: id("b"),
                wait_ms: 1,
                least_ms: 1,
            },
            Happening::Returned {
                id: id("a"),
                was: MemberStatus::Suspected,
                after_ms: 1,
            },
            Happening::Returned {
                id: id("a"),
                was: MemberStatus::Dead,
                after_ms: 1,
            },
            Happening::Dead {
                id: id("a"),
                accusers: vec![],
                silent_ms: 1,
            },
        ];
        for happening in &happenings {
            ledger.happened(happening);
        }
        let counts = ledger.counts();
        let got = (
            counts.suspicions_started,
            counts.suspicions_refuted,
            counts.deaths,
        );
        assert_eq!(got, (1, 1, 1));
    }
}
