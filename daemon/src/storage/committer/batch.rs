//! One group commit in the making: what the requests of a batch come to, and who waits for it.
//!
//! Entries for the same key are combined, so the log gets each key's final record once.

use std::{collections::HashMap, sync::Arc};

use ringmaster_shared::{id::NodeId, key::Key, version::Record};

use super::{Reply, Request, applier::Sealed};
use crate::storage::{
    StorageError, commit_log::LogOp, core::Core, hints, record, table::TableError,
};

/// Who to tell what once the batch is synced.
enum Answer {
    Merged(Reply<usize>, usize),
    Hinted(Reply<bool>, bool),
    Done(Reply<()>),
}

/// What a batch makes of a hint so far.
enum Staged<'a> {
    Untouched,
    Kept(&'a Record),
    Removed,
}

pub(super) struct Batch {
    core: Arc<Core>,
    /// The batch before, as long as it may not be in the table.
    before: Option<Arc<Sealed>>,
    ops: Vec<LogOp>,
    /// Where in `ops` the entry of a key is.
    records: HashMap<Key, usize>,
    hints: HashMap<(NodeId, Key), usize>,
    /// Bytes of hints this batch adds, by target.
    hint_growth: HashMap<NodeId, i64>,
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
            Request::Merge { entries, reply } => match self.merge_all(entries) {
                Ok(changed) => self.answers.push(Answer::Merged(reply, changed)),
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
                reply,
            } => match self.remove_hints(&target, delivered) {
                Ok(()) => self.answers.push(Answer::Done(reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            other => other.refuse(StorageError::Closed), // the committer handles these itself
        }
    }

    pub fn answer(self) {
        for answer in self.answers {
            match answer {
                Answer::Merged(reply, changed) => drop(reply.send(Ok(changed))),
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

    fn merge_all(&mut self, entries: Vec<(Key, Record)>) -> Result<usize, StorageError> {
        let mut changed = 0;
        for (key, incoming) in entries {
            changed += usize::from(self.merge(key, incoming)?);
        }
        Ok(changed)
    }

    fn merge(&mut self, key: Key, incoming: Record) -> Result<bool, StorageError> {
        let place = self.records.get(&key).copied();
        let current = if let Some(LogOp::Put { record, .. }) = place.map(|at| &self.ops[at]) {
            Some(record.clone())
        } else if let Some(record) = self.before.as_ref().and_then(|b| b.record(&key)) {
            Some(record.clone())
        } else {
            let item = self.core.record_item(&key);
            let current = self.core.table.records.get(&item);
            current.map_err(|e| unreadable(&key, &e))?
        };
        let Some(record) = joined(current.as_ref(), incoming) else {
            return Ok(false);
        };
        let op = LogOp::Put {
            key: key.clone(),
            record,
        };
        if let Some(at) = place {
            self.ops[at] = op;
        } else {
            self.records.insert(key, self.ops.len());
            self.ops.push(op);
        }
        Ok(true)
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
