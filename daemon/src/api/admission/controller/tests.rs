use std::{cmp::Reverse, collections::BinaryHeap};

use proptest::prelude::*;

use super::*;

fn bounds() -> Bounds {
    Bounds {
        requests: 512,
        bytes: 256 * MIB,
        value_bytes: MIB,
        timeout: Duration::from_secs(5),
    }
}

/// A node with one disk: an operation takes a base time, and bytes go through one after another.
struct Disk {
    base: Duration,
    per_mib: Duration,
    per_operation: Duration,
    free_at: Duration,
}

impl Disk {
    fn ends(&mut self, now: Duration, bytes: usize) -> Duration {
        let begin = self.free_at.max(now);
        let share = bytes as f64 / MIB as f64;
        self.free_at = begin + self.per_mib.mul_f64(share) + self.per_operation;
        self.free_at + self.base
    }
}

#[derive(Debug, Default)]
struct Outcome {
    admitted: Vec<Duration>,
    refused: usize,
}

impl Outcome {
    fn percentile(&mut self, p: usize) -> Duration {
        self.admitted.sort();
        let last = self.admitted.len().saturating_sub(1);
        self.admitted
            .get(last * p / 100)
            .copied()
            .unwrap_or_default()
    }
}

/// Clients of one size that ask again at once after an answer and a moment after a refusal.
fn offered(clients: &[(usize, usize)], disk: &mut Disk, length: Duration) -> Vec<Outcome> {
    let mut controller = Controller::new(bounds());
    let mut outcomes: Vec<Outcome> = clients.iter().map(|_| Outcome::default()).collect();
    // (when, kind, began); a beginning has no start yet
    let mut events = BinaryHeap::new();
    for (kind, (count, _)) in clients.iter().enumerate() {
        for n in 0..*count {
            let at = Duration::from_micros(n as u64 * 37);
            events.push(Reverse((at, kind, None::<Duration>)));
        }
    }
    while let Some(Reverse((now, kind, began))) = events.pop() {
        if now > length {
            break;
        }
        let bytes = clients[kind].1;
        let cost = Cost::of_bytes(bytes);
        if let Some(began) = began {
            let took = now.saturating_sub(began);
            controller.leave(cost, Some(took), now);
            // what was learned in the first second is not counted against it
            if began > Duration::from_secs(1) {
                outcomes[kind].admitted.push(took);
            }
            events.push(Reverse((now + Duration::from_millis(1), kind, None)));
        } else if controller.enter(cost).is_ok() {
            let ends = disk.ends(now, bytes);
            events.push(Reverse((ends, kind, Some(now))));
        } else {
            outcomes[kind].refused += 1;
            events.push(Reverse((now + Duration::from_millis(50), kind, None)));
        }
    }
    outcomes
}

fn slow_disk() -> Disk {
    Disk {
        base: Duration::from_millis(5),
        per_mib: Duration::from_millis(80),
        per_operation: Duration::from_micros(50),
        free_at: Duration::ZERO,
    }
}

#[test]
fn large_values_past_capacity_are_refused_and_the_rest_stays_quick() {
    // 64 at once would take 64 x 80 ms: longer than the deadline of 5 s
    let mut all = offered(&[(64, MIB)], &mut slow_disk(), Duration::from_secs(30));
    let large = &mut all[0];
    assert!(large.refused > 100, "{}", large.refused);
    assert!(
        large.admitted.len() > 200,
        "the disk is kept busy: {}",
        large.admitted.len()
    );
    assert!(
        large.percentile(99) < Duration::from_secs(2),
        "{:?}",
        large.percentile(99)
    );
}

#[test]
fn large_values_give_way_to_small_ones() {
    let alone = offered(&[(8, 100)], &mut slow_disk(), Duration::from_secs(10))[0].percentile(50);
    let mut all = offered(
        &[(8, 100), (64, MIB)],
        &mut slow_disk(),
        Duration::from_secs(30),
    );
    let beside = all[0].percentile(50);
    assert!(all[1].refused > 100 && all[1].admitted.len() > 100);
    // a disk that takes 80 ms for one value cannot do better than a few of these
    assert!(
        beside < alone + Duration::from_millis(400),
        "{alone:?} {beside:?}"
    );
}

#[test]
fn large_values_give_way_long_before_small_ones_are_late() {
    // three at once make a small one wait for 60 ms, far below what counts as late
    let disk = || Disk {
        base: Duration::from_millis(1),
        per_mib: Duration::from_millis(20),
        per_operation: Duration::from_micros(50),
        free_at: Duration::ZERO,
    };
    let crowd = [(6, 100), (64, MIB)];
    let mut all = offered(&crowd, &mut disk(), Duration::from_secs(30));
    let beside = all[0].percentile(50);
    assert!(beside < Duration::from_millis(80), "{beside:?}");
    assert_eq!(all[0].refused, 0, "small ones are not what is too much");
    assert!(all[1].admitted.len() > 300, "{}", all[1].admitted.len());
}

#[test]
fn what_fits_is_never_refused_and_limits_grow() {
    let quick = || Disk {
        base: Duration::from_millis(5),
        per_mib: Duration::from_millis(1),
        per_operation: Duration::from_micros(10),
        free_at: Duration::ZERO,
    };
    let all = offered(&[(100, 100)], &mut quick(), Duration::from_secs(5));
    assert_eq!(all[0].refused, 0);
    // more than the first limit, but the node can do it: soon nobody is refused
    let all = offered(&[(400, 100)], &mut quick(), Duration::from_secs(30));
    assert!(
        all[0].admitted.len() > 50 * all[0].refused,
        "{}",
        all[0].refused
    );
}

#[test]
fn one_of_each_lane_always_gets_in() {
    let tiny = Bounds {
        requests: 4,
        bytes: 1024,
        ..bounds()
    };
    let mut controller = Controller::new(tiny);
    let (small, large) = (Cost::of_bytes(10), Cost::of_bytes(MIB));
    assert_eq!(controller.enter(large), Ok(()));
    assert_eq!(controller.enter(large), Err(Refusal::Large { limit: 1024 }));
    for _ in 0..3 {
        assert_eq!(controller.enter(small), Ok(()));
    }
    assert_eq!(controller.room(small), Err(Refusal::Requests { limit: 4 }));
    controller.leave(large, None, Duration::ZERO);
    assert_eq!(controller.enter(large), Ok(()));
}

proptest! {
    /// Whatever comes and however long it takes: limits stay within their bounds, and what is
    /// in use is what was let in and has not left.
    #[test]
    fn counts_are_exact_and_limits_bounded(
        steps in prop::collection::vec((any::<bool>(), 0_usize..3_000_000, 0_u64..9_000), 0..400),
    ) {
        let mut controller = Controller::new(bounds());
        let mut inside: Vec<Cost> = Vec::new();
        let mut now = Duration::ZERO;
        for (enter, bytes, ms) in steps {
            now += Duration::from_millis(ms / 20);
            if enter {
                let cost = Cost::of_bytes(bytes);
                let room = controller.room(cost);
                prop_assert_eq!(controller.enter(cost), room);
                if room.is_ok() {
                    inside.push(cost);
                }
            } else if !inside.is_empty() {
                let cost = inside.remove(bytes % inside.len());
                controller.leave(cost, Some(Duration::from_millis(ms)), now);
            }
            let load = controller.load();
            let used = |lane| inside.iter().filter(|c| c.lane == lane).map(|c| c.units).sum();
            prop_assert_eq!(load.requests, inside.len());
            prop_assert_eq!((load.small.0, load.large.0), (used(Lane::Small), used(Lane::Large)));
            prop_assert!((16..=512).contains(&load.small.1), "{:?}", load);
            prop_assert!((MIB..=256 * MIB).contains(&load.large.1), "{:?}", load);
        }
    }
}
