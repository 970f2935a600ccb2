//! Brings back records that were found damaged here, by asking the other replicas for each by name.
//!
//! Comparisons would find most of them, for a damaged record shows as another one. Those of partitions
//! on the move are not compared, though, and there a damaged record keeps its node from being
//! scanned, and so the change from its end.
//!
//! Promises: whatever is taken in is joined, or stands for the damaged record by the rule of the
//! store (it is that very record, or has seen all that the record had). So nothing that was
//! acknowledged is let go for the sake of going on: what no replica gives back stays damaged, is an
//! error to whoever reads it, and is told. Leaves finding damage to whoever reads.

use std::{collections::BTreeSet, time::Duration};

use ringmaster_shared::{id::NodeId, key::Key, topology::Topology, version::Record};

use crate::{
    replication::{
        frames::{Request, Response},
        settings::Traffic,
        site::Site,
    },
    storage::StorageError,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Records asked for in one round; what is beyond waits for the next.
const KEYS_MAX: usize = 1000;
/// Between two of them, so that this never crowds out clients.
const PAUSE: Duration = Duration::from_millis(2);

/// Asks for what is damaged here in partitions that this node holds.
pub(super) async fn mend(site: &Site, topology: &Topology) {
    let store = &site.replica.store;
    if store.damaged() == 0 {
        return;
    }
    // who did not answer once is not waited for again
    let mut silent = BTreeSet::new();
    let mut left: Option<(Key, usize, String)> = None;
    let mut mended = 0_usize;
    for key in store.damaged_keys(KEYS_MAX) {
        if !topology.is_replica(topology.partition_of(&key), site.me()) {
            continue;
        }
        match one(site, topology, &key, &mut silent).await {
            Ok(()) => mended += 1,
            Err(why) => left.get_or_insert((key, 0, why)).1 += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
    if mended > 0 {
        tracing::info!(
            records = mended,
            "damaged records were brought back from other replicas"
        );
    }
    if let Some((key, count, why)) = left {
        site.tell_not_mended(&key, count, &why);
    }
}

/// Tries what the others hold together, which knows the most, and then what each of them holds, which
/// may be the very record.
async fn one(
    site: &Site,
    topology: &Topology,
    key: &Key,
    silent: &mut BTreeSet<NodeId>,
) -> Result<(), String> {
    // before anything is read
    let issued = site.issued();
    let mut others = topology.all_replicas(topology.partition_of(key));
    others.retain(|id| id != site.me());
    if others.is_empty() {
        return Err("there is no other replica".to_owned());
    }
    let mut found: Vec<Record> = Vec::new();
    let mut said = Vec::new();
    for id in others {
        if silent.contains(&id) || !site.is_reachable(&id) {
            said.push(format!("{id} is not reachable"));
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
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(said.join(", "))
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
