//! Full-state exchanges: with whom, how often, for how long.

use super::{super::*, *};

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
    let late = tried(run_until(&mut core, 24 * 3600 * 1000));
    for address in ["dead:1", "gone:1", "seed:1", "me-too:1", "x:1", "b:1"] {
        // that this node itself answered once does not mean that it always will; x and b never answer here, so they are dead as well
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

/// A name of many addresses may lead to the node itself; whoever else is behind it, it did not
/// reach them.
#[test]
fn a_node_alone_is_not_a_seed_of_its_own() {
    let mut core = core_with(GossipConfig::default(), "a", &["svc:1"]);
    let mut tried = 0;
    let mut said = Vec::new();
    while core.next_wake() <= 120_000 {
        let now = at(core.next_wake());
        core.tick(now);
        for output in core.take_outputs() {
            match output {
                Output::Exchange { address } => {
                    assert_eq!(address, "svc:1");
                    tried += 1;
                    core.contact_answered(&address, &id("a"));
                }
                Output::Happened(happening) => said.push(happening),
                _ => {}
            }
        }
    }
    assert!(tried >= 8, "it goes on trying: {tried}");
    let [Happening::SeedUnreachable { error, .. }] = said.as_slice() else {
        panic!("{said:?}");
    };
    assert_eq!(
        error.as_deref(),
        Some("only this node itself answers there")
    );
    assert!(!core.seed_infos()[0].reachable);
    core.merge(at(120_000), &id("b"), vec![member("b").into()]);
    assert!(core.seed_infos()[0].reachable, "it is among the members");
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
