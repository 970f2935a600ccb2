//! One round of questions to the members for everybody who asks at about the same time.
//!
//! However many ask, and however often, one round is under way at a time, and its answer serves
//! all who ask until it is too old or something is known to have changed. Who asks and goes away
//! ends its round; the next in line begins one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

/// The rounds of one kind, and what the last one gave.
pub struct Rounds<T> {
    fresh: Duration,
    changes: AtomicU64,
    last: Mutex<Option<Given<T>>>,
}

struct Given<T> {
    at: Instant,
    /// How much had changed when the round began.
    changes: u64,
    answer: Arc<T>,
}

impl<T> Rounds<T> {
    /// Of which each answer serves for so long.
    pub fn new(fresh: Duration) -> Self {
        Self {
            fresh,
            changes: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }

    /// The answer of a round that ended just now, or of one more.
    pub async fn recent(&self, ask: impl Future<Output = T>) -> Arc<T> {
        let mut last = self.last.lock().await;
        let changes = self.changes.load(Ordering::SeqCst);
        if let Some(given) = last.as_ref()
            && given.changes == changes
            && given.at.elapsed() < self.fresh
        {
            return given.answer.clone();
        }
        let answer = Arc::new(ask.await);
        *last = Some(Given {
            at: Instant::now(),
            changes,
            answer: answer.clone(),
        });
        answer
    }

    /// What was answered so far, or is being found out, serves nobody who asks from now on.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::{FutureExt, future::join_all};
    use tokio::sync::Semaphore;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn all_who_ask_at_once_are_served_by_one_round() {
        let (rounds, begun, go) = (Rounds::new(LONG), AtomicUsize::new(0), Semaphore::new(0));
        let ask = || async {
            let number = begun.fetch_add(1, Ordering::Relaxed);
            let _ = go.acquire().await;
            number
        };
        let many = || join_all((0..100).map(|_| rounds.recent(ask())));
        let mut first = Box::pin(many());
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        go.add_permits(1);
        assert!(first.await.iter().all(|answer| **answer == 0));
        assert!(many().await.iter().all(|answer| **answer == 0));
        rounds.changed();
        assert!(many().await.iter().all(|answer| **answer == 1));
    }

    #[tokio::test]
    async fn a_round_that_began_before_a_change_serves_nobody_after_it() {
        let (rounds, go) = (Rounds::new(LONG), Semaphore::new(0));
        let slow = async {
            let _ = go.acquire().await;
            "before"
        };
        let mut first = Box::pin(rounds.recent(slow));
        assert!((&mut first).now_or_never().is_none());
        rounds.changed();
        let second = rounds.recent(async { "after" });
        go.add_permits(1);
        let (first, second) = tokio::join!(first, second);
        assert_eq!((*first, *second), ("before", "after"));
        assert_eq!(*rounds.recent(async { "later" }).await, "after");
    }

    #[tokio::test]
    async fn who_goes_away_leaves_the_turn_to_the_next_and_old_answers_go() {
        let rounds = Rounds::new(LONG);
        let mut gone = Box::pin(rounds.recent(std::future::pending()));
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        assert_eq!(*rounds.recent(async { 1 }).await, 1);
        let never_fresh = Rounds::new(Duration::ZERO);
        for n in 0..3 {
            assert_eq!(*never_fresh.recent(async move { n }).await, n);
        }
    }
}
