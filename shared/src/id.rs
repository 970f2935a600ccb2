//! Names of things: nodes, clusters, and the counters that order their lives.
//!
//! A [`NodeId`] is a name a person chose; a [`ClusterId`] is drawn once, when a cluster is founded.
//! `Generation` orders the restarts of one node, `Incarnation` the refutations inside one
//! generation, `Epoch` the decided topologies of a cluster.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use thiserror::Error;

/// Longest accepted node id, in bytes.
pub const NODE_ID_MAX_BYTES: usize = 64;

/// Orders the restarts of one node id: `max(persisted + 1, unix milliseconds)`.
pub type Generation = u64;
/// Orders refutations inside one generation.
pub type Incarnation = u64;
/// Orders decided topologies; the founder's is 1.
pub type Epoch = u64;
/// Index of a partition, `0..partition_count`.
pub type PartitionId = u16;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    #[error("a node id needs 1 to {NODE_ID_MAX_BYTES} characters, this has {0}")]
    Length(usize),
    #[error("a node id may hold letters, digits, '-', '_' and '.', not {0:?}")]
    Character(char),
    #[error("a cluster id is a UUID, not {0:?}")]
    Cluster(String),
}

/// The name of a node, unique in its cluster: letters, digits, `-`, `_`, `.`, at most 64 bytes.
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    pub fn new(text: &str) -> Result<Self, IdError> {
        if text.is_empty() || text.len() > NODE_ID_MAX_BYTES {
            return Err(IdError::Length(text.chars().count()));
        }
        match text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(*c)))
        {
            Some(bad) => Err(IdError::Character(bad)),
            None => Ok(Self(text.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

// By hand, because every record on the wire and in the store names nodes: the derived way by
// `String` allocates once more each time.
impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor("a node id", Self::new))
    }
}

/// Makes a value of a text without a `String` in between.
pub(crate) struct TextVisitor<T, E>(pub &'static str, pub fn(&str) -> Result<T, E>);

impl<T, E: fmt::Display> Visitor<'_> for TextVisitor<T, E> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<D: serde::de::Error>(self, text: &str) -> Result<T, D> {
        (self.1)(text).map_err(D::custom)
    }
}

impl TryFrom<String> for NodeId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0.to_string()
    }
}

/// Names one cluster for ever; a UUID drawn when it is founded. Every message between nodes
/// carries it, so that two clusters never mix by accident.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(Arc<str>);

impl ClusterId {
    /// Accepts the hyphenated form of a UUID, in lower case.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let shape_ok = text.len() == 36
            && text.bytes().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
            });
        if shape_ok {
            Ok(Self(text.into()))
        } else {
            Err(IdError::Cluster(text.to_owned()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for ClusterId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_checked() {
        let long = "x".repeat(65);
        for bad in ["", "a b", "a/b", "ä", long.as_str()] {
            assert!(NodeId::new(bad).is_err(), "{bad:?} must be refused");
        }
        for good in ["node-1", "a", "A_b.c-9"] {
            assert_eq!(NodeId::new(good).expect("valid").as_str(), good);
        }
        assert!(
            serde_json::from_str::<NodeId>("\"a b\"").is_err(),
            "serde checks as well"
        );
    }

    #[test]
    fn cluster_ids_are_uuids() {
        assert!(ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").is_ok());
        assert!(ClusterId::new("0b9c7c1e2f434a529f7e3c1de9c0a111").is_err());
        assert!(ClusterId::new("zb9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").is_err());
    }
}
