//! Laws of placement, and the everyday cases spelled out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use proptest::prelude::*;

use super::*;
use crate::id::{ClusterId, NodeId};

fn member(n: usize, zone: usize) -> RingMember {
    RingMember {
        id: NodeId::new(&format!("n{n:03}")).expect("valid"),
        address: format!("n{n}:1"),
        zone: format!("z{zone}"),
    }
}

fn same_zone(nodes: std::ops::Range<usize>) -> Vec<RingMember> {
    nodes.map(|n| member(n, 0)).collect()
}

fn founded(founder: RingMember, rf: u8, partitions: u16) -> Topology {
    let cluster = ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid");
    Topology::founded(cluster, founder, rf, partitions)
}

/// The topology after the change is done.
fn apply(topology: &Topology, wanted: &[RingMember]) -> (Topology, Placement) {
    let placement = plan(topology, wanted);
    let keep: Vec<usize> = (0..placement.members.len())
        .filter(|i| wanted.iter().any(|w| w.id == placement.members[*i].id))
        .collect();
    let table = placement.target.iter().map(|row| {
        let place = |i: &u16| keep.iter().position(|k| *k == usize::from(*i));
        row.iter()
            .map(|i| place(i).expect("only wanted") as u16)
            .collect()
    });
    let next = Topology {
        epoch: topology.epoch + 1,
        members: keep.iter().map(|i| placement.members[*i].clone()).collect(),
        table: table.collect(),
        ..topology.clone()
    };
    (next, placement)
}

#[test]
fn who_is_spared_gets_nothing_more_unless_a_row_would_be_short() {
    let members: Vec<RingMember> = (0..9).map(|n| member(n, n % 3)).collect();
    let (ring, _) = apply(&founded(members[0].clone(), 3, 64), &members);
    // 0 goes, 3 and 6 are its zone; 3 is down as well
    let left = &members[1..];
    let gains = |placement: &Placement, n: usize| {
        let id = &members[n].id;
        let at = placement.members.iter().position(|m| m.id == *id);
        let at = at.expect("there") as u16;
        let rows = placement.current.iter().zip(&placement.target);
        rows.filter(|(old, new)| new.contains(&at) && !old.contains(&at))
            .count()
    };
    assert!(gains(&plan(&ring, left), 3) > 0, "it would gain");
    let spared = plan_sparing(&ring, left, &[members[3].id.clone()]);
    assert_eq!(gains(&spared, 3), 0);
    assert!(spared.target.iter().all(|row| row.len() == 3));
    // with only three left each of them is needed
    let few = plan_sparing(&ring, &members[..3], &[members[1].id.clone()]);
    assert!(few.target.iter().all(|row| row.len() == 3));
}

fn loads(topology: &Topology) -> Vec<usize> {
    let mut loads = vec![0; topology.members.len()];
    for i in topology.table.iter().flatten() {
        loads[usize::from(*i)] += 1;
    }
    loads
}

fn primaries(topology: &Topology) -> Vec<usize> {
    let mut loads = vec![0; topology.members.len()];
    for row in &topology.table {
        loads[usize::from(row[0])] += 1;
    }
    loads
}

fn spread(loads: &[usize]) -> usize {
    loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0)
}

/// Replicas that must be sent to somebody.
fn sent(placement: &Placement) -> usize {
    let pairs = placement.current.iter().zip(&placement.target);
    pairs
        .map(|(old, new)| new.iter().filter(|i| !old.contains(i)).count())
        .sum()
}

/// Pairs of replicas that share a zone, the measure of crowding; and the least possible.
fn crowding(topology: &Topology, row: &[u16]) -> (usize, usize) {
    let pairs = |n: usize| n * n.saturating_sub(1) / 2;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for i in row {
        *counts
            .entry(&topology.members[usize::from(*i)].zone)
            .or_default() += 1;
    }
    for m in &topology.members {
        *sizes.entry(&m.zone).or_default() += 1;
    }
    let mut best: BTreeMap<&str, usize> = sizes.keys().map(|z| (*z, 0)).collect();
    for _ in row {
        let (zone, _) = best
            .iter()
            .filter(|(z, n)| **n < sizes[*z])
            .min_by_key(|(_, n)| **n)
            .expect("room for every replica");
        let zone = *zone;
        *best.entry(zone).or_default() += 1;
    }
    (
        counts.values().map(|n| pairs(*n)).sum(),
        best.values().map(|n| pairs(*n)).sum(),
    )
}

fn check_rows(topology: &Topology) {
    let want = usize::from(topology.replication_factor).min(topology.members.len());
    assert!(topology.is_well_formed());
    for row in &topology.table {
        assert_eq!(row.len(), want);
        let (is, least) = crowding(topology, row);
        assert_eq!(is, least, "zones of {row:?}");
    }
}

#[test]
fn a_cluster_grows_one_by_one() {
    let mut topology = founded(member(0, 0), 3, 256);
    // replicas that must be sent for each join: whole copies up to three, then a fair share
    let want = [(2, 256), (3, 256), (4, 192), (5, 153), (6, 128)];
    for (nodes, replicas) in want {
        let (next, placement) = apply(&topology, &same_zone(0..nodes));
        check_rows(&next);
        assert!(spread(&loads(&next)) <= 1, "{nodes}: {:?}", loads(&next));
        assert!(
            spread(&primaries(&next)) <= 1,
            "{nodes}: {:?}",
            primaries(&next)
        );
        assert_eq!(sent(&placement), replicas, "{nodes} nodes");
        if nodes > 3 {
            let most = placement
                .current
                .iter()
                .zip(&placement.target)
                .map(|(old, new)| new.iter().filter(|i| !old.contains(i)).count())
                .max();
            assert_eq!(
                most,
                Some(1),
                "no partition loses two replicas for one joiner"
            );
            let untouched_but_reordered = placement
                .current
                .iter()
                .zip(&placement.target)
                .filter(|(old, new)| old != new)
                .count();
            assert_eq!(untouched_but_reordered, placement.partitions_moved());
        }
        topology = next;
    }
}

#[test]
fn several_join_at_once() {
    let topology = founded(member(0, 0), 3, 256);
    for nodes in [3, 4, 5, 12] {
        let (next, _) = apply(&topology, &same_zone(0..nodes));
        check_rows(&next);
        assert!(spread(&loads(&next)) <= 1 && spread(&primaries(&next)) <= 1);
    }
}

#[test]
fn who_leaves_is_replaced_and_nothing_else_moves() {
    let (five, _) = apply(&founded(member(0, 0), 3, 256), &same_zone(0..5));
    let gone = loads(&five)[4];
    let (four, placement) = apply(&five, &same_zone(0..4));
    check_rows(&four);
    assert_eq!(four.members.len(), 4);
    assert!(spread(&loads(&four)) <= 1);
    assert_eq!(sent(&placement), gone);
    let (two, _) = apply(&four, &same_zone(1..3));
    assert!(two.table.iter().all(|row| row.len() == 2));
}

#[test]
fn nothing_wanted_or_nothing_new_moves_nothing() {
    let (three, _) = apply(&founded(member(0, 0), 3, 256), &same_zone(0..3));
    assert_eq!(plan(&three, &[]).target, three.table);
    assert_eq!(plan(&three, &same_zone(0..3)).target, three.table);
}

#[test]
fn a_new_zone_gets_a_replica_of_everything() {
    let (three, _) = apply(&founded(member(0, 0), 3, 256), &same_zone(0..3));
    let mut wanted = same_zone(0..3);
    wanted.push(member(3, 1));
    let (next, placement) = apply(&three, &wanted);
    check_rows(&next);
    assert_eq!(loads(&next)[3], 256, "zone spread comes before balance");
    assert!(spread(&loads(&next)[..3]) <= 1);
    assert_eq!(sent(&placement), 256);
}

#[test]
fn partners_are_many() {
    let (next, _) = apply(&founded(member(0, 0), 3, 256), &same_zone(0..12));
    let partners: BTreeSet<u16> = next
        .table
        .iter()
        .filter(|row| row.contains(&5))
        .flatten()
        .copied()
        .collect();
    assert_eq!(partners.len(), 12, "a lost node is rebuilt from all others");
}

/// Not a timing assertion: only that a plan of the largest size ends, printed for a person.
#[test]
fn large_plans_end() {
    let zones = |nodes: std::ops::Range<usize>| -> Vec<RingMember> {
        nodes.map(|n| member(n, n % 3)).collect()
    };
    let start = Instant::now();
    let (hundred, _) = apply(&founded(member(0, 0), 3, 1024), &zones(0..100));
    let first = start.elapsed();
    let start = Instant::now();
    let (more, placement) = apply(&hundred, &zones(0..101));
    println!("1 -> 100: {first:?}; 100 -> 101: {:?}", start.elapsed());
    check_rows(&more);
    assert_eq!(sent(&placement), 1024 * 3 / 101);
}

fn change() -> impl Strategy<Value = (usize, usize, usize, u8, u16, u32)> {
    // nodes before, joining, zones, replication factor, log2 of partitions, who leaves (bits)
    (
        1_usize..9,
        0_usize..5,
        1_usize..5,
        1_u8..6,
        3_u16..8,
        any::<u32>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn laws((before, joining, zones, rf, log2, leave) in change()) {
        let start = founded(member(0, 0), rf, 1 << log2);
        let all: Vec<RingMember> = (0..before + joining).map(|n| member(n, n % zones)).collect();
        let (old, _) = apply(&start, &all[..before]);
        // one in four changes also takes members out
        let stays = |n: usize| leave % 4 != 0 || n >= before || leave >> (8 + n) & 1 == 0;
        let wanted: Vec<RingMember> = (0..all.len()).filter(|n| stays(*n)).map(|n| all[n].clone())
            .collect();
        prop_assume!(!wanted.is_empty());
        let (new, placement) = apply(&old, &wanted);
        check_rows(&new);
        prop_assert_eq!(&placement, &plan(&old, &wanted), "the same on every node");
        let again = plan(&new, &wanted);
        prop_assert_eq!(again.target, again.current, "a planned table is left alone");

        let equal_zones = wanted.len().is_multiple_of(zones) && leave % 4 != 0;
        if zones == 1 || equal_zones {
            let loads = loads(&new);
            prop_assert!(spread(&loads) <= 1, "{loads:?}");
            prop_assert!(spread(&primaries(&new)) <= 1);
        }
        if zones == 1 {
            // what leavers held, and what members are short of their fair share
            let fair = new.table.len() * new.table[0].len() / wanted.len();
            let held = |m: &RingMember| {
                let at = placement.members.iter().position(|x| x.id == m.id);
                placement.current.iter().flatten().filter(|i| Some(usize::from(**i)) == at).count()
            };
            let short: usize = wanted.iter().map(|m| fair.saturating_sub(held(m))).sum();
            let missing: usize = new.table.len() * new.table[0].len()
                - wanted.iter().map(held).sum::<usize>().min(new.table.len() * new.table[0].len());
            prop_assert!(
                sent(&placement) <= short.max(missing) + wanted.len(),
                "sent {}, short {short}, missing {missing}", sent(&placement)
            );
        }
    }
}
