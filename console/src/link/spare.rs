//! The feed of a node that sees only itself: kept open beside the search for a better one, believed
//! when a whole round brought none, left when somebody who sees the cluster delivers.

use super::{Feed, Link, Live, Output};

/// The feed of a node that sees only itself, open beside the search for a better one.
#[derive(Debug, Clone)]
pub(super) struct Spare {
    pub(super) live: Live,
    /// A whole round brought nothing better: it is believed.
    pub(super) taken: bool,
}

impl Link {
    /// Its node sees the others now.
    pub(super) fn promote_spare(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let Some(spare) = self.spare.clone() else {
            return;
        };
        self.go_live(spare.live, now_ms, out);
        if !spare.taken {
            // its snapshot was not believed when it came
            self.poll_at_ms = Some(now_ms);
        }
    }

    /// Nobody delivered anything better in a whole round.
    pub(super) fn take_spare(&mut self, now_ms: u64) {
        let Some(spare) = self.spare.as_mut().filter(|spare| !spare.taken) else {
            return;
        };
        spare.taken = true;
        let (address, since) = (spare.live.address.clone(), spare.live.last_frame_ms);
        self.believe(&address, now_ms);
        if since < now_ms {
            // its snapshot came before
            self.poll_at_ms = Some(now_ms);
        }
    }

    pub(super) fn lose_spare(&mut self, reason: &str, now_ms: u64) {
        let Some(spare) = self.spare.take() else {
            return;
        };
        self.endpoints.ws_down(&spare.live.address, reason);
        if spare.taken {
            self.poll_at_ms = Some(now_ms);
            self.rtt_ms = None;
            if let Feed::Resting { until_ms } = &mut self.feed {
                *until_ms = now_ms;
            }
        }
    }
}
