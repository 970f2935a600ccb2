//! One round of questions to replicas: whom to ask first and whom only when those are late, who
//! answered, whether that is enough and whether it still can be. Pure; the counting itself is
//! `Requirement::is_met` in `shared`.

use std::{collections::BTreeMap, sync::Arc};

use ringmaster_shared::{
    id::NodeId,
    quorum::{Group, Requirement},
    version::{Record, RecordVersion, VersionVector},
};

/// Who is worth asking, as far as this node knows.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Why replicas are not worth asking; whoever is not listed is.
    pub off: BTreeMap<NodeId, String>,
    /// Replicas that are likely to answer soon, the likeliest first; others come after these.
    pub order: Vec<NodeId>,
}

impl FromIterator<(NodeId, String)> for Reach {
    fn from_iter<I: IntoIterator<Item = (NodeId, String)>>(off: I) -> Self {
        Self {
            off: off.into_iter().collect(),
            order: Vec::new(),
        }
    }
}

impl Reach {
    /// The same replicas, in the order in which to ask them.
    fn ranked(&self, mut replicas: Vec<NodeId>) -> Vec<NodeId> {
        if !self.order.is_empty() {
            let place = |id: &NodeId| self.order.iter().position(|o| o == id);
            replicas.sort_by_key(|id| place(id).unwrap_or(usize::MAX));
        }
        replicas
    }
}

/// A question to one replica about the key at hand.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// The version without the values.
    Version,
    /// The whole record.
    Record,
    /// Join this record and sync it.
    Store(Arc<Record>),
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
    /// The same, and it answered: its store could not do all of it.
    Storage,
    /// It takes writes but must not answer reads before it is refilled.
    Recovering,
    /// Its disk is nearly full: it answers reads, and certainly did not store anything.
    ReadOnly,
    /// The operation began before deleted keys of the partition were forgotten there; the replica
    /// certainly did nothing, and does it when asked by an operation that begins now.
    Stale,
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
    /// More answers, or to be told that they are late.
    Wait,
    /// These questions asked.
    Ask(Vec<(NodeId, Ask)>),
    /// A dot and a stamp above `seen` for the record to be written.
    Stamp {
        seen: ringmaster_shared::clock::Hlc,
    },
    /// To begin again, issued anew: what was sent was refused as stale, and nobody has it.
    Again,
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
    /// Late answers are waited for, whatever it takes.
    pub hedging: bool,
}

/// The state of one round. Each replica is in one place only: still to be asked if need be
/// (`reserve`), asked (`waiting`), `answered` or `missing`.
#[derive(Debug, Clone)]
pub struct Round {
    need: Requirement,
    reserve: Vec<NodeId>,
    waiting: Vec<NodeId>,
    answered: Vec<NodeId>,
    missing: BTreeMap<NodeId, String>,
}

impl Round {
    /// Asks all of `asked` (a superset of the replicas that count) that are reachable.
    pub fn open(need: Requirement, asked: &[NodeId], reach: &Reach) -> Self {
        let mut round = Self::reserved(need, asked.to_vec(), reach);
        round.waiting = std::mem::take(&mut round.reserve);
        round
    }

    /// Asks only as many replicas as the requirement needs, the likeliest to answer first.
    pub fn choose(need: Requirement, reach: &Reach) -> Self {
        let all = need.replicas();
        let mut round = Self::reserved(need, all, reach);
        round.ask_for_failed();
        round
    }

    /// Asks nobody yet.
    pub fn reserved(need: Requirement, replicas: Vec<NodeId>, reach: &Reach) -> Self {
        let mut reserve = reach.ranked(replicas);
        let mut missing = BTreeMap::new();
        if !reach.off.is_empty() {
            reserve.retain(|id| match reach.off.get(id) {
                Some(why) => {
                    missing.insert(id.clone(), why.clone());
                    false
                }
                None => true,
            });
        }
        Self {
            need,
            waiting: Vec::with_capacity(reserve.len()),
            answered: Vec::with_capacity(reserve.len()),
            reserve,
            missing,
        }
    }

    /// Whom to ask besides so that the answers under way can be enough.
    pub fn ask_for_failed(&mut self) -> Vec<NodeId> {
        self.take(true)
    }

    /// Those asked are late: whom to ask besides, as if none of them would answer any more.
    pub fn ask_for_late(&mut self) -> Vec<NodeId> {
        self.take(false)
    }

    fn take(&mut self, count_waiting: bool) -> Vec<NodeId> {
        let mut taken: Vec<NodeId> = Vec::new();
        for id in &self.reserve {
            let has = |m: &NodeId| {
                self.answered.contains(m)
                    || taken.contains(m)
                    || (count_waiting && self.waiting.contains(m))
            };
            let helps = |group: &Group| {
                let have = group.members.iter().filter(|m| has(m)).count();
                have < group.need && group.members.contains(id)
            };
            if self.need.groups.iter().any(helps) {
                taken.push(id.clone());
            }
        }
        for id in &taken {
            self.asked(id);
        }
        taken
    }

    /// Somebody was asked on another round's behalf, and the answer counts here as well.
    pub fn asked(&mut self, who: &NodeId) {
        if let Some(at) = self.reserve.iter().position(|id| id == who) {
            self.waiting.push(self.reserve.remove(at));
        }
    }

    pub fn answered(&mut self, who: &NodeId) {
        self.forget(who);
        self.missing.remove(who);
        if !self.answered.contains(who) {
            self.answered.push(who.clone());
        }
    }

    pub fn failed(&mut self, who: &NodeId, why: String) {
        self.forget(who);
        self.missing.insert(who.clone(), why);
    }

    fn forget(&mut self, who: &NodeId) {
        self.waiting.retain(|id| id != who);
        self.reserve.retain(|id| id != who);
    }

    pub fn is_met(&self) -> bool {
        self.need.is_met_by(&self.answered)
    }

    /// Whether those asked, and those who could be, could complete it.
    pub fn can_be_met(&self) -> bool {
        let lists = [&self.answered, &self.waiting, &self.reserve];
        self.need.groups.iter().all(|group| {
            let hoped = |m: &&NodeId| lists.iter().any(|list| list.contains(m));
            group.members.iter().filter(hoped).count() >= group.need
        })
    }

    fn hoped(&self) -> Vec<NodeId> {
        let all = [&self.answered, &self.waiting, &self.reserve];
        all.into_iter().flatten().cloned().collect()
    }

    /// Whether somebody is left who could be asked when those asked are late.
    pub fn has_reserve(&self) -> bool {
        !self.reserve.is_empty()
    }

    pub fn waiting(&self) -> &[NodeId] {
        &self.waiting
    }

    pub fn who_answered(&self) -> &[NodeId] {
        &self.answered
    }

    pub fn missing(&self) -> &BTreeMap<NodeId, String> {
        &self.missing
    }

    /// "Cannot be met": what a client is told when nothing was stored.
    pub fn quorum_unmet(&self) -> Unmet {
        let (needed, available) = shortfall(&self.need, &self.hoped());
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
fn shortfall(need: &Requirement, have: &[NodeId]) -> (usize, usize) {
    let unmet = need.groups.iter().find(|group| !group.is_met_by(have));
    let group = unmet.or(need.groups.first());
    group.map_or((0, 0), |g| {
        let present = g.members.iter().filter(|m| have.contains(*m)).count();
        (g.need, present)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::testing::id;

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
            let off: Reach = unreachable
                .iter()
                .map(|n| (id(n), "dead".to_owned()))
                .collect();
            let rounds = [
                Round::open(need.clone(), &all, &off),
                Round::choose(need, &off),
            ];
            for mut round in rounds {
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
    }

    #[test]
    fn a_chosen_round_asks_no_more_than_it_needs_and_then_the_next() {
        let need = Requirement {
            groups: vec![Group::majority_of(ids(&["a", "b", "c", "d", "e"]))],
        };
        let reach = Reach {
            off: [(id("b"), "dead".to_owned())].into(),
            order: ids(&["d", "e", "c"]),
        };
        let mut round = Round::choose(need, &reach);
        assert_eq!(round.waiting(), ids(&["d", "e", "c"]));
        assert_eq!(round.ask_for_failed(), [], "enough is under way");
        round.failed(&id("e"), "refused".into());
        assert_eq!(round.ask_for_failed(), ids(&["a"]));
        assert!(!round.has_reserve());
        assert_eq!(round.ask_for_late(), []);
    }

    #[test]
    fn late_answers_are_hedged_in_each_group_that_is_short() {
        let need = Requirement {
            groups: vec![
                Group::majority_of(ids(&["a", "b", "c"])),
                Group::majority_of(ids(&["b", "c", "d"])),
            ],
        };
        let mut round = Round::choose(need, &Reach::default());
        assert_eq!(round.waiting(), ids(&["a", "b", "c"]));
        round.answered(&id("a"));
        round.answered(&id("b"));
        // the first group is complete; the other waits for c and could have d
        assert!(!round.is_met());
        assert_eq!(round.ask_for_late(), ids(&["d"]));
        assert_eq!(round.waiting(), ids(&["c", "d"]));
        round.answered(&id("d"));
        assert!(round.is_met());
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
