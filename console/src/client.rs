//! REST calls to one node: the console's verbs and procedures go through here.
//!
//! Every call has a deadline; an answer is either the typed body, the daemon's own error, or a
//! sentence about why nothing came.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder};
use ringmaster_shared::error::ErrorBody;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Deadline of a call when the caller names none.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer that is read, bytes; a ring of 1,024 partitions is far below.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

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
    Protocol { endpoint: String, why: String },
}

impl ClientError {
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// The request certainly had no effect: the node was never reached.
    pub fn is_refused_connection(&self) -> bool {
        matches!(self, Self::Unreachable { not_sent: true, .. })
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

/// Cheap to clone; keeps connections alive.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    pub fn new() -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(2))
            .user_agent(concat!("ringmaster/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http })
    }

    pub async fn get<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        path: &str,
    ) -> Result<T, ClientError> {
        self.send(
            endpoint,
            self.request(Method::GET, endpoint, path),
            CALL_TIMEOUT,
        )
        .await
    }

    pub async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        endpoint: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let request = self.request(method, endpoint, path).json(body);
        self.send(endpoint, request, CALL_TIMEOUT).await
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
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let unreachable = |e: &reqwest::Error| ClientError::Unreachable {
            endpoint: endpoint.to_owned(),
            why: root_cause(e),
            not_sent: e.is_connect(),
        };
        let protocol = |why: String| ClientError::Protocol {
            endpoint: endpoint.to_owned(),
            why,
        };
        let mut answer = request
            .timeout(timeout)
            .send()
            .await
            .map_err(|e| unreachable(&e))?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| unreachable(&e))? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(protocol("the answer is too large".to_owned()));
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|e| protocol(e.to_string()));
        }
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Err(ClientError::Refused {
                endpoint: endpoint.to_owned(),
                status: status.as_u16(),
                body: Box::new(body),
            }),
            Err(_) => Err(protocol(format!("HTTP status {}", status.as_u16()))),
        }
    }
}

/// The path of a key's resource.
pub fn data_path(key: &str) -> String {
    format!("/api/v1/data/{}", encode(key))
}

/// Percent-encodes a key or a query value.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, KEY_SET).to_string()
}

/// The innermost cause: "connection refused" says more than "error sending request".
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    // drop " (os error 111)"
    text.split(" (os error")
        .next()
        .unwrap_or(&text)
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_for_the_path() {
        assert_eq!(data_path("test:cluster"), "/api/v1/data/test:cluster");
        assert_eq!(data_path("a/b c?ä"), "/api/v1/data/a%2Fb%20c%3F%C3%A4");
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_plain_sentence() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let endpoint = socket.local_addr().expect("address").to_string();
        drop(socket);
        let client = Client::new().expect("client");
        let error = client
            .get::<serde_json::Value>(&endpoint, "/")
            .await
            .expect_err("closed");
        assert!(error.is_unreachable());
        assert_eq!(
            error.to_string(),
            format!("{endpoint} does not answer: connection refused")
        );
    }
}
