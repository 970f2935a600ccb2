//! Dirty partitions: which partitions of which member have to be compared, because a hint owed to
//! it was given up. Kept in the table, so that a restart does not forget what was given up.

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

#[derive(Default)]
pub(super) struct Dirty {
    marks: Mutex<BTreeSet<(NodeId, PartitionId)>>,
}

impl Dirty {
    pub fn contains(&self, target: &NodeId, partition: PartitionId) -> bool {
        self.lock().contains(&(target.clone(), partition))
    }

    pub fn set(&self, target: &NodeId, partition: PartitionId, dirty: bool) {
        let mark = (target.clone(), partition);
        if dirty {
            self.lock().insert(mark);
        } else {
            self.lock().remove(&mark);
        }
    }

    /// Partitions by member, in order.
    pub fn all(&self) -> BTreeMap<NodeId, Vec<PartitionId>> {
        let mut all: BTreeMap<NodeId, Vec<PartitionId>> = BTreeMap::new();
        for (target, partition) in self.lock().iter() {
            all.entry(target.clone()).or_default().push(*partition);
        }
        all
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Takes over a mark that the table kept; `false` when the note is about something else.
    pub fn remember(&self, name: &[u8]) -> bool {
        from_note(name).is_some_and(|mark| {
            self.lock().insert(mark);
            true
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(NodeId, PartitionId)>> {
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
