//! Runs the write and read machines: asks replicas, feeds the answers back, follows topology
//! changes, stamps, and after the answer deals with the replicas that were left behind.
//!
//! The machines decide whom to ask; this asks, and tells them when answers are late. What the local
//! store can answer is answered here at once. An operation outlives its answer by a bounded time
//! (the tail): late replicas are still heard, and those that missed a write are owed a hint.
//! No lock is held while anything is awaited, except the key's own, which is there for that.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ringmaster_shared::{
    api::data::Consistency,
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    topology::{Access, Topology},
    version::{Dot, Record},
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Ended, Inner, ReadOutcome, ReplicationError, WriteOutcome, WriteRequest,
    calls::{Answer, Calls},
    latency::HEDGE_MAX,
    read::{ReadDone, ReadMachine},
    round::{Ask, Failure, FailureKind, Reach, Said, Step, Unmet},
    write::{AGAIN_MAX, Needs, WriteIntent, WriteMachine, Written},
};
use crate::replication::{
    frames::{Request, Response},
    peers::Class,
    replica::weight,
    site::AskError,
};

/// How long late replicas are listened to after the client has its answer.
const TAIL: Duration = Duration::from_secs(2);
/// Calls wait this much longer than their operation, so that a replica that stays silent ends the
/// operation by its deadline and not, at the same moment, as a refusal.
const CALL_GRACE: Duration = Duration::from_millis(100);
/// A record that weighs more is large.
const LARGE_BYTES: usize = 64 * 1024;
/// How often one operation follows a topology change before it gives up.
const REGROUPS_MAX: u32 = 16;

/// What one attempt of an operation goes by.
struct View {
    topology: Arc<Topology>,
    partition: PartitionId,
    reach: Reach,
}

impl View {
    fn needs(&self) -> Needs {
        Needs {
            read: self.topology.requirement(self.partition, Access::Read),
            write: self.topology.requirement(self.partition, Access::Write),
        }
    }
}

/// One operation on one key.
struct Drive {
    inner: Arc<Inner>,
    key: Key,
    deadline: Instant,
    view: View,
    calls: Calls,
    /// When to ask further replicas, if the machine has any left.
    hedge_at: Option<Instant>,
    regroups: u32,
    /// Replicas that refused to store because their disks are nearly full.
    read_only: BTreeSet<NodeId>,
    /// This node's clock when the operation began (again): before it read what it may write.
    issued: Hlc,
    /// What a write gave itself last.
    dot: Option<Dot>,
}

/// What the driver does next, after an input that was not simply an answer.
enum Turn {
    Said(NodeId, Said),
    Failed(NodeId, Failure),
    /// A later topology was adopted and `view` renewed.
    Regroup(Option<NodeId>),
    /// Answers have been waited for long enough to ask somebody else as well.
    Late,
    Deadline,
}

impl Drive {
    fn new(inner: Arc<Inner>, key: Key, timeout: Duration) -> Result<Self, ReplicationError> {
        let view = inner.view(&key)?;
        let issued = inner.site.issued();
        Ok(Self {
            issued,
            inner,
            key,
            deadline: Instant::now() + timeout,
            view,
            calls: Calls::default(),
            hedge_at: None,
            regroups: 0,
            read_only: BTreeSet::new(),
            dot: None,
        })
    }

    fn send(&mut self, asks: Vec<(NodeId, Ask)>, deadline: Instant) {
        let epoch = self.view.topology.epoch;
        for (to, ask) in asks {
            let is_read = matches!(ask, Ask::Version | Ask::Record);
            let class = class(&ask);
            let request = request(&self.key, self.issued, ask);
            if is_read && to == *self.inner.site.me() {
                let answer = self.inner.site.read_here(epoch, &request);
                let said = answer.and_then(|response| self.inner.said(&to, response));
                self.calls.settled(to, said);
                continue;
            }
            let (inner, who) = (self.inner.clone(), to.clone());
            let deadline = deadline + CALL_GRACE;
            let call = async move {
                let answer = inner.site.ask(&to, class, epoch, request, deadline);
                inner.said(&to, answer.await?)
            };
            self.calls.add(who, is_read, Box::pin(call));
        }
    }

    /// Sets the moment of the next hedge: anew after questions were `sent`, and otherwise when there
    /// is none yet.
    fn arm(&mut self, can_hedge: bool, sent: bool) {
        if !can_hedge || self.inner.breaks.hedging {
            self.hedge_at = None;
        } else if sent || self.hedge_at.is_none() {
            let asked: Vec<NodeId> = self.calls.reads().cloned().collect();
            let patience = if asked.is_empty() {
                // what a sync takes says nothing about reads, and the other way round
                HEDGE_MAX
            } else {
                self.inner.sight.patience(&asked)
            };
            self.hedge_at = Some(Instant::now() + patience);
        }
    }

    /// Waits for the next thing to happen.
    async fn turn(&mut self) -> Result<Turn, ReplicationError> {
        let (who, outcome) = if let Some(here) = self.calls.take_settled() {
            here
        } else {
            let until = self.hedge_at.unwrap_or(self.deadline).min(self.deadline);
            tokio::select! {
                biased;
                Some(answer) = self.calls.next() => self.heard(answer),
                () = sleep_until(until) => return Ok(self.time_is_up(until)),
            }
        };
        match outcome {
            Ok(said) => Ok(Turn::Said(who, said)),
            Err(AskError::Failed(failure)) => {
                if failure.kind == FailureKind::ReadOnly {
                    self.inner.site.note_read_only(&who);
                    self.read_only.insert(who.clone());
                }
                Ok(Turn::Failed(who, failure))
            }
            Err(AskError::Newer {
                topology,
                did_nothing,
            }) => {
                self.regroups += 1;
                if self.regroups > REGROUPS_MAX {
                    return Ok(Turn::Deadline);
                }
                // Calls under way hold the epoch of the local replica; taking over the next one
                // waits for them, so they must go first.
                self.calls.clear();
                self.hedge_at = None;
                if let Err(why) = self.inner.site.adopt(*topology, self.deadline).await {
                    tracing::warn!("an operation ends early: {why}");
                    return Ok(Turn::Deadline);
                }
                self.view = self.inner.view(&self.key)?;
                Ok(Turn::Regroup(did_nothing.then_some(who)))
            }
        }
    }

    /// Learns from an answer how fast its replica is.
    fn heard(&self, answer: Answer) -> (NodeId, Result<Said, AskError>) {
        if answer.is_read {
            match &answer.outcome {
                Ok(_) => self
                    .inner
                    .sight
                    .answered(&answer.who, answer.since.elapsed()),
                Err(AskError::Failed(_)) => self.inner.sight.late(&answer.who),
                Err(AskError::Newer { .. }) => {}
            }
        }
        (answer.who, answer.outcome)
    }

    fn time_is_up(&mut self, until: Instant) -> Turn {
        if until >= self.deadline {
            return Turn::Deadline;
        }
        self.hedge_at = None;
        for who in self.calls.reads() {
            self.inner.sight.late(who);
        }
        Turn::Late
    }

    /// Forgets what was asked; what is asked from now on is issued now.
    fn begin_again(&mut self) {
        self.calls.clear();
        self.hedge_at = None;
        self.issued = self.inner.site.issued();
    }

    /// For writes: does not count on replicas that have just refused one as read-only.
    fn avoid_read_only(&mut self) {
        for id in self.inner.site.recently_read_only() {
            let why = "read-only: its disk is nearly full".to_owned();
            self.view.reach.off.entry(id.clone()).or_insert(why);
            self.read_only.insert(id);
        }
    }

    fn error(&self, unmet: Unmet) -> ReplicationError {
        match unmet {
            Unmet::Quorum {
                needed,
                available,
                missing,
            } if self.read_only.iter().any(|id| missing.contains_key(id)) => {
                ReplicationError::ReadOnly {
                    partition: self.view.partition,
                    needed,
                    available,
                    missing,
                }
            }
            Unmet::Quorum {
                needed,
                available,
                missing,
            } => ReplicationError::QuorumNotMet {
                partition: self.view.partition,
                needed,
                available,
                missing,
            },
            Unmet::Unanswered {
                needed,
                answered,
                missing,
                may_have_written,
            } => ReplicationError::Deadline {
                needed,
                answered,
                missing,
                may_have_written,
            },
            Unmet::Precondition { clock, present } => {
                ReplicationError::Precondition { clock, present }
            }
            Unmet::NotAlone { clock } => ReplicationError::NotAlone { clock },
            Unmet::Siblings { clock, count } => ReplicationError::Siblings { clock, count },
        }
    }

    fn replicas(&self) -> Vec<NodeId> {
        self.view.topology.replicas(self.view.partition)
    }
}

/// Who waits for a write, and what is to be done at its end whether or not anybody does.
pub struct Reply {
    pub ended: Ended,
    pub to: oneshot::Sender<Result<WriteOutcome, ReplicationError>>,
}

impl Reply {
    fn send(self, outcome: Result<WriteOutcome, ReplicationError>) {
        (self.ended)(&outcome);
        let _ = self.to.send(outcome);
    }
}

/// Runs one write and answers through `reply`; goes on with the tail afterwards.
pub async fn write(inner: Arc<Inner>, request: WriteRequest, reply: Reply) {
    let began = Instant::now();
    let deadline = began + request.timeout;
    // a key whose writes queue for longer than anybody waits is too busy, like one with a crowd
    let Ok(Ok(lock)) = timeout_at(deadline, inner.locks.lock(&request.key)).await else {
        return reply.send(Err(ReplicationError::TooBusy));
    };
    let waited = began.elapsed();
    let left = request.timeout.saturating_sub(waited);
    let mut drive = match Drive::new(inner, request.key.clone(), left) {
        Ok(drive) => drive,
        Err(error) => return reply.send(Err(error)),
    };
    drive.avoid_read_only();
    let sent = request.context.clone();
    let intent = WriteIntent {
        value: request.value,
        context: request.context,
        condition: request.condition,
        consistency: request.consistency,
        breaks: drive.inner.breaks,
    };
    let (machine, result) = drive.run_judged(&intent).await;
    drive.note_outcome(&machine);
    // acknowledged or given up: the next write of the key may issue its dot
    drop(lock);
    reply.send(result.map(|written| WriteOutcome {
        partition: drive.view.partition,
        replicas: drive.replicas(),
        successful: written.successful,
        failed: written.failed,
        quorum_achieved: written.quorum_achieved,
        record: Record {
            clock: written.record.known_to_writer(sent.as_ref()),
            siblings: written.record.siblings.clone(),
        },
        waited,
    }));
    drive.write_tail(machine).await;
}

impl Drive {
    /// A write whose refusal can be relied on: see `write`.
    async fn run_judged(
        &mut self,
        intent: &WriteIntent,
    ) -> (WriteMachine, Result<Written, ReplicationError>) {
        let mut again_left = AGAIN_MAX;
        loop {
            let (needs, reach) = (self.view.needs(), &self.view.reach);
            let (mut machine, first) = WriteMachine::start(intent.clone(), needs, reach);
            let result = self.run_write(&mut machine, first).await;
            let refused = matches!(
                result,
                Err(ReplicationError::Precondition { .. } | ReplicationError::Siblings { .. })
            );
            if !refused || intent.consistency == Consistency::One {
                return (machine, result);
            }
            self.begin_again();
            let (_, read) = self.run_read(Consistency::Quorum).await;
            let held = match read {
                Ok(done) => done.record,
                Err(error) => return (machine, Err(error)),
            };
            let present = held.head().is_some_and(|s| s.value.is_some());
            if let Some(unmet) = intent.refusal(&held, present) {
                return (machine, Err(self.error(unmet)));
            }
            // what stood in its way is gone: superseded or settled meanwhile
            if again_left == 0 {
                return (machine, Err(ReplicationError::TooBusy));
            }
            again_left -= 1;
            self.begin_again();
            self.avoid_read_only();
        }
    }

    async fn run_write(
        &mut self,
        machine: &mut WriteMachine,
        mut step: Step<Written>,
    ) -> Result<Written, ReplicationError> {
        loop {
            match step {
                Step::Wait => self.arm(machine.can_hedge(), false),
                Step::Ask(asks) => {
                    self.send(asks, self.deadline);
                    self.arm(machine.can_hedge(), true);
                }
                Step::Stamp { seen } => {
                    // late answers to the query no longer matter
                    self.calls.clear();
                    self.spare_unseen(machine).await?;
                    let dot = self.inner.site.replica.identity.next_dot();
                    let dot = dot.map_err(|error| ReplicationError::Storage(error.to_string()))?;
                    self.dot = Some(dot.clone());
                    let hlc = self.inner.site.stamp_above(seen);
                    step = machine.stamp(dot, hlc, &self.view.reach);
                    continue;
                }
                Step::Again => {
                    self.begin_again();
                    step = machine.begin_again(&self.view.reach);
                    continue;
                }
                Step::Done(written) => return Ok(written),
                Step::Failed(unmet) => return Err(self.error(unmet)),
            }
            step = match self.turn().await? {
                Turn::Said(who, said) => machine.on_said(&who, said),
                Turn::Failed(who, failure) => machine.on_failure(&who, failure),
                Turn::Regroup(refuser) => {
                    self.avoid_read_only();
                    let needs = self.view.needs();
                    machine.regroup(refuser.as_ref(), needs, &self.view.reach)
                }
                Turn::Late => machine.on_late(),
                Turn::Deadline => Step::Failed(machine.on_deadline()),
            };
        }
    }

    /// See [`unresolved`](super::unresolved).
    fn note_outcome(&self, machine: &WriteMachine) {
        let Some(dot) = &self.dot else {
            return;
        };
        if machine.is_on_quorum() {
            self.inner.unresolved.settle(&self.key, dot);
        } else if machine.may_have_written() {
            self.inner.unresolved.note(&self.key, dot);
        }
    }

    /// Before a dot is given: it speaks for no write that this one neither saw nor supersedes.
    async fn spare_unseen(&mut self, machine: &WriteMachine) -> Result<(), ReplicationError> {
        if !machine.could_swallow() {
            return Ok(());
        }
        let inner = self.inner.clone();
        let identity = &inner.site.replica.identity;
        let unseen = |dot: &Dot| !machine.has_seen(dot);
        let sparing = inner.unresolved.spare(identity, &self.key, unseen);
        match timeout_at(self.deadline, sparing).await {
            Ok(spared) => spared.map_err(ReplicationError::Storage),
            Err(_) => Err(self.error(machine.on_deadline())),
        }
    }

    /// Hears out the replicas that were not needed, then leaves hints for those that did not
    /// get the record.
    async fn write_tail(mut self, mut machine: WriteMachine) {
        if machine.owed().is_none() {
            return;
        }
        let Some(room) = self.inner.tail_room(machine.record()) else {
            return self.write_without_tail(&machine);
        };
        let until = Instant::now() + TAIL;
        while let Ok(Some(answer)) = timeout_at(until, self.calls.next()).await {
            let (who, outcome) = self.heard(answer);
            match outcome {
                Ok(said) => drop(machine.on_said(&who, said)),
                Err(error) => {
                    let failure = Failure {
                        kind: FailureKind::Unknown,
                        why: error.why(),
                    };
                    drop(machine.on_failure(&who, failure));
                }
            }
        }
        // a call of the local replica holds its epoch until it is dropped
        self.calls.clear();
        self.note_outcome(&machine);
        let Some((record, behind)) = machine.owed() else {
            return;
        };
        for target in behind {
            self.inner.hints.keep(&target, &self.key, &record).await;
        }
        // the record was in memory until now
        drop(room);
    }

    /// Keeps nothing in memory but who has to be compared, once for each partition: a busy store can
    /// take long to note it, and nothing here waits for that.
    fn write_without_tail(self, machine: &WriteMachine) {
        for target in machine.owed().into_iter().flat_map(|(_, behind)| behind) {
            let partition = self.view.partition;
            self.inner.hints.drop_later(&target, partition, &self.key);
        }
    }
}

/// Runs one read in the caller's own task; what is left to do afterwards goes on without it.
pub async fn read(
    inner: Arc<Inner>,
    key: Key,
    consistency: Consistency,
    timeout: Duration,
) -> Result<ReadOutcome, ReplicationError> {
    let mut drive = Drive::new(inner, key, timeout)?;
    let (mut machine, result) = drive.run_read(consistency).await;
    let done = result?;
    let outcome = ReadOutcome {
        partition: drive.view.partition,
        replicas: drive.replicas(),
        responded: done.responded,
        repaired: done.repaired,
        quorum_achieved: done.quorum_achieved,
        record: Arc::unwrap_or_clone(done.record),
    };
    let leftovers = machine.leftovers();
    if !drive.calls.is_empty() || !leftovers.is_empty() {
        tokio::spawn(drive.read_tail(machine, leftovers));
    }
    Ok(outcome)
}

impl Drive {
    async fn run_read(
        &mut self,
        consistency: Consistency,
    ) -> (ReadMachine, Result<ReadDone, ReplicationError>) {
        let breaks = self.inner.breaks;
        let start =
            |view: &View| ReadMachine::start(consistency, breaks, view.needs(), &view.reach);
        let (mut machine, mut step) = start(&self.view);
        let mut again_left = AGAIN_MAX;
        loop {
            match step {
                Step::Wait | Step::Stamp { .. } | Step::Again => {
                    self.arm(machine.can_hedge(), false);
                }
                Step::Ask(asks) => {
                    self.send(asks, self.deadline);
                    self.arm(machine.can_hedge(), true);
                }
                Step::Done(done) => return (machine, Ok(done)),
                Step::Failed(unmet) => {
                    let error = self.error(unmet);
                    return (machine, Err(error));
                }
            }
            step = match self.turn().await {
                Ok(Turn::Said(who, said)) => machine.on_said(&who, said),
                Ok(Turn::Failed(_, failure))
                    if failure.kind == FailureKind::Stale && again_left > 0 =>
                {
                    // what it wants to write back may have been deleted since it was read
                    again_left -= 1;
                    self.begin_again();
                    let (fresh, first) = start(&self.view);
                    machine = fresh;
                    first
                }
                Ok(Turn::Failed(who, failure)) => machine.on_failure(&who, failure),
                Ok(Turn::Regroup(_)) => {
                    // nothing a read did needs to be remembered
                    let (fresh, first) = start(&self.view);
                    machine = fresh;
                    first
                }
                Ok(Turn::Late) => machine.on_late(),
                Ok(Turn::Deadline) => Step::Failed(machine.on_deadline()),
                Err(error) => return (machine, Err(error)),
            };
        }
    }

    /// Brings up replicas that answered less, or answer late and are behind, for a bounded time.
    async fn read_tail(mut self, mut machine: ReadMachine, leftovers: Vec<(NodeId, Ask)>) {
        let Some(_room) = self.inner.tail_room(Some(machine.record())) else {
            return;
        };
        let until = Instant::now() + TAIL;
        self.send(leftovers, until);
        while let Ok(Some(answer)) = timeout_at(until, self.calls.next()).await {
            let (who, outcome) = self.heard(answer);
            if let Ok(said) = outcome
                && let Step::Ask(asks) = machine.on_said(&who, said)
            {
                self.send(asks, until);
            }
        }
    }
}

impl Inner {
    /// The topology as it is now, and who of the key's replicas answers.
    fn view(&self, key: &Key) -> Result<View, ReplicationError> {
        let topology = self.topology()?;
        let partition = topology.partition_of(key);
        let replicas = topology.all_replicas(partition);
        let me = (self.site.me(), self.site.replica.lifecycle.get());
        let reach = self.sight.reach(&self.site.network.members(), me, replicas);
        Ok(View {
            topology,
            partition,
            reach,
        })
    }

    /// Room for one tail that keeps `record` in memory; none when too much is kept already.
    fn tail_room(&self, record: Option<&Record>) -> Option<OwnedSemaphorePermit> {
        let kib = 16 + record.map_or(0, weight) / 1024;
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        self.tails.clone().try_acquire_many_owned(kib).ok()
    }

    /// What an answer of `to` says to the machines.
    fn said(&self, to: &NodeId, response: Response) -> Result<Said, AskError> {
        let (stamp, said) = match response {
            Response::Version { version } => {
                let stamp = version.as_ref().map(|v| v.hlc);
                (stamp, Said::Version(version))
            }
            Response::Record { record } => {
                let stamp = record.as_ref().map(Record::max_hlc);
                (stamp, Said::Record(record))
            }
            Response::Done => (None, Said::Stored),
            _ => {
                return Err(AskError::Failed(Failure {
                    kind: FailureKind::Unknown,
                    why: "answered something else than was asked".into(),
                }));
            }
        };
        if stamp.is_some_and(|stamp| self.site.is_absurd(to, stamp)) {
            return Err(AskError::Failed(Failure {
                kind: FailureKind::NotDone,
                why: "holds a version stamped more than a day in the future".into(),
            }));
        }
        Ok(said)
    }
}

/// The connection that a question goes over.
fn class(ask: &Ask) -> Class {
    match ask {
        Ask::Store(record) if weight(record) > LARGE_BYTES => Class::Large,
        Ask::Store(_) | Ask::Version | Ask::Record => Class::Data,
    }
}

fn request(key: &Key, issued: Hlc, ask: Ask) -> Request {
    let key = key.clone();
    match ask {
        Ask::Version => Request::ReadVersion { key },
        Ask::Record => Request::ReadRecord { key },
        Ask::Store(record) => Request::Write {
            key,
            issued,
            record: Arc::unwrap_or_clone(record),
        },
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::version::{Actor, Dot, Sibling, Value, VersionVector};

    use super::*;

    #[test]
    fn large_records_have_a_connection_of_their_own() {
        let store = |bytes| {
            let actor = Actor {
                node: NodeId::new("a").expect("valid"),
                epoch: 1,
            };
            let sibling = Sibling {
                dot: Dot { actor, counter: 1 },
                hlc: Hlc(1),
                value: Some(Value::Raw(vec![0; bytes].into())),
            };
            let nothing = (Record::default(), VersionVector::default());
            let record = Record::written(&nothing.0, &nothing.1, sibling);
            class(&Ask::Store(Arc::new(record)))
        };
        assert_eq!(store(100), Class::Data);
        assert_eq!(store(1 << 20), Class::Large);
        assert_eq!(class(&Ask::Version), Class::Data);
        assert_eq!(class(&Ask::Record), Class::Data);
    }
}
