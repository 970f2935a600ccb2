//! The parts of a running node, for handlers and watchers. Parts appear as the node starts.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::Timestamp;
use ringmaster_shared::{
    id::Epoch,
    member::{Load, MemberStatus, RingStamp},
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Admission, BodyLimits, Bounds, Keyrings, Observations},
    cli::{self, Failure},
    config::{Config, JoinWay},
    events::Events,
    gossip::{GossipHandle, MemberState, secrecy::Secrecy},
    health::keeper::Keeper,
    identity::IdentityStore,
    lifecycle::{Control, LifecycleHandle, facts::Phase, orders::OrderSender},
    metrics::Metrics,
    replication::{coordinator::Coordinator, peers::Peers, server::PeerServer},
    storage::Store,
    topology::TopologyHandle,
    view::{self, Look, NodeFacts, StoreLook, Views},
};

pub type SharedNode = Arc<Node>;

pub struct Node {
    pub facts: NodeFacts,
    pub config: Config,
    pub identity: IdentityStore,
    /// The keys of the gossip, where there are any.
    pub secrecy: Option<Secrecy>,
    pub topology: TopologyHandle,
    pub control: Control,
    pub lifecycle: LifecycleHandle,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    pub orders: OrderSender,
    pub gates: Gates,
    pub store: OnceLock<Store>,
    pub peers: OnceLock<Peers>,
    pub peer_server: OnceLock<Arc<PeerServer>>,
    pub gossip: Arc<OnceLock<GossipHandle>>,
    pub coordinator: OnceLock<Coordinator>,
    /// The views as last looked at; changes at most four times a second.
    pub board: watch::Sender<Arc<Views>>,
    keeper: Mutex<Keeper>,
    /// Ends background work and feeds.
    pub stop: CancellationToken,
    /// Ends HTTP; comes last.
    pub stop_serving: CancellationToken,
}

/// Bounds on what clients do at once.
pub struct Gates {
    pub bodies: BodyLimits,
    /// Of values on their way to clients.
    pub answers: BodyLimits,
    /// Requests for data.
    pub admission: Arc<Admission>,
    pub feeds: Arc<Semaphore>,
    pub observations: Observations,
    pub keyrings: Keyrings,
}

impl Node {
    pub fn new(
        config: Config,
        identity: IdentityStore,
        secrecy: Option<Secrecy>,
        orders: OrderSender,
        phase: Phase,
    ) -> Result<SharedNode, Failure> {
        let facts = NodeFacts {
            id: config.node_id.clone(),
            address: config.advertise.clone(),
            zone: config.zone.clone(),
            generation: identity.generation(),
            start_time: Timestamp::now(),
            replication_factor: config.replication_factor,
            start_flags: config.start_flags.clone(),
        };
        let events = Events::new(config.node_id.clone());
        let topology = TopologyHandle::new(identity.clone(), events.clone())
            .map_err(|e| Failure::Failed(format!("{e:#}")))?;
        let control = Control::new(phase);
        control.update(|facts| facts.waits_for_plan = config.join == JoinWay::Manual);
        let lifecycle = control.lifecycle();
        let limits = &config.limits;
        let gates = Gates {
            bodies: BodyLimits::new(limits.body_bytes_total, limits.body_timeout),
            answers: BodyLimits::new(limits.body_bytes_total, limits.body_timeout),
            admission: Admission::new(
                Bounds {
                    requests: limits.requests,
                    bytes: limits.body_bytes_total,
                    value_bytes: limits.value_bytes,
                    timeout: limits.request_timeout,
                },
                events.clone(),
            ),
            feeds: Arc::new(Semaphore::new(limits.feeds)),
            observations: Observations::default(),
            keyrings: Keyrings::default(),
        };
        let look = Look {
            now: facts.start_time,
            cluster_id: identity.cluster_id(),
            lifecycle: lifecycle.state(),
            topology: topology.current(),
            members: None,
            store: None,
            overloaded: false,
            gossip: None,
            refill_blocked: None,
            votes_forgotten: None,
        };
        let mut keeper = Keeper::default();
        let first = view::build(&facts, &look, &mut keeper);
        Ok(Arc::new(Self {
            facts,
            config,
            identity,
            secrecy,
            topology,
            control,
            lifecycle,
            events,
            metrics: Arc::new(Metrics::new()),
            orders,
            gates,
            store: OnceLock::new(),
            peers: OnceLock::new(),
            peer_server: OnceLock::new(),
            gossip: Arc::new(OnceLock::new()),
            coordinator: OnceLock::new(),
            board: watch::Sender::new(Arc::new(first)),
            keeper: Mutex::new(keeper),
            stop: CancellationToken::new(),
            stop_serving: CancellationToken::new(),
        }))
    }

    /// One look at all parts.
    pub fn look(&self) -> Look {
        let topology = self.topology.current();
        let cluster = topology.as_ref().map(|t| t.cluster_id.clone());
        let repair = self.coordinator.get().map(Coordinator::repair_look);
        let repair = repair.unwrap_or_default();
        Look {
            now: Timestamp::now(),
            cluster_id: cluster.or_else(|| self.identity.cluster_id()),
            lifecycle: self.lifecycle.state(),
            topology,
            members: self.gossip.get().map(GossipHandle::members),
            store: self.store.get().map(|s| StoreLook {
                stats: s.stats(),
                hints_owed: s.hints_owed(),
                poisoned: s.poisoned(),
                dirty: repair.dirty,
                tombstones_wait_for: repair.tombstones_wait_for,
            }),
            refill_blocked: repair.refill_blocked,
            votes_forgotten: self.topology.votes_forgotten(),
            overloaded: self.gates.admission.pressure().overloaded,
            gossip: self.gossip.get().map(GossipHandle::health),
        }
    }

    pub fn views(&self) -> Views {
        let look = self.look();
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        view::build(&self.facts, &look, &mut keeper)
    }

    /// 0 before any topology is known.
    pub fn epoch(&self) -> Epoch {
        self.topology.current().map_or(0, |t| t.epoch)
    }

    pub fn ring_stamp(&self) -> RingStamp {
        self.topology
            .current()
            .map_or_else(RingStamp::default, |t| RingStamp {
                epoch: t.epoch,
                digest: t.digest(),
            })
    }

    /// This node as it tells of itself.
    pub fn member_state(&self) -> MemberState {
        // gossip may have had to go on as a later life; an earlier one would be let in nowhere
        let later = self.gossip.get().map(GossipHandle::generation);
        MemberState {
            id: self.facts.id.clone(),
            address: self.facts.address.clone(),
            zone: self.facts.zone.clone(),
            version: cli::VERSION.to_owned(),
            status: MemberStatus::Alive,
            lifecycle: self.lifecycle.get(),
            generation: later.unwrap_or(self.facts.generation),
            incarnation: 0,
            ring: self.ring_stamp(),
            load: self.load(0),
        }
    }

    /// The load summary of the seconds before `now_s`.
    pub fn load(&self, now_s: u64) -> Load {
        let rates = self.metrics.rates.summary(now_s);
        let store = self.store.get();
        let stats = store.map(Store::stats).unwrap_or_default();
        let hints: u64 = store.map_or(0, |s| s.hints_owed().values().sum());
        Load {
            keys: stats.keys,
            bytes_on_disk: stats.bytes_on_disk,
            puts_per_s: rates.puts_per_s,
            gets_per_s: rates.gets_per_s,
            p99_us: rates.p99_us,
            hints: u32::try_from(hints).unwrap_or(u32::MAX),
        }
    }
}
