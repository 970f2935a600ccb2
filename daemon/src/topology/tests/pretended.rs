//! Several nodes in one process: real handles and identity files, a pretended gossip and
//! network, and somebody who fills partitions at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rand::{Rng, SeedableRng, rngs::StdRng};
use ringmaster_shared::{
    api::ring::Change,
    event::{Event, EventCode},
    id::{ClusterId, Epoch, NodeId},
    member::{Lifecycle, Load, MemberStatus, RingStamp},
    topology::{Step, Topology},
};
use tempfile::TempDir;
use tokio::{sync::watch, task::AbortHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    events::Events,
    gossip::{MemberState, MemberView, Members},
    identity::IdentityStore,
    replication::{
        frames::{RefusalCode, Request, Response},
        peers::PeerError,
    },
    topology::{
        TopologyHandle,
        driver::{
            Around, Driver,
            ballots::{Outcome, Proposing},
        },
        fixture::{PARTITIONS, cluster, id, member},
        plan::{self, Picture},
    },
};

mod data;

pub(super) use data::{Checks, Filling};

/// A handle over a folder of its own, that already knows its cluster.
pub(super) fn quiet_handle(name: &str, cluster: &ClusterId) -> (TopologyHandle, TempDir) {
    let dir = quick_folder();
    let identity = IdentityStore::open(dir.path(), &id(name)).expect("opens");
    identity.set_cluster(cluster.clone()).expect("writes");
    let handle = TopologyHandle::new(identity, Events::new(id(name))).expect("starts");
    (handle, dir)
}

/// In memory where there is a file system in memory: what is synced here is never lost anyway.
fn quick_folder() -> TempDir {
    let in_memory = TempDir::new_in("/dev/shm");
    in_memory.or_else(|_| TempDir::new()).expect("temp dir")
}

struct Node {
    /// `None` while it is down.
    handle: Option<TopologyHandle>,
    events: Events,
    stop: CancellationToken,
    tasks: Vec<AbortHandle>,
    dir: TempDir,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Node>,
    gossip: BTreeMap<NodeId, MemberState>,
    views: BTreeMap<NodeId, watch::Sender<Members>>,
    down: BTreeSet<NodeId>,
    held: BTreeSet<NodeId>,
    /// These see each other as dead.
    blind: BTreeSet<NodeId>,
    loss: Option<(StdRng, f64)>,
    lost: usize,
    /// Ended by themselves because the ring goes on without them.
    departed: BTreeSet<NodeId>,
    data: data::Data,
    /// What every node ever went by.
    history: BTreeMap<Epoch, BTreeSet<u64>>,
}

#[derive(Clone, Default)]
pub(super) struct Cluster {
    state: Arc<Mutex<State>>,
}

/// The cluster as one node reaches it.
#[derive(Clone)]
pub(super) struct Seat {
    me: NodeId,
    cluster: Cluster,
}

impl Cluster {
    pub(super) fn founded(name: &str) -> Self {
        let cluster = Self::default();
        cluster.boot(name, Lifecycle::Serving, true);
        cluster
    }

    /// A new node with an empty folder that wants in.
    pub(super) fn start(&self, name: &str) {
        self.boot(name, Lifecycle::Joining, false);
    }

    /// The same, but it waits for a plan.
    pub(super) fn start_candidate(&self, name: &str) {
        self.boot(name, Lifecycle::Candidate, false);
    }

    fn boot(&self, name: &str, lifecycle: Lifecycle, founder: bool) {
        let (handle, dir) = quiet_handle(name, &cluster());
        if founder {
            let first = Topology::founded(cluster(), member(name), 3, PARTITIONS);
            handle.inner.take_over(&mut None, first).expect("founds");
        }
        let state = MemberState {
            id: id(name),
            address: member(name).address,
            zone: "default".into(),
            version: String::new(),
            status: MemberStatus::Alive,
            lifecycle,
            generation: 1,
            incarnation: 0,
            ring: RingStamp::default(),
            load: Load::default(),
        };
        {
            let mut world = self.lock();
            world.gossip.insert(id(name), state);
            world
                .views
                .insert(id(name), watch::Sender::new(Members::default()));
            let node = Node {
                events: handle.inner.events.clone(),
                handle: Some(handle),
                stop: CancellationToken::new(),
                tasks: Vec::new(),
                dir,
            };
            world.nodes.insert(id(name), node);
        }
        self.spread();
        self.run(name);
    }

    /// Starts the tasks of a node: its driver, who fills, who records.
    fn run(&self, name: &str) {
        let seat = Seat {
            me: id(name),
            cluster: self.clone(),
        };
        let handle = self.handle(name);
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(Driver::new(handle.clone(), seat.clone(), stop.clone()).run())
                .abort_handle(),
            tokio::spawn(seat.clone().fill(handle.clone())).abort_handle(),
            tokio::spawn(seat.record(handle)).abort_handle(),
        ];
        let mut world = self.lock();
        let node = world.nodes.get_mut(&id(name)).expect("booted");
        node.stop = stop;
        node.tasks = tasks;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn handle(&self, name: &str) -> TopologyHandle {
        let handle = self.handle_of(&id(name));
        handle.expect("the node is up")
    }

    fn handle_of(&self, node: &NodeId) -> Option<TopologyHandle> {
        self.lock().nodes.get(node)?.handle.clone()
    }

    pub(super) fn events(&self, name: &str) -> Vec<Event> {
        self.lock().nodes[&id(name)].events.newest(1000)
    }

    /// The node stops in its tracks; the others see it dead.
    pub(super) fn crash(&self, name: &str) {
        {
            let mut world = self.lock();
            world.down.insert(id(name));
            let node = world.nodes.get_mut(&id(name)).expect("booted");
            node.stop.cancel();
            node.tasks.iter().for_each(AbortHandle::abort);
            node.handle = None;
        }
        self.edit(name, |state| state.status = MemberStatus::Dead);
    }

    /// Starts it again from its folder, as another process would.
    pub(super) async fn revive(&self, name: &str) {
        let (path, events) = {
            let world = self.lock();
            let node = &world.nodes[&id(name)];
            (node.dir.path().to_owned(), node.events.clone())
        };
        let identity = loop {
            // what the life before was writing as it ended keeps the folder a moment longer
            match IdentityStore::open(&path, &id(name)) {
                Ok(identity) => break identity,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        };
        let handle = TopologyHandle::new(identity, events).expect("starts");
        {
            let mut world = self.lock();
            world.down.remove(&id(name));
            world.nodes.get_mut(&id(name)).expect("booted").handle = Some(handle);
        }
        self.edit(name, |state| state.status = MemberStatus::Alive);
        self.run(name);
    }

    /// Starts it again with an empty folder, let in by the ring that `seed` goes by, as
    /// `node::entry` does it.
    pub(super) async fn revive_without_folder(&self, name: &str, seed: &str) {
        let ring = self.handle(seed).current().expect("the seed has a ring");
        assert!(ring.contains(&id(name)), "the seed knows it");
        let (handle, dir) = quiet_handle(name, &cluster());
        let identity = handle.inner.identity.clone();
        identity.forget_votes().expect("writes");
        identity.set_needs_refill().expect("writes");
        handle.install((*ring).clone()).await.expect("enters");
        {
            let mut world = self.lock();
            world.down.remove(&id(name));
            let node = world.nodes.get_mut(&id(name)).expect("booted");
            node.events = handle.inner.events.clone();
            node.handle = Some(handle);
            node.dir = dir;
        }
        self.edit(name, |state| state.status = MemberStatus::Alive);
        self.run(name);
    }

    pub(super) fn up(&self) -> Vec<NodeId> {
        let world = self.lock();
        let up = world.nodes.keys().filter(|id| !world.down.contains(*id));
        up.cloned().collect()
    }

    /// How many that are up wait for a plan.
    pub(super) fn candidates(&self) -> usize {
        let world = self.lock();
        let up = world
            .gossip
            .values()
            .filter(|m| !world.down.contains(&m.id));
        up.filter(|m| m.lifecycle == Lifecycle::Candidate).count()
    }

    pub(super) fn is_down(&self, node: &NodeId) -> bool {
        self.lock().down.contains(node)
    }

    pub(super) fn has_departed(&self, node: &NodeId) -> bool {
        self.lock().departed.contains(node)
    }

    /// An operator plans a change and applies it through this node; whether it was decided.
    pub(super) async fn order(&self, through: &NodeId, change: &Change) -> bool {
        let Some(handle) = self.handle_of(through) else {
            return false;
        };
        let Some(ring) = handle.current() else {
            return false;
        };
        let seat = Seat {
            me: through.clone(),
            cluster: self.clone(),
        };
        let members: Vec<MemberState> = seat.members().iter().map(|m| (*m.state).clone()).collect();
        let plan = plan::plan(
            &Picture {
                topology: &ring,
                members: &members,
            },
            change,
        );
        let Some(next) = plan.next.filter(|_| plan.response.obstacles.is_empty()) else {
            return false;
        };
        match self.proposing(through.as_str()).decide(&ring, &next).await {
            Outcome::Decided(decided) => *decided == next,
            _ => false,
        }
    }

    /// This node's way to propose, beside its driver.
    pub(super) fn proposing(&self, name: &str) -> Proposing<Seat> {
        Proposing {
            handle: self.handle(name),
            around: Seat {
                me: id(name),
                cluster: self.clone(),
            },
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn hold_filling(&self, name: &str) {
        self.lock().held.insert(id(name));
    }

    pub(super) fn release_filling(&self, name: &str) {
        self.lock().held.remove(&id(name));
    }

    pub(super) fn lose_messages(&self, seed: u64, share: f64) {
        self.lock().loss = Some((StdRng::seed_from_u64(seed), share));
    }

    pub(super) fn lost(&self) -> usize {
        self.lock().lost
    }

    pub(super) fn blind_to_each_other(&self, names: &[&str]) {
        self.lock().blind = names.iter().map(|n| id(n)).collect();
        self.spread();
    }

    /// What gossip says of a node.
    pub(super) fn held(&self, name: &str) -> MemberState {
        self.lock().gossip[&id(name)].clone()
    }

    /// Changes what gossip says of a node.
    pub(super) fn edit(&self, name: &str, edit: impl FnOnce(&mut MemberState)) {
        edit(self.lock().gossip.get_mut(&id(name)).expect("known"));
        self.spread();
    }

    /// Everybody hears everything at once.
    fn spread(&self) {
        let world = self.lock();
        for (viewer, view) in &world.views {
            let members: Vec<MemberView> = world
                .gossip
                .values()
                .filter(|state| state.status != MemberStatus::Left)
                .map(|state| {
                    let mut state = state.clone();
                    let blind = world.blind.contains(viewer) && world.blind.contains(&state.id);
                    if blind && state.id != *viewer {
                        state.status = MemberStatus::Dead;
                    }
                    MemberView {
                        state: state.into(),
                        last_seen: Timestamp::UNIX_EPOCH,
                        status_since: Timestamp::UNIX_EPOCH,
                        heartbeat_seq: 0,
                        doubts: crate::gossip::Doubts::default(),
                    }
                })
                .collect();
            view.send_if_modified(|now| {
                let changed = **now != members;
                *now = Arc::new(members);
                changed
            });
        }
    }

    pub(super) async fn until(
        &self,
        name: &str,
        within: Duration,
        is_so: impl Fn(&Topology) -> bool,
    ) {
        let handle = self.handle(name);
        let mut watch = handle.watch();
        let reached = watch.wait_for(|t| t.as_ref().is_some_and(|t| is_so(t)));
        let in_time = tokio::time::timeout(within, reached).await.is_ok();
        assert!(
            in_time,
            "{name} goes by {:?}, {:#?}",
            handle.current(),
            self.events(name)
        );
    }

    pub(super) async fn until_events(&self, name: &str, code: EventCode, count: usize) {
        let reached = async {
            while self.events(name).iter().filter(|e| e.code == code).count() < count {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), reached)
            .await
            .is_ok();
        assert!(in_time, "{:#?}", self.events(name));
    }

    /// All that are up go by one topology of so many members, and no change is under way.
    pub(super) async fn until_settled_with(&self, members: usize, within: Duration) {
        let up: Vec<NodeId> = {
            let world = self.lock();
            world
                .nodes
                .keys()
                .filter(|n| !world.down.contains(n))
                .cloned()
                .collect()
        };
        for name in up {
            self.until(name.as_str(), within, |t| {
                t.transition.is_none() && t.members.len() == members
            })
            .await;
        }
    }

    /// Whether anybody ever went by this ring.
    pub(super) fn went_by(&self, ring: &Topology) -> bool {
        let world = self.lock();
        let digests = world.history.get(&ring.epoch);
        digests.is_some_and(|digests| digests.contains(&ring.digest()))
    }

    pub(super) fn assert_one_content_per_epoch(&self) {
        let world = self.lock();
        assert!(!world.history.is_empty());
        for (epoch, digests) in &world.history {
            assert_eq!(digests.len(), 1, "epoch {epoch} has two contents");
        }
    }
}

impl Seat {
    /// Stands in for the replication room: gets back what was lost, and fills what a change brings to
    /// this node.
    async fn fill(self, handle: TopologyHandle) {
        let mut watch = handle.watch();
        loop {
            let now = watch.borrow_and_update().clone();
            let identity = &handle.inner.identity;
            if let Some(topology) = now.as_ref().filter(|t| t.contains(&self.me))
                && identity.needs_refill()
            {
                let known = topology.epoch > identity.lost_through();
                if known && self.copy_lost(topology).await {
                    identity.set_refilled(topology.epoch).expect("writes");
                } else {
                    sleep(Duration::from_millis(50)).await;
                }
                continue;
            }
            if let Some(topology) = now
                && topology
                    .transition
                    .as_ref()
                    .is_some_and(|t| t.step == Step::Filling)
                && !topology.gained_by(&self.me).is_empty()
            {
                while self.cluster.lock().held.contains(&self.me) {
                    sleep(Duration::from_millis(20)).await;
                }
                if !self.copy_gained(&topology).await {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
                let identity = handle.inner.identity.clone();
                identity.set_filled_epoch(topology.epoch).expect("writes");
            } else if let Some(topology) = handle.current() {
                self.forget_later(&topology);
            }
            if watch.changed().await.is_err() {
                return;
            }
        }
    }

    /// Notes what the node goes by, and makes it serve once it is in.
    async fn record(self, handle: TopologyHandle) {
        let mut watch = handle.watch();
        loop {
            let now = watch.borrow_and_update().clone();
            if let Some(topology) = now {
                let inside = topology.settled_members().any(|m| m.id == self.me);
                let mut world = self.cluster.lock();
                world
                    .history
                    .entry(topology.epoch)
                    .or_default()
                    .insert(topology.digest());
                if let Some(state) = world.gossip.get_mut(&self.me)
                    && inside
                    && matches!(state.lifecycle, Lifecycle::Joining | Lifecycle::Candidate)
                {
                    state.lifecycle = Lifecycle::Serving;
                }
                drop(world);
                self.cluster.spread();
                if handle.inner.identity.departure().is_some() {
                    return self.depart();
                }
            }
            if watch.changed().await.is_err() {
                return;
            }
        }
    }

    /// The process says that it left, and ends.
    fn depart(self) {
        self.cluster.lock().departed.insert(self.me.clone());
        self.cluster.crash(self.me.as_str());
        let left = |state: &mut MemberState| state.status = MemberStatus::Left;
        self.cluster.edit(self.me.as_str(), left);
    }

    /// Whether a message on its way is lost.
    fn loses(&self) -> bool {
        let mut world = self.cluster.lock();
        let lost = world
            .loss
            .as_mut()
            .is_some_and(|(rng, share)| rng.random_bool(*share));
        world.lost += usize::from(lost);
        lost
    }

    /// The receiver's side.
    async fn answer(handle: &TopologyHandle, request: Request) -> Response {
        match request {
            Request::Register(request) => Response::Register(handle.register(request).await),
            Request::FetchTopology => Response::Topology {
                topology: handle.current().map(|t| (*t).clone()),
            },
            Request::PushTopology { topology } => match handle.install(topology).await {
                Ok(_) => Response::Done,
                Err(why) => Response::Refused {
                    code: RefusalCode::BadRequest,
                    reason: why.to_string(),
                },
            },
            Request::TopologyProgress { epoch } => {
                let (settled_epoch, filled) = handle.progress(epoch);
                Response::Progress {
                    settled_epoch,
                    filled,
                }
            }
            other => panic!("the driver does not send {other:?}"),
        }
    }
}

impl Around for Seat {
    fn members(&self) -> Members {
        self.watch_members().borrow().clone()
    }

    fn watch_members(&self) -> watch::Receiver<Members> {
        self.cluster.lock().views[&self.me].subscribe()
    }

    fn publish(&self, ring: RingStamp) {
        self.cluster
            .edit(self.me.as_str(), |state| state.ring = ring);
    }

    fn bury(&self, node: &NodeId) {
        let mut world = self.cluster.lock();
        let held = world.gossip.get_mut(node);
        let changed = held.is_some_and(|state| {
            let down = matches!(state.status, MemberStatus::Dead | MemberStatus::Stopped);
            if down {
                state.status = MemberStatus::Left;
            }
            down
        });
        drop(world);
        if changed {
            self.cluster.spread();
        }
    }

    async fn call(
        &self,
        node: &NodeId,
        _epoch: Epoch,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, PeerError> {
        let late = || PeerError::Timeout {
            address: node.to_string(),
            waited_ms: timeout.as_millis() as u64,
        };
        sleep(Duration::from_millis(1)).await;
        let target = {
            let world = self.cluster.lock();
            let up = !world.down.contains(node) && !world.down.contains(&self.me);
            let node = world.nodes.get(node).filter(|_| up);
            node.and_then(|n| n.handle.clone())
        };
        let Some(target) = target.filter(|_| !self.loses()) else {
            sleep(timeout).await;
            return Err(late());
        };
        let answer = Self::answer(&target, request).await;
        if self.loses() {
            sleep(timeout).await;
            return Err(late());
        }
        Ok(answer)
    }
}
