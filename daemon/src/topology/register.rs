//! The register that decides the next topology: single-decree Paxos, one instance an epoch.
//!
//! Pure. Promises that for one base no two values are ever decided, whatever is lost, doubled,
//! late or out of order, if two things hold: an acceptor's state is synced before its answer
//! leaves, and no ballot is used for two values. Leaves to the driver: sending, waiting, and
//! drawing ballots that were never used (it promises itself each ballot first, and that promise
//! is synced). See Lamport, "Paxos Made Simple", section 2.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_shared::{
    id::{Epoch, NodeId},
    topology::Topology,
};

use super::{Ballot, RegisterReply, RegisterRequest};
use crate::identity::AcceptorState;

impl AcceptorState {
    /// Nothing promised yet.
    pub fn fresh(base_epoch: Epoch) -> Self {
        Self {
            base_epoch,
            promised: None,
            accepted: None,
        }
    }

    fn outbid(&self, ballot: &Ballot) -> Option<RegisterReply> {
        let promised = self.promised.as_ref().filter(|p| *p > ballot)?;
        Some(RegisterReply::Rejected {
            promised: promised.clone(),
        })
    }

    /// Phase 1. The state has changed when it differs from before; it must be synced before the
    /// reply is sent.
    pub fn prepare(&mut self, ballot: Ballot) -> RegisterReply {
        self.outbid(&ballot).unwrap_or_else(|| {
            self.promised = Some(ballot);
            RegisterReply::Promised {
                accepted: self.accepted.clone(),
            }
        })
    }

    /// Phase 2. As above.
    pub fn accept(&mut self, ballot: Ballot, value: Topology) -> RegisterReply {
        self.outbid(&ballot).unwrap_or_else(|| {
            self.promised = Some(ballot.clone());
            self.accepted = Some((ballot, value));
            RegisterReply::Accepted
        })
    }
}

/// What a proposer does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More answers are needed.
    Wait,
    /// A majority promised: send this to every voter.
    Send(RegisterRequest),
    /// This is the next topology; it may be another's proposal.
    Decided(Topology),
    /// A voter promised a higher ballot: try again above it.
    Outbid(Ballot),
    /// A voter goes by a later epoch: the base is history.
    Superseded(Topology),
    /// Too many voters cannot be asked, or abstain: these.
    Unreachable(BTreeSet<NodeId>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preparing,
    Accepting,
    Over,
}

/// One attempt, under one ballot.
#[derive(Debug, Clone)]
pub struct Proposer {
    base: Topology,
    ballot: Ballot,
    voters: BTreeSet<NodeId>,
    majority: usize,
    phase: Phase,
    /// What is proposed if nothing was accepted before.
    value: Topology,
    promises: BTreeMap<NodeId, Option<(Ballot, Topology)>>,
    accepts: BTreeSet<NodeId>,
    /// Voters that did not answer, or could not judge, in this phase.
    lost: BTreeSet<NodeId>,
    /// Of all that were asked: those that lost their folder and do not vote on this base.
    abstain: BTreeSet<NodeId>,
}

impl Proposer {
    /// An attempt to make `own` the successor of `base`.
    pub fn new(base: Topology, own: Topology, ballot: Ballot) -> Self {
        Self {
            voters: base.voters().into_iter().collect(),
            majority: base.voter_majority(),
            base,
            ballot,
            phase: Phase::Preparing,
            value: own,
            promises: BTreeMap::new(),
            accepts: BTreeSet::new(),
            lost: BTreeSet::new(),
            abstain: BTreeSet::new(),
        }
    }

    #[cfg(test)]
    pub fn ballot(&self) -> &Ballot {
        &self.ballot
    }

    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.voters
    }

    /// The first message, for every voter.
    pub fn prepare(&self) -> RegisterRequest {
        RegisterRequest::Prepare {
            base: self.base.clone(),
            ballot: self.ballot.clone(),
        }
    }

    /// Takes in one voter's answer to this ballot. Doubled and late answers do no harm.
    pub fn on_reply(&mut self, from: &NodeId, reply: RegisterReply) -> Step {
        if !self.voters.contains(from) || self.phase == Phase::Over {
            return Step::Wait;
        }
        match (self.phase, reply) {
            (Phase::Preparing, RegisterReply::Promised { accepted }) => {
                self.promises.insert(from.clone(), accepted);
                self.after_promise()
            }
            (Phase::Accepting, RegisterReply::Accepted) => {
                self.accepts.insert(from.clone());
                self.after_accept()
            }
            (_, RegisterReply::Rejected { promised }) if promised > self.ballot => {
                self.phase = Phase::Over;
                Step::Outbid(promised)
            }
            (_, RegisterReply::Newer(topology)) if topology.epoch > self.base.epoch => {
                self.phase = Phase::Over;
                Step::Superseded(topology)
            }
            (_, RegisterReply::Behind { epoch }) => {
                if epoch == 0 {
                    self.abstain.insert(from.clone());
                }
                self.on_lost(from)
            }
            // an answer to the phase before, or one that makes no sense
            _ => Step::Wait,
        }
    }

    /// A voter could not be asked, did not answer, or could not judge.
    pub fn on_lost(&mut self, from: &NodeId) -> Step {
        if self.phase == Phase::Over || !self.voters.contains(from) {
            return Step::Wait;
        }
        self.lost.insert(from.clone());
        if self.voters.len() - self.lost.len() < self.majority {
            self.phase = Phase::Over;
            return self.unreachable();
        }
        Step::Wait
    }

    /// What is left when everybody has been asked in vain.
    pub fn unreachable(&self) -> Step {
        Step::Unreachable(self.abstain.clone())
    }

    fn after_promise(&mut self) -> Step {
        if self.promises.len() < self.majority {
            return Step::Wait;
        }
        // the rule that carries the proof: what may have been decided already is what is proposed
        let highest = self.promises.values().flatten().max_by_key(|(b, _)| b);
        if let Some((_, accepted)) = highest {
            self.value = accepted.clone();
        }
        self.phase = Phase::Accepting;
        self.lost.clear();
        Step::Send(RegisterRequest::Accept {
            base_epoch: self.base.epoch,
            ballot: self.ballot.clone(),
            value: self.value.clone(),
        })
    }

    fn after_accept(&mut self) -> Step {
        if self.accepts.len() < self.majority {
            return Step::Wait;
        }
        self.phase = Phase::Over;
        Step::Decided(self.value.clone())
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
