//! One round of questions to replicas: who was asked, who answered, whether that is enough and
//! whether it still can be. Pure; the counting itself is `Requirement::is_met` in `shared`.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_shared::{
    id::NodeId,
    quorum::Requirement,
    version::{Record, RecordVersion, VersionVector},
};

/// Why replicas are not worth asking; whoever is not listed is.
pub type Unreachable = BTreeMap<NodeId, String>;

/// A question to one replica about the key at hand.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// The version without the values.
    Version,
    /// The whole record.
    Record,
    /// Join this record and sync it.
    Store(std::sync::Arc<Record>),
}

/// What a replica answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Version(Option<RecordVersion>),
    Record(Option<Record>),
    Stored,
}

/// How a question went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// For people, as in "node-2 (…)".
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The replica certainly did nothing.
    NotDone,
    /// It may have done what was asked.
    Unknown,
    /// It takes writes but must not answer reads before it is refilled.
    Recovering,
    /// Its disk is nearly full: it answers reads, and certainly did not store anything.
    ReadOnly,
}

/// Why an operation ended without its quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmet {
    /// Too few replicas can answer; nothing was stored.
    Quorum {
        needed: usize,
        available: usize,
        missing: BTreeMap<NodeId, String>,
    },
    /// Not enough answered; whether anything was stored is `may_have_written`.
    Unanswered {
        needed: usize,
        answered: usize,
        missing: BTreeMap<NodeId, String>,
        may_have_written: bool,
    },
    /// The condition of the write does not hold; nothing was stored.
    Precondition {
        /// What a read quorum knows of the key.
        clock: VersionVector,
        /// Whether there is a value.
        present: bool,
    },
    /// A conditional write was stored, but others may have been stored beside it.
    NotAlone { clock: VersionVector },
    /// The write would leave more versions side by side than a key may have; nothing was stored.
    Siblings { clock: VersionVector, count: usize },
}

/// What a machine wants after an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Step<D> {
    /// More answers.
    Wait,
    /// These questions asked.
    Ask(Vec<(NodeId, Ask)>),
    /// A dot and a stamp above `seen` for the record to be written.
    Stamp {
        seen: ringmaster_shared::clock::Hlc,
    },
    Done(D),
    Failed(Unmet),
}

/// Steps of the protocol that a test build may leave out, to show that the checkers notice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breaks {
    /// Reads answer without bringing a quorum up to what they return.
    pub write_back: bool,
    /// Writes do not ask what is there before they stamp.
    pub version_query: bool,
    /// Conditional writes do not ask whether they are alone.
    pub last_question: bool,
    /// Writes are acknowledged when one replica has them.
    pub early_ack: bool,
    /// Writes supersede all they found, whatever their context covers.
    pub ignore_context: bool,
    /// Writes without context supersede nothing.
    pub keep_superseded: bool,
}

/// The state of one round.
#[derive(Debug, Clone)]
pub struct Round {
    need: Requirement,
    answered: BTreeSet<NodeId>,
    waiting: BTreeSet<NodeId>,
    missing: BTreeMap<NodeId, String>,
}

impl Round {
    /// Asks `asked` (a superset of the replicas that count) as far as they are reachable.
    pub fn open(need: Requirement, asked: &[NodeId], unreachable: &Unreachable) -> Self {
        let mut round = Self {
            need,
            answered: BTreeSet::new(),
            waiting: BTreeSet::new(),
            missing: BTreeMap::new(),
        };
        for id in asked {
            match unreachable.get(id) {
                Some(why) => {
                    round.missing.insert(id.clone(), why.clone());
                }
                None => {
                    round.waiting.insert(id.clone());
                }
            }
        }
        round
    }

    pub fn answered(&mut self, who: &NodeId) {
        self.waiting.remove(who);
        self.missing.remove(who);
        self.answered.insert(who.clone());
    }

    pub fn failed(&mut self, who: &NodeId, why: String) {
        self.waiting.remove(who);
        self.missing.insert(who.clone(), why);
    }

    pub fn is_met(&self) -> bool {
        self.need.is_met(&self.answered)
    }

    /// Whether those still asked could complete it.
    pub fn can_be_met(&self) -> bool {
        let hoped: BTreeSet<NodeId> = self.answered.union(&self.waiting).cloned().collect();
        self.need.is_met(&hoped)
    }

    pub fn waiting(&self) -> &BTreeSet<NodeId> {
        &self.waiting
    }

    pub fn who_answered(&self) -> &BTreeSet<NodeId> {
        &self.answered
    }

    pub fn missing(&self) -> &BTreeMap<NodeId, String> {
        &self.missing
    }

    /// "Cannot be met": what a client is told when nothing was stored.
    pub fn quorum_unmet(&self) -> Unmet {
        let hoped: BTreeSet<NodeId> = self.answered.union(&self.waiting).cloned().collect();
        let (needed, available) = shortfall(&self.need, &hoped);
        Unmet::Quorum {
            needed,
            available,
            missing: self.missing.clone(),
        }
    }

    /// "Not answered": those still asked are listed as silent.
    pub fn unanswered(&self, may_have_written: bool) -> Unmet {
        let (needed, answered) = shortfall(&self.need, &self.answered);
        let mut missing = self.missing.clone();
        for id in &self.waiting {
            missing.insert(id.clone(), "no answer in time".into());
        }
        Unmet::Unanswered {
            needed,
            answered,
            missing,
            may_have_written,
        }
    }
}

/// Needed and present of the first group that is not satisfied, for messages only.
fn shortfall(need: &Requirement, have: &BTreeSet<NodeId>) -> (usize, usize) {
    let unmet = |group: &&ringmaster_shared::quorum::Group| {
        let alone = Requirement {
            groups: vec![(*group).clone()],
        };
        !alone.is_met(have)
    };
    let group = need.groups.iter().find(unmet).or(need.groups.first());
    group.map_or((0, 0), |g| {
        let present = g.members.iter().filter(|m| have.contains(*m)).count();
        (g.need, present)
    })
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::quorum::Group;

    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn ids(names: &[&str]) -> Vec<NodeId> {
        names.iter().map(|n| id(n)).collect()
    }

    #[test]
    fn a_round_knows_when_it_is_met_and_when_it_is_lost() {
        // (unreachable, answered, failed, met, can be met)
        type Case = (
            &'static [&'static str],
            &'static [&'static str],
            &'static [&'static str],
            bool,
            bool,
        );
        let cases: [Case; 6] = [
            (&[], &[], &[], false, true),
            (&["c"], &["a"], &[], false, true),
            (&["c"], &["a", "b"], &[], true, true),
            (&["c"], &["a"], &["b"], false, false),
            (&["b", "c"], &[], &[], false, false),
            (&[], &["b", "c"], &["a"], true, true),
        ];
        for (n, (unreachable, answered, failed, met, hope)) in cases.into_iter().enumerate() {
            let all = ids(&["a", "b", "c"]);
            let need = Requirement {
                groups: vec![Group::majority_of(all.clone())],
            };
            let off = unreachable
                .iter()
                .map(|n| (id(n), "dead".to_owned()))
                .collect();
            let mut round = Round::open(need, &all, &off);
            for name in answered {
                round.answered(&id(name));
            }
            for name in failed {
                round.failed(&id(name), "refused".into());
            }
            assert_eq!(
                (round.is_met(), round.can_be_met()),
                (met, hope),
                "case {n}"
            );
        }
    }

    #[test]
    fn the_message_names_the_group_that_is_short() {
        let need = Requirement {
            groups: vec![
                Group::majority_of(ids(&["a", "b", "c"])),
                Group::majority_of(ids(&["d", "e", "f"])),
            ],
        };
        let off = ids(&["e", "f"])
            .into_iter()
            .map(|n| (n, "dead for 3 s".to_owned()))
            .collect();
        let round = Round::open(need.clone(), &need.replicas(), &off);
        let Unmet::Quorum {
            needed,
            available,
            missing,
        } = round.quorum_unmet()
        else {
            panic!("a quorum is missing");
        };
        assert_eq!((needed, available, missing.len()), (2, 1, 2));
    }
}
