//! Large bodies, each in a file of its own beside sled.
//!
//! A file is named by the log number of the write that made it, is written once, whole, before the
//! head that points to it, and removed after that head was replaced. Its content is checked by
//! whoever reads it: the head has its length and checksum. Files are brought to stable storage by
//! the next checkpoint, and until then the log has what is in them: so one that is cut short,
//! missing or left over after a crash is mended by the replay, or removed with the orphans.

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
            changed: Mutex::default(),
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
        self.bytes.fetch_sub(found.len(), Ordering::Relaxed);
        self.note(None);
        Ok(true)
    }

    fn note(&self, written: Option<u64>) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.written.extend(written);
        changed.any = true;
    }

    /// Everything written and removed before this call is on stable storage when it returns.
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
}
