//! What the exit codes mean. Scripts rely on them; they are listed in `--help`.

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

/// Done, and well.
pub const OK: Exit = Exit(0);
/// The cluster is not well, a check failed, or the operation did, or nobody knows whether it took
/// effect.
pub const FAILED: Exit = Exit(1);
/// The command line makes no sense; clap exits with it as well.
pub const USAGE: Exit = Exit(2);
/// No endpoint answered; nothing was done.
pub const UNREACHABLE: Exit = Exit(3);
/// A precondition does not hold; nothing was done.
pub const REFUSED: Exit = Exit(4);
/// Ctrl-C, as shells count it.
pub const INTERRUPTED: Exit = Exit(130);

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.0.into()
    }
}
