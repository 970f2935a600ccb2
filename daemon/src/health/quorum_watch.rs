//! When quorum was lost and when it came back. Pure; the time is handed in.

use ringmaster_shared::quorum::PartitionCounts;

/// After a start nobody has been heard of yet; only a lasting lack is news.
const SETTLE_MS: u64 = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuorumChange {
    Lost { unavailable: u16, total: u16 },
    Regained { after_ms: u64 },
}

#[derive(Debug, Default)]
pub struct QuorumWatch {
    /// When the first counts came.
    first_ms: Option<u64>,
    had_quorum: bool,
    lost_at_ms: Option<u64>,
}

impl QuorumWatch {
    pub fn observe(&mut self, now_ms: u64, counts: PartitionCounts) -> Option<QuorumChange> {
        if counts.total == 0 {
            return None;
        }
        let first = *self.first_ms.get_or_insert(now_ms);
        if counts.unavailable == 0 {
            self.had_quorum = true;
            let lost_at = self.lost_at_ms.take()?;
            let after_ms = now_ms.saturating_sub(lost_at);
            return Some(QuorumChange::Regained { after_ms });
        }
        let settled = self.had_quorum || now_ms.saturating_sub(first) >= SETTLE_MS;
        if self.lost_at_ms.is_some() || !settled {
            return None;
        }
        self.lost_at_ms = Some(now_ms);
        Some(QuorumChange::Lost {
            unavailable: counts.unavailable,
            total: counts.total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let counts = |unavailable| PartitionCounts {
            total: 4,
            unavailable,
            ..Default::default()
        };
        let lost = |unavailable| {
            Some(QuorumChange::Lost {
                unavailable,
                total: 4,
            })
        };
        let mut fresh = QuorumWatch::default();
        assert_eq!(fresh.observe(0, PartitionCounts::default()), None);
        assert_eq!(fresh.observe(0, counts(4)), None, "just started");
        assert_eq!(fresh.observe(4_999, counts(4)), None);
        assert_eq!(fresh.observe(5_000, counts(4)), lost(4));
        assert_eq!(fresh.observe(5_001, counts(3)), None, "told already");
        assert_eq!(
            fresh.observe(6_000, counts(0)),
            Some(QuorumChange::Regained { after_ms: 1_000 })
        );
        assert_eq!(fresh.observe(6_001, counts(0)), None);
        assert_eq!(
            fresh.observe(6_002, counts(1)),
            lost(1),
            "at once when it was there"
        );
    }
}
