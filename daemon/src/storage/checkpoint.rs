//! The checkpoint file: up to which log number the table is known to be on disk.
//!
//! Written beside and moved into place, each step synced, so that a reader finds either the old
//! or the new one, whole. A file that fails its checksum counts as damage, never as "none".

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

const NAME: &str = "checkpoint";
const MAGIC: &[u8; 8] = b"RINGCKP\x01";
const LEN: usize = 8 + 8 + 4;

pub(super) enum CheckpointError {
    Io(io::Error),
    Damaged,
}

/// Makes a rename, creation or removal in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

pub(super) fn path(dir: &Path) -> std::path::PathBuf {
    dir.join(NAME)
}

pub(super) fn write(dir: &Path, lsn: u64) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(LEN);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&lsn.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    let temporary = dir.join(format!("{NAME}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path(dir))?;
    sync_dir(dir)
}

/// `None`: there was never a checkpoint.
pub(super) fn read(dir: &Path) -> Result<Option<u64>, CheckpointError> {
    let bytes = match fs::read(path(dir)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CheckpointError::Io(e)),
    };
    let field = |at: usize, n: usize| bytes.get(at..at + n).unwrap_or_default();
    let crc = crc32fast::hash(field(0, LEN - 4)).to_le_bytes();
    if bytes.len() != LEN || field(0, 8) != MAGIC || field(LEN - 4, 4) != crc {
        return Err(CheckpointError::Damaged);
    }
    let lsn: [u8; 8] = field(8, 8)
        .try_into()
        .map_err(|_| CheckpointError::Damaged)?;
    Ok(Some(u64::from_le_bytes(lsn)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_written_is_read_and_damage_is_noticed() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert!(matches!(read(dir.path()), Ok(None)));
        for lsn in [0, 7, u64::MAX] {
            write(dir.path(), lsn).expect("writes");
            assert!(matches!(read(dir.path()), Ok(Some(found)) if found == lsn));
        }
        let good = fs::read(path(dir.path())).expect("readable");
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            fs::write(path(dir.path()), &bad).expect("writes");
            assert!(
                matches!(read(dir.path()), Err(CheckpointError::Damaged)),
                "byte {i}"
            );
            fs::write(path(dir.path()), &good[..i]).expect("writes");
            assert!(
                matches!(read(dir.path()), Err(CheckpointError::Damaged)),
                "cut at {i}"
            );
        }
    }
}
