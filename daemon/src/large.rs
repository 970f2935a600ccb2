//! What counts as large. One threshold for all rooms, because it stands for one thing: from about
//! here on what a value costs is its bytes, to the disk and to the network, and no longer the
//! operation.

/// A value of about so many bytes is large.
///
/// What hangs on it, in the order in which a write meets it:
/// - admission lets small operations in one by one and large values by their bytes, and a batch
///   writes large ones one at a time (bytes of the value);
/// - writes of large records go to the other replicas over a connection of their own (bytes of the
///   record on its way);
/// - in the committer small joins overtake large ones (bytes of the request, about), and within a
///   batch small records come into the table first (bytes of key and record, about);
/// - a large body is a file beside the table and not chunks in it (bytes of the encoded body).
///
/// Each measures what it deals with, and for the table alone the threshold itself is large. So near it,
/// or with siblings, what is small for one may be large for the next. Nothing relies on their
/// agreeing there.
///
/// It may be lowered, but not raised: where the body of a stored record is looked for goes by its
/// length, and for one below the threshold nobody looks for a file. (Chunks are looked for on both
/// sides of it.)
pub const LARGE_BYTES: usize = 64 * 1024;
