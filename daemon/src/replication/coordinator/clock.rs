//! This node's hybrid logical clock: one for all keys, shared by all writes it coordinates.

use std::sync::atomic::{AtomicU64, Ordering};

use ringmaster_shared::clock::Hlc;

#[derive(Debug, Default)]
pub struct HybridClock {
    last: AtomicU64,
    /// Milliseconds added to the wall clock; only test builds set it.
    skew_ms: i64,
}

impl HybridClock {
    pub fn new(skew_ms: i64) -> Self {
        Self {
            last: AtomicU64::new(0),
            skew_ms,
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_never_repeat_or_go_back() {
        let clock = HybridClock::default();
        let a = clock.next(Hlc(0), 1000);
        let b = clock.next(Hlc(0), 1000);
        let c = clock.next(Hlc::from_parts(5000, 3), 900);
        let d = clock.next(Hlc(0), 900);
        assert!(a < b && b < c && c < d);
        assert!(HybridClock::new(-600).next(Hlc(0), 1000).unix_ms() == 400);
    }
}
