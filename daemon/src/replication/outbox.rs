//! Frames on their way to one socket: written straight into one buffer, sent as one write.
//!
//! Whoever has a frame encodes it into the buffer under a short lock; the one task that owns the
//! socket takes all there is and writes it with as few system calls as the socket takes. Promises
//! that the buffer is bounded (one frame always fits into an empty one) and that frames go out whole
//! and in order. Leaves deadlines and what a failed write means to the two ends.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::Notify,
};

use super::codec::{self, CodecError};

/// A buffer that grew beyond this is given back to the system once it is written.
const KEEP_BYTES: usize = 256 * 1024;

/// Why a frame was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushError {
    /// Nobody writes any more.
    Closed,
    /// Too much waits already.
    Full,
    /// The frame cannot be sent at all.
    Frame(CodecError),
}

pub struct Outbox {
    waiting: Mutex<Waiting>,
    bytes_max: usize,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes those who wait for room.
    drained: Notify,
}

struct Waiting {
    open: bool,
    bytes: Vec<u8>,
    /// Batches taken by the writer.
    taken: u64,
    /// Batches that are out, or never will be.
    settled: u64,
}

/// Which of all batches a frame goes out with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch(u64);

impl Outbox {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                open: true,
                bytes: Vec::new(),
                taken: 0,
                settled: 0,
            }),
            bytes_max,
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// Adds one frame.
    pub fn push<F: Serialize>(&self, frame: &F) -> Result<Batch, PushError> {
        let mut waiting = self.waiting();
        if !waiting.open {
            return Err(PushError::Closed);
        }
        let before = waiting.bytes.len();
        if before > self.bytes_max {
            return Err(PushError::Full);
        }
        codec::encode_into(frame, &mut waiting.bytes).map_err(PushError::Frame)?;
        if before > 0 && waiting.bytes.len() > self.bytes_max {
            waiting.bytes.truncate(before);
            return Err(PushError::Full);
        }
        let batch = Batch(waiting.taken + 1);
        drop(waiting);
        if before == 0 {
            self.filled.notify_one();
        }
        Ok(batch)
    }

    /// The same, but waits for room. The caller sets the deadline, or the end of the connection does.
    pub async fn push_patiently<F: Serialize>(&self, frame: &F) -> Result<Batch, PushError> {
        loop {
            let room = self.drained.notified();
            tokio::pin!(room);
            // enabled first, so that room made in between is not missed
            room.as_mut().enable();
            match self.push(frame) {
                Err(PushError::Full) => room.await,
                settled => return settled,
            }
        }
    }

    /// Returns when that batch has been handed to the system, or never will be.
    pub async fn written(&self, Batch(batch): Batch) {
        loop {
            let settled = self.drained.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if self.waiting().settled >= batch {
                return;
            }
            settled.await;
        }
    }

    /// Takes no more frames; what waits still goes out.
    pub fn finish(&self) {
        self.waiting().open = false;
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// Takes no more frames; what waits is dropped.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.open = false;
        waiting.bytes = Vec::new();
        waiting.settled = u64::MAX;
        drop(waiting);
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// All that waits, as soon as there is something; `None` once closed. `emptied` is the buffer
    /// taken before, which has been written, to be used again.
    pub async fn take(&self, mut emptied: Vec<u8>) -> Option<Vec<u8>> {
        emptied.clear();
        if emptied.capacity() > KEEP_BYTES {
            emptied = Vec::new();
        }
        {
            let mut waiting = self.waiting();
            waiting.settled = waiting.settled.max(waiting.taken);
        }
        self.drained.notify_waiters();
        loop {
            {
                let mut waiting = self.waiting();
                if !waiting.bytes.is_empty() {
                    let bytes = std::mem::replace(&mut waiting.bytes, emptied);
                    waiting.taken += 1;
                    drop(waiting);
                    self.drained.notify_waiters();
                    return Some(bytes);
                }
                if !waiting.open {
                    return None;
                }
            }
            self.filled.notified().await;
            // those who are about to add a frame come first: one system call for all of them
            tokio::task::yield_now().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one batch.
pub async fn write<W: AsyncWrite + Unpin>(io: &mut W, batch: &[u8]) -> io::Result<()> {
    io.write_all(batch).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::replication::frames::{Request, RequestFrame};

    fn frame(id: u64) -> RequestFrame {
        RequestFrame {
            id,
            epoch: 7,
            deadline_ms: 5,
            request: Request::Ping,
        }
    }

    #[tokio::test]
    async fn all_that_waits_goes_out_as_one_and_in_order() {
        let outbox = Outbox::new(1 << 20);
        for id in 0..100 {
            outbox.push(&frame(id)).expect("room");
        }
        let batch = outbox.take(Vec::new()).await.expect("open");
        assert!(
            outbox.take(Vec::new()).now_or_never().is_none(),
            "all taken"
        );
        let (mut here, there) = tokio::io::duplex(64 * 1024);
        write(&mut here, &batch).await.expect("room");
        drop(here);
        let bodies: Vec<_> = codec::reader(there).collect().await;
        let ids = bodies.into_iter().map(|body| {
            let body = body.expect("whole");
            codec::decode::<RequestFrame>(&body).expect("sane").id
        });
        assert!(ids.eq(0..100));
    }

    #[tokio::test]
    async fn it_is_bounded_and_who_waits_gets_room() {
        let outbox = Outbox::new(20);
        let mut pushed = 0;
        while outbox.push(&frame(pushed)).is_ok() {
            pushed += 1;
        }
        assert!((1..20).contains(&pushed));
        assert_eq!(outbox.push(&frame(0)), Err(PushError::Full));
        let large = frame(99);
        let mut waiting = Box::pin(outbox.push_patiently(&large));
        assert!((&mut waiting).now_or_never().is_none());
        let batch = outbox.take(Vec::new()).await.expect("open");
        assert!(batch.len() <= 20, "a frame that did not fit left no trace");
        assert!(waiting.await.is_ok());
        outbox.finish();
        assert_eq!(outbox.push(&frame(1)), Err(PushError::Closed));
        assert!(
            outbox.take(Vec::new()).await.is_some(),
            "what waits goes out"
        );
        assert_eq!(outbox.take(Vec::new()).await, None);
    }

    #[tokio::test]
    async fn a_frame_is_written_when_the_next_batch_is_asked_for() {
        let outbox = Outbox::new(1 << 20);
        let first = outbox.push(&frame(1)).expect("room");
        let written = |batch| outbox.written(batch).now_or_never().is_some();
        assert!(!written(first), "it waits");
        let batch = outbox.take(Vec::new()).await.expect("open");
        let second = outbox.push(&frame(2)).expect("room");
        assert!(!written(first), "it is on its way");
        let mut waiting = Box::pin(outbox.written(first));
        assert!((&mut waiting).now_or_never().is_none());
        let batch = outbox.take(batch).await.expect("open");
        waiting.await;
        assert!(!written(second), "that one is on its way now");
        assert!(outbox.take(batch).now_or_never().is_none(), "all taken");
        assert!(written(second));
        let third = outbox.push(&frame(3)).expect("room");
        outbox.close();
        assert!(written(third), "it never will be");
    }

    #[tokio::test]
    async fn closing_drops_what_waits() {
        let outbox = Outbox::new(20);
        outbox.push(&frame(1)).expect("room");
        outbox.close();
        assert_eq!(outbox.take(Vec::new()).await, None);
    }
}
