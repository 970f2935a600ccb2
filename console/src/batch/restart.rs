//! `ringmaster restart --clean|--rolling`: the plan, and with `--yes` progress line by line.

use futures_util::{Stream, StreamExt, stream};
use ringmaster_shared::id::NodeId;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::{Output, explain, print_json, print_lines};
use crate::{
    client::Client,
    exit::{self, Exit},
    procedure::{
        clean, rolling,
        runner::{HOLD_SECONDS, Runner, Wires},
        survey::Survey,
    },
    progress::{ProcedureKind, Progress, StepState, StepView},
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
    /// What each node answered to its orders, oldest first.
    log: &'a [String],
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
        // one stream for the whole run, so that none falls between two looks
        let interrupts = stream::unfold((), |()| async {
            tokio::signal::ctrl_c().await.ok().map(|()| ((), ()))
        });
        let run = carry_out(client, endpoints, args.kind, output, interrupts);
        let (progress, interrupted) = run.await;
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

/// To the end, or to the second of the operator's interrupts; and whether there was one.
async fn carry_out(
    client: Client,
    endpoints: &[String],
    kind: ProcedureKind,
    output: Output,
    interrupts: impl Stream<Item = ()>,
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
    let mut last = runner.progress().clone();
    let mut run = std::pin::pin!(runner.run(&endpoints));
    let mut interrupts = std::pin::pin!(interrupts);
    let mut printer = Printer::default();
    let mut interrupted = false;
    loop {
        tokio::select! {
            done = &mut run => {
                printer.print(&done, output);
                return (done, interrupted);
            }
            Some(now) = reports.recv() => {
                printer.print(&now, output);
                last = now;
            }
            Some(()) = interrupts.next() => {
                if interrupted {
                    last.outcome = Some(Err(unattended(kind, last.waiting_for.as_deref())));
                    return (last, true);
                }
                eprintln!("ringmaster: {}", cancelling(kind));
                let _ = cancel.send(true);
                interrupted = true;
            }
        }
    }
}

fn cancelling(kind: ProcedureKind) -> &'static str {
    match kind {
        ProcedureKind::CleanRestart => {
            "cancelling; nodes in standby are told to start. Ctrl+C again does not wait for that: \
             each starts by itself when its hold ends"
        }
        ProcedureKind::RollingRestart => {
            "cancelling; a node that restarts now goes on with it. Ctrl+C again ends this at once"
        }
    }
}

/// What is true when nobody looks on any longer.
fn unattended(kind: ProcedureKind, waiting_for: Option<&str>) -> String {
    let waited = waiting_for.map_or(String::new(), |w| format!(" while waiting for {w}"));
    let next = match kind {
        ProcedureKind::CleanRestart => format!(
            "who was not told to start yet starts by itself, at most {HOLD_SECONDS} s after it \
             stands by. Look with `ringmaster status`"
        ),
        ProcedureKind::RollingRestart => "a node that restarts now goes on with it".to_owned(),
    };
    format!("interrupted again{waited}; {next}")
}

/// Prints each step once when it ends, and each new reason for waiting. What the nodes answered goes
/// to standard error, whatever the output: it is all there is if this ends before the report.
#[derive(Default)]
struct Printer {
    done: usize,
    /// Lines of the whole log, also of those that were dropped since.
    logged: usize,
    waiting: Option<String>,
}

impl Printer {
    fn print(&mut self, progress: &Progress, output: Output) {
        if output == Output::Table {
            self.print_steps(progress);
        }
        for line in self.news(progress) {
            eprintln!("ringmaster: {line}");
        }
        if output == Output::Table && progress.waiting_for != self.waiting {
            self.waiting.clone_from(&progress.waiting_for);
            if let Some(why) = &self.waiting {
                print_lines([format!("  waits   {why}")]);
            }
        }
    }

    /// What was logged since the last time.
    fn news<'a>(&mut self, progress: &'a Progress) -> &'a [String] {
        let known = self.logged.saturating_sub(progress.log_dropped);
        self.logged = progress.log_dropped + progress.log.len();
        progress.log.get(known..).unwrap_or_default()
    }

    fn print_steps(&mut self, progress: &Progress) {
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
        Output::Json => print_json(&document(progress, ok, message))?,
    }
    Ok(if ok { exit::OK } else { exit::FAILED })
}

fn document<'a>(progress: &'a Progress, ok: bool, message: &'a str) -> Report<'a> {
    let step = |s: &'a StepView| Step {
        title: &s.title,
        state: match s.state {
            StepState::Done => "done",
            StepState::Failed => "failed",
            StepState::Pending => "pending",
            StepState::Running | StepState::Waiting => "running",
        },
        detail: &s.detail,
        elapsed_ms: s.elapsed_ms,
    };
    Report {
        procedure: match progress.kind {
            ProcedureKind::CleanRestart => "clean_restart",
            ProcedureKind::RollingRestart => "rolling_restart",
        },
        ok,
        message,
        nodes: progress.nodes.iter().map(NodeId::as_str).collect(),
        writes_refused_ms: progress.writes_refused_ms,
        steps: progress.steps.iter().map(step).collect(),
        log: &progress.log,
    }
}

#[cfg(test)]
mod tests;
