//! What the network tasks of the link report to its driver: what arrived, and by which try.

use ringmaster_shared::{
    api::ring::{ClusterResponse, RingResponse},
    event::Event,
    feed::Frame,
    id::Generation,
};

use super::TryId;
use crate::cluster::{NodeReport, Report};

/// What the network tasks report.
#[derive(Debug)]
pub(super) enum Seen {
    Frame {
        id: TryId,
        frame: Box<Frame>,
    },
    Pong {
        id: TryId,
        rtt_ms: u64,
    },
    FeedEnded {
        id: TryId,
        reason: String,
    },
    Polled {
        id: TryId,
        rtt_ms: u64,
        result: Result<Box<ClusterResponse>, String>,
    },
    /// A node was asked directly.
    Asked {
        report: Box<NodeReport>,
        events: Option<NewEvents>,
    },
    Observed(Report),
    /// The ring with its table, if it could be fetched.
    Table(Option<Box<RingResponse>>),
}

/// What a node reported since it was asked last.
#[derive(Debug)]
pub(super) struct NewEvents {
    pub(super) events: Vec<Event>,
    /// Where to go on, in this life of the node.
    pub(super) mark: (Generation, u64),
}
