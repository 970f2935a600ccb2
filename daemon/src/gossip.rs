//! Membership by SWIM gossip: who is there, who answers, what each says of itself.
//!
//! This file is the door: [`GossipHandle`]. What is said through it is in `terms.rs`, times and
//! counts are in `config.rs`. Behind it `core.rs` decides (pure), `claim.rs` says which claim
//! wins, `members.rs` and `dissemination.rs` keep the lists, `codec.rs` is the wire, and
//! `driver.rs` with `addresses.rs` and `exchange.rs` does the I/O.
//!
//! Promises: liveness is advisory (nothing here moves data); a node that is isolated or held
//! dead is tried for ever; nothing waits for a slow peer; after [`GossipHandle::announce_stopped`]
//! this node is silent.

mod addresses;
pub mod claim;
mod codec;
mod config;
mod core;
mod dissemination;
mod driver;
mod envelope;
mod exchange;
mod ledger;
mod members;
mod reconcile;
mod rejected;
mod report;
mod roster;
pub mod secrecy;
pub mod sight;
mod terms;
mod traffic;
mod wire;

#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use prometheus_client::metrics::histogram::Histogram;
use rand::{SeedableRng, rngs::SmallRng};
use ringmaster_shared::{
    api::{
        health::GossipHealth,
        membership::{GossipConfigInfo, GossipStatus, GossipTraffic, Rumor},
    },
    event::EventCode,
    id::{ClusterId, Generation, NodeId},
    member::{Lifecycle, Load, MemberStatus, RingStamp},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::{
    config::{GossipConfig, Lifeguard},
    driver::Served,
    terms::{
        Doubts, GossipNotice, HealthReason, HealthView, MemberState, MemberView, Members, Strain,
        SuspicionView,
    },
};
use self::{
    core::Core,
    driver::{COMMANDS_MAX, Clock, Command, Driver, LocalState, Published, Report},
    envelope::{ENVELOPE_BYTES, Speaks},
    exchange::{Exchange, OverPeers},
    secrecy::Secrecy,
    traffic::Traffic,
    wire::Wire,
};
use crate::{
    events::Events,
    replication::{frames::RefusalCode, peers::Peers},
};

/// How long a caller of the handle waits for the engine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// An exchange with an address may take this long, connecting included.
const CONTACT_TIMEOUT: Duration = Duration::from_secs(15);
/// A seed silent for so long is told in the node's status, milliseconds.
const SEED_SILENT_MS: i64 = 60_000;
/// Questions of exchanges served at once; who is turned away tries again later.
const SERVING_MAX: usize = 16;
/// The farewell may take this long.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(1200);

/// What the driver needs to start.
pub struct GossipParts {
    pub config: GossipConfig,
    pub cluster_id: ClusterId,
    /// This node, alive.
    pub local: MemberState,
    /// The UDP socket on the node's port.
    pub socket: std::net::UdpSocket,
    pub seeds: Vec<String>,
    /// Members known from earlier lives, to be tried until they answer: addresses.
    pub remembered: Vec<String>,
    pub peers: Peers,
    pub events: Events,
    /// Takes the round trips of pings, seconds.
    pub round_trips: Histogram,
    /// The keys of the gossip, where there are any.
    pub secrecy: Option<Secrecy>,
    pub stop: CancellationToken,
}

/// Cheap handle of the running engine. The engine ends with its stop token or its last handle.
#[derive(Clone)]
pub struct GossipHandle {
    shared: Arc<Shared>,
}

struct Shared {
    config: GossipConfig,
    node: NodeId,
    /// That of the process.
    generation: Generation,
    local: watch::Sender<LocalState>,
    commands: mpsc::Sender<Command>,
    published: Arc<Published>,
    traffic: Arc<Traffic>,
    /// Questions of exchanges that are served at once.
    serving: Semaphore,
}

/// The parts, with TCP behind a trait.
struct EngineParts<E> {
    config: GossipConfig,
    cluster_id: ClusterId,
    local: MemberState,
    socket: std::net::UdpSocket,
    seeds: Vec<String>,
    remembered: Vec<String>,
    exchange: E,
    events: Events,
    round_trips: Histogram,
    secrecy: Option<Secrecy>,
    speaks: Speaks,
    stop: CancellationToken,
}

impl GossipHandle {
    /// Starts the engine's task; `members` are merged first (from the seed's welcome). Needs a
    /// tokio runtime.
    pub fn start(parts: GossipParts, members: Vec<MemberState>) -> Self {
        let exchange = OverPeers {
            peers: parts.peers,
            cluster: parts.cluster_id.clone(),
        };
        let engine = EngineParts {
            config: parts.config,
            cluster_id: parts.cluster_id,
            local: parts.local,
            socket: parts.socket,
            seeds: parts.seeds,
            remembered: parts.remembered,
            exchange,
            events: parts.events,
            round_trips: parts.round_trips,
            secrecy: parts.secrecy,
            speaks: Speaks::OURS,
            stop: parts.stop,
        };
        Self::start_engine(engine, members)
    }

    fn start_engine<E: Exchange>(parts: EngineParts<E>, members: Vec<MemberState>) -> Self {
        let clock = Clock::start();
        let now = clock.now();
        let (node, generation) = (parts.local.id.clone(), parts.local.generation);
        let local = LocalState {
            lifecycle: parts.local.lifecycle,
            ring: parts.local.ring,
            load: parts.local.load,
        };
        let wire = Wire::new(
            parts.local.id.clone(),
            parts.cluster_id.clone(),
            parts.speaks,
            parts.secrecy.clone(),
            parts.config.packet_bytes_max,
        );
        let mut config = parts.config.clone();
        // the core counts with a plain envelope
        let sealing = wire::overhead_bytes(parts.secrecy.as_ref()) - ENVELOPE_BYTES;
        config.packet_bytes_max = config.packet_bytes_max.saturating_sub(sealing);
        let mut core = Core::new(
            config,
            parts.cluster_id.clone(),
            parts.local,
            parts.seeds,
            SmallRng::from_os_rng(),
            now,
        );
        core.remember(parts.remembered);
        core.welcome(now, members.into_iter().map(Arc::new).collect());
        let (local, local_seen) = watch::channel(local);
        let (commands, commands_taken) = mpsc::channel(COMMANDS_MAX);
        let report = Report {
            status: core.status(0),
            rumors: core.rumors(),
        };
        let published = Arc::new(Published {
            members: watch::Sender::new(Arc::new(core.views(now))),
            notices: watch::Sender::new(None),
            report: watch::Sender::new(Arc::new(report)),
        });
        let traffic = Arc::new(Traffic::default());
        match async_socket(parts.socket) {
            Ok(socket) => {
                let driver = Driver {
                    core,
                    wire,
                    clock,
                    cluster: parts.cluster_id,
                    socket,
                    exchange: parts.exchange,
                    events: parts.events,
                    published: Arc::clone(&published),
                    traffic: Arc::clone(&traffic),
                    local: local_seen,
                    commands: commands_taken,
                    stop: parts.stop,
                    round_trips: parts.round_trips,
                };
                tokio::spawn(driver.run());
            }
            Err(error) => {
                let text = format!("gossip cannot use its UDP socket, this node stops: {error}");
                parts.events.error(EventCode::NodeStopping, None, text);
                parts.stop.cancel();
            }
        }
        let shared = Shared {
            config: parts.config,
            node,
            generation,
            local,
            commands,
            published,
            traffic,
            serving: Semaphore::new(SERVING_MAX),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// All members but those that left, sorted by id.
    pub fn members(&self) -> Members {
        Arc::clone(&self.shared.published.members.borrow())
    }

    /// The life this node speaks in: that of its process, or a later one in which it refuted what
    /// nothing else was above.
    pub fn generation(&self) -> Generation {
        let members = self.shared.published.members.borrow();
        let own = members.iter().find(|m| m.state.id == self.shared.node);
        own.map_or(self.shared.generation, |m| m.state.generation)
    }

    /// Wakes when the list changed in anything but counters, times and load.
    pub fn watch(&self) -> watch::Receiver<Members> {
        self.shared.published.members.subscribe()
    }

    pub fn notices(&self) -> watch::Receiver<Option<GossipNotice>> {
        let mut notices = self.shared.published.notices.subscribe();
        // a notice given before somebody listened is news all the same
        if notices.borrow().is_some() {
            notices.mark_changed();
        }
        notices
    }

    pub fn set_lifecycle(&self, lifecycle: Lifecycle) {
        self.set_local(|local| local.lifecycle = lifecycle);
    }

    pub fn set_ring(&self, ring: RingStamp) {
        self.set_local(|local| local.ring = ring);
    }

    pub fn set_load(&self, load: Load) {
        self.set_local(|local| local.load = load);
    }

    fn set_local(&self, change: impl FnOnce(&mut LocalState)) {
        self.shared.local.send_if_modified(|local| {
            let before = *local;
            change(local);
            *local != before
        });
    }

    /// Takes a joiner in; returns all this node knows.
    pub async fn admit(&self, member: MemberState) -> Vec<MemberState> {
        let admit = |reply| Command::Admit { member, reply };
        match self.ask(admit, COMMAND_TIMEOUT).await {
            Ok(states) => states,
            // stopped or drowned: what was last known is still true enough
            Err(_) => self.states(),
        }
    }

    /// Server half of a full-state exchange: the answer to a question that `from` asks over TCP.
    pub async fn exchange(&self, from: &NodeId, message: Vec<u8>) -> Served {
        let busy = |reason: &str| Served::Refused {
            code: RefusalCode::TooBusy,
            reason: reason.to_owned(),
        };
        let Ok(_place) = self.shared.serving.try_acquire() else {
            return busy("too many exchanges of gossip are under way");
        };
        let from = from.clone();
        let serve = |reply| Command::Serve {
            from,
            message,
            reply,
        };
        match self.ask(serve, COMMAND_TIMEOUT).await {
            Ok(served) => served,
            Err(_) => busy("the gossip engine does not answer"),
        }
    }

    /// What went over the network since the start.
    pub fn traffic(&self) -> GossipTraffic {
        self.shared.traffic.read()
    }

    /// All members but those that left.
    pub fn states(&self) -> Vec<MemberState> {
        let members = self.members();
        members.iter().map(|m| (*m.state).clone()).collect()
    }

    /// Push/pull with that address now; returns who answered.
    pub async fn contact(&self, address: &str) -> anyhow::Result<NodeId> {
        let address = address.to_owned();
        let contact = |reply| Command::Contact { address, reply };
        Ok(self.ask(contact, CONTACT_TIMEOUT).await??)
    }

    pub fn status(&self) -> GossipStatus {
        GossipStatus {
            traffic: self.traffic(),
            ..self.shared.published.report.borrow().status.clone()
        }
    }

    /// The same in short, for the node's status.
    pub fn health(&self) -> GossipHealth {
        let report = self.shared.published.report.borrow();
        let status = &report.status;
        let now = Timestamp::now().as_millisecond();
        let long_silent = |since: Timestamp| now - since.as_millisecond() >= SEED_SILENT_MS;
        let seeds = status.seeds.iter();
        let unreachable = seeds.filter(|s| s.silent_since.is_some_and(long_silent));
        GossipHealth {
            health_score: status.health_score,
            health_reasons: status.health_reasons.clone(),
            udp_blocked: status.udp_blocked.clone(),
            own_udp_blocked_since: status.own_udp_blocked_since,
            seeds_unreachable: unreachable.map(|s| s.address.clone()).collect(),
        }
    }

    pub fn config_info(&self) -> GossipConfigInfo {
        let members = self.members();
        let reachable = members.iter().filter(|m| m.state.status.is_reachable());
        self.shared.config.in_words(reachable.count())
    }

    pub fn rumors(&self) -> Vec<Rumor> {
        self.shared.published.report.borrow().rumors.clone()
    }

    /// Tells the others that this node stops on purpose; returns when it was sent (bounded).
    pub async fn announce_stopped(&self) {
        self.announce(MemberStatus::Stopped).await;
    }

    /// The same, for good: it is no member of the ring any more.
    pub async fn announce_left(&self) {
        self.announce(MemberStatus::Left).await;
    }

    /// A member that is down is not coming back: it is not listed any more. Nothing happens
    /// when it is not held dead or stopped. Dropped when the engine is drowned: say it again.
    pub fn bury(&self, node: &NodeId) {
        let node = node.clone();
        let _ = self.shared.commands.try_send(Command::Bury { node });
    }

    /// A node of another cluster was turned away at the door for nodes: it is counted and told.
    /// Dropped when the engine is drowned.
    pub fn met_stranger(&self, who: &NodeId, theirs: &ClusterId) {
        let (source, theirs) = (who.to_string(), theirs.to_string());
        let met = Command::Stranger { source, theirs };
        let _ = self.shared.commands.try_send(met);
    }

    async fn announce(&self, last: MemberStatus) {
        let announce = |reply| Command::Announce { last, reply };
        if let Err(error) = self.ask(announce, FAREWELL_TIMEOUT).await {
            tracing::debug!(%error, "the farewell was cut short");
        }
    }

    /// One command and its answer, within `patience`.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
        patience: Duration,
    ) -> anyhow::Result<T> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let sent = self.shared.commands.send(command(reply)).await;
            sent.map_err(|_| anyhow!("gossip has stopped"))?;
            answer.await.map_err(|_| anyhow!("gossip has stopped"))
        };
        tokio::time::timeout(patience, asked)
            .await
            .context("gossip did not answer in time")?
    }
}

fn async_socket(socket: std::net::UdpSocket) -> std::io::Result<tokio::net::UdpSocket> {
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket)
}
