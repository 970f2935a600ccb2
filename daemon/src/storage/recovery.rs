//! Opening: take the lock, judge what is there, replay the log, count.
//!
//! ```text
//! <dir>/lock         held while the engine is open
//! <dir>/log/         commit log segments
//! <dir>/table/       sled, and large bodies beside it
//! <dir>/checkpoint   up to which log number the table is on disk
//! <dir>/summary      figures of a clean close, see `summary`
//! <dir>/ballast      space kept for bad times, see `space`
//! <dir>/set-aside/   what could not be used, kept for a person to look at
//! ```
//!
//! The log decides. A table that can't be used is rebuilt when the log still reaches back to
//! entry 1; otherwise, and when the log itself is damaged anywhere but in its torn end,
//! everything is set aside and the store starts empty and says so. Nothing is ever deleted here
//! but the torn end, which was never acknowledged, and
//! the summary, which is good for one start.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{
    RecoveryReport, StorageError, StoreConfig,
    checkpoint::{self, CheckpointError, sync_dir},
    commit_log::{
        LogState,
        files::{Segment, list_segments},
        frame::{Broken, SEGMENT_HEADER, scan},
    },
    core::Core,
    space::{Limits, guard::Guard},
    summary,
    table::{Table, TableError, set_aside_half_made_snapshots},
};

/// How long a held lock may take to come free: a process that is just ending, or a child that
/// was forked a moment ago and has not closed what it inherited.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Damaged states kept before a person has to clear them.
const SET_ASIDE_MAX: u32 = 100;

/// An opened store, before its committer starts.
pub(super) struct Recovered {
    pub core: Core,
    pub log: LogState,
    pub guard: Guard,
    /// Held for as long as the store is open.
    pub lock: File,
}

/// Why one attempt to open did not work.
enum Trouble {
    /// The system refused; nothing is known about the data.
    Failed(String),
    /// The table or the checkpoint can't be used.
    Table(String),
    /// The log can't be used.
    Log(String),
}

impl From<TableError> for Trouble {
    fn from(e: TableError) -> Self {
        match e {
            TableError::Damaged(why) => Self::Table(format!("the table is damaged: {why}")),
            TableError::Full(why) | TableError::Failed(why) => Self::Failed(why),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Self::Failed(e.to_string())
    }
}

/// Says that the node knows of this store; see [`mark`].
const MARKER: &str = "in-use";

/// Makes the store one that is known to be in use: from now on an empty log in `dir` is a store
/// in which nothing was written, not one that lost its data. Synced when it returns.
pub(super) fn mark(dir: &Path) -> io::Result<()> {
    let layout = Layout::new(dir);
    if !layout.marker.exists() {
        File::create(&layout.marker)?.sync_all()?;
        sync_dir(&layout.dir)?;
    }
    Ok(())
}

struct Layout {
    dir: PathBuf,
    log: PathBuf,
    table: PathBuf,
    aside: PathBuf,
    marker: PathBuf,
}

impl Layout {
    fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            log: dir.join("log"),
            table: dir.join("table"),
            aside: dir.join("set-aside"),
            marker: dir.join(MARKER),
        }
    }

    fn error(&self, why: impl Into<String>) -> StorageError {
        StorageError::Open {
            path: self.dir.display().to_string(),
            why: why.into(),
        }
    }
}

/// Where the log is.
pub(super) fn log_dir(dir: &Path) -> PathBuf {
    Layout::new(dir).log
}

pub(super) fn recover(config: &StoreConfig) -> Result<(Recovered, RecoveryReport), StorageError> {
    let layout = Layout::new(&config.dir);
    let lock = take_lock(&layout)?;
    let mut report = RecoveryReport::default();
    let guard = Guard::new(&layout.dir, limits(config));
    // opening the table and replaying the log write, and must not run out of space
    let room = guard.make_room();
    let moved = set_aside_half_made_snapshots(&layout.table, &layout.aside)
        .map_err(|e| layout.error(e.to_string()))?;
    note(&mut report, &moved, "a half-made snapshot");
    // at most: as it is, with a rebuilt table, empty
    let mut rebuilt = false;
    loop {
        fs::create_dir_all(&layout.log).map_err(|e| layout.error(e.to_string()))?;
        sync_dir(&layout.dir).map_err(|e| layout.error(e.to_string()))?;
        let trouble = match attempt(config, &layout) {
            Ok(attempt) => {
                report.replayed = attempt.replayed;
                report.counted = attempt.counted;
                report.torn_bytes = attempt.torn_bytes;
                report.empty = attempt.log.next_lsn == 1 && !layout.marker.exists();
                let (core, log) = (attempt.core, attempt.log);
                if attempt.replayed > 0 || attempt.counted {
                    // replaying and counting write, and nothing of that is on disk
                    guard.table_takes(log.next_lsn - 1);
                }
                drop(room);
                let recovered = Recovered {
                    core,
                    log,
                    guard,
                    lock,
                };
                return Ok((recovered, report));
            }
            Err(trouble) => trouble,
        };
        let whole_log = || list_segments(&layout.log).is_ok_and(|s| reaches_back(&s));
        let moved = match trouble {
            Trouble::Table(why) if !rebuilt && whole_log() => {
                rebuilt = true;
                tracing::warn!("{why}; it is set aside and rebuilt from the commit log");
                set_aside(&layout, &["table", "checkpoint"])
            }
            Trouble::Table(why) | Trouble::Log(why) if !report.lost_data => {
                report.lost_data = true;
                tracing::error!("{why}; the store is set aside and starts empty");
                // the marker first: cut short, the next start still sees an emptied store
                set_aside(&layout, &[MARKER, "table", "log", "checkpoint"])
            }
            Trouble::Failed(why) | Trouble::Table(why) | Trouble::Log(why) => {
                return Err(layout.error(why));
            }
        };
        let moved =
            moved.map_err(|e| layout.error(format!("cannot set damaged files aside: {e}")))?;
        note(&mut report, &moved, "damaged");
    }
}

pub(super) fn limits(config: &StoreConfig) -> Limits {
    Limits {
        reserve: config.reserve_bytes,
        min_free: config.min_free_bytes,
    }
}

fn note(report: &mut RecoveryReport, moved: &[PathBuf], what: &str) {
    for path in moved {
        tracing::warn!(
            "storage set {what} file or folder aside: {}",
            path.display()
        );
        report.set_aside.push(path.display().to_string());
    }
}

fn take_lock(layout: &Layout) -> Result<File, StorageError> {
    let failed = |e: io::Error| layout.error(e.to_string());
    fs::create_dir_all(&layout.dir).map_err(failed)?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let lock = options.open(layout.dir.join("lock")).map_err(failed)?;
    let started = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => {
                thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(layout.error(
                    "another process is using it; stop that one, or choose another --data-dir",
                ));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
}

/// Moves the named files and folders into a fresh folder under `set-aside`. Safe to be cut
/// short at any point: what is left is as unusable as the whole and is moved next time.
fn set_aside(layout: &Layout, names: &[&str]) -> io::Result<Vec<PathBuf>> {
    let to = (1..=SET_ASIDE_MAX)
        .map(|n| layout.aside.join(n.to_string()))
        .find(|path| !path.exists())
        .ok_or_else(|| io::Error::other("the folder set-aside is full, clear it"))?;
    fs::create_dir_all(&to)?;
    let mut moved = Vec::new();
    for name in names {
        let from = layout.dir.join(name);
        if from.exists() {
            fs::rename(&from, to.join(name))?;
            sync_dir(&layout.dir)?;
            moved.push(to.join(name));
        }
    }
    sync_dir(&to)?;
    Ok(moved)
}

/// Whether the log still has everything ever written.
fn reaches_back(segments: &[Segment]) -> bool {
    segments.first().is_some_and(|s| s.first_lsn == 1)
}

struct Attempt {
    core: Core,
    log: LogState,
    replayed: u64,
    counted: bool,
    torn_bytes: u64,
}

/// sled may panic where it should return an error; here that is damage like any other.
fn attempt(config: &StoreConfig, layout: &Layout) -> Result<Attempt, Trouble> {
    catch_unwind(AssertUnwindSafe(|| attempt_unfenced(config, layout)))
        .unwrap_or_else(|_| Err(Trouble::Table("sled panicked on the table".to_owned())))
}

fn attempt_unfenced(config: &StoreConfig, layout: &Layout) -> Result<Attempt, Trouble> {
    let checkpoint = match checkpoint::read(&layout.dir) {
        Ok(checkpoint) => checkpoint,
        Err(CheckpointError::Io(e)) => return Err(e.into()),
        Err(CheckpointError::Damaged) => {
            return Err(Trouble::Table("the checkpoint file is damaged".to_owned()));
        }
    };
    let segments = list_segments(&layout.log)?;
    let table = Table::open(&layout.table, config.cache_bytes)?;
    if checkpoint.is_some() && table.marker()? < checkpoint {
        let why = "the table is older than its checkpoint";
        return Err(Trouble::Table(why.to_owned()));
    }
    let core = Core::new(table, config.partition_count, config.hint_bytes_max);
    let replay = replay(&core, segments, checkpoint, layout)?;
    let end = replay.log.next_lsn - 1;
    let clean = checkpoint == Some(end) && replay.torn_bytes == 0;
    let summary = summary::read(&layout.dir).filter(|_| clean);
    let counted = match summary {
        Some(summary) => !core.restore(summary, end)?,
        None => true,
    };
    if counted {
        core.recount()?;
    }
    // from here on it would tell of the past
    summary::remove(&layout.dir)?;
    let any = core.stats();
    if replay.log.next_lsn == 1 && any.keys + any.tombstones > 0 {
        return Err(Trouble::Log("the commit log is missing".to_owned()));
    }
    Ok(Attempt {
        core,
        log: replay.log,
        replayed: replay.replayed,
        counted,
        torn_bytes: replay.torn_bytes,
    })
}

struct Replay {
    log: LogState,
    replayed: u64,
    torn_bytes: u64,
}

/// Applies everything after the checkpoint and cuts the torn end.
fn replay(
    core: &Core,
    mut segments: Vec<Segment>,
    checkpoint: Option<u64>,
    layout: &Layout,
) -> Result<Replay, Trouble> {
    let from = checkpoint.unwrap_or(0);
    let first = segments.first().map(|s| s.first_lsn);
    if first.map_or(checkpoint.is_some(), |first| first > from + 1) {
        let why = format!("the commit log does not hold entry {}", from + 1);
        return Err(Trouble::Log(why));
    }
    let (mut replayed, mut torn_bytes, mut salt) = (0, 0, 0);
    let mut expected = first.unwrap_or(1);
    let mut unborn = false;
    let begins = segments.iter().skip(1).map(|s| Some(s.first_lsn));
    let ends: Vec<Option<u64>> = begins.chain([None]).collect();
    for (segment, end) in segments.iter_mut().zip(ends) {
        let bytes = fs::read(&segment.path)?;
        let scanned = scan(&bytes, expected, end, |lsn, op| {
            if lsn > from {
                replayed += 1;
                core.replay(op, lsn)?;
            }
            Ok::<_, TableError>(())
        })?;
        match scanned {
            Ok(scan) => {
                (expected, salt) = (scan.next_lsn, scan.salt);
                segment.bytes = scan.sound_len as u64;
                if scan.torn_len > 0 {
                    torn_bytes += scan.torn_len as u64;
                    cut(&segment.path, segment.bytes)?;
                }
            }
            // the very first segment, or one begun after `expected - 1` was synced
            Err(Broken::Unborn) if segment.first_lsn == expected => {
                torn_bytes += bytes.len() as u64;
                unborn = true;
            }
            Err(Broken::Unborn) => return Err(damaged(segment, "it is cut short")),
            Err(Broken::Damaged(why)) => return Err(damaged(segment, &why)),
        }
    }
    if unborn && let Some(segment) = segments.pop() {
        fs::remove_file(&segment.path)?;
        sync_dir(&layout.log)?;
    }
    if expected <= from {
        let why = format!(
            "the commit log ends at {} before its checkpoint {from}",
            expected - 1
        );
        return Err(Trouble::Log(why));
    }
    let log = LogState {
        segments,
        salt,
        next_lsn: expected,
    };
    Ok(Replay {
        log,
        replayed,
        torn_bytes,
    })
}

fn damaged(segment: &Segment, why: &str) -> Trouble {
    let path = segment.path.display();
    Trouble::Log(format!("the commit log segment {path} is damaged: {why}"))
}

fn cut(path: &Path, len: u64) -> io::Result<()> {
    debug_assert!(len >= SEGMENT_HEADER as u64);
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(len)?;
    file.sync_all()
}
