//! The way into the cluster: founding one, joining through seeds, coming back to one's own.
//!
//! Promises: a second cluster is never founded by accident, and one cut off midway goes on
//! where it was. What runs afterwards is put together in [`super::start`].

use std::time::Duration;

use ringmaster_shared::{
    event::EventCode,
    id::{ClusterId, Generation},
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
    gossip::{
        MemberState,
        claim::{self, LIVES_LEASED},
    },
    identity::{IdentityStore, RememberedMember},
    lifecycle::orders::Order,
    replication::peers::Peers,
    time::unix_ms,
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

/// What came of joining.
pub enum Entered {
    /// It is in; these are the members it was told of.
    With(Vec<MemberState>),
    /// Only a later life of this node can be in.
    Again { why: String },
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
) -> Result<Entered, Failure> {
    let waits = format!("a seed to answer: {}", through.join(", "));
    node.control.update(|facts| facts.waiting_for = Some(waits));
    let Welcome {
        seed,
        cluster_id,
        topology,
        members,
    } = seeds::knock(node, through, Meanwhile::Waits).await?;
    if let Some(earlier) = to_outlive(&node.member_state(), &members, unix_ms()) {
        return go_on_above(node, earlier, cluster_id, &topology, &members).await;
    }
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
    let remembered = to_remember(&members, &topology, node);
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
    Ok(Entered::With(members))
}

/// A life of this node that began later than this one, as the members hold, and that is over: its
/// clock was ahead, and the folder that would say so is gone. As long as this node does not begin
/// above it, whatever it says counts for old. One that is alive elsewhere is another process, and
/// this node gives way to it.
fn to_outlive(own: &MemberState, members: &[MemberState], unix_ms: u64) -> Option<Generation> {
    let later = |m: &&MemberState| m.id == own.id && m.generation > own.generation;
    let held = members.iter().find(later)?;
    let is_over = !held.status.is_reachable() || held.address == own.address;
    let next = held.generation.saturating_add(LIVES_LEASED + 1);
    // nobody would believe it, nor was that one believed
    (is_over && !claim::is_too_far_ahead(next, unix_ms)).then_some(held.generation)
}

async fn go_on_above(
    node: &SharedNode,
    earlier: Generation,
    cluster_id: ClusterId,
    topology: &Topology,
    members: &[MemberState],
) -> Result<Entered, Failure> {
    let why = format!(
        "the members hold a life of {} that began {} s later than this one by its clock, and {} has no note of it: the clock was ahead then; to begin above it",
        node.facts.id,
        earlier.saturating_sub(node.facts.generation).div_ceil(1000),
        node.config.data_dir.display()
    );
    node.events
        .warn(EventCode::ClockSkew, Some(&node.facts.id), why.clone());
    let remembered = to_remember(members, topology, node);
    on_disk(node, move |identity| {
        identity.outlive(earlier)?;
        // the next life joins, even if an order named the seeds of this one
        identity.enter_cluster(cluster_id, remembered, None)
    })
    .await?;
    Ok(Entered::Again { why })
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

fn to_remember(
    members: &[MemberState],
    topology: &Topology,
    node: &SharedNode,
) -> Vec<RememberedMember> {
    let others = members.iter().filter(|m| m.id != node.facts.id);
    let mut remembered: Vec<_> = others
        .map(|m| RememberedMember {
            id: m.id.clone(),
            address: m.address.clone(),
        })
        .collect();
    if remembered.is_empty() {
        remembered.extend(ring_members(topology, node));
    }
    remembered
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
    use ringmaster_shared::{
        id::NodeId,
        member::{Lifecycle, Load, MemberStatus, RingStamp},
    };

    use super::*;

    fn state(name: &str, address: &str, status: MemberStatus, generation: u64) -> MemberState {
        MemberState {
            id: NodeId::new(name).expect("valid"),
            address: address.into(),
            zone: "z".into(),
            version: "0".into(),
            status,
            lifecycle: Lifecycle::Joining,
            generation,
            incarnation: 0,
            ring: RingStamp::default(),
            load: Load::default(),
        }
    }

    #[test]
    fn an_earlier_life_that_began_later_is_outlived_when_it_is_over() {
        use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
        const NOW: u64 = 1_780_000_000_000;
        const YEAR: u64 = 365 * 24 * 3600 * 1000;
        let own = state("n3", "h:3", Alive, NOW);
        let later = NOW + 5 * 3600 * 1000;
        let cases = [
            ("n3", "h:3", Dead, later, true),
            ("n3", "h:9", Dead, later, true),
            ("n3", "h:9", Stopped, later, true),
            ("n3", "h:9", Left, later, true),
            ("n3", "h:3", Alive, later, true),
            ("n3", "h:3", Suspected, later, true),
            // somebody else runs by that name
            ("n3", "h:9", Alive, later, false),
            ("n3", "h:9", Suspected, later, false),
            // what is held is this life, or one before it
            ("n3", "h:3", Alive, NOW, false),
            ("n3", "h:3", Dead, NOW, false),
            ("n3", "h:3", Dead, NOW - 1, false),
            ("n2", "h:3", Dead, later, false),
            ("n3", "h:3", Dead, NOW + YEAR - LIVES_LEASED - 1, true),
            ("n3", "h:3", Dead, NOW + YEAR - LIVES_LEASED, false),
        ];
        for (name, address, status, generation, outlives) in cases {
            let members = [
                state("n1", "h:1", Alive, later),
                state(name, address, status, generation),
            ];
            let found = to_outlive(&own, &members, NOW);
            let wants = outlives.then_some(generation);
            assert_eq!(found, wants, "{name} {address} {status:?} {generation}");
        }
    }

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
