//! The one writer of the lifecycle: facts in, [`LifecycleHandle`] updated.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    LifecycleHandle,
    facts::{self, Facts, Phase},
};

/// Cheap handle.
#[derive(Clone)]
pub struct Control {
    facts: Arc<Mutex<Facts>>,
    lifecycle: LifecycleHandle,
}

impl Control {
    pub fn new(phase: Phase) -> Self {
        let facts = Facts::at(phase);
        let lifecycle = LifecycleHandle::new(facts::decide(&facts).lifecycle);
        Self {
            facts: Arc::new(Mutex::new(facts)),
            lifecycle,
        }
    }

    pub fn lifecycle(&self) -> LifecycleHandle {
        self.lifecycle.clone()
    }

    pub fn facts(&self) -> Facts {
        self.facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes facts and publishes what follows, in one step.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut facts);
        let next = facts::decide(&facts);
        self.lifecycle.set(next.lifecycle, next.waiting_for);
    }
}
