//! Connections: accepted up to a limit, dropped when they say nothing or take nothing.

mod refusals;
mod stalling;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ringmaster_shared::error::ErrorCode;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::metrics::Metrics;
use refusals::{Refusals, refusal};
use stalling::Stalling;

/// Pause after a failed accept: it fails for want of file descriptors, and those come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest head of a request, bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A client that takes none of its answer for so long is dropped.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// Bounds on connections.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    pub connections: usize,
    pub header_timeout: Duration,
}

/// A running server.
pub struct Server {
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    /// Serves at once on all of `listeners`, until `stop`.
    pub fn start(
        listeners: Vec<TcpListener>,
        router: Router,
        limits: &ServerLimits,
        metrics: &Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        let connections = TaskTracker::new();
        let acceptor = Acceptor {
            router,
            places: Arc::new(Semaphore::new(limits.connections)),
            header_timeout: limits.header_timeout,
            metrics: metrics.clone(),
            connections: connections.clone(),
            stop: stop.clone(),
        };
        for listener in listeners {
            connections.spawn(acceptor.clone().accept(listener));
        }
        Self { connections, stop }
    }

    /// Lets requests under way end, then closes all connections; waits no longer than `most`.
    pub async fn close(self, most: Duration) {
        self.stop.cancel();
        self.connections.close();
        // those that do not end are cut off when the runtime ends
        let _ = tokio::time::timeout(most, self.connections.wait()).await;
    }
}

#[derive(Clone)]
struct Acceptor {
    router: Router,
    places: Arc<Semaphore>,
    header_timeout: Duration,
    metrics: Arc<Metrics>,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Acceptor {
    async fn accept(self, listener: TcpListener) {
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    failing = false;
                    self.admit(stream, from);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // said once: it is tried ten times a second
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("cannot accept connections for now: {error}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, from: SocketAddr) {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            self.connections
                .spawn(self.clone().serve(stream, from, place));
        } else {
            let full = refusal(
                ErrorCode::TooBusy,
                "503 Service Unavailable",
                "too many connections; try again shortly",
                true,
            );
            // as much as fits at once; nobody waits for who is not let in
            let _ = stream.try_write(&full);
            tracing::debug!("all connections are taken; turned away {from}");
        }
    }

    async fn serve(self, stream: TcpStream, from: SocketAddr, _place: OwnedSemaphorePermit) {
        let _open = self.metrics.connection_guard();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("{from}: {error}");
            return;
        }
        let (reads, writes) = stream.into_split();
        let writes = Refusals::new(Stalling::new(writes, WRITE_STALL));
        let stream = tokio::io::join(reads, writes);
        let router = self.router;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            router.clone().oneshot(request.map(Body::new))
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("connection of {from} ended: {error}");
        }
    }
}

/// Errors that say nothing about the next accept.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Running {
        address: SocketAddr,
        server: Server,
    }

    async fn start(connections: usize) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().route("/", get(async || "hello"));
        let limits = ServerLimits {
            connections,
            header_timeout: Duration::from_millis(200),
        };
        let metrics = Arc::new(Metrics::new());
        let stop = CancellationToken::new();
        let server = Server::start(vec![listener], router, &limits, &metrics, stop);
        Running { address, server }
    }

    async fn said(stream: &mut TcpStream) -> String {
        let mut all = Vec::new();
        let read = stream.read_to_end(&mut all);
        let ended = tokio::time::timeout(Duration::from_secs(20), read).await;
        ended.expect("the server ends the connection").ok();
        String::from_utf8_lossy(&all).into_owned()
    }

    #[tokio::test]
    async fn who_says_nothing_is_dropped() {
        let running = start(8).await;
        for half in ["", "GET / HTTP/1.1\r\nHost: x\r\n"] {
            let mut stream = TcpStream::connect(running.address).await.expect("open");
            stream.write_all(half.as_bytes()).await.expect("sent");
            let answer = said(&mut stream).await;
            assert!(!answer.contains("200 OK"), "{answer}");
        }
        let mut stream = TcpStream::connect(running.address).await.expect("open");
        stream.write_all(b"nonsense\r\n\r\n").await.expect("sent");
        assert!(said(&mut stream).await.starts_with("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn connections_are_limited_and_closed_on_stop() {
        let running = start(1).await;
        let mut first = TcpStream::connect(running.address).await.expect("open");
        first
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .expect("sent");
        let mut start_of_answer = [0_u8; 15];
        first
            .read_exact(&mut start_of_answer)
            .await
            .expect("an answer");
        assert_eq!(&start_of_answer, b"HTTP/1.1 200 OK");

        let mut second = TcpStream::connect(running.address).await.expect("open");
        let refusal = said(&mut second).await;
        assert!(refusal.starts_with("HTTP/1.1 503"), "{refusal}");
        let (head, body) = refusal.split_once("\r\n\r\n").expect("head and body");
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{refusal}"
        );
        assert!(body.contains("TOO_BUSY"));

        running.server.close(Duration::from_secs(5)).await;
        let rest = said(&mut first).await;
        assert!(rest.ends_with("hello"), "closed after the answer: {rest:?}");
    }
}
