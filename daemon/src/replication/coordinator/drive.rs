//! Runs the write and read machines: asks replicas, feeds the answers back, follows topology
//! changes, stamps, and after the answer deals with the replicas that were left behind.
//!
//! Each client operation is one task that asks all its replicas at once and never waits for one
//! that is not needed. The task outlives the answer by a bounded time (the tail): late replicas
//! are still heard, and those that missed a write are owed a hint.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use ringmaster_shared::{
    api::data::Consistency,
    id::{Epoch, NodeId, PartitionId},
    key::Key,
    topology::{Access, Topology},
    version::Record,
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Inner, ReadOutcome, ReplicationError, WriteOutcome, WriteRequest,
    read::{ReadDone, ReadMachine},
    round::{Ask, Failure, FailureKind, Said, Step, Unmet, Unreachable},
    write::{Needs, WriteIntent, WriteMachine, Written},
};
use crate::{
    replication::{
        frames::{Request, Response},
        peers::Class,
        reach,
        replica::weight,
        site::AskError,
    },
    time::unix_ms,
};

/// How long late replicas are listened to after the client has its answer.
const TAIL: Duration = Duration::from_secs(2);
/// Calls wait this much longer than their operation, so that a replica that stays silent ends the
/// operation by its deadline and not, at the same moment, as a refusal.
const CALL_GRACE: Duration = Duration::from_millis(100);
/// How often one operation follows a topology change before it gives up.
const REGROUPS_MAX: u32 = 16;

type Answer = (NodeId, Result<Said, AskError>);
type Calls = FuturesUnordered<BoxFuture<'static, Answer>>;

/// What one attempt of an operation goes by.
struct View {
    topology: Arc<Topology>,
    partition: PartitionId,
    unreachable: Unreachable,
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
    regroups: u32,
}

/// What the driver does next, after an input that was not simply an answer.
enum Turn {
    Said(NodeId, Said),
    Failed(NodeId, Failure),
    /// A later topology was adopted and `view` renewed.
    Regroup(Option<NodeId>),
    Deadline,
}

impl Drive {
    fn new(inner: Arc<Inner>, key: Key, timeout: Duration) -> Result<Self, ReplicationError> {
        let view = inner.view(&key)?;
        Ok(Self {
            inner,
            key,
            deadline: Instant::now() + timeout,
            view,
            calls: Calls::new(),
            regroups: 0,
        })
    }

    fn send(&self, asks: Vec<(NodeId, Ask)>, deadline: Instant) {
        for (to, ask) in asks {
            let inner = self.inner.clone();
            let key = self.key.clone();
            let epoch = self.view.topology.epoch;
            let deadline = deadline + CALL_GRACE;
            self.calls.push(Box::pin(async move {
                let said = inner.ask_replica(&to, epoch, key, ask, deadline).await;
                (to, said)
            }));
        }
    }

    /// Waits for the next thing to happen.
    async fn turn(&mut self) -> Result<Turn, ReplicationError> {
        let answer = tokio::select! {
            biased;
            Some(answer) = self.calls.next() => answer,
            () = sleep_until(self.deadline) => return Ok(Turn::Deadline),
        };
        match answer {
            (who, Ok(said)) => Ok(Turn::Said(who, said)),
            (who, Err(AskError::Failed(failure))) => Ok(Turn::Failed(who, failure)),
            (
                who,
                Err(AskError::Newer {
                    topology,
                    did_nothing,
                }),
            ) => {
                self.regroups += 1;
                if self.regroups > REGROUPS_MAX {
                    return Ok(Turn::Deadline);
                }
                // Calls under way hold the epoch of the local replica; taking over the next one
                // waits for them, so they must go first.
                self.calls.clear();
                if let Err(why) = self.inner.site.adopt(*topology, self.deadline).await {
                    tracing::warn!("an operation ends early: {why}");
                    return Ok(Turn::Deadline);
                }
                self.view = self.inner.view(&self.key)?;
                Ok(Turn::Regroup(did_nothing.then_some(who)))
            }
        }
    }

    fn error(&self, unmet: Unmet) -> ReplicationError {
        match unmet {
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
            Unmet::Exists => ReplicationError::Exists,
        }
    }

    fn replicas(&self) -> Vec<NodeId> {
        self.view.topology.replicas(self.view.partition)
    }
}

/// Runs one write and answers through `reply`; goes on with the tail afterwards.
pub async fn write(
    inner: Arc<Inner>,
    request: WriteRequest,
    reply: oneshot::Sender<Result<WriteOutcome, ReplicationError>>,
) {
    let deadline = Instant::now() + request.timeout;
    // a key whose writes queue for longer than anybody waits is too busy, like one with a crowd
    let Ok(Ok(lock)) = timeout_at(deadline, inner.locks.lock(&request.key)).await else {
        let _ = reply.send(Err(ReplicationError::TooBusy));
        return;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let mut drive = match Drive::new(inner, request.key.clone(), left) {
        Ok(drive) => drive,
        Err(error) => {
            let _ = reply.send(Err(error));
            return;
        }
    };
    let sent = request.context.clone();
    let intent = WriteIntent {
        value: request.value,
        context: request.context,
        only_if_absent: request.only_if_absent,
        consistency: request.consistency,
        breaks: drive.inner.breaks,
    };
    let (mut machine, first) =
        WriteMachine::start(intent, drive.view.needs(), &drive.view.unreachable);
    let result = drive.run_write(&mut machine, first).await;
    // acknowledged or given up: the next write of the key may issue its dot
    drop(lock);
    let _ = reply.send(result.map(|written| WriteOutcome {
        partition: drive.view.partition,
        replicas: drive.replicas(),
        successful: written.successful,
        failed: written.failed,
        quorum_achieved: written.quorum_achieved,
        record: Record {
            clock: written.record.known_to_writer(sent.as_ref()),
            siblings: written.record.siblings.clone(),
        },
    }));
    drive.write_tail(machine).await;
}

impl Drive {
    async fn run_write(
        &mut self,
        machine: &mut WriteMachine,
        mut step: Step<Written>,
    ) -> Result<Written, ReplicationError> {
        loop {
            match step {
                Step::Wait => {}
                Step::Ask(asks) => self.send(asks, self.deadline),
                Step::Stamp { seen } => {
                    // late answers to the query no longer matter
                    self.calls.clear();
                    let dot = self.inner.site.replica.identity.next_dot();
                    let dot = dot.map_err(|error| ReplicationError::Storage(error.to_string()))?;
                    let hlc = self.inner.clock.next(seen, unix_ms());
                    step = machine.stamp(dot, hlc, &self.view.unreachable);
                    continue;
                }
                Step::Done(written) => return Ok(written),
                Step::Failed(unmet) => return Err(self.error(unmet)),
            }
            step = match self.turn().await? {
                Turn::Said(who, said) => machine.on_said(&who, said),
                Turn::Failed(who, failure) => machine.on_failure(&who, failure),
                Turn::Regroup(refuser) => {
                    let needs = self.view.needs();
                    machine.regroup(refuser.as_ref(), needs, &self.view.unreachable)
                }
                Turn::Deadline => Step::Failed(machine.on_deadline()),
            };
        }
    }

    /// Hears out the replicas that were not needed, then leaves hints for those that did not
    /// get the record.
    async fn write_tail(mut self, mut machine: WriteMachine) {
        if machine.owed().is_none() {
            return;
        }
        if let Some(_room) = self.inner.tail_room(machine.record()) {
            let until = Instant::now() + TAIL;
            while let Ok(Some((who, said))) = timeout_at(until, self.calls.next()).await {
                match said {
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
        }
        // a call of the local replica holds its epoch until it is dropped
        self.calls.clear();
        let Some((record, behind)) = machine.owed() else {
            return;
        };
        for target in behind {
            self.inner.hints.keep(&target, &self.key, &record).await;
        }
    }
}

/// Runs one read and answers through `reply`; goes on with the tail afterwards.
pub async fn read(
    inner: Arc<Inner>,
    key: Key,
    consistency: Consistency,
    timeout: Duration,
    reply: oneshot::Sender<Result<ReadOutcome, ReplicationError>>,
) {
    let mut drive = match Drive::new(inner, key, timeout) {
        Ok(drive) => drive,
        Err(error) => {
            let _ = reply.send(Err(error));
            return;
        }
    };
    let (machine, result) = drive.run_read(consistency).await;
    let decided = result.is_ok();
    let _ = reply.send(result.map(|done| ReadOutcome {
        partition: drive.view.partition,
        replicas: drive.replicas(),
        responded: done.responded,
        repaired: done.repaired,
        quorum_achieved: done.quorum_achieved,
        record: Arc::unwrap_or_clone(done.record),
    }));
    if decided {
        drive.read_tail(machine).await;
    }
}

impl Drive {
    async fn run_read(
        &mut self,
        consistency: Consistency,
    ) -> (ReadMachine, Result<ReadDone, ReplicationError>) {
        let breaks = self.inner.breaks;
        let start =
            |view: &View| ReadMachine::start(consistency, breaks, view.needs(), &view.unreachable);
        let (mut machine, mut step) = start(&self.view);
        loop {
            match step {
                Step::Wait | Step::Stamp { .. } => {}
                Step::Ask(asks) => self.send(asks, self.deadline),
                Step::Done(done) => return (machine, Ok(done)),
                Step::Failed(unmet) => {
                    let error = self.error(unmet);
                    return (machine, Err(error));
                }
            }
            step = match self.turn().await {
                Ok(Turn::Said(who, said)) => machine.on_said(&who, said),
                Ok(Turn::Failed(who, failure)) => machine.on_failure(&who, failure),
                Ok(Turn::Regroup(_)) => {
                    // nothing a read did needs to be remembered
                    let (fresh, first) = start(&self.view);
                    machine = fresh;
                    first
                }
                Ok(Turn::Deadline) => Step::Failed(machine.on_deadline()),
                Err(error) => return (machine, Err(error)),
            };
        }
    }

    /// Brings up replicas that answer late and are behind, for a bounded time.
    async fn read_tail(mut self, mut machine: ReadMachine) {
        let Some(_room) = self.inner.tail_room(Some(machine.record())) else {
            return;
        };
        let until = Instant::now() + TAIL;
        self.send(machine.leftovers(), until);
        while let Ok(Some((who, said))) = timeout_at(until, self.calls.next()).await {
            if let Ok(said) = said
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
        let unreachable = reach::unreachable(
            &self.site.network.members(),
            (self.site.me(), self.site.replica.lifecycle.get()),
            &topology.all_replicas(partition),
            Timestamp::now(),
        );
        Ok(View {
            topology,
            partition,
            unreachable,
        })
    }

    /// Room for one tail that keeps `record` in memory; none when too much is kept already.
    fn tail_room(&self, record: Option<&Record>) -> Option<OwnedSemaphorePermit> {
        let kib = 16 + record.map_or(0, weight) / 1024;
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        self.tails.clone().try_acquire_many_owned(kib).ok()
    }

    async fn ask_replica(
        &self,
        to: &NodeId,
        epoch: Epoch,
        key: Key,
        ask: Ask,
        deadline: Instant,
    ) -> Result<Said, AskError> {
        let request = match ask {
            Ask::Version => Request::ReadVersion { key },
            Ask::Record => Request::ReadRecord { key },
            Ask::Store(record) => Request::Write {
                key,
                issued: record.max_hlc(),
                record: Arc::unwrap_or_clone(record),
            },
        };
        let response = self.site.ask(to, Class::Data, epoch, request, deadline);
        let (stamp, said) = match response.await? {
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
