//! Replacing this process by the binary on disk: same pid, same terminal, same flags.
//!
//! The path is the one this process was started from, made absolute at the start and not
//! resolved further, so that an upgrade that replaces the file, or turns a link, is picked up.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Ticket, standby};

/// How to start this program again.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arg0: OsString,
    args: Vec<OsString>,
}

impl Program {
    /// To be called at the very start, before anything changes directory or replaces files.
    pub fn of_this_process() -> Self {
        let mut words = env::args_os();
        let arg0 = words.next().unwrap_or_else(|| "ringd".into());
        let here = env::current_dir().unwrap_or_default();
        let path = locate(&arg0, &here, env::var_os("PATH").as_deref(), Path::is_file)
            .or_else(|| env::current_exe().ok())
            .unwrap_or_else(|| PathBuf::from(&arg0));
        Self {
            path,
            arg0,
            args: words.collect(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns only when it failed.
    pub fn replace(&self, standby: Option<&Ticket>) -> io::Error {
        let mut command = Command::new(&self.path);
        command
            .arg0(&self.arg0)
            .args(&self.args)
            .env_remove(standby::VARIABLE);
        if let Some(ticket) = standby {
            command.env(standby::VARIABLE, ticket.to_text());
        }
        command.exec()
    }
}

/// Where a shell found `arg0`: as a path from `here`, or by name in `search`.
fn locate(
    arg0: &OsStr,
    here: &Path,
    search: Option<&OsStr>,
    is_file: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let path = Path::new(arg0);
    if path.components().count() > 1 || path.is_absolute() {
        return Some(here.join(path));
    }
    env::split_paths(search?)
        .map(|folder| here.join(folder).join(path))
        .find(|candidate| is_file(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_found_as_a_shell_finds_it() {
        let here = Path::new("/srv/here");
        let search = OsStr::new("/bin:tools:/usr/bin");
        let present = |p: &Path| p == Path::new("/srv/here/tools/ringd") || p.starts_with("/usr");
        let found = |arg0: &str| locate(OsStr::new(arg0), here, Some(search), present);
        let path = |p: &str| Some(PathBuf::from(p));
        assert_eq!(found("/opt/ringd"), path("/opt/ringd"));
        assert_eq!(found("target/ringd"), path("/srv/here/target/ringd"));
        assert_eq!(found("./ringd"), path("/srv/here/./ringd"));
        assert_eq!(found("ringd"), path("/srv/here/tools/ringd"));
        assert_eq!(locate(OsStr::new("ringd"), here, None, present), None);
    }
}
