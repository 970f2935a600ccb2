//! HTTP by hand: exactly these bytes, and whatever comes back.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::client::Reply;

/// Longer than any of the daemon's deadlines for clients.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Sends `bytes`, closes this half if told to, and reads until the other side ends it.
/// An empty answer means that it was ended without one. Panics when it is never ended.
pub async fn exchange(port: u16, bytes: &[u8], close: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the node listens");
    // it may be cut off while it still speaks
    let _ = stream.write_all(bytes).await;
    if close {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the node puts up with this for ever");
    answer
}

/// One request with `Connection: close` and a correct length.
pub async fn request(port: u16, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    let answer = exchange(port, &bytes, false).await;
    parse(&answer).unwrap_or_else(|| {
        let answer = String::from_utf8_lossy(&answer);
        panic!("{method} {path} was not answered in HTTP: {answer:?}")
    })
}

/// The one answer in `bytes`; it must not be chunked.
pub fn parse(bytes: &[u8]) -> Option<Reply> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let status = first
        .next()
        .filter(|version| version.starts_with("HTTP/1."))
        .and_then(|_| first.next()?.parse().ok())?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).ok()?,
            HeaderValue::from_str(value.trim()).ok()?,
        );
    }
    Some(Reply {
        status,
        headers,
        body: bytes[end + 4..].to_vec(),
    })
}
