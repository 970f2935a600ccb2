//! What was scanned to the end already: an attempt that fails costs the next one nothing of that.
//!
//! Promises: only complete scans count, and only for the ring and the purpose they were made for.
//!
//! A complete scan stays complete for as long as the epoch does, within an attempt as after it, and
//! for what a change brings also when its first step is decided anew: no
//! request of an earlier epoch is under way at a replica that lets itself be scanned, those of this one
//! ask this node as a replica, and no deleted key is forgotten before this node has its data. Leaves
//! scanning, and which scans suffice, to `transfer`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ringmaster_shared::{
    id::{NodeId, PartitionId},
    topology::Topology,
};

/// Which replicas were read to the end.
#[derive(Default)]
pub(super) struct Scans(Mutex<Complete>);

#[derive(Default)]
struct Complete {
    /// By which ring, and whether to get back what was lost.
    of: Option<(Arc<Topology>, bool)>,
    by: BTreeMap<PartitionId, BTreeSet<NodeId>>,
    /// Records that were new here.
    keys: usize,
}

impl Scans {
    /// Another ring, or another purpose, begins with nothing.
    pub fn begin(&self, ring: &Arc<Topology>, refill: bool) {
        let mut complete = self.lock();
        let goes_on = complete.of.as_ref().is_some_and(|(before, what)| {
            *what == refill && (before.epoch == ring.epoch || !refill && ring.begins_anew(before))
        });
        if !goes_on {
            *complete = Complete::default();
        }
        complete.of = Some((Arc::clone(ring), refill));
    }

    pub fn of(&self, partition: PartitionId) -> BTreeSet<NodeId> {
        let complete = self.lock();
        complete.by.get(&partition).cloned().unwrap_or_default()
    }

    pub fn add(&self, partition: PartitionId, id: &NodeId, keys: usize) {
        let mut complete = self.lock();
        let by = complete.by.entry(partition).or_default();
        by.insert(id.clone());
        complete.keys += keys;
    }

    /// Everything is here; returns how many records were new.
    pub fn end(&self) -> usize {
        std::mem::take(&mut *self.lock()).keys
    }

    fn lock(&self) -> MutexGuard<'_, Complete> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
