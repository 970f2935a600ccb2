//! What the screens know of a restart procedure: its preview, and how far it has come.
//!
//! Plain values. The runner fills them, the procedures screen draws them, and neither knows the
//! other.

use jiff::Timestamp;
use ringmaster_shared::id::NodeId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProcedureKind {
    /// All nodes to standby, gossip state cleared, started again from one bootstrap node.
    CleanRestart,
    /// One node at a time, only while every partition keeps its quorum.
    RollingRestart,
}

impl ProcedureKind {
    pub const ALL: [Self; 2] = [Self::CleanRestart, Self::RollingRestart];

    pub fn title(self) -> &'static str {
        match self {
            Self::CleanRestart => "Clean restart",
            Self::RollingRestart => "Rolling restart",
        }
    }
}

/// What a procedure would do now, before anyone confirms it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    pub kind: ProcedureKind,
    /// In the order in which they are handled.
    pub nodes: Vec<NodeId>,
    /// One sentence a step.
    pub steps: Vec<String>,
    /// What clients will notice, one sentence each.
    pub effects: Vec<String>,
    /// Why it must not start now; empty when it may.
    pub blocked: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    Pending,
    Running,
    /// A gate is not met yet; `Progress::waiting_for` says which.
    Waiting,
    Done,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepView {
    pub title: String,
    pub state: StepState,
    pub detail: String,
    pub elapsed_ms: u64,
}

/// How far a procedure has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub kind: ProcedureKind,
    pub nodes: Vec<NodeId>,
    pub started_utc: Timestamp,
    pub steps: Vec<StepView>,
    /// The gate that is not met, in a sentence.
    pub waiting_for: Option<String>,
    /// For how long clients were refused writes, in total.
    pub writes_refused_ms: u64,
    /// What came of it, in a sentence; absent while it runs.
    pub outcome: Option<Result<String, String>>,
    /// Oldest first; bounded by the runner, which drops the oldest.
    pub log: Vec<String>,
    /// How many were dropped.
    pub log_dropped: usize,
}

impl Progress {
    pub fn is_running(&self) -> bool {
        self.outcome.is_none()
    }
}

/// A node of a procedure, as it was when the plan was confirmed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub id: NodeId,
    /// `host:port`
    pub address: String,
}

/// What the screen asks of the runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcedureCommand {
    /// With the nodes of the plan that was confirmed, in its order.
    Start(ProcedureKind, Vec<Target>),
    /// Stop at the next safe point and bring the nodes back.
    Cancel,
}
