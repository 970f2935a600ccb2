//! This node's hybrid logical clock: one for all keys, shared by all that it coordinates, repairs
//! and answers. A clone is the same clock.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ringmaster_shared::clock::Hlc;

#[derive(Debug, Clone, Default)]
pub struct HybridClock {
    last: Arc<AtomicU64>,
    /// Milliseconds added to the wall clock; only test builds set it.
    skew_ms: i64,
}

impl HybridClock {
    pub fn new(skew_ms: i64) -> Self {
        Self {
            last: Arc::default(),
            skew_ms,
        }
    }

    /// The clock of a real node.
    pub fn of_this_node() -> Self {
        Self::new(test_skew_ms())
    }

    /// A stamp above every stamp given before and above `seen`, at wall time `now_ms`.
    pub fn next(&self, seen: Hlc, now_ms: u64) -> Hlc {
        let now = now_ms.saturating_add_signed(self.skew_ms);
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = Hlc(last).next(seen, now);
            let swap =
                self.last
                    .compare_exchange_weak(last, next.0, Ordering::Relaxed, Ordering::Relaxed);
            match swap {
                Ok(_) => return next,
                Err(theirs) => last = theirs,
            }
        }
    }

    /// From now on every stamp is above this one.
    pub fn witness(&self, seen: Hlc) {
        self.last.fetch_max(seen.0, Ordering::Relaxed);
    }
}

/// Milliseconds added to the wall clock in version stamps, from `RINGD_CLOCK_SKEW_MS`. Test
/// builds only: on one machine all clocks agree, and a missing version query would go unnoticed.
fn test_skew_ms() -> i64 {
    if !cfg!(debug_assertions) {
        return 0;
    }
    let skew = std::env::var("RINGD_CLOCK_SKEW_MS").ok();
    let skew = skew.and_then(|text| text.parse().ok()).unwrap_or(0);
    if skew != 0 {
        tracing::warn!("RINGD_CLOCK_SKEW_MS={skew}: version stamps are off on purpose, for tests");
    }
    skew
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_never_repeat_or_go_back() {
        let clock = HybridClock::default();
        let a = clock.next(Hlc(0), 1000);
        let b = clock.next(Hlc(0), 1000);
        let c = clock.clone().next(Hlc::from_parts(5000, 3), 900);
        let d = clock.next(Hlc(0), 900);
        assert!(a < b && b < c && c < d);
        clock.witness(Hlc::from_parts(9000, 0));
        assert!(clock.next(Hlc(0), 900) > Hlc::from_parts(9000, 0));
        assert!(HybridClock::new(-600).next(Hlc(0), 1000).unix_ms() == 400);
    }
}
