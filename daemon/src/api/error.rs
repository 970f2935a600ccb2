//! The one error format. A handler returns an [`ApiError`]; `framing` renders it, because only
//! there the request's id is known.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use ringmaster_shared::error::{ErrorBody, ErrorCode};
use serde_json::{Value, json};

use crate::replication::coordinator::{ReplicationError, SIBLINGS_MAX};

/// Boxed, so that results stay small.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: ErrorCode,
    message: String,
    details: Value,
    retry_after_s: Option<u32>,
    /// The request's body was not read to its end, so the connection cannot be used again.
    close: bool,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            details: json!({}),
            retry_after_s: None,
            close: false,
        }))
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.0.details = details;
        self
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    #[must_use]
    pub fn close(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// Adds to the details.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.details[name] = value.into();
        self
    }

    #[cfg(test)]
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    pub fn body(&self, request_id: &str) -> ErrorBody {
        ErrorBody {
            error: self.0.message.clone(),
            code: self.0.code,
            details: self.0.details.clone(),
            request_id: request_id.to_owned(),
        }
    }

    pub fn render(self, request_id: &str) -> Response {
        let body = self.body(request_id);
        let inner = *self.0;
        let status = StatusCode::from_u16(inner.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = axum::Json(body).into_response();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if let Some(seconds) = inner.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if inner.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if inner.code == ErrorCode::UpgradeRequired {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ReplicationError> for ApiError {
    fn from(error: ReplicationError) -> Self {
        let (code, retry_after_s) = meaning(&error);
        let mut answer = Self::new(code, error.to_string()).details(details(error));
        answer.0.retry_after_s = retry_after_s;
        answer
    }
}

/// The code, and when it is worth to try again.
fn meaning(error: &ReplicationError) -> (ErrorCode, Option<u32>) {
    match error {
        ReplicationError::QuorumNotMet { .. } => (ErrorCode::QuorumNotMet, Some(1)),
        ReplicationError::ReadOnly { .. } => (ErrorCode::ReadOnly, Some(30)),
        ReplicationError::Deadline { .. } => (ErrorCode::DeadlineExceeded, None),
        ReplicationError::Precondition { .. } => (ErrorCode::PreconditionFailed, None),
        ReplicationError::NotAlone { .. } | ReplicationError::Siblings { .. } => {
            (ErrorCode::Conflict, None)
        }
        ReplicationError::NotServing(_) => (ErrorCode::NotServing, Some(1)),
        ReplicationError::TooBusy => (ErrorCode::TooBusy, Some(1)),
        ReplicationError::TooOftenUnknown => (ErrorCode::TooBusy, Some(120)),
        ReplicationError::Storage(_) => (ErrorCode::StorageUnavailable, Some(5)),
    }
}

fn details(error: ReplicationError) -> Value {
    match error {
        ReplicationError::QuorumNotMet {
            partition,
            needed,
            available,
            missing,
        }
        | ReplicationError::ReadOnly {
            partition,
            needed,
            available,
            missing,
        } => json!({
            "partition": partition, "needed": needed, "available": available, "missing": missing,
        }),
        ReplicationError::Deadline {
            needed,
            answered,
            missing,
            may_have_written,
        } => json!({
            "outcome": if may_have_written { "unknown" } else { "none" },
            "needed": needed, "answered": answered, "missing": missing,
        }),
        ReplicationError::Precondition { present, .. } => {
            json!({"exists": present, "outcome": "none"})
        }
        ReplicationError::NotAlone { .. } => json!({"outcome": "stored"}),
        ReplicationError::Siblings { count, .. } => {
            json!({"outcome": "none", "siblings": count, "limit": SIBLINGS_MAX})
        }
        ReplicationError::NotServing(_)
        | ReplicationError::TooBusy
        | ReplicationError::TooOftenUnknown
        | ReplicationError::Storage(_) => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ringmaster_shared::version::VersionVector;

    use super::*;
    use crate::health::tests::id;

    #[test]
    fn replication_errors_keep_their_meaning() {
        let missing = BTreeMap::from([(id("node-3"), "dead".to_owned())]);
        let deadline = |may_have_written| ReplicationError::Deadline {
            needed: 2,
            answered: 1,
            missing: missing.clone(),
            may_have_written,
        };
        let cases = [
            (
                ReplicationError::QuorumNotMet {
                    partition: 4,
                    needed: 2,
                    available: 1,
                    missing: missing.clone(),
                },
                503,
                json!({"partition": 4, "needed": 2, "available": 1, "missing": {"node-3": "dead"}}),
            ),
            (
                ReplicationError::ReadOnly {
                    partition: 4,
                    needed: 2,
                    available: 1,
                    missing: missing.clone(),
                },
                503,
                json!({"partition": 4, "needed": 2, "available": 1, "missing": {"node-3": "dead"}}),
            ),
            (
                deadline(true),
                504,
                json!({"outcome": "unknown", "needed": 2, "answered": 1, "missing": {"node-3": "dead"}}),
            ),
            (
                deadline(false),
                504,
                json!({"outcome": "none", "needed": 2, "answered": 1, "missing": {"node-3": "dead"}}),
            ),
            (
                ReplicationError::Precondition {
                    clock: VersionVector::default(),
                    present: true,
                },
                412,
                json!({"exists": true, "outcome": "none"}),
            ),
            (
                ReplicationError::NotAlone {
                    clock: VersionVector::default(),
                },
                409,
                json!({"outcome": "stored"}),
            ),
            (
                ReplicationError::Siblings {
                    clock: VersionVector::default(),
                    count: 120,
                },
                409,
                json!({"outcome": "none", "siblings": 120, "limit": SIBLINGS_MAX}),
            ),
            (ReplicationError::NotServing("x".into()), 503, json!({})),
            (ReplicationError::TooBusy, 429, json!({})),
            (ReplicationError::TooOftenUnknown, 429, json!({})),
            (ReplicationError::Storage("x".into()), 503, json!({})),
        ];
        for (error, status, details) in cases {
            let answer = ApiError::from(error.clone());
            assert_eq!(answer.code().http_status(), status, "{error:?}");
            assert_eq!(answer.0.details, details, "{error:?}");
            let retry = answer.0.retry_after_s.is_some();
            assert_eq!(retry, matches!(status, 429 | 503), "{error:?}");
        }
    }
}
