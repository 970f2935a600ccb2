//! Moves data when ownership moves: fills partitions this node gains, refills a node that lost
//! its data, and forgets partitions it no longer holds.
//!
//! Promises: a partition counts as filled only after complete scans of enough of the old replicas
//! that every acknowledged write is among them; nothing is forgotten while a change is under way;
//! whatever fails is tried again for as long as it is wanted. One task does all of it, one thing
//! after the other: so a partition that is forgotten and gained again at the same moment is
//! filled after it was forgotten, not before.

pub mod refill;
mod scans;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use rand::Rng;
use ringmaster_shared::{
    clock::Hlc,
    event::EventCode,
    id::{Epoch, NodeId, PartitionId},
    quorum::{Group, Requirement},
    topology::{Access, Step, Topology},
};
use tokio::time::Instant;

use self::{refill::Refill, scans::Scans};
use super::{
    frames::{Request, Response},
    peers::Class,
    replica::ReplicaContext,
    settings::RepairSettings,
    site::{AskError, Site},
};
use crate::{
    storage::{StorageError, Store},
    time::unix_ms,
    topology::BeforeGaining,
};

/// Partitions filled at the same time.
const AT_ONCE: usize = 4;
/// Bytes of records in one page.
const PAGE_BYTES: u32 = 1024 * 1024;
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the worker looks by itself.
const TICK: Duration = Duration::from_secs(2);
/// After a failure the next try waits this long, then twice as long, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A finished change rests this long before partitions are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(10);

/// What the topology and the identity ask of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Task {
    Nothing,
    /// Fill the gained partitions of the change that is at this epoch.
    Fill(Epoch, Vec<PartitionId>),
    /// Get back what was lost.
    Refill(Vec<PartitionId>),
    /// No change is under way: partitions held by others may be forgotten.
    Forget(Vec<PartitionId>),
}

fn task(topology: &Topology, me: &NodeId, needs_refill: bool, filled: Epoch) -> Task {
    let held = |p: &PartitionId| topology.is_replica(*p, me);
    let all = 0..topology.partition_count();
    if needs_refill {
        return Task::Refill(all.filter(held).collect());
    }
    match &topology.transition {
        Some(change) if change.step == Step::Filling && filled < topology.epoch => {
            Task::Fill(topology.epoch, topology.gained_by(me))
        }
        None if topology.contains(me) => Task::Forget(all.filter(|p| !held(p)).collect()),
        // a change that asks nothing of this node; or this node is outside the ring, where it
        // holds nothing by right, but may be about to push what it has (adopt)
        _ => Task::Nothing,
    }
}

/// Which replicas of a partition must be scanned.
#[derive(Debug, Clone)]
struct Sources {
    me: NodeId,
    /// The replicas in force.
    group: Requirement,
    /// Whether writes that `me` acknowledged count as lost.
    refill: bool,
    /// Replicas that lost their data as well, and are not asked.
    lost: BTreeSet<NodeId>,
}

impl Sources {
    fn of(topology: &Topology, partition: PartitionId, me: &NodeId, refill: bool) -> Self {
        let group = if refill {
            Requirement {
                groups: vec![Group::majority_of(topology.replicas(partition))],
            }
        } else {
            topology.requirement(partition, Access::Read)
        };
        Self {
            me: me.clone(),
            group,
            refill,
            lost: BTreeSet::new(),
        }
    }

    /// The same, going without what these had.
    fn without(self, lost: &BTreeSet<NodeId>) -> Self {
        Self {
            lost: lost.clone(),
            ..self
        }
    }

    fn candidates(&self) -> Vec<NodeId> {
        let mut ids = self.group.replicas();
        ids.retain(|id| *id != self.me && !self.lost.contains(id));
        ids
    }

    /// Whether these complete scans contain every acknowledged write.
    ///
    /// A new replica needs a read quorum of the old ones. A replica that lost its data was itself
    /// part of write quorums: no quorum may fit into it and the replicas that were not scanned.
    fn suffice(&self, scanned: &BTreeSet<NodeId>) -> bool {
        if !self.refill {
            return self.group.is_met(scanned);
        }
        let unseen: BTreeSet<NodeId> = self
            .group
            .replicas()
            .into_iter()
            .filter(|id| !scanned.contains(id))
            .chain([self.me.clone()])
            .collect();
        !self.group.is_met(&unseen)
    }

    /// Whether there are enough others at all.
    fn possible(&self) -> bool {
        self.suffice(&self.candidates().into_iter().collect())
    }
}

/// Starts the worker; it ends with the site's stop token.
pub fn start(site: Arc<Site>) -> Refill {
    let refill = Refill::default();
    let shown = refill.clone();
    tokio::spawn(async move {
        let stop = site.stop.clone();
        stop.run_until_cancelled(run(&site, &refill)).await;
    });
    shown
}

async fn run(site: &Site, decision: &Refill) {
    let mut topologies = site.replica.topology.watch();
    let mut pause = BACKOFF.0;
    let mut settled_since: Option<(Epoch, Instant)> = None;
    // the same reason is told once, however often it is met
    let mut told = None;
    let scans = Scans::default();
    loop {
        let topology = topologies.borrow_and_update().clone();
        if let Some(topology) = topology {
            match perform(site, &topology, &mut settled_since, decision, &scans).await {
                Ok(()) => {
                    pause = BACKOFF.0;
                    told = None;
                }
                Err(why) => {
                    // right after a start nobody is known yet, and the next attempt succeeds
                    if pause > BACKOFF.0 && told.as_ref() != Some(&why) {
                        tracing::info!("moving data has to wait: {why}");
                        told = Some(why);
                    }
                    let jitter = rand::rng().random_range(0.5..1.0);
                    tokio::select! {
                        () = tokio::time::sleep(pause.mul_f64(jitter)) => {}
                        () = decision.decided() => {}
                        changed = topologies.changed() => if changed.is_err() { return },
                    }
                    pause = (pause * 2).min(BACKOFF.1);
                    continue;
                }
            }
        }
        tokio::select! {
            changed = topologies.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn perform(
    site: &Site,
    topology: &Arc<Topology>,
    settled_since: &mut Option<(Epoch, Instant)>,
    decision: &Refill,
    scans: &Scans,
) -> Result<(), String> {
    let identity = &site.replica.identity;
    let wanted = task(
        topology,
        site.me(),
        identity.needs_refill(),
        identity.filled_epoch(),
    );
    match wanted {
        Task::Nothing => Ok(()),
        Task::Fill(epoch, partitions) => fill(site, topology, (epoch, partitions), scans).await,
        Task::Refill(partitions) => get_back(site, topology, partitions, decision, scans).await,
        Task::Forget(partitions) => {
            let (epoch, since) = settled_since.get_or_insert((topology.epoch, Instant::now()));
            if *epoch != topology.epoch {
                (*epoch, *since) = (topology.epoch, Instant::now());
            }
            if since.elapsed() < FORGET_AFTER {
                return Ok(());
            }
            forget(&site.replica, topology, partitions).await
        }
    }
}

async fn fill(
    site: &Site,
    topology: &Arc<Topology>,
    (epoch, partitions): (Epoch, Vec<PartitionId>),
    scans: &Scans,
) -> Result<(), String> {
    let gained = partitions.len();
    let keys = scan_all(site, topology, partitions, None, scans).await?;
    let identity = site.replica.identity.clone();
    set_off_thread(move || identity.set_filled_epoch(epoch)).await?;
    if gained > 0 {
        let what = format!("{gained} partitions of epoch {epoch} are filled ({keys} keys)");
        site.events.info(EventCode::PartitionsFilled, None, what);
    }
    Ok(())
}

/// Whether what was lost can be known by this ring. Not by one by which it was lost: a write that this
/// node had acknowledged may still be on its way to the others. Who has a later one decided, and when,
/// is in `topology/driver/recalling.rs`.
fn awaited_ring(topology: &Topology, lost_through: Epoch) -> Result<(), String> {
    if topology.epoch > lost_through {
        return Ok(());
    }
    let step = topology.transition.as_ref().map(|change| change.step);
    Err(if step == Some(Step::Dual) {
        "the change of the ring is to end first".to_owned()
    } else {
        "the ring is to be decided anew first".to_owned()
    })
}

async fn get_back(
    site: &Site,
    topology: &Arc<Topology>,
    partitions: Vec<PartitionId>,
    decision: &Refill,
    scans: &Scans,
) -> Result<(), String> {
    let mut lost = decision.lost_too(site);
    let stuck = refill::stuck(topology, site.me(), &partitions, &lost);
    let accepted = decision.observe(stuck.clone());
    if !accepted {
        lost.clear();
        if let Some(stuck) = stuck {
            refill::tell(site, &stuck);
            return Err(stuck.sentence(site.me()));
        }
        awaited_ring(topology, site.replica.identity.lost_through())?;
    }
    let hopeless = partitions
        .iter()
        .map(|p| Sources::of(topology, *p, site.me(), true).without(&lost))
        .filter(|sources| !sources.possible())
        .count();
    let wanted = partitions.len();
    let keys = scan_all(site, topology, partitions, Some(&lost), scans).await?;
    if hopeless > 0 {
        site.events.error(
            EventCode::StorageRecovered,
            None,
            format!(
                "{hopeless} of {wanted} partitions have too few other replicas to get back all \
                 that this node lost: writes that only it had are gone"
            ),
        );
    }
    let identity = site.replica.identity.clone();
    let votes = accepted && refill::needs_my_vote(topology, site.me(), &lost);
    let epoch = topology.epoch;
    set_off_thread(move || {
        anyhow::ensure!(
            identity.set_refilled(epoch)?,
            "the ring moved on from epoch {epoch} while its data was copied back"
        );
        if votes {
            identity.vote_again()?;
        }
        Ok(())
    })
    .await?;
    decision.observe(None);
    let what = format!("the lost data is back: {keys} keys in {wanted} partitions");
    site.events.info(EventCode::PartitionsFilled, None, what);
    Ok(())
}

/// Why a replica was not read to the end.
struct Trouble {
    why: String,
    /// It lies with what was read, and another partition may be read there all the same.
    only_here: bool,
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        let only_here = true;
        Self { why, only_here }
    }
}

impl From<&str> for Trouble {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

/// Scans enough replicas of every partition; returns how many records were new here. To `refill`
/// is to get back what was lost, without those replicas. One that cannot be had yet keeps no other
/// from it, so that all damage of a source is found together.
async fn scan_all(
    site: &Site,
    topology: &Arc<Topology>,
    partitions: Vec<PartitionId>,
    refill: Option<&BTreeSet<NodeId>>,
    scans: &Scans,
) -> Result<usize, String> {
    scans.begin(topology, refill.is_some());
    // who did not answer once is not waited for again in this attempt
    let silent = Mutex::default();
    let silent = &silent;
    let each = partitions.into_iter().map(|partition| async move {
        let enough = scan_enough(site, topology, partition, refill, scans, silent).await;
        enough.map_err(|why| (partition, why))
    });
    let mut done = stream::iter(each).buffer_unordered(AT_ONCE);
    let mut first: Option<(PartitionId, String)> = None;
    while let Some(result) = done.next().await {
        let Err(failed) = result else { continue };
        // the same one each time, whoever fails first
        if first.as_ref().is_none_or(|first| failed.0 < first.0) {
            first = Some(failed);
        }
        let now = site.replica.topology.current();
        if now.is_none_or(|now| now.epoch != topology.epoch) {
            break;
        }
    }
    match first {
        Some((_, why)) => Err(why),
        None => Ok(scans.end()),
    }
}

/// Scans replicas of one partition until they suffice.
async fn scan_enough(
    site: &Site,
    topology: &Arc<Topology>,
    partition: PartitionId,
    refill: Option<&BTreeSet<NodeId>>,
    scans: &Scans,
    silent: &Mutex<BTreeMap<NodeId, String>>,
) -> Result<(), String> {
    let sources = Sources::of(topology, partition, site.me(), refill.is_some());
    let sources = match refill {
        Some(lost) => sources.without(lost),
        None => sources,
    };
    let candidates = sources.candidates();
    let possible = sources.possible();
    let mut scanned = scans.of(partition);
    scanned.retain(|id| candidates.contains(id));
    let mut trouble = BTreeMap::new();
    let silent = || silent.lock().unwrap_or_else(PoisonError::into_inner);
    // spread the load: each partition starts with another replica
    let first = usize::from(partition) % candidates.len().max(1);
    for id in candidates.iter().cycle().skip(first).take(candidates.len()) {
        if possible && sources.suffice(&scanned) {
            break;
        }
        if scanned.contains(id) {
            continue;
        }
        if let Some(why) = silent().get(id) {
            trouble.insert(id.clone(), why.clone());
            continue;
        }
        match scan(site, topology.epoch, partition, id).await {
            Ok(keys) => {
                scans.add(partition, id, keys);
                scanned.insert(id.clone());
            }
            Err(Trouble { why, only_here }) => {
                if !only_here {
                    silent().insert(id.clone(), why.clone());
                }
                trouble.insert(id.clone(), why);
            }
        }
    }
    let enough = if possible {
        sources.suffice(&scanned)
    } else {
        scanned.len() == candidates.len()
    };
    if enough {
        if !possible {
            scan_gaining(site, topology, partition, scans).await;
        }
        return Ok(());
    }
    let why: Vec<String> = trouble
        .iter()
        .map(|(id, why)| format!("{id} ({why})"))
        .collect();
    Err(format!(
        "partition {partition} cannot be filled yet, too few replicas answer: {}",
        why.join(", ")
    ))
}

/// Where the replicas in force cannot give everything back, those that are to come have some of it:
/// what was copied to them, and what was written since.
async fn scan_gaining(site: &Site, topology: &Topology, partition: PartitionId, scans: &Scans) {
    let scanned = scans.of(partition);
    for id in topology.all_replicas(partition) {
        if id == *site.me() || scanned.contains(&id) {
            continue;
        }
        match scan(site, topology.epoch, partition, &id).await {
            Ok(keys) => scans.add(partition, &id, keys),
            Err(Trouble { why, .. }) => {
                tracing::debug!(%id, partition, why, "has nothing to give back");
            }
        }
    }
}

/// Reads one replica's partition to the end.
async fn scan(
    site: &Site,
    epoch: Epoch,
    partition: PartitionId,
    from: &NodeId,
) -> Result<usize, Trouble> {
    if !site.is_reachable(from) {
        return Err("not reachable".into());
    }
    // before anything is read there
    let issued = site.issued();
    let mut highest = Hlc::default();
    let mut after = None;
    let mut keys = 0;
    loop {
        let request = Request::Scan {
            partition,
            after: after.clone(),
            max_bytes: PAGE_BYTES,
        };
        let deadline = Instant::now() + CALL_TIMEOUT;
        let ask = site.ask(from, Class::Bulk, epoch, request, deadline).await;
        let (entries, next) = match ask {
            Ok(Response::Page {
                entries,
                next,
                floor,
            }) => {
                if site.is_absurd(from, floor) {
                    return Err("goes by a floor more than a day in the future".into());
                }
                highest = highest.max(floor);
                (entries, next)
            }
            Ok(_) => return Err("answered something else than was asked".into()),
            Err(AskError::Newer { topology, .. }) => {
                let later = topology.epoch;
                site.adopt(*topology, deadline).await?;
                return Err(format!("the topology moved on to epoch {later}").into());
            }
            Err(error) => {
                return Err(Trouble {
                    only_here: error.is_of_the_store(),
                    why: error.why(),
                });
            }
        };
        if entries
            .iter()
            .any(|(_, record)| site.is_absurd(from, record.max_hlc()))
        {
            return Err("holds versions stamped more than a day in the future".into());
        }
        if !entries.is_empty() {
            let merged = site.replica.store.merge_many_issued(entries, issued).await;
            let merged = merged.map_err(|error| Trouble {
                only_here: matches!(error, StorageError::Read { .. }),
                why: error.to_string(),
            })?;
            keys += merged.changed;
            if merged.stale > 0 {
                return Err("deleted keys were forgotten meanwhile; it begins again".into());
            }
        }
        match next {
            // a page that does not go forward would be read for ever
            Some(next) if after.as_ref().is_some_and(|last| *last >= next) => {
                return Err("sent pages out of order".into());
            }
            Some(next) => after = Some(next),
            None => break,
        }
    }
    if highest > Hlc::default() {
        // also when it counts here already: it may not be on disk
        let raised = site.replica.store.raise_floors(vec![(partition, highest)]);
        raised.await.map_err(|error| error.to_string())?;
    }
    Ok(keys)
}

/// What [`TopologyHandle::before_gaining`](crate::topology::TopologyHandle::before_gaining) does:
/// leftovers may hold what was deleted meanwhile. The floors come first, so that nothing of old
/// slips in after.
pub fn forget_leftovers(store: Store, settings: RepairSettings) -> BeforeGaining {
    Box::new(move |partitions| {
        let store = store.clone();
        Box::pin(async move {
            let floor = settings.floor_of_the_unknowing(unix_ms());
            let floors = partitions.iter().map(|p| (*p, floor)).collect();
            store.raise_floors(floors).await?;
            let mut forgotten = 0_usize;
            for partition in partitions {
                // also when nothing is left: a drop that was begun before may still be in the line,
                // and ends before this one does
                forgotten += usize::from(store.digest_root(partition) != 0);
                store.drop_partition(partition).await?;
            }
            if forgotten > 0 {
                tracing::info!(
                    "forgot what was left of {forgotten} partitions that are gained again"
                );
            }
            Ok(())
        })
    })
}

/// Drops partitions that this node does not hold, as long as the same epoch stands.
pub(super) async fn forget(
    replica: &ReplicaContext,
    topology: &Topology,
    partitions: Vec<PartitionId>,
) -> Result<(), String> {
    let store = replica.store.clone();
    let candidates = tokio::task::spawn_blocking(move || {
        let mut kept = partitions;
        kept.retain(|p| store.digest_root(*p) != 0);
        kept
    })
    .await
    .map_err(|error| error.to_string())?;
    let mut forgotten = 0_usize;
    for partition in candidates {
        let current = replica.topology.current().map(|t| t.epoch);
        if current != Some(topology.epoch) || replica.topology.settled_epoch() < topology.epoch {
            break;
        }
        let dropped = replica.store.drop_partition(partition).await;
        dropped.map_err(|error| error.to_string())?;
        forgotten += 1;
    }
    if forgotten > 0 {
        tracing::info!("dropped the copies of {forgotten} partitions that other nodes hold now");
    }
    Ok(())
}

async fn set_off_thread<F>(set: F) -> Result<(), String>
where
    F: FnOnce() -> anyhow::Result<()> + Send + 'static,
{
    let set = tokio::task::spawn_blocking(set).await;
    set.map_err(|error| error.to_string())?
        .map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests;
