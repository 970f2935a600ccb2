//! What a comparison costs on the wire: it follows the difference, not the data.

use bytes::Bytes;
use ringmaster_shared::{
    key::Key,
    version::{Record, Value},
};

use super::compare::{Comparison, Tally};
use crate::replication::{
    testing::{alone, dot_of, id, key, sibling},
    tests::lab::{PARTITIONS, Quiet, settled},
};

const VALUE_BYTES: usize = 100;

fn record(counter: u64, version: u64) -> Record {
    let mut sibling = sibling(dot_of("writer", version, counter), 1000 + version, 0);
    sibling.value = Some(Value::Raw(Bytes::from(vec![7; VALUE_BYTES])));
    alone(sibling)
}

fn entries(numbers: impl Iterator<Item = u64>, version: u64) -> Vec<(Key, Record)> {
    let key = |n: u64| key(&format!("customer/{n:07}"));
    numbers.map(|n| (key(n), record(n + 1, version))).collect()
}

async fn store(lab: &Quiet, at: &str, entries: Vec<(Key, Record)>) {
    let store = &lab.site(at).replica.store;
    store.merge_many(entries).await.expect("stored");
}

async fn compare(lab: &Quiet) -> Tally {
    let site = lab.site("a");
    let peer = id("b");
    let issued = site.issued();
    let mut comparison = Comparison::new(site, &peer, 1, issued);
    let all: Vec<u16> = (0..PARTITIONS).collect();
    comparison.run(&all).await.expect("compared");
    assert_eq!(
        comparison.clean.len(),
        all.len(),
        "nothing differs any more"
    );
    for partition in all {
        let root = |at: &str| lab.site(at).replica.store.digest_root(partition);
        assert_eq!(root("a"), root("b"));
    }
    comparison.tally
}

/// Two replicas with the same keys.
async fn twins(keys: u64) -> Quiet {
    let lab = Quiet::start(&settled(1, &["a", "b"]), &["a", "b"]);
    for at in ["a", "b"] {
        store(&lab, at, entries(0..keys, 1)).await;
    }
    lab
}

/// Makes `count` keys differ, each second one on the other side, and compares.
async fn mend(lab: &Quiet, keys: u64, count: u64, version: u64) -> u64 {
    let differing = |odd: u64| {
        let at = move |n| n * (keys / count);
        (0..count).filter(move |n| n % 2 == odd).map(at)
    };
    store(lab, "a", entries(differing(0), version)).await;
    store(lab, "b", entries(differing(1), version)).await;
    let tally = compare(lab).await;
    assert_eq!(tally.pulled + tally.pushed, count as usize, "{tally:?}");
    tally.traffic.total()
}

#[tokio::test]
async fn bytes_follow_the_difference_not_the_data() {
    const SMALL: u64 = 1_000;
    const LARGE: u64 = 100_000;
    let (small, large) = (twins(SMALL).await, twins(LARGE).await);
    let nothing = compare(&large).await;
    assert_eq!((nothing.pulled, nothing.pushed), (0, 0));
    let nothing = nothing.traffic.total();
    let ten_of_small = mend(&small, SMALL, 10, 2).await;
    let ten = mend(&large, LARGE, 10, 3).await;
    let hundred = mend(&large, LARGE, 100, 4).await;
    let all = LARGE * (VALUE_BYTES as u64);
    println!(
        "bytes of a comparison: {nothing} with nothing to do; 10 keys differ: {ten_of_small} of \
         {SMALL}, {ten} of {LARGE}; 100 keys differ: {hundred} of {LARGE} ({all} bytes of values)"
    );
    // the roots alone
    assert!(nothing <= 64 + 20 * u64::from(PARTITIONS), "{nothing}");
    // each difference: one path of digests (two levels of 32 numbers), the versions of one leaf,
    // the record and its frames
    let record = VALUE_BYTES as u64 + 100;
    let digests = 2 * 32 * 10;
    assert!(ten < 10 * (2 * record + 2 * digests), "{ten}");
    assert!(ten < 2 * ten_of_small, "{ten} and {ten_of_small}");
    assert!(
        hundred < 15 * ten && hundred > 3 * ten,
        "{hundred} and {ten}"
    );
    assert!(hundred < all / 50, "{hundred} of {all}");
}
