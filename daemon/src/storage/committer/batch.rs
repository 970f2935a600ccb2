//! One group commit in the making: what the requests of a batch come to, and who waits for it.
//!
//! Entries for the same key are combined, so the log gets each key's final record once.

use std::{collections::HashMap, sync::Arc};

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::Record,
};

use super::{Reply, Request, applier::Sealed};
use crate::storage::{
    Merged, StorageError, commit_log::LogOp, core::Core, hints, record, table::TableError,
};

/// Who to tell what once the batch is synced.
enum Answer {
    Merged(Reply<Merged>, Merged),
    Hinted(Reply<bool>, bool),
    Done(Reply<()>),
}

/// What a batch makes of a hint so far.
enum Staged<'a> {
    Untouched,
    Kept(&'a Record),
    Removed,
}

/// What a batch makes of a record so far.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Its entry in the batch.
    Put(usize),
    /// An entry of the batch forgets it; a later write starts from nothing, in a new entry.
    Forgotten,
}

pub(super) struct Batch {
    core: Arc<Core>,
    /// The batch before, as long as it may not be in the table.
    before: Option<Arc<Sealed>>,
    ops: Vec<LogOp>,
    records: HashMap<Key, Place>,
    hints: HashMap<(NodeId, Key), usize>,
    /// Bytes of hints this batch adds, by target.
    hint_growth: HashMap<NodeId, i64>,
    /// Marks that this batch sets or clears.
    dirty: HashMap<(NodeId, PartitionId), bool>,
    answers: Vec<Answer>,
}

fn unreadable(key: &Key, e: &TableError) -> StorageError {
    StorageError::Read {
        what: format!(
            "the record of a key in the table (hash {:016x})",
            key.hash()
        ),
        why: e.why().to_owned(),
    }
}

impl Batch {
    pub fn new(core: Arc<Core>, before: Option<Arc<Sealed>>) -> Self {
        Self {
            core,
            before,
            ops: Vec::new(),
            records: HashMap::new(),
            hints: HashMap::new(),
            hint_growth: HashMap::new(),
            dirty: HashMap::new(),
            answers: Vec::new(),
        }
    }

    pub fn set_before(&mut self, before: Option<Arc<Sealed>>) {
        self.before = before;
    }

    /// Takes out what is to be committed; what remains are those who wait.
    pub fn seal(&mut self) -> Sealed {
        self.before = None;
        Sealed {
            ops: std::mem::take(&mut self.ops),
            records: std::mem::take(&mut self.records),
        }
    }

    /// Takes a request in. One that can't be read for is refused at once and alone.
    pub fn stage(&mut self, request: Request) {
        match request {
            Request::Merge {
                entries,
                issued,
                reply,
            } => match self.merge_all(entries, issued) {
                Ok(merged) => self.answers.push(Answer::Merged(reply, merged)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::HintAdd {
                target,
                key,
                record,
                reply,
            } => match self.add_hint(target, key, &record) {
                Ok(kept) => self.answers.push(Answer::Hinted(reply, kept)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::HintsDone {
                target,
                delivered,
                given_up,
                reply,
            } => {
                let removed = self.remove_hints(&target, delivered, given_up);
                self.settle(reply, removed);
            }
            Request::Forget {
                partition,
                keys,
                floor,
                reply,
            } => {
                let forgotten = self.forget(partition, keys, floor);
                self.settle(reply, forgotten);
            }
            Request::RaiseFloors { floors, reply } => {
                for (partition, floor) in floors {
                    self.raise_floor(partition, floor);
                }
                self.settle(reply, Ok(()));
            }
            Request::ClearDirty {
                target,
                partitions,
                reply,
            } => {
                for partition in partitions {
                    self.clear_dirty(&target, partition);
                }
                self.settle(reply, Ok(()));
            }
            other => other.refuse(StorageError::Closed), // the committer handles these itself
        }
    }

    fn settle(&mut self, reply: Reply<()>, staged: Result<(), StorageError>) {
        match staged {
            Ok(()) => self.answers.push(Answer::Done(reply)),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    pub fn answer(self) {
        for answer in self.answers {
            match answer {
                Answer::Merged(reply, merged) => drop(reply.send(Ok(merged))),
                Answer::Hinted(reply, kept) => drop(reply.send(Ok(kept))),
                Answer::Done(reply) => drop(reply.send(Ok(()))),
            }
        }
    }

    pub fn refuse(self, error: &StorageError) {
        for answer in self.answers {
            match answer {
                Answer::Merged(reply, _) => drop(reply.send(Err(error.clone()))),
                Answer::Hinted(reply, _) => drop(reply.send(Err(error.clone()))),
                Answer::Done(reply) => drop(reply.send(Err(error.clone()))),
            }
        }
    }

    fn merge_all(
        &mut self,
        entries: Vec<(Key, Record)>,
        issued: Hlc,
    ) -> Result<Merged, StorageError> {
        let mut merged = Merged::default();
        for (key, incoming) in entries {
            self.merge(key, incoming, issued, &mut merged)?;
        }
        Ok(merged)
    }

    fn merge(
        &mut self,
        key: Key,
        incoming: Record,
        issued: Hlc,
        merged: &mut Merged,
    ) -> Result<(), StorageError> {
        let floor = self
            .core
            .floors
            .get(key.partition(self.core.partition_count));
        let issued = if issued == Hlc::default() {
            oldest(&incoming)
        } else {
            issued
        };
        let place = self.records.get(&key).copied();
        let current = self.current(&key, place)?;
        let Some(record) = joined(current.as_ref(), incoming) else {
            return Ok(());
        };
        // what is here already is not refused: saying so is the truth
        if floor > Hlc::default() && issued <= floor {
            merged.stale += 1;
            merged.floor = merged.floor.max(floor);
            return Ok(());
        }
        merged.changed += 1;
        let op = LogOp::Put {
            key: key.clone(),
            record,
        };
        if let Some(Place::Put(at)) = place {
            self.ops[at] = op;
        } else {
            self.records.insert(key, Place::Put(self.ops.len()));
            self.ops.push(op);
        }
        Ok(())
    }

    /// The record as this batch leaves it so far.
    fn current(&self, key: &Key, place: Option<Place>) -> Result<Option<Record>, StorageError> {
        match place {
            Some(Place::Forgotten) => Ok(None),
            Some(Place::Put(at)) => match &self.ops[at] {
                LogOp::Put { record, .. } => Ok(Some(record.clone())),
                _ => Ok(None), // no other entry has a place
            },
            None => {
                if let Some(record) = self.before.as_ref().and_then(|b| b.record(key)) {
                    return Ok(Some(record.clone()));
                }
                let current = self.core.table.records.get(&self.core.record_item(key));
                current.map_err(|e| unreadable(key, &e))
            }
        }
    }

    fn forget(
        &mut self,
        partition: PartitionId,
        keys: Vec<(Key, u64)>,
        floor: Hlc,
    ) -> Result<(), StorageError> {
        let mut going = Vec::with_capacity(keys.len());
        for (key, fingerprint) in keys {
            if key.partition(self.core.partition_count) != partition {
                continue;
            }
            let place = self.records.get(&key).copied();
            let stored = match place {
                None => {
                    let meta = self.core.table.records.meta(&self.core.record_item(&key));
                    let meta = meta.map_err(|e| unreadable(&key, &e))?;
                    meta.map(|m| m.fingerprint)
                }
                place => self.current(&key, place)?.map(|r| r.fingerprint()),
            };
            if stored == Some(fingerprint) {
                self.records.insert(key.clone(), Place::Forgotten);
                going.push(key);
            }
        }
        self.core.floors.raise(partition, floor);
        self.ops.push(LogOp::Forget {
            partition,
            keys: going,
            floor,
        });
        Ok(())
    }

    fn raise_floor(&mut self, partition: PartitionId, floor: Hlc) {
        if self.core.floors.get(partition) < floor {
            self.core.floors.raise(partition, floor);
            self.ops.push(LogOp::RaiseFloor { partition, floor });
        }
    }

    /// A hint for `key` is not kept: its target must be compared there.
    fn mark_dirty(&mut self, target: &NodeId, key: &Key) {
        let partition = key.partition(self.core.partition_count);
        let mark = (target.clone(), partition);
        let marked = match self.dirty.get(&mark) {
            Some(dirty) => *dirty,
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

    fn clear_dirty(&mut self, target: &NodeId, partition: PartitionId) {
        self.dirty.insert((target.clone(), partition), false);
        self.ops.push(LogOp::ClearDirty {
            target: target.clone(),
            partition,
        });
    }

    fn add_hint(
        &mut self,
        target: NodeId,
        key: Key,
        incoming: &Record,
    ) -> Result<bool, StorageError> {
        let current = match self.staged_hint(&target, &key) {
            Staged::Kept(record) => Some(record.clone()),
            Staged::Removed => None,
            Staged::Untouched => {
                let item = hints::item_key(&target, &key);
                let current = self.core.table.hints.get(&item);
                current.map_err(|e| unreadable(&key, &e))?
            }
        };
        let Some(record) = joined(current.as_ref(), incoming.clone()) else {
            return Ok(true);
        };
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

    fn remove_hints(
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

    fn staged_hint(&self, target: &NodeId, key: &Key) -> Staged<'_> {
        let at = self.hints.get(&(target.clone(), key.clone()));
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

/// The join, when it knows more than `current`.
fn joined(current: Option<&Record>, incoming: Record) -> Option<Record> {
    let Some(current) = current else {
        let knows_something = !incoming.clock.is_empty() || !incoming.siblings.is_empty();
        return knows_something.then_some(incoming);
    };
    let merged = current.merge(&incoming);
    (merged != *current).then_some(merged)
}

/// The stamp of a record's oldest sibling: of a record that travels by itself (a hint), nothing in
/// it is older. One that was stamped after it had read an older sibling must not carry that along.
fn oldest(record: &Record) -> Hlc {
    let stamps = record.siblings.iter().map(|s| s.hlc);
    stamps.min().unwrap_or_default()
}
