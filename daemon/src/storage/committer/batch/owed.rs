//! What a batch makes of what is owed to other nodes: hints, and marks.
//!
//! A hint that is not kept, or is given up, leaves a mark on its partition, so that the target is
//! compared there.

use ringmaster_shared::{
    id::{NodeId, PartitionId},
    key::Key,
    version::Record,
};

use super::{Batch, join::joined, unreadable};
use crate::storage::{StorageError, commit_log::LogOp, hints, record};

/// What a batch makes of a hint so far.
enum Staged<'a> {
    Untouched,
    Kept(&'a Record),
    Removed,
}

impl Batch {
    /// A hint for `key` is not kept: its target must be compared there.
    fn mark_dirty(&mut self, target: &NodeId, key: &Key) {
        let partition = key.partition(self.core.partition_count);
        // a comparison that goes on now must not clear this
        self.core.dirty.raise(target, partition);
        let mark = (target.clone(), partition);
        let marked = match self.dirty.get(&mark) {
            Some(dirty) => {
                self.leans = true;
                *dirty
            }
            None => self.core.dirty.contains(target, partition),
        };
        if !marked {
            self.dirty.insert(mark, true);
            self.ops.push(LogOp::MarkDirty {
                target: target.clone(),
                partition,
            });
        }
    }

    pub(super) fn clear_dirty(&mut self, target: &NodeId, partition: PartitionId) {
        self.dirty.insert((target.clone(), partition), false);
        self.ops.push(LogOp::ClearDirty {
            target: target.clone(),
            partition,
        });
    }

    pub(super) fn add_hint(
        &mut self,
        target: NodeId,
        key: Key,
        incoming: Option<Record>,
    ) -> Result<bool, StorageError> {
        let Some(incoming) = incoming else {
            self.mark_dirty(&target, &key);
            return Ok(false);
        };
        let current = match self.staged_hint(&target, &key) {
            Staged::Kept(record) => Some(record.clone()),
            Staged::Removed => None,
            Staged::Untouched => {
                let item = hints::item_key(&target, &key);
                let current = self.core.table.hints.get(&item);
                current.map_err(|e| unreadable(&key, &e))?
            }
        };
        let Some(record) = joined(current.as_ref(), incoming) else {
            return Ok(true);
        };
        if self.read_only.is_some() {
            // a mark is a few bytes, once for a partition: without it nothing would say what is owed
            self.mark_dirty(&target, &key);
            return Ok(false);
        }
        let size = |r: &Record| i64::try_from(record::encoded_len(r)).unwrap_or(i64::MAX);
        let growth = size(&record) - current.as_ref().map_or(0, size);
        let staged = self.hint_growth.get(&target).copied().unwrap_or(0);
        let kept = i64::try_from(self.core.ledger.bytes(&target)).unwrap_or(i64::MAX);
        let max = i64::try_from(self.core.hint_bytes_max).unwrap_or(i64::MAX);
        if kept.saturating_add(staged).saturating_add(growth) > max {
            self.mark_dirty(&target, &key);
            return Ok(false);
        }
        *self.hint_growth.entry(target.clone()).or_default() += growth;
        let op = LogOp::HintPut {
            target: target.clone(),
            key: key.clone(),
            record,
        };
        self.stage_hint(target, key, op);
        Ok(true)
    }

    pub(super) fn remove_hints(
        &mut self,
        target: &NodeId,
        delivered: Vec<(Key, u64)>,
        given_up: bool,
    ) -> Result<(), StorageError> {
        for (key, fingerprint) in delivered {
            let stored = match self.staged_hint(target, &key) {
                Staged::Kept(record) => Some(record.fingerprint()),
                Staged::Removed => None,
                Staged::Untouched => {
                    let meta = self.core.table.hints.meta(&hints::item_key(target, &key));
                    let meta = meta.map_err(|e| unreadable(&key, &e))?;
                    meta.map(|m| m.fingerprint)
                }
            };
            if stored == Some(fingerprint) {
                if given_up {
                    self.mark_dirty(target, &key);
                }
                let op = LogOp::HintRemove {
                    target: target.clone(),
                    key: key.clone(),
                };
                self.stage_hint(target.clone(), key, op);
            }
        }
        Ok(())
    }

    fn staged_hint(&mut self, target: &NodeId, key: &Key) -> Staged<'_> {
        let at = self.hints.get(&(target.clone(), key.clone()));
        self.leans |= at.is_some();
        match at.map(|at| &self.ops[*at]) {
            None => Staged::Untouched,
            Some(LogOp::HintPut { record, .. }) => Staged::Kept(record),
            Some(_) => Staged::Removed,
        }
    }

    fn stage_hint(&mut self, target: NodeId, key: Key, op: LogOp) {
        match self.hints.entry((target, key)) {
            std::collections::hash_map::Entry::Occupied(place) => self.ops[*place.get()] = op,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(self.ops.len());
                self.ops.push(op);
            }
        }
    }
}
