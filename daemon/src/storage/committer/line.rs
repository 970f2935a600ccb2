//! Who stands in line for the committer, and who overtakes whom.
//!
//! Small records overtake large ones: of the latter a batch takes about
//! [`LARGE_PER_SYNC_BYTES_MAX`], and the others wait their turn. So what a small write waits for is a
//! sync or two of a bounded size, however many large ones stand in line. Only joins overtake joins,
//! whose order means nothing; everything else stays where it came.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{self, error::TryRecvError};

use super::request::{Request, Ticket};
use crate::{breaks::broken, large::LARGE_BYTES};

/// Most bytes of large joins that share one sync, about; one always fits.
const LARGE_PER_SYNC_BYTES_MAX: usize = 1024 * 1024;

impl Ticket {
    fn is_join(&self) -> bool {
        matches!(self.request, Request::Merge { .. })
    }

    fn is_large_join(&self) -> bool {
        self.is_join() && self.bytes > LARGE_BYTES
    }

    /// What it adds to the large joins of a batch.
    pub fn large_bytes(&self) -> usize {
        if self.is_large_join() { self.bytes } else { 0 }
    }
}

/// Nobody is left who could ask for anything.
pub(in crate::storage) struct Abandoned;

pub(in crate::storage) struct Line {
    queue: mpsc::Receiver<Ticket>,
    /// Large joins that were overtaken, in order, and perhaps one request of another kind behind
    /// them, which nothing overtakes. Bounded by the queue's bytes, of which they keep their share.
    overtaken: VecDeque<Ticket>,
    /// `overtaking` in `RINGD_BREAK` (debug builds): everything in the order in which it came.
    in_order: bool,
}

impl Line {
    pub fn new(queue: mpsc::Receiver<Ticket>) -> Self {
        Self {
            queue,
            overtaken: VecDeque::new(),
            in_order: broken("overtaking"),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.overtaken.is_empty()
    }

    /// Those who came since the last batch was taken.
    pub fn newcomers(&self) -> usize {
        self.queue.len()
    }

    /// Who begins a batch; waits for somebody when `idle`.
    pub fn first(&mut self, idle: bool) -> Result<Option<Ticket>, Abandoned> {
        if let Some(ticket) = self.overtaken.pop_front() {
            return Ok(Some(ticket));
        }
        if idle {
            return self.queue.blocking_recv().map(Some).ok_or(Abandoned);
        }
        match self.queue.try_recv() {
            Ok(ticket) => Ok(Some(ticket)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Abandoned),
        }
    }

    /// The next who may join a batch that holds `large` bytes of large joins already.
    pub fn next(&mut self, large: usize) -> Option<Ticket> {
        if self.in_order {
            return self.queue.try_recv().ok();
        }
        if self.overtaken.front().is_some_and(|t| fits(t, large)) {
            return self.overtaken.pop_front();
        }
        while self.overtaken.back().is_none_or(Ticket::is_join) {
            let ticket = self.queue.try_recv().ok()?;
            if let Some(ticket) = self.admit(ticket, large) {
                return Some(ticket);
            }
        }
        None
    }

    /// The same of who comes within `time`; nobody is waited for while somebody was overtaken.
    pub fn next_within(&mut self, large: usize, time: Duration) -> Option<Ticket> {
        let bell = Waker::from(Arc::new(Bell(thread::current())));
        let mut context = Context::from_waker(&bell);
        let until = Instant::now() + time;
        while self.overtaken.is_empty() {
            if let Poll::Ready(ticket) = self.queue.poll_recv(&mut context) {
                return self.admit(ticket?, large);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            thread::park_timeout(left);
        }
        None
    }

    /// Lets a newcomer into the batch, or has it wait behind those who were overtaken.
    fn admit(&mut self, ticket: Ticket, large: usize) -> Option<Ticket> {
        let small_join = ticket.is_join() && !ticket.is_large_join();
        let overtakes = self.in_order || self.overtaken.is_empty() || small_join;
        if overtakes && (self.in_order || fits(&ticket, large)) {
            return Some(ticket);
        }
        self.overtaken.push_back(ticket);
        None
    }

    /// Nobody else may come; returns all who wait.
    pub fn close(&mut self) -> Vec<Ticket> {
        self.queue.close();
        let mut rest: Vec<Ticket> = self.overtaken.drain(..).collect();
        while let Ok(ticket) = self.queue.try_recv() {
            rest.push(ticket);
        }
        rest
    }
}

fn fits(ticket: &Ticket, large: usize) -> bool {
    !ticket.is_large_join() || large < LARGE_PER_SYNC_BYTES_MAX
}

/// Wakes the committer when something is queued.
struct Bell(thread::Thread);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
