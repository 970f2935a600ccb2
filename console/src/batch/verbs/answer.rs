//! Whose answer counts when several endpoints are named, and how a verb ends without one.

use crate::{
    client::{Client, ClientError},
    exit::Exit,
};

/// Why a verb has no exit code of its own: what a node or the network did, or anything else.
pub(super) enum Failure {
    Client(ClientError),
    Other(anyhow::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

pub(super) type Outcome = Result<Exit, Failure>;

/// The first endpoint that gives an answer; a daemon's own error is an answer too, unless it only
/// says that it serves nobody now.
pub(super) async fn first<T: serde::de::DeserializeOwned>(
    client: &Client,
    endpoints: &[String],
    path: &str,
) -> Result<T, ClientError> {
    let mut last = ClientError::no_endpoint();
    for endpoint in endpoints {
        match client.get(endpoint, path).await {
            Err(e) if e.is_unreachable() || e.did_nothing() => last.outdone_by(e),
            other => return other,
        }
    }
    Err(last)
}
