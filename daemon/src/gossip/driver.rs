//! The task around the core: one UDP socket, names, TCP work, commands, and what others read.
//!
//! Nothing here waits for a peer: packets that do not fit the socket's buffer are dropped (gossip
//! repeats itself), lookups and TCP calls run aside in bounded numbers and report back.

use std::{collections::HashSet, io, net::SocketAddr, sync::Arc, time::Duration};

use ringmaster_shared::{
    api::membership::{GossipStatus, Rumor},
    id::{ClusterId, NodeId},
    member::{Lifecycle, Load, MemberStatus, RingStamp},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    GossipNotice, MemberState, Members,
    addresses::{self, Addresses, Route},
    claim::Now,
    codec::{self, CodecError, DATAGRAM_BYTES_MAX, Packet},
    core::{Core, Dest, Happening, Output},
    exchange::Exchange,
    rejected::Rejected,
    report,
};
use crate::{events::Events, replication::peers::PeerError};

/// Commands that may wait.
pub const COMMANDS_MAX: usize = 256;
/// Full-state exchanges under way that this node started.
const EXCHANGES_MAX: usize = 8;
/// Everything under way: lookups, probes, exchanges.
const JOBS_MAX: usize = 64;
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A farewell's exchange has to be over within the stop's patience.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(800);
/// Packets taken in before the loop looks at anything else.
const PACKETS_AT_ONCE: usize = 64;
/// Unreadable packets are logged at most this often.
const LOG_GAP_MS: u64 = 60_000;

/// What the handle asks of the task.
pub enum Command {
    Merge {
        from: NodeId,
        theirs: Vec<MemberState>,
        reply: oneshot::Sender<Vec<MemberState>>,
    },
    Contact {
        address: String,
        reply: oneshot::Sender<Result<NodeId, PeerError>>,
    },
    /// This node goes down as this, and is silent then.
    Announce {
        last: MemberStatus,
        reply: oneshot::Sender<()>,
    },
    Bury {
        node: NodeId,
    },
}

/// What the node says of itself; the latest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalState {
    pub lifecycle: Lifecycle,
    pub ring: RingStamp,
    pub load: Load,
}

/// What readers see.
pub struct Published {
    pub members: watch::Sender<Members>,
    pub notices: watch::Sender<Option<GossipNotice>>,
    pub report: watch::Sender<Arc<Report>>,
}

/// Figures of the engine.
pub struct Report {
    pub status: GossipStatus,
    pub rumors: Vec<Rumor>,
}

/// What ended aside.
enum Done {
    LookedUp {
        address: String,
        found: Vec<SocketAddr>,
    },
    Probed {
        seq: u32,
        node: NodeId,
        address: String,
        answer: Result<NodeId, PeerError>,
    },
    Exchanged {
        address: String,
        answer: Result<(NodeId, Vec<MemberState>), PeerError>,
        reply: Option<oneshot::Sender<Result<NodeId, PeerError>>>,
    },
}

pub struct Driver<E> {
    pub core: Core,
    pub clock: Clock,
    pub cluster: ClusterId,
    pub socket: UdpSocket,
    pub exchange: E,
    pub events: Events,
    pub published: Arc<Published>,
    pub local: watch::Receiver<LocalState>,
    pub commands: mpsc::Receiver<Command>,
    pub stop: CancellationToken,
    /// How long a fallback probe may take.
    pub tcp_probe_timeout: Duration,
}

/// The monotonic clock of one engine, and the wall clock beside it.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(self) -> Now {
        Now {
            ms: self.0.elapsed().as_millis() as u64,
            unix_ms: crate::time::unix_ms(),
        }
    }

    fn instant(self, ms: u64) -> Instant {
        // far enough for a timer that is not wanted
        self.0 + Duration::from_millis(ms.min(u64::from(u32::MAX)))
    }
}

/// What the loop keeps between its turns.
struct Turn {
    addresses: Addresses,
    jobs: JoinSet<Done>,
    exchanges: usize,
    /// Addresses an exchange is under way with.
    exchanging: HashSet<String>,
    farewell: Option<oneshot::Sender<()>>,
    seen_revision: u64,
    publish_after_ms: u64,
    dirty: bool,
    next_log_ms: u64,
    receive_errors: u32,
}

impl<E: Exchange> Driver<E> {
    /// Runs until it is told to stop or all handles are gone.
    pub async fn run(mut self) {
        let mut turn = Turn {
            addresses: Addresses::new(self.socket.local_addr().ok()),
            jobs: JoinSet::new(),
            exchanges: 0,
            exchanging: HashSet::new(),
            farewell: None,
            seen_revision: self.core.revision(),
            publish_after_ms: 0,
            dirty: true,
            next_log_ms: 0,
            receive_errors: 0,
        };
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let wake = self.wake_ms(&turn);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                changed = self.local.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.take_local();
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(&mut turn, command),
                    None => break,
                },
                Some(done) = turn.jobs.join_next(), if !turn.jobs.is_empty() => {
                    if let Ok(done) = done {
                        self.finish(&mut turn, done);
                    }
                }
                ready = self.socket.readable() => self.receive(&mut turn, &mut buffer, ready).await,
                () = tokio::time::sleep_until(self.clock.instant(wake)) => {}
            }
            turn.dirty = true;
            let now = self.clock.now();
            // whatever woke the loop: a flood of packets must not hold the probes up
            if now.ms >= self.core.next_wake() {
                self.core.tick(now);
            }
            self.flush(&mut turn);
            self.publish(&mut turn, false);
            self.end_farewell(&mut turn);
        }
        self.publish(&mut turn, true);
    }

    fn wake_ms(&self, turn: &Turn) -> u64 {
        let core = self.core.next_wake();
        if turn.dirty {
            core.min(turn.publish_after_ms)
        } else {
            core
        }
    }

    fn take_local(&mut self) {
        let local = *self.local.borrow_and_update();
        self.core.set_local(local.lifecycle, local.ring, local.load);
    }

    // ---- packets ----------------------------------------------------------------------------

    async fn receive(&mut self, turn: &mut Turn, buffer: &mut [u8], ready: io::Result<()>) {
        let mut error = ready.err();
        for _ in 0..PACKETS_AT_ONCE {
            match self.socket.try_recv_from(buffer) {
                Ok((length, source)) => {
                    turn.receive_errors = 0;
                    self.take_packet(turn, source, &buffer[..length]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
        let Some(error) = error else { return };
        // some systems report a peer's closed port here; a real fault must not spin the loop
        turn.receive_errors = turn.receive_errors.saturating_add(1);
        if turn.receive_errors > 3 {
            self.log(turn, || {
                format!("gossip cannot read its UDP socket: {error}")
            });
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn take_packet(&mut self, turn: &mut Turn, source: SocketAddr, bytes: &[u8]) {
        let now = self.clock.now();
        match codec::decode(bytes) {
            Ok(packet) => self.core.handle(now, source, packet),
            Err(error) => {
                self.core.count_rejected(match error {
                    CodecError::Version(_) => Rejected::Version,
                    _ => Rejected::Damaged,
                });
                self.log(turn, || {
                    format!(
                        "a packet of {} bytes from {source} is dropped: {error}",
                        bytes.len()
                    )
                });
            }
        }
    }

    /// One line a minute at most; the counter has the rest.
    fn log(&self, turn: &mut Turn, line: impl FnOnce() -> String) {
        let now = self.clock.now().ms;
        if now >= turn.next_log_ms {
            turn.next_log_ms = now + LOG_GAP_MS;
            tracing::warn!("{}", line());
        }
    }

    fn flush(&mut self, turn: &mut Turn) {
        for output in self.core.take_outputs() {
            match output {
                Output::Send { to, packet } => self.send(turn, to, &packet),
                Output::TcpProbe { seq, node, address } => {
                    self.probe_by_tcp(turn, seq, node, address);
                }
                Output::Exchange { address } => self.start_exchange(turn, address, None),
                Output::Happened(happening) => {
                    self.note(&happening);
                    report::report(&self.events, &self.cluster, &happening);
                }
            }
        }
    }

    fn note(&self, happening: &Happening) {
        if let Happening::Superseded {
            address,
            generation,
        } = happening
        {
            self.published
                .notices
                .send_replace(Some(GossipNotice::Superseded {
                    address: address.clone(),
                    generation: *generation,
                }));
        }
    }

    fn send(&mut self, turn: &mut Turn, to: Dest, packet: &Packet) {
        let Ok(bytes) = codec::encode(packet) else {
            return;
        };
        let address = match to {
            Dest::Source(source) => return self.send_bytes(source, &bytes),
            Dest::Address(address) => address,
        };
        match turn.addresses.route(&address, &bytes, self.clock.now().ms) {
            Route::Now(to) => self.send_bytes(to, &bytes),
            Route::NowAndLookUp(to) => {
                self.send_bytes(to, &bytes);
                look_up(turn, address);
            }
            Route::LookUp => look_up(turn, address),
            Route::Wait => {}
        }
    }

    fn send_bytes(&self, to: SocketAddr, bytes: &[u8]) {
        // a full buffer or an unreachable network is a lost packet, which the protocol expects
        if let Err(error) = self.socket.try_send_to(bytes, to) {
            tracing::trace!(%to, %error, "packet not sent");
        }
    }

    // ---- work aside -------------------------------------------------------------------------

    fn probe_by_tcp(&self, turn: &mut Turn, seq: u32, node: NodeId, address: String) {
        turn.addresses.doubt(&address);
        if turn.jobs.len() >= JOBS_MAX {
            return;
        }
        let (exchange, timeout) = (self.exchange.clone(), self.tcp_probe_timeout);
        turn.jobs.spawn(async move {
            let answer = exchange.ping(&address, timeout).await;
            Done::Probed {
                seq,
                node,
                address,
                answer,
            }
        });
    }

    fn start_exchange(
        &mut self,
        turn: &mut Turn,
        address: String,
        reply: Option<oneshot::Sender<Result<NodeId, PeerError>>>,
    ) {
        let busy = turn.exchanges >= EXCHANGES_MAX;
        let repeated = reply.is_none() && turn.exchanging.contains(&address);
        if busy || repeated {
            match reply {
                Some(reply) => {
                    let _ = reply.send(Err(PeerError::Full { address }));
                }
                None if !repeated => self.core.exchange_not_started(address),
                None => {}
            }
            return;
        }
        let (exchange, states) = (self.exchange.clone(), self.states());
        let timeout = if turn.farewell.is_some() {
            FAREWELL_TIMEOUT
        } else {
            EXCHANGE_TIMEOUT
        };
        turn.exchanges += 1;
        turn.exchanging.insert(address.clone());
        turn.jobs.spawn(async move {
            let answer = exchange.push_pull(&address, states, timeout).await;
            Done::Exchanged {
                address,
                answer,
                reply,
            }
        });
    }

    fn finish(&mut self, turn: &mut Turn, done: Done) {
        let now = self.clock.now();
        match done {
            Done::LookedUp { address, found } => {
                if found.is_empty() {
                    self.log(turn, || format!("{address} cannot be resolved; trying on"));
                }
                let known = turn.addresses.resolved(&address, &found, now.ms);
                if let Some((to, packets)) = known {
                    for bytes in packets {
                        self.send_bytes(to, &bytes);
                    }
                }
            }
            Done::Probed {
                seq,
                node,
                address,
                answer,
            } => match answer {
                Ok(by) if by == node => self.core.tcp_answered(now, seq),
                Ok(by) => tracing::debug!(%address, wanted = %node, found = %by, "another node"),
                Err(error) => tracing::debug!(%error, "fallback probe failed"),
            },
            Done::Exchanged {
                address,
                answer,
                reply,
            } => {
                turn.exchanges = turn.exchanges.saturating_sub(1);
                turn.exchanging.remove(&address);
                let result = self.take_exchanged(now, &address, answer);
                if let Some(reply) = reply {
                    // who asked finds the merged list when the answer is there
                    self.publish(turn, true);
                    let _ = reply.send(result);
                }
            }
        }
    }

    /// Everything this node knows, for the wire.
    fn states(&self) -> Vec<MemberState> {
        let known = self.core.states();
        known.into_iter().map(Arc::unwrap_or_clone).collect()
    }

    fn take_exchanged(
        &mut self,
        now: Now,
        address: &str,
        answer: Result<(NodeId, Vec<MemberState>), PeerError>,
    ) -> Result<NodeId, PeerError> {
        match answer {
            Ok((by, states)) => {
                self.core.contact_answered(address, &by);
                let states = states.into_iter().map(Arc::new).collect();
                self.core.merge(now, &by, states);
                Ok(by)
            }
            Err(error) => {
                if let PeerError::WrongCluster { theirs, .. } = &error {
                    self.core.contact_is_foreign(now, address, theirs);
                }
                tracing::debug!(%error, "exchange failed");
                Err(error)
            }
        }
    }

    // ---- commands ---------------------------------------------------------------------------

    fn obey(&mut self, turn: &mut Turn, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Merge {
                from,
                theirs,
                reply,
            } => {
                let theirs = theirs.into_iter().map(Arc::new).collect();
                self.core.merge(now, &from, theirs);
                self.publish(turn, true);
                let _ = reply.send(self.states());
            }
            Command::Contact { address, reply } => {
                self.start_exchange(turn, address, Some(reply));
            }
            Command::Announce { last, reply } => {
                self.take_local();
                turn.farewell = Some(reply);
                self.core.stop(now, last);
            }
            Command::Bury { node } => self.core.bury(now, &node),
        }
    }

    fn end_farewell(&mut self, turn: &mut Turn) {
        let over = self.core.is_silent() && turn.exchanges == 0;
        if let Some(reply) = turn.farewell.take_if(|_| over) {
            self.publish(turn, true);
            let _ = reply.send(());
        }
    }

    // ---- what others read -------------------------------------------------------------------

    /// Publishes what changed. At once in a small cluster; in a large one the copies are made
    /// less often than packets arrive.
    fn publish(&mut self, turn: &mut Turn, at_once: bool) {
        let now = self.clock.now();
        if !at_once && (!turn.dirty || now.ms < turn.publish_after_ms) {
            return;
        }
        turn.dirty = false;
        turn.publish_after_ms = now.ms + self.core.others() as u64 / 8;
        let revision = self.core.revision();
        let changed = std::mem::replace(&mut turn.seen_revision, revision) != revision;
        let views = Arc::new(self.core.views(now));
        // without a change the value is replaced, but nobody is woken
        self.published.members.send_if_modified(|members| {
            *members = views;
            changed
        });
        let queue_depth = turn.jobs.len() + self.commands.len() + turn.addresses.waiting();
        self.published.report.send_replace(Arc::new(Report {
            status: self.core.status(queue_depth),
            rumors: self.core.rumors(),
        }));
    }
}

fn look_up(turn: &mut Turn, address: String) {
    if turn.jobs.len() >= JOBS_MAX {
        return turn.addresses.not_started(&address);
    }
    turn.jobs.spawn(async move {
        let found = addresses::look_up(address.clone()).await;
        Done::LookedUp { address, found }
    });
}
