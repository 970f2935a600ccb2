//! Lifeguard's parts at work in the core: local health and nacks, confirmations, buddy messages.
//! Their arithmetic has its own tests beside it.

use super::{
    super::{super::Lifeguard, *},
    *,
};

/// "a" among `others`, all alive.
fn among(others: &[&str]) -> Core {
    among_with(GossipConfig::default(), others)
}

fn among_with(config: GossipConfig, others: &[&str]) -> Core {
    let mut core = core_with(config, "a", &[]);
    for name in others {
        gossip(&mut core, 0, name, vec![]);
    }
    core.take_outputs();
    core
}

fn suspected(name: &str) -> MemberState {
    state(name, 1, 0, MemberStatus::Suspected)
}

fn listed(states: Vec<MemberState>) -> Vec<Arc<MemberState>> {
    states.into_iter().map(Arc::new).collect()
}

/// Hands `core` the word of `by` that `about` does not answer it.
fn accuse(core: &mut Core, now: u64, by: &str, about: &str) {
    gossip(core, now, by, vec![suspected(about)]);
}

fn view_of(core: &Core, now: u64, name: &str) -> Option<SuspicionView> {
    let mut all = core.suspicions(at(now)).into_iter();
    all.find(|v| v.about.as_str() == name)
}

/// Runs one probe that its target does not answer, nor TCP; each helper for which `nacks` holds
/// says so. Returns when it ended.
fn one_probe(core: &mut Core, silent: &[&str], nacks: impl Fn(&str) -> bool) -> u64 {
    loop {
        let now = core.next_wake();
        core.tick(at(now));
        let mut over = false;
        let sent = packets_and(core, |h| over |= matches!(h, Happening::Suspected { .. }));
        if over {
            return now;
        }
        for (_, packet) in sent {
            let from = packet.to.as_str().to_owned();
            let answer = match packet.body {
                Body::Ping { seq } if !silent.contains(&from.as_str()) => Body::Ack { seq },
                Body::PingRequest { seq, target } if nacks(&from) => Body::Nack { seq, target },
                _ => continue,
            };
            let own = core.local.id.to_string();
            let answer = self::packet(member(&from), &own, answer, vec![]);
            core.handle(at(now), source(), answer);
        }
    }
}

/// The packets; `look` sees what happened.
fn packets_and(core: &mut Core, mut look: impl FnMut(&Happening)) -> Vec<(Dest, Packet)> {
    let all = core.take_outputs();
    all.into_iter()
        .filter_map(|o| match o {
            Output::Send { to, packet } => Some((to, *packet)),
            Output::Happened(h) => {
                look(&h);
                None
            }
            _ => None,
        })
        .collect()
}

#[test]
fn missing_nacks_are_this_nodes_own_fault_and_nacks_are_the_targets() {
    for (nacking, score) in [
        (vec!["c", "d", "e"], 0),
        (vec!["c"], 2),
        (vec![], 3),
        (vec!["stranger"], 3),
    ] {
        let mut core = among(&["b", "c", "d", "e"]);
        let now = one_probe(&mut core, &["b"], |by| nacking.contains(&by));
        assert_eq!(core.status(0).health_score, score, "{nacking:?}");
        let missed = core.health(at(now)).reasons;
        assert_eq!(missed.first().map_or(0, |r| r.times), u64::from(score));
    }
}

#[test]
fn without_helpers_a_missed_answer_is_one_point_and_alone_it_is_forgotten() {
    let mut core = among(&["b"]);
    one_probe(&mut core, &["b"], |_| false);
    assert_eq!(core.status(0).health_score, 1);
    run_until(&mut core, 5_600);
    assert_eq!(status_of(&core, "b"), Some(MemberStatus::Dead));
    assert!(
        core.status(0).health_score > 0,
        "it went on asking until then"
    );
    run_until(&mut core, 40_000);
    assert_eq!(
        core.status(0).health_score,
        0,
        "nobody is left whose silence tells anything"
    );
}

#[test]
fn an_unhealthy_node_gives_more_time_until_answers_make_it_well() {
    // so many that it may wait as long as its health says
    let all = ["b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let mut core = among(&all);
    let first = one_probe(&mut core, &all, |_| false);
    assert_eq!(core.status(0).health_score, 3);
    let pinged = |core: &mut Core, now: u64| {
        core.tick(at(now));
        let sent = packets(core);
        sent.into_iter().find_map(|(_, p)| match p.body {
            Body::Ping { seq } => Some((seq, p.to)),
            _ => None,
        })
    };
    // the probe that began as the first ended has four intervals, and no other begins meanwhile
    let mut pings = Vec::new();
    while core.next_wake() < first + 4000 {
        let now = core.next_wake();
        pings.extend(pinged(&mut core, now).map(|_| now));
    }
    assert!(pings.iter().all(|at| *at <= first), "{pings:?}");
    let scores = |core: &Core| core.status(0).health_score;
    let now = core.next_wake();
    core.tick(at(now));
    assert_eq!(scores(&core), 6);
    core.take_outputs();
    // each answer brings the next probe an interval nearer
    let (mut last, mut gaps) = (None, Vec::new());
    while scores(&core) > 0 {
        let now = core.next_wake();
        if let Some((seq, to)) = pinged(&mut core, now) {
            gaps.extend(last.map(|last| now - last));
            last = Some(now);
            let ack = packet(member(to.as_str()), "a", Body::Ack { seq }, vec![]);
            core.handle(at(now + 1), source(), ack);
        }
    }
    assert_eq!(gaps, [8000, 7000, 6000, 5000, 4000, 3000]);
}

#[test]
fn refuting_and_standing_still_tell_against_this_node_and_a_burial_does_not() {
    let mut core = among(&["b", "c"]);
    accuse(&mut core, 1, "b", "a");
    accuse(&mut core, 2, "c", "a");
    assert_eq!(core.status(0).health_score, 1, "the second came too late");
    gossip(
        &mut core,
        3,
        "b",
        vec![state("a", 1, 1, MemberStatus::Left)],
    );
    assert_eq!(
        (core.local.incarnation, core.status(0).health_score),
        (2, 1)
    );
    core.tick(at(30_000));
    let strains: Vec<Strain> = core
        .health(at(30_000))
        .reasons
        .iter()
        .map(|r| r.strain)
        .collect();
    assert_eq!(strains, [Strain::RefutedItself, Strain::StoodStill]);
    assert_eq!(core.status(0).health_score, 2);
}

#[test]
fn a_helper_nacks_in_time_and_once() {
    let mut core = core_of("helper");
    gossip(&mut core, 0, "target", vec![]);
    core.take_outputs();
    let body = Body::PingRequest {
        seq: 41,
        target: id("target"),
    };
    core.handle(
        at(100),
        source(),
        packet(member("asker"), "helper", body, vec![]),
    );
    core.take_outputs();
    let nacks: Vec<u64> = run_until(&mut core, 5_000)
        .into_iter()
        .filter_map(|(now, o)| match o {
            Output::Send { to, packet } if matches!(packet.body, Body::Nack { seq: 41, .. }) => {
                assert_eq!((to, packet.to.as_str()), (Dest::Source(source()), "asker"));
                Some(now)
            }
            _ => None,
        })
        .collect();
    assert_eq!(nacks, [500], "0.8 of the probe timeout after it was asked");
}

#[test]
fn each_accuser_that_found_it_out_shortens_the_suspicion_and_is_spread() {
    let mut core = among(&["b", "c", "d", "e", "f"]);
    accuse(&mut core, 1000, "c", "b");
    let expected = |accusers: &[&str], ends_in_ms, confirmations| SuspicionView {
        about: id("b"),
        accusers: accusers.iter().map(|a| id(a)).collect(),
        since_ms: 500,
        ends_in_ms,
        confirmations,
        wanted: 2,
    };
    let view = |core: &Core| view_of(core, 1500, "b").expect("suspected");
    assert_eq!(view(&core), expected(&["c"], 23_500, 0));
    // the same word again, the subject's own name, a list that shows it: nobody new
    accuse(&mut core, 1001, "c", "b");
    core.merge(at(1002), &id("d"), listed(vec![suspected("b")]));
    core.merge(
        at(1002),
        &id("e"),
        listed(vec![state("b", 1, 0, MemberStatus::Dead)]),
    );
    assert_eq!(view(&core), expected(&["c"], 23_500, 0));
    let spread = |core: &Core| {
        let rumors = core.rumors();
        let about = rumors.into_iter().find(|r| r.about == id("b"));
        about.map(|r| r.from.to_string())
    };
    for (by, ends_in_ms, confirmations, accusers, spread_by) in [
        ("d", 10_882, 1, vec!["c", "d"], "d"),
        ("e", 3_500, 2, vec!["c", "d", "e"], "e"),
        ("f", 3_500, 2, vec!["c", "d", "e", "f"], "e"),
    ] {
        accuse(&mut core, 1100, by, "b");
        assert_eq!(view(&core), expected(&accusers, ends_in_ms, confirmations));
        assert_eq!(spread(&core).as_deref(), Some(spread_by));
    }
    let dead: Vec<(u64, Vec<NodeId>)> = run_until(&mut core, 60_000)
        .into_iter()
        .filter_map(|(now, o)| match o {
            Output::Happened(Happening::Dead { id, accusers, .. }) if id.as_str() == "b" => {
                Some((now, accusers))
            }
            _ => None,
        })
        .collect();
    // this node as well, which asked it in the meantime
    let accusers = ["c", "d", "e", "f", "a"].map(id).to_vec();
    assert_eq!(dead, [(5000, accusers)], "once");
    assert_eq!(view_of(&core, 60_000, "b"), None);
}

#[test]
fn this_nodes_own_finding_confirms_and_is_spread_as_its_own() {
    let mut core = among(&["b", "c", "d", "e"]);
    accuse(&mut core, 0, "c", "b");
    // it says who was silent only once, so run by hand to the end of its own probe of "b"
    while view_of(&core, 0, "b").is_some_and(|v| v.confirmations == 0) {
        let now = core.next_wake();
        assert!(now < 20_000);
        core.tick(at(now));
        for (_, packet) in packets(&mut core) {
            if let Body::Ping { seq } = packet.body
                && packet.to != id("b")
            {
                let ack = self::packet(member(packet.to.as_str()), "a", Body::Ack { seq }, vec![]);
                core.handle(at(now), source(), ack);
            }
        }
    }
    let view = view_of(&core, 0, "b").expect("still suspected");
    assert_eq!(view.accusers, [id("c"), id("a")]);
    let rumor = core.rumors().into_iter().find(|r| r.about == id("b"));
    assert_eq!(rumor.map(|r| r.from), Some(id("a")));
}

#[test]
fn a_death_heard_in_an_exchange_gets_the_least_time_and_a_suspicion_the_most() {
    let mut core = among(&["b", "c", "d", "e"]);
    core.merge(
        at(0),
        &id("x"),
        listed(vec![state("b", 1, 0, MemberStatus::Dead), suspected("c")]),
    );
    let ends = |core: &Core, name| {
        let view = view_of(core, 0, name).expect("suspected");
        (view.accusers, view.ends_in_ms, view.wanted)
    };
    assert_eq!(ends(&core, "b"), (vec![], 4000, 0));
    assert_eq!(ends(&core, "c"), (vec![], 24_000, 2));
    accuse(&mut core, 1, "d", "c");
    assert_eq!(
        ends(&core, "c"),
        (vec![id("d")], 24_000, 2),
        "the first accuser known"
    );
}

#[test]
fn a_refutation_ends_the_suspicion_and_the_next_one_starts_anew() {
    let mut core = among(&["b", "c", "d", "e"]);
    for by in ["c", "d", "e"] {
        accuse(&mut core, 0, by, "b");
    }
    assert_eq!(view_of(&core, 0, "b").map(|v| v.ends_in_ms), Some(4000));
    gossip(
        &mut core,
        10,
        "c",
        vec![state("b", 1, 1, MemberStatus::Alive)],
    );
    assert_eq!(view_of(&core, 10, "b"), None);
    accuse(&mut core, 20, "c", "b");
    assert_eq!(status_of(&core, "b"), Some(MemberStatus::Alive), "outdated");
    gossip(
        &mut core,
        30,
        "c",
        vec![state("b", 1, 1, MemberStatus::Suspected)],
    );
    let view = view_of(&core, 30, "b").expect("suspected again");
    assert_eq!((view.accusers, view.ends_in_ms), (vec![id("c")], 24_000));
}

/// Who is suspected is told by whatever is sent to it, unless that is switched off.
#[test]
fn buddy_messages_can_be_switched_off() {
    for (buddy, told) in [(true, true), (false, false)] {
        let config = GossipConfig {
            lifeguard: Lifeguard {
                buddy,
                ..Lifeguard::default()
            },
            ..GossipConfig::default()
        };
        let mut core = among_with(config, &["b", "c"]);
        accuse(&mut core, 0, "c", "b");
        core.rumors.remove(&id("b"));
        let ask = Body::PingRequest {
            seq: 1,
            target: id("b"),
        };
        core.handle(at(1), source(), packet(member("c"), "a", ask, vec![]));
        let mut to_b: Vec<Packet> = packets(&mut core).into_iter().map(|(_, p)| p).collect();
        to_b.extend(
            run_until(&mut core, 2_500)
                .into_iter()
                .filter_map(|(_, o)| match o {
                    Output::Send { packet, .. } => Some(*packet),
                    _ => None,
                }),
        );
        to_b.retain(|p| p.to == id("b") && matches!(p.body, Body::Ping { .. }));
        assert!(to_b.len() > 1);
        for ping in to_b {
            let first = ping
                .claims
                .first()
                .map(|c| (c.state.id.as_str(), c.state.status));
            let is_told = first == Some(("b", MemberStatus::Suspected));
            assert_eq!(is_told, told);
        }
    }
}

/// A node that is late all the time still finds out who is gone.
#[test]
fn always_late_is_not_never() {
    let mut core = among(&["b", "c"]);
    let mut now = 0;
    while status_of(&core, "b") != Some(MemberStatus::Dead) {
        now = core.next_wake() + 700;
        assert!(now < 600_000, "{:?}", core.suspicions(at(now)));
        core.tick(at(now));
        core.take_outputs();
    }
    assert!(now > 10_000, "and it gave time: {now}");
}

/// The end of a suspicion moves into the past when it is confirmed late. Who declares the death
/// then has not stood still: nobody else is excused, and its health is what it was.
#[test]
fn a_late_confirmation_is_no_standing_still() {
    let mut core = among(&["b", "c", "d", "e"]);
    accuse(&mut core, 0, "c", "b");
    // it hears nothing else, but its timers run
    run_until(&mut core, 300);
    let due = core.due.probe;
    for now in (300..20_000).step_by(100) {
        gossip(&mut core, now, "c", vec![]);
        core.probes.clear();
        core.tick(at(now));
    }
    assert_eq!(status_of(&core, "b"), Some(MemberStatus::Suspected));
    let (score, due) = (core.status(0).health_score, core.due.probe.max(due));
    accuse(&mut core, 20_000, "d", "b");
    accuse(&mut core, 20_000, "e", "b");
    core.tick(at(20_000));
    assert_eq!(status_of(&core, "b"), Some(MemberStatus::Dead));
    assert_eq!(core.status(0).health_score, score);
    assert!(core.due.probe <= due + 1000, "its probes go on");
    let strains = core.health(at(20_000)).reasons;
    assert!(strains.iter().all(|r| r.strain != Strain::StoodStill));
}

/// Who is not well itself waits for an answer over TCP as long as for any other.
#[test]
fn tcp_is_asked_for_as_long_as_the_probe_waits() {
    for (score, within) in [(0, 500), (7, 7_500)] {
        let mut core = among(&["b", "c", "d", "e", "f", "g", "h", "i", "j"]);
        core.health.strained(at(0), Strain::MissedAnswers, score);
        let outputs = run_until(&mut core, 3_000);
        let asked = outputs.iter().find_map(|(_, output)| match output {
            Output::TcpProbe { within_ms, .. } => Some(*within_ms),
            _ => None,
        });
        assert_eq!(asked, Some(within), "at score {score}");
    }
}
