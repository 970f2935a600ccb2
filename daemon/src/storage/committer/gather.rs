//! How long a batch is kept open for writers who are about to come back.
//!
//! Who was answered a moment ago often writes again at once, and then finds that a sync for the
//! others has just begun. So the writers fall into two halves that wait for each other's syncs,
//! and each sync serves half of those it could. A batch that waits a little before its sync
//! brings them together again.
//!
//! Promises: no wait for a lone writer, nor for more than were there a moment ago; never longer
//! than half a sync takes; hardly ever again where waiting does not pay. Pure: the committer has
//! the clock and the queue.

use std::time::Duration;

/// A sync that takes long for once must not be paid for in every batch.
const MOST: Duration = Duration::from_millis(4);
/// A wait ends early when nobody came for this part of it.
const QUIET_PART: u32 = 4;
/// Most batches in a row that do not try to wait, after it did not pay again and again.
const SKIP_MAX: u32 = 63;

/// What a batch may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// Until it has this many requests,
    pub requests: usize,
    /// but not longer than this in all,
    pub most: Duration,
    /// and not after nobody came for this long.
    pub quiet: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Requests that the last sync served or found waiting when it was done.
    crowd: usize,
    /// What a sync takes: the lesser of the last one and of an average.
    sync: Duration,
    average: Duration,
    /// Batches that go without waiting.
    skip: u32,
    /// How many are skipped after the next wait in vain.
    penalty: u32,
}

impl Gather {
    /// How long a batch with `requests` may be kept open, now that nobody waits to join it.
    pub fn patience(&mut self, requests: usize) -> Option<Patience> {
        if requests == 0 || requests >= self.crowd {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let most = (self.sync / 2).min(MOST);
        Some(Patience {
            requests: self.crowd,
            most,
            quiet: most / QUIET_PART,
        })
    }

    /// A batch of `before` requests waited for as many as `hoped`, and had `after` then.
    pub fn waited(&mut self, hoped: usize, before: usize, after: usize) {
        let missing = hoped.saturating_sub(before);
        let came = after.saturating_sub(before);
        if came * 2 >= missing {
            self.penalty = 0;
        } else {
            self.penalty = (self.penalty * 2 + 1).min(SKIP_MAX);
            self.skip = self.penalty;
        }
    }

    /// A sync for `requests` took so long; `queued` wait for the next.
    pub fn synced(&mut self, requests: usize, queued: usize, took: Duration) {
        self.crowd = requests + queued;
        self.average = if self.average.is_zero() {
            took
        } else {
            (self.average * 7 + took) / 8
        };
        self.sync = self.average.min(took);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SYNC: Duration = Duration::from_micros(800);

    fn after(requests: usize, queued: usize) -> Gather {
        let mut gather = Gather::default();
        gather.synced(requests, queued, SYNC);
        gather
    }

    #[test]
    fn a_batch_waits_for_those_who_were_there_a_moment_ago() {
        let cases = [
            // synced, queued then, in the batch now: how many it waits for
            (1, 0, 1, None),
            (1, 1, 1, Some(2)),
            (1, 1, 2, None),
            (32, 32, 32, Some(64)),
            (64, 0, 1, Some(64)),
            (64, 0, 64, None),
            (2, 0, 5, None),
            (64, 0, 0, None),
        ];
        for (requests, queued, now, wanted) in cases {
            let patience = after(requests, queued).patience(now);
            let why = format!("{requests} synced, {queued} queued, {now} now");
            assert_eq!(patience.map(|p| p.requests), wanted, "{why}");
            if let Some(p) = patience {
                assert_eq!((p.most, p.quiet), (SYNC / 2, SYNC / 8), "{why}");
            }
        }
        assert_eq!(Gather::default().patience(1), None, "nothing known yet");
    }

    #[test]
    fn one_long_sync_is_not_paid_for_by_the_batches_after_it() {
        let mut gather = after(2, 2);
        gather.synced(2, 2, Duration::from_secs(9));
        gather.synced(2, 2, SYNC);
        assert_eq!(gather.patience(2).map(|p| p.most), Some(SYNC / 2));
        let mut slow = Gather::default();
        slow.synced(2, 2, Duration::from_secs(9));
        assert_eq!(slow.patience(2).map(|p| p.most), Some(MOST));
    }

    #[test]
    fn where_waiting_does_not_pay_it_is_hardly_tried() {
        let mut gather = after(4, 4);
        let mut waits = 0;
        for _ in 0..1000 {
            if let Some(p) = gather.patience(4) {
                waits += 1;
                gather.waited(p.requests, 4, 5);
            }
            gather.synced(4, 4, SYNC);
        }
        assert!((2..25).contains(&waits), "{waits} waits");
        // until it pays once
        let most = SKIP_MAX as usize + 1;
        let tried = (0..most).find(|_| gather.patience(4).is_some());
        assert!(tried.is_some(), "never tried again in {most} batches");
        gather.waited(8, 4, 7);
        assert!(gather.patience(4).is_some() && gather.patience(4).is_some());
    }

    proptest! {
        /// Whatever happened, a wait is bounded by what syncs took, and hopes for no more than
        /// there were.
        #[test]
        fn no_wait_is_longer_than_half_a_sync(
            syncs in prop::collection::vec((1_usize..100, 0_usize..100, 1_u64..50_000), 1..40),
            now in 0_usize..200,
        ) {
            let mut gather = Gather::default();
            for (requests, queued, micros) in &syncs {
                gather.synced(*requests, *queued, Duration::from_micros(*micros));
            }
            let (requests, queued, micros) = syncs[syncs.len() - 1];
            if let Some(p) = gather.patience(now) {
                prop_assert!(p.most <= Duration::from_micros(micros) / 2 && p.most <= MOST);
                prop_assert!(p.quiet <= p.most);
                prop_assert!(now > 0 && now < p.requests && p.requests == requests + queued);
            }
        }
    }
}
