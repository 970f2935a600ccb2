//! One connection, seen from the side that answers.
//!
//! Requests that need no waiting (reads) are answered where they are read; the others are carried
//! out concurrently and answered in whatever order they end. Each is answered exactly once. Past the bounds they are refused at once rather than queued, so a slow disk never stops
//! the answers to probes. Of answers that grow with the cluster only a few
//! are made at a time, also for who does not read them. A frame that makes no sense ends the
//! connection.

use std::{
    future::Future,
    io::ErrorKind,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
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
    outbox::{self, Batch, Outbox, PushError},
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
/// Answers that grow with the cluster, made for one connection and not yet written.
const LONG_ANSWERS_MAX: usize = 2;
/// How long the first frame may take.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// A connection without requests is closed after this; more than the caller's own patience.
const IDLE: Duration = Duration::from_secs(60);
/// How long the caller may take to read a batch of answers.
const WRITE: Duration = Duration::from_secs(30);
/// How long answers under way may take once this node stops.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Frames that make no sense are told of this often, however many connections bring them.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
static COMPLAINTS: Mutex<Complaints> = Mutex::new(Complaints::none());

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

    /// Where a request whose answer grows with the cluster needs a place, from before the answer is
    /// made until it is written; without one it is refused. `None`: its answer is short.
    fn places(&self, _caller: &Caller, _request: &Request) -> Option<&Semaphore> {
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
        long: Semaphore::new(LONG_ANSWERS_MAX),
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
    /// Answers that grow with the cluster, under way here.
    long: Semaphore,
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
        let places = self.handler.places(&self.caller, &frame.request);
        let place = match places {
            None => None,
            Some(places) => match (self.long.try_acquire(), places.try_acquire()) {
                (Ok(here), Ok(there)) => Some((here, there)),
                _ => return self.send(frame.id, too_busy()).await,
            },
        };
        let response = self
            .handler
            .handle(&self.caller, frame.epoch, frame.request);
        let Some(batch) = self.push(frame.id, response.await).await else {
            return;
        };
        if place.is_some() {
            // else who does not read would have one more answer waiting at each connection
            self.answers.written(batch).await;
        }
    }

    async fn send(&self, id: u64, response: Response) {
        self.push(id, response).await;
    }

    /// `None` when the connection is over.
    async fn push(&self, id: u64, response: Response) -> Option<Batch> {
        let frame = ResponseFrame { id, response };
        match self.answers.push_patiently(&frame).await {
            Err(PushError::Frame(error)) => {
                let response = Response::Refused {
                    code: RefusalCode::BadRequest,
                    reason: format!("the answer cannot be sent: {error}"),
                };
                let frame = ResponseFrame { id, response };
                self.answers.push_patiently(&frame).await.ok()
            }
            pushed => pushed.ok(),
        }
    }

    fn complain(&self, error: &str) {
        let due = {
            let complaints = COMPLAINTS.lock();
            let mut complaints = complaints.unwrap_or_else(PoisonError::into_inner);
            complaints.due(Instant::now())
        };
        if let Some(not_told) = due {
            tracing::warn!(
                node = %self.caller.node_id, error, not_told,
                "a peer's request makes no sense; closing (more within a minute are counted, not told)"
            );
        }
    }
}

/// How often it is told that frames make no sense.
struct Complaints {
    told: Option<Instant>,
    /// Since then.
    not_told: u64,
}

impl Complaints {
    const fn none() -> Self {
        Self {
            told: None,
            not_told: 0,
        }
    }

    /// How many there were since the last that was told, when this one is to be told.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self
            .told
            .is_some_and(|at| now.duration_since(at) < COMPLAIN_EVERY)
        {
            self.not_told += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.not_told))
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

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;
    use crate::replication::testing::id;

    const GENEROUS: Duration = Duration::from_secs(60);

    /// Answers all but pings with as much as a large cluster would.
    struct Large {
        places: Semaphore,
        made: AtomicUsize,
        pings: AtomicUsize,
    }

    impl Handler for Large {
        async fn handle(&self, _: &Caller, _: Epoch, request: Request) -> Response {
            if request == Request::Ping {
                self.pings.fetch_add(1, Ordering::Relaxed);
                return Response::Pong;
            }
            self.made.fetch_add(1, Ordering::Relaxed);
            Response::NotReady {
                reason: "x".repeat(1 << 20),
            }
        }

        fn places(&self, _: &Caller, request: &Request) -> Option<&Semaphore> {
            (*request != Request::Ping).then_some(&self.places)
        }
    }

    /// A connection of somebody who need not read.
    fn connect(handler: &Arc<Large>) -> DuplexStream {
        let (io, there) = tokio::io::duplex(64 * 1024);
        let caller = Caller {
            node_id: id("stranger"),
            generation: 1,
            cluster: None,
        };
        let session = run(there, caller, Arc::clone(handler), CancellationToken::new());
        tokio::spawn(session);
        io
    }

    async fn ask(io: &mut DuplexStream, requests: impl Iterator<Item = Request>) {
        for (id, request) in requests.enumerate() {
            let frame = RequestFrame {
                id: id as u64,
                epoch: 0,
                deadline_ms: 0,
                request,
            };
            let mut bytes = Vec::new();
            codec::encode_into(&frame, &mut bytes).expect("small");
            outbox::write(io, &bytes).await.expect("open");
        }
    }

    /// So many answers: how many were given, and how many refused.
    async fn read(io: &mut DuplexStream, count: usize) -> (usize, usize) {
        let mut frames = codec::reader(io);
        let (mut given, mut refused) = (0, 0);
        while given + refused < count {
            let body = frames.next().await.expect("open").expect("whole");
            match codec::decode::<ResponseFrame>(&body)
                .expect("sane")
                .response
            {
                Response::Refused { code, .. } => {
                    assert_eq!(code, RefusalCode::TooBusy);
                    refused += 1;
                }
                _ => given += 1,
            }
        }
        (given, refused)
    }

    #[tokio::test]
    async fn who_does_not_read_is_made_few_long_answers() {
        const EACH: usize = 500;
        let handler = Arc::new(Large {
            places: Semaphore::new(5),
            made: AtomicUsize::default(),
            pings: AtomicUsize::default(),
        });
        let made = || handler.made.load(Ordering::Relaxed);
        let mut lines: Vec<_> = (0..4).map(|_| connect(&handler)).collect();
        for (n, line) in lines.iter_mut().enumerate() {
            let flood = std::iter::repeat_n(Request::Members, EACH);
            ask(line, flood.chain([Request::Ping])).await;
            let looked_at = async {
                while handler.pings.load(Ordering::Relaxed) <= n {
                    tokio::task::yield_now().await;
                }
            };
            timeout(GENEROUS, looked_at).await.expect("all looked at");
            // two for each, and no more than there are places
            assert_eq!(made(), [2, 4, 5, 5][n]);
        }
        let mut given = 0;
        for line in &mut lines {
            let answers = timeout(GENEROUS, read(line, EACH + 1)).await;
            given += answers.expect("all are answered").0 - 1;
        }
        assert_eq!(given, made());
        // who reads gives the places back
        for round in 0..10 {
            ask(&mut lines[0], std::iter::once(Request::Members)).await;
            let answers = timeout(GENEROUS, read(&mut lines[0], 1)).await;
            assert_eq!(answers.expect("answered"), (1, 0), "{round}");
        }
    }

    #[test]
    fn nonsense_is_told_once_a_minute_and_counted() {
        let (mut complaints, start) = (Complaints::none(), Instant::now());
        let mut at = |seconds| complaints.due(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        let told = (0..5000).filter_map(|n| at(n / 100)).count();
        assert_eq!(told, 0);
        assert_eq!(at(60), Some(5000));
        assert_eq!(at(119), None);
        assert_eq!(at(500), Some(1));
    }
}
