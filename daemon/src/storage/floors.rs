//! Floors of partitions: what was issued at or before one is refused, because a tombstone that
//! would have covered it may be forgotten (`docs/protocol.md`, "Forgetting deleted keys").
//!
//! Promises: a floor never goes back. It counts from the moment its entry is staged, before that
//! is synced: refusing too much too early is safe, and so no write of the same group commit slips
//! under it. What is synced is known beside that: a floor whose entry found no space still counts
//! in this life, but whoever raises it again must get it into the log. Anyone reads one without
//! a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use ringmaster_shared::{clock::Hlc, id::PartitionId};

use super::table::TableError;

const TAG: u8 = b'f';

/// Under which name the table keeps the floor of a partition.
pub(super) fn note(partition: PartitionId) -> [u8; 3] {
    let [high, low] = partition.to_be_bytes();
    [TAG, high, low]
}

/// The partition a note is about; `None` when it is a note of something else.
pub(super) fn from_note(name: &[u8]) -> Option<PartitionId> {
    match name {
        [TAG, high, low] => Some(PartitionId::from_be_bytes([*high, *low])),
        _ => None,
    }
}

pub(super) struct Floors {
    /// What is refused by.
    counting: Vec<AtomicU64>,
    /// Those that a crash would leave.
    kept: Vec<AtomicU64>,
    highest: AtomicU64,
}

impl Floors {
    pub fn new(partition_count: u16) -> Self {
        let zeros = || (0..partition_count).map(|_| AtomicU64::new(0)).collect();
        Self {
            counting: zeros(),
            kept: zeros(),
            highest: AtomicU64::new(0),
        }
    }

    /// 0 where nothing was ever forgotten.
    pub fn get(&self, partition: PartitionId) -> Hlc {
        let floor = self.counting.get(usize::from(partition));
        Hlc(floor.map_or(0, |f| f.load(Ordering::Acquire)))
    }

    /// The highest whose entry is synced; at most [`Self::get`].
    pub fn kept(&self, partition: PartitionId) -> Hlc {
        let kept = self.kept.get(usize::from(partition));
        Hlc(kept.map_or(0, |f| f.load(Ordering::Acquire)))
    }

    pub fn highest(&self) -> Hlc {
        Hlc(self.highest.load(Ordering::Acquire))
    }

    pub fn raise(&self, partition: PartitionId, to: Hlc) {
        if let Some(floor) = self.counting.get(usize::from(partition)) {
            floor.fetch_max(to.0, Ordering::AcqRel);
            self.highest.fetch_max(to.0, Ordering::AcqRel);
        }
    }

    /// Its entry is synced.
    pub fn keep(&self, partition: PartitionId, floor: Hlc) {
        self.raise(partition, floor);
        if let Some(kept) = self.kept.get(usize::from(partition)) {
            kept.fetch_max(floor.0, Ordering::AcqRel);
        }
    }

    /// Takes over a floor that the table kept.
    pub fn remember(&self, name: &[u8], floor: u64) -> Result<bool, TableError> {
        let Some(partition) = from_note(name) else {
            return Ok(false);
        };
        if usize::from(partition) >= self.counting.len() {
            let why = "a floor of a partition that does not exist";
            return Err(TableError::Damaged(why.to_owned()));
        }
        self.keep(partition, Hlc(floor));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_only_rise_and_names_tell_the_partition() {
        let floors = Floors::new(4);
        assert_eq!((floors.get(2), floors.highest()), (Hlc(0), Hlc(0)));
        floors.raise(2, Hlc(7));
        floors.raise(2, Hlc(5));
        floors.raise(9, Hlc(99));
        assert_eq!((floors.get(2), floors.get(1)), (Hlc(7), Hlc(0)));
        assert_eq!(floors.highest(), Hlc(7), "no such partition, no floor");
        assert_eq!(floors.kept(2), Hlc(0), "nobody said it is synced");
        floors.keep(2, Hlc(6));
        assert_eq!((floors.get(2), floors.kept(2)), (Hlc(7), Hlc(6)));
        floors.keep(1, Hlc(3));
        assert_eq!((floors.get(1), floors.kept(1)), (Hlc(3), Hlc(3)));
        assert_eq!(from_note(&note(700)), Some(700));
        assert_eq!(from_note(b"d\0\0node"), None);
        assert_eq!(floors.remember(&note(1), 3), Ok(true));
        assert!(floors.remember(&note(4), 3).is_err());
    }
}
