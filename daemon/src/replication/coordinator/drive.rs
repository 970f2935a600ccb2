//! Runs the machines of writes and reads: asks replicas, feeds the answers back and follows topology
//! changes.
//!
//! The machines decide whom to ask; this asks, and tells them when answers are late. What the local
//! store can answer is answered here at once. Here is what both kinds of operation share; their own
//! courses, and what is done for the replicas that were left behind once the client has its answer,
//! are in [`writing`] and [`reading`]. No lock is held while anything is awaited, except the key's
//! own, which is there for that.

mod reading;
mod writing;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    topology::{Access, Topology},
    version::{Dot, Record},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};

pub use self::{
    reading::read,
    writing::{Reply, write},
};
use super::{
    Inner, ReplicationError,
    calls::{Answer, Calls},
    latency::HEDGE_MAX,
    round::{Ask, Failure, FailureKind, Reach, Said, Unmet},
    write::Needs,
};
use crate::{
    large::LARGE_BYTES,
    replication::{
        frames::{Request, Response},
        peers::Class,
        replica::weight,
        site::AskError,
    },
};

/// How long late replicas are listened to after the client has its answer.
const TAIL: Duration = Duration::from_secs(2);
/// Calls wait this much longer than their operation, so that a replica that stays silent ends the
/// operation by its deadline and not, at the same moment, as a refusal.
const CALL_GRACE: Duration = Duration::from_millis(100);
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
