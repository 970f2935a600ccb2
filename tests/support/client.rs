//! A client of one node.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Method, header::HeaderMap};
use ringmaster_shared::{
    api::{
        HEADER_REQUEST_ID, data::ReadResponse, health::StatusResponse, membership::MembersResponse,
        ring::RingResponse,
    },
    error::ErrorBody,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Longer than the daemon's own deadlines.
const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Api {
    http: Client,
    base: String,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}: {}", self.status, self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The error it must be: the one format, complete, with the status of its code.
    pub fn error(&self) -> ErrorBody {
        let error: ErrorBody = self.json().expect("the one error format");
        assert_eq!(self.status, error.code.http_status(), "{error:?}");
        assert!(!error.error.is_empty(), "{error:?}");
        let id = self.headers.get(HEADER_REQUEST_ID);
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        assert!(
            !id.is_empty() && error.request_id == id,
            "the request's id is {id:?} in the header and {:?} in the body",
            error.request_id
        );
        error
    }
}

/// One client for all nodes of a test.
pub fn http() -> Client {
    Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .build()
        .expect("a client without TLS needs nothing")
}

impl Api {
    pub fn new(http: Client, port: u16) -> Self {
        Self::at(http, &format!("localhost:{port}"))
    }

    /// `address` is `host:port`.
    pub fn at(http: Client, address: &str) -> Self {
        let base = format!("http://{address}");
        Self { http, base }
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<Reply> {
        self.send_with(method, path, &[], body).await
    }

    /// The same with headers.
    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> reqwest::Result<Reply> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        Ok(Reply {
            status,
            headers,
            body,
        })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let reply = self.send(Method::GET, path, None).await?;
        anyhow::ensure!(reply.status == 200, "{path} says {}", reply.text());
        reply.json()
    }

    pub async fn status(&self) -> anyhow::Result<StatusResponse> {
        self.get("/api/v1/status").await
    }

    pub async fn members(&self) -> anyhow::Result<MembersResponse> {
        self.get("/gossip/members").await
    }

    pub async fn ring(&self) -> anyhow::Result<RingResponse> {
        self.get("/api/v1/ring").await
    }

    /// `key` must be plain.
    pub async fn put(&self, key: &str, value: &Value) -> reqwest::Result<Reply> {
        let path = format!("/api/v1/data/{key}");
        let body = json!({ "value": value });
        self.send(Method::PUT, &path, Some(&body)).await
    }

    pub async fn read(&self, key: &str) -> reqwest::Result<Reply> {
        let path = format!("/api/v1/data/{key}");
        self.send(Method::GET, &path, None).await
    }

    /// The value a read returns; `None` when there is no such key.
    pub async fn value(&self, key: &str) -> anyhow::Result<Option<Value>> {
        let reply = self.read(key).await?;
        match reply.status {
            200 => Ok(Some(reply.json::<ReadResponse>()?.value)),
            404 => Ok(None),
            _ => anyhow::bail!("reading {key}: {}", reply.text()),
        }
    }
}
