//! How soon each replica answers reads, and what follows from it: whom to ask first, and when to
//! ask somebody else as well. Pure; the time comes in as milliseconds of any clock.
//!
//! Promises that a replica which falls silent is passed over from its first late answer on, long
//! before gossip suspects it, and that it is tried again now and then, by one operation at a time.
//! Promises nothing to correctness: a wrong estimate costs time or a question too many.

use std::{collections::HashMap, time::Duration};

use ringmaster_shared::id::NodeId;

/// Bounds of how long an answer is waited for before somebody else is asked as well. The lower one
/// keeps ordinary scheduling from doubling the load, the upper one is what a replica that always
/// took so long may cost once it fails.
const HEDGE_MIN: Duration = Duration::from_millis(2);
pub const HEDGE_MAX: Duration = Duration::from_millis(50);
/// Before anything is known of a replica.
const HEDGE_UNKNOWN: Duration = Duration::from_millis(20);
/// A late replica comes last for so long; doubles with each further late answer.
const PENALTY_MIN_MS: u64 = 100;
const PENALTY_MAX_MS: u64 = 2000;
/// Replicas faster than this are equally good: the order of the partition decides, which spreads
/// the load.
const EQUAL_US: u32 = 1000;
/// A single answer counts as no slower than this, so that one pause is soon forgotten.
const SAMPLE_MAX_US: u32 = 200_000;
/// An estimate loses half of its weight in this time, or who was slow once is never asked again.
const HALF_LIFE_MS: u64 = 1000;

#[derive(Debug, Default)]
pub struct Latencies {
    peers: HashMap<NodeId, Peer>,
}

/// Smoothed mean and deviation as TCP keeps them for its retransmission timer (RFC 6298).
#[derive(Debug, Default)]
struct Peer {
    mean_us: u32,
    deviation_us: u32,
    sampled_ms: u64,
    /// 0 when its last answer was not late.
    late_times: u32,
    late_until_ms: u64,
}

impl Latencies {
    /// `who` answered a read after `took`.
    pub fn answered(&mut self, who: &NodeId, took: Duration, now_ms: u64) {
        let sample =
            u32::try_from(took.as_micros()).map_or(SAMPLE_MAX_US, |us| us.min(SAMPLE_MAX_US));
        let Some(peer) = self.peers.get_mut(who) else {
            let peer = Peer {
                mean_us: sample,
                deviation_us: sample / 2,
                sampled_ms: now_ms,
                ..Peer::default()
            };
            self.peers.insert(who.clone(), peer);
            return;
        };
        let off = sample.abs_diff(peer.mean_us);
        peer.deviation_us = peer.deviation_us - peer.deviation_us / 4 + off / 4;
        peer.mean_us = peer.mean_us - peer.mean_us / 8 + sample / 8;
        peer.sampled_ms = now_ms;
        peer.late_times = 0;
    }

    /// `who` was asked and has not answered in time, or could not.
    pub fn late(&mut self, who: &NodeId, now_ms: u64) {
        let peer = self.peers.entry(who.clone()).or_default();
        peer.late_times = peer.late_times.saturating_add(1);
        peer.late_until_ms = now_ms + peer.penalty_ms();
    }

    /// The replicas from the likeliest to answer soon to the least: this node, those in good
    /// standing by their speed, those in doubt, those that are late.
    pub fn rank(
        &mut self,
        mut replicas: Vec<NodeId>,
        me: &NodeId,
        in_doubt: impl Fn(&NodeId) -> bool,
        now_ms: u64,
    ) -> Vec<NodeId> {
        // stable, so that equals stay in the order of the partition
        replicas.sort_by_cached_key(|id| {
            if id == me {
                return (false, false, 0);
            }
            let peer = self.peers.get_mut(id);
            let (late, speed) = peer.map_or((false, 0), |p| (p.is_late(now_ms), p.speed(now_ms)));
            (late, in_doubt(id), speed + 1)
        });
        replicas
    }

    /// How long to wait for answers of `asked` before somebody else is asked as well.
    pub fn patience(&self, asked: &[NodeId]) -> Duration {
        let each = asked.iter().map(|id| match self.peers.get(id) {
            Some(peer) if peer.sampled_ms > 0 => {
                let us = u64::from(peer.mean_us) + 4 * u64::from(peer.deviation_us);
                Duration::from_micros(us)
            }
            _ => HEDGE_UNKNOWN,
        });
        each.max()
            .unwrap_or(HEDGE_UNKNOWN)
            .clamp(HEDGE_MIN, HEDGE_MAX)
    }
}

impl Peer {
    fn penalty_ms(&self) -> u64 {
        let doublings = self.late_times.saturating_sub(1).min(8);
        (PENALTY_MIN_MS << doublings).min(PENALTY_MAX_MS)
    }

    /// Whether to pass it over. When its time is up one caller is told no and tries it; until that
    /// one knows, the others are still told yes.
    fn is_late(&mut self, now_ms: u64) -> bool {
        if self.late_times == 0 {
            return false;
        }
        if now_ms < self.late_until_ms {
            return true;
        }
        self.late_until_ms = now_ms + self.penalty_ms();
        false
    }

    /// 0 for all that are fast enough, then one more for each doubling.
    fn speed(&self, now_ms: u64) -> u32 {
        let halves = now_ms.saturating_sub(self.sampled_ms) / HALF_LIFE_MS;
        let mean = self
            .mean_us
            .checked_shr(u32::try_from(halves).unwrap_or(u32::MAX));
        (mean.unwrap_or(0) / EQUAL_US)
            .checked_ilog2()
            .map_or(0, |doublings| doublings + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::testing::id;

    fn rank(latencies: &mut Latencies, me: &str, in_doubt: &[&str], now_ms: u64) -> String {
        let replicas = ["a", "b", "c"].map(id).to_vec();
        let doubt = |who: &NodeId| in_doubt.contains(&who.as_str());
        let ranked = latencies.rank(replicas, &id(me), doubt, now_ms);
        ranked.iter().map(NodeId::as_str).collect()
    }

    #[test]
    fn this_node_then_the_fast_then_the_doubtful() {
        let mut latencies = Latencies::default();
        assert_eq!(rank(&mut latencies, "c", &[], 1000), "cab");
        latencies.answered(&id("a"), Duration::from_micros(900), 1000);
        latencies.answered(&id("b"), Duration::from_micros(100), 1000);
        assert_eq!(rank(&mut latencies, "c", &[], 1000), "cab", "equally good");
        latencies.answered(&id("a"), Duration::from_millis(40), 1000);
        assert_eq!(rank(&mut latencies, "x", &[], 1000), "bca");
        assert_eq!(rank(&mut latencies, "x", &["b", "c"], 1000), "abc");
        assert_eq!(rank(&mut latencies, "x", &[], 9000), "abc", "long ago");
    }

    #[test]
    fn who_is_late_comes_last_and_is_tried_by_one_at_a_time() {
        let mut latencies = Latencies::default();
        latencies.answered(&id("a"), Duration::from_micros(100), 1000);
        latencies.late(&id("a"), 1000);
        assert_eq!(rank(&mut latencies, "x", &[], 1000), "bca");
        assert_eq!(rank(&mut latencies, "x", &["b", "c"], 1099), "bca");
        assert_eq!(rank(&mut latencies, "x", &[], 1100), "abc", "one tries it");
        assert_eq!(rank(&mut latencies, "x", &[], 1100), "bca", "and only one");
        latencies.late(&id("a"), 1150);
        assert_eq!(rank(&mut latencies, "x", &[], 1349), "bca", "twice as long");
        latencies.answered(&id("a"), Duration::from_micros(100), 1349);
        assert_eq!(rank(&mut latencies, "x", &[], 1349), "abc");
        for n in 0..100 {
            latencies.late(&id("a"), 2000 + n);
        }
        assert_eq!(rank(&mut latencies, "x", &[], 2100 + PENALTY_MAX_MS), "abc");
    }

    #[test]
    fn patience_follows_what_was_seen_within_bounds() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.patience(&[id("a")]), HEDGE_UNKNOWN);
        for n in 0..200 {
            latencies.answered(&id("a"), Duration::from_micros(300), 1000 + n);
            latencies.answered(&id("b"), Duration::from_millis(10), 1000 + n);
            latencies.answered(&id("c"), Duration::from_secs(5), 1000 + n);
        }
        assert_eq!(latencies.patience(&[id("a")]), HEDGE_MIN);
        let b = latencies.patience(&[id("a"), id("b")]);
        assert!((9..14).contains(&b.as_millis()), "{b:?}");
        assert_eq!(latencies.patience(&[id("c")]), HEDGE_MAX);
    }
}
