//! One probe: asked directly, then through others and over TCP, until its time is over.
//!
//! Pure bookkeeping; `probing.rs` sends and judges. Promises: a probe ends once, by its first
//! answer or by its end; only the helpers that were asked can speak for the target.

use ringmaster_shared::{id::NodeId, member::Freshness};

/// How long a probe waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the direct answer, before others are asked.
    pub direct_ms: u64,
    /// All in all.
    pub whole_ms: u64,
}

/// A probe under way.
#[derive(Debug)]
pub struct Probe {
    pub seq: u32,
    pub target: NodeId,
    /// What was held of it when the probe began; if it spoke up since, the probe is void.
    pub freshness: Freshness,
    pub started_ms: u64,
    asks_ms: u64,
    ends_ms: u64,
    /// None until others are asked.
    helpers: Option<Vec<Helper>>,
    answers_tcp: bool,
    /// It was given a fresh chance because this node stood still.
    postponed: bool,
}

#[derive(Debug)]
struct Helper {
    id: NodeId,
    nacked: bool,
}

/// How a probe ended that no ping answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It does answer over TCP; so many requests over UDP, those through others included, were
    /// lost on the way.
    OnlyTcp { lost: u32 },
    /// `missing` of those that were asked to help gave no sign of life either, or nobody could
    /// be asked: it may well be this node that does not hear.
    Unanswered { missing: u32 },
}

impl Probe {
    pub fn begin(
        seq: u32,
        target: NodeId,
        freshness: Freshness,
        now_ms: u64,
        patience: Patience,
    ) -> Self {
        let asks_ms = now_ms.saturating_add(patience.direct_ms);
        Self {
            seq,
            target,
            freshness,
            started_ms: now_ms,
            asks_ms,
            // others get time to answer, whatever is configured
            ends_ms: now_ms
                .saturating_add(patience.whole_ms)
                .max(asks_ms.saturating_add(1)),
            helpers: None,
            answers_tcp: false,
            postponed: false,
        }
    }

    /// When the probe next needs a decision.
    pub fn next_step_ms(&self) -> u64 {
        if self.helpers.is_some() {
            self.ends_ms
        } else {
            self.asks_ms
        }
    }

    /// How long answers still count.
    pub fn left_ms(&self, now_ms: u64) -> u64 {
        self.ends_ms.saturating_sub(now_ms)
    }

    /// Whether it is time to ask others.
    pub fn wants_help(&self, now_ms: u64) -> bool {
        self.helpers.is_none() && now_ms >= self.asks_ms
    }

    pub fn asked(&mut self, helpers: impl IntoIterator<Item = NodeId>) {
        let helper = |id| Helper { id, nacked: false };
        self.helpers = Some(helpers.into_iter().map(helper).collect());
    }

    /// Whether `by` was asked, so that it may speak for the target.
    pub fn has_helper(&self, by: &NodeId) -> bool {
        self.helpers.iter().flatten().any(|h| h.id == *by)
    }

    /// A helper is well, but got no answer from the target.
    pub fn nacked(&mut self, by: &NodeId) {
        let mut helpers = self.helpers.iter_mut().flatten();
        if let Some(helper) = helpers.find(|h| h.id == *by) {
            helper.nacked = true;
        }
    }

    pub fn answered_over_tcp(&mut self) {
        self.answers_tcp = true;
    }

    /// This node itself stood still for `late_ms`, which does not count. Answers may still wait
    /// in the socket, so there is at least `patience_ms` for them from now on; but only once, or
    /// a node that is late all the time would never end a probe.
    pub fn postpone(&mut self, now_ms: u64, late_ms: u64, patience_ms: u64) {
        let fresh = if std::mem::replace(&mut self.postponed, true) {
            0
        } else {
            now_ms.saturating_add(patience_ms)
        };
        let later = |due: u64| due.saturating_add(late_ms).max(fresh);
        self.asks_ms = later(self.asks_ms);
        self.ends_ms = later(self.ends_ms).max(self.asks_ms.saturating_add(1));
    }

    /// How it ended, when its time is over.
    pub fn end(&self, now_ms: u64) -> Option<End> {
        let helpers = self.helpers.as_ref()?;
        if now_ms < self.ends_ms {
            return None;
        }
        if self.answers_tcp {
            let lost = helpers.len() as u32 + 1;
            return Some(End::OnlyTcp { lost });
        }
        let missing = match helpers.len() {
            0 => 1,
            _ => helpers.iter().filter(|h| !h.nacked).count() as u32,
        };
        Some(End::Unanswered { missing })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::testing::id, *};

    const PATIENCE: Patience = Patience {
        direct_ms: 500,
        whole_ms: 1000,
    };

    fn probe() -> Probe {
        Probe::begin(7, id("t"), (1, 0), 100, PATIENCE)
    }

    #[test]
    fn others_are_asked_once_and_the_missing_are_counted() {
        for (helpers, nacks, missing) in [
            (vec![], vec![], 1),
            (vec!["a", "b", "c"], vec![], 3),
            (vec!["a", "b", "c"], vec!["a", "a", "stranger"], 2),
            (vec!["a", "b", "c"], vec!["a", "b", "c"], 0),
        ] {
            let mut probe = probe();
            assert!(!probe.wants_help(599) && probe.wants_help(600));
            assert_eq!(probe.next_step_ms(), 600);
            probe.asked(helpers.into_iter().map(id));
            assert!(!probe.wants_help(600));
            assert_eq!(probe.next_step_ms(), 1100);
            for by in nacks {
                probe.nacked(&id(by));
            }
            assert_eq!(probe.end(1099), None);
            assert_eq!(probe.end(1100), Some(End::Unanswered { missing }));
        }
    }

    #[test]
    fn standing_still_gives_a_fresh_chance() {
        let mut probe = probe();
        probe.postpone(10_000, 9_400, 500);
        assert_eq!(probe.next_step_ms(), 10_500, "600 + 9400, but not at once");
        probe.asked([id("a")]);
        assert_eq!(probe.next_step_ms(), 10_501);
        probe.postpone(10_400, 10, 500);
        assert_eq!(probe.next_step_ms(), 10_511, "once");
    }

    #[test]
    fn others_get_time_even_with_odd_settings() {
        let odd = Patience {
            direct_ms: 800,
            whole_ms: 300,
        };
        let mut probe = Probe::begin(1, id("t"), (1, 0), 0, odd);
        assert_eq!(probe.next_step_ms(), 800);
        probe.asked([]);
        assert_eq!(probe.next_step_ms(), 801);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Wait(u64),
        Nack(usize),
        Tcp,
        StoodStill(u64),
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..700u64).prop_map(Event::Wait),
            (0..5usize).prop_map(Event::Nack),
            Just(Event::Tcp),
            (0..5000u64).prop_map(Event::StoodStill),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: others are asked once and before the end, the end
        /// comes when its time is over and no sooner, TCP decides, nacks only count once and
        /// from those asked.
        #[test]
        fn any_order_of_answers_ends_it_once(events in prop::collection::vec(any_event(), 0..40)) {
            let names: Vec<NodeId> = ["a", "b", "c", "x", "y"].map(id).to_vec();
            let (mut probe, mut now, mut asked, mut tcp) = (probe(), 100, None, false);
            let (mut heard, mut postponed) = (std::collections::BTreeSet::new(), false);
            for event in events.into_iter().chain([Event::Wait(1_000_000), Event::Wait(0)]) {
                match event {
                    Event::Wait(ms) => now += ms,
                    Event::Nack(n) => {
                        probe.nacked(&names[n]);
                        prop_assert_eq!(probe.has_helper(&names[n]), asked.is_some() && n < 3);
                        if asked.is_some() && n < 3 {
                            heard.insert(n);
                        }
                    }
                    Event::Tcp => {
                        probe.answered_over_tcp();
                        tcp = true;
                    }
                    Event::StoodStill(late) => {
                        now += late;
                        let before = probe.next_step_ms();
                        probe.postpone(now, late, 500);
                        let fresh = if postponed { 0 } else { now + 500 };
                        prop_assert!(probe.next_step_ms() >= (before + late).max(fresh));
                        postponed = true;
                    }
                }
                let due = probe.next_step_ms();
                if probe.wants_help(now) {
                    prop_assert!(asked.is_none() && now >= due);
                    prop_assert_eq!(probe.end(now), None);
                    probe.asked(names[..3].iter().cloned());
                    asked = Some(now);
                }
                let due = probe.next_step_ms();
                prop_assert_eq!(probe.end(now).is_some(), asked.is_some() && now >= due);
                match probe.end(now) {
                    Some(End::OnlyTcp { lost }) => prop_assert!(tcp && lost == 4),
                    Some(End::Unanswered { missing }) => {
                        prop_assert!(!tcp);
                        prop_assert_eq!(missing as usize, 3 - heard.len());
                    }
                    None => {}
                }
            }
            prop_assert!(probe.end(now).is_some());
        }
    }
}
