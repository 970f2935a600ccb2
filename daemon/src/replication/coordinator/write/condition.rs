//! What may keep a write from taking place: the client's condition, and the bound on versions of
//! one key side by side.

use ringmaster_shared::version::{Record, Value, VersionVector};

use crate::replication::frames::FRAME_BYTES_MAX;

/// Versions side by side from which on operators are warned.
pub const SIBLINGS_WARN: usize = 25;
/// Versions side by side that a write may leave behind.
pub const SIBLINGS_MAX: usize = 100;
/// About how many bytes the record a write leaves behind may have, its own value among them, when
/// there are others; half a frame, so that replicas that diverged can still be read and joined.
const SIBLING_BYTES_MAX: usize = FRAME_BYTES_MAX / 2;

/// When a write may take place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    Always,
    /// No value is there: never written, or deleted.
    Absent,
    /// Some value is there.
    Present,
    /// A read would return exactly this version.
    Exactly(VersionVector),
}

impl Condition {
    pub(super) fn holds(&self, clock: &VersionVector, present: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => !present,
            Self::Present => present,
            Self::Exactly(wanted) => clock == wanted,
        }
    }

    /// Whether at most one of several writes with this condition may be answered well.
    pub(super) fn excludes_others(&self) -> bool {
        matches!(self, Self::Absent | Self::Exactly(_))
    }
}

/// How many versions a write of `own` bytes that supersedes `covered` would leave beside its own,
/// when these are too many. What replicas bring together by merging is never refused, only what adds to it.
pub(super) fn too_many(base: &Record, covered: &VersionVector, own: usize) -> Option<usize> {
    let left = base.siblings.iter().filter(|s| !covered.covers(&s.dot));
    let (mut count, mut bytes) = (0, own);
    for sibling in left {
        count += 1;
        bytes += sibling.value.as_ref().map_or(0, Value::len);
    }
    let too_large = count > 0 && bytes > SIBLING_BYTES_MAX;
    (count >= SIBLINGS_MAX || too_large).then_some(count)
}
