//! One comparison with one peer: from the roots down to the records.
//!
//! Every message is asked with the epoch the comparison began in and merged with the stamp it was
//! issued at, so that nothing read here before a deleted key was forgotten comes in after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringmaster_shared::{
    clock::Hlc,
    id::{Epoch, NodeId, PartitionId},
    key::Key,
    topology::Topology,
    version::Record,
};

use tokio::time::Instant;

use crate::{
    replication::{
        frames::{Request, Response},
        hints::parts,
        replica::fits_frame,
        settings::Traffic,
        site::{AskError, Site},
    },
    storage::{BRANCHES, StorageError, Store},
};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that partitions may take which then fail, before the rest waits for the next round.
const WASTED_MAX: Duration = Duration::from_secs(20);
/// Records asked for at once.
const FETCH_KEYS: usize = 128;
/// Leaves whose versions are asked for at once; each such question reads the partition's heads
/// once, here and there.
const LEAVES_AT_ONCE: usize = 256;
/// Pause between messages that carry records.
const PAUSE: Duration = Duration::from_millis(5);
const NOT_ASKED: &str = "answered something else than was asked";

/// What one round moved.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    /// In which something was moved.
    pub partitions: usize,
    pub pulled: usize,
    pub pushed: usize,
    pub traffic: Traffic,
}

pub(super) struct Comparison<'a> {
    site: &'a Site,
    peer: &'a NodeId,
    epoch: Epoch,
    issued: Hlc,
    pub tally: Tally,
    /// A record that could not be stored, here or there, or read; the others go on.
    unreadable: Option<String>,
    /// Found without a difference, at once or after the exchange.
    pub clean: BTreeSet<PartitionId>,
}

impl<'a> Comparison<'a> {
    pub fn new(site: &'a Site, peer: &'a NodeId, epoch: Epoch, issued: Hlc) -> Self {
        Self {
            site,
            peer,
            epoch,
            issued,
            tally: Tally::default(),
            unreadable: None,
            clean: BTreeSet::new(),
        }
    }

    /// Compares these partitions, in this order, and exchanges what differs.
    pub async fn run(&mut self, partitions: &[PartitionId]) -> Result<(), String> {
        let differing = self.roots(partitions).await?;
        let (mut trouble, mut wasted) = (None, Duration::ZERO);
        for partition in &differing {
            let (pulled, pushed) = (self.tally.pulled, self.tally.pushed);
            let began = Instant::now();
            if let Err(why) = self.partition(*partition).await {
                // one that cannot be compared must not keep the others from it
                wasted += began.elapsed();
                trouble = Some(why);
                if wasted > WASTED_MAX || !self.is_current() {
                    break;
                }
            }
            if (pulled, pushed) != (self.tally.pulled, self.tally.pushed) {
                self.tally.partitions += 1;
            }
        }
        if !differing.is_empty() {
            self.roots(&differing).await?;
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Whether this node still goes by the epoch of the comparison.
    fn is_current(&self) -> bool {
        let now = self.site.replica.topology.current();
        now.is_some_and(|topology| topology.epoch == self.epoch)
    }

    /// Those with different roots; the others are clean.
    async fn roots(&mut self, partitions: &[PartitionId]) -> Result<Vec<PartitionId>, String> {
        let request = Request::DigestRoots {
            partitions: partitions.to_vec(),
        };
        let Response::Roots { roots: theirs } = self.ask(request).await? else {
            return Err(NOT_ASKED.to_owned());
        };
        let wanted = partitions.to_vec();
        let first = partitions.first().copied().unwrap_or_default();
        let ours: Vec<u64> = off_thread(self.site, first, move |store| {
            Ok(wanted.iter().map(|p| store.digest_root(*p)).collect())
        })
        .await?;
        let differing = different(&ours, &theirs);
        let compared = ours.len().min(theirs.len());
        let same = (0..compared).filter(|at| !differing.contains(at));
        self.clean.extend(same.map(|at| partitions[at]));
        Ok(differing.into_iter().map(|at| partitions[at]).collect())
    }

    async fn partition(&mut self, partition: PartitionId) -> Result<(), String> {
        self.unreadable = None;
        let leaves = self.leaves(partition).await?;
        for leaves in leaves.chunks(LEAVES_AT_ONCE) {
            let request = Request::LeavesVersions {
                partition,
                leaves: leaves.to_vec(),
            };
            let Response::Versions { versions: theirs } = self.ask(request).await? else {
                return Err(NOT_ASKED.to_owned());
            };
            let wanted: BTreeSet<u16> = leaves.iter().copied().collect();
            let read = move |store: &Store| store.leaves_versions(partition, &wanted);
            let ours = off_thread(self.site, partition, read).await?;
            let plan = Exchange::of(&ours, theirs);
            self.pull(&plan.pull).await?;
            self.push(partition, &plan).await?;
        }
        self.unreadable.take().map_or(Ok(()), Err)
    }

    /// The leaves of a partition that differ.
    async fn leaves(&mut self, partition: PartitionId) -> Result<Vec<u16>, String> {
        let request = Request::DigestBranches { partition };
        let Response::Leaves { leaves: theirs } = self.ask(request).await? else {
            return Err(NOT_ASKED.to_owned());
        };
        let store = &self.site.replica.store;
        let branches = different(&store.digest_branches(partition), &theirs);
        let branches: Vec<u16> = branches.into_iter().map(|b| b as u16).collect();
        if branches.is_empty() {
            return Ok(Vec::new());
        }
        let request = Request::DigestLeaves {
            partition,
            branches: branches.clone(),
        };
        let Response::Leaves { leaves: theirs } = self.ask(request).await? else {
            return Err(NOT_ASKED.to_owned());
        };
        let mut leaves = Vec::new();
        for (branch, theirs) in branches.into_iter().zip(theirs.chunks(BRANCHES)) {
            let ours = store.digest_leaves(partition, branch);
            let first = branch * BRANCHES as u16;
            let differing = different(&ours, theirs).into_iter();
            leaves.extend(differing.map(|at| first + at as u16));
        }
        Ok(leaves)
    }

    async fn pull(&mut self, keys: &[Key]) -> Result<(), String> {
        for chunk in keys.chunks(FETCH_KEYS) {
            let mut rest = chunk;
            // an answer stops when it is full; what follows its last key is asked for again
            while !rest.is_empty() {
                let request = Request::FetchRecords {
                    keys: rest.to_vec(),
                };
                let Response::Records { mut entries } = self.ask(request).await? else {
                    return Err(NOT_ASKED.to_owned());
                };
                let Some((last, _)) = entries.last() else {
                    break;
                };
                let Some(at) = rest.iter().position(|key| key == last) else {
                    return Err(NOT_ASKED.to_owned());
                };
                rest = &rest[at + 1..];
                entries.retain(|(_, record)| !self.site.is_absurd(self.peer, record.max_hlc()));
                let store = &self.site.replica.store;
                let merged = store.merge_many_issued(entries, self.issued).await;
                match merged {
                    Ok(merged) => self.tally.pulled += merged.changed,
                    Err(error @ StorageError::Read { .. }) => {
                        self.unreadable = Some(error.to_string());
                    }
                    Err(error) => return Err(error.to_string()),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn push(&mut self, partition: PartitionId, plan: &Exchange) -> Result<(), String> {
        for chunk in plan.push.chunks(FETCH_KEYS) {
            let wanted = chunk.to_vec();
            let (mut entries, unreadable) = off_thread(self.site, partition, move |store| {
                let mut entries: Vec<(Key, Record)> = Vec::new();
                let mut unreadable = None;
                for (key, there) in wanted {
                    match store.get(&key) {
                        Ok(Some(record)) if record.fingerprint() != there => {
                            entries.push((key, record));
                        }
                        Ok(_) => {}
                        Err(error @ StorageError::Read { .. }) => unreadable = Some(error),
                        Err(error) => return Err(error),
                    }
                }
                Ok((entries, unreadable))
            })
            .await?;
            if let Some(error) = unreadable {
                // a body that is lost is brought back without a restart
                if self.site.replica.store.damaged() > 0 {
                    self.site.tell_damaged();
                } else {
                    self.site.tell_unreadable(partition, &error);
                }
                self.unreadable = Some(error.to_string());
            }
            entries.retain(|(key, record)| {
                let fits = fits_frame(key, record);
                if !fits {
                    self.site.tell_too_large(key, record);
                }
                fits
            });
            for part in parts(entries) {
                let request = Request::Merge {
                    entries: part,
                    issued: self.issued,
                };
                match self.ask_what_may_fail(request).await {
                    Ok(Response::Merged { changed }) => self.tally.pushed += changed as usize,
                    Ok(_) => return Err(NOT_ASKED.to_owned()),
                    // how many it took it did not say
                    Err(error) if error.is_of_the_store() => self.unreadable = Some(error.why()),
                    Err(error) => return Err(error.why()),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn ask(&mut self, request: Request) -> Result<Response, String> {
        let asked = self.ask_what_may_fail(request).await;
        asked.map_err(|error| error.why())
    }

    async fn ask_what_may_fail(&mut self, request: Request) -> Result<Response, AskError> {
        let traffic = &mut self.tally.traffic;
        let (peer, epoch) = (self.peer, self.epoch);
        let asked = self
            .site
            .ask_for_repair(peer, epoch, request, CALL_TIMEOUT, traffic);
        asked.await
    }
}

/// Of partitions that this node does not hold: those of which `target` and all other replicas
/// have the same digest.
pub(super) async fn same_elsewhere(
    site: &Site,
    topology: &Topology,
    target: &NodeId,
    partitions: &[PartitionId],
) -> Result<Vec<PartitionId>, String> {
    let mut same: BTreeSet<PartitionId> = partitions.iter().copied().collect();
    let request = Request::DigestRoots {
        partitions: partitions.to_vec(),
    };
    let mut others: BTreeMap<NodeId, Vec<PartitionId>> = BTreeMap::new();
    for partition in partitions {
        for id in topology.all_replicas(*partition) {
            if id != *target {
                others.entry(id).or_default().push(*partition);
            }
        }
    }
    let theirs = roots_of(site, topology.epoch, target, request).await?;
    let theirs: BTreeMap<PartitionId, u64> = partitions.iter().copied().zip(theirs).collect();
    for (other, partitions) in others {
        let request = Request::DigestRoots {
            partitions: partitions.clone(),
        };
        let roots = roots_of(site, topology.epoch, &other, request).await?;
        if roots.len() != partitions.len() {
            return Err(NOT_ASKED.to_owned());
        }
        for (partition, root) in partitions.iter().zip(roots) {
            if theirs.get(partition) != Some(&root) {
                same.remove(partition);
            }
        }
    }
    Ok(same.into_iter().collect())
}

async fn roots_of(
    site: &Site,
    epoch: Epoch,
    node: &NodeId,
    request: Request,
) -> Result<Vec<u64>, String> {
    let mut traffic = Traffic::default();
    let asked = site.ask_for_repair(node, epoch, request, CALL_TIMEOUT, &mut traffic);
    match asked.await {
        Ok(Response::Roots { roots }) => Ok(roots),
        Ok(_) => Err(NOT_ASKED.to_owned()),
        Err(error) => Err(error.why()),
    }
}

/// Positions at which two digests differ; what one of them lacks is not compared.
fn different(ours: &[u64], theirs: &[u64]) -> Vec<usize> {
    let pairs = ours.iter().zip(theirs).enumerate();
    pairs
        .filter(|(_, (a, b))| a != b)
        .map(|(at, _)| at)
        .collect()
}

/// What the comparison of some leaves asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Exchange {
    /// The other has it, and we have nothing or something else.
    pull: Vec<Key>,
    /// We have it, and the other nothing or something else: with the fingerprint it had there
    /// (0 for nothing), since after pulling there may be nothing left to push.
    push: Vec<(Key, u64)>,
}

impl Exchange {
    fn of(ours: &[(Key, u64)], theirs: Vec<(Key, u64)>) -> Self {
        let mine: BTreeMap<&Key, u64> = ours.iter().map(|(k, f)| (k, *f)).collect();
        let theirs: BTreeMap<Key, u64> = theirs.into_iter().collect();
        let mut exchange = Self::default();
        for (key, fingerprint) in &mine {
            let there = theirs.get(*key).copied().unwrap_or(0);
            if there != *fingerprint {
                exchange.push.push(((*key).clone(), there));
            }
        }
        for (key, fingerprint) in theirs {
            if mine.get(&key) != Some(&fingerprint) {
                exchange.pull.push(key);
            }
        }
        exchange
    }
}

async fn off_thread<T, F>(site: &Site, partition: PartitionId, read: F) -> Result<T, String>
where
    T: Send + 'static,
    F: FnOnce(&Store) -> Result<T, StorageError> + Send + 'static,
{
    let store = site.replica.store.clone();
    let read = tokio::task::spawn_blocking(move || read(&store)).await;
    read.map_err(|error| error.to_string())?.map_err(|error| {
        site.tell_unreadable(partition, &error);
        error.to_string()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn versions(list: &[(u8, u64)]) -> Vec<(Key, u64)> {
        let mut map = BTreeMap::new();
        for (k, f) in list {
            map.insert(Key::new(&format!("k{k}")).expect("valid"), f + 1);
        }
        map.into_iter().collect()
    }

    proptest! {
        #[test]
        fn exactly_the_difference_is_exchanged(
            ours in prop::collection::vec((0_u8..12, 0_u64..3), 0..12),
            theirs in prop::collection::vec((0_u8..12, 0_u64..3), 0..12),
        ) {
            let (ours, theirs) = (versions(&ours), versions(&theirs));
            let plan = Exchange::of(&ours, theirs.clone());
            for entry in &ours {
                let pushed = plan.push.iter().any(|(k, _)| *k == entry.0);
                prop_assert_eq!(pushed, !theirs.contains(entry));
            }
            for entry in &theirs {
                prop_assert_eq!(plan.pull.contains(&entry.0), !ours.contains(entry));
            }
            let mirrored = Exchange::of(&theirs, ours);
            let pushed: Vec<&Key> = plan.push.iter().map(|(k, _)| k).collect();
            prop_assert_eq!(pushed, mirrored.pull.iter().collect::<Vec<_>>());
        }
    }
}
