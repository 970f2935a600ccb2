//! Carries a procedure out: gives the orders, waits at the gates, reports each change.
//!
//! Here is what both procedures are made of; their steps stand in `clean` and `rolling`. Every wait
//! has a deadline and can be cancelled. When something fails or is cancelled after nodes were sent
//! to standby, each of them is told to start from what it remembers as soon as it stands by; those
//! that do not hear it start by themselves when their hold time ends.

mod canary;
mod clean;
mod record;
mod rolling;

use std::{
    collections::BTreeSet,
    future::Future,
    time::{Duration, Instant},
};

use ringmaster_shared::{api::admin::OrderResponse, id::NodeId};
use tokio::sync::{mpsc, watch};

use super::{
    Gate,
    patience::{Holds, Patience},
};
use crate::{
    client::{Client, ClientError},
    format::said_by,
    progress::{ProcedureKind, Progress, StepState, Target},
};
use canary::Canary;
use record::Record;

/// How often a gate is asked again.
const POLL: Duration = Duration::from_millis(100);
/// How long nodes hold the standby without hearing from us.
pub const HOLD_SECONDS: u64 = 120;
const HOLD: Duration = Duration::from_secs(HOLD_SECONDS);

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
    /// Becomes true to cancel.
    cancel: watch::Receiver<bool>,
    record: Record,
    /// What the times of patience are counted from.
    began: Instant,
    holds: Holds,
    /// Who was told to stand by, and may have heard it.
    sent: BTreeSet<NodeId>,
    canary: Canary,
}

impl Runner {
    pub fn new(client: Client, kind: ProcedureKind, wires: Wires) -> Self {
        Self {
            client,
            cancel: wires.cancel,
            record: Record::new(kind, wires.progress),
            began: Instant::now(),
            holds: Holds::new(Duration::ZERO, HOLD),
            sent: BTreeSet::new(),
            canary: Canary::default(),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        self.record.progress()
    }

    /// Runs to the end; the returned progress carries the outcome.
    pub async fn run(mut self, endpoints: &[String]) -> Progress {
        let result = match self.record.kind() {
            ProcedureKind::CleanRestart => self.clean(endpoints).await,
            ProcedureKind::RollingRestart => self.rolling(endpoints).await,
        };
        self.end(result).await
    }

    async fn end(mut self, result: Result<String, Stop>) -> Progress {
        let outcome = result.map_err(|stop| stop.sentence());
        if let Err(why) = &outcome {
            self.record.close(StepState::Failed, why.clone());
        }
        self.remove_canary().await;
        self.record.finish(outcome).await
    }

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
        self.record.log(&said_by(&target.id, &answer.message));
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
                    self.record.met();
                    return Ok(detail);
                }
                Gate::Waiting(why) | Gate::Working(why) => self.record.waits_for(why),
            }
            // a poll interval, cut short by a cancel
            let _ = tokio::time::timeout(POLL, self.cancel.changed()).await;
        }
    }

    /// A write through one node, and a read through it that sees the write.
    async fn pass_canary(&mut self, target: &Target) -> Result<(), Stop> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.check_cancel()?;
            match self.canary.pass(&self.client, target).await {
                Ok(()) => {
                    self.record.met();
                    return Ok(());
                }
                Err(e) if Instant::now() >= deadline => {
                    return Err(Stop::Failed(format!("the canary did not pass: {e}")));
                }
                Err(e) => self.record.waits_for(format!("canary: {e}")),
            }
            let _ = tokio::time::timeout(POLL, self.cancel.changed()).await;
        }
    }

    async fn remove_canary(&mut self) {
        if let Some(why) = self.canary.remove(&self.client).await {
            let key = canary::KEY;
            self.record.log(&format!(
                "the canary key {key} was left behind: {why}; `ringmaster del {key}` removes it"
            ));
        }
    }

    fn check_cancel(&self) -> Result<(), Stop> {
        if *self.cancel.borrow() {
            Err(Stop::Cancelled)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
