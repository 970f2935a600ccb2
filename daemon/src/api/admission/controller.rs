//! How much may be under way at once, decided from how long operations take. Pure: time is
//! handed in.
//!
//! Two lanes. Small operations are counted one by one; values past [`LARGE_BYTES`] by their bytes,
//! because what they cost the disk and the network is bytes. Each lane has a limit that moves
//! between a floor and a ceiling: it grows by a step while it is used and operations take about as
//! long as they do when the node is idle, and shrinks by a factor when more than half of them take
//! several times that (additive increase, multiplicative decrease; "idle" is the lowest median
//! seen of late). When small operations are late, the large ones give way first, and they do so
//! long before small ones would have to be refused: what slows small ones down while large ones are
//! written is the large ones. What is past a limit is refused at once: a queue would only make
//! everybody late.
//!
//! Promises: at least one operation of each lane is let in when none is under way, whatever the
//! limits; never more than the ceilings. Leaves clocks, locks, events and the answer to others.

use std::{collections::VecDeque, time::Duration};

use crate::large::LARGE_BYTES;

const MIB: usize = 1024 * 1024;
/// Limits are moved after this long, once there are enough samples.
const WINDOW: Duration = Duration::from_millis(200);
const SAMPLES_ENOUGH: usize = 8;
/// Fewer samples do after this long.
const WINDOW_MAX: Duration = Duration::from_secs(1);
/// Samples kept in one window.
const SAMPLES_MAX: usize = 256;
/// Windows whose medians are remembered to know how long things take when idle.
const MEDIANS_KEPT: usize = 150;
/// Small operations that take less than this are never a reason to let in fewer large ones: a
/// disk, or a busy machine, makes that much by itself.
const SLOWED_LEAST: Duration = Duration::from_millis(15);
/// Small operations are slowed when they take this many times as long as when idle. Little, because a
/// node that was never idle has only seen what they take beside large ones, and comes down from there.
const SLOWED_FACTOR: u32 = 2;
/// Late is what takes this many times as long as when idle.
const LATE_FACTOR: u32 = 4;

/// What does not change while the node runs.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Operations under way, of both lanes.
    pub requests: usize,
    /// Bytes of large values under way.
    pub bytes: usize,
    /// Largest value.
    pub value_bytes: usize,
    /// After which an operation fails.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Small,
    Large,
}

/// What an operation holds while it is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    lane: Lane,
    units: usize,
}

impl Cost {
    /// Of an operation with a value of so many bytes.
    pub fn of_bytes(bytes: usize) -> Self {
        if bytes <= LARGE_BYTES {
            Self {
                lane: Lane::Small,
                units: 1,
            }
        } else {
            Self {
                lane: Lane::Large,
                units: bytes,
            }
        }
    }
}

/// What was full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// So many small operations are let in at once at the moment.
    Small { limit: usize },
    /// So many bytes of large values are.
    Large { limit: usize },
    /// The configured ceiling of requests.
    Requests { limit: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    InTime,
    /// Not late yet, but noticeably longer than when idle.
    Slowed,
    Late,
    /// More than twice as long as what is late.
    VeryLate,
}

#[derive(Debug)]
struct State {
    limit: usize,
    floor: usize,
    ceiling: usize,
    step: usize,
    in_use: usize,
    /// Most in use since the limit was last looked at.
    peak: usize,
    samples: Vec<Duration>,
    medians: VecDeque<Duration>,
    /// Nothing below this counts as slowed, whatever it takes when idle.
    slowed: Duration,
    /// What counts as late lies between these.
    late: (Duration, Duration),
}

impl State {
    fn fits(&self, units: usize) -> bool {
        self.in_use == 0 || self.in_use + units <= self.limit
    }

    fn sample(&mut self, took: Duration) {
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(took);
        }
    }

    /// Past these an operation is slowed, and late.
    fn bounds(&self) -> (Duration, Duration) {
        let idle = self.medians.iter().min();
        let (least, most) = self.late;
        let times = |factor| idle.map_or(most, |idle| *idle * factor);
        let late = times(LATE_FACTOR).clamp(least, most);
        (times(SLOWED_FACTOR).max(self.slowed).min(late), late)
    }

    /// Ends a window: how late its median operation was; `None` without samples.
    fn judge(&mut self) -> Option<Verdict> {
        let mut samples = std::mem::take(&mut self.samples);
        let middle = samples.len().checked_sub(1)? / 2;
        let (_, median, _) = samples.select_nth_unstable(middle);
        let (slowed, late) = self.bounds();
        let verdict = match *median {
            took if took > late * 2 => Verdict::VeryLate,
            took if took > late => Verdict::Late,
            took if took > slowed => Verdict::Slowed,
            _ => Verdict::InTime,
        };
        if self.medians.len() == MEDIANS_KEPT {
            self.medians.pop_front();
        }
        self.medians.push_back(*median);
        Some(verdict)
    }

    fn grow_if_used(&mut self) {
        if self.peak.saturating_mul(4) >= self.limit.saturating_mul(3) {
            self.limit = (self.limit + self.step).min(self.ceiling);
        }
    }

    fn shrink(&mut self, verdict: Verdict) {
        let tenths = if verdict == Verdict::VeryLate { 4 } else { 7 };
        let used = self.limit.min(self.peak.max(self.floor));
        self.limit = (used * tenths / 10).max(self.floor);
    }

    fn can_shrink(&self) -> bool {
        self.peak > 0 && self.limit > self.floor
    }
}

#[derive(Debug)]
pub struct Controller {
    ceiling: usize,
    under_way: usize,
    small: State,
    large: State,
    /// When the limits were last looked at.
    looked: Duration,
}

impl Controller {
    pub fn new(bounds: Bounds) -> Self {
        let lane = |start: usize, floor: usize, ceiling: usize, step, slowed, late| {
            let floor = floor.min(ceiling);
            State {
                limit: start.clamp(floor, ceiling),
                floor,
                ceiling,
                step,
                in_use: 0,
                peak: 0,
                samples: Vec::with_capacity(SAMPLES_MAX),
                medians: VecDeque::with_capacity(MEDIANS_KEPT),
                slowed,
                late,
            }
        };
        let ms = Duration::from_millis;
        let (small, large) = (bounds.timeout / 10, bounds.timeout / 5);
        Self {
            ceiling: bounds.requests,
            under_way: 0,
            small: lane(
                128,
                16,
                bounds.requests,
                8,
                SLOWED_LEAST,
                (ms(150).min(small), small),
            ),
            large: lane(
                2 * MIB,
                bounds.value_bytes.max(MIB),
                bounds.bytes.max(1),
                MIB,
                // late or not: nothing gives way before it
                large,
                (ms(300).min(large), large),
            ),
            looked: Duration::ZERO,
        }
    }

    /// Whether there is room, without taking it.
    pub fn room(&self, cost: Cost) -> Result<(), Refusal> {
        if self.under_way >= self.ceiling {
            return Err(Refusal::Requests {
                limit: self.ceiling,
            });
        }
        if self.lane(cost.lane).fits(cost.units) {
            return Ok(());
        }
        Err(match cost.lane {
            Lane::Small => Refusal::Small {
                limit: self.small.limit,
            },
            Lane::Large => Refusal::Large {
                limit: self.large.limit,
            },
        })
    }

    pub fn enter(&mut self, cost: Cost) -> Result<(), Refusal> {
        self.room(cost).inspect_err(|_| {
            // a refusal proves that the limit is what holds
            let lane = self.lane_mut(cost.lane);
            lane.peak = lane.peak.max(lane.limit.min(lane.in_use + cost.units));
        })?;
        self.under_way += 1;
        let lane = self.lane_mut(cost.lane);
        lane.in_use += cost.units;
        lane.peak = lane.peak.max(lane.in_use);
        Ok(())
    }

    /// An operation ended; `took` when that says how busy the node is. `now` counts from any
    /// fixed moment.
    pub fn leave(&mut self, cost: Cost, took: Option<Duration>, now: Duration) {
        self.under_way = self.under_way.saturating_sub(1);
        let lane = self.lane_mut(cost.lane);
        lane.in_use = lane.in_use.saturating_sub(cost.units);
        if let Some(took) = took {
            lane.sample(took);
        }
        self.look(now);
    }

    fn look(&mut self, now: Duration) {
        let since = now.saturating_sub(self.looked);
        let samples = self.small.samples.len() + self.large.samples.len();
        let needed = if since >= WINDOW_MAX {
            1
        } else {
            SAMPLES_ENOUGH
        };
        if since < WINDOW || samples < needed {
            return;
        }
        self.looked = now;
        let (small, large) = (self.small.judge(), self.large.judge());
        match small {
            Some(Verdict::InTime) => self.small.grow_if_used(),
            // bytes are what most likely makes everybody wait
            Some(late) if self.large.can_shrink() => self.large.shrink(late),
            Some(Verdict::Slowed) | None => {}
            Some(late) => self.small.shrink(late),
        }
        match large {
            Some(Verdict::InTime) if small.is_none_or(|s| s == Verdict::InTime) => {
                self.large.grow_if_used();
            }
            Some(Verdict::InTime) | None => {}
            Some(late) => self.large.shrink(late),
        }
        for lane in [&mut self.small, &mut self.large] {
            lane.peak = lane.in_use;
        }
    }

    /// Operations under way and, of both lanes, what is in use and the limit.
    pub fn load(&self) -> Load {
        Load {
            requests: self.under_way,
            small: (self.small.in_use, self.small.limit),
            large: (self.large.in_use, self.large.limit),
        }
    }

    fn lane(&self, lane: Lane) -> &State {
        match lane {
            Lane::Small => &self.small,
            Lane::Large => &self.large,
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut State {
        match lane {
            Lane::Small => &mut self.small,
            Lane::Large => &mut self.large,
        }
    }
}

/// A look at the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub requests: usize,
    /// In use and limit, operations.
    pub small: (usize, usize),
    /// In use and limit, bytes.
    pub large: (usize, usize),
}

#[cfg(test)]
mod tests;
