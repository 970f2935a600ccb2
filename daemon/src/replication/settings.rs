//! Times that repair goes by, and what it has cost so far.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ringmaster_shared::clock::Hlc;
use serde::Serialize;

/// See the settings of the same names (`storage.tombstone_grace`, `storage.hint_max_age`).
#[derive(Debug, Clone, Copy)]
pub struct RepairSettings {
    /// How old a tombstone is at least when it is forgotten.
    pub tombstone_grace: Duration,
    /// Hints older than this are given up.
    pub hint_max_age: Duration,
}

impl Default for RepairSettings {
    fn default() -> Self {
        Self {
            tombstone_grace: Duration::from_secs(600),
            hint_max_age: Duration::from_secs(3 * 3600),
        }
    }
}

impl RepairSettings {
    pub fn grace_ms(&self) -> u64 {
        u64::try_from(self.tombstone_grace.as_millis()).unwrap_or(u64::MAX)
    }

    /// The floor that is not below any floor in the cluster at wall time `now_ms`: a floor comes
    /// into force when it is half a grace old, and clocks may be a quarter apart. Who takes on a
    /// partition without knowing its floor starts from this.
    pub fn floor_of_the_unknowing(&self, now_ms: u64) -> Hlc {
        Hlc::from_parts(now_ms.saturating_sub(self.grace_ms() / 4), 0)
    }
}

/// Bytes that repair put on the wire (comparing, handing over what differs, hints, and asking
/// about tombstones), frames included.
#[derive(Debug, Default)]
pub struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

/// A reading of a [`Meter`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
}

impl Meter {
    pub fn add(&self, traffic: Traffic) {
        self.sent.fetch_add(traffic.sent, Ordering::Relaxed);
        self.received.fetch_add(traffic.received, Ordering::Relaxed);
    }

    pub fn read(&self) -> Traffic {
        Traffic {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

impl Traffic {
    pub fn total(self) -> u64 {
        self.sent + self.received
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
    }
}

/// What a frame with this in it takes on the wire, about: its length field and an id come along.
pub fn wire_bytes(body: &impl Serialize) -> u64 {
    let size = postcard::serialize_with_flavor(body, postcard::ser_flavors::Size::default());
    size.map_or(0, |n| n as u64) + 12
}
