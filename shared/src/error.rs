//! Stable error codes, and the one body every error has.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What went wrong, for programs. Never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// 400: the request makes no sense.
    BadRequest,
    /// 400: the key is empty, too long or not UTF-8.
    BadKey,
    /// 400: the body is not what this path takes.
    BadBody,
    /// 400: the context is not one a read of this key returned.
    BadContext,
    /// 401 or 403.
    NotAllowed,
    /// 404: no such path.
    NotFound,
    /// 404: no such key.
    KeyNotFound,
    /// 405
    MethodNotAllowed,
    /// 409: the state changed under the request.
    Conflict,
    /// 412: `If-None-Match: *` and the key exists, or `If-Match` and the key is not as it was read.
    PreconditionFailed,
    /// 413
    TooLarge,
    /// 415
    UnsupportedMediaType,
    /// 421: the request was meant for another cluster or node.
    WrongCluster,
    /// 426: this path speaks WebSocket.
    UpgradeRequired,
    /// 429: too many requests at once; 503 when it is connections.
    TooBusy,
    /// 500: a bug or a broken disk; the message says which.
    Internal,
    /// 503: not enough replicas answer; nothing was done.
    QuorumNotMet,
    /// 503: this node is starting, draining, in standby or stopping.
    NotServing,
    /// 503: the storage engine refused.
    StorageUnavailable,
    /// 503: the disk is nearly full; reads go on, writes wait for space.
    ReadOnly,
    /// 504: the deadline passed; `details.outcome` is `unknown`.
    DeadlineExceeded,
    /// 408: the request did not arrive in time.
    RequestTimeout,
    /// 414
    UriTooLong,
    /// 431: too many headers, or too long ones.
    HeadTooLarge,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadRequest | Self::BadKey | Self::BadBody | Self::BadContext => 400,
            Self::NotAllowed => 403,
            Self::NotFound | Self::KeyNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UriTooLong => 414,
            Self::UnsupportedMediaType => 415,
            Self::HeadTooLarge => 431,
            Self::WrongCluster => 421,
            Self::UpgradeRequired => 426,
            Self::TooBusy => 429,
            Self::Internal => 500,
            Self::QuorumNotMet | Self::NotServing | Self::StorageUnavailable | Self::ReadOnly => {
                503
            }
            Self::DeadlineExceeded => 504,
        }
    }
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// One sentence a person can act on.
    pub error: String,
    pub code: ErrorCode,
    /// Counts, names, what to do; an object.
    #[serde(default)]
    pub details: Value,
    /// The same as the `X-Request-Id` header.
    #[serde(default)]
    pub request_id: String,
}
