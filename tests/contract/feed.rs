//! The live feed: what comes, in which order, and what happens to clients that talk nonsense.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use ringmaster_shared::{
    feed::{CLIENT_FRAME_MAX_BYTES, Frame, FrameBody},
    member::MemberStatus,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async, connect_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use crate::support::{
    cluster::Cluster,
    wait::{GENEROUS, eventually, same},
};

/// Far beyond the second between heartbeats.
const SILENCE: Duration = Duration::from_secs(30);

struct Feed {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last: u64,
}

impl Feed {
    async fn open(port: u16) -> Self {
        let url = format!("ws://127.0.0.1:{port}/ws");
        let (socket, _) = connect_async(url).await.expect("the feed opens");
        Self { socket, last: 0 }
    }

    /// The next frame, or `None` when the daemon closed it. Numbers must follow one another.
    async fn next(&mut self) -> Option<FrameBody> {
        loop {
            let message = timeout(SILENCE, self.socket.next()).await;
            match message.expect("heartbeats come every second") {
                Some(Ok(Message::Text(text))) => {
                    let frame: Frame = serde_json::from_str(&text).expect("a frame");
                    if self.last > 0 {
                        assert_eq!(frame.seq, self.last + 1);
                    }
                    self.last = frame.seq;
                    return Some(frame.body);
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&FrameBody) -> bool) -> FrameBody {
        for _ in 0..200 {
            let frame = self.next().await;
            let frame = frame.unwrap_or_else(|| panic!("closed before {what}"));
            if wanted(&frame) {
                return frame;
            }
        }
        panic!("200 frames and no {what}");
    }

    async fn say(&mut self, message: Message) {
        // it may have been closed by what was said before
        let _ = self.socket.send(message).await;
    }
}

fn is_error(frame: &FrameBody) -> bool {
    matches!(frame, FrameBody::Error { error } if !error.is_empty())
}

#[tokio::test]
async fn a_snapshot_then_heartbeats_and_what_changes() {
    let mut cluster = Cluster::start(1).await;
    let mut feed = Feed::open(cluster.nodes[0].port).await;
    let Some(FrameBody::Snapshot(snapshot)) = feed.next().await else {
        panic!("the first frame is no snapshot");
    };
    assert_eq!(snapshot.members.alive_members, 1);
    assert!(
        snapshot.ring.table.is_empty(),
        "the table was not asked for"
    );
    feed.until("heartbeat", |f| matches!(f, FrameBody::Heartbeat { .. }))
        .await;
    feed.say(Message::text(r#"{"ring_table": true}"#)).await;
    let seeds = cluster.seed(0);
    cluster.add(&seeds).await;
    let two = |frame: &FrameBody| match frame {
        FrameBody::Snapshot(snapshot) => snapshot.members.alive_members == 2,
        FrameBody::Delta(delta) => delta
            .members
            .as_ref()
            .is_some_and(|members| members.alive_members == 2),
        _ => false,
    };
    feed.until("second member", two).await;
    let table = |frame: &FrameBody| match frame {
        FrameBody::Snapshot(snapshot) => !snapshot.ring.table.is_empty(),
        FrameBody::Delta(delta) => delta.ring.as_ref().is_some_and(|r| !r.table.is_empty()),
        _ => false,
    };
    let mut again = Feed::open(cluster.nodes[0].port).await;
    again.say(Message::text(r#"{"ring_table": true}"#)).await;
    again.until("table", table).await;
}

#[tokio::test]
async fn events_arrive_as_they_happen() {
    let mut cluster = Cluster::start(3).await;
    let mut feed = Feed::open(cluster.nodes[0].port).await;
    cluster.nodes[2].kill9();
    let about = |frame: &FrameBody| match frame {
        FrameBody::Event { event } => event
            .subject
            .as_ref()
            .is_some_and(|s| s.as_str() == "node-3"),
        _ => false,
    };
    feed.until("event about node-3", about).await;
}

#[tokio::test]
async fn nonsense_is_answered_and_the_feed_goes_on() {
    let mut cluster = Cluster::start(1).await;
    let mut feed = Feed::open(cluster.nodes[0].port).await;
    let wrong = [
        "",
        "nonsense",
        "{",
        "[]",
        "5",
        "null",
        "{\"subscribe\": \"all\"}",
        "{\"subscribe\": [\"secrets\"]}",
        "{\"ring_table\": \"yes\"}",
        "{\"surplus\": 1}",
    ];
    for text in wrong {
        feed.say(Message::text(text)).await;
        feed.until(&format!("error frame for {text:?}"), is_error)
            .await;
    }
    feed.until("heartbeat", |f| matches!(f, FrameBody::Heartbeat { .. }))
        .await;
    assert!(cluster.nodes[0].is_running());
}

#[tokio::test]
async fn frames_that_are_too_large_or_binary_are_told_or_closed() {
    let mut cluster = Cluster::start(1).await;
    let port = cluster.nodes[0].port;
    let large = "x".repeat(CLIENT_FRAME_MAX_BYTES * 4);
    let huge = "x".repeat(8 << 20);
    let wrong = [
        Message::binary(vec![0_u8; 10]),
        Message::text(large),
        Message::text(huge),
    ];
    for (n, message) in wrong.into_iter().enumerate() {
        let mut feed = Feed::open(port).await;
        feed.say(message).await;
        let told_or_closed = async {
            while let Some(frame) = feed.next().await {
                if is_error(&frame) {
                    return;
                }
            }
        };
        let ended = timeout(GENEROUS, told_or_closed).await;
        assert!(ended.is_ok(), "frame {n} was ignored");
    }
    let mut feed = Feed::open(port).await;
    assert!(matches!(feed.next().await, Some(FrameBody::Snapshot(_))));
    assert!(cluster.nodes[0].is_running());
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_is_closed() {
    let mut cluster = Cluster::start(1).await;
    let address = ([127, 0, 0, 1], cluster.nodes[0].port).into();
    let narrow = TcpSocket::new_v4().expect("a socket");
    narrow.set_recv_buffer_size(4096).expect("a small window");
    let stream = narrow.connect(address).await.expect("it listens");
    let (mut socket, _) = client_async(format!("ws://{address}/ws"), stream)
        .await
        .expect("the feed opens");
    // each asks for a whole snapshot, which nobody takes
    for _ in 0..2000 {
        let order = Message::text(r#"{"ring_table": true}"#);
        let said = timeout(Duration::from_secs(1), socket.send(order)).await;
        if !matches!(said, Ok(Ok(()))) {
            break;
        }
    }
    let api = cluster.api(0);
    let feeds = async |want: &str| {
        let metrics = api.send(Method::GET, "/metrics", None).await;
        let metrics = metrics.map_err(|e| e.to_string())?.text();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("ringd_feeds "));
        same("feeds", &line.unwrap_or_default(), &want)
    };
    eventually("the stuck feed is closed", GENEROUS, async || {
        feeds("ringd_feeds 0").await
    })
    .await;
    let mut feed = Feed::open(cluster.nodes[0].port).await;
    assert!(matches!(feed.next().await, Some(FrameBody::Snapshot(_))));
    assert!(cluster.nodes[0].is_running());
    drop(socket);
}

#[tokio::test]
async fn a_dead_member_arrives_as_a_delta() {
    let mut cluster = Cluster::start(3).await;
    let mut feed = Feed::open(cluster.nodes[0].port).await;
    assert!(matches!(feed.next().await, Some(FrameBody::Snapshot(_))));
    cluster.nodes[2].kill9();
    let dead = |frame: &FrameBody| {
        let FrameBody::Delta(delta) = frame else {
            return false;
        };
        let members = delta.members.as_ref();
        members.is_some_and(|m| {
            let of_third = m
                .cluster_members
                .iter()
                .find(|(id, _)| id.as_str() == "node-3");
            of_third.is_some_and(|(_, member)| member.status == MemberStatus::Dead)
        })
    };
    feed.until("death of node-3", dead).await;
}

#[tokio::test]
async fn a_stopping_node_says_goodbye() {
    let mut cluster = Cluster::start(1).await;
    let mut feed = Feed::open(cluster.nodes[0].port).await;
    feed.next().await.expect("a snapshot");
    let (stopped, last) = tokio::join!(cluster.nodes[0].stop(), async {
        loop {
            let message = timeout(SILENCE, feed.socket.next()).await;
            match message.expect("frames or an end") {
                Some(Ok(Message::Close(frame))) => return frame.map(|f| f.code),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    });
    assert!(stopped.success());
    if let Some(code) = last {
        let expected = [CloseCode::Away, CloseCode::Restart, CloseCode::Normal];
        assert!(expected.contains(&code), "{code:?}");
    }
    eventually("the port is closed", GENEROUS, async || {
        let connected = TcpStream::connect(("127.0.0.1", cluster.nodes[0].port)).await;
        connected.map_or(Ok(()), |_| Err("it still listens".into()))
    })
    .await;
}
