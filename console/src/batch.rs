//! The verbs without a terminal: one answer, one exit code, for scripts and for people.
//!
//! `--output table` is for reading, `--output json` is the daemon's own answer (or a documented
//! object where several answers are put together). Nothing is printed to standard output but the
//! answer; reasons go to standard error.

mod adopt;
mod change;
pub mod check;
mod keys;
mod many;
mod refill;
mod repair;
pub mod restart;
pub mod table;
pub mod verbs;

use std::{io::Read, process::ExitCode, time::Duration};

use anyhow::Context;
use ringmaster_shared::api::data::Consistency;
use serde::Serialize;
use serde_json::Value;

pub use crate::cli::Output;
use crate::{
    cli::{AdoptArgs, BatchVerb, Common, ConsistencyArg, GetArgs, KeysVerb, PutArgs, RingVerb},
    client::{Client, ClientError, Left},
    exit::{self, Exit},
    progress::ProcedureKind,
};
use adopt::Adoption;
use change::Orders;
use restart::RestartArgs;
use verbs::{Verb, data::Condition};

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
    if common.read_only && changes_something(&verb) {
        eprintln!("ringmaster: refused: --read-only is set");
        return Ok(exit::REFUSED);
    }
    let (verb, output) = match verb {
        BatchVerb::Status(o) => (Verb::Status, o.output),
        BatchVerb::Members(o) => (Verb::Members, o.output),
        BatchVerb::Quorum(o) => (Verb::Quorum, o.output),
        BatchVerb::Check(o) => (Verb::Check, o.output),
        BatchVerb::Ring(args) => match args.verb {
            None => (Verb::Ring { key: args.key }, args.output.output),
            Some(_) if args.key.is_some() => {
                eprintln!("ringmaster: a key is not used with ring plan and ring apply");
                return Ok(exit::USAGE);
            }
            Some(verb) => {
                let output = args.output.output;
                return ring(&client, endpoints, verb, output).await;
            }
        },
        BatchVerb::Get(args) => match single_get(args)? {
            Single::One(verb, output) => (verb, output),
            Single::Many(keys, consistency, output) => {
                return many::get(&client, endpoints, keys, consistency, output).await;
            }
        },
        BatchVerb::Put(args) => {
            let (consistency, output) = (args.consistency.into(), args.output.output);
            if let Some(file) = &args.batch {
                let entries = many::entries_from(file)?;
                return many::put(&client, endpoints, entries, consistency, output).await;
            }
            (put(args)?, output)
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
        BatchVerb::Change(args) => {
            let (change, flags) = args.into_parts();
            let orders = Orders {
                yes: flags.yes,
                timeout: Duration::from_secs(flags.timeout),
                output: flags.output.output,
            };
            return change::carry_out(&client, endpoints, &change, &orders).await;
        }
        BatchVerb::Adopt(args) => return adopt::run(&client, &args.into()).await,
        BatchVerb::Refill(args) => {
            let wanted = refill::Refill {
                node: args.node,
                yes: args.yes,
                reason: args.reason,
                output: args.output.output,
            };
            return refill::run(&client, endpoints, wanted).await;
        }
        BatchVerb::Repair(o) => return repair::run(&client, endpoints, o.output).await,
        BatchVerb::Keys(verb) => return keys::run(&client, endpoints, verb).await,
    };
    verbs::run(&client, endpoints, verb, output).await
}

/// Whether a verb may change the cluster or its data; showing a plan does not.
fn changes_something(verb: &BatchVerb) -> bool {
    match verb {
        BatchVerb::Status(_)
        | BatchVerb::Members(_)
        | BatchVerb::Quorum(_)
        | BatchVerb::Check(_)
        | BatchVerb::Get(_) => false,
        BatchVerb::Ring(args) => matches!(args.verb, Some(RingVerb::Apply(_))),
        BatchVerb::Change(args) => args.flags().yes,
        BatchVerb::Adopt(args) => args.yes,
        BatchVerb::Refill(args) => args.yes,
        BatchVerb::Keys(verb) => !matches!(verb, KeysVerb::List(_) | KeysVerb::Generate),
        BatchVerb::Restart(args) => args.yes,
        BatchVerb::Put(_) | BatchVerb::Del(_) | BatchVerb::Repair(_) => true,
    }
}

/// `output` is what was said before the verb; said after it, it counts as well.
async fn ring(
    client: &Client,
    endpoints: &[String],
    verb: RingVerb,
    output: Output,
) -> anyhow::Result<Exit> {
    let said = |after: Output| {
        if output == Output::Json {
            output
        } else {
            after
        }
    };
    match verb {
        RingVerb::Plan(args) => {
            let (change, output) = args.change.into_parts();
            change::plan(client, endpoints, &change, said(output.output)).await
        }
        RingVerb::Apply(args) => {
            let wait = args.wait.then(|| Duration::from_secs(args.timeout));
            let output = said(args.output.output);
            change::apply(client, endpoints, &args.plan_id, wait, output).await
        }
    }
}

enum Single {
    One(Verb, Output),
    Many(Vec<String>, Consistency, Output),
}

/// One key is one read, as it always was; several are a batch.
fn single_get(args: GetArgs) -> anyhow::Result<Single> {
    let (consistency, output) = (args.consistency.into(), args.output.output);
    let mut keys = args.keys;
    if let Some(file) = &args.batch {
        keys = many::keys_from(file)?;
    } else if let [key] = keys.as_mut_slice() {
        let key = std::mem::take(key);
        return Ok(Single::One(Verb::Get { key, consistency }, output));
    }
    Ok(Single::Many(keys, consistency, output))
}

fn put(args: PutArgs) -> anyhow::Result<Verb> {
    let condition = match (args.if_match, args.if_absent) {
        (Some(context), _) => Some(Condition::Match(context)),
        (None, true) => Some(Condition::Absent),
        (None, false) => None,
    };
    Ok(Verb::Put {
        key: args.key.unwrap_or_default(),
        value: value(&args.value.unwrap_or_default())?,
        context: args.context,
        condition,
        consistency: args.consistency.into(),
    })
}

impl From<AdoptArgs> for Adoption {
    fn from(args: AdoptArgs) -> Self {
        Self {
            losing: args.losing,
            into: args.into,
            yes: args.yes,
            timeout: Duration::from_secs(args.timeout),
            reason: args.reason,
            output: args.output.output,
        }
    }
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
    code(error)
}

/// Why a write failed, and what it may have left behind: "refused" and "nobody answered" are said
/// only where nothing was stored.
pub fn explain_write(error: &ClientError) -> Exit {
    explain_change(
        error,
        "read the key before you write it again",
        "settle the siblings before you write it again",
    )
}

/// The same of an order.
pub fn explain_order(error: &ClientError) -> Exit {
    let look = "look with `ringmaster status` before you give the order again";
    explain_change(error, look, look)
}

fn explain_change(error: &ClientError, unknown: &str, stored: &str) -> Exit {
    let exit = explain(error);
    match error.leaves() {
        Left::Nothing => exit,
        Left::Stored => {
            eprintln!("ringmaster: outcome: it took effect; {stored}");
            exit::FAILED
        }
        Left::Unknown => {
            eprintln!("ringmaster: outcome: not known, it may have taken effect; {unknown}");
            exit::FAILED
        }
    }
}

/// The exit code that goes with it.
fn code(error: &ClientError) -> Exit {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb as CliVerb};

    #[test]
    fn read_only_refuses_what_changes_something_and_shows_plans() {
        let changes = |line: &str| {
            let cli = Cli::try_parse_from(line.split_whitespace()).expect(line);
            match cli.verb {
                Some(CliVerb::Batch(verb)) => changes_something(&verb),
                other => panic!("{line}: {other:?}"),
            }
        };
        for shows in [
            "ringmaster status",
            "ringmaster restart --clean",
            "ringmaster restart --rolling",
            "ringmaster leave node-1",
            "ringmaster keys list",
            "ringmaster get k",
        ] {
            assert!(!changes(shows), "{shows}");
        }
        for acts in [
            "ringmaster restart --clean --yes",
            "ringmaster restart --rolling --yes",
            "ringmaster leave node-1 --yes",
            "ringmaster keys use aabbccddeeff",
            "ringmaster put k v",
            "ringmaster del k",
            "ringmaster repair",
        ] {
            assert!(changes(acts), "{acts}");
        }
    }
}
