//! The table: records and hints in sled, fed from the commit log. Only this room names sled.
//!
//! sled 0.34.7 is kept away from what it does badly (found in its source): its flush is not an
//! fsync, so [`Table::checkpoint`] syncs the file itself; a kill while it opens can leave a
//! snapshot it then refuses, so half-made ones are set aside first; large pages go to files it
//! never syncs, so everything is stored in small items, or in files of our own; it reports a held lock as an odd error
//! for a moment after another handle was dropped, so opening is tried again; and it may panic on
//! damaged files, so opening is fenced.

mod files;
mod rows;

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use sled::{Db, Tree};

pub(super) use self::rows::Row;
use self::rows::Space;
use super::{checkpoint::sync_dir, space::guard::is_full};

/// A checkpoint keeps the log number it vouches for under this name.
const MARKER: &[u8] = b"checkpoint-lsn";
/// sled's own flush makes nothing durable (checkpoints do) and costs an fsync each time, also
/// when nothing was written; it only keeps its cleaning going.
const FLUSH_EVERY_MS: u64 = 5_000;
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Why the table could not be opened or used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TableError {
    /// The files are there but wrong; another try will not help.
    Damaged(String),
    /// No space.
    Full(String),
    /// The system said no: permissions, a held lock.
    Failed(String),
}

impl TableError {
    pub fn why(&self) -> &str {
        match self {
            Self::Damaged(why) | Self::Full(why) | Self::Failed(why) => why,
        }
    }
}

impl From<sled::Error> for TableError {
    fn from(e: sled::Error) -> Self {
        match &e {
            sled::Error::Io(io) if is_full(io) => Self::Full(io.to_string()),
            sled::Error::Io(io) if io.kind() != io::ErrorKind::UnexpectedEof => {
                Self::Failed(io.to_string())
            }
            _ => Self::Damaged(e.to_string()),
        }
    }
}

impl From<io::Error> for TableError {
    fn from(e: io::Error) -> Self {
        if is_full(&e) {
            return Self::Full(e.to_string());
        }
        Self::Failed(e.to_string())
    }
}

/// The open table.
pub(super) struct Table {
    pub records: Space,
    pub hints: Space,
    pub notes: Notes,
    db: Db,
    /// A second descriptor of sled's file: fsync works on the file, whoever wrote it.
    file: File,
    dir: PathBuf,
    /// Why a checkpoint failed. The system tells once that something could not be written, and takes
    /// it for written from then on: no later checkpoint may vouch for it.
    failed: OnceLock<TableError>,
}

impl Table {
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, TableError> {
        let db = open_patiently(dir, cache_bytes)?;
        Ok(Self {
            records: Space::open(&db, dir, "records")?,
            hints: Space::open(&db, dir, "hints")?,
            notes: Notes(db.open_tree("notes")?),
            file: File::open(dir.join("db"))?,
            dir: dir.to_owned(),
            failed: OnceLock::new(),
            db,
        })
    }

    /// The log number of the last checkpoint this table has in it.
    pub fn marker(&self) -> Result<Option<u64>, TableError> {
        let Some(bytes) = self.db.get(MARKER)? else {
            return Ok(None);
        };
        let bytes = bytes.as_ref().try_into();
        let bytes = bytes.map_err(|_| TableError::Damaged("its marker is cut".to_owned()))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    /// Puts everything written so far, and the marker `lsn`, on stable storage. After it failed once it
    /// fails for as long as the table is open.
    pub fn checkpoint(&self, lsn: u64) -> Result<(), TableError> {
        if let Some(failed) = self.failed.get() {
            return Err(failed.clone());
        }
        self.make_durable(lsn)
            .map_err(|why| self.failed.get_or_init(|| why).clone())
    }

    fn make_durable(&self, lsn: u64) -> Result<(), TableError> {
        self.db.insert(MARKER, &lsn.to_le_bytes())?;
        self.records.sync_files()?;
        self.hints.sync_files()?;
        self.db.flush()?;
        self.file.sync_all()?;
        sync_dir(&self.dir)?;
        Ok(())
    }

    /// What sled does by itself now and then: its part is with the system, and nothing is synced.
    #[cfg(test)]
    pub fn flush(&self) {
        self.db.flush().expect("flushed");
    }

    /// Whether there is something on the disk that nothing leads to.
    pub fn is_littered(&self) -> bool {
        self.records.is_littered() || self.hints.is_littered()
    }

    pub fn size_on_disk(&self) -> Option<u64> {
        let files = self.records.file_bytes() + self.hints.file_bytes();
        Some(self.db.size_on_disk().ok()? + files)
    }
}

/// Small numbers by name, a few for each partition: each with a checksum that covers its name.
pub(super) struct Notes(Tree);

const NOTE_LEN: usize = 8 + 4;

impl Notes {
    pub fn set(&self, name: &[u8], value: u64) -> Result<(), TableError> {
        let mut bytes = [0; NOTE_LEN];
        let value = value.to_le_bytes();
        bytes[..8].copy_from_slice(&value);
        bytes[8..].copy_from_slice(&note_checksum(name, &value).to_le_bytes());
        self.0.insert(name, &bytes)?;
        Ok(())
    }

    pub fn remove(&self, name: &[u8]) -> Result<(), TableError> {
        self.0.remove(name)?;
        Ok(())
    }

    /// Hands every note to `each`.
    pub fn visit(
        &self,
        mut each: impl FnMut(&[u8], u64) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        for note in &self.0 {
            let (name, bytes) = note?;
            let damaged = || TableError::Damaged("a note does not match its checksum".to_owned());
            let bytes: [u8; NOTE_LEN] = bytes.as_ref().try_into().map_err(|_| damaged())?;
            let (value, crc) = bytes.split_at(8);
            if crc != note_checksum(&name, value).to_le_bytes() {
                return Err(damaged());
            }
            let value = value.try_into().map_err(|_| damaged())?;
            each(&name, u64::from_le_bytes(value))?;
        }
        Ok(())
    }
}

fn note_checksum(name: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(name);
    crc.update(value);
    crc.finalize()
}

/// Moves snapshots that a kill left half made out of sled's sight. Returns where they went.
pub(super) fn set_aside_half_made_snapshots(dir: &Path, aside: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut moved = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("snap.") && text.ends_with(".generating") {
            fs::create_dir_all(aside)?;
            let to = aside.join(&name);
            fs::rename(entry.path(), &to)?;
            moved.push(to);
        }
    }
    if !moved.is_empty() {
        sync_dir(dir)?;
    }
    Ok(moved)
}

fn open_patiently(dir: &Path, cache_bytes: u64) -> Result<Db, TableError> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    let started = Instant::now();
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| TableError::Damaged("sled panicked while it opened".to_owned()))?;
        match opened {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(e)) if is_lock(&e) && started.elapsed() < LOCK_PATIENCE => {
                thread::sleep(LOCK_RETRY);
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn is_lock(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock || e.to_string().contains("could not acquire lock")
}
