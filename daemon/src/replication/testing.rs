//! Names, dots and records for the tests of this room.

use bytes::Bytes;
use ringmaster_shared::{
    clock::Hlc,
    id::NodeId,
    key::Key,
    quorum::{Group, Requirement},
    version::{Actor, Dot, Record, Sibling, Value, VersionVector},
};

use super::coordinator::round::{Failure, FailureKind, Reach};

pub fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

pub fn key(text: &str) -> Key {
    Key::new(text).expect("valid")
}

pub fn number(n: u64) -> Value {
    Value::Json(Bytes::from(n.to_string()))
}

/// The number that a record's winner holds, 0 for none.
pub fn head(record: &Record) -> u64 {
    match record.head().and_then(|s| s.value.as_ref()) {
        Some(Value::Json(text) | Value::Raw(text)) => {
            let text = std::str::from_utf8(text).expect("digits");
            text.parse().expect("digits")
        }
        None => 0,
    }
}

/// Of this node's first life.
pub fn dot(node: &str, counter: u64) -> Dot {
    dot_of(node, 1, counter)
}

pub fn dot_of(node: &str, epoch: u64, counter: u64) -> Dot {
    Dot {
        actor: Actor {
            node: id(node),
            epoch,
        },
        counter,
    }
}

/// The number `n` stamped `hlc`.
pub fn sibling(dot: Dot, hlc: u64, n: u64) -> Sibling {
    Sibling {
        dot,
        hlc: Hlc(hlc),
        value: Some(number(n)),
    }
}

/// A record of this alone, which saw nothing before.
pub fn alone(sibling: Sibling) -> Record {
    Record::written(&Record::default(), &VersionVector::default(), sibling)
}

/// What a node's write number `counter` leaves that saw nothing before: that number, stamped `hlc`.
pub fn record(node: &str, counter: u64, hlc: u64) -> Record {
    alone(sibling(dot(node, counter), hlc, counter))
}

pub fn majority(names: &[&str]) -> Group {
    Group::majority_of(names.iter().map(|n| id(n)).collect())
}

pub fn majorities(groups: &[&[&str]]) -> Requirement {
    Requirement {
        groups: groups.iter().map(|names| majority(names)).collect(),
    }
}

/// Everybody can be asked but these.
pub fn off(names: &[&str]) -> Reach {
    names.iter().map(|n| (id(n), "dead".to_owned())).collect()
}

pub fn fails(kind: FailureKind) -> Failure {
    Failure {
        kind,
        why: "refused".into(),
    }
}
