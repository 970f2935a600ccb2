//! Digests of partitions: what two replicas compare to find where they differ.
//!
//! Each partition has a tree of three levels: a root, [`BRANCHES`] branches, and as many leaves
//! under each: 1,024 leaves, 8 KiB a partition, 2 MiB when all of 256 hold something. Of a hundred thousand keys a
//! leaf of one of 256 partitions holds one, so that two replicas that differ in ten keys name about
//! ten keys to each other.
//!
//! A leaf is the wrapping sum of one well-mixed number per record, so it can be kept up to date by
//! one subtraction and one addition and does not depend on order. The numbers go over the wire
//! between nodes: they must never change within a format.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use ringmaster_shared::id::PartitionId;

/// Branches under a root, and leaves under a branch.
pub(crate) const BRANCHES: usize = 32;
/// Leaves of a partition; a branch has the leaves `branch * BRANCHES` and those that follow.
pub(super) const DIGEST_LEAVES: usize = BRANCHES * BRANCHES;

/// The leaf of a key: low bits of its hash, where the partition uses the top ones.
pub(super) fn leaf_of(key_hash: u64) -> u16 {
    (key_hash % DIGEST_LEAVES as u64) as u16
}

/// The finaliser of splitmix64: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn term(key_hash: u64, fingerprint: u64) -> u64 {
    mix(key_hash ^ mix(fingerprint))
}

/// The leaves of all partitions. Written by the committer, read by anyone without a lock; a
/// reader may see a batch half counted, which costs at most a needless comparison. A partition
/// takes no memory until it holds a record.
pub(super) struct Digests {
    partitions: Vec<OnceLock<Box<[AtomicU64]>>>,
    changes: AtomicU64,
}

fn empty_leaves() -> Box<[AtomicU64]> {
    (0..DIGEST_LEAVES).map(|_| AtomicU64::new(0)).collect()
}

impl Digests {
    pub fn new(partition_count: u16) -> Self {
        let partitions = (0..partition_count).map(|_| OnceLock::new());
        Self {
            partitions: partitions.collect(),
            changes: AtomicU64::new(0),
        }
    }

    pub fn clear(&self) {
        let stored = self.partitions.iter().filter_map(OnceLock::get);
        for leaf in stored.flatten() {
            leaf.store(0, Ordering::Relaxed);
        }
    }

    /// All leaves of all partitions, in order.
    pub fn all(&self) -> Vec<u64> {
        let mut all = Vec::with_capacity(self.partitions.len() * DIGEST_LEAVES);
        for partition in &self.partitions {
            match partition.get() {
                Some(leaves) => all.extend(leaves.iter().map(|l| l.load(Ordering::Relaxed))),
                None => all.resize(all.len() + DIGEST_LEAVES, 0),
            }
        }
        all
    }

    /// Takes over what [`Self::all`] gave; `false` when it does not fit.
    pub fn restore(&self, leaves: &[u64]) -> bool {
        if leaves.len() != self.partitions.len() * DIGEST_LEAVES {
            return false;
        }
        self.clear();
        for (partition, values) in self.partitions.iter().zip(leaves.chunks(DIGEST_LEAVES)) {
            if values.iter().all(|value| *value == 0) {
                continue;
            }
            for (leaf, value) in partition.get_or_init(empty_leaves).iter().zip(values) {
                leaf.store(*value, Ordering::Relaxed);
            }
        }
        true
    }

    /// A record changed: from one fingerprint (or nothing) to another (or nothing).
    pub fn change(
        &self,
        partition: PartitionId,
        key_hash: u64,
        old: Option<u64>,
        new: Option<u64>,
    ) {
        let Some(leaves) = self.partitions.get(usize::from(partition)) else {
            return;
        };
        let leaf = &leaves.get_or_init(empty_leaves)[usize::from(leaf_of(key_hash))];
        let term = |f: Option<u64>| f.map_or(0, |f| term(key_hash, f));
        leaf.fetch_add(term(new).wrapping_sub(term(old)), Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// How many changes there were in this life. Who reads the same number before and after
    /// knows that the leaves are the same too.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The leaves of one branch of a partition, in order; all zero when there is nothing.
    pub fn leaves(&self, partition: PartitionId, branch: usize) -> [u64; BRANCHES] {
        let mut leaves = [0; BRANCHES];
        let stored = self.partitions.get(usize::from(partition));
        let first = branch.saturating_mul(BRANCHES);
        let stored = stored
            .and_then(OnceLock::get)
            .and_then(|stored| stored.get(first..first + BRANCHES));
        if let Some(stored) = stored {
            for (leaf, stored) in leaves.iter_mut().zip(stored) {
                *leaf = stored.load(Ordering::Relaxed);
            }
        }
        leaves
    }

    /// One number for each branch of a partition; 0 for an empty one.
    pub fn branches(&self, partition: PartitionId) -> [u64; BRANCHES] {
        std::array::from_fn(|branch| fold(&self.leaves(partition, branch)))
    }

    /// One number for the partition; 0 when it is empty.
    pub fn root(&self, partition: PartitionId) -> u64 {
        fold(&self.branches(partition))
    }
}

/// One number for a list of them; 0 when all are.
fn fold(digests: &[u64]) -> u64 {
    if digests.iter().all(|d| *d == 0) {
        return 0;
    }
    digests.iter().fold(0, |sum, d| mix(sum ^ d)).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_numbers_never_change() {
        // Nodes of different versions compare these.
        let digests = Digests::new(4);
        assert_eq!(digests.root(3), 0);
        digests.change(3, 0xe6c6_32b6_1e96_4e1f, None, Some(42));
        assert_eq!(leaf_of(0xe6c6_32b6_1e96_4e1f), 543);
        let (branch, leaf) = (543 / BRANCHES, 543 % BRANCHES);
        let term = mix(0xe6c6_32b6_1e96_4e1f ^ mix(42));
        assert_eq!(digests.leaves(3, branch)[leaf], term);
        assert_ne!(digests.branches(3)[branch], 0);
        assert_eq!(digests.branches(3)[branch + 1], 0);
        assert_eq!(digests.leaves(3, BRANCHES), [0; BRANCHES], "no such branch");
        assert_eq!(
            mix(0),
            0xe220_a839_7b1d_cdaf,
            "splitmix64's first output for seed 0"
        );
        assert_eq!(digests.root(2), 0);
        assert_ne!(digests.root(3), 0);
    }

    #[test]
    fn what_is_kept_comes_back_and_nothing_else_does() {
        let (one, other) = (Digests::new(3), Digests::new(3));
        one.change(1, 7, None, Some(1));
        other.change(2, 7, None, Some(1));
        let all = one.all();
        assert_eq!(all.len(), 3 * DIGEST_LEAVES);
        assert!(other.restore(&all));
        assert_eq!(other.all(), all);
        assert_eq!((other.root(0), other.root(2)), (0, 0));
        assert_eq!(other.root(1), one.root(1));
        assert!(!Digests::new(2).restore(&all));
        one.clear();
        assert_eq!(one.root(1), 0);
    }

    proptest! {
        #[test]
        fn order_and_history_do_not_matter(
            entries in prop::collection::btree_map(any::<u64>(), (any::<u64>(), any::<u64>()), 1..40)
        ) {
            let (straight, winding) = (Digests::new(1), Digests::new(1));
            for (key, (_, last)) in &entries {
                straight.change(0, *key, None, Some(*last));
            }
            for (key, (first, _)) in entries.iter().rev() {
                winding.change(0, *key, None, Some(*first));
            }
            for (key, (first, last)) in &entries {
                winding.change(0, *key, Some(*first), Some(*last));
            }
            prop_assert!(straight.all() == winding.all(), "each leaf by itself");
            prop_assert_eq!(straight.branches(0), winding.branches(0));
            prop_assert_eq!(straight.root(0), winding.root(0));
            for (key, (_, last)) in &entries {
                winding.change(0, *key, Some(*last), None);
            }
            prop_assert!(winding.all().iter().all(|leaf| *leaf == 0));
            prop_assert_eq!(winding.root(0), 0);
        }
    }
}
