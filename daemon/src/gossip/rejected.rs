//! Why a message was not taken, counted.

use std::collections::BTreeMap;

/// The reasons, in the order they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejected {
    /// Longer than any packet of ours.
    Oversized,
    /// Truncated, flipped bits, or not gossip at all.
    Damaged,
    /// A protocol version this node does not speak.
    Version,
    /// Plain, where only sealed packets are taken.
    Unsealed,
    /// Sealed with a key this node does not have, or tampered with.
    Unopened,
    /// Seen before.
    Replayed,
    OtherCluster,
    /// Meant for another node, which was at this address before.
    OtherNode,
    /// From a process that goes by this node's own id.
    Namesake,
    /// A field out of its bounds, or a claim nobody may make.
    Unacceptable,
    /// The other side refused a packet or a question of this node.
    Refused,
}

impl Rejected {
    pub const ALL: [Self; 11] = [
        Self::Oversized,
        Self::Damaged,
        Self::Version,
        Self::Unsealed,
        Self::Unopened,
        Self::Replayed,
        Self::OtherCluster,
        Self::OtherNode,
        Self::Namesake,
        Self::Unacceptable,
        Self::Refused,
    ];

    /// Stable name, for scripts and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::Damaged => "damaged",
            Self::Version => "version",
            Self::Unsealed => "unsealed",
            Self::Unopened => "unopened",
            Self::Replayed => "replayed",
            Self::OtherCluster => "other_cluster",
            Self::OtherNode => "other_node",
            Self::Namesake => "namesake",
            Self::Unacceptable => "unacceptable",
            Self::Refused => "refused",
        }
    }
}

/// How many messages were rejected, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rejections([u64; Rejected::ALL.len()]);

impl Rejections {
    pub fn count(&mut self, why: Rejected) {
        self.0[why as usize] += 1;
    }

    pub fn of(&self, why: Rejected) -> u64 {
        self.0[why as usize]
    }

    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    /// All reasons by name, those that never occurred included.
    pub fn by_reason(&self) -> BTreeMap<String, u64> {
        let named = |why: Rejected| (why.as_str().to_owned(), self.of(why));
        Rejected::ALL.into_iter().map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_name_and_place() {
        let mut all = Rejections::default();
        for (n, why) in Rejected::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, n);
            for _ in 0..=n {
                all.count(why);
            }
        }
        let by_reason = all.by_reason();
        assert_eq!(by_reason.len(), Rejected::ALL.len());
        assert_eq!(by_reason["oversized"], 1);
        assert_eq!(all.of(Rejected::Refused), 11);
        assert_eq!(all.sum(), 66);
    }
}
