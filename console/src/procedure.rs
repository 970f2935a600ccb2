//! Restart procedures: a plan that can be previewed, gates that decide, a runner that acts.
//!
//! [`clean`] and [`rolling`] are pure: from what the nodes answered they make the plan and judge
//! each gate. [`survey`] asks, [`runner`] gives the orders and waits. A gate that is not met is a
//! sentence that says who is waited for; a cancelled or failed procedure leaves nodes that come
//! back by themselves, because a standby ends when its hold time is over.

pub mod clean;
pub mod rolling;
pub mod runner;
pub mod survey;

/// How a gate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Go on; what was seen.
    Met(String),
    /// Not yet, and for whom or what.
    Waiting(String),
}

/// Why a procedure does not start, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);
