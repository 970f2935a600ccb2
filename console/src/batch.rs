//! The verbs without a terminal: one answer, one exit code, for scripts and for people.
//!
//! `--output table` is for reading, `--output json` is the daemon's own answer (or a documented
//! object where several answers are put together). Nothing is printed to standard output but the
//! answer; reasons go to standard error.

pub mod check;
pub mod restart;
pub mod table;
pub mod verbs;

use std::{io::Read, process::ExitCode};

use anyhow::Context;
use ringmaster_shared::api::data::Consistency;
use serde::Serialize;
use serde_json::Value;

pub use crate::cli::Output;
use crate::{
    cli::{BatchVerb, Common, ConsistencyArg},
    client::{Client, ClientError},
    exit::{self, Exit},
    progress::ProcedureKind,
};
use restart::RestartArgs;
use verbs::Verb;

/// Longest value read from standard input, bytes; the daemon has its own limit.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Runs one verb; the exit code is for scripts.
pub async fn run(common: &Common, verb: BatchVerb) -> ExitCode {
    match dispatch(common, verb).await {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("ringmaster: {error:#}");
            exit::FAILED.into()
        }
    }
}

async fn dispatch(common: &Common, verb: BatchVerb) -> anyhow::Result<Exit> {
    let client = Client::new()?;
    let endpoints = &common.endpoints;
    let changes = matches!(
        verb,
        BatchVerb::Put(_) | BatchVerb::Del(_) | BatchVerb::Restart(_)
    );
    if common.read_only && changes {
        eprintln!("ringmaster: refused: --read-only is set");
        return Ok(exit::REFUSED);
    }
    let (verb, output) = match verb {
        BatchVerb::Status(o) => (Verb::Status, o.output),
        BatchVerb::Members(o) => (Verb::Members, o.output),
        BatchVerb::Ring(args) => (Verb::Ring { key: args.key }, args.output.output),
        BatchVerb::Quorum(o) => (Verb::Quorum, o.output),
        BatchVerb::Check(o) => (Verb::Check, o.output),
        BatchVerb::Get(args) => {
            let consistency = args.consistency.into();
            (
                Verb::Get {
                    key: args.key,
                    consistency,
                },
                args.output.output,
            )
        }
        BatchVerb::Put(args) => {
            let verb = Verb::Put {
                key: args.key,
                value: value(&args.value)?,
                context: args.context,
                consistency: args.consistency.into(),
            };
            (verb, args.output.output)
        }
        BatchVerb::Del(args) => {
            let verb = Verb::Del {
                key: args.key,
                context: args.context,
                consistency: args.consistency.into(),
            };
            (verb, args.output.output)
        }
        BatchVerb::Restart(args) => {
            let kind = if args.clean {
                ProcedureKind::CleanRestart
            } else {
                ProcedureKind::RollingRestart
            };
            let restart = RestartArgs {
                kind,
                yes: args.yes,
            };
            return restart::run(client, endpoints, &restart, args.output.output).await;
        }
    };
    verbs::run(&client, endpoints, verb, output).await
}

/// JSON when it is JSON, else text; `-` reads standard input.
fn value(text: &str) -> anyhow::Result<Value> {
    let mut text = text.to_owned();
    if text == "-" {
        text.clear();
        std::io::stdin()
            .take(INPUT_BYTES_MAX)
            .read_to_string(&mut text)
            .context("cannot read the value from standard input")?;
    }
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

impl From<ConsistencyArg> for Consistency {
    fn from(arg: ConsistencyArg) -> Self {
        match arg {
            ConsistencyArg::One => Self::One,
            ConsistencyArg::Quorum => Self::Quorum,
            ConsistencyArg::All => Self::All,
        }
    }
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
pub fn explain(error: &ClientError) -> Exit {
    eprintln!("ringmaster: {error}");
    match error {
        ClientError::Unreachable { .. } | ClientError::Protocol { .. } => exit::UNREACHABLE,
        ClientError::Refused {
            status: 404 | 503 | 504 | 500,
            ..
        } => exit::FAILED,
        ClientError::Refused {
            status: 400 | 413, ..
        } => exit::USAGE,
        ClientError::Refused { .. } => exit::REFUSED,
    }
}
