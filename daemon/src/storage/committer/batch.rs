//! One group commit in the making: what the requests of a batch come to, and who waits for it.
//!
//! Entries for the same key are combined, so the log gets each key's final record once. Here is what
//! becomes of records; what two of them come to is in [`join`], what is owed to others in [`owed`], and
//! who is told what in [`waiting`].

mod join;
mod owed;
mod waiting;

use std::{collections::HashMap, sync::Arc};

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::Record,
};

use self::{
    join::{joined, supersedes},
    waiting::{Answer, Touched, Waiter, accepted},
};
use super::{applier::Sealed, request::Request};
use crate::storage::{Merged, StorageError, commit_log::LogOp, core::Core, table::TableError};

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
    waiters: Vec<Waiter>,
    /// Why nothing may be added to the store, if so.
    read_only: Option<String>,
    /// The request that is being staged has met something that this batch does.
    leans: bool,
    /// The records that the request that is being staged made or met.
    touched: Touched,
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
    /// With `read_only`, a reason, only requests are taken that let something go, or that ask for
    /// what is so already.
    pub fn new(core: Arc<Core>, before: Option<Arc<Sealed>>, read_only: Option<String>) -> Self {
        Self {
            core,
            before,
            ops: Vec::new(),
            records: HashMap::new(),
            hints: HashMap::new(),
            hint_growth: HashMap::new(),
            dirty: HashMap::new(),
            waiters: Vec::new(),
            read_only,
            leans: false,
            touched: Touched::None,
        }
    }

    /// So far there is nothing to sync.
    pub fn changes_nothing(&self) -> bool {
        self.ops.is_empty()
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

    /// Takes a request in. One that can't be read for, or would add to a store that is read-only,
    /// is refused at once and alone.
    pub fn stage(&mut self, request: Request) {
        let before = self.ops.len();
        self.leans = false;
        self.touched = Touched::None;
        let answer = match request {
            Request::Merge {
                entries,
                issued,
                reply,
            } => {
                let merged = self.merge_all(entries, issued);
                accepted(reply, merged, Answer::Merged)
            }
            Request::HintAdd {
                target,
                key,
                record,
                reply,
            } => {
                let kept = self.add_hint(target, key, record);
                accepted(reply, kept, Answer::Hinted)
            }
            Request::HintsDone {
                target,
                delivered,
                given_up,
                reply,
            } => {
                let removed = self.remove_hints(&target, delivered, given_up);
                accepted(reply, removed, Answer::done)
            }
            Request::Forget {
                partition,
                keys,
                floor,
                reply,
            } => {
                let forgotten = self.forget(partition, keys, floor);
                accepted(reply, forgotten, Answer::done)
            }
            Request::RaiseFloors { floors, reply } => {
                for (partition, floor) in floors {
                    self.raise_floor(partition, floor);
                }
                Some(Answer::Done(reply))
            }
            Request::ClearDirty {
                target,
                partitions,
                reply,
            } => {
                for (partition, seen) in partitions {
                    if self.core.dirty.number(&target, partition) == seen {
                        self.clear_dirty(&target, partition);
                    }
                }
                Some(Answer::Done(reply))
            }
            // the committer handles these itself
            other => {
                other.refuse(StorageError::Closed);
                None
            }
        };
        if let Some(answer) = answer {
            let adds_nothing = self.ops.len() == before && !self.leans;
            self.waiters.push(Waiter {
                answer,
                adds_nothing,
                touched: self.touched,
            });
        }
    }

    /// Answers those whose request touched one record, when that is in the table by now: `is_done`
    /// knows it by its place among the entries. The batches before are.
    pub fn answer_some(&mut self, is_done: impl Fn(usize) -> bool) {
        let done = |waiter: &mut Waiter| matches!(waiter.touched, Touched::One(at) if is_done(at));
        for waiter in self.waiters.extract_if(.., done) {
            waiter.answer.give();
        }
    }

    pub fn answer(self) {
        for waiter in self.waiters {
            waiter.answer.give();
        }
    }

    pub fn refuse(self, error: &StorageError) {
        for waiter in self.waiters {
            waiter.answer.refuse(error);
        }
    }

    /// Refuses those whose request adds something; the others have their answer. Only when the
    /// batch before is in the table.
    pub fn refuse_new(self, error: &StorageError) {
        for waiter in self.waiters {
            if waiter.adds_nothing {
                waiter.answer.give();
            } else {
                waiter.answer.refuse(error);
            }
        }
    }

    fn may_add(&self) -> Result<(), StorageError> {
        let why = self.read_only.clone();
        why.map_or(Ok(()), |why| Err(StorageError::ReadOnly(why)))
    }

    fn merge_all(
        &mut self,
        entries: Vec<(Key, Record)>,
        issued: Hlc,
    ) -> Result<Merged, StorageError> {
        let mut merged = Merged::default();
        let mut unreadable = None;
        for (key, incoming) in entries {
            match self.merge(key, incoming, issued, &mut merged) {
                // it must not keep the others from being stored
                Err(error @ StorageError::Read { .. }) => drop(unreadable.get_or_insert(error)),
                other => other?,
            }
        }
        unreadable.map_or(Ok(merged), Err)
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
            // one that was stamped after it had read an older sibling must not carry that along
            incoming.min_hlc()
        } else {
            issued
        };
        let place = self.place(&key);
        if let Some(Place::Put(at)) = place {
            self.touched.also(at);
        }
        let Some(record) = self.join(&key, place, incoming)? else {
            return Ok(());
        };
        // what is here already is not refused: saying so is the truth
        if floor > Hlc::default() && issued <= floor {
            merged.stale += 1;
            merged.floor = merged.floor.max(floor);
            return Ok(());
        }
        self.may_add()?;
        merged.changed += 1;
        let op = LogOp::Put {
            key: key.clone(),
            record,
        };
        if let Some(Place::Put(at)) = place {
            self.ops[at] = op;
        } else {
            self.touched.also(self.ops.len());
            self.records.insert(key, Place::Put(self.ops.len()));
            self.ops.push(op);
        }
        Ok(())
    }

    fn place(&mut self, key: &Key) -> Option<Place> {
        let place = self.records.get(key).copied();
        self.leans |= place.is_some();
        place
    }

    /// What the key's record becomes with the incoming one; `None`: no other than it is.
    fn join(
        &self,
        key: &Key,
        place: Option<Place>,
        incoming: Record,
    ) -> Result<Option<Record>, StorageError> {
        let before = self.before.as_ref();
        if place.is_none() && before.is_none_or(|b| b.record(key).is_none()) {
            let found = self.core.table.records.version(&self.core.record_item(key));
            match found {
                Ok(None) => return Ok(joined(None, incoming)),
                // whoever writes has mostly seen what is here: then a large value need not be read
                Ok(Some(found)) if supersedes(&incoming, &found.clock) => {
                    return Ok(Some(incoming));
                }
                // why not, if so, is found out below
                Ok(Some(_)) | Err(_) => {}
            }
        }
        match self.current(key, place) {
            Ok(current) => {
                self.core.note_sound(key);
                Ok(joined(current.as_ref(), incoming))
            }
            Err(_) if place.is_none() && self.core.may_stand_for(key, &incoming) => {
                Ok(Some(incoming))
            }
            Err(why) => Err(why),
        }
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
                current.map_err(|e| {
                    if let TableError::Damaged(_) = e {
                        self.core.note_damaged(key);
                    }
                    unreadable(key, &e)
                })
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
            let place = self.place(&key);
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
        if self.core.floors.kept(partition) < floor {
            self.core.floors.raise(partition, floor);
            self.ops.push(LogOp::RaiseFloor { partition, floor });
        }
    }
}
