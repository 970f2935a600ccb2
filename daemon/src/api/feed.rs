//! `/ws`: the live feed. Snapshot first, then what changes, a heartbeat every second.
//!
//! A receiver that falls behind is told so (`gap`) and gets a new snapshot; one that takes
//! nothing is closed. What a connection has sent decides what it sends next: [`session`].

mod session;

use std::time::Duration;

use axum::{
    extract::{
        State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
        },
    },
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use ringmaster_shared::{
    error::ErrorCode,
    event::Event,
    feed::{CLIENT_FRAME_MAX_BYTES, FrameBody, HEARTBEAT_MS},
};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Answer, ApiError,
    body::busy,
    query::{NoParameters, Query},
};
use crate::node::SharedNode;
use session::Session;

/// A frame that takes longer than this to be taken ends the feed.
const SEND_TIME: Duration = Duration::from_secs(10);
const CLOSE_TIME: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_secs(15);
/// A client that answers no ping for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes that may wait for a slow receiver.
const WRITE_BUFFER_MAX: usize = 4 * 1024 * 1024;

const GOING_AWAY: u16 = 1001;
const TOO_BIG: u16 = 1009;
const TRY_LATER: u16 = 1013;

/// Turns the connection into a feed, or says how to connect.
pub async fn connect(
    State(node): State<SharedNode>,
    _: Query<NoParameters>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    let upgrade = upgrade.map_err(|e| not_a_websocket(&node, &headers, &e))?;
    let place = node
        .gates
        .feeds
        .clone()
        .try_acquire_owned()
        .map_err(|_| busy("all live feeds of this node are taken"))?;
    Ok(upgrade
        .max_message_size(CLIENT_FRAME_MAX_BYTES)
        .max_frame_size(CLIENT_FRAME_MAX_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .on_upgrade(async move |socket| {
            let _open = node.metrics.feed_guard();
            let events = node.events.subscribe();
            let feed = Feed {
                socket,
                session: Session::default(),
                node,
                events,
            };
            feed.run().await;
            drop(place);
        })
        .into_response())
}

fn not_a_websocket(
    node: &SharedNode,
    headers: &HeaderMap,
    rejection: &WebSocketUpgradeRejection,
) -> ApiError {
    let address = &node.facts.address;
    let message = if headers.contains_key(header::UPGRADE) {
        format!("the upgrade to WebSocket failed: {rejection}")
    } else {
        format!(
            "the live feed works and speaks WebSocket: connect to ws://{address}/ws, e.g. with ringmaster --endpoint {address}"
        )
    };
    ApiError::new(ErrorCode::UpgradeRequired, message)
}

struct Feed {
    socket: WebSocket,
    session: Session,
    node: SharedNode,
    events: broadcast::Receiver<Event>,
}

/// Why a feed ended.
enum Ended {
    /// The client went, or the connection broke.
    Gone,
    /// We close, with a code and a reason.
    Closed(u16, &'static str),
}

type Step = Result<(), Ended>;

impl Feed {
    async fn run(mut self) {
        if let Err(Ended::Closed(code, reason)) = self.serve().await {
            let frame = CloseFrame {
                code,
                reason: reason.into(),
            };
            // a stuck receiver does not get to read it
            let close = self.socket.send(Message::Close(Some(frame)));
            let _ = timeout(CLOSE_TIME, close).await;
        }
    }

    async fn serve(&mut self) -> Step {
        let stop = self.node.stop.clone();
        let mut board = self.node.board.subscribe();
        let mut heartbeat = interval(Duration::from_millis(HEARTBEAT_MS));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut ping = interval(PING_EVERY);
        let mut heard = Instant::now();
        self.snapshot().await?;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    return Err(Ended::Closed(GOING_AWAY, "the node is stopping"));
                }
                changed = board.changed() => {
                    changed.map_err(|_| Ended::Closed(GOING_AWAY, "the node is stopping"))?;
                    let views = board.borrow_and_update().clone();
                    if let Some(delta) = self.session.delta(&views) {
                        self.send(FrameBody::Delta(Box::new(delta))).await?;
                    }
                }
                event = self.events.recv() => self.event(event).await?,
                _ = heartbeat.tick() => {
                    let node_id = self.node.facts.id.clone();
                    self.send(FrameBody::Heartbeat { node_id }).await?;
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(Ended::Closed(GOING_AWAY, "no answer to pings"));
                    }
                    self.put(Message::Ping(bytes::Bytes::new())).await?;
                }
                message = self.socket.recv() => {
                    heard = Instant::now();
                    self.message(message).await?;
                }
            }
        }
    }

    async fn snapshot(&mut self) -> Step {
        let events = self.node.events.newest(session::SNAPSHOT_EVENTS);
        let snapshot = self.session.snapshot(&self.node.views(), events);
        self.send(FrameBody::Snapshot(Box::new(snapshot))).await
    }

    async fn event(&mut self, event: Result<Event, RecvError>) -> Step {
        match event {
            Ok(event) if self.session.wants_event(&event) => {
                self.send(FrameBody::Event { event }).await
            }
            Ok(_) => Ok(()),
            Err(RecvError::Lagged(dropped)) => {
                self.send(FrameBody::Gap { dropped }).await?;
                self.snapshot().await
            }
            Err(RecvError::Closed) => Err(Ended::Closed(GOING_AWAY, "the node is stopping")),
        }
    }

    async fn message(&mut self, message: Option<Result<Message, axum::Error>>) -> Step {
        let text = match message {
            None | Some(Ok(Message::Close(_))) => return Err(Ended::Gone),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Binary(_))) => {
                let error = "frames of this feed are text".to_owned();
                return self.send(FrameBody::Error { error }).await;
            }
            // over the limit, or not WebSocket at all: nothing more can be read
            Some(Err(_)) => {
                let why = "the frame is too large or not WebSocket";
                return Err(Ended::Closed(TOO_BIG, why));
            }
        };
        match self.session.order(text.as_str()) {
            Ok(()) => self.snapshot().await,
            Err(error) => self.send(FrameBody::Error { error }).await,
        }
    }

    async fn send(&mut self, body: FrameBody) -> Step {
        let frame = self.session.frame(body);
        let text = serde_json::to_string(&frame).map_err(|e| {
            tracing::error!("a bug: a feed frame cannot be written: {e}");
            Ended::Gone
        })?;
        self.put(Message::Text(text.into())).await
    }

    async fn put(&mut self, message: Message) -> Step {
        match timeout(SEND_TIME, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Gone),
            Err(_) => Err(Ended::Closed(TRY_LATER, "the receiver is stuck")),
        }
    }
}
