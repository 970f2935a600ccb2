//! Versions of one key: dots, version vectors, siblings, and how two replicas' records merge.
//!
//! A [`Record`] is a set of siblings plus a version vector that covers every write known for the
//! key, superseded or not (the dotted version vector set of Preguiça, Almeida et al.). Merging
//! is a join: associative, commutative, idempotent. A sibling survives a merge when both sides
//! hold it, or when the side that lacks it has never seen its dot.
//!
//! **The rule that makes plain vectors sound.** A vector entry `actor -> n` speaks for all dots
//! `1..=n` of that actor, so an actor must never issue dot `n + 1` of a key before dot `n` of that
//! key is either acknowledged on a write quorum or given up; coordinators hold one key at a time.
//! One that is given up may be read yet: a write that may not supersede it unseen needs a dot of
//! another actor. And a lost or restored node must come back as another actor, which is why the actor carries an
//! epoch of its own (`basho/riak_kv#679`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{clock::Hlc, id::NodeId};

/// Who issues dots: a node in one life of its data. The epoch changes when the data may have
/// been lost (first start, quarantine), and where a dot must not speak for those before it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    pub node: NodeId,
    pub epoch: u64,
}

/// One write event: the `counter`-th of `actor`. Never reused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    pub actor: Actor,
    pub counter: u64,
}

/// For each actor the highest counter known; speaks for all lower ones too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionVector(pub BTreeMap<Actor, u64>);

impl VersionVector {
    pub fn covers(&self, dot: &Dot) -> bool {
        self.0.get(&dot.actor).is_some_and(|n| *n >= dot.counter)
    }

    pub fn add(&mut self, dot: &Dot) {
        let entry = self.0.entry(dot.actor.clone()).or_default();
        *entry = (*entry).max(dot.counter);
    }

    pub fn join(&mut self, other: &VersionVector) {
        for (actor, n) in &other.0 {
            let entry = self.0.entry(actor.clone()).or_default();
            *entry = (*entry).max(*n);
        }
    }

    /// Whether `self` covers everything `other` covers.
    pub fn dominates(&self, other: &VersionVector) -> bool {
        other
            .0
            .iter()
            .all(|(actor, n)| self.0.get(actor).is_some_and(|mine| mine >= n))
    }

    /// The part of `self` that `known` covers as well.
    ///
    /// What a client claims to have seen is cut to what a read quorum knows before it supersedes
    /// anything. A claim beyond that would otherwise enter the record's clock and silently
    /// swallow writes that nobody has made yet: a vector entry `actor -> n` speaks for all dots up
    /// to `n`, the future ones too.
    ///
    /// Nothing honest is lost by it. What a quorum read returned is held by a write quorum, so a
    /// later read quorum knows all of it. What a read at `consistency=one` returned may be known
    /// to a single replica outside the quorum: that version is then not superseded but stays
    /// beside the write, visible. And once a tombstone was forgotten by all replicas, a context
    /// that covers it has nothing left to supersede; dots never repeat, so what was written since
    /// is not covered by it and stays.
    #[must_use]
    pub fn limited_to(&self, known: &VersionVector) -> VersionVector {
        let shared = self.0.iter().filter_map(|(actor, n)| {
            let theirs = known.0.get(actor)?;
            Some((actor.clone(), *n.min(theirs)))
        });
        VersionVector(shared.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a client stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Any JSON value, kept as its compact text.
    Json(Bytes),
    /// Raw bytes (`application/octet-stream`).
    Raw(Bytes),
}

impl Value {
    pub fn len(&self) -> usize {
        match self {
            Self::Json(b) | Self::Raw(b) => b.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One version of a key that nothing known supersedes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sibling {
    pub dot: Dot,
    pub hlc: Hlc,
    /// `None` is a tombstone.
    pub value: Option<Value>,
}

/// All a replica knows of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Covers every dot ever seen for the key, those of `siblings` included.
    pub clock: VersionVector,
    /// Sorted by dot.
    pub siblings: Vec<Sibling>,
}

/// A record without its values: enough to supersede it and to compare it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordVersion {
    pub clock: VersionVector,
    /// Greatest clock stamp among the siblings.
    pub hlc: Hlc,
    /// [`Record::fingerprint`]; 0 when there is no record.
    pub fingerprint: u64,
    /// Whether the winning sibling holds a value (not absent, not a tombstone).
    pub present: bool,
}

impl Record {
    /// The record a write leaves behind: `write` supersedes what `covered` covers; siblings of
    /// `base` that `covered` does not cover stay beside it.
    ///
    /// For a write without context pass everything seen as `covered`.
    #[must_use]
    pub fn written(base: &Record, covered: &VersionVector, write: Sibling) -> Record {
        let mut clock = base.clock.clone();
        clock.join(covered);
        clock.add(&write.dot);
        let mut siblings: Vec<Sibling> = base
            .siblings
            .iter()
            .filter(|s| !covered.covers(&s.dot))
            .cloned()
            .collect();
        siblings.push(write);
        siblings.sort_by(|a, b| a.dot.cmp(&b.dot));
        Record { clock, siblings }
    }

    /// The join of two replicas' knowledge.
    #[must_use]
    pub fn merge(&self, other: &Record) -> Record {
        let keeps = |mine: &Sibling, theirs: &Record| {
            theirs.siblings.iter().any(|s| s.dot == mine.dot) || !theirs.clock.covers(&mine.dot)
        };
        let mut siblings: Vec<Sibling> = self
            .siblings
            .iter()
            .filter(|s| keeps(s, other))
            .cloned()
            .collect();
        for theirs in other.siblings.iter().filter(|s| keeps(s, self)) {
            if !siblings.iter().any(|s| s.dot == theirs.dot) {
                siblings.push(theirs.clone());
            }
        }
        siblings.sort_by(|a, b| a.dot.cmp(&b.dot));
        let mut clock = self.clock.clone();
        clock.join(&other.clock);
        Record { clock, siblings }
    }

    /// The sibling that decides `value`: greatest by clock, ties by dot.
    pub fn head(&self) -> Option<&Sibling> {
        self.siblings
            .iter()
            .max_by(|a, b| (a.hlc, &a.dot).cmp(&(b.hlc, &b.dot)))
    }

    /// What the client whose write left this record behind knows now: the context of its next
    /// write. `sent` is the context it wrote with.
    ///
    /// A write without context superseded all there is. One with a context may have left siblings
    /// beside it that its client was never shown; a token that spoke for them would let the next
    /// write drop them unseen. Where a vector cannot speak for the write without speaking for
    /// such a sibling of the same actor, it speaks for what was sent and no more: then the next
    /// write leaves this one beside it, which a read settles.
    pub fn known_to_writer(&self, sent: Option<&VersionVector>) -> VersionVector {
        let (Some(sent), Some(own)) = (sent, self.head()) else {
            return self.clock.clone();
        };
        let mut known = sent.clone();
        known.add(&own.dot);
        let mut others = self.siblings.iter().filter(|s| s.dot != own.dot);
        if others.any(|s| known.covers(&s.dot)) {
            return sent.clone();
        }
        known
    }

    /// Whether every sibling is a tombstone (or there is none).
    pub fn is_deleted(&self) -> bool {
        self.siblings.iter().all(|s| s.value.is_none())
    }

    pub fn max_hlc(&self) -> Hlc {
        self.siblings
            .iter()
            .map(|s| s.hlc)
            .max()
            .unwrap_or_default()
    }

    /// The stamp of the oldest sibling: of a record that travels by itself, nothing in it is older.
    pub fn min_hlc(&self) -> Hlc {
        self.siblings
            .iter()
            .map(|s| s.hlc)
            .min()
            .unwrap_or_default()
    }

    /// Same knowledge, same number, on every node. Covers clock, dots, stamps and tombstone flags
    /// but not values: a dot names exactly one value for ever.
    pub fn fingerprint(&self) -> u64 {
        let mut bytes = Vec::with_capacity(64);
        let mut text = |actor: &Actor, n: u64| {
            bytes.extend_from_slice(actor.node.as_str().as_bytes());
            bytes.push(0);
            bytes.extend_from_slice(&actor.epoch.to_le_bytes());
            bytes.extend_from_slice(&n.to_le_bytes());
        };
        for (actor, n) in &self.clock.0 {
            text(actor, *n);
        }
        for sibling in &self.siblings {
            text(&sibling.dot.actor, sibling.dot.counter);
            text(
                &sibling.dot.actor,
                sibling.hlc.0 ^ u64::from(sibling.value.is_some()),
            );
        }
        xxh3_64(&bytes).max(1)
    }

    pub fn version(&self) -> RecordVersion {
        RecordVersion {
            clock: self.clock.clone(),
            hlc: self.max_hlc(),
            fingerprint: self.fingerprint(),
            present: self.head().is_some_and(|s| s.value.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn actor(name: &str) -> Actor {
        Actor {
            node: NodeId::new(name).expect("valid"),
            epoch: 1,
        }
    }

    fn sibling(name: &str, counter: u64, hlc: u64) -> Sibling {
        Sibling {
            dot: Dot {
                actor: actor(name),
                counter,
            },
            hlc: Hlc(hlc),
            value: Some(Value::Json(Bytes::from(format!("\"{name}{counter}\"")))),
        }
    }

    #[test]
    fn concurrent_writes_stay_siblings_until_superseded() {
        let empty = Record::default();
        let a = Record::written(&empty, &VersionVector::default(), sibling("a", 1, 10));
        let b = Record::written(&empty, &VersionVector::default(), sibling("b", 1, 11));
        let both = a.merge(&b);
        assert_eq!(both.siblings.len(), 2);
        assert_eq!(both.head().map(|s| s.hlc), Some(Hlc(11)));

        let healed = Record::written(&both, &both.clock, sibling("a", 2, 12));
        assert_eq!(healed.siblings.len(), 1);
        assert_eq!(
            a.merge(&healed),
            healed,
            "a stale replica does not bring the old value back"
        );
    }

    #[test]
    fn a_context_supersedes_exactly_what_it_covers() {
        let empty = Record::default();
        let a = Record::written(&empty, &VersionVector::default(), sibling("a", 1, 10));
        let both = a.merge(&Record::written(
            &empty,
            &VersionVector::default(),
            sibling("b", 1, 11),
        ));
        let after = Record::written(&both, &a.clock, sibling("c", 1, 12));
        let dots: Vec<_> = after
            .siblings
            .iter()
            .map(|s| s.dot.actor.node.to_string())
            .collect();
        assert_eq!(dots, ["b", "c"]);
    }

    #[test]
    fn a_claim_is_cut_to_what_is_known() {
        let vector = |entries: &[(&str, u64)]| {
            VersionVector(entries.iter().map(|(a, n)| (actor(a), *n)).collect())
        };
        let known = vector(&[("a", 5), ("b", 2)]);
        let cases = [
            (vector(&[]), vector(&[])),
            (known.clone(), known.clone()),
            (vector(&[("a", 3)]), vector(&[("a", 3)])),
            (
                vector(&[("a", u64::MAX), ("b", 1), ("forged", 9)]),
                vector(&[("a", 5), ("b", 1)]),
            ),
        ];
        for (claim, wants) in cases {
            assert_eq!(claim.limited_to(&known), wants, "{claim:?}");
        }
    }

    #[test]
    fn a_writer_knows_what_it_was_shown_and_what_it_wrote() {
        let empty = Record::default();
        let a = Record::written(&empty, &VersionVector::default(), sibling("a", 1, 10));
        let b = Record::written(&empty, &VersionVector::default(), sibling("b", 1, 11));
        let both = a.merge(&b);
        let blind = Record::written(&both, &both.clock, sibling("c", 1, 12));
        assert_eq!(blind.known_to_writer(None), blind.clock);
        // it had read a's write and not b's
        let after = Record::written(&both, &a.clock, sibling("c", 1, 12));
        let known = after.known_to_writer(Some(&a.clock));
        let next = Record::written(&after, &known, sibling("c", 2, 13));
        let left: Vec<_> = next.siblings.iter().map(|s| s.dot.counter).collect();
        assert_eq!(left, [1, 2], "b's write stays beside the next");
        // a later dot of b's would speak for b's write as well
        let after = Record::written(&both, &a.clock, sibling("b", 2, 12));
        assert_eq!(after.known_to_writer(Some(&a.clock)), a.clock);
    }

    #[test]
    fn a_tombstone_takes_part_like_any_version() {
        let empty = Record::default();
        let a = Record::written(&empty, &VersionVector::default(), sibling("a", 1, 10));
        let gone = Record::written(
            &a,
            &a.clock,
            Sibling {
                value: None,
                ..sibling("b", 1, 11)
            },
        );
        assert!(gone.is_deleted());
        assert!(a.merge(&gone).is_deleted());
    }

    /// A little history: each step, one of three actors writes to one of three replicas (having
    /// seen all of it, or nothing), or one replica merges another.
    fn replicas(steps: &[(u8, u8, bool)]) -> Vec<Record> {
        let mut replicas = vec![Record::default(); 3];
        let mut counters = [0_u64; 3];
        for (n, (who, how, write)) in steps.iter().enumerate() {
            let (who, how) = (usize::from(who % 3), usize::from(how % 3));
            if *write {
                counters[who] += 1;
                let name = ["a", "b", "c"][who];
                let mut seen = replicas[who].clone();
                if how == 0 {
                    seen = seen.merge(&replicas[(who + 1) % 3]);
                }
                let covered = seen.clock.clone();
                replicas[who] =
                    Record::written(&seen, &covered, sibling(name, counters[who], n as u64));
            } else {
                replicas[who] = replicas[who].merge(&replicas[how]);
            }
        }
        replicas
    }

    proptest! {
        #[test]
        fn merge_is_a_join(steps in prop::collection::vec((0_u8..3, 0_u8..3, any::<bool>()), 0..24)) {
            let r = replicas(&steps);
            prop_assert_eq!(r[0].merge(&r[0]), r[0].clone());
            prop_assert_eq!(r[0].merge(&r[1]), r[1].merge(&r[0]));
            prop_assert_eq!(r[0].merge(&r[1]).merge(&r[2]), r[0].merge(&r[1].merge(&r[2])));
        }

        /// Whatever a client claims, a write with the claim cut to what is known supersedes only
        /// what is known, and swallows no write that is still to come.
        #[test]
        fn no_claim_swallows_what_nobody_knows(
            steps in prop::collection::vec((0_u8..3, 0_u8..3, any::<bool>()), 0..24),
            claim in prop::collection::btree_map(0_u8..4, any::<u64>(), 0..4),
        ) {
            let r = replicas(&steps);
            let names = ["a", "b", "c", "forged"];
            let claim = claim.into_iter().map(|(who, n)| (actor(names[usize::from(who)]), n));
            let claim = VersionVector(claim.collect());
            let seen = r[0].merge(&r[1]);
            let covered = claim.limited_to(&seen.clock);
            prop_assert!(seen.clock.dominates(&covered) && claim.dominates(&covered));

            let written = Record::written(&seen, &covered, sibling("w", 1, 1000));
            for later in ["a", "b", "c", "forged"] {
                let n = seen.clock.0.get(&actor(later)).copied().unwrap_or(0);
                let next = sibling(later, n + 1, 2000);
                prop_assert!(!written.clock.covers(&next.dot));
                let beside = Record::written(&seen, &seen.clock, next.clone());
                let merged = written.merge(&beside);
                prop_assert!(merged.siblings.contains(&next));
            }
            // a version on a replica that was not asked survives
            for theirs in r[2].siblings.iter().filter(|s| !seen.clock.covers(&s.dot)) {
                prop_assert!(written.merge(&r[2]).siblings.contains(theirs));
            }
        }

        #[test]
        fn equal_knowledge_has_equal_fingerprints(steps in prop::collection::vec((0_u8..3, 0_u8..3, any::<bool>()), 0..24)) {
            let r = replicas(&steps);
            for (x, y) in [(0, 1), (1, 2)] {
                prop_assert_eq!(r[x] == r[y], r[x].fingerprint() == r[y].fingerprint());
            }
            for record in &r {
                prop_assert!(record.siblings.iter().all(|s| record.clock.covers(&s.dot)));
            }
        }
    }
}
