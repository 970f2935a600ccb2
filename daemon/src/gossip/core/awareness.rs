//! Local health: how far this node may trust what it finds out about others.
//!
//! A node that is starved of CPU or cut off sends and reads late, and takes that for the silence
//! of others (Lifeguard, section IV.A: `arXiv:1707.00788`). The score rises with each sign that the
//! fault is its own and falls with each answered probe; a probe takes `score + 1` intervals (fewer
//! among few members).
//! 0 is healthy. Promises: the score stays below `awareness_max`, and it can always fall again.

use super::super::{GossipConfig, HealthReason, HealthView, Strain, claim::Now};

/// What told against this node since it was last healthy.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    times: u64,
    last_ms: u64,
}

#[derive(Debug)]
pub struct Awareness {
    score: u32,
    score_max: u32,
    tallies: [Tally; Strain::ALL.len()],
}

impl Awareness {
    pub fn new(config: &GossipConfig) -> Self {
        let levels = if config.lifeguard.health {
            config.awareness_max
        } else {
            1
        };
        Self {
            score: 0,
            score_max: levels.saturating_sub(1),
            tallies: Default::default(),
        }
    }

    /// A sign that this node is not well, worth `points`.
    pub fn strained(&mut self, now: Now, strain: Strain, points: u32) {
        if points == 0 || self.score_max == 0 {
            return;
        }
        self.score = self.score.saturating_add(points).min(self.score_max);
        let tally = &mut self.tallies[strain as usize];
        tally.times += u64::from(points);
        tally.last_ms = now.ms;
    }

    /// A sign that it is: a probe was answered, or there is nobody whose silence could tell
    /// anything.
    pub fn eased(&mut self) {
        self.score = self.score.saturating_sub(1);
        if self.score == 0 {
            self.tallies = Default::default();
        }
    }

    pub fn score(&self) -> u32 {
        self.score
    }

    /// How long something that takes `base_ms` for a healthy node may take for this one, which can
    /// reach so many `others`. With few of them it gives them less time: a node that is cut off
    /// from two others has lost its quorum, and must find that out soon; and what it says wrongly
    /// of one of few is refuted at once.
    pub fn stretch(&self, base_ms: u64, others: usize) -> u64 {
        let few = u32::try_from(others.saturating_sub(1)).unwrap_or(u32::MAX);
        base_ms.saturating_mul(u64::from(self.score.min(few)) + 1)
    }

    pub fn view(&self, now: Now) -> HealthView {
        let reason = |strain: Strain| {
            let tally = self.tallies[strain as usize];
            (tally.times > 0).then(|| HealthReason {
                strain,
                times: tally.times,
                last_ms_ago: now.ms.saturating_sub(tally.last_ms),
            })
        };
        let mut reasons: Vec<HealthReason> = Strain::ALL.into_iter().filter_map(reason).collect();
        reasons.sort_by_key(|r| std::cmp::Reverse(r.times));
        HealthView {
            score: self.score,
            score_max: self.score_max,
            reasons,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::Lifeguard, *};

    fn at(ms: u64) -> Now {
        Now { ms, unix_ms: ms }
    }

    fn of_levels(awareness_max: u32) -> Awareness {
        Awareness::new(&GossipConfig {
            awareness_max,
            ..GossipConfig::default()
        })
    }

    #[test]
    fn among_few_a_probe_takes_fewer() {
        let mut health = of_levels(8);
        health.strained(at(1), Strain::MissedAnswers, 30);
        for (others, intervals) in [(0, 1), (1, 1), (2, 2), (4, 4), (8, 8), (9_999, 8)] {
            assert_eq!(
                health.stretch(1000, others),
                intervals * 1000,
                "{others} others"
            );
        }
    }

    #[test]
    fn a_probe_takes_up_to_eight_intervals() {
        let mut health = of_levels(8);
        assert_eq!(health.stretch(1000, 100), 1000);
        health.strained(at(1), Strain::MissedAnswers, 3);
        assert_eq!((health.score(), health.stretch(1000, 100)), (3, 4000));
        health.strained(at(2), Strain::MissedAnswers, 30);
        assert_eq!((health.score(), health.stretch(1000, 100)), (7, 8000));
        health.eased();
        assert_eq!(health.stretch(1000, 100), 7000);
    }

    #[test]
    fn the_reasons_are_those_since_it_was_last_well() {
        let mut health = of_levels(8);
        health.strained(at(10), Strain::StoodStill, 1);
        health.strained(at(20), Strain::MissedAnswers, 2);
        health.strained(at(30), Strain::MissedAnswers, 0);
        let reason = |strain, times, last_ms_ago| HealthReason {
            strain,
            times,
            last_ms_ago,
        };
        let expected = HealthView {
            score: 3,
            score_max: 7,
            reasons: vec![
                reason(Strain::MissedAnswers, 2, 80),
                reason(Strain::StoodStill, 1, 90),
            ],
        };
        assert_eq!(health.view(at(100)), expected);
        for _ in 0..3 {
            health.eased();
        }
        assert_eq!(health.view(at(100)).reasons, vec![]);
        health.strained(at(200), Strain::RefutedItself, 1);
        let reasons = health.view(at(200)).reasons;
        assert_eq!(reasons, [reason(Strain::RefutedItself, 1, 0)]);
    }

    #[test]
    fn switched_off_it_is_always_well() {
        let off = GossipConfig {
            lifeguard: Lifeguard {
                health: false,
                ..Lifeguard::default()
            },
            ..GossipConfig::default()
        };
        for mut health in [Awareness::new(&off), of_levels(1), of_levels(0)] {
            health.strained(at(1), Strain::StoodStill, 5);
            assert_eq!((health.score(), health.stretch(7, 100)), (0, 7));
            assert_eq!(health.view(at(2)).reasons, vec![]);
        }
    }

    proptest! {
        /// Within its bounds, reasons while and only while it is not well, and as many good signs
        /// as there are levels make it well again.
        #[test]
        fn it_keeps_to_its_bounds(
            levels in 0..12u32,
            signs in prop::collection::vec((0..4usize, any::<u32>()), 0..60),
        ) {
            let mut health = of_levels(levels);
            for (ms, (sign, points)) in (0u64..).zip(signs) {
                let before = health.score();
                if let Some(strain) = Strain::ALL.get(sign) {
                    health.strained(at(ms), *strain, points);
                    prop_assert!(health.score() >= before);
                } else {
                    health.eased();
                    prop_assert_eq!(health.score(), before.saturating_sub(1));
                }
                prop_assert!(health.score() < levels.max(1));
                let view = health.view(at(ms));
                prop_assert_eq!(view.reasons.is_empty(), view.score == 0);
                prop_assert_eq!(health.stretch(10, 100), 10 * (u64::from(view.score) + 1));
            }
            for _ in 0..levels {
                health.eased();
            }
            prop_assert_eq!(health.score(), 0);
        }
    }
}
