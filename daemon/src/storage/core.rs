//! What the committer and the readers share: the table, and the figures kept beside it.
//!
//! **Invariant.** Nothing enters the table that is not synced in the commit log before, so a
//! reader that goes straight to the table sees only what survives a crash. Only the committer
//! (and recovery, before there is one) calls what changes state here.

use std::{
    collections::HashSet,
    ops::Bound,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ringmaster_shared::{clock::Hlc, id::PartitionId, key::Key, version::Record};

use super::{
    StorageError, StoreStats,
    commit_log::LogOp,
    damaged::Damaged,
    digest::Digests,
    dirty::{self, Dirty},
    floors::{self, Floors},
    hints::{self, Ledger},
    record::Meta,
    summary::Summary,
    table::{Table, TableError},
};

/// How long a measured size on disk is good for.
const SIZE_TTL: Duration = Duration::from_secs(1);
const PARTITION_BYTES: usize = 2;

pub(super) struct Core {
    pub table: Table,
    pub digests: Digests,
    pub ledger: Ledger,
    pub floors: Floors,
    pub dirty: Dirty,
    pub partition_count: u16,
    pub hint_bytes_max: u64,
    pub log_syncs: AtomicU64,
    pub log_records: AtomicU64,
    pub log_bytes: AtomicU64,
    keys: AtomicU64,
    tombstones: AtomicU64,
    /// Tombstones by partition, so that nobody looks for some where there are none.
    tombstones_in: Vec<AtomicU32>,
    /// Tombstones forgotten since the start.
    forgotten: AtomicU64,
    poison: OnceLock<String>,
    /// Something in the table could not be read: a clean close leaves no summary.
    unreadable: AtomicBool,
    damaged: Damaged,
    /// Somebody took it on himself to say so.
    told_unreadable: AtomicBool,
    table_size: Mutex<Option<(Instant, u64)>>,
}

/// `partition u16 BE, key`: one partition is one range, in key order.
pub(super) fn item_key(partition: PartitionId, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PARTITION_BYTES + key.len());
    bytes.extend_from_slice(&partition.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// The key in an item key, as bytes.
pub(super) fn key_part(item: &[u8]) -> &[u8] {
    item.get(PARTITION_BYTES..).unwrap_or_default()
}

pub(super) fn split_item_key(item: &[u8]) -> Result<(PartitionId, Key), TableError> {
    let partition = item.first_chunk().map(|b| PartitionId::from_be_bytes(*b));
    let key = std::str::from_utf8(key_part(item)).ok();
    partition
        .zip(key.and_then(|k| Key::new(k).ok()))
        .ok_or_else(|| TableError::Damaged("a stored key is not a key".to_owned()))
}

impl Core {
    pub fn new(table: Table, partition_count: u16, hint_bytes_max: u64) -> Self {
        Self {
            table,
            digests: Digests::new(partition_count),
            ledger: Ledger::default(),
            floors: Floors::new(partition_count),
            dirty: Dirty::default(),
            partition_count,
            hint_bytes_max,
            log_syncs: AtomicU64::new(0),
            log_records: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            tombstones: AtomicU64::new(0),
            tombstones_in: (0..partition_count).map(|_| AtomicU32::new(0)).collect(),
            forgotten: AtomicU64::new(0),
            poison: OnceLock::new(),
            unreadable: AtomicBool::new(false),
            damaged: Damaged::default(),
            told_unreadable: AtomicBool::new(false),
            table_size: Mutex::new(None),
        }
    }

    /// Something could not be read, whoever wanted it.
    pub fn note_unreadable(&self) {
        self.unreadable.store(true, Ordering::Relaxed);
    }

    /// The record of this key was read and is damaged. Behind a sound head it shows in the digests as
    /// another record, until it is replaced: so the next comparison brings it back.
    pub fn note_damaged(&self, key: &Key) {
        self.note_unreadable();
        let item = self.record_item(key);
        // by now it may have been replaced
        let still = matches!(self.table.records.get(&item), Err(TableError::Damaged(_)));
        let head = self.table.records.meta(&item).ok().flatten();
        if let Some(head) = head.filter(|_| still)
            && self.damaged.note(key, head.fingerprint)
        {
            let shown = Damaged::shown(head.fingerprint);
            self.show(key, Some(head.fingerprint), Some(shown));
        }
    }

    pub fn damaged(&self) -> &Damaged {
        &self.damaged
    }

    /// Whether `incoming` may stand for the key's record, which cannot be read.
    ///
    /// It may when it is that very record, by the fingerprint in the head; or when the record is
    /// damaged and all that the head's vector covers is covered by that of `incoming`. Then the join
    /// of the two, could it be made, would keep no sibling that `incoming` does not hold: each sibling
    /// of a record is covered by its vector, and one that is covered and not held was superseded.
    /// The join could only hold fewer: what this record alone knew to be superseded may show again.
    pub fn may_stand_for(&self, key: &Key, incoming: &Record) -> bool {
        let item = self.record_item(key);
        let Ok(Some(head)) = self.table.records.meta(&item) else {
            return false;
        };
        if head.fingerprint == incoming.fingerprint() {
            return true;
        }
        let version = || self.table.records.version(&item).ok().flatten();
        self.damaged.is(key, head.fingerprint)
            && version().is_some_and(|stored| incoming.clock.dominates(&stored.clock))
    }

    /// It was read, and is sound.
    pub fn note_sound(&self, key: &Key) {
        if let Some(fingerprint) = self.damaged.forget(key) {
            let shown = Damaged::shown(fingerprint);
            self.show(key, Some(shown), Some(fingerprint));
        }
    }

    /// What others are told of the stored record.
    pub fn shown_fingerprint(&self, key: &Key, stored: u64) -> u64 {
        if self.damaged.is(key, stored) {
            Damaged::shown(stored)
        } else {
            stored
        }
    }

    fn show(&self, key: &Key, old: Option<u64>, new: Option<u64>) {
        let hash = key.hash();
        let partition = key.partition(self.partition_count);
        self.digests.change(partition, hash, old, new);
    }

    /// `true` the first time.
    pub fn tell_unreadable(&self) -> bool {
        self.note_unreadable();
        !self.told_unreadable.swap(true, Ordering::Relaxed)
    }

    pub fn is_unreadable(&self) -> bool {
        self.unreadable.load(Ordering::Relaxed)
    }

    pub fn record_item(&self, key: &Key) -> Vec<u8> {
        item_key(key.partition(self.partition_count), key.as_str().as_bytes())
    }

    /// Brings a synced log entry into the table and the figures.
    pub fn apply(&self, op: &LogOp, lsn: u64) -> Result<(), TableError> {
        match op {
            LogOp::Put { key, record } => {
                let (old, new) = self
                    .table
                    .records
                    .put(&self.record_item(key), record, lsn)?;
                self.count(key, old.as_ref(), Some(&new));
            }
            LogOp::Drop { partition, through } => {
                let prefix = partition.to_be_bytes();
                let first = Bound::Included(prefix.to_vec());
                for row in self.table.records.range(first, &prefix) {
                    let item = row?.key;
                    if key_part(item.as_ref()) > through.as_str().as_bytes() {
                        break;
                    }
                    let old = self.table.records.remove(item.as_ref())?;
                    let (_, key) = split_item_key(item.as_ref())?;
                    self.count(&key, old.as_ref(), None);
                }
            }
            LogOp::HintPut {
                target,
                key,
                record,
            } => {
                let item = hints::item_key(target, key);
                let (old, new) = self.table.hints.put(&item, record, lsn)?;
                self.ledger
                    .change(target, old.map(|o| o.stored_len), Some(new.stored_len));
            }
            LogOp::HintRemove { target, key } => {
                let old = self.table.hints.remove(&hints::item_key(target, key))?;
                self.ledger.change(target, old.map(|o| o.stored_len), None);
            }
            LogOp::Forget {
                partition,
                keys,
                floor,
            } => {
                for key in keys {
                    let old = self.table.records.remove(&self.record_item(key))?;
                    self.count(key, old.as_ref(), None);
                    self.forgotten.fetch_add(1, Ordering::Relaxed);
                }
                self.keep_floor(*partition, *floor)?;
            }
            LogOp::RaiseFloor { partition, floor } => self.keep_floor(*partition, *floor)?,
            LogOp::MarkDirty { target, partition } => {
                self.table.notes.set(&dirty::note(target, *partition), 1)?;
                self.dirty.set(target, *partition, true);
            }
            LogOp::ClearDirty { target, partition } => {
                self.table.notes.remove(&dirty::note(target, *partition))?;
                self.dirty.set(target, *partition, false);
            }
        }
        Ok(())
    }

    fn keep_floor(&self, partition: PartitionId, floor: Hlc) -> Result<(), TableError> {
        self.floors.keep(partition, floor);
        // the entry of a lower one may be replayed, or come later in the same batch
        let highest = self.floors.kept(partition);
        self.table.notes.set(&floors::note(partition), highest.0)
    }

    /// Upper bound of the tombstones in a partition.
    pub fn tombstones_in(&self, partition: PartitionId) -> u32 {
        let count = self.tombstones_in.get(usize::from(partition));
        count.map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// [`Self::apply`] for an entry that the table may already hold, or hold something newer of:
    /// records are merged. A record whose body is missing behind a sound head is replaced, for the log
    /// has all of it; a damaged head ends the replay, and recovery looks at the table as a whole. A
    /// body in a file is written anew even when it is the same: see [`super::table`].
    pub fn replay(&self, op: LogOp, lsn: u64) -> Result<(), TableError> {
        let LogOp::Put { key, mut record } = op else {
            return self.apply(&op, lsn);
        };
        let (item, records) = (self.record_item(&key), &self.table.records);
        match records.get(&item) {
            Ok(Some(current)) => {
                let merged = current.merge(&record);
                if merged == current && !records.is_in_file(&item)? {
                    return Ok(());
                }
                record = merged;
            }
            Ok(None) | Err(TableError::Damaged(_)) => {}
            Err(failed) => return Err(failed),
        }
        self.apply(&LogOp::Put { key, record }, lsn)
    }

    fn count(&self, key: &Key, old: Option<&Meta>, new: Option<&Meta>) {
        // whatever stood there is replaced
        self.note_sound(key);
        self.show(key, old.map(|m| m.fingerprint), new.map(|m| m.fingerprint));
        let partition = key.partition(self.partition_count);
        for (meta, by) in [(old, u64::MAX), (new, 1)] {
            // adding u64::MAX takes one away
            let counter = match meta {
                Some(meta) if meta.present => &self.keys,
                Some(_) => {
                    if let Some(count) = self.tombstones_in.get(usize::from(partition)) {
                        count.fetch_add(by as u32, Ordering::Relaxed);
                    }
                    &self.tombstones
                }
                None => continue,
            };
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Derives all figures anew from the table, and clears what a kill left half done.
    pub fn recount(&self) -> Result<(), TableError> {
        self.digests.clear();
        self.ledger.clear();
        self.keys.store(0, Ordering::Relaxed);
        self.tombstones.store(0, Ordering::Relaxed);
        self.forgotten.store(0, Ordering::Relaxed);
        for count in &self.tombstones_in {
            count.store(0, Ordering::Relaxed);
        }
        self.read_notes()?;
        let mut bodies = HashSet::new();
        for row in self.table.records.range(Bound::Unbounded, &[]) {
            let row = row?;
            let (partition, key) = split_item_key(row.key.as_ref())?;
            if partition != key.partition(self.partition_count) {
                let count = self.partition_count;
                return Err(TableError::Failed(format!(
                    "its data was not written with {count} partitions; it belongs to another cluster"
                )));
            }
            self.count(&key, None, Some(&row.meta));
            bodies.extend(row.meta.body.map(|b| b.stamp));
        }
        self.table.records.remove_orphans(|s| bodies.contains(&s))?;
        bodies.clear();
        for row in self.table.hints.range(Bound::Unbounded, &[]) {
            let row = row?;
            let (target, _) = hints::split_item_key(row.key.as_ref())
                .ok_or_else(|| TableError::Damaged("a stored hint has no key".to_owned()))?;
            self.ledger.change(&target, None, Some(row.meta.stored_len));
            bodies.extend(row.meta.body.map(|b| b.stamp));
        }
        self.table.hints.remove_orphans(|s| bodies.contains(&s))?;
        Ok(())
    }

    /// The figures as they are, for a clean close.
    pub fn summary(&self, lsn: u64) -> Summary {
        Summary {
            lsn,
            partition_count: self.partition_count,
            keys: self.keys.load(Ordering::Relaxed),
            tombstones: self.tombstones.load(Ordering::Relaxed),
            tombstones_in: (0..self.partition_count)
                .map(|p| self.tombstones_in(p))
                .collect(),
            leaves: self.digests.all(),
            owed: self.ledger.all(),
        }
    }

    /// Takes over the figures of a clean close at `lsn`, and reads the notes; `false` when they are
    /// not those.
    pub fn restore(&self, summary: Summary, lsn: u64) -> Result<bool, TableError> {
        let fits = summary.lsn == lsn
            && summary.partition_count == self.partition_count
            && summary.tombstones_in.len() == self.tombstones_in.len();
        if !fits || !self.digests.restore(&summary.leaves) {
            return Ok(false);
        }
        self.read_notes()?;
        for (count, value) in self.tombstones_in.iter().zip(&summary.tombstones_in) {
            count.store(*value, Ordering::Relaxed);
        }
        self.keys.store(summary.keys, Ordering::Relaxed);
        self.tombstones.store(summary.tombstones, Ordering::Relaxed);
        self.ledger.restore(summary.owed);
        Ok(true)
    }

    /// Floors and dirty partitions, which lie in the table, into memory.
    fn read_notes(&self) -> Result<(), TableError> {
        self.dirty.clear();
        self.table.notes.visit(|name, value| {
            if !self.floors.remember(name, value)? {
                self.dirty.remember(name);
            }
            Ok(())
        })
    }

    /// Stops the engine for good; the first reason stays.
    pub fn poison(&self, why: &str) -> StorageError {
        if self.poison.set(why.to_owned()).is_ok() {
            tracing::error!("storage stopped, nothing more is written: {why}");
        }
        self.poison_error()
    }

    pub fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// The error of a poisoned engine, also for waiters the committer could not answer.
    pub fn poison_error(&self) -> StorageError {
        let why = self
            .poisoned()
            .unwrap_or("its thread ended without an answer");
        StorageError::Poisoned(why.to_owned())
    }

    pub fn stats(&self) -> StoreStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            keys: get(&self.keys),
            tombstones: get(&self.tombstones),
            tombstones_forgotten: get(&self.forgotten),
            bytes_on_disk: get(&self.log_bytes) + self.table_size(),
            log_syncs: get(&self.log_syncs),
            log_records: get(&self.log_records),
            // the disk is the guard's
            ..StoreStats::default()
        }
    }

    fn table_size(&self) -> u64 {
        let mut cached = self
            .table_size
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match *cached {
            Some((at, size)) if at.elapsed() < SIZE_TTL => size,
            stale => {
                let last = stale.map_or(0, |(_, size)| size);
                let size = self.table.size_on_disk().unwrap_or(last);
                *cached = Some((Instant::now(), size));
                size
            }
        }
    }
}
