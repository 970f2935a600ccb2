//! A clean restart carried out: all to standby, gossip state cleared, started again one by one; and
//! the way back when it ends early.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use ringmaster_shared::{
    api::{
        admin::{ClearGossipResponse, OrderResponse, StandbyOrder, StartOrder},
        health::StatusResponse,
    },
    id::{Generation, NodeId},
    member::Lifecycle,
};

use super::{HOLD, HOLD_SECONDS, POLL, Runner, Stop};
use crate::{
    client::{Client, ClientError, Left},
    format::said_by,
    procedure::{
        Gate,
        clean::{self, gates},
        is_at_work,
        patience::{Holds, Patience},
        survey::{Survey, doing, members, statuses},
    },
    progress::{StepState, Target},
};

impl Runner {
    pub(super) async fn clean(&mut self, endpoints: &[String]) -> Result<String, Stop> {
        let began = Instant::now();
        let survey = Survey::take(&self.client, endpoints).await?;
        let plan = clean::plan(&survey).map_err(|r| Stop::Failed(r.0))?;
        self.lay_out_clean(&plan);
        self.record.open(0);
        self.record.close(
            StepState::Done,
            format!(
                "{} of {} answer, epoch {}",
                plan.order.len(),
                plan.order.len(),
                plan.epoch
            ),
        );
        let result = self.clean_steps(&plan).await;
        if let Err(stop) = &result {
            // at once: what follows takes its time
            self.record.close(StepState::Failed, stop.sentence());
            self.let_all_start(&survey).await;
        }
        result?;
        Ok(format!(
            "clean restart done in {:.1} s",
            began.elapsed().as_secs_f64()
        ))
    }

    fn lay_out_clean(&mut self, plan: &clean::Plan) {
        let mut titles = vec![
            "preflight".to_owned(),
            "stop all".into(),
            "clear gossip".into(),
        ];
        titles.push(format!("bootstrap {}", plan.bootstrap().id));
        titles.extend(plan.order.iter().skip(1).map(|t| format!("start {}", t.id)));
        titles.push("verify".into());
        let nodes = plan.order.iter().map(|t| t.id.clone()).collect();
        self.record.lay_out(nodes, titles);
    }

    async fn clean_steps(&mut self, plan: &clean::Plan) -> Result<(), Stop> {
        let client = self.client.clone();
        self.record.open(1);
        let order = standby();
        self.holds = Holds::new(self.began.elapsed(), HOLD);
        for target in &plan.order {
            self.check_cancel()?;
            // before it answers: an answer that is lost does not mean that it was not heard
            self.sent.insert(target.id.clone());
            self.record.writes_are_refused();
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
                    gates::barrier(&plain(statuses(&client, &plan.order).await))
                })
                .await?;
        }
        let standing = plain(statuses(&client, &plan.order).await);
        if let Some(why) = gates::forgot(plan, &standing) {
            return Err(Stop::Failed(why));
        }
        self.record
            .close(StepState::Done, format!("{detail}, proven twice"));

        self.record.open(2);
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
        self.record
            .close(StepState::Done, format!("{} of {0}", plan.order.len()));

        self.start_in_order(plan).await?;

        self.record.open(plan.order.len() + 3);
        let detail = self
            .gate(&[], || async {
                gates::verified(plan, &plain(statuses(&client, &plan.order).await))
            })
            .await?;
        for target in &plan.order {
            self.pass_canary(target).await?;
        }
        self.remove_canary().await;
        self.record.close(
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
            self.record.open(n + 3);
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
                self.gate(held, || async { gates::bootstrapped(plan, &own().await) })
                    .await?
            } else {
                let ids: Vec<NodeId> = started.iter().map(|t| t.id.clone()).collect();
                self.gate(held, || async {
                    match gates::started(&target.id, &own().await) {
                        Gate::Met(_) => {
                            gates::agreed(&ids, &plain(members(&client, &started).await))
                        }
                        not_yet => not_yet,
                    }
                })
                .await?
            };
            self.watch_writes(&started).await;
            self.record.close(StepState::Done, detail);
        }
        Ok(())
    }

    /// Those that wait in standby hold on, when it is time for that: a large cluster, or one node
    /// that takes long, takes longer than one hold. Who is still on its way down is left alone.
    pub(super) async fn renew_holds(&mut self, waiting: &[Target]) {
        if waiting.is_empty() || !self.holds.due(self.began.elapsed()) {
            return;
        }
        let order = standby();
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
            self.record.log(&line);
        }
    }

    /// Ends the clock of refused writes as soon as one passes.
    async fn watch_writes(&mut self, started: &[Target]) {
        if !self.record.are_writes_refused() {
            return;
        }
        for target in started {
            if self.canary.write(&self.client, target).await.is_ok() {
                self.record.writes_pass();
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
            let others = before.targets.iter().filter(|t| *t != target);
            let others = others.map(|t| t.address.clone()).collect();
            let line = start_from_memory(&client, target, old, others);
            async move { (&target.id, line.await) }
        });
        let mut told: FuturesUnordered<_> = told.collect();
        let mut open = self.sent.clone();
        if open.is_empty() {
            self.record.writes_never_refused();
            self.record
                .log("nobody was sent to standby: all go on as they were");
            return;
        }
        self.record
            .log("telling every node in standby to start from what it remembers");
        loop {
            let names: Vec<&str> = open.iter().map(NodeId::as_str).collect();
            let names = names.join(", ");
            self.record
                .waits_for(format!("{names} to stand by, and to be told to start"));
            let Some((id, line)) = told.next().await else {
                break;
            };
            open.remove(id);
            self.record.log(&line);
        }
        self.record.met();
    }
}

fn standby() -> StandbyOrder {
    StandbyOrder {
        hold_seconds: Some(HOLD_SECONDS),
        reason: Some("clean restart".to_owned()),
    }
}

/// Tells one node to start. It may still be on its way down, where it refuses and would hold
/// afterwards: so it is asked until it stands by, or lives a life after `old` already. One that
/// remembers no cluster goes through the others, so that it does not found one of its own.
async fn start_from_memory(
    client: &Client,
    target: &Target,
    old: Generation,
    others: Vec<String>,
) -> String {
    let began = Instant::now();
    let mut patience = Patience::new(Duration::ZERO);
    let id = &target.id;
    loop {
        let status = client.get(&target.address, "/api/v1/status").await;
        let status = status.map(|s: StatusResponse| (s.node.lifecycle, s.node.generation, s));
        let seen = status.as_ref().ok().map(|(lifecycle, ..)| *lifecycle);
        let gate = match status {
            Ok((Lifecycle::Standby, _, status)) => {
                let forgot = status.cluster.cluster_id.is_empty();
                let seeds = forgot.then(|| others.clone());
                let order = StartOrder { seeds };
                let path = "/api/v1/admin/start";
                let answer = client.post(&target.address, path, &order).await;
                match answer.map(|a: OrderResponse| a.message) {
                    Ok(message) => return said_by(id, &message),
                    Err(e) => Gate::Waiting(e.to_string()),
                }
            }
            Ok((lifecycle, generation, _)) if generation > old => {
                return format!("{id}: is {} again", lifecycle.as_str());
            }
            Ok((_, _, status)) => {
                Gate::by(is_at_work(&status), format!("still {}", doing(&status)))
            }
            Err(e) => Gate::Waiting(e.to_string()),
        };
        if let Some(why) = patience.ends(&gate, began.elapsed()) {
            return format!("{id}: {why}; {}", left_to_itself(seen));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What becomes of one that could not be told to start.
pub(super) fn left_to_itself(seen: Option<Lifecycle>) -> String {
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
