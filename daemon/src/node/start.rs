//! From an open port to a running member: store, cluster, gossip, coordinator.

use std::{net::UdpSocket, sync::Arc};

use ringmaster_shared::{
    event::EventCode,
    id::{ClusterId, Generation},
    key::PARTITION_COUNT_DEFAULT,
};

use super::{
    SharedNode,
    address_book::Addresses,
    adopt::{self, Course},
    bind, departure,
    entry::{self, Entered, Way, addresses, ring_members},
    watchers,
};
use crate::{
    cli::Failure,
    gossip::{GossipHandle, GossipParts, MemberState, claim},
    identity::{Adopting, IdentityStore},
    lifecycle::facts::Phase,
    replication::{
        clock::HybridClock,
        coordinator::{Coordinator, CoordinatorParts},
        peers::{LocalPeer, Peers},
        server::PeerServer,
        settings::RepairSettings,
        transfer::forget_leftovers,
    },
    storage::{Store, StoreConfig},
    time::unix_ms,
    topology::DriverParts,
};

/// Folder of the engine inside the data dir.
pub const STORE_DIR: &str = "store";

const DAY_MS: u64 = 24 * 3600 * 1000;

/// 2026-01-01 UTC. This program did not exist before: a clock that says so is wrong.
const WRITTEN_UNIX_MS: u64 = 1_767_225_600_000;

/// How a start ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    Runs,
    /// A step is done that only a new life can build on.
    Again {
        why: String,
    },
}

pub async fn start(
    node: &SharedNode,
    udp: UdpSocket,
    seeds: Vec<String>,
) -> Result<Started, Failure> {
    node.control.update(|facts| facts.phase = Phase::Starting);
    if let Some(message) = clock_warning(node.facts.generation, unix_ms()) {
        node.events
            .warn(EventCode::ClockSkew, Some(&node.facts.id), message);
    }
    let mut course = adopt::begin(node, seeds).await?;
    departure::refuse(&node.identity)?;
    let starting = "the store to open".to_owned();
    node.control.update(|facts| {
        facts.phase = Phase::Starting;
        facts.waiting_for = Some(starting);
    });
    if let Course::Again { why } = course {
        return Ok(Started::Again { why });
    }
    let store = open_store(node).await?;
    // before the doors open: what is held of the old cluster is nobody's to read
    if let Course::Push(route) = course {
        course = adopt::push(node, &store, route).await?;
    }
    let seeds = match course {
        Course::On { seeds } => seeds,
        Course::Again { why } => return Ok(Started::Again { why }),
        Course::Push(_) => return Err(Failure::Failed("a bug: pushed, and to push".into())),
    };
    let peers = open_doors(node, &store);
    let identity = &node.identity;
    let remembered: Vec<String> = addresses(&identity.remembered());
    let way = entry::way(
        identity.topology().is_some(),
        seeds.clone(),
        remembered.clone(),
        identity.cluster_id().is_some(),
    );
    let members = match &way {
        Way::Found => entry::found(node).await?,
        Way::Join(through) => match entry::join(node, &peers, through).await? {
            Entered::With(members) => members,
            Entered::Again { why } => return Ok(Started::Again { why }),
        },
        Way::Return => entry::come_back(node)?,
    };
    let cluster_id = node
        .identity
        .cluster_id()
        .ok_or_else(|| Failure::Failed("a bug: no cluster after joining".into()))?;
    peers.set_cluster(cluster_id.clone());
    adopt::arrived(node).await?;
    run_parts(node, udp, &seeds, remembered, cluster_id, members)?;
    if way == Way::Return {
        entry::spawn_greeting(node, seeds);
    }
    Ok(Started::Runs)
}

/// Of the ring this node goes by, or of the one it gave up and has the records of.
fn partition_count(node: &SharedNode) -> u16 {
    if let Some(topology) = node.topology.current() {
        return topology.partition_count();
    }
    let adopting = node.identity.adopting();
    let route = adopting.as_ref().and_then(Adopting::route);
    route.map_or(PARTITION_COUNT_DEFAULT, |r| r.partition_count)
}

async fn open_store(node: &SharedNode) -> Result<Store, Failure> {
    let config = StoreConfig {
        dir: node.config.data_dir.join(STORE_DIR),
        partition_count: partition_count(node),
        segment_bytes: node.config.storage.segment_bytes,
        cache_bytes: node.config.storage.cache_bytes,
        hint_bytes_max: node.config.storage.hint_bytes_max,
        reserve_bytes: node.config.storage.reserve_bytes,
        min_free_bytes: node.config.storage.min_free_bytes,
    };
    let dir = config.dir.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(config)).await;
    let (store, report) = opened
        .map_err(|e| Failure::Failed(format!("opening the store failed: {e}")))?
        .map_err(|e| Failure::Failed(e.to_string()))?;
    for aside in &report.set_aside {
        let message = format!("set aside what could not be used: {aside}");
        node.events
            .warn(EventCode::StorageRecovered, Some(&node.facts.id), message);
    }
    if report.replayed > 0 || report.torn_bytes > 0 {
        let message = format!(
            "replayed {} records of the commit log, cut {} bytes of an unfinished one",
            report.replayed, report.torn_bytes
        );
        node.events
            .info(EventCode::StorageRecovered, Some(&node.facts.id), message);
    }
    let settings = repair_settings(node);
    node.topology
        .before_gaining(forget_leftovers(store.clone(), settings));
    if report.lost_data {
        refill(node, "its stored data could not be used").await?;
    } else if report.empty && node.identity.had_store() {
        refill(node, "its store was emptied").await?;
    }
    if report.lost_data || report.empty {
        // the floors went with the rest, and what is late may arrive before the refill; only now,
        // for a store with entries no longer looks like an emptied one
        let count = node.topology.current().map_or(0, |t| t.partition_count());
        let floor = settings.floor_of_the_unknowing(unix_ms());
        let floors = (0..count).map(|p| (p, floor)).collect();
        let raised = store.raise_floors(floors).await;
        raised.map_err(|e| Failure::Failed(e.to_string()))?;
    }
    // in this order: cut anywhere, the next start still knows that the data was lost
    on_disk(node, move |identity| {
        identity.set_had_store()?;
        Ok(Store::mark_in_use(&dir)?)
    })
    .await?;
    // set once: `start` runs once in a life
    let _ = node.store.set(store.clone());
    Ok(store)
}

fn repair_settings(node: &SharedNode) -> RepairSettings {
    RepairSettings {
        tombstone_grace: node.config.storage.tombstone_grace,
        hint_max_age: node.config.storage.hint_max_age,
    }
}

pub async fn refill(node: &SharedNode, why: &str) -> Result<(), Failure> {
    let message = format!("{why}; its data is copied back from the other replicas");
    node.events
        .warn(EventCode::StorageRecovered, Some(&node.facts.id), message);
    on_disk(node, IdentityStore::set_needs_refill).await
}

/// Runs a change of the identity file off the async threads.
pub async fn on_disk(
    node: &SharedNode,
    change: impl FnOnce(&IdentityStore) -> anyhow::Result<()> + Send + 'static,
) -> Result<(), Failure> {
    let identity = node.identity.clone();
    tokio::task::spawn_blocking(move || change(&identity))
        .await
        .map_err(|e| Failure::Failed(format!("writing the identity failed: {e}")))?
        .map_err(|e| Failure::Failed(format!("{e:#}")))
}

/// Other nodes can connect from here on.
fn open_doors(node: &SharedNode, store: &Store) -> Peers {
    let peers = Peers::new(LocalPeer {
        node_id: node.facts.id.clone(),
        generation: node.facts.generation,
    });
    peers.set_address_book(Arc::new(Addresses {
        gossip: node.gossip.clone(),
        topology: node.topology.clone(),
    }));
    if let Some(cluster) = node.identity.cluster_id() {
        peers.set_cluster(cluster);
    }
    let server = PeerServer {
        node_id: node.facts.id.clone(),
        identity: node.identity.clone(),
        secrecy: node.secrecy.clone(),
        events: node.events.clone(),
        lifecycle: node.lifecycle.clone(),
        store: store.clone(),
        topology: node.topology.clone(),
        clock: HybridClock::of_this_node(),
        grace_ms: repair_settings(node).grace_ms(),
        gossip: node.gossip.clone(),
        stop: node.stop.clone(),
    };
    let _ = node.peers.set(peers.clone());
    let _ = node.peer_server.set(Arc::new(server));
    peers
}

fn run_parts(
    node: &SharedNode,
    udp: UdpSocket,
    seeds: &[String],
    mut remembered: Vec<String>,
    cluster_id: ClusterId,
    members: Vec<MemberState>,
) -> Result<(), Failure> {
    bind::empty(&udp).map_err(|e| Failure::Failed(format!("the UDP socket failed: {e}")))?;
    let peers = node
        .peers
        .get()
        .ok_or_else(|| Failure::Failed("a bug: no connections to other nodes".into()))?;
    let store = node
        .store
        .get()
        .ok_or_else(|| Failure::Failed("a bug: the store is not open".into()))?;
    let clock = node
        .peer_server
        .get()
        .map(|server| server.clock.clone())
        .ok_or_else(|| Failure::Failed("a bug: the door to other nodes is not open".into()))?;
    if let Some(topology) = node.topology.current() {
        remembered.extend(addresses(&ring_members(&topology, node)));
    }
    remembered.sort();
    remembered.dedup();
    watchers::update_place(node);
    let gossip = GossipHandle::start(
        GossipParts {
            config: node.config.gossip.clone(),
            cluster_id,
            local: node.member_state(),
            socket: udp,
            seeds: seeds.to_vec(),
            remembered,
            peers: peers.clone(),
            events: node.events.clone(),
            round_trips: node.metrics.gossip.round_trips.clone(),
            secrecy: node.secrecy.clone(),
            stop: node.stop.clone(),
        },
        members,
    );
    let _ = node.gossip.set(gossip.clone());
    node.topology.spawn_driver(DriverParts {
        gossip: gossip.clone(),
        peers: peers.clone(),
        stop: node.stop.clone(),
    });
    let coordinator = Coordinator::start(CoordinatorParts {
        node_id: node.facts.id.clone(),
        identity: node.identity.clone(),
        lifecycle: node.lifecycle.clone(),
        store: store.clone(),
        topology: node.topology.clone(),
        gossip: gossip.clone(),
        peers: peers.clone(),
        events: node.events.clone(),
        clock,
        repair: repair_settings(node),
        stop: node.stop.clone(),
    });
    let _ = node.coordinator.set(coordinator);
    node.control.update(|facts| {
        facts.phase = Phase::Running;
        facts.waiting_for = None;
    });
    watchers::spawn_running(node, &gossip);
    let message = format!(
        "{} runs at {} (version {}, generation {})",
        node.facts.id,
        node.facts.address,
        crate::cli::VERSION,
        node.facts.generation
    );
    node.events
        .info(EventCode::NodeStarted, Some(&node.facts.id), message);
    Ok(())
}

/// What to say at the start when this node's generation is ahead of its clock, as generations never
/// fall: an earlier start was made with a clock far ahead, or the clock is behind now (no battery,
/// time not fetched yet). Who took the second for the first and emptied the folder would lose data
/// for nothing.
fn clock_warning(generation: Generation, unix_ms: u64) -> Option<String> {
    let days = generation.saturating_sub(unix_ms) / DAY_MS;
    if days == 0 {
        return None;
    }
    let behind = "set it right, restart this node and keep its --data-dir";
    if unix_ms < WRITTEN_UNIX_MS {
        return Some(format!(
            "this node's clock is wrong: it says {}, which is before this program was written, and {days} days behind an earlier start of this node: {behind}",
            crate::time::timestamp_of_ms(unix_ms)
        ));
    }
    let ahead = if claim::is_too_far_ahead(generation, unix_ms) {
        "no member believes a start so far ahead, so this node stays alone: only then start it with an empty --data-dir, and the others fill it (where there are none, all it holds would be lost)"
    } else {
        "nothing is to be done (more than a year ahead no member would believe it)"
    };
    Some(format!(
        "an earlier start of this node was made by a clock {days} days ahead of what its clock says now. Look at the clock first. If it is behind now: {behind}. If it is right now and was ahead then: {ahead}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_behind_an_earlier_start_is_told() {
        let now = 1_780_000_000_000;
        let keeps = "keep its --data-dir";
        let empties = "empty --data-dir";
        let cases: [(u64, u64, &[&str], &[&str]); 4] = [
            (now, 2, &["2 days", keeps], &[empties]),
            (now, 400, &["400 days", keeps, "right now", empties], &[]),
            // booted without a battery: whoever empties the folder then loses all for nothing
            (5_000, 20_600, &["1970-01-01", keeps], &[empties]),
            (
                WRITTEN_UNIX_MS - 1,
                9_000,
                &["2025-12-31", keeps],
                &[empties],
            ),
        ];
        for (now, ahead_days, says, says_not) in cases {
            let warning = clock_warning(now + ahead_days * DAY_MS, now).expect("a warning");
            for part in says {
                assert!(warning.contains(part), "{part}: {warning}");
            }
            for part in says_not {
                assert!(!warning.contains(part), "{part}: {warning}");
            }
        }
        assert_eq!(clock_warning(now, now), None);
        assert_eq!(clock_warning(now - DAY_MS, now), None);
    }
}
