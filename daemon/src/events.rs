//! Cluster events: kept in a bounded ring, broadcast to feeds, written to the log.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use ringmaster_shared::{
    event::{Event, EventCode, Severity},
    id::NodeId,
};
use serde_json::Value;
use tokio::sync::broadcast;

/// Events kept for `GET /api/v1/events`.
const KEPT: usize = 1000;
/// Events a slow subscriber may lag behind before it loses some.
const BROADCAST_DEPTH: usize = 256;

/// Cheap handle; every part of the node reports through it.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    reporter: NodeId,
    log: Mutex<Log>,
    feed: broadcast::Sender<Event>,
}

struct Log {
    next: u64,
    kept: VecDeque<Event>,
}

/// One page of events.
pub struct Page {
    pub events: Vec<Event>,
    pub next: u64,
    pub truncated: bool,
}

impl Events {
    pub fn new(reporter: NodeId) -> Self {
        let log = Mutex::new(Log {
            next: 1,
            kept: VecDeque::with_capacity(KEPT),
        });
        let (feed, _) = broadcast::channel(BROADCAST_DEPTH);
        Self {
            inner: Arc::new(Inner {
                reporter,
                log,
                feed,
            }),
        }
    }

    pub fn info(&self, code: EventCode, subject: Option<&NodeId>, message: impl Into<String>) {
        self.emit(code, Severity::Info, subject, message.into(), Value::Null);
    }

    pub fn warn(&self, code: EventCode, subject: Option<&NodeId>, message: impl Into<String>) {
        self.emit(
            code,
            Severity::Warning,
            subject,
            message.into(),
            Value::Null,
        );
    }

    pub fn error(&self, code: EventCode, subject: Option<&NodeId>, message: impl Into<String>) {
        self.emit(code, Severity::Error, subject, message.into(), Value::Null);
    }

    pub fn emit(
        &self,
        code: EventCode,
        severity: Severity,
        subject: Option<&NodeId>,
        message: String,
        details: Value,
    ) {
        let name = code_name(code);
        match severity {
            Severity::Info => tracing::info!(code = %name, "{message}"),
            Severity::Warning => tracing::warn!(code = %name, "{message}"),
            Severity::Error => tracing::error!(code = %name, "{message}"),
        }
        let event = {
            let mut log = self
                .inner
                .log
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let event = Event {
                seq: log.next,
                time: Timestamp::now(),
                code,
                severity,
                reporter: self.inner.reporter.clone(),
                subject: subject.cloned(),
                message,
                details,
            };
            log.next += 1;
            if log.kept.len() == KEPT {
                log.kept.pop_front();
            }
            log.kept.push_back(event.clone());
            event
        };
        // nobody listening is fine
        let _ = self.inner.feed.send(event);
    }

    /// Events with `seq > since`, oldest first, at most `limit`.
    pub fn since(&self, since: u64, limit: usize) -> Page {
        let log = self
            .inner
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let first_kept = log.kept.front().map_or(log.next, |e| e.seq);
        let events: Vec<Event> = log
            .kept
            .iter()
            .filter(|e| e.seq > since)
            .take(limit)
            .cloned()
            .collect();
        let next = events.last().map_or(since.min(log.next - 1), |e| e.seq);
        Page {
            events,
            next,
            truncated: since + 1 < first_kept,
        }
    }

    /// The newest `limit` events, oldest first.
    pub fn newest(&self, limit: usize) -> Vec<Event> {
        let log = self
            .inner
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let skip = log.kept.len().saturating_sub(limit);
        log.kept.iter().skip(skip).cloned().collect()
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.feed.subscribe()
    }
}

/// The code as it stands in JSON.
pub fn code_name(code: EventCode) -> String {
    serde_json::to_value(code)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another_and_say_what_was_lost() {
        let events = Events::new(NodeId::new("n").expect("valid"));
        for i in 0..KEPT + 5 {
            events.info(EventCode::NodeStarted, None, format!("{i}"));
        }
        let first = events.since(0, 10);
        assert!(first.truncated);
        assert_eq!(first.events[0].seq, 6);
        let second = events.since(first.next, 10);
        assert!(!second.truncated);
        assert_eq!(second.events[0].seq, first.next + 1);
        let end = events.since((KEPT + 5) as u64, 10);
        assert!(end.events.is_empty() && end.next == (KEPT + 5) as u64);
        assert_eq!(code_name(EventCode::MemberDead), "MEMBER_DEAD");
    }
}
