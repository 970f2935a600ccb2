//! What the cluster came to after the run, when it was whole and quiet again.

use std::collections::BTreeMap;

use super::record::Seen;

#[derive(Debug, Clone, Default)]
pub struct End {
    pub keys: BTreeMap<String, KeyEnd>,
    pub nodes: Vec<NodeEnd>,
}

/// One key, as every node tells of it.
#[derive(Debug, Clone, Default)]
pub struct KeyEnd {
    /// `consistency=all` reads, by the node that was asked.
    pub reads: Vec<(String, Seen)>,
    /// What each replica holds, by the node that was asked.
    pub replicas: Vec<(String, Vec<ReplicaEnd>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaEnd {
    pub node: String,
    /// `None`: it holds nothing.
    pub fingerprint: Option<String>,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// What one node goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEnd {
    pub node: String,
    pub cluster: String,
    pub ring_epoch: u64,
    pub ring_digest: String,
    pub membership_digest: String,
    /// A change of the ring is under way.
    pub changing: bool,
}

impl End {
    /// What is there of the key: the first of the reads, which convergence says are all the same.
    pub fn seen(&self, key: &str) -> Option<&Seen> {
        let (_, seen) = self.keys.get(key)?.reads.first()?;
        Some(seen)
    }
}
