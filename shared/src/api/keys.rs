//! `/api/v1/gossip/keys`: which keys encrypt the gossip, by fingerprint, and changing them. Key
//! material goes one way only: in, with an order to install it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::NodeId;

/// `GET /api/v1/gossip/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeysResponse {
    #[schema(value_type = String)]
    pub current_node: NodeId,
    /// Whether all members hold the same keys, with the same primary. False while one is away or
    /// has no keyring.
    pub agreed: bool,
    /// All members, by id.
    pub nodes: Vec<NodeKeys>,
}

/// What one node holds, or why that is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeKeys {
    #[schema(value_type = String)]
    pub node_id: NodeId,
    /// Missing when the node did not answer, or has no keyring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<KeyringInfo>,
    /// One sentence, when there is no keyring to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A keyring by its fingerprints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyringInfo {
    /// The key this node seals with.
    pub primary: String,
    /// All keys it opens with, the primary included, sorted.
    pub keys: Vec<String>,
    /// Plain gossip is refused.
    pub verify_incoming: bool,
    /// Gossip is sealed.
    pub verify_outgoing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyOperation {
    /// Every node opens with this key as well.
    Install,
    /// Every node seals with this key, which all hold.
    Use,
    /// No node opens with this key any more.
    Remove,
}

impl KeyOperation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Use => "use",
            Self::Remove => "remove",
        }
    }
}

/// `POST /api/v1/gossip/keys`: carried out on all members that can be reached.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeysOrder {
    pub operation: KeyOperation,
    /// 32 bytes in base64; needed to install, else the fingerprint is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Twelve hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// Without the key.
impl fmt::Debug for KeysOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeysOrder")
            .field("operation", &self.operation)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeysChanged {
    #[schema(value_type = String)]
    pub current_node: NodeId,
    pub operation: KeyOperation,
    pub fingerprint: String,
    /// Whether every member is as ordered now.
    pub complete: bool,
    /// All members, by id.
    pub nodes: Vec<NodeKeyOutcome>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeKeyOutcome {
    #[schema(value_type = String)]
    pub node_id: NodeId,
    pub outcome: KeyOutcome,
    /// One sentence, when it is not as ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyOutcome {
    Done,
    /// It was so before.
    Already,
    Refused,
    /// It is down or did not answer: give the order again when it is back.
    Unreachable,
}

impl KeyOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Already => "already",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether the node is as ordered.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Done | Self::Already)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_does_not_print_its_key() {
        let order = KeysOrder {
            operation: KeyOperation::Install,
            key: Some("c2VjcmV0".into()),
            fingerprint: None,
        };
        assert!(!format!("{order:?}").contains("c2VjcmV0"));
    }
}
