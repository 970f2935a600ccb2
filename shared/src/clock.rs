//! Hybrid logical clock: wall time where it can be, order where it must be.
//!
//! One `u64`: 48 bits of Unix milliseconds, 16 bits of logical counter. The next stamp is above
//! everything seen and not below the wall clock (Kulkarni et al., "Logical Physical Clocks").
//! This file does the arithmetic; who owns a clock hands in the time.

use serde::{Deserialize, Serialize};

/// How far ahead of the local wall clock a stamp from elsewhere may be before it is refused.
pub const MAX_DRIFT_MS: u64 = 24 * 60 * 60 * 1000;

/// A hybrid logical time stamp.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Hlc(pub u64);

impl Hlc {
    pub fn from_parts(unix_ms: u64, logical: u16) -> Self {
        Self((unix_ms << 16) | u64::from(logical))
    }

    pub fn unix_ms(self) -> u64 {
        self.0 >> 16
    }

    pub fn logical(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// The next stamp of a clock that last gave `self`, has just seen `seen`, at wall time
    /// `now_ms`. Strictly greater than both.
    #[must_use]
    pub fn next(self, seen: Hlc, now_ms: u64) -> Self {
        let floor = self.0.max(seen.0).saturating_add(1);
        Self(floor.max(now_ms << 16))
    }

    /// Whether a stamp is so far in the future that the peer's clock must be broken.
    pub fn is_absurd(self, now_ms: u64) -> bool {
        self.unix_ms() > now_ms.saturating_add(MAX_DRIFT_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn next_is_above_all_it_saw(last in 0_u64..1 << 62, seen in 0_u64..1 << 62, now in 0_u64..1 << 47) {
            let next = Hlc(last).next(Hlc(seen), now);
            prop_assert!(next > Hlc(last) && next > Hlc(seen));
            prop_assert!(next.unix_ms() >= now);
        }
    }

    #[test]
    fn parts_round_trip() {
        let stamp = Hlc::from_parts(1_763_836_800_123, 7);
        assert_eq!((stamp.unix_ms(), stamp.logical()), (1_763_836_800_123, 7));
        assert!(stamp.is_absurd(0) && !stamp.is_absurd(1_763_836_800_000));
    }
}
