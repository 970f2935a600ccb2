//! One group commit in the making: what the requests of a batch come to, and who waits for it.
//!
//! Entries for the same key are combined, so the log gets each key's final record once.

use std::{collections::HashMap, sync::Arc};

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::{Record, VersionVector},
};

use super::{
    applier::Sealed,
    request::{Reply, Request},
};
use crate::storage::{
    Merged, StorageError, commit_log::LogOp, core::Core, hints, record, table::TableError,
};

/// Who waits for the batch.
struct Waiter {
    answer: Answer,
    /// The request adds nothing to this batch, nor did it lean on anything in it: the answer holds
    /// also when the batch is given up, once the one before is in the table.
    adds_nothing: bool,
    touched: Touched,
}

/// Which entries of the batch a request made or leaned on.
#[derive(Clone, Copy)]
enum Touched {
    None,
    One(usize),
    More,
}

impl Touched {
    fn also(&mut self, at: usize) {
        *self = match self {
            Self::None => Self::One(at),
            Self::One(one) if *one == at => Self::One(at),
            Self::One(_) | Self::More => Self::More,
        };
    }
}

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

impl Answer {
    fn done(reply: Reply<()>, (): ()) -> Self {
        Self::Done(reply)
    }

    fn give(self) {
        match self {
            Self::Merged(reply, merged) => drop(reply.send(Ok(merged))),
            Self::Hinted(reply, kept) => drop(reply.send(Ok(kept))),
            Self::Done(reply) => drop(reply.send(Ok(()))),
        }
    }

    fn refuse(self, error: &StorageError) {
        match self {
            Self::Merged(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Hinted(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Done(reply) => drop(reply.send(Err(error.clone()))),
        }
    }
}

/// What to answer later; who is refused hears it at once.
fn accepted<T>(
    reply: Reply<T>,
    staged: Result<T, StorageError>,
    answer: impl FnOnce(Reply<T>, T) -> Answer,
) -> Option<Answer> {
    match staged {
        Ok(value) => Some(answer(reply, value)),
        Err(error) => {
            drop(reply.send(Err(error)));
            None
        }
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

/// The join, when it knows more than `current`.
fn joined(current: Option<&Record>, incoming: Record) -> Option<Record> {
    let Some(current) = current else {
        let knows_something = !incoming.clock.is_empty() || !incoming.siblings.is_empty();
        return knows_something.then_some(incoming);
    };
    let merged = current.merge(&incoming);
    (merged != *current).then_some(merged)
}

/// Whether the join with a record that knows `clock` is `incoming` itself: it knows all that, and each
/// of its siblings is news. No sibling of the other can stay: a record's vector covers them all.
fn supersedes(incoming: &Record, clock: &VersionVector) -> bool {
    let mut siblings = incoming.siblings.iter();
    incoming.clock.dominates(clock)
        && !incoming.siblings.is_empty()
        && siblings.all(|s| !clock.covers(&s.dot))
        && incoming.siblings.is_sorted_by(|a, b| a.dot < b.dot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringmaster_shared::version::{Actor, Dot, Sibling};

    use super::*;
    use crate::storage::testing::node;

    /// Records as replicas come to hold them: written by a few actors on what they saw, all of it or
    /// a part, and joined.
    fn pool(steps: Vec<(u8, u8, u8, bool)>) -> Vec<Record> {
        let mut pool = vec![Record::default()];
        let mut counters = [0_u64; 3];
        for (n, (base, other, actor, write)) in steps.into_iter().enumerate() {
            let at = |n: u8| usize::from(n) % pool.len();
            let (base, other) = (&pool[at(base)], &pool[at(other)]);
            let next = if write {
                let actor = usize::from(actor) % counters.len();
                counters[actor] += 1;
                let dot = Dot {
                    actor: Actor {
                        node: node(&format!("n{actor}")),
                        epoch: 1,
                    },
                    counter: counters[actor],
                };
                let written = Sibling {
                    dot,
                    hlc: Hlc(n as u64 + 1),
                    value: None,
                };
                Record::written(base, &other.clock, written)
            } else {
                base.merge(other)
            };
            pool.push(next);
        }
        pool
    }

    proptest! {
        #[test]
        fn what_supersedes_a_record_is_the_join_with_it(
            steps in prop::collection::vec(any::<(u8, u8, u8, bool)>(), 1..24),
        ) {
            let pool = pool(steps);
            for current in &pool {
                for incoming in &pool {
                    if supersedes(incoming, &current.clock) {
                        let join = joined(Some(current), incoming.clone());
                        prop_assert_eq!(join.as_ref(), Some(incoming));
                    }
                }
            }
        }
    }

    #[test]
    fn a_write_on_what_is_here_supersedes_it_and_one_beside_it_does_not() {
        let write = |on: &Record, name: &str, counter| {
            let dot = Dot {
                actor: Actor {
                    node: node(name),
                    epoch: 1,
                },
                counter,
            };
            let hlc = Hlc(counter);
            let value = None;
            Record::written(on, &on.clock, Sibling { dot, hlc, value })
        };
        let first = write(&Record::default(), "a", 1);
        let next = write(&first, "b", 1);
        let beside = write(&Record::default(), "c", 1);
        for (incoming, current, wanted) in [
            (&next, &first, true),
            (&first, &first, false),
            (&first, &next, false),
            (&beside, &first, false),
            (&first.merge(&beside), &first, false),
        ] {
            assert_eq!(supersedes(incoming, &current.clock), wanted);
        }
    }
}
