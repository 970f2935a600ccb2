//! The connection to the cluster: exactly Connected, Fallback Mode or Disconnected.
//!
//! A pure state machine: inputs are what the drivers saw, outputs are what they are to do, time
//! and randomness are handed in. Its promises:
//! - `Connected` only while the feed's handshake is done, a whole snapshot came over that very
//!   connection, and a frame came within two heartbeats;
//! - a node that sees only itself (held, or still starting) is believed only while nobody else
//!   delivers, and left as soon as somebody does;
//! - `Fallback Mode` only while a REST answer is fresh; the feed keeps being tried;
//! - there is always something under way or scheduled within [`BACKOFF_MAX_MS`]: it never gives
//!   up.
//!
//! The drivers are `link/driver.rs` and the files beside it.

pub mod driver;
mod endpoints;
mod race;
mod seen;
mod spare;
mod view;
mod websocket;

#[cfg(test)]
mod tests;

use ringmaster_shared::feed::HEARTBEAT_MS;

use endpoints::Endpoints;
pub use endpoints::same_place;
use race::{Race, RaceStep};
use spare::Spare;
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
        /// Whether its node sees only itself; absent where the frame does not tell.
        alone: Option<bool>,
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
        /// Its node sees only itself.
        alone: bool,
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

impl Live {
    /// Takes a frame; whether some are missing before it.
    fn take(&mut self, kind: FrameKind, now_ms: u64) -> bool {
        let (FrameKind::Snapshot { seq } | FrameKind::Other { seq }) = kind;
        let skipped = seq != self.last_seq.wrapping_add(1);
        self.last_seq = seq;
        self.last_frame_ms = now_ms;
        // a snapshot heals whatever was missed
        skipped && matches!(kind, FrameKind::Other { .. })
    }

    fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms <= self.last_frame_ms + FRAME_DEADLINE_MS
    }
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
    /// Never beside a feed that is live.
    spare: Option<Spare>,
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
            spare: None,
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
            Input::Frame { id, kind, alone } => self.frame(id, kind, alone, now_ms, &mut out),
            Input::Pong { id, rtt_ms } => {
                if self.live().is_some_and(|l| l.id == id) {
                    self.rtt_ms = Some(rtt_ms);
                }
            }
            Input::FeedEnded { id, reason } => self.feed_ended(id, &reason, now_ms),
            Input::PollAnswered { id, rtt_ms, alone } => {
                self.poll_answered(id, rtt_ms, alone, now_ms);
            }
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
        let spare = self.spare.as_ref().map_or(u64::MAX, |spare| {
            spare.live.last_frame_ms + FRAME_DEADLINE_MS + 1
        });
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
        feed.min(spare).min(poll).min(fresh)
    }

    /// Whether frames of this try are to be believed.
    pub fn is_live(&self, id: TryId) -> bool {
        self.live().is_some_and(|l| l.id == id)
    }

    /// Whether the answer of this poll is still wanted.
    pub fn is_polling(&self, id: TryId) -> bool {
        self.poll.as_ref().is_some_and(|p| p.is_running(id))
    }

    /// Whether this answer is believed. That of a node which sees only itself is not before all
    /// others were asked, unless the feed of such a node is believed anyway.
    pub fn takes_answer(&self, id: TryId, alone: bool) -> bool {
        let enough = !alone || self.live().is_some();
        let mut race = self.poll.iter();
        race.any(|race| race.is_running(id) && (enough || race.is_last_resort()))
    }

    /// What is shown is of a node that sees only itself, for want of a better one.
    pub fn is_makeshift(&self) -> bool {
        self.spare.as_ref().is_some_and(|spare| spare.taken)
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
            Feed::Resting { until_ms } if self.live().is_none() => Some(*until_ms),
            Feed::Resting { .. } | Feed::Racing(_) | Feed::Live(_) => None,
        };
        let trying = match &self.feed {
            Feed::Racing(race) => race.running(),
            Feed::Live(_) | Feed::Resting { .. } => Vec::new(),
        };
        let live = self.live().map(|l| l.address.as_str());
        // tries beside a feed that is up are no trouble to tell of
        let attempt = live.map_or(self.attempt, |_| 0);
        LinkView {
            state: self.state,
            since_ms: self.since_ms,
            endpoint: self.source.clone(),
            rtt_ms: self.rtt_ms,
            last_data_ms: self.last_data_ms,
            attempt,
            next_retry_ms,
            poll_ms: POLL_INTERVAL_MS,
            endpoints: self.endpoints.views(live, &trying),
        }
    }

    /// The feed that is believed.
    fn live(&self) -> Option<&Live> {
        match (&self.feed, &self.spare) {
            (Feed::Live(live), _) | (_, Some(Spare { live, taken: true })) => Some(live),
            _ => None,
        }
    }

    fn frame(
        &mut self,
        id: TryId,
        kind: FrameKind,
        alone: Option<bool>,
        now_ms: u64,
        out: &mut Vec<Output>,
    ) {
        match (&mut self.feed, &mut self.spare) {
            (Feed::Live(live), _) if live.id == id => {
                let missed = live.take(kind, now_ms);
                self.has_data(missed, now_ms);
            }
            (_, Some(spare)) if spare.live.id == id => {
                let missed = spare.live.take(kind, now_ms);
                if spare.taken {
                    self.has_data(missed, now_ms);
                }
                if alone == Some(false) {
                    self.promote_spare(now_ms, out);
                }
            }
            (Feed::Racing(race), spare) => {
                let FrameKind::Snapshot { seq } = kind else {
                    return;
                };
                let Some(address) = race.lost(id) else {
                    return;
                };
                let live = Live {
                    id,
                    address,
                    last_frame_ms: now_ms,
                    last_seq: seq,
                };
                if alone != Some(true) {
                    self.go_live(live, now_ms, out);
                    return;
                }
                self.endpoints.ws_answers(&live.address);
                if spare.is_none() {
                    let taken = false;
                    *spare = Some(Spare { live, taken });
                } else {
                    out.push(Output::CloseFeed { id });
                }
            }
            (Feed::Live(_) | Feed::Resting { .. }, _) => {}
        }
    }

    fn has_data(&mut self, missed: bool, now_ms: u64) {
        self.last_data_ms = Some(now_ms);
        if missed && self.poll.is_none() {
            self.poll_at_ms = Some(now_ms);
        }
    }

    /// Believes a feed, and closes all others.
    fn go_live(&mut self, live: Live, now_ms: u64, out: &mut Vec<Output>) {
        let tries = match &mut self.feed {
            Feed::Racing(race) => race.stop(),
            Feed::Live(_) | Feed::Resting { .. } => Vec::new(),
        };
        let spare = self.spare.take().map(|spare| spare.live.id);
        let others = tries.into_iter().chain(spare).filter(|id| *id != live.id);
        out.extend(others.map(|id| Output::CloseFeed { id }));
        self.endpoints.ws_up(&live.address);
        self.believe(&live.address, now_ms);
        self.rounds = 0;
        self.attempt = 0;
        self.feed = Feed::Live(live);
    }

    fn believe(&mut self, address: &str, now_ms: u64) {
        self.source = Some(address.to_owned());
        self.last_data_ms = Some(now_ms);
        self.poll = None;
        self.poll_at_ms = None;
        self.rtt_ms = None;
    }

    fn feed_ended(&mut self, id: TryId, reason: &str, now_ms: u64) {
        if self.spare.as_ref().is_some_and(|spare| spare.live.id == id) {
            return self.lose_spare(reason, now_ms);
        }
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

    fn poll_answered(&mut self, id: TryId, rtt_ms: u64, alone: bool, now_ms: u64) {
        let believed = self.takes_answer(id, alone);
        let Some((race, address)) = self.poll.as_mut().and_then(|p| p.lost(id).map(|a| (p, a)))
        else {
            return;
        };
        self.endpoints.rest_up(&address, now_ms);
        if !believed {
            race.put_off(address);
            return;
        }
        self.poll = None;
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
        let silent = |live: &Live| format!("no frame for {} ms", now_ms - live.last_frame_ms);
        if let Feed::Live(live) = &self.feed
            && !live.is_fresh(now_ms)
        {
            let (id, address) = (live.id, live.address.clone());
            out.push(Output::CloseFeed { id });
            let reason = silent(live);
            self.lose_live(&address, &reason, now_ms);
        }
        if let Some(Spare { live, .. }) = &self.spare
            && !live.is_fresh(now_ms)
        {
            out.push(Output::CloseFeed { id: live.id });
            let reason = silent(live);
            self.lose_spare(&reason, now_ms);
        }
        self.drive_feed(now_ms, roll, out);
        self.drive_poll(now_ms, out);
    }

    fn drive_feed(&mut self, now_ms: u64, roll: f64, out: &mut Vec<Output>) {
        if let Feed::Resting { until_ms } = self.feed
            && now_ms >= until_ms
        {
            let mut order = self.endpoints.order_for_feed();
            if let Some(spare) = &self.spare {
                order.retain(|address| *address != spare.live.address);
            }
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
            self.take_spare(now_ms);
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
            self.poll_at_ms = match self.live() {
                Some(_) => None,
                None => Some(now_ms + POLL_INTERVAL_MS / 2),
            };
        }
    }

    /// Which of the three words is true now.
    fn settle(&mut self, now_ms: u64) {
        let fresh_frame = self.live().is_some_and(|live| live.is_fresh(now_ms));
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
