//! What a node wants done, done: packets on their way, calls over TCP begun.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    checks,
    connections::Call,
    names::{self, Place, Who},
    network::{Fate, Obstacle},
    world::{Arrival, Event, What, World},
};
use crate::gossip::{
    claim::Claim,
    codec::{Body, Packet},
    core::{Dest, Output},
};

impl World {
    pub(super) fn emit(&mut self, who: Who, output: Output) {
        match output {
            Output::Send { to, packet } => {
                let place = match &to {
                    Dest::Address(address) => names::place(address),
                    Dest::Source(source) => names::place_of_socket(*source),
                };
                if let Some(place) = place {
                    self.send(who, place, packet);
                }
            }
            Output::TcpProbe {
                seq,
                node,
                address,
                within_ms,
            } => {
                self.counters.tcp_probes += 1;
                let deadline_ms = self.now + within_ms;
                let by = (who, self.nodes[who].life);
                if let Some(place) = names::place(&address) {
                    let call = Call::Ping {
                        by,
                        seq,
                        wanted: node,
                        deadline_ms,
                    };
                    self.call(who, place, call);
                }
            }
            Output::Exchange { address } => {
                if let Some(place) = names::place(&address) {
                    self.exchange(who, place);
                }
            }
            Output::Happened(_) => {}
        }
    }

    pub(super) fn send(&mut self, who: Who, to: Place, packet: Box<Packet>) {
        let from = self.nodes[who].place;
        let budget = self.parameters.config.packet_bytes_max;
        let digest = self.parameters.checked.then(|| digest_of(&packet));
        let (bytes, mut letter) = self.letter(who, packet);
        self.counters.sent += 1;
        self.counters.sent_bytes += bytes as u64;
        if let Some(digest) = digest {
            self.mix(&[from as u64, to as u64, digest]);
        }
        let judged = checks::packet_fits(bytes, budget);
        self.judged(who, judged);
        let spoiled = self.network.links.contains_key(&(from, to));
        self.counters.over_bad_links += u64::from(spoiled);
        match self.network.udp(&mut self.rng, from, to) {
            Fate::Cut(obstacle) => {
                self.counters.cut += 1;
                match obstacle {
                    Obstacle::Apart => self.counters.cut_apart += 1,
                    Obstacle::OneWay => self.counters.cut_one_way += 1,
                    Obstacle::Udp => self.counters.cut_udp += 1,
                }
            }
            Fate::Lost => self.counters.lost += 1,
            Fate::Arrives {
                after_ms,
                again_after_ms,
                held_up,
                damage,
            } => {
                self.counters.held_up += u64::from(held_up);
                if let Some(again) = again_after_ms {
                    self.counters.duplicated += 1;
                    letter.marks.doubled = true;
                    let what = What::Udp(letter.clone());
                    self.schedule(again, Event::Arrival(Arrival { from, to, what }));
                }
                // of two, one arrives as it was
                self.count_damage(damage);
                if let Some(damage) = damage {
                    letter.damage(damage);
                }
                let what = What::Udp(letter);
                self.schedule(after_ms, Event::Arrival(Arrival { from, to, what }));
            }
        }
    }
}

/// What a packet says, in short.
fn digest_of(packet: &Packet) -> u64 {
    let kind = match &packet.body {
        Body::Ping { seq } => (1, *seq),
        Body::Ack { seq } => (2, *seq),
        Body::PingRequest { seq, .. } => (3, *seq),
        Body::RelayedAck { seq, .. } => (4, *seq),
        Body::Nack { seq, .. } => (5, *seq),
        Body::Gossip => (6, 0),
        Body::Reject { .. } => (7, 0),
    };
    let mut digest = DefaultHasher::new();
    (kind, packet.from.generation, packet.from.incarnation).hash(&mut digest);
    for Claim { state, from } in &packet.claims {
        let status = state.status as u8;
        (&state.id, state.generation, state.incarnation, status, from).hash(&mut digest);
    }
    digest.finish()
}
