//! How far a run has come, step by step, as it is told to whoever watches: each change at once, a slow
//! reader the newest only, the last one to everybody.

use std::time::Instant;

use jiff::Timestamp;
use ringmaster_shared::id::NodeId;
use tokio::sync::mpsc;

use crate::progress::{ProcedureKind, Progress, StepState, StepView};

/// Lines kept of one run; a run writes a few per node, and those of its end count most.
const LOG_LINES_MAX: usize = 1000;

/// The progress of one run, and where it goes.
pub(super) struct Record {
    progress: Progress,
    to: mpsc::Sender<Progress>,
    step_started: Instant,
    refused_since: Option<Instant>,
}

impl Record {
    pub(super) fn new(kind: ProcedureKind, to: mpsc::Sender<Progress>) -> Self {
        let progress = Progress {
            kind,
            nodes: Vec::new(),
            started_utc: Timestamp::now(),
            steps: Vec::new(),
            waiting_for: None,
            writes_refused_ms: 0,
            outcome: None,
            log: Vec::new(),
            log_dropped: 0,
        };
        Self {
            progress,
            to,
            step_started: Instant::now(),
            refused_since: None,
        }
    }

    pub(super) fn kind(&self) -> ProcedureKind {
        self.progress.kind
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The nodes in their order, and what will be done.
    pub(super) fn lay_out(&mut self, nodes: Vec<NodeId>, titles: Vec<String>) {
        self.progress.nodes = nodes;
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

    pub(super) fn open(&mut self, n: usize) {
        self.step_started = Instant::now();
        if let Some(step) = self.progress.steps.get_mut(n) {
            step.state = StepState::Running;
        }
        self.report();
    }

    /// Ends the step that is open.
    pub(super) fn close(&mut self, state: StepState, detail: String) {
        let elapsed_ms = self.step_started.elapsed().as_millis() as u64;
        if let Some(step) = self.under_way() {
            *step = StepView {
                title: step.title.clone(),
                state,
                detail,
                elapsed_ms,
            };
        }
        self.report();
    }

    fn under_way(&mut self) -> Option<&mut StepView> {
        let mut steps = self.progress.steps.iter_mut();
        steps.find(|s| matches!(s.state, StepState::Running | StepState::Waiting))
    }

    /// What the open step waits for.
    pub(super) fn waits_for(&mut self, why: String) {
        let elapsed_ms = self.step_started.elapsed().as_millis() as u64;
        if let Some(step) = self.under_way() {
            step.state = StepState::Waiting;
            step.elapsed_ms = elapsed_ms;
            step.detail.clone_from(&why);
        }
        self.progress.waiting_for = Some(why);
        self.report();
    }

    /// Nothing is waited for any more.
    pub(super) fn met(&mut self) {
        if self.progress.waiting_for.take().is_none() {
            return;
        }
        if let Some(step) = self.under_way() {
            step.state = StepState::Running;
            step.detail.clear();
        }
        self.report();
    }

    /// From now on clients are refused writes.
    pub(super) fn writes_are_refused(&mut self) {
        self.refused_since.get_or_insert_with(Instant::now);
    }

    /// Nobody was brought down after all.
    pub(super) fn writes_never_refused(&mut self) {
        self.refused_since = None;
        self.progress.writes_refused_ms = 0;
    }

    /// Whether no write is known to have passed since they were refused.
    pub(super) fn are_writes_refused(&self) -> bool {
        self.refused_since.is_some()
    }

    /// One has passed.
    pub(super) fn writes_pass(&mut self) {
        if let Some(since) = self.refused_since.take() {
            self.progress.writes_refused_ms = since.elapsed().as_millis() as u64;
        }
    }

    pub(super) fn log(&mut self, line: &str) {
        if self.progress.log.len() == LOG_LINES_MAX {
            self.progress.log.remove(0);
            self.progress.log_dropped += 1;
        }
        self.progress.log.push(line.to_owned());
        self.report();
    }

    /// The end: what came of it, and of the step that was open when it failed.
    pub(super) async fn finish(mut self, outcome: Result<String, String>) -> Progress {
        if let Err(why) = &outcome {
            self.close(StepState::Failed, why.clone());
        }
        self.progress.waiting_for = None;
        self.progress.outcome = Some(outcome);
        // the last report must arrive
        let _ = self.to.send(self.progress.clone()).await;
        self.progress
    }

    fn report(&mut self) {
        if let Some(since) = self.refused_since {
            self.progress.writes_refused_ms = since.elapsed().as_millis() as u64;
        }
        // a full channel means a slow reader, which gets the next one
        let _ = self.to.try_send(self.progress.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_many_lines_the_last_are_kept() {
        let (to, _) = mpsc::channel(8);
        let mut record = Record::new(ProcedureKind::CleanRestart, to);
        for n in 0..LOG_LINES_MAX + 2 {
            record.log(&n.to_string());
        }
        let end = record.finish(Ok("done".to_owned())).await;
        assert_eq!((end.log.len(), end.log_dropped), (LOG_LINES_MAX, 2));
        let last = (LOG_LINES_MAX + 1).to_string();
        assert_eq!(
            (end.log.first(), end.log.last()),
            (Some(&"2".to_owned()), Some(&last))
        );
    }

    #[tokio::test]
    async fn only_the_open_step_changes_and_the_end_is_told_last() {
        let (to, mut told) = mpsc::channel(8);
        let mut record = Record::new(ProcedureKind::RollingRestart, to);
        record.lay_out(Vec::new(), vec!["one".into(), "two".into()]);
        record.open(0);
        record.close(StepState::Done, "fine".into());
        record.open(1);
        record.waits_for("b is away".into());
        let end = record.finish(Err("gave up".to_owned())).await;
        let steps = |p: &Progress| -> Vec<_> {
            let steps = p.steps.iter();
            steps.map(|s| (s.state, s.detail.clone())).collect()
        };
        let done = (StepState::Done, "fine".to_owned());
        let failed = (StepState::Failed, "gave up".to_owned());
        assert_eq!(steps(&end), [done, failed]);
        assert_eq!(end.waiting_for, None);
        let mut last = None;
        while let Some(progress) = told.recv().await {
            last = Some(progress);
        }
        assert_eq!(last, Some(end));
    }
}
