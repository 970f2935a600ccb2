//! The machine by example: one endpoint after the other, falling back, coming back.

use crate::link::*;

const ROLL: f64 = 0.5;

fn link(endpoints: &[&str]) -> Link {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    Link::new(&endpoints, 0)
}

fn tick(link: &mut Link, now_ms: u64) -> Vec<Output> {
    link.handle(Input::Tick, now_ms, ROLL)
}

fn feeds(outputs: &[Output]) -> Vec<(TryId, &str)> {
    let feed = |o: &'_ Output| match o {
        Output::OpenFeed { id, .. } => Some(*id),
        Output::CloseFeed { .. } | Output::Poll { .. } => None,
    };
    let address = |id: TryId| {
        outputs.iter().find_map(|o| match o {
            Output::OpenFeed { id: i, address } if *i == id => Some(address.as_str()),
            _ => None,
        })
    };
    let ids = outputs.iter().filter_map(feed);
    ids.filter_map(|id| Some((id, address(id)?))).collect()
}

fn polls(outputs: &[Output]) -> Vec<(TryId, &str)> {
    let poll = |o: &'_ Output| match o {
        Output::Poll { id, address } => Some((*id, address.clone())),
        Output::OpenFeed { .. } | Output::CloseFeed { .. } => None,
    };
    let found: Vec<(TryId, String)> = outputs.iter().filter_map(poll).collect();
    found
        .into_iter()
        .filter_map(|(id, address)| {
            let text = outputs.iter().find_map(|o| match o {
                Output::Poll { address: a, .. } if *a == address => Some(a.as_str()),
                _ => None,
            });
            Some((id, text?))
        })
        .collect()
}

fn snapshot(id: TryId, seq: u64) -> Input {
    let kind = FrameKind::Snapshot { seq };
    let alone = Some(false);
    Input::Frame { id, kind, alone }
}

/// The snapshot of a node that sees only itself.
fn lonely(id: TryId, seq: u64) -> Input {
    let kind = FrameKind::Snapshot { seq };
    let alone = Some(true);
    Input::Frame { id, kind, alone }
}

fn other(id: TryId, seq: u64) -> Input {
    let kind = FrameKind::Other { seq };
    let alone = None;
    Input::Frame { id, kind, alone }
}

fn ended(id: TryId) -> Input {
    let reason = "connection refused".to_owned();
    Input::FeedEnded { id, reason }
}

fn answered(id: TryId, rtt_ms: u64, alone: bool) -> Input {
    Input::PollAnswered { id, rtt_ms, alone }
}

fn closed(outputs: &[Output]) -> Vec<TryId> {
    let id = |o: &Output| match o {
        Output::CloseFeed { id } => Some(*id),
        Output::OpenFeed { .. } | Output::Poll { .. } => None,
    };
    outputs.iter().filter_map(id).collect()
}

/// A machine that is connected to `a:1` by try 1, since millisecond 10.
fn connected(endpoints: &[&str]) -> Link {
    let mut l = link(endpoints);
    let out = tick(&mut l, 0);
    assert_eq!(feeds(&out), [(1, endpoints[0])]);
    assert!(l.handle(snapshot(1, 1), 10, ROLL).is_empty());
    assert_eq!(l.state(), LinkState::Connected);
    l
}

#[test]
fn a_healthy_start_never_looks_like_a_fallback() {
    let mut l = link(&["a:1", "b:1"]);
    assert_eq!(l.state(), LinkState::Disconnected);
    tick(&mut l, 0);
    let asked = Input::Asked {
        address: "b:1".into(),
        result: Ok(()),
    };
    l.handle(asked, 5, ROLL);
    assert_eq!(l.state(), LinkState::Disconnected);
    assert!(l.handle(other(1, 1), 8, ROLL).is_empty());
    assert_eq!(l.state(), LinkState::Disconnected, "no snapshot yet");
    l.handle(snapshot(1, 2), 10, ROLL);
    assert_eq!(l.state(), LinkState::Connected);
    assert_eq!(l.endpoint(), Some("a:1"));
}

#[test]
fn a_refused_endpoint_gives_way_to_the_next_at_once() {
    let mut l = link(&["a:1", "b:1"]);
    tick(&mut l, 0);
    let out = l.handle(ended(1), 1, ROLL);
    assert_eq!(feeds(&out), [(2, "b:1")]);
    l.handle(snapshot(2, 1), 3, ROLL);
    assert_eq!(
        (l.state(), l.endpoint()),
        (LinkState::Connected, Some("b:1"))
    );
}

#[test]
fn a_silent_endpoint_is_hedged_and_the_loser_closed() {
    let mut l = link(&["a:1", "b:1"]);
    tick(&mut l, 0);
    assert!(feeds(&tick(&mut l, HEDGE_MS - 1)).is_empty());
    let out = tick(&mut l, HEDGE_MS);
    let feed = feeds(&out);
    assert_eq!(feed.len(), 1);
    assert_eq!(feed[0].1, "b:1");
    let second = feed[0].0;
    let out = l.handle(snapshot(second, 1), 310, ROLL);
    assert_eq!(out, [Output::CloseFeed { id: 1 }]);
    assert!(l.is_live(second));
    assert!(l.handle(snapshot(1, 1), 320, ROLL).is_empty(), "too late");
    assert!(l.is_live(second));
}

#[test]
fn a_feed_that_falls_silent_is_not_believed() {
    let mut l = connected(&["a:1", "b:1"]);
    assert_eq!(l.deadline_ms(), 10 + FRAME_DEADLINE_MS + 1);
    tick(&mut l, 10 + FRAME_DEADLINE_MS);
    assert_eq!(l.state(), LinkState::Connected);
    let out = tick(&mut l, 11 + FRAME_DEADLINE_MS);
    assert_eq!(l.state(), LinkState::Disconnected);
    assert_eq!(out[0], Output::CloseFeed { id: 1 });
    assert_eq!(feeds(&out)[0].1, "b:1", "the next one first");
    assert_eq!(polls(&out).len(), 1, "and a poll at once");
}

#[test]
fn fallback_needs_a_fresh_answer_and_ends_without_one() {
    let mut l = connected(&["a:1"]);
    let out = l.handle(ended(1), 100, ROLL);
    let (poll, address) = polls(&out)[0];
    assert_eq!(address, "a:1");
    assert_eq!(l.state(), LinkState::Disconnected);
    l.handle(answered(poll, 4, false), 110, ROLL);
    assert_eq!(l.state(), LinkState::Fallback);
    assert_eq!(l.view().rtt_ms, Some(4));
    // Polls go on at their pace; the feed is tried in between.
    let mut now = 110;
    let (mut polled, mut tried) = (0, 0);
    while now < 10_000 {
        now = l.deadline_ms().max(now + 1);
        let out = tick(&mut l, now);
        for (id, _) in feeds(&out) {
            tried += 1;
            l.handle(ended(id), now, ROLL);
        }
        for (id, _) in polls(&out) {
            polled += 1;
            l.handle(answered(id, 1, false), now, ROLL);
        }
        assert_eq!(l.state(), LinkState::Fallback, "at {now} ms");
    }
    assert!((4..=6).contains(&polled), "{polled} polls in 10 s");
    assert!(tried >= 4, "{tried} tries of the feed in 10 s");
    // Nobody answers any more: one failed round is enough.
    loop {
        now = l.deadline_ms().max(now + 1);
        let out = tick(&mut l, now);
        for (id, _) in feeds(&out) {
            l.handle(ended(id), now, ROLL);
        }
        if let Some((id, _)) = polls(&out).first() {
            let reason = "connection refused".to_owned();
            l.handle(Input::PollFailed { id: *id, reason }, now, ROLL);
            break;
        }
    }
    assert_eq!(l.state(), LinkState::Disconnected);
}

#[test]
fn back_to_the_feed_only_after_a_whole_snapshot() {
    let mut l = connected(&["a:1"]);
    let out = l.handle(ended(1), 100, ROLL);
    let poll = polls(&out)[0].0;
    let feed = feeds(&out)[0].0;
    l.handle(answered(poll, 1, false), 101, ROLL);
    for seq in 1..5 {
        l.handle(other(feed, seq), 101 + seq, ROLL);
        assert_eq!(l.state(), LinkState::Fallback);
    }
    l.handle(snapshot(feed, 5), 110, ROLL);
    assert_eq!(l.state(), LinkState::Connected);
    assert_eq!(l.view().attempt, 0);
}

#[test]
fn a_hole_in_the_numbers_asks_for_the_picture() {
    let mut l = connected(&["a:1"]);
    assert!(l.handle(other(1, 2), 20, ROLL).is_empty());
    let out = l.handle(other(1, 5), 30, ROLL);
    assert_eq!(polls(&out).len(), 1);
    assert_eq!(l.state(), LinkState::Connected);
    let id = polls(&out)[0].0;
    assert!(l.is_polling(id));
    l.handle(answered(id, 1, false), 35, ROLL);
    assert_eq!(l.state(), LinkState::Connected);
    assert!(
        l.handle(snapshot(1, 9), 40, ROLL).is_empty(),
        "a snapshot heals by itself"
    );
}

#[test]
fn learned_members_are_tried_when_the_configured_are_gone() {
    let mut l = connected(&["a:1"]);
    l.handle(Input::Members(vec!["a:1".into(), "n:9".into()]), 20, ROLL);
    let out = l.handle(ended(1), 30, ROLL);
    assert_eq!(feeds(&out)[0].1, "n:9");
    let view = l.view();
    assert!(
        view.endpoints
            .iter()
            .any(|e| e.learned && e.address == "n:9")
    );
}

#[test]
fn retry_now_does_not_wait() {
    let mut l = link(&["a:1"]);
    tick(&mut l, 0);
    let mut now = 1;
    let mut id = 1;
    for _ in 0..8 {
        l.handle(ended(id), now, 1.0);
        now = l.view().next_retry_ms.expect("resting");
        id = feeds(&tick(&mut l, now))[0].0;
    }
    l.handle(ended(id), now, 1.0);
    let retry = l.view().next_retry_ms.expect("resting");
    assert_eq!(retry - now, BACKOFF_MAX_MS);
    let out = l.handle(Input::RetryNow, now + 1, ROLL);
    assert_eq!(feeds(&out).len(), 1);
}

#[test]
fn pauses_grow_are_spread_and_are_bounded() {
    for rounds in 0..40 {
        let (least, most) = (backoff_ms(rounds, 0.0), backoff_ms(rounds, 1.0));
        assert_eq!(least, BACKOFF_MIN_MS);
        assert!((BACKOFF_MIN_MS * 2..=BACKOFF_MAX_MS).contains(&most));
    }
    assert_eq!(backoff_ms(0, 1.0), 500);
    assert_eq!(backoff_ms(30, 1.0), BACKOFF_MAX_MS);
}

#[test]
fn a_node_that_sees_only_itself_is_passed_over() {
    let mut l = link(&["a:1", "b:1"]);
    tick(&mut l, 0);
    let out = l.handle(lonely(1, 1), 10, ROLL);
    assert_eq!(feeds(&out), [(2, "b:1")], "the next one at once");
    assert!(!l.is_live(1) && l.state() == LinkState::Disconnected);
    let out = l.handle(snapshot(2, 1), 20, ROLL);
    assert_eq!(closed(&out), [1]);
    assert_eq!(
        (l.state(), l.endpoint(), l.is_makeshift()),
        (LinkState::Connected, Some("b:1"), false)
    );
    // and nothing is tried beside a good one
    for beat in 2..20 {
        let at = beat * 1_000;
        assert!(feeds(&l.handle(other(2, beat), at, ROLL)).is_empty());
    }
}

#[test]
fn it_is_believed_while_nobody_else_delivers_and_left_for_who_does() {
    let mut l = link(&["a:1", "b:1", "c:1"]);
    tick(&mut l, 0);
    l.handle(lonely(1, 1), 10, ROLL);
    let out = l.handle(lonely(2, 1), 20, ROLL);
    assert_eq!((closed(&out), feeds(&out)), (vec![2], vec![(3, "c:1")]));
    let out = l.handle(ended(3), 30, ROLL);
    assert!(l.is_live(1) && l.is_makeshift());
    assert_eq!(
        (l.state(), l.endpoint()),
        (LinkState::Connected, Some("a:1"))
    );
    // its snapshot came before it was believed
    let (poll, address) = polls(&out)[0];
    assert_eq!(address, "a:1");
    assert!(l.takes_answer(poll, true));
    l.handle(answered(poll, 1, true), 40, ROLL);
    // the others are tried again and again, and change nothing until one of them sees the cluster
    let (mut now, mut seq, mut rounds) = (40, 1, 0);
    while rounds < 5 {
        now += 500;
        seq += 1;
        let out = l.handle(other(1, seq), now, ROLL);
        for (id, address) in feeds(&out) {
            assert_ne!(address, "a:1");
            rounds += u32::from(address == "b:1");
            let next = l.handle(lonely(id, 1), now, ROLL);
            assert_eq!(closed(&next), [id]);
            for (id, _) in feeds(&next) {
                l.handle(ended(id), now, ROLL);
            }
        }
        assert_eq!(
            (l.state(), l.endpoint()),
            (LinkState::Connected, Some("a:1"))
        );
        assert_eq!((l.view().attempt, l.view().next_retry_ms), (0, None));
    }
    let id = loop {
        now += 500;
        seq += 1;
        let out = l.handle(other(1, seq), now, ROLL);
        if let Some((id, _)) = feeds(&out).first() {
            break *id;
        }
    };
    let out = l.handle(snapshot(id, 1), now + 1, ROLL);
    assert_eq!(closed(&out), [1]);
    assert!(l.is_live(id) && !l.is_makeshift());
    assert_eq!(l.state(), LinkState::Connected);
}

#[test]
fn one_that_begins_to_see_the_others_is_stayed_with() {
    let awake = |id, seq| Input::Frame {
        id,
        kind: FrameKind::Other { seq },
        alone: Some(false),
    };
    // alone named: believed from its first frame on, and asked for nothing besides
    let mut l = link(&["a:1"]);
    tick(&mut l, 0);
    let out = l.handle(lonely(1, 1), 10, ROLL);
    assert!(l.is_live(1) && out.is_empty(), "{out:?}");
    assert!(l.handle(awake(1, 2), 20, ROLL).is_empty());
    assert!(l.is_live(1) && !l.is_makeshift());
    // while others are still being tried: they are not needed any more
    let mut l = link(&["a:1", "b:1"]);
    tick(&mut l, 0);
    l.handle(lonely(1, 1), 10, ROLL);
    let out = l.handle(awake(1, 2), 20, ROLL);
    assert_eq!(closed(&out), [2]);
    assert_eq!(polls(&out).len(), 1, "its picture was not believed before");
    assert_eq!(
        (l.state(), l.endpoint()),
        (LinkState::Connected, Some("a:1"))
    );
}

#[test]
fn a_makeshift_feed_that_ends_or_falls_silent_is_lost_like_any() {
    for silent in [false, true] {
        let mut l = link(&["a:1", "b:1"]);
        tick(&mut l, 0);
        l.handle(lonely(1, 1), 10, ROLL);
        let out = l.handle(ended(2), 20, ROLL);
        l.handle(answered(polls(&out)[0].0, 1, true), 25, ROLL);
        assert_eq!(l.state(), LinkState::Connected);
        let out = if silent {
            let mut out = Vec::new();
            while out.is_empty() || l.state() == LinkState::Connected {
                let now = l.deadline_ms();
                out = tick(&mut l, now);
                for (id, _) in feeds(&out) {
                    l.handle(ended(id), now, ROLL);
                }
            }
            assert!(closed(&out).contains(&1));
            out
        } else {
            l.handle(ended(1), 30, ROLL)
        };
        assert_eq!(l.state(), LinkState::Fallback, "its last answer is fresh");
        assert_eq!(polls(&out).len(), 1);
    }
}

#[test]
fn an_answer_of_who_sees_only_itself_is_the_last_resort() {
    let mut l = link(&["a:1", "b:1"]);
    tick(&mut l, 0);
    let out = l.handle(ended(1), 10, ROLL);
    l.handle(ended(2), 20, ROLL);
    let (poll, address) = polls(&out)[0];
    assert_eq!(address, "a:1");
    assert!(!l.takes_answer(poll, true) && l.takes_answer(poll, false));
    let out = l.handle(answered(poll, 1, true), 30, ROLL);
    assert_eq!((l.state(), l.endpoint()), (LinkState::Disconnected, None));
    let (poll, address) = polls(&out)[0];
    assert_eq!(address, "b:1");
    let reason = "connection refused".to_owned();
    let out = l.handle(Input::PollFailed { id: poll, reason }, 40, ROLL);
    let (poll, address) = polls(&out)[0];
    assert_eq!(address, "a:1");
    assert!(l.takes_answer(poll, true));
    l.handle(answered(poll, 1, true), 50, ROLL);
    assert_eq!(
        (l.state(), l.endpoint()),
        (LinkState::Fallback, Some("a:1"))
    );
}
