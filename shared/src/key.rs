//! Keys, and where they land: the hash and the partition.
//!
//! A key belongs to the partition named by the top bits of its 64-bit hash, so a partition is a
//! contiguous, equal slice of the ring, and the twelve o'clock of the circle is hash 0.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::id::{PartitionId, TextVisitor};

/// Longest accepted key, in bytes of UTF-8.
pub const KEY_MAX_BYTES: usize = 1024;

/// Partitions of a newly founded cluster. A power of two; fixed for the life of the cluster.
pub const PARTITION_COUNT_DEFAULT: u16 = 256;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a key needs 1 to {KEY_MAX_BYTES} bytes, this has {0}")]
pub struct KeyError(pub usize);

/// A key: 1 to 1024 bytes of UTF-8. Cheap to clone; ordered by bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    pub fn new(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() || text.len() > KEY_MAX_BYTES {
            return Err(KeyError(text.len()));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key's place on the ring.
    pub fn hash(&self) -> u64 {
        xxh3_64(self.0.as_bytes())
    }

    pub fn partition(&self, partition_count: u16) -> PartitionId {
        partition_of_hash(self.hash(), partition_count)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

// by hand for the reason given at `NodeId`
impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor("a key", Self::new))
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::new(&text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0.to_string()
    }
}

/// The partition that holds `hash`: its top bits. `partition_count` is a power of two.
pub fn partition_of_hash(hash: u64, partition_count: u16) -> PartitionId {
    debug_assert!(partition_count.is_power_of_two());
    if partition_count <= 1 {
        return 0;
    }
    (hash >> (64 - partition_count.trailing_zeros())) as PartitionId
}

/// The first hash of a partition, the inverse of [`partition_of_hash`].
pub fn first_hash_of(partition: PartitionId, partition_count: u16) -> u64 {
    if partition_count <= 1 {
        return 0;
    }
    u64::from(partition) << (64 - partition_count.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_hashes_never_change() {
        // A changed value here would orphan every stored key.
        assert_eq!(Key::new("a").expect("valid").hash(), 0xe6c6_32b6_1e96_4e1f);
        assert_eq!(Key::new("test:cluster").expect("valid").partition(256), 225);
    }

    #[test]
    fn partitions_tile_the_ring() {
        for count in [1_u16, 2, 256, 1024] {
            assert_eq!(partition_of_hash(0, count), 0);
            assert_eq!(partition_of_hash(u64::MAX, count), count - 1);
            for p in 0..count {
                let first = first_hash_of(p, count);
                assert_eq!(partition_of_hash(first, count), p);
                assert!(p == 0 || partition_of_hash(first - 1, count) == p - 1);
            }
        }
    }

    #[test]
    fn key_length_is_bounded() {
        assert!(Key::new("").is_err());
        assert!(Key::new(&"k".repeat(1024)).is_ok());
        assert!(Key::new(&"k".repeat(1025)).is_err());
    }
}
