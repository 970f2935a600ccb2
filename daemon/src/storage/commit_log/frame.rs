//! The bytes of a log segment, as pure functions: header, frames, and how to judge a broken end.
//!
//! ```text
//! segment = magic "RINGLOG" version u8 | first lsn u64 | salt u64 | crc u32 | frame*
//! frame   = payload length u32 | crc u32 | first lsn u64 | count u32 | count * postcard(LogOp)
//! ```
//!
//! All little-endian. One frame is one group commit, written by one append and made durable by
//! one sync, and the next is only written after that sync. So a broken frame at the end of the
//! log was never acknowledged and may be cut, while a sound frame *after* a broken one proves that
//! the broken one had been synced: that is damage, and the two must not be mixed up.
//!
//! A segment ends where the next one begins, or, the last one, at the first frame that is not
//! sound. What follows there is allocated space: zeros, or frames of an earlier life of the file.
//! The checksum starts with the segment's random salt, new in each life, so neither a stale
//! frame nor a user's value that happens to hold a copy of a log passes for a frame.

use super::LogOp;

const MAGIC: &[u8; 7] = b"RINGLOG";
const VERSION: u8 = 1;
pub(in crate::storage) const SEGMENT_HEADER: usize = 28;
pub(in crate::storage) const FRAME_HEADER: usize = 20;
/// How far ahead a frame's number may be to count as "a later frame of this log".
const LSN_WINDOW: u64 = 1 << 32;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

pub(super) fn segment_header(first_lsn: u64, salt: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SEGMENT_HEADER);
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&first_lsn.to_le_bytes());
    bytes.extend_from_slice(&salt.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// `(first lsn, salt)`; `None` when the header is cut or damaged.
fn read_header(bytes: &[u8]) -> Option<(u64, u64)> {
    let header = bytes.get(..SEGMENT_HEADER)?;
    let sound = header.starts_with(MAGIC)
        && header[7] == VERSION
        && u32_at(header, 24) == Some(crc32fast::hash(&header[..24]));
    sound.then_some((u64_at(header, 8)?, u64_at(header, 16)?))
}

fn checksum(salt: u64, frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_le_bytes());
    crc.update(&frame[..4]);
    crc.update(&frame[8..]);
    crc.finalize()
}

/// Writes the frame of `ops` into `out` (cleared first).
pub(super) fn frame(
    out: &mut Vec<u8>,
    salt: u64,
    first_lsn: u64,
    ops: &[LogOp],
) -> Result<(), String> {
    out.clear();
    out.extend_from_slice(&[0; FRAME_HEADER]);
    for op in ops {
        let taken = std::mem::take(out);
        *out = postcard::to_extend(op, taken).map_err(|e| format!("cannot encode: {e}"))?;
    }
    let len = u32::try_from(out.len() - FRAME_HEADER).map_err(|_| "a batch is beyond 4 GiB")?;
    let count = u32::try_from(ops.len()).map_err(|_| "a batch has too many entries")?;
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[8..16].copy_from_slice(&first_lsn.to_le_bytes());
    out[16..20].copy_from_slice(&count.to_le_bytes());
    let crc = checksum(salt, out);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// A frame that lies at `at`, whole and sound, with its first number.
fn frame_at(bytes: &[u8], at: usize, salt: u64) -> Option<(u64, &[u8])> {
    let end = (u32_at(bytes, at)? as usize).checked_add(at + FRAME_HEADER)?;
    let frame = bytes.get(at..end)?;
    let sound = u32_at(frame, 16)? > 0 && u32_at(frame, 4)? == checksum(salt, frame);
    sound.then_some((u64_at(frame, 8)?, frame))
}

/// What [`scan`] found in one segment.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::storage) struct Scan {
    pub salt: u64,
    /// The number the next frame has to start with.
    pub next_lsn: u64,
    /// Length of the sound part; the log goes on there.
    pub sound_len: usize,
    /// Bytes after it that look like a frame which was not written to its end.
    pub torn_len: usize,
}

/// Why a segment can't be used, as the end of a sentence.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::storage) enum Broken {
    /// A last segment whose creation was cut short; it never held anything.
    Unborn,
    Damaged(String),
}

/// Reads a segment that has to start with number `expected`, handing each entry to `each`. It
/// goes up to the number `until`, where the next segment begins; the last one of a log (`None`)
/// may have a torn tail.
pub(in crate::storage) fn scan<E>(
    bytes: &[u8],
    expected: u64,
    until: Option<u64>,
    mut each: impl FnMut(u64, LogOp) -> Result<(), E>,
) -> Result<Result<Scan, Broken>, E> {
    let damaged = |why: String| Ok(Err(Broken::Damaged(why)));
    let Some((first_lsn, salt)) = read_header(bytes) else {
        // A header is synced before the first frame is written.
        if until.is_none() && bytes.len() <= SEGMENT_HEADER {
            return Ok(Err(Broken::Unborn));
        }
        return damaged("its header is damaged".to_owned());
    };
    if first_lsn != expected {
        return damaged(format!("it starts at {first_lsn} where {expected} belongs"));
    }
    let mut at = SEGMENT_HEADER;
    let mut lsn = expected;
    while until.is_none_or(|end| lsn < end) {
        let frame = match frame_at(bytes, at, salt) {
            Some((first, frame)) if first == lsn => frame,
            Some((first, _)) => {
                return damaged(format!(
                    "entry {first} at byte {at} stands where {lsn} belongs"
                ));
            }
            None if until.is_some() || has_later_frame(bytes, at, salt, lsn) => {
                return damaged(format!("entry {lsn} at byte {at} is damaged"));
            }
            None => break,
        };
        let mut payload = &frame[FRAME_HEADER..];
        for _ in 0..u32_at(frame, 16).unwrap_or(0) {
            let Ok((op, rest)) = postcard::take_from_bytes::<LogOp>(payload) else {
                return damaged(format!("entry {lsn} at byte {at} does not decode"));
            };
            each(lsn, op)?;
            payload = rest;
            lsn += 1;
        }
        at += frame.len();
    }
    if until.is_some_and(|end| lsn != end) {
        return damaged(format!("its entries overlap the next segment's at {lsn}"));
    }
    let torn_len = if until.is_some() {
        0
    } else {
        torn_len(bytes, at, lsn)
    };
    Ok(Ok(Scan {
        salt,
        next_lsn: lsn,
        sound_len: at,
        torn_len,
    }))
}

/// How much of what lies at the end of the log is an unfinished frame. A frame of an earlier life
/// has a lower number, allocated space has none.
fn torn_len(bytes: &[u8], at: usize, lsn: u64) -> usize {
    let rest = bytes.len() - at;
    if rest < FRAME_HEADER {
        return rest;
    }
    match (u32_at(bytes, at), u64_at(bytes, at + 8)) {
        (Some(len), Some(first)) if first == lsn => rest.min(FRAME_HEADER + len as usize),
        _ => 0,
    }
}

/// Whether a sound frame with a number above `lsn` lies anywhere after the broken one at `at`.
fn has_later_frame(bytes: &[u8], at: usize, salt: u64, lsn: u64) -> bool {
    let last = bytes.len().saturating_sub(FRAME_HEADER);
    (at + 1..last.max(at + 1)).any(|candidate| {
        // the number first: it rules out nearly every offset without a checksum
        u64_at(bytes, candidate + 8).is_some_and(|n| n > lsn && n - lsn < LSN_WINDOW)
            && frame_at(bytes, candidate, salt).is_some()
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use ringmaster_shared::key::Key;

    use super::*;
    use crate::storage::testing::record;

    fn put(name: &str, value_len: usize) -> LogOp {
        LogOp::Put {
            key: Key::new(name).expect("valid"),
            record: record("a", 1, 10, value_len),
        }
    }

    /// A segment of three frames (2, 1, 3 entries) and where they start and end.
    fn segment(salt: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = segment_header(5, salt);
        let mut marks = vec![bytes.len()];
        let mut out = Vec::new();
        let groups = [
            (5, vec![put("a", 10), put("b", 0)]),
            (7, vec![put("c", 300)]),
            (8, vec![put("d", 1), put("e", 2), put("f", 3)]),
        ];
        for (lsn, ops) in groups {
            frame(&mut out, salt, lsn, &ops).expect("encodes");
            bytes.extend_from_slice(&out);
            marks.push(bytes.len());
        }
        (bytes, marks)
    }

    fn read(bytes: &[u8], is_last: bool) -> (Vec<u64>, Result<Scan, Broken>) {
        let mut seen = Vec::new();
        let until = (!is_last).then_some(11);
        let result = scan(bytes, 5, until, |lsn, _| {
            seen.push(lsn);
            Ok::<_, Infallible>(())
        });
        let Ok(scan) = result;
        (seen, scan)
    }

    #[test]
    fn a_whole_segment_reads_back() {
        let (bytes, _) = segment(77);
        let (seen, scan) = read(&bytes, false);
        assert_eq!(seen, [5, 6, 7, 8, 9, 10]);
        let scan = scan.expect("sound");
        assert_eq!((scan.next_lsn, scan.torn_len), (11, 0));
    }

    #[test]
    fn a_cut_anywhere_in_the_last_frame_is_a_torn_tail() {
        let (bytes, marks) = segment(77);
        for end in marks[2]..bytes.len() {
            let (seen, scan) = read(&bytes[..end], true);
            assert_eq!(seen, [5, 6, 7], "cut at {end}");
            let scan = scan.expect("torn, not damaged");
            assert_eq!((scan.sound_len, scan.torn_len), (marks[2], end - marks[2]));
            assert!(
                matches!(read(&bytes[..end], false).1, Err(Broken::Damaged(_))),
                "only the last may be torn"
            );
        }
    }

    #[test]
    fn a_changed_byte_in_the_last_frame_is_torn_and_before_it_is_damage() {
        let (bytes, marks) = segment(77);
        for i in SEGMENT_HEADER..bytes.len() {
            let mut edited = bytes.clone();
            edited[i] ^= 0x10;
            let (_, scan) = read(&edited, true);
            if i >= marks[2] {
                assert_eq!(scan.expect("torn").sound_len, marks[2], "byte {i}");
            } else {
                assert!(matches!(scan, Err(Broken::Damaged(_))), "byte {i}");
            }
        }
    }

    #[test]
    fn allocated_space_after_the_end_is_not_torn() {
        let (mut bytes, marks) = segment(77);
        bytes.extend_from_slice(&[0; 5000]);
        for is_last in [true, false] {
            let scan = read(&bytes, is_last).1.expect("sound");
            assert_eq!((scan.sound_len, scan.torn_len), (marks[3], 0));
        }
    }

    #[test]
    fn a_copy_of_another_log_inside_a_torn_frame_is_not_taken_for_frames() {
        let (bytes, marks) = segment(77);
        let (foreign, _) = segment(78);
        let mut torn = bytes[..marks[3]].to_vec();
        torn.extend_from_slice(&[9; 40]);
        torn.extend_from_slice(&foreign);
        assert_eq!(read(&torn, true).1.expect("torn").sound_len, marks[3]);
    }

    /// A file of an earlier life, with lower numbers and another salt, under the first bytes of
    /// a segment.
    fn over_stale(written: &[u8]) -> Vec<u8> {
        let mut stale = segment_header(1, 99);
        let mut out = Vec::new();
        for lsn in 1..5 {
            let ops = [put(&format!("stale{lsn}"), 150 + lsn as usize)];
            frame(&mut out, 99, lsn, &ops).expect("encodes");
            stale.extend_from_slice(&out);
        }
        while stale.len() < 4096 {
            stale.push(0);
        }
        stale[..written.len()].copy_from_slice(written);
        stale
    }

    #[test]
    fn frames_of_an_earlier_life_read_as_the_end_wherever_the_new_ones_stop() {
        let (bytes, marks) = segment(77);
        for (end, lsn) in marks.iter().zip([5, 7, 8, 11]) {
            let scan = read(&over_stale(&bytes[..*end]), true).1.expect("sound");
            assert_eq!((scan.sound_len, scan.next_lsn), (*end, lsn));
            assert_eq!(scan.torn_len, 0, "stale is not torn");
        }
        // exactly where a stale frame begins
        let aligned = over_stale(&segment_header(5, 77));
        assert_eq!(read(&aligned, true).1.expect("sound").torn_len, 0);
        for end in marks[2] + 1..bytes.len() {
            let scan = read(&over_stale(&bytes[..end]), true).1.expect("torn");
            assert_eq!(scan.sound_len, marks[2], "cut at {end}");
        }
    }

    #[test]
    fn damage_is_told_from_the_end_also_over_an_earlier_life() {
        let (bytes, marks) = segment(77);
        for i in SEGMENT_HEADER..bytes.len() {
            let mut edited = over_stale(&bytes);
            edited[i] ^= 0x10;
            let scan = read(&edited, true).1;
            if i >= marks[2] {
                assert_eq!(scan.expect("torn").sound_len, marks[2], "byte {i}");
            } else {
                assert!(matches!(scan, Err(Broken::Damaged(_))), "byte {i}");
            }
            // a segment that was followed by another has no torn end
            let scan = read(&edited, false).1;
            assert!(matches!(scan, Err(Broken::Damaged(_))), "byte {i}");
        }
        for i in 0..SEGMENT_HEADER {
            let mut edited = over_stale(&bytes);
            edited[i] ^= 0x10;
            assert!(matches!(read(&edited, true).1, Err(Broken::Damaged(_))));
        }
        // a frame that is missing as a whole, with stale bytes in its place
        let mut holed = over_stale(&bytes);
        let stale = over_stale(&[]);
        holed[marks[1]..marks[2]].copy_from_slice(&stale[marks[1]..marks[2]]);
        assert!(matches!(read(&holed, true).1, Err(Broken::Damaged(_))));
    }

    #[test]
    fn an_unfinished_header_is_unborn_only_at_the_end() {
        let header = segment_header(5, 1);
        for cut in 0..SEGMENT_HEADER {
            assert_eq!(read(&header[..cut], true).1, Err(Broken::Unborn));
            assert!(matches!(
                read(&header[..cut], false).1,
                Err(Broken::Damaged(_))
            ));
        }
        assert_eq!(read(&[0; SEGMENT_HEADER], true).1, Err(Broken::Unborn));
        assert!(matches!(read(&[0; 100], true).1, Err(Broken::Damaged(_))));
        let other = segment_header(6, 1);
        assert!(
            matches!(read(&other, true).1, Err(Broken::Damaged(_))),
            "a segment is missing"
        );
    }
}
