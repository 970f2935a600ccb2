//! What the parts of replication on one node share: the local replica, the way to the others,
//! and one question to one replica with the rules of epochs and retries.
//!
//! Promises: a question to this node itself never touches the network; a replica that is behind
//! is taught the topology and asked again; every question is idempotent (reads, joins), so a lost
//! connection is tried again within the deadline.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::Rng;
use ringmaster_shared::{
    clock::Hlc,
    event::{EventCode, Severity},
    id::{Epoch, NodeId, PartitionId},
    key::Key,
    topology::Topology,
    version::Record,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    coordinator::round::{Failure, FailureKind},
    frames::{RefusalCode, Request, Response},
    network::{Call, Network},
    peers::{Class, PeerError},
    replica::{ReplicaContext, weight},
    settings::{Meter, RepairSettings, Traffic, wire_bytes},
};
use crate::{events::Events, gossip::MemberView, storage::StorageError, time::unix_ms};

/// How often one question is asked again after a lost connection or a stale topology.
const TRIES: u32 = 3;
/// First pause between tries; doubles, plus up to as much again at random.
const RETRY_PAUSE: Duration = Duration::from_millis(15);
/// A replica whose disk is nearly full is asked to store something again after this.
const READ_ONLY_FOR: Duration = Duration::from_secs(1);
/// The same trouble with the same node is reported at most this often.
const REPORT_EVERY: Duration = Duration::from_secs(60);

pub struct Site {
    pub replica: ReplicaContext,
    pub network: Arc<dyn Network>,
    pub events: Events,
    pub stop: CancellationToken,
    pub settings: RepairSettings,
    /// Bytes of repair.
    pub meter: Meter,
    reported: Mutex<HashMap<(EventCode, Option<NodeId>), Instant>>,
    /// Replicas that refused to store because their disks are nearly full, and when.
    read_only: Mutex<HashMap<NodeId, Instant>>,
}

/// Why a question has no answer.
#[derive(Debug, Clone)]
pub enum AskError {
    /// The replica goes by a later topology: adopt it and start over. `did_nothing` is false
    /// when an earlier try of the same question may have arrived.
    Newer {
        topology: Box<Topology>,
        did_nothing: bool,
    },
    Failed(Failure),
}

impl AskError {
    fn failed(kind: FailureKind, why: impl Into<String>) -> Self {
        Self::Failed(Failure {
            kind,
            why: why.into(),
        })
    }

    /// It answered that its store could not do all of it: one record of many may be damaged there.
    pub fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.kind == FailureKind::Storage)
    }

    /// The reason in words.
    pub fn why(&self) -> String {
        match self {
            Self::Newer { topology, .. } => format!("goes by the later epoch {}", topology.epoch),
            Self::Failed(failure) => failure.why.clone(),
        }
    }
}

impl Site {
    pub fn new(
        replica: ReplicaContext,
        network: Arc<dyn Network>,
        events: Events,
        settings: RepairSettings,
        stop: CancellationToken,
    ) -> Self {
        Self {
            replica,
            network,
            events,
            stop,
            settings,
            meter: Meter::default(),
            reported: Mutex::default(),
            read_only: Mutex::default(),
        }
    }

    pub fn me(&self) -> &NodeId {
        &self.replica.node_id
    }

    /// What an operation that begins now is issued at: below everything stamped later, and above
    /// the floors this node knows, which it could not pass otherwise if its clock is slow.
    pub fn issued(&self) -> Hlc {
        self.stamp_above(Hlc::default())
    }

    /// A stamp above everything this node has stamped or seen, and above `seen`.
    pub fn stamp_above(&self, seen: Hlc) -> Hlc {
        let floor = self.replica.store.highest_floor();
        self.replica.clock.next(seen.max(floor), unix_ms())
    }

    /// [`Self::ask`] on behalf of repair: with a deadline of its own, and what went over the wire
    /// is counted.
    pub async fn ask_for_repair(
        &self,
        to: &NodeId,
        epoch: Epoch,
        request: Request,
        timeout: Duration,
        traffic: &mut Traffic,
    ) -> Result<Response, AskError> {
        let mut moved = Traffic {
            sent: wire_bytes(&request),
            received: 0,
        };
        let deadline = Instant::now() + timeout;
        let answer = self.ask(to, Class::Bulk, epoch, request, deadline).await;
        if let Ok(response) = &answer {
            moved.received = wire_bytes(response);
        }
        if to != self.me() {
            self.meter.add(moved);
            *traffic += moved;
        }
        answer
    }

    /// A read of one key in the store of this very node: a lookup, nothing is awaited.
    pub fn read_here(&self, epoch: Epoch, request: &Request) -> Result<Response, AskError> {
        match self.replica.read_now(epoch, request) {
            Some(response) => sort(response),
            None => Err(AskError::failed(FailureKind::NotDone, "not a read")),
        }
    }

    /// One question to one replica. `epoch` 0 where it does not matter.
    pub async fn ask(
        &self,
        to: &NodeId,
        class: Class,
        epoch: Epoch,
        request: Request,
        deadline: Instant,
    ) -> Result<Response, AskError> {
        if to == self.me() {
            let response = self.replica.serve(epoch, request).await;
            return self.sort(response);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let call = self.network.call(to, class, epoch, &request, left);
        let first = within(to, deadline, left, call).await;
        let first = match first {
            Ok(response) if !matches!(response, Response::EpochAhead { .. }) => {
                return self.sort(response);
            }
            other => other,
        };
        // rare, so its state is kept out of every question
        Box::pin(self.ask_again(first, to, class, epoch, request, deadline)).await
    }

    /// What comes after a first try that brought no answer to go by.
    async fn ask_again(
        &self,
        first: Result<Response, PeerError>,
        to: &NodeId,
        class: Class,
        epoch: Epoch,
        request: Request,
        deadline: Instant,
    ) -> Result<Response, AskError> {
        let mut may_have_arrived = false;
        let mut tries = 1;
        let mut last = first;
        loop {
            match last {
                Ok(Response::EpochAhead { .. }) if tries < TRIES => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.teach(to, left).await;
                }
                Ok(Response::EpochAhead { epoch: theirs }) => {
                    let why = format!("still goes by the earlier epoch {theirs}");
                    return Err(AskError::failed(kind_after(may_have_arrived), why));
                }
                Ok(response) => {
                    let sorted = self.sort(response);
                    return sorted.map_err(|error| error.after(may_have_arrived));
                }
                Err(error) => {
                    may_have_arrived |= may_arrive(&error);
                    let again = matches!(
                        error,
                        PeerError::Lost { .. } | PeerError::Unreachable { .. }
                    );
                    if !again || tries >= TRIES {
                        let kind = kind_after(may_have_arrived);
                        return Err(AskError::failed(kind, plain(&error)));
                    }
                }
            }
            pause(tries, deadline).await;
            tries += 1;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let kind = kind_after(may_have_arrived);
                return Err(AskError::failed(kind, "no answer in time"));
            }
            let call = self.network.call(to, class, epoch, &request, left);
            last = within(to, deadline, left, call).await;
        }
    }

    /// An answer or a failure. Who was refused as stale begins the next time above the floor that
    /// refused it.
    fn sort(&self, response: Response) -> Result<Response, AskError> {
        if let Response::Stale { floor } = response
            && !floor.is_absurd(unix_ms())
        {
            self.replica.clock.witness(floor);
        }
        sort(response)
    }

    /// Tells a replica that is behind the topology this node goes by.
    async fn teach(&self, to: &NodeId, timeout: Duration) {
        let Some(topology) = self.replica.topology.current() else {
            return;
        };
        let push = Request::PushTopology {
            topology: (*topology).clone(),
        };
        let deadline = Instant::now() + timeout;
        let call = self.network.call(to, Class::Control, 0, &push, timeout);
        if let Err(error) = within(to, deadline, timeout, call).await {
            tracing::debug!(node = %to, "could not push the topology: {error}");
        }
    }

    /// Takes over what a replica said is newer. `Ok` when this node now goes by it or later.
    pub async fn adopt(&self, topology: Topology, deadline: Instant) -> Result<(), String> {
        let known = |epoch| {
            self.replica
                .topology
                .current()
                .is_some_and(|t| t.epoch >= epoch)
        };
        let epoch = topology.epoch;
        if known(epoch) {
            return Ok(());
        }
        let adopted = self.replica.topology.adopt(topology);
        match tokio::time::timeout_at(deadline, adopted).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot take over epoch {epoch}: {error}")),
            // it is current as soon as it is saved; only earlier requests are still under way
            Err(_) if known(epoch) => Ok(()),
            Err(_) => Err(format!("taking over epoch {epoch} did not finish in time")),
        }
    }

    /// The member as gossip sees it.
    pub fn member(&self, id: &NodeId) -> Option<MemberView> {
        let members = self.network.members();
        members.iter().find(|m| &m.state.id == id).cloned()
    }

    /// Whether requests to this other node are worth sending.
    pub fn is_reachable(&self, id: &NodeId) -> bool {
        self.member(id)
            .is_some_and(|m| super::reach::is_reachable(&m))
    }

    /// This replica refused to store because its disk is nearly full.
    pub fn note_read_only(&self, id: &NodeId) {
        let mut refused = self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refused.insert(id.clone(), Instant::now());
    }

    /// Replicas that refused so a moment ago: a write that counts on them would only leave a copy
    /// on the others and end without knowing what became of it.
    pub fn recently_read_only(&self) -> Vec<NodeId> {
        let mut refused = self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, at| at.elapsed() < READ_ONLY_FOR);
        refused.keys().cloned().collect()
    }

    /// `true` at most once a minute for the same trouble with the same node.
    pub fn worth_reporting(&self, code: EventCode, subject: Option<&NodeId>) -> bool {
        let now = Instant::now();
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        reported.retain(|_, at| now.duration_since(*at) < REPORT_EVERY);
        let key = (code, subject.cloned());
        if reported.contains_key(&key) {
            return false;
        }
        reported.insert(key, now);
        true
    }

    /// A record that cannot be copied, without its key: a key may be somebody's name.
    pub fn tell_too_large(&self, key: &Key, record: &Record) {
        let code = EventCode::RecordTooLarge;
        if !self.worth_reporting(code, None) {
            return;
        }
        let partition = self.replica.topology.current();
        let partition = partition.map_or(0, |t| t.partition_of(key));
        let (hash, mib) = (format!("{:016x}", key.hash()), weight(record) >> 20);
        let what = format!(
            "a key of partition {partition} (hash {hash}) has versions side by side of {mib} MiB together, \
             too many for one message: it cannot be read or copied until a client writes it without \
             a context, or deletes it"
        );
        let details = serde_json::json!({
            "partition": partition, "key_hash": hash, "siblings": record.siblings.len(),
        });
        self.events.emit(code, Severity::Error, None, what, details);
    }

    /// Something in the local table cannot be read. Told once; the next start looks at all of it.
    pub fn tell_unreadable(&self, partition: PartitionId, error: &StorageError) {
        let is_first =
            matches!(error, StorageError::Read { .. }) && self.replica.store.count_at_next_start();
        if !is_first {
            return;
        }
        let what = format!(
            "part of the store cannot be read (met in partition {partition}): {error}. What is sound goes \
             on; check the disk and restart this node: it then looks at all it holds, and what is \
             damaged is brought back from its log or from the other replicas"
        );
        self.events.error(EventCode::TableDamaged, None, what);
    }

    /// Records were read that are damaged. Told once, by whoever has them brought back.
    pub fn tell_damaged(&self) {
        // some may be mended by now, by another replica that compared
        let damaged = self.replica.store.damage_seen();
        if damaged == 0 || !self.replica.store.count_at_next_start() {
            return;
        }
        let what = format!(
            "{damaged} stored records were read that are damaged; they are asked for from the other \
             replicas, if there are any. Check the disk: there may be more that nobody has read yet"
        );
        self.events.error(EventCode::TableDamaged, None, what);
    }

    /// No other replica could give back what is damaged here. Without the key, which may be somebody's
    /// name.
    pub fn tell_not_mended(&self, left: &NotMendedYet) {
        let code = EventCode::TableDamaged;
        if !self.worth_reporting(code, None) {
            return;
        }
        let partition = self.replica.topology.current();
        let partition = partition.map_or(0, |t| t.partition_of(&left.first));
        let hash = format!("{:016x}", left.first.hash());
        let details = serde_json::json!({
            "records": left.waiting + left.nowhere, "on_no_replica": left.nowhere,
            "partition": partition, "key_hash": hash,
        });
        let what = left.sentence(partition, &hash);
        self.events.emit(code, Severity::Error, None, what, details);
    }

    /// A stamp of `node` from the far future: reported, and to be refused by the caller.
    pub fn is_absurd(&self, node: &NodeId, stamp: ringmaster_shared::clock::Hlc) -> bool {
        if node == self.me() || !stamp.is_absurd(unix_ms()) {
            return false;
        }
        if self.worth_reporting(EventCode::ClockSkew, Some(node)) {
            let what = format!(
                "{node} holds a version stamped more than a day in the future, which is refused here; \
                 set the clocks of the nodes"
            );
            self.events.warn(EventCode::ClockSkew, Some(node), what);
        }
        true
    }
}

/// Damaged records that no other replica gave back, of one round of asking.
#[derive(Debug)]
pub struct NotMendedYet {
    first: Key,
    /// What the other replicas said of the first.
    asked: String,
    /// Of how many not all other replicas were to be had.
    pub waiting: usize,
    /// Of how many all of them answered, or there are none.
    pub nowhere: usize,
}

impl NotMendedYet {
    pub fn new(first: Key, asked: String) -> Self {
        Self {
            first,
            asked,
            waiting: 0,
            nowhere: 0,
        }
    }

    fn sentence(&self, partition: PartitionId, hash: &str) -> String {
        let mut text = format!(
            "{} damaged records could not be brought back yet (the first: a key of partition \
             {partition}, hash {hash}): {}. Until then this node fails reads of them, and fills no \
             other node with their partitions.",
            self.waiting + self.nowhere,
            self.asked
        );
        if self.waiting > 0 {
            text.push_str(" Bring back replicas that are away.");
        }
        if self.nowhere > 0 {
            let nowhere = format!(
                " Of {} no other replica has all of it, and none is away: a client writes or deletes \
                 such a key through this node, without a context; what only the damaged record held is \
                 given up with that",
                self.nowhere
            );
            text.push_str(&nowhere);
        }
        text
    }
}

impl AskError {
    /// An answer after an earlier try that may have arrived proves nothing about that try.
    fn after(self, may_have_arrived: bool) -> Self {
        match self {
            Self::Failed(failure)
                if may_have_arrived
                    && matches!(
                        failure.kind,
                        FailureKind::NotDone | FailureKind::ReadOnly | FailureKind::Stale
                    ) =>
            {
                Self::failed(FailureKind::Unknown, failure.why)
            }
            Self::Newer { topology, .. } => Self::Newer {
                topology,
                did_nothing: !may_have_arrived,
            },
            other @ Self::Failed(_) => other,
        }
    }
}

/// The answer of a call, which sets no deadline of its own.
async fn within(
    to: &NodeId,
    deadline: Instant,
    waited: Duration,
    call: Call,
) -> Result<Response, PeerError> {
    let answer = tokio::time::timeout_at(deadline, call).await;
    answer.unwrap_or_else(|_| {
        Err(PeerError::Timeout {
            address: to.to_string(),
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        })
    })
}

fn sort(response: Response) -> Result<Response, AskError> {
    match response {
        Response::EpochBehind { topology } => Err(AskError::Newer {
            topology: Box::new(topology),
            did_nothing: true,
        }),
        Response::EpochAhead { epoch } => Err(AskError::failed(
            FailureKind::NotDone,
            format!("still goes by the earlier epoch {epoch}"),
        )),
        Response::Stale { .. } => Err(AskError::failed(
            FailureKind::Stale,
            "it began before the deleted keys of the partition were forgotten",
        )),
        Response::Refused { code, reason } => {
            let kind = match code {
                RefusalCode::Recovering => FailureKind::Recovering,
                RefusalCode::ReadOnly => FailureKind::ReadOnly,
                // the log may have it although the answer could not be given
                RefusalCode::Storage => FailureKind::Storage,
                _ => FailureKind::NotDone,
            };
            Err(AskError::failed(kind, reason))
        }
        answer => Ok(answer),
    }
}

fn kind_after(may_have_arrived: bool) -> FailureKind {
    if may_have_arrived {
        FailureKind::Unknown
    } else {
        FailureKind::NotDone
    }
}

/// Whether the request may have reached the other side.
fn may_arrive(error: &PeerError) -> bool {
    match error {
        PeerError::Timeout { .. } | PeerError::Lost { .. } | PeerError::Protocol { .. } => true,
        PeerError::UnknownAddress { .. }
        | PeerError::Unreachable { .. }
        | PeerError::WrongCluster { .. }
        | PeerError::WrongNode { .. }
        | PeerError::Full { .. } => false,
    }
}

/// The reason as it follows a node's name.
fn plain(error: &PeerError) -> String {
    match error {
        PeerError::Timeout { waited_ms, .. } => format!("no answer within {waited_ms} ms"),
        other => other.to_string(),
    }
}

async fn pause(tries: u32, deadline: Instant) {
    let base = RETRY_PAUSE * 2_u32.pow(tries.saturating_sub(1).min(6));
    let jitter = rand::rng().random_range(0.0..1.0);
    let until = (Instant::now() + base.mul_f64(1.0 + jitter)).min(deadline);
    tokio::time::sleep_until(until).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_whether_something_may_have_happened() {
        let cases = [
            (RefusalCode::Recovering, FailureKind::Recovering),
            (RefusalCode::ReadOnly, FailureKind::ReadOnly),
            (RefusalCode::Storage, FailureKind::Storage),
            (RefusalCode::NotReplica, FailureKind::NotDone),
            (RefusalCode::NotServing, FailureKind::NotDone),
        ];
        for (code, kind) in cases {
            let response = Response::Refused {
                code,
                reason: "x".into(),
            };
            let Err(AskError::Failed(failure)) = sort(response) else {
                panic!("{code:?} is a failure");
            };
            assert_eq!(failure.kind, kind, "{code:?}");
        }
        let stale = sort(Response::Stale { floor: Hlc(7) });
        assert!(matches!(
            stale,
            Err(AskError::Failed(f)) if f.kind == FailureKind::Stale
        ));
        for kind in [
            FailureKind::NotDone,
            FailureKind::ReadOnly,
            FailureKind::Stale,
        ] {
            let earlier = AskError::failed(kind, "x").after(true);
            assert!(matches!(
                earlier,
                AskError::Failed(f) if f.kind == FailureKind::Unknown
            ));
        }
    }
}
