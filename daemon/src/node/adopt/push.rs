//! Carrying everything this node holds into another cluster, record by record.
//!
//! Promises: returns only when a write quorum of the other cluster's replicas has synced every
//! record and every hint that lay here, each under the epoch that cluster went by at that
//! moment, so that no change of its ring can pass a record by. Bounded in memory: a page of
//! records at a time. Never gives up: whoever is in the way is named, and asked again. Only what is
//! damaged here can end it, after all the rest was pushed: see `damaged`.
//!
//! The records go as they are. Versions merge there: what both clusters wrote shows as siblings,
//! and what arrives twice changes nothing.

mod carrier;
mod damaged;

use ringmaster_shared::{event::EventCode, key::Key};
use tokio::time::sleep;

use self::{
    carrier::{Carrier, thousands},
    damaged::Damaged,
};
use super::{
    plan::{Seen, Verdict},
    scout::Scout,
    verdict,
};
use crate::{
    cli::Failure,
    identity::Route,
    node::{
        SharedNode,
        seeds::{Told, pause},
        start::on_disk,
    },
    storage::{StorageError, Store},
};

/// Bytes of records in hand at once; a single larger record still goes through.
const PAGE_BYTES: usize = 1024 * 1024;
/// Hints in hand at once.
const PAGE_HINTS: usize = 128;

/// Pushes all of it; returns where members of the other cluster were seen last.
pub async fn everything(
    node: &SharedNode,
    store: &Store,
    route: Route,
) -> Result<Vec<String>, Failure> {
    let (route, seen) = find(node, route).await?;
    let stats = store.stats();
    let hints: u64 = store.hints_owed().values().sum();
    let carrier = Carrier::new(node, &route, seen, stats.keys + stats.tombstones + hints);
    tracing::info!(
        "pushing about {} records into cluster {}",
        thousands(carrier.total),
        route.into
    );
    let mut damaged = Damaged::default();
    for partition in 0..route.partition_count {
        let mut after: Option<Key> = None;
        loop {
            let from = after.take();
            let page = read(store, move |store| {
                store.scan_sound(partition, from.as_ref(), PAGE_BYTES)
            })
            .await?;
            for (key, _) in page.damaged {
                damaged.record(store, key);
            }
            carrier.push(node, page.entries).await;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    hints_too(node, store, &carrier, &mut damaged).await?;
    damaged.settle(node, &carrier).await?;
    let message = format!(
        "pushed {} records into cluster {}",
        thousands(carrier.pushed()),
        route.into
    );
    node.events
        .info(EventCode::ClusterAdopted, Some(&node.facts.id), message);
    Ok(carrier.addresses())
}

/// What is owed to others is data: nobody else may have it.
async fn hints_too(
    node: &SharedNode,
    store: &Store,
    carrier: &Carrier,
    damaged: &mut Damaged,
) -> Result<(), Failure> {
    for target in store.hints_owed().into_keys() {
        let mut after = None;
        loop {
            let (owed, from) = (target.clone(), after.take());
            let page = read(store, move |store| {
                store.hints_after(&owed, from.as_ref(), PAGE_HINTS)
            })
            .await?;
            if page.last.is_none() {
                break;
            }
            after = page.last;
            for (key, _) in page.damaged {
                damaged.hint(store, &target, key);
            }
            let batch = page.found;
            let done = batch.iter().map(|(k, r)| (k.clone(), r.fingerprint()));
            let done = done.collect();
            carrier.push(node, batch).await;
            let removed = store.hints_done(&target, done).await;
            removed.map_err(|e| Failure::Failed(e.to_string()))?;
        }
    }
    Ok(())
}

async fn read<T: Send + 'static>(
    store: &Store,
    look: impl FnOnce(&Store) -> Result<T, StorageError> + Send + 'static,
) -> Result<T, Failure> {
    let store = store.clone();
    let found = tokio::task::spawn_blocking(move || look(&store)).await;
    found
        .map_err(|e| Failure::Failed(format!("reading the store failed: {e}")))?
        .map_err(|e| Failure::Failed(e.to_string()))
}

/// The ring to push into: that of the route, or, when the operator names other seeds with
/// `--adopt`, theirs.
async fn find(node: &SharedNode, mut route: Route) -> Result<(Route, Seen), Failure> {
    let scout = Scout::new(node);
    let mut addresses = Vec::new();
    if node.config.adopt {
        addresses.extend(node.config.other_seeds());
    }
    addresses.extend(route.through.iter().cloned());
    let mut told = Told::default();
    for attempt in 0_u32.. {
        let mut whys = Vec::new();
        for address in &addresses {
            let seen = match scout.look(address).await {
                Ok(seen) => seen,
                Err(why) => {
                    whys.push(why);
                    continue;
                }
            };
            let found = &seen.topology.cluster_id;
            if *found == route.into {
                return Ok((route, seen));
            }
            match verdict(node, &seen) {
                Verdict::Go(other) if node.config.adopt => {
                    tracing::warn!("pushing into cluster {found} now, as ordered");
                    let durable = other.clone();
                    on_disk(node, move |identity| identity.push_elsewhere(durable)).await?;
                    route = other;
                    return Ok((route, seen));
                }
                Verdict::Wait(why) | Verdict::Refuse(why) if node.config.adopt => whys.push(why),
                _ => whys.push(format!(
                    "{address}: belongs to cluster {found}, not to {}",
                    route.into
                )),
            }
        }
        told.tell(node, &whys.join("; "));
        sleep(pause(attempt, rand::random())).await;
    }
    Err(Failure::Failed("a bug: the search was given up".into()))
}
