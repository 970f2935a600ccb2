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
        vec![state("b", two_years_on, 0, MemberStatus::Alive)],
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
