//! The note a process leaves for the one that replaces it: come up holding.

use ringmaster_shared::api::admin::{HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX};
use serde::{Deserialize, Serialize};

/// Variable that carries the ticket over `exec`; never passed on further.
pub const VARIABLE: &str = "RINGD_STANDBY";

/// Hold until then, or until told to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Unix milliseconds.
    pub hold_until: u64,
    pub reason: String,
}

impl Ticket {
    /// `None`: the default; too long is cut to the longest hold.
    pub fn new(now_ms: u64, hold_seconds: Option<u64>, reason: Option<&str>) -> Self {
        let seconds = hold_seconds
            .unwrap_or(HOLD_SECONDS_DEFAULT)
            .min(HOLD_SECONDS_MAX);
        Self {
            hold_until: now_ms.saturating_add(seconds * 1000),
            reason: reason.unwrap_or("ordered by an operator").to_owned(),
        }
    }

    pub fn from_environment() -> Option<Self> {
        Self::parse(&std::env::var(VARIABLE).ok()?, crate::time::unix_ms())
    }

    /// A note that cannot be read still means standby: holding a little is safer than joining
    /// a cluster that is being brought down on purpose.
    fn parse(text: &str, now_ms: u64) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let ticket = serde_json::from_str(text).unwrap_or_else(|e| {
            eprintln!("ringd: {VARIABLE} cannot be read ({e}); holding for the default time");
            Self::new(now_ms, None, None)
        });
        let latest = now_ms.saturating_add(HOLD_SECONDS_MAX * 1000);
        Some(Self {
            hold_until: ticket.hold_until.min(latest),
            ..ticket
        })
    }

    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub fn remaining_ms(&self, now_ms: u64) -> u64 {
        self.hold_until.saturating_sub(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_the_environment_and_is_bounded() {
        let ticket = Ticket::new(1_000, Some(30), Some("clean restart"));
        assert_eq!(ticket.remaining_ms(1_000), 30_000);
        assert_eq!(ticket.remaining_ms(99_000), 0);
        assert_eq!(Ticket::parse(&ticket.to_text(), 1_000), Some(ticket));
        assert_eq!(Ticket::parse("", 0), None);
        let odd = Ticket::parse("?", 0).expect("still standby");
        assert_eq!(odd.hold_until, HOLD_SECONDS_DEFAULT * 1000);
        let far = Ticket::parse(r#"{"hold_until": 99999999999999, "reason": ""}"#, 0);
        assert_eq!(far.map(|t| t.hold_until), Some(HOLD_SECONDS_MAX * 1000));
        assert_eq!(
            Ticket::new(0, Some(u64::MAX), None).hold_until,
            HOLD_SECONDS_MAX * 1000
        );
    }
}
