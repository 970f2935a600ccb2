//! What the network tasks of the link report to its driver: what arrived, and by which try.

use ringmaster_shared::{api::ring::RingResponse, event::Event, feed::Frame};

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
        result: Result<Report, String>,
    },
    /// A node was asked directly; `events` is what it reported since, and where to go on.
    Asked {
        report: Box<NodeReport>,
        events: Option<(Vec<Event>, u64)>,
    },
    Observed(Report),
    /// The ring with its table, if it could be fetched.
    Table(Option<Box<RingResponse>>),
}
