//! What the committer is asked, and how its answers travel.

use std::collections::BTreeMap;

use ringmaster_shared::{
    clock::Hlc,
    id::{NodeId, PartitionId},
    key::Key,
    version::Record,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

#[cfg(doc)]
use crate::storage::Store;
use crate::storage::{Merged, StorageError};

pub(in crate::storage) type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

pub(in crate::storage) enum Request {
    /// `issued` as in [`Store::merge_many_issued`].
    Merge {
        entries: Vec<(Key, Record)>,
        issued: Hlc,
        reply: Reply<Merged>,
    },
    HintAdd {
        target: NodeId,
        key: Key,
        /// `None`: nothing is kept, only the partition becomes dirty.
        record: Option<Record>,
        reply: Reply<bool>,
    },
    HintsDone {
        target: NodeId,
        delivered: Vec<(Key, u64)>,
        /// Not delivered but given up: their partitions become dirty.
        given_up: bool,
        reply: Reply<()>,
    },
    /// Forget those of these records that are still the same, and raise the floor.
    Forget {
        partition: PartitionId,
        keys: Vec<(Key, u64)>,
        floor: Hlc,
        reply: Reply<()>,
    },
    RaiseFloors {
        floors: Vec<(PartitionId, Hlc)>,
        reply: Reply<()>,
    },
    /// Of each partition the mark that had this number; a later one stays.
    ClearDirty {
        target: NodeId,
        partitions: BTreeMap<PartitionId, u64>,
        reply: Reply<()>,
    },
    DropPartition {
        partition: PartitionId,
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

impl Request {
    pub fn refuse(self, error: StorageError) {
        // a waiter that left needs no answer, here and below
        match self {
            Self::Merge { reply, .. } => drop(reply.send(Err(error))),
            Self::HintAdd { reply, .. } => drop(reply.send(Err(error))),
            Self::HintsDone { reply, .. }
            | Self::Forget { reply, .. }
            | Self::RaiseFloors { reply, .. }
            | Self::ClearDirty { reply, .. }
            | Self::DropPartition { reply, .. }
            | Self::Close { reply } => drop(reply.send(Err(error))),
        }
    }
}

/// A queued request and its share of the queue's bytes.
pub(in crate::storage) struct Ticket {
    pub request: Request,
    pub bytes: usize,
    pub permit: OwnedSemaphorePermit,
}
