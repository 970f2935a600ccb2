//! Carries a procedure out: gives the orders, waits at the gates, reports each change.
//!
//! Every wait has a deadline and can be cancelled. When something fails or is cancelled after
//! nodes were sent to standby, each of them is told to start from what it remembers as soon as it
//! stands by; those that do not hear it start by themselves when their hold time ends.

use std::{
    collections::BTreeSet,
    future::Future,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use jiff::Timestamp;
use ringmaster_shared::{
    api::{
        admin::{ClearGossipResponse, OrderResponse, RestartOrder, StandbyOrder, StartOrder},
        data::{DeleteRequest, PutRequest, ReadResponse, WriteResponse},
        health::StatusResponse,
    },
    id::{Generation, NodeId},
    member::Lifecycle,
};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::{
    Gate, clean, is_at_work,
    patience::{Holds, Patience},
    rolling,
    survey::{Survey, doing, members, statuses},
};
use crate::{
    client::{Client, ClientError, Left, data_path},
    progress::{ProcedureKind, Progress, StepState, StepView, Target},
};

/// How often a gate is asked again.
const POLL: Duration = Duration::from_millis(100);
/// How long nodes hold the standby without hearing from us.
pub const HOLD_SECONDS: u64 = 120;
const HOLD: Duration = Duration::from_secs(HOLD_SECONDS);
/// Lines kept of one run; a run writes a few per node.
const LOG_LINES_MAX: usize = 1000;
/// The key that proves that writes and reads pass; deleted at the end.
const CANARY: &str = "ringmaster:canary";
/// Nodes that are asked to delete it.
const CANARY_ATTEMPTS: usize = 3;

/// Why a procedure ended early.
enum Stop {
    Cancelled,
    Failed(String),
}

impl Stop {
    fn sentence(&self) -> String {
        match self {
            Self::Cancelled => "cancelled by the operator".to_owned(),
            Self::Failed(why) => why.clone(),
        }
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Where progress goes, and how it is cancelled.
pub struct Wires {
    /// The newest progress; slow readers skip.
    pub progress: mpsc::Sender<Progress>,
    /// Becomes true to cancel.
    pub cancel: watch::Receiver<bool>,
}

/// One run of a procedure.
pub struct Runner {
    client: Client,
    wires: Wires,
    progress: Progress,
    /// What the times of patience are counted from.
    began: Instant,
    holds: Holds,
    step_started: Instant,
    refused_since: Option<Instant>,
    /// Who was told to stand by, and may have heard it.
    sent: BTreeSet<NodeId>,
    /// Through whom the canary was written and not removed since.
    canary_at: BTreeSet<Target>,
}

impl Runner {
    pub fn new(client: Client, kind: ProcedureKind, wires: Wires) -> Self {
        let progress = Progress {
            kind,
            nodes: Vec::new(),
            started_utc: Timestamp::now(),
            steps: Vec::new(),
            waiting_for: None,
            writes_refused_ms: 0,
            outcome: None,
            log: Vec::new(),
        };
        let step_started = Instant::now();
        Self {
            client,
            wires,
            progress,
            began: step_started,
            holds: Holds::new(Duration::ZERO, HOLD),
            step_started,
            refused_since: None,
            sent: BTreeSet::new(),
            canary_at: BTreeSet::new(),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Runs to the end; the returned progress carries the outcome.
    pub async fn run(mut self, endpoints: &[String]) -> Progress {
        let result = match self.progress.kind {
            ProcedureKind::CleanRestart => self.clean(endpoints).await,
            ProcedureKind::RollingRestart => self.rolling(endpoints).await,
        };
        self.end(result).await
    }

    async fn end(mut self, result: Result<String, Stop>) -> Progress {
        let outcome = result.map_err(|stop| stop.sentence());
        if let Err(why) = &outcome {
            self.close_step(StepState::Failed, why.clone());
        }
        self.remove_canary().await;
        self.progress.waiting_for = None;
        self.progress.outcome = Some(outcome);
        // the last report must arrive
        let _ = self.wires.progress.send(self.progress.clone()).await;
        self.progress
    }

    // ---- clean restart ------------------------------------------------------------------

    async fn clean(&mut self, endpoints: &[String]) -> Result<String, Stop> {
        let began = Instant::now();
        let survey = Survey::take(&self.client, endpoints).await?;
        let plan = clean::plan(&survey).map_err(|r| Stop::Failed(r.0))?;
        self.lay_out_clean(&plan);
        self.open_step(0);
        self.close_step(
            StepState::Done,
            format!(
                "{} of {} answer, epoch {}",
                plan.order.len(),
                plan.order.len(),
                plan.epoch
            ),
        );
        self.refused_since = Some(Instant::now());
        let result = self.clean_steps(&plan).await;
        if let Err(stop) = &result {
            // at once: what follows takes its time
            self.close_step(StepState::Failed, stop.sentence());
            self.let_all_start(&survey).await;
        }
        result?;
        Ok(format!(
            "clean restart done in {:.1} s",
            began.elapsed().as_secs_f64()
        ))
    }

    fn lay_out_clean(&mut self, plan: &clean::Plan) {
        self.progress.nodes = plan.order.iter().map(|t| t.id.clone()).collect();
        let mut titles = vec![
            "preflight".to_owned(),
            "stop all".into(),
            "clear gossip".into(),
        ];
        titles.push(format!("bootstrap {}", plan.bootstrap().id));
        titles.extend(plan.order.iter().skip(1).map(|t| format!("start {}", t.id)));
        titles.push("verify".into());
        self.lay_out(titles);
    }

    async fn clean_steps(&mut self, plan: &clean::Plan) -> Result<(), Stop> {
        let client = self.client.clone();
        self.open_step(1);
        let order = StandbyOrder {
            hold_seconds: Some(HOLD_SECONDS),
            reason: Some("clean restart".to_owned()),
        };
        self.holds = Holds::new(self.began.elapsed(), HOLD);
        for target in &plan.order {
            self.check_cancel()?;
            // before it answers: an answer that is lost does not mean that it was not heard
            self.sent.insert(target.id.clone());
            if let Err(error) = self.tell(target, "/api/v1/admin/standby", &order).await {
                if error.leaves() == Left::Nothing {
                    self.sent.remove(&target.id);
                }
                return Err(error.into());
            }
        }
        // proven twice, so that one that was just passing through is not mistaken
        let mut detail = String::new();
        for _ in 0..2 {
            detail = self
                .gate(&plan.order, || async {
                    clean::barrier(&plain(statuses(&client, &plan.order).await))
                })
                .await?;
        }
        self.close_step(StepState::Done, format!("{detail}, proven twice"));

        self.open_step(2);
        for target in &plan.order {
            let _: ClearGossipResponse = self
                .client
                .post(
                    &target.address,
                    "/api/v1/admin/clear-gossip",
                    &serde_json::json!({}),
                )
                .await?;
        }
        self.close_step(StepState::Done, format!("{} of {0}", plan.order.len()));

        self.start_in_order(plan).await?;

        self.open_step(plan.order.len() + 3);
        let detail = self
            .gate(&[], || async {
                clean::verified(plan, &plain(statuses(&client, &plan.order).await))
            })
            .await?;
        for target in &plan.order {
            self.canary(target).await?;
        }
        self.remove_canary().await;
        self.close_step(
            StepState::Done,
            format!("{detail}, canary through every node"),
        );
        Ok(())
    }

    async fn start_in_order(&mut self, plan: &clean::Plan) -> Result<(), Stop> {
        let client = self.client.clone();
        let bootstrap = plan.bootstrap();
        let mut started: Vec<Target> = Vec::new();
        for (n, target) in plan.order.iter().enumerate() {
            self.open_step(n + 3);
            self.renew_holds(&plan.order[n..]).await;
            let seeds = if n == 0 {
                Vec::new()
            } else {
                vec![bootstrap.address.clone()]
            };
            self.order(
                target,
                "/api/v1/admin/start",
                &StartOrder { seeds: Some(seeds) },
            )
            .await?;
            started.push(target.clone());
            let held = &plan.order[n + 1..];
            let own = || async {
                let status = statuses(&client, std::slice::from_ref(target)).await;
                let own = plain(status).into_iter().next().map(|(_, s)| s);
                own.unwrap_or_else(|| Err("no answer".into()))
            };
            let detail = if n == 0 {
                self.gate(held, || async { clean::bootstrapped(plan, &own().await) })
                    .await?
            } else {
                let ids: Vec<NodeId> = started.iter().map(|t| t.id.clone()).collect();
                self.gate(held, || async {
                    match clean::started(&target.id, &own().await) {
                        Gate::Met(_) => {
                            clean::agreed(&ids, &plain(members(&client, &started).await))
                        }
                        not_yet => not_yet,
                    }
                })
                .await?
            };
            self.watch_writes(&started).await;
            self.close_step(StepState::Done, detail);
        }
        Ok(())
    }

    /// Those that wait in standby hold on, when it is time for that: a large cluster, or one node
    /// that takes long, takes longer than one hold. Who is still on its way down is left alone.
    async fn renew_holds(&mut self, waiting: &[Target]) {
        if waiting.is_empty() || !self.holds.due(self.began.elapsed()) {
            return;
        }
        let order = StandbyOrder {
            hold_seconds: Some(HOLD_SECONDS),
            reason: Some("clean restart".to_owned()),
        };
        let renewed = statuses(&self.client, waiting).await.into_iter();
        let held = renewed.filter_map(|(target, status)| {
            (status.ok()?.node.lifecycle == Lifecycle::Standby).then_some(target)
        });
        let held: Vec<Target> = held.collect();
        let failed = join_all(held.iter().map(|target| async {
            let path = "/api/v1/admin/standby";
            let answer: Result<OrderResponse, _> =
                self.client.post(&target.address, path, &order).await;
            let why = answer.err()?;
            Some(format!("{}: its hold was not renewed: {why}", target.id))
        }));
        for line in failed.await.into_iter().flatten() {
            self.log(&line);
        }
    }

    /// Ends the clock of refused writes as soon as one passes.
    async fn watch_writes(&mut self, started: &[Target]) {
        let Some(since) = self.refused_since else {
            return;
        };
        for target in started {
            if self.put_canary(target).await.is_ok() {
                self.progress.writes_refused_ms = since.elapsed().as_millis() as u64;
                self.refused_since = None;
                return;
            }
        }
    }

    /// The way back for everyone who was sent to standby, all at once. What came of each is told as
    /// soon as it is known.
    async fn let_all_start(&mut self, before: &Survey) {
        let client = self.client.clone();
        let sent = before.targets.iter().zip(&before.views);
        let sent = sent.filter(|(target, _)| self.sent.contains(&target.id));
        let told = sent.map(|(target, view)| {
            let old = view.as_ref().map_or(0, |v| v.status.node.generation);
            let line = start_from_memory(&client, target, old);
            async move { (&target.id, line.await) }
        });
        let mut told: FuturesUnordered<_> = told.collect();
        let mut open = self.sent.clone();
        if open.is_empty() {
            self.log("nobody was sent to standby: all go on as they were");
            return;
        }
        self.log("telling every node in standby to start from what it remembers");
        loop {
            let names: Vec<&str> = open.iter().map(NodeId::as_str).collect();
            let names = names.join(", ");
            self.waiting(format!("{names} to stand by, and to be told to start"));
            let Some((id, line)) = told.next().await else {
                break;
            };
            open.remove(id);
            self.log(&line);
        }
        self.progress.waiting_for = None;
    }

    // ---- rolling restart ----------------------------------------------------------------

    async fn rolling(&mut self, endpoints: &[String]) -> Result<String, Stop> {
        let began = Instant::now();
        let survey = Survey::take(&self.client, endpoints).await?;
        let plan = rolling::plan(&survey).map_err(|r| Stop::Failed(r.0))?;
        self.progress.nodes = plan.order.iter().map(|t| t.id.clone()).collect();
        let mut titles = vec!["preflight".to_owned()];
        titles.extend(plan.order.iter().map(|t| format!("restart {}", t.id)));
        self.lay_out(titles);
        self.open_step(0);
        self.close_step(
            StepState::Done,
            format!("{} nodes answer and agree", plan.order.len()),
        );
        let everyone: Vec<String> = plan.order.iter().map(|t| t.address.clone()).collect();
        for (n, target) in plan.order.iter().enumerate() {
            self.open_step(n + 1);
            self.roll(target, &everyone).await?;
        }
        self.remove_canary().await;
        Ok(format!(
            "rolling restart of {} nodes done in {:.1} s",
            plan.order.len(),
            began.elapsed().as_secs_f64()
        ))
    }

    async fn roll(&mut self, target: &Target, everyone: &[String]) -> Result<(), Stop> {
        let client = self.client.clone();
        let fresh = || async { Survey::take(&client, everyone).await };
        self.gate(&[], || async {
            match fresh().await {
                Ok(survey) => rolling::may_go(&survey, &target.id),
                Err(e) => Gate::Waiting(e.to_string()),
            }
        })
        .await?;
        let before: StatusResponse = self.client.get(&target.address, "/api/v1/status").await?;
        let order = RestartOrder {
            reason: Some("rolling restart".to_owned()),
        };
        self.order(target, "/api/v1/admin/restart", &order).await?;
        let old = before.node.generation;
        let detail = self
            .gate(&[], || async {
                match fresh().await {
                    Ok(survey) => rolling::is_back(&survey, &target.id, old),
                    Err(e) => Gate::Waiting(e.to_string()),
                }
            })
            .await?;
        self.canary(target).await?;
        self.close_step(StepState::Done, format!("{detail}, canary passed"));
        Ok(())
    }

    // ---- the pieces ---------------------------------------------------------------------

    async fn order<B: serde::Serialize>(
        &mut self,
        target: &Target,
        path: &str,
        body: &B,
    ) -> Result<(), Stop> {
        self.check_cancel()?;
        Ok(self.tell(target, path, body).await?)
    }

    async fn tell<B: serde::Serialize>(
        &mut self,
        target: &Target,
        path: &str,
        body: &B,
    ) -> Result<(), ClientError> {
        let answer: OrderResponse = self.client.post(&target.address, path, body).await?;
        self.log(&said(&target.id, &answer.message));
        Ok(())
    }

    /// Asks until the gate is met; shows what it waits for. Those of `held` that stand by hold on
    /// meanwhile.
    async fn gate<F, Fut>(&mut self, held: &[Target], ask: F) -> Result<String, Stop>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Gate>,
    {
        let mut patience = Patience::new(self.began.elapsed());
        loop {
            self.check_cancel()?;
            self.renew_holds(held).await;
            let gate = ask().await;
            if let Some(why) = patience.ends(&gate, self.began.elapsed()) {
                return Err(Stop::Failed(why));
            }
            match gate {
                Gate::Met(detail) => {
                    self.progress.waiting_for = None;
                    return Ok(detail);
                }
                Gate::Waiting(why) | Gate::Working(why) => self.waiting(why),
            }
            // a poll interval, cut short by a cancel
            let _ = tokio::time::timeout(POLL, self.wires.cancel.changed()).await;
        }
    }

    /// A write through one node, and a read through it that sees the write.
    async fn canary(&mut self, target: &Target) -> Result<(), Stop> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.check_cancel()?;
            match self.pass_canary(target).await {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() >= deadline => {
                    return Err(Stop::Failed(format!("the canary did not pass: {why}")));
                }
                Err(why) => self.waiting(format!("canary: {why}")),
            }
            let _ = tokio::time::timeout(POLL, self.wires.cancel.changed()).await;
        }
    }

    async fn pass_canary(&mut self, target: &Target) -> Result<(), String> {
        let written = self.put_canary(target).await.map_err(|e| e.to_string())?;
        let read = self.client.get(&target.address, &data_path(CANARY)).await;
        let read: ReadResponse = read.map_err(|e| e.to_string())?;
        if read.value == written {
            Ok(())
        } else {
            Err(format!(
                "{} does not read what was just written through it",
                target.id
            ))
        }
    }

    /// The value that was written.
    async fn put_canary(&mut self, target: &Target) -> Result<Value, ClientError> {
        let body = PutRequest {
            value: serde_json::json!(Timestamp::now().to_string()),
            context: None,
        };
        let answer: Result<WriteResponse, _> = self
            .client
            .call(
                reqwest::Method::PUT,
                &target.address,
                &data_path(CANARY),
                &body,
            )
            .await;
        if !matches!(&answer, Err(error) if error.leaves() == Left::Nothing) {
            self.canary_at.insert(target.clone());
        }
        answer.map(|_| body.value)
    }

    /// Once it was written it lies among the keys of others: through whom it came, it goes.
    async fn remove_canary(&mut self) {
        let mut left = None;
        for target in self.canary_at.iter().take(CANARY_ATTEMPTS) {
            let body = DeleteRequest::default();
            let answer: Result<WriteResponse, _> = self
                .client
                .call(
                    reqwest::Method::DELETE,
                    &target.address,
                    &data_path(CANARY),
                    &body,
                )
                .await;
            left = answer.err();
            if left.is_none() {
                break;
            }
        }
        self.canary_at.clear();
        if let Some(why) = left {
            self.log(&format!(
                "the canary key {CANARY} was left behind: {why}; `ringmaster del {CANARY}` removes it"
            ));
        }
    }

    fn check_cancel(&self) -> Result<(), Stop> {
        if *self.wires.cancel.borrow() {
            Err(Stop::Cancelled)
        } else {
            Ok(())
        }
    }

    // ---- progress -----------------------------------------------------------------------

    fn lay_out(&mut self, titles: Vec<String>) {
        self.progress.steps = titles
            .into_iter()
            .map(|title| StepView {
                title,
                state: StepState::Pending,
                detail: String::new(),
                elapsed_ms: 0,
            })
            .collect();
        self.report();
    }

    fn open_step(&mut self, n: usize) {
        self.step_started = Instant::now();
        if let Some(step) = self.progress.steps.get_mut(n) {
            step.state = StepState::Running;
        }
        self.report();
    }

    /// Ends the step that is open.
    fn close_step(&mut self, state: StepState, detail: String) {
        let elapsed_ms = self.step_started.elapsed().as_millis() as u64;
        let open = self
            .progress
            .steps
            .iter_mut()
            .find(|s| matches!(s.state, StepState::Running | StepState::Waiting));
        if let Some(step) = open {
            *step = StepView {
                title: step.title.clone(),
                state,
                detail,
                elapsed_ms,
            };
        }
        self.report();
    }

    fn waiting(&mut self, why: String) {
        let elapsed_ms = self.step_started.elapsed().as_millis() as u64;
        let open = self
            .progress
            .steps
            .iter_mut()
            .find(|s| matches!(s.state, StepState::Running | StepState::Waiting));
        if let Some(step) = open {
            step.state = StepState::Waiting;
            step.elapsed_ms = elapsed_ms;
            step.detail.clone_from(&why);
        }
        self.progress.waiting_for = Some(why);
        self.report();
    }

    fn log(&mut self, line: &str) {
        if self.progress.log.len() < LOG_LINES_MAX {
            self.progress.log.push(line.to_owned());
        }
        self.report();
    }

    fn report(&mut self) {
        if let Some(since) = self.refused_since {
            self.progress.writes_refused_ms = since.elapsed().as_millis() as u64;
        }
        // a full channel means a slow reader, which gets the next one
        let _ = self.wires.progress.try_send(self.progress.clone());
    }
}

/// Tells one node to start. It may still be on its way down, where it refuses and would hold
/// afterwards: so it is asked until it stands by, or lives a life after `old` already.
async fn start_from_memory(client: &Client, target: &Target, old: Generation) -> String {
    let began = Instant::now();
    let mut patience = Patience::new(Duration::ZERO);
    let id = &target.id;
    loop {
        let status = client.get(&target.address, "/api/v1/status").await;
        let status = status.map(|s: StatusResponse| (s.node.lifecycle, s.node.generation, s));
        let seen = status.as_ref().ok().map(|(lifecycle, ..)| *lifecycle);
        let gate = match status {
            Ok((Lifecycle::Standby, ..)) => {
                let order = StartOrder { seeds: None };
                let path = "/api/v1/admin/start";
                let answer = client.post(&target.address, path, &order).await;
                match answer.map(|a: OrderResponse| a.message) {
                    Ok(message) => return said(id, &message),
                    Err(e) => Gate::Waiting(e.to_string()),
                }
            }
            Ok((lifecycle, generation, _)) if generation > old => {
                return format!("{id}: is {} again", lifecycle.as_str());
            }
            Ok((lifecycle, _, status)) => {
                Gate::by(is_at_work(lifecycle), format!("still {}", doing(&status)))
            }
            Err(e) => Gate::Waiting(e.to_string()),
        };
        if let Some(why) = patience.ends(&gate, began.elapsed()) {
            return format!("{id}: {why}; {}", left_to_itself(seen));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What a node answered; most of them name themselves.
fn said(id: &NodeId, message: &str) -> String {
    let rest = message.strip_prefix(id.as_str());
    if rest.is_some_and(|rest| rest.starts_with(' ')) {
        message.to_owned()
    } else {
        format!("{id}: {message}")
    }
}

/// What becomes of one that could not be told to start.
fn left_to_itself(seen: Option<Lifecycle>) -> String {
    let own = format!("it starts by itself {HOLD_SECONDS} s after it stands by");
    match seen {
        Some(Lifecycle::Serving) => {
            format!("it goes on as it was; if it heard the order to stand by after all, {own}")
        }
        Some(_) => own,
        None => format!("if it runs, {own}; if not, start it"),
    }
}

/// Answers by node, errors as sentences, for the pure gates.
fn plain<T>(answers: Vec<(Target, Result<T, ClientError>)>) -> Vec<(NodeId, Result<T, String>)> {
    answers
        .into_iter()
        .map(|(t, r)| (t.id, r.map_err(|e| e.to_string())))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
