//! Probes by example: direct, through others, over TCP.

use super::{
    super::{probe_log::Answered, *},
    *,
};

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
                Output::Happened(Happening::Suspected {
                    id,
                    by,
                    wait_ms,
                    least_ms,
                }) => {
                    assert_eq!((id.as_str(), by.as_str()), ("b", "a"));
                    assert_eq!((wait_ms, least_ms), (24_000, 4_000));
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
    assert_eq!(dead - suspected, 24_000, "nobody confirmed it");
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
    let sent = packets(&mut core);
    assert_eq!(sent.len(), 1);
    let nack = Body::Nack {
        seq: 41,
        target: id("stranger"),
    };
    assert_eq!(
        (&sent[0].1.to, &sent[0].1.body),
        (&id("asker"), &nack),
        "but the asker hears that it was heard"
    );
}

#[test]
fn tcp_only_keeps_the_member_and_is_said_once() {
    let mut core = core_of("a");
    gossip(&mut core, 0, "b", vec![]);
    core.take_outputs();
    let mut blocked = 0;
    // `hashicorp/serf#216`, `#283`: nor does it flap, however long that lasts
    while core.next_wake() < 900_000 {
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
fn who_was_forgotten_and_came_back_is_probed_once_a_round() {
    let mut core = core_of("a");
    for n in 0..5 {
        gossip(&mut core, 0, &format!("n{n}"), vec![]);
    }
    for _ in 0..20 {
        core.members.remove(&id("n3"));
        gossip(&mut core, 0, "n3", vec![]);
    }
    run_until(&mut core, 60_000);
    assert!(core.rotation.len() <= 5, "{:?}", core.rotation);
}

/// Who has been probed is not moved behind the cursor by those who take its place.
#[test]
fn newcomers_cost_nobody_of_this_round_a_turn() {
    for seed in 0..20 {
        let mut core = core_of("a");
        core.rng = SmallRng::seed_from_u64(seed);
        for n in 0..6 {
            gossip(&mut core, 0, &format!("old{n}"), vec![]);
        }
        let turns = |core: &mut Core, n: usize| -> Vec<NodeId> {
            (0..n).filter_map(|_| core.next_target()).collect()
        };
        let mut round = turns(&mut core, 6);
        round.clear(); // the order of the first is that of arrival
        round.extend(turns(&mut core, 3));
        for n in 0..4 {
            gossip(&mut core, 1, &format!("new{n}"), vec![]);
        }
        let left = core.rotation.len() - core.cursor;
        round.extend(turns(&mut core, left));
        let met = round.len();
        round.sort();
        round.dedup();
        assert_eq!(round.len(), met, "seed {seed}: nobody twice");
        let olds = round.iter().filter(|id| id.as_str().starts_with("old"));
        assert_eq!(olds.count(), 6, "seed {seed}: {round:?}");
    }
}

/// A relay only passes on what the target itself answered, and a forged answer does not call the
/// relay off.
#[test]
fn a_relay_is_not_called_off_by_others() {
    let mut core = core_of("relay");
    gossip(&mut core, 0, "target", vec![]);
    core.take_outputs();
    let target = id("target");
    let ask = Body::PingRequest { seq: 41, target };
    core.handle(
        at(1),
        source(),
        packet(member("asker"), "relay", ask, vec![]),
    );
    let sent = packets(&mut core);
    let Some(Body::Ping { seq }) = sent.first().map(|(_, p)| p.body.clone()) else {
        panic!("a ping: {sent:?}");
    };
    let mut passed_on = Vec::new();
    for from in ["stranger", "asker", "target"] {
        let ack = packet(member(from), "relay", Body::Ack { seq }, vec![]);
        core.handle(at(2), source(), ack);
        passed_on.extend(packets(&mut core).into_iter().map(|(_, p)| (from, p.body)));
    }
    let target = id("target");
    assert_eq!(
        passed_on,
        [("target", Body::RelayedAck { seq: 41, target })]
    );
}

/// Only who was asked can say that the target is alive.
#[test]
fn a_relayed_answer_of_somebody_not_asked_is_not_taken() {
    for (by, ends) in [("c", true), ("stranger", false)] {
        let mut core = core_of("a");
        for name in ["b", "c"] {
            gossip(&mut core, 0, name, vec![]);
        }
        let mut asked = None;
        while asked.is_none() {
            let now = core.next_wake();
            core.tick(at(now));
            for (_, sent) in packets(&mut core) {
                match sent.body {
                    Body::Ping { seq } if sent.to == id("c") => {
                        let ack = packet(member("c"), "a", Body::Ack { seq }, vec![]);
                        core.handle(at(now), source(), ack);
                    }
                    Body::PingRequest { seq, target } => asked = Some((now, seq, target)),
                    _ => {}
                }
            }
        }
        let (now, seq, target) = asked.expect("asked");
        let answer = Body::RelayedAck { seq, target };
        core.handle(at(now), source(), packet(member(by), "a", answer, vec![]));
        assert_eq!(core.probes_under_way().0 == 0, ends, "{by}");
        let answered: Vec<_> = core.probe_log().since(now).collect();
        assert_eq!(answered, [Answered::ThroughOthers][usize::from(!ends)..]);
    }
}

/// Who is held suspected needs the ping most; who is gone needs none, and the asker hears at once
/// that it was heard.
#[test]
fn a_relay_pings_the_suspected_and_not_who_is_gone() {
    use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
    for (status, pinged) in [
        (Alive, true),
        (Suspected, true),
        (Dead, false),
        (Stopped, false),
        (Left, false),
    ] {
        let mut core = core_of("relay");
        gossip(&mut core, 0, "target", vec![]);
        gossip(&mut core, 0, "x", vec![state("target", 1, 0, status)]);
        assert_eq!(status_of(&core, "target"), Some(status));
        core.take_outputs();
        let target = id("target");
        let ask = Body::PingRequest { seq: 41, target };
        let asker = packet(member("asker"), "relay", ask, vec![]);
        core.handle(at(1), source(), asker);
        let sent = packets(&mut core);
        let is_ping = |body: &Body| matches!(body, Body::Ping { .. });
        let is_nack = |body: &Body| matches!(body, Body::Nack { seq: 41, .. });
        let pings = sent.iter().filter(|(_, p)| is_ping(&p.body)).count();
        let nacks = sent.iter().filter(|(_, p)| is_nack(&p.body)).count();
        let expected = if pinged { (1, 0) } else { (0, 1) };
        assert_eq!((pings, nacks), expected, "{status:?}: {sent:?}");
    }
}
