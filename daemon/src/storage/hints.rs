//! Hints: records kept for nodes that did not get them. How they are named, and the ledger of
//! what is owed to whom.
//!
//! The hints themselves lie in the table; the ledger is in memory, counted at start.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use ringmaster_shared::{id::NodeId, key::Key};
use serde::{Deserialize, Serialize};

/// `target 0x00 key`; a node id holds no zero byte.
pub(super) fn item_key(target: &NodeId, key: &Key) -> Vec<u8> {
    let mut bytes = item_prefix(target);
    bytes.extend_from_slice(key.as_str().as_bytes());
    bytes
}

/// Where the hints of `target` begin.
pub(super) fn item_prefix(target: &NodeId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(target.as_str().len() + 64);
    bytes.extend_from_slice(target.as_str().as_bytes());
    bytes.push(0);
    bytes
}

pub(super) fn split_item_key(bytes: &[u8]) -> Option<(NodeId, Key)> {
    let zero = bytes.iter().position(|b| *b == 0)?;
    let target = std::str::from_utf8(&bytes[..zero]).ok()?;
    let key = std::str::from_utf8(&bytes[zero + 1..]).ok()?;
    Some((NodeId::new(target).ok()?, Key::new(key).ok()?))
}

/// Part of the summary a clean close leaves: a change of it needs a new format there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owed {
    count: u64,
    bytes: u64,
}

/// How many hints, and how many bytes of them, are kept for each node.
#[derive(Default)]
pub(super) struct Ledger {
    owed: Mutex<BTreeMap<NodeId, Owed>>,
}

impl Ledger {
    pub fn clear(&self) {
        self.lock().clear();
    }

    pub fn all(&self) -> BTreeMap<NodeId, Owed> {
        self.lock().clone()
    }

    /// Takes over what [`Self::all`] gave.
    pub fn restore(&self, owed: BTreeMap<NodeId, Owed>) {
        *self.lock() = owed;
    }

    /// A hint changed: sizes in bytes before and after, `None` for "no hint".
    pub fn change(&self, target: &NodeId, old: Option<u64>, new: Option<u64>) {
        let mut owed = self.lock();
        let entry = owed.entry(target.clone()).or_default();
        entry.count =
            (entry.count + u64::from(new.is_some())).saturating_sub(u64::from(old.is_some()));
        entry.bytes = (entry.bytes + new.unwrap_or(0)).saturating_sub(old.unwrap_or(0));
        if entry.count == 0 {
            owed.remove(target);
        }
    }

    pub fn bytes(&self, target: &NodeId) -> u64 {
        self.lock().get(target).map_or(0, |o| o.bytes)
    }

    pub fn counts(&self) -> BTreeMap<NodeId, u64> {
        let owed = self.lock();
        owed.iter().map(|(n, o)| (n.clone(), o.count)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Owed>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_follows_changes_and_forgets_the_paid() {
        let (a, b) = (
            NodeId::new("a").expect("valid"),
            NodeId::new("b").expect("valid"),
        );
        let ledger = Ledger::default();
        ledger.change(&a, None, Some(10));
        ledger.change(&a, None, Some(5));
        ledger.change(&b, None, Some(1));
        ledger.change(&a, Some(10), Some(30));
        assert_eq!((ledger.bytes(&a), ledger.bytes(&b)), (35, 1));
        assert_eq!(
            ledger.counts(),
            BTreeMap::from([(a.clone(), 2), (b.clone(), 1)])
        );
        ledger.change(&a, Some(30), None);
        ledger.change(&a, Some(5), None);
        assert_eq!(ledger.counts(), BTreeMap::from([(b, 1)]));
    }

    #[test]
    fn names_keep_target_and_key_apart() {
        let target = NodeId::new("node-1").expect("valid");
        let key = Key::new("a\0b/ü").expect("valid");
        let name = item_key(&target, &key);
        assert_eq!(split_item_key(&name), Some((target.clone(), key)));
        assert_eq!(split_item_key(b"no zero"), None);
        let longer = NodeId::new("node-10").expect("valid");
        assert!(!item_prefix(&longer).starts_with(&item_prefix(&target)));
    }
}
