//! Getting a proposal decided, and telling everybody: rounds of the register over the network.
//!
//! Promises: no ballot of this node is used for two values (one proposal at a time, each ballot
//! above all that were drawn in this life, and marked with it); who goes by a decided topology never
//! is the only one that knows it while it leaves the ring by it.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::Rng;
use ringmaster_shared::{id::NodeId, topology::Topology};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Around, CALL_TIMEOUT};
use crate::{
    replication::frames::{Request, Response},
    topology::{
        Ballot, RegisterReply, RegisterRequest, TopologyHandle,
        register::{Proposer, Step},
    },
};

/// Rounds before the situation is looked at afresh.
const ROUNDS: u32 = 5;
/// Doubled each round, and a random part of it is waited, so that two proposers part.
const BACKOFF: Duration = Duration::from_millis(40);
/// Attempts to hand a decided topology to a member; who misses it sees it in gossip.
const PUSH_TRIES: u32 = 3;
const PUSH_AGAIN: Duration = Duration::from_millis(200);

/// What came of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::topology) enum Outcome {
    /// This is the next topology, and this node goes by it. It may be another's proposal.
    Decided(Box<Topology>),
    /// Somebody goes by a later topology: the base is history.
    Superseded(Box<Topology>),
    /// No majority of the voters answers and votes; these answer and abstain.
    Unreachable(BTreeSet<NodeId>),
    /// Others proposed at the same time; worth another look.
    Contended,
}

/// One node's way to propose.
#[derive(Clone)]
pub(in crate::topology) struct Proposing<A> {
    pub(in crate::topology) handle: TopologyHandle,
    pub(in crate::topology) around: A,
    pub(in crate::topology) stop: CancellationToken,
}

impl<A: Around> Proposing<A> {
    fn me(&self) -> &NodeId {
        self.handle.inner.identity.node_id()
    }

    /// Tries to make `next` the successor of `base`.
    pub(in crate::topology) async fn decide(&self, base: &Topology, next: &Topology) -> Outcome {
        // two proposals of one node at a time could draw the same ballot
        let mut drawn = self.handle.inner.proposing.lock().await;
        let mut above = 0;
        for attempt in 0..ROUNDS {
            if let Some(current) = self.handle.current()
                && current.epoch > base.epoch
            {
                return Outcome::Superseded(Box::new((*current).clone()));
            }
            match self.round(base, next, above, &mut drawn).await {
                Step::Decided(decided) => return self.enter(base, decided).await,
                Step::Superseded(later) => return Outcome::Superseded(Box::new(later)),
                Step::Outbid(by) => above = by.round,
                Step::Unreachable(abstain) => return Outcome::Unreachable(abstain),
                Step::Wait | Step::Send(_) => {}
            }
            sleep(backoff(attempt)).await;
        }
        Outcome::Contended
    }

    /// One attempt under a ballot that was never used.
    async fn round(&self, base: &Topology, next: &Topology, above: u64, drawn: &mut u64) -> Step {
        let me = self.me();
        let promised = self.handle.promised().await.map_or(0, |b| b.round);
        *drawn = above.max(promised).max(*drawn).saturating_add(1);
        let ballot = Ballot {
            round: *drawn,
            node: me.clone(),
            life: self.handle.inner.identity.generation(),
        };
        let mut proposer = Proposer::new(base.clone(), next.clone(), ballot);
        let mut request = proposer.prepare();
        let mut step = match self.handle.register(request.clone()).await {
            reply if proposer.voters().contains(me) => proposer.on_reply(me, reply),
            RegisterReply::Promised { .. } => Step::Wait,
            RegisterReply::Rejected { promised } => Step::Outbid(promised),
            RegisterReply::Newer(topology) => Step::Superseded(topology),
            RegisterReply::Behind { .. }
            | RegisterReply::Accepted
            | RegisterReply::Recalled { .. } => proposer.unreachable(),
        };
        loop {
            if step == Step::Wait {
                step = self.ask_others(base, &mut proposer, &request).await;
            }
            let Step::Send(accept) = step else {
                return step;
            };
            request = accept;
            step = if proposer.voters().contains(me) {
                let reply = self.handle.register(request.clone()).await;
                proposer.on_reply(me, reply)
            } else {
                Step::Wait
            };
        }
    }

    /// Sends one phase to the other voters until the proposer knows what is next.
    async fn ask_others(
        &self,
        base: &Topology,
        proposer: &mut Proposer,
        request: &RegisterRequest,
    ) -> Step {
        let me = self.me();
        let others = proposer.voters().iter().filter(|id| *id != me);
        let mut asked: FuturesUnordered<_> = others
            .map(|id| {
                let (around, id) = (self.around.clone(), id.clone());
                let request = Request::Register(request.clone());
                async move {
                    let answer = around.call(&id, base.epoch, request, CALL_TIMEOUT).await;
                    (id, answer)
                }
            })
            .collect();
        while let Some((id, answer)) = asked.next().await {
            let step = match answer {
                Ok(Response::Register(reply)) => proposer.on_reply(&id, reply),
                Ok(Response::EpochBehind { topology }) => {
                    proposer.on_reply(&id, RegisterReply::Newer(topology))
                }
                Ok(_) | Err(_) => proposer.on_lost(&id),
            };
            if step != Step::Wait {
                return step;
            }
        }
        proposer.unreachable()
    }

    /// Spreads what was decided and goes by it.
    ///
    /// Who stays is told before this node goes by it: a crash in between must not leave it with
    /// this node alone. Who goes is told only after somebody who stays goes by it: a leaver that
    /// knows it is out stops, and what it voted may be needed to decide the same again.
    async fn enter(&self, base: &Topology, decided: Topology) -> Outcome {
        let me = self.me();
        let others = |of: &Topology| -> BTreeSet<NodeId> {
            let ids = of.members.iter().map(|m| m.id.clone());
            ids.filter(|id| id != me).collect()
        };
        let staying = others(&decided);
        let mut going = others(base);
        going.retain(|id| !decided.contains(id));
        if decided.contains(me) {
            self.push_aside(staying, &decided);
        } else {
            let told = self.push(staying, &decided).await;
            let voters = decided.voters();
            let knowing = voters.iter().filter(|id| told.contains(*id)).count();
            if knowing < decided.voter_majority() {
                return Outcome::Unreachable(BTreeSet::new());
            }
        }
        if let Err(why) = self.handle.install(decided.clone()).await {
            tracing::warn!(
                "epoch {} was decided and cannot be stored: {why:#}",
                decided.epoch
            );
            return Outcome::Contended;
        }
        self.push_aside(going, &decided);
        Outcome::Decided(Box::new(decided))
    }

    /// Beside the proposer's own work.
    fn push_aside(&self, whom: BTreeSet<NodeId>, decided: &Topology) {
        if whom.is_empty() {
            return;
        }
        let (this, decided) = (self.clone(), decided.clone());
        tokio::spawn(async move {
            let stop = this.stop.clone();
            stop.run_until_cancelled(this.push(whom, &decided)).await;
        });
    }

    /// Hands a decided topology over; who took it.
    pub(in crate::topology) async fn push(
        &self,
        whom: BTreeSet<NodeId>,
        decided: &Topology,
    ) -> BTreeSet<NodeId> {
        let all: FuturesUnordered<_> = whom
            .into_iter()
            .map(|id| async {
                let took = push_to(&self.around, &id, decided).await;
                took.then_some(id)
            })
            .collect();
        all.filter_map(std::future::ready).collect().await
    }
}

async fn push_to<A: Around>(around: &A, node: &NodeId, topology: &Topology) -> bool {
    for _ in 0..PUSH_TRIES {
        let request = Request::PushTopology {
            topology: topology.clone(),
        };
        match around
            .call(node, topology.epoch, request, CALL_TIMEOUT)
            .await
        {
            Ok(Response::Done) => return true,
            Ok(_) => return false,
            Err(why) => tracing::debug!("epoch {} not handed over yet: {why}", topology.epoch),
        }
        sleep(PUSH_AGAIN).await;
    }
    false
}

pub(super) fn backoff(attempt: u32) -> Duration {
    let most = BACKOFF * 2_u32.pow(attempt.min(5));
    most.mul_f64(rand::rng().random_range(0.25..1.0))
}
