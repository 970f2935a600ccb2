//! What scales with the cluster, and what must not.

use super::{super::*, *};

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
        (33, 60, 6 * 6074),
        (65, 90, 6 * 7251),
        (129, 120, 6 * 8442),
    ] {
        let mut core = core_of("a");
        let others = (1..n).map(|i| member(&format!("n{i}")).into()).collect();
        core.merge(at(0), &id("x"), others);
        assert_eq!(core.exchange_interval_ms(), exchange_s * 1000, "n = {n}");
        let lasts = core.suspicion_of(&id("n1"), at(0)).ends_ms();
        assert_eq!(lasts, suspicion_ms, "n = {n}");
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

#[test]
fn without_news_nobody_is_woken_for_gossip_and_the_first_news_go_out_at_once() {
    let mut core = core_of("a");
    core.merge(at(0), &id("b"), vec![Arc::new(member("b"))]);
    let wakes = |core: &mut Core, until: u64| {
        let mut count = 0;
        while core.next_wake() <= until {
            let now = core.next_wake();
            core.tick(at(now));
            for (_, packet) in packets(core) {
                if let Body::Ping { seq } = packet.body {
                    let ack = packet_of_b(Body::Ack { seq });
                    core.handle(at(now), source(), ack);
                }
            }
            count += 1;
        }
        count
    };
    wakes(&mut core, 20_000);
    assert!(core.rumors.is_empty());
    let idle = wakes(&mut core, 40_000);
    assert!(
        idle <= 30,
        "{idle} wakes in 20 s: probes and little else, but no five rounds a second"
    );
    gossip(&mut core, 40_001, "b", vec![member("c")]);
    assert_eq!(core.next_wake(), 40_001);
    core.take_outputs();
    core.tick(at(40_001));
    let told = packets(&mut core);
    assert!(told.iter().any(|(_, p)| matches!(p.body, Body::Gossip)));
}

fn packet_of_b(body: Body) -> Packet {
    packet(member("b"), "a", body, vec![])
}
