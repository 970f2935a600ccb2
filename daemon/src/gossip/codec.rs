//! Packets: what they hold and how they look on the wire.
//!
//! The content is postcard; around it stands an envelope (`envelope.rs`), plain or sealed
//! (`wire.rs`). Decoding never panics and never allocates more than the packet could hold; what
//! cannot be read is an error that says why.

use std::sync::Arc;

use postcard::ser_flavors::Size;
use ringmaster_shared::{
    id::{ClusterId, Generation, Incarnation, NodeId},
    member::{Freshness, Load},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[cfg(test)]
use super::envelope::{self, Speaks};
use super::{
    MemberState,
    claim::Claim,
    envelope::{ENVELOPE_BYTES, EnvelopeError},
};

/// More claims than this are not a packet of ours.
const CLAIMS_MAX: usize = 1024;
/// Largest datagram there is.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    #[serde(with = "cluster_bytes")]
    pub cluster: ClusterId,
    /// Who is meant; a node at a recycled address drops what is for another.
    pub to: NodeId,
    pub from: Brief,
    /// All that `from` says of itself: when it is news, when the receiver asked for it, and when
    /// the sender is going.
    pub intro: Option<Arc<MemberState>>,
    /// "I do not know you in this life and incarnation: say who you are."
    pub ask: bool,
    pub body: Body,
    pub claims: Vec<Claim>,
}

/// The sender of a packet, as it sees itself. Who knows it in this life and incarnation has its
/// whole state already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    pub id: NodeId,
    pub generation: Generation,
    pub incarnation: Incarnation,
    pub load: Load,
}

impl Brief {
    pub fn of(state: &MemberState) -> Self {
        Self {
            id: state.id.clone(),
            generation: state.generation,
            incarnation: state.incarnation,
            load: state.load,
        }
    }

    pub fn freshness(&self) -> Freshness {
        (self.generation, self.incarnation)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// "Answer me."
    Ping { seq: u32 },
    /// "I do."
    Ack { seq: u32 },
    /// "Ping `target` for me."
    PingRequest { seq: u32, target: NodeId },
    /// "`target` answered me", to who asked with `seq`.
    RelayedAck { seq: u32, target: NodeId },
    /// "`target` did not answer me in time", to who asked with `seq`: this node at least is well.
    Nack { seq: u32, target: NodeId },
    /// Nothing but claims.
    Gossip,
    /// Your packet was not taken. Never answered.
    Reject { reason: RejectReason },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RejectReason {
    /// The sender of this packet belongs to the cluster named in it.
    OtherCluster,
    /// You wanted `wanted`; this packet's sender is at that address now.
    OtherNode { wanted: NodeId },
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("unreadable: {0}")]
    Unreadable(String),
    #[error("longer than its content")]
    Trailing,
    #[error("{0} claims in one packet")]
    TooMany(usize),
}

/// A cluster id is a UUID: sixteen bytes instead of its text.
mod cluster_bytes {
    use ringmaster_shared::id::ClusterId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
    use uuid::Uuid;

    pub fn serialize<S: Serializer>(cluster: &ClusterId, to: S) -> Result<S::Ok, S::Error> {
        let uuid = Uuid::parse_str(cluster.as_str()).map_err(ser::Error::custom)?;
        uuid.as_bytes().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ClusterId, D::Error> {
        let bytes = <[u8; 16]>::deserialize(from)?;
        ClusterId::new(&Uuid::from_bytes(bytes).to_string()).map_err(de::Error::custom)
    }
}

/// The content of a packet; its size is the sender's business, see [`packet_bytes`].
pub fn content(packet: &Packet) -> Result<Vec<u8>, CodecError> {
    let bytes = Vec::with_capacity(1400);
    postcard::to_extend(packet, bytes).map_err(|e| CodecError::Unreadable(e.to_string()))
}

pub fn read(content: &[u8]) -> Result<Packet, CodecError> {
    let (packet, rest): (Packet, _) =
        postcard::take_from_bytes(content).map_err(|e| CodecError::Unreadable(e.to_string()))?;
    if !rest.is_empty() {
        return Err(CodecError::Trailing);
    }
    if packet.claims.len() > CLAIMS_MAX {
        return Err(CodecError::TooMany(packet.claims.len()));
    }
    Ok(packet)
}

/// The bytes of a plain packet, as nodes without keys send it.
#[cfg(test)]
pub fn encode(packet: &Packet) -> Result<Vec<u8>, CodecError> {
    let speaks = Speaks::OURS;
    let content = content(packet)?;
    Ok(envelope::plain(speaks.highest, speaks, &content))
}

#[cfg(test)]
pub fn decode(bytes: &[u8]) -> Result<Packet, CodecError> {
    read(envelope::open(bytes)?.content)
}

/// Size of a claim inside a packet.
pub fn claim_bytes(claim: &Claim) -> usize {
    bytes_of(claim)
}

/// Size of a plain packet, with room for a longer count of claims.
pub fn packet_bytes(packet: &Packet) -> usize {
    bytes_of(packet).saturating_add(ENVELOPE_BYTES + 2)
}

/// Size of a message of an exchange, without its envelope.
#[cfg(test)]
pub fn message_bytes(message: &impl Serialize) -> usize {
    bytes_of(message)
}

/// Counted, not written.
fn bytes_of(what: &impl Serialize) -> usize {
    postcard::serialize_with_flavor(what, Size::default()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::testing::{cluster, id, member},
        *,
    };

    fn packet(claims: usize) -> Packet {
        let claim = |n: usize| Claim {
            state: member(&format!("member-{n}")).into(),
            from: id("node-1"),
        };
        Packet {
            cluster: cluster(),
            to: id("node-2"),
            from: Brief::of(&member("node-1")),
            intro: Some(member("node-1").into()),
            ask: true,
            body: Body::PingRequest {
                seq: 77,
                target: id("node-3"),
            },
            claims: (0..claims).map(claim).collect(),
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for claims in [0, 1, 12] {
            let packet = packet(claims);
            let bytes = encode(&packet).expect("encodes");
            assert!(bytes.len() <= packet_bytes(&packet));
            assert_eq!(decode(&bytes), Ok(packet));
        }
    }

    #[test]
    fn the_largest_allowed_claim_fits_the_default_packet() {
        let text = "x".repeat(super::super::claim::TEXT_BYTES_MAX);
        let largest = MemberState {
            id: id(&"n".repeat(64)),
            address: "a".repeat(super::super::claim::ADDRESS_BYTES_MAX),
            zone: text.clone(),
            version: text,
            generation: u64::MAX,
            incarnation: u64::MAX,
            ..member("n")
        };
        let mut packet = packet(0);
        packet.to = largest.id.clone();
        packet.from = Brief::of(&largest);
        packet.intro = Some(largest.clone().into());
        packet.claims = vec![Claim {
            from: largest.id.clone(),
            state: largest.into(),
        }];
        let sealed = packet_bytes(&packet) + super::super::secrecy::OVERHEAD_BYTES;
        assert!(sealed <= 1400, "{sealed}");
    }

    #[test]
    fn a_ping_between_acquaintances_is_small() {
        let mut ping = packet(0);
        ping.intro = None;
        ping.from.generation = 1_790_000_000_000;
        ping.body = Body::Ping { seq: u32::MAX };
        let bytes = encode(&ping).expect("encodes");
        assert!(bytes.len() <= 73, "{} bytes", bytes.len());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let good = content(&packet(1)).expect("encodes");
        let longer = [good.as_slice(), &[0]].concat();
        assert_eq!(read(&longer), Err(CodecError::Trailing));
        assert_eq!(
            decode(b"GET / HTTP/1.1"),
            Err(EnvelopeError::NotGossip.into())
        );
    }

    proptest! {
        #[test]
        fn random_content_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(decode(&bytes).is_err(), "it has no envelope");
            // a random body may by chance be a packet, and then is one that can be sent on
            if let Ok(packet) = read(&bytes) {
                let again = content(&packet).expect("encodes");
                prop_assert_eq!(read(&again), Ok(packet));
            }
        }

        #[test]
        fn truncation_is_noticed(cut in 0..600usize) {
            let good = content(&packet(8)).expect("encodes");
            let cut = cut.min(good.len() - 1);
            prop_assert!(read(&good[..cut]).is_err());
        }

        #[test]
        fn flipped_bits_past_the_checksum_never_panic(at in 0..4000usize, bit in 0..8u8) {
            let mut bytes = content(&packet(8)).expect("encodes");
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(read) = read(&bytes) {
                prop_assert!(read.claims.len() <= CLAIMS_MAX);
            }
        }
    }
}
