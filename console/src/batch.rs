//! The verbs without a terminal.

use std::process::ExitCode;

use crate::{
    cli::{BatchVerb, Common},
    exit,
};

/// Runs one verb; the exit code is for scripts.
pub async fn run(common: &Common, verb: BatchVerb) -> ExitCode {
    let _ = (common, verb);
    exit::USAGE.into()
}
