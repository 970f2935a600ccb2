//! The task that acts: asks, proposes, spreads what was decided, catches up.
//!
//! Every node runs one. It wakes on news from gossip, on a new topology and on short timers;
//! what to do is decided in `handover`, how to get it decided in `register`. Any number of
//! drivers may act at once: that costs rounds, never agreement.

pub(super) mod ballots;
mod recalling;
mod telling;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use ringmaster_shared::{
    event::EventCode,
    id::{Epoch, NodeId},
    member::{Lifecycle, MemberStatus, RingStamp},
    topology::Topology,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    TopologyHandle,
    handover::{Decision, Progress, Purpose, Sighting, Situation, decide},
    news,
};
use crate::{
    gossip::{GossipHandle, MemberState, Members},
    replication::{
        frames::{Request, Response},
        peers::{Class, PeerError, Peers},
    },
};
use ballots::{Outcome, Proposing};
use recalling::Recalling;
use telling::listed;
pub(super) use telling::no_majority;

/// Longest wait for one answer about topologies.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for "how far are you"; asked again and again.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);
/// Between questions to those a change waits for, at first and when it goes on.
const POLL_EVERY: Duration = Duration::from_millis(50);
const POLL_SLOWLY: Duration = Duration::from_millis(250);
const POLL_SLOWLY_AFTER: Duration = Duration::from_secs(3);
/// Between looks when nothing wakes the task.
const IDLE: Duration = Duration::from_secs(1);
/// After a failed attempt to fetch a later topology.
const CATCH_UP_AGAIN: Duration = Duration::from_millis(500);
/// Members asked for a later topology in one go.
const CATCH_UP_TRIES: usize = 3;
/// Who waits to be taken in and is down for so long is buried. It may start any time later: a later
/// life is above what is said of an earlier one.
const WAITS_IN_VAIN: Duration = Duration::from_secs(3600);
/// A change that does not get on for this long is told.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// What the driver needs of the rooms around it.
pub(super) trait Around: Clone + Send + Sync + 'static {
    fn members(&self) -> Members;
    fn watch_members(&self) -> watch::Receiver<Members>;
    fn publish(&self, ring: RingStamp);
    /// A member that is down is none any more and is not coming back.
    fn bury(&self, node: &NodeId);
    /// One request to a member, answered or failed within `timeout`.
    fn call(
        &self,
        node: &NodeId,
        epoch: Epoch,
        request: Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Response, PeerError>> + Send;
}

/// The rooms of a running node.
#[derive(Clone)]
pub(super) struct Live {
    pub gossip: GossipHandle,
    pub peers: Peers,
}

impl Around for Live {
    fn members(&self) -> Members {
        self.gossip.members()
    }

    fn watch_members(&self) -> watch::Receiver<Members> {
        self.gossip.watch()
    }

    fn publish(&self, ring: RingStamp) {
        self.gossip.set_ring(ring);
    }

    fn bury(&self, node: &NodeId) {
        self.gossip.bury(node);
    }

    fn call(
        &self,
        node: &NodeId,
        epoch: Epoch,
        request: Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Response, PeerError>> + Send {
        self.peers
            .call(node, Class::Control, epoch, request, timeout)
    }
}

/// What must stay the same for a sighting to grow old.
type Looks = (String, String, MemberStatus, Lifecycle);

pub(super) struct Driver<A> {
    handle: TopologyHandle,
    around: A,
    stop: CancellationToken,
    me: NodeId,
    /// How each member looks, and since when.
    looks: BTreeMap<NodeId, (Looks, Instant)>,
    /// The topology last reported, its stamp, and since when this node goes by it.
    seen: Option<Arc<Topology>>,
    stamp: RingStamp,
    epoch_since: Instant,
    /// When the change under way was first seen.
    change_since: Option<Instant>,
    /// Answers about the current epoch.
    progress: BTreeMap<NodeId, Progress>,
    catch_up_after: Instant,
    /// What was told about the current epoch, so that it is told once.
    told: BTreeSet<String>,
}

impl<A: Around> Driver<A> {
    pub(super) fn new(handle: TopologyHandle, around: A, stop: CancellationToken) -> Self {
        let now = Instant::now();
        Self {
            me: handle.inner.identity.node_id().clone(),
            handle,
            around,
            stop,
            looks: BTreeMap::new(),
            seen: None,
            stamp: RingStamp::default(),
            epoch_since: now,
            change_since: None,
            progress: BTreeMap::new(),
            catch_up_after: now,
            told: BTreeSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let recalling = Recalling {
            handle: self.handle.clone(),
            around: self.around.clone(),
            stop: stop.clone(),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = recalling.run() => {}
            () = self.drive() => {}
        }
    }

    async fn drive(&mut self) {
        let mut members = self.around.watch_members();
        let mut topology = self.handle.watch();
        loop {
            members.mark_unchanged();
            topology.mark_unchanged();
            self.report_topology();
            self.catch_up().await;
            self.bury();
            let pause = self.act().await;
            tokio::select! {
                changed = members.changed() => if changed.is_err() {
                    return; // gossip is gone: the node is going down
                },
                _ = topology.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Tells gossip and people about a topology that this node has gone over to.
    fn report_topology(&mut self) {
        let Some(current) = self.handle.current() else {
            return;
        };
        if self.seen.as_ref().is_some_and(|s| s.epoch == current.epoch) {
            return;
        }
        let now = Instant::now();
        self.stamp = RingStamp {
            epoch: current.epoch,
            digest: current.digest(),
        };
        self.around.publish(self.stamp);
        self.epoch_since = now;
        self.progress.clear();
        self.told.clear();
        let took = self.change_since.map(|since| now - since);
        if let Some(told) = self
            .seen
            .as_ref()
            .and_then(|s| news::between(s, &current, took))
        {
            let events = &self.handle.inner.events;
            if told.code == EventCode::RingChangeAborted {
                events.warn(told.code, told.subject.as_ref(), told.message);
            } else {
                events.info(told.code, told.subject.as_ref(), told.message);
            }
        }
        self.change_since = current
            .transition
            .as_ref()
            .map(|_| self.change_since.unwrap_or(now));
        self.seen = Some(current);
    }

    /// Fetches a later topology that somebody claims to go by.
    async fn catch_up(&mut self) {
        let members = self.around.members();
        // those that gossip holds for dead come last: it may be wrong about them
        let mut ahead: Vec<(bool, Epoch, &NodeId)> = members
            .iter()
            .map(|m| &m.state)
            .filter(|m| m.id != self.me && m.ring.epoch > self.stamp.epoch)
            .map(|m| (m.status.is_reachable(), m.ring.epoch, &m.id))
            .collect();
        self.compare_stamps(&members);
        if ahead.is_empty() || Instant::now() < self.catch_up_after {
            return;
        }
        ahead.sort_unstable();
        for (_, _, node) in ahead.iter().rev().take(CATCH_UP_TRIES) {
            let answer = self
                .around
                .call(node, 0, Request::FetchTopology, CALL_TIMEOUT)
                .await;
            if let Ok(Response::Topology {
                topology: Some(topology),
            }) = answer
                && self.install(topology).await
            {
                return;
            }
        }
        self.catch_up_after = Instant::now() + CATCH_UP_AGAIN;
    }

    /// Two contents of one epoch are a bug or a copied data dir; say so once.
    fn compare_stamps(&mut self, members: &Members) {
        let (mine, me) = (self.stamp, self.me.clone());
        for m in members
            .iter()
            .filter(|m| m.state.id != me && mine.epoch > 0)
        {
            if m.state.ring.epoch == mine.epoch && m.state.ring.digest != mine.digest {
                self.tell_once(
                    format!(
                        "{} goes by another ring of epoch {} than this node; \
                         stop it and compare the data dirs before it does harm",
                        m.state.id, mine.epoch
                    ),
                    EventCode::RingFork,
                );
            }
        }
    }

    /// Who was taken out of the ring while it was down cannot say itself that it left, and who went
    /// down before the ring took it in is on all lists and in no ring to be removed from.
    fn bury(&self) {
        let Some(topology) = self.seen.as_ref().filter(|t| t.contains(&self.me)) else {
            return;
        };
        let members = self.around.members();
        for m in members.iter().map(|m| &m.state) {
            let gone = is_gone(topology, m)
                && (!waits(m) || self.waits_in_vain(m) && knows_the_ring(topology, &members));
            if gone {
                self.around.bury(&m.id);
            }
        }
    }

    fn waits_in_vain(&self, member: &MemberState) -> bool {
        let looks = self.looks.get(&member.id);
        looks.is_some_and(|((_, _, status, _), since)| {
            *status == member.status && since.elapsed() >= WAITS_IN_VAIN
        })
    }

    /// Takes a decided topology over; says why not in the log. Whether it was newer.
    async fn install(&mut self, topology: Topology) -> bool {
        let epoch = topology.epoch;
        let newer = match self.handle.install(topology).await {
            Ok(newer) => newer,
            Err(why) => {
                tracing::warn!("the topology of epoch {epoch} was refused: {why:#}");
                false
            }
        };
        self.report_topology();
        newer
    }

    /// One look and what follows from it; returns how long to wait for the next.
    async fn act(&mut self) -> Duration {
        let Some(topology) = self.seen.clone() else {
            return IDLE;
        };
        let sightings = self.look();
        let mut decision = self.decide(&topology, &sightings);
        if let Decision::Await(whom) = decision {
            decision = self.poll(&topology, &sightings, whom).await;
        }
        match decision {
            Decision::Rest => IDLE,
            Decision::Later(left) => left.min(IDLE),
            Decision::Await(whom) => {
                self.tell_stall(&topology, &whom);
                if self.epoch_since.elapsed() < POLL_SLOWLY_AFTER {
                    POLL_EVERY
                } else {
                    POLL_SLOWLY
                }
            }
            Decision::Blocked(by) => {
                let message = format!(
                    "a join waits for {}, who would take over partitions and does not answer",
                    listed(&by)
                );
                self.tell_once(message, EventCode::RingChangeStalled);
                IDLE
            }
            Decision::Propose { next, purpose } => {
                tracing::debug!(epoch = next.epoch, ?purpose, "proposing a topology");
                match purpose {
                    Purpose::Abort => self.tell_abort(&topology, &sightings),
                    Purpose::Undo => self.tell_undo(&topology),
                    _ => {}
                }
                self.propose(&topology, &next).await
            }
        }
    }

    /// Tries to make `next` the successor of `base`; returns how long to wait before the next
    /// look. Another's proposal may come out of it: that is a success too.
    async fn propose(&mut self, base: &Topology, next: &Topology) -> Duration {
        let proposing = Proposing {
            handle: self.handle.clone(),
            around: self.around.clone(),
            stop: self.stop.clone(),
        };
        match proposing.decide(base, next).await {
            Outcome::Decided(_) => {
                self.report_topology();
                Duration::ZERO
            }
            Outcome::Superseded(later) => {
                self.install(*later).await;
                Duration::ZERO
            }
            Outcome::Unreachable(abstain) => {
                let why = no_majority(base, &abstain);
                let message = format!("the ring cannot change: {why}");
                self.tell_once(message, EventCode::RingChangeStalled);
                IDLE
            }
            Outcome::Contended => ballots::backoff(u32::MAX),
        }
    }

    fn decide(&self, topology: &Topology, sightings: &[Sighting]) -> Decision {
        decide(&Situation {
            me: &self.me,
            topology,
            sightings,
            progress: &self.progress,
            in_epoch: self.epoch_since.elapsed(),
        })
    }

    /// Members as gossip sees them now, with how long they have looked that way.
    fn look(&mut self) -> Vec<Sighting> {
        let now = Instant::now();
        let members = self.around.members();
        let mut looks = BTreeMap::new();
        let mut sightings = Vec::with_capacity(members.len());
        for m in members.iter().map(|m| &m.state) {
            let is = (m.address.clone(), m.zone.clone(), m.status, m.lifecycle);
            let since = match self.looks.get(&m.id) {
                Some((was, since)) if *was == is => *since,
                _ => now,
            };
            looks.insert(m.id.clone(), (is, since));
            sightings.push(Sighting {
                id: m.id.clone(),
                address: m.address.clone(),
                zone: m.zone.clone(),
                status: m.status,
                lifecycle: m.lifecycle,
                since: now - since,
            });
        }
        self.looks = looks;
        sightings
    }

    /// Asks those a change waits for; returns as soon as the answers allow another decision.
    async fn poll(
        &mut self,
        topology: &Topology,
        sightings: &[Sighting],
        whom: BTreeSet<NodeId>,
    ) -> Decision {
        let epoch = topology.epoch;
        if whom.contains(&self.me) {
            let (settled, filled) = self.handle.progress(epoch);
            let mine = Progress { settled, filled };
            self.progress.insert(self.me.clone(), mine);
        }
        let around = self.around.clone();
        // also those that gossip holds for dead: it may be wrong, and it decides nothing
        let mut asked: FuturesUnordered<_> = whom
            .into_iter()
            .filter(|id| *id != self.me)
            .map(|id| {
                let around = around.clone();
                async move {
                    let question = Request::TopologyProgress { epoch };
                    let answer = around.call(&id, epoch, question, POLL_TIMEOUT).await;
                    (id, answer)
                }
            })
            .collect();
        let mut decision = self.decide(topology, sightings);
        while matches!(decision, Decision::Await(_)) {
            let Some((id, answer)) = asked.next().await else {
                break;
            };
            match answer {
                Ok(Response::Progress {
                    settled_epoch: settled,
                    filled,
                }) => {
                    self.progress.insert(id, Progress { settled, filled });
                }
                Ok(Response::EpochBehind { topology }) => {
                    self.install(topology).await;
                    return Decision::Later(Duration::ZERO);
                }
                // unreachable or not able to say: asked again
                Ok(_) | Err(_) => {}
            }
            decision = self.decide(topology, sightings);
        }
        decision
    }
}

/// Whether `member` is down and no member of the ring, nor named by a change of it. One that this
/// node does not know yet, because the ring that took it in is a later one, is spared.
fn is_gone(topology: &Topology, member: &MemberState) -> bool {
    let down = matches!(member.status, MemberStatus::Dead | MemberStatus::Stopped);
    down && !topology.contains(&member.id) && member.ring.epoch <= topology.epoch
}

/// Whether it was not taken in yet when it was last heard.
fn waits(member: &MemberState) -> bool {
    matches!(member.lifecycle, Lifecycle::Joining | Lifecycle::Candidate)
}

/// Whether most members answer and none goes by a later ring: that cannot have taken somebody in
/// behind this node's back, who then died before it could say so itself.
fn knows_the_ring(topology: &Topology, members: &Members) -> bool {
    let in_ring = members.iter().map(|m| &m.state);
    let in_ring = in_ring.filter(|m| m.status.is_reachable() && topology.contains(&m.id));
    let (mut answer, mut later) = (0, false);
    for m in in_ring {
        answer += 1;
        later |= m.ring.epoch > topology.epoch;
    }
    !later && 2 * answer > topology.members.len()
}
