//! Cluster events: what happened, with a code that scripts can rely on.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::id::NodeId;

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// Stable names of events. Unknown codes from a newer daemon read as `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventCode {
    NodeStarted,
    NodeStopping,
    ClusterFounded,
    WaitingForSeed,
    SeedRefused,
    ClusterJoined,
    MemberJoined,
    MemberSuspected,
    MemberDead,
    MemberReturned,
    MemberRestarted,
    MemberStopped,
    MemberLeft,
    MemberAddressChanged,
    SelfRefuted,
    UdpBlocked,
    /// The UDP of a member, or of the reporter, gets through again.
    UdpOpen,
    /// This node itself answers late, or does so no longer.
    LocalHealth,
    /// A configured seed has not answered for long.
    SeedUnreachable,
    /// It answers again.
    SeedAnswers,
    ForeignMessages,
    DuplicateNodeId,
    RingChangeStarted,
    RingChanged,
    RingChangeStalled,
    RingChangeAborted,
    PartitionsFilled,
    QuorumLost,
    QuorumRegained,
    HintsStored,
    HintsReplayed,
    HintsDropped,
    RepairFinished,
    StorageRecovered,
    StoragePoisoned,
    SiblingsMany,
    LifecycleChanged,
    OrderReceived,
    ClockSkew,
    Overloaded,
    /// A record that does not fit into one message between nodes: it cannot be copied.
    RecordTooLarge,
    /// Something in the table of the store cannot be read; the next start looks at all of it.
    TableDamaged,
    /// Disk space is nearly used up: no client writes until some is free again.
    DiskNearlyFull,
    /// Space is back; writes are taken again.
    DiskWritable,
    /// Partitions of a member that must be compared when it returns: hints for it were dropped.
    PartitionsDirty,
    /// Deleted keys cannot be forgotten because somebody does not confirm.
    TombstonesBlocked,
    /// Replicas that lost their data wait for one another; an operator has to decide.
    RefillBlocked,
    /// A member goes by another value of a setting that must be the same on all.
    SettingsDiffer,
    /// Two contents under one ring epoch.
    RingFork,
    /// Gossip that is not sealed with a key both sides hold.
    KeyMismatch,
    /// Keys of the gossip were installed, made primary or removed.
    KeyringChanged,
    /// A node speaks no version of the gossip protocol that this one speaks.
    ProtocolMismatch,
    /// This node gave up one cluster for another and pushes what it holds.
    ClusterAdopted,
    #[serde(other)]
    Other,
}

/// One event as a node saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts up on the reporting node since its start; `since=` takes it.
    pub seq: u64,
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    pub code: EventCode,
    pub severity: Severity,
    /// The node that reports it.
    #[schema(value_type = String)]
    pub reporter: NodeId,
    /// The node it is about, when it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub subject: Option<NodeId>,
    /// One sentence.
    pub message: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}
