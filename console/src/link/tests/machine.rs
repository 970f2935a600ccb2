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
    Input::Frame { id, kind }
}

fn other(id: TryId, seq: u64) -> Input {
    let kind = FrameKind::Other { seq };
    Input::Frame { id, kind }
}

fn ended(id: TryId) -> Input {
    let reason = "connection refused".to_owned();
    Input::FeedEnded { id, reason }
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
    let answered = Input::PollAnswered {
        id: poll,
        rtt_ms: 4,
    };
    l.handle(answered, 110, ROLL);
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
            l.handle(Input::PollAnswered { id, rtt_ms: 1 }, now, ROLL);
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
    l.handle(
        Input::PollAnswered {
            id: poll,
            rtt_ms: 1,
        },
        101,
        ROLL,
    );
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
    l.handle(Input::PollAnswered { id, rtt_ms: 1 }, 35, ROLL);
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
