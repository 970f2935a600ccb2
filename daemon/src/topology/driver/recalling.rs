//! How a node that lost its folder or its store comes to vote, and to get its data back, by itself.
//!
//! Who lost its folder asks the other voters until it knows what it may have voted on, at once when
//! the ring changes. Then it has the ring that it abstains on decided anew, unchanged, when that is
//! quiet: the others decide that without it, and on the ring after it votes as any other. Without
//! that, voters that lost their folders one after the other would abstain on one ring together,
//! until too few were left to decide the next. It does the same, whatever there is to be decided, when
//! a voter says that it accepted something: that comes of it, or so many have accepted nothing that
//! the next round hears enough.
//!
//! Who lost its data has the ring decided anew as well, before it is filled: a write that it had
//! acknowledged may still be on its way to the other replicas, and its coordinator counts that
//! acknowledgement. By the next ring it no longer does: the replicas are scanned only after they are
//! done with all that came by the one before.
//!
//! The first step of a change is decided anew like a quiet ring: it may last for hours, and wait for
//! this node's data. What the others have filled in it stays filled. The second step ends soon, and is
//! never decided anew, for it follows the first at once (`leftovers`).
//!
//! Runs beside the driver, for who waits must not hold up the changes that others decide. What
//! counts is in `recall`.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::Rng;
use ringmaster_shared::{
    id::Epoch,
    topology::{Step, Topology},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Around, CALL_TIMEOUT,
    ballots::{Outcome, Proposing},
};
use crate::{
    replication::frames::{Request, Response},
    topology::{
        RegisterReply, TopologyHandle,
        recall::{Heard, Recall, is_barred},
    },
};

/// Between rounds of questions; doubled with each.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const ASK_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A ring that is to be decided anew has been quiet for this long; doubled when it was not decided.
const RENEW_AFTER: Duration = Duration::from_millis(200);
/// Short: until it is decided, the loss of one more folder may be one too many.
const RENEW_PAUSE_MAX: Duration = Duration::from_secs(2);

/// What this node has to do about its votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Ask,
    Renew,
}

pub(super) struct Recalling<A> {
    pub(super) handle: TopologyHandle,
    pub(super) around: A,
    pub(super) stop: CancellationToken,
}

impl<A: Around> Recalling<A> {
    /// Ends with the node's handles.
    pub(super) async fn run(self) {
        let mut rings = self.handle.watch();
        let (mut rounds, mut doing) = (0, None);
        loop {
            let ring = rings.borrow_and_update().clone();
            let task = ring.as_ref().and_then(|ring| self.task(ring));
            if task != doing {
                (rounds, doing) = (0, task);
            }
            let (Some(ring), Some(task)) = (ring, task) else {
                if rings.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if task == Task::Ask && self.ask(&ring).await {
                continue;
            }
            tokio::select! {
                changed = rings.changed() => match changed {
                    Ok(()) => {
                        rounds = 0;
                        continue;
                    }
                    Err(_) => return,
                },
                () = sleep(pause(task, rounds)) => rounds += 1,
            }
            if task == Task::Renew {
                self.decide_next(&ring).await;
            }
        }
    }

    fn task(&self, ring: &Topology) -> Option<Task> {
        let identity = &self.handle.inner.identity;
        if identity.forgot_votes() {
            return Some(Task::Ask);
        }
        let votes = ring.voters().contains(identity.node_id());
        let barred = votes && is_barred(identity.abstains_through(), ring);
        let lost = identity.needs_refill()
            && ring.contains(identity.node_id())
            && ring.epoch <= identity.lost_through();
        (barred || lost).then_some(Task::Renew)
    }

    /// One round of questions; whether its answer is on the disk.
    async fn ask(&self, ring: &Topology) -> bool {
        let (heard, undecided) = self.hear(ring).await;
        match heard {
            Heard::Through(epoch) => return self.write_down(epoch).await,
            Heard::Later(later) => self.catch_up(later).await,
            Heard::More if undecided => self.decide_next(ring).await,
            Heard::More => {}
        }
        false
    }

    /// Until it is known, or everybody has answered or failed to; and whether somebody accepted
    /// something.
    async fn hear(&self, ring: &Topology) -> (Heard, bool) {
        let me = self.handle.inner.identity.node_id().clone();
        let mut round = Recall::new(ring.clone(), me);
        let mut asked: FuturesUnordered<_> = round
            .whom()
            .map(|id| {
                let (around, id) = (self.around.clone(), id.clone());
                let question = Request::Register(round.question());
                async move {
                    let answer = around.call(&id, ring.epoch, question, CALL_TIMEOUT).await;
                    (id, answer)
                }
            })
            .collect();
        while let Some((id, answer)) = asked.next().await {
            let reply = match answer {
                Ok(Response::Register(reply)) => reply,
                Ok(Response::EpochBehind { topology }) => RegisterReply::Newer(topology),
                Ok(_) | Err(_) => continue,
            };
            let heard = round.on_reply(&id, reply);
            if heard != Heard::More {
                return (heard, false);
            }
        }
        (Heard::More, round.is_undecided())
    }

    async fn write_down(&self, through: Epoch) -> bool {
        let identity = self.handle.inner.identity.clone();
        let written = tokio::task::spawn_blocking(move || identity.recall_votes(through)).await;
        let failed = match written {
            Ok(Ok(())) => {
                tracing::info!(
                    "enough other voters know of no ring beyond epoch {through} that this node can \
                     have voted on before it lost its folder: it votes on the rings after that"
                );
                return true;
            }
            Ok(Err(why)) => format!("{why:#}"),
            Err(why) => why.to_string(),
        };
        tracing::error!(
            "this node goes on abstaining, what it may have voted on cannot be stored: {failed}"
        );
        false
    }

    /// Has something decided on top of the ring: what somebody accepted, or else that ring itself.
    async fn decide_next(&self, ring: &Topology) {
        let step = ring.transition.as_ref().map(|change| change.step);
        if step == Some(Step::Dual) {
            return;
        }
        let mut next = ring.clone();
        next.epoch += 1;
        let proposing = Proposing {
            handle: self.handle.clone(),
            around: self.around.clone(),
            stop: self.stop.clone(),
        };
        match proposing.decide(ring, &next).await {
            Outcome::Decided(decided) => tracing::info!(
                "epoch {} is decided for this node, which lost its folder or its data",
                decided.epoch
            ),
            Outcome::Superseded(later) => self.catch_up(*later).await,
            outcome @ (Outcome::Unreachable(_) | Outcome::Contended) => {
                tracing::debug!(?outcome, epoch = next.epoch, "not decided anew yet");
            }
        }
    }

    async fn catch_up(&self, later: Topology) {
        let epoch = later.epoch;
        if let Err(why) = self.handle.install(later).await {
            tracing::warn!("the topology of epoch {epoch} was refused: {why:#}");
        }
    }
}

/// How long to wait before the next attempt; a random half is left out.
fn pause(task: Task, rounds: u32) -> Duration {
    let (first, most) = match task {
        Task::Ask => (ASK_AGAIN, ASK_PAUSE_MAX),
        Task::Renew => (RENEW_AFTER, RENEW_PAUSE_MAX),
    };
    let pause = (first * 2_u32.pow(rounds.min(8))).min(most);
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}
