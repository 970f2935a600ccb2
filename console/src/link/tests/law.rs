//! What holds whatever the network does.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::Index};

use crate::link::*;

/// One thing a network can do.
#[derive(Debug, Clone)]
enum Act {
    Wait(u64),
    ToDeadline,
    /// Whether its node sees only itself.
    Snapshot(Index, bool),
    /// What it tells of that, if anything.
    Other(Index, u64, Option<bool>),
    EndFeed(Index),
    AnswerPoll(Index, bool),
    FailPoll(Index),
    Asked(u8, bool),
    Members(Vec<u8>),
    RetryNow,
}

fn act() -> impl Strategy<Value = Act> {
    let index = any::<Index>;
    prop_oneof![
        3 => (0u64..3_000).prop_map(Act::Wait),
        4 => Just(Act::ToDeadline),
        4 => (index(), any::<bool>()).prop_map(|(i, alone)| Act::Snapshot(i, alone)),
        4 => (index(), 0u64..6, any::<Option<bool>>()).prop_map(|(i, n, alone)| Act::Other(i, n, alone)),
        2 => index().prop_map(Act::EndFeed),
        2 => (index(), any::<bool>()).prop_map(|(i, alone)| Act::AnswerPoll(i, alone)),
        2 => index().prop_map(Act::FailPoll),
        1 => (0u8..4, any::<bool>()).prop_map(|(n, ok)| Act::Asked(n, ok)),
        1 => proptest::collection::vec(0u8..6, 0..5).prop_map(Act::Members),
        1 => Just(Act::RetryNow),
    ]
}

/// What an honest observer of the wires knows.
#[derive(Default)]
struct Wires {
    /// Feeds open: when the last frame came, once a snapshot did.
    feeds: BTreeMap<TryId, Option<u64>>,
    /// Those whose nodes told that they see the others, with a snapshot or after one.
    seeing: BTreeSet<TryId>,
    polls: Vec<TryId>,
    rest_ok_ms: Option<u64>,
}

impl Wires {
    fn follow(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::OpenFeed { id, .. } => {
                    self.feeds.insert(id, None);
                }
                Output::CloseFeed { id } => {
                    self.feeds.remove(&id);
                    self.seeing.remove(&id);
                }
                Output::Poll { id, .. } => self.polls.push(id),
            }
        }
    }

    fn feed(&self, index: Index) -> Option<TryId> {
        let ids: Vec<TryId> = self.feeds.keys().copied().collect();
        (!ids.is_empty()).then(|| *index.get(&ids))
    }

    fn take_poll(&mut self, index: Index) -> Option<TryId> {
        (!self.polls.is_empty()).then(|| self.polls.swap_remove(index.index(self.polls.len())))
    }

    /// The input that `act` is now, if it is one.
    fn input(&mut self, act: &Act, now_ms: u64) -> Option<Input> {
        let address = |n: u8| format!("{n}:1");
        let reason = "broken".to_owned();
        Some(match act {
            Act::Wait(_) | Act::ToDeadline => Input::Tick,
            Act::Snapshot(i, alone) => {
                let id = self.feed(*i)?;
                self.feeds.insert(id, Some(now_ms));
                // nobody loses sight of the others within a life
                let alone = Some(*alone && !self.seeing.contains(&id));
                if alone == Some(false) {
                    self.seeing.insert(id);
                }
                let kind = FrameKind::Snapshot { seq: now_ms };
                Input::Frame { id, kind, alone }
            }
            Act::Other(i, seq, alone) => {
                let id = self.feed(*i)?;
                if let Some(Some(last)) = self.feeds.get_mut(&id) {
                    *last = now_ms;
                    if *alone == Some(false) {
                        self.seeing.insert(id);
                    }
                }
                let kind = FrameKind::Other { seq: *seq };
                let alone = *alone;
                Input::Frame { id, kind, alone }
            }
            Act::EndFeed(i) => {
                let id = self.feed(*i)?;
                self.feeds.remove(&id);
                self.seeing.remove(&id);
                Input::FeedEnded { id, reason }
            }
            Act::AnswerPoll(i, alone) => {
                let id = self.take_poll(*i)?;
                self.rest_ok_ms = Some(now_ms);
                let (rtt_ms, alone) = (1, *alone);
                Input::PollAnswered { id, rtt_ms, alone }
            }
            Act::FailPoll(i) => {
                let id = self.take_poll(*i)?;
                Input::PollFailed { id, reason }
            }
            Act::Asked(n, ok) => {
                if *ok {
                    self.rest_ok_ms = Some(now_ms);
                }
                let result = if *ok { Ok(()) } else { Err(reason) };
                let address = address(*n);
                Input::Asked { address, result }
            }
            Act::Members(ns) => Input::Members(ns.iter().map(|n| address(*n)).collect()),
            Act::RetryNow => Input::RetryNow,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_word_is_never_better_than_the_wires(
        acts in proptest::collection::vec((act(), 0.0f64..1.0), 1..150)
    ) {
        let mut now_ms = 0;
        let mut wires = Wires::default();
        let mut link = Link::new(&["0:1".into(), "1:1".into(), "2:1".into()], now_ms);
        wires.follow(link.handle(Input::Tick, now_ms, 0.5));
        for (act, roll) in acts {
            match act {
                Act::Wait(ms) => now_ms += ms,
                // At least one, so that time passes even when something is due.
                Act::ToDeadline => now_ms = link.deadline_ms().clamp(now_ms + 1, now_ms + 10_000),
                _ => {}
            }
            // The driver ticks whenever a deadline has passed.
            wires.follow(link.handle(Input::Tick, now_ms, roll));
            if let Some(input) = wires.input(&act, now_ms) {
                wires.follow(link.handle(input, now_ms, roll));
            }
            let fresh = |t: &Option<u64>| t.is_some_and(|t| now_ms - t <= FRAME_DEADLINE_MS);
            match link.state() {
                LinkState::Connected => {
                    prop_assert!(wires.feeds.values().any(fresh), "Connected without a fresh frame");
                    let live: Vec<_> = wires.feeds.keys().filter(|id| link.is_live(**id)).collect();
                    prop_assert_eq!(live.len(), 1, "one is believed");
                    let sees = wires.seeing.contains(live[0]);
                    prop_assert_eq!(link.is_makeshift(), !sees);
                    if sees {
                        prop_assert_eq!(wires.feeds.len(), 1, "losers are closed");
                    }
                    prop_assert!(sees || wires.seeing.is_empty(), "a better one is open");
                }
                LinkState::Fallback => {
                    let ok = wires.rest_ok_ms.is_some_and(|t| now_ms - t <= REST_FRESH_MS);
                    prop_assert!(ok, "Fallback Mode without a fresh answer");
                }
                LinkState::Disconnected => {}
            }
            let wait = link.deadline_ms().saturating_sub(now_ms);
            prop_assert!(wait <= BACKOFF_MAX_MS, "nothing happens for {} ms", wait);
            prop_assert!(wires.feeds.len() <= 8, "too many feeds at once");
        }
    }

    #[test]
    fn an_endpoint_that_works_is_found(
        noise in proptest::collection::vec((act(), 0.0f64..1.0), 0..80),
        good in 0usize..3,
        others_are_held: bool,
    ) {
        let mut now_ms = 0;
        let mut wires = Wires::default();
        let names = ["0:1".to_owned(), "1:1".to_owned(), "2:1".to_owned()];
        let mut link = Link::new(&names, now_ms);
        for (act, roll) in noise {
            now_ms += 50;
            if let Some(input) = wires.input(&act, now_ms) {
                wires.follow(link.handle(input, now_ms, roll));
            }
        }
        // From here on one endpoint works, and the others refuse or see only themselves.
        let until = now_ms + 60_000;
        let found = |link: &Link| {
            link.state() == LinkState::Connected && link.endpoint() == Some(&names[good])
        };
        let (mut open, mut seq) = (BTreeSet::new(), 1);
        while !found(&link) && now_ms < until {
            seq += 1;
            let mut todo = link.handle(Input::Tick, now_ms, 1.0);
            for id in open.clone() {
                let kind = FrameKind::Other { seq };
                let alone = None;
                todo.extend(link.handle(Input::Frame { id, kind, alone }, now_ms, 1.0));
            }
            while let Some(output) = todo.pop() {
                let (id, address) = match output {
                    Output::OpenFeed { id, address } => (id, address),
                    Output::CloseFeed { id } => {
                        open.remove(&id);
                        continue;
                    }
                    Output::Poll { .. } => continue,
                };
                let is_good = address == names[good];
                let reason = "refused".to_owned();
                let input = if is_good || others_are_held {
                    open.insert(id);
                    let kind = FrameKind::Snapshot { seq };
                    let alone = Some(!is_good);
                    Input::Frame { id, kind, alone }
                } else {
                    Input::FeedEnded { id, reason }
                };
                todo.extend(link.handle(input, now_ms, 1.0));
            }
            now_ms = link.deadline_ms().clamp(now_ms + 1, now_ms + 500);
        }
        prop_assert!(found(&link), "{:?} at {:?}", link.state(), link.endpoint());
    }
}
