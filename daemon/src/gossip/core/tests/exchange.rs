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
    core.contact_answered(at(0), "me-too:1", &id("a"));
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
                    core.contact_answered(now, &address, &id("a"));
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
fn a_seed_was_last_tried_when_it_answered_or_did_not() {
    let mut core = core_with(GossipConfig::default(), "a", &["svc:1"]);
    let tried = |core: &Core| core.seed_infos()[0].last_tried;
    assert_eq!(tried(&core), None);
    core.contact_failed(at(5_000), "svc:1", "nobody listens there");
    assert_eq!(tried(&core), Some(core.wall_time(5_000)));
    core.contact_answered(at(7_000), "svc:1", &id("b"));
    assert_eq!(tried(&core), Some(core.wall_time(7_000)));
}

#[test]
fn a_contact_that_is_an_alive_member_is_left_alone() {
    let mut core = core_with(GossipConfig::default(), "a", &["localhost:1"]);
    gossip(&mut core, 0, "b", vec![]);
    core.contact_answered(at(0), "localhost:1", &id("b"));
    core.reconnect();
    let exchanges = core
        .take_outputs()
        .into_iter()
        .filter(|o| matches!(o, Output::Exchange { .. }));
    assert_eq!(exchanges.count(), 0);
}

/// Whom each packet of a greeting, or of any other news of the sender itself, goes to.
fn told_of(outputs: &[(u64, Output)], name: &str) -> Vec<(u64, String)> {
    let told = outputs.iter().filter_map(|(ms, output)| match output {
        Output::Send {
            to: Dest::Address(to),
            packet,
        } if packet.intro.as_ref().is_some_and(|i| i.id == id(name)) => Some((*ms, to.clone())),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_node_that_was_let_in_tells_everybody_at_once_and_asks_who_let_it_in() {
    let mut core = core_with(GossipConfig::default(), "new", &["seed:1"]);
    let known = (0..20).map(|n| member(&format!("n{n}")).into()).collect();
    core.welcome(at(0), known);
    core.tick(at(core.next_wake()));
    let outputs: Vec<_> = core.take_outputs().into_iter().map(|o| (0, o)).collect();
    let told: std::collections::BTreeSet<_> = told_of(&outputs, "new").into_iter().collect();
    assert_eq!(told.len(), 20, "{told:?}");
    let asked = outputs.iter().filter_map(|(_, o)| match o {
        Output::Exchange { address } => Some(address.as_str()),
        _ => None,
    });
    let asked: Vec<&str> = asked.collect();
    assert_eq!((asked.len(), asked[0]), (3, "seed:1"), "{asked:?}");
}

#[test]
fn a_node_that_comes_back_greets_when_it_knows_whom_and_once() {
    let mut core = core_with(GossipConfig::default(), "back", &["seed:1"]);
    let early = run_until(&mut core, 1_000);
    assert_eq!(told_of(&early, "back"), [], "it knows nobody");
    let known = (0..200).map(|n| member(&format!("n{n}")).into()).collect();
    core.merge(at(1_000), &id("n0"), known);
    core.lists_exchanged(&id("n0"));
    core.tick(at(1_000));
    let outputs = core.take_outputs().into_iter().map(|o| (1_000, o));
    let told = told_of(&outputs.collect::<Vec<_>>(), "back");
    let gossip = GossipConfig::default().gossip_fanout;
    assert!(
        (64..=64 + gossip + 1).contains(&told.len()),
        "{}",
        told.len()
    );
    let later = told_of(&run_until(&mut core, 1_190), "back");
    assert!(
        later.len() <= gossip + 2,
        "only what is sent anyway: {later:?}"
    );
}
