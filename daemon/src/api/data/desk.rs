//! One read or write of one key, the same for every path that takes them: whether this node
//! serves, admission, the coordinator, tokens, and what a refusal says.

use std::time::Instant;

use ringmaster_shared::{
    api::data::Consistency,
    context,
    error::ErrorCode,
    id::ClusterId,
    key::Key,
    member::Lifecycle,
    version::{Value, VersionVector},
};

use crate::{
    api::{Answer, ApiError, admission::Place, not_serving},
    metrics::rates::Kind,
    node::Node,
    replication::coordinator::{
        Condition, Coordinator, ReadOutcome, ReplicationError, WriteOutcome, WriteRequest,
    },
    time,
};

/// This node, open for clients.
pub struct Desk<'a> {
    node: &'a Node,
    pub coordinator: &'a Coordinator,
    cluster: ClusterId,
}

/// One write as its client asked for it.
#[derive(Debug)]
pub struct Order {
    pub key: Key,
    /// `None` deletes.
    pub value: Option<Value>,
    pub context: Option<VersionVector>,
    pub condition: Condition,
    pub consistency: Consistency,
}

impl<'a> Desk<'a> {
    pub fn open(node: &'a Node) -> Answer<Self> {
        let open = matches!(
            node.lifecycle.get(),
            Lifecycle::Serving | Lifecycle::Recovering
        );
        let coordinator = node.coordinator.get().filter(|_| open);
        let parts = coordinator.zip(node.identity.cluster_id());
        let (coordinator, cluster) = parts.ok_or_else(|| not_serving(node))?;
        Ok(Self {
            node,
            coordinator,
            cluster,
        })
    }

    /// A place for a request that reads.
    pub fn place(&self) -> Answer<Place> {
        self.node.gates.admission.enter(0)
    }

    pub async fn read(&self, key: &Key, level: Consistency) -> Answer<ReadOutcome> {
        let place = self.place()?;
        let began = Instant::now();
        let timeout = self.node.config.limits.request_timeout;
        let outcome = self.coordinator.read(key.clone(), level, timeout).await;
        self.count(Kind::Get, began);
        match &outcome {
            // larger values take longer for no fault of the node
            Ok(done) => place.ended(began.elapsed() / large(&done.record.siblings)),
            Err(ReplicationError::Deadline { .. }) => place.ended(began.elapsed()),
            Err(_) => {}
        }
        outcome.map_err(|error| self.refusal(key, error))
    }

    pub async fn write(&self, order: Order) -> Answer<WriteOutcome> {
        let conditional = order.condition != Condition::Always;
        if conditional && order.consistency == Consistency::One {
            return Err(ApiError::bad_request(
                "a condition needs consistency=quorum or all: one replica cannot tell whether it holds",
            ));
        }
        let bytes = order.value.as_ref().map_or(0, Value::len);
        let place = self.node.gates.admission.enter(bytes)?;
        let began = Instant::now();
        let key = order.key.clone();
        let request = WriteRequest {
            key: order.key,
            value: order.value,
            context: order.context,
            condition: order.condition,
            consistency: order.consistency,
            timeout: self.node.config.limits.request_timeout,
        };
        // the place is taken until the write has ended, also when the client leaves before
        let ended = move |outcome: &Result<WriteOutcome, _>| match outcome {
            // a queue for one key says nothing about the node
            Ok(done) => place.ended(began.elapsed().saturating_sub(done.waited)),
            Err(ReplicationError::Deadline { .. }) => place.ended(began.elapsed()),
            Err(_) => drop(place),
        };
        let outcome = self.coordinator.write_then(request, ended).await;
        self.count(Kind::Put, began);
        outcome.map_err(|error| self.refusal(&key, error))
    }

    fn count(&self, kind: Kind, began: Instant) {
        let now_s = time::unix_ms() / 1000;
        let rates = &self.node.metrics.rates;
        rates.record(now_s, kind, began.elapsed());
    }

    /// The token that says this has been seen.
    pub fn token(&self, key: &Key, seen: &VersionVector) -> String {
        context::encode(&self.cluster, key, seen)
    }

    /// What a token says has been seen.
    pub fn seen(&self, key: &Key, token: &str) -> Answer<VersionVector> {
        context::decode(&self.cluster, key, token)
            .map_err(|e| ApiError::new(ErrorCode::BadContext, e.to_string()))
    }

    /// The error, with the token of what the key is now where that is known.
    fn refusal(&self, key: &Key, error: ReplicationError) -> ApiError {
        let clock = match &error {
            ReplicationError::Precondition { clock, .. }
            | ReplicationError::NotAlone { clock }
            | ReplicationError::Siblings { clock, .. } => Some(clock.clone()),
            _ => None,
        };
        let answer = ApiError::from(error);
        match clock.filter(|clock| !clock.is_empty()) {
            Some(clock) => answer.detail("context", self.token(key, &clock)),
            None => answer,
        }
    }
}

/// How many times as long as a small one a read of so much may take.
fn large(siblings: &[ringmaster_shared::version::Sibling]) -> u32 {
    let values = siblings.iter().filter_map(|s| s.value.as_ref());
    let bytes: usize = values.map(Value::len).sum();
    1 + u32::try_from(bytes / (256 * 1024)).unwrap_or(u32::MAX - 1)
}
