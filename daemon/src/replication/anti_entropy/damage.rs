//! A damaged row costs the comparison of its own partition, on whichever side it lies, and nothing else.

use std::collections::BTreeSet;

use ringmaster_shared::{event::EventCode, key::Key, version::Record};

use super::compare::Comparison;
use crate::{
    replication::{
        testing::{alone, dot, id, key, sibling},
        tests::lab::{PARTITIONS, Quiet, settled},
    },
    storage::StorageError,
};

/// Enough for several in each partition.
const KEYS: u64 = 300;

fn record(version: u64) -> Record {
    alone(sibling(dot("writer", version), 1000 + version, version))
}

/// Every `step`-th key from `first` on.
fn entries(first: usize, step: usize, version: u64) -> Vec<(Key, Record)> {
    let numbers = (0..KEYS).skip(first).step_by(step);
    let entry = |n| (key(&format!("k{n}")), record(version));
    numbers.map(entry).collect()
}

async fn store(lab: &Quiet, at: &str, entries: Vec<(Key, Record)>) {
    let store = &lab.site(at).replica.store;
    store.merge_many(entries).await.expect("stored");
}

fn first_of(partition: u16) -> Key {
    let mut keys: Vec<Key> = entries(0, 1, 1).into_iter().map(|(k, _)| k).collect();
    keys.retain(|k| k.partition(PARTITIONS) == partition);
    keys.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    // the hardest place: a reader of the partition before must stop short of it
    keys.swap_remove(0)
}

fn told(lab: &Quiet, at: &str) -> usize {
    let events = lab.site(at).events.newest(1000);
    let damaged = events
        .iter()
        .filter(|event| event.code == EventCode::TableDamaged);
    damaged.count()
}

#[tokio::test]
async fn a_damaged_row_keeps_no_other_partition_from_being_compared() {
    for damaged_at in ["a", "b"] {
        let lab = Quiet::start(&settled(1, &["a", "b"]), &["a", "b"]);
        for at in ["a", "b"] {
            store(&lab, at, entries(0, 1, 1)).await;
        }
        let damaged = key("k0").partition(PARTITIONS);
        let spoiled = first_of(damaged);
        let others: BTreeSet<u16> = (0..PARTITIONS).filter(|p| *p != damaged).collect();
        lab.site(damaged_at).replica.store.spoil(&spoiled);
        // differences on both sides of every partition
        let mut later = [("a", entries(0, 2, 2)), ("b", entries(1, 2, 2))];
        for (at, entries) in &mut later {
            entries.retain(|(k, _)| *k != spoiled);
            let here: BTreeSet<u16> = entries.iter().map(|e| e.0.partition(PARTITIONS)).collect();
            assert_eq!(here.len(), usize::from(PARTITIONS));
            store(&lab, at, std::mem::take(entries)).await;
        }
        let (site, peer) = (lab.site("a"), id("b"));
        // first, last and in the middle of its row
        let rest = || others.iter().copied();
        let orders: [Vec<u16>; 3] = [
            [damaged].into_iter().chain(rest()).collect(),
            rest().chain([damaged]).collect(),
            (0..PARTITIONS).collect(),
        ];
        for (n, order) in orders.iter().enumerate() {
            let mut comparison = Comparison::new(site, &peer, 1, site.issued());
            let ended = comparison.run(order).await;
            assert!(ended.is_err(), "the damage at {damaged_at} went unnoticed");
            assert_eq!(comparison.clean, others, "order {n}");
            let moved = if n == 0 { others.len() } else { 0 };
            assert_eq!(comparison.tally.partitions, moved, "order {n}");
            let mut more = entries(0, 7, 3 + n as u64);
            more.retain(|(k, _)| *k != spoiled);
            store(&lab, "a", more).await;
            let again = Comparison::new(site, &peer, 1, site.issued());
            finish(again, &others).await;
        }
        for partition in rest() {
            let root = |at: &str| lab.site(at).replica.store.digest_root(partition);
            assert_eq!(root("a"), root("b"), "partition {partition}");
        }
        let read = |at: &str, k: &Key| lab.site(at).replica.store.get(k);
        for (k, _) in entries(0, 1, 1) {
            if k == spoiled {
                let damaged = read(damaged_at, &k);
                assert!(matches!(damaged, Err(StorageError::Read { .. })));
            } else if k.partition(PARTITIONS) != damaged {
                assert_eq!(read("a", &k), read("b", &k), "{k}");
            }
        }
        // by the node whose disk it is, once, however often it is met
        assert_eq!(told(&lab, "a"), usize::from(damaged_at == "a"));
        let next = &lab.site(damaged_at).replica.store;
        assert!(damaged_at == "b" || !next.count_at_next_start());
    }
}

/// Brings the others to the same again, so that the next order begins without differences there.
async fn finish(mut comparison: Comparison<'_>, others: &BTreeSet<u16>) {
    let order: Vec<u16> = others.iter().copied().collect();
    comparison.run(&order).await.expect("sound partitions");
    assert_eq!(&comparison.clean, others);
}
