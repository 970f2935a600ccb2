//! Packets: what they hold and how they look on the wire.
//!
//! `"RG"`, a version byte, a CRC-32 of the rest, then postcard. Decoding never panics and never
//! allocates more than the packet could hold; what cannot be read is an error that says why.
//! Encryption belongs here as well, around [`encode`] and [`decode`].

use std::sync::Arc;

use postcard::ser_flavors::Size;
use ringmaster_shared::{
    id::{ClusterId, Generation, Incarnation, NodeId},
    member::{Freshness, Load},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{MemberState, claim::Claim};

const MAGIC: [u8; 2] = *b"RG";
/// Raised when packets change in a way that older nodes cannot read.
pub const WIRE_VERSION: u8 = 1;
/// Magic, version, CRC-32 (little endian).
const HEADER_BYTES: usize = 7;
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
    #[error("not a gossip packet")]
    NotGossip,
    #[error("gossip protocol version {0}, this node speaks {WIRE_VERSION}")]
    Version(u8),
    #[error("damaged on the way (checksum)")]
    Checksum,
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

/// The bytes of a packet; its size is the sender's business, see [`packet_bytes`].
pub fn encode(packet: &Packet) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(1400);
    bytes.extend_from_slice(&MAGIC);
    bytes.push(WIRE_VERSION);
    bytes.extend_from_slice(&[0; 4]);
    let mut bytes =
        postcard::to_extend(packet, bytes).map_err(|e| CodecError::Unreadable(e.to_string()))?;
    let crc = crc32fast::hash(&bytes[HEADER_BYTES..]);
    bytes[3..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

pub fn decode(bytes: &[u8]) -> Result<Packet, CodecError> {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(CodecError::NotGossip);
    };
    let [m0, m1, version, crc @ ..] = *header;
    if [m0, m1] != MAGIC {
        return Err(CodecError::NotGossip);
    }
    if version != WIRE_VERSION {
        return Err(CodecError::Version(version));
    }
    if crc32fast::hash(body) != u32::from_le_bytes(crc) {
        return Err(CodecError::Checksum);
    }
    let (packet, rest): (Packet, _) =
        postcard::take_from_bytes(body).map_err(|e| CodecError::Unreadable(e.to_string()))?;
    if !rest.is_empty() {
        return Err(CodecError::Trailing);
    }
    if packet.claims.len() > CLAIMS_MAX {
        return Err(CodecError::TooMany(packet.claims.len()));
    }
    Ok(packet)
}

/// Size of a claim inside a packet.
pub fn claim_bytes(claim: &Claim) -> usize {
    bytes_of(claim)
}

/// Size of a packet, with room for a longer count of claims.
pub fn packet_bytes(packet: &Packet) -> usize {
    bytes_of(packet).saturating_add(HEADER_BYTES + 2)
}

/// What an intro adds to a packet.
pub fn intro_bytes(intro: &MemberState) -> usize {
    bytes_of(intro)
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
        assert!(packet_bytes(&packet) <= 1400, "{}", packet_bytes(&packet));
    }

    #[test]
    fn a_ping_between_acquaintances_is_small() {
        let mut ping = packet(0);
        ping.intro = None;
        ping.from.generation = 1_790_000_000_000;
        ping.body = Body::Ping { seq: u32::MAX };
        let bytes = encode(&ping).expect("encodes");
        assert!(bytes.len() <= 70, "{} bytes", bytes.len());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let good = encode(&packet(1)).expect("encodes");
        assert_eq!(decode(b"GET / HTTP/1.1"), Err(CodecError::NotGossip));
        assert_eq!(decode(b""), Err(CodecError::NotGossip));
        let mut newer = good.clone();
        newer[2] = 9;
        assert_eq!(decode(&newer), Err(CodecError::Version(9)));
        let mut longer = good[HEADER_BYTES..].to_vec();
        longer.push(0);
        assert_eq!(decode(&framed(&longer)), Err(CodecError::Trailing));
    }

    /// A valid frame around arbitrary content: what a checksum cannot keep out.
    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = b"RG\x01".to_vec();
        bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(decode(&bytes).is_err());
            // past the checksum as well; a random body may by chance be a packet
            let _ = decode(&framed(&bytes));
        }

        #[test]
        fn truncation_is_noticed(cut in 0..600usize) {
            let good = encode(&packet(8)).expect("encodes");
            let cut = cut.min(good.len() - 1);
            prop_assert!(decode(&good[..cut]).is_err());
        }

        #[test]
        fn flipped_bits_are_noticed(at in 0..4000usize, bit in 0..8u8) {
            let mut bytes = encode(&packet(8)).expect("encodes");
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn flipped_bits_past_the_checksum_never_panic(at in 0..4000usize, bit in 0..8u8) {
            let bytes = encode(&packet(8)).expect("encodes");
            let mut body = bytes[HEADER_BYTES..].to_vec();
            let at = at % body.len();
            body[at] ^= 1 << bit;
            if let Ok(read) = decode(&framed(&body)) {
                prop_assert!(read.claims.len() <= CLAIMS_MAX);
            }
        }
    }
}
