//! Keyrings on the disk: the operator's file, and the one kept in the data dir after a change.
//!
//! One base64 key a line, the first is the primary, `#` begins a comment. Both files are refused
//! when others than their owner may read them. The kept one notes which operator's file it grew
//! out of: as long as that stays the same the kept one counts, and when the operator writes
//! another one, that counts. A change is on the disk before it is in use.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    key::{Fingerprint, Key},
    keyring::Keyring,
};

/// The kept keyring's name in the data dir.
const KEPT_NAME: &str = "keyring";
const KEPT_TEMP_NAME: &str = "keyring.tmp";
/// The last kept one that a changed file of the operator replaced: it may hold the only copy of
/// the keys the others use. Never read.
const ASIDE_NAME: &str = "keyring.set-aside";
/// A keyring of sixteen keys and many comments is far below.
const FILE_BYTES_MAX: u64 = 64 * 1024;
const OWNER_ONLY: u32 = 0o600;
/// Begins the line of the kept file that names the keys of the operator's.
const GREW_OUT_OF: &str = "# grew out of:";

#[derive(Debug, Error)]
pub enum KeyringFileError {
    #[error("the keyring {} cannot be read: {why}", file.display())]
    Read { file: PathBuf, why: io::Error },
    #[error(
        "the keyring {} may be read or changed by others (mode {mode:04o}): run chmod 600 on it",
        file.display()
    )]
    TooOpen { file: PathBuf, mode: u32 },
    #[error("the keyring {}, line {line}: {why}", file.display())]
    Line {
        file: PathBuf,
        line: usize,
        why: String,
    },
    #[error(
        "the keyring {} holds no key: write one base64 key of 32 bytes a line, the primary first (`ringmaster keys generate` makes one)",
        file.display()
    )]
    Empty { file: PathBuf },
    #[error("the keyring {} cannot be written: {why}", file.display())]
    Write { file: PathBuf, why: io::Error },
}

/// Where the keyring of this node is kept.
#[derive(Debug, Clone)]
pub struct Keeping {
    dir: PathBuf,
    /// The keys of the operator's file, when there is one.
    given: Vec<Fingerprint>,
}

/// The keyring this node starts with, if any, and where changes of it are kept.
pub fn load(
    given: Option<&Path>,
    data_dir: &Path,
) -> Result<Option<(Keyring, Keeping)>, KeyringFileError> {
    let given = given.map(read).transpose()?.map(|read| read.ring);
    let path = data_dir.join(KEPT_NAME);
    let kept = match read(&path) {
        Err(KeyringFileError::Read { why, .. }) if why.kind() == io::ErrorKind::NotFound => None,
        kept => Some(kept?),
    };
    let mut keeping = Keeping {
        dir: data_dir.to_owned(),
        given: given
            .as_ref()
            .map(Keyring::fingerprints)
            .unwrap_or_default(),
    };
    let ring = match (given, kept) {
        (None, None) => return Ok(None),
        (None, Some(kept)) => {
            // the operator's file was not given this time, that is all that is known of it
            tracing::info!(
                "no keyring file is configured; the gossip keys kept from a rotation count: {}. To start without keys, delete that file",
                path.display()
            );
            keeping.given = kept.grew_out_of;
            kept.ring
        }
        (Some(given), None) => given,
        (Some(_), Some(kept)) if kept.grew_out_of == keeping.given => kept.ring,
        (Some(given), Some(_)) => {
            let aside = data_dir.join(ASIDE_NAME);
            tracing::info!(
                "the keyring file was changed since the keys were last rotated; it counts, and {} is set aside as {}",
                path.display(),
                aside.display()
            );
            let failed = |why| KeyringFileError::Write {
                file: path.clone(),
                why,
            };
            fs::rename(&path, &aside).map_err(failed)?;
            given
        }
    };
    Ok(Some((ring, keeping)))
}

impl Keeping {
    #[cfg(test)]
    pub fn in_folder(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            given: vec![],
        }
    }

    /// Returns once the keyring is on the disk under its name.
    pub fn keep(&self, ring: &Keyring) -> Result<(), KeyringFileError> {
        let failed = |why| KeyringFileError::Write {
            file: self.dir.join(KEPT_NAME),
            why,
        };
        self.replace(&self.text(ring)).map_err(failed)
    }

    fn text(&self, ring: &Keyring) -> Zeroizing<String> {
        // enough for all keys, so that no copy is left behind by growing
        let mut text = Zeroizing::new(String::with_capacity(4096));
        text.push_str("# Gossip keys of this node, the primary first; written by ringd.\n");
        text.push_str(GREW_OUT_OF);
        for name in &self.given {
            let _ = write!(text, " {name}");
        }
        text.push('\n');
        for key in ring.keys() {
            text.push_str(&key.to_base64());
            text.push('\n');
        }
        text
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let beside = self.dir.join(KEPT_TEMP_NAME);
        // one left behind by a crash may have any mode
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(OWNER_ONLY)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, self.dir.join(KEPT_NAME))?;
        File::open(&self.dir)?.sync_all()
    }
}

struct Content {
    ring: Keyring,
    grew_out_of: Vec<Fingerprint>,
}

fn read(path: &Path) -> Result<Content, KeyringFileError> {
    let failed = |why: io::Error| KeyringFileError::Read {
        file: path.to_owned(),
        why,
    };
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let mode = meta.permissions().mode() & 0o7777;
    if !meta.is_file() {
        return Err(failed(io::Error::other("it is not a file")));
    }
    if mode & !OWNER_ONLY != 0 {
        let file = path.to_owned();
        return Err(KeyringFileError::TooOpen { file, mode });
    }
    if meta.len() > FILE_BYTES_MAX {
        let why = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(failed(io::Error::other(why)));
    }
    let mut text = Zeroizing::new(String::with_capacity(meta.len() as usize + 1));
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Content, KeyringFileError> {
    let mut keys = Vec::new();
    let mut grew_out_of = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if let Some(names) = text.strip_prefix(GREW_OUT_OF) {
            grew_out_of = names.split_whitespace().flat_map(str::parse).collect();
        }
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let key = Key::from_base64(text).map_err(|error| KeyringFileError::Line {
            file: path.to_owned(),
            line,
            why: error.to_string(),
        })?;
        keys.push((line, key));
    }
    let last = keys.last().map_or(0, |(line, _)| *line);
    let ring = Keyring::of(keys.into_iter().map(|(_, key)| key));
    let ring = ring.ok_or_else(|| KeyringFileError::Empty {
        file: path.to_owned(),
    })?;
    let ring = ring.map_err(|error| KeyringFileError::Line {
        file: path.to_owned(),
        line: last,
        why: error.to_string(),
    })?;
    Ok(Content { ring, grew_out_of })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn key(n: u8) -> Key {
        Key::new([n; 32])
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    fn lines(keys: &[u8]) -> String {
        let lines = keys.iter().map(|n| format!("{}\n", *key(*n).to_base64()));
        lines.collect()
    }

    #[test]
    fn files_are_read_and_mistakes_are_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys");
        let good = format!("# ours\n\n{}  # next\n{}", lines(&[1]).trim(), lines(&[2]));
        write(&path, &good, 0o600);
        let (ring, _) = load(Some(&path), dir.path())
            .expect("readable")
            .expect("there");
        assert_eq!(ring.keys(), [key(1), key(2)]);

        let error = |text: &str, mode| {
            write(&path, text, mode);
            load(Some(&path), dir.path())
                .expect_err("refused")
                .to_string()
        };
        let open = error(&good, 0o640);
        assert!(
            open.contains("0640") && open.contains("chmod 600"),
            "{open}"
        );
        let empty = error("# nothing\n", 0o600);
        assert!(empty.contains("keys generate"), "{empty}");
        let short = error(&format!("{}c2hvcnQ=\n", lines(&[1])), 0o400);
        assert!(
            short.contains("line 2") && !short.contains("c2hv"),
            "{short}"
        );
        let many: Vec<u8> = (0..=super::super::keyring::KEYS_MAX as u8).collect();
        assert!(error(&lines(&many), 0o600).contains("line 17"));
        let missing = load(Some(&dir.path().join("none")), dir.path()).expect_err("missing");
        assert!(missing.to_string().contains("none"));
    }

    #[test]
    fn the_kept_ring_counts_until_the_operators_file_changes() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("mine");
        write(&path, &lines(&[1]), 0o600);
        let started = || {
            load(Some(&path), dir.path())
                .expect("readable")
                .expect("there")
        };
        let (mut ring, keeping) = started();
        ring.install(key(2)).expect("room");
        ring.make_primary(key(2).fingerprint()).expect("held");
        keeping.keep(&ring).expect("written");
        let kept = fs::metadata(dir.path().join(KEPT_NAME)).expect("there");
        assert_eq!(kept.permissions().mode() & 0o777, 0o600);
        assert_eq!(started().0, ring);
        let (without_file, _) = load(None, dir.path()).expect("readable").expect("there");
        assert_eq!(without_file, ring);

        write(&path, &lines(&[3]), 0o600);
        assert_eq!(started().0.keys(), [key(3)]);
        let aside = read(&dir.path().join(ASIDE_NAME)).expect("not lost");
        assert_eq!(aside.ring, ring);
        write(&path, &lines(&[1]), 0o600);
        assert_eq!(
            started().0.keys(),
            [key(1)],
            "the kept one is gone for good"
        );
        assert!(load(None, dir.path()).expect("readable").is_none());
    }

    #[test]
    fn a_start_without_the_operators_file_does_not_forget_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("mine");
        write(&path, &lines(&[1]), 0o600);
        let rotate = |given: Option<&Path>, to: u8| {
            let (mut ring, keeping) = load(given, dir.path()).expect("readable").expect("there");
            let before = ring.primary().fingerprint();
            ring.install(key(to)).expect("room");
            ring.make_primary(key(to).fingerprint()).expect("held");
            ring.remove(before).expect("held");
            keeping.keep(&ring).expect("written");
        };
        rotate(Some(&path), 2);
        rotate(None, 3);
        let (ring, _) = load(Some(&path), dir.path())
            .expect("readable")
            .expect("there");
        assert_eq!(ring.keys(), [key(3)], "the flag is as it was");
    }

    /// Where the log of a test goes.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_start_by_the_kept_ring_alone_says_where_its_keys_are_from() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("mine");
        write(&path, &lines(&[1]), 0o600);
        let told = |given: Option<&Path>| {
            let log = Log::default();
            let to = log.clone();
            let subscriber = tracing_subscriber::fmt().with_writer(move || to.clone());
            let loaded = tracing::subscriber::with_default(subscriber.finish(), || {
                load(given, dir.path()).expect("readable")
            });
            let text = log.0.lock().expect("whole").clone();
            (loaded.is_some(), String::from_utf8(text).expect("text"))
        };
        assert_eq!(told(None), (false, String::new()));
        let (ring, keeping) = load(Some(&path), dir.path())
            .expect("readable")
            .expect("there");
        keeping.keep(&ring).expect("written");
        assert_eq!(told(Some(&path)), (true, String::new()));
        let (keys, text) = told(None);
        let kept = dir.path().join(KEPT_NAME).display().to_string();
        assert!(
            keys && text.contains(&kept) && text.contains("delete"),
            "{text}"
        );
        fs::remove_file(dir.path().join(KEPT_NAME)).expect("there");
        assert_eq!(told(None), (false, String::new()), "and it ends so");
    }

    /// The last step of a rotation: with the new key in the operator's file as well, a node that
    /// loses its folder is not locked out, and one that does not goes on with the same keys.
    #[test]
    fn the_new_key_in_the_operators_file_changes_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("mine");
        write(&path, &lines(&[1]), 0o600);
        let (mut ring, keeping) = load(Some(&path), dir.path())
            .expect("readable")
            .expect("there");
        ring.install(key(2)).expect("room");
        ring.make_primary(key(2).fingerprint()).expect("held");
        ring.remove(key(1).fingerprint()).expect("held");
        keeping.keep(&ring).expect("written");
        write(&path, &lines(&[2]), 0o600);
        let elsewhere = tempfile::tempdir().expect("a folder");
        for folder in [dir.path(), elsewhere.path()] {
            let (loaded, _) = load(Some(&path), folder).expect("readable").expect("there");
            assert_eq!(loaded, ring);
        }
    }

    #[test]
    fn what_a_crash_left_beside_is_no_hindrance() {
        let dir = tempfile::tempdir().expect("a folder");
        write(&dir.path().join(KEPT_TEMP_NAME), "half", 0o666);
        let keeping = Keeping::in_folder(dir.path());
        keeping.keep(&Keyring::new(key(1))).expect("written");
        let (ring, _) = load(None, dir.path()).expect("readable").expect("there");
        assert_eq!(ring.keys(), [key(1)]);
    }
}
