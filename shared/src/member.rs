//! Members of a cluster as gossip knows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use xxhash_rust::xxh3::Xxh3;

use crate::id::{Epoch, Generation, Incarnation, NodeId};

/// What the failure detector says. Advisory: it never moves data.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MemberStatus {
    /// Answers.
    Alive,
    /// Did not answer a probe; others are being asked.
    Suspected,
    /// Nobody could reach it for the suspicion timeout.
    Dead,
    /// Went down on purpose and said so; expected back.
    Stopped,
    /// Gone from the ring for good.
    Left,
}

impl MemberStatus {
    /// Whether requests are worth sending: alive, or only suspected.
    pub fn is_reachable(self) -> bool {
        matches!(self, Self::Alive | Self::Suspected)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspected => "suspected",
            Self::Dead => "dead",
            Self::Stopped => "stopped",
            Self::Left => "left",
        }
    }
}

/// How what a node that is going down waits for begins; one that was drained by an operator gives
/// another reason.
pub const ABOUT_TO_STOP: &str = "it is about to stop";

/// What a node says of itself.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Known to the members but not in the ring: waits for an operator's plan (`--join manual`).
    Candidate,
    /// Not in the ring yet: waiting for a seed, or for its data.
    Joining,
    /// In the ring but its data was lost; being refilled, does not count towards read quorums.
    Recovering,
    /// Takes part in everything.
    Serving,
    /// Finishing what is in flight before it stops; takes no new client requests.
    Draining,
    /// The port answers and nothing else; waits to be told to start.
    Standby,
    /// Down on purpose.
    Stopped,
}

impl Lifecycle {
    /// Whether replica reads and writes may be sent to it.
    pub fn replicates(self) -> bool {
        matches!(
            self,
            Self::Candidate | Self::Joining | Self::Recovering | Self::Serving | Self::Draining
        )
    }

    /// Whether it can be one of a quorum, if it answers: takes part, and holds what it should.
    pub fn counts_for_quorum(self) -> bool {
        self.replicates() && self != Self::Recovering
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Joining => "joining",
            Self::Recovering => "recovering",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Standby => "standby",
            Self::Stopped => "stopped",
        }
    }
}

/// A small summary of load that rides along with gossip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Load {
    /// Keys with a value that this node holds.
    pub keys: u64,
    /// Bytes on disk.
    pub bytes_on_disk: u64,
    /// Client writes per second over the last seconds, at this coordinator.
    pub puts_per_s: u32,
    /// Client reads per second.
    pub gets_per_s: u32,
    /// 99th percentile of client requests, microseconds; 0 when there were none.
    pub p99_us: u32,
    /// Hints this node still owes to others.
    pub hints: u32,
}

/// Everything that makes two nodes agree about a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestEntry<'a> {
    pub id: &'a NodeId,
    pub address: &'a str,
    pub generation: Generation,
    pub status: MemberStatus,
}

/// Sixteen hex digits; equal on two nodes when they agree on every member's id, address,
/// generation and status. Members that left do not count. Order of input does not matter.
pub fn membership_digest<'a>(entries: impl IntoIterator<Item = DigestEntry<'a>>) -> String {
    let mut entries: Vec<_> = entries
        .into_iter()
        .filter(|e| e.status != MemberStatus::Left)
        .collect();
    entries.sort_by(|a, b| a.id.cmp(b.id));
    let mut hasher = Xxh3::new();
    for e in entries {
        hasher.update(e.id.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(e.address.as_bytes());
        hasher.update(&[0]);
        hasher.update(&e.generation.to_le_bytes());
        hasher.update(e.status.as_str().as_bytes());
    }
    format!("{:016x}", hasher.digest())
}

/// The order in which claims about one node win: a later life, then a later refutation.
pub type Freshness = (Generation, Incarnation);

/// What a node tells of its topology in gossip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingStamp {
    pub epoch: Epoch,
    pub digest: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_depends_on_content_only() {
        let (a, b) = (
            NodeId::new("a").expect("valid"),
            NodeId::new("b").expect("valid"),
        );
        let entry = |id, status| DigestEntry {
            id,
            address: "h:1",
            generation: 5,
            status,
        };
        let one = membership_digest([
            entry(&a, MemberStatus::Alive),
            entry(&b, MemberStatus::Alive),
        ]);
        let two = membership_digest([
            entry(&b, MemberStatus::Alive),
            entry(&a, MemberStatus::Alive),
        ]);
        let three = membership_digest([
            entry(&a, MemberStatus::Alive),
            entry(&b, MemberStatus::Dead),
        ]);
        let left = membership_digest([
            entry(&a, MemberStatus::Alive),
            entry(&b, MemberStatus::Left),
        ]);
        assert_eq!(one, two);
        assert_ne!(one, three);
        assert_eq!(left, membership_digest([entry(&a, MemberStatus::Alive)]));
    }
}
