//! From the command line to a running node, and from its end to an exit code.
//!
//! Promises: misuse is one sentence on stderr and exit code 2, any other failure one sentence
//! and 1, a clean stop 0. A restart order replaces the process image; when that is impossible
//! the node starts again inside this process rather than leave the cluster short of a member. Asked
//! to stop, however late, it does not start again.

mod arguments;
mod failure;
mod logging;

use std::process::ExitCode;

pub use failure::Failure;

use crate::{
    config::{Config, Layers, LogConfig},
    lifecycle::{Program, Ticket, leash, signals::Signals},
    node::{self, End, adopt},
};

/// What `--version` and `/api/v1/status` say.
pub const COMMIT: &str = env!("RINGD_COMMIT");
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("ringd: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run() -> Result<ExitCode, Failure> {
    let program = Program::of_this_process();
    let asked = match arguments::parse(std::env::args_os())? {
        arguments::Asked::Run(flags) => flags,
        arguments::Asked::Print(text) => {
            use std::io::Write;
            // a closed pipe (`ringd --help | head`) is no failure
            let _ = std::io::stdout().write_all(text.as_bytes());
            return Ok(ExitCode::SUCCESS);
        }
    };
    if asked.exit_with_parent {
        leash::hold().map_err(|e| Failure::Failed(format!("cannot watch standard input: {e}")))?;
    }
    let variable = |name: &str| std::env::var(name).ok();
    let layers = Layers::load(asked.settings, variable, asked.config)?;
    let log = LogConfig::resolve(&layers)?;
    let config = Config::resolve(&layers)?;
    logging::start(&log);
    keep_running(&config, &program)
}

fn keep_running(config: &Config, program: &Program) -> Result<ExitCode, Failure> {
    let signals = Signals::listen()
        .map_err(|e| Failure::Failed(format!("cannot listen for signals: {e}")))?;
    let mut ticket = Ticket::from_environment();
    loop {
        match node::run(config, ticket.take(), &signals)? {
            End::Stopped => return Ok(ExitCode::SUCCESS),
            End::Replace { standby, adopts } => {
                // it may have come after the last look of the life that ended
                if let Some(why) = signals.asked() {
                    tracing::info!("does not start again: {why}");
                    if adopts {
                        adopt::withdraw(&config.data_dir, &config.node_id);
                    }
                    return Ok(ExitCode::SUCCESS);
                }
                let error = program.replace(standby.as_ref());
                tracing::error!(
                    "cannot start {} anew ({error}); starting again inside the old process",
                    program.path().display()
                );
                ticket = standby;
            }
        }
    }
}
