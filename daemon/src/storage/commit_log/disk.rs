//! The few file operations the log is made of, behind a trait so that tests can watch their
//! order and make them fail.
//!
//! Segments are allocated ahead of what is written, step by step, and used again when they are no
//! longer needed: a sync that does not have to note a new length or new blocks is a cheaper sync.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::breaks::broken;

/// Space is allocated in steps of this, or a segment's size when that is less.
const ALLOCATE_STEP: u64 = 4 * 1024 * 1024;

/// A segment that is being written.
pub(in crate::storage) trait LogFile: Send {
    /// Adds `bytes` at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything appended is on stable storage.
    fn sync(&mut self) -> io::Result<()>;
    /// Removes everything after the first `len` bytes, durably: what an append that failed may
    /// have left.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

/// Where segments are made.
pub(in crate::storage) trait LogDisk: Send {
    /// A new file, or an old one that is written over from its start.
    fn create(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// An existing file, to go on after its first `at` bytes.
    fn reopen(&mut self, path: &Path, at: u64) -> io::Result<Box<dyn LogFile>>;
    /// Gives a segment its name.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&mut self, dir: &Path) -> io::Result<()>;
}

/// Real files.
pub(in crate::storage) struct FileDisk {
    step: u64,
}

impl FileDisk {
    pub fn new(segment_bytes: u64) -> Self {
        Self {
            step: ALLOCATE_STEP.min(segment_bytes),
        }
    }
}

struct Segment {
    file: File,
    at: u64,
    /// Up to here the file is allocated; more than `at`, or not known.
    allocated: u64,
    step: u64,
}

impl Segment {
    /// Allocates ahead so that `end` fits. What can't be allocated is left to the write, except
    /// when there is no space: then it is better to know before a part of a frame is written.
    fn allocate(&mut self, end: u64) -> io::Result<()> {
        if end <= self.allocated {
            return Ok(());
        }
        let to = end.next_multiple_of(self.step.max(1));
        match fallocate(&self.file, FallocateFlags::empty(), self.at, to - self.at) {
            Ok(()) => self.allocated = to,
            Err(e @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => {
                // the step may be more than there is
                fallocate(&self.file, FallocateFlags::empty(), self.at, end - self.at)
                    .map_err(|_| e)?;
                self.allocated = end;
            }
            Err(_) => {}
        }
        Ok(())
    }
}

impl LogFile for Segment {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.at + bytes.len() as u64;
        self.allocate(end)?;
        self.file.write_all_at(bytes, self.at)?;
        self.at = end;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if broken("skip-sync") {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        (self.at, self.allocated) = (len, len);
        self.file.sync_all()
    }
}

impl LogDisk for FileDisk {
    fn create(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.reopen(path, 0)
    }

    fn reopen(&mut self, path: &Path, at: u64) -> io::Result<Box<dyn LogFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create(at == 0).truncate(false);
        let file = options.open(path)?;
        Ok(Box::new(Segment {
            allocated: file.metadata()?.len(),
            file,
            at,
            step: self.step,
        }))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        crate::storage::checkpoint::sync_dir(dir)
    }
}
