//! A write as a pure machine: ask a read quorum what is there, then store a record above all of
//! it on a write quorum (the multi-writer register of Attiya, Bar-Noy and Dolev).
//!
//! Promises: the record stored supersedes what was seen (without context) or exactly what the
//! context covers; once a record has been sent it is the only record of this write, also across
//! a change of the topology. A second record with a new dot would make one write take effect
//! twice: somebody may have read the first one, overwritten it, and would see it come back.
//! Leaves dots, stamps, time and sending to the driver.

use std::{collections::BTreeSet, sync::Arc};

use ringmaster_shared::{
    api::data::Consistency,
    clock::Hlc,
    id::NodeId,
    quorum::Requirement,
    version::{Dot, Record, Sibling, Value, VersionVector},
};

use super::round::{Ask, Breaks, Failure, FailureKind, Round, Said, Step, Unmet, Unreachable};

/// What is to be written; does not change when the topology does.
#[derive(Debug, Clone)]
pub struct WriteIntent {
    /// `None` is a tombstone.
    pub value: Option<Value>,
    pub context: Option<VersionVector>,
    pub only_if_absent: bool,
    pub consistency: Consistency,
    pub breaks: Breaks,
}

/// A write that reached what it needed.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub record: Arc<Record>,
    pub successful: Vec<NodeId>,
    pub failed: Vec<NodeId>,
    pub quorum_achieved: bool,
}

/// What a topology asks of the two rounds.
#[derive(Debug, Clone)]
pub struct Needs {
    pub read: Requirement,
    pub write: Requirement,
}

#[derive(Debug)]
enum Phase {
    Query,
    /// The query is done; the driver owes a dot and a stamp.
    Stamping,
    Store {
        record: Arc<Record>,
        /// Replicas that may hold the record.
        possible: BTreeSet<NodeId>,
        /// Somebody may hold it from before the topology changed.
        earlier: bool,
    },
}

#[derive(Debug)]
pub struct WriteMachine {
    intent: WriteIntent,
    /// At the level the client asked for.
    needs: Needs,
    /// What would make it a quorum write, whatever the client asked for.
    quorum: Requirement,
    phase: Phase,
    round: Round,
    seen: Seen,
    /// A replica refused to store because its disk is nearly full.
    read_only: bool,
}

/// What the query round gathered.
#[derive(Debug, Default)]
struct Seen {
    base: Record,
    hlc: Hlc,
    /// Whether the sibling stamped `hlc` holds a value.
    present: bool,
}

impl Seen {
    fn add(&mut self, hlc: Hlc, present: bool) {
        if hlc >= self.hlc {
            self.present = present;
            self.hlc = hlc;
        }
    }
}

impl WriteMachine {
    pub fn start(
        intent: WriteIntent,
        needs: Needs,
        unreachable: &Unreachable,
    ) -> (Self, Step<Written>) {
        let quorum = needs.write.clone();
        let needs = needs_at(intent.consistency, needs);
        let round = Round::open(needs.read.clone(), &needs.read.replicas(), unreachable);
        let mut machine = Self {
            intent,
            needs,
            quorum,
            phase: Phase::Query,
            round,
            seen: Seen::default(),
            read_only: false,
        };
        let step = machine.query(unreachable);
        (machine, step)
    }

    /// Starts or restarts the query round.
    fn query(&mut self, unreachable: &Unreachable) -> Step<Written> {
        let write = Round::open(
            self.needs.write.clone(),
            &self.needs.write.replicas(),
            unreachable,
        );
        // a write that cannot be stored is refused before anybody is asked anything
        if !write.can_be_met() {
            return Step::Failed(write.quorum_unmet());
        }
        self.seen = Seen::default();
        self.phase = Phase::Query;
        self.round = Round::open(
            self.needs.read.clone(),
            &self.needs.read.replicas(),
            unreachable,
        );
        if self.intent.breaks.version_query {
            self.phase = Phase::Stamping;
            return Step::Stamp { seen: Hlc(0) };
        }
        if !self.round.can_be_met() {
            return Step::Failed(self.round.quorum_unmet());
        }
        // with a context, siblings that it does not cover must stay, so their values are needed
        let ask = if self.intent.context.is_some() {
            Ask::Record
        } else {
            Ask::Version
        };
        Step::Ask(
            self.round
                .waiting()
                .iter()
                .map(|id| (id.clone(), ask.clone()))
                .collect(),
        )
    }

    pub fn on_said(&mut self, who: &NodeId, said: Said) -> Step<Written> {
        match (&self.phase, said) {
            (Phase::Query, Said::Version(version)) => {
                let version = version.unwrap_or_default();
                self.seen.base.clock.join(&version.clock);
                self.seen.add(version.hlc, version.present);
            }
            (Phase::Query, Said::Record(record)) => {
                let record = record.unwrap_or_default();
                let present = record.head().is_some_and(|s| s.value.is_some());
                self.seen.add(record.max_hlc(), present);
                self.seen.base = self.seen.base.merge(&record);
            }
            (Phase::Store { .. }, Said::Stored) => {}
            // an answer to a question of the round before
            _ => return Step::Wait,
        }
        self.round.answered(who);
        self.judge()
    }

    pub fn on_failure(&mut self, who: &NodeId, failure: Failure) -> Step<Written> {
        if let Phase::Store { possible, .. } = &mut self.phase
            && failure.kind != FailureKind::Unknown
        {
            possible.remove(who);
        }
        self.read_only |= failure.kind == FailureKind::ReadOnly;
        self.round.failed(who, failure.why);
        self.judge()
    }

    fn judge(&mut self) -> Step<Written> {
        match &self.phase {
            Phase::Query if self.round.is_met() => {
                if self.intent.only_if_absent && self.seen.present {
                    return Step::Failed(Unmet::Exists);
                }
                self.phase = Phase::Stamping;
                Step::Stamp {
                    seen: self.seen.hlc,
                }
            }
            Phase::Query if !self.round.can_be_met() => Step::Failed(self.round.quorum_unmet()),
            Phase::Store { record, .. } if self.round.is_met() => {
                let answered = self.round.who_answered();
                Step::Done(Written {
                    record: record.clone(),
                    successful: in_order(&self.needs.write, |id| answered.contains(id)),
                    failed: self.round.missing().keys().cloned().collect(),
                    quorum_achieved: self.quorum.is_met(answered),
                })
            }
            // full disks are often full on all replicas: once the last has said so, it is known
            // that nothing was stored
            Phase::Store { .. }
                if !self.round.can_be_met()
                    && self.read_only
                    && self.round.who_answered().is_empty()
                    && !self.round.waiting().is_empty() =>
            {
                Step::Wait
            }
            Phase::Store { .. } if !self.round.can_be_met() => Step::Failed(self.lost()),
            _ => Step::Wait,
        }
    }

    /// The answer to `Step::Stamp`.
    pub fn stamp(&mut self, dot: Dot, hlc: Hlc, unreachable: &Unreachable) -> Step<Written> {
        let sibling = Sibling {
            dot,
            hlc,
            value: self.intent.value.clone(),
        };
        let base = std::mem::take(&mut self.seen.base);
        let covered = self.intent.context.as_ref().unwrap_or(&base.clock);
        let record = Arc::new(Record::written(&base, covered, sibling));
        self.store(record, false, unreachable)
    }

    fn store(
        &mut self,
        record: Arc<Record>,
        earlier: bool,
        unreachable: &Unreachable,
    ) -> Step<Written> {
        self.round = Round::open(
            self.needs.write.clone(),
            &self.needs.write.replicas(),
            unreachable,
        );
        let hopeful = self.round.can_be_met();
        let possible = if hopeful {
            self.round.waiting().clone()
        } else {
            BTreeSet::new()
        };
        let asks = possible
            .iter()
            .map(|id| (id.clone(), Ask::Store(record.clone())))
            .collect();
        self.phase = Phase::Store {
            record,
            possible,
            earlier,
        };
        if hopeful {
            Step::Ask(asks)
        } else {
            Step::Failed(self.lost())
        }
    }

    /// The topology changed under the operation; `refuser` told so and did nothing. Answers to
    /// questions asked before must no longer be handed in.
    pub fn regroup(
        &mut self,
        refuser: Option<&NodeId>,
        needs: Needs,
        unreachable: &Unreachable,
    ) -> Step<Written> {
        self.quorum = needs.write.clone();
        self.needs = needs_at(self.intent.consistency, needs);
        match &mut self.phase {
            Phase::Query | Phase::Stamping => self.query(unreachable),
            Phase::Store {
                record,
                possible,
                earlier,
            } => {
                if let Some(refuser) = refuser {
                    possible.remove(refuser);
                }
                let earlier = *earlier || !possible.is_empty();
                let record = record.clone();
                self.store(record, earlier, unreachable)
            }
        }
    }

    pub fn on_deadline(&self) -> Unmet {
        self.round.unanswered(self.may_have_written())
    }

    fn may_have_written(&self) -> bool {
        match &self.phase {
            Phase::Store {
                possible, earlier, ..
            } => *earlier || !possible.is_empty(),
            _ => false,
        }
    }

    fn lost(&self) -> Unmet {
        if self.may_have_written() {
            self.round.unanswered(true)
        } else {
            self.round.quorum_unmet()
        }
    }

    /// What is being stored, once that is fixed.
    pub fn record(&self) -> Option<&Record> {
        match &self.phase {
            Phase::Store { record, .. } => Some(record),
            _ => None,
        }
    }

    /// After the end: the record and the replicas that are not known to have it. `None` when
    /// nobody is known to have it, because then there is nothing that the others would miss.
    pub fn owed(&self) -> Option<(Arc<Record>, Vec<NodeId>)> {
        let Phase::Store { record, .. } = &self.phase else {
            return None;
        };
        let answered = self.round.who_answered();
        if answered.is_empty() {
            return None;
        }
        let behind = in_order(&self.needs.write, |id| !answered.contains(id));
        Some((record.clone(), behind))
    }
}

fn needs_at(consistency: Consistency, needs: Needs) -> Needs {
    match consistency {
        Consistency::One => Needs {
            read: needs.read.one(),
            write: needs.write.one(),
        },
        Consistency::Quorum => needs,
        Consistency::All => Needs {
            read: needs.read,
            write: needs.write.all(),
        },
    }
}

fn in_order(need: &Requirement, keep: impl Fn(&NodeId) -> bool) -> Vec<NodeId> {
    let mut ids = need.replicas();
    ids.retain(|id| keep(id));
    ids
}

#[cfg(test)]
mod tests;
