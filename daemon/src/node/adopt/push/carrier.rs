//! Brings records into another cluster, each until a write quorum of its replicas there has it,
//! however long that takes, and tells how far it is.
//!
//! Follows that cluster's ring: who answers with a later one is believed, who goes by an earlier one
//! is taught. Bounded in memory by what is under way. Leaves reading to `push`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ringmaster_shared::{
    clock::Hlc,
    id::NodeId,
    key::Key,
    topology::{Access, Topology},
    version::Record,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep},
};

use crate::{
    identity::Route,
    node::{
        SharedNode,
        adopt::{
            plan::Seen,
            scout::{Scout, local},
        },
        seeds::pause,
    },
    replication::{
        frames::{Request, Response},
        peers::{AddressBook, Class, PeerError, Peers},
        replica::weight,
    },
    time::unix_ms,
};

/// Records under way at once.
const UNDER_WAY: usize = 32;
/// Between pages, so that clients of the other cluster come first.
const PAGE_PAUSE: Duration = Duration::from_millis(5);
/// How long one replica has to store one record.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The ring is asked for anew after so many failures of one record.
const REFRESH_AFTER: u32 = 3;
/// Kibibytes of records on their way; a replica that does not answer holds its share until it
/// is given up.
const BUDGET_KIB: usize = 32 * 1024;
/// Epochs one record follows before it counts as trouble.
const MOVES_MAX: u32 = 16;
const SHOW_EVERY: Duration = Duration::from_millis(250);
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Where the members of the other cluster are.
#[derive(Default)]
struct Book(RwLock<BTreeMap<NodeId, String>>);

impl AddressBook for Book {
    fn address_of(&self, node: &NodeId) -> Option<String> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(node).cloned()
    }
}

impl Book {
    /// What members say of themselves beats what the ring remembers of them.
    fn learn(&self, seen: &Seen) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for member in &seen.topology.members {
            known.insert(member.id.clone(), member.address.clone());
        }
        for member in &seen.members {
            known.insert(member.id.clone(), member.address.clone());
        }
    }
}

/// Why a record did not get through at once.
enum Setback {
    /// The other cluster goes by a later epoch, which is known now.
    Moved,
    Trouble(String),
}

pub(super) struct Carrier {
    pub(super) me: NodeId,
    pub(super) route: Route,
    scout: Scout,
    pub(super) peers: Peers,
    book: Arc<Book>,
    topology: Mutex<Arc<Topology>>,
    budget: Arc<Semaphore>,
    pub(super) total: u64,
    progress: Mutex<Progress>,
}

pub(super) struct Progress {
    pushed: u64,
    trouble: Option<String>,
    shown: Option<Instant>,
    logged: Instant,
}

impl Carrier {
    pub(super) fn new(node: &SharedNode, route: &Route, seen: Seen, total: u64) -> Self {
        let peers = Peers::new(local(node));
        peers.set_cluster(route.into.clone());
        let book = Arc::new(Book::default());
        book.learn(&seen);
        peers.set_address_book(book.clone());
        Self {
            me: node.facts.id.clone(),
            route: route.clone(),
            scout: Scout::new(node),
            peers,
            book,
            topology: Mutex::new(Arc::new(seen.topology)),
            budget: Arc::new(Semaphore::new(BUDGET_KIB)),
            total,
            progress: Mutex::new(Progress {
                pushed: 0,
                trouble: None,
                shown: None,
                logged: Instant::now(),
            }),
        }
    }

    /// Returns when all of them are on a write quorum.
    pub(super) async fn push(&self, node: &SharedNode, entries: Vec<(Key, Record)>) {
        self.show(node);
        let mut under_way = stream::iter(entries)
            .map(|(key, record)| self.carry(node, key, record))
            .buffer_unordered(UNDER_WAY);
        while under_way.next().await.is_some() {
            self.progress().pushed += 1;
            self.show(node);
        }
        sleep(PAGE_PAUSE).await;
    }

    /// One record, for as long as it takes.
    async fn carry(&self, node: &SharedNode, key: Key, record: Record) {
        let mut moves = 0;
        let mut attempt = 0;
        loop {
            let why = match self.offer(&key, &record).await {
                Ok(()) => {
                    self.progress().trouble = None;
                    return;
                }
                Err(Setback::Moved) if moves < MOVES_MAX => {
                    moves += 1;
                    continue;
                }
                Err(Setback::Moved) => "the ring changes too often".to_owned(),
                Err(Setback::Trouble(why)) => why,
            };
            self.progress().trouble = Some(why);
            self.show(node);
            moves = 0;
            attempt += 1;
            if u32::is_multiple_of(attempt, REFRESH_AFTER) {
                self.refresh().await;
            }
            sleep(pause(attempt, rand::random())).await;
        }
    }

    /// Asks all replicas to store the record; content with a write quorum. What is still under
    /// way then ends by itself.
    async fn offer(&self, key: &Key, record: &Record) -> Result<(), Setback> {
        let topology = self.topology();
        let need = topology.requirement(topology.partition_of(key), Access::Write);
        let others: Vec<NodeId> = need
            .replicas()
            .into_iter()
            .filter(|id| *id != self.me)
            .collect();
        let (answers, mut answered) = mpsc::channel(others.len().max(1));
        let kib = (weight(record) / 1024 + 1).min(BUDGET_KIB) as u32;
        for id in others {
            let Ok(room) = self.budget.clone().acquire_many_owned(kib).await else {
                return Err(Setback::Trouble("this node is stopping".into()));
            };
            let request = Request::Write {
                key: key.clone(),
                record: record.clone(),
                issued: issued(record, self.comes_back(), unix_ms()),
            };
            let (peers, answers, epoch) = (self.peers.clone(), answers.clone(), topology.epoch);
            tokio::spawn(async move {
                let call = peers.call(&id, Class::Bulk, epoch, request, CALL_TIMEOUT);
                let answer = call.await;
                drop(room);
                // nobody listens once enough have answered
                let _ = answers.send((id, answer)).await;
            });
        }
        drop(answers);
        let mut stored = BTreeSet::new();
        let mut whys = Vec::new();
        while let Some((id, answer)) = answered.recv().await {
            match self.judge(&topology, &id, answer).await {
                Ok(()) => drop(stored.insert(id)),
                Err(Setback::Moved) => return Err(Setback::Moved),
                Err(Setback::Trouble(why)) => whys.push(why),
            }
            if need.is_met(&stored) {
                return Ok(());
            }
        }
        whys.sort();
        if whys.is_empty() {
            whys.push("too few replicas are there".into());
        }
        Err(Setback::Trouble(whys.join("; ")))
    }

    async fn judge(
        &self,
        under: &Topology,
        id: &NodeId,
        answer: Result<Response, PeerError>,
    ) -> Result<(), Setback> {
        let trouble = |why: String| Err(Setback::Trouble(why));
        match answer {
            Ok(Response::Done | Response::Merged { .. }) => Ok(()),
            Ok(Response::EpochBehind { topology }) => {
                if self.take_over(topology) {
                    Err(Setback::Moved)
                } else {
                    trouble(format!("{id}: goes by another ring"))
                }
            }
            Ok(Response::EpochAhead { epoch }) => {
                self.teach(under, id).await;
                trouble(format!("{id}: still at epoch {epoch}"))
            }
            // every replica had agreed to forget what covered it
            Ok(Response::Stale { .. }) if self.comes_back() => Ok(()),
            Ok(Response::Stale { .. }) => {
                trouble(format!("{id}: deleted keys were forgotten there meanwhile"))
            }
            Ok(Response::Refused { reason, .. }) => trouble(format!("{id}: {reason}")),
            Ok(_) => trouble(format!("{id}: gave an answer that makes no sense")),
            Err(error) => trouble(error.to_string()),
        }
    }

    /// It was a member there before.
    pub(super) fn comes_back(&self) -> bool {
        self.route.from == self.route.into
    }

    pub(super) async fn teach(&self, topology: &Topology, id: &NodeId) {
        let request = Request::PushTopology {
            topology: topology.clone(),
        };
        // a replica that did not learn it is asked again with the next attempt
        let call = self
            .peers
            .call(id, Class::Control, 0, request, CALL_TIMEOUT);
        let _ = call.await;
    }

    /// Asks all known members how the ring is now.
    pub(super) async fn refresh(&self) {
        for address in self.addresses() {
            let Ok(seen) = self.scout.look(&address).await else {
                continue;
            };
            if seen.topology.cluster_id == self.route.into {
                self.book.learn(&seen);
                self.take_over(seen.topology);
            }
        }
    }

    /// Whether it is later than what is known.
    pub(super) fn take_over(&self, topology: Topology) -> bool {
        let mut known = self.topology.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = topology.cluster_id == self.route.into
            && topology.is_well_formed()
            && topology.partition_count() == self.route.partition_count;
        // another record may have brought it already; then it is tried again with that
        let later = ours && topology.epoch >= known.epoch;
        if later {
            *known = Arc::new(topology);
        }
        ours
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        let known = self.topology.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Members of the ring first.
    pub(super) fn addresses(&self) -> Vec<String> {
        let topology = self.topology();
        let members = topology.members.iter().filter(|m| m.id != self.me);
        let mut all: Vec<String> = Vec::new();
        let known = members.map(|m| {
            let heard = self.book.address_of(&m.id);
            heard.unwrap_or_else(|| m.address.clone())
        });
        for address in known.chain(self.route.through.iter().cloned()) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    pub(super) fn pushed(&self) -> u64 {
        self.progress().pushed
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        let progress = self.progress.lock();
        progress.unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, node: &SharedNode) {
        self.show_text(node, |progress| {
            told(progress.pushed, self.total, progress.trouble.as_deref())
        });
    }

    /// Tells how far it is, now and then.
    pub(super) fn show_text(&self, node: &SharedNode, text: impl FnOnce(&Progress) -> String) {
        let mut progress = self.progress();
        if progress.shown.is_some_and(|at| at.elapsed() < SHOW_EVERY) {
            return;
        }
        progress.shown = Some(Instant::now());
        let text = text(&progress);
        let due = progress.logged.elapsed() >= LOG_EVERY;
        if due {
            progress.logged = Instant::now();
        }
        drop(progress);
        if due {
            tracing::info!("{text}");
        }
        node.control.update(|facts| facts.waiting_for = Some(text));
    }
}

/// What another cluster never saw cannot have been deleted there: it is as new as this push.
///
/// Of its own former member (one that `comes_back`) a cluster may have deleted, and forgotten, what
/// that one still holds; every acknowledged write of it was handed over when it was removed. The
/// oldest sibling counts: a newer one, or one stamped by a clock that was ahead, must not carry it
/// past the floor.
fn issued(record: &Record, comes_back: bool, now_ms: u64) -> Hlc {
    if comes_back {
        return record.min_hlc();
    }
    Hlc::default().next(record.max_hlc(), now_ms)
}

/// `pushing: 12,300 of about 40,000 records`.
fn told(pushed: u64, total: u64, trouble: Option<&str>) -> String {
    let total = total.max(pushed);
    let how_far = format!(
        "pushing: {} of about {} records",
        thousands(pushed),
        thousands(total)
    );
    match trouble {
        None => how_far,
        Some(why) => format!("{how_far}, held up by {why}"),
    }
}

pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::version::{Actor, Dot, Sibling, Value, VersionVector};

    use super::*;
    use crate::storage::{StorageError, Store, StoreConfig};

    const PARTITIONS: u16 = 4;

    fn open(dir: &std::path::Path) -> Store {
        let config = StoreConfig::for_tests(dir, PARTITIONS);
        Store::open(config).expect("opens").0
    }

    fn written(by: &str, at_ms: u64) -> Record {
        let node = NodeId::new(by).expect("valid");
        let sibling = Sibling {
            dot: Dot {
                actor: Actor { node, epoch: 1 },
                counter: 1,
            },
            hlc: Hlc::from_parts(at_ms, 0),
            value: Some(Value::Raw(vec![1].into())),
        };
        Record::written(&Record::default(), &VersionVector::default(), sibling)
    }

    /// Two versions side by side, the newer one by a clock that was minutes ahead, and a floor
    /// between them.
    #[tokio::test]
    async fn who_comes_back_brings_nothing_past_the_floor_that_is_older_than_it() {
        let (old, new, floor) = (10_000, 400_000, Hlc::from_parts(300_000, 0));
        let both = written("a", old).merge(&written("b", new));
        let dir = tempfile::tempdir().expect("temp dir");
        let store = open(dir.path());
        let key = Key::new("k").expect("valid");
        let floors = vec![(key.partition(PARTITIONS), floor)];
        store.raise_floors(floors).await.expect("raised");

        let at = issued(&both, true, 500_000);
        let answer = store.merge_issued(key.clone(), both.clone(), at).await;
        assert_eq!(answer, Err(StorageError::Stale { floor }));
        assert_eq!(store.get(&key), Ok(None));

        let alone = written("b", new);
        let at = issued(&alone, true, 500_000);
        let answer = store.merge_issued(key.clone(), alone, at).await;
        assert!(answer.is_ok(), "nothing of it is older than the floor");
        // another cluster never saw any of it
        let at = issued(&both, false, 500_000);
        let answer = store.merge_issued(key, both, at).await;
        assert!(answer.is_ok(), "{answer:?}");
    }

    #[test]
    fn progress_is_told_for_people() {
        let cases = [
            (0, 0, None, "pushing: 0 of about 0 records"),
            (
                12_300,
                40_000,
                None,
                "pushing: 12,300 of about 40,000 records",
            ),
            (7, 5, None, "pushing: 7 of about 7 records"),
            (
                999,
                1_000_000,
                Some("a: no answer"),
                "pushing: 999 of about 1,000,000 records, held up by a: no answer",
            ),
        ];
        for (pushed, total, trouble, wants) in cases {
            assert_eq!(told(pushed, total, trouble), wants);
        }
    }
}
