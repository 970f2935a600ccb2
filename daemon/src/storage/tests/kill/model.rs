//! What may be in the store after a kill: the writers' plans, and what they said was done.
//!
//! Each writer does one operation after the other, in an order that its life's base and the
//! operation's index fix. So after a kill the store holds the state of the last operation that was
//! acknowledged, or of the one after it.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_shared::{key::Key, version::Record};

use super::super::{PARTITIONS, key_in};
use crate::storage::{
    StorageError, Store,
    testing::{key, node, record, tombstone},
};

/// Writers that each write a group of keys at once.
pub(super) const GROUPS: usize = 4;
/// Keys of a group: one request, so one entry in the log, so all or none.
const GROUP_KEYS: usize = 5;
/// The partition that is filled and dropped, and its keys: more than one step of a drop.
const DROPPED: u16 = 3;
const DROPPED_KEYS: usize = 300;

/// What the counters of one life start from.
pub(super) fn lives_of(n: u64) -> u64 {
    n * 1_000_000
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Writes all keys of a group with the next counter.
    Group(usize),
    /// Drops the partition, fills it with the next counter, drops it...
    Drop,
    /// Takes back all hints, leaves one with the next counter, takes it back...
    Hint,
}

/// Every fifth write is large, every other of these too large for the table; every seventh is a
/// tombstone.
fn write_of(counter: u64) -> Record {
    match counter {
        n if n % 7 == 0 => tombstone("a", n, n),
        n if n % 10 == 0 => record("a", n, n, 100_000),
        n if n % 5 == 0 => record("a", n, n, 40_000),
        n => record("a", n, n, 100),
    }
}

fn counter_of(record: &Record) -> u64 {
    record.clock.0.values().copied().max().unwrap_or(0)
}

/// Keys of a group, in other partitions than the one that is dropped.
fn group_key(group: usize, n: usize) -> Key {
    let partition = (u16::try_from(group).expect("few") + DROPPED + 1) % PARTITIONS;
    key_in(partition, group * 100 + n)
}

fn dropped_keys() -> Vec<Key> {
    let mut keys: Vec<Key> = (0..DROPPED_KEYS).map(|n| key_in(DROPPED, n)).collect();
    keys.sort();
    keys
}

impl Work {
    pub fn all() -> Vec<Self> {
        let groups = (0..GROUPS).map(Self::Group);
        groups.chain([Self::Drop, Self::Hint]).collect()
    }

    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// What the operation leaves; `None` is nothing.
    fn leaves(self, base: u64, index: u64) -> Option<u64> {
        match self {
            Self::Group(_) => Some(base + index + 1),
            Self::Drop | Self::Hint => (index % 2 == 1).then_some(base + index / 2 + 1),
        }
    }

    pub async fn act(self, store: &Store, base: u64, index: u64) -> Result<(), StorageError> {
        let leaves = self.leaves(base, index);
        match (self, leaves) {
            (Self::Group(g), counter) => {
                let r = write_of(counter.unwrap_or(0));
                let entries = (0..GROUP_KEYS).map(|n| (group_key(g, n), r.clone()));
                store.merge_many(entries.collect()).await?;
            }
            (Self::Drop, None) => store.drop_partition(DROPPED).await?,
            (Self::Drop, Some(n)) => {
                let r = record("a", n, n, 20);
                let entries = dropped_keys().into_iter().map(|k| (k, r.clone()));
                store.merge_many(entries.collect()).await?;
            }
            (Self::Hint, None) => {
                let kept = store.hints_for(&node("t"), 10)?;
                let done = kept.into_iter().map(|(k, r)| (k, r.fingerprint()));
                store.hints_done(&node("t"), done.collect()).await?;
            }
            (Self::Hint, Some(n)) => {
                let kept = store
                    .hint_add(&node("t"), key("hinted"), write_of(n))
                    .await?;
                assert!(kept, "within its budget");
            }
        }
        Ok(())
    }
}

/// What one writer may have left.
#[derive(Debug, Clone)]
struct Left {
    /// Counters; `None` is nothing.
    states: BTreeSet<Option<u64>>,
    /// A drop may have come half way.
    half: bool,
    /// The operation that is under way in this life.
    next: u64,
}

impl Default for Left {
    fn default() -> Self {
        Self {
            states: [None].into(),
            half: false,
            next: 0,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Model {
    base: u64,
    left: BTreeMap<Work, Left>,
}

impl Model {
    /// A life with this base.
    pub fn begins(&mut self, base: u64) {
        self.base = base;
        for work in Work::all() {
            self.left.entry(work).or_default().next = 0;
        }
    }

    pub fn acknowledged(&mut self, name: &str, base: u64, index: u64) {
        let work = Work::all().into_iter().find(|w| w.name() == name);
        let work = work.expect("one of the writers");
        let left = Left {
            states: [work.leaves(base, index)].into(),
            half: false,
            next: index + 1,
        };
        self.left.insert(work, left);
    }

    /// The life was ended in the middle of whatever was under way.
    pub fn ends(&mut self) {
        for (work, left) in &mut self.left {
            let leaves = work.leaves(self.base, left.next);
            left.half |= *work == Work::Drop && leaves.is_none();
            left.states.insert(leaves);
        }
    }

    /// Compares all that is stored, and goes on from what was found.
    pub fn check(&mut self, store: &Store, round: u64) {
        let (mut keys, mut tombstones) = (0, 0);
        for (work, left) in &mut self.left {
            let found = match work {
                Work::Group(g) => group_state(store, *g),
                Work::Drop => dropped_state(store, left.half),
                Work::Hint => hint_state(store),
            };
            assert!(
                left.states.contains(&found),
                "round {round}, {work:?}: found {found:?}, may be {left:?}"
            );
            left.states = [found].into();
            match (work, found) {
                (Work::Group(_), Some(n)) if n % 7 == 0 => tombstones += GROUP_KEYS as u64,
                (Work::Group(_), Some(_)) => keys += GROUP_KEYS as u64,
                (Work::Drop, Some(_)) => {
                    keys += dropped_keys()
                        .iter()
                        .filter(|k| store.get(k).expect("readable").is_some())
                        .count() as u64;
                }
                _ => {}
            }
        }
        let stats = store.stats();
        assert_eq!(
            (stats.keys, stats.tombstones),
            (keys, tombstones),
            "round {round}"
        );
        let kept = figures(store);
        store.inner.core.recount().expect("readable");
        assert_eq!(
            kept,
            figures(store),
            "round {round}: kept, and counted anew"
        );
    }
}

/// Everything that is kept beside the table.
fn figures(store: &Store) -> crate::storage::summary::Summary {
    store.inner.core.summary(0)
}

fn group_state(store: &Store, group: usize) -> Option<u64> {
    let stored = (0..GROUP_KEYS).map(|n| store.get(&group_key(group, n)).expect("readable"));
    let stored: Vec<Option<Record>> = stored.collect();
    assert!(
        stored.iter().all(|r| *r == stored[0]),
        "a request is there as a whole or not at all"
    );
    let counter = counter_of(stored[0].as_ref()?);
    assert_eq!(stored[0], Some(write_of(counter)), "whole and as written");
    Some(counter)
}

/// A drop goes from the lowest key up, so what one that was cut short leaves is an end.
fn dropped_state(store: &Store, may_be_half: bool) -> Option<u64> {
    let stored = dropped_keys().into_iter();
    let stored: Vec<Option<Record>> = stored
        .map(|k| store.get(&k).expect("readable"))
        .skip_while(Option::is_none)
        .collect();
    let counter = counter_of(stored.first()?.as_ref()?);
    let whole = Some(record("a", counter, counter, 20));
    assert!(stored.iter().all(|r| *r == whole), "only an end is left");
    assert!(
        may_be_half || stored.len() == DROPPED_KEYS,
        "{}",
        stored.len()
    );
    Some(counter)
}

fn hint_state(store: &Store) -> Option<u64> {
    let kept = store.hints_for(&node("t"), 10).expect("readable");
    assert_eq!(
        store.hints_owed().values().sum::<u64>(),
        kept.len() as u64,
        "the ledger"
    );
    let (name, r) = kept.first()?;
    assert_eq!((name.as_str(), kept.len()), ("hinted", 1));
    let counter = counter_of(r);
    assert_eq!(*r, write_of(counter), "whole and as written");
    Some(counter)
}
