//! What nodes say to each other over the pipelined binary connections.
//!
//! A frame is length-delimited (u32, big endian) postcard. Requests carry an id, the epoch the
//! sender goes by and how long it will wait; replies repeat the id and may come in any order.

use ringmaster_shared::{
    clock::Hlc,
    id::{ClusterId, Epoch, PartitionId},
    key::Key,
    topology::Topology,
    version::{Record, RecordVersion},
};
use serde::{Deserialize, Serialize};

use crate::{
    gossip::{MemberState, secrecy::Fingerprint},
    topology::{RegisterReply, RegisterRequest},
};

/// Largest frame either side accepts, bytes. A record of several siblings of 1 MiB must fit.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Version of this protocol, named in the upgrade.
pub const PROTOCOL: &str = "ringmaster-peer/1";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestFrame {
    pub id: u64,
    /// 0 where the epoch does not matter.
    pub epoch: Epoch,
    /// Milliseconds after which the sender no longer waits.
    pub deadline_ms: u32,
    pub request: Request,
}

/// A [`RequestFrame`] whose request is only lent; the same on the wire.
#[derive(Debug, Serialize)]
pub struct LentFrame<'a> {
    pub id: u64,
    pub epoch: Epoch,
    pub deadline_ms: u32,
    pub request: &'a Request,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseFrame {
    pub id: u64,
    pub response: Response,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Proof of life over TCP (fallback probe).
    Ping,
    /// A node without a cluster, or coming back, asks to be let in. The proof shows that it holds
    /// a key of the gossip, see `gossip/secrecy/joining.rs`; empty without one.
    Join {
        member: MemberState,
        proof: Vec<u8>,
    },
    /// A question of gossip's full-state exchange, in an envelope of its own, sealed or not
    /// (`gossip/wire.rs`).
    Gossip {
        message: Vec<u8>,
    },
    /// The receiver's member list, for `/api/v1/observations`.
    Members,
    FetchTopology,
    PushTopology {
        topology: Topology,
    },
    /// "Have you settled this epoch, and are your gained partitions filled?"
    TopologyProgress {
        epoch: Epoch,
    },
    Register(RegisterRequest),
    /// Epoch-checked: the version of a key without its values.
    ReadVersion {
        key: Key,
    },
    /// Epoch-checked: the whole record.
    ReadRecord {
        key: Key,
    },
    /// Epoch-checked: join this record; answered after it is synced. `issued` is the sender's
    /// clock when the operation began; what is older than the partition's floor is refused, for
    /// the tombstone that would have covered it may be forgotten (`docs/protocol.md`).
    Write {
        key: Key,
        record: Record,
        issued: Hlc,
    },
    /// Joins records. Hints come without an epoch (0) and with `issued` 0: each speaks for itself,
    /// by its oldest sibling. Repair is epoch-checked, for a node that was away may hold what it
    /// no longer has a right to; `issued` as in `Write`: when the sender began to compare. Stale
    /// entries are left out.
    Merge {
        entries: Vec<(Key, Record)>,
        issued: Hlc,
    },
    /// Epoch-checked. Of each tombstone (key and the fingerprint of the whole record): what the
    /// receiver holds, and whether it keeps a hint for the key. Asked of every member.
    TombstoneCheck {
        partition: PartitionId,
        keys: Vec<(Key, u64)>,
    },
    /// Epoch-checked. All replicas had confirmed these by `floor`: forget those that are still the
    /// same, and refuse from now on whatever was issued by then.
    TombstoneDrop {
        partition: PartitionId,
        keys: Vec<(Key, u64)>,
        floor: Hlc,
    },
    /// Epoch-checked and only when settled: a page of a partition, for filling a new replica.
    Scan {
        partition: PartitionId,
        after: Option<Key>,
        max_bytes: u32,
    },
    /// Roots of these partitions' digests.
    DigestRoots {
        partitions: Vec<PartitionId>,
    },
    /// The digests of the branches under a partition's root.
    DigestBranches {
        partition: PartitionId,
    },
    /// The digests of the leaves under these branches, one branch after the other.
    DigestLeaves {
        partition: PartitionId,
        branches: Vec<u16>,
    },
    /// Keys and fingerprints of several leaves of a partition in one answer.
    LeavesVersions {
        partition: PartitionId,
        leaves: Vec<u16>,
    },
    FetchRecords {
        keys: Vec<Key>,
    },
    /// Which keys of the gossip the receiver holds, by fingerprint.
    Keyring,
    /// A sealed order to change them, see `node/keys.rs`.
    ChangeKeys {
        sealed: Vec<u8>,
    },
    ListKeys {
        partitions: Vec<PartitionId>,
        prefix: String,
        after: Option<String>,
        limit: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    Pong,
    /// Welcome: the cluster, its topology and all members.
    Welcome {
        cluster_id: ClusterId,
        topology: Topology,
        members: Vec<MemberState>,
    },
    /// No cluster here yet; ask again later.
    NotReady {
        reason: String,
    },
    Members {
        members: Vec<MemberState>,
    },
    Topology {
        topology: Option<Topology>,
    },
    Progress {
        settled_epoch: Epoch,
        filled: bool,
    },
    Register(RegisterReply),
    Version {
        version: Option<RecordVersion>,
    },
    Record {
        record: Option<Record>,
    },
    Done,
    Merged {
        changed: u32,
    },
    Page {
        entries: Vec<(Key, Record)>,
        next: Option<Key>,
        /// The sender's floor of the partition; who is filled takes over the highest.
        floor: Hlc,
    },
    /// In the order asked.
    Tombstones {
        states: Vec<TombstoneState>,
        /// The answerer's clock: what it issued before is not above this.
        clock: Hlc,
        /// The grace it goes by, ms: the largest of all members is what counts.
        grace_ms: u64,
    },
    Roots {
        roots: Vec<u64>,
    },
    Leaves {
        leaves: Vec<u64>,
    },
    Versions {
        versions: Vec<(Key, u64)>,
    },
    Records {
        entries: Vec<(Key, Record)>,
    },
    Keys {
        keys: Vec<Key>,
    },
    /// The receiver goes by this later topology; take it over and try again.
    EpochBehind {
        topology: Topology,
    },
    /// The receiver has not heard of the sender's epoch; push the topology and try again.
    EpochAhead {
        epoch: Epoch,
    },
    /// A [`Response::Welcome`], sealed for the joiner whose proof it answers.
    SealedWelcome {
        sealed: Vec<u8>,
    },
    /// The answer to [`Request::Gossip`], in an envelope as well.
    Gossip {
        message: Vec<u8>,
    },
    /// `None` without a keyring.
    Keyring {
        state: Option<KeyringState>,
    },
    /// Whether there was anything to change.
    KeysChanged {
        changed: bool,
    },
    /// Issued before the partition's floor: it may bring back what was deleted. Nothing was done;
    /// begin again above this.
    Stale {
        floor: Hlc,
    },
    /// The receiver cannot do it now: draining, recovering, storage stopped.
    Refused {
        code: RefusalCode,
        reason: String,
    },
}

/// A keyring without its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyringState {
    /// The primary first.
    pub keys: Vec<Fingerprint>,
    pub verify_incoming: bool,
    pub verify_outgoing: bool,
    /// Names the process; an order is for one.
    pub session: [u8; 16],
}

/// What a member knows of one tombstone that another wants to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TombstoneState {
    /// Holds exactly this record, and owes nobody a hint for the key.
    Holds,
    /// Is no replica, and owes nobody a hint for the key.
    Gone,
    /// Holds something else, or nothing.
    Differs,
    /// Keeps a hint for the key.
    Hinted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    NotServing,
    Recovering,
    NotReplica,
    Storage,
    TooBusy,
    BadRequest,
    /// Another cluster, or not the node that was meant.
    WrongCluster,
    /// The disk is nearly full: no more writes of clients.
    ReadOnly,
    /// Not sealed, or not with a key that is held here.
    Keys,
}
