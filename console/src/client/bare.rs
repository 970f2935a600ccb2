//! One HTTP request without a URL, for the keys `.` and `..`.
//!
//! URLs have no such segments: `.`, `..`, `%2E` and `%2E%2E` are steps within the path, and every
//! URL library takes them before anything is sent. The daemon reads the path as it comes, so for
//! these two keys the path is sent as it is. One connection a request; nobody writes many of them.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use reqwest::Method;
use tokio::{net::TcpStream, time::timeout};

use super::{ANSWER_BYTES_MAX, CONNECT_TIMEOUT, ClientError, innermost};

/// What is sent: the path as it stands, headers, the body.
#[derive(Debug)]
pub struct Question<'a> {
    pub method: Method,
    pub path: &'a str,
    pub condition: Option<(&'static str, &'a str)>,
    /// JSON; empty for none.
    pub body: Vec<u8>,
}

/// Whether a URL would lose part of this path.
pub fn is_needed(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    path.split('/').any(|part| matches!(part, "%2E" | "%2E%2E"))
}

/// The status and the body of the answer.
pub async fn ask(
    endpoint: &str,
    question: Question<'_>,
    deadline: Duration,
) -> Result<(u16, Vec<u8>), ClientError> {
    let failed = |why: String, not_sent| ClientError::Unreachable {
        endpoint: endpoint.to_owned(),
        why,
        not_sent,
    };
    let late = || "no answer in time".to_owned();
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await;
    let stream = connected
        .map_err(|_| failed(late(), true))?
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|e| failed(innermost(&e), true))?;
    let request = request(endpoint, question).map_err(|e| failed(innermost(&e), true))?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // with its sender the connection ends as well: nothing is spawned
        let answer = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            Ok((
                status,
                Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
                    .collect()
                    .await,
            ))
        };
        let (answer, _) = futures_util::future::join(answer, connection).await;
        answer
    };
    let answer: Result<_, hyper::Error> = timeout(deadline, exchange)
        .await
        .map_err(|_| failed(late(), false))?;
    let (status, body) = answer.map_err(|e| failed(innermost(&e), false))?;
    let body = body.map_err(|e| failed(innermost(e.as_ref()), false))?;
    Ok((status, body.to_bytes().to_vec()))
}

fn request(endpoint: &str, question: Question<'_>) -> hyper::http::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder()
        .method(question.method)
        .uri(question.path)
        .header(header::HOST, endpoint)
        .header(header::CONNECTION, "close");
    if let Some((name, value)) = question.condition {
        request = request.header(name, value);
    }
    if !question.body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    request.body(Full::new(question.body.into()))
}
