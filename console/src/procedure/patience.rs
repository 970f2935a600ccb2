//! How long a gate may stay closed, and when holds are renewed meanwhile. Pure: time is handed in.
//!
//! A node may take its time: to finish requests, to say farewell, to close its store (a minute by
//! itself), to open it again, to get back what it missed. While it says that it is at that, the gate
//! waits on; once nobody says so any more, not for long.

use std::time::Duration;

use super::Gate;

/// How long nobody has to be at work for a gate to give up.
pub const IDLE: Duration = Duration::from_secs(60);
/// When a gate gives up on nodes that are at work.
pub const AT_MOST: Duration = Duration::from_secs(600);

/// The wait at one gate. All times are of one monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    opened: Duration,
    /// When somebody was last at work.
    at_work: Duration,
}

impl Patience {
    pub fn new(now: Duration) -> Self {
        Self {
            opened: now,
            at_work: now,
        }
    }

    /// Why to give up, now that the gate stands so; nothing while it is worth waiting.
    pub fn ends(&mut self, gate: &Gate, now: Duration) -> Option<String> {
        let (why, since, most) = match gate {
            Gate::Met(_) => return None,
            Gate::Working(why) => {
                self.at_work = now;
                (why, self.opened, AT_MOST)
            }
            Gate::Waiting(why) if now.saturating_sub(self.opened) >= AT_MOST => {
                (why, self.opened, AT_MOST)
            }
            Gate::Waiting(why) => (why, self.at_work, IDLE),
        };
        let waited = now.saturating_sub(since);
        let over = waited >= most;
        over.then(|| format!("gave up after {} s waiting: {why}", waited.as_secs()))
    }
}

/// When the holds of those in standby have to be renewed.
#[derive(Debug, Clone, Copy)]
pub struct Holds {
    renewed: Duration,
    /// A fraction of the hold, so that one that is missed does no harm.
    every: Duration,
}

impl Holds {
    /// Given to all at `now`.
    pub fn new(now: Duration, hold: Duration) -> Self {
        Self {
            renewed: now,
            every: hold / 6,
        }
    }

    /// Whether they are to be renewed now; then they count as renewed.
    pub fn due(&mut self, now: Duration) -> bool {
        let due = now.saturating_sub(self.renewed) >= self.every;
        if due {
            self.renewed = now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> Gate {
        Gate::Waiting("node-2 does not answer".into())
    }

    fn working() -> Gate {
        Gate::Working("node-2 is draining".into())
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looks every second at what the gate is; the second in which it gives up, and what it says.
    fn gives_up(gate: impl Fn(u64) -> Gate) -> Option<(u64, String)> {
        let start = s(1000);
        let mut patience = Patience::new(start);
        (0..2000).find_map(|n| Some((n, patience.ends(&gate(n), start + s(n))?)))
    }

    #[test]
    fn silence_is_given_a_minute() {
        let (at, why) = gives_up(|_| waiting()).expect("ended");
        assert_eq!(at, 60);
        assert_eq!(why, "gave up after 60 s waiting: node-2 does not answer");
        assert_eq!(gives_up(|_| Gate::Met(String::new())), None);
    }

    #[test]
    fn a_node_at_work_is_waited_for_and_then_has_a_minute_to_come_back() {
        // drains and closes its store for 75 s, is gone for 30, opens the store for 100, is there
        let slow = |n| match n {
            0..75 | 105..205 => working(),
            75..105 => waiting(),
            _ => Gate::Met(String::new()),
        };
        assert_eq!(gives_up(slow), None);
        // does not come back
        let gone = |n| if n < 75 { working() } else { waiting() };
        let (at, why) = gives_up(gone).expect("ended");
        assert_eq!(at, 74 + 60);
        assert!(why.contains("after 60 s"), "{why}");
    }

    #[test]
    fn nothing_is_waited_for_without_end() {
        let (at, why) = gives_up(|_| working()).expect("ended");
        assert_eq!(at, 600);
        assert_eq!(why, "gave up after 600 s waiting: node-2 is draining");
        let in_turns = |n| if n % 50 == 0 { working() } else { waiting() };
        assert_eq!(gives_up(in_turns).expect("ended").0, 600);
    }

    #[test]
    fn holds_are_renewed_long_before_they_run_out_however_long_a_gate_takes() {
        let hold = s(120);
        let mut holds = Holds::new(s(0), hold);
        let (mut until, mut renewals) = (hold, 0);
        for now in 0..600 {
            let now = s(now);
            assert!(until > now + hold / 2, "at {now:?} held until {until:?}");
            if holds.due(now) {
                until = now + hold;
                renewals += 1;
            }
        }
        assert_eq!(renewals, 29, "every 20 s and not more often");
    }
}
