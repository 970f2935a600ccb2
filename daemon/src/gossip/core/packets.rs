//! Packets in and out: who is listened to, what is answered, and what a packet holds.
//!
//! Promises: a packet of another cluster, for another node or of a namesake changes nothing; nothing
//! that a stranger sends draws more than a few times its size out of this node; whatever goes out
//! fits the budget, and says of its receiver what it must hear first.

use std::{net::SocketAddr, sync::Arc};

use ringmaster_shared::{id::NodeId, member::MemberStatus};

use super::{Core, Dest, Happening, Output, Phase, Wants, is_honest};
use crate::gossip::{
    MemberState,
    claim::{self, Claim, Now},
    codec::{self, Body, Brief, Packet, RejectReason},
    rejected::Rejected,
};

/// A foreign cluster is reported once in this time.
const FOREIGN_REPORT_MS: u64 = 60_000;
/// Rejections are answered at most this often.
const REJECT_ANSWER_MS: u64 = 200;
/// Nodes that are not on the list are asked who they are, and told who this is, this often.
const STRANGER_ANSWER_MS: u64 = 20;

impl Core {
    // ---- packets in -------------------------------------------------------------------------

    pub fn handle(&mut self, now: Now, source: SocketAddr, packet: Packet) {
        if self.phase != Phase::Running {
            return;
        }
        self.last_ms = now.ms;
        if packet.cluster != self.cluster {
            return self.refuse_foreign(now, source, &packet);
        }
        let from = packet.from;
        if from.id == self.local.id {
            return self.meet_namesake(now, source, &from, packet.intro.as_deref());
        }
        if packet.to != self.local.id {
            let reason = RejectReason::OtherNode { wanted: packet.to };
            return self.refuse(now, source, from.id, &packet.body, reason);
        }
        let said = packet
            .intro
            .as_ref()
            .map_or(MemberStatus::Alive, |i| i.status);
        if let Some(intro) = packet.intro {
            if !is_honest(&intro, &from) || !claim::is_acceptable(&intro, now.unix_ms) {
                return self.count_rejected(Rejected::Unacceptable);
            }
            // the sender's own word first: what it says of itself may refute the claims behind it
            self.take_own_word(now, intro);
        }
        let mut wants = self.hear(now, &from, said);
        wants.intro = packet.ask;
        for claim in packet.claims {
            self.apply(now, claim, claim::Via::Packet);
        }
        self.answer(now, source, &from.id, packet.body, wants);
    }

    pub(super) fn answer(
        &mut self,
        now: Now,
        source: SocketAddr,
        from: &NodeId,
        body: Body,
        wants: Wants,
    ) {
        match body {
            Body::Ping { seq } => {
                let packet = self.reply(from, Body::Ack { seq }, wants);
                return self.send(Dest::Source(source), packet);
            }
            Body::Ack { seq } => self.acknowledged(now, seq, from),
            Body::PingRequest { seq, target } => {
                self.relay_ping(now, source, from, seq, &target);
            }
            Body::RelayedAck { seq, target } => {
                self.acknowledged_by_relay(now, seq, from, &target);
            }
            Body::Nack { seq, target } => self.nacked(seq, from, &target),
            Body::Gossip => {}
            Body::Reject { .. } => self.count_rejected(Rejected::Refused),
        }
        if wants != Wants::default() && self.may_tell(now, from) {
            let packet = self.reply(from, Body::Gossip, wants);
            self.send(Dest::Source(source), packet);
        }
    }

    /// Whether it is time to send `id` something beyond what the protocol sends anyway: at most
    /// twice a probe interval to a member, and few packets to all strangers together.
    pub(super) fn may_tell(&mut self, now: Now, id: &NodeId) -> bool {
        let gap = self.probe_interval_ms() / 2;
        if let Some(member) = self.members.get_mut(id) {
            let told = &mut member.dealings_mut().told_ms;
            let may = told.is_none_or(|told| now.ms >= told + gap);
            if may {
                *told = Some(now.ms);
            }
            may
        } else {
            let may = now.ms >= self.next_stranger_answer_ms;
            if may {
                self.next_stranger_answer_ms = now.ms + STRANGER_ANSWER_MS;
            }
            may
        }
    }

    /// A packet that gives its receiver what it lacks: what is held of it, so that it can refute
    /// (or learn that a later process has taken its name), and who this node is.
    pub(super) fn reply(&self, to: &NodeId, body: Body, wants: Wants) -> Packet {
        let first = self.claim_about(to).filter(|_| wants.news_of_itself);
        let mut packet = self.answer_packet(to.clone(), body, first);
        packet.ask = wants.to_be_asked;
        if wants.intro {
            packet.intro = Some(Arc::clone(&self.local));
        }
        packet
    }

    /// A packet of a process that goes by this node's own id; judged as anybody's is, or one with
    /// a generation that no other node takes in would end this one.
    pub(super) fn meet_namesake(
        &mut self,
        now: Now,
        source: SocketAddr,
        other: &Brief,
        intro: Option<&MemberState>,
    ) {
        let honest =
            intro.is_none_or(|i| is_honest(i, other) && claim::is_acceptable(i, now.unix_ms));
        if !honest || claim::is_too_far_ahead(other.generation, now.unix_ms) {
            return self.count_rejected(Rejected::Unacceptable);
        }
        self.count_rejected(Rejected::Namesake);
        if other.generation > self.local.generation {
            let address = intro.map_or_else(|| source.to_string(), |i| i.address.clone());
            self.superseded(&address, other.generation);
        } else if other.generation < self.local.generation && now.ms >= self.next_reject_answer_ms {
            // it learns from the sender of this packet that it has to stop
            self.next_reject_answer_ms = now.ms + REJECT_ANSWER_MS;
            let mut packet = self.answer_packet(other.id.clone(), Body::Gossip, None);
            packet.intro = Some(Arc::clone(&self.local));
            self.send(Dest::Source(source), packet);
        }
    }

    pub(super) fn refuse_foreign(&mut self, now: Now, source: SocketAddr, packet: &Packet) {
        let what = format!("{} at {source}", packet.from.id);
        self.note_foreign(now, what, packet.cluster.to_string());
        let reason = RejectReason::OtherCluster;
        self.refuse(now, source, packet.from.id.clone(), &packet.body, reason);
    }

    /// Counts, and answers with the reason now and then; a rejection is never answered.
    pub(super) fn refuse(
        &mut self,
        now: Now,
        source: SocketAddr,
        to: NodeId,
        body: &Body,
        reason: RejectReason,
    ) {
        self.count_rejected(match reason {
            RejectReason::OtherCluster => Rejected::OtherCluster,
            RejectReason::OtherNode { .. } => Rejected::OtherNode,
        });
        if matches!(body, Body::Reject { .. }) || now.ms < self.next_reject_answer_ms {
            return;
        }
        self.next_reject_answer_ms = now.ms + REJECT_ANSWER_MS;
        let packet = Packet {
            cluster: self.cluster.clone(),
            to,
            from: Brief::of(&self.local),
            intro: None,
            ask: false,
            body: Body::Reject { reason },
            claims: Vec::new(),
        };
        self.send(Dest::Source(source), packet);
    }

    /// Another cluster was met, by packet or by contact; reported now and then.
    pub fn note_foreign(&mut self, now: Now, source: String, theirs: String) {
        if now.ms >= self.next_foreign_report_ms {
            self.next_foreign_report_ms = now.ms + FOREIGN_REPORT_MS;
            self.happened(Happening::Foreign { source, theirs });
        }
    }

    /// A message was refused (also for the driver, when it could not be read).
    pub fn count_rejected(&mut self, why: Rejected) {
        self.rejected.count(why);
    }

    // ---- packets out ------------------------------------------------------------------------

    /// An answer, or anything else that goes to where a packet came from. It carries no rumors:
    /// who forges the address that its packets come from could else have a large packet sent
    /// there for a small one, and use up the rumors that others are waiting for.
    pub(super) fn answer_packet(&self, to: NodeId, body: Body, first: Option<Claim>) -> Packet {
        let news = self.rumors.contains(&self.local.id) || self.phase != Phase::Running;
        Packet {
            cluster: self.cluster.clone(),
            to,
            from: Brief::of(&self.local),
            intro: news.then(|| Arc::clone(&self.local)),
            ask: false,
            body,
            claims: first.into_iter().collect(),
        }
    }

    /// A packet to a member's address, filled up with rumors. `first` goes in before them.
    pub(super) fn packet(&mut self, to: NodeId, body: Body, first: Option<Claim>) -> Packet {
        let mut packet = self.answer_packet(to, body, first);
        let budget = self
            .config
            .packet_bytes_max
            .saturating_sub(codec::packet_bytes(&packet));
        let limit = self.transmit_limit();
        let named = packet.claims.first().map(|c| c.state.id.clone());
        // news of this node itself heads the packet, and counts as a transmission of it
        if packet.intro.is_some() {
            self.rumors.count_as_sent(&self.local.id, limit);
        }
        if let Some(named) = &named {
            self.rumors.count_as_sent(named, limit);
        }
        let me = &self.local.id;
        let rumors = self.rumors.take(budget, limit, |s| {
            s.id == *me || Some(&s.id) == named.as_ref()
        });
        packet.claims.extend(rumors);
        packet
    }

    pub(super) fn send(&mut self, to: Dest, packet: Packet) {
        let packet = Box::new(packet);
        self.out.push(Output::Send { to, packet });
    }

    /// One gossip round: rumors to a few random members; nothing when there is no news.
    pub(super) fn gossip(&mut self) {
        let targets: Vec<(NodeId, String)> = self
            .members
            // whom UDP does not reach gets the news over TCP; these transmissions would be wasted
            .pick_reachable(&mut self.rng, self.config.gossip_fanout, |m| {
                !m.udp_blocked()
            })
            .into_iter()
            .map(|m| (m.state.id.clone(), m.state.address.clone()))
            .collect();
        for (id, address) in targets {
            if self.rumors.is_empty() {
                return;
            }
            let first = self.buddy_claim_about(&id);
            let packet = self.packet(id, Body::Gossip, first);
            self.send(Dest::Address(address), packet);
        }
    }

    /// What this node holds of a member, as a claim.
    pub(super) fn claim_about(&self, id: &NodeId) -> Option<Claim> {
        let member = self.members.get(id)?;
        let from = member.accusers().first().unwrap_or(id).clone();
        Some(Claim {
            state: member.state.clone(),
            from,
        })
    }

    /// The same when it is bad news, which its subject must hear first of all, so that it can
    /// refute at once (Lifeguard's buddy system, section IV.C).
    pub(super) fn buddy_claim_about(&self, id: &NodeId) -> Option<Claim> {
        if !self.config.lifeguard.buddy {
            return None;
        }
        self.claim_about(id)
            .filter(|c| c.state.status != MemberStatus::Alive)
    }
}
