//! `/api/v1/data`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::id::{NodeId, PartitionId};

/// Largest accepted value, bytes, unless configured otherwise.
pub const VALUE_MAX_BYTES_DEFAULT: usize = 1024 * 1024;

/// `?consistency=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// One replica is enough. Not linearizable; the answer says so.
    One,
    #[default]
    Quorum,
    All,
}

/// Body of `PUT` with `application/json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutRequest {
    pub value: Value,
    /// The token a read returned; without it the write supersedes whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// Body of `DELETE`; may be missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// Answer of `PUT` and `DELETE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WriteResponse {
    pub key: String,
    /// What was stored: the JSON value, `{"base64": ...}` for raw bytes, absent for a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    pub context: String,
    /// First replica of the key's partition.
    #[schema(value_type = String)]
    pub responsible_node: NodeId,
    #[schema(value_type = Vec<String>)]
    pub replication_nodes: Vec<NodeId>,
    pub replication_result: ReplicationResult,
    /// Unix seconds.
    pub timestamp: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReplicationResult {
    /// Have it on disk, synced.
    #[schema(value_type = Vec<String>)]
    pub successful_nodes: Vec<NodeId>,
    /// Known not to have it; hints are kept for them.
    #[schema(value_type = Vec<String>)]
    pub failed_nodes: Vec<NodeId>,
    /// False only for `consistency=one`.
    pub quorum_achieved: bool,
}

/// Answer of `GET`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadResponse {
    pub key: String,
    pub value: Value,
    /// All concurrent versions, the winner first; absent when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub siblings: Option<Vec<SiblingInfo>>,
    pub context: String,
    #[schema(value_type = String)]
    pub responsible_node: NodeId,
    #[schema(value_type = Vec<String>)]
    pub replication_nodes: Vec<NodeId>,
    pub read_result: ReadResult,
    /// Unix seconds.
    pub timestamp: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SiblingInfo {
    /// Absent for a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    #[schema(value_type = String, format = DateTime)]
    pub written_at: Timestamp,
    /// The coordinator that took the write.
    #[schema(value_type = String)]
    pub node_id: NodeId,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadResult {
    #[schema(value_type = Vec<String>)]
    pub nodes_responded: Vec<NodeId>,
    /// False only for `consistency=one`.
    pub quorum_achieved: bool,
    /// Replicas that were behind and have been brought up before this answer.
    #[schema(value_type = Vec<String>)]
    pub repaired: Vec<NodeId>,
}

/// Most keys in one batch.
pub const BATCH_MAX: usize = 256;

/// `POST /api/v1/batch/get`: several keys in one request. Not a snapshot: each key is read by
/// itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchGetRequest {
    pub keys: Vec<String>,
}

/// `POST /api/v1/batch/put`: several writes in one request. Not a transaction: each succeeds or
/// fails by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchPutRequest {
    pub entries: Vec<BatchPut>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchPut {
    pub key: String,
    pub value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// Answer to a batch: one result a key, in the order of the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchResponse {
    pub results: Vec<BatchResult>,
    pub succeeded: usize,
    pub failed: usize,
}

/// What the same request on the single key would have answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchResult {
    pub key: String,
    /// The HTTP status.
    pub status: u16,
    /// The body: that of the single read or write, or an error's.
    pub answer: Value,
}

/// `GET /api/v1/data?prefix=&limit=&cursor=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListResponse {
    /// In byte order.
    pub keys: Vec<String>,
    /// Pass it back for the next page; absent at the end, and only there: a page without keys may
    /// not be the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// `GET /api/v1/data/{key}/replicas`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReplicasResponse {
    pub key: String,
    pub partition: PartitionId,
    pub replicas: Vec<ReplicaView>,
}

/// What one replica holds of a key: versions, not values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaView {
    #[schema(value_type = String)]
    pub node_id: NodeId,
    /// Why it did not answer; absent when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Equal on replicas that hold the same; absent when it holds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub written_at: Option<Timestamp>,
    pub present: bool,
}
