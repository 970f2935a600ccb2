//! From messages to bytes and back: envelope, seal, versions, and everything that is refused
//! before its content is looked at.
//!
//! Order of the checks: length, envelope, version, seal, content, of a sealed message whether its
//! sender's life is one that can be, and last whether it came before. The first that fails is the
//! reason; nothing later is looked at. No socket and no clock in here: the time is handed in, and
//! nonces come with the keyring.

use ringmaster_shared::id::{ClusterId, Generation, NodeId};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    claim,
    codec::{self, Packet},
    envelope::{self, Card, ENVELOPE_BYTES, Envelope, HEADER_BYTES, Speaks, Versions},
    reconcile::{Answer, Ask, MESSAGE_BYTES_MAX, Message},
    rejected::Rejected,
    secrecy::{self, Nonce, Purpose, Secrecy, Unsealed},
};

/// What stands around the content of a packet at most.
pub fn overhead_bytes(secrecy: Option<&Secrecy>) -> usize {
    match secrecy {
        Some(secrecy) if secrecy.verify().outgoing => HEADER_BYTES + secrecy::OVERHEAD_BYTES,
        _ => ENVELOPE_BYTES,
    }
}

/// The longest datagram that is read. Generous towards members with another `packet_bytes`, for
/// that is changed on one node after the other.
pub fn datagram_bytes_max(packet_bytes_max: usize) -> usize {
    packet_bytes_max
        .saturating_mul(4)
        .clamp(4096, codec::DATAGRAM_BYTES_MAX)
}

/// Why a message was not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub why: Rejected,
    pub text: String,
    /// The sender's versions, when they are the matter.
    pub speaks: Option<Speaks>,
}

impl Refusal {
    fn new(why: Rejected, text: impl Into<String>) -> Self {
        Self {
            why,
            text: text.into(),
            speaks: None,
        }
    }
}

/// A readable datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Datagram {
    Packet(Box<Packet>),
    /// Who sent it, and what it speaks.
    Card(Card, Speaks),
}

/// A question of an exchange, and what its answer has to be bound to.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub ask: Message<Ask>,
    pub bond: Bond,
}

/// Whom a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver<'a> {
    /// It answered there.
    Known(&'a NodeId),
    /// The list has it there.
    Believed(&'a NodeId),
}

/// Binds an answer to its question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bond {
    version: u8,
    /// Of a sealed question, and which key it used.
    sealed: Option<(Nonce, secrecy::Fingerprint)>,
    /// Of a question this node sealed: its nonce, which the answer repeats.
    asked_under: Option<Nonce>,
}

/// Turns messages of one node into bytes and back.
pub struct Wire {
    node: NodeId,
    cluster: ClusterId,
    versions: Versions,
    secrecy: Option<Secrecy>,
    datagram_bytes_max: usize,
}

impl Wire {
    pub fn new(
        node: NodeId,
        cluster: ClusterId,
        speaks: Speaks,
        secrecy: Option<Secrecy>,
        packet_bytes_max: usize,
    ) -> Self {
        Self {
            node,
            cluster,
            versions: Versions::new(speaks),
            secrecy,
            datagram_bytes_max: datagram_bytes_max(packet_bytes_max),
        }
    }

    pub fn speaks(&self) -> Speaks {
        self.versions.ours
    }

    pub fn datagram_bytes_max(&self) -> usize {
        self.datagram_bytes_max
    }

    // ---- packets ----------------------------------------------------------------------------

    /// `None` for what cannot be encoded, which the core does not make. `now_ms` is monotonic.
    pub fn packet(&self, now_ms: u64, packet: &Packet) -> Option<Vec<u8>> {
        let content = codec::content(packet).ok()?;
        let version = self.versions.towards(&packet.to);
        self.live_on_as(packet.from.generation);
        let to = Some((&packet.to, now_ms));
        let (bytes, _) = self.seal(Purpose::Packet, version, to, None, &content);
        Some(bytes)
    }

    /// `unix_ms` is this node's clock, by which lives are judged.
    pub fn read(&mut self, unix_ms: u64, bytes: &[u8]) -> Result<Datagram, Refusal> {
        if bytes.len() > self.datagram_bytes_max {
            let text = format!("longer than {} bytes", self.datagram_bytes_max);
            return Err(Refusal::new(Rejected::Oversized, text));
        }
        let envelope = open(bytes)?;
        if envelope.is_card() {
            return self.read_card(&envelope);
        }
        self.check_version(&envelope)?;
        let (content, unsealed) = self.unseal(Purpose::Packet, &envelope, None)?;
        let packet = codec::read(&content)
            .map_err(|error| Refusal::new(Rejected::Damaged, error.to_string()))?;
        let sender = (&packet.from.id, packet.from.generation);
        self.admit(unix_ms, Purpose::Packet, sender, unsealed.as_ref())?;
        self.versions.learn(&packet.from.id, envelope.speaks);
        Ok(Datagram::Packet(Box::new(packet)))
    }

    // ---- version ----------------------------------------------------------------------------

    /// What any node can read of this one.
    pub fn card(&self, asks: bool) -> Vec<u8> {
        let id = self.node.clone();
        Card { id, asks }.message(self.versions.ours)
    }

    fn read_card(&mut self, envelope: &Envelope) -> Result<Datagram, Refusal> {
        let card = Card::read(envelope.content);
        let card = card.filter(|_| !envelope.sealed);
        let card = card.ok_or_else(|| Refusal::new(Rejected::Damaged, "a damaged card"))?;
        // anybody can write a card: where only sealed messages are taken it changes nothing
        let believed = !self.secrecy.as_ref().is_some_and(|s| s.verify().incoming);
        if believed {
            self.versions.learn(&card.id, envelope.speaks);
        }
        Ok(Datagram::Card(card, envelope.speaks))
    }

    fn check_version(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let ours = self.versions.ours;
        if ours.includes(envelope.version) {
            return Ok(());
        }
        let text = format!(
            "in version {} of the gossip protocol; its sender speaks {}, this node {ours}",
            envelope.version, envelope.speaks
        );
        Err(Refusal {
            speaks: Some(envelope.speaks),
            ..Refusal::new(Rejected::Version, text)
        })
    }

    // ---- exchanges --------------------------------------------------------------------------

    /// A question for whoever it is at an address, and what its answer must be bound to. `to` is
    /// who answered there, or who is believed to be there: for that one it is sealed, but who it is
    /// has to turn out before it is spoken to in a later version. `now_ms` is monotonic.
    pub fn ask(
        &self,
        now_ms: u64,
        to: Option<Receiver<'_>>,
        ask: &Message<Ask>,
    ) -> Option<(Vec<u8>, Bond)> {
        let content = postcard::to_stdvec(ask).ok()?;
        let version = match to {
            Some(Receiver::Known(to)) => self.versions.towards(to),
            Some(Receiver::Believed(_)) | None => self.versions.ours.lowest,
        };
        let to = to.map(|(Receiver::Known(to) | Receiver::Believed(to))| (to, now_ms));
        self.live_on_as(ask.from.generation);
        let (bytes, nonce) = self.seal(Purpose::Ask, version, to, None, &content);
        let bond = Bond {
            version,
            sealed: None,
            asked_under: nonce,
        };
        Some((bytes, bond))
    }

    /// The time as in [`Self::read`].
    pub fn read_ask(&mut self, unix_ms: u64, bytes: &[u8]) -> Result<Asked, Refusal> {
        let envelope = self.open_call(bytes)?;
        let (content, unsealed) = self.unseal(Purpose::Ask, &envelope, None)?;
        let ask: Message<Ask> = self.message(&content)?;
        let sender = (&ask.from.id, ask.from.generation);
        self.admit(unix_ms, Purpose::Ask, sender, unsealed.as_ref())?;
        self.versions.learn(&ask.from.id, envelope.speaks);
        let bond = Bond {
            version: envelope.version,
            sealed: unsealed.map(|u| (u.nonce, u.key)),
            asked_under: None,
        };
        Ok(Asked { ask, bond })
    }

    /// In the version of the question, and under its key.
    pub fn answer(&self, bond: &Bond, answer: &Message<Answer>) -> Option<Vec<u8>> {
        let content = postcard::to_stdvec(answer).ok()?;
        let (bytes, _) = self.seal(Purpose::Answer, bond.version, None, bond.sealed, &content);
        Some(bytes)
    }

    pub fn read_answer(&mut self, bond: &Bond, bytes: &[u8]) -> Result<Message<Answer>, Refusal> {
        let envelope = self.open_call(bytes)?;
        // bound to a question of this process, which was asked once: it cannot be a replay
        let (content, _) = self.unseal(Purpose::Answer, &envelope, bond.asked_under)?;
        let answer: Message<Answer> = self.message(&content)?;
        self.versions.learn(&answer.from.id, envelope.speaks);
        Ok(answer)
    }

    fn open_call<'a>(&self, bytes: &'a [u8]) -> Result<Envelope<'a>, Refusal> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            let text = format!("longer than {MESSAGE_BYTES_MAX} bytes");
            return Err(Refusal::new(Rejected::Oversized, text));
        }
        let envelope = open(bytes)?;
        self.check_version(&envelope)?;
        Ok(envelope)
    }

    fn message<T: DeserializeOwned + Serialize>(
        &self,
        content: &[u8],
    ) -> Result<Message<T>, Refusal> {
        let read = postcard::take_from_bytes::<Message<T>>(content);
        let damaged = |text: String| Refusal::new(Rejected::Damaged, text);
        let (message, rest) = read.map_err(|error| damaged(format!("unreadable: {error}")))?;
        if !rest.is_empty() {
            return Err(damaged("longer than its content".into()));
        }
        if message.cluster != self.cluster {
            let text = format!("of cluster {}", message.cluster);
            return Err(Refusal::new(Rejected::OtherCluster, text));
        }
        Ok(message)
    }

    // ---- seals ------------------------------------------------------------------------------

    /// A seal is of the life that its content speaks of.
    fn live_on_as(&self, generation: Generation) {
        if let Some(secrecy) = &self.secrecy {
            secrecy.live_on_as(generation);
        }
    }

    /// Whole bytes of a message, and the nonce when it was sealed. `bound` is what an answer is
    /// bound to.
    fn seal(
        &self,
        purpose: Purpose,
        version: u8,
        to: Option<(&NodeId, u64)>,
        bound: Option<(Nonce, secrecy::Fingerprint)>,
        content: &[u8],
    ) -> (Vec<u8>, Option<Nonce>) {
        let speaks = self.versions.ours;
        let Some(secrecy) = self.secrecy.as_ref().filter(|s| s.verify().outgoing) else {
            return (envelope::plain(version, speaks, content), None);
        };
        let header = envelope::header(version, speaks, true);
        let nonce = bound.map(|(nonce, _)| nonce);
        let about = about(&self.cluster, &header, nonce.as_ref());
        let sealed = match bound {
            Some((_, key)) => secrecy.seal_with(purpose, &about, Some(key), content),
            None => secrecy.seal(purpose, &about, to, content),
        };
        let nonce = secrecy::nonce_of(&sealed);
        (envelope::sealed(header, &sealed), nonce)
    }

    fn unseal(
        &self,
        purpose: Purpose,
        envelope: &Envelope,
        bound: Option<Nonce>,
    ) -> Result<(Vec<u8>, Option<Unsealed>), Refusal> {
        match (&self.secrecy, envelope.sealed) {
            (Some(secrecy), false) if secrecy.verify().incoming => Err(Refusal::new(
                Rejected::Unsealed,
                "not sealed, and this node takes only sealed ones (gossip.verify_incoming)",
            )),
            (_, false) => Ok((envelope.content.to_vec(), None)),
            (None, true) => Err(Refusal::new(
                Rejected::Unopened,
                "sealed, and this node has no keyring (gossip.keyring_file)",
            )),
            (Some(secrecy), true) => {
                let about = about(&self.cluster, &envelope.header, bound.as_ref());
                let mut opened = secrecy
                    .open(purpose, &about, envelope.content)
                    .map_err(|error| Refusal::new(Rejected::Unopened, error.to_string()))?;
                let content = std::mem::take(&mut *opened.plain);
                Ok((content, Some(opened)))
            }
        }
    }

    fn admit(
        &self,
        unix_ms: u64,
        purpose: Purpose,
        (sender, generation): (&NodeId, Generation),
        unsealed: Option<&Unsealed>,
    ) -> Result<(), Refusal> {
        let (Some(secrecy), Some(unsealed)) = (&self.secrecy, unsealed) else {
            return Ok(());
        };
        if unsealed.generation() != generation {
            let text = format!("of another life of {sender} than it says");
            return Err(Refusal::new(Rejected::Unacceptable, text));
        }
        // before its numbers are taken note of: they would pass for those of its latest life, and
        // keep every true one out
        if claim::is_too_far_ahead(generation, unix_ms) {
            let text = format!("of a life of {sender} that begins too far in the future");
            return Err(Refusal::new(Rejected::Unacceptable, text));
        }
        if secrecy.admit(purpose, sender, unsealed) {
            return Ok(());
        }
        let text = format!("{sender} sent it before (a replay, or doubled by the network)");
        Err(Refusal::new(Rejected::Replayed, text))
    }
}

fn open(bytes: &[u8]) -> Result<Envelope<'_>, Refusal> {
    envelope::open(bytes).map_err(|error| Refusal::new(Rejected::Damaged, error.to_string()))
}

/// What a seal is bound to.
fn about<'a>(
    cluster: &'a ClusterId,
    header: &'a [u8; HEADER_BYTES],
    nonce: Option<&'a Nonce>,
) -> Vec<&'a [u8]> {
    let nonce = nonce.map(AsRef::<[u8]>::as_ref);
    let known: [&[u8]; 2] = [cluster.as_str().as_bytes(), header];
    known.into_iter().chain(nonce).collect()
}

#[cfg(test)]
mod tests;
