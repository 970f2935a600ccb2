//! An operator who changes the keys of a running cluster: a new one is installed everywhere, then
//! used, then the old one is removed, each order at another time at each node.
//!
//! The operator gives the next order when all that are up have followed the last. Who was down
//! meanwhile comes back with the keyring it had, which may be one that nobody reads any more, and
//! gets the orders it missed some seconds later.

use rand::Rng;

use super::{
    names::Who,
    nodes::Condition,
    wiring::Wiring,
    world::{Event, World},
};
use crate::gossip::secrecy::{Change, Key, Secrecy, Verify};

/// An order takes up to so long to a node.
const ORDER_MS_MAX: u64 = 4_000;
/// Who stands still gets it this much later.
const HELD_MS: u64 = 300;
/// The key that another cluster has.
const FOREIGN_KEY: u8 = 201;
/// Keys are numbered in the order in which they come into use.
const FIRST_KEY: u8 = 1;

/// What the operator wants done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Install(u8),
    Use(u8),
    Remove(u8),
}

impl Order {
    /// The order that follows so many.
    fn after(given: usize) -> Self {
        let old = FIRST_KEY + (given / 3) as u8;
        match given % 3 {
            0 => Self::Install(old + 1),
            1 => Self::Use(old + 1),
            _ => Self::Remove(old),
        }
    }

    fn as_change(self) -> Change {
        let key = |n: u8| Key::new([n; 32]);
        match self {
            Self::Install(n) => Change::Install(key(n)),
            Self::Use(n) => Change::Use(key(n).fingerprint()),
            Self::Remove(n) => Change::Remove(key(n).fingerprint()),
        }
    }
}

/// A node's keyring as its disk has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysKept {
    /// The primary first.
    ring: Vec<u8>,
    /// Orders it has followed.
    followed: usize,
}

impl KeysKept {
    pub fn of(ring: &[u8]) -> Self {
        Self {
            ring: ring.to_vec(),
            followed: 0,
        }
    }

    pub fn secrecy(&self, verify: Verify, generation: u64) -> Secrecy {
        Secrecy::for_tests(&self.ring, verify, generation)
    }

    fn follow(&mut self, order: Order) {
        match order {
            Order::Install(key) => self.ring.push(key),
            Order::Use(key) => {
                self.ring.retain(|k| *k != key);
                self.ring.insert(0, key);
            }
            Order::Remove(key) => self.ring.retain(|k| *k != key),
        }
        self.followed += 1;
    }
}

impl World {
    /// What the operator gives a new node.
    pub(super) fn keys_given(&self, cluster: u8) -> KeysKept {
        if cluster != 0 {
            return KeysKept::of(&[FOREIGN_KEY]);
        }
        let mut keys = KeysKept::of(&[FIRST_KEY]);
        for order in &self.orders {
            keys.follow(*order);
        }
        keys
    }

    /// The next order goes out, if all that are up have followed the last.
    pub fn rotate_keys(&mut self) {
        let up = self.who_is_up();
        let settled = |n: &Who| self.nodes[*n].keys.followed == self.orders.len();
        if self.parameters.wiring != Wiring::Sealed || !up.iter().all(settled) {
            return;
        }
        self.orders.push(Order::after(self.orders.len()));
        for who in up {
            self.order_later(who);
        }
    }

    /// The operator turns to a node that is behind.
    pub(super) fn order_later(&mut self, who: Who) {
        let node = &self.nodes[who];
        if node.cluster == 0 && node.keys.followed < self.orders.len() {
            let delay_ms = self.rng.random_range(1..=ORDER_MS_MAX);
            self.schedule(delay_ms, Event::Order(who));
        }
    }

    pub(super) fn order_arrives(&mut self, who: Who) {
        let node = &mut self.nodes[who];
        let next = self.orders.get(node.keys.followed).copied();
        let Some(order) = next.filter(|_| node.condition == Condition::Up) else {
            return;
        };
        if node.hold.is_some() {
            return self.schedule(HELD_MS, Event::Order(who));
        }
        node.keys.follow(order);
        if let Some(secrecy) = &node.secrecy {
            let changed = secrecy.change(order.as_change());
            assert!(changed.is_ok_and(|changed| changed), "{order:?}");
        }
        match order {
            Order::Install(_) => self.counters.keys_installed += 1,
            Order::Use(_) => self.counters.keys_used += 1,
            Order::Remove(_) => self.counters.keys_removed += 1,
        }
        self.order_later(who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_ends_with_the_new_key_alone() {
        let mut keys = KeysKept::of(&[FIRST_KEY]);
        let mut rings = Vec::new();
        for given in 0..6 {
            keys.follow(Order::after(given));
            rings.push(keys.ring.clone());
        }
        let expected: [&[u8]; 6] = [&[1, 2], &[2, 1], &[2], &[2, 3], &[3, 2], &[3]];
        assert_eq!(rings, expected);
    }
}
