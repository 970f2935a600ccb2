//! What reaches the console's state, and what it asks for in return.

use crossterm::event::KeyEvent;
use ringmaster_shared::{
    api::{
        data::{ReadResponse, ReplicasResponse, WriteResponse},
        ring::{ApplyResponse, Change, PlanResponse},
    },
    error::ErrorCode,
};
use serde_json::Value;

use crate::{
    client::Left,
    cluster::Report,
    link::LinkView,
    progress::{ProcedureCommand, Progress},
};

/// Everything that can happen to the console. Time is set on the state before each of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Msg {
    /// A key press.
    Key(KeyEvent),
    /// Text pasted into the terminal.
    Paste(String),
    /// The terminal has so many columns and rows now.
    Size(u16, u16),
    /// A second went by.
    Second,
    Link(Box<LinkView>),
    Report(Report),
    Answer(Box<DataAnswer>),
    /// What came of planning or applying a change of the ring.
    Changed(Box<ChangeAnswer>),
    Progress(Box<Progress>),
}

/// What the runtime is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Quit,
    Suspend,
    /// Try the feed again now.
    RetryNow,
    Data {
        endpoint: String,
        request: DataRequest,
    },
    /// Have a change of the ring planned or applied.
    Change {
        endpoint: String,
        id: u64,
        order: ChangeOrder,
    },
    Procedure(ProcedureCommand),
    /// Hand text to the terminal's clipboard.
    Yank(String),
}

/// One operation on data; `id` tells late answers apart.
#[derive(Debug, Clone, PartialEq)]
pub struct DataRequest {
    pub id: u64,
    pub op: DataOp,
}

#[derive(Debug, Clone, PartialEq)]
pub enum DataOp {
    Get { key: String },
    Put { key: String, value: Value },
    Delete { key: String },
}

impl DataOp {
    pub fn key(&self) -> &str {
        match self {
            Self::Get { key } | Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    pub fn verb(&self) -> &'static str {
        match self {
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::Delete { .. } => "del",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct DataAnswer {
    pub id: u64,
    pub op: DataOp,
    /// Where it was asked.
    pub endpoint: String,
    pub took_ms: u64,
    pub result: Result<DataOutcome, DataFailure>,
    /// Where each replica stands afterwards, when that could be asked.
    pub replicas: Option<ReplicasResponse>,
}

impl DataAnswer {
    /// What a write that did not succeed has left behind; absent for reads, and for what succeeded.
    pub fn leaves(&self) -> Option<Left> {
        match (&self.op, &self.result) {
            (DataOp::Put { .. } | DataOp::Delete { .. }, Err(failure)) => Some(failure.left),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum DataOutcome {
    Read(ReadResponse),
    /// A put or a delete.
    Written(WriteResponse),
}

#[derive(Debug, Clone, PartialEq)]
pub struct DataFailure {
    /// HTTP status; absent when no answer came.
    pub status: Option<u16>,
    pub code: Option<ErrorCode>,
    pub message: String,
    pub details: Value,
    /// If it was to change something.
    pub left: Left,
}

/// What is asked of the daemon about a change of the ring.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeOrder {
    /// What would it do?
    Plan(Change),
    Apply {
        change: Change,
        plan_id: String,
    },
}

impl ChangeOrder {
    pub fn into_change(self) -> Change {
        match self {
            Self::Plan(change) | Self::Apply { change, .. } => change,
        }
    }
}

/// `id` tells late answers apart.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeAnswer {
    pub id: u64,
    pub result: Result<ChangeOutcome, DataFailure>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ChangeOutcome {
    Planned(Box<PlanResponse>),
    Applied(ApplyResponse),
}
