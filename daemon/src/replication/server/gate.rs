//! The door of `/internal/peer`: who may come in, decided from the request's headers alone.

use axum::{
    Json,
    response::{IntoResponse, Response as HttpResponse},
};
use hyper::{
    Method, StatusCode,
    header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE},
};
use ringmaster_shared::{
    api::HEADER_REQUEST_ID,
    error::{ErrorBody, ErrorCode},
    id::{ClusterId, Generation, NodeId},
};
use serde_json::{Value, json};

use crate::replication::{
    frames::PROTOCOL,
    peers::handshake::{HEADER_CLUSTER, HEADER_GENERATION, HEADER_NODE, HEADER_TARGET, introduce},
};

/// Who asks; what it said in the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub node_id: NodeId,
    pub generation: Generation,
    /// `None`: it has none yet.
    pub cluster: Option<ClusterId>,
}

/// Who answers.
#[derive(Debug, Clone)]
pub struct Doorkeeper {
    pub node_id: NodeId,
    pub cluster: Option<ClusterId>,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub sentence: String,
    pub details: Value,
}

impl Refusal {
    fn new(code: ErrorCode, sentence: impl Into<String>) -> Self {
        Self {
            code,
            sentence: sentence.into(),
            details: json!({}),
        }
    }

    /// This node cannot take connections now.
    pub fn busy(sentence: &str) -> Self {
        Self::new(ErrorCode::TooBusy, sentence)
    }

    pub fn stopping() -> Self {
        Self::new(ErrorCode::NotServing, "this node is stopping")
    }
}

impl Doorkeeper {
    /// Checks method, upgrade, cluster and target.
    pub fn check(&self, method: &Method, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if method != Method::GET {
            let sentence = format!("this path takes GET with an upgrade, not {method}");
            return Err(Refusal::new(ErrorCode::MethodNotAllowed, sentence));
        }
        let upgrade = text(headers, UPGRADE.as_str()).unwrap_or_default();
        if !has_token(headers, CONNECTION.as_str(), "upgrade") || upgrade.is_empty() {
            return Err(Refusal::new(
                ErrorCode::UpgradeRequired,
                format!("nodes talk here, by an HTTP upgrade to {PROTOCOL}; clients want /api/v1"),
            ));
        }
        if !has_token(headers, UPGRADE.as_str(), PROTOCOL) {
            let mut refusal = Refusal::new(
                ErrorCode::UpgradeRequired,
                format!("this node speaks {PROTOCOL}, not {upgrade:?}"),
            );
            refusal.details = json!({ "protocol": PROTOCOL });
            return Err(refusal);
        }
        let caller = caller(headers)?;
        if let (Some(ours), Some(theirs)) = (&self.cluster, &caller.cluster)
            && ours != theirs
        {
            let sentence = format!(
                "{} belongs to cluster {ours}, {} to {theirs}; the two do not mix",
                self.node_id, caller.node_id
            );
            return Err(self.misdirected(sentence));
        }
        match text(headers, HEADER_TARGET) {
            Some(target) if target != self.node_id.as_str() => {
                let sentence = format!("this is {}, not {target:?}", self.node_id);
                Err(self.misdirected(sentence))
            }
            _ => Ok(caller),
        }
    }

    /// Who knocks from another cluster, and which that is.
    pub fn stranger(&self, headers: &HeaderMap) -> Option<(NodeId, ClusterId)> {
        let ours = self.cluster.as_ref()?;
        let caller = caller(headers).ok()?;
        let theirs = caller.cluster.filter(|theirs| theirs != ours)?;
        Some((caller.node_id, theirs))
    }

    fn misdirected(&self, sentence: String) -> Refusal {
        let mut refusal = Refusal::new(ErrorCode::WrongCluster, sentence);
        let cluster = self.cluster.as_ref().map(ClusterId::as_str);
        refusal.details = json!({ "node_id": self.node_id, "cluster_id": cluster });
        refusal
    }

    /// 101 for who is let in.
    pub fn welcome(&self) -> HttpResponse {
        let headers = [(CONNECTION, "Upgrade"), (UPGRADE, PROTOCOL)];
        let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        introduce(response.headers_mut(), &self.node_id, self.cluster.as_ref());
        response
    }

    /// The one error format for who is not; the request's id is the one in its header.
    pub fn refuse(&self, refusal: Refusal, asked: &HeaderMap) -> HttpResponse {
        let status = StatusCode::from_u16(refusal.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody {
            error: refusal.sentence,
            code: refusal.code,
            details: refusal.details,
            request_id: text(asked, HEADER_REQUEST_ID)
                .unwrap_or_default()
                .to_owned(),
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        introduce(headers, &self.node_id, self.cluster.as_ref());
        match status {
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

fn caller(headers: &HeaderMap) -> Result<Caller, Refusal> {
    let bad = |name: &str| {
        let sentence = format!("the header {name} is missing or makes no sense");
        Refusal::new(ErrorCode::BadRequest, sentence)
    };
    let node_id = text(headers, HEADER_NODE).and_then(|id| NodeId::new(id).ok());
    let generation = text(headers, HEADER_GENERATION).and_then(|g| g.parse().ok());
    let cluster = match headers.get(HEADER_CLUSTER) {
        None => None,
        Some(_) => Some(
            text(headers, HEADER_CLUSTER)
                .and_then(|id| ClusterId::new(id).ok())
                .ok_or_else(|| bad(HEADER_CLUSTER))?,
        ),
    };
    Ok(Caller {
        node_id: node_id.ok_or_else(|| bad(HEADER_NODE))?,
        generation: generation.ok_or_else(|| bad(HEADER_GENERATION))?,
        cluster,
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a comma-separated header names `token`, in any case.
fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let Ok(name) = HeaderName::try_from(name) else {
        return false;
    };
    let values = headers.get_all(name);
    let values = values.iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";
    const THEIRS: &str = "1b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";
    const GOOD: [(&str, &str); 6] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", PROTOCOL),
        (HEADER_NODE, "node-2"),
        (HEADER_GENERATION, "17"),
        (HEADER_CLUSTER, OURS),
        (HEADER_TARGET, "node-1"),
    ];

    /// Those of a caller that is let in, but for one.
    fn headers(edit: (&'static str, Option<&str>)) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in GOOD {
            headers.insert(name, HeaderValue::from_str(value).expect("valid"));
        }
        match edit {
            (name, Some(value)) => {
                headers.insert(name, HeaderValue::from_str(value).expect("valid"));
            }
            (name, None) => {
                headers.remove(name);
            }
        }
        headers
    }

    fn check(method: &Method, edit: (&'static str, Option<&str>)) -> Result<Caller, ErrorCode> {
        let door = Doorkeeper {
            node_id: NodeId::new("node-1").expect("valid"),
            cluster: Some(ClusterId::new(OURS).expect("valid")),
        };
        door.check(method, &headers(edit)).map_err(|refusal| {
            assert!(!refusal.sentence.is_empty());
            refusal.code
        })
    }

    #[test]
    fn every_header_is_checked() {
        let no_edit = ("x-other", None);
        let caller = check(&Method::GET, no_edit).expect("all is right");
        assert_eq!((caller.node_id.as_str(), caller.generation), ("node-2", 17));
        assert_eq!(
            check(&Method::POST, no_edit),
            Err(ErrorCode::MethodNotAllowed)
        );
        let cases = [
            ("connection", None, ErrorCode::UpgradeRequired),
            ("connection", Some("close"), ErrorCode::UpgradeRequired),
            ("upgrade", None, ErrorCode::UpgradeRequired),
            ("upgrade", Some("websocket"), ErrorCode::UpgradeRequired),
            (
                "upgrade",
                Some("ringmaster-peer/2"),
                ErrorCode::UpgradeRequired,
            ),
            (HEADER_NODE, None, ErrorCode::BadRequest),
            (HEADER_NODE, Some("no good"), ErrorCode::BadRequest),
            (HEADER_GENERATION, None, ErrorCode::BadRequest),
            (HEADER_GENERATION, Some("-1"), ErrorCode::BadRequest),
            (HEADER_CLUSTER, Some("ours"), ErrorCode::BadRequest),
            (HEADER_CLUSTER, Some(THEIRS), ErrorCode::WrongCluster),
            (HEADER_TARGET, Some("node-3"), ErrorCode::WrongCluster),
        ];
        for (name, value, want) in cases {
            assert_eq!(
                check(&Method::GET, (name, value)),
                Err(want),
                "{name}: {value:?}"
            );
        }
        for absent in [HEADER_CLUSTER, HEADER_TARGET] {
            assert!(check(&Method::GET, (absent, None)).is_ok(), "{absent}");
        }
    }

    #[test]
    fn only_who_names_another_cluster_is_a_stranger() {
        let cluster = |id: &str| ClusterId::new(id).expect("valid");
        let stranger = |ours: Option<&str>, edit: (&'static str, Option<&str>)| {
            let door = Doorkeeper {
                node_id: NodeId::new("node-1").expect("valid"),
                cluster: ours.map(cluster),
            };
            door.stranger(&headers(edit))
        };
        let met = Some((NodeId::new("node-2").expect("valid"), cluster(THEIRS)));
        let theirs = (HEADER_CLUSTER, Some(THEIRS));
        assert_eq!(stranger(Some(OURS), theirs), met);
        assert_eq!(stranger(None, theirs), None, "this node has none yet");
        for edit in [
            (HEADER_CLUSTER, Some(OURS)),
            (HEADER_CLUSTER, None),
            (HEADER_CLUSTER, Some("no cluster")),
            (HEADER_TARGET, Some("node-3")),
        ] {
            assert_eq!(stranger(Some(OURS), edit), None, "{edit:?}");
        }
    }
}
