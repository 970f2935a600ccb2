//! What a clean close leaves so that the next start need not read the whole table: digests,
//! counters and the ledger of hints, with the log number they belong to.
//!
//! Good for one start only: it is durably removed before anything is written, so after a crash
//! there is none and everything is counted. A file that is damaged, of another format or of
//! another log number is as good as none.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use ringmaster_shared::id::NodeId;
use serde::{Deserialize, Serialize};

use super::{checkpoint::sync_dir, hints::Owed};

const NAME: &str = "summary";
/// The last byte is the format: another one for any change of [`Summary`].
const MAGIC: &[u8; 8] = b"RINGSUM\x01";
const HEADER: usize = 8 + 4;

/// The figures of a store at one log number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    /// Number of the last entry that is counted.
    pub lsn: u64,
    pub partition_count: u16,
    pub keys: u64,
    pub tombstones: u64,
    /// By partition.
    pub tombstones_in: Vec<u32>,
    /// Leaves of all partitions, in order.
    pub leaves: Vec<u64>,
    pub owed: BTreeMap<NodeId, Owed>,
}

fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Durable when it returns.
pub(super) fn write(dir: &Path, summary: &Summary) -> io::Result<()> {
    let payload = postcard::to_stdvec(summary).map_err(io::Error::other)?;
    let temporary = dir.join(format!("{NAME}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(MAGIC)?;
    file.write_all(&crc32fast::hash(&payload).to_le_bytes())?;
    file.write_all(&payload)?;
    file.sync_all()?;
    fs::rename(&temporary, path(dir))?;
    sync_dir(dir)
}

pub(super) fn read(dir: &Path) -> Option<Summary> {
    let bytes = fs::read(path(dir)).ok()?;
    let crc: [u8; 4] = bytes.get(8..HEADER)?.try_into().ok()?;
    let payload = bytes.get(HEADER..)?;
    let sound = bytes.starts_with(MAGIC) && crc32fast::hash(payload).to_le_bytes() == crc;
    if !sound {
        tracing::warn!("the summary of the store is damaged; everything is counted instead");
        return None;
    }
    postcard::from_bytes(payload).ok()
}

/// Durably gone when it returns.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(path(dir)) {
        Ok(()) => sync_dir(dir),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::node;

    #[test]
    fn it_reads_back_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(read(dir.path()), None);
        remove(dir.path()).expect("nothing to remove");
        let summary = Summary {
            lsn: 7,
            partition_count: 2,
            keys: 3,
            tombstones: 1,
            tombstones_in: vec![1, 0],
            leaves: vec![1, 0, u64::MAX],
            owed: [(node("n"), Owed::default())].into(),
        };
        write(dir.path(), &summary).expect("written");
        assert_eq!(read(dir.path()), Some(summary));
        let good = fs::read(path(dir.path())).expect("readable");
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            fs::write(path(dir.path()), &bad).expect("written");
            assert_eq!(read(dir.path()), None, "byte {i}");
            fs::write(path(dir.path()), &good[..i]).expect("written");
            assert_eq!(read(dir.path()), None, "cut at {i}");
        }
        remove(dir.path()).expect("removed");
        assert!(!path(dir.path()).exists());
    }
}
