//! How many events of one code are told: the first of a minute as they are, of the others only
//! how many there were. Pure.

use std::collections::HashMap;

use ringmaster_shared::event::{EventCode, Severity};

/// Events of one code in a minute.
pub const EACH_MAX: u32 = 40;
/// The minute.
const WINDOW_MS: u64 = 60_000;

/// What was held back of one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub code: EventCode,
    pub severity: Severity,
    pub count: u32,
}

#[derive(Debug, Default)]
pub struct Limiter {
    windows: HashMap<EventCode, Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    from_ms: u64,
    told: u32,
    held: u32,
    severity: Severity,
}

impl Limiter {
    /// Whether one more of `code` may be told now.
    pub fn admits(&mut self, code: EventCode, severity: Severity, now_ms: u64) -> bool {
        let window = self.windows.entry(code).or_insert(Window {
            from_ms: now_ms,
            told: 0,
            held: 0,
            severity,
        });
        if window.held == 0 && now_ms >= window.from_ms + WINDOW_MS {
            (window.from_ms, window.told) = (now_ms, 0);
        }
        if window.told < EACH_MAX {
            window.told += 1;
            return true;
        }
        window.held += 1;
        window.severity = window.severity.max(severity);
        false
    }

    /// Those held back in minutes that are over.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<Held> {
        let over = |w: &&mut Window| now_ms >= w.from_ms + WINDOW_MS;
        let mut due: Vec<Held> = Vec::new();
        for (code, window) in &mut self.windows {
            if let Some(window) = Some(window).filter(over) {
                if window.held > 0 {
                    due.push(Held {
                        code: *code,
                        severity: window.severity,
                        count: window.held,
                    });
                }
                (window.from_ms, window.told, window.held) = (now_ms, 0, 0);
            }
        }
        due.sort_by_key(|held| format!("{:?}", held.code));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_few_and_a_number() {
        let mut limiter = Limiter::default();
        let mut offer = |code, ms| limiter.admits(code, Severity::Error, ms);
        let told = (0..500).filter(|n| offer(EventCode::MemberDead, 1_000 + n));
        assert_eq!(told.count(), EACH_MAX as usize);
        assert!(offer(EventCode::MemberJoined, 1_500), "another code");
        // the minute is over, but what was held back is told first
        assert!(!offer(EventCode::MemberDead, 61_100));
        assert_eq!(limiter.take_due(60_999), []);
        let held = Held {
            code: EventCode::MemberDead,
            severity: Severity::Error,
            count: 500 - EACH_MAX + 1,
        };
        assert_eq!(limiter.take_due(61_200), [held]);
        assert_eq!(limiter.take_due(200_000), []);
        assert!(limiter.admits(EventCode::MemberDead, Severity::Error, 200_001));
    }

    #[test]
    fn what_is_rare_is_always_told() {
        let mut limiter = Limiter::default();
        let told = (0..1_000_u64)
            .filter(|n| limiter.admits(EventCode::MemberSuspected, Severity::Warning, n * 2_000));
        assert_eq!(told.count(), 1_000);
    }
}
