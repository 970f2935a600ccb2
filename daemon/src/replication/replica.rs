//! What one replica answers: the same rules whether the question came over the network or from
//! the coordinator on this very node.
//!
//! Promises: epoch-checked operations are refused to callers that go by another epoch, a replica
//! whose data was lost never answers a read, nothing is acknowledged before it is synced, and
//! every answer fits into a frame. Leaves connections to `server`, quorums to `coordinator`.

use ringmaster_shared::{
    clock::Hlc,
    id::{Epoch, NodeId, PartitionId},
    key::Key,
    version::Record,
};

use super::{
    clock::HybridClock,
    frames::{FRAME_BYTES_MAX, RefusalCode, Request, Response, TombstoneState},
    settings::wire_bytes,
};
use crate::{
    identity::IdentityStore,
    lifecycle::LifecycleHandle,
    storage::{BRANCHES, StorageError, Store},
    time::unix_ms,
    topology::{EpochGuard, EpochMismatch, TopologyHandle},
};

/// Most bytes of records in one answer (a single larger record still goes through).
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a frame that are not its record: the key, and what says what the frame is.
const FRAME_ROOM: u64 = 16 * 1024;
/// Most keys in one request or answer that lists keys.
pub const KEYS_MAX: usize = 10_000;
/// Most bytes of keys in one answer that lists the versions of a leaf.
const LEAF_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Everything one replica needs to answer. Cheap to clone.
#[derive(Clone)]
pub struct ReplicaContext {
    pub node_id: NodeId,
    pub identity: IdentityStore,
    pub store: Store,
    pub topology: TopologyHandle,
    pub lifecycle: LifecycleHandle,
    /// The node's clock; all its copies are one.
    pub clock: HybridClock,
    /// `storage.tombstone_grace`, ms.
    pub grace_ms: u64,
}

/// A refusal on its way out; `?` keeps the rules below readable.
struct Refusal(Box<Response>);

impl Refusal {
    fn with(response: Response) -> Self {
        Self(Box::new(response))
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Stale { floor } => Self::with(Response::Stale { floor }),
            StorageError::ReadOnly(_) => refusal(RefusalCode::ReadOnly, error.to_string()),
            other => refusal(RefusalCode::Storage, other.to_string()),
        }
    }
}

impl From<EpochMismatch> for Refusal {
    fn from(mismatch: EpochMismatch) -> Self {
        match mismatch {
            EpochMismatch::CallerBehind(topology) => Self::with(Response::EpochBehind {
                topology: (*topology).clone(),
            }),
            EpochMismatch::CallerAhead { mine, .. } => {
                Self::with(Response::EpochAhead { epoch: mine })
            }
            EpochMismatch::NoTopology => Self::with(Response::EpochAhead { epoch: 0 }),
        }
    }
}

fn refusal(code: RefusalCode, reason: impl Into<String>) -> Refusal {
    Refusal::with(Response::Refused {
        code,
        reason: reason.into(),
    })
}

impl ReplicaContext {
    /// Answers one replica operation; `epoch` is the caller's. Requests that are not replica
    /// operations (gossip, joining, the register) are refused as bad.
    pub async fn serve(&self, epoch: Epoch, request: Request) -> Response {
        match self.answer(epoch, request).await {
            Ok(response) => response,
            Err(Refusal(response)) => *response,
        }
    }

    /// The answer to a read of one key, which takes a lookup and no waiting; `None` for anything
    /// else.
    pub fn read_now(&self, epoch: Epoch, request: &Request) -> Option<Response> {
        let answer = match request {
            Request::ReadVersion { key } => self.version(epoch, key),
            Request::ReadRecord { key } => self.record(epoch, key),
            _ => return None,
        };
        Some(answer.unwrap_or_else(|Refusal(response)| *response))
    }

    fn version(&self, epoch: Epoch, key: &Key) -> Result<Response, Refusal> {
        self.must_replicate()?;
        let _guard = self.guard_read(epoch, key)?;
        let version = self.store.version(key)?;
        Ok(Response::Version { version })
    }

    fn record(&self, epoch: Epoch, key: &Key) -> Result<Response, Refusal> {
        self.must_replicate()?;
        let _guard = self.guard_read(epoch, key)?;
        let record = self.store.get(key)?;
        Ok(Response::Record { record })
    }

    async fn answer(&self, epoch: Epoch, request: Request) -> Result<Response, Refusal> {
        if let Some(answer) = self.read_now(epoch, &request) {
            return Ok(answer);
        }
        self.must_replicate()?;
        match request {
            Request::Write {
                key,
                record,
                issued,
            } => {
                self.must_know_its_past()?;
                // held until the record is synced: the epoch settles only after it
                let guard = self.topology.guard(epoch)?;
                self.must_hold(&guard, guard.topology.partition_of(&key))?;
                if record.max_hlc().is_absurd(unix_ms()) {
                    return Err(refusal(RefusalCode::BadRequest, SKEWED));
                }
                self.store.merge_issued(key, record, issued).await?;
                drop(guard);
                Ok(Response::Done)
            }
            Request::Merge { entries, issued } => self.merge(epoch, entries, issued).await,
            Request::TombstoneCheck { partition, keys } => {
                self.check_tombstones(epoch, partition, keys).await
            }
            Request::TombstoneDrop {
                partition,
                keys,
                floor,
            } => self.drop_tombstones(epoch, partition, keys, floor).await,
            Request::Scan {
                partition,
                after,
                max_bytes,
            } => self.scan(epoch, partition, after, max_bytes).await,
            other => self.compare(epoch, other).await,
        }
    }

    /// The questions of anti-entropy and of listings; they have no effect.
    async fn compare(&self, epoch: Epoch, request: Request) -> Result<Response, Refusal> {
        match request {
            Request::DigestRoots { partitions } => {
                self.off_thread(move |store| {
                    let roots = partitions.iter().map(|p| store.digest_root(*p)).collect();
                    Ok(Response::Roots { roots })
                })
                .await
            }
            Request::DigestBranches { partition } => {
                self.off_thread(move |store| {
                    let leaves = store.digest_branches(partition).to_vec();
                    Ok(Response::Leaves { leaves })
                })
                .await
            }
            Request::DigestLeaves {
                partition,
                branches,
            } => {
                self.off_thread(move |store| {
                    let branches = branches.iter().take(BRANCHES);
                    let leaves = branches.flat_map(|b| store.digest_leaves(partition, *b));
                    let leaves = leaves.collect();
                    Ok(Response::Leaves { leaves })
                })
                .await
            }
            Request::LeavesVersions { partition, leaves } => {
                self.off_thread(move |store| {
                    let leaves = leaves.into_iter().collect();
                    let versions = within_bytes(store.leaves_versions(partition, &leaves)?);
                    Ok(Response::Versions { versions })
                })
                .await
            }
            Request::FetchRecords { keys } => {
                self.off_thread(move |store| fetch(store, &keys)).await
            }
            Request::ListKeys {
                partitions,
                prefix,
                after,
                limit,
            } => {
                // a listing is a read: a replica that gave partitions away or lost its data must
                // not answer "nothing"
                let _guard = self.topology.guard(epoch)?;
                self.must_have_data()?;
                let limit = (limit as usize).min(KEYS_MAX);
                self.off_thread(move |store| {
                    let keys = store.list_keys(&partitions, &prefix, after.as_deref(), limit)?;
                    Ok(Response::Keys { keys })
                })
                .await
            }
            _ => Err(refusal(
                RefusalCode::BadRequest,
                "this is not a request to a replica",
            )),
        }
    }

    async fn merge(
        &self,
        epoch: Epoch,
        mut entries: Vec<(Key, Record)>,
        issued: Hlc,
    ) -> Result<Response, Refusal> {
        // held until all is synced; a hint, or what a node of another cluster brings along, has none
        let _guard = match epoch {
            0 => None,
            epoch => Some(self.topology.guard(epoch)?),
        };
        let Some(topology) = self.topology.current() else {
            return Err(refusal(
                RefusalCode::NotServing,
                "this node has no topology yet",
            ));
        };
        let foreign = |key: &Key| !topology.is_replica(topology.partition_of(key), &self.node_id);
        if let Some((key, _)) = entries.iter().find(|(key, _)| foreign(key)) {
            return Err(not_replica(topology.partition_of(key)));
        }
        let now = unix_ms();
        let offered = entries.len();
        entries.retain(|(_, record)| !record.max_hlc().is_absurd(now));
        if entries.len() < offered {
            tracing::warn!(
                refused = offered - entries.len(),
                "records were refused: {SKEWED}"
            );
        }
        let merged = self.store.merge_many_issued(entries, issued).await?;
        if merged.stale > 0 {
            tracing::debug!(
                refused = merged.stale,
                "records were refused: issued before the floor"
            );
        }
        Ok(Response::Merged {
            changed: u32::try_from(merged.changed).unwrap_or(u32::MAX),
        })
    }

    /// What this member says of tombstones that another wants to forget.
    async fn check_tombstones(
        &self,
        epoch: Epoch,
        partition: PartitionId,
        keys: Vec<(Key, u64)>,
    ) -> Result<Response, Refusal> {
        let guard = self.settled_guard(epoch)?;
        self.must_have_data()?;
        let is_replica = guard.topology.is_replica(partition, &self.node_id);
        let (clock, grace_ms) = (self.clock.clone(), self.grace_ms);
        let answer = self
            .off_thread(move |store| {
                let state = |(key, fingerprint): &(Key, u64)| {
                    Ok(if store.is_hinted(key)? {
                        TombstoneState::Hinted
                    } else if !is_replica {
                        TombstoneState::Gone
                    } else if store.fingerprint(key)? == Some(*fingerprint) {
                        TombstoneState::Holds
                    } else {
                        TombstoneState::Differs
                    })
                };
                let states = keys.iter().take(KEYS_MAX).map(state);
                let states = states.collect::<Result<_, StorageError>>()?;
                let clock = clock.next(store.highest_floor(), unix_ms());
                Ok(Response::Tombstones {
                    states,
                    clock,
                    grace_ms,
                })
            })
            .await;
        drop(guard);
        answer
    }

    async fn drop_tombstones(
        &self,
        epoch: Epoch,
        partition: PartitionId,
        keys: Vec<(Key, u64)>,
        floor: Hlc,
    ) -> Result<Response, Refusal> {
        let guard = self.settled_guard(epoch)?;
        self.must_have_data()?;
        self.must_hold(&guard, partition)?;
        if floor.unix_ms() > unix_ms() {
            // writes that begin here now would be refused
            return Err(refusal(
                RefusalCode::TooBusy,
                "the floor is ahead of this node's clock",
            ));
        }
        self.store.forget_tombstones(partition, keys, floor).await?;
        drop(guard);
        Ok(Response::Done)
    }

    /// Exactly this epoch, and no change under way.
    fn settled_guard(&self, epoch: Epoch) -> Result<EpochGuard, Refusal> {
        let guard = self.topology.guard(epoch)?;
        if guard.topology.transition.is_some() {
            return Err(refusal(
                RefusalCode::TooBusy,
                "a change of the ring is under way",
            ));
        }
        Ok(guard)
    }

    async fn scan(
        &self,
        epoch: Epoch,
        partition: PartitionId,
        after: Option<Key>,
        max_bytes: u32,
    ) -> Result<Response, Refusal> {
        let guard = self.topology.guard(epoch)?;
        self.must_hold(&guard, partition)?;
        self.must_have_data()?;
        if self.topology.settled_epoch() < epoch {
            // a write of the epoch before may still be on its way into the store, and its
            // coordinator does not know of the new replica that asks here
            return Err(refusal(
                RefusalCode::TooBusy,
                "requests of an earlier epoch are still under way",
            ));
        }
        let max_bytes = (max_bytes as usize).min(PAGE_BYTES_MAX);
        let answer = self
            .off_thread(move |store| {
                let page = store.scan_partition(partition, after.as_ref(), max_bytes)?;
                Ok(Response::Page {
                    entries: page.entries,
                    next: page.next,
                    floor: store.floor(partition),
                })
            })
            .await;
        drop(guard);
        answer
    }

    fn guard_read(&self, epoch: Epoch, key: &Key) -> Result<EpochGuard, Refusal> {
        let guard = self.topology.guard(epoch)?;
        self.must_hold(&guard, guard.topology.partition_of(key))?;
        self.must_have_data()?;
        Ok(guard)
    }

    fn must_replicate(&self) -> Result<(), Refusal> {
        let lifecycle = self.lifecycle.get();
        if lifecycle.replicates() {
            return Ok(());
        }
        Err(refusal(RefusalCode::NotServing, lifecycle.as_str()))
    }

    /// An earlier life, whose folder is gone, may have settled a later ring than this one goes by:
    /// whoever counts on that must not find a write acknowledged here by the earlier ring.
    fn must_know_its_past(&self) -> Result<(), Refusal> {
        if self.identity.forgot_votes() {
            // not `Recovering`, which is to say: no reads, but writes
            return Err(refusal(
                RefusalCode::NotServing,
                "it lost its folder, and does not know by which rings it went before",
            ));
        }
        Ok(())
    }

    fn must_have_data(&self) -> Result<(), Refusal> {
        if self.identity.needs_refill() {
            return Err(refusal(
                RefusalCode::Recovering,
                "recovering: its data was lost and is being refilled",
            ));
        }
        Ok(())
    }

    fn must_hold(&self, guard: &EpochGuard, partition: PartitionId) -> Result<(), Refusal> {
        if guard.topology.is_replica(partition, &self.node_id) {
            return Ok(());
        }
        Err(not_replica(partition))
    }

    /// Reads that touch many items, away from the threads that serve the network.
    async fn off_thread<F>(&self, read: F) -> Result<Response, Refusal>
    where
        F: FnOnce(&Store) -> Result<Response, StorageError> + Send + 'static,
    {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || read(&store)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(refusal(
                RefusalCode::Storage,
                "reading the store was interrupted",
            )),
        }
    }
}

const SKEWED: &str =
    "the record is stamped more than a day in the future; set the clock of the node that wrote it";

fn not_replica(partition: PartitionId) -> Refusal {
    refusal(
        RefusalCode::NotReplica,
        format!("not a replica of partition {partition}"),
    )
}

/// The records of `keys`, in that order, absent ones left out, until the page is full. A caller
/// asks again for what follows the last key it got. One that is damaged here is left out as well, and
/// noted; others are told another fingerprint of it from then on, so nobody takes it for the same.
fn fetch(store: &Store, keys: &[Key]) -> Result<Response, StorageError> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for key in keys.iter().take(KEYS_MAX) {
        let record = match store.get(key) {
            Err(StorageError::Read { .. }) => None,
            read => read?,
        };
        let Some(record) = record else {
            continue;
        };
        bytes += key.as_str().len() + weight(&record);
        if bytes > PAGE_BYTES_MAX && !entries.is_empty() {
            break;
        }
        entries.push((key.clone(), record));
    }
    Ok(Response::Records { entries })
}

/// Whether an entry fits into one message between nodes, with what goes along.
pub fn fits_frame(key: &Key, record: &Record) -> bool {
    let about = key.as_str().len() + weight(record);
    about <= FRAME_BYTES_MAX / 2 || wire_bytes(record) + FRAME_ROOM <= FRAME_BYTES_MAX as u64
}

/// About how many bytes a record takes in a frame.
pub fn weight(record: &Record) -> usize {
    let values: usize = record
        .siblings
        .iter()
        .map(|s| {
            64 + s
                .value
                .as_ref()
                .map_or(0, ringmaster_shared::version::Value::len)
        })
        .sum();
    values + 64 * record.clock.0.len()
}

/// The lowest keys of a leaf that fit; what is cut off is found in a later round, when the keys
/// before it agree.
fn within_bytes(mut versions: Vec<(Key, u64)>) -> Vec<(Key, u64)> {
    versions.sort_by(|a, b| a.0.cmp(&b.0));
    let mut bytes = 0;
    versions.retain(|(key, _)| {
        bytes += key.as_str().len() + 16;
        bytes <= LEAF_BYTES_MAX
    });
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_never_outgrows_a_frame() {
        let many: Vec<(Key, u64)> = (0..20_000)
            .map(|n| {
                let text = format!("{n:01024}");
                (Key::new(&text).expect("valid"), n)
            })
            .rev()
            .collect();
        let kept = within_bytes(many.clone());
        assert!(kept.len() < many.len() && kept.len() * 1024 <= LEAF_BYTES_MAX);
        assert_eq!(kept[0].1, 0, "the lowest keys come first");
        assert_eq!(within_bytes(many[..10].to_vec()).len(), 10);
    }
}
