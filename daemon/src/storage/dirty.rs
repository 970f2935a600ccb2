//! Dirty partitions: which partitions of which member have to be compared, because a hint owed to
//! it was given up. Kept in the table, so that a restart does not forget what was given up.
//!
//! Each mark has a number that rises whenever a hint is given up there: a comparison shows nothing
//! of what was given up while it went on. The numbers are of this life only, and no comparison
//! outlives it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ringmaster_shared::id::{NodeId, PartitionId};

const TAG: u8 = b'd';

/// Under which name the table keeps the mark.
pub(super) fn note(target: &NodeId, partition: PartitionId) -> Vec<u8> {
    let mut name = vec![TAG];
    name.extend_from_slice(&partition.to_be_bytes());
    name.extend_from_slice(target.as_str().as_bytes());
    name
}

fn from_note(name: &[u8]) -> Option<(NodeId, PartitionId)> {
    let (tag, rest) = name.split_first()?;
    let (partition, target) = rest.split_first_chunk()?;
    let target = std::str::from_utf8(target).ok()?;
    let target = NodeId::new(target).ok()?;
    (*tag == TAG).then(|| (target, PartitionId::from_be_bytes(*partition)))
}

type Mark = (NodeId, PartitionId);

#[derive(Default)]
struct Marks {
    dirty: BTreeSet<Mark>,
    /// Also of those that were cleared, so that no number comes twice; as many as members and
    /// partitions make.
    numbers: BTreeMap<Mark, u64>,
}

#[derive(Default)]
pub(super) struct Dirty {
    marks: Mutex<Marks>,
}

impl Dirty {
    pub fn contains(&self, target: &NodeId, partition: PartitionId) -> bool {
        self.lock().dirty.contains(&(target.clone(), partition))
    }

    pub fn set(&self, target: &NodeId, partition: PartitionId, dirty: bool) {
        let mark = (target.clone(), partition);
        if dirty {
            self.lock().dirty.insert(mark);
        } else {
            self.lock().dirty.remove(&mark);
        }
    }

    /// Another hint is given up there, whether it is marked already or is about to be.
    pub fn raise(&self, target: &NodeId, partition: PartitionId) {
        let mark = (target.clone(), partition);
        *self.lock().numbers.entry(mark).or_default() += 1;
    }

    /// 0: not raised in this life.
    pub fn number(&self, target: &NodeId, partition: PartitionId) -> u64 {
        let mark = (target.clone(), partition);
        self.lock().numbers.get(&mark).copied().unwrap_or_default()
    }

    /// Partitions by member, in order.
    pub fn all(&self) -> BTreeMap<NodeId, Vec<PartitionId>> {
        let mut all: BTreeMap<NodeId, Vec<PartitionId>> = BTreeMap::new();
        for (target, partition) in &self.lock().dirty {
            all.entry(target.clone()).or_default().push(*partition);
        }
        all
    }

    /// The same, each partition with its number.
    pub fn numbered(&self) -> BTreeMap<NodeId, BTreeMap<PartitionId, u64>> {
        let mut all: BTreeMap<NodeId, BTreeMap<PartitionId, u64>> = BTreeMap::new();
        let marks = self.lock();
        for mark in &marks.dirty {
            let number = marks.numbers.get(mark).copied().unwrap_or_default();
            let (target, partition) = mark.clone();
            all.entry(target).or_default().insert(partition, number);
        }
        all
    }

    pub fn clear(&self) {
        self.lock().dirty.clear();
    }

    /// Takes over a mark that the table kept; `false` when the note is about something else.
    pub fn remember(&self, name: &[u8]) -> bool {
        from_note(name).is_some_and(|mark| {
            self.lock().dirty.insert(mark);
            true
        })
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_from_their_names() {
        let node = |name: &str| NodeId::new(name).expect("valid");
        let dirty = Dirty::default();
        for (target, partition) in [(node("a"), 1), (node("a"), 300), (node("node-2"), 0)] {
            assert!(dirty.remember(&note(&target, partition)));
        }
        assert!(!dirty.remember(b"f\0\x01") && !dirty.remember(b""));
        let all = BTreeMap::from([(node("a"), vec![1, 300]), (node("node-2"), vec![0])]);
        assert_eq!(dirty.all(), all);
        dirty.set(&node("a"), 1, false);
        assert!(!dirty.contains(&node("a"), 1) && dirty.contains(&node("a"), 300));
    }
}
