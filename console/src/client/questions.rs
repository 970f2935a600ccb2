//! What can be asked of a node, one method a path.

use reqwest::Method;
use ringmaster_shared::api::{
    admin::EventsResponse,
    data::{DeleteRequest, PutRequest, ReplicasResponse},
    health::StatusResponse,
    membership::ObservationsResponse,
    ring::{
        ApplyRequest, ApplyResponse, Change, ClusterResponse, PlanRequest, PlanResponse,
        RingResponse,
    },
};
use serde_json::Value;

use super::{Client, ClientError, PATIENT_TIMEOUT, data_path};
use crate::message::{DataFailure, DataOp, DataOutcome};

/// Events asked for at once.
const EVENTS_PAGE: usize = 200;

/// Which members observations are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    All,
    /// Not those that everybody holds alive.
    Trouble,
}

impl Client {
    /// The whole picture.
    pub async fn picture(&self, endpoint: &str) -> Result<ClusterResponse, ClientError> {
        self.get(endpoint, "/api/v1/cluster").await
    }

    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse, ClientError> {
        self.get(endpoint, "/api/v1/status").await
    }

    pub async fn ring(&self, endpoint: &str) -> Result<RingResponse, ClientError> {
        self.get(endpoint, "/api/v1/ring").await
    }

    pub async fn observations(
        &self,
        endpoint: &str,
        which: Observed,
    ) -> Result<ObservationsResponse, ClientError> {
        let path = match which {
            Observed::All => "/api/v1/observations",
            Observed::Trouble => "/api/v1/observations?only=trouble",
        };
        self.get(endpoint, path).await
    }

    /// Events after `since`.
    pub async fn events(&self, endpoint: &str, since: u64) -> Result<EventsResponse, ClientError> {
        let path = format!("/api/v1/events?since={since}&limit={EVENTS_PAGE}");
        self.get(endpoint, &path).await
    }

    /// Where each replica of a key stands.
    pub async fn replicas(
        &self,
        endpoint: &str,
        key: &str,
    ) -> Result<ReplicasResponse, ClientError> {
        let path = format!("{}/replicas", data_path(key));
        self.get(endpoint, &path).await
    }

    /// One operation on data.
    pub async fn data(&self, endpoint: &str, op: &DataOp) -> Result<DataOutcome, ClientError> {
        let client = self.within(PATIENT_TIMEOUT);
        let path = data_path(op.key());
        match op {
            DataOp::Get { .. } => client.get(endpoint, &path).await.map(DataOutcome::Read),
            DataOp::Put { value, .. } => {
                let body = PutRequest {
                    value: value.clone(),
                    context: None,
                };
                let written = client.call(Method::PUT, endpoint, &path, &body).await;
                written.map(DataOutcome::Written)
            }
            DataOp::Delete { .. } => {
                let body = DeleteRequest::default();
                let written = client.call(Method::DELETE, endpoint, &path, &body).await;
                written.map(DataOutcome::Written)
            }
        }
    }

    /// What a change of the ring would do; nothing is done.
    pub async fn plan(&self, endpoint: &str, change: &Change) -> Result<PlanResponse, ClientError> {
        let body = PlanRequest {
            change: change.clone(),
        };
        let client = self.within(PATIENT_TIMEOUT);
        client.post(endpoint, "/api/v1/ring/plan", &body).await
    }

    /// Has a plan decided; 409 when the ring has moved on since it was made.
    pub async fn apply(&self, endpoint: &str, plan_id: &str) -> Result<ApplyResponse, ClientError> {
        let body = ApplyRequest {
            plan_id: plan_id.to_owned(),
        };
        let client = self.within(PATIENT_TIMEOUT);
        client.post(endpoint, "/api/v1/ring/apply", &body).await
    }
}

impl From<ClientError> for DataFailure {
    fn from(error: ClientError) -> Self {
        let message = error.why().to_owned();
        let left = error.leaves();
        let (status, code, details) = match error {
            ClientError::Unreachable { .. } => (None, None, Value::Null),
            ClientError::Protocol { status, .. } => (Some(status), None, Value::Null),
            ClientError::Refused { status, body, .. } => {
                (Some(status), Some(body.code), body.details)
            }
        };
        Self {
            status,
            code,
            message,
            details,
            left,
        }
    }
}
