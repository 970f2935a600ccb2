//! Histories written by hand, for the tests of the checks. All on one key.

pub use super::{
    ended::{End, KeyEnd, NodeEnd, ReplicaEnd},
    record::{Did, History, Op, Outcome, Returned, Seen, Sent, Write},
};
use ringmaster_shared::{
    id::NodeId,
    version::{Actor, Dot, VersionVector},
};

pub const KEY: &str = "k";

/// `("a", 3)`: all dots of node `a` up to 3.
pub type Clock<'a> = &'a [(&'a str, u64)];

fn actor(node: &str) -> Actor {
    Actor {
        node: NodeId::new(node).expect("valid"),
        epoch: 1,
    }
}

pub fn clock(entries: Clock) -> VersionVector {
    let mut clock = VersionVector::default();
    for (node, counter) in entries {
        let actor = actor(node);
        clock.add(&Dot {
            actor,
            counter: *counter,
        });
    }
    clock
}

pub fn history(ops: impl IntoIterator<Item = Op>) -> History {
    History {
        ops: ops.into_iter().collect(),
        all_killed: Vec::new(),
    }
}

fn op(did: Did, called: u64, outcome: Outcome) -> Op {
    Op {
        client: 0,
        node: "a".into(),
        key: KEY.into(),
        did,
        called,
        outcome,
    }
}

/// An acknowledged write without context: the `n`-th of `node`, having found `found`.
pub fn put(id: u64, called: u64, ended: u64, node: &str, n: u64, found: Clock) -> Op {
    let dot = Dot {
        actor: actor(node),
        counter: n,
    };
    let mut clock = clock(found);
    clock.add(&dot);
    let write = Write {
        id,
        deletes: false,
        sent: None,
        returned: Some(Returned { clock, dot }),
    };
    op(Did::Write(write), called, Outcome::Done(ended))
}

pub fn delete(id: u64, called: u64, ended: u64, node: &str, n: u64, found: Clock) -> Op {
    let mut op = put(id, called, ended, node, n, found);
    if let Did::Write(write) = &mut op.did {
        write.deletes = true;
    }
    op
}

/// The same with a context from a read at `at`.
pub fn knowing(mut op: Op, shown: &[u64], seen: Clock, at: u64) -> Op {
    if let Did::Write(write) = &mut op.did {
        write.sent = Some(Sent {
            clock: clock(seen),
            shown: shown.iter().copied().collect(),
            at,
        });
    }
    op
}

/// A write without context that was never answered.
pub fn unknown(id: u64, called: u64) -> Op {
    let write = Write {
        id,
        deletes: false,
        sent: None,
        returned: None,
    };
    op(Did::Write(write), called, Outcome::Unknown)
}

fn seen(values: &[u64], known: Clock) -> Seen {
    let deleted = values.is_empty() && !known.is_empty();
    Seen {
        values: values.to_vec(),
        tombstones: usize::from(deleted),
        found: !values.is_empty(),
        clock: clock(known),
    }
}

pub fn read(values: &[u64], known: Clock, called: u64, ended: u64) -> Op {
    op(Did::Read(seen(values, known)), called, Outcome::Done(ended))
}

/// Two nodes that agree, and these values left.
pub fn ends(values: &[u64], known: Clock) -> End {
    let seen = seen(values, known);
    let nodes = ["a", "b"];
    let replicas = nodes.map(|node| ReplicaEnd {
        node: node.into(),
        fingerprint: (!known.is_empty()).then(|| "same".to_owned()),
        error: None,
    });
    let key = KeyEnd {
        reads: nodes.map(|n| (n.to_owned(), seen.clone())).to_vec(),
        replicas: nodes.map(|n| (n.to_owned(), replicas.to_vec())).to_vec(),
    };
    let nodes = nodes.map(|node| NodeEnd {
        node: node.into(),
        cluster: "c".into(),
        ring_epoch: 1,
        ring_digest: "r".into(),
        membership_digest: "m".into(),
        changing: false,
    });
    End {
        keys: [(KEY.to_owned(), key)].into(),
        nodes: nodes.to_vec(),
    }
}

/// Nothing left but tombstones.
pub fn deleted(known: Clock) -> End {
    ends(&[], known)
}
