//! Drives a write: until the client has its answer, and then, for a bounded time (the tail), until
//! the replicas that were not needed for it have the record or are owed a hint.
//!
//! The key's lock is held from before the write reads what it may replace until it has been
//! acknowledged or given up. Leaves what is asked and when it is enough to [`WriteMachine`].

use std::sync::Arc;

use ringmaster_shared::{
    api::data::Consistency,
    version::{Dot, Record},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{Drive, TAIL, Turn};
use crate::replication::coordinator::{
    Ended, Inner, ReplicationError, WriteOutcome, WriteRequest,
    round::{Failure, FailureKind, Step},
    unresolved::NotSpared,
    write::{AGAIN_MAX, WriteIntent, WriteMachine, Written},
};

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

    /// See [`unresolved`](crate::replication::coordinator::unresolved).
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
            Ok(spared) => spared.map_err(|why| match why {
                NotSpared::TooOften => ReplicationError::TooOftenUnknown,
                NotSpared::Storage(why) => ReplicationError::Storage(why),
            }),
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
