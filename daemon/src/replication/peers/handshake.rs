//! From `host:port` to an upgraded stream: resolve, connect, ask for the upgrade, check who
//! answered.
//!
//! Every address of a name is tried in turn, through the whole handshake, because `localhost` may
//! mean this node on one address family and another program on the other. A name may also stand
//! for all nodes of a cluster: the asking node itself is who answered only if nobody else does.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use ringmaster_shared::{
    error::ErrorBody,
    id::{ClusterId, NodeId},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{LocalPeer, PeerError, RemotePeer};
use crate::replication::{frames::PROTOCOL, server::PEER_PATH};

/// The sender's (or answerer's) cluster; absent while it has none.
pub const HEADER_CLUSTER: &str = "x-ring-cluster";
/// The sender's (or answerer's) node id.
pub const HEADER_NODE: &str = "x-ring-node";
pub const HEADER_GENERATION: &str = "x-ring-generation";
/// The node the sender means to reach.
pub const HEADER_TARGET: &str = "x-ring-target";

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Bytes read of the body of a refusal.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;

/// An upgraded stream.
pub type Stream = TokioIo<Upgraded>;

/// What the asking side says of itself and expects of the other.
#[derive(Debug, Clone)]
pub struct Hello {
    pub local: LocalPeer,
    pub cluster: Option<ClusterId>,
    pub target: Option<NodeId>,
}

impl Hello {
    /// Whether the node that asked answers itself, and anybody was meant.
    fn is_to_itself(&self, peer: &RemotePeer) -> bool {
        self.target.is_none() && peer.node_id == self.local.node_id
    }
}

/// Connects to whichever address of `host:port` completes the handshake first, in turn.
/// `each` bounds one address, the caller bounds the whole.
pub async fn connect(
    address: &str,
    hello: &Hello,
    each: Duration,
) -> Result<(Stream, RemotePeer), PeerError> {
    let unreachable = |why: String| PeerError::Unreachable {
        address: address.to_owned(),
        why,
    };
    let resolved: Vec<SocketAddr> = match timeout(each, tokio::net::lookup_host(address)).await {
        Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
        Ok(Err(error)) => return Err(unreachable(format!("the name cannot be resolved: {error}"))),
        Err(_) => return Err(unreachable("the name server does not answer".into())),
    };
    connect_any(address, resolved, hello, each).await
}

/// The first of `resolved` that completes the handshake; this node itself if no other does.
pub(super) async fn connect_any(
    address: &str,
    resolved: Vec<SocketAddr>,
    hello: &Hello,
    each: Duration,
) -> Result<(Stream, RemotePeer), PeerError> {
    let unreachable = |why: String| PeerError::Unreachable {
        address: address.to_owned(),
        why,
    };
    let mut failure = unreachable("the name has no address".into());
    let mut oneself = None;
    for socket_address in resolved {
        let attempt = connect_one(address, socket_address, hello);
        let error = match timeout(each, attempt).await {
            Ok(Ok(connected)) if hello.is_to_itself(&connected.1) => {
                oneself = oneself.or(Some(connected));
                continue;
            }
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => error,
            Err(_) => unreachable(format!("no answer within {} ms", each.as_millis())),
        };
        // somebody who answered wrongly says more than an address where nobody listens
        if matches!(failure, PeerError::Unreachable { .. }) {
            failure = error;
        }
    }
    oneself.ok_or(failure)
}

async fn connect_one(
    address: &str,
    socket_address: SocketAddr,
    hello: &Hello,
) -> Result<(Stream, RemotePeer), PeerError> {
    let unreachable = |error: &std::io::Error| PeerError::Unreachable {
        address: address.to_owned(),
        why: plain_io(error),
    };
    let tcp = TcpStream::connect(socket_address)
        .await
        .map_err(|e| unreachable(&e))?;
    tcp.set_nodelay(true).map_err(|e| unreachable(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(|e| not_http(address, &e))?;
    // aborted when this handshake is given up; done by itself once the stream is handed over
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
    let request = upgrade_request(address, hello)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|e| not_http(address, &e))?;
    let peer = judge(address, hello, response.status(), response.headers());
    match peer {
        Ok(peer) => {
            let upgraded = hyper::upgrade::on(response)
                .await
                .map_err(|e| not_http(address, &e))?;
            Ok((TokioIo::new(upgraded), peer))
        }
        Err(PeerError::Protocol { address, why }) => {
            let why = match sentence_of(response).await {
                Some(sentence) => format!("{why}: {sentence}"),
                None => why,
            };
            Err(PeerError::Protocol { address, why })
        }
        Err(PeerError::Unreachable { address, why }) => {
            let why = sentence_of(response).await.unwrap_or(why);
            Err(PeerError::Unreachable { address, why })
        }
        Err(error) => Err(error),
    }
}

fn upgrade_request(address: &str, hello: &Hello) -> Result<Request<Empty<Bytes>>, PeerError> {
    let mut builder = Request::builder()
        .method(Method::GET)
        .uri(PEER_PATH)
        .header(HOST, address)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, PROTOCOL)
        .header(HEADER_NODE, hello.local.node_id.as_str())
        .header(HEADER_GENERATION, hello.local.generation);
    if let Some(cluster) = &hello.cluster {
        builder = builder.header(HEADER_CLUSTER, cluster.as_str());
    }
    if let Some(target) = &hello.target {
        builder = builder.header(HEADER_TARGET, target.as_str());
    }
    builder
        .body(Empty::new())
        .map_err(|_| PeerError::Unreachable {
            address: address.to_owned(),
            why: "not an address".into(),
        })
}

/// Who answered, or why it is not who was meant. Decides from status and headers alone.
fn judge(
    address: &str,
    hello: &Hello,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<RemotePeer, PeerError> {
    let protocol = |why: String| PeerError::Protocol {
        address: address.to_owned(),
        why,
    };
    let Some(peer) = peer_of(headers) else {
        return Err(protocol(format!(
            "it answers HTTP {status} and does not say which node it is, so it is no ringd"
        )));
    };
    if let (Some(ours), Some(theirs)) = (&hello.cluster, &peer.cluster_id)
        && ours != theirs
    {
        return Err(PeerError::WrongCluster {
            address: address.to_owned(),
            theirs: theirs.to_string(),
            ours: ours.to_string(),
        });
    }
    if let Some(wanted) = &hello.target
        && *wanted != peer.node_id
    {
        return Err(PeerError::WrongNode {
            address: address.to_owned(),
            found: peer.node_id,
            wanted: wanted.clone(),
        });
    }
    let upgrade = headers.get(UPGRADE).and_then(|v| v.to_str().ok());
    match (status, upgrade) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(PROTOCOL)) => Ok(peer),
        (StatusCode::SWITCHING_PROTOCOLS, other) => Err(protocol(format!(
            "it switched to {} instead of {PROTOCOL}",
            other.unwrap_or("nothing")
        ))),
        // a node that starts, holds or stops; its own sentence says more
        (status @ (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS), _) => {
            Err(PeerError::Unreachable {
                address: address.to_owned(),
                why: format!("{} takes no connections now ({status})", peer.node_id),
            })
        }
        (status, _) => Err(protocol(format!("it answered {status} to the upgrade"))),
    }
}

fn peer_of(headers: &HeaderMap) -> Option<RemotePeer> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    Some(RemotePeer {
        node_id: NodeId::new(text(HEADER_NODE)?).ok()?,
        cluster_id: match text(HEADER_CLUSTER) {
            Some(id) => Some(ClusterId::new(id).ok()?),
            None => None,
        },
    })
}

/// Adds who this node is to an answer of the handshake.
pub fn introduce(headers: &mut HeaderMap, node: &NodeId, cluster: Option<&ClusterId>) {
    let mut insert = |name: &'static str, value: &str| {
        // ids hold only letters, digits and a few signs
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    insert(HEADER_NODE, node.as_str());
    if let Some(cluster) = cluster {
        insert(HEADER_CLUSTER, cluster.as_str());
    }
}

/// The sentence of a ringd's refusal.
async fn sentence_of(response: Response<Incoming>) -> Option<String> {
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX);
    let body = body.collect().await.ok()?.to_bytes();
    let body: ErrorBody = serde_json::from_slice(&body).ok()?;
    Some(body.error)
}

fn not_http(address: &str, error: &hyper::Error) -> PeerError {
    let address = address.to_owned();
    if error.is_parse() {
        let why = "its answer is not HTTP, so it is no ringd".into();
        return PeerError::Protocol { address, why };
    }
    let why = "it closed the connection during the handshake".into();
    PeerError::Unreachable { address, why }
}

fn plain_io(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "nobody listens there (connection refused)".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "0b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";
    const THEIRS: &str = "1b9c7c1e-2f43-4a52-9f7e-3c1de9c0a111";

    type Case<'a> = (u16, &'a [(&'static str, &'a str)], fn(&PeerError) -> bool);

    fn judged(status: u16, headers: &[(&'static str, &str)]) -> Result<RemotePeer, PeerError> {
        let hello = Hello {
            local: LocalPeer {
                node_id: NodeId::new("node-1").expect("valid"),
                generation: 1,
            },
            cluster: Some(ClusterId::new(OURS).expect("valid")),
            target: Some(NodeId::new("node-2").expect("valid")),
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).expect("valid"));
        }
        let status = StatusCode::from_u16(status).expect("valid");
        judge("h:1", &hello, status, &map)
    }

    #[test]
    fn who_answered_is_told_from_status_and_headers() {
        let good = [
            (HEADER_NODE, "node-2"),
            (HEADER_CLUSTER, OURS),
            ("upgrade", PROTOCOL),
        ];
        let peer = judged(101, &good).expect("the right one");
        assert_eq!(peer.node_id.as_str(), "node-2");
        // who has no cluster yet may be talked to
        assert!(judged(101, &[(HEADER_NODE, "node-2"), ("upgrade", PROTOCOL)]).is_ok());

        let cases: [Case; 7] = [
            (404, &[], |e| matches!(e, PeerError::Protocol { .. })),
            (101, &[("upgrade", PROTOCOL)], |e| {
                matches!(e, PeerError::Protocol { .. })
            }),
            (101, &[(HEADER_NODE, "node-2"), ("upgrade", "h2c")], |e| {
                matches!(e, PeerError::Protocol { .. })
            }),
            (
                421,
                &[(HEADER_NODE, "node-2"), (HEADER_CLUSTER, THEIRS)],
                |e| matches!(e, PeerError::WrongCluster { .. }),
            ),
            (
                101,
                &[(HEADER_NODE, "node-3"), ("upgrade", PROTOCOL)],
                |e| matches!(e, PeerError::WrongNode { .. }),
            ),
            // a ringd that takes no connections now, and something that is none
            (503, &[(HEADER_NODE, "node-2")], |e| {
                matches!(e, PeerError::Unreachable { .. })
            }),
            (503, &[], |e| matches!(e, PeerError::Protocol { .. })),
        ];
        for (status, headers, want) in cases {
            let error = judged(status, headers).expect_err("not the right one");
            assert!(want(&error), "{status} {headers:?} gave {error}");
        }
    }
}
