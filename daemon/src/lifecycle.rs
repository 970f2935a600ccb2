//! Where the node is between birth and end, and who may change it.
//!
//! [`LifecycleHandle`] is what everybody reads. It is written only by [`Control`], which derives
//! it from the facts by one pure rule ([`facts::decide`]). Replacing the process, standby and
//! the orders of operators live in the folder of this name.

mod control;
mod exec;
pub mod facts;
pub mod leash;
pub mod orders;
pub mod signals;
mod standby;

use std::sync::Arc;

use ringmaster_shared::{id::NodeId, member::Lifecycle};
use tokio::sync::watch;

pub use control::Control;
pub use exec::Program;
pub use standby::Ticket;

/// Cheap handle; the current lifecycle and what the node waits for.
#[derive(Clone)]
pub struct LifecycleHandle {
    state: Arc<watch::Sender<LifecycleState>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleState {
    pub lifecycle: Lifecycle,
    /// What the node waits for while it is not serving; while it drains, why it does.
    pub waiting_for: Option<String>,
}

impl LifecycleState {
    /// `node-1 is joining, waiting for a seed`; no full stop.
    pub fn sentence(&self, node: &NodeId) -> String {
        let state = self.lifecycle.as_str();
        match &self.waiting_for {
            None => format!("{node} is {state}"),
            Some(why) if self.lifecycle == Lifecycle::Draining => {
                format!("{node} is {state}: {why}")
            }
            Some(wait) => format!("{node} is {state}, waiting for {wait}"),
        }
    }
}

impl LifecycleHandle {
    pub fn new(lifecycle: Lifecycle) -> Self {
        let (state, _) = watch::channel(LifecycleState {
            lifecycle,
            waiting_for: None,
        });
        Self {
            state: Arc::new(state),
        }
    }

    pub fn get(&self) -> Lifecycle {
        self.state.borrow().lifecycle
    }

    pub fn state(&self) -> LifecycleState {
        self.state.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<LifecycleState> {
        self.state.subscribe()
    }

    /// Wakes watchers only when something changed.
    pub fn set(&self, lifecycle: Lifecycle, waiting_for: Option<String>) {
        let next = LifecycleState {
            lifecycle,
            waiting_for,
        };
        self.state.send_if_modified(|state| {
            let changed = *state != next;
            *state = next;
            changed
        });
    }
}
