//! `ringmaster restart --clean|--rolling`: the plan, and with `--yes` progress line by line.

use ringmaster_shared::id::NodeId;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::{Output, explain, print_json, print_lines};
use crate::{
    client::Client,
    exit::{self, Exit},
    procedure::{
        clean, rolling,
        runner::{Runner, Wires},
        survey::Survey,
    },
    progress::{ProcedureKind, Progress, StepState},
};

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct RestartArgs {
    pub kind: ProcedureKind,
    /// Do it; without this only the plan is shown.
    pub yes: bool,
}

/// The result as JSON.
#[derive(Serialize)]
struct Report<'a> {
    procedure: &'static str,
    ok: bool,
    message: &'a str,
    nodes: Vec<&'a str>,
    writes_refused_ms: u64,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    title: &'a str,
    state: &'static str,
    detail: &'a str,
    elapsed_ms: u64,
}

pub async fn run(
    client: Client,
    endpoints: &[String],
    args: &RestartArgs,
    output: Output,
) -> anyhow::Result<Exit> {
    let survey = match Survey::take(&client, endpoints).await {
        Ok(survey) => survey,
        Err(e) => return Ok(explain(&e)),
    };
    let plan = match args.kind {
        ProcedureKind::CleanRestart => clean::plan(&survey).map(|p| (p.steps(), p.effects())),
        ProcedureKind::RollingRestart => {
            rolling::plan(&survey).map(|p| (p.steps(), rolling::Plan::effects()))
        }
    };
    let (steps, effects) = match plan {
        Ok(plan) => plan,
        Err(refusal) => {
            eprintln!("ringmaster: refused: {refusal}");
            return Ok(exit::REFUSED);
        }
    };
    if output == Output::Table {
        print_plan(args.kind, &steps, &effects);
    }
    if args.yes {
        let (progress, interrupted) = carry_out(client, endpoints, args.kind, output).await;
        let exit = report(&progress, output)?;
        // an interrupt that came too late to stop anything changed nothing
        let stopped = interrupted && exit == exit::FAILED;
        return Ok(if stopped { exit::INTERRUPTED } else { exit });
    }
    if output == Output::Json {
        print_json(&serde_json::json!({"steps": steps, "effects": effects}))?;
    }
    eprintln!("ringmaster: this is the plan, nothing was done; --yes carries it out");
    Ok(exit::OK)
}

fn print_plan(kind: ProcedureKind, steps: &[String], effects: &[String]) {
    print_lines([kind.title().to_owned()]);
    print_lines(effects.iter().map(|e| format!("  {e}")));
    print_lines(
        steps
            .iter()
            .enumerate()
            .map(|(n, s)| format!("  {}. {s}", n + 1)),
    );
}

/// To the end; and whether the operator interrupted it.
async fn carry_out(
    client: Client,
    endpoints: &[String],
    kind: ProcedureKind,
    output: Output,
) -> (Progress, bool) {
    let (progress, mut reports) = mpsc::channel(16);
    let (cancel, cancelled) = watch::channel(false);
    let runner = Runner::new(
        client,
        kind,
        Wires {
            progress,
            cancel: cancelled,
        },
    );
    let endpoints = endpoints.to_vec();
    let mut run = std::pin::pin!(runner.run(&endpoints));
    let mut printer = Printer::default();
    let mut interrupted = false;
    loop {
        tokio::select! {
            done = &mut run => {
                if output == Output::Table {
                    printer.print(&done);
                }
                return (done, interrupted);
            }
            Some(now) = reports.recv() => {
                if output == Output::Table {
                    printer.print(&now);
                }
            }
            _ = tokio::signal::ctrl_c() => {
                eprintln!("ringmaster: cancelling; nodes in standby are told to start");
                let _ = cancel.send(true);
                interrupted = true;
            }
        }
    }
}

/// Prints each step once when it ends, and each new reason for waiting.
#[derive(Default)]
struct Printer {
    done: usize,
    waiting: Option<String>,
}

impl Printer {
    fn print(&mut self, progress: &Progress) {
        let ended = |s: &StepState| matches!(s, StepState::Done | StepState::Failed);
        let steps = progress
            .steps
            .iter()
            .take_while(|s| ended(&s.state))
            .skip(self.done);
        let mut printed = 0;
        print_lines(steps.map(|s| {
            printed += 1;
            let mark = if s.state == StepState::Done {
                "done  "
            } else {
                "failed"
            };
            let seconds = s.elapsed_ms as f64 / 1000.0;
            format!(
                "  {mark}  {:<22}  {:>6.1} s  {}",
                s.title, seconds, s.detail
            )
        }));
        self.done += printed;
        if progress.waiting_for != self.waiting {
            self.waiting.clone_from(&progress.waiting_for);
            if let Some(why) = &self.waiting {
                print_lines([format!("  waits   {why}")]);
            }
        }
    }
}

fn report(progress: &Progress, output: Output) -> anyhow::Result<Exit> {
    let (ok, message) = match &progress.outcome {
        Some(Ok(message)) => (true, message.as_str()),
        Some(Err(message)) => (false, message.as_str()),
        None => (false, "the procedure did not end"),
    };
    match output {
        Output::Table if ok && progress.writes_refused_ms > 0 => {
            let seconds = progress.writes_refused_ms as f64 / 1000.0;
            print_lines([format!(
                "{message}; reads and writes were refused for {seconds:.1} s"
            )]);
        }
        Output::Table if ok => print_lines([message.to_owned()]),
        Output::Table => eprintln!("ringmaster: {message}"),
        Output::Json => print_json(&Report {
            procedure: match progress.kind {
                ProcedureKind::CleanRestart => "clean_restart",
                ProcedureKind::RollingRestart => "rolling_restart",
            },
            ok,
            message,
            nodes: progress.nodes.iter().map(NodeId::as_str).collect(),
            writes_refused_ms: progress.writes_refused_ms,
            steps: progress
                .steps
                .iter()
                .map(|s| Step {
                    title: &s.title,
                    state: match s.state {
                        StepState::Done => "done",
                        StepState::Failed => "failed",
                        StepState::Pending => "pending",
                        StepState::Running | StepState::Waiting => "running",
                    },
                    detail: &s.detail,
                    elapsed_ms: s.elapsed_ms,
                })
                .collect(),
        })?,
    }
    Ok(if ok { exit::OK } else { exit::FAILED })
}
