//! One pipelined connection, seen from the side that asks.
//!
//! A writer task sends all that waits at once, a reader task hands each answer to the caller that
//! waits for its id. Promises: a call ends by its deadline; a connection that fails fails
//! all its callers at once; a peer that falls silent while callers wait is given up after
//! [`Limits::silence`]. Reconnecting is left to the pool.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::StreamExt;
use ringmaster_shared::id::Epoch;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Limits, RemotePeer};
use crate::replication::{
    codec::{self, CodecError},
    frames::{LentFrame, Request, Response, ResponseFrame},
    outbox::{self, Outbox, PushError},
};

/// Id of the keep-alive; callers count from 1.
const PING_ID: u64 = 0;

/// Why a call over this connection has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection was closed before the request was queued; nothing was sent.
    Closed,
    /// The connection failed; the request may have been carried out.
    Lost,
    /// Too many requests, or too many bytes, are under way.
    Full,
    /// No answer by the deadline.
    Timeout,
    /// The request cannot be put into a frame; nothing was sent.
    Frame(CodecError),
}

/// Cheap handle; the connection closes when the last one is dropped.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    _close_when_unused: Arc<DropGuard>,
}

struct Shared {
    address: String,
    peer: RemotePeer,
    limits: Limits,
    outbox: Outbox,
    waiters: Mutex<Waiters>,
    closed: CancellationToken,
    opened: Instant,
    /// Milliseconds after `opened` at which bytes last arrived.
    heard_ms: AtomicU64,
    /// Rung by the first request after [`Health::Quiet`].
    bell: Notify,
}

struct Waiters {
    /// False once the connection is given up: nobody may be added any more.
    open: bool,
    /// Whether it ever answered; one that never did was no better than a refused connection.
    answered: bool,
    by_id: HashMap<u64, oneshot::Sender<Response>>,
    last_used: Instant,
    /// The reader's clock stands still until somebody asks again.
    quiet: bool,
    /// The oldest request sent since bytes last arrived; a timeout does not clear it, or a dead
    /// peer that is asked rarely would never be noticed.
    unanswered_since: Option<Instant>,
}

impl Connection {
    /// Takes over an upgraded stream and starts its two tasks.
    pub fn start<S>(stream: S, address: String, peer: RemotePeer, limits: Limits) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let closed = CancellationToken::new();
        let now = Instant::now();
        let shared = Arc::new(Shared {
            address,
            peer,
            limits,
            outbox: Outbox::new(limits.bytes_in_flight),
            waiters: Mutex::new(Waiters {
                open: true,
                answered: false,
                by_id: HashMap::new(),
                last_used: now,
                quiet: false,
                unanswered_since: None,
            }),
            closed: closed.clone(),
            opened: now,
            heard_ms: AtomicU64::new(0),
            bell: Notify::new(),
        });
        let (read_half, write_half) = tokio::io::split(stream);
        tokio::spawn(write_frames(Arc::clone(&shared), write_half));
        tokio::spawn(read_frames(Arc::clone(&shared), read_half));
        Self {
            shared,
            _close_when_unused: Arc::new(closed.drop_guard()),
        }
    }

    pub fn address(&self) -> &str {
        &self.shared.address
    }

    pub fn peer(&self) -> &RemotePeer {
        &self.shared.peer
    }

    pub fn is_open(&self) -> bool {
        self.shared.waiters().open
    }

    /// Whether it ended, idleness apart, without a single answer.
    pub fn was_useless(&self) -> bool {
        let waiters = self.shared.waiters();
        !waiters.open && !waiters.answered
    }

    /// Ends it now; everybody who waits hears `Lost`.
    pub fn close(&self) {
        self.shared.give_up();
    }

    /// Sends one request under an id that must be new. The answer is awaited through what is
    /// returned, which sets no deadline of its own.
    pub fn send(
        &self,
        id: u64,
        epoch: Epoch,
        deadline_ms: u32,
        request: &Request,
    ) -> Result<Pending, Fault> {
        let answer = self.shared.wait_for(id)?;
        let pending = Pending {
            connection: self.clone(),
            id: Some(id),
            answer,
        };
        let frame = LentFrame {
            id,
            epoch,
            deadline_ms,
            request,
        };
        match self.shared.outbox.push(&frame) {
            Ok(_) => Ok(pending),
            Err(PushError::Closed) => Err(Fault::Closed),
            Err(PushError::Full) => Err(Fault::Full),
            Err(PushError::Frame(error)) => Err(Fault::Frame(error)),
        }
    }
}

/// An answer that is on its way. Forgets the waiter when dropped, so however a call ends.
pub struct Pending {
    connection: Connection,
    /// `None` once answered: then nobody remembers it.
    id: Option<u64>,
    answer: oneshot::Receiver<Response>,
}

impl Pending {
    pub fn address(&self) -> &str {
        self.connection.address()
    }
}

impl Future for Pending {
    type Output = Result<Response, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.answer).poll(cx);
        if polled.is_ready() {
            self.id = None;
        }
        polled.map(|answer| answer.map_err(|_| Fault::Lost))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.connection.shared.forget(id);
        }
    }
}

/// What the reader's clock found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Fine,
    /// Silent for half the limit: ask for a sign of life.
    Ask,
    /// Silent for the whole limit.
    Dead,
    /// Nobody has needed it lately: nothing to look at before then, unless somebody does.
    Quiet(Instant),
    /// Nobody has needed it for a while.
    Idle,
}

impl Shared {
    fn waiters(&self) -> std::sync::MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(&self, id: u64) -> Result<oneshot::Receiver<Response>, Fault> {
        let (sender, receiver) = oneshot::channel();
        let now = Instant::now();
        let mut waiters = self.waiters();
        if !waiters.open {
            return Err(Fault::Closed);
        }
        if waiters.by_id.len() >= self.limits.in_flight {
            return Err(Fault::Full);
        }
        waiters.by_id.insert(id, sender);
        waiters.last_used = now;
        if std::mem::take(&mut waiters.quiet) {
            self.bell.notify_one();
        }
        waiters.unanswered_since.get_or_insert(now);
        Ok(receiver)
    }

    fn forget(&self, id: u64) {
        self.waiters().by_id.remove(&id);
    }

    fn deliver(&self, frame: ResponseFrame) {
        let waiter = {
            let mut waiters = self.waiters();
            let waiter = waiters.by_id.remove(&frame.id);
            waiters.answered = true;
            waiters.unanswered_since = (!waiters.by_id.is_empty()).then(Instant::now);
            waiter
        };
        // an answer nobody waits for any more came too late, or is the keep-alive's
        if let Some(waiter) = waiter {
            let _ = waiter.send(frame.response);
        }
    }

    fn give_up(&self) {
        let waiters = {
            let mut waiters = self.waiters();
            waiters.open = false;
            std::mem::take(&mut waiters.by_id)
        };
        self.outbox.close();
        self.closed.cancel();
        // dropping the senders wakes every caller with `Lost`
        drop(waiters);
    }

    fn health(&self, now: Instant) -> Health {
        let heard = self.opened + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        let mut waiters = self.waiters();
        if waiters.unanswered_since.is_some_and(|since| since <= heard) {
            // something arrived; what still waits starts to count from there
            waiters.unanswered_since = (!waiters.by_id.is_empty()).then_some(heard);
        }
        let unused = now.saturating_duration_since(waiters.last_used);
        match waiters.unanswered_since {
            Some(since) => {
                let silent = now.saturating_duration_since(since.max(heard));
                if silent > self.limits.silence {
                    Health::Dead
                } else if silent > self.limits.silence / 2 {
                    Health::Ask
                } else {
                    Health::Fine
                }
            }
            None if waiters.by_id.is_empty() && unused > self.limits.idle => {
                // under the lock, so that no call slips in between
                waiters.open = false;
                waiters.answered = true;
                Health::Idle
            }
            None if waiters.by_id.is_empty() && unused > self.limits.silence => {
                // set under the lock as well, so that the next call rings the bell
                waiters.quiet = true;
                Health::Quiet(waiters.last_used + self.limits.idle)
            }
            None => Health::Fine,
        }
    }
}

async fn write_frames<W>(shared: Arc<Shared>, mut io: W)
where
    W: AsyncWrite + Unpin,
{
    let send_all = async {
        let mut batch = Vec::new();
        while let Some(next) = shared.outbox.take(batch).await {
            outbox::write(&mut io, &next).await?;
            batch = next;
        }
        Ok::<(), std::io::Error>(())
    };
    tokio::select! {
        () = shared.closed.cancelled() => {}
        result = send_all => {
            if let Err(error) = result {
                tracing::debug!(address = %shared.address, %error, "peer connection: write failed");
            }
        }
    }
    shared.give_up();
}

async fn read_frames<R>(shared: Arc<Shared>, io: R)
where
    R: AsyncRead + Unpin,
{
    let mut frames = codec::reader(Heard {
        io,
        shared: Arc::clone(&shared),
    });
    let pause = shared.limits.silence / 10;
    let clock = sleep(pause);
    tokio::pin!(clock);
    let closed = shared.closed.cancelled();
    tokio::pin!(closed);
    loop {
        tokio::select! {
            () = &mut closed => break,
            frame = frames.next() => {
                let Some(Ok(body)) = frame else { break };
                match codec::decode::<ResponseFrame>(&body) {
                    Ok(frame) => shared.deliver(frame),
                    Err(error) => {
                        tracing::warn!(address = %shared.address, %error, "a peer's answer makes no sense; closing");
                        break;
                    }
                }
            }
            () = shared.bell.notified() => clock.as_mut().reset(Instant::now() + pause),
            () = &mut clock => match shared.health(Instant::now()) {
                Health::Fine => clock.as_mut().reset(Instant::now() + pause),
                Health::Quiet(until) => clock.as_mut().reset(until + pause),
                Health::Ask => {
                    ask_for_a_sign(&shared);
                    clock.as_mut().reset(Instant::now() + pause);
                }
                Health::Dead => {
                    tracing::debug!(address = %shared.address, "peer connection: silent while requests wait; closing");
                    break;
                }
                Health::Idle => break,
            }
        }
    }
    shared.give_up();
}

fn ask_for_a_sign(shared: &Shared) {
    let ping = LentFrame {
        id: PING_ID,
        epoch: 0,
        deadline_ms: u32::try_from(shared.limits.silence.as_millis()).unwrap_or(u32::MAX),
        request: &Request::Ping,
    };
    // a full outbox means that the peer does not read; the clock will notice
    let _ = shared.outbox.push(&ping);
}

/// Notes when bytes arrive, so that a large answer on its way counts as life.
struct Heard<R> {
    io: R,
    shared: Arc<Shared>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Heard<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            let elapsed = self.shared.opened.elapsed().as_millis();
            let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
            self.shared.heard_ms.store(elapsed, Ordering::Relaxed);
        }
        polled
    }
}
