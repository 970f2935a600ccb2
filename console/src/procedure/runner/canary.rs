//! A key of our own that proves that writes and reads pass through a node.

use jiff::Timestamp;
use reqwest::Method;
use ringmaster_shared::api::data::{DeleteRequest, PutRequest, ReadResponse, WriteResponse};

use crate::{
    client::{Client, ClientError, data_path},
    progress::Target,
};

/// Deleted at the end of a run.
pub(super) const KEY: &str = "ringmaster:canary";

pub(super) async fn write(client: &Client, through: &Target) -> Result<(), ClientError> {
    let body = PutRequest {
        value: serde_json::json!(Timestamp::now().to_string()),
        context: None,
    };
    call(client, Method::PUT, through, &body).await
}

pub(super) async fn write_and_read(client: &Client, through: &Target) -> Result<(), ClientError> {
    write(client, through).await?;
    let path = data_path(KEY);
    let read = client.get::<ReadResponse>(&through.address, &path);
    read.await.map(drop)
}

pub(super) async fn remove(client: &Client, through: &Target) -> Result<(), ClientError> {
    call(client, Method::DELETE, through, &DeleteRequest::default()).await
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
