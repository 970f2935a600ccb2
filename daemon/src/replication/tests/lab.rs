//! The cluster under test: nodes, and the wires between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use ringmaster_shared::{
    api::data::Consistency,
    id::{ClusterId, Epoch, NodeId},
    member::{Lifecycle, Load, MemberStatus, RingStamp},
    placement,
    topology::{RingMember, Topology},
    version::{Value, VersionVector},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    events::Events,
    gossip::{MemberState, MemberView, Members},
    identity::IdentityStore,
    lifecycle::LifecycleHandle,
    replication::{
        clock::HybridClock,
        coordinator::{
            Condition, Coordinator, ReadOutcome, ReplicationError, WriteOutcome, WriteRequest,
        },
        frames::{FRAME_BYTES_MAX, Request, Response},
        network::{Call, Network},
        peers::{Class, PeerError},
        replica::ReplicaContext,
        settings::{RepairSettings, wire_bytes},
        site::Site,
        testing::{id, key, number},
        transfer,
    },
    storage::{Store, StoreConfig},
    topology::TopologyHandle,
};

pub const PARTITIONS: u16 = 16;
/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the wires do to requests for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Up,
    /// Refused at once.
    Cut,
    /// Swallowed, like by a stopped process.
    Stalled,
    /// Held back until the wire is another.
    Held,
    /// Writes are swallowed, all else goes through.
    WritesStalled,
}

pub struct Wires {
    nodes: Mutex<BTreeMap<NodeId, (ReplicaContext, Wire)>>,
    changes: watch::Sender<()>,
    members: watch::Sender<Members>,
}

impl Wires {
    fn attach(&self, replica: &ReplicaContext) {
        let mut nodes = self.nodes.lock().expect("sound");
        nodes.insert(replica.node_id.clone(), (replica.clone(), Wire::Up));
    }

    fn target(&self, node: &NodeId) -> Option<(ReplicaContext, Wire)> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(node).cloned()
    }

    /// The wire to `node`, once it lets something happen.
    async fn wire_to(&self, node: &NodeId) -> Option<(ReplicaContext, Wire)> {
        let mut changes = self.changes.subscribe();
        loop {
            match self.target(node) {
                Some((_, Wire::Held)) => changes.changed().await.ok()?,
                other => return other,
            }
        }
    }

    async fn carry(
        &self,
        node: NodeId,
        epoch: Epoch,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, PeerError> {
        let address = format!("{node}:1");
        let unreachable = |why: &str| PeerError::Unreachable {
            address: address.clone(),
            why: why.to_owned(),
        };
        let (replica, wire) = self
            .wire_to(&node)
            .await
            .ok_or_else(|| unreachable("no such node"))?;
        if wire_bytes(&request) > FRAME_BYTES_MAX as u64 {
            return Err(PeerError::Protocol {
                address,
                why: "a frame is over the limit".to_owned(),
            });
        }
        let stalled = match wire {
            Wire::Up | Wire::Held => false,
            Wire::Cut => return Err(unreachable("cut")),
            Wire::Stalled => true,
            Wire::WritesStalled => matches!(request, Request::Write { .. }),
        };
        if stalled {
            tokio::time::sleep(timeout).await;
            return Err(PeerError::Timeout {
                address,
                waited_ms: timeout.as_millis() as u64,
            });
        }
        // on the other side work goes on when the caller stops waiting
        let work = tokio::spawn(async move {
            match request {
                Request::PushTopology { topology } => {
                    let adopted = replica.topology.adopt(topology).await;
                    adopted.map(|_| Response::Done).expect("a good topology")
                }
                request => replica.serve(epoch, request).await,
            }
        });
        work.await.map_err(|error| unreachable(&error.to_string()))
    }
}

struct LabNetwork(Arc<Wires>);

impl Network for LabNetwork {
    fn members(&self) -> Members {
        self.0.members.borrow().clone()
    }

    fn watch(&self) -> watch::Receiver<Members> {
        self.0.members.subscribe()
    }

    fn call(
        &self,
        node: &NodeId,
        _class: Class,
        epoch: Epoch,
        request: &Request,
        timeout: Duration,
    ) -> Call {
        let (wires, node, request) = (self.0.clone(), node.clone(), request.clone());
        Call::Boxed(Box::pin(async move {
            wires.carry(node, epoch, request, timeout).await
        }))
    }
}

pub struct LabNode {
    pub replica: ReplicaContext,
    pub coordinator: Coordinator,
    pub events: Events,
}

pub struct Lab {
    pub nodes: BTreeMap<NodeId, LabNode>,
    wires: Arc<Wires>,
    stop: CancellationToken,
    /// Removed with the lab.
    _folder: tempfile::TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn ring_member(name: &str) -> RingMember {
    RingMember {
        id: id(name),
        address: format!("{name}:1"),
        zone: "default".into(),
    }
}

pub fn cluster() -> ClusterId {
    ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid")
}

/// A settled topology of these members.
pub fn settled(epoch: Epoch, names: &[&str]) -> Topology {
    let members: Vec<RingMember> = names.iter().map(|n| ring_member(n)).collect();
    let mut founded = Topology::founded(cluster(), members[0].clone(), 3, PARTITIONS);
    let placement = placement::plan(&founded, &members);
    founded.epoch = epoch;
    founded.members = placement.members;
    founded.table = placement.target;
    founded
}

fn member_view(name: &NodeId, status: MemberStatus, generation: u64) -> MemberView {
    MemberView {
        state: Arc::new(MemberState {
            id: name.clone(),
            address: format!("{name}:1"),
            zone: "default".into(),
            version: "test".into(),
            status,
            lifecycle: Lifecycle::Serving,
            generation,
            incarnation: 0,
            ring: RingStamp::default(),
            load: Load::default(),
        }),
        last_seen: Timestamp::now(),
        status_since: Timestamp::now(),
        heartbeat_seq: 0,
        doubts: crate::gossip::Doubts::default(),
    }
}

fn open_replica(
    folder: &Path,
    name: &str,
    topology: &Topology,
    settings: RepairSettings,
) -> (ReplicaContext, Events) {
    let node_id = id(name);
    let dir = folder.join(name);
    let identity = IdentityStore::open(&dir, &node_id).expect("identity");
    identity.set_cluster(cluster()).expect("cluster");
    identity.save_topology(topology).expect("topology");
    let events = Events::new(node_id.clone());
    let (store, _) = Store::open(StoreConfig {
        hint_bytes_max: 64 << 20,
        ..StoreConfig::for_tests(&dir, PARTITIONS)
    })
    .expect("store");
    let replica = ReplicaContext {
        node_id,
        topology: TopologyHandle::new(identity.clone(), events.clone()).expect("handle"),
        identity,
        store,
        lifecycle: LifecycleHandle::new(Lifecycle::Serving),
        clock: HybridClock::default(),
        grace_ms: settings.grace_ms(),
    };
    let forget = transfer::forget_leftovers(replica.store.clone(), settings);
    replica.topology.before_gaining(forget);
    (replica, events)
}

/// Nodes that answer and do nothing by themselves.
pub struct Quiet {
    pub sites: BTreeMap<NodeId, Site>,
    _folder: tempfile::TempDir,
}

impl Quiet {
    pub fn start(topology: &Topology, names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        let settings = RepairSettings::default();
        let wires = wires(names);
        let mut sites = BTreeMap::new();
        for name in names {
            let (replica, events) = open_replica(folder.path(), name, topology, settings);
            wires.attach(&replica);
            let network = Arc::new(LabNetwork(wires.clone()));
            let stop = CancellationToken::new();
            sites.insert(
                id(name),
                Site::new(replica, network, events, settings, stop),
            );
        }
        Self {
            sites,
            _folder: folder,
        }
    }

    pub fn site(&self, name: &str) -> &Site {
        &self.sites[&id(name)]
    }
}

fn wires(names: &[&str]) -> Arc<Wires> {
    let members: Vec<MemberView> = names
        .iter()
        .map(|n| member_view(&id(n), MemberStatus::Alive, 1))
        .collect();
    let (sender, _) = watch::channel(Arc::new(members));
    Arc::new(Wires {
        nodes: Mutex::default(),
        changes: watch::Sender::new(()),
        members: sender,
    })
}

impl Lab {
    /// Nodes that all go by `topology`; further ones (joiners) may be named.
    pub fn start(topology: &Topology, names: &[&str]) -> Self {
        Self::start_with(topology, names, RepairSettings::default())
    }

    /// The same with other times for repair.
    pub fn start_with(topology: &Topology, names: &[&str], settings: RepairSettings) -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        let wires = wires(names);
        let stop = CancellationToken::new();
        let mut nodes = BTreeMap::new();
        for name in names {
            let (replica, events) = open_replica(folder.path(), name, topology, settings);
            wires.attach(&replica);
            let network = Arc::new(LabNetwork(wires.clone()));
            let coordinator = Coordinator::over(
                replica.clone(),
                network,
                events.clone(),
                settings,
                stop.clone(),
            );
            nodes.insert(
                id(name),
                LabNode {
                    replica,
                    coordinator,
                    events,
                },
            );
        }
        Self {
            nodes,
            wires,
            stop,
            _folder: folder,
        }
    }

    pub fn node(&self, name: &str) -> &LabNode {
        &self.nodes[&id(name)]
    }

    pub fn wire(&self, name: &str, wire: Wire) {
        let mut nodes = self.wires.nodes.lock().expect("sound");
        nodes.get_mut(&id(name)).expect("a node").1 = wire;
        drop(nodes);
        self.wires.changes.send_replace(());
    }

    /// What gossip says of a node from now on; a return is a new generation.
    pub fn gossip(&self, name: &str, status: MemberStatus) {
        self.wires.members.send_modify(|members| {
            let mut list = (**members).clone();
            let view = list.iter_mut().find(|m| m.state.id == id(name));
            let view = view.expect("a member");
            if status == MemberStatus::Alive && view.state.status != status {
                Arc::make_mut(&mut view.state).generation += 1;
            }
            Arc::make_mut(&mut view.state).status = status;
            *members = Arc::new(list);
        });
    }

    pub async fn adopt_everywhere(&self, topology: &Topology, names: &[&str]) {
        for name in names {
            let handle = &self.node(name).replica.topology;
            handle.adopt(topology.clone()).await.expect("adopted");
        }
    }

    pub async fn put(&self, at: &str, k: &str, n: u64) -> Result<WriteOutcome, ReplicationError> {
        self.write(at, k, Some(number(n)), None).await
    }

    pub async fn write(
        &self,
        at: &str,
        k: &str,
        value: Option<Value>,
        context: Option<VersionVector>,
    ) -> Result<WriteOutcome, ReplicationError> {
        let request = WriteRequest {
            key: key(k),
            value,
            context,
            condition: Condition::Always,
            consistency: Consistency::Quorum,
            timeout: Duration::from_secs(10),
        };
        self.node(at).coordinator.write(request).await
    }

    pub async fn get(&self, at: &str, k: &str) -> Result<ReadOutcome, ReplicationError> {
        let timeout = Duration::from_secs(10);
        let coordinator = &self.node(at).coordinator;
        coordinator.read(key(k), Consistency::Quorum, timeout).await
    }

    /// Fingerprints of a key's record on each of its replicas, 0 where there is none.
    pub fn stored(&self, k: &str) -> BTreeMap<NodeId, u64> {
        let any = self.nodes.values().next().expect("nodes");
        let topology = any.replica.topology.current().expect("a topology");
        let partition = topology.partition_of(&key(k));
        let replicas = topology.all_replicas(partition).into_iter();
        replicas
            .map(|id| {
                let record = self.nodes[&id].replica.store.get(&key(k));
                let record = record.expect("readable");
                (id, record.map_or(0, |r| r.fingerprint()))
            })
            .collect()
    }

    /// Waits until all replicas of these keys hold the same, which is not nothing.
    pub async fn converge(&self, keys: &[&str]) {
        let same = || {
            keys.iter().all(|k| {
                let distinct: BTreeSet<u64> = self.stored(k).into_values().collect();
                distinct.len() == 1 && !distinct.contains(&0)
            })
        };
        until("the replicas hold the same", same).await;
    }
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
