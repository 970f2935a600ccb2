use ringmaster_shared::{
    id::ClusterId,
    key::Key,
    topology::{RingMember, Transition},
    version::Value,
};

use super::{refill::Stuck, *};
use crate::replication::{
    testing::{alone, dot, id, key, sibling},
    tests::lab::{PARTITIONS, Quiet, settled},
};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn set(names: &[&str]) -> BTreeSet<NodeId> {
    names.iter().map(|n| id(n)).collect()
}

/// One partition on the first `rf` of five nodes, one on the last two.
fn topology(rf: u16, transition: Option<Transition>) -> Topology {
    Topology {
        cluster_id: ClusterId::new("0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111").expect("valid"),
        epoch: 9,
        replication_factor: 5,
        members: NAMES
            .map(|n| RingMember {
                id: id(n),
                address: format!("{n}:1"),
                zone: "default".into(),
            })
            .to_vec(),
        table: vec![(0..rf).collect(), vec![3, 4]],
        transition,
    }
}

fn change(step: Step) -> Transition {
    Transition {
        step,
        kind: ringmaster_shared::topology::ChangeKind::Join,
        leaving: vec![],
        joining: vec![],
        target: vec![vec![0, 1, 4], vec![3, 4]],
    }
}

#[test]
fn what_was_lost_is_known_by_a_later_ring() {
    use Step::{Dual, Filling};
    for step in [None, Some(Filling), Some(Dual)] {
        let ring = topology(3, step.map(change));
        assert_eq!(ring.epoch, 9);
        for (lost_through, known) in [(0, true), (8, true), (9, false), (Epoch::MAX, false)] {
            let awaited = awaited_ring(&ring, lost_through);
            assert_eq!(
                awaited.is_ok(),
                known,
                "{step:?} {lost_through} {awaited:?}"
            );
        }
    }
}

#[test]
fn each_state_has_its_task() {
    let cases = [
        (None, "a", false, 0, Task::Forget(vec![1])),
        (None, "a", true, 0, Task::Refill(vec![0])),
        (
            Some(change(Step::Filling)),
            "e",
            false,
            8,
            Task::Fill(9, vec![0]),
        ),
        (Some(change(Step::Filling)), "e", false, 9, Task::Nothing),
        (
            Some(change(Step::Filling)),
            "a",
            false,
            8,
            Task::Fill(9, vec![]),
        ),
        (
            Some(change(Step::Filling)),
            "e",
            true,
            8,
            Task::Refill(vec![0, 1]),
        ),
        (Some(change(Step::Dual)), "e", false, 9, Task::Nothing),
        (None, "stranger", false, 0, Task::Nothing),
    ];
    for (n, (transition, me, needs_refill, filled, want)) in cases.into_iter().enumerate() {
        let topology = topology(3, transition);
        assert_eq!(
            task(&topology, &id(me), needs_refill, filled),
            want,
            "case {n}"
        );
    }
}

#[test]
fn a_new_replica_reads_a_quorum_of_the_old_ones() {
    let sources = Sources::of(
        &topology(3, Some(change(Step::Filling))),
        0,
        &id("e"),
        false,
    );
    assert_eq!(sources.candidates(), ["a", "b", "c"].map(id));
    assert!(!sources.suffice(&set(&["a"])));
    assert!(sources.suffice(&set(&["a", "c"])));
}

#[test]
fn a_lost_replica_reads_all_that_could_hide_a_write() {
    // (replicas, scanned by a, enough)
    let cases: [(u16, &[&str], bool); 7] = [
        (3, &["b"], false),
        (3, &["b", "c"], true),
        (2, &["b"], true),
        (4, &["b"], false),
        (4, &["b", "c"], true),
        (5, &["b", "c"], false),
        (5, &["b", "c", "d"], true),
    ];
    for (rf, scanned, enough) in cases {
        let sources = Sources::of(&topology(rf, None), 0, &id("a"), true);
        assert!(sources.possible());
        assert_eq!(sources.suffice(&set(scanned)), enough, "{rf} {scanned:?}");
    }
    let alone = Sources::of(&topology(1, None), 0, &id("a"), true);
    assert!(!alone.possible() && alone.candidates().is_empty());
}

/// The rule, checked against its meaning: every write quorum shares a replica with the scanned.
#[test]
fn scanned_replicas_meet_every_quorum_outside_the_lost_one() {
    for rf in 1..=5_u16 {
        let sources = Sources::of(&topology(rf, None), 0, &id("a"), true);
        let others = sources.candidates();
        for mask in 0_u32..1 << others.len() {
            let pick = |mask: u32| -> BTreeSet<NodeId> {
                let chosen = others
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| mask & 1 << i != 0);
                chosen.map(|(_, id)| id.clone()).collect()
            };
            let scanned = pick(mask);
            let all_seen = (0_u32..1 << others.len()).all(|quorum| {
                let mut members = pick(quorum);
                members.insert(id("a"));
                !sources.group.is_met(&members) || !members.is_disjoint(&scanned)
            });
            assert_eq!(sources.suffice(&scanned), all_seen, "{rf} {mask:b}");
        }
    }
}

#[test]
fn who_lost_their_data_together_wait_for_a_decision() {
    let me = id("a");
    // partition 0 is on a to e or fewer, partition 1 on d and e
    let stuck = |rf, lost: &[&str]| {
        let topology = topology(rf, None);
        let held: Vec<PartitionId> = vec![0];
        refill::stuck(&topology, &me, &held, &set(lost))
    };
    let found = |with: &[&str], empty| {
        Some(Stuck {
            with: set(with),
            partitions: 1,
            empty,
        })
    };
    assert_eq!(stuck(3, &[]), None);
    assert_eq!(stuck(3, &["d"]), None, "no replica of it");
    assert_eq!(stuck(3, &["b"]), found(&["b"], 0));
    assert_eq!(stuck(3, &["b", "c", "e"]), found(&["b", "c"], 1));
    // three of five need not be asked twice over: one of the others may be missing
    assert_eq!(stuck(5, &["b"]), None);
    assert_eq!(stuck(5, &["b", "c"]), found(&["b", "c"], 0));
    assert_eq!(stuck(2, &["b"]), found(&["b"], 1));
    assert_eq!(stuck(1, &["b"]), None, "nobody else ever had it");

    let sources = Sources::of(&topology(3, None), 0, &me, true).without(&set(&["b"]));
    assert_eq!(sources.candidates(), [id("c")], "all that is left is asked");
    assert!(!sources.possible());
}

#[test]
fn loss_is_accepted_only_for_what_was_shown() {
    let refill = refill::Refill::default();
    let stuck = |with: &[&str]| {
        Some(Stuck {
            with: set(with),
            partitions: 1,
            empty: 0,
        })
    };
    assert_eq!(refill.accept_loss(), None, "nothing waits");
    assert!(!refill.observe(stuck(&["b"])));
    assert_eq!(refill.accept_loss(), stuck(&["b"]));
    assert!(refill.observe(stuck(&["b"])));
    assert!(!refill.observe(stuck(&["b", "c"])), "more is lost by now");
    assert!(refill.accept_loss().is_some());
    assert!(!refill.observe(None));
    assert!(!refill.observe(stuck(&["b", "c"])));
    let sentence = stuck(&["b"]).map(|s| s.sentence(&id("a")));
    assert!(sentence.is_some_and(|s| s.contains("ringmaster refill a --accept-loss")));
}

#[test]
fn a_forgotten_vote_is_given_again_only_where_it_is_missing() {
    // five voters, three decide
    let ring = topology(3, None);
    let needed = |lost: &[&str]| refill::needs_my_vote(&ring, &id("a"), &set(lost));
    assert!(!needed(&[]) && !needed(&["b"]));
    assert!(needed(&["b", "c"]));
    assert!(!refill::needs_my_vote(&ring, &id("x"), &set(&["b", "c"])));
}

/// Each in a file of its own.
async fn put_in_each(site: &Site, keys: &[Key]) {
    let mut sibling = sibling(dot("w", 1), 1000, 1);
    sibling.value = Some(Value::Raw(vec![b'x'; 70_000].into()));
    let entries = keys.iter().map(|k| (k.clone(), alone(sibling.clone())));
    let stored = site.replica.store.merge_many(entries.collect()).await;
    stored.expect("stored");
}

/// `a` needs both others, and one of them lost a body in each partition.
#[tokio::test]
async fn all_damage_of_a_source_is_found_at_once_and_what_was_read_is_not_read_again() {
    let ring = Arc::new(settled(1, &["a", "b", "c"]));
    let lab = Quiet::start(&ring, &["a", "b", "c"]);
    let all: Vec<PartitionId> = (0..PARTITIONS).collect();
    let in_partition = |p: &PartitionId| {
        let keys = (0..).map(|n| key(&format!("k{n}")));
        let mut keys = keys.filter(|k| ring.partition_of(k) == *p);
        keys.next().expect("one of many")
    };
    let keys: Vec<Key> = all.iter().map(in_partition).collect();
    let held = |at: &str| lab.site(at).replica.store.clone();
    for at in ["b", "c"] {
        put_in_each(lab.site(at), &keys).await;
    }
    for key in &keys {
        held("c").lose_body(key);
    }
    let (scans, nobody) = (Scans::default(), BTreeSet::new());
    let attempt = || {
        let (site, nobody) = (lab.site("a"), Some(&nobody));
        scan_all(site, &ring, all.clone(), nobody, &scans)
    };
    let why = attempt().await.expect_err("c cannot be read");
    assert!(why.starts_with("partition 0 cannot"), "{why}");
    assert_eq!(held("c").damaged(), keys.len());

    put_in_each(lab.site("c"), &keys).await;
    assert_eq!(held("c").damaged(), 0);
    for key in &keys {
        held("b").lose_body(key);
    }
    assert_eq!(attempt().await, Ok(keys.len()), "b was read before");
    for key in &keys {
        assert!(held("a").get(key).is_ok_and(|r| r.is_some()), "{key}");
    }
    assert!(
        attempt().await.is_err(),
        "what has ended begins with nothing"
    );
}

#[test]
fn what_was_read_by_another_ring_counts_for_nothing() {
    let scans = Scans::default();
    let ring = |epoch, step: Option<Step>| {
        Arc::new(Topology {
            epoch,
            ..topology(3, step.map(change))
        })
    };
    let filling = Some(Step::Filling);
    // the ring, whether to get back what was lost, whether what was read before still counts
    let cases = [
        (3, None, true, false),
        (4, None, true, false),
        (4, None, false, false),
        (5, filling, false, false),
        (6, filling, false, true),
        (7, filling, true, false),
        (8, filling, true, false),
        (9, filling, false, false),
        (11, filling, false, false),
    ];
    for (epoch, step, refill, kept) in cases {
        let ring = ring(epoch, step);
        scans.begin(&ring, refill);
        assert_eq!(!scans.of(7).is_empty(), kept, "epoch {epoch}");
        scans.add(7, &id("b"), 5 * usize::from(!kept));
        scans.begin(&ring, refill);
        assert_eq!(scans.of(7), set(&["b"]), "epoch {epoch}");
    }
    scans.add(7, &id("c"), 6);
    assert_eq!(scans.of(7), set(&["b", "c"]));
    assert_eq!(scans.end(), 11);
    assert_eq!(scans.of(7), BTreeSet::new());
}
