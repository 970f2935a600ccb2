//! Getting a proposal decided: rounds of the register over the network.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::Rng;
use ringmaster_shared::{event::EventCode, topology::Topology};
use tokio::time::sleep;

use super::{Around, CALL_TIMEOUT, Driver, IDLE};
use crate::{
    replication::frames::{Request, Response},
    topology::{
        Ballot, RegisterReply, RegisterRequest,
        register::{Proposer, Step},
    },
};

/// Rounds before the situation is looked at afresh.
const ROUNDS: u32 = 5;
/// Doubled each round, and a random part of it is waited, so that two proposers part.
const BACKOFF: Duration = Duration::from_millis(40);

impl<A: Around> Driver<A> {
    /// Tries to make `next` the successor of `base`; returns how long to wait before the next
    /// look. Another's proposal may come out of it: that is a success too.
    pub(super) async fn propose(&mut self, base: &Arc<Topology>, next: &Topology) -> Duration {
        let mut above = 0;
        for attempt in 0..ROUNDS {
            match self.round(base, next, above).await {
                Step::Decided(decided) => {
                    // before it is adopted here: a crash in between must not leave it with us alone
                    self.push(base, &decided);
                    self.install(decided).await;
                    return Duration::ZERO;
                }
                Step::Superseded(later) => {
                    self.install(later).await;
                    return Duration::ZERO;
                }
                Step::Outbid(by) => above = by.round,
                Step::Unreachable => {
                    let voters: Vec<String> =
                        base.voters().iter().map(ToString::to_string).collect();
                    let message = format!(
                        "the ring cannot change: no majority of its voters answers ({} of {} needed: {})",
                        base.voter_majority(),
                        voters.len(),
                        voters.join(", ")
                    );
                    self.tell_once(message, EventCode::RingChangeStalled);
                    return IDLE;
                }
                Step::Wait | Step::Send(_) => {}
            }
            sleep(backoff(attempt)).await;
            if self.handle.epoch() != base.epoch {
                return Duration::ZERO;
            }
        }
        backoff(ROUNDS)
    }

    /// One attempt under a ballot that was never used: this node promises itself first, which is
    /// synced, and its next ballot is above that even after a restart.
    async fn round(&self, base: &Arc<Topology>, next: &Topology, above: u64) -> Step {
        let promised = self.handle.promised().await.map_or(0, |b| b.round);
        let ballot = Ballot {
            round: above.max(promised).saturating_add(1),
            node: self.me.clone(),
        };
        let mut proposer = Proposer::new((**base).clone(), next.clone(), ballot);
        let mut request = proposer.prepare();
        let mut step = match self.handle.register(request.clone()).await {
            reply if proposer.voters().contains(&self.me) => proposer.on_reply(&self.me, reply),
            RegisterReply::Promised { .. } => Step::Wait,
            RegisterReply::Rejected { promised } => Step::Outbid(promised),
            RegisterReply::Newer(topology) => Step::Superseded(topology),
            RegisterReply::Behind { .. } | RegisterReply::Accepted => Step::Unreachable,
        };
        loop {
            if step == Step::Wait {
                step = self.ask_others(&mut proposer, &request).await;
            }
            let Step::Send(accept) = step else {
                return step;
            };
            request = accept;
            step = if proposer.voters().contains(&self.me) {
                let reply = self.handle.register(request.clone()).await;
                proposer.on_reply(&self.me, reply)
            } else {
                Step::Wait
            };
        }
    }

    /// Sends one phase to the other voters until the proposer knows what is next.
    async fn ask_others(&self, proposer: &mut Proposer, request: &RegisterRequest) -> Step {
        let epoch = self.stamp.epoch;
        let others = proposer.voters().iter().filter(|id| **id != self.me);
        let mut asked: FuturesUnordered<_> = others
            .map(|id| {
                let (around, id) = (self.around.clone(), id.clone());
                let request = Request::Register(request.clone());
                async move {
                    let answer = around.call(&id, epoch, request, CALL_TIMEOUT).await;
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
        Step::Unreachable
    }
}

fn backoff(attempt: u32) -> Duration {
    let most = BACKOFF * 2_u32.pow(attempt.min(5));
    most.mul_f64(rand::rng().random_range(0.25..1.0))
}
