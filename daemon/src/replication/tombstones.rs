//! Forgets deleted keys: asks every member about old tombstones, and has the replicas drop those
//! that nothing can need any more.
//!
//! Promises: a tombstone goes only when all replicas held it twice, a grace apart, in one settled
//! epoch, with nobody owing a hint for its key; together with the floor that refuses what could
//! bring the old value back (`docs/protocol.md`, "Forgetting deleted keys"). The work of a round
//! is bounded; who is waited for can be seen. The rules are in `rules`; here is who does it (the
//! first replica of each partition) and how tombstones are found: a walk over the partitions that
//! have any, with a cursor in each, a bounded number of records a round.

mod rules;
#[cfg(test)]
mod simulation;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use rand::Rng;
use ringmaster_shared::{
    clock::Hlc,
    event::{EventCode, Severity},
    id::{Epoch, NodeId, PartitionId},
    key::Key,
    member::Lifecycle,
    topology::Topology,
};
use serde_json::json;
use tokio::time::Instant;

use self::rules::{Answer, Book, Keys, Pending, Spell, Verdict, judge};
use super::{
    anti_entropy::AntiEntropy,
    frames::{Request, Response},
    settings::Traffic,
    site::Site,
};
use crate::{
    breaks::broken,
    storage::{StorageError, TombstonePage},
    time::unix_ms,
};

/// Longest time between two rounds; a short grace makes it shorter.
const TICK_MAX: Duration = Duration::from_secs(5);
/// Longest time for the answers to one check.
const CHECK_MAX: Duration = Duration::from_secs(10);
/// Partitions asked about, and dropped in, in one round.
const PARTITIONS_A_ROUND: usize = 64;
/// Records looked at in one round.
const ROWS_A_ROUND: usize = 20_000;
/// Tombstones in one check.
const KEYS_A_CHECK: usize = 256;
/// A member that holds something else is compared with at most this often.
const NUDGE_EVERY: Duration = Duration::from_secs(5);
const NOT_ASKED: &str = "answered something else than was asked";

/// Cheap handle of the worker: what it waits for.
#[derive(Clone, Default)]
pub struct Collector {
    waiting: Arc<Mutex<(Vec<NodeId>, u64)>>,
}

impl Collector {
    /// Members that tombstones wait for, and how many wait.
    pub fn waiting(&self) -> (Vec<NodeId>, u64) {
        let waiting = self.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, waiting: (Vec<NodeId>, u64)) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = waiting;
    }
}

/// Starts the worker; it ends with the site's stop token.
pub fn start(site: Arc<Site>, repair: AntiEntropy) -> Collector {
    let collector = Collector::default();
    let mut worker = Worker {
        book: Book::new(site.settings.grace_ms()),
        shown: collector.clone(),
        spell: Spell::default(),
        walk: Walk::default(),
        nudged: None,
        without_acks: breaks_rules(),
        repair,
        site,
    };
    tokio::spawn(async move {
        let stop = worker.site.stop.clone();
        stop.run_until_cancelled(worker.run()).await;
    });
    collector
}

/// `gc-without-acks` in `RINGD_BREAK` (debug builds): tombstones are dropped when they are old,
/// without asking anybody, to show that the tests for resurrected keys notice.
fn breaks_rules() -> bool {
    broken("gc-without-acks")
}

/// Where the search for tombstones is.
#[derive(Debug, Default)]
struct Walk {
    /// The partition to begin the next round with.
    from: PartitionId,
    /// Where to go on in a partition that was not finished.
    after: BTreeMap<PartitionId, Key>,
}

struct Worker {
    site: Arc<Site>,
    repair: AntiEntropy,
    book: Book,
    shown: Collector,
    spell: Spell,
    walk: Walk,
    nudged: Option<Instant>,
    without_acks: bool,
}

impl Worker {
    async fn run(&mut self) {
        let tick = (self.site.settings.tombstone_grace / 4).min(TICK_MAX);
        loop {
            let jitter = rand::rng().random_range(0.8..1.2);
            tokio::time::sleep(tick.mul_f64(jitter)).await;
            self.round().await;
            self.show();
        }
    }

    async fn round(&mut self) {
        let Some(topology) = self.site.replica.topology.current() else {
            return;
        };
        self.book.enter(topology.epoch);
        let serves = self.site.replica.lifecycle.get() == Lifecycle::Serving;
        if topology.transition.is_some() || !serves || self.site.replica.identity.needs_refill() {
            return;
        }
        for (partition, pending) in self.book.take_due(unix_ms(), PARTITIONS_A_ROUND) {
            self.finish(&topology, partition, pending).await;
        }
        let found = match self.search(&topology).await {
            Ok(found) => found,
            Err(why) => {
                tracing::debug!("tombstones could not be looked for: {why}");
                return;
            }
        };
        for (partition, keys) in found {
            if self.without_acks {
                let pending = Pending {
                    keys,
                    floor: Hlc::default(),
                    grace_ms: 0,
                };
                self.drop_everywhere(&topology, partition, pending).await;
            } else {
                self.begin(&topology, partition, keys).await;
            }
        }
    }

    /// Old tombstones of partitions that this node is the first replica of.
    async fn search(&mut self, topology: &Topology) -> Result<Vec<(PartitionId, Keys)>, String> {
        let until = self.book.until(unix_ms());
        let count = topology.partition_count();
        let me = self.site.me();
        let mut rows = ROWS_A_ROUND;
        let mut found = Vec::new();
        let first = self.walk.from;
        for step in 0..count {
            let partition = (first + step) % count;
            self.walk.from = partition;
            if rows == 0 || found.len() >= PARTITIONS_A_ROUND {
                break;
            }
            if self.book.is_pending(partition) {
                continue;
            }
            let mine = topology.replicas(partition).first() == Some(me);
            if !mine || self.site.replica.store.tombstones_in(partition) == 0 {
                self.walk.after.remove(&partition);
                self.book.nothing_in(partition);
                continue;
            }
            let after = self.walk.after.remove(&partition);
            let whole = after.is_none();
            let page = match self.page(partition, after, until, rows).await {
                Ok(page) => page,
                // the others need not wait for this one
                Err(StorageError::Read { .. }) => continue,
                Err(other) => return Err(other.to_string()),
            };
            rows = rows.saturating_sub(page.rows);
            if page.found.is_empty() && page.next.is_none() && whole {
                self.book.nothing_in(partition);
            }
            if let Some(next) = page.next {
                self.walk.after.insert(partition, next);
            }
            if !page.found.is_empty() {
                found.push((partition, page.found));
            }
        }
        Ok(found)
    }

    async fn page(
        &self,
        partition: PartitionId,
        after: Option<Key>,
        until: Hlc,
        rows: usize,
    ) -> Result<TombstonePage, StorageError> {
        let store = self.site.replica.store.clone();
        let read = move || store.tombstones(partition, after.as_ref(), until, (rows, KEYS_A_CHECK));
        let page = tokio::task::spawn_blocking(read).await;
        let page = page.unwrap_or(Err(StorageError::Closed));
        if let Err(error) = &page {
            self.site.tell_unreadable(partition, error);
        }
        page
    }

    /// The first check.
    async fn begin(&mut self, topology: &Topology, partition: PartitionId, keys: Keys) {
        // both before anybody is asked
        let (began, started) = (self.site.issued(), Instant::now());
        let verdict = self.check(topology, partition, &keys).await;
        // the wall clock as well: a machine that slept did not count that time
        let slept = unix_ms().saturating_sub(began.unix_ms());
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let asked = keys.len();
        self.book
            .confirm(partition, verdict, began, took.max(slept), asked);
    }

    /// The second check, and the end of those that pass it.
    async fn finish(&mut self, topology: &Topology, partition: PartitionId, pending: Pending) {
        let verdict = self.check(topology, partition, &pending.keys).await;
        self.book.note(partition, &verdict, pending.keys.len());
        if let Some(pending) = pending.confirmed_by(verdict) {
            self.drop_everywhere(topology, partition, pending).await;
        }
    }

    /// Asks all members of the ring.
    async fn check(&mut self, topology: &Topology, partition: PartitionId, keys: &Keys) -> Verdict {
        let replicas = topology.replicas(partition);
        let members = topology.members.iter();
        let asked: BTreeMap<NodeId, bool> = members
            .map(|m| (m.id.clone(), replicas.contains(&m.id)))
            .collect();
        let site = &self.site;
        let reachable = |id: &NodeId| id == site.me() || site.is_reachable(id);
        // when somebody is away the others need not be troubled
        let silent = asked.keys().filter(|id| !reachable(id));
        let silent: Vec<NodeId> = silent.cloned().collect();
        if !silent.is_empty() {
            return Verdict {
                blockers: silent.into_iter().collect(),
                ..Verdict::default()
            };
        }
        let timeout = (site.settings.tombstone_grace / 4).min(CHECK_MAX);
        let asking = asked
            .keys()
            .map(|id| ask(site, topology.epoch, id, partition, keys, timeout));
        let answers = join_all(asking).await;
        let answers = answers.into_iter().flatten().collect();
        let verdict = judge(keys, &asked, &answers);
        self.nudge(&verdict);
        warn_of_clocks(&self.site, &verdict);
        verdict
    }

    /// Members that hold something else get it by a comparison, which would come by itself later.
    fn nudge(&mut self, verdict: &Verdict) {
        if verdict.behind.is_empty() || self.nudged.is_some_and(|at| at.elapsed() < NUDGE_EVERY) {
            return;
        }
        self.nudged = Some(Instant::now());
        for member in &verdict.behind {
            self.repair.soon(member);
        }
    }

    /// A replica that does not get this keeps its tombstone, and hands it back to the others in
    /// a comparison; then all of it is done again.
    async fn drop_everywhere(&self, topology: &Topology, partition: PartitionId, pending: Pending) {
        let timeout = (self.site.settings.tombstone_grace / 4).clamp(CHECK_MAX / 10, CHECK_MAX);
        let replicas = topology.replicas(partition);
        let dropping = replicas.iter().map(|id| {
            let request = Request::TombstoneDrop {
                partition,
                keys: pending.keys.clone(),
                floor: pending.floor,
            };
            async move {
                let mut traffic = Traffic::default();
                let asked =
                    self.site
                        .ask_for_repair(id, topology.epoch, request, timeout, &mut traffic);
                let why = match asked.await {
                    Ok(Response::Done) => return,
                    Ok(_) => NOT_ASKED.to_owned(),
                    Err(error) => error.why(),
                };
                tracing::debug!(node = %id, partition, "did not drop tombstones: {why}");
            }
        });
        join_all(dropping).await;
    }

    fn show(&mut self) {
        let (members, count) = self.book.waiting();
        let grace = self.site.settings.grace_ms();
        if self.spell.observe(!members.is_empty(), unix_ms(), grace) {
            let names: Vec<&str> = members.iter().map(NodeId::as_str).collect();
            let what = format!(
                "{count} deleted keys cannot be forgotten until {} confirms; bring it back, or \
                 remove it from the ring",
                names.join(", ")
            );
            let details = json!({ "waiting_for": names, "tombstones": count });
            let code = EventCode::TombstonesBlocked;
            let subject = members.first();
            self.site
                .events
                .emit(code, Severity::Warning, subject, what, details);
        }
        self.shown.tell((members, count));
    }
}

/// Forgetting waits for that, so it has to be told apart from a member that is away.
fn warn_of_clocks(site: &Site, verdict: &Verdict) {
    let Some((ahead, behind)) = &verdict.apart else {
        return;
    };
    let code = EventCode::ClockSkew;
    if site.worth_reporting(code, Some(ahead)) {
        let what = format!(
            "the clock of {ahead} is more than a day ahead of that of {behind}; deleted keys are not \
             forgotten until both are right: set the clock that is wrong and restart its node"
        );
        site.events.warn(code, Some(ahead), what);
    }
}

/// The longer one is gone by, so nothing is in danger; but it is not what somebody wanted.
fn warn_of_grace(site: &Site, member: &NodeId, theirs_ms: u64) {
    let code = EventCode::SettingsDiffer;
    if !site.worth_reporting(code, Some(member)) {
        return;
    }
    let ours_ms = site.settings.grace_ms();
    let what = format!(
        "{member} goes by storage.tombstone_grace = {theirs_ms} ms, this node by {ours_ms} ms: deleted \
         keys are forgotten by the longest of all members; give all nodes the same"
    );
    let details = json!({
        "setting": "storage.tombstone_grace", "theirs_ms": theirs_ms, "ours_ms": ours_ms,
    });
    site.events
        .emit(code, Severity::Warning, Some(member), what, details);
}

/// One member's answer; `None` when there is none that can be used.
async fn ask(
    site: &Site,
    epoch: Epoch,
    member: &NodeId,
    partition: PartitionId,
    keys: &Keys,
    timeout: Duration,
) -> Option<(NodeId, Answer)> {
    let request = Request::TombstoneCheck {
        partition,
        keys: keys.clone(),
    };
    let mut traffic = Traffic::default();
    let asked = site.ask_for_repair(member, epoch, request, timeout, &mut traffic);
    let why = match asked.await {
        Ok(Response::Tombstones {
            states,
            clock,
            grace_ms,
        }) if !clock.is_absurd(unix_ms()) => {
            if grace_ms != site.settings.grace_ms() {
                warn_of_grace(site, member, grace_ms);
            }
            let answer = Answer {
                states,
                clock,
                grace_ms,
            };
            return Some((member.clone(), answer));
        }
        Ok(_) => NOT_ASKED.to_owned(),
        Err(error) => error.why(),
    };
    tracing::debug!(node = %member, partition, "did not say what it knows of tombstones: {why}");
    None
}
