//! Partitions that have to be compared because a write was not kept for one of their replicas, on
//! their way into the store.
//!
//! Promises: bounded, however long the store takes: many writes of one partition are one mark, and
//! whoever adds one never waits. A mark added while an earlier one of the same partition is being
//! stored is stored after it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ringmaster_shared::{
    id::{NodeId, PartitionId},
    key::Key,
};
use tokio::sync::Notify;

/// Marks that wait at most.
const WAITING_MAX: usize = 16 * 1024;
/// Marks stored at a time: they share a sync.
const BATCH: usize = 64;

#[derive(Default)]
pub struct Marks {
    /// By whom they are for; with the key of one of the writes.
    waiting: Mutex<BTreeMap<(NodeId, PartitionId), Key>>,
    bell: Notify,
}

impl Marks {
    /// `false`: there are too many already.
    pub fn add(&self, target: &NodeId, partition: PartitionId, key: &Key) -> bool {
        let mut waiting = self.waiting();
        let mark = (target.clone(), partition);
        if !waiting.contains_key(&mark) {
            if waiting.len() >= WAITING_MAX {
                return false;
            }
            waiting.insert(mark, key.clone());
        }
        drop(waiting);
        self.bell.notify_one();
        true
    }

    /// Takes some out, as soon as there are any.
    pub async fn next(&self) -> Vec<(NodeId, Key)> {
        loop {
            let taken = self.take();
            if !taken.is_empty() {
                return taken;
            }
            self.bell.notified().await;
        }
    }

    fn take(&self) -> Vec<(NodeId, Key)> {
        let mut waiting = self.waiting();
        let first = std::iter::from_fn(|| waiting.pop_first());
        let first = first.take(BATCH);
        first.map(|((target, _), key)| (target, key)).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<(NodeId, PartitionId), Key>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::replication::testing::{id, key};

    #[test]
    fn one_mark_for_many_writes_and_again_once_it_is_taken() {
        let marks = Marks::default();
        let names = |taken: Vec<(NodeId, Key)>| {
            let each = taken.iter().map(|(id, k)| format!("{id} {k}"));
            each.collect::<Vec<_>>()
        };
        assert!(marks.next().now_or_never().is_none());
        for (target, partition, k) in [
            ("b", 1, "k1"),
            ("b", 1, "k2"),
            ("b", 2, "k3"),
            ("a", 1, "k1"),
        ] {
            assert!(marks.add(&id(target), partition, &key(k)));
        }
        let taken = marks.next().now_or_never().expect("some wait");
        assert_eq!(names(taken), ["a k1", "b k1", "b k3"]);
        assert!(marks.next().now_or_never().is_none());
        assert!(marks.add(&id("b"), 1, &key("k2")), "while that is stored");
        let taken = marks.next().now_or_never().expect("one waits");
        assert_eq!(names(taken), ["b k2"]);
    }

    #[test]
    fn there_is_an_end_to_them() {
        let marks = Marks::default();
        let k = key("k");
        for n in 0..WAITING_MAX {
            let target = id(&format!("n{}", n / 1000));
            assert!(marks.add(&target, (n % 1000) as u16, &k));
        }
        assert!(!marks.add(&id("one-more"), 1, &k));
        assert!(marks.add(&id("n0"), 1, &k), "that one waits already");
        assert_eq!(marks.take().len(), BATCH);
        assert!(marks.add(&id("one-more"), 1, &k));
    }
}
