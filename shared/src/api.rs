//! The REST contract: request and answer bodies, one file a resource.
//!
//! Field names and meanings are fixed once published; answers may grow. Requests refuse unknown
//! fields, clients ignore unknown ones. `timestamp` fields are Unix seconds, every other time is
//! RFC 3339 in UTC.

pub mod admin;
pub mod data;
pub mod health;
pub mod keys;
pub mod membership;
pub mod ring;

/// Response header that names the request.
pub const HEADER_REQUEST_ID: &str = "x-request-id";
/// Response header with the epoch of the topology the answering node goes by.
pub const HEADER_RING_EPOCH: &str = "x-ring-epoch";
