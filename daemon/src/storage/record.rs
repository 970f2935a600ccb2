//! How one record lies in the table: a head, and a body of its own when the record is large.
//!
//! The head starts with fixed fields that answer most questions (fingerprint, newest stamp, is
//! there a value) without decoding anything, and carries a checksum that also covers the key, so
//! an item that ended up under another key is noticed. A small record is whole inside its head;
//! a large one leaves its siblings to the body, which the table cuts into chunks or puts into a file,
//! because sled puts large items into files it never syncs. Little-endian; see [`encode`] for the layout.

use ringmaster_shared::{
    clock::Hlc,
    version::{Record, RecordVersion, Sibling, VersionVector},
};

/// Format byte of a head; another one is refused.
const FORMAT: u8 = 1;
const PRESENT: u8 = 1;
const CHUNKED: u8 = 2;
const CLOCK_IN_BODY: u8 = 4;

const CRC_AT: usize = 2;
const FIXED: usize = 22;
const BODY_REF: usize = 16;

/// A record that encodes to more than this gets a body. A leaf of sled holds up to about 19
/// items and is written as a whole: 19 of these with the longest keys stay under its blob limit.
pub(super) const INLINE_MAX: usize = 4096;
/// A version vector beyond this moves into the body as well.
const CLOCK_INLINE_MAX: usize = 2048;

/// Where a body is: the log number of the write that made it names its chunks, or its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodyRef {
    pub stamp: u64,
    pub len: u32,
    crc: u32,
}

/// The facts of a stored record that need no decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub fingerprint: u64,
    pub hlc: Hlc,
    /// The winning sibling holds a value.
    pub present: bool,
    pub body: Option<BodyRef>,
    /// Bytes of head and body together.
    pub stored_len: u64,
}

/// An encoded record.
pub(super) struct Encoded {
    pub head: Vec<u8>,
    pub body: Option<Vec<u8>>,
}

fn serialized<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, String> {
    postcard::to_stdvec(value).map_err(|e| format!("cannot encode a record: {e}"))
}

/// `format u8, flags u8, crc u32, fingerprint u64, hlc u64`, then for a small record
/// `clock, siblings`, for a large one `[clock,] stamp u64, body length u32, body crc u32`.
pub(super) fn encode(key: &[u8], record: &Record, stamp: u64) -> Result<Encoded, String> {
    let clock = serialized(&record.clock)?;
    let siblings = serialized(&record.siblings)?;
    let mut flags = 0;
    if record.head().is_some_and(|s| s.value.is_some()) {
        flags |= PRESENT;
    }
    let mut rest = clock;
    let mut body = None;
    if rest.len() + siblings.len() <= INLINE_MAX {
        rest.extend_from_slice(&siblings);
    } else {
        flags |= CHUNKED;
        let chunked = if rest.len() <= CLOCK_INLINE_MAX {
            siblings
        } else {
            flags |= CLOCK_IN_BODY;
            let mut both = std::mem::take(&mut rest);
            both.extend_from_slice(&siblings);
            both
        };
        let len = u32::try_from(chunked.len()).map_err(|_| "a record is beyond 4 GiB")?;
        rest.extend_from_slice(&stamp.to_le_bytes());
        rest.extend_from_slice(&len.to_le_bytes());
        rest.extend_from_slice(&crc32fast::hash(&chunked).to_le_bytes());
        body = Some(chunked);
    }
    let mut head = Vec::with_capacity(FIXED + rest.len());
    head.extend_from_slice(&[FORMAT, flags, 0, 0, 0, 0]);
    head.extend_from_slice(&record.fingerprint().to_le_bytes());
    head.extend_from_slice(&record.max_hlc().0.to_le_bytes());
    head.extend_from_slice(&rest);
    let crc = checksum(key, &head).to_le_bytes();
    head[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
    Ok(Encoded { head, body })
}

/// What [`encode`] would need, in bytes.
pub(super) fn encoded_len(record: &Record) -> u64 {
    let size = |r: postcard::Result<usize>| r.unwrap_or(0) as u64;
    let clock =
        postcard::serialize_with_flavor(&record.clock, postcard::ser_flavors::Size::default());
    let siblings =
        postcard::serialize_with_flavor(&record.siblings, postcard::ser_flavors::Size::default());
    FIXED as u64 + size(clock) + size(siblings)
}

fn checksum(key: &[u8], head: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(&head[..CRC_AT]);
    crc.update(&head[CRC_AT + 4..]);
    crc.finalize()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

/// Checks a head and reads its fixed part. The error is a sentence.
pub(super) fn meta(key: &[u8], head: &[u8]) -> Result<Meta, String> {
    let damaged = || "its checksum does not match".to_owned();
    if head.len() < FIXED {
        return Err("it is cut short".to_owned());
    }
    if head[0] != FORMAT {
        return Err(format!(
            "its format is {}, this daemon reads {FORMAT}",
            head[0]
        ));
    }
    if u32_at(head, CRC_AT) != Some(checksum(key, head)) {
        return Err(damaged());
    }
    let body = if head[1] & CHUNKED == 0 {
        None
    } else {
        let at = head.len().checked_sub(BODY_REF).filter(|at| *at >= FIXED);
        let at = at.ok_or_else(damaged)?;
        Some(BodyRef {
            stamp: u64_at(head, at).ok_or_else(damaged)?,
            len: u32_at(head, at + 8).ok_or_else(damaged)?,
            crc: u32_at(head, at + 12).ok_or_else(damaged)?,
        })
    };
    Ok(Meta {
        fingerprint: u64_at(head, 6).ok_or_else(damaged)?,
        hlc: Hlc(u64_at(head, 14).ok_or_else(damaged)?),
        present: head[1] & PRESENT != 0,
        stored_len: head.len() as u64 + body.map_or(0, |b| u64::from(b.len)),
        body,
    })
}

fn undecodable(e: &postcard::Error) -> String {
    format!("it does not decode: {e}")
}

/// The record of a checked head; `body` is what its [`BodyRef`] points to.
pub(super) fn decode(head: &[u8], meta: &Meta, body: Option<&[u8]>) -> Result<Record, String> {
    let rest = head.get(FIXED..).unwrap_or_default();
    let (clock, siblings): (VersionVector, &[u8]) = match (meta.body, body) {
        (None, _) => postcard::take_from_bytes(rest).map_err(|e| undecodable(&e))?,
        (Some(expected), Some(body)) => {
            if body.len() != expected.len as usize || crc32fast::hash(body) != expected.crc {
                return Err("the checksum of its body does not match".to_owned());
            }
            if head[1] & CLOCK_IN_BODY == 0 {
                (
                    postcard::take_from_bytes(rest)
                        .map_err(|e| undecodable(&e))?
                        .0,
                    body,
                )
            } else {
                postcard::take_from_bytes(body).map_err(|e| undecodable(&e))?
            }
        }
        (Some(_), None) => return Err("its body is missing".to_owned()),
    };
    let siblings: Vec<Sibling> = postcard::from_bytes(siblings).map_err(|e| undecodable(&e))?;
    Ok(Record { clock, siblings })
}

/// The version in a checked head; `None` when the vector is in the body.
pub(super) fn version(head: &[u8], meta: &Meta) -> Result<Option<RecordVersion>, String> {
    if head[1] & CLOCK_IN_BODY != 0 {
        return Ok(None);
    }
    let rest = head.get(FIXED..).unwrap_or_default();
    let (clock, _) = postcard::take_from_bytes(rest).map_err(|e| undecodable(&e))?;
    Ok(Some(RecordVersion {
        clock,
        hlc: meta.hlc,
        fingerprint: meta.fingerprint,
        present: meta.present,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::{record, tombstone, wide_clock};

    fn round_trip(record: &Record) {
        let encoded = encode(b"key", record, 7).expect("encodes");
        let total = encoded.head.len() + encoded.body.as_ref().map_or(0, Vec::len);
        assert!(encoded.head.len() <= FIXED + INLINE_MAX);
        let meta = meta(b"key", &encoded.head).expect("sound");
        assert_eq!(meta.stored_len, total as u64);
        assert_eq!(
            encoded_len(record) + meta.body.map_or(0, |_| BODY_REF as u64),
            meta.stored_len
        );
        assert_eq!(meta.fingerprint, record.fingerprint());
        assert_eq!(
            decode(&encoded.head, &meta, encoded.body.as_deref()).as_ref(),
            Ok(record)
        );
        match version(&encoded.head, &meta).expect("sound") {
            Some(version) => assert_eq!(version, record.version()),
            None => assert!(
                record.clock.0.len() > 20,
                "only a wide vector may be elsewhere"
            ),
        }
    }

    #[test]
    fn records_of_all_shapes_survive() {
        for len in [0, 1, 4000, 4095, 4096, 4097, 48 * 1024, 1 << 20] {
            round_trip(&record("a", 1, 10, len));
        }
        round_trip(&Record::default());
        round_trip(&tombstone("a", 2, 11));
        round_trip(&record("a", 1, 5, 100).merge(&record("b", 1, 6, 9000)));
        round_trip(&wide_clock(500));
    }

    #[test]
    fn an_edited_cut_or_misplaced_head_is_refused() {
        let encoded = encode(b"key", &record("a", 1, 10, 20), 7).expect("encodes");
        assert!(meta(b"kez", &encoded.head).is_err(), "another key");
        for i in 0..encoded.head.len() {
            let mut edited = encoded.head.clone();
            edited[i] ^= 0x40;
            assert!(meta(b"key", &edited).is_err(), "byte {i}");
            assert!(meta(b"key", &encoded.head[..i]).is_err(), "cut at {i}");
        }
        let large = encode(b"key", &record("a", 1, 10, 9000), 7).expect("encodes");
        let facts = meta(b"key", &large.head).expect("sound");
        let mut body = large.body.expect("large");
        body[4500] ^= 1;
        assert!(decode(&large.head, &facts, Some(&body)).is_err());
        assert!(decode(&large.head, &facts, None).is_err());
    }
}
