//! Random histories with restarts, against a map of joined records.
//!
//! A restart may also find the table as it was at the restart before: the furthest a table may
//! lag behind the log, so that replay has everything to do again.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;
use ringmaster_shared::{key::Key, version::Record};

use super::{PARTITIONS, all_leaves, config, copy_dir};
use crate::storage::{
    BRANCHES, RecoveryReport, Store, StoreConfig,
    testing::{key, node, record, tombstone},
};

#[derive(Debug, Clone)]
enum Step {
    Merge {
        key: u8,
        actor: u8,
        size: usize,
        deleted: bool,
    },
    MergeMany {
        keys: Vec<u8>,
        actor: u8,
    },
    Hint {
        key: u8,
        actor: u8,
    },
    HintsDone {
        take: usize,
    },
    DropPartition {
        partition: u16,
    },
    Crash {
        table_lags: bool,
    },
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![6 => 0_usize..200, 2 => 3000_usize..8000, 1 => 40_000_usize..200_000];
    let merge = (0_u8..20, 0_u8..3, size, prop::bool::weighted(0.2));
    let many = (prop::collection::vec(0_u8..20, 0..10), 0_u8..3);
    prop_oneof![
        10 => merge.prop_map(|(key, actor, size, deleted)| Step::Merge { key, actor, size, deleted }),
        4 => many.prop_map(|(keys, actor)| Step::MergeMany { keys, actor }),
        3 => (0_u8..20, 0_u8..3).prop_map(|(key, actor)| Step::Hint { key, actor }),
        2 => (1_usize..8).prop_map(|take| Step::HintsDone { take }),
        1 => (0..PARTITIONS).prop_map(|partition| Step::DropPartition { partition }),
        2 => any::<bool>().prop_map(|table_lags| Step::Crash { table_lags }),
        1 => Just(Step::Close),
    ]
}

#[derive(Default)]
struct Model {
    records: BTreeMap<Key, Record>,
    hints: BTreeMap<Key, Record>,
    counter: u64,
}

fn named(n: u8) -> Key {
    key(&format!("key-{n}"))
}

impl Model {
    fn next(&mut self, actor: u8, size: usize, deleted: bool) -> Record {
        self.counter += 1;
        let name = ["a", "b", "c"][usize::from(actor)];
        if deleted {
            tombstone(name, self.counter, self.counter)
        } else {
            record(name, self.counter, self.counter, size)
        }
    }

    fn merge(map: &mut BTreeMap<Key, Record>, key: Key, incoming: &Record) {
        let entry = map.entry(key).or_default();
        *entry = entry.merge(incoming);
    }

    fn check(&self, store: &Store) {
        for n in 0..20 {
            let expected = self.records.get(&named(n));
            assert_eq!(store.get(&named(n)).expect("readable").as_ref(), expected);
            let version = store.version(&named(n)).expect("readable");
            assert_eq!(version, expected.map(Record::version));
        }
        let mut scanned = Vec::new();
        for p in 0..PARTITIONS {
            scanned.extend(
                store
                    .scan_partition(p, None, usize::MAX)
                    .expect("readable")
                    .entries,
            );
        }
        scanned.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(scanned.into_iter().eq(self.records.clone()));
        let present = |r: &&Record| r.version().present;
        let stats = store.stats();
        let live = self.records.values().filter(present).count() as u64;
        assert_eq!(
            (stats.keys, stats.keys + stats.tombstones),
            (live, self.records.len() as u64)
        );
        let hints = store.hints_for(&node("n"), usize::MAX).expect("readable");
        assert!(hints.into_iter().eq(self.hints.clone()));
        let owed = store.hints_owed().get(&node("n")).copied().unwrap_or(0);
        assert_eq!(owed, self.hints.len() as u64);
    }
}

/// Digests are a function of the content, however it came about.
fn check_digests(store: &Store, records: &BTreeMap<Key, Record>) {
    let fresh = crate::storage::digest::Digests::new(PARTITIONS);
    for (key, record) in records {
        let p = key.partition(PARTITIONS);
        fresh.change(p, key.hash(), None, Some(record.fingerprint()));
    }
    for p in 0..PARTITIONS {
        let leaves = (0..BRANCHES).flat_map(|branch| fresh.leaves(p, branch));
        assert!(all_leaves(store, p).into_iter().eq(leaves), "leaves of {p}");
        assert_eq!(store.digest_branches(p), fresh.branches(p));
        assert_eq!(store.digest_root(p), fresh.root(p));
    }
}

/// The table and the checkpoint as they were at the last restart.
struct Past(tempfile::TempDir);

impl Past {
    /// Puts the old table back where the log still covers the difference; then remembers.
    fn restart(&mut self, dir: &Path, table_lags: bool) {
        let checkpoint = |dir: &Path| fs::read(dir.join("checkpoint")).unwrap_or_default();
        let (table, old) = (dir.join("table"), self.0.path().join("table"));
        if table_lags && old.exists() && checkpoint(dir) == checkpoint(self.0.path()) {
            fs::remove_dir_all(&table).expect("removed");
            copy_dir(&old, &table);
        }
        self.0 = tempfile::tempdir().expect("temp dir");
        copy_dir(dir, self.0.path());
    }
}

async fn play(config: StoreConfig, steps: Vec<Step>) {
    let open = || {
        let (store, report): (Store, RecoveryReport) = Store::open(config.clone()).expect("opens");
        assert!(
            !report.lost_data && report.set_aside.is_empty(),
            "{report:?}"
        );
        store
    };
    let mut model = Model::default();
    let mut past = Past(tempfile::tempdir().expect("temp dir"));
    let mut store = open();
    for step in steps {
        match step {
            Step::Merge {
                key,
                actor,
                size,
                deleted,
            } => {
                let incoming = model.next(actor, size, deleted);
                Model::merge(&mut model.records, named(key), &incoming);
                assert!(
                    store
                        .merge(named(key), incoming.clone())
                        .await
                        .expect("stored")
                );
                assert!(!store.merge(named(key), incoming).await.expect("known"));
            }
            Step::MergeMany { keys, actor } => {
                let entries: Vec<_> = keys
                    .iter()
                    .map(|k| (named(*k), model.next(actor, 50, false)))
                    .collect();
                for (key, incoming) in &entries {
                    Model::merge(&mut model.records, key.clone(), incoming);
                }
                let changed = store.merge_many(entries).await.expect("stored");
                assert_eq!(changed, keys.len());
            }
            Step::Hint { key, actor } => {
                let incoming = model.next(actor, 6000, false);
                Model::merge(&mut model.hints, named(key), &incoming);
                assert!(
                    store
                        .hint_add(&node("n"), named(key), incoming)
                        .await
                        .expect("kept")
                );
            }
            Step::HintsDone { take } => {
                let owed = store.hints_for(&node("n"), take).expect("readable");
                let delivered: Vec<_> = owed
                    .into_iter()
                    .map(|(k, r)| (k, r.fingerprint()))
                    .collect();
                for (key, _) in &delivered {
                    model.hints.remove(key);
                }
                store.hints_done(&node("n"), delivered).await.expect("done");
            }
            Step::DropPartition { partition } => {
                model
                    .records
                    .retain(|k, _| k.partition(PARTITIONS) != partition);
                store.drop_partition(partition).await.expect("dropped");
            }
            Step::Crash { table_lags } => {
                drop(store);
                past.restart(&config.dir, table_lags);
                store = open();
                model.check(&store);
                check_digests(&store, &model.records);
            }
            Step::Close => {
                store.close().await.expect("closed");
                drop(store);
                past.restart(&config.dir, false);
                store = open();
                model.check(&store);
            }
        }
    }
    model.check(&store);
    check_digests(&store, &model.records);
    drop(store);
    model.check(&open());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_map_of_joins_that_survives_restarts(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut config = config(dir.path());
        // small, so that segments and checkpoints come and go
        config.segment_bytes = 100_000;
        config.hint_bytes_max = 1 << 30;
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(play(config, steps));
    }
}
