//! Records that were read and are damaged behind a sound head, until they are replaced.
//!
//! Their heads say what the record should be, so the figures and digests go on as if all were well,
//! and no comparison would ever bring it back. So they are shown to others with another
//! fingerprint. Only remembered for this life: the next one finds them again by reading.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ringmaster_shared::key::Key;
use tokio::sync::Notify;

/// Remembered at most; what is beyond that waits until some of these are mended.
pub(super) const MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Damaged {
    /// With the fingerprint that the head of each has.
    keys: Mutex<HashMap<Key, u64>>,
    /// So that nobody takes the lock where there are none.
    count: AtomicUsize,
    found: Notify,
    /// Noted in this life, those included that are mended.
    seen: AtomicUsize,
}

impl Damaged {
    /// Whether it is new.
    pub fn note(&self, key: &Key, fingerprint: u64) -> bool {
        let mut keys = self.keys();
        if keys.len() >= MAX || keys.contains_key(key) {
            return false;
        }
        keys.insert(key.clone(), fingerprint);
        self.count.store(keys.len(), Ordering::Release);
        self.seen.fetch_add(1, Ordering::Release);
        self.found.notify_one();
        true
    }

    /// Waits until another is noted than were when this returned last; for one to wait at a time.
    pub async fn found(&self) {
        self.found.notified().await;
    }

    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::Acquire)
    }

    /// The first of them after a key, in key order, that are `wanted`.
    pub fn first(
        &self,
        after: Option<&Key>,
        limit: usize,
        wanted: impl Fn(&Key) -> bool,
    ) -> Vec<Key> {
        let mut keys: Vec<Key> = self.keys().keys().cloned().collect();
        keys.retain(|key| after.is_none_or(|after| key > after) && wanted(key));
        keys.sort_unstable();
        keys.truncate(limit);
        keys
    }

    /// The fingerprint it was noted with, if it was.
    pub fn forget(&self, key: &Key) -> Option<u64> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut keys = self.keys();
        let was = keys.remove(key);
        self.count.store(keys.len(), Ordering::Release);
        was
    }

    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub fn is(&self, key: &Key, fingerprint: u64) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.keys().get(key) == Some(&fingerprint)
    }

    /// The fingerprint that is shown in place of this one.
    pub fn shown(fingerprint: u64) -> u64 {
        !fingerprint
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<Key, u64>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
