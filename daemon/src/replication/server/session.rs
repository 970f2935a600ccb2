//! One connection, seen from the side that answers.
//!
//! Requests that need no waiting (reads) are answered where they are read; the others are carried
//! out concurrently and answered in whatever order they end. Each is answered exactly once. Past the bounds they are refused at once rather than queued, so a slow disk never stops
//! the answers to probes. A frame that makes no sense ends the connection.

use std::{
    future::Future,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use ringmaster_shared::id::Epoch;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::gate::Caller;
use crate::replication::{
    codec,
    frames::{RefusalCode, Request, RequestFrame, Response, ResponseFrame},
    outbox::{self, Outbox, PushError},
};

/// Requests under way on one connection.
const IN_FLIGHT_MAX: usize = 4096;
/// Requests under way on all connections of this process.
static IN_FLIGHT: Semaphore = Semaphore::const_new(16_384);
/// Memory of requests under way on all connections of this process, KiB.
static IN_FLIGHT_KIB: Semaphore = Semaphore::const_new(512 * 1024);
/// Bytes of answers that may wait for the writer; past that, handlers wait, and so does the next
/// request.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// How long the first frame may take.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// A connection without requests is closed after this; more than the caller's own patience.
const IDLE: Duration = Duration::from_secs(60);
/// How long the caller may take to read a batch of answers.
const WRITE: Duration = Duration::from_secs(30);
/// How long answers under way may take once this node stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    fn handle(
        &self,
        caller: &Caller,
        epoch: Epoch,
        request: Request,
    ) -> impl Future<Output = Response> + Send;

    /// The answer, when it can be had without waiting for anything but a lookup.
    fn at_once(&self, _caller: &Caller, _epoch: Epoch, _request: &Request) -> Option<Response> {
        None
    }
}

/// Serves frames until the caller leaves, misbehaves or falls silent, or until `stop`.
pub async fn run<S, H>(stream: S, caller: Caller, handler: Arc<H>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    H: Handler,
{
    let (read_half, write_half) = tokio::io::split(stream);
    let answers = Arc::new(Outbox::new(ANSWER_BYTES));
    let broken = CancellationToken::new();
    let writer = write_answers(write_half, Arc::clone(&answers), broken.clone());
    let writer = tokio::spawn(writer);
    let session = Arc::new(Session {
        caller,
        handler,
        answers,
        pending: AtomicUsize::new(0),
    });
    let reading = session.read(read_half);
    tokio::select! {
        () = stop.cancelled() => {}
        () = broken.cancelled() => {}
        () = reading => {}
    }
    // handlers under way hold the session; the writer ends with the last of them
    drop(session);
    if timeout(LAST_ANSWERS, writer).await.is_err() {
        broken.cancel();
    }
}

impl<H> Drop for Session<H> {
    fn drop(&mut self) {
        self.answers.finish();
    }
}

struct Session<H> {
    caller: Caller,
    handler: Arc<H>,
    answers: Arc<Outbox>,
    pending: AtomicUsize,
}

/// Room for one request; given back when it is answered.
struct Room<'a, H> {
    session: &'a Session<H>,
    _request: SemaphorePermit<'static>,
    _bytes: SemaphorePermit<'static>,
}

impl<H> Drop for Room<'_, H> {
    fn drop(&mut self) {
        self.session.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<H: Handler> Session<H> {
    async fn read<R: AsyncRead + Unpin>(self: &Arc<Self>, io: R) {
        let mut frames = codec::reader(io);
        let mut patience = FIRST_FRAME;
        loop {
            let body = match timeout(patience, frames.next()).await {
                Ok(Some(Ok(body))) => body,
                // too long a frame, and not a connection that broke because its node died
                Ok(Some(Err(error))) if error.kind() == ErrorKind::InvalidData => {
                    return self.complain(&error.to_string());
                }
                Ok(Some(Err(error))) => {
                    tracing::debug!(node = %self.caller.node_id, %error, "a connection ended");
                    return;
                }
                Err(_) if self.pending.load(Ordering::Relaxed) > 0 => continue,
                Ok(None) | Err(_) => return,
            };
            patience = IDLE;
            let frame = match codec::decode::<RequestFrame>(&body) {
                Ok(frame) => frame,
                Err(error) => return self.complain(&error.to_string()),
            };
            let at_once = self
                .handler
                .at_once(&self.caller, frame.epoch, &frame.request);
            if let Some(response) = at_once {
                self.send(frame.id, response).await;
                continue;
            }
            let (session, size) = (Arc::clone(self), body.len());
            if self.has_room(size) {
                tokio::spawn(async move { session.answer(frame, size).await });
            } else {
                self.send(frame.id, too_busy()).await;
            }
        }
    }

    /// A cheap look before a task is made for it; [`Session::room`] decides.
    fn has_room(&self, size: usize) -> bool {
        self.pending.load(Ordering::Relaxed) < IN_FLIGHT_MAX
            && IN_FLIGHT.available_permits() > 0
            && IN_FLIGHT_KIB.available_permits() > size / 1024
    }

    fn room(&self, size: usize) -> Option<Room<'_, H>> {
        let kib = u32::try_from(size / 1024 + 1).ok()?;
        let request = IN_FLIGHT.try_acquire().ok()?;
        let bytes = IN_FLIGHT_KIB.try_acquire_many(kib).ok()?;
        self.pending.fetch_add(1, Ordering::Relaxed);
        Some(Room {
            session: self,
            _request: request,
            _bytes: bytes,
        })
    }

    async fn answer(&self, frame: RequestFrame, size: usize) {
        let Some(_room) = self.room(size) else {
            return self.send(frame.id, too_busy()).await;
        };
        let response = self
            .handler
            .handle(&self.caller, frame.epoch, frame.request);
        self.send(frame.id, response.await).await;
    }

    async fn send(&self, id: u64, response: Response) {
        let frame = ResponseFrame { id, response };
        if let Err(PushError::Frame(error)) = self.answers.push_patiently(&frame).await {
            let response = Response::Refused {
                code: RefusalCode::BadRequest,
                reason: format!("the answer cannot be sent: {error}"),
            };
            let frame = ResponseFrame { id, response };
            // without a writer the connection is over
            let _ = self.answers.push_patiently(&frame).await;
        }
    }

    fn complain(&self, error: &str) {
        tracing::warn!(node = %self.caller.node_id, error, "a peer's request makes no sense; closing");
    }
}

fn too_busy() -> Response {
    Response::Refused {
        code: RefusalCode::TooBusy,
        reason: "too many requests of other nodes are under way".into(),
    }
}

async fn write_answers<W>(mut io: W, answers: Arc<Outbox>, broken: CancellationToken)
where
    W: AsyncWrite + Unpin,
{
    let write = async {
        let mut batch = Vec::new();
        while let Some(next) = answers.take(batch).await {
            if !matches!(
                timeout(WRITE, outbox::write(&mut io, &next)).await,
                Ok(Ok(()))
            ) {
                return;
            }
            batch = next;
        }
    };
    tokio::select! {
        () = write => {}
        () = broken.cancelled() => {}
    }
    answers.close();
    broken.cancel();
}
