//! One connection of the live feed: opened with a deadline, read until it ends.
//!
//! It believes nothing and decides nothing: every frame goes to the driver with the id of the
//! try, and the machine says whether that try counts.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use ringmaster_shared::feed::{ClientFrame, Frame};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use super::{TryId, WS_TRY_TIMEOUT_MS, seen::Seen};
use crate::client::innermost;

/// Largest frame taken, bytes.
const FRAME_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Between two pings, which measure the round trip.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A peer that takes nothing for so long is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Runs one try to its end, and reports the end.
pub(super) async fn run(id: TryId, address: String, seen: mpsc::Sender<Seen>) {
    let reason = match open(&address).await {
        Ok(socket) => read(id, socket, &seen).await,
        Err(reason) => reason,
    };
    // When the driver is gone nobody needs to know.
    let _ = seen.send(Seen::FeedEnded { id, reason }).await;
}

async fn open(address: &str) -> Result<Socket, String> {
    let url = format!("ws://{address}/ws");
    let config = WebSocketConfig::default()
        .max_message_size(Some(FRAME_MAX_BYTES))
        .max_frame_size(Some(FRAME_MAX_BYTES));
    let nodelay = true;
    let connect = connect_async_with_config(url, Some(config), nodelay);
    let opened = timeout(Duration::from_millis(WS_TRY_TIMEOUT_MS), connect).await;
    let (mut socket, _) = opened
        .map_err(|_| "no handshake in time".to_owned())?
        .map_err(|e| sentence(&e))?;
    let wish = ClientFrame {
        subscribe: None,
        ring_table: true,
    };
    let wish = serde_json::to_string(&wish).map_err(|e| e.to_string())?;
    send(&mut socket, Message::text(wish)).await?;
    Ok(socket)
}

async fn send(socket: &mut Socket, message: Message) -> Result<(), String> {
    timeout(SEND_TIMEOUT, socket.send(message))
        .await
        .map_err(|_| "it takes no data".to_owned())?
        .map_err(|e| sentence(&e))
}

/// Reads until the end and says why it ended.
async fn read(id: TryId, mut socket: Socket, seen: &mpsc::Sender<Seen>) -> String {
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = Instant::now();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(message) = message else {
                    return "closed".to_owned();
                };
                match take(id, message, started, seen).await {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(reason) => return reason,
                }
            }
            _ = pings.tick() => {
                let sent_us = started.elapsed().as_micros() as u64;
                let ping = Message::Ping(sent_us.to_be_bytes().to_vec().into());
                if let Err(reason) = send(&mut socket, ping).await {
                    return reason;
                }
            }
        }
    }
}

async fn take(
    id: TryId,
    message: Result<Message, tungstenite::Error>,
    started: Instant,
    seen: &mpsc::Sender<Seen>,
) -> ControlFlow<String> {
    let report = match message {
        Ok(Message::Text(text)) => match serde_json::from_str::<Frame>(&text) {
            Ok(frame) => Seen::Frame {
                id,
                frame: Box::new(frame),
            },
            Err(e) => return ControlFlow::Break(format!("a frame that cannot be read: {e}")),
        },
        Ok(Message::Pong(payload)) => {
            let Ok(sent_us) = <[u8; 8]>::try_from(&payload[..]).map(u64::from_be_bytes) else {
                return ControlFlow::Continue(());
            };
            let now_us = started.elapsed().as_micros() as u64;
            let rtt_ms = now_us.saturating_sub(sent_us) / 1000;
            Seen::Pong { id, rtt_ms }
        }
        Ok(Message::Close(frame)) => {
            let reason = frame.map(|f| f.reason.to_string()).unwrap_or_default();
            let reason = if reason.is_empty() {
                "closed by the node".to_owned()
            } else {
                format!("closed by the node: {reason}")
            };
            return ControlFlow::Break(reason);
        }
        Ok(Message::Binary(_) | Message::Ping(_) | Message::Frame(_)) => {
            return ControlFlow::Continue(());
        }
        Err(e) => return ControlFlow::Break(sentence(&e)),
    };
    match seen.send(report).await {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break("the console ends".to_owned()),
    }
}

fn sentence(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Http(response) => {
            format!(
                "answered HTTP {} instead of the feed",
                response.status().as_u16()
            )
        }
        other => innermost(other),
    }
}
