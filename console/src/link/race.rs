//! One round over the endpoints: the first at once, the next when the one before failed or has
//! been silent for [`HEDGE_MS`], each with its own deadline. The first that delivers wins; what is
//! no good by itself is put off to the end of the round, when nothing better can be had.

use std::collections::VecDeque;

use super::{HEDGE_MS, TryId};

#[derive(Debug, Clone)]
pub(super) struct Race {
    waiting: VecDeque<String>,
    running: Vec<Try>,
    last_start_ms: u64,
    timeout_ms: u64,
    put_off: Option<String>,
    last_resort: bool,
}

#[derive(Debug, Clone)]
struct Try {
    id: TryId,
    address: String,
    started_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RaceStep {
    Start {
        id: TryId,
        address: String,
    },
    TimedOut {
        id: TryId,
        address: String,
    },
    /// Nobody is left.
    Exhausted,
}

impl Race {
    pub(super) fn new(order: Vec<String>, now_ms: u64, timeout_ms: u64) -> Self {
        Self {
            waiting: order.into(),
            running: Vec::new(),
            last_start_ms: now_ms,
            timeout_ms,
            put_off: None,
            last_resort: false,
        }
    }

    /// Does what is due: gives up the silent, starts the next.
    pub(super) fn advance(&mut self, now_ms: u64, next_id: &mut TryId) -> Vec<RaceStep> {
        let timeout_ms = self.timeout_ms;
        let is_late = |t: &Try| now_ms >= t.started_ms + timeout_ms;
        let (late, running) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(is_late);
        self.running = running;
        let late: Vec<Try> = late;
        let mut steps: Vec<RaceStep> = late
            .into_iter()
            .map(|Try { id, address, .. }| RaceStep::TimedOut { id, address })
            .collect();
        if self.running.is_empty()
            && self.waiting.is_empty()
            && let Some(address) = self.put_off.take()
        {
            self.waiting.push_back(address);
            self.last_resort = true;
        }
        if (self.running.is_empty() || now_ms >= self.last_start_ms + HEDGE_MS)
            && let Some(address) = self.waiting.pop_front()
        {
            let id = *next_id;
            *next_id += 1;
            self.last_start_ms = now_ms;
            self.running.push(Try {
                id,
                address: address.clone(),
                started_ms: now_ms,
            });
            steps.push(RaceStep::Start { id, address });
        }
        if self.running.is_empty() {
            steps.push(RaceStep::Exhausted);
        }
        steps
    }

    /// Takes a try out; its address when it was running.
    pub(super) fn lost(&mut self, id: TryId) -> Option<String> {
        let at = self.running.iter().position(|t| t.id == id)?;
        Some(self.running.swap_remove(at).address)
    }

    /// What `address` delivered is good enough only if nobody else delivers: it is tried again at the
    /// end of the round. Of several the first.
    pub(super) fn put_off(&mut self, address: String) {
        self.put_off.get_or_insert(address);
    }

    /// Everybody had a turn; who is tried now was put off.
    pub(super) fn is_last_resort(&self) -> bool {
        self.last_resort
    }

    /// Ends the race; the tries still under way.
    pub(super) fn stop(&mut self) -> Vec<TryId> {
        self.waiting.clear();
        self.running.drain(..).map(|t| t.id).collect()
    }

    pub(super) fn is_running(&self, id: TryId) -> bool {
        self.running.iter().any(|t| t.id == id)
    }

    pub(super) fn running(&self) -> Vec<&str> {
        self.running.iter().map(|t| t.address.as_str()).collect()
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        let timeouts = self.running.iter().map(|t| t.started_ms + self.timeout_ms);
        let hedge = (!self.waiting.is_empty()).then_some(self.last_start_ms + HEDGE_MS);
        timeouts.chain(hedge).min().unwrap_or(0)
    }
}
