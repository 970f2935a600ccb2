//! A read as a pure machine: ask the replicas, merge what a read quorum holds, and before
//! answering make sure that a *write* quorum holds the merged record.
//!
//! Promises: when a quorum read returned a record, every later quorum read sees at least that
//! record (Attiya, Bar-Noy and Dolev: the reader writes back). The write-back is left out only
//! when the replicas that answered with exactly the merged record already are a write quorum;
//! while partitions are being filled that is more than a read quorum. Leaves sending and time
//! to the driver.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringmaster_shared::{api::data::Consistency, id::NodeId, version::Record};

use super::{
    round::{Ask, Breaks, Failure, FailureKind, Round, Said, Step, Unmet, Unreachable},
    write::Needs,
};

/// A read that has its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadDone {
    pub record: Arc<Record>,
    /// Answered the read before it was decided.
    pub responded: Vec<NodeId>,
    /// Were behind and have been brought up.
    pub repaired: Vec<NodeId>,
    pub quorum_achieved: bool,
}

#[derive(Debug)]
enum Phase {
    Query,
    /// Waits until a write quorum holds `merged`.
    WriteBack,
    /// Answered; late replicas may still be brought up.
    Settled,
}

#[derive(Debug)]
pub struct ReadMachine {
    consistency: Consistency,
    breaks: Breaks,
    needs: Needs,
    phase: Phase,
    query: Round,
    /// Who holds `merged`, once it is fixed.
    holding: Round,
    merged: Arc<Record>,
    answers: BTreeMap<NodeId, u64>,
    /// Refused the read but take writes.
    recovering: BTreeSet<NodeId>,
    responded: Vec<NodeId>,
    repaired: Vec<NodeId>,
}

impl ReadMachine {
    pub fn start(
        consistency: Consistency,
        breaks: Breaks,
        needs: Needs,
        unreachable: &Unreachable,
    ) -> (Self, Step<ReadDone>) {
        let read = match consistency {
            Consistency::One => needs.read.clone().one(),
            Consistency::Quorum => needs.read.clone(),
            Consistency::All => needs.read.clone().all(),
        };
        let write = match consistency {
            Consistency::All => needs.write.clone().all(),
            _ => needs.write.clone(),
        };
        // those that count for the write-back are asked as well: while partitions are being
        // filled they are more than those that count for the read
        let mut asked = read.replicas();
        for id in write.replicas() {
            if !asked.contains(&id) {
                asked.push(id);
            }
        }
        let query = Round::open(read, &asked, unreachable);
        let step = if query.can_be_met() {
            let asks = query.waiting().iter();
            Step::Ask(asks.map(|id| (id.clone(), Ask::Record)).collect())
        } else {
            Step::Failed(query.quorum_unmet())
        };
        let machine = Self {
            consistency,
            breaks,
            needs,
            phase: Phase::Query,
            holding: Round::open(write, &asked, unreachable),
            query,
            merged: Arc::default(),
            answers: BTreeMap::new(),
            recovering: BTreeSet::new(),
            responded: Vec::new(),
            repaired: Vec::new(),
        };
        (machine, step)
    }

    pub fn on_said(&mut self, who: &NodeId, said: Said) -> Step<ReadDone> {
        match (&self.phase, said) {
            (Phase::Query, Said::Record(record)) => {
                let record = record.unwrap_or_default();
                self.answers.insert(who.clone(), record.fingerprint());
                self.merged = Arc::new(if self.responded.is_empty() {
                    record
                } else {
                    self.merged.merge(&record)
                });
                self.responded.push(who.clone());
                self.query.answered(who);
                self.judge_query()
            }
            (Phase::WriteBack | Phase::Settled, Said::Record(record)) => {
                let record = record.unwrap_or_default();
                if holds(&record, &self.merged) {
                    self.holding.answered(who);
                    return self.judge_holding();
                }
                self.bring_up([who.clone()].into())
            }
            (Phase::WriteBack | Phase::Settled, Said::Stored) => {
                self.holding.answered(who);
                self.repaired.push(who.clone());
                self.judge_holding()
            }
            _ => Step::Wait,
        }
    }

    pub fn on_failure(&mut self, who: &NodeId, failure: Failure) -> Step<ReadDone> {
        let takes_writes = failure.kind == FailureKind::Recovering;
        match self.phase {
            Phase::Query => {
                if takes_writes {
                    self.recovering.insert(who.clone());
                } else {
                    self.holding.failed(who, failure.why.clone());
                }
                self.query.failed(who, failure.why);
                self.judge_query()
            }
            Phase::WriteBack if takes_writes => self.bring_up([who.clone()].into()),
            Phase::WriteBack | Phase::Settled => {
                self.holding.failed(who, failure.why);
                self.judge_holding()
            }
        }
    }

    fn judge_query(&mut self) -> Step<ReadDone> {
        if !self.query.is_met() {
            return if self.query.can_be_met() {
                Step::Wait
            } else {
                Step::Failed(self.query.quorum_unmet())
            };
        }
        let fingerprint = self.merged.fingerprint();
        let mut behind = std::mem::take(&mut self.recovering);
        for (id, theirs) in &self.answers {
            if *theirs == fingerprint {
                self.holding.answered(id);
            } else {
                behind.insert(id.clone());
            }
        }
        // of a key that was never written there is nothing to write back
        let nothing = self.merged.clock.is_empty();
        let skip = nothing || self.consistency == Consistency::One || self.breaks.write_back;
        if skip || self.holding.is_met() {
            self.settle(behind)
        } else {
            self.phase = Phase::WriteBack;
            if !self.holding.can_be_met() {
                return Step::Failed(self.holding.quorum_unmet());
            }
            self.bring_up(behind)
        }
    }

    fn bring_up(&mut self, behind: BTreeSet<NodeId>) -> Step<ReadDone> {
        let settled = matches!(self.phase, Phase::Settled);
        if settled && !self.repairs_late() {
            return Step::Wait;
        }
        let asks: Vec<_> = behind
            .into_iter()
            .map(|id| (id, Ask::Store(self.merged.clone())))
            .collect();
        if asks.is_empty() {
            Step::Wait
        } else {
            Step::Ask(asks)
        }
    }

    /// Whether replicas that answer after the decision are brought up in the background.
    fn repairs_late(&self) -> bool {
        self.consistency != Consistency::One
            && !self.breaks.write_back
            && !self.merged.clock.is_empty()
    }

    fn judge_holding(&mut self) -> Step<ReadDone> {
        match self.phase {
            Phase::WriteBack if self.holding.is_met() => self.settle(BTreeSet::new()),
            Phase::WriteBack if !self.holding.can_be_met() => {
                Step::Failed(self.holding.quorum_unmet())
            }
            _ => Step::Wait,
        }
    }

    /// `behind`: answered with less than the merged record and need not be waited for.
    fn settle(&mut self, behind: BTreeSet<NodeId>) -> Step<ReadDone> {
        self.phase = Phase::Settled;
        self.recovering = behind;
        Step::Done(ReadDone {
            record: self.merged.clone(),
            responded: self.responded.clone(),
            repaired: self.repaired.clone(),
            quorum_achieved: self.needs.read.is_met(self.query.who_answered()),
        })
    }

    /// The merge of what was answered so far.
    pub fn record(&self) -> &Record {
        &self.merged
    }

    /// After the end: what can be brought up in the background at once.
    pub fn leftovers(&mut self) -> Vec<(NodeId, Ask)> {
        let behind = std::mem::take(&mut self.recovering);
        match self.bring_up(behind) {
            Step::Ask(asks) => asks,
            _ => Vec::new(),
        }
    }

    pub fn on_deadline(&self) -> Unmet {
        match self.phase {
            Phase::Query => self.query.unanswered(false),
            _ => self.holding.unanswered(false),
        }
    }
}

/// Whether joining `wanted` into `record` would change nothing.
fn holds(record: &Record, wanted: &Record) -> bool {
    record.merge(wanted).fingerprint() == record.fingerprint()
}

#[cfg(test)]
mod tests;
