//! The questions of one operation that are under way.
//!
//! There are as many as a key has replicas, so they are simply all polled when one of them wakes.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use ringmaster_shared::id::NodeId;
use tokio::time::Instant;

use super::round::Said;
use crate::replication::site::AskError;

type Outcome = Result<Said, AskError>;

/// One answer, whose question was a read or not and was sent at `since`.
pub struct Answer {
    pub who: NodeId,
    pub is_read: bool,
    pub since: Instant,
    pub outcome: Outcome,
}

struct Call {
    who: NodeId,
    is_read: bool,
    since: Instant,
    future: BoxFuture<'static, Outcome>,
}

#[derive(Default)]
pub struct Calls {
    ready: VecDeque<(NodeId, Outcome)>,
    under_way: Vec<Call>,
}

impl Calls {
    pub fn add(&mut self, who: NodeId, is_read: bool, future: BoxFuture<'static, Outcome>) {
        self.under_way.push(Call {
            who,
            is_read,
            since: Instant::now(),
            future,
        });
    }

    /// An answer that needed no waiting.
    pub fn settled(&mut self, who: NodeId, outcome: Outcome) {
        self.ready.push_back((who, outcome));
    }

    pub fn clear(&mut self) {
        self.ready.clear();
        self.under_way.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.under_way.is_empty()
    }

    /// An answer that is there already without having waited.
    pub fn take_settled(&mut self) -> Option<(NodeId, Outcome)> {
        self.ready.pop_front()
    }

    /// Whose answers to reads are still awaited.
    pub fn reads(&self) -> impl Iterator<Item = &NodeId> {
        let reads = self.under_way.iter().filter(|call| call.is_read);
        reads.map(|call| &call.who)
    }

    /// The next answer; `None` when none is under way. May be given up and called again.
    pub async fn next(&mut self) -> Option<Answer> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        for at in 0..self.under_way.len() {
            if let Poll::Ready(outcome) = self.under_way[at].future.as_mut().poll(cx) {
                let call = self.under_way.swap_remove(at);
                return Poll::Ready(Some(Answer {
                    who: call.who,
                    is_read: call.is_read,
                    since: call.since,
                    outcome,
                }));
            }
        }
        if self.under_way.is_empty() {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::replication::testing::id;

    #[tokio::test]
    async fn answers_come_as_they_end_and_can_be_dropped() {
        let mut calls = Calls::default();
        assert!(calls.next().await.is_none());
        let mut senders = Vec::new();
        for name in ["a", "b", "c"] {
            let (sender, receiver) = oneshot::channel::<()>();
            senders.push(sender);
            let future = async move {
                let _ = receiver.await;
                Ok(Said::Stored)
            };
            calls.add(id(name), name != "c", Box::pin(future));
        }
        assert!(calls.next().now_or_never().is_none());
        assert!(calls.reads().eq([&id("a"), &id("b")]));
        senders.remove(1).send(()).expect("awaited");
        let answer = calls.next().await.expect("under way");
        assert_eq!((answer.who, answer.is_read), (id("b"), true));
        assert!(calls.next().now_or_never().is_none());
        calls.settled(id("x"), Ok(Said::Stored));
        assert!(calls.take_settled().is_some_and(|(who, _)| who == id("x")));
        calls.clear();
        assert!(calls.is_empty() && calls.next().await.is_none());
    }
}
