//! Which client operations are let in: the driver around the pure [`controller`].
//!
//! What is refused gets 429 with Retry-After at once, before its body is read where its length is
//! known. Operators see it as an event (at most one a minute, with counts), a problem while it
//! lasts, and metrics.

mod controller;
#[cfg(test)]
mod places;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ringmaster_shared::event::{EventCode, Severity};
use serde_json::json;

pub use self::controller::{Bounds, Load};
use self::controller::{Controller, Cost, Refusal};
use super::{Answer, body::busy};
use crate::{breaks::broken, events::Events};

/// An event is written at most this often.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// The node counts as overloaded for so long after a refusal.
const RECENT: Duration = Duration::from_secs(10);

/// Shared by all requests.
pub struct Admission {
    controller: Mutex<Controller>,
    refusals: Mutex<Refusals>,
    started: Instant,
    events: Events,
    /// `admission` in `RINGD_BREAK` (debug builds): nobody is refused.
    open: bool,
}

#[derive(Default)]
struct Refusals {
    total: u64,
    /// Since the last event.
    unreported: u64,
    reported: Option<Instant>,
    last: Option<Instant>,
}

/// What metrics and health show of it.
#[derive(Debug, Clone, Copy)]
pub struct Pressure {
    pub load: Load,
    pub refused: u64,
    /// Something was refused within the last seconds.
    pub overloaded: bool,
}

/// The place of one operation; free again when it is dropped.
pub struct Place {
    admission: Arc<Admission>,
    cost: Cost,
    took: Option<Duration>,
}

impl Place {
    /// The operation ended after `took`, for as much as that says about how busy the node is.
    pub fn ended(mut self, took: Duration) {
        self.took = Some(took);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = self.admission.started.elapsed();
        let mut controller = self.admission.controller();
        controller.leave(self.cost, self.took, now);
    }
}

impl Admission {
    pub fn new(bounds: Bounds, events: Events) -> Arc<Self> {
        Arc::new(Self {
            controller: Mutex::new(Controller::new(bounds)),
            refusals: Mutex::default(),
            started: Instant::now(),
            events,
            open: broken("admission"),
        })
    }

    /// Refuses what would not be let in now; what is let in must still [`enter`](Self::enter).
    pub fn look(&self, bytes: usize) -> Answer<()> {
        let room = self.controller().room(Cost::of_bytes(bytes));
        room.or_else(|refusal| self.refuse(refusal))
    }

    /// Takes a place for an operation with a value of so many bytes (0 for reads).
    pub fn enter(self: &Arc<Self>, bytes: usize) -> Answer<Place> {
        let cost = Cost::of_bytes(bytes);
        let entered = self.controller().enter(cost);
        entered.or_else(|refusal| self.refuse(refusal))?;
        Ok(Place {
            admission: self.clone(),
            cost,
            took: None,
        })
    }

    pub fn pressure(&self) -> Pressure {
        let load = self.controller().load();
        let refusals = self.refusals();
        Pressure {
            load,
            refused: refusals.total,
            overloaded: refusals.last.is_some_and(|at| at.elapsed() < RECENT),
        }
    }

    fn refuse(&self, refusal: Refusal) -> Answer<()> {
        if self.open {
            return Ok(());
        }
        let now = Instant::now();
        let due = {
            let mut refusals = self.refusals();
            refusals.total += 1;
            refusals.unreported += 1;
            refusals.last = Some(now);
            let quiet = |at: Instant| now.duration_since(at) < REPORT_EVERY;
            if refusals.reported.is_some_and(quiet) {
                None
            } else {
                refusals.reported = Some(now);
                Some(std::mem::take(&mut refusals.unreported))
            }
        };
        let full = sentence(refusal);
        if let Some(count) = due {
            self.report(count, &full);
        }
        Err(busy(&full))
    }

    fn report(&self, count: u64, full: &str) {
        let load = self.controller().load();
        let message = format!(
            "clients ask for more than this node can do in time: {full}; refused since the last such message: {count}. Refused requests may be repeated after a moment; nothing of them was stored"
        );
        let details = json!({
            "refused": count, "under_way": load.requests,
            "small": {"in_use": load.small.0, "limit": load.small.1},
            "large_bytes": {"in_use": load.large.0, "limit": load.large.1},
        });
        let (code, severity) = (EventCode::Overloaded, Severity::Warning);
        self.events.emit(code, severity, None, message, details);
    }

    fn controller(&self) -> MutexGuard<'_, Controller> {
        let held = self.controller.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        let held = self.refusals.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }
}

fn sentence(refusal: Refusal) -> String {
    match refusal {
        Refusal::Small { limit } => {
            format!("{limit} requests are under way, as many as are answered in good time now")
        }
        Refusal::Large { limit } => format!(
            "{} KiB of large values are being written, as many as are stored in good time now",
            limit / 1024
        ),
        Refusal::Requests { limit } => {
            format!("{limit} requests for data are under way, as many as are allowed")
        }
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::error::ErrorCode;

    use super::*;
    use crate::health::tests::id;

    #[test]
    fn refusals_are_counted_and_reported_once() {
        let events = Events::new(id("a"));
        let bounds = Bounds {
            requests: 1,
            bytes: 1 << 20,
            value_bytes: 1 << 20,
            timeout: Duration::from_secs(5),
        };
        let admission = Admission::new(bounds, events.clone());
        let place = admission.enter(10).unwrap_or_else(|_| panic!("room"));
        assert!(!admission.pressure().overloaded);
        for _ in 0..3 {
            let refused = admission.enter(10).err().expect("full");
            assert_eq!(refused.code(), ErrorCode::TooBusy);
        }
        assert!(admission.look(10).is_err());
        let pressure = admission.pressure();
        assert_eq!((pressure.refused, pressure.overloaded), (4, true));
        let page = events.since(0, 10);
        let told = page
            .events
            .iter()
            .filter(|e| e.code == EventCode::Overloaded);
        assert_eq!(told.count(), 1);
        place.ended(Duration::from_millis(1));
        assert!(admission.enter(10).is_ok());
    }
}
