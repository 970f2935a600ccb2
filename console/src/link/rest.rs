//! REST as the dashboard uses it: the whole picture, one node's status, data operations.
//! Every request has a deadline, every answer a size limit, every failure one sentence.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use ringmaster_shared::{
    api::{
        admin::EventsResponse,
        data::{PutRequest, ReadResponse, ReplicasResponse, WriteResponse},
        health::StatusResponse,
        membership::ObservationsResponse,
        ring::{ClusterResponse, RingResponse},
    },
    error::ErrorBody,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::POLL_TIMEOUT_MS;
use crate::client::data_path;
use crate::message::{DataFailure, DataOp, DataOutcome};

/// For a read or a write of data: longer than the daemon's own deadline, so that its answer wins.
const DATA_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer taken, bytes: a ring of 32768 partitions is below.
const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Events asked for at once.
const EVENTS_PAGE: usize = 200;

/// Cheap to clone; connections are kept and shared.
#[derive(Debug, Clone)]
pub struct Rest {
    client: Client,
}

impl Rest {
    pub fn new() -> reqwest::Result<Self> {
        let client = Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_millis(POLL_TIMEOUT_MS))
            .timeout(Duration::from_millis(POLL_TIMEOUT_MS))
            // A proxy of the environment is for the web, not for the cluster.
            .no_proxy()
            .pool_max_idle_per_host(4)
            .build()?;
        Ok(Self { client })
    }

    pub async fn picture(&self, address: &str) -> Result<ClusterResponse, String> {
        self.get(address, "/api/v1/cluster").await
    }

    pub async fn status(&self, address: &str) -> Result<StatusResponse, String> {
        self.get(address, "/api/v1/status").await
    }

    pub async fn ring(&self, address: &str) -> Result<RingResponse, String> {
        self.get(address, "/api/v1/ring").await
    }

    pub async fn observations(&self, address: &str) -> Result<ObservationsResponse, String> {
        self.get(address, "/api/v1/observations").await
    }

    /// Events after `since`.
    pub async fn events(&self, address: &str, since: u64) -> Result<EventsResponse, String> {
        let path = format!("/api/v1/events?since={since}&limit={EVENTS_PAGE}");
        self.get(address, &path).await
    }

    async fn get<T: DeserializeOwned>(&self, address: &str, path: &str) -> Result<T, String> {
        let request = self.client.get(format!("http://{address}{path}"));
        answer(request).await.map_err(|f| f.message)
    }

    /// One operation on data.
    pub async fn data(&self, address: &str, op: &DataOp) -> Result<DataOutcome, DataFailure> {
        let method = match op {
            DataOp::Get { .. } => Method::GET,
            DataOp::Put { .. } => Method::PUT,
            DataOp::Delete { .. } => Method::DELETE,
        };
        let request = self
            .client
            .request(method, key_url(address, op.key(), ""))
            .timeout(DATA_TIMEOUT);
        match op {
            DataOp::Get { .. } => {
                let read: ReadResponse = answer(request).await?;
                Ok(DataOutcome::Read(read))
            }
            DataOp::Put { value, .. } => {
                let body = PutRequest {
                    value: value.clone(),
                    context: None,
                };
                let written: WriteResponse = answer(request.json(&body)).await?;
                Ok(DataOutcome::Written(written))
            }
            DataOp::Delete { .. } => {
                let written: WriteResponse = answer(request).await?;
                Ok(DataOutcome::Written(written))
            }
        }
    }

    /// Where each replica of a key stands.
    pub async fn replicas(&self, address: &str, key: &str) -> Result<ReplicasResponse, String> {
        let request = self.client.get(key_url(address, key, "/replicas"));
        answer(request).await.map_err(|f| f.message)
    }
}

fn key_url(address: &str, key: &str, rest: &str) -> String {
    format!("http://{address}{}{rest}", data_path(key))
}

async fn answer<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, DataFailure> {
    let mut response = request.send().await.map_err(|e| no_answer(&e))?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| no_answer(&e))? {
        if body.len() + chunk.len() > ANSWER_MAX_BYTES {
            return Err(failure(
                Some(status.as_u16()),
                format!("the answer is larger than {ANSWER_MAX_BYTES} bytes"),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    if !status.is_success() {
        return Err(refusal(status.as_u16(), &body));
    }
    serde_json::from_slice(&body).map_err(|e| {
        failure(
            Some(status.as_u16()),
            format!("the answer is not what a ringd of this version sends: {e}"),
        )
    })
}

fn refusal(status: u16, body: &[u8]) -> DataFailure {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => DataFailure {
            status: Some(status),
            code: Some(error.code),
            message: error.error,
            details: error.details,
        },
        Err(_) => failure(Some(status), format!("answered HTTP {status}")),
    }
}

fn failure(status: Option<u16>, message: String) -> DataFailure {
    DataFailure {
        status,
        code: None,
        message,
        details: Value::Null,
    }
}

fn no_answer(error: &reqwest::Error) -> DataFailure {
    let message = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        innermost(error)
    };
    failure(None, message)
}

/// The last cause says what happened ("Connection refused"); those before it only where.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
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
    use super::*;

    #[test]
    fn keys_are_encoded_in_the_path() {
        let cases = [
            ("test:cluster", "test:cluster"),
            ("a/b c", "a%2Fb%20c"),
            ("ä?#%", "%C3%A4%3F%23%25"),
            ("..", ".."),
        ];
        for (key, want) in cases {
            let url = key_url("h:1", key, "");
            assert_eq!(url, format!("http://h:1/api/v1/data/{want}"));
        }
    }

    #[test]
    fn refusals_are_read_from_the_one_error_body() {
        let body = br#"{"error":"2 of 3 replicas do not answer","code":"QUORUM_NOT_MET"}"#;
        let failure = refusal(503, body);
        assert_eq!(failure.message, "2 of 3 replicas do not answer");
        assert!(failure.code.is_some());
        assert_eq!(refusal(502, b"<html>").message, "answered HTTP 502");
    }
}
