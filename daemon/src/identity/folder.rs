//! The data dir as a whole: that it is ours to use, and ours alone.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    path::Path,
};

use super::{
    IdentityError,
    file::{FILE_NAME, TEMP_NAME},
};

const LOCK_NAME: &str = "lock";

/// Names that a data dir may hold before it has an identity file: ours, what an operator lays
/// ready, and what file systems put into the root of a volume.
fn is_own_name(name: &str) -> bool {
    matches!(
        name,
        LOCK_NAME | FILE_NAME | TEMP_NAME | "keyring" | "lost+found"
    ) || name.starts_with("store")
}

/// Makes the folder when it is missing, and refuses one that is something else's.
pub(super) fn prepare(dir: &Path) -> Result<(), IdentityError> {
    let unusable = |why: io::Error| IdentityError::Unusable {
        dir: dir.to_owned(),
        why,
    };
    fs::create_dir_all(dir).map_err(unusable)?;
    if dir.join(FILE_NAME).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(unusable)? {
        let name = entry.map_err(unusable)?.file_name();
        let name = name.to_string_lossy();
        if !is_own_name(&name) {
            return Err(IdentityError::NotADataDir {
                dir: dir.to_owned(),
                found: name.into_owned(),
            });
        }
    }
    Ok(())
}

/// Takes the folder's lock, which lasts as long as the file stays open: the system lets go of it
/// when the process ends, however it ends. The process id is written into it for messages.
pub(super) fn lock(dir: &Path) -> Result<File, IdentityError> {
    let unusable = |why: io::Error| IdentityError::Unusable {
        dir: dir.to_owned(),
        why,
    };
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join(LOCK_NAME))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // the number is a courtesy; without it the message is as true
            let _ = file.take(32).read_to_string(&mut text);
            return Err(IdentityError::Locked {
                dir: dir.to_owned(),
                pid: text.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(why)) => return Err(unusable(why)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(unusable)?;
    Ok(file)
}
