//! Ends: of this node, and of members that are not coming back.

use super::{super::*, *};

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

/// `hashicorp/consul#8435`: leaving a cluster of thousands takes no longer, and no burst.
#[test]
fn a_farewell_among_thousands_is_short() {
    let mut core = core_of("a");
    let others = (0..5000).map(|n| member(&format!("n{n}")).into());
    core.merge(at(0), &id("x"), others.collect());
    core.take_outputs();
    core.stop(at(100), MemberStatus::Left);
    let mut told = packets(&mut core).len();
    while !core.is_silent() {
        let now = core.next_wake();
        assert!(now <= 1000);
        core.tick(at(now));
        told += packets(&mut core).len();
    }
    assert_eq!(told, 3 * 512);
}
