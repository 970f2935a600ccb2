//! A write as a pure machine: ask a read quorum what is there, then store a record above all of
//! it on a write quorum (the multi-writer register of Attiya, Bar-Noy and Dolev).
//!
//! Promises: the record stored supersedes what was seen (without context) or exactly what the
//! context covers, as far as a read quorum knows it (see `VersionVector::limited_to` for why that
//! makes made-up contexts harmless and costs honest ones nothing); once a record has been sent it is the only record of this write, also across
//! a change of the topology. A second record with a new dot would make one write take effect
//! twice: somebody may have read the first one, overwritten it, and would see it come back. Only when
//! every replica that it was sent to is known not to have stored it (refused as stale) it begins again.
//!
//! **Conditional writes** ("exactly what this context says", "absent") store only when the query
//! finds the condition true, and then ask a read quorum once more. The write is answered well
//! only when nothing turned up that it had not seen. So of all writes conditioned on the same
//! version at most one is answered well, through whichever coordinators and whatever fails: take
//! two, both stored on a write quorum. If the first one's last question began after the second
//! was stored, it sees the second; if not, the second's last question began after the first was
//! stored, and sees the first. The other one is stored beside it, kept as a sibling and answered
//! as that (`Unmet::NotAlone`).
//!
//! **A refusal** (the condition is false, or too many versions stand side by side) rests on what some
//! replica of the query holds, perhaps it alone. Whoever is told of it must find it in every later
//! read, so the driver does not answer it before a read has brought it to a write quorum, and judges
//! again by what that found ([`WriteIntent::refusal`]).
//!
//! Leaves dots, stamps, time and sending to the driver.

use std::{collections::BTreeSet, sync::Arc};

use ringmaster_shared::{
    api::data::Consistency,
    clock::Hlc,
    id::NodeId,
    quorum::Requirement,
    version::{Dot, Record, RecordVersion, Sibling, Value, VersionVector},
};

mod condition;

use self::condition::too_many;
pub use self::condition::{Condition, SIBLINGS_MAX, SIBLINGS_WARN};
use super::round::{Ask, Breaks, Failure, FailureKind, Reach, Round, Said, Step, Unmet};

/// How often a write begins again because it was refused as stale. The floor that refused it is
/// known then, and floors rise twice in a grace period at most.
pub const AGAIN_MAX: u32 = 3;

/// What is to be written; does not change when the topology does.
#[derive(Debug, Clone)]
pub struct WriteIntent {
    /// `None` is a tombstone.
    pub value: Option<Value>,
    pub context: Option<VersionVector>,
    pub condition: Condition,
    pub consistency: Consistency,
    pub breaks: Breaks,
}

impl WriteIntent {
    /// Why a key that holds this is not to be written so, if so. `present`: whether a read of it
    /// would find a value.
    pub fn refusal(&self, held: &Record, present: bool) -> Option<Unmet> {
        let clock = &held.clock;
        if !self.condition.holds(clock, present) {
            let clock = clock.clone();
            return Some(Unmet::Precondition { clock, present });
        }
        let covered = self.context.as_ref()?.limited_to(clock);
        let own = self.value.as_ref().map_or(0, Value::len);
        let count = too_many(held, &covered, own)?;
        let clock = clock.clone();
        Some(Unmet::Siblings { clock, count })
    }
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
        /// Of a conditional write that is stored: who was asked what there is now.
        check: Option<Check>,
    },
}

/// The last question of a conditional write.
#[derive(Debug)]
struct Check {
    round: Round,
    clock: VersionVector,
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
    /// A replica refused to store and may yet turn out to be like all the others: its disk is
    /// nearly full, or the write is stale.
    refused: bool,
    /// A replica refused the record as stale.
    stale: bool,
    /// How often it may still begin again for that.
    attempts_left: u32,
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
    pub fn start(intent: WriteIntent, needs: Needs, unreachable: &Reach) -> (Self, Step<Written>) {
        let quorum = needs.write.clone();
        let needs = needs_at(&intent, needs);
        let round = Round::choose(needs.read.clone(), unreachable);
        let mut machine = Self {
            intent,
            needs,
            quorum,
            phase: Phase::Query,
            round,
            seen: Seen::default(),
            refused: false,
            stale: false,
            attempts_left: AGAIN_MAX,
        };
        let step = machine.query(unreachable);
        (machine, step)
    }

    /// Starts or restarts the query round.
    fn query(&mut self, unreachable: &Reach) -> Step<Written> {
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
        self.round = Round::choose(self.needs.read.clone(), unreachable);
        if self.intent.breaks.version_query {
            self.phase = Phase::Stamping;
            return Step::Stamp { seen: Hlc(0) };
        }
        if !self.round.can_be_met() {
            return Step::Failed(self.round.quorum_unmet());
        }
        self.question(self.round.waiting().to_vec())
    }

    /// The question of the query round to each of `to`.
    fn question(&self, to: Vec<NodeId>) -> Step<Written> {
        if to.is_empty() {
            return Step::Wait;
        }
        // with a context, siblings that it does not cover must stay, so their values are needed
        let ask = if self.intent.context.is_some() || self.intent.breaks.keep_superseded {
            Ask::Record
        } else {
            Ask::Version
        };
        Step::Ask(to.into_iter().map(|id| (id, ask.clone())).collect())
    }

    /// Those asked for the version are late: who else is asked, if anybody is left. Records are
    /// stored on all replicas at once, so there nobody is left.
    pub fn on_late(&mut self) -> Step<Written> {
        match self.phase {
            Phase::Query => {
                let more = self.round.ask_for_late();
                self.question(more)
            }
            _ => Step::Wait,
        }
    }

    /// Whether [`Self::on_late`] could do something.
    pub fn can_hedge(&self) -> bool {
        matches!(self.phase, Phase::Query) && self.round.has_reserve()
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
            (Phase::Store { .. }, Said::Version(version)) => {
                return self.checked(who, &version.unwrap_or_default());
            }
            // an answer to a question of the round before
            _ => return Step::Wait,
        }
        self.round.answered(who);
        self.judge()
    }

    /// An answer to the last question of a conditional write.
    fn checked(&mut self, who: &NodeId, version: &RecordVersion) -> Step<Written> {
        if let Phase::Store {
            check: Some(check), ..
        } = &mut self.phase
        {
            check.clock.join(&version.clock);
            check.round.answered(who);
        }
        self.judge()
    }

    pub fn on_failure(&mut self, who: &NodeId, failure: Failure) -> Step<Written> {
        if let Phase::Store {
            possible, check, ..
        } = &mut self.phase
        {
            if let Some(check) = check {
                // which of the two questions failed is not told; one that holds the record keeps it
                check.round.failed(who, failure.why.clone());
                if self.round.who_answered().contains(who) {
                    return self.judge();
                }
            }
            if !matches!(failure.kind, FailureKind::Unknown | FailureKind::Storage) {
                possible.remove(who);
            }
        }
        self.stale |= failure.kind == FailureKind::Stale;
        self.refused |= matches!(failure.kind, FailureKind::ReadOnly | FailureKind::Stale);
        self.round.failed(who, failure.why);
        self.judge()
    }

    fn judge(&mut self) -> Step<Written> {
        match &self.phase {
            Phase::Query if self.round.is_met() => self.weigh(),
            Phase::Query if !self.round.can_be_met() => Step::Failed(self.round.quorum_unmet()),
            Phase::Query => {
                let more = self.round.ask_for_failed();
                self.question(more)
            }
            Phase::Store { check: Some(_), .. } => self.judge_check(),
            Phase::Store { .. } if self.round.is_met() => self.stored(),
            // full disks are often full on all replicas, and floors rise on all at once: when the
            // last has said so, it is known that nothing was stored
            Phase::Store { .. }
                if !self.round.can_be_met()
                    && self.refused
                    && self.round.who_answered().is_empty()
                    && !self.round.waiting().is_empty() =>
            {
                Step::Wait
            }
            Phase::Store { .. } if !self.round.can_be_met() => self.again_or_lost(),
            _ => Step::Wait,
        }
    }

    /// A stale write that nobody can have stored may begin again with another dot: this one was
    /// never seen and never will be. With a single copy somewhere it must not: that copy may have
    /// been read and deleted since, and the second would come back from it.
    fn again_or_lost(&mut self) -> Step<Written> {
        if self.stale && self.attempts_left > 0 && !self.may_have_written() {
            self.attempts_left -= 1;
            return Step::Again;
        }
        Step::Failed(self.lost())
    }

    /// The answer to [`Step::Again`]: answers to earlier questions must no longer be handed in.
    pub fn begin_again(&mut self, unreachable: &Reach) -> Step<Written> {
        self.query(unreachable)
    }

    /// The query is complete: whether the write may go on.
    fn weigh(&mut self) -> Step<Written> {
        let refusal = self.intent.refusal(&self.seen.base, self.seen.present);
        if let Some(unmet) = refusal {
            return Step::Failed(unmet);
        }
        self.phase = Phase::Stamping;
        Step::Stamp {
            seen: self.seen.hlc,
        }
    }

    /// A write quorum has the record; a conditional write asks whether it is alone.
    fn stored(&mut self) -> Step<Written> {
        let Phase::Store { check, .. } = &mut self.phase else {
            return Step::Wait;
        };
        let asks_again = self.intent.condition.excludes_others()
            && self.intent.consistency != Consistency::One
            && !self.intent.breaks.last_question;
        if !asks_again {
            return self.done();
        }
        // who failed the store is not worth asking again
        let off = Reach {
            off: self.round.missing().clone(),
            ..Reach::default()
        };
        let round = Round::open(self.needs.read.clone(), &self.needs.read.replicas(), &off);
        let asks = round.waiting().iter();
        let asks: Vec<_> = asks.map(|id| (id.clone(), Ask::Version)).collect();
        let hopeful = round.can_be_met();
        *check = Some(Check {
            round,
            clock: VersionVector::default(),
        });
        if hopeful {
            Step::Ask(asks)
        } else {
            Step::Failed(self.lost())
        }
    }

    fn judge_check(&mut self) -> Step<Written> {
        let Phase::Store {
            record,
            check: Some(check),
            ..
        } = &self.phase
        else {
            return Step::Wait;
        };
        if !record.clock.dominates(&check.clock) {
            let mut clock = record.clock.clone();
            clock.join(&check.clock);
            return Step::Failed(Unmet::NotAlone { clock });
        }
        if check.round.is_met() {
            self.done()
        } else if check.round.can_be_met() {
            Step::Wait
        } else {
            Step::Failed(self.lost())
        }
    }

    fn done(&self) -> Step<Written> {
        let Phase::Store { record, .. } = &self.phase else {
            return Step::Wait;
        };
        let answered = self.round.who_answered();
        Step::Done(Written {
            record: record.clone(),
            successful: in_order(&self.needs.write, |id| answered.contains(id)),
            failed: self.round.missing().keys().cloned().collect(),
            quorum_achieved: self.quorum.is_met_by(answered),
        })
    }

    /// The answer to `Step::Stamp`.
    pub fn stamp(&mut self, dot: Dot, hlc: Hlc, unreachable: &Reach) -> Step<Written> {
        let sibling = Sibling {
            dot,
            hlc,
            value: self.intent.value.clone(),
        };
        let base = std::mem::take(&mut self.seen.base);
        let covered = match &self.intent.context {
            Some(context) if !self.intent.breaks.ignore_context => context.limited_to(&base.clock),
            None if self.intent.breaks.keep_superseded => VersionVector::default(),
            _ => base.clock.clone(),
        };
        let record = Arc::new(Record::written(&base, &covered, sibling));
        self.store(record, false, unreachable)
    }

    fn store(&mut self, record: Arc<Record>, earlier: bool, unreachable: &Reach) -> Step<Written> {
        self.round = Round::open(
            self.needs.write.clone(),
            &self.needs.write.replicas(),
            unreachable,
        );
        (self.refused, self.stale) = (false, false);
        let hopeful = self.round.can_be_met();
        let possible = if hopeful {
            self.round.waiting().iter().cloned().collect()
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
            check: None,
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
        unreachable: &Reach,
    ) -> Step<Written> {
        self.quorum = needs.write.clone();
        self.needs = needs_at(&self.intent, needs);
        match &mut self.phase {
            Phase::Query | Phase::Stamping => self.query(unreachable),
            Phase::Store {
                record,
                possible,
                earlier,
                ..
            } => {
                // one that refused only the last question holds the record
                let holds = |id: &NodeId| self.round.who_answered().contains(id);
                if let Some(refuser) = refuser.filter(|id| !holds(id)) {
                    possible.remove(refuser);
                }
                let earlier = *earlier || !possible.is_empty();
                let record = record.clone();
                self.store(record, earlier, unreachable)
            }
        }
    }

    pub fn on_deadline(&self) -> Unmet {
        let round = match &self.phase {
            Phase::Store {
                check: Some(check), ..
            } => &check.round,
            _ => &self.round,
        };
        round.unanswered(self.may_have_written())
    }

    /// Whether somebody may hold the record.
    pub fn may_have_written(&self) -> bool {
        match &self.phase {
            Phase::Store {
                possible, earlier, ..
            } => *earlier || !possible.is_empty(),
            _ => false,
        }
    }

    fn lost(&self) -> Unmet {
        if self.may_have_written() {
            self.on_deadline()
        } else {
            self.round.quorum_unmet()
        }
    }

    /// Whether what it did not see must stay: it supersedes only what its client had seen.
    pub fn could_swallow(&self) -> bool {
        self.intent.context.is_some() || self.intent.condition != Condition::Always
    }

    /// Whether the query knows this dot.
    pub fn has_seen(&self, dot: &Dot) -> bool {
        self.seen.base.clock.covers(dot)
    }

    /// Whether a write quorum is known to hold the record.
    pub fn is_on_quorum(&self) -> bool {
        let stored = matches!(self.phase, Phase::Store { .. });
        stored && self.quorum.is_met_by(self.round.who_answered())
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

fn needs_at(intent: &WriteIntent, needs: Needs) -> Needs {
    match intent.consistency {
        Consistency::Quorum if intent.breaks.early_ack => Needs {
            write: needs.write.one(),
            ..needs
        },
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
