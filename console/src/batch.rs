//! The verbs without a terminal: one answer, one exit code, for scripts and for people.
//!
//! `--output table` is for reading, `--output json` is the daemon's own answer (or a documented
//! object where several answers are put together). Nothing is printed to standard output but the
//! answer; reasons go to standard error.

pub mod check;
pub mod restart;
pub mod table;
pub mod verbs;

use serde::Serialize;

use crate::{client::ClientError, exit};

/// How an answer is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

/// Prints one JSON document.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Prints lines; a reader that went away (`| head`) is a clean end.
pub fn print_lines(lines: impl IntoIterator<Item = String>) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            return;
        }
    }
}

/// Why a verb did not give an answer: a sentence and an exit code.
pub fn explain(error: &ClientError) -> u8 {
    eprintln!("ringmaster: {error}");
    match error {
        ClientError::Unreachable { .. } | ClientError::Protocol { .. } => exit::UNREACHABLE,
        ClientError::Refused {
            status: 404 | 503 | 504 | 500,
            ..
        } => exit::UNHEALTHY,
        ClientError::Refused {
            status: 400 | 413, ..
        } => exit::USAGE,
        ClientError::Refused { .. } => exit::REFUSED,
    }
}
