//! A key of our own that proves that writes and reads pass through a node.

use std::collections::BTreeSet;

use jiff::Timestamp;
use reqwest::Method;
use ringmaster_shared::api::data::{DeleteRequest, PutRequest, ReadResponse, WriteResponse};
use serde_json::Value;

use crate::{
    client::{Client, ClientError, Left, data_path},
    progress::Target,
};

/// Deleted at the end of a run.
pub(super) const KEY: &str = "ringmaster:canary";
/// Nodes that are asked to delete it.
const ATTEMPTS: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Canary {
    /// Through whom it was written, and not removed since.
    at: BTreeSet<Target>,
}

impl Canary {
    /// Writes it; the value that was written.
    pub(super) async fn write(
        &mut self,
        client: &Client,
        through: &Target,
    ) -> Result<Value, ClientError> {
        let body = PutRequest {
            value: serde_json::json!(Timestamp::now().to_string()),
            context: None,
        };
        let answer = call(client, Method::PUT, through, &body).await;
        if !matches!(&answer, Err(error) if error.leaves() == Left::Nothing) {
            self.at.insert(through.clone());
        }
        answer.map(|()| body.value)
    }

    /// A write through one node, and a read through it that sees the write; or why not.
    pub(super) async fn pass(&mut self, client: &Client, through: &Target) -> Result<(), String> {
        let written = self.write(client, through).await;
        let written = written.map_err(|e| e.to_string())?;
        let read = client.get(&through.address, &data_path(KEY)).await;
        let read: ReadResponse = read.map_err(|e| e.to_string())?;
        if read.value == written {
            return Ok(());
        }
        let id = &through.id;
        Err(format!(
            "{id} does not read what was just written through it"
        ))
    }

    /// Once it was written it lies among the keys of others: through whom it came, it goes. Returns
    /// why it is left behind, if so.
    pub(super) async fn remove(&mut self, client: &Client) -> Option<ClientError> {
        let mut left = None;
        for through in std::mem::take(&mut self.at).iter().take(ATTEMPTS) {
            let body = DeleteRequest::default();
            left = call(client, Method::DELETE, through, &body).await.err();
            if left.is_none() {
                break;
            }
        }
        left
    }
}

async fn call<B: serde::Serialize>(
    client: &Client,
    method: Method,
    through: &Target,
    body: &B,
) -> Result<(), ClientError> {
    let path = data_path(KEY);
    let answer = client.call::<B, WriteResponse>(method, &through.address, &path, body);
    answer.await.map(drop)
}
