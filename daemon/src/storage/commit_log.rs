//! The commit log: the durable truth of the store.
//!
//! Numbered entries (the log sequence number, from 1, without gaps) in append-only segment files
//! that are named by their first number. [`CommitLog::commit`] returns after the entries are
//! synced. When the disk is full it leaves the log as it was; any other error leaves the end of
//! the log in doubt, so the owner must not use it again. How
//! the bytes look, and how a broken end is judged, is in [`frame`].

pub(super) mod disk;
pub(super) mod frame;

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::Record,
};
use serde::{Deserialize, Serialize};

use super::space::guard::is_full;
use disk::{LogDisk, LogFile};

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

/// A segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub first_lsn: u64,
    pub path: PathBuf,
    pub bytes: u64,
}

/// What recovery found, from which the log goes on.
pub(super) struct LogState {
    pub segments: Vec<Segment>,
    /// Salt of the last segment.
    pub salt: u64,
    pub next_lsn: u64,
}

const SUFFIX: &str = "log";

fn segment_path(dir: &Path, first_lsn: u64) -> PathBuf {
    dir.join(format!("{first_lsn:020}.{SUFFIX}"))
}

/// The segment files of a folder, by first number; a missing folder has none.
pub(super) fn list_segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let is_log = path.extension().is_some_and(|e| e == SUFFIX);
        let first = path.file_stem().and_then(|s| s.to_str()?.parse().ok());
        if let (true, Some(first_lsn)) = (is_log, first) {
            let bytes = entry.metadata()?.len();
            segments.push(Segment {
                first_lsn,
                path,
                bytes,
            });
        }
    }
    segments.sort_by_key(|s| s.first_lsn);
    Ok(segments)
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

/// The writing end of the log. One owner, the committer thread.
pub(super) struct CommitLog {
    dir: PathBuf,
    disk: Box<dyn LogDisk>,
    segment_bytes: u64,
    /// Oldest first; the last one is being written.
    segments: VecDeque<Segment>,
    file: Box<dyn LogFile>,
    salt: u64,
    next_lsn: u64,
    buffer: Vec<u8>,
}

impl CommitLog {
    /// Goes on where `state` ends.
    pub fn resume(
        dir: &Path,
        mut disk: Box<dyn LogDisk>,
        segment_bytes: u64,
        state: LogState,
    ) -> io::Result<Self> {
        let mut segments = VecDeque::from(state.segments);
        let (file, salt) = if let Some(last) = segments.back() {
            (disk.reopen(&last.path)?, state.salt)
        } else {
            let (segment, file, salt) = start_segment(dir, disk.as_mut(), state.next_lsn)?;
            segments.push_back(segment);
            (file, salt)
        };
        Ok(Self {
            dir: dir.to_owned(),
            disk,
            segment_bytes,
            segments,
            file,
            salt,
            next_lsn: state.next_lsn,
            buffer: Vec::new(),
        })
    }

    /// Number of the last entry; 0 when there was none.
    pub fn last_lsn(&self) -> u64 {
        self.next_lsn - 1
    }

    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Appends `ops` as one frame and syncs it. Returns the number of the first.
    pub fn commit(&mut self, ops: &[LogOp]) -> Result<u64, CommitError> {
        let mut end = self.segments.back().map_or(0, |s| s.bytes);
        if end >= self.segment_bytes {
            let (segment, file, salt) =
                start_segment(&self.dir, self.disk.as_mut(), self.next_lsn)?;
            end = segment.bytes;
            self.segments.push_back(segment);
            (self.file, self.salt) = (file, salt);
        }
        let first = self.next_lsn;
        frame::frame(&mut self.buffer, self.salt, first, ops).map_err(io::Error::other)?;
        match self.file.append(&self.buffer) {
            Ok(()) => {}
            Err(e) if is_full(&e) => {
                // nobody may find a part of it, nor all of it, after a crash
                self.file.cut(end)?;
                return Err(CommitError::Full(e));
            }
            Err(e) => return Err(e.into()),
        }
        self.file.sync()?;
        self.next_lsn += ops.len() as u64;
        if let Some(current) = self.segments.back_mut() {
            current.bytes += self.buffer.len() as u64;
        }
        if self.buffer.capacity() > 4 * 1024 * 1024 {
            self.buffer = Vec::new(); // one huge batch must not keep its memory for ever
        }
        Ok(first)
    }

    /// Deletes the segments that hold nothing above `lsn`; never the one being written. A file
    /// that cannot be deleted stays in the list and is tried again at the next checkpoint.
    pub fn forget_through(&mut self, lsn: u64) -> io::Result<()> {
        while let [first, second, ..] = self.segments.make_contiguous() {
            if second.first_lsn > lsn + 1 {
                break;
            }
            fs::remove_file(&first.path)?;
            self.segments.pop_front();
        }
        self.disk.sync_dir(&self.dir)
    }
}

fn start_segment(
    dir: &Path,
    disk: &mut dyn LogDisk,
    first_lsn: u64,
) -> io::Result<(Segment, Box<dyn LogFile>, u64)> {
    let path = segment_path(dir, first_lsn);
    let salt = rand::random();
    let header = frame::segment_header(first_lsn, salt);
    let mut file = disk.create(&path)?;
    file.append(&header)?;
    file.sync()?;
    disk.sync_dir(dir)?;
    let segment = Segment {
        first_lsn,
        path,
        bytes: header.len() as u64,
    };
    Ok((segment, file, salt))
}
