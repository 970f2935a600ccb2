//! The few file operations the log is made of, behind a trait so that tests can watch their
//! order and make them fail.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use crate::breaks::broken;

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
    /// A new, empty file.
    fn create(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// An existing file, to go on at its end.
    fn reopen(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// Makes creations and removals in `dir` durable.
    fn sync_dir(&mut self, dir: &Path) -> io::Result<()>;
}

/// Real files.
pub(in crate::storage) struct FileDisk;

impl LogFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if broken("skip-sync") {
            return Ok(());
        }
        self.sync_data()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.sync_all()
    }
}

impl LogDisk for FileDisk {
    fn create(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn reopen(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }

    fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        crate::storage::checkpoint::sync_dir(dir)
    }
}
