//! Drives a read, repairing on the way what its answer needs; afterwards, for a bounded time (the
//! tail), it brings up the replicas that turn out to be behind.
//!
//! It stores nothing of its own, so it may begin anew at any time. Leaves whom to ask, and
//! when it is enough, to [`ReadMachine`].

use std::{sync::Arc, time::Duration};

use ringmaster_shared::{api::data::Consistency, id::NodeId, key::Key};
use tokio::time::{Instant, timeout_at};

use super::{Drive, TAIL, Turn, View};
use crate::replication::coordinator::{
    Inner, ReadOutcome, ReplicationError,
    read::{ReadDone, ReadMachine},
    round::{Ask, FailureKind, Step},
    write::AGAIN_MAX,
};

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
    pub(super) async fn run_read(
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
