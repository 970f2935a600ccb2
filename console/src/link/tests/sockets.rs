//! The driver against real sockets: fake nodes whose feed and REST can be taken away.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use ringmaster_shared::{
    api::{admin::EventsResponse, ring::ClusterResponse},
    event::{Event, EventCode, Severity},
    feed::{Frame, FrameBody, Snapshot},
    id::NodeId,
    member::Lifecycle,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::Client,
    cluster::Report,
    fixture,
    link::{
        LinkState, LinkView,
        driver::{self, LinkHandle},
    },
    message::Msg,
};

/// Generous: it ends a broken test, it times nothing.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode {
    feed: bool,
    /// The feed is open and says nothing.
    mute: bool,
    rest: bool,
    /// It is held, and sees only itself.
    held: bool,
    /// Which life it is; in each it reports the same number of events.
    life: u64,
}

const EVENTS_A_LIFE: u64 = 3;

const ALL: Mode = Mode {
    feed: true,
    mute: false,
    rest: true,
    held: false,
    life: 1,
};
const NOTHING: Mode = Mode {
    feed: false,
    rest: false,
    ..ALL
};
const HELD: Mode = Mode { held: true, ..ALL };

/// A node that answers as much as its mode says.
struct FakeNode {
    address: String,
    mode: Arc<Mutex<Mode>>,
    _server: JoinSet<()>,
}

impl FakeNode {
    async fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let mode = Arc::new(Mutex::new(mode));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, address.clone(), mode.clone()));
        Self {
            address,
            mode,
            _server: server,
        }
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }
}

fn read(mode: &Mutex<Mode>) -> Mode {
    *mode.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, address: String, mode: Arc<Mutex<Mode>>) {
    let mut clients = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        clients.spawn(client(stream, address.clone(), mode.clone()));
    }
}

async fn client(mut stream: TcpStream, address: String, mode: Arc<Mutex<Mode>>) {
    let mut head = vec![0; 4096];
    let head = loop {
        let Ok(n) = stream.peek(&mut head).await else {
            return;
        };
        let text = String::from_utf8_lossy(&head[..n]).into_owned();
        if n == 0 || text.contains("\r\n\r\n") {
            break text;
        }
        tokio::task::yield_now().await;
    };
    if head.to_lowercase().contains("upgrade: websocket") {
        if read(&mode).feed {
            feed(stream, address, mode).await;
        }
    } else if read(&mode).rest {
        let mut taken = vec![0; head.len()];
        if stream.read_exact(&mut taken).await.is_ok() {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let body = body(path, &address, read(&mode));
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }
}

/// One member only: this node, at its real address, so that nothing else is learned.
fn picture(address: &str, mode: Mode) -> ClusterResponse {
    let known = fixture::healthy().cluster;
    let mut members = known.members.expect("known").value;
    let mut status = known.status.expect("known").value;
    let current = members.current_node.clone();
    members.cluster_members.retain(|id, _| id == &current);
    for member in members.cluster_members.values_mut() {
        address.clone_into(&mut member.address);
    }
    address.clone_into(&mut status.node.address);
    status.node.generation = mode.life;
    if mode.held {
        status.node.lifecycle = Lifecycle::Standby;
        status.gossip = None;
    }
    ClusterResponse {
        status,
        members,
        ring: known.ring.expect("known").value,
    }
}

fn body(path: &str, address: &str, mode: Mode) -> String {
    let picture = picture(address, mode);
    let body = match path.split('?').next().unwrap_or_default() {
        "/api/v1/cluster" => serde_json::to_string(&picture),
        "/api/v1/status" => serde_json::to_string(&picture.status),
        "/api/v1/ring" => serde_json::to_string(&picture.ring),
        "/api/v1/observations" => {
            let known = fixture::healthy().cluster.observations;
            serde_json::to_string(&known.expect("known").value)
        }
        "/api/v1/events" => serde_json::to_string(&events(path, &picture, mode)),
        other => panic!("the console asked for {other}"),
    };
    body.expect("serializes")
}

/// Those of this life that were not asked for before, numbered from one in each life.
fn events(path: &str, picture: &ClusterResponse, mode: Mode) -> EventsResponse {
    let since = path.split("since=").nth(1).unwrap_or_default();
    let since = since.split('&').next().unwrap_or_default();
    let since: u64 = since.parse().expect("a number");
    let event = |seq| Event {
        seq,
        message: format!("{seq} of life {}", mode.life),
        ..fixture::event(1, EventCode::NodeStarted, Severity::Info, "node-1", "")
    };
    EventsResponse {
        current_node: picture.members.current_node.clone(),
        events: (since + 1..=EVENTS_A_LIFE).map(event).collect(),
        next: EVENTS_A_LIFE,
        truncated: false,
    }
}

async fn feed(stream: TcpStream, address: String, mode: Arc<Mutex<Mode>>) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    let ClusterResponse {
        status,
        members,
        ring,
    } = picture(&address, read(&mode));
    let snapshot = Snapshot {
        status,
        members,
        ring,
        events: vec![],
    };
    let mut body = FrameBody::Snapshot(Box::new(snapshot));
    let mut beats = interval(Duration::from_millis(200));
    let mut seq = 0;
    while read(&mode).feed {
        tokio::select! {
            _ = beats.tick() => {}
            // Reads, so that pings are answered and an end is noticed.
            message = socket.next() => match message {
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
        }
        if read(&mode).mute {
            continue;
        }
        seq += 1;
        let node_id = NodeId::new("node-1").expect("valid");
        let next = FrameBody::Heartbeat { node_id };
        let frame = Frame {
            seq,
            time: jiff::Timestamp::now(),
            body: std::mem::replace(&mut body, next),
        };
        let text = serde_json::to_string(&frame).expect("serializes");
        if socket.send(Message::text(text)).await.is_err() {
            return;
        }
    }
}

/// The console's side: what it was told.
struct Told {
    messages: mpsc::Receiver<Msg>,
    view: LinkView,
    states: Vec<LinkState>,
    snapshots: usize,
    pictures: usize,
    /// The lifecycles of the nodes whose pictures it was given, by feed or by polls.
    shown: Vec<Lifecycle>,
    events: Vec<String>,
    _link: LinkHandle,
}

impl Told {
    fn start(endpoints: &[String]) -> Self {
        let (sender, messages) = mpsc::channel(64);
        let client = Client::new().expect("a client");
        let link = driver::spawn(endpoints, &client, Instant::now(), sender);
        Self {
            messages,
            view: LinkView::default(),
            states: vec![],
            snapshots: 0,
            pictures: 0,
            shown: vec![],
            events: vec![],
            _link: link,
        }
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let wait = async {
            while !done(self) {
                match self.messages.recv().await.expect("the link runs") {
                    Msg::Link(view) => {
                        if self.states.last() != Some(&view.state) {
                            self.states.push(view.state);
                        }
                        self.view = *view;
                    }
                    Msg::Report(Report::Picture { picture, .. }) => {
                        self.pictures += 1;
                        self.shown.push(picture.status.node.lifecycle);
                    }
                    Msg::Report(Report::Frame(frame)) => {
                        if let FrameBody::Snapshot(snapshot) = frame.body {
                            self.snapshots += 1;
                            self.shown.push(snapshot.status.node.lifecycle);
                        }
                    }
                    Msg::Report(Report::Events(events)) => {
                        self.events.extend(events.into_iter().map(|e| e.message));
                    }
                    _ => {}
                }
            }
        };
        let ended = timeout(PATIENCE, wait).await;
        assert!(ended.is_ok(), "never {what}; states {:?}", self.states);
    }

    async fn until_state(&mut self, state: LinkState) {
        self.until(state.label(), |t| t.view.state == state).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn walks_through_all_three_states_and_back() {
    let node = FakeNode::start(ALL).await;
    let mut told = Told::start(std::slice::from_ref(&node.address));
    told.until_state(LinkState::Connected).await;
    told.until("a snapshot", |t| t.snapshots == 1).await;
    assert!(
        !told.states.contains(&LinkState::Fallback),
        "a healthy start is no fallback: {:?}",
        told.states
    );

    node.set(Mode { feed: false, ..ALL });
    told.until_state(LinkState::Fallback).await;
    let polled = told.pictures;
    told.until("polled twice more", |t| t.pictures >= polled + 2)
        .await;
    assert_eq!(
        told.view.state,
        LinkState::Fallback,
        "stays while REST answers"
    );
    assert!(told.view.attempt > 0, "the feed is being tried");

    node.set(NOTHING);
    told.until_state(LinkState::Disconnected).await;
    let error = told.view.endpoints[0].last_error.clone();
    assert!(error.is_some(), "it says why");

    node.set(ALL);
    told.until_state(LinkState::Connected).await;
    told.until("a new snapshot", |t| t.snapshots == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_to_another_endpoint_when_one_is_lost() {
    let (a, b) = (FakeNode::start(ALL).await, FakeNode::start(ALL).await);
    let mut told = Told::start(&[a.address.clone(), b.address.clone()]);
    told.until_state(LinkState::Connected).await;
    assert_eq!(told.view.endpoint.as_ref(), Some(&a.address));
    a.set(NOTHING);
    let second = b.address.clone();
    told.until("on the other", |t| {
        t.view.state == LinkState::Connected && t.view.endpoint.as_ref() == Some(&second)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_is_open_but_silent_is_not_called_connected() {
    let node = FakeNode::start(ALL).await;
    let mut told = Told::start(std::slice::from_ref(&node.address));
    told.until_state(LinkState::Connected).await;
    node.set(Mode { mute: true, ..ALL });
    told.until_state(LinkState::Fallback).await;
    node.set(ALL);
    told.until_state(LinkState::Connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_node_is_shown_only_while_nobody_else_delivers() {
    let (held, serves) = (FakeNode::start(HELD).await, FakeNode::start(ALL).await);
    let all = [held.address.clone(), serves.address.clone()];
    let mut told = Told::start(&all);
    told.until_state(LinkState::Connected).await;
    assert_eq!(told.view.endpoint.as_ref(), Some(&serves.address));
    told.until("its picture", |t| !t.shown.is_empty()).await;
    assert_eq!(told.shown, [Lifecycle::Serving]);

    serves.set(NOTHING);
    let first = held.address.clone();
    told.until("on the held one", |t| {
        t.view.state == LinkState::Connected
            && t.view.endpoint.as_ref() == Some(&first)
            && t.shown.contains(&Lifecycle::Standby)
    })
    .await;
    serves.set(ALL);
    let second = serves.address.clone();
    told.until("back on the other", |t| {
        t.view.endpoint.as_ref() == Some(&second) && t.shown.last() == Some(&Lifecycle::Serving)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polls_pass_a_held_node_over_as_well() {
    let without_feed = |mode| Mode {
        feed: false,
        ..mode
    };
    let held = FakeNode::start(without_feed(HELD)).await;
    let serves = FakeNode::start(without_feed(ALL)).await;
    let mut told = Told::start(&[held.address.clone(), serves.address.clone()]);
    told.until("three polls", |t| t.pictures >= 3).await;
    assert_eq!(told.view.state, LinkState::Fallback);
    assert!(
        !told.shown.contains(&Lifecycle::Standby),
        "{:?}",
        told.shown
    );
    serves.set(NOTHING);
    told.until("the held one", |t| {
        t.shown.last() == Some(&Lifecycle::Standby)
    })
    .await;
}

/// Lives that are equally short: the number of the last event says nothing about whose it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_every_life_arrive() {
    let node = FakeNode::start(ALL).await;
    let mut told = Told::start(std::slice::from_ref(&node.address));
    for life in 1..=3 {
        node.set(Mode { life, ..ALL });
        let last = format!("{EVENTS_A_LIFE} of life {life}");
        told.until(&last, |t| t.events.contains(&last)).await;
    }
    assert_eq!(
        told.events.len() as u64,
        3 * EVENTS_A_LIFE,
        "{:?}",
        told.events
    );
}
