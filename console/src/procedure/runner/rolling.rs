//! A rolling restart carried out: one node after the other, each only when its gate lets it go, and
//! the next only when it is back.

use std::time::Instant;

use ringmaster_shared::api::{admin::RestartOrder, health::StatusResponse};

use super::{Runner, Stop};
use crate::{
    procedure::{Gate, rolling, survey::Survey},
    progress::{StepState, Target},
};

impl Runner {
    pub(super) async fn rolling(&mut self, endpoints: &[String]) -> Result<String, Stop> {
        let began = Instant::now();
        let survey = Survey::take(&self.client, endpoints).await?;
        let plan = rolling::plan(&survey).map_err(|r| Stop::Failed(r.0))?;
        let mut titles = vec!["preflight".to_owned()];
        titles.extend(plan.order.iter().map(|t| format!("restart {}", t.id)));
        let nodes = plan.order.iter().map(|t| t.id.clone()).collect();
        self.record.lay_out(nodes, titles);
        self.record.open(0);
        self.record.close(
            StepState::Done,
            format!("{} nodes answer and agree", plan.order.len()),
        );
        let everyone: Vec<String> = plan.order.iter().map(|t| t.address.clone()).collect();
        for (n, target) in plan.order.iter().enumerate() {
            self.record.open(n + 1);
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
        self.pass_canary(target).await?;
        self.record
            .close(StepState::Done, format!("{detail}, canary passed"));
        Ok(())
    }
}
