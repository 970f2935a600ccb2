//! A read as a pure machine: ask as many replicas as it takes, merge what they hold, and before
//! answering make sure that a *write* quorum holds the merged record.
//!
//! Only those likeliest to answer soon are asked at first; when one fails, or they are late, others
//! are asked as well (hedging; the driver says when that is).
//!
//! Promises: when a quorum read returned a record, every later quorum read sees at least that
//! record (Attiya, Bar-Noy and Dolev: the reader writes back). The write-back is left out only
//! when the replicas that answered with exactly the merged record already are a write quorum;
//! while partitions are being filled that is more than a read quorum.
//!
//! **Why hedging does not touch that.** The argument counts only who *answered*. Any replicas that
//! meet the read requirement share one with any that met the write requirement before, so the merge
//! holds every write acknowledged before the read began, whichever replicas were picked and in
//! whatever order. What leaves here is on a write quorum first: each of its members said so itself,
//! either by answering with that very record (a replica's record only grows, so it still has it) or
//! by acknowledging the write-back. Asking fewer replicas, others, or the same ones later changes
//! who these are, never whether they are enough; an answer that comes after the decision can only
//! make the reader's last good deed, bringing that replica up, possible.
//!
//! Each asked replica sends its whole record, not one the record and the others its fingerprint:
//! on most nodes one of the two is the local store, and where they differ no second round is needed.
//! Leaves sending and time to the driver.

use std::{collections::BTreeSet, sync::Arc};

use ringmaster_shared::{api::data::Consistency, id::NodeId, version::Record};

use super::{
    round::{Ask, Breaks, Failure, FailureKind, Reach, Round, Said, Step, Unmet},
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
    /// What makes it a quorum read, whatever the client asked for.
    quorum: ringmaster_shared::quorum::Requirement,
    phase: Phase,
    query: Round,
    /// Who holds `merged`, once it is fixed.
    holding: Round,
    /// The merge of all answers to the query.
    merged: Arc<Record>,
    /// Those whose answer was exactly `merged`.
    agree: Vec<NodeId>,
    /// Those whose answer was less, or who refused the read but take writes.
    behind: Vec<NodeId>,
    /// Those that were told `merged`.
    told: BTreeSet<NodeId>,
    responded: Vec<NodeId>,
    repaired: Vec<NodeId>,
}

impl ReadMachine {
    pub fn start(
        consistency: Consistency,
        breaks: Breaks,
        needs: Needs,
        reach: &Reach,
    ) -> (Self, Step<ReadDone>) {
        let quorum = needs.read.clone();
        let (read, write) = match consistency {
            Consistency::One => (needs.read.one(), needs.write),
            Consistency::Quorum => (needs.read, needs.write),
            Consistency::All => (needs.read.all(), needs.write.all()),
        };
        let same = read == write;
        let mut query = Round::choose(read, reach);
        let mut asked = query.waiting().to_vec();
        let holding = if same {
            query.clone()
        } else {
            let replicas = write.replicas();
            let mut holding = Round::reserved(write, replicas, reach);
            for id in query.waiting() {
                holding.asked(id);
            }
            // those that a write-back would need are asked as well: while partitions are being
            // filled they are more than those that count for the read
            if consistency != Consistency::One {
                for id in holding.ask_for_failed() {
                    query.asked(&id);
                    asked.push(id);
                }
            }
            holding
        };
        let step = if query.can_be_met() {
            records(asked)
        } else {
            Step::Failed(query.quorum_unmet())
        };
        let machine = Self {
            consistency,
            breaks,
            quorum,
            phase: Phase::Query,
            query,
            holding,
            merged: Arc::default(),
            agree: Vec::new(),
            behind: Vec::new(),
            told: BTreeSet::new(),
            responded: Vec::new(),
            repaired: Vec::new(),
        };
        (machine, step)
    }

    pub fn on_said(&mut self, who: &NodeId, said: Said) -> Step<ReadDone> {
        match (&self.phase, said) {
            (Phase::Query, Said::Record(record)) => {
                self.take_in(who, record.unwrap_or_default());
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
                self.bring_up(vec![who.clone()])
            }
            (Phase::WriteBack | Phase::Settled, Said::Stored) => {
                self.holding.answered(who);
                self.repaired.push(who.clone());
                self.judge_holding()
            }
            _ => Step::Wait,
        }
    }

    /// Keeps `merged`, `agree` and `behind` true to all answers so far.
    fn take_in(&mut self, who: &NodeId, record: Record) {
        if self.responded.is_empty() {
            self.merged = Arc::new(record);
            self.agree.push(who.clone());
        } else if record == *self.merged {
            self.agree.push(who.clone());
        } else {
            let merged = self.merged.merge(&record);
            if merged != *self.merged {
                self.behind.append(&mut self.agree);
            }
            if merged == record {
                self.agree.push(who.clone());
            } else {
                self.behind.push(who.clone());
            }
            self.merged = Arc::new(merged);
        }
    }

    pub fn on_failure(&mut self, who: &NodeId, failure: Failure) -> Step<ReadDone> {
        let takes_writes = failure.kind == FailureKind::Recovering;
        match self.phase {
            Phase::Query => {
                if takes_writes {
                    self.behind.push(who.clone());
                } else {
                    self.holding.failed(who, failure.why.clone());
                }
                self.query.failed(who, failure.why);
                self.judge_query()
            }
            // once: what answers so to that as well does not take it
            Phase::WriteBack if takes_writes && !self.told.contains(who) => {
                self.bring_up(vec![who.clone()])
            }
            Phase::WriteBack | Phase::Settled => {
                self.holding.failed(who, failure.why);
                self.judge_holding()
            }
        }
    }

    /// Those asked are late: who else is asked, if anybody is left.
    pub fn on_late(&mut self) -> Step<ReadDone> {
        match self.phase {
            Phase::Query => {
                let more = self.query.ask_for_late();
                self.ask_also(more)
            }
            Phase::WriteBack => {
                let more = self.holding.ask_for_late();
                self.bring_up(more)
            }
            Phase::Settled => Step::Wait,
        }
    }

    /// Whether [`Self::on_late`] could do something.
    pub fn can_hedge(&self) -> bool {
        match self.phase {
            Phase::Query => self.query.has_reserve(),
            Phase::WriteBack => self.holding.has_reserve(),
            Phase::Settled => false,
        }
    }

    fn ask_also(&mut self, more: Vec<NodeId>) -> Step<ReadDone> {
        for id in &more {
            self.holding.asked(id);
        }
        if more.is_empty() {
            Step::Wait
        } else {
            records(more)
        }
    }

    fn judge_query(&mut self) -> Step<ReadDone> {
        if !self.query.is_met() {
            if !self.query.can_be_met() {
                return Step::Failed(self.query.quorum_unmet());
            }
            let more = self.query.ask_for_failed();
            return self.ask_also(more);
        }
        for id in &self.agree {
            self.holding.answered(id);
        }
        // of a key that was never written there is nothing to write back
        let nothing = self.merged.clock.is_empty();
        let skip = nothing || self.consistency == Consistency::One || self.breaks.write_back;
        if skip || self.holding.is_met() {
            return self.settle();
        }
        self.phase = Phase::WriteBack;
        if !self.holding.can_be_met() {
            return Step::Failed(self.holding.quorum_unmet());
        }
        let mut behind = std::mem::take(&mut self.behind);
        behind.extend(self.holding.ask_for_failed());
        self.bring_up(behind)
    }

    fn bring_up(&mut self, behind: Vec<NodeId>) -> Step<ReadDone> {
        let settled = matches!(self.phase, Phase::Settled);
        if behind.is_empty() || (settled && !self.repairs_late()) {
            return Step::Wait;
        }
        self.told.extend(behind.iter().cloned());
        let stores = behind.into_iter();
        Step::Ask(
            stores
                .map(|id| (id, Ask::Store(self.merged.clone())))
                .collect(),
        )
    }

    /// Whether replicas that answer after the decision are brought up in the background.
    fn repairs_late(&self) -> bool {
        self.consistency != Consistency::One
            && !self.breaks.write_back
            && !self.merged.clock.is_empty()
    }

    fn judge_holding(&mut self) -> Step<ReadDone> {
        match self.phase {
            Phase::WriteBack if self.holding.is_met() => self.settle(),
            Phase::WriteBack if !self.holding.can_be_met() => {
                Step::Failed(self.holding.quorum_unmet())
            }
            Phase::WriteBack => {
                let more = self.holding.ask_for_failed();
                self.bring_up(more)
            }
            _ => Step::Wait,
        }
    }

    fn settle(&mut self) -> Step<ReadDone> {
        self.phase = Phase::Settled;
        Step::Done(ReadDone {
            record: self.merged.clone(),
            responded: self.responded.clone(),
            repaired: self.repaired.clone(),
            quorum_achieved: self.quorum.is_met_by(self.query.who_answered()),
        })
    }

    /// The merge of what was answered so far.
    pub fn record(&self) -> &Record {
        &self.merged
    }

    /// After the end: what can be brought up in the background at once.
    pub fn leftovers(&mut self) -> Vec<(NodeId, Ask)> {
        let behind = std::mem::take(&mut self.behind);
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

fn records(from: Vec<NodeId>) -> Step<ReadDone> {
    Step::Ask(from.into_iter().map(|id| (id, Ask::Record)).collect())
}

/// Whether joining `wanted` into `record` would change nothing.
fn holds(record: &Record, wanted: &Record) -> bool {
    record == wanted || record.merge(wanted) == *record
}

#[cfg(test)]
mod tests;
