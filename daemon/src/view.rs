//! What the node shows of itself: the answers of REST and the frames of the feed, built from
//! one look at all parts. Pure; gathering the look is [`crate::node::Node`]'s job.

mod compare;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use ringmaster_shared::{
    api::{
        health::{
            ClusterStatus, GossipHealth, NodeStatus, ReplicationStatus, StatusResponse,
            StorageStatus,
        },
        membership::{MemberInfo, MembersResponse},
        ring::{LocateResponse, LocatedReplica, RingResponse, RingSummary},
    },
    id::{ClusterId, Generation, NodeId},
    key::Key,
    member::{DigestEntry, Lifecycle, Load, MemberStatus, RingStamp, membership_digest},
    quorum::{PartitionCounts, PartitionHealth, partition_health, quorum_size},
    topology::Topology,
};

pub use compare::{same_members, same_status};

use crate::{
    cli,
    gossip::{Doubts, MemberState, MemberView, Members},
    health::{
        Picture, available, findings,
        keeper::{Keeper, KnownRing},
    },
    lifecycle::LifecycleState,
    storage::StoreStats,
};

/// What never changes while the process lives.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    pub id: NodeId,
    pub address: String,
    pub zone: String,
    pub generation: Generation,
    pub start_time: Timestamp,
    /// Shown before any topology is known.
    pub replication_factor: u8,
    /// What starts this node again as it is set up.
    pub start_flags: Vec<String>,
}

/// The engine's figures at one moment.
#[derive(Debug, Clone, Default)]
pub struct StoreLook {
    pub stats: StoreStats,
    pub hints_owed: BTreeMap<NodeId, u64>,
    pub poisoned: Option<String>,
    pub dirty: BTreeMap<NodeId, u64>,
    pub tombstones_wait_for: Vec<NodeId>,
}

/// Everything the views are built from, at one moment.
#[derive(Clone)]
pub struct Look {
    pub now: Timestamp,
    pub cluster_id: Option<ClusterId>,
    pub lifecycle: LifecycleState,
    pub topology: Option<Arc<Topology>>,
    /// `None` while gossip is silent: then this node is all there is.
    pub members: Option<Members>,
    /// `None` before the store is open.
    pub store: Option<StoreLook>,
    /// Requests were turned away within the last seconds.
    pub overloaded: bool,
    /// `None` while gossip is silent.
    pub gossip: Option<GossipHealth>,
    /// Why lost data does not come back before an operator decides, if so.
    pub refill_blocked: Option<String>,
    /// Why this node does not vote on changes of the ring, if so.
    pub votes_forgotten: Option<String>,
}

/// The three answers that make up the live feed.
#[derive(Debug, Clone, PartialEq)]
pub struct Views {
    pub status: StatusResponse,
    pub members: MembersResponse,
    pub ring: Arc<RingResponse>,
    pub counts: PartitionCounts,
    /// Times that pass without any other change are due to be sent again.
    pub aged: bool,
}

impl Look {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.now.as_millisecond()).unwrap_or(0)
    }

    /// All members, this node at least.
    pub fn members(&self, facts: &NodeFacts, stamp: RingStamp) -> Members {
        match &self.members {
            Some(members) if !members.is_empty() => members.clone(),
            _ => Arc::new(vec![alone(facts, self, stamp)]),
        }
    }
}

/// This node as its own only member.
fn alone(facts: &NodeFacts, look: &Look, ring: RingStamp) -> MemberView {
    let stats = look.store.as_ref().map(|s| &s.stats);
    MemberView {
        state: Arc::new(MemberState {
            id: facts.id.clone(),
            address: facts.address.clone(),
            zone: facts.zone.clone(),
            version: cli::VERSION.to_owned(),
            status: MemberStatus::Alive,
            lifecycle: look.lifecycle.lifecycle,
            generation: facts.generation,
            incarnation: 0,
            ring,
            load: Load {
                keys: stats.map_or(0, |s| s.keys),
                bytes_on_disk: stats.map_or(0, |s| s.bytes_on_disk),
                ..Load::default()
            },
        }),
        last_seen: look.now,
        status_since: facts.start_time,
        heartbeat_seq: 0,
        doubts: Doubts::default(),
    }
}

pub fn build(facts: &NodeFacts, look: &Look, keeper: &mut Keeper) -> Views {
    let ring = look.topology.as_ref().map(|t| keeper.ring(t));
    let stamp = ring
        .as_ref()
        .map_or_else(RingStamp::default, |r| RingStamp {
            epoch: r.topology.epoch,
            digest: r.digest,
        });
    let members = look.members(facts, stamp);
    let counts = look
        .topology
        .as_ref()
        .map(|t| {
            let there = keeper.available(&members);
            keeper.counts(t, &there)
        })
        .unwrap_or_default();
    let members_response = members_response(facts, look, &members);
    let status = status(
        facts,
        look,
        ring.as_ref(),
        &members,
        &members_response,
        counts,
        keeper,
    );
    Views {
        status,
        members: members_response,
        ring: ring.map_or_else(|| Arc::new(no_ring()), |r| r.response),
        counts,
        aged: false,
    }
}

fn status(
    facts: &NodeFacts,
    look: &Look,
    ring: Option<&KnownRing>,
    members: &[MemberView],
    members_response: &MembersResponse,
    counts: PartitionCounts,
    keeper: &mut Keeper,
) -> StatusResponse {
    let none = StoreLook::default();
    let store = look.store.as_ref().unwrap_or(&none);
    let found = findings(&Picture {
        node_id: &facts.id,
        lifecycle: &look.lifecycle,
        topology: look.topology.as_deref(),
        topology_digest: ring.map_or(0, |r| r.digest),
        members,
        counts,
        hints_owed: &store.hints_owed,
        poisoned: store.poisoned.as_deref(),
        read_only: store.stats.read_only.as_deref(),
        overloaded: look.overloaded,
        refill_blocked: look.refill_blocked.as_deref(),
        votes_forgotten: look.votes_forgotten.as_deref(),
    });
    StatusResponse {
        node: node_status(facts, look),
        storage: storage_status(store),
        replication: ReplicationStatus {
            current_node: facts.id.clone(),
            // a lone node still belongs to a larger ring
            total_nodes: members_response.total_members.max(
                look.topology
                    .as_ref()
                    .map_or(0, |t| t.settled_members().count()),
            ),
            alive_nodes: members_response.alive_members,
            quorum_available: counts.total > 0 && counts.unavailable == 0,
            partitions: counts,
            ..replication(facts, look)
        },
        cluster: ClusterStatus {
            cluster_id: members_response.cluster_id.clone(),
            health: counts.health(),
            ring_epoch: ring.map_or(0, |r| r.topology.epoch),
            ring_digest: ring.map_or_else(String::new, |r| r.response.digest.clone()),
            membership_digest: members_response.membership_digest.clone(),
            problems: keeper.problems(found, look.now_ms()),
        },
        gossip: look.gossip.clone(),
        timestamp: look.now.as_second(),
    }
}

fn node_status(facts: &NodeFacts, look: &Look) -> NodeStatus {
    let uptime = look.now.as_second() - facts.start_time.as_second();
    NodeStatus {
        id: facts.id.clone(),
        address: facts.address.clone(),
        status: MemberStatus::Alive,
        lifecycle: look.lifecycle.lifecycle,
        waiting_for: look.lifecycle.waiting_for.clone(),
        zone: facts.zone.clone(),
        version: cli::VERSION.to_owned(),
        commit: cli::COMMIT.to_owned(),
        generation: facts.generation,
        start_time: facts.start_time,
        uptime_seconds: u64::try_from(uptime).unwrap_or(0),
        pid: std::process::id(),
        start_flags: facts.start_flags.clone(),
    }
}

fn storage_status(store: &StoreLook) -> StorageStatus {
    StorageStatus {
        engine: "sled".to_owned(),
        key_count: store.stats.keys,
        tombstones: store.stats.tombstones,
        bytes_on_disk: store.stats.bytes_on_disk,
        durability: "fsync".to_owned(),
        read_only: store.poisoned.is_some() || store.stats.read_only.is_some(),
        hints_owed: store.hints_owed.clone(),
        read_only_reason: store.poisoned.clone().or(store.stats.read_only.clone()),
        disk_free_bytes: store.stats.disk_free_bytes,
        dirty_partitions: store.dirty.clone(),
        tombstones_wait_for: store.tombstones_wait_for.clone(),
    }
}

/// The arithmetic part; who answers is filled in by the caller.
fn replication(facts: &NodeFacts, look: &Look) -> ReplicationStatus {
    let (factor, settled) = look
        .topology
        .as_ref()
        .map_or((facts.replication_factor, 1), |t| {
            (t.replication_factor, t.settled_members().count())
        });
    ReplicationStatus {
        replication_factor: factor,
        quorum_size: quorum_size(usize::from(factor), settled),
        total_nodes: 0,
        alive_nodes: 0,
        quorum_available: false,
        current_node: facts.id.clone(),
        partitions: PartitionCounts::default(),
    }
}

fn members_response(facts: &NodeFacts, look: &Look, members: &[MemberView]) -> MembersResponse {
    let alive = |m: &&MemberView| m.state.status == MemberStatus::Alive;
    let digest = membership_digest(members.iter().map(|m| DigestEntry {
        id: &m.state.id,
        address: &m.state.address,
        generation: m.state.generation,
        status: m.state.status,
    }));
    MembersResponse {
        cluster_id: look
            .cluster_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        current_node: facts.id.clone(),
        cluster_members: members
            .iter()
            .map(|m| (m.state.id.clone(), member_info(m)))
            .collect(),
        total_members: members.len(),
        alive_members: members.iter().filter(alive).count(),
        membership_digest: digest,
    }
}

fn member_info(m: &MemberView) -> MemberInfo {
    MemberInfo {
        node_id: m.state.id.clone(),
        address: m.state.address.clone(),
        status: m.state.status,
        lifecycle: m.state.lifecycle,
        last_seen: m.last_seen,
        status_since: m.status_since,
        generation: m.state.generation,
        incarnation: m.state.incarnation,
        heartbeat_seq: m.heartbeat_seq,
        zone: m.state.zone.clone(),
        version: m.state.version.clone(),
        ring_epoch: m.state.ring.epoch,
        ring_digest: format!("{:016x}", m.state.ring.digest),
        load: m.state.load,
        udp_blocked: m.doubts.udp_blocked,
        accusers: m.doubts.accusers.clone(),
        reason: m.reason(),
    }
}

/// What `/api/v1/ring` says before there is one.
fn no_ring() -> RingResponse {
    RingResponse {
        ring: RingSummary {
            physical_nodes: 0,
            virtual_nodes: 0,
            replicas: 0,
            partitions: 0,
            ring: Vec::new(),
        },
        nodes: Vec::new(),
        epoch: 0,
        digest: String::new(),
        table: Vec::new(),
        transition: None,
    }
}

/// The ring without what grows with the number of partitions.
pub fn without_table(ring: &RingResponse) -> RingResponse {
    let mut ring = RingResponse {
        table: Vec::new(),
        ring: RingSummary {
            ring: Vec::new(),
            ..ring.ring.clone()
        },
        ..ring.clone()
    };
    if let Some(change) = &mut ring.transition {
        change.target = Vec::new();
    }
    ring
}

/// Where a key lives, and who of its replicas answers.
pub fn locate(topology: &Topology, members: &[MemberView], key: &Key) -> LocateResponse {
    let partition = topology.partition_of(key);
    let current = topology.replicas(partition);
    let replica = |id: NodeId| {
        let member = members.iter().find(|m| m.state.id == id);
        let ring = topology.member(&id).map(|m| m.address.clone());
        LocatedReplica {
            address: member.map_or(ring.unwrap_or_default(), |m| m.state.address.clone()),
            status: member.map_or(MemberStatus::Dead, |m| m.state.status),
            lifecycle: member.map_or(Lifecycle::Stopped, |m| m.state.lifecycle),
            incoming: !current.contains(&id),
            node_id: id,
        }
    };
    let health = partition_health(topology, partition, &available(members));
    LocateResponse {
        key: key.to_string(),
        hash: format!("{:016x}", key.hash()),
        partition,
        epoch: topology.epoch,
        replicas: topology
            .all_replicas(partition)
            .into_iter()
            .map(replica)
            .collect(),
        quorum_available: health != PartitionHealth::Unavailable,
    }
}

#[cfg(test)]
pub mod tests {
    use ringmaster_shared::quorum::ClusterHealth;

    use super::*;
    use crate::health::tests::{id, member, topology};

    pub fn facts() -> NodeFacts {
        NodeFacts {
            id: id("a"),
            address: "localhost:8081".into(),
            zone: "default".into(),
            generation: 7,
            start_time: Timestamp::UNIX_EPOCH,
            replication_factor: 3,
            start_flags: Vec::new(),
        }
    }

    pub fn look(topology: Option<Topology>, members: Option<Vec<MemberView>>) -> Look {
        Look {
            now: Timestamp::from_second(100).expect("valid"),
            cluster_id: topology.as_ref().map(|t| t.cluster_id.clone()),
            lifecycle: LifecycleState {
                lifecycle: Lifecycle::Serving,
                waiting_for: None,
            },
            topology: topology.map(Arc::new),
            members: members.map(Arc::new),
            store: None,
            overloaded: false,
            gossip: None,
            refill_blocked: None,
            votes_forgotten: None,
        }
    }

    #[test]
    fn before_a_cluster_there_is_one_member_and_no_partition() {
        let mut look = look(None, None);
        look.lifecycle = LifecycleState {
            lifecycle: Lifecycle::Joining,
            waiting_for: Some("a seed".into()),
        };
        let views = build(&facts(), &look, &mut Keeper::default());
        assert_eq!(
            (views.members.total_members, views.members.alive_members),
            (1, 1)
        );
        assert_eq!(views.members.cluster_id, "");
        let status = &views.status;
        assert_eq!(status.replication.partitions.total, 0);
        assert_eq!(status.cluster.health, ClusterHealth::Unavailable);
        assert!(!status.replication.quorum_available);
        assert_eq!(status.node.waiting_for.as_deref(), Some("a seed"));
        assert_eq!(status.node.uptime_seconds, 100);
        assert_eq!(status.cluster.problems[0].code, "NODE_JOINING");
        assert_eq!(views.ring.epoch, 0);
    }

    #[test]
    fn three_members_with_one_dead_are_degraded() {
        use MemberStatus::{Alive, Dead};
        let members = vec![
            member("a", Alive, Lifecycle::Serving),
            member("b", Alive, Lifecycle::Serving),
            member("c", Dead, Lifecycle::Serving),
        ];
        let t = topology(&["a", "b", "c"]);
        let look = look(Some(t.clone()), Some(members.clone()));
        let views = build(&facts(), &look, &mut Keeper::default());
        let r = &views.status.replication;
        assert_eq!((r.total_nodes, r.alive_nodes, r.quorum_size), (3, 2, 2));
        assert!(r.quorum_available);
        assert_eq!(views.status.cluster.health, ClusterHealth::Degraded);
        assert_eq!(views.status.cluster.ring_digest, views.ring.digest);
        assert!(without_table(&views.ring).table.is_empty());
        assert_eq!(without_table(&views.ring).nodes.len(), 3);

        let located = locate(&t, &members, &Key::new("k").expect("valid"));
        assert!(located.quorum_available);
        let statuses: Vec<_> = located.replicas.iter().map(|r| r.status).collect();
        assert_eq!(statuses, [Alive, Alive, Dead]);
    }
}
