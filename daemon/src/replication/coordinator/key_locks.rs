//! One write at a time per key on this coordinator. A correctness rule, not a convenience: a
//! vector entry speaks for all lower dots of its actor, so a dot of a key must be acknowledged or
//! given up before the next one of that key is issued (see `shared/src/version.rs`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ringmaster_shared::key::Key;
use tokio::sync::OwnedMutexGuard;

/// Writes that may wait for one key; more are turned away.
const WAITERS_MAX: usize = 256;

#[derive(Debug, Default)]
pub struct KeyLocks {
    keys: Mutex<HashMap<Key, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// Holder and waiters.
    users: usize,
}

/// Too many writes of this key wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded;

/// Holds the key until dropped.
pub struct KeyGuard {
    // dropped first, so that the next waiter goes on before the entry is considered
    _held: OwnedMutexGuard<()>,
    _ticket: Ticket,
}

/// Counts one user of an entry, also while it waits; a waiter that gives up leaves no trace.
struct Ticket {
    locks: Arc<KeyLocks>,
    key: Key,
}

impl KeyLocks {
    /// Waits for the key, first come first served. The caller sets the deadline.
    pub async fn lock(self: &Arc<Self>, key: &Key) -> Result<KeyGuard, Crowded> {
        let (lock, ticket) = self.enter(key)?;
        Ok(KeyGuard {
            _held: lock.lock_owned().await,
            _ticket: ticket,
        })
    }

    fn enter(
        self: &Arc<Self>,
        key: &Key,
    ) -> Result<(Arc<tokio::sync::Mutex<()>>, Ticket), Crowded> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = keys.entry(key.clone()).or_default();
        if entry.users > WAITERS_MAX {
            return Err(Crowded);
        }
        entry.users += 1;
        let ticket = Ticket {
            locks: self.clone(),
            key: key.clone(),
        };
        Ok((entry.lock.clone(), ticket))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut keys = self
            .locks
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = keys.get_mut(&self.key) {
            entry.users -= 1;
            if entry.users == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_key_at_a_time_and_nothing_left_behind() {
        let locks = Arc::new(KeyLocks::default());
        let (a, b) = (Key::new("a").expect("valid"), Key::new("b").expect("valid"));
        let held = locks.lock(&a).await.expect("free");
        assert!(
            locks.lock(&b).now_or_never().is_some(),
            "another key is free"
        );

        let mut waiting = Box::pin(locks.lock(&a));
        assert!((&mut waiting).now_or_never().is_none());
        let given_up = locks.lock(&a).now_or_never();
        assert!(given_up.is_none());
        drop(held);
        let held = waiting.await.expect("handed on");
        drop(held);
        assert!(locks.keys.lock().expect("sound").is_empty());
    }

    #[tokio::test]
    async fn a_crowd_is_turned_away() {
        let locks = Arc::new(KeyLocks::default());
        let key = Key::new("a").expect("valid");
        let tickets: Vec<_> = (0..=WAITERS_MAX).map(|_| locks.enter(&key)).collect();
        assert!(tickets.iter().all(Result::is_ok));
        assert!(locks.lock(&key).await.is_err());
    }
}
