//! Changes of the ring from the console: choose, see the plan, confirm, follow, cancel.
//!
//! The daemon plans and decides; here is only what the operator has been shown and may do with
//! it. A plan counts for the ring it was made on: when the ring has moved on it is made anew,
//! and nothing is applied from a picture that is stale, frozen or cut off.

use jiff::Timestamp;
use ringmaster_shared::{
    api::ring::{Change, PlanResponse},
    error::ErrorCode,
    event::EventCode,
    id::Epoch,
    topology::Step,
};
use tui_input::Input;

use super::{App, Confirm, ConfirmAction, ScreenId, Tone, scroll::Scroll};
use crate::{
    change::{
        self, ChangeVerb,
        watch::{Standing, Watch},
    },
    client::Left,
    link::LinkState,
    message::{ChangeAnswer, ChangeOrder, ChangeOutcome, DataFailure, Effect},
    progress::{StepState, StepView},
};

/// Everything the console remembers of changes of the ring.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChangeState {
    /// The list that one is chosen from.
    pub choosing: Option<Choosing>,
    /// What the daemon was asked and has not answered yet.
    pub asked: Option<Asked>,
    /// The plan that is shown.
    pub plan: Option<Planned>,
    /// The change under way, or the last one.
    pub run: Option<Run>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choosing {
    pub verb: ChangeVerb,
    pub choices: Vec<Change>,
    pub selected: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub id: u64,
    pub order: ChangeOrder,
    /// Console clock.
    pub since_ms: u64,
}

/// A plan, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub change: Change,
    pub result: Result<PlanResponse, String>,
    /// Console clock when it arrived.
    pub received_ms: u64,
    /// Why it was made anew, or what to do first.
    pub note: Option<String>,
    /// It was ordered, and it is not known whether that was heard.
    pub in_doubt: bool,
}

/// A change that was decided, followed through its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub watch: Watch,
    /// Ordered from this console; else it was seen.
    pub ours: bool,
    pub started: Timestamp,
    /// Console clock when the step that runs began.
    pub step_ms: u64,
    pub steps: Vec<StepView>,
    /// What came of it, in a sentence; absent while it runs.
    pub outcome: Option<Result<String, String>>,
    /// The epoch that told the outcome.
    pub ended: Option<Epoch>,
}

impl Run {
    pub fn is_running(&self) -> bool {
        self.outcome.is_none()
    }

    pub fn change(&self) -> &Change {
        self.watch.change()
    }
}

const DECIDED: usize = 0;
const FILL: usize = 1;
const BOTH: usize = 2;
const SETTLED: usize = 3;

impl ChangeState {
    pub fn is_running(&self) -> bool {
        self.run.as_ref().is_some_and(Run::is_running)
    }

    /// One layer out; false when there is none.
    pub(super) fn back(&mut self) -> bool {
        self.plan.take().is_some() || self.choosing.take().is_some()
    }
}

/// The epoch of the ring that is shown live.
fn epoch(app: &App) -> Option<Epoch> {
    app.cluster.ring.as_ref().map(|r| r.value.epoch)
}

/// Whether the plan that is shown could be applied as it stands.
pub fn plan_holds(app: &App) -> bool {
    let planned = app.procedures.change.plan.as_ref();
    let plan = planned.and_then(|p| p.result.as_ref().ok());
    plan.is_some_and(|p| p.obstacles.is_empty() && epoch(app) == Some(p.base_epoch))
}

/// Opens the list of what `verb` could do now; a single possibility is planned at once.
pub(super) fn choose(app: &mut App, verb: ChangeVerb) -> Vec<Effect> {
    let choices = change::choices(verb, &app.cluster);
    app.procedures.change.plan = None;
    match choices.as_slice() {
        [] => {
            app.notify(Tone::Info, change::nothing_for(verb, &app.cluster));
            Vec::new()
        }
        [only] if matches!(verb, ChangeVerb::Rebalance | ChangeVerb::Cancel) => {
            let only = only.clone();
            plan(app, only)
        }
        _ => {
            app.procedures.change.choosing = Some(Choosing {
                verb,
                choices,
                selected: 0,
            });
            Vec::new()
        }
    }
}

/// Has the chosen one planned.
pub(super) fn chosen(app: &mut App) -> Vec<Effect> {
    let Some(choosing) = &app.procedures.change.choosing else {
        return Vec::new();
    };
    match choosing.choices.get(choosing.selected).cloned() {
        Some(change) => plan(app, change),
        None => Vec::new(),
    }
}

/// Asks the daemon what a change would do; nothing is changed by that, so it is allowed to
/// everybody who is connected.
pub(super) fn plan(app: &mut App, change: Change) -> Vec<Effect> {
    app.open(ScreenId::Procedures);
    app.procedures.preview = None;
    app.procedures.scroll = Scroll::default();
    ask(app, ChangeOrder::Plan(change))
}

fn ask(app: &mut App, order: ChangeOrder) -> Vec<Effect> {
    let cut = app.link.state == LinkState::Disconnected;
    let endpoint = app.link.endpoint.clone().filter(|_| !cut);
    let Some(endpoint) = endpoint else {
        app.notify(Tone::Warning, "refused: disconnected from every endpoint");
        return Vec::new();
    };
    let id = app.next_request;
    app.next_request += 1;
    app.procedures.change.asked = Some(Asked {
        id,
        order: order.clone(),
        since_ms: app.now_ms,
    });
    vec![Effect::Change {
        endpoint,
        id,
        order,
    }]
}

/// Enter on a plan: asks for the confirmation, or makes the plan anew where it does not hold.
pub(crate) fn confirm(app: &mut App) -> Vec<Effect> {
    if app.procedures.change.asked.is_some() {
        return Vec::new();
    }
    let Some(planned) = app.procedures.change.plan.clone() else {
        return Vec::new();
    };
    let Ok(shown) = &planned.result else {
        return ask(app, ChangeOrder::Plan(planned.change));
    };
    if epoch(app) != Some(shown.base_epoch) {
        return anew(app, &planned.change);
    }
    if let Some(why) = shown.obstacles.first() {
        app.notify(Tone::Warning, format!("not now: {why}; looking again"));
        return ask(app, ChangeOrder::Plan(planned.change));
    }
    if let Err(why) = may_change(app) {
        app.notify(Tone::Warning, why);
        return Vec::new();
    }
    let mut effects = vec![shown.summary.clone()];
    effects.extend(shown.risks.iter().cloned());
    app.confirm = Some(Confirm {
        title: ChangeVerb::of(&planned.change).title().to_owned(),
        effects,
        expected: change::word_to_type(&planned.change).unwrap_or_default(),
        input: Input::default(),
        error: None,
        action: ConfirmAction::Change {
            change: planned.change,
            plan_id: shown.plan_id.clone(),
            base_epoch: shown.base_epoch,
        },
    });
    Vec::new()
}

/// The ring is not the one the plan was made on.
fn anew(app: &mut App, change: &Change) -> Vec<Effect> {
    let now = epoch(app).map_or("another epoch".to_owned(), |e| format!("epoch {e}"));
    app.notify(
        Tone::Warning,
        format!("the ring is at {now} by now: nothing was changed, planning anew"),
    );
    ask(app, ChangeOrder::Plan(change.clone()))
}

fn may_change(app: &App) -> Result<(), String> {
    let restart = app.procedures.progress.as_ref();
    if restart.is_some_and(crate::progress::Progress::is_running) {
        return Err("refused: a restart is running".to_owned());
    }
    app.may_write()
}

/// The confirmation was given; an error stays in the dialog.
pub(super) fn confirmed(
    app: &mut App,
    change: &Change,
    plan_id: &str,
    base_epoch: Epoch,
) -> Result<Vec<Effect>, String> {
    may_change(app)?;
    if epoch(app) != Some(base_epoch) {
        return Ok(anew(app, change));
    }
    Ok(ask(
        app,
        ChangeOrder::Apply {
            change: change.clone(),
            plan_id: plan_id.to_owned(),
        },
    ))
}

/// The daemon's answer to a plan or to an order.
pub(super) fn answered(app: &mut App, answer: ChangeAnswer) -> Vec<Effect> {
    let Some(asked) = app.procedures.change.asked.take() else {
        return Vec::new();
    };
    if asked.id != answer.id {
        app.procedures.change.asked = Some(asked);
        return Vec::new();
    }
    match answer.result {
        Ok(ChangeOutcome::Planned(plan)) => {
            planned(app, asked.order.into_change(), Ok(*plan));
            Vec::new()
        }
        Ok(ChangeOutcome::Applied(applied)) => {
            app.notify(Tone::Info, applied.message.clone());
            let plan = app.procedures.change.plan.take();
            app.procedures.change.choosing = None;
            app.procedures.show_log = false;
            if !matches!(applied.change, Change::Cancel {}) {
                let watch = Watch::new(applied.change, applied.epoch);
                let watch = match plan.and_then(|p| p.result.ok()) {
                    Some(plan) => watch.planned(&plan),
                    None => watch,
                };
                begin(app, watch, true);
            }
            follow(app);
            Vec::new()
        }
        Err(failure) => refused(app, asked.order, &failure),
    }
}

fn planned(app: &mut App, change: Change, result: Result<PlanResponse, String>) {
    // a plan that was made again says so until somebody leaves it
    let before = app.procedures.change.plan.as_ref();
    let before = before.filter(|p| p.change == change).map(|p| &p.result);
    let note = match (before, &result) {
        (Some(Ok(old)), Ok(new)) if old.base_epoch != new.base_epoch => Some(format!(
            "the ring moved on from epoch {} to {}: planned anew",
            old.base_epoch, new.base_epoch
        )),
        _ => None,
    };
    app.procedures.change.plan = Some(Planned {
        change,
        result,
        received_ms: app.now_ms,
        note,
        in_doubt: false,
    });
}

fn refused(app: &mut App, order: ChangeOrder, failure: &DataFailure) -> Vec<Effect> {
    match order {
        ChangeOrder::Plan(change) => {
            planned(app, change, Err(failure.message.clone()));
            Vec::new()
        }
        ChangeOrder::Apply { change, .. } if failure.code == Some(ErrorCode::Conflict) => {
            let why = failure.message.trim_end_matches('.');
            app.notify(Tone::Warning, format!("{why}; planning anew"));
            ask(app, ChangeOrder::Plan(change))
        }
        ChangeOrder::Apply { .. } => {
            if failure.left == Left::Nothing {
                app.notify(Tone::Error, format!("not applied: {}", failure.message));
                return Vec::new();
            }
            let look = format!("look at the ring ({}) first", ScreenId::Ring.key());
            if let Some(plan) = &mut app.procedures.change.plan {
                plan.in_doubt = true;
                plan.note = Some(format!("{look}: {}", failure.message));
            }
            // the notice is cut at the width of the screen: what to do comes first
            let text = format!("not known whether it began: {look}; {}", failure.message);
            app.notify(Tone::Warning, text);
            Vec::new()
        }
    }
}

fn begin(app: &mut App, watch: Watch, ours: bool) {
    // seen before the answer came: what was noted of it stays
    if let Some(run) = &mut app.procedures.change.run
        && run.is_running()
        && run.watch.change() == watch.change()
    {
        run.ours |= ours;
        return;
    }
    let step = |title: &str| StepView {
        title: title.to_owned(),
        state: StepState::Pending,
        detail: String::new(),
        elapsed_ms: 0,
    };
    let mut steps: Vec<StepView> = ["decided", "fill", "read both", "settled"].map(step).into();
    steps[DECIDED].state = StepState::Done;
    steps[DECIDED].detail = format!("epoch {}, by a majority of the voters", watch.epoch());
    app.procedures.change.run = Some(Run {
        watch,
        ours,
        started: app.utc,
        step_ms: app.now_ms,
        steps,
        outcome: None,
        ended: None,
    });
}

/// After everything that arrives: how far the change has come, and whether there is one that
/// somebody else began.
pub(crate) fn follow(app: &mut App) {
    let Some(ring) = app.cluster.ring.as_ref().map(|r| &r.value) else {
        return;
    };
    if let Some(transition) = &ring.transition
        && !app.procedures.change.is_running()
        // a node that is behind still shows what has ended
        && app.procedures.change.run.as_ref().is_none_or(|r| r.ended < Some(ring.epoch))
    {
        // it is told as begun by the epoch in which it is met first
        let watch = Watch::new(change::seen(transition), ring.epoch);
        begin(app, watch, false);
    }
    let Some(ring) = app.cluster.ring.as_ref().map(|r| &r.value) else {
        return;
    };
    let (now_ms, epoch) = (app.now_ms, ring.epoch);
    let Some(run) = app
        .procedures
        .change
        .run
        .as_mut()
        .filter(|r| r.is_running())
    else {
        return;
    };
    match run.watch.look(ring) {
        Standing::Unheard => {}
        Standing::Moving { step, moving } => run.moves(step, moving, now_ms),
        Standing::Done => {
            run.ended = Some(epoch);
            run.reach(SETTLED, now_ms);
            run.end(
                StepState::Done,
                format!("epoch {epoch}, only the new table"),
                now_ms,
            );
            let text = format!("done: {}", change::words(run.change()));
            run.outcome = Some(Ok(text.clone()));
            app.notify(Tone::Info, text);
        }
        Standing::GivenUp => {
            run.ended = Some(epoch);
            run.end(
                StepState::Failed,
                format!("given up at epoch {epoch}"),
                now_ms,
            );
            let aborted = app.cluster.events.iter().rev();
            let mut aborted = aborted.filter(|e| e.code == EventCode::RingChangeAborted);
            let since = run.started;
            let told = aborted.find(|e| e.time >= since).map(|e| e.message.clone());
            let told = told.unwrap_or_else(|| "the ring is as it was".to_owned());
            let text = format!("given up: {}", change::words(run.change()));
            run.outcome = Some(Err(format!("{text}; {told}")));
            app.notify(Tone::Error, text);
        }
    }
}

impl Run {
    fn moves(&mut self, step: Step, moving: usize, now_ms: u64) {
        let (at, detail) = match step {
            Step::Filling => (
                FILL,
                format!("{moving} partitions: writes go to old and new, the new are filled"),
            ),
            Step::Dual => (
                BOTH,
                format!("{moving} partitions: reads ask a quorum of old and of new"),
            ),
        };
        self.reach(at, now_ms);
        self.steps[at].detail = detail;
        self.steps[at].elapsed_ms = now_ms.saturating_sub(self.step_ms);
    }

    /// Steps before `at` are done, also those that passed between two looks.
    fn reach(&mut self, at: usize, now_ms: u64) {
        if self.steps[at].state != StepState::Pending {
            return;
        }
        let elapsed = now_ms.saturating_sub(self.step_ms);
        for step in &mut self.steps[..at] {
            if step.state == StepState::Running {
                step.elapsed_ms = elapsed;
            }
            step.state = StepState::Done;
        }
        self.steps[at].state = StepState::Running;
        self.step_ms = now_ms;
    }

    /// Ends the step that runs, or that would have been next.
    fn end(&mut self, state: StepState, detail: String, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.step_ms);
        let mut steps = self.steps.iter_mut();
        if let Some(step) = steps.find(|s| s.state != StepState::Done) {
            step.state = state;
            step.detail = detail;
            step.elapsed_ms = elapsed_ms;
        }
    }

    /// The step under way takes longer with each second.
    pub(super) fn tick(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.step_ms);
        let mut steps = self.steps.iter_mut();
        if let Some(step) = steps.find(|s| s.state == StepState::Running) {
            step.elapsed_ms = elapsed_ms;
        }
    }
}

#[cfg(test)]
mod tests;
