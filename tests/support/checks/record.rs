//! What is written down of each operation.

use std::{collections::BTreeSet, fmt};

use ringmaster_shared::version::{Dot, VersionVector};

/// One operation of one client; times in nanoseconds since the recording began.
#[derive(Debug, Clone)]
pub struct Op {
    pub client: usize,
    /// The node that was asked.
    pub node: String,
    pub key: String,
    pub did: Did,
    pub called: u64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub enum Did {
    Write(Write),
    /// Only reads that were answered are recorded.
    Read(Seen),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered at this time.
    Done(u64),
    /// The answer says that nothing was or will be stored.
    Refused,
    Unknown,
}

/// A write or delete.
#[derive(Debug, Clone)]
pub struct Write {
    /// The value written; for a delete a number that is nobody else's.
    pub id: u64,
    pub deletes: bool,
    /// `None`: it supersedes whatever is there.
    pub sent: Option<Sent>,
    /// From the answer's context.
    pub returned: Option<Returned>,
}

/// The context that went with a write.
#[derive(Debug, Clone)]
pub struct Sent {
    pub clock: VersionVector,
    /// The values that the read showed it came from.
    pub shown: BTreeSet<u64>,
    /// When that read was answered.
    pub at: u64,
}

/// The context that an acknowledged write was answered with.
#[derive(Debug, Clone)]
pub struct Returned {
    pub clock: VersionVector,
    pub dot: Dot,
}

impl Returned {
    /// `None` when the context does not speak of the node that took the write, which can't be.
    pub fn of(node: &str, clock: VersionVector) -> Option<Self> {
        let own = clock.0.iter().filter(|(a, _)| a.node.as_str() == node);
        // in the order of actors: the last one is the node's present life
        let (actor, counter) = own.last()?;
        let dot = Dot {
            actor: actor.clone(),
            counter: *counter,
        };
        Some(Self { clock, dot })
    }
}

/// What a read showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// All siblings with a value, the winner first if it has one.
    pub values: Vec<u64>,
    /// Siblings that are deletes, as far as the answer tells.
    pub tombstones: usize,
    /// Whether a value won; else the answer was 404.
    pub found: bool,
    /// Empty when nothing is known of the key.
    pub clock: VersionVector,
}

/// Every node was killed at this moment.
pub type AllKilled = u64;

#[derive(Debug, Clone, Default)]
pub struct History {
    pub ops: Vec<Op>,
    pub all_killed: Vec<AllKilled>,
}

impl Op {
    pub fn ended(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Done(at) => Some(at),
            Outcome::Refused | Outcome::Unknown => None,
        }
    }

    pub fn write(&self) -> Option<&Write> {
        match &self.did {
            Did::Write(write) => Some(write),
            Did::Read(_) => None,
        }
    }

    pub fn read(&self) -> Option<&Seen> {
        match &self.did {
            Did::Read(seen) => Some(seen),
            Did::Write(_) => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        write!(f, "{:10.3} to ", ms(self.called))?;
        match self.outcome {
            Outcome::Done(at) => write!(f, "{:10.3} ms", ms(at))?,
            Outcome::Refused => write!(f, "   refused   ")?,
            Outcome::Unknown => write!(f, "   unknown   ")?,
        }
        write!(
            f,
            "  client {} at {}, {}: ",
            self.client, self.node, self.key
        )?;
        match &self.did {
            Did::Read(seen) if seen.found => write!(f, "read {:?}", seen.values),
            Did::Read(seen) if seen.values.is_empty() => write!(f, "read nothing"),
            Did::Read(seen) => write!(f, "read a delete beside {:?}", seen.values),
            Did::Write(write) => {
                let verb = if write.deletes { "delete" } else { "write" };
                write!(f, "{verb} {}", write.id)?;
                if let Some(sent) = &write.sent {
                    write!(f, " knowing {:?}", sent.shown)?;
                }
                match &write.returned {
                    Some(r) => write!(f, " ({}:{})", r.dot.actor.node, r.dot.counter),
                    None => Ok(()),
                }
            }
        }
    }
}
