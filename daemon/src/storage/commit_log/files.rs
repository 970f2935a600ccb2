//! Which files the log consists of: closed segments, the one being written, and spares.
//!
//! Shared by the committer, which adds segments, and the checkpoints, which let go of them. A
//! segment nobody needs becomes a spare (renamed, so that recovery does not read it) as long as
//! there are not too many, and is written over by a later one. Its old frames stay in it until
//! then; they carry another salt and lower numbers, so nobody takes them for later ones.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::storage::checkpoint::sync_dir;

const SEGMENT: &str = "log";
const SPARE: &str = "spare";

/// A segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage) struct Segment {
    pub first_lsn: u64,
    pub path: PathBuf,
    /// Used bytes; for a segment that was not read yet, the length of the file.
    pub bytes: u64,
}

pub(super) fn segment_path(dir: &Path, first_lsn: u64) -> PathBuf {
    dir.join(format!("{first_lsn:020}.{SEGMENT}"))
}

pub(super) fn spare_path(dir: &Path, first_lsn: u64) -> PathBuf {
    dir.join(format!("{first_lsn:020}.{SPARE}"))
}

/// Files with this extension and a number for a name; a missing folder has none.
fn list(dir: &Path, extension: &str) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let fits = path.extension().is_some_and(|e| e == extension);
        let first = path.file_stem().and_then(|s| s.to_str()?.parse().ok());
        if let (true, Some(first_lsn)) = (fits, first) {
            let bytes = entry.metadata()?.len();
            found.push(Segment {
                first_lsn,
                path,
                bytes,
            });
        }
    }
    found.sort_by_key(|s| s.first_lsn);
    Ok(found)
}

/// The segment files of a folder, by first number.
pub(in crate::storage) fn list_segments(dir: &Path) -> io::Result<Vec<Segment>> {
    list(dir, SEGMENT)
}

struct Closed {
    segment: Segment,
    /// First number after it.
    end: u64,
}

pub(in crate::storage) struct LogFiles {
    dir: PathBuf,
    spares_max: usize,
    closed: Mutex<VecDeque<Closed>>,
    spares: Mutex<Vec<PathBuf>>,
    /// Used bytes of the closed segments and of the current one.
    closed_bytes: AtomicU64,
    current_bytes: AtomicU64,
}

impl LogFiles {
    /// `segments` are those before the current one, which starts at or before `next_lsn`.
    pub fn new(
        dir: &Path,
        segments: Vec<Segment>,
        next_lsn: u64,
        spares_max: usize,
    ) -> io::Result<Arc<Self>> {
        let ends = segments.iter().skip(1).map(|s| s.first_lsn);
        let ends: Vec<u64> = ends.chain([next_lsn]).collect();
        let bytes = segments.iter().map(|s| s.bytes).sum();
        let closed = segments.into_iter().zip(ends);
        let mut spares: Vec<PathBuf> = list(dir, SPARE)?.into_iter().map(|s| s.path).collect();
        for path in spares.split_off(spares_max.min(spares.len())) {
            fs::remove_file(path)?;
        }
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            spares_max,
            closed: Mutex::new(
                closed
                    .map(|(segment, end)| Closed { segment, end })
                    .collect(),
            ),
            spares: Mutex::new(spares),
            closed_bytes: AtomicU64::new(bytes),
            current_bytes: AtomicU64::new(0),
        }))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of entries that lie in the log.
    pub fn bytes(&self) -> u64 {
        self.closed_bytes.load(Ordering::Relaxed) + self.current_bytes.load(Ordering::Relaxed)
    }

    fn closed_segments(&self) -> std::sync::MutexGuard<'_, VecDeque<Closed>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spares(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_current(&self, segment: &Segment) {
        self.current_bytes.store(segment.bytes, Ordering::Relaxed);
    }

    /// The current segment is full; `end` is the first number after it.
    pub(super) fn closed(&self, segment: Segment, end: u64) {
        self.closed_bytes
            .fetch_add(segment.bytes, Ordering::Relaxed);
        self.closed_segments().push_back(Closed { segment, end });
    }

    pub(super) fn take_spare(&self) -> Option<PathBuf> {
        self.spares().pop()
    }

    /// Lets go of the closed segments that hold nothing above `lsn`; with `keep`, as spares. What
    /// fails is tried again the next time.
    pub fn forget_through(&self, lsn: u64, keep: bool) -> io::Result<()> {
        let mut made = Vec::new();
        let done = loop {
            let mut closed = self.closed_segments();
            if closed.front().is_none_or(|c| c.end > lsn + 1) {
                break Ok(());
            }
            let Some(oldest) = closed.pop_front() else {
                break Ok(());
            };
            drop(closed);
            let path = &oldest.segment.path;
            let room = keep && self.spares().len() + made.len() < self.spares_max;
            let gone = if room {
                let spare = spare_path(&self.dir, oldest.segment.first_lsn);
                fs::rename(path, &spare).map(|()| made.push(spare))
            } else {
                fs::remove_file(path)
            };
            if let Err(e) = gone {
                self.closed_segments().push_front(oldest);
                break Err(e);
            }
            self.closed_bytes
                .fetch_sub(oldest.segment.bytes, Ordering::Relaxed);
        };
        // a spare may only be written over when its old name is gone for good
        sync_dir(&self.dir)?;
        self.spares().append(&mut made);
        done
    }

    /// Deletes the spares, for their space.
    pub fn drop_spares(&self) -> io::Result<()> {
        let spares = std::mem::take(&mut *self.spares());
        for path in spares {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}
