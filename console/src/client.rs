//! REST calls to one node: the dashboard, the verbs and the procedures all go through here.
//!
//! Every call has a deadline and every answer a size limit; what comes back is either the typed
//! body, the daemon's own error, or a sentence about why nothing came. What can be asked, path
//! by path, is in `client/questions.rs`.

mod bare;
mod questions;

pub use questions::Observed;

use bare::Question;

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder};
use ringmaster_shared::error::{ErrorBody, ErrorCode};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Deadline of a call when nobody names another.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// For what the daemon itself waits for others to answer (data, plans): longer than its own
/// deadline, so that its answer wins.
pub const PATIENT_TIMEOUT: Duration = Duration::from_secs(15);
/// A node that does not take the connection for so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer that is read, bytes; a ring of 1,024 partitions is far below.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Idle connections kept for each node.
const IDLE_MAX: usize = 4;

/// Everything but unreserved characters is encoded, `/` included.
const KEY_SET: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');

#[derive(Debug, Clone, Error)]
pub enum ClientError {
    #[error("{endpoint} does not answer: {why}")]
    Unreachable {
        endpoint: String,
        why: String,
        /// The request was certainly not received.
        not_sent: bool,
    },
    #[error("{endpoint}: {}", .body.error)]
    Refused {
        endpoint: String,
        status: u16,
        body: Box<ErrorBody>,
    },
    #[error("{endpoint} answers, but not as a ringd node: {why}")]
    Protocol {
        endpoint: String,
        status: u16,
        why: String,
    },
}

/// What a change that did not succeed has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// It took effect, though not as it was meant.
    Stored,
    /// It may have taken effect, or still may.
    Unknown,
}

impl ClientError {
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// The request certainly had no effect: the node was never reached.
    pub fn is_refused_connection(&self) -> bool {
        matches!(self, Self::Unreachable { not_sent: true, .. })
    }

    /// The daemon refused it with this code.
    pub fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused { body, .. } if body.code == code)
    }

    /// Nothing at all was done: the node was never reached, or it serves no clients now. The same
    /// may be asked of another one, a write as well.
    pub fn did_nothing(&self) -> bool {
        self.is_refused_connection() || self.is(ErrorCode::NotServing)
    }

    /// The newer of two failures, unless it says less: a refusal says more than a closed port.
    pub fn outdone_by(&mut self, newer: Self) {
        if self.is_unreachable() || !newer.is_unreachable() {
            *self = newer;
        }
    }

    /// What a write or an order that failed so has left behind.
    pub fn leaves(&self) -> Left {
        match self {
            Self::Unreachable { not_sent, .. } if *not_sent => Left::Nothing,
            // somebody between refused it; anything else came from behind
            Self::Protocol {
                status: 400..=499, ..
            } => Left::Nothing,
            Self::Unreachable { .. } | Self::Protocol { .. } => Left::Unknown,
            Self::Refused { body, .. } => match body.details["outcome"].as_str() {
                Some("stored") => Left::Stored,
                Some("unknown") => Left::Unknown,
                None if body.code == ErrorCode::Internal => Left::Unknown,
                _ => Left::Nothing,
            },
        }
    }

    /// What happened, without where: for lists that name the endpoint themselves.
    pub fn why(&self) -> &str {
        match self {
            Self::Unreachable { why, .. } | Self::Protocol { why, .. } => why,
            Self::Refused { body, .. } => &body.error,
        }
    }

    /// There was nobody to ask.
    pub fn no_endpoint() -> Self {
        Self::Unreachable {
            endpoint: "(none)".to_owned(),
            why: "no endpoint was given".to_owned(),
            not_sent: true,
        }
    }
}

/// Cheap to clone; the clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    deadline: Duration,
}

impl Client {
    pub fn new() -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            // A proxy of the environment is for the web, not for the cluster.
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .user_agent(concat!("ringmaster/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            deadline: CALL_TIMEOUT,
        })
    }

    /// The same client with another deadline for each call.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self {
            deadline,
            ..self.clone()
        }
    }

    pub async fn get<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        path: &str,
    ) -> Result<T, ClientError> {
        if bare::is_needed(path) {
            let question = Question {
                method: Method::GET,
                path,
                condition: None,
                body: Vec::new(),
            };
            return self.send_bare(endpoint, question).await;
        }
        let request = self.request(Method::GET, endpoint, path);
        self.send(endpoint, request).await
    }

    pub async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        endpoint: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.call_if(method, endpoint, path, None, body).await
    }

    /// A call that holds only under a condition: a header and its value.
    pub async fn call_if<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        endpoint: &str,
        path: &str,
        condition: Option<(&'static str, &str)>,
        body: &B,
    ) -> Result<T, ClientError> {
        if bare::is_needed(path) {
            let body = serde_json::to_vec(body).map_err(|e| ClientError::Unreachable {
                endpoint: endpoint.to_owned(),
                why: format!("the request cannot be written: {e}"),
                not_sent: true,
            })?;
            let question = Question {
                method,
                path,
                condition,
                body,
            };
            return self.send_bare(endpoint, question).await;
        }
        let mut request = self.request(method, endpoint, path).json(body);
        if let Some((header, value)) = condition {
            request = request.header(header, value);
        }
        self.send(endpoint, request).await
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        endpoint: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, endpoint, path, body).await
    }

    fn request(&self, method: Method, endpoint: &str, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("http://{endpoint}{path}"))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let unreachable = |e: &reqwest::Error| ClientError::Unreachable {
            endpoint: endpoint.to_owned(),
            why: no_answer(e),
            not_sent: e.is_connect(),
        };
        let request = request.timeout(self.deadline);
        let mut answer = request.send().await.map_err(|e| unreachable(&e))?;
        let status = answer.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| unreachable(&e))? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::Protocol {
                    endpoint: endpoint.to_owned(),
                    status,
                    why: "the answer is too large".to_owned(),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        read(endpoint, status, &bytes)
    }

    async fn send_bare<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        question: Question<'_>,
    ) -> Result<T, ClientError> {
        let (status, bytes) = bare::ask(endpoint, question, self.deadline).await?;
        read(endpoint, status, &bytes)
    }
}

/// The typed body, or the daemon's own error.
fn read<T: DeserializeOwned>(endpoint: &str, status: u16, bytes: &[u8]) -> Result<T, ClientError> {
    let protocol = |why: String| ClientError::Protocol {
        endpoint: endpoint.to_owned(),
        status,
        why,
    };
    if (200..300).contains(&status) {
        return serde_json::from_slice(bytes)
            .map_err(|e| protocol(format!("unexpected answer: {e}")));
    }
    match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => Err(ClientError::Refused {
            endpoint: endpoint.to_owned(),
            status,
            body: Box::new(body),
        }),
        Err(_) => Err(protocol(format!("answered HTTP {status}"))),
    }
}

/// The path of a key's resource.
pub fn data_path(key: &str) -> String {
    let encoded = match key {
        // steps within a path, if they stood there as they are
        "." | ".." => key.replace('.', "%2E"),
        _ => encode(key),
    };
    format!("/api/v1/data/{encoded}")
}

/// Percent-encodes a key or a query value.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, KEY_SET).to_string()
}

fn no_answer(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        innermost(error)
    }
}

/// The last cause says what happened ("connection refused"); those before it only where.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = last.to_string();
    match text.split_once(" (os error") {
        Some((plain, _)) => plain.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::error::ErrorCode;
    use serde_json::json;

    use super::*;
    use crate::fixture::server::{FakeNode, Reply, nobody};

    /// What the client makes of one answer.
    async fn fails_with(reply: Reply) -> ClientError {
        let node = FakeNode::prepared(vec![reply]).await;
        let client = Client::new().expect("client");
        let answer = client.get::<serde_json::Value>(&node.address, "/").await;
        node.asked().await;
        answer.expect_err("refused")
    }

    async fn refused_by(status: u16, body: &str) -> ClientError {
        fails_with(Reply::text(status, body)).await
    }

    #[tokio::test]
    async fn what_a_failed_write_leaves_is_read_from_how_it_failed() {
        let refusal = Reply::refusal;
        let cases = [
            (Reply::Dies, Left::Unknown, false),
            (Reply::text(200, "<html>"), Left::Unknown, false),
            (Reply::text(502, "<html>"), Left::Unknown, false),
            (Reply::text(404, "<html>"), Left::Nothing, false),
            (
                refusal(409, "CONFLICT", &json!({"outcome": "stored"})),
                Left::Stored,
                false,
            ),
            (
                refusal(409, "CONFLICT", &json!({"outcome": "none"})),
                Left::Nothing,
                false,
            ),
            (
                refusal(504, "DEADLINE_EXCEEDED", &json!({"outcome": "unknown"})),
                Left::Unknown,
                false,
            ),
            (refusal(500, "INTERNAL", &json!({})), Left::Unknown, false),
            (refusal(503, "NOT_SERVING", &json!({})), Left::Nothing, true),
            (
                refusal(503, "QUORUM_NOT_MET", &json!({})),
                Left::Nothing,
                false,
            ),
        ];
        for (reply, left, elsewhere) in cases {
            let error = fails_with(reply).await;
            assert_eq!(
                (error.leaves(), error.did_nothing()),
                (left, elsewhere),
                "{error:?}"
            );
        }
        let client = Client::new().expect("client");
        let closed = client.get::<serde_json::Value>(&nobody(), "/").await;
        let closed = closed.expect_err("closed");
        assert_eq!(
            (closed.leaves(), closed.did_nothing()),
            (Left::Nothing, true)
        );
    }

    #[tokio::test]
    async fn refusals_are_read_from_the_one_error_body() {
        let body = r#"{"error":"2 of 3 replicas are away.","code":"QUORUM_NOT_MET","details":{"missing":2}}"#;
        let error = refused_by(503, body).await;
        assert!(error.is(ErrorCode::QuorumNotMet), "{error:?}");
        assert!(!error.is_unreachable() && !error.is_refused_connection());
        assert_eq!(error.why(), "2 of 3 replicas are away.");
        let ClientError::Refused { status, body, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!((status, &body.details["missing"]), (503, &2.into()));
    }

    #[tokio::test]
    async fn an_error_page_of_somebody_between_is_not_taken_for_a_node() {
        let error = refused_by(502, "<html>no upstream</html>").await;
        let ClientError::Protocol { status, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!((status, error.why()), (502, "answered HTTP 502"));
    }

    #[test]
    fn keys_are_encoded_for_the_path() {
        let cases = [
            ("test:cluster", "test:cluster"),
            ("a/b c?ä", "a%2Fb%20c%3F%C3%A4"),
            ("#%", "%23%25"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "..."),
            ("a..", "a.."),
            ("%2E%2E", "%252E%252E"),
        ];
        for (key, want) in cases {
            assert_eq!(data_path(key), format!("/api/v1/data/{want}"));
        }
    }

    #[tokio::test]
    async fn keys_of_dots_reach_the_node_as_they_are() {
        let client = Client::new().expect("client");
        for (key, path) in [
            (".", "/api/v1/data/%2E"),
            ("..", "/api/v1/data/%2E%2E"),
            ("...", "/api/v1/data/..."),
            ("a/..", "/api/v1/data/a%2F.."),
        ] {
            let fine = || Reply::text(200, r#"{"n": 1}"#);
            let missing = r#"{"error":"key not found","code":"KEY_NOT_FOUND"}"#;
            let missing = Reply::text(404, missing);
            let node = FakeNode::prepared(vec![fine(), fine(), missing, Reply::Dies]).await;
            let at = &node.address;
            let path_is = data_path(key);
            let read: serde_json::Value = client.get(at, &path_is).await.expect("read");
            assert_eq!(read, json!({"n": 1}));
            let asked = format!("{path_is}?consistency=all");
            let condition = Some(("if-none-match", "*"));
            let body = json!({"value": 7});
            let put =
                client.call_if::<_, serde_json::Value>(Method::PUT, at, &asked, condition, &body);
            put.await.expect("written");
            let gone = client.get::<serde_json::Value>(at, &path_is).await;
            assert!(gone.expect_err("missing").is(ErrorCode::KeyNotFound));
            let died = client.get::<serde_json::Value>(at, &path_is).await;
            let died = died.expect_err("died");
            assert!(died.is_unreachable() && !died.did_nothing(), "{died:?}");
            let asked = node.asked().await;
            assert!(
                asked[0].starts_with(&format!("GET {path} HTTP/1.1\r\n")),
                "{asked:?}"
            );
            let line = format!("PUT {path}?consistency=all HTTP/1.1\r\n");
            assert!(asked[1].starts_with(&line), "{asked:?}");
            assert!(
                asked[1].to_lowercase().contains("if-none-match: *\r\n"),
                "{asked:?}"
            );
            assert!(asked[1].ends_with(r#"{"value":7}"#), "{asked:?}");
        }
        let path = data_path("..");
        let closed = client.get::<serde_json::Value>(&nobody(), &path).await;
        let closed = closed.expect_err("closed");
        assert!(closed.did_nothing());
        assert_eq!(closed.why(), "connection refused");
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_plain_sentence() {
        let endpoint = nobody();
        let client = Client::new().expect("client");
        let error = client
            .get::<serde_json::Value>(&endpoint, "/")
            .await
            .expect_err("closed");
        assert!(error.is_refused_connection());
        assert_eq!(
            error.to_string(),
            format!("{endpoint} does not answer: connection refused")
        );
        assert_eq!(error.why(), "connection refused");
    }
}
