//! Requests per second and their 99th percentile over the last ten seconds.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Whole seconds looked back on; the running one does not count.
const WINDOW_S: u64 = 10;
const SLOTS: usize = WINDOW_S as usize + 1;
/// Steps per doubling: an error of at most a fifth.
const STEPS: u32 = 4;
const BANDS: usize = 27 * STEPS as usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Put,
    Get,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub puts_per_s: u32,
    pub gets_per_s: u32,
    /// 0 when there were no requests.
    pub p99_us: u32,
}

#[derive(Clone)]
struct Slot {
    second: u64,
    puts: u32,
    gets: u32,
    bands: [u32; BANDS],
}

/// Shared by reference; recording takes a short lock.
pub struct Rates {
    slots: Mutex<Vec<Slot>>,
}

impl Default for Rates {
    fn default() -> Self {
        let slot = Slot {
            second: 0,
            puts: 0,
            gets: 0,
            bands: [0; BANDS],
        };
        Self {
            slots: Mutex::new(vec![slot; SLOTS]),
        }
    }
}

impl Rates {
    pub fn record(&self, now_s: u64, kind: Kind, took: Duration) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut slots[(now_s % SLOTS as u64) as usize];
        if slot.second != now_s {
            *slot = Slot {
                second: now_s,
                puts: 0,
                gets: 0,
                bands: [0; BANDS],
            };
        }
        match kind {
            Kind::Put => slot.puts += 1,
            Kind::Get => slot.gets += 1,
        }
        slot.bands[band_of(took)] += 1;
    }

    pub fn summary(&self, now_s: u64) -> Summary {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = || {
            slots
                .iter()
                .filter(|s| s.second < now_s && s.second + WINDOW_S >= now_s)
        };
        let mut bands = [0_u64; BANDS];
        for slot in recent() {
            for (sum, n) in bands.iter_mut().zip(&slot.bands) {
                *sum += u64::from(*n);
            }
        }
        let per_second = |count: fn(&Slot) -> u32| {
            let sum: u64 = recent().map(|s| u64::from(count(s))).sum();
            (sum.div_ceil(WINDOW_S)) as u32
        };
        Summary {
            puts_per_s: per_second(|s| s.puts),
            gets_per_s: per_second(|s| s.gets),
            p99_us: percentile_99(&bands),
        }
    }
}

fn band_of(took: Duration) -> usize {
    let us = took.as_micros().clamp(1, u128::from(u32::MAX)) as u32;
    let doubling = us.ilog2();
    // the two bits below the leading one
    let step = if doubling >= 2 {
        (us >> (doubling - 2)) & (STEPS - 1)
    } else {
        STEPS - 1
    };
    ((doubling * STEPS + step) as usize).min(BANDS - 1)
}

/// Upper edge of a band, microseconds.
fn edge_of(band: usize) -> u32 {
    let (doubling, step) = (band as u32 / STEPS, band as u32 % STEPS);
    let width = 1_u64 << doubling;
    (width + width * u64::from(step + 1) / u64::from(STEPS)) as u32
}

fn percentile_99(bands: &[u64; BANDS]) -> u32 {
    let total: u64 = bands.iter().sum();
    if total == 0 {
        return 0;
    }
    let wanted = (total * 99).div_ceil(100);
    let mut below = 0;
    for (band, n) in bands.iter().enumerate() {
        below += n;
        if below >= wanted {
            return edge_of(band);
        }
    }
    u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let rates = Rates::default();
        for _ in 0..30 {
            rates.record(100, Kind::Put, Duration::from_micros(100));
        }
        rates.record(101, Kind::Get, Duration::from_millis(50));
        assert_eq!(
            rates.summary(100),
            Summary::default(),
            "the running second is not over"
        );
        let now = rates.summary(102);
        assert_eq!((now.puts_per_s, now.gets_per_s), (3, 1));
        assert!((50_000..=65_000).contains(&now.p99_us), "{now:?}");
        let later = rates.summary(111);
        assert_eq!((later.puts_per_s, later.gets_per_s), (0, 1));
        assert_eq!(rates.summary(130), Summary::default());
    }

    #[test]
    fn bands_cover_all_times_within_a_quarter() {
        for us in [1_u64, 2, 3, 5, 100, 999, 12_345, 1_000_000, 60_000_000] {
            let edge = u64::from(edge_of(band_of(Duration::from_micros(us))));
            assert!(edge >= us && edge <= us * 2, "{us} us ends at {edge}");
        }
        assert_eq!(band_of(Duration::from_secs(100_000)), BANDS - 1);
    }
}
