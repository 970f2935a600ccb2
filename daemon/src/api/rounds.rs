//! One round of questions to the members for everybody who asks at about the same time.
//!
//! However many ask, one round is under way at a time. Its answer serves all who asked before it
//! began, and all who ask until it is too old. Who asks and goes away ends its round; the next in
//! line begins one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

/// The rounds of one kind, and what the last one gave.
pub struct Rounds<T> {
    fresh: Duration,
    last: Mutex<Option<Given<T>>>,
}

struct Given<T> {
    began: Instant,
    ended: Instant,
    answer: Arc<T>,
}

impl<T> Rounds<T> {
    /// Of which each answer serves for so long. Zero: nobody gets one that was begun before it asked.
    pub fn new(fresh: Duration) -> Self {
        Self {
            fresh,
            last: Mutex::new(None),
        }
    }

    /// The answer of a round that is still good, or of one more.
    pub async fn recent(&self, ask: impl Future<Output = T>) -> Arc<T> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(given) = last.as_ref()
            && (given.began >= asked || given.ended.elapsed() < self.fresh)
        {
            return given.answer.clone();
        }
        let began = Instant::now();
        let answer = Arc::new(ask.await);
        *last = Some(Given {
            began,
            ended: Instant::now(),
            answer: answer.clone(),
        });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{FutureExt, future::join_all};
    use tokio::sync::Semaphore;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn who_asked_before_a_round_began_is_served_by_it_and_who_came_later_by_the_next() {
        for (fresh, rounds_of_all) in [(LONG, [0, 0, 0]), (Duration::ZERO, [0, 1, 2])] {
            let (rounds, begun, go) = (Rounds::new(fresh), AtomicUsize::new(0), Semaphore::new(0));
            let ask = || async {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                let _turn = go.acquire().await;
                number
            };
            let mut first = Box::pin(rounds.recent(ask()));
            assert!((&mut first).now_or_never().is_none());
            let mut many = Box::pin(join_all((0..100).map(|_| rounds.recent(ask()))));
            assert!((&mut many).now_or_never().is_none());
            assert_eq!(begun.load(Ordering::Relaxed), 1, "one at a time");
            go.add_permits(1);
            assert_eq!(*first.await, rounds_of_all[0]);
            let many = many.await;
            assert!(many.iter().all(|answer| **answer == rounds_of_all[1]));
            assert_eq!(*rounds.recent(ask()).await, rounds_of_all[2]);
        }
    }

    #[tokio::test]
    async fn who_goes_away_leaves_the_turn_to_the_next() {
        let rounds = Rounds::new(LONG);
        let mut gone = Box::pin(rounds.recent(std::future::pending()));
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        assert_eq!(*rounds.recent(async { 1 }).await, 1);
    }
}
