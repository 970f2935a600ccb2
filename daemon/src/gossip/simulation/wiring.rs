//! What messages are on their way: values, the bytes real nodes send, or those bytes sealed.
//!
//! With bytes every node has the [`Wire`] of a real one, with the versions it speaks (every other
//! life speaks one more) and its keyring, and the network may damage them. The rule: what arrives
//! as it was sent is read, unless it came before or the receiver lacks the key, and nothing else
//! is ever taken in.

use super::{
    checks::{Rule, Violation},
    keys::KeysKept,
    names::{self, Place, Who},
    network::Damage,
    world::{Arrival, Event, What, World},
};
use crate::gossip::{
    GossipConfig,
    codec::{self, Packet},
    envelope::{ENVELOPE_BYTES, HEADER_BYTES, Speaks},
    rejected::Rejected,
    secrecy::Verify,
    wire::{self, Datagram, Refusal, Wire},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// Handed over, and measured as if they were plain bytes. What would be damaged is dropped.
    Values,
    /// As nodes without keys send them.
    Plain,
    /// As nodes with keys send them.
    Sealed,
}

/// All messages are sealed, and nothing else is taken.
const VERIFY: Verify = Verify {
    incoming: true,
    outgoing: true,
};

/// A datagram on its way.
#[derive(Clone)]
pub struct Letter {
    pub content: Content,
    pub marks: Marks,
}

#[derive(Clone)]
pub enum Content {
    Packet(Box<Packet>),
    Bytes(Vec<u8>),
}

/// What only the simulator knows of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Who sent it, and in which process.
    pub by: (Who, u32),
    pub damaged: bool,
    /// The network made two of it.
    pub doubled: bool,
}

impl Letter {
    pub fn damage(&mut self, damage: Damage) {
        self.marks.damaged = true;
        if let Content::Bytes(bytes) = &mut self.content {
            damage.befalls(bytes);
        }
    }
}

impl World {
    /// As the engine takes it: room for what stands around the content.
    pub(super) fn config_of_a_core(&self) -> GossipConfig {
        let mut config = self.parameters.config.clone();
        if self.parameters.wiring == Wiring::Sealed {
            let secrecy = KeysKept::of(&[1]).secrecy(VERIFY, 1);
            let sealing = wire::overhead_bytes(Some(&secrecy)) - ENVELOPE_BYTES;
            config.packet_bytes_max -= sealing;
        }
        config
    }

    /// A new process makes its messages with what it speaks and the keys it finds.
    pub(super) fn wire_up(&mut self, who: Who) {
        if self.parameters.wiring == Wiring::Values {
            return;
        }
        let node = &self.nodes[who];
        let newer = (who as u64 + node.generation).is_multiple_of(2) && self.parameters.mixed;
        let speaks = Speaks {
            highest: Speaks::OURS.highest + u8::from(newer),
            ..Speaks::OURS
        };
        let secrecy = (self.parameters.wiring == Wiring::Sealed)
            .then(|| node.keys.secrecy(VERIFY, node.generation));
        let cluster = names::cluster(node.cluster);
        let budget = self.parameters.config.packet_bytes_max;
        let wire = Wire::new(node.id.clone(), cluster, speaks, secrecy.clone(), budget);
        let node = &mut self.nodes[who];
        node.wire = Some(wire);
        node.secrecy = secrecy;
        self.order_later(who);
    }

    pub(super) fn marks_of(&self, who: Who) -> Marks {
        Marks {
            by: (who, self.nodes[who].life),
            damaged: false,
            doubled: false,
        }
    }

    /// A packet as it goes out, and how long it is.
    pub(super) fn letter(&mut self, who: Who, packet: Box<Packet>) -> (usize, Letter) {
        let marks = self.marks_of(who);
        let Some(wire) = &self.nodes[who].wire else {
            let bytes = codec::packet_bytes(&packet);
            let content = Content::Packet(packet);
            return (bytes, Letter { content, marks });
        };
        let bytes = wire.packet(self.now, &packet);
        let bytes = bytes.expect("what a core sends can be encoded");
        self.counters.newer_version += u64::from(bytes[2] > Speaks::OURS.highest);
        let content = Content::Bytes(bytes);
        let length = match &content {
            Content::Bytes(bytes) => bytes.len(),
            Content::Packet(_) => 0,
        };
        (length, Letter { content, marks })
    }

    /// The packet of a datagram that arrived, if it is one and is taken.
    pub(super) fn open_letter(&mut self, who: Who, from: Place, letter: Letter) -> Option<Packet> {
        let Letter { content, marks } = letter;
        let bytes = match content {
            Content::Packet(_) if marks.damaged => {
                self.nodes[who].core.count_rejected(Rejected::Damaged);
                self.counters.refused_damaged += 1;
                return None;
            }
            Content::Packet(packet) => return Some(*packet),
            Content::Bytes(bytes) => bytes,
        };
        let unix_ms = self.time().unix_ms;
        let read = self.nodes[who].wire.as_mut()?.read(unix_ms, &bytes);
        match read {
            Ok(Datagram::Packet(packet)) => {
                self.judge_taken(who, marks);
                Some(*packet)
            }
            Ok(Datagram::Card(card, _)) => {
                self.judge_taken(who, marks);
                if card.asks {
                    self.send_card(who, from, false);
                }
                None
            }
            Err(refusal) => {
                self.refused(who, marks, &bytes, &refusal);
                if refusal.why == Rejected::Version {
                    self.send_card(who, from, true);
                }
                None
            }
        }
    }

    fn send_card(&mut self, who: Who, to: Place, asks: bool) {
        let Some(wire) = &self.nodes[who].wire else {
            return;
        };
        let content = Content::Bytes(wire.card(asks));
        let marks = self.marks_of(who);
        let from = self.nodes[who].place;
        let what = What::Udp(Letter { content, marks });
        self.schedule(1, Event::Arrival(Arrival { from, to, what }));
    }

    /// A message was read.
    pub(super) fn judge_taken(&mut self, who: Who, marks: Marks) {
        if marks.damaged {
            let what = "a damaged message was taken in".to_owned();
            let rule = Rule::Wire;
            self.judged(who, Err(Violation { rule, what }));
        }
    }

    /// A message was not: counted, and looked at whether that was right.
    pub(super) fn refused(&mut self, who: Who, marks: Marks, bytes: &[u8], refusal: &Refusal) {
        self.nodes[who].core.count_rejected(refusal.why);
        let counter = match refusal.why {
            Rejected::Unopened => &mut self.counters.refused_sealed,
            Rejected::Replayed => &mut self.counters.refused_replays,
            Rejected::Version => &mut self.counters.refused_version,
            _ => &mut self.counters.refused_damaged,
        };
        *counter += 1;
        let (sender, life) = marks.by;
        let is_right = match refusal.why {
            _ if marks.damaged => true,
            // of an earlier life, or the second of two
            Rejected::Replayed => marks.doubled || self.nodes[sender].life != life,
            Rejected::Unopened => !self.holds_key_of(who, bytes),
            // it learns by the next message that this life speaks less than the one before
            Rejected::Version => {
                let speaks = self.nodes[who].wire.as_ref().map(Wire::speaks);
                let version = bytes.get(2).copied().unwrap_or_default();
                speaks.is_some_and(|speaks| !speaks.includes(version))
            }
            _ => false,
        };
        if !is_right {
            let what = format!("a sound message of n{sender:05} is {}", refusal.text);
            let rule = Rule::Wire;
            self.judged(who, Err(Violation { rule, what }));
        }
    }

    /// Whether a node has the key that a sealed message names.
    fn holds_key_of(&self, who: Who, bytes: &[u8]) -> bool {
        let Some(secrecy) = &self.nodes[who].secrecy else {
            return false;
        };
        let named = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let mut held = secrecy.fingerprints().into_iter();
        held.any(|key| named.starts_with(&key.0))
    }
}
