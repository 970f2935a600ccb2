//! What makes a running node change course: orders of operators, signals, fatal findings.

use tokio::sync::mpsc;

use super::Ticket;
use crate::cli::Failure;

/// Orders that may wait; more are refused, since each ends or restarts the node anyway.
const QUEUE: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Stop for good.
    Stop { why: String },
    /// Replace the process image and start as before, or to adopt the cluster of these seeds.
    Restart {
        why: String,
        adopt: Option<Vec<String>>,
    },
    /// Replace the process image and hold; in standby: hold on.
    Standby(Ticket),
    /// Leave standby. `None`: the configured seeds.
    Start { seeds: Option<Vec<String>> },
    /// Something that this node cannot go on with.
    Fail(Failure),
}

pub type OrderSender = mpsc::Sender<Order>;
pub type OrderReceiver = mpsc::Receiver<Order>;

pub fn channel() -> (OrderSender, OrderReceiver) {
    mpsc::channel(QUEUE)
}
