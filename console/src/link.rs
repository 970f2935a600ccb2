//! The connection to the cluster: exactly Connected, Fallback Mode or Disconnected.
//!
//! A pure state machine: inputs are what the drivers saw, outputs are what they are to do, time
//! and randomness are handed in. Its promises:
//! - `Connected` only while the feed's handshake is done, a whole snapshot came over that very
//!   connection, and a frame came within two heartbeats;
//! - `Fallback Mode` only while a REST answer is fresh; the feed keeps being tried;
//! - there is always something under way or scheduled within [`BACKOFF_MAX_MS`]: it never gives
//!   up.
//!
//! The drivers are `link/driver.rs` and the files beside it.

pub mod driver;
mod endpoints;
mod race;
mod seen;
mod view;
mod websocket;

#[cfg(test)]
mod tests;

use ringmaster_shared::feed::HEARTBEAT_MS;

use endpoints::Endpoints;
pub use endpoints::same_place;
use race::{Race, RaceStep};
pub use view::{EndpointView, LinkState, LinkView, Way};

/// Two heartbeats: without a frame for so long the feed is not believed any more.
pub const FRAME_DEADLINE_MS: u64 = 2 * HEARTBEAT_MS;
/// A feed that has not delivered its snapshot after so long is given up.
pub const WS_TRY_TIMEOUT_MS: u64 = 2_000;
/// A REST poll without an answer after so long is given up.
pub const POLL_TIMEOUT_MS: u64 = 2_000;
/// A second endpoint is tried beside a silent first one after so long.
pub const HEDGE_MS: u64 = 300;
/// Between two REST polls of the whole picture in Fallback Mode.
pub const POLL_INTERVAL_MS: u64 = 2_000;
/// A REST answer is fresh for so long: two polls and a slow answer.
pub const REST_FRESH_MS: u64 = 2 * POLL_INTERVAL_MS + 1_000;
/// Pause between two rounds over all endpoints: at least, and at most.
pub const BACKOFF_MIN_MS: u64 = 250;
pub const BACKOFF_MAX_MS: u64 = 5_000;

/// Names one try of the feed or one poll.
pub type TryId = u64;

/// What the drivers saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing, but a deadline passed.
    Tick,
    /// A frame arrived on a feed.
    Frame {
        id: TryId,
        kind: FrameKind,
    },
    /// A pong came back on a feed.
    Pong {
        id: TryId,
        rtt_ms: u64,
    },
    /// A feed could not be opened, or ended.
    FeedEnded {
        id: TryId,
        reason: String,
    },
    PollAnswered {
        id: TryId,
        rtt_ms: u64,
    },
    PollFailed {
        id: TryId,
        reason: String,
    },
    /// Some other REST request to the endpoint was answered, or was not.
    Asked {
        address: String,
        result: Result<(), String>,
    },
    /// The addresses of the members, as just seen.
    Members(Vec<String>),
    /// The operator does not want to wait.
    RetryNow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    Snapshot {
        seq: u64,
    },
    /// Anything else, with its number.
    Other {
        seq: u64,
    },
}

/// What the drivers are to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    OpenFeed {
        id: TryId,
        address: String,
    },
    CloseFeed {
        id: TryId,
    },
    /// Ask for the whole picture.
    Poll {
        id: TryId,
        address: String,
    },
}

/// The feed that is believed.
#[derive(Debug, Clone)]
struct Live {
    id: TryId,
    address: String,
    last_frame_ms: u64,
    last_seq: u64,
}

/// What the feed is doing.
#[derive(Debug, Clone)]
enum Feed {
    Racing(Race),
    Live(Live),
    Resting { until_ms: u64 },
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Link {
    endpoints: Endpoints,
    feed: Feed,
    /// The poll under way.
    poll: Option<Race>,
    /// When the next poll is due; `None` while the feed is live or has its first chance.
    poll_at_ms: Option<u64>,
    next_id: TryId,
    /// Rounds over all endpoints since the feed was last live.
    rounds: u32,
    attempt: u32,
    state: LinkState,
    since_ms: u64,
    source: Option<String>,
    rtt_ms: Option<u64>,
    last_data_ms: Option<u64>,
}

impl Link {
    /// Starts at once with the first endpoint.
    pub fn new(configured: &[String], now_ms: u64) -> Self {
        Self {
            endpoints: Endpoints::new(configured),
            feed: Feed::Resting { until_ms: now_ms },
            poll: None,
            // The feed has a head start, so that a healthy start is not called a fallback.
            poll_at_ms: Some(now_ms + HEDGE_MS),
            next_id: 1,
            rounds: 0,
            attempt: 0,
            state: LinkState::Disconnected,
            since_ms: now_ms,
            source: None,
            rtt_ms: None,
            last_data_ms: None,
        }
    }

    /// Takes one input at `now_ms`; `roll` is a fresh random number in `0.0..1.0`.
    pub fn handle(&mut self, input: Input, now_ms: u64, roll: f64) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Tick => {}
            Input::Frame { id, kind } => self.frame(id, kind, now_ms, &mut out),
            Input::Pong { id, rtt_ms } => {
                if self.live().is_some_and(|l| l.id == id) {
                    self.rtt_ms = Some(rtt_ms);
                }
            }
            Input::FeedEnded { id, reason } => self.feed_ended(id, &reason, now_ms),
            Input::PollAnswered { id, rtt_ms } => self.poll_answered(id, rtt_ms, now_ms),
            Input::PollFailed { id, reason } => {
                if let Some(address) = self.poll.as_mut().and_then(|p| p.lost(id)) {
                    self.endpoints.rest_down(&address, &reason);
                }
            }
            Input::Asked { address, result } => match result {
                Ok(()) => self.endpoints.rest_up(&address, now_ms),
                Err(reason) => self.endpoints.rest_down(&address, &reason),
            },
            Input::Members(addresses) => {
                let keep = self.live().map(|l| l.address.clone());
                self.endpoints.learn(&addresses, keep.as_deref());
            }
            Input::RetryNow => self.retry_now(now_ms),
        }
        self.drive(now_ms, roll, &mut out);
        self.settle(now_ms);
        out
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn deadline_ms(&self) -> u64 {
        let feed = match &self.feed {
            Feed::Racing(race) => race.deadline_ms(),
            Feed::Live(live) => live.last_frame_ms + FRAME_DEADLINE_MS + 1,
            Feed::Resting { until_ms } => *until_ms,
        };
        let poll = match &self.poll {
            Some(race) => race.deadline_ms(),
            None => self.poll_at_ms.unwrap_or(u64::MAX),
        };
        let fresh = match self.state {
            LinkState::Fallback => {
                let until = self.endpoints.rest_fresh_until(REST_FRESH_MS);
                until.map_or(0, |at| at + 1)
            }
            LinkState::Connected | LinkState::Disconnected => u64::MAX,
        };
        feed.min(poll).min(fresh)
    }

    /// Whether frames of this try are to be believed.
    pub fn is_live(&self, id: TryId) -> bool {
        self.live().is_some_and(|l| l.id == id)
    }

    /// Whether the answer of this poll is still wanted.
    pub fn is_polling(&self, id: TryId) -> bool {
        self.poll.as_ref().is_some_and(|p| p.is_running(id))
    }

    #[cfg(test)]
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Where the data comes from, and where requests go.
    pub fn endpoint(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Every address worth asking.
    pub fn addresses(&self) -> Vec<String> {
        self.endpoints.addresses()
    }

    pub fn view(&self) -> LinkView {
        let next_retry_ms = match &self.feed {
            Feed::Resting { until_ms } => Some(*until_ms),
            Feed::Racing(_) | Feed::Live(_) => None,
        };
        let trying = match &self.feed {
            Feed::Racing(race) => race.running(),
            Feed::Live(_) | Feed::Resting { .. } => Vec::new(),
        };
        let live = self.live().map(|l| l.address.as_str());
        LinkView {
            state: self.state,
            since_ms: self.since_ms,
            endpoint: self.source.clone(),
            rtt_ms: self.rtt_ms,
            last_data_ms: self.last_data_ms,
            attempt: self.attempt,
            next_retry_ms,
            poll_ms: POLL_INTERVAL_MS,
            endpoints: self.endpoints.views(live, &trying),
        }
    }

    fn live(&self) -> Option<&Live> {
        match &self.feed {
            Feed::Live(live) => Some(live),
            Feed::Racing(_) | Feed::Resting { .. } => None,
        }
    }

    fn frame(&mut self, id: TryId, kind: FrameKind, now_ms: u64, out: &mut Vec<Output>) {
        match &mut self.feed {
            Feed::Live(live) if live.id == id => {
                let seq = match kind {
                    FrameKind::Snapshot { seq } | FrameKind::Other { seq } => seq,
                };
                let skipped = seq != live.last_seq.wrapping_add(1);
                live.last_seq = seq;
                live.last_frame_ms = now_ms;
                self.last_data_ms = Some(now_ms);
                // A snapshot heals whatever was missed; anything else needs the picture again.
                if skipped && matches!(kind, FrameKind::Other { .. }) && self.poll.is_none() {
                    self.poll_at_ms = Some(now_ms);
                }
            }
            Feed::Racing(race) => {
                let FrameKind::Snapshot { seq } = kind else {
                    return;
                };
                let Some(address) = race.lost(id) else {
                    return;
                };
                out.extend(race.stop().into_iter().map(|id| Output::CloseFeed { id }));
                self.go_live(id, address, seq, now_ms);
            }
            Feed::Live(_) | Feed::Resting { .. } => {}
        }
    }

    fn go_live(&mut self, id: TryId, address: String, seq: u64, now_ms: u64) {
        self.endpoints.ws_up(&address);
        self.source = Some(address.clone());
        self.last_data_ms = Some(now_ms);
        self.rounds = 0;
        self.attempt = 0;
        self.poll = None;
        self.poll_at_ms = None;
        self.rtt_ms = None;
        self.feed = Feed::Live(Live {
            id,
            address,
            last_frame_ms: now_ms,
            last_seq: seq,
        });
    }

    fn feed_ended(&mut self, id: TryId, reason: &str, now_ms: u64) {
        match &mut self.feed {
            Feed::Live(live) if live.id == id => {
                let address = live.address.clone();
                self.lose_live(&address, reason, now_ms);
            }
            Feed::Racing(race) => {
                if let Some(address) = race.lost(id) {
                    self.endpoints.ws_down(&address, reason);
                    self.end_head_start(now_ms);
                }
            }
            Feed::Live(_) | Feed::Resting { .. } => {}
        }
    }

    /// At the start the feed comes first; once it is in trouble, polling need not wait.
    fn end_head_start(&mut self, now_ms: u64) {
        if self.source.is_none() {
            self.poll_at_ms = self.poll_at_ms.map(|at| at.min(now_ms));
        }
    }

    /// Polls at once, and tries the other endpoints at once.
    fn lose_live(&mut self, address: &str, reason: &str, now_ms: u64) {
        self.endpoints.ws_down(address, reason);
        self.endpoints.rotate_past(address);
        self.feed = Feed::Resting { until_ms: now_ms };
        self.poll_at_ms = Some(now_ms);
        self.rtt_ms = None;
    }

    fn poll_answered(&mut self, id: TryId, rtt_ms: u64, now_ms: u64) {
        let Some(address) = self.poll.as_mut().and_then(|p| p.lost(id)) else {
            return;
        };
        self.poll = None;
        self.endpoints.rest_up(&address, now_ms);
        self.last_data_ms = Some(now_ms);
        if self.live().is_none() {
            self.rtt_ms = Some(rtt_ms);
            self.source = Some(address);
            self.poll_at_ms = Some(now_ms + POLL_INTERVAL_MS);
        } else {
            self.poll_at_ms = None;
        }
    }

    fn retry_now(&mut self, now_ms: u64) {
        if let Feed::Resting { until_ms } = &mut self.feed {
            *until_ms = now_ms;
            self.rounds = 0;
        }
        if self.live().is_none() && self.poll.is_none() {
            self.poll_at_ms = Some(now_ms);
        }
    }

    /// Everything that is due at `now_ms`.
    fn drive(&mut self, now_ms: u64, roll: f64, out: &mut Vec<Output>) {
        if let Feed::Live(live) = &self.feed
            && now_ms > live.last_frame_ms + FRAME_DEADLINE_MS
        {
            let (id, address) = (live.id, live.address.clone());
            out.push(Output::CloseFeed { id });
            let reason = format!("no frame for {} ms", now_ms - live.last_frame_ms);
            self.lose_live(&address, &reason, now_ms);
        }
        self.drive_feed(now_ms, roll, out);
        self.drive_poll(now_ms, out);
    }

    fn drive_feed(&mut self, now_ms: u64, roll: f64, out: &mut Vec<Output>) {
        if let Feed::Resting { until_ms } = self.feed
            && now_ms >= until_ms
        {
            let order = self.endpoints.order_for_feed();
            self.feed = Feed::Racing(Race::new(order, now_ms, WS_TRY_TIMEOUT_MS));
        }
        let Feed::Racing(race) = &mut self.feed else {
            return;
        };
        let mut exhausted = false;
        for step in race.advance(now_ms, &mut self.next_id) {
            match step {
                RaceStep::Start { id, address } => {
                    self.attempt = self.attempt.saturating_add(1);
                    out.push(Output::OpenFeed { id, address });
                }
                RaceStep::TimedOut { id, address } => {
                    out.push(Output::CloseFeed { id });
                    let reason = format!("no snapshot within {WS_TRY_TIMEOUT_MS} ms");
                    self.endpoints.ws_down(&address, &reason);
                }
                RaceStep::Exhausted => exhausted = true,
            }
        }
        if exhausted {
            let until_ms = now_ms + backoff_ms(self.rounds, roll);
            self.rounds = self.rounds.saturating_add(1);
            self.feed = Feed::Resting { until_ms };
            self.end_head_start(now_ms);
        }
    }

    fn drive_poll(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        if self.poll.is_none() && self.poll_at_ms.is_some_and(|at| now_ms >= at) {
            let order = self.endpoints.order_for_poll(self.source.as_deref());
            self.poll = Some(Race::new(order, now_ms, POLL_TIMEOUT_MS));
            self.poll_at_ms = None;
        }
        let Some(race) = &mut self.poll else {
            return;
        };
        let mut exhausted = false;
        for step in race.advance(now_ms, &mut self.next_id) {
            match step {
                RaceStep::Start { id, address } => out.push(Output::Poll { id, address }),
                RaceStep::TimedOut { address, .. } => {
                    let reason = format!("no answer within {POLL_TIMEOUT_MS} ms");
                    self.endpoints.rest_down(&address, &reason);
                }
                RaceStep::Exhausted => exhausted = true,
            }
        }
        if exhausted {
            self.poll = None;
            self.poll_at_ms = match self.feed {
                Feed::Live(_) => None,
                Feed::Racing(_) | Feed::Resting { .. } => Some(now_ms + POLL_INTERVAL_MS / 2),
            };
        }
    }

    /// Which of the three words is true now.
    fn settle(&mut self, now_ms: u64) {
        let fresh_frame = self
            .live()
            .is_some_and(|l| now_ms <= l.last_frame_ms + FRAME_DEADLINE_MS);
        let polling = self.poll.is_some() || self.poll_at_ms.is_some();
        // Before the first chance of the feed has passed, an answer to something else does not
        // make it a fallback.
        let had_data = self.last_data_ms.is_some();
        let fresh_answer = self
            .endpoints
            .rest_fresh_until(REST_FRESH_MS)
            .is_some_and(|until| now_ms <= until);
        let state = if fresh_frame {
            LinkState::Connected
        } else if polling && had_data && fresh_answer {
            LinkState::Fallback
        } else {
            LinkState::Disconnected
        };
        if state != self.state {
            self.state = state;
            self.since_ms = now_ms;
        }
    }
}

/// Full jitter above a floor: spreads the consoles of a whole team after an outage.
fn backoff_ms(rounds: u32, roll: f64) -> u64 {
    let ceiling = BACKOFF_MIN_MS
        .saturating_mul(2u64.saturating_pow(rounds.min(16).saturating_add(1)))
        .min(BACKOFF_MAX_MS);
    let per_mille = (roll.clamp(0.0, 1.0) * 1000.0).round();
    let per_mille = per_mille as i64;
    BACKOFF_MIN_MS + (ceiling - BACKOFF_MIN_MS) * per_mille.cast_unsigned() / 1000
}
