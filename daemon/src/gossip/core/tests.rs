//! The protocol by example; several are failures that others met, named with their source.

use rand::SeedableRng;

use super::{
    super::testing::{cluster, id, member},
    *,
};

const YEAR_2026: u64 = 1_780_000_000_000;

fn at(ms: u64) -> Now {
    Now {
        ms,
        unix_ms: YEAR_2026 + ms,
    }
}

fn core_of(name: &str) -> Core {
    core_with(GossipConfig::default(), name, &[])
}

fn core_with(config: GossipConfig, name: &str, contacts: &[&str]) -> Core {
    Core::new(
        config,
        cluster(),
        member(name),
        contacts.iter().map(ToString::to_string),
        SmallRng::seed_from_u64(7),
        at(0),
    )
}

fn source() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

fn state(name: &str, generation: u64, incarnation: u64, status: MemberStatus) -> MemberState {
    MemberState {
        status,
        generation,
        incarnation,
        ..member(name)
    }
}

/// Of a sender that says all of itself.
fn packet(
    from: impl Into<Arc<MemberState>>,
    to: &str,
    body: Body,
    claims: Vec<MemberState>,
) -> Packet {
    let from = from.into();
    let accuser = from.id.clone();
    Packet {
        cluster: cluster(),
        to: id(to),
        from: Brief::of(&from),
        intro: Some(from),
        ask: false,
        body,
        claims: claims
            .into_iter()
            .map(|state| Claim {
                state: state.into(),
                from: accuser.clone(),
            })
            .collect(),
    }
}

/// Hands `core` gossip of `from` with these claims.
fn gossip(core: &mut Core, now: u64, from: &str, claims: Vec<MemberState>) {
    let name = core.local.id.to_string();
    core.handle(
        at(now),
        source(),
        packet(member(from), &name, Body::Gossip, claims),
    );
}

fn status_of(core: &Core, name: &str) -> Option<MemberStatus> {
    core.members.get(&id(name)).map(|m| m.state.status)
}

fn freshness_of(core: &Core, name: &str) -> (u64, u64) {
    claim::freshness(&core.members.get(&id(name)).expect("known").state)
}

fn happenings(core: &mut Core) -> Vec<Happening> {
    let all = core.take_outputs();
    all.into_iter()
        .filter_map(|o| match o {
            Output::Happened(h) => Some(h),
            _ => None,
        })
        .collect()
}

fn packets(core: &mut Core) -> Vec<(Dest, Packet)> {
    let all = core.take_outputs();
    all.into_iter()
        .filter_map(|o| match o {
            Output::Send { to, packet } => Some((to, *packet)),
            _ => None,
        })
        .collect()
}

/// Ticks at every wake until `end`, collecting everything.
fn run_until(core: &mut Core, end: u64) -> Vec<(u64, Output)> {
    let mut all = Vec::new();
    while core.next_wake() <= end {
        let now = core.next_wake();
        core.tick(at(now));
        all.extend(core.take_outputs().into_iter().map(|o| (now, o)));
    }
    all
}

#[test]
fn a_silent_member_is_pinged_asked_for_suspected_and_dead() {
    let mut core = core_of("a");
    for name in ["b", "c", "d", "e"] {
        gossip(&mut core, 0, name, vec![]);
    }
    core.take_outputs();
    // everybody but "b" acknowledges
    let (mut asked, mut tcp, mut suspected, mut dead) = (Vec::new(), None, None, None);
    while dead.is_none() && core.next_wake() < 60_000 {
        let now = core.next_wake();
        core.tick(at(now));
        for output in core.take_outputs() {
            match output {
                Output::Send { packet, .. } => match packet.body {
                    Body::Ping { seq } if packet.to != id("b") => {
                        let from = member(packet.to.as_str());
                        core.handle(
                            at(now),
                            source(),
                            Packet {
                                to: id("a"),
                                ..self::packet(from, "a", Body::Ack { seq }, vec![])
                            },
                        );
                    }
                    Body::PingRequest { target, .. } => {
                        assert_eq!(target, id("b"), "only the silent one is asked for");
                        if suspected.is_none() {
                            asked.push(packet.to);
                        }
                    }
                    _ => {}
                },
                Output::TcpProbe { node, .. } => {
                    assert_eq!(node, id("b"));
                    tcp.get_or_insert(now);
                }
                Output::Happened(Happening::Suspected { id, by, wait_ms }) => {
                    assert_eq!((id.as_str(), by.as_str(), wait_ms), ("b", "a", 4000));
                    suspected = Some(now);
                }
                Output::Happened(Happening::Dead { id, accusers, .. }) => {
                    assert_eq!((id.as_str(), accusers), ("b", vec![self::id("a")]));
                    dead = Some(now);
                }
                _ => {}
            }
        }
    }
    asked.sort();
    assert_eq!(asked, [id("c"), id("d"), id("e")], "k = 3");
    assert!(tcp.is_some(), "and TCP is tried");
    let (suspected, dead) = (suspected.expect("suspected"), dead.expect("dead"));
    assert_eq!(
        suspected - tcp.unwrap_or(0),
        500,
        "a probe has one interval"
    );
    assert_eq!(dead - suspected, 4000);
}

#[test]
fn every_member_is_probed_once_a_round() {
    let mut core = core_of("a");
    for n in 0..20 {
        gossip(&mut core, 0, &format!("n{n}"), vec![]);
    }
    core.take_outputs();
    let mut pinged = Vec::new();
    while pinged.len() < 40 {
        let now = core.next_wake();
        core.tick(at(now));
        for (_, packet) in packets(&mut core) {
            if let Body::Ping { seq } = packet.body {
                pinged.push(packet.to.clone());
                let from = member(packet.to.as_str());
                core.handle(
                    at(now),
                    source(),
                    self::packet(from, "a", Body::Ack { seq }, vec![]),
                );
            }
        }
    }
    for round in pinged.chunks(20) {
        let mut round = round.to_vec();
        round.sort();
        round.dedup();
        assert_eq!(round.len(), 20);
    }
    assert_ne!(pinged[..20], pinged[20..], "reshuffled");
}

#[test]
fn a_relay_pings_and_passes_the_answer_on() {
    let mut core = core_of("relay");
    gossip(&mut core, 0, "target", vec![]);
    core.take_outputs();
    let ask = |target: &str| Body::PingRequest {
        seq: 41,
        target: id(target),
    };
    core.handle(
        at(1),
        source(),
        packet(member("asker"), "relay", ask("target"), vec![]),
    );
    let sent = packets(&mut core);
    let [(Dest::Address(address), ping)] = sent.as_slice() else {
        panic!("one ping expected: {sent:?}");
    };
    assert_eq!(address, "target:1");
    let Body::Ping { seq } = ping.body else {
        panic!("a ping")
    };
    core.handle(
        at(2),
        source(),
        packet(member("target"), "relay", Body::Ack { seq }, vec![]),
    );
    let sent = packets(&mut core);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1.to, id("asker"));
    let expected = Body::RelayedAck {
        seq: 41,
        target: id("target"),
    };
    assert_eq!(sent[0].1.body, expected);
    // strangers are not pinged: nobody uses this node to send packets elsewhere
    core.handle(
        at(3),
        source(),
        packet(member("asker"), "relay", ask("stranger"), vec![]),
    );
    assert_eq!(packets(&mut core), vec![]);
}

#[test]
fn tcp_only_keeps_the_member_and_is_said_once() {
    let mut core = core_of("a");
    gossip(&mut core, 0, "b", vec![]);
    core.take_outputs();
    let mut blocked = 0;
    while core.next_wake() < 20_000 {
        let now = core.next_wake();
        core.tick(at(now));
        for output in core.take_outputs() {
            match output {
                Output::TcpProbe { seq, .. } => core.tcp_answered(at(now), seq),
                Output::Happened(Happening::UdpBlocked { .. }) => blocked += 1,
                Output::Happened(h) => panic!("{h:?}"),
                _ => {}
            }
        }
    }
    assert_eq!(blocked, 1);
    assert_eq!(status_of(&core, "b"), Some(MemberStatus::Alive));
}

/// `al8n/memberlist#197`: a fresher death of a member already held dead must be remembered, or
/// an older "alive" brings it back.
#[test]
fn a_fresher_death_of_the_dead_is_remembered() {
    use MemberStatus::{Alive, Dead};
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("b", 1, 1, Dead)]);
    gossip(&mut core, 1, "x", vec![state("b", 1, 10, Dead)]);
    gossip(&mut core, 2, "x", vec![state("b", 1, 2, Alive)]);
    assert_eq!(status_of(&core, "b"), Some(Dead));
    core.merge(
        at(3),
        &id("x"),
        vec![
            state("b", 1, 12, Dead).into(),
            state("b", 1, 11, Alive).into(),
        ],
    );
    assert_eq!(status_of(&core, "b"), Some(Dead), "by exchange as well");
    assert_eq!(freshness_of(&core, "b"), (1, 12));
}

/// `hashicorp/memberlist#311`: a restart begins at incarnation 0 against a remembered death at a
/// high one; the generation decides.
#[test]
fn a_restarted_member_beats_its_own_death() {
    use MemberStatus::{Alive, Dead};
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("b", 5, 100, Dead)]);
    core.take_outputs();
    gossip(&mut core, 9, "x", vec![state("b", 6, 0, Alive)]);
    assert_eq!(status_of(&core, "b"), Some(Alive));
    let told = happenings(&mut core);
    assert!(
        matches!(&told[0], Happening::Restarted { was: Dead, .. }),
        "{told:?}"
    );
    assert!(
        matches!(
            &told[1],
            Happening::Returned {
                was: Dead,
                after_ms: 9,
                ..
            }
        ),
        "{told:?}"
    );
    // dead generations do not flicker (quickwit-oss/chitchat#94): the old life is over for good
    gossip(
        &mut core,
        10,
        "x",
        vec![state("b", 5, 900, Alive), state("b", 5, 901, Dead)],
    );
    assert_eq!(
        (status_of(&core, "b"), freshness_of(&core, "b")),
        (Some(Alive), (6, 0))
    );
    assert_eq!(happenings(&mut core), vec![]);
}

/// `apple/swift-cluster-membership#67`, `camunda#61611`: a restart faster than its detection.
#[test]
fn a_restart_nobody_noticed_is_reported() {
    let mut core = core_of("a");
    let mut b = member("b");
    core.handle(
        at(0),
        source(),
        packet(b.clone(), "a", Body::Gossip, vec![]),
    );
    assert_eq!(
        core.members.get(&id("b")).map(|m| m.heartbeat_seq()),
        Some(1)
    );
    core.take_outputs();
    b.generation = 2;
    b.address = "b:2".into();
    core.handle(at(5), source(), packet(b, "a", Body::Gossip, vec![]));
    let told = happenings(&mut core);
    assert!(
        matches!(&told[0], Happening::AddressChanged { from, to, .. } if from == "b:1" && to == "b:2")
    );
    assert!(matches!(
        told[1],
        Happening::Restarted {
            was: MemberStatus::Alive,
            ..
        }
    ));
    assert_eq!(told.len(), 2);
    assert_eq!(
        core.members.get(&id("b")).map(|m| m.heartbeat_seq()),
        Some(1),
        "counted anew"
    );
}

#[test]
fn bad_news_of_this_life_is_refuted_above_anything_seen() {
    use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
    for (claimed, incarnation, own_after) in [
        (Suspected, 0, 1),
        (Dead, 7, 8),
        (Left, 3, 4),
        (Stopped, 0, 1),
        (Alive, 5, 6), // somebody knows more than we do: go above it
        (Alive, 0, 0),
    ] {
        let mut core = core_of("a");
        gossip(&mut core, 0, "x", vec![state("a", 1, incarnation, claimed)]);
        assert_eq!(
            core.local.incarnation, own_after,
            "{claimed:?}@{incarnation}"
        );
        assert_eq!(core.local.status, Alive);
        let refuted = happenings(&mut core)
            .iter()
            .any(|h| matches!(h, Happening::SelfRefuted { .. }));
        assert_eq!(refuted, claimed != Alive, "{claimed:?}");
    }
    // an outdated accusation changes nothing
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("a", 1, 4, Dead)]);
    gossip(&mut core, 0, "x", vec![state("a", 1, 4, Dead)]);
    assert_eq!(core.local.incarnation, 5, "no storm of refutations");
}

#[test]
fn a_later_life_of_this_node_supersedes_it_and_an_earlier_one_does_not() {
    let mut core = core_of("a");
    Arc::make_mut(&mut core.local).generation = 10;
    gossip(
        &mut core,
        0,
        "x",
        vec![state("a", 9, 50, MemberStatus::Dead)],
    );
    core.merge(
        at(0),
        &id("x"),
        vec![state("a", 9, 50, MemberStatus::Alive).into()],
    );
    let told = happenings(&mut core);
    assert!(
        !told.iter().any(|h| matches!(
            h,
            Happening::Superseded { .. } | Happening::SelfRefuted { .. }
        )),
        "our own earlier life: {told:?}"
    );
    for _ in 0..3 {
        gossip(
            &mut core,
            1,
            "x",
            vec![state("a", 11, 0, MemberStatus::Alive)],
        );
    }
    let told = happenings(&mut core);
    let superseded = told
        .iter()
        .filter(|h| matches!(h, Happening::Superseded { .. }));
    assert_eq!(superseded.count(), 1, "said once");
}

#[test]
fn namesakes_find_out_from_each_others_packets() {
    let (mut older, mut younger) = (core_of("a"), core_of("a"));
    Arc::make_mut(&mut younger.local).generation = 2;
    let ping = packet(older.local.clone(), "a", Body::Ping { seq: 1 }, vec![]);
    younger.handle(at(0), source(), ping);
    let answer = packets(&mut younger).pop().expect("an answer").1;
    older.handle(at(0), source(), answer);
    assert!(
        happenings(&mut older)
            .iter()
            .any(|h| matches!(h, Happening::Superseded { generation: 2, .. }))
    );
    assert!(younger.superseded_by.is_none());
}

#[test]
fn who_is_held_dead_is_told_and_comes_back_by_its_own_word() {
    let (mut a, mut b) = (core_of("a"), core_of("b"));
    gossip(&mut a, 0, "x", vec![state("b", 1, 0, MemberStatus::Dead)]);
    a.take_outputs();
    let hello = |b: &Core| packet(b.local.clone(), "a", Body::Gossip, vec![]);
    a.handle(at(10), source(), hello(&b));
    assert_eq!(
        status_of(&a, "b"),
        Some(MemberStatus::Dead),
        "its old word is not enough"
    );
    let sent = packets(&mut a);
    assert_eq!(sent.len(), 1);
    a.handle(at(11), source(), hello(&b));
    assert_eq!(packets(&mut a), vec![], "told at most now and then");
    b.handle(at(12), source(), sent[0].1.clone());
    assert_eq!(b.local.incarnation, 1);
    a.handle(at(13), source(), hello(&b));
    assert_eq!(status_of(&a, "b"), Some(MemberStatus::Alive));
}

#[test]
fn a_ping_to_a_suspect_carries_the_suspicion() {
    let mut core = core_of("a");
    gossip(&mut core, 0, "b", vec![]);
    core.merge(
        at(0),
        &id("x"),
        vec![state("b", 1, 0, MemberStatus::Dead).into()],
    );
    assert_eq!(
        status_of(&core, "b"),
        Some(MemberStatus::Suspected),
        "hearsay of a death"
    );
    let outputs = run_until(&mut core, 1100);
    let pings = outputs.iter().filter_map(|(_, o)| match o {
        Output::Send { packet, .. } if matches!(packet.body, Body::Ping { .. }) => Some(packet),
        _ => None,
    });
    for ping in pings {
        let first = &ping.claims[0].state;
        assert_eq!(
            (first.id.as_str(), first.status),
            ("b", MemberStatus::Suspected)
        );
    }
}

/// `hashicorp/consul#843`, `#4074`: clusters that merge through stale addresses.
#[test]
fn another_cluster_is_refused_counted_and_reported_once() {
    let mut core = core_of("a");
    let mut foreign = packet(member("b"), "a", Body::Ping { seq: 1 }, vec![member("c")]);
    foreign.cluster = ClusterId::new("11111111-2f43-4a52-9f7e-3c1de9c0a111").expect("valid");
    for n in 0..5 {
        core.handle(at(1 + n), source(), foreign.clone());
    }
    let outputs = core.take_outputs();
    let rejects = outputs.iter().filter(|o| {
        matches!(o, Output::Send { packet, .. } if packet.body == Body::Reject { reason: RejectReason::OtherCluster })
    });
    assert_eq!(rejects.count(), 1, "answered at a bounded rate");
    let reports = outputs
        .iter()
        .filter(|o| matches!(o, Output::Happened(Happening::Foreign { .. })));
    assert_eq!(reports.count(), 1);
    assert_eq!(core.status(0).rejected_messages, 5);
    assert_eq!(core.others(), 0, "nothing was learned");
    foreign.body = Body::Reject {
        reason: RejectReason::OtherCluster,
    };
    core.handle(at(100_000), source(), foreign);
    assert_eq!(packets(&mut core), vec![], "a rejection is never answered");
}

/// `hashicorp/serf#115`: a new name at an old address must not keep the old name alive.
#[test]
fn a_ping_for_another_name_is_not_acknowledged() {
    let mut core = core_of("new-name");
    core.handle(
        at(300),
        source(),
        packet(member("b"), "old-name", Body::Ping { seq: 1 }, vec![]),
    );
    let sent = packets(&mut core);
    let reason = RejectReason::OtherNode {
        wanted: id("old-name"),
    };
    assert_eq!(sent[0].1.body, Body::Reject { reason });
    assert_eq!(core.status(0).rejected_messages, 1);
    assert_eq!(core.others(), 0);
}

#[test]
fn broken_clocks_and_nonsense_are_refused() {
    let mut core = core_of("a");
    let two_years_on = YEAR_2026 + 2 * 365 * 24 * 3600 * 1000;
    gossip(
        &mut core,
        0,
        "x",
        vec![state("b", two_years_on, 0, MemberStatus::Alive)],
    );
    assert_eq!(status_of(&core, "b"), None);
    core.merge(
        at(0),
        &id("b"),
        vec![state("b", two_years_on, 0, MemberStatus::Alive).into()],
    );
    assert_eq!(status_of(&core, "b"), None);
    gossip(
        &mut core,
        0,
        "x",
        vec![state("a", two_years_on, 0, MemberStatus::Alive)],
    );
    assert!(
        core.superseded_by.is_none(),
        "no broken clock stops this node"
    );
    // nobody says of itself that it is dead
    let dead = state("c", 1, 0, MemberStatus::Dead);
    core.handle(at(0), source(), packet(dead, "a", Body::Gossip, vec![]));
    assert_eq!(status_of(&core, "c"), None);
    assert_eq!(core.status(0).rejected_messages, 4);
}

#[test]
fn tombstones_of_strangers_do_not_go_round_and_old_ones_are_forgotten() {
    use MemberStatus::{Alive, Left};
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("b", 1, 0, Left)]);
    assert_eq!(status_of(&core, "b"), None);
    gossip(
        &mut core,
        0,
        "x",
        vec![state("c", 1, 0, Alive), state("c", 1, 1, Left)],
    );
    gossip(&mut core, 1, "x", vec![state("c", 1, 0, Alive)]);
    assert_eq!(
        status_of(&core, "c"),
        Some(Left),
        "an old claim does not bring it back"
    );
    assert!(
        core.views(at(1)).iter().all(|v| v.state.id != id("c")),
        "not listed"
    );
    core.reap(at(LEFT_KEPT_MS + 10));
    assert_eq!(status_of(&core, "c"), None);
}

#[test]
fn stopping_is_told_to_everybody_and_then_there_is_silence() {
    let mut core = core_of("a");
    for name in ["b", "c", "d"] {
        gossip(&mut core, 0, name, vec![]);
    }
    core.take_outputs();
    core.stop(at(100), MemberStatus::Stopped);
    let mut outputs = core.take_outputs();
    outputs.extend(run_until(&mut core, 10_000).into_iter().map(|(_, o)| o));
    let mut told: Vec<&str> = Vec::new();
    for output in &outputs {
        if let Output::Send { packet, .. } = output {
            assert_eq!(
                packet.intro.as_ref().map(|i| i.status),
                Some(MemberStatus::Stopped)
            );
            assert_eq!(packet.from.incarnation, 1);
            told.push(packet.to.as_str());
        }
    }
    told.sort_unstable();
    assert_eq!(told, ["b", "b", "b", "c", "c", "c", "d", "d", "d"]);
    let exchanges = outputs
        .iter()
        .filter(|o| matches!(o, Output::Exchange { .. }));
    assert_eq!(exchanges.count(), 2);
    assert!(core.is_silent());
    core.handle(
        at(10_001),
        source(),
        packet(member("b"), "a", Body::Ping { seq: 1 }, vec![]),
    );
    gossip(
        &mut core,
        10_002,
        "b",
        vec![state("a", 1, 9, MemberStatus::Dead)],
    );
    core.tick(at(99_999));
    assert_eq!(core.take_outputs(), vec![]);
    assert_eq!(core.next_wake(), u64::MAX);
}

/// A stop that reaches a node which already holds the member dead still wins; later accusations
/// do not undo it.
#[test]
fn stopped_beats_dead_at_the_same_freshness() {
    use MemberStatus::{Dead, Stopped, Suspected};
    let mut core = core_of("a");
    gossip(&mut core, 0, "x", vec![state("b", 1, 2, Dead)]);
    gossip(&mut core, 0, "x", vec![state("b", 1, 2, Stopped)]);
    gossip(
        &mut core,
        0,
        "x",
        vec![state("b", 1, 2, Dead), state("b", 1, 2, Suspected)],
    );
    assert_eq!(status_of(&core, "b"), Some(Stopped));
}

/// Who is down can be taken off the list for good; who answers cannot, and a later life comes
/// back as somebody new.
#[test]
fn only_who_is_down_can_be_buried() {
    use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
    for (status, after) in [
        (Alive, Alive),
        (Suspected, Suspected),
        (Dead, Left),
        (Stopped, Left),
    ] {
        let mut core = core_of("a");
        gossip(&mut core, 0, "x", vec![state("b", 1, 2, status)]);
        core.bury(at(5), &id("b"));
        core.bury(at(5), &id("stranger"));
        assert_eq!(status_of(&core, "b"), Some(after), "{status:?}");
        gossip(&mut core, 6, "x", vec![state("b", 1, 2, Dead)]);
        assert_eq!(status_of(&core, "b") == Some(Left), after == Left);
        gossip(&mut core, 7, "b", vec![]);
        gossip(&mut core, 8, "x", vec![state("b", 2, 0, Alive)]);
        assert_eq!(status_of(&core, "b"), Some(Alive));
    }
}

/// `hashicorp/memberlist#222`, `consul#7750`: nobody forgets to try the dead, the stopped, the
/// seeds and the remembered, whatever happened before.
#[test]
fn the_gone_and_the_contacts_are_tried_for_ever() {
    let mut core = core_with(GossipConfig::default(), "a", &["seed:1", "b:1", "me-too:1"]);
    gossip(
        &mut core,
        0,
        "x",
        vec![state("dead", 1, 0, MemberStatus::Dead)],
    );
    gossip(
        &mut core,
        0,
        "x",
        vec![state("gone", 1, 0, MemberStatus::Stopped)],
    );
    gossip(&mut core, 0, "b", vec![]);
    core.contact_answered("me-too:1", &id("a"));
    core.take_outputs();
    let tried = |outputs: Vec<(u64, Output)>| -> std::collections::BTreeMap<String, usize> {
        let mut tried = std::collections::BTreeMap::new();
        for (_, output) in outputs {
            if let Output::Exchange { address } = output {
                *tried.entry(address).or_default() += 1;
            }
        }
        tried
    };
    let early = tried(run_until(&mut core, 120_000));
    assert!(
        !early.contains_key("me-too:1"),
        "a seed that is this node itself"
    );
    let late = tried(run_until(&mut core, 24 * 3600 * 1000));
    for address in ["dead:1", "gone:1", "seed:1", "x:1", "b:1"] {
        // x and b never answer here, so they are dead as well
        assert!(early.contains_key(address), "{address}: {early:?}");
        let expected = 24 * 720 / 5;
        assert!(late[address] > expected / 2, "{address}: {late:?}");
    }
    let attempts: usize = late.values().sum();
    assert!(
        attempts < 3 * 24 * 3600 / 4,
        "at a bounded rate: {attempts}"
    );
}

#[test]
fn a_contact_that_is_an_alive_member_is_left_alone() {
    let mut core = core_with(GossipConfig::default(), "a", &["localhost:1"]);
    gossip(&mut core, 0, "b", vec![]);
    core.contact_answered("localhost:1", &id("b"));
    core.reconnect();
    let exchanges = core
        .take_outputs()
        .into_iter()
        .filter(|o| matches!(o, Output::Exchange { .. }));
    assert_eq!(exchanges.count(), 0);
}

#[test]
fn a_node_that_stood_still_does_not_blame_others() {
    let mut core = core_of("a");
    for name in ["b", "c"] {
        gossip(&mut core, 0, name, vec![]);
    }
    run_until(&mut core, 600);
    gossip(
        &mut core,
        601,
        "c",
        vec![state("b", 1, 0, MemberStatus::Suspected)],
    );
    core.take_outputs();
    core.tick(at(60_000));
    let told = happenings(&mut core);
    assert_eq!(told, vec![], "neither dead nor newly suspected");
    run_until(&mut core, 66_000);
    assert_eq!(
        status_of(&core, "b"),
        Some(MemberStatus::Dead),
        "but in the end it is"
    );
}

#[test]
fn local_news_raise_the_incarnation_and_load_does_not() {
    let mut core = core_of("a");
    let ring = RingStamp {
        epoch: 3,
        digest: 9,
    };
    let load = Load {
        keys: 5,
        ..Load::default()
    };
    core.set_local(Lifecycle::Serving, RingStamp::default(), load);
    assert_eq!((core.local.incarnation, core.local.load.keys), (0, 5));
    core.set_local(Lifecycle::Draining, ring, load);
    assert_eq!((core.local.incarnation, core.local.ring), (1, ring));
    // load is taken over from its owner without any news being spread
    let mut other = core_of("b");
    let ack = |core: &Core| packet(core.local.clone(), "b", Body::Ack { seq: 0 }, vec![]);
    other.handle(at(0), source(), ack(&core));
    let revision = other.revision();
    core.set_local(Lifecycle::Draining, ring, Load { keys: 6, ..load });
    other.handle(at(1), source(), ack(&core));
    assert_eq!(
        other.members.get(&id("a")).map(|m| m.state.load.keys),
        Some(6)
    );
    assert_eq!(other.revision(), revision);
}

#[test]
fn packets_keep_to_their_budget() {
    let mut core = core_of("a");
    let many: Vec<_> = (0..200)
        .map(|n| Arc::new(member(&format!("member-{n:04}"))))
        .collect();
    core.merge(at(0), &id("x"), many);
    gossip(&mut core, 0, "b", vec![]);
    let mut full = 0;
    for (_, output) in run_until(&mut core, 2000) {
        if let Output::Send { packet, .. } = output {
            let bytes = codec::encode(&packet).expect("encodes").len();
            assert!(bytes <= 1400, "{bytes}");
            full += usize::from(bytes > 1250);
        }
    }
    assert!(full > 10, "and they are used: {full}");
}

#[test]
fn intervals_scale_as_memberlist_does() {
    for (n, exchange_s, suspicion_ms) in [
        (3, 30, 4000),
        (33, 60, 6074),
        (65, 90, 7251),
        (129, 120, 8442),
    ] {
        let mut core = core_of("a");
        let others = (1..n).map(|i| member(&format!("n{i}")).into()).collect();
        core.merge(at(0), &id("x"), others);
        assert_eq!(core.exchange_interval_ms(), exchange_s * 1000, "n = {n}");
        assert_eq!(core.suspicion_ms(), suspicion_ms, "n = {n}");
    }
}

#[test]
fn thousands_of_members_cost_a_bounded_tick() {
    let mut core = core_of("a");
    let others = (0..5000)
        .map(|i| member(&format!("n{i:05}")).into())
        .collect();
    core.merge(at(0), &id("x"), others);
    core.take_outputs();
    // counted work, not time: a round sends to its fanout and a probe's helpers, however many
    // members and rumors there are
    let mut sent = 0;
    for (_, output) in run_until(&mut core, 400) {
        if let Output::Send { packet, .. } = output {
            sent += 1;
            assert!(codec::packet_bytes(&packet) <= 1400);
            assert!(packet.claims.len() > 10, "room is used");
        }
    }
    assert!(
        (6..=9).contains(&sent),
        "two rounds of three, and a probe: {sent}"
    );
    assert_eq!(core.status(0).cluster_size, 5001);
    assert!(core.rumors().len() <= known::RUMORS_LISTED_MAX);
}

/// A node that is known in another life or incarnation than it speaks of, and says nothing more
/// of itself, is asked, and asked again only now and then.
#[test]
fn who_is_not_known_as_it_speaks_is_asked_and_introduces_itself() {
    let mut a = core_of("a");
    a.merge(at(0), &id("x"), vec![member("b").into()]);
    a.take_outputs();
    let brief = |incarnation| Packet {
        intro: None,
        ..packet(
            state("b", 1, incarnation, MemberStatus::Alive),
            "a",
            Body::Gossip,
            vec![],
        )
    };
    a.handle(at(1), source(), brief(0));
    assert!(packets(&mut a).is_empty(), "known as it is");
    a.handle(at(2), source(), brief(3));
    let asked = packets(&mut a);
    assert_eq!(asked.len(), 1);
    assert!(asked[0].1.ask && asked[0].0 == Dest::Source(source()));
    assert_eq!(freshness_of(&a, "b"), (1, 0), "nothing is made up");
    a.handle(at(3), source(), brief(3));
    assert!(packets(&mut a).is_empty(), "not twice at once");

    // the other side: it is told, and then they know each other
    let mut b = core_with(GossipConfig::default(), "b", &[]);
    Arc::make_mut(&mut b.local).incarnation = 3;
    b.merge(at(0), &id("x"), vec![member("a").into()]);
    run_until(&mut b, 10_000);
    b.handle(at(10_000), source(), asked[0].1.clone());
    let told = packets(&mut b);
    assert_eq!(told.len(), 1);
    assert!(told[0].1.intro.is_some());
    a.handle(at(600), source(), told[0].1.clone());
    assert_eq!(freshness_of(&a, "b"), (1, 3));
}

/// Strangers cannot make this node send more than a few small packets.
#[test]
fn strangers_are_asked_seldom() {
    let mut a = core_of("a");
    run_until(&mut a, 1_000);
    for n in 0..1_000u64 {
        let name = format!("stranger-{n}");
        let hello = Packet {
            intro: None,
            ..packet(member(&name), "a", Body::Gossip, vec![])
        };
        a.handle(at(1_000 + n / 10), source(), hello);
    }
    let asked = packets(&mut a);
    assert!((2..=6).contains(&asked.len()), "{} in 100 ms", asked.len());
}

#[test]
fn an_intro_of_somebody_else_is_refused() {
    let mut a = core_of("a");
    let honest = || packet(member("b"), "a", Body::Gossip, vec![]);
    let edits: [fn(&mut MemberState); 4] = [
        |s| s.id = id("c"),
        |s| s.incarnation = 9,
        |s| s.status = MemberStatus::Dead,
        |s| s.address.clear(),
    ];
    for (n, edit) in edits.into_iter().enumerate() {
        let mut forged = honest();
        edit(Arc::make_mut(forged.intro.as_mut().expect("there")));
        a.handle(at(0), source(), forged);
        assert_eq!(a.rejected.of(Rejected::Unacceptable), n as u64 + 1);
        assert_eq!(status_of(&a, "b").or(status_of(&a, "c")), None);
    }
    a.handle(at(0), source(), honest());
    assert_eq!(status_of(&a, "b"), Some(MemberStatus::Alive));
}
