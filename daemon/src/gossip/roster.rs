//! Things of which each node has at most one, found by the node's id.
//!
//! A table of slot numbers beside one list of slots: a few bytes for each thing more than the
//! thing itself, the order of slots does not depend on hashes, and a slot's number stays valid
//! while its thing is there. That lets ten thousand members cost little, in a daemon and ten
//! thousand times over in the simulator.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use ringmaster_shared::id::NodeId;

/// Whose it is.
pub trait OfNode {
    fn node(&self) -> &NodeId;
}

/// Number of a slot; used again after its thing was removed.
pub type Slot = u32;

pub struct Roster<T> {
    table: HashTable<Slot>,
    slots: Vec<Option<T>>,
    free: Vec<Slot>,
    // ids come from the network: an attacker must not be able to choose colliding ones
    hashes: RandomState,
}

/// Grows a list by an eighth where others would double it: half empty lists of thousands of
/// members are most of what a node takes.
pub fn push_tightly<T>(list: &mut Vec<T>, thing: T) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 8).max(8));
    }
    list.push(thing);
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self {
            table: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hashes: RandomState::new(),
        }
    }
}

impl<T: OfNode> Roster<T> {
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn slot_of(&self, id: &NodeId) -> Option<Slot> {
        let slots = &self.slots;
        self.table
            .find(self.hashes.hash_one(id), |slot| is_of(slots, *slot, id))
            .copied()
    }

    pub fn get(&self, id: &NodeId) -> Option<&T> {
        self.at(self.slot_of(id)?)
    }

    pub fn get_mut(&mut self, id: &NodeId) -> Option<&mut T> {
        self.at_mut(self.slot_of(id)?)
    }

    pub fn at(&self, slot: Slot) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub fn at_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Takes `thing` in, in the place of what its node had.
    pub fn put(&mut self, thing: T) -> Slot {
        if let Some(slot) = self.slot_of(thing.node()) {
            self.slots[slot as usize] = Some(thing);
            return slot;
        }
        let hash = self.hashes.hash_one(thing.node());
        let slot = self.free.pop().unwrap_or(self.slots.len() as Slot);
        match self.slots.get_mut(slot as usize) {
            Some(place) => *place = Some(thing),
            None => push_tightly(&mut self.slots, Some(thing)),
        }
        let (slots, hashes) = (&self.slots, &self.hashes);
        self.table.insert_unique(hash, slot, |slot| {
            let thing = slots[*slot as usize].as_ref();
            thing.map_or(0, |thing| hashes.hash_one(thing.node()))
        });
        slot
    }

    pub fn remove(&mut self, id: &NodeId) -> Option<T> {
        let slots = &self.slots;
        let entry = self
            .table
            .find_entry(self.hashes.hash_one(id), |slot| is_of(slots, *slot, id))
            .ok()?;
        let (slot, _) = entry.remove();
        self.free.push(slot);
        self.slots[slot as usize].take()
    }

    #[cfg(test)]
    pub fn reserve(&mut self, more: usize) {
        self.slots.reserve_exact(more);
        let (slots, hashes) = (&self.slots, &self.hashes);
        self.table.reserve(more, |slot| {
            let thing = slots[*slot as usize].as_ref();
            thing.map_or(0, |thing| hashes.hash_one(thing.node()))
        });
    }

    /// In the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }
}

fn is_of<T: OfNode>(slots: &[Option<T>], slot: Slot, id: &NodeId) -> bool {
    slots[slot as usize]
        .as_ref()
        .is_some_and(|thing| thing.node() == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{super::testing::id, *};

    struct Thing(NodeId, usize);

    impl OfNode for Thing {
        fn node(&self) -> &NodeId {
            &self.0
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0..12usize, any::<bool>()), 1..80)) {
            let (mut roster, mut map) = (Roster::default(), BTreeMap::new());
            for (n, (who, put)) in steps.into_iter().enumerate() {
                let who = id(&format!("n{who}"));
                if put {
                    let slot = roster.put(Thing(who.clone(), n));
                    map.insert(who.clone(), n);
                    prop_assert_eq!(roster.at(slot).map(|t| t.1), Some(n));
                } else {
                    let (gone, known) = (roster.remove(&who), map.remove(&who));
                    prop_assert_eq!(gone.map(|t| t.1), known);
                }
                prop_assert_eq!(roster.len(), map.len());
                for (who, n) in &map {
                    prop_assert_eq!(roster.get(who).map(|t| t.1), Some(*n));
                }
                prop_assert_eq!(roster.iter().count(), map.len());
                prop_assert!(roster.slots.len() <= 12, "slots are used again");
            }
        }
    }
}
