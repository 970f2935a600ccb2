//! What is refused before any handler sees it, said in the one error format.
//!
//! hyper answers a head it cannot read by itself, with a status and nothing else, and has no hook
//! for it. This stream recognises these few bytes on their way out (no handler here ever answers
//! such a status without a body) and sends the same status with a body that says what was wrong.
//! What clients send is not looked at.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use ringmaster_shared::error::{ErrorBody, ErrorCode};
use tokio::io::AsyncWrite;

/// hyper's refusals: how they begin, and what is wrong then.
const OWN: [(&[u8], ErrorCode, &str); 3] = [
    (
        b"HTTP/1.1 400 ",
        ErrorCode::BadRequest,
        "this is no HTTP/1.1 request: its first line or a header cannot be read",
    ),
    (
        b"HTTP/1.1 414 ",
        ErrorCode::UriTooLong,
        "the path and query of the request are too long",
    ),
    (
        b"HTTP/1.1 431 ",
        ErrorCode::HeadTooLarge,
        "the first line and headers of the request are too large, or too many",
    ),
];
const NO_BODY: &[u8] = b"content-length: 0\r\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// A whole answer that ends the connection.
pub fn refusal(code: ErrorCode, status: &str, sentence: &str, retry: bool) -> Vec<u8> {
    let request_id = uuid::Uuid::new_v4().simple().to_string();
    let body = ErrorBody {
        error: sentence.to_owned(),
        code,
        details: serde_json::json!({}),
        request_id: request_id.clone(),
    };
    let body = serde_json::to_string(&body).unwrap_or_default();
    let retry = if retry { "retry-after: 1\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-request-id: {request_id}\r\n\
         {retry}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The same refusal with a body, if `head` is one of hyper's own.
fn in_full(head: &[u8]) -> Option<Vec<u8>> {
    let (start, code, sentence) = OWN.iter().find(|own| head.starts_with(own.0))?;
    let bare = head.ends_with(END_OF_HEAD) && head.windows(NO_BODY.len()).any(|w| w == NO_BODY);
    let line = head.split(|b| *b == b'\r').next()?;
    // the status and its reason, as hyper says them
    let status = std::str::from_utf8(line.get(start.len() - 4..)?).ok()?;
    bare.then(|| refusal(*code, status, sentence, false))
}

/// The writing side; everything else that is written passes through.
pub struct Refusals<S> {
    inner: S,
    /// What is sent instead, and how much of it was.
    instead: Option<(Vec<u8>, usize)>,
}

impl<S: AsyncWrite + Unpin> Refusals<S> {
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            instead: None,
        }
    }

    /// Sends what takes the place of `head`; `None` when it passes as it is.
    fn replaced(&mut self, cx: &mut Context<'_>, head: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.instead.is_none() {
            self.instead = Some((in_full(head)?, 0));
        }
        Some(self.send_instead(cx).map_ok(|()| head.len()))
    }

    fn send_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((bytes, sent)) = &mut self.instead {
            let taken = ready!(Pin::new(&mut self.inner).poll_write(cx, &bytes[*sent..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += taken;
            if *sent == bytes.len() {
                self.instead = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Refusals<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(polled) = self.replaced(cx, buf) {
            return polled;
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        if let Some(first) = first
            && let Some(polled) = self.replaced(cx, first)
        {
            return polled;
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn sent(bytes: &[u8]) -> Vec<u8> {
        // small, so that what is sent instead is taken in pieces
        let (mine, mut theirs) = duplex(16);
        let mut mine = Refusals::new(mine);
        let write = async move {
            mine.write_all(bytes).await.expect("written");
            drop(mine);
        };
        let mut all = Vec::new();
        let ((), read) = tokio::join!(write, theirs.read_to_end(&mut all));
        read.expect("read");
        all
    }

    #[tokio::test]
    async fn bare_refusals_get_a_body_and_all_else_passes() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
                     content-length: 0\r\ndate: today\r\n\r\n";
        let text = String::from_utf8(sent(bare).await).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"),
            "{head}"
        );
        let body_length = format!("content-length: {}", body.len());
        assert!(head.ends_with(&body_length), "{head}");
        let body: ErrorBody = serde_json::from_str(body).expect("the format");
        assert_eq!(body.code, ErrorCode::HeadTooLarge);
        assert!(head.contains(&format!("x-request-id: {}", body.request_id)));

        for other in [
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".as_slice(),
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"anything",
        ] {
            assert_eq!(sent(other).await, other);
        }
    }
}
