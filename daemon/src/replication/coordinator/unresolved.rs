//! Writes of this coordinator whose outcome is not known: their dots may be held somewhere, or on
//! their way, and be read by somebody yet.
//!
//! A vector entry `actor -> n` speaks for all dots up to n. A later write of the same key may speak
//! so for an unresolved one when it supersedes all there is, or when it saw that one. Otherwise
//! (it has a context, or a condition) it would drop unseen what somebody may have read; so it takes
//! its dot from an actor that never gave one.
//!
//! Promises: bounded. When more are unresolved than are kept, every key counts as one of them until
//! the actor is another. Each actor adds an entry for good to the keys written under it, of which a
//! context holds some hundreds; so it is changed rarely, and a write that would need it more often is
//! refused.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ringmaster_shared::{
    key::Key,
    version::{Actor, Dot},
};
use tokio::time::Instant;

use crate::identity::IdentityStore;

/// Keys kept.
const KEYS_MAX: usize = 64 * 1024;
/// Changes of the actor in a row, and how long it takes until one more is allowed.
const CHANGES_MAX: u32 = 32;
const CHANGE_EVERY: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub struct Unresolved {
    state: Mutex<State>,
    /// Held by who changes the actor.
    turning: Arc<tokio::sync::Mutex<Changes>>,
}

/// How many changes of the actor were made of late.
#[derive(Debug, Default)]
struct Changes {
    made: u32,
    /// Since when the first of them counts.
    since: Option<Instant>,
}

impl Changes {
    /// Whether one more may be made now; it counts as made.
    fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let gone = now.duration_since(since).as_secs() / CHANGE_EVERY.as_secs();
        let gone = u32::try_from(gone).unwrap_or(u32::MAX);
        if gone >= self.made {
            (self.made, self.since) = (0, Some(now));
        } else {
            self.made -= gone;
            self.since = Some(since + CHANGE_EVERY * gone);
        }
        let allowed = self.made < CHANGES_MAX;
        self.made += u32::from(allowed);
        allowed
    }
}

#[derive(Debug, Default)]
struct State {
    /// Whose dots these are; dots of earlier actors can be spoken for by nobody any more.
    actor: Option<Actor>,
    /// By the hash of the key, the highest: what saw or superseded that one has dealt with those
    /// before it.
    counters: HashMap<u64, u64>,
    full: bool,
}

/// Why a write must not draw its dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSpared {
    /// The actor was changed too often of late.
    TooOften,
    /// The next one could not be written down.
    Storage(String),
}

impl Unresolved {
    /// The write of `key` that gave `dot` has ended, and it isn't known on a write quorum.
    pub fn note(&self, key: &Key, dot: &Dot) {
        let mut state = self.state();
        let known = state.actor.as_ref().map(|a| a.epoch);
        if known.is_some_and(|epoch| epoch > dot.actor.epoch) {
            return;
        }
        if state.actor.as_ref() != Some(&dot.actor) {
            *state = State {
                actor: Some(dot.actor.clone()),
                ..State::default()
            };
        }
        let hash = key.hash();
        if state.counters.len() >= KEYS_MAX && !state.counters.contains_key(&hash) {
            state.full = true;
            return;
        }
        let counter = state.counters.entry(hash).or_default();
        *counter = dot.counter.max(*counter);
    }

    /// It is on a write quorum after all, so every later query sees it.
    pub fn settle(&self, key: &Key, dot: &Dot) {
        let mut state = self.state();
        let hash = key.hash();
        let same = state.actor.as_ref() == Some(&dot.actor);
        // a later one is superseding it, or has seen it
        if same && state.counters.get(&hash).is_some_and(|n| *n <= dot.counter) {
            state.counters.remove(&hash);
        }
    }

    /// Whether a dot that `actor` gives `key` now would speak for an unresolved one that is `unseen`.
    pub fn is_at_risk(&self, actor: &Actor, key: &Key, unseen: impl Fn(&Dot) -> bool) -> bool {
        let state = self.state();
        if state.actor.as_ref() != Some(actor) {
            return false;
        }
        let dot = |counter: &u64| Dot {
            actor: actor.clone(),
            counter: *counter,
        };
        let kept = state.counters.get(&key.hash());
        state.full || kept.is_some_and(|counter| unseen(&dot(counter)))
    }

    /// Returns when the next dot that `identity` gives speaks for no unresolved one of `key` that is
    /// `unseen`. The caller holds the key, and sets the deadline.
    pub async fn spare(
        &self,
        identity: &IdentityStore,
        key: &Key,
        unseen: impl Fn(&Dot) -> bool,
    ) -> Result<(), NotSpared> {
        if !self.is_at_risk(&identity.actor(), key, &unseen) {
            return Ok(());
        }
        let mut turn = self.turning.clone().lock_owned().await;
        // who had the turn before may have done it for all
        if !self.is_at_risk(&identity.actor(), key, &unseen) {
            return Ok(());
        }
        if !turn.take(Instant::now()) {
            return Err(NotSpared::TooOften);
        }
        let identity = identity.clone();
        let renewing = tokio::task::spawn_blocking(move || {
            let renewed = identity.renew_actor();
            // only now, also when nobody waits any more: a disk that stands still is asked once
            drop(turn);
            renewed
        });
        match renewing.await {
            Ok(renewed) => renewed.map_err(|error| NotSpared::Storage(format!("{error:#}"))),
            Err(error) => Err(NotSpared::Storage(error.to_string())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
