//! From an open port to a running member: store, cluster, gossip, coordinator.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use ringmaster_shared::{
    event::EventCode,
    id::ClusterId,
    key::PARTITION_COUNT_DEFAULT,
    topology::{RingMember, Topology},
};

use super::{
    SharedNode,
    address_book::Addresses,
    bind,
    seeds::{self, Meanwhile, Welcome},
    watchers,
};
use crate::{
    cli::Failure,
    config::{Config, seeds::without_self},
    gossip::{GossipHandle, GossipParts, MemberState},
    identity::{IdentityStore, RememberedMember},
    lifecycle::{facts::Phase, orders::Order},
    replication::{
        coordinator::{Coordinator, CoordinatorParts},
        peers::{LocalPeer, Peers},
        server::PeerServer,
    },
    storage::{Store, StoreConfig},
    topology::DriverParts,
};

/// Folder of the engine inside the data dir.
const STORE_DIR: &str = "store";

/// How a node gets to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Nothing is known and nobody is named: a new cluster.
    Found,
    /// Through one of these addresses.
    Join(Vec<String>),
    /// It knows its cluster and its ring.
    Return,
}

/// A seed list that names only this node leads nowhere on an empty data dir.
pub fn check_seeds(config: &Config, identity: &IdentityStore) -> Result<(), Failure> {
    let nowhere = !config.seeds.is_empty() && config.other_seeds().is_empty();
    if nowhere && identity.cluster_id().is_none() {
        return Err(Failure::Usage(format!(
            "the only seed {} is this node itself, and {} holds no cluster; name another node, or no seed to found a new cluster",
            config.seeds.join(", "),
            config.data_dir.display()
        )));
    }
    Ok(())
}

/// The configured seeds, unless an order names others.
pub fn seeds_to_use(node: &SharedNode, ordered: Option<Vec<String>>) -> Vec<String> {
    let config = &node.config;
    let configured = config.other_seeds();
    let Some(ordered) = ordered else {
        return configured;
    };
    let ordered = without_self(&ordered, &config.advertise, config.bind, config.port);
    // a node that was to join must not found a second cluster because of a restart procedure
    if ordered.is_empty() && !configured.is_empty() && node.identity.topology().is_none() {
        tracing::warn!("told to start without seeds, but this node never joined; using its own");
        return configured;
    }
    ordered
}

/// `remembered` is written before the cluster id of a joiner, so a node with an id, no topology
/// and nobody remembered can only be a founder that was interrupted.
fn way(has_topology: bool, seeds: Vec<String>, remembered: Vec<String>, has_cluster: bool) -> Way {
    if has_topology {
        return Way::Return;
    }
    let mut through = seeds;
    if has_cluster {
        for address in remembered {
            if !through.contains(&address) {
                through.push(address);
            }
        }
    }
    if through.is_empty() {
        Way::Found
    } else {
        Way::Join(through)
    }
}

pub async fn start(node: &SharedNode, udp: UdpSocket, seeds: Vec<String>) -> Result<(), Failure> {
    let starting = "the store to open".to_owned();
    node.control.update(|facts| {
        facts.phase = Phase::Starting;
        facts.waiting_for = Some(starting);
    });
    let store = open_store(node).await?;
    let peers = open_doors(node, &store);
    let identity = &node.identity;
    let remembered: Vec<String> = addresses(&identity.remembered());
    let way = way(
        identity.topology().is_some(),
        seeds.clone(),
        remembered.clone(),
        identity.cluster_id().is_some(),
    );
    let members = match &way {
        Way::Found => found(node).await?,
        Way::Join(through) => join(node, &peers, through).await?,
        Way::Return => come_back(node)?,
    };
    let cluster_id = node
        .identity
        .cluster_id()
        .ok_or_else(|| Failure::Failed("a bug: no cluster after joining".into()))?;
    peers.set_cluster(cluster_id.clone());
    run_parts(node, udp, &seeds, remembered, cluster_id, members)?;
    if way == Way::Return {
        spawn_greeting(node, seeds);
    }
    Ok(())
}

async fn open_store(node: &SharedNode) -> Result<Store, Failure> {
    let config = StoreConfig {
        dir: node.config.data_dir.join(STORE_DIR),
        partition_count: node
            .topology
            .current()
            .map_or(PARTITION_COUNT_DEFAULT, |t| t.partition_count()),
        segment_bytes: node.config.storage.segment_bytes,
        cache_bytes: node.config.storage.cache_bytes,
        hint_bytes_max: node.config.storage.hint_bytes_max,
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
    if report.lost_data {
        refill(node, "its stored data could not be used").await?;
    } else if report.empty && node.identity.had_store() {
        refill(node, "its store was emptied").await?;
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

async fn refill(node: &SharedNode, why: &str) -> Result<(), Failure> {
    let message = format!("{why}; its data is copied back from the other replicas");
    node.events
        .warn(EventCode::StorageRecovered, Some(&node.facts.id), message);
    on_disk(node, |identity| identity.set_needs_refill(true)).await
}

/// Runs a change of the identity file off the async threads.
async fn on_disk(
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
        lifecycle: node.lifecycle.clone(),
        store: store.clone(),
        topology: node.topology.clone(),
        gossip: node.gossip.clone(),
        stop: node.stop.clone(),
    };
    let _ = node.peers.set(peers.clone());
    let _ = node.peer_server.set(Arc::new(server));
    peers
}

async fn found(node: &SharedNode) -> Result<Vec<MemberState>, Failure> {
    let text = uuid::Uuid::new_v4().hyphenated().to_string();
    let cluster_id = ClusterId::new(&text).map_err(|e| Failure::Failed(e.to_string()))?;
    let founder = RingMember {
        id: node.facts.id.clone(),
        address: node.facts.address.clone(),
        zone: node.facts.zone.clone(),
    };
    let topology = Topology::founded(
        cluster_id.clone(),
        founder,
        node.config.replication_factor,
        PARTITION_COUNT_DEFAULT,
    );
    let id = cluster_id.clone();
    on_disk(node, move |identity| identity.set_cluster(id)).await?;
    adopt(node, topology).await?;
    let message = format!(
        "founded cluster {cluster_id} in {}: no seed was given and the folder held no cluster",
        node.config.data_dir.display()
    );
    node.events
        .info(EventCode::ClusterFounded, Some(&node.facts.id), message);
    Ok(Vec::new())
}

async fn adopt(node: &SharedNode, topology: Topology) -> Result<(), Failure> {
    let adopted = node.topology.adopt(topology).await;
    adopted
        .map(|_| ())
        .map_err(|e| Failure::Failed(format!("cannot take over the ring: {e:#}")))
}

async fn join(
    node: &SharedNode,
    peers: &Peers,
    through: &[String],
) -> Result<Vec<MemberState>, Failure> {
    let waits = format!("a seed to answer: {}", through.join(", "));
    node.control.update(|facts| facts.waiting_for = Some(waits));
    let Welcome {
        seed,
        cluster_id,
        topology,
        members,
    } = seeds::knock(node, through, Meanwhile::Waits).await?;
    if topology.contains(&node.facts.id) {
        let why = format!(
            "{} is a member of the ring already, but {} holds none of its data",
            node.facts.id,
            node.config.data_dir.display()
        );
        refill(node, &why).await?;
    }
    let mut remembered = remembered_of(&members, node);
    if remembered.is_empty() {
        remembered.extend(ring_members(&topology, node));
    }
    let id = cluster_id.clone();
    on_disk(node, move |identity| {
        identity.remember(remembered)?;
        identity.set_cluster(id)
    })
    .await?;
    peers.set_cluster(cluster_id.clone());
    adopt(node, topology).await?;
    let message = format!("joined cluster {cluster_id} through {seed}");
    node.events
        .info(EventCode::ClusterJoined, Some(&node.facts.id), message);
    Ok(members)
}

fn remembered_of(members: &[MemberState], node: &SharedNode) -> Vec<RememberedMember> {
    members
        .iter()
        .filter(|m| m.id != node.facts.id)
        .map(|m| RememberedMember {
            id: m.id.clone(),
            address: m.address.clone(),
        })
        .collect()
}

fn ring_members(topology: &Topology, node: &SharedNode) -> Vec<RememberedMember> {
    topology
        .members
        .iter()
        .filter(|m| m.id != node.facts.id)
        .map(|m| RememberedMember {
            id: m.id.clone(),
            address: m.address.clone(),
        })
        .collect()
}

fn addresses(members: &[RememberedMember]) -> Vec<String> {
    members.iter().map(|m| m.address.clone()).collect()
}

fn come_back(node: &SharedNode) -> Result<Vec<MemberState>, Failure> {
    let Some(topology) = node.topology.current() else {
        let why = "the identity file names a ring that cannot be used; start with a seed on an empty --data-dir";
        return Err(Failure::Failed(why.into()));
    };
    if node.identity.cluster_id().as_ref() != Some(&topology.cluster_id) {
        let why = "the identity file names one cluster and the ring of another";
        return Err(Failure::Failed(why.into()));
    }
    tracing::info!(
        "coming back to cluster {} at ring epoch {} with {} members",
        topology.cluster_id,
        topology.epoch,
        topology.members.len()
    );
    Ok(Vec::new())
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

/// A node that comes back serves at once; its seeds are told beside that, and one of another
/// cluster is a mistake that must not go unnoticed.
fn spawn_greeting(node: &SharedNode, seeds: Vec<String>) {
    if seeds.is_empty() {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        let knocked = tokio::select! {
            () = node.stop.cancelled() => return,
            knocked = seeds::knock(&node, &seeds, Meanwhile::Serves) => knocked,
        };
        match knocked {
            Ok(welcome) => {
                if let Err(failure) = adopt(&node, welcome.topology).await {
                    tracing::warn!("{failure}");
                }
                let contact = async {
                    let gossip = node.gossip.get()?;
                    gossip.contact(&welcome.seed).await.ok()
                };
                // gossip tries again by itself
                let _ = tokio::time::timeout(Duration::from_secs(20), contact).await;
            }
            Err(failure) => {
                let message = failure.to_string();
                node.events
                    .error(EventCode::SeedRefused, Some(&node.facts.id), message);
                let _ = node.orders.send(Order::Fail(failure)).await;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_the_cluster() {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let cases = [
            // topology, seeds, remembered, cluster
            (false, list(&[]), list(&[]), false, Way::Found),
            (
                false,
                list(&["s:1"]),
                list(&[]),
                false,
                Way::Join(list(&["s:1"])),
            ),
            (true, list(&["s:1"]), list(&["r:1"]), true, Way::Return),
            (true, list(&[]), list(&[]), true, Way::Return),
            // cut off while joining
            (
                false,
                list(&[]),
                list(&["r:1"]),
                true,
                Way::Join(list(&["r:1"])),
            ),
            (
                false,
                list(&["s:1"]),
                list(&["r:1", "s:1"]),
                true,
                Way::Join(list(&["s:1", "r:1"])),
            ),
            // cut off while founding
            (false, list(&[]), list(&[]), true, Way::Found),
        ];
        for (topology, seeds, remembered, cluster, wants) in cases {
            let found = way(topology, seeds.clone(), remembered, cluster);
            assert_eq!(found, wants, "{topology} {seeds:?} {cluster}");
        }
    }
}
