//! The failure detector: one member after the other is pinged; who does not answer is asked for
//! through others and over TCP; who answers nobody is suspected.

use std::net::SocketAddr;

use rand::{Rng, seq::SliceRandom};
use ringmaster_shared::{id::NodeId, member::Freshness};

use super::{Core, Dest, Happening, Output, ms};
use crate::gossip::{
    claim::{self, Now},
    codec::Body,
};

/// Pings made for others at a time.
const RELAYS_MAX: usize = 1024;

/// A probe under way.
pub(super) struct Probe {
    seq: u32,
    target: NodeId,
    /// What was held of it when the probe began; if it spoke up since, the probe is void.
    freshness: Freshness,
    started_ms: u64,
    asked_others: bool,
    answers_tcp: bool,
}

/// A ping made for another node.
pub(super) struct Relay {
    target: NodeId,
    asker: NodeId,
    source: SocketAddr,
    /// The asker's number.
    seq: u32,
    ends_ms: u64,
}

impl Core {
    fn new_seq(&mut self) -> u32 {
        self.next_seq = self.next_seq.wrapping_add(1);
        self.next_seq
    }

    /// When a probe under way next needs a decision.
    pub(super) fn next_probe_step(&self) -> Option<u64> {
        let timeout = ms(self.config.probe_timeout);
        self.probes
            .iter()
            .map(|p| {
                p.started_ms
                    + if p.asked_others {
                        self.probe_ms()
                    } else {
                        timeout
                    }
            })
            .min()
    }

    /// How long a probe has, indirect answers included.
    fn probe_ms(&self) -> u64 {
        self.probe_interval_ms()
            .max(ms(self.config.probe_timeout) + 1)
    }

    /// A new member takes a random place, so that nodes do not all probe it at once.
    pub(super) fn put_into_rotation(&mut self, id: &NodeId) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        if !std::mem::replace(&mut member.in_rotation, true) {
            self.rotation.push(id.clone());
            let last = self.rotation.len() - 1;
            let place = self.rng.random_range(0..=last);
            self.rotation.swap(place, last);
        }
    }

    /// The next reachable member of the rotation; reshuffled after each round.
    fn next_target(&mut self) -> Option<NodeId> {
        while !self.rotation.is_empty() {
            if self.cursor >= self.rotation.len() {
                self.cursor = 0;
                self.rotation.shuffle(&mut self.rng);
            }
            let id = self.rotation[self.cursor].clone();
            match self.members.get_mut(&id) {
                Some(member) if member.state.status.is_reachable() => {
                    self.cursor += 1;
                    return Some(id);
                }
                Some(member) => member.in_rotation = false,
                None => {}
            }
            self.rotation.swap_remove(self.cursor);
        }
        None
    }

    pub(super) fn start_probe(&mut self, now: Now) {
        let Some(id) = self.next_target() else {
            return;
        };
        let Some(member) = self.members.get(&id) else {
            return;
        };
        let address = member.state.address.clone();
        let freshness = claim::freshness(&member.state);
        let seq = self.new_seq();
        self.probes.push(Probe {
            seq,
            target: id.clone(),
            freshness,
            started_ms: now.ms,
            asked_others: false,
            answers_tcp: false,
        });
        // who is suspected hears of it first hand and can refute at once
        let first = self.grave_claim_about(&id);
        let packet = self.packet(id, Body::Ping { seq }, first);
        self.send(Dest::Address(address), packet);
    }

    pub(super) fn advance_probes(&mut self, now: Now) {
        let (timeout, whole) = (ms(self.config.probe_timeout), self.probe_ms());
        let mut ask = Vec::new();
        for probe in &mut self.probes {
            if !probe.asked_others && now.ms >= probe.started_ms + timeout {
                probe.asked_others = true;
                ask.push((probe.seq, probe.target.clone()));
            }
        }
        for (seq, target) in ask {
            self.ask_others(seq, &target);
        }
        let mut over = Vec::new();
        self.probes.retain_mut(|probe| {
            let ended = now.ms >= probe.started_ms + whole;
            if ended {
                over.push((probe.target.clone(), probe.freshness, probe.answers_tcp));
            }
            !ended
        });
        for (target, freshness, answers_tcp) in over {
            self.end_probe(now, &target, freshness, answers_tcp);
        }
    }

    fn ask_others(&mut self, seq: u32, target: &NodeId) {
        let Some(member) = self.members.get(target) else {
            return;
        };
        let address = member.state.address.clone();
        let helpers: Vec<(NodeId, String)> = self
            .members
            .pick_reachable(&mut self.rng, self.config.indirect_probes, |m| {
                m.state.id != *target
            })
            .into_iter()
            .map(|m| (m.state.id.clone(), m.state.address.clone()))
            .collect();
        for (helper, address) in helpers {
            // the claim tells the helper where we believe the target to be
            let first = self.claim_about(target);
            let body = Body::PingRequest {
                seq,
                target: target.clone(),
            };
            let packet = self.packet(helper, body, first);
            self.send(Dest::Address(address), packet);
        }
        let node = target.clone();
        self.out.push(Output::TcpProbe { seq, node, address });
    }

    /// Nobody's ping was answered in time.
    fn end_probe(&mut self, now: Now, target: &NodeId, freshness: Freshness, answers_tcp: bool) {
        let Some(member) = self.members.get_mut(target) else {
            return;
        };
        let spoke_up = claim::freshness(&member.state) != freshness;
        if spoke_up || !member.state.status.is_reachable() {
            return;
        }
        if !answers_tcp {
            return self.suspect(now, target);
        }
        if !std::mem::replace(&mut member.dealings_mut().udp_blocked, true) {
            let (id, address) = (target.clone(), member.state.address.clone());
            self.happened(Happening::UdpBlocked { id, address });
        }
    }

    /// The fallback probe was answered over TCP.
    pub fn tcp_answered(&mut self, now: Now, seq: u32) {
        if let Some(probe) = self.probes.iter_mut().find(|p| p.seq == seq) {
            probe.answers_tcp = true;
            if let Some(member) = self.members.get_mut(&probe.target) {
                member.answered(now);
            }
        }
    }

    pub(super) fn acknowledged(&mut self, now: Now, seq: u32, from: &NodeId) {
        if let Some(at) = self
            .probes
            .iter()
            .position(|p| p.seq == seq && p.target == *from)
        {
            self.probes.swap_remove(at);
            if let Some(member) = self.members.get_mut(from).filter(|m| m.udp_blocked()) {
                member.dealings_mut().udp_blocked = false;
            }
            return;
        }
        // the entry in `relay_order` is dropped when its time is over
        let relayed = self.relays.get(&seq).is_some_and(|r| r.target == *from);
        if let Some(relay) = self.relays.remove(&seq).filter(|_| relayed)
            && now.ms < relay.ends_ms
        {
            let first = self.claim_about(from);
            let body = Body::RelayedAck {
                seq: relay.seq,
                target: relay.target,
            };
            let packet = self.packet(relay.asker, body, first);
            self.send(Dest::Source(relay.source), packet);
        }
    }

    pub(super) fn acknowledged_by_relay(&mut self, now: Now, seq: u32, target: &NodeId) {
        let asked = |p: &Probe| p.seq == seq && p.target == *target && p.asked_others;
        if let Some(at) = self.probes.iter().position(asked) {
            self.probes.swap_remove(at);
            if let Some(member) = self.members.get_mut(target) {
                member.answered(now);
            }
        }
    }

    /// A helper is well, but got no answer either.
    pub(super) fn nacked(&mut self, seq: u32, target: &NodeId, from: &NodeId) {
        // counted for the local health once that is built
        let _ = (seq, target, from);
    }

    /// Pings a member for `asker`. Only members on the list: nobody can use this node to send
    /// packets to strangers.
    pub(super) fn relay_ping(
        &mut self,
        now: Now,
        source: SocketAddr,
        asker: &NodeId,
        asker_seq: u32,
        target: &NodeId,
    ) {
        while let Some(oldest) = self.relay_order.front() {
            match self.relays.get(oldest) {
                Some(relay) if now.ms < relay.ends_ms => break,
                _ => {
                    self.relays.remove(oldest);
                    self.relay_order.pop_front();
                }
            }
        }
        let Some(member) = self.members.get(target) else {
            return;
        };
        if self.relay_order.len() >= RELAYS_MAX {
            return;
        }
        let address = member.state.address.clone();
        let seq = self.new_seq();
        self.relays.insert(
            seq,
            Relay {
                target: target.clone(),
                asker: asker.clone(),
                source,
                seq: asker_seq,
                ends_ms: now.ms + self.probe_ms(),
            },
        );
        self.relay_order.push_back(seq);
        let first = self.grave_claim_about(target);
        let packet = self.packet(target.clone(), Body::Ping { seq }, first);
        self.send(Dest::Address(address), packet);
    }
}
