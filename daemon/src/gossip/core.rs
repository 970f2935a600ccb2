//! The protocol: SWIM as one state machine without I/O, clock or randomness of its own.
//!
//! Packets, exchanged lists and the time go in; packets to send, TCP work to do and happenings
//! come out through [`Core::take_outputs`]. Same inputs and same seed, same outputs: the
//! simulator stands on that.
//!
//! Invariants. A member's (generation, incarnation) never falls. A member held dead comes back
//! only by a claim with a higher one, which only the member itself can start. This node's own
//! status is never anything but alive until [`Core::stop`], after which it is silent for good.
//!
//! Left to others: sockets, names and encodings (`driver.rs`), which claim wins (`claim.rs`).

mod awareness;
pub mod broken;
mod catching_up;
mod contacts;
mod exchanging;
mod farewell;
mod hearsay;
#[cfg(test)]
pub mod inspected;
mod known;
mod packets;
mod probe;
pub(super) mod probe_log;
mod probing;
mod reconciling;
mod relays;
mod seeds;
pub(super) mod suspicion;
mod udp;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rand::{Rng, rngs::SmallRng};
use ringmaster_shared::{
    id::{ClusterId, Generation, Incarnation, NodeId},
    member::{Freshness, Lifecycle, Load, MemberStatus, RingStamp},
};

use self::{
    awareness::Awareness, contacts::Contacts, exchanging::Greeting, probe::Probe,
    probe_log::ProbeLog, relays::Relays, seeds::Seeds, suspicion::Suspicion, udp::Udp,
};
use super::{
    GossipConfig, MemberState, Strain,
    claim::{self, Claim, Now},
    codec::{Brief, Packet},
    dissemination::{Dissemination, transmit_limit},
    members::MemberList,
    rejected::Rejections,
    roster::Slot,
};

/// More members than this are not taken in.
const MEMBERS_MAX: usize = 16_384;
/// How long a member that left is remembered, so that old claims do not bring it back.
pub(super) const LEFT_KEPT_MS: u64 = 24 * 3600 * 1000;
const REAP_INTERVAL_MS: u64 = 60_000;
/// A wall clock that is off by so much was set; less is drift between the two clocks.
const WALL_JUMP_MS: u64 = 1000;
/// A new node exchanges lists again after this, then twice that, and so on up to the interval:
/// rumors sent while the cluster was still small may not have reached everybody.
const FIRST_EXCHANGE_GAP_MS: u64 = 1000;

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// A member's `host:port`.
    Address(String),
    /// Where a packet came from.
    Source(SocketAddr),
}

/// What the core wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Send {
        to: Dest,
        packet: Box<Packet>,
    },
    /// Ask over TCP; report with [`Core::tcp_answered`] when it did answer in time.
    TcpProbe {
        seq: u32,
        node: NodeId,
        address: String,
        /// Until the probe is over; a later answer is of no use.
        within_ms: u64,
    },
    /// Exchange full lists over TCP, from [`Core::begin_exchange`] on; report with
    /// [`Core::contact_answered`], or with [`Core::exchange_not_started`].
    Exchange {
        address: String,
    },
    Happened(Happening),
}

/// What an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    Joined {
        id: NodeId,
        address: String,
    },
    Suspected {
        id: NodeId,
        by: NodeId,
        /// Until it is held dead, at most.
        wait_ms: u64,
        /// The same when others confirm it, or too few are left to.
        least_ms: u64,
    },
    Dead {
        id: NodeId,
        /// Who got no answer.
        accusers: Vec<NodeId>,
        /// How long this node has not heard from it.
        silent_ms: u64,
    },
    Returned {
        id: NodeId,
        was: MemberStatus,
        after_ms: u64,
    },
    Restarted {
        id: NodeId,
        was: MemberStatus,
    },
    Stopped {
        id: NodeId,
    },
    Left {
        id: NodeId,
    },
    AddressChanged {
        id: NodeId,
        from: String,
        to: String,
    },
    SelfRefuted {
        by: NodeId,
        claimed: MemberStatus,
        incarnation: Incarnation,
    },
    UdpBlocked {
        id: NodeId,
        address: String,
    },
    /// Nobody answers over UDP; so many in a row did over TCP alone.
    OwnUdpBlocked {
        address: String,
        over_tcp: usize,
    },
    /// UDP works again: this node's own if there is no `id`.
    UdpOpen {
        id: Option<NodeId>,
        after_ms: u64,
    },
    /// A configured seed has not answered for long.
    SeedUnreachable {
        address: String,
        silent_ms: u64,
        error: Option<String>,
    },
    /// It was said to be unreachable, and is a reachable member now.
    SeedAnswers {
        address: String,
        after_ms: u64,
    },
    Foreign {
        /// Where it came from, or who was contacted.
        source: String,
        theirs: String,
    },
    /// Another process with this node's id and a later generation.
    Superseded {
        address: String,
        generation: Generation,
    },
}

/// Whether the engine still talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Farewell { rounds_left: u32, next_ms: u64 },
    Silent,
}

/// When the recurring work is due, monotonic milliseconds.
struct Due {
    probe: u64,
    /// `None` while there is nothing to tell; the first rumor after that goes out at once.
    gossip: Option<u64>,
    exchange: u64,
    reconnect: u64,
    /// Exchanges for want of UDP.
    catch_up: u64,
    reap: u64,
}

pub struct Core {
    config: GossipConfig,
    cluster: ClusterId,
    local: Arc<MemberState>,
    born: Now,
    /// Wall clock less monotonic clock, for the time stamps people read. Kept as it is while the
    /// wall clock does not jump, so that a time stamp once given does not change.
    wall_offset_ms: u64,
    members: MemberList,
    rumors: Dissemination,
    rng: SmallRng,
    phase: Phase,
    due: Due,
    /// Members in the order they are probed; those gone are dropped when their turn comes.
    rotation: Vec<Slot>,
    cursor: usize,
    /// Whose turn it is before that of the rotation.
    probe_again: Option<NodeId>,
    /// How often that may be in this round of the rotation, lest others wait too long.
    again_left: usize,
    probes: Vec<Probe>,
    relays: Relays,
    health: Awareness,
    /// How this node's latest probes ended.
    log: ProbeLog,
    /// Confirmations that shortened a suspicion.
    confirmed: u64,
    next_seq: u32,
    contacts: Contacts,
    seeds: Seeds,
    udp: Udp,
    introduced: bool,
    greeting: Greeting,
    /// The gap to the next exchange while this node is new; doubles up to the interval.
    exchange_gap_ms: u64,
    superseded_by: Option<Generation>,
    rejected: Rejections,
    /// When this node may take a later generation to refute what nothing else is above.
    next_life_ms: u64,
    /// The last generation that no later start of this node takes, whatever its clock says.
    leased_to: Generation,
    next_foreign_report_ms: u64,
    next_reject_answer_ms: u64,
    next_stranger_answer_ms: u64,
    revision: u64,
    /// The latest time that was handed in.
    last_ms: u64,
    out: Vec<Output>,
    #[cfg(test)]
    broken: Option<broken::Broken>,
    /// Probes that were made out of turn.
    #[cfg(test)]
    probed_again: u64,
}

/// What the sender of a packet lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wants {
    /// What is held of it beats what it says.
    news_of_itself: bool,
    /// This node does not know it in the life and incarnation it speaks of.
    to_be_asked: bool,
    /// It asked who this node is.
    intro: bool,
}

/// Whether what a sender says of itself fits who it says it is; nobody says of itself that it is
/// suspected or dead.
fn is_honest(intro: &MemberState, from: &Brief) -> bool {
    intro.id == from.id
        && claim::freshness(intro) == from.freshness()
        && !matches!(intro.status, MemberStatus::Suspected | MemberStatus::Dead)
}

impl Core {
    /// `contacts` are addresses to be tried until they answer: seeds. See also [`Self::remember`].
    pub fn new(
        config: GossipConfig,
        cluster: ClusterId,
        local: MemberState,
        contacts: impl IntoIterator<Item = String>,
        mut rng: SmallRng,
        now: Now,
    ) -> Self {
        let local = Arc::new(claim::clip(local));
        let leased_to = local.generation.saturating_add(claim::LIVES_LEASED);
        let spread = |rng: &mut SmallRng, ms: u64| now.ms + rng.random_range(0..=ms.max(1));
        let due = Due {
            probe: spread(&mut rng, ms(config.probe_interval)),
            gossip: Some(spread(&mut rng, ms(config.gossip_interval))),
            exchange: now.ms,
            reconnect: now.ms + ms(config.reconnect_interval) / 5,
            catch_up: now.ms,
            reap: now.ms + REAP_INTERVAL_MS,
        };
        let next_seq = rng.random();
        let addresses: Vec<String> = contacts.into_iter().collect();
        let seeds = Seeds::new(now, &addresses, &local.address);
        let mut contacts = Contacts::default();
        contacts.add(addresses, true, &local.address);
        let health = Awareness::new(&config);
        let mut core = Self {
            config,
            cluster,
            local,
            born: now,
            wall_offset_ms: now.unix_ms.saturating_sub(now.ms),
            members: MemberList::default(),
            rumors: Dissemination::default(),
            rng,
            phase: Phase::Running,
            due,
            rotation: Vec::new(),
            cursor: 0,
            probe_again: None,
            again_left: 0,
            probes: Vec::new(),
            relays: Relays::default(),
            health,
            log: ProbeLog::default(),
            confirmed: 0,
            next_seq,
            contacts,
            seeds,
            udp: Udp::default(),
            introduced: false,
            greeting: Greeting::Waits,
            exchange_gap_ms: FIRST_EXCHANGE_GAP_MS,
            superseded_by: None,
            rejected: Rejections::default(),
            next_life_ms: 0,
            leased_to,
            next_foreign_report_ms: 0,
            next_reject_answer_ms: 0,
            next_stranger_answer_ms: 0,
            revision: 0,
            last_ms: now.ms,
            out: Vec::new(),
            #[cfg(test)]
            broken: None,
            #[cfg(test)]
            probed_again: 0,
        };
        core.spread_self();
        core
    }

    // ---- time -------------------------------------------------------------------------------

    /// When [`Self::tick`] is next wanted, monotonic milliseconds.
    pub fn next_wake(&self) -> u64 {
        match self.phase {
            Phase::Silent => u64::MAX,
            Phase::Farewell { next_ms, .. } => next_ms,
            Phase::Running => {
                let ends = self.members.next_suspicion_end_ms().unwrap_or(u64::MAX);
                // with news and no round begun, one begins at once
                let news = self.due.gossip.is_none() && !self.rumors.is_empty();
                let news = news || self.is_to_greet();
                let news = if news { self.last_ms } else { u64::MAX };
                let catch_up = if self.is_to_catch_up() {
                    self.due.catch_up
                } else {
                    u64::MAX
                };
                self.next_round_ms().min(ends).min(news).min(catch_up)
            }
        }
    }

    /// When the next piece of work is due that only the passing of time makes due. Not the end
    /// of a suspicion (a confirmation may move it into the past), and not news or what is to be
    /// caught up (their time may be long ago when they come up): who then comes to them is not late.
    fn next_round_ms(&self) -> u64 {
        let due = &self.due;
        [due.probe, due.exchange, due.reconnect, due.reap]
            .into_iter()
            .chain(due.gossip)
            .chain(self.probes.iter().map(Probe::next_step_ms))
            .chain(self.relays.next_nack_ms())
            .min()
            .unwrap_or(u64::MAX)
    }

    pub fn tick(&mut self, now: Now) {
        match self.phase {
            Phase::Silent => return,
            Phase::Farewell { .. } => return self.say_farewell(now),
            Phase::Running => {}
        }
        self.last_ms = now.ms;
        if self.is_to_greet() {
            self.greet();
        }
        if self.due.gossip.is_none() && !self.rumors.is_empty() {
            self.due.gossip = Some(now.ms);
        }
        let offset = now.unix_ms.saturating_sub(now.ms);
        if offset.abs_diff(self.wall_offset_ms) > WALL_JUMP_MS {
            self.wall_offset_ms = offset;
        }
        let late = now.ms.saturating_sub(self.next_round_ms());
        if late > ms(self.config.probe_timeout) {
            self.excuse_others(now, late);
        }
        self.send_nacks(now);
        self.advance_probes(now);
        self.end_suspicions(now);
        if now.ms >= self.due.probe {
            self.start_probe(now);
        }
        if let Some(due) = self.due.gossip.filter(|due| now.ms >= *due) {
            self.gossip();
            let next = next_due(due, ms(self.config.gossip_interval), now);
            self.due.gossip = (!self.rumors.is_empty()).then_some(next);
        }
        self.exchange_when_due(now);
        if now.ms >= self.due.reap {
            self.due.reap = now.ms + REAP_INTERVAL_MS;
            self.reap(now);
        }
    }

    /// This node itself stood still (paused, starved): who did not answer meanwhile is not to
    /// blame, and the answers may still wait in the socket. Everybody gets the time it missed.
    /// Nothing is called off: a node that is always late would else never find anything out.
    fn excuse_others(&mut self, now: Now, late_ms: u64) {
        let patience = ms(self.config.probe_timeout);
        for probe in &mut self.probes {
            probe.postpone(now.ms, late_ms, patience);
        }
        self.due.probe = self.due.probe.saturating_add(late_ms);
        self.members.excuse_suspected(late_ms);
        self.health.strained(now, Strain::StoodStill, 1);
    }

    fn reap(&mut self, now: Now) {
        let forgotten: Vec<NodeId> = self
            .members
            .iter()
            .filter(|m| {
                let status = m.state.status;
                let long = now.ms.saturating_sub(m.status_since_ms) > LEFT_KEPT_MS;
                status == MemberStatus::Left && long
                    || status == MemberStatus::Dead && self.breaks(broken::Broken::ReapsTheDead)
            })
            .map(|m| m.state.id.clone())
            .collect();
        for id in forgotten {
            self.members.remove(&id);
        }
    }

    /// Milliseconds from one probe to the next, for a node that is well.
    fn probe_interval_ms(&self) -> u64 {
        ms(self.config.probe_interval).max(1)
    }

    /// How long the member may refute that is suspected from now on.
    fn suspicion_of(&self, id: &NodeId, now: Now) -> Suspicion {
        let reachable = self.members.reachable_count() + 1;
        let others = self.members.able_to_confirm(id);
        Suspicion::begin(&self.config, reachable, others, now)
    }

    fn transmit_limit(&self) -> u32 {
        transmit_limit(
            self.config.retransmit_mult,
            self.members.reachable_count() + 1,
        )
    }

    // ---- this node --------------------------------------------------------------------------

    /// Takes over what the node says of itself. Lifecycle and ring are news and raise the
    /// incarnation; load only rides along with what is sent anyway.
    pub fn set_local(&mut self, lifecycle: Lifecycle, ring: RingStamp, load: Load) {
        let local = Arc::make_mut(&mut self.local);
        local.load = load;
        let news = local.lifecycle != lifecycle || local.ring != ring;
        if self.phase == Phase::Running && news {
            local.lifecycle = lifecycle;
            local.ring = ring;
            self.rise();
            self.spread_self();
        }
    }

    /// The least above this that this node may take; `None` when that is a life that a later
    /// start may take too. Beyond those that were leased, a start by a sound clock takes none
    /// behind this one's.
    fn own_above(&self, held: Freshness) -> Option<Freshness> {
        let next = claim::next_above(held);
        let unix_ms = self.last_ms.saturating_add(self.wall_offset_ms);
        let may = next.0 == self.local.generation || next.0 <= self.leased_to.max(unix_ms);
        may.then_some(next)
    }

    /// Above what this node said of itself so far, if it may.
    fn rise(&mut self) {
        if let Some(next) = self.own_above(claim::freshness(&self.local)) {
            let local = Arc::make_mut(&mut self.local);
            (local.generation, local.incarnation) = next;
        }
    }

    /// This node's own state changed in what others go by.
    fn spread_self(&mut self) {
        self.revision += 1;
        self.rumors.enqueue_own(Claim {
            state: Arc::clone(&self.local),
            from: self.local.id.clone(),
        });
    }

    /// From now on every change of the list is kept for [`Self::take_mutations`].
    #[cfg(test)]
    pub fn record_mutations(&mut self) {
        self.members.record();
    }

    #[cfg(test)]
    pub fn take_mutations(&mut self) -> Vec<super::members::Mutation> {
        self.members.take_recorded()
    }

    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    fn happened(&mut self, happening: Happening) {
        self.out.push(Output::Happened(happening));
    }
}

/// `mult * max(1, log10 n) * probe interval`, for `n` reachable members: how long a suspicion
/// lasts that others confirmed.
pub fn suspicion_timeout(config: &GossipConfig, n: usize) -> Duration {
    let scale = (n.max(1) as f64).log10().max(1.0);
    let base = config.probe_interval.saturating_mul(config.suspicion_mult);
    Duration::try_from_secs_f64(base.as_secs_f64() * scale).unwrap_or(base)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The next time of recurring work; missed rounds are not made up for.
fn next_due(due_ms: u64, interval_ms: u64, now: Now) -> u64 {
    let next = due_ms + interval_ms.max(1);
    if next > now.ms {
        next
    } else {
        now.ms + interval_ms.max(1)
    }
}
