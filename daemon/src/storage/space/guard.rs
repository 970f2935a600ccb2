//! Asks the file system how full it is, holds the ballast, and says whether writes are taken.
//!
//! Looked at from two sides: by a thread of its own several times a second, because others fill
//! and clear the disk too, and by the committer before each batch, because what it writes counts
//! at once. The ballast is not synced: a crash may shorten it, and the next start measures it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::{Ballast, Disk, Limits, Mode};
#[cfg(test)]
use crate::storage::StorageError;

const NAME: &str = "ballast";
/// Between two looks of the guard's own.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The same while there is plenty of space.
const LOOK_EVERY_WHEN_ROOMY: Duration = Duration::from_secs(1);
const MIB: u64 = 1024 * 1024;

/// Free space for this process on the file system of `dir`, bytes.
pub(in crate::storage) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The disk (or this user's share of it) has no room left.
pub(in crate::storage) fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

pub(in crate::storage) struct Guard {
    dir: PathBuf,
    limits: Limits,
    state: Mutex<State>,
    /// Copies of the state, for those who must not wait.
    read_only: AtomicBool,
    /// How often it became read-only; a start on a full disk counts.
    times_read_only: AtomicU64,
    free: AtomicU64,
    /// Whether the last look found plenty of space.
    roomy: AtomicBool,
    /// Numbers of the last entry that the table may hold, and of the last that is there for good.
    taken: AtomicU64,
    durable: AtomicU64,
    /// How many are writing what must not fail.
    busy: AtomicU64,
    stopped: Mutex<bool>,
    bell: Condvar,
}

struct State {
    mode: Mode,
    ballast: u64,
    /// It became read-only since the last look, which has not told that yet.
    untold: bool,
}

/// What a look changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum Change {
    BecameReadOnly,
    BecameWritable,
}

/// While it lives the ballast is not made again.
pub(in crate::storage) struct Room<'a>(&'a Guard);

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Guard {
    /// Measures the disk before anything is written; gives the ballast up when the start itself
    /// may need it. The ballast is made later, by [`Self::look`].
    pub fn new(dir: &Path, limits: Limits) -> Self {
        let guard = Self {
            dir: dir.to_owned(),
            limits,
            state: Mutex::new(State {
                mode: Mode::Writable,
                ballast: allocated(&dir.join(NAME)),
                untold: false,
            }),
            read_only: AtomicBool::new(false),
            times_read_only: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
            roomy: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            stopped: Mutex::new(false),
            bell: Condvar::new(),
        };
        let room = guard.room();
        guard.look();
        drop(room);
        guard
    }

    /// [`Self::room`], with the ballast given up first when free space is less than it holds.
    pub fn make_room(&self) -> Room<'_> {
        let room = self.room();
        let mut state = self.state();
        let little = free_bytes(&self.dir).is_ok_and(|free| free < self.limits.reserve);
        if little && state.ballast > 0 {
            self.release(&mut state);
        }
        drop(state);
        room
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look, what follows from it, and what has changed since the look before. A file system that
    /// does not answer changes nothing.
    pub fn look(&self) -> Option<Change> {
        let mut state = self.state();
        let free = free_bytes(&self.dir).ok()?;
        self.free.store(free, Ordering::Relaxed);
        state.ballast = allocated(&self.dir.join(NAME));
        let disk = Disk {
            free,
            ballast: state.ballast,
            busy: self.busy.load(Ordering::Acquire) > 0,
            dirty: self.is_dirty(),
        };
        self.roomy
            .store(self.limits.is_roomy(disk), Ordering::Relaxed);
        let before = state.mode;
        self.set_mode(&mut state, self.limits.mode(before, disk));
        match self.limits.ballast(disk) {
            Ballast::Keep => {}
            Ballast::Release => self.release(&mut state),
            Ballast::Make(bytes) => self.make(&mut state, bytes),
        }
        let untold = std::mem::take(&mut state.untold);
        match (before, state.mode) {
            (Mode::Writable, Mode::ReadOnly) => Some(Change::BecameReadOnly),
            (Mode::ReadOnly, Mode::Writable) => Some(Change::BecameWritable),
            (Mode::ReadOnly, Mode::ReadOnly) if untold => Some(Change::BecameReadOnly),
            _ => None,
        }
    }

    fn set_mode(&self, state: &mut State, mode: Mode) {
        if (state.mode, mode) == (Mode::Writable, Mode::ReadOnly) {
            self.times_read_only.fetch_add(1, Ordering::AcqRel);
        }
        state.mode = mode;
        self.read_only
            .store(mode == Mode::ReadOnly, Ordering::Release);
    }

    fn release(&self, state: &mut State) {
        match fs::remove_file(self.dir.join(NAME)) {
            Ok(()) => tracing::warn!(
                "the disk of {} is all but full; the reserve of {} MiB is given up",
                self.dir.display(),
                state.ballast / MIB
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!("cannot give up the reserve: {e}"),
        }
        state.ballast = allocated(&self.dir.join(NAME));
    }

    fn make(&self, state: &mut State, bytes: u64) {
        let path = self.dir.join(NAME);
        if let Err(e) = fill(&path, state.ballast, bytes) {
            tracing::debug!("the reserve is not whole: {e}");
        }
        state.ballast = allocated(&path);
    }

    /// The disk refused a write for want of space: nothing new is stored, and the ballast makes
    /// room for what has to be finished.
    pub fn out_of_space(&self) {
        let mut state = self.state();
        state.untold |= state.mode == Mode::Writable;
        self.set_mode(&mut state, Mode::ReadOnly);
        self.release(&mut state);
    }

    /// Something that must not fail is about to be written.
    pub fn room(&self) -> Room<'_> {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Room(self)
    }

    /// The table is about to take the entries up to this one, or has them in memory.
    pub fn table_takes(&self, lsn: u64) {
        self.taken.fetch_max(lsn, Ordering::AcqRel);
    }

    /// The entries up to this one are in the table on disk.
    pub fn table_is_durable(&self, lsn: u64) {
        self.durable.fetch_max(lsn, Ordering::AcqRel);
    }

    /// The table may hold changes that no checkpoint has made durable.
    pub fn is_dirty(&self) -> bool {
        self.taken.load(Ordering::Acquire) > self.durable.load(Ordering::Acquire)
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// How often it became read-only since it was opened, so that a moment of it is not missed by
    /// who only looks now and then.
    pub fn times_read_only(&self) -> u64 {
        self.times_read_only.load(Ordering::Acquire)
    }

    /// Free bytes at the last look.
    pub fn free(&self) -> Option<u64> {
        let free = self.free.load(Ordering::Relaxed);
        (free != u64::MAX).then_some(free)
    }

    /// Why nothing is stored, if so.
    pub fn reason(&self) -> Option<String> {
        if !self.is_read_only() {
            return None;
        }
        let state = self.state();
        if state.mode == Mode::Writable {
            return None;
        }
        let free = self.free.load(Ordering::Relaxed);
        let needed = self.limits.resume_at() + self.limits.reserve.saturating_sub(state.ballast);
        Some(format!(
            "the disk of {} is nearly full: {} MiB are free, writes go on at {} MiB; free some space",
            self.dir.display(),
            free / MIB,
            needed.div_ceil(MIB)
        ))
    }

    /// [`Self::reason`] as what a refused caller gets.
    #[cfg(test)]
    pub fn writable(&self) -> Result<(), StorageError> {
        self.reason()
            .map_or(Ok(()), |why| Err(StorageError::ReadOnly(why)))
    }

    /// Looks again and again, several times a second when space is getting short, until
    /// [`Self::stop`], telling `each` what changed.
    pub fn watch(&self, each: impl Fn(Change)) {
        let lock = || self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(change) = self.look() {
                each(change);
            }
            let pause = if self.roomy.load(Ordering::Relaxed) {
                LOOK_EVERY_WHEN_ROOMY
            } else {
                LOOK_EVERY
            };
            let waited = self.bell.wait_timeout_while(lock(), pause, |stop| !*stop);
            let (stopped, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *stopped {
                return;
            }
        }
    }

    pub fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }
}

/// For a start on a full disk, before the store is open.
pub(in crate::storage) fn make_room(dir: &Path, reserve: u64) {
    let limits = Limits {
        reserve,
        min_free: 0,
    };
    if allocated(&dir.join(NAME)) > 0 {
        drop(Guard::new(dir, limits).make_room());
    }
}

/// Bytes a file really takes; 0 when there is none.
fn allocated(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.blocks() * 512)
}

/// Makes the file `to` bytes, allocated. Where the file system cannot allocate it is written, with
/// something that does not compress to nothing.
fn fill(path: &Path, from: u64, to: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, to) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            write_noise(&mut file, from, to)
        }
        other => Ok(other?),
    }
}

fn write_noise(file: &mut File, from: u64, to: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(from))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ from;
    let mut at = from;
    while at < to {
        let mut block = [0; 8192];
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let len = (to - at).min(block.len() as u64);
        file.write_all(&block[..len as usize])?;
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_is_really_allocated_and_really_given_up() {
        let dir = tempfile::tempdir().expect("temp dir");
        let limits = Limits {
            reserve: 3 * MIB,
            min_free: MIB,
        };
        let guard = Guard::new(dir.path(), limits);
        assert_eq!(
            allocated(&dir.path().join(NAME)),
            0,
            "not before the start is over"
        );
        assert_eq!(guard.look(), None);
        assert_eq!(allocated(&dir.path().join(NAME)), 3 * MIB);
        assert!(guard.free().is_some() && guard.writable().is_ok());

        let room = guard.room();
        guard.out_of_space();
        assert!(!dir.path().join(NAME).exists());
        let Err(StorageError::ReadOnly(why)) = guard.writable() else {
            panic!("it takes writes");
        };
        assert!(
            why.contains("nearly full") && why.contains("5 MiB"),
            "{why}"
        );
        // there is space, as it happens
        assert_eq!(guard.look(), Some(Change::BecameWritable));
        assert!(!dir.path().join(NAME).exists(), "somebody needs the room");
        drop(room);
        assert_eq!(guard.look(), None);
        assert_eq!(allocated(&dir.path().join(NAME)), 3 * MIB);
        // another life finds it
        assert_eq!(Guard::new(dir.path(), limits).state().ballast, 3 * MIB);
    }

    #[test]
    fn noise_fills_where_allocating_is_not_possible() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join(NAME);
        let mut file = File::create(&path).expect("created");
        write_noise(&mut file, 0, 20_000).expect("written");
        write_noise(&mut file, 20_000, 50_000).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").len(), 50_000);
        assert!(allocated(&path) >= 50_000);
    }

    /// Whoever looks next lets go of what the log takes.
    #[test]
    fn what_became_read_only_between_two_looks_is_told_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let limits = |min_free| Limits {
            reserve: 0,
            min_free,
        };
        let mut guard = Guard::new(dir.path(), limits(0));
        guard.out_of_space();
        guard.limits = limits(u64::MAX / 4);
        assert_eq!(guard.look(), Some(Change::BecameReadOnly));
        assert_eq!(guard.look(), None);
        guard.out_of_space();
        assert_eq!(guard.look(), None, "it was already");
    }

    #[test]
    fn each_time_it_becomes_read_only_is_counted_the_start_included() {
        let dir = tempfile::tempdir().expect("temp dir");
        let limits = |min_free| Limits {
            reserve: 0,
            min_free,
        };
        let full = Guard::new(dir.path(), limits(u64::MAX / 4));
        assert_eq!((full.is_read_only(), full.times_read_only()), (true, 1));
        assert_eq!(full.look(), None);
        full.out_of_space();
        assert_eq!(full.times_read_only(), 1, "it was already");

        let roomy = Guard::new(dir.path(), limits(0));
        assert_eq!((roomy.is_read_only(), roomy.times_read_only()), (false, 0));
        for times in 1..4 {
            roomy.out_of_space();
            assert_eq!(roomy.times_read_only(), times);
            assert_eq!(roomy.look(), Some(Change::BecameWritable));
        }
    }
}
