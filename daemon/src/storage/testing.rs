//! Records for the tests of this room, and stores for those of others.

use std::path::Path;

use bytes::Bytes;
use ringmaster_shared::{
    clock::Hlc,
    id::NodeId,
    key::Key,
    version::{Actor, Dot, Record, Sibling, Value, VersionVector},
};

impl super::StoreConfig {
    /// A small store below a node's `folder`, whatever room there is on the disk.
    pub(crate) fn for_tests(folder: &Path, partition_count: u16) -> Self {
        Self {
            dir: folder.join("store"),
            partition_count,
            segment_bytes: 4 << 20,
            cache_bytes: 4 << 20,
            hint_bytes_max: 4 << 20,
            reserve_bytes: 0,
            min_free_bytes: 0,
        }
    }
}

impl super::Store {
    /// Makes the stored record of this key unreadable.
    pub(crate) fn spoil(&self, key: &Key) {
        let core = &self.inner.core;
        core.table.records.spoil(&core.record_item(key));
    }

    /// Nothing more is taken into the store until what this returns is dropped.
    pub(crate) async fn stall(&self) -> tokio::sync::OwnedSemaphorePermit {
        let budget = self.inner.budget.clone();
        let all = budget.acquire_many_owned(super::QUEUE_KIB).await;
        all.expect("an open store")
    }

    /// Takes away the file with the body of this key.
    pub(crate) fn lose_body(&self, key: &Key) {
        let core = &self.inner.core;
        core.table.records.lose_body(&core.record_item(key));
    }

    /// Takes away the file with the body of this hint.
    pub(crate) fn lose_hint_body(&self, target: &NodeId, key: &Key) {
        let item = super::hints::item_key(target, key);
        self.inner.core.table.hints.lose_body(&item);
    }

    pub(super) fn flush_table(&self) {
        self.inner.core.table.flush();
    }

    /// Large bodies that the next checkpoint syncs.
    pub(super) fn unsynced_bodies(&self) -> Vec<u64> {
        self.inner.core.table.records.unsynced_bodies()
    }
}

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

pub(super) fn key(name: &str) -> Key {
    Key::new(name).expect("valid")
}

fn written(name: &str, counter: u64, hlc: u64, value: Option<Value>) -> Record {
    let actor = Actor {
        node: node(name),
        epoch: 1,
    };
    let covered = VersionVector([(actor.clone(), counter.saturating_sub(1))].into());
    let dot = Dot { actor, counter };
    let hlc = Hlc(hlc);
    Record::written(&Record::default(), &covered, Sibling { dot, hlc, value })
}

/// The `counter`-th write of actor `name`, superseding the earlier ones, `len` bytes.
pub(super) fn record(name: &str, counter: u64, hlc: u64, len: usize) -> Record {
    let fill = (counter as u8).wrapping_mul(31).wrapping_add(len as u8);
    let value = Value::Raw(Bytes::from(vec![fill; len]));
    written(name, counter, hlc, Some(value))
}

pub(super) fn tombstone(name: &str, counter: u64, hlc: u64) -> Record {
    written(name, counter, hlc, None)
}

/// A record whose version vector knows `actors` actors.
pub(super) fn wide_clock(actors: u64) -> Record {
    (0..actors).fold(record("a", 1, 10, 10), |wide, n| {
        wide.merge(&Record {
            clock: VersionVector(
                [(
                    Actor {
                        node: node(&format!("some-node-{n}")),
                        epoch: n,
                    },
                    n,
                )]
                .into(),
            ),
            siblings: Vec::new(),
        })
    })
}
