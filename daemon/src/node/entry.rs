//! The way into the cluster: founding one, joining through seeds, coming back to one's own.
//!
//! Promises: a second cluster is never founded by accident, and one cut off midway goes on
//! where it was. What runs afterwards is put together in [`super::start`].

use std::time::Duration;

use ringmaster_shared::{
    event::EventCode,
    id::ClusterId,
    key::PARTITION_COUNT_DEFAULT,
    topology::{RingMember, Topology},
};

use super::{
    SharedNode, adopt,
    seeds::{self, Foreign, Meanwhile, Refused, Welcome},
    start::{on_disk, refill},
};
use crate::{
    cli::Failure,
    config::{Config, seeds::without_self},
    gossip::MemberState,
    identity::{IdentityStore, RememberedMember},
    lifecycle::orders::Order,
    replication::peers::Peers,
};

/// How a node gets to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Nothing is known and nobody is named: a new cluster.
    Found,
    /// Through one of these addresses.
    Join(Vec<String>),
    /// It knows its cluster and its ring.
    Return,
}

/// A seed list that names only this node leads nowhere on an empty data dir.
pub fn check_seeds(config: &Config, identity: &IdentityStore) -> Result<(), Failure> {
    if identity.adopting().is_some() {
        return Ok(()); // it knows where to go
    }
    if config.adopt && config.other_seeds().is_empty() {
        return Err(Failure::Usage(
            "--adopt needs a node of the cluster to join: name it with --seed-node HOST:PORT"
                .into(),
        ));
    }
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

/// `remembered` is written with the cluster id of a joiner, so a node with an id, no topology
/// and nobody remembered can only be a founder that was interrupted.
pub fn way(
    has_topology: bool,
    seeds: Vec<String>,
    remembered: Vec<String>,
    has_cluster: bool,
) -> Way {
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

pub async fn found(node: &SharedNode) -> Result<Vec<MemberState>, Failure> {
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
    take_over(node, topology).await?;
    let message = format!(
        "founded cluster {cluster_id} in {}: no seed was given and the folder held no cluster",
        node.config.data_dir.display()
    );
    node.events
        .info(EventCode::ClusterFounded, Some(&node.facts.id), message);
    Ok(Vec::new())
}

pub async fn join(
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
        // the votes of the life before went with its folder; the other voters are asked
        on_disk(node, IdentityStore::forget_votes).await?;
    }
    let mut remembered = remembered_of(&members, node);
    if remembered.is_empty() {
        remembered.extend(ring_members(&topology, node));
    }
    let id = cluster_id.clone();
    // with the same write, when nothing has to be made ready before this node goes by it
    let ring = (!topology.contains(&node.facts.id)).then(|| topology.clone());
    on_disk(node, move |identity| {
        identity.enter_cluster(id, remembered, ring)
    })
    .await?;
    peers.set_cluster(cluster_id.clone());
    take_over(node, topology).await?;
    let message = format!("joined cluster {cluster_id} through {seed}");
    node.events
        .info(EventCode::ClusterJoined, Some(&node.facts.id), message);
    Ok(members)
}

pub fn come_back(node: &SharedNode) -> Result<Vec<MemberState>, Failure> {
    let Some(topology) = node.topology.current() else {
        let why = "the identity file names a ring that cannot be used; start with a seed on an empty --data-dir";
        return Err(Failure::Failed(why.into()));
    };
    if node.identity.cluster_id().as_ref() != Some(&topology.cluster_id) {
        let why = "the identity file names one cluster and the ring of another";
        return Err(Failure::Failed(why.into()));
    }
    tracing::info!(
        "coming back to cluster {} at ring epoch {}, members: {}",
        topology.cluster_id,
        topology.epoch,
        topology.members.len()
    );
    Ok(Vec::new())
}

/// A node that comes back serves at once; its seeds are told beside that, and one of another
/// cluster is a mistake that must not go unnoticed.
pub fn spawn_greeting(node: &SharedNode, seeds: Vec<String>) {
    if seeds.is_empty() {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = node.stop.cancelled() => {}
            () = greet(&node, seeds) => {}
        }
    });
}

async fn greet(node: &SharedNode, mut seeds: Vec<String>) {
    while !seeds.is_empty() {
        match seeds::knock(node, &seeds, Meanwhile::Serves).await {
            Ok(welcome) => return greeted(node, welcome).await,
            Err(Refused::Foreign(foreign)) if is_left_behind(node, &foreign) => {
                seeds.retain(|seed| *seed != foreign.seed);
            }
            Err(Refused::Foreign(foreign)) if node.config.adopt => {
                let order = adopt::order_by_flag(node, &foreign.seed).await;
                let _ = node.orders.send(order).await;
                return;
            }
            Err(refused) => {
                let failure = Failure::from(refused);
                let message = failure.to_string();
                node.events
                    .error(EventCode::SeedRefused, Some(&node.facts.id), message);
                let _ = node.orders.send(Order::Fail(failure)).await;
                return;
            }
        }
    }
}

async fn greeted(node: &SharedNode, welcome: Welcome) {
    if let Err(failure) = take_over(node, welcome.topology).await {
        tracing::warn!("{failure}");
    }
    let contact = async {
        let gossip = node.gossip.get()?;
        gossip.contact(&welcome.seed).await.ok()
    };
    // gossip tries again by itself
    let _ = tokio::time::timeout(Duration::from_secs(20), contact).await;
}

/// A seed of the cluster this node left: its flags are older than the order to adopt.
fn is_left_behind(node: &SharedNode, foreign: &Foreign) -> bool {
    let left = node.identity.given_up();
    let is = left.is_some() && foreign.theirs == left;
    if is {
        let message = format!(
            "the seed {} still belongs to the cluster this node has left; name another, or let it adopt as well",
            foreign.seed
        );
        node.events
            .warn(EventCode::SeedRefused, Some(&node.facts.id), message);
    }
    is
}

async fn take_over(node: &SharedNode, topology: Topology) -> Result<(), Failure> {
    let adopted = node.topology.adopt(topology).await;
    adopted
        .map(|_| ())
        .map_err(|e| Failure::Failed(format!("cannot take over the ring: {e:#}")))
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

pub fn ring_members(topology: &Topology, node: &SharedNode) -> Vec<RememberedMember> {
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

pub fn addresses(members: &[RememberedMember]) -> Vec<String> {
    members.iter().map(|m| m.address.clone()).collect()
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
