//! The failure detector: one member after the other is pinged; who does not answer is asked for
//! through others and over TCP; who answers nobody is suspected.
//!
//! One probe's state is in `probe.rs`, that of pings made for others in `relays.rs`; here is who
//! is probed when, and what an answer or its absence means.

use std::net::SocketAddr;

use rand::{Rng, seq::SliceRandom};
use ringmaster_shared::id::NodeId;

use super::{
    Core, Dest, Output, Strain,
    broken::Broken,
    ms, next_due,
    probe::{End, Patience, Probe},
    probe_log::Answered,
    relays::Relay,
};
use crate::gossip::{
    claim::{self, Now},
    codec::Body,
    roster::push_tightly,
};

impl Core {
    fn new_seq(&mut self) -> u32 {
        self.next_seq = self.next_seq.wrapping_add(1);
        self.next_seq
    }

    /// How long a probe takes for a node that is well, indirect answers included.
    fn probe_ms(&self) -> u64 {
        self.probe_interval_ms()
            .max(ms(self.config.probe_timeout) + 1)
    }

    /// A node that is not well itself waits longer in all, and begins its next probe as much
    /// later even when it is answered: the paper's rule, and of 64 simulated members with 16
    /// overloaded it spares more than going back to the usual pace at the first answer. It asks
    /// others as early as ever, as memberlist does and the paper does not: if packets are lost,
    /// theirs may come through, and a late direct answer is welcome to the end.
    fn patience(&self) -> Patience {
        Patience {
            direct_ms: ms(self.config.probe_timeout),
            whole_ms: self
                .health
                .stretch(self.probe_ms(), self.members.reachable_count()),
        }
    }

    /// Who is asked to ping says after this time that there was no answer: early enough to reach
    /// the asker, if it is well, before its probe is over.
    fn nack_after_ms(&self) -> u64 {
        let direct = ms(self.config.probe_timeout);
        let rest = self.probe_ms().saturating_sub(direct);
        direct.min(rest) * 4 / 5
    }

    // ---- whose turn it is -------------------------------------------------------------------

    /// A new member takes a random place, so that nodes do not all probe it at once. Whose turn
    /// has been in this round keeps its place before the cursor, or others would wait for it twice.
    pub(super) fn put_into_rotation(&mut self, id: &NodeId) {
        let Some((slot, member)) = self.members.slot_mut(id) else {
            return;
        };
        if !std::mem::replace(&mut member.in_rotation, true) {
            push_tightly(&mut self.rotation, slot);
            let last = self.rotation.len() - 1;
            let place = self.rng.random_range(0..=last);
            if place < self.cursor {
                self.rotation.swap(self.cursor, last);
                self.rotation.swap(place, self.cursor);
                self.cursor += 1;
            } else {
                self.rotation.swap(place, last);
            }
        }
    }

    /// The next reachable member of the rotation; reshuffled after each round.
    pub(super) fn next_target(&mut self) -> Option<NodeId> {
        while !self.rotation.is_empty() {
            if self.cursor >= self.rotation.len() {
                self.cursor = 0;
                // whose slot was another's meanwhile stands there twice
                self.rotation.sort_unstable();
                self.rotation.dedup();
                self.rotation.shuffle(&mut self.rng);
                self.again_left = self.rotation.len() / 2;
            }
            match self.members.at_mut(self.rotation[self.cursor]) {
                Some(member) if member.state.status.is_reachable() => {
                    let id = member.state.id.clone();
                    self.cursor += usize::from(!self.breaks(Broken::ProbesOne));
                    return Some(id);
                }
                Some(member) => member.in_rotation = false,
                None => {}
            }
            self.rotation.swap_remove(self.cursor);
        }
        None
    }

    // ---- this node's own probes -------------------------------------------------------------

    pub(super) fn start_probe(&mut self, now: Now) {
        let patience = self.patience();
        self.due.probe = next_due(self.due.probe, patience.whole_ms, now);
        let again = self.probe_again.take().filter(|id| {
            let member = self.members.get(id);
            self.again_left > 0 && member.is_some_and(|m| m.state.status.is_reachable())
        });
        self.again_left -= usize::from(again.is_some());
        self.count_again(again.is_some());
        let Some(id) = again.or_else(|| self.next_target()) else {
            // nobody is left whose silence could tell anything
            self.health.eased();
            return;
        };
        let Some(member) = self.members.get(&id) else {
            return;
        };
        let address = member.state.address.clone();
        let freshness = claim::freshness(&member.state);
        let seq = self.new_seq();
        let probe = Probe::begin(seq, id.clone(), freshness, now.ms, patience);
        self.probes.push(probe);
        let first = self.buddy_claim_about(&id);
        let packet = self.packet(id, Body::Ping { seq }, first);
        self.send(Dest::Address(address), packet);
    }

    pub(super) fn advance_probes(&mut self, now: Now) {
        let waiting: Vec<usize> = (0..self.probes.len())
            .filter(|at| self.probes[*at].wants_help(now.ms))
            .collect();
        for at in waiting {
            let (seq, target) = (self.probes[at].seq, self.probes[at].target.clone());
            let within_ms = self.probes[at].left_ms(now.ms);
            let helpers = self.ask_others(seq, &target, within_ms);
            self.probes[at].asked(helpers);
        }
        let over: Vec<(Probe, End)> = self
            .probes
            .extract_if(.., |probe| probe.end(now.ms).is_some())
            .filter_map(|probe| probe.end(now.ms).map(|end| (probe, end)))
            .collect();
        for (probe, end) in over {
            self.end_probe(now, &probe, end);
        }
    }

    /// Asks a few others, and TCP for as long as the probe waits; returns who was asked.
    fn ask_others(&mut self, seq: u32, target: &NodeId, within_ms: u64) -> Vec<NodeId> {
        let Some(member) = self.members.get(target) else {
            return Vec::new();
        };
        let address = member.state.address.clone();
        let helpers: Vec<(NodeId, String)> = self
            .members
            .pick_reachable(&mut self.rng, self.config.indirect_probes, |m| {
                m.state.id != *target && !m.udp_blocked()
            })
            .into_iter()
            .map(|m| (m.state.id.clone(), m.state.address.clone()))
            .collect();
        for (helper, address) in &helpers {
            // the claim tells the helper where we believe the target to be
            let first = self.claim_about(target);
            let body = Body::PingRequest {
                seq,
                target: target.clone(),
            };
            let packet = self.packet(helper.clone(), body, first);
            self.send(Dest::Address(address.clone()), packet);
        }
        let node = target.clone();
        self.out.push(Output::TcpProbe {
            seq,
            node,
            address,
            within_ms,
        });
        helpers.into_iter().map(|(id, _)| id).collect()
    }

    /// No ping was answered in time.
    fn end_probe(&mut self, now: Now, probe: &Probe, end: End) {
        match end {
            End::OnlyTcp { .. } => {
                self.log.note(now, Answered::OverTcp);
                self.health.eased();
            }
            End::Unanswered { missing } => {
                self.log.note(now, Answered::Never);
                self.health.strained(now, Strain::MissedAnswers, missing);
            }
        }
        let target = &probe.target;
        let Some(member) = self.members.get(target) else {
            return;
        };
        let spoke_up = claim::freshness(&member.state) != probe.freshness;
        if spoke_up || !member.state.status.is_reachable() {
            return;
        }
        match end {
            End::OnlyTcp { lost } => self.found_only_tcp(target, probe.started_ms, lost),
            End::Unanswered { .. } => self.suspect(now, target),
        }
    }

    /// The fallback probe was answered over TCP.
    pub fn tcp_answered(&mut self, now: Now, seq: u32) {
        if let Some(probe) = self.probes.iter_mut().find(|p| p.seq == seq) {
            probe.answered_over_tcp();
            if let Some(member) = self.members.get_mut(&probe.target) {
                member.answered(now);
            }
        }
    }

    /// A ping of this node was answered: its own probe's, or one made for another.
    pub(super) fn acknowledged(&mut self, now: Now, seq: u32, from: &NodeId) {
        if let Some(round_trip_ms) = self.end_answered(now, |p| p.seq == seq && p.target == *from) {
            self.log.note(now, Answered::Itself { round_trip_ms });
            self.found_udp(now, from);
        } else if let Some(relay) = self.relays.answered(now.ms, seq, from) {
            let first = self.claim_about(from);
            let body = Body::RelayedAck {
                seq: relay.asker_seq,
                target: relay.target,
            };
            let packet = self.answer_packet(relay.asker, body, first);
            self.send(Dest::Source(relay.source), packet);
        }
    }

    pub(super) fn acknowledged_by_relay(
        &mut self,
        now: Now,
        seq: u32,
        by: &NodeId,
        target: &NodeId,
    ) {
        let asked = |p: &Probe| p.seq == seq && p.target == *target && p.has_helper(by);
        if self.end_answered(now, asked).is_some() {
            self.log.note(now, Answered::ThroughOthers);
            if let Some(member) = self.members.get_mut(target) {
                member.answered(now);
                self.found_udp(now, target);
            }
        }
    }

    /// Ends the probe that was answered, if there is one: this node hears well. Returns how long
    /// it took.
    fn end_answered(&mut self, now: Now, which: impl Fn(&Probe) -> bool) -> Option<u64> {
        let at = self.probes.iter().position(which)?;
        let probe = self.probes.swap_remove(at);
        self.health.eased();
        Some(now.ms.saturating_sub(probe.started_ms))
    }

    /// A helper is well, but got no answer.
    pub(super) fn nacked(&mut self, seq: u32, by: &NodeId, target: &NodeId) {
        let mut probes = self.probes.iter_mut();
        if let Some(probe) = probes.find(|p| p.seq == seq && p.target == *target) {
            probe.nacked(by);
        }
    }

    // ---- pings for others -------------------------------------------------------------------

    /// Pings a member for `asker`. Only members on the list that may live: nobody can use this node
    /// to send packets to strangers, or to addresses that were given up. The asker's own word of
    /// the target was judged before this; who is still held gone then is nacked at once.
    pub(super) fn relay_ping(
        &mut self,
        now: Now,
        source: SocketAddr,
        asker: &NodeId,
        asker_seq: u32,
        target: &NodeId,
    ) {
        let relay = Relay {
            target: target.clone(),
            asker: asker.clone(),
            source,
            asker_seq,
        };
        let member = self.members.get(target).map(|m| &m.state);
        let address = member
            .filter(|state| state.status.is_reachable())
            .map(|state| state.address.clone());
        let Some(address) = address.filter(|_| self.relays.has_room(now.ms, target)) else {
            return self.send_nack(relay);
        };
        let seq = self.new_seq();
        let nack_ms = now.ms + self.nack_after_ms();
        let ends_ms = now.ms + self.probe_ms();
        self.relays.begin(seq, relay, nack_ms, ends_ms);
        let first = self.buddy_claim_about(target);
        // anybody can ask for it, so it carries no rumors, as no answer does
        let packet = self.answer_packet(target.clone(), Body::Ping { seq }, first);
        self.send(Dest::Address(address), packet);
    }

    pub(super) fn send_nacks(&mut self, now: Now) {
        for relay in self.relays.take_overdue(now.ms) {
            self.send_nack(relay);
        }
    }

    fn send_nack(&mut self, relay: Relay) {
        let body = Body::Nack {
            seq: relay.asker_seq,
            target: relay.target,
        };
        let packet = self.answer_packet(relay.asker, body, None);
        self.send(Dest::Source(relay.source), packet);
    }
}
