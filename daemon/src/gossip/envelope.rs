//! What stands around every gossip message, the same in all versions of the protocol for ever.
//!
//! `"RG"`, the version of the content, the lowest and the highest version the sender speaks, and
//! flags. Plain content follows behind a CRC-32 of everything else; sealed content follows at
//! once, with these six bytes among what it is bound to. So every node can tell of every other
//! whether they have a version in common, and say so.
//!
//! Content of version 0 is a calling card: nothing but who the sender is. Version 1 had no
//! envelope: whoever sends it speaks nothing else.

use std::{collections::HashMap, fmt};

use ringmaster_shared::id::NodeId;

const MAGIC: [u8; 2] = *b"RG";
/// Bytes before the checksum or the sealed content.
pub const HEADER_BYTES: usize = 6;
const CHECKSUM_BYTES: usize = 4;
/// What the envelope adds to plain content.
pub const ENVELOPE_BYTES: usize = HEADER_BYTES + CHECKSUM_BYTES;
/// The version of calling cards.
const CARD: u8 = 0;
/// The last version without an envelope.
const BEFORE_ENVELOPES: u8 = 1;
const SEALED: u8 = 1;
/// Members whose versions are remembered, twice as many as a list has; to others the lowest is
/// spoken.
const REMEMBERED_MAX: usize = 32_768;

/// A range of versions of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaks {
    pub lowest: u8,
    pub highest: u8,
}

impl Speaks {
    /// What this program speaks.
    pub const OURS: Self = Self {
        lowest: 2,
        highest: 2,
    };

    pub fn includes(self, version: u8) -> bool {
        (self.lowest..=self.highest).contains(&version)
    }

    /// The highest version both speak.
    pub fn common(self, other: Self) -> Option<u8> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lowest == self.highest {
            write!(f, "{}", self.lowest)
        } else {
            write!(f, "{} to {}", self.lowest, self.highest)
        }
    }
}

/// What is read of any message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub version: u8,
    pub speaks: Speaks,
    pub sealed: bool,
    pub header: [u8; HEADER_BYTES],
    pub content: &'a [u8],
}

/// Why something is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("not a gossip message")]
    NotGossip,
    #[error("cut off or damaged on the way (checksum)")]
    Damaged,
    #[error("of a kind this node does not know")]
    Unknown,
}

impl Envelope<'_> {
    pub fn is_card(&self) -> bool {
        self.version == CARD
    }
}

/// The first bytes of a message.
pub fn header(version: u8, speaks: Speaks, sealed: bool) -> [u8; HEADER_BYTES] {
    let flags = if sealed { SEALED } else { 0 };
    [
        MAGIC[0],
        MAGIC[1],
        version,
        speaks.lowest,
        speaks.highest,
        flags,
    ]
}

/// A whole message around plain content.
pub fn plain(version: u8, speaks: Speaks, content: &[u8]) -> Vec<u8> {
    let header = header(version, speaks, false);
    let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + content.len());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&checksum(header, content));
    bytes.extend_from_slice(content);
    bytes
}

/// A whole message around sealed content.
pub fn sealed(header: [u8; HEADER_BYTES], content: &[u8]) -> Vec<u8> {
    [&header, content].concat()
}

/// Tells the envelope from the content, and checks the plain one's sum. Looks at nothing else.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    if bytes.get(..2) != Some(&MAGIC) {
        return Err(EnvelopeError::NotGossip);
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(EnvelopeError::Damaged);
    };
    let [_, _, version, lowest, highest, flags] = *header;
    let mut envelope = Envelope {
        version,
        speaks: Speaks { lowest, highest },
        sealed: flags & SEALED != 0,
        header: *header,
        content: rest,
    };
    if version == BEFORE_ENVELOPES {
        envelope.speaks = Speaks {
            lowest: version,
            highest: version,
        };
        envelope.sealed = false;
        return Ok(envelope);
    }
    if !envelope.sealed {
        let Some((sum, content)) = rest.split_first_chunk::<CHECKSUM_BYTES>() else {
            return Err(EnvelopeError::Damaged);
        };
        if *sum != checksum(*header, content) {
            return Err(EnvelopeError::Damaged);
        }
        envelope.content = content;
    }
    if flags & !SEALED != 0 || lowest > highest {
        return Err(EnvelopeError::Unknown);
    }
    Ok(envelope)
}

fn checksum(header: [u8; HEADER_BYTES], content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&header);
    sum.update(content);
    sum.finalize().to_le_bytes()
}

/// "I am this node and speak these versions", for whoever cannot read anything else of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub id: NodeId,
    /// Whether one is wanted back.
    pub asks: bool,
}

impl Card {
    pub fn message(&self, speaks: Speaks) -> Vec<u8> {
        let content = [&[u8::from(self.asks)], self.id.as_str().as_bytes()].concat();
        plain(CARD, speaks, &content)
    }

    pub fn read(content: &[u8]) -> Option<Self> {
        let (asks, id) = content.split_first()?;
        Some(Self {
            id: NodeId::new(std::str::from_utf8(id).ok()?).ok()?,
            asks: *asks != 0,
        })
    }
}

/// Who speaks what, as their messages say, in a bounded number: those not heard of for long go
/// first. Names that come and go must not keep out who is here.
#[derive(Debug)]
pub struct Versions {
    pub ours: Speaks,
    recent: HashMap<NodeId, Speaks>,
    older: HashMap<NodeId, Speaks>,
}

impl Versions {
    pub fn new(ours: Speaks) -> Self {
        Self {
            ours,
            recent: HashMap::new(),
            older: HashMap::new(),
        }
    }

    pub fn learn(&mut self, id: &NodeId, speaks: Speaks) {
        if let Some(known) = self.recent.get_mut(id) {
            *known = speaks;
            return;
        }
        if self.recent.len() >= REMEMBERED_MAX / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        self.older.remove(id);
        self.recent.insert(id.clone(), speaks);
    }

    /// The highest version both sides speak; to a stranger the lowest, which most can read.
    pub fn towards(&self, id: &NodeId) -> u8 {
        let known = self.recent.get(id).or_else(|| self.older.get(id)).copied();
        let common = known.and_then(|theirs| self.ours.common(theirs));
        common.unwrap_or(self.ours.lowest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::id, *};

    fn speaks(lowest: u8, highest: u8) -> Speaks {
        Speaks { lowest, highest }
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        let cases = [
            ((1, 2), (1, 2), Some(2)),
            ((1, 2), (2, 4), Some(2)),
            ((2, 4), (1, 3), Some(3)),
            ((1, 2), (3, 4), None),
            ((3, 4), (1, 2), None),
            ((2, 2), (2, 2), Some(2)),
        ];
        for (a, b, want) in cases {
            assert_eq!(
                speaks(a.0, a.1).common(speaks(b.0, b.1)),
                want,
                "{a:?} {b:?}"
            );
        }
        let mut versions = Versions::new(speaks(2, 5));
        assert_eq!(versions.towards(&id("x")), 2, "a stranger");
        versions.learn(&id("x"), speaks(3, 4));
        assert_eq!(versions.towards(&id("x")), 4);
        versions.learn(&id("x"), speaks(3, 9));
        assert_eq!(versions.towards(&id("x")), 5, "it was upgraded");
        assert_eq!(speaks(3, 4).to_string(), "3 to 4");
        assert_eq!(speaks(3, 3).to_string(), "3");
    }

    #[test]
    fn names_that_came_and_went_keep_nobody_out() {
        let mut versions = Versions::new(speaks(2, 5));
        for n in 0..3 * REMEMBERED_MAX {
            versions.learn(&id(&format!("n{n}")), speaks(2, 4));
            versions.learn(&id("busy"), speaks(2, 3));
        }
        assert_eq!(versions.towards(&id("busy")), 3);
        let newest = id(&format!("n{}", 3 * REMEMBERED_MAX - 1));
        assert_eq!(versions.towards(&newest), 4);
        assert!(versions.recent.len() + versions.older.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn any_version_is_told_from_its_envelope() {
        let bytes = plain(77, speaks(70, 80), b"content of the future");
        let envelope = open(&bytes).expect("an envelope");
        assert_eq!((envelope.version, envelope.speaks), (77, speaks(70, 80)));
        assert_eq!(envelope.content, b"content of the future");
        let sealed = sealed(header(77, speaks(70, 80), true), b"sealed");
        let envelope = open(&sealed).expect("an envelope");
        assert!(envelope.sealed && envelope.content == b"sealed");
        let old = open(b"RG\x01\xff\xff\xff\xff whatever").expect("the first version");
        assert_eq!(old.speaks, speaks(1, 1));
    }

    #[test]
    fn cards_name_their_sender() {
        let card = Card {
            id: id("node-3"),
            asks: true,
        };
        let bytes = card.message(speaks(3, 4));
        let envelope = open(&bytes).expect("an envelope");
        assert!(envelope.is_card());
        assert_eq!(envelope.speaks, speaks(3, 4));
        assert_eq!(Card::read(envelope.content), Some(card));
        for wrong in [&b""[..], b"\x00", b"\x01no id!", b"\x01\xff"] {
            assert_eq!(Card::read(wrong), None);
        }
    }

    #[test]
    fn what_is_no_message_is_told_apart() {
        let good = plain(2, speaks(2, 2), b"x");
        assert_eq!(open(b"GET / HTTP/1.1"), Err(EnvelopeError::NotGossip));
        assert_eq!(open(b""), Err(EnvelopeError::NotGossip));
        assert_eq!(open(&good[..4]), Err(EnvelopeError::Damaged));
        let flags = sealed([b'R', b'G', 2, 2, 2, 0b11], b"x");
        assert_eq!(open(&flags), Err(EnvelopeError::Unknown));
        let upside_down = sealed(header(2, speaks(3, 2), true), b"x");
        assert_eq!(open(&upside_down), Err(EnvelopeError::Unknown));
    }

    proptest! {
        #[test]
        fn cuts_and_flips_of_plain_messages_are_noticed(
            content in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let good = plain(2, speaks(2, 2), &content);
            let at = at.index(good.len());
            prop_assert!(open(&good[..at]).is_err());
            let mut flipped = good;
            flipped[at] ^= 1 << bit;
            // a flip can make it look sealed (then the seal does not open) or like the version
            // that had no envelope (which nobody reads)
            if let Ok(envelope) = open(&flipped) {
                prop_assert!(envelope.sealed || envelope.version == BEFORE_ENVELOPES);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(open(&bytes).is_err());
            // only the version that had no envelope, and no checksum, has nothing to be wrong
            let begun = [&b"RG"[..], &bytes].concat();
            let before = begun.len() >= HEADER_BYTES && begun[2] == BEFORE_ENVELOPES;
            let sealed = begun.get(5).is_some_and(|flags| flags & SEALED != 0);
            prop_assert!(open(&begun).is_err() || before || sealed);
            if let Some(card) = Card::read(&bytes) {
                let message = card.message(speaks(2, 3));
                let envelope = open(&message).expect("an envelope");
                prop_assert_eq!(Card::read(envelope.content), Some(card));
            }
        }
    }
}
