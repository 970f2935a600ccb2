//! The commit log: the durable truth of the store.
//!
//! Numbered entries (the log sequence number, from 1, without gaps) in segment files that are
//! named by their first number and written once from start to end. [`CommitLog::commit`] returns after the entries are
//! synced. When the disk is full it leaves the log as it was; any other error leaves the end of
//! the log in doubt, so the owner must not use it again. How
//! the bytes look, and how a broken end is judged, is in [`frame`]; which files there are, in [`files`].

pub(super) mod disk;
pub(super) mod files;
pub(super) mod frame;

use std::{fs, io, path::Path, sync::Arc};

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::Record,
};
use serde::{Deserialize, Serialize};

use self::{
    disk::{LogDisk, LogFile},
    files::{LogFiles, Segment, segment_path, spare_path},
};
use super::space::guard::is_full;

/// What an entry does. Entries hold results, not requests, and replaying all of them in order
/// over any state the table was in on the way leads to the same end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LogOp {
    /// The key now holds (at least) this record.
    Put { key: Key, record: Record },
    /// All records of the partition up to this key, inclusive, are forgotten.
    Drop {
        partition: PartitionId,
        through: Key,
    },
    /// The hint for this node and key is now this record.
    HintPut {
        target: NodeId,
        key: Key,
        record: Record,
    },
    /// The hint for this node and key is gone.
    HintRemove { target: NodeId, key: Key },
    /// These records of the partition are forgotten, and its floor is at least this from now on:
    /// one entry, since neither is safe without the other.
    Forget {
        partition: PartitionId,
        keys: Vec<Key>,
        floor: Hlc,
    },
    /// The floor of the partition is at least this.
    RaiseFloor { partition: PartitionId, floor: Hlc },
    /// A hint owed to the target in this partition was given up.
    MarkDirty {
        target: NodeId,
        partition: PartitionId,
    },
    /// The target has been compared in this partition.
    ClearDirty {
        target: NodeId,
        partition: PartitionId,
    },
}

/// What recovery found, from which the log goes on.
pub(super) struct LogState {
    /// Oldest first.
    pub segments: Vec<Segment>,
    /// Salt of the last segment.
    pub salt: u64,
    pub next_lsn: u64,
}

/// Why entries were not committed.
#[derive(Debug)]
pub(super) enum CommitError {
    /// No space. Nothing of them is in the log, which can be used as before.
    Full(io::Error),
    /// The end of the log is in doubt.
    Failed(io::Error),
}

impl From<io::Error> for CommitError {
    fn from(e: io::Error) -> Self {
        Self::Failed(e)
    }
}

/// For steps that change nothing that counts: there is another time.
fn full_or_failed(e: io::Error) -> CommitError {
    if is_full(&e) {
        CommitError::Full(e)
    } else {
        CommitError::Failed(e)
    }
}

/// The segment that is being written.
struct Open {
    segment: Segment,
    file: Box<dyn LogFile>,
    salt: u64,
}

/// The writing end of the log. One owner, the committer thread.
pub(super) struct CommitLog {
    files: Arc<LogFiles>,
    disk: Box<dyn LogDisk>,
    segment_bytes: u64,
    current: Open,
    next_lsn: u64,
    buffer: Vec<u8>,
}

impl CommitLog {
    /// Goes on where `state` ends.
    pub fn resume(
        dir: &Path,
        mut disk: Box<dyn LogDisk>,
        segment_bytes: u64,
        spares_max: usize,
        state: LogState,
    ) -> io::Result<Self> {
        let mut segments = state.segments;
        let last = segments.pop();
        let files = LogFiles::new(dir, segments, state.next_lsn, spares_max)?;
        let current = if let Some(segment) = last {
            Open {
                file: disk.reopen(&segment.path, segment.bytes)?,
                segment,
                salt: state.salt,
            }
        } else {
            start_segment(&files, disk.as_mut(), state.next_lsn).map_err(|e| match e {
                CommitError::Full(e) | CommitError::Failed(e) => e,
            })?
        };
        files.set_current(&current.segment);
        Ok(Self {
            files,
            disk,
            segment_bytes,
            current,
            next_lsn: state.next_lsn,
            buffer: Vec::new(),
        })
    }

    /// What is on disk, shared with whoever lets go of old segments.
    pub fn files(&self) -> Arc<LogFiles> {
        Arc::clone(&self.files)
    }

    /// Appends `ops` as one frame and syncs it. Returns the number of the first.
    pub fn commit(&mut self, ops: &[LogOp]) -> Result<u64, CommitError> {
        if self.current.segment.bytes >= self.segment_bytes {
            let next = start_segment(&self.files, self.disk.as_mut(), self.next_lsn)?;
            let full = std::mem::replace(&mut self.current, next);
            self.files.closed(full.segment, self.next_lsn);
        }
        let first = self.next_lsn;
        let Open {
            segment,
            file,
            salt,
        } = &mut self.current;
        frame::frame(&mut self.buffer, *salt, first, ops).map_err(io::Error::other)?;
        match file.append(&self.buffer) {
            Ok(()) => {}
            Err(e) if is_full(&e) => {
                // nobody may find a part of it, nor all of it, after a crash
                file.cut(segment.bytes)?;
                return Err(CommitError::Full(e));
            }
            Err(e) => return Err(e.into()),
        }
        file.sync()?;
        self.next_lsn += ops.len() as u64;
        segment.bytes += self.buffer.len() as u64;
        self.files.set_current(segment);
        if self.buffer.capacity() > 4 * 1024 * 1024 {
            self.buffer = Vec::new(); // one huge batch must not keep its memory for ever
        }
        Ok(first)
    }
}

/// Begins a segment under a name that recovery does not read, and gives it its own when the
/// header is durable: so a segment always has a sound header of its own life.
fn start_segment(
    files: &LogFiles,
    disk: &mut dyn LogDisk,
    first_lsn: u64,
) -> Result<Open, CommitError> {
    let from = files.take_spare();
    let from = from.unwrap_or_else(|| spare_path(files.dir(), first_lsn));
    let salt = rand::random();
    let header = frame::segment_header(first_lsn, salt);
    let begun = disk.create(&from).and_then(|mut file| {
        file.append(&header)?;
        Ok(file)
    });
    let mut file = match begun {
        Ok(file) => file,
        Err(e) => {
            // it never was a segment
            let _ = fs::remove_file(&from);
            return Err(full_or_failed(e));
        }
    };
    file.sync()?;
    let path = segment_path(files.dir(), first_lsn);
    disk.rename(&from, &path)?;
    disk.sync_dir(files.dir())?;
    let segment = Segment {
        first_lsn,
        path,
        bytes: header.len() as u64,
    };
    Ok(Open {
        segment,
        file,
        salt,
    })
}
