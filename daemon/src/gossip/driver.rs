//! The task around the core: one UDP socket, names, TCP work, commands, and what others read.
//!
//! Nothing here waits for a peer: packets that do not fit the socket's buffer are dropped (gossip
//! repeats itself), lookups and TCP calls run aside in bounded numbers and report back.

mod datagrams;
mod exchanges;

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::metrics::histogram::Histogram;
use ringmaster_shared::{
    api::membership::{GossipQueues, GossipStatus, Rumor},
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

use self::exchanges::Conversation;
pub use self::exchanges::Served;
use super::{
    GossipNotice, MemberState, Members,
    addresses::{self, Addresses},
    claim::Now,
    codec::Body,
    core::{Core, Happening, Output},
    exchange::{Exchange, Said},
    ledger::{self, Ledger},
    report::Reporter,
    secrecy::complaints::Complaints,
    traffic::Traffic,
    wire::Wire,
};
use crate::{events::Events, replication::peers::PeerError};

/// Commands that may wait.
pub const COMMANDS_MAX: usize = 256;
/// Everything under way: lookups, probes, exchanges.
const JOBS_MAX: usize = 64;
/// Packets taken in before the loop looks at anything else.
const PACKETS_AT_ONCE: usize = 64;
/// The loop turns at least this often.
const TIMER_MS_MAX: u64 = 24 * 3600 * 1000;
/// Unreadable packets are logged at most this often.
const LOG_GAP_MS: u64 = 60_000;

/// What the handle asks of the task.
pub enum Command {
    /// A question of somebody else's exchange.
    Serve {
        from: NodeId,
        message: Vec<u8>,
        reply: oneshot::Sender<Served>,
    },
    /// Somebody asks to be let in.
    Admit {
        member: MemberState,
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
    /// Somebody of another cluster was turned away.
    Stranger {
        source: String,
        theirs: String,
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
enum Done<V> {
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
    Said {
        conversation: Box<Conversation>,
        said: Result<Said<V>, PeerError>,
    },
}

pub struct Driver<E> {
    pub core: Core,
    pub wire: Wire,
    pub clock: Clock,
    pub cluster: ClusterId,
    pub socket: UdpSocket,
    pub exchange: E,
    pub events: Events,
    pub published: Arc<Published>,
    pub traffic: Arc<Traffic>,
    pub local: watch::Receiver<LocalState>,
    pub commands: mpsc::Receiver<Command>,
    pub stop: CancellationToken,
    /// Round trips of pings, seconds.
    pub round_trips: Histogram,
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

    /// Microseconds since the start.
    fn us(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// `ms` after the start; no later than a day from now, for a timer that is not wanted.
    fn instant(self, ms: u64) -> Instant {
        let latest = self.now().ms.saturating_add(TIMER_MS_MAX);
        self.0 + Duration::from_millis(ms.min(latest))
    }
}

/// What the loop keeps between its turns.
struct Turn<E: Exchange> {
    addresses: Addresses,
    jobs: JoinSet<Done<E::Visit>>,
    /// Addresses an exchange is under way with that this node began.
    exchanging: HashSet<String>,
    farewell: Option<oneshot::Sender<()>>,
    seen_revision: u64,
    publish_after_ms: u64,
    dirty: bool,
    next_log_ms: u64,
    next_card_ms: u64,
    complaints: Complaints,
    receive_errors: u32,
    ledger: Ledger,
    reporter: Reporter,
}

impl<E: Exchange> Driver<E> {
    /// Runs until it is told to stop or all handles are gone.
    pub async fn run(mut self) {
        let mut turn = Turn {
            addresses: Addresses::new(self.socket.local_addr().ok()),
            jobs: JoinSet::new(),
            exchanging: HashSet::new(),
            farewell: None,
            seen_revision: self.core.revision(),
            publish_after_ms: 0,
            dirty: true,
            next_log_ms: 0,
            next_card_ms: 0,
            complaints: Complaints::default(),
            receive_errors: 0,
            ledger: Ledger::default(),
            reporter: Reporter::new(self.events.clone(), self.cluster.clone()),
        };
        // one byte more than is read, to tell what is longer
        let mut buffer = vec![0; self.wire.datagram_bytes_max() + 1];
        loop {
            let wake = self.wake_ms(&turn);
            let mut ready = Ok(());
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
                socket = self.socket.readable() => ready = socket,
                () = tokio::time::sleep_until(self.clock.instant(wake)) => {}
            }
            // whatever woke the loop: however many commands there are, packets and what ended
            // aside have their turn
            self.receive(&mut turn, &mut buffer, ready).await;
            if let Some(Ok(done)) = turn.jobs.try_join_next() {
                self.finish(&mut turn, done);
            }
            turn.dirty = true;
            let now = self.clock.now();
            // whatever woke the loop: a flood of packets must not hold the probes up
            if now.ms >= self.core.next_wake() {
                self.core.tick(now);
            }
            self.flush(&mut turn);
            self.look_after(&mut turn);
            self.publish(&mut turn, false);
            self.end_farewell(&mut turn);
        }
        self.publish(&mut turn, true);
    }

    fn wake_ms(&self, turn: &Turn<E>) -> u64 {
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

    // ---- what the core wants ----------------------------------------------------------------

    /// One line a minute at most; the counter has the rest.
    fn log(&self, turn: &mut Turn<E>, line: impl FnOnce() -> String) {
        let now = self.clock.now().ms;
        if now >= turn.next_log_ms {
            turn.next_log_ms = now + LOG_GAP_MS;
            tracing::warn!("{}", line());
        }
    }

    fn flush(&mut self, turn: &mut Turn<E>) {
        for output in self.core.take_outputs() {
            match output {
                Output::Send { to, packet } => {
                    if let Body::Ping { seq } = packet.body {
                        turn.ledger.ping_sent(seq, self.clock.us());
                    }
                    self.send(turn, to, &packet);
                }
                Output::TcpProbe {
                    seq,
                    node,
                    address,
                    within_ms,
                } => {
                    let within = Duration::from_millis(within_ms);
                    self.probe_by_tcp(turn, (seq, node), address, within);
                }
                Output::Exchange { address } => self.start_exchange(turn, address, None),
                Output::Happened(happening) => {
                    self.note(&happening);
                    turn.ledger.happened(&happening);
                    turn.reporter.report(self.clock.now().ms, &happening);
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

    // ---- work aside -------------------------------------------------------------------------

    fn probe_by_tcp(
        &self,
        turn: &mut Turn<E>,
        (seq, node): (u32, NodeId),
        address: String,
        within: Duration,
    ) {
        turn.addresses.doubt(&address);
        if turn.jobs.len() >= JOBS_MAX {
            return;
        }
        let exchange = self.exchange.clone();
        turn.jobs.spawn(async move {
            let answer = exchange.ping(&address, within).await;
            Done::Probed {
                seq,
                node,
                address,
                answer,
            }
        });
    }

    fn finish(&mut self, turn: &mut Turn<E>, done: Done<E::Visit>) {
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
            Done::Said { conversation, said } => self.go_on(turn, *conversation, said),
        }
    }

    /// Everything this node knows, for the wire.
    fn states(&self) -> Vec<MemberState> {
        let known = self.core.states();
        known.into_iter().map(Arc::unwrap_or_clone).collect()
    }

    // ---- commands ---------------------------------------------------------------------------

    fn obey(&mut self, turn: &mut Turn<E>, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Serve {
                from,
                message,
                reply,
            } => {
                let served = self.serve(turn, &from, &message);
                self.publish_change(turn);
                let _ = reply.send(served);
            }
            Command::Admit { member, reply } => {
                let from = member.id.clone();
                self.core.merge(now, &from, vec![Arc::new(member)]);
                self.publish_change(turn);
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
            Command::Stranger { source, theirs } => {
                self.core.contact_is_foreign(now, &source, &theirs);
            }
        }
    }

    fn end_farewell(&mut self, turn: &mut Turn<E>) {
        let over = self.core.is_silent() && turn.exchanging.is_empty();
        if let Some(reply) = turn.farewell.take_if(|_| over) {
            self.publish(turn, true);
            let _ = reply.send(());
        }
    }

    // ---- what others read -------------------------------------------------------------------

    /// Publishes what changed. At once in a small cluster; in a large one the copies are made
    /// less often than packets arrive.
    fn publish(&mut self, turn: &mut Turn<E>, at_once: bool) {
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
        let report = self.report(turn, now);
        self.published.report.send_replace(Arc::new(report));
    }

    /// At once, if there is any: who asked finds it when the answer is there. A question that
    /// changed nothing costs no copies of the whole list.
    fn publish_change(&mut self, turn: &mut Turn<E>) {
        if self.core.revision() != turn.seen_revision {
            self.publish(turn, true);
        }
    }

    fn report(&self, turn: &Turn<E>, now: Now) -> Report {
        let queues = GossipQueues {
            waiting_for_names: turn.addresses.waiting(),
            exchanges: turn.exchanging.len(),
            jobs: turn.jobs.len().saturating_sub(turn.exchanging.len()),
            commands: self.commands.len(),
            ..GossipQueues::default()
        };
        let queue_depth = turn.jobs.len() + queues.commands + queues.waiting_for_names;
        let mut status = self.core.status(queue_depth);
        status.queues = queues;
        status.counts = turn.ledger.counts();
        let since = now.ms.saturating_sub(ledger::WINDOW_MS);
        let ended = self.core.probe_log().since(since);
        status.probes = turn.ledger.figures(now.ms, ended);
        self.core.tell_more(now, &mut status);
        let rumors = self.core.rumors();
        Report { status, rumors }
    }

    /// What is worth a word although nothing particular happened.
    fn look_after(&self, turn: &mut Turn<E>) {
        let now = self.clock.now();
        let view = self.core.health(now);
        if let Some(news) = turn.ledger.health(now.ms, view.score) {
            turn.reporter.health(now.ms, news, &view);
        }
        turn.reporter.catch_up(now.ms);
    }
}

fn look_up<E: Exchange>(turn: &mut Turn<E>, address: String) {
    if turn.jobs.len() >= JOBS_MAX {
        return turn.addresses.not_started(&address);
    }
    turn.jobs.spawn(async move {
        let found = addresses::look_up(address.clone()).await;
        Done::LookedUp { address, found }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 49.7 days are as many milliseconds as 32 bits hold.
    #[test]
    fn a_timer_is_as_far_away_as_it_was_set_however_long_the_engine_runs() {
        for days in [0, 49, 50, 3000] {
            let uptime = Duration::from_secs(days * 24 * 3600);
            let start = Instant::now().checked_sub(uptime).expect("there is time");
            let clock = Clock(start);
            for ahead in [0, 1, 5_000, 3_600_000] {
                let at = clock.now().ms + ahead;
                let exactly = start + Duration::from_millis(at);
                assert_eq!(clock.instant(at), exactly, "{days} days, {ahead} ms");
            }
            assert!(clock.instant(u64::MAX) > Instant::now() + Duration::from_secs(3600));
        }
    }
}
