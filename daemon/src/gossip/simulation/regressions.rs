//! What went wrong in other engines, each as a small story. Names of the form `owner/repo#n` are
//! their issues.

use ringmaster_shared::member::MemberStatus;

use super::{
    names,
    nodes::Condition,
    wiring::Wiring,
    world::{Parameters, World},
};
use crate::gossip::{
    codec::{Body, Brief, Packet},
    testing,
};

fn formed(seed: u64, n: usize) -> World {
    let mut world = World::new(Parameters::new(seed, n));
    world.settle(20_000);
    world
}

#[test]
fn in_calm_nobody_is_ever_suspected() {
    let mut world = World::new(Parameters::new(9, 30));
    let formed = world.settle(20_000);
    world.run_for(300_000);
    assert_eq!(world.counters.suspected, 0);
    assert!(formed <= 5_000, "formed in {formed} ms of simulated time");
}

#[test]
fn a_crash_is_noticed_within_the_bound_of_swim() {
    for seed in 0..5 {
        let mut world = formed(seed, 10);
        world.crash(4);
        let took = world.settle(20_000);
        // nine others probe once a second: soon found, then a second's probe and the suspicion
        assert!((4_000..9_000).contains(&took), "seed {seed}: {took} ms");
    }
}

#[test]
fn a_stop_is_known_at_once_and_is_not_a_death() {
    let mut world = formed(3, 12);
    world.stop(5);
    let took = world.settle(3_000);
    assert!(took <= 1_000, "{took} ms");
    world.run_for(60_000);
    assert!(world.all_hold(5, MemberStatus::Stopped));
    assert_eq!(world.counters.dead + world.counters.suspected, 0);
}

/// `hashicorp/memberlist#222`: halves that long hold each other dead find together again.
#[test]
fn a_long_partition_heals() {
    for n in [2, 3, 20] {
        let mut world = formed(11, n);
        for at in 0..n {
            world.network.group(at, u8::from(at >= n / 2));
        }
        world.run_for(600_000);
        assert!(world.counters.dead >= 2, "each side gave the other up");
        for at in 0..n {
            world.network.group(at, 0);
        }
        world.settle(30_000);
    }
}

/// `hashicorp/serf#333`, `consul#526`: all down at once; they come back one after another, each
/// knowing only addresses.
#[test]
fn a_cluster_that_was_all_down_finds_together() {
    let mut world = formed(12, 5);
    for n in 0..5 {
        if n % 2 == 0 {
            world.crash(n);
        } else {
            world.stop(n);
        }
    }
    world.run_for(60_000);
    for n in 0..5 {
        world.restart(n);
        world.run_for(10_000);
    }
    world.settle(30_000);
}

/// A seed that starts last, and restarts, still forms one cluster (`akka/akka#18757`).
#[test]
fn the_seed_may_come_last_and_restart() {
    let mut world = World::new(Parameters::new(13, 4));
    world.crash(0);
    world.run_for(30_000);
    world.restart(0);
    world.settle(30_000);
    world.crash(0);
    world.restart(0);
    world.settle(10_000);
}

/// `hashicorp/memberlist#157`, `consul#4733`: the same node at another address is taken in at
/// once, whether its old life was given up or not.
#[test]
fn a_node_may_come_back_at_another_address() {
    for away_ms in [0, 60_000] {
        let mut world = formed(14, 8);
        world.crash(3);
        world.run_for(away_ms);
        world.move_to_new_place(3);
        let took = world.settle(20_000);
        assert!(took <= 3_000, "after {away_ms} ms away: {took} ms");
        assert!(world.counters.moved >= 7, "and it is said");
        assert!(world.counters.restarted >= 7);
    }
}

/// `camunda#61611`: a restart faster than any detection is an event all the same.
#[test]
fn a_restart_before_detection_is_still_an_event() {
    let mut world = formed(15, 10);
    world.crash(6);
    world.run_for(100);
    world.restart(6);
    world.settle(10_000);
    assert_eq!(world.counters.suspected + world.counters.dead, 0);
    assert!(world.counters.restarted >= 9, "each of the others saw it");
}

/// `hashicorp/serf#115`: another node at an address used before; the old one stays what it was.
#[test]
fn a_recycled_address_is_another_node() {
    let mut world = formed(16, 6);
    world.crash(2);
    let contacts = world.seed_addresses();
    let new = world.recycle(2, 0, &contacts);
    assert_eq!(new, Some(6));
    world.settle(60_000);
    assert!(world.all_hold(2, MemberStatus::Dead));
    assert!(world.all_hold(6, MemberStatus::Alive));
}

/// `hashicorp/consul#843`, `nomad#3837`: two clusters whose members come by each other's
/// addresses, as seeds and as remembered ones, never become one.
#[test]
fn recycled_addresses_never_merge_clusters() {
    let mut world = formed(17, 5);
    let ours = world.addresses_of(&world.who_is_up());
    let first = world.join(1, &ours);
    let theirs = vec![names::address(world.nodes[first].place)];
    world.join(1, &[ours.clone(), theirs.clone()].concat());
    world.run_for(20_000);
    world.crash(3);
    // a node of the other cluster where ours try their dead member for ever
    let third = world.recycle(3, 1, &theirs);
    assert!(third.is_some());
    world.run_for(120_000);
    // and ours come back with the other's addresses
    world.crash(4);
    world.reborn(4, 4, &[theirs, ours].concat());
    world.settle(60_000);
    assert!(world.counters.foreign_contacts > 10 && world.counters.foreign_met > 0);
    for node in &world.nodes {
        let expected = if node.cluster == 0 { 4 } else { 2 };
        if node.condition == Condition::Up {
            assert_eq!(node.core.others(), expected, "{}", node.id);
        }
    }
}

/// Two halves that were cut apart while both moved: each knows addresses of the other that
/// nobody has any more, but for one.
#[test]
fn halves_with_stale_contacts_find_each_other_by_one_address() {
    let n = 10;
    let mut world = formed(18, n);
    for at in 0..n {
        world.network.group(at, u8::from(at >= n / 2));
    }
    world.run_for(120_000);
    for who in 1..n {
        world.crash(who);
        world.move_to_new_place(who);
        let place = world.nodes[who].place;
        world.network.group(place, u8::from(who >= n / 2));
        world.run_for(5_000);
    }
    world.run_for(60_000);
    for place in 0..world.occupants.len() {
        world.network.group(place, 0);
    }
    world.settle(120_000);
}

/// `hashicorp/serf#216`, `alertmanager#1564`: a node whose UDP is blocked stays a member by
/// TCP, and it is said.
#[test]
fn who_answers_over_tcp_alone_stays_a_member() {
    let mut world = formed(19, 8);
    world.block_udp(3);
    world.run_for(120_000);
    let c = &world.counters;
    println!("cut {}, answered over TCP {}", c.cut, c.tcp_answers);
    assert!(c.cut >= 450 && c.tcp_answers >= 170, "by TCP alone: {c:?}");
    assert_eq!(c.dead, 0);
    assert_eq!(c.udp_noticed, 7, "each of the others says it once");
}

/// One direction of one link: the others can reach both, so neither is given up.
#[test]
fn a_one_way_link_kills_nobody() {
    let mut world = formed(20, 8);
    world.cut_one_way(2, 5);
    world.run_for(180_000);
    println!("cut {}", world.counters.cut);
    assert!(world.counters.cut >= 35, "{:?}", world.counters);
    assert_eq!(world.counters.dead, 0);
}

/// What does not fit the socket's buffer of a node that stands still is gone; the cluster is none
/// the worse for it.
#[test]
fn a_socket_that_overflows_loses_packets_and_nothing_else() {
    let mut world = formed(23, 20);
    world.pause(3, 2_500);
    for at in 0..500 {
        let by = 4 + at % 16;
        let packet = Packet {
            cluster: testing::cluster(),
            to: names::node_id(3),
            from: Brief::of(world.nodes[by].core.local()),
            intro: None,
            ask: false,
            body: Body::Gossip,
            claims: Vec::new(),
        };
        world.send(by, 3, Box::new(packet));
    }
    world.run_for(2_000);
    let c = &world.counters;
    assert!(c.overflowed >= 244 && c.waited == 256, "{c:?}");
    world.settle(10_000);
    assert_eq!(world.counters.dead, 0);
}

/// The process at the other end restarts between two messages of an exchange: the next one finds
/// another process there, which must not take half of a conversation for its own.
#[test]
fn an_exchange_ends_with_the_process_it_began_with() {
    let mut world = World::new(Parameters::new(21, 2));
    world.network.tcp_extra_ms = 500;
    // asked, answered, and what the asker has to give is under way
    world.run_for(1_200);
    assert_eq!(world.counters.exchange_lists, 2);
    world.restart(0);
    world.run_for(1_200);
    assert_eq!(world.counters.exchanges_broken_off, 1);
    world.settle(20_000);
}

/// Nobody can read a node that comes back with a key the others have removed, and it can read
/// nobody; it is dead to them until it is given the new one.
#[test]
fn who_missed_a_change_of_keys_is_back_when_it_has_the_new_one() {
    let mut world = World::new(Parameters {
        wiring: Wiring::Sealed,
        ..Parameters::new(22, 6)
    });
    world.settle(20_000);
    world.crash(4);
    world.settle(60_000);
    for _ in 0..3 {
        world.rotate_keys();
        world.run_for(5_000);
    }
    assert_eq!(world.counters.keys_removed, 5);
    let before = world.counters.refused_sealed;
    world.restart(4);
    world.settle(30_000);
    let seen = world.counters.refused_sealed;
    assert!(seen > before, "it spoke under the old key");
    world.run_for(15_000);
    assert_eq!(world.counters.keys_removed, 6);
}
