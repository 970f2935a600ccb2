//! Large bodies, each in a file of its own beside sled.
//!
//! A file is named by the log number of the write that made it, is written once, whole, before the
//! head that points to it, and removed after that head was replaced. Its content is checked by
//! whoever reads it: the head has its length and checksum. Files are brought to stable storage by
//! the next checkpoint, and until then the log has what is in them: so the replay after a crash
//! writes all of them anew (also one that reads well: perhaps only from memory, and no sync of
//! this life would bring it to the disk), and what is left over goes with the orphans.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    mem,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::storage::checkpoint::sync_dir;

pub(super) struct Files {
    dir: PathBuf,
    /// Of all files together.
    bytes: AtomicU64,
    /// Written or removed since the last [`Self::sync`].
    changed: Mutex<Changed>,
}

#[derive(Default)]
struct Changed {
    written: Vec<u64>,
    any: bool,
}

impl Files {
    /// Opens the folder, which is made when it is not there.
    pub fn open(dir: &Path) -> io::Result<Self> {
        if !dir.is_dir() {
            fs::create_dir_all(dir)?;
            // its own name too must be there after a crash
            for above in dir.ancestors().skip(1).take(2) {
                sync_dir(above)?;
            }
        }
        let files = Self {
            dir: dir.to_owned(),
            bytes: AtomicU64::new(0),
            // what an earlier life removed may not be on stable storage
            changed: Mutex::new(Changed {
                any: true,
                ..Changed::default()
            }),
        };
        let mut bytes = 0;
        for entry in fs::read_dir(dir)? {
            bytes += entry?.metadata()?.len();
        }
        files.bytes.store(bytes, Ordering::Relaxed);
        Ok(files)
    }

    fn path(&self, stamp: u64) -> PathBuf {
        self.dir.join(format!("{stamp:016x}"))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// `None`: it is not there (any more).
    pub fn read(&self, stamp: u64) -> io::Result<Option<Vec<u8>>> {
        unless_missing(fs::read(self.path(stamp)))
    }

    /// Writes the file anew; what a cut short life left of it goes.
    pub fn write(&self, stamp: u64, body: &[u8]) -> io::Result<()> {
        self.remove(stamp)?;
        let path = self.path(stamp);
        let mut file = File::create_new(&path)?;
        if let Err(e) = file.write_all(body) {
            // the space it takes is wanted elsewhere
            drop(fs::remove_file(&path));
            return Err(e);
        }
        self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        self.note(Some(stamp));
        Ok(())
    }

    /// Whether it was there.
    pub fn remove(&self, stamp: u64) -> io::Result<bool> {
        let path = self.path(stamp);
        let Some(found) = unless_missing(fs::metadata(&path))? else {
            return Ok(false);
        };
        fs::remove_file(&path)?;
        // what a failed write could not clean up was never added
        let left = |bytes: u64| Some(bytes.saturating_sub(found.len()));
        let _ = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        self.note(None);
        Ok(true)
    }

    fn note(&self, written: Option<u64>) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.written.extend(written);
        changed.any = true;
    }

    #[cfg(test)]
    pub fn unsynced(&self) -> Vec<u64> {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.written.clone()
    }

    /// Everything written and removed before this call is on stable storage when it returns. After an
    /// error nothing is known of what was to be synced, and another call does not try that again.
    pub fn sync(&self) -> io::Result<()> {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let Changed { written, any } = mem::take(&mut *changed);
        drop(changed);
        for stamp in written {
            if let Some(file) = unless_missing(File::open(self.path(stamp)))? {
                file.sync_data()?;
            }
        }
        if any { sync_dir(&self.dir) } else { Ok(()) }
    }

    /// The names of all files, in no order; others' files are not ours to judge.
    pub fn stamps(&self) -> io::Result<Vec<u64>> {
        let mut stamps = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let stamp = name.to_str().filter(|name| name.len() == 16);
            stamps.extend(stamp.and_then(|s| u64::from_str_radix(s, 16).ok()));
        }
        Ok(stamps)
    }
}

fn unless_missing<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_counted_and_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let place = dir.path().join("bodies/records");
        let files = Files::open(&place).expect("opens");
        files.write(7, b"a body").expect("written");
        files.write(u64::MAX, b"another").expect("written");
        assert_eq!(files.read(7).expect("readable"), Some(b"a body".to_vec()));
        assert_eq!(files.bytes(), 13);
        files
            .write(7, b"body")
            .expect("a replayed write is a whole one");
        assert_eq!(files.read(7).expect("readable"), Some(b"body".to_vec()));
        assert_eq!(files.bytes(), 11);
        files.sync().expect("synced");

        fs::write(place.join("not ours"), b"xy").expect("written");
        let again = Files::open(&place).expect("opens again");
        assert_eq!(again.bytes(), 13, "space is space");
        let mut stamps = again.stamps().expect("listed");
        stamps.sort_unstable();
        assert_eq!(stamps, [7, u64::MAX]);
        assert!(again.remove(7).expect("removed"));
        assert!(!again.remove(7).expect("gone already"));
        assert_eq!(again.read(7).expect("looked for"), None);
        assert_eq!(again.bytes(), 9);
        again.sync().expect("synced");
    }

    #[test]
    fn one_that_goes_before_it_is_synced_is_no_trouble() {
        let dir = tempfile::tempdir().expect("temp dir");
        let files = Files::open(dir.path()).expect("opens");
        files.write(1, b"short lived").expect("written");
        files.remove(1).expect("removed");
        files.sync().expect("synced");
        let changed = files.changed.lock().expect("not poisoned");
        assert!(changed.written.is_empty() && !changed.any);
    }

    #[test]
    fn the_folder_is_synced_once_for_what_an_earlier_life_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let files = Files::open(dir.path()).expect("opens");
        assert!(files.changed.lock().expect("not poisoned").any);
    }

    #[test]
    fn what_was_never_counted_is_not_taken_off() {
        let dir = tempfile::tempdir().expect("temp dir");
        let files = Files::open(dir.path()).expect("opens");
        fs::write(files.path(3), b"left by a write that failed").expect("written");
        files.write(3, b"a body").expect("written");
        assert_eq!(files.bytes(), 6);
    }
}
