//! Packets that are not for this node, or are nonsense.

use super::{super::*, *};

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

/// Whoever forges the address its packets come from gets no large packet sent there for a small
/// one, and uses up no rumors.
#[test]
fn answers_carry_no_rumors() {
    let mut a = core_of("a");
    let many = (0..200).map(|n| member(&format!("member-{n:03}")).into());
    a.merge(at(0), &id("x"), many.collect());
    run_until(&mut a, 3_000);
    let many = (0..200).map(|n| state(&format!("member-{n:03}"), 1, 1, MemberStatus::Alive).into());
    a.merge(at(3_000), &id("x"), many.collect());
    let dead = state("member-199", 1, 1, MemberStatus::Dead);
    gossip(&mut a, 3_000, "member-000", vec![dead]);
    a.take_outputs();
    let waiting = a.rumors();
    assert_eq!(waiting.len(), 200);
    let ping_of = |target| Body::PingRequest {
        seq: 2,
        target: id(target),
    };
    let bodies = [
        Body::Ping { seq: 1 },
        ping_of("stranger"),
        ping_of("member-002"),
        ping_of("member-199"),
        Body::Gossip,
    ];
    for (n, body) in (0..300u64).zip(bodies.into_iter().cycle()) {
        // of a member, of a member in another life, of nobody known
        let name = ["member-000", "member-001", "nobody"][n as usize / 5 % 3];
        let hello = Packet {
            intro: None,
            ask: true,
            ..packet(
                state(name, 1 + n % 2, 5, MemberStatus::Alive),
                "a",
                body,
                vec![],
            )
        };
        let asked = codec::packet_bytes(&hello);
        a.handle(at(3_001), source(), hello);
        let sent: usize = packets(&mut a)
            .iter()
            .map(|(_, p)| codec::packet_bytes(p))
            .sum();
        assert!(sent <= 5 * asked, "{sent} bytes for {asked}");
    }
    assert_eq!(a.rumors(), waiting, "all still to be told");
}

/// Nobody has a member flooded through this node.
#[test]
fn pings_made_for_others_are_bounded_for_each_target() {
    let mut a = core_of("a");
    gossip(&mut a, 0, "victim", vec![]);
    run_until(&mut a, 100);
    let (mut pings, mut nacks) = (0, 0);
    for seq in 0..500 {
        let target = id("victim");
        let ask = Body::PingRequest { seq, target };
        let asker = member(&format!("asker-{}", seq % 50));
        a.handle(at(100), source(), packet(asker, "a", ask, vec![]));
        for (_, sent) in packets(&mut a) {
            pings += usize::from(matches!(sent.body, Body::Ping { .. }));
            nacks += usize::from(matches!(sent.body, Body::Nack { .. }));
        }
    }
    assert_eq!((pings, nacks), (16, 484));
}
