//! Brings back records that were found damaged here, by asking the other replicas for each by name.
//!
//! Comparisons would find most of them, for a damaged record shows as another one. Those of partitions
//! on the move are not compared, though, and there a damaged record keeps its node from being
//! scanned, and so the change from its end.
//!
//! Promises: each round goes on where the one before ended, so that those that nobody gives back keep
//! no other from being asked for, and the next comes at once while some come back. Whatever is taken in is joined, or stands for the damaged record by the rule of the
//! store (it is that very record, or has seen all that the record had). So nothing that was
//! acknowledged is let go for the sake of going on: what no replica gives back stays damaged, is an
//! error to whoever reads it, and is told. Leaves finding damage to whoever reads.

use std::{collections::BTreeSet, time::Duration};

use ringmaster_shared::{id::NodeId, key::Key, topology::Topology, version::Record};

use crate::{
    replication::{
        frames::{Request, Response},
        settings::Traffic,
        site::{NotMendedYet, Site},
    },
    storage::StorageError,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Records asked for in one round; what is beyond waits for the next.
const KEYS_MAX: usize = 1000;
/// Between two of them, so that this never crowds out clients.
const PAUSE: Duration = Duration::from_millis(2);

/// How far the rounds are.
pub(super) struct Mending {
    /// Records asked for in one round.
    limit: usize,
    /// The last key asked for; none: it begins with the first.
    after: Option<Key>,
}

impl Default for Mending {
    fn default() -> Self {
        Self::of(KEYS_MAX)
    }
}

/// Why nobody gave a record back.
struct NotMended {
    why: String,
    /// A replica that may have it was not to be had.
    away: bool,
}

impl From<String> for NotMended {
    fn from(why: String) -> Self {
        Self { why, away: true }
    }
}

impl Mending {
    pub fn of(limit: usize) -> Self {
        Self { limit, after: None }
    }

    /// Asks for what is damaged here in partitions that this node holds. `true`: some came back, and
    /// there are more.
    pub async fn round(&mut self, site: &Site, topology: &Topology) -> bool {
        let store = &site.replica.store;
        let before = store.damaged();
        if before == 0 {
            return false;
        }
        // who did not answer once is not waited for again
        let mut silent = BTreeSet::new();
        let mut left: Option<NotMendedYet> = None;
        let mut mended = 0_usize;
        for key in self.next(site, topology) {
            match one(site, topology, &key, &mut silent).await {
                Ok(()) => mended += 1,
                Err(NotMended { why, away }) => {
                    let left = left.get_or_insert_with(|| NotMendedYet::new(key, why));
                    if away {
                        left.waiting += 1;
                    } else {
                        left.nowhere += 1;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        if mended > 0 {
            tracing::info!(
                records = mended,
                "damaged records were brought back from other replicas"
            );
        }
        if let Some(left) = left {
            site.tell_not_mended(&left);
        }
        // fewer than before, lest one that is noted and not there any more be asked for without end
        mended > 0 && (1..before).contains(&store.damaged())
    }

    /// The next that are to be asked for; after the last come the first.
    fn next(&mut self, site: &Site, topology: &Topology) -> Vec<Key> {
        let held = |key: &Key| topology.is_replica(topology.partition_of(key), site.me());
        let limit = self.limit;
        let read = |after| site.replica.store.damaged_keys(after, limit, held);
        let after = self.after.take();
        let mut keys = read(after.as_ref());
        if keys.is_empty() && after.is_some() {
            keys = read(None);
        }
        self.after = keys.last().filter(|_| keys.len() == limit).cloned();
        keys
    }
}

/// Tries what the others hold together, which knows the most, and then what each of them holds, which
/// may be the very record.
async fn one(
    site: &Site,
    topology: &Topology,
    key: &Key,
    silent: &mut BTreeSet<NodeId>,
) -> Result<(), NotMended> {
    // before anything is read
    let issued = site.issued();
    let mut others = topology.all_replicas(topology.partition_of(key));
    others.retain(|id| id != site.me());
    if others.is_empty() {
        return Err(NotMended {
            why: "there is no other replica".to_owned(),
            away: false,
        });
    }
    let mut away = false;
    let mut found: Vec<Record> = Vec::new();
    let mut said = Vec::new();
    for id in others {
        if silent.contains(&id) || !site.is_reachable(&id) {
            said.push(format!("{id} is not reachable"));
            away = true;
            continue;
        }
        match fetch(site, topology, &id, key).await {
            Ok(Some(record)) => {
                said.push(format!("{id} has only a part of it"));
                found.push(record);
            }
            Ok(None) => said.push(format!("{id} does not return it")),
            Err(why) => {
                said.push(format!("{id}: {why}"));
                silent.insert(id);
                away = true;
            }
        }
    }
    let all = found.iter().fold(Record::default(), |all, r| all.merge(r));
    for record in std::iter::once(all).chain(found) {
        let store = &site.replica.store;
        let merged = store.merge_issued(key.clone(), record, issued).await;
        match merged {
            Ok(_) => return Ok(()),
            Err(StorageError::Read { .. }) => {}
            Err(error) => return Err(error.to_string().into()),
        }
    }
    let why = said.join(", ");
    Err(NotMended { why, away })
}

async fn fetch(
    site: &Site,
    topology: &Topology,
    from: &NodeId,
    key: &Key,
) -> Result<Option<Record>, String> {
    let request = Request::FetchRecords {
        keys: vec![key.clone()],
    };
    let mut traffic = Traffic::default();
    let asked = site.ask_for_repair(from, topology.epoch, request, CALL_TIMEOUT, &mut traffic);
    match asked.await {
        Ok(Response::Records { entries }) => {
            let mut records = entries.into_iter().filter(|(k, _)| k == key);
            let record = records.next().map(|(_, record)| record);
            Ok(record.filter(|r| !site.is_absurd(from, r.max_hlc())))
        }
        Ok(_) => Err("answered something else than was asked".to_owned()),
        Err(error) => Err(error.why()),
    }
}
