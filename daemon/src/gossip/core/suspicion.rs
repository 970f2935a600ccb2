//! How long a suspected member has to answer.
//!
//! One accuser alone may itself be the one that is slow, so its word runs for a long time; each
//! further accuser that found the same out for itself shortens it, the first of them most
//! (Lifeguard, section IV.B: `arXiv:1707.00788`). That is for clusters with enough others to find
//! it out: where nearly everybody is silent or gone, as for a node that is cut off, those that are
//! left cannot confirm anything, and waiting for them would only make every death late.
//!
//! Promises: the end never moves later but by the time this node itself stood still, and it lies
//! between the least and the most time. Who could still confirm is counted in `members.rs`.

use std::time::Duration;

use super::{
    super::{GossipConfig, claim::Now},
    ms,
};

/// Confirmations that are waited for at most; their names are kept.
pub const CONFIRMATIONS_MAX: u32 = 7;

/// The time of one suspicion; who accuses is kept beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspicion {
    since_ms: u64,
    /// With all the confirmations that are wanted.
    least_ms: u64,
    /// Without any.
    most_ms: u64,
    wanted: u32,
    confirmations: u32,
    /// While this node stood still nobody could answer it.
    excused_ms: u64,
}

impl Suspicion {
    /// One that begins now, in a cluster of `n` reachable members, this node and the suspect
    /// included, of which `others` are able to confirm it.
    pub fn begin(config: &GossipConfig, n: usize, others: usize, now: Now) -> Self {
        let least_ms = ms(super::suspicion_timeout(config, n));
        let most_ms = least_ms.saturating_mul(u64::from(config.suspicion_max_mult.max(1)));
        let wanted = config
            .suspicion_mult
            .saturating_sub(2)
            .min(CONFIRMATIONS_MAX);
        let mut suspicion = Self {
            since_ms: now.ms,
            least_ms,
            most_ms,
            wanted: if config.lifeguard.confirmations {
                wanted
            } else {
                0
            },
            confirmations: 0,
            excused_ms: 0,
        };
        suspicion.others_are(others);
        suspicion
    }

    /// The same for who is held dead elsewhere: it was suspected there for as long as it takes,
    /// and is only given the chance to say that it is back.
    pub fn without_confirmations(self) -> Self {
        Self { wanted: 0, ..self }
    }

    /// So many others are able to confirm it. If they are too few it waits for none any more,
    /// for good: who comes back later says itself whether the suspect answers. True when that
    /// made a difference.
    pub fn others_are(&mut self, others: usize) -> bool {
        let in_vain = self.waits() && others < self.wanted as usize;
        if in_vain {
            self.wanted = self.confirmations;
        }
        in_vain
    }

    fn waits(&self) -> bool {
        self.confirmations < self.wanted
    }

    /// Somebody else found the same. True when that shortens the time, so that others want to
    /// hear of it.
    pub fn confirm(&mut self) -> bool {
        let counts = self.waits();
        if counts {
            self.confirmations += 1;
        }
        counts
    }

    /// This node itself stood still for `ms`.
    pub fn excuse(&mut self, ms: u64) {
        self.excused_ms = self.excused_ms.saturating_add(ms);
    }

    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    pub fn ends_ms(&self) -> u64 {
        let lasts = timeout_ms(self.least_ms, self.most_ms, self.wanted, self.confirmations);
        self.since_ms
            .saturating_add(lasts)
            .saturating_add(self.excused_ms)
    }

    /// How long it lasts with all the confirmations that are wanted.
    pub fn least_ms(&self) -> u64 {
        self.least_ms
    }

    pub fn confirmations(&self) -> u32 {
        self.confirmations
    }

    /// So many confirmations bring it down to the least time. As many as there are, if nobody is
    /// waited for any more.
    pub fn wanted(&self) -> u32 {
        self.wanted
    }
}

/// `most - (most - least) * ln(c + 1) / ln(k + 1)` for `c` confirmations of `k` wanted; the least
/// time when none are.
fn timeout_ms(least_ms: u64, most_ms: u64, wanted: u32, confirmations: u32) -> u64 {
    if confirmations >= wanted {
        return least_ms;
    }
    let share = f64::from(confirmations + 1).ln() / f64::from(wanted + 1).ln();
    let span = Duration::from_millis(most_ms.saturating_sub(least_ms));
    most_ms
        .saturating_sub(ms(span.mul_f64(share)))
        .max(least_ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::Lifeguard, *};

    const START: Now = Now {
        ms: 500,
        unix_ms: 500,
    };

    fn lasts(suspicion: &Suspicion) -> u64 {
        suspicion.ends_ms() - suspicion.since_ms()
    }

    /// memberlist's own figures for its LAN profile (`suspicion_test.go` has the formula's).
    #[test]
    fn the_time_falls_with_the_logarithm_of_the_confirmations() {
        for (wanted, times) in [
            (0, vec![2000]),
            (1, vec![30_000, 2000]),
            (2, vec![30_000, 12_334, 2000]),
            (3, vec![30_000, 16_000, 7_811, 2000, 2000]),
        ] {
            let found: Vec<u64> = (0..)
                .take(times.len())
                .map(|c| timeout_ms(2000, 30_000, wanted, c))
                .collect();
            assert_eq!(found, times, "k = {wanted}");
        }
    }

    #[test]
    fn only_clusters_with_enough_others_wait_for_them() {
        for (n, mult, wanted, first_ms) in [
            (2, 4, 0, 4_000),
            (3, 4, 0, 4_000),
            (4, 4, 2, 24_000),
            (100, 4, 2, 48_000),
            (10_000, 4, 2, 96_000),
            (4, 5, 0, 5_000),
            (5, 5, 3, 30_000),
            (50, 1, 0, 1_698),
            (5, 90, 0, 90_000),
            (200, 90, CONFIRMATIONS_MAX, 1_242_552),
        ] {
            let config = GossipConfig {
                suspicion_mult: mult,
                ..GossipConfig::default()
            };
            // all alive but the suspect
            let suspicion = Suspicion::begin(&config, n, n - 2, START);
            assert_eq!(
                (suspicion.wanted(), lasts(&suspicion)),
                (wanted, first_ms),
                "n = {n}, mult = {mult}"
            );
        }
        let off = GossipConfig {
            lifeguard: Lifeguard {
                confirmations: false,
                ..Lifeguard::default()
            },
            ..GossipConfig::default()
        };
        assert_eq!(lasts(&Suspicion::begin(&off, 100, 98, START)), 8_000);
    }

    /// Of a hundred, with so many alive others at the start and after some confirmations.
    #[test]
    fn it_waits_only_while_enough_others_could_confirm() {
        for (mult, others, confirmed, left, first_ms, wanted, then_ms) in [
            (4, 98, 0, 98, 48_000, 2, 48_000),
            (4, 98, 0, 2, 48_000, 2, 48_000),
            (4, 98, 0, 1, 48_000, 0, 8_000),
            (4, 98, 1, 2, 48_000, 2, 22_763),
            (4, 98, 1, 1, 48_000, 1, 8_000),
            (4, 98, 2, 0, 48_000, 2, 8_000),
            (4, 2, 0, 2, 48_000, 2, 48_000),
            (4, 1, 0, 98, 8_000, 0, 8_000),
            (4, 0, 0, 0, 8_000, 0, 8_000),
            (6, 98, 0, 4, 72_000, 4, 72_000),
            (6, 98, 0, 3, 72_000, 0, 12_000),
            (2, 98, 0, 0, 4_000, 0, 4_000),
        ] {
            let config = GossipConfig {
                suspicion_mult: mult,
                ..GossipConfig::default()
            };
            let mut suspicion = Suspicion::begin(&config, 100, others, START);
            let case = format!("{mult} {others} {confirmed} {left}");
            assert_eq!(lasts(&suspicion), first_ms, "{case}");
            for _ in 0..confirmed {
                suspicion.confirm();
            }
            let before = suspicion;
            assert_eq!(suspicion.others_are(left), suspicion != before, "{case}");
            assert_eq!(
                (suspicion.wanted(), lasts(&suspicion)),
                (wanted, then_ms),
                "{case}"
            );
            // they come back, and nothing is undone
            let fallen = suspicion;
            assert!(!suspicion.others_are(98));
            assert_eq!(suspicion, fallen, "{case}");
        }
    }

    proptest! {
        /// Each confirmation that counts brings the end nearer, no other does; too few others bring
        /// it to the least time, for good; and it stays between the least and the most time.
        #[test]
        fn the_end_only_comes_nearer(
            n in 1..20_000usize,
            mult in 1..101u32,
            max_mult in 0..50u32,
            first_others in 0..12usize,
            steps in prop::collection::vec((0..6u32, 0..100_000u64), 0..30),
        ) {
            let config = GossipConfig {
                suspicion_mult: mult,
                suspicion_max_mult: max_mult,
                ..GossipConfig::default()
            };
            let least = ms(super::super::suspicion_timeout(&config, n));
            let most = least * u64::from(max_mult.max(1));
            let mut suspicion = Suspicion::begin(&config, n, first_others, START);
            let wanted = mult.saturating_sub(2).min(CONFIRMATIONS_MAX);
            let mut fallen = first_others < wanted as usize;
            let (mut excused, mut counted) = (0, 0);
            for (step, stood_ms) in steps {
                let before = suspicion.ends_ms();
                if step == 0 {
                    let others = stood_ms as usize % 12;
                    fallen |= others < wanted as usize && counted < wanted;
                    suspicion.others_are(others);
                    prop_assert!(suspicion.ends_ms() <= before);
                } else if step < 4 {
                    let counts = suspicion.confirm();
                    counted += u32::from(counts);
                    let shortens = counts && most > least;
                    prop_assert_eq!(suspicion.ends_ms() < before, shortens);
                    prop_assert!(suspicion.ends_ms() <= before);
                } else {
                    suspicion.excuse(stood_ms);
                    excused += stood_ms;
                    prop_assert_eq!(suspicion.ends_ms(), before + stood_ms);
                }
                let lasts = lasts(&suspicion) - excused;
                prop_assert!((least..=most).contains(&lasts));
                prop_assert_eq!(fallen || counted == wanted, counted == suspicion.wanted());
                prop_assert_eq!(lasts == least, counted == suspicion.wanted() || most == least);
                prop_assert_eq!(suspicion.confirmations(), counted);
            }
        }
    }
}
