//! Runs the [`Link`] machine: opens feeds, polls, asks every node how it is, and hands what
//! arrives to the console. It owns every network task of the link and ends them with itself.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use ringmaster_shared::{
    api::{
        health::StatusResponse,
        membership::MembersResponse,
        ring::{ClusterResponse, RingResponse},
    },
    feed::{Frame, FrameBody},
    id::{Epoch, Generation},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    FrameKind, Input, Link, LinkView, Output, POLL_INTERVAL_MS, POLL_TIMEOUT_MS, TryId,
    seen::{NewEvents, Seen},
    websocket,
};
use crate::{
    client::{Client, Observed},
    cluster::{NodeReport, Report, sees_only_itself},
    matrix::LARGE_FROM,
    message::Msg,
};

/// Reports of network tasks that may wait.
const SEEN_QUEUE: usize = 256;
/// Orders of the console that may wait.
const COMMAND_QUEUE: usize = 8;
/// Each node is asked for its status so often, in a cluster of up to [`NODES_AT_FULL_PACE`].
const ASK_INTERVAL_MS: u64 = 2_000;
/// In larger clusters each node is asked less often, so that the load stays the same.
const NODES_AT_FULL_PACE: u64 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkCommand {
    RetryNow,
}

/// The link's end in the console. Dropping it ends the link.
#[derive(Debug)]
pub struct LinkHandle {
    commands: mpsc::Sender<LinkCommand>,
}

impl LinkHandle {
    /// Never waits; a full queue means that a retry is already asked for.
    pub fn retry_now(&self) {
        let _ = self.commands.try_send(LinkCommand::RetryNow);
    }
}

/// Starts the link. `epoch` is the zero of the console's clock.
pub fn spawn(
    endpoints: &[String],
    client: &Client,
    epoch: Instant,
    out: mpsc::Sender<Msg>,
) -> LinkHandle {
    let (commands, orders) = mpsc::channel(COMMAND_QUEUE);
    let (seen_tx, seen_rx) = mpsc::channel(SEEN_QUEUE);
    let driver = Driver {
        link: Link::new(endpoints, epoch.elapsed().as_millis() as u64),
        client: client.within(Duration::from_millis(POLL_TIMEOUT_MS)),
        epoch,
        out,
        seen: seen_tx,
        feeds: HashMap::new(),
        tasks: JoinSet::new(),
        asking: HashSet::new(),
        asked_ms: BTreeMap::new(),
        event_marks: BTreeMap::new(),
        shown: None,
        table_of: None,
        fetching_table: false,
    };
    tokio::spawn(driver.run(orders, seen_rx));
    LinkHandle { commands }
}

struct Driver {
    link: Link,
    client: Client,
    epoch: Instant,
    out: mpsc::Sender<Msg>,
    seen: mpsc::Sender<Seen>,
    feeds: HashMap<TryId, AbortHandle>,
    /// Every task of the link; dropped with the driver, and so ended.
    tasks: JoinSet<()>,
    /// Addresses that are being asked now.
    asking: HashSet<String>,
    /// When each address was asked last.
    asked_ms: BTreeMap<String, u64>,
    /// From which event on each address is asked, and of which life of its node that counts.
    event_marks: BTreeMap<String, (Generation, u64)>,
    shown: Option<LinkView>,
    /// Epoch and digest of the ring whose table has been handed on.
    table_of: Option<(Epoch, String)>,
    fetching_table: bool,
}

/// The console is gone.
struct Gone;

impl Driver {
    async fn run(
        mut self,
        mut orders: mpsc::Receiver<LinkCommand>,
        mut seen: mpsc::Receiver<Seen>,
    ) {
        let mut asks = interval(Duration::from_millis(ASK_INTERVAL_MS / 4));
        asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wait = self.link.deadline_ms().saturating_sub(self.now_ms());
            let step = tokio::select! {
                order = orders.recv() => match order {
                    Some(LinkCommand::RetryNow) => self.input(Input::RetryNow).await,
                    None => return,
                },
                Some(report) = seen.recv() => self.take(report).await,
                _ = asks.tick() => {
                    self.ask_nodes();
                    Ok(())
                }
                () = sleep(Duration::from_millis(wait.min(60_000))) => self.input(Input::Tick).await,
                Some(_) = self.tasks.join_next() => Ok(()),
            };
            if step.is_err() {
                return;
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Feeds the machine, does what it says, and shows what changed.
    async fn input(&mut self, input: Input) -> Result<(), Gone> {
        let now_ms = self.now_ms();
        let outputs = self.link.handle(input, now_ms, rand::random());
        for output in outputs {
            match output {
                Output::OpenFeed { id, address } => {
                    let feed = websocket::run(id, address, self.seen.clone());
                    self.feeds.insert(id, self.tasks.spawn(feed));
                }
                Output::CloseFeed { id } => {
                    if let Some(feed) = self.feeds.remove(&id) {
                        feed.abort();
                    }
                }
                Output::Poll { id, address } => self.poll(id, address),
            }
        }
        let view = self.link.view();
        if self.shown.as_ref() != Some(&view) {
            self.shown = Some(view.clone());
            self.tell(Msg::Link(Box::new(view))).await?;
        }
        Ok(())
    }

    async fn tell(&self, msg: Msg) -> Result<(), Gone> {
        self.out.send(msg).await.map_err(|_| Gone)
    }

    async fn take(&mut self, seen: Seen) -> Result<(), Gone> {
        match seen {
            Seen::Frame { id, frame } => self.frame(id, frame).await,
            Seen::Pong { id, rtt_ms } => self.input(Input::Pong { id, rtt_ms }).await,
            Seen::FeedEnded { id, reason } => {
                self.feeds.remove(&id);
                self.input(Input::FeedEnded { id, reason }).await
            }
            Seen::Polled { id, rtt_ms, result } => self.polled(id, rtt_ms, result).await,
            Seen::Asked { report, events } => self.asked(*report, events).await,
            Seen::Observed(report) => self.tell(Msg::Report(report)).await,
            Seen::Table(ring) => {
                self.fetching_table = false;
                let Some(ring) = ring else {
                    return Ok(());
                };
                self.table_of = Some((ring.epoch, ring.digest.clone()));
                self.tell(Msg::Report(Report::Ring(ring))).await
            }
        }
    }

    async fn frame(&mut self, id: TryId, frame: Box<Frame>) -> Result<(), Gone> {
        let seq = frame.seq;
        let kind = match frame.body {
            FrameBody::Snapshot(_) => FrameKind::Snapshot { seq },
            _ => FrameKind::Other { seq },
        };
        let alone = status_of(&frame).map(sees_only_itself);
        let addresses = members_of(&frame).map(member_addresses);
        self.input(Input::Frame { id, kind, alone }).await?;
        if !self.link.is_live(id) {
            return Ok(());
        }
        // of the members a node that sees only itself knows nothing
        if let Some(addresses) = addresses.filter(|_| !self.link.is_makeshift()) {
            self.input(Input::Members(addresses)).await?;
        }
        if let Some(ring) = ring_of(&frame) {
            self.fetch_table_if_missing(ring);
        }
        self.tell(Msg::Report(Report::Frame(frame))).await
    }

    fn poll(&mut self, id: TryId, address: String) {
        let (client, seen) = (self.client.clone(), self.seen.clone());
        self.tasks.spawn(async move {
            let asked = Instant::now();
            let result = client.picture(&address).await;
            let result = result.map(Box::new).map_err(|e| e.why().to_owned());
            let rtt_ms = asked.elapsed().as_millis() as u64;
            let _ = seen.send(Seen::Polled { id, rtt_ms, result }).await;
        });
    }

    async fn polled(
        &mut self,
        id: TryId,
        rtt_ms: u64,
        result: Result<Box<ClusterResponse>, String>,
    ) -> Result<(), Gone> {
        // Another answer won, or the feed is back: this one is late.
        if !self.link.is_polling(id) {
            return Ok(());
        }
        match result {
            Ok(picture) => {
                let alone = sees_only_itself(&picture.status);
                let believed = self.link.takes_answer(id, alone);
                let answered = Input::PollAnswered { id, rtt_ms, alone };
                self.input(answered).await?;
                if !believed {
                    return Ok(());
                }
                if !alone {
                    let addresses = member_addresses(&picture.members);
                    self.input(Input::Members(addresses)).await?;
                }
                let interval_ms = POLL_INTERVAL_MS;
                let report = Report::Picture {
                    picture,
                    interval_ms,
                };
                self.tell(Msg::Report(report)).await
            }
            Err(reason) => self.input(Input::PollFailed { id, reason }).await,
        }
    }

    /// Asks every node that is due, and the current one for who sees whom.
    fn ask_nodes(&mut self) {
        let addresses = self.link.addresses();
        let now_ms = self.now_ms();
        let interval_ms = ask_interval_ms(addresses.len());
        self.asked_ms.retain(|a, _| addresses.contains(a));
        self.event_marks.retain(|a, _| addresses.contains(a));
        let current = self.link.endpoint().map(str::to_owned);
        let observed = if addresses.len() < LARGE_FROM {
            Observed::All
        } else {
            Observed::Trouble
        };
        for address in addresses {
            let last = self.asked_ms.get(&address);
            let due = last.is_none_or(|at| now_ms >= at + interval_ms);
            if !due || !self.asking.insert(address.clone()) {
                continue;
            }
            self.asked_ms.insert(address.clone(), now_ms);
            let mark = self.event_marks.get(&address).copied().unwrap_or_default();
            let observe = (current.as_ref() == Some(&address)).then_some(observed);
            let (client, seen) = (self.client.clone(), self.seen.clone());
            self.tasks.spawn(async move {
                ask(client, address, (mark, observe), interval_ms, seen).await;
            });
        }
    }

    async fn asked(&mut self, report: NodeReport, events: Option<NewEvents>) -> Result<(), Gone> {
        let address = report.address.clone();
        self.asking.remove(&address);
        let result = report.result.as_ref().map(|_| ()).map_err(Clone::clone);
        if let Some(NewEvents { events, mark }) = events {
            self.event_marks.insert(address.clone(), mark);
            if !events.is_empty() {
                self.tell(Msg::Report(Report::Events(events))).await?;
            }
        }
        self.tell(Msg::Report(Report::Node(Box::new(report))))
            .await?;
        self.input(Input::Asked { address, result }).await
    }

    /// The feed's first snapshot names the ring without its table: fetches it once.
    fn fetch_table_if_missing(&mut self, ring: &RingResponse) {
        let stamp = (ring.epoch, ring.digest.clone());
        if !ring.table.is_empty() || ring.ring.partitions == 0 {
            self.table_of = Some(stamp);
            return;
        }
        let Some(address) = self.link.endpoint().map(str::to_owned) else {
            return;
        };
        if self.table_of.as_ref() == Some(&stamp) || self.fetching_table {
            return;
        }
        self.fetching_table = true;
        let (client, seen) = (self.client.clone(), self.seen.clone());
        self.tasks.spawn(async move {
            let ring = client.ring(&address).await.ok().map(Box::new);
            let _ = seen.send(Seen::Table(ring)).await;
        });
    }
}

/// Asks one node for its status and its events, and, if it is the current one, who sees whom.
async fn ask(
    client: Client,
    address: String,
    (mark, observe): ((Generation, u64), Option<Observed>),
    interval_ms: u64,
    seen: mpsc::Sender<Seen>,
) {
    let asked = Instant::now();
    let result = client.status(&address).await;
    let result = result.map_err(|e| e.why().to_owned());
    let rtt_ms = asked.elapsed().as_millis() as u64;
    let mut events = None;
    if let Ok(status) = &result {
        // marks start again with each life of a node
        let life = status.node.generation;
        let since = if mark.0 == life { mark.1 } else { 0 };
        if let Ok(page) = client.events(&address, since).await {
            let (events_of, mark) = (page.events, (life, page.next));
            events = Some(NewEvents {
                events: events_of,
                mark,
            });
        }
        if let Some(which) = observe
            && let Ok(observations) = client.observations(&address, which).await
        {
            let report = Report::Observations {
                observations: Box::new(observations),
                interval_ms,
            };
            let _ = seen.send(Seen::Observed(report)).await;
        }
    }
    let report = Box::new(NodeReport {
        address,
        result,
        rtt_ms,
        interval_ms,
    });
    let _ = seen.send(Seen::Asked { report, events }).await;
}

fn ask_interval_ms(nodes: usize) -> u64 {
    ASK_INTERVAL_MS * (nodes as u64).div_ceil(NODES_AT_FULL_PACE).max(1)
}

fn member_addresses(members: &MembersResponse) -> Vec<String> {
    let addresses = members.cluster_members.values();
    addresses.map(|m| m.address.clone()).collect()
}

fn ring_of(frame: &Frame) -> Option<&RingResponse> {
    match &frame.body {
        FrameBody::Snapshot(s) => Some(&s.ring),
        FrameBody::Delta(d) => d.ring.as_ref(),
        _ => None,
    }
}

fn status_of(frame: &Frame) -> Option<&StatusResponse> {
    match &frame.body {
        FrameBody::Snapshot(s) => Some(&s.status),
        FrameBody::Delta(d) => d.status.as_ref(),
        _ => None,
    }
}

fn members_of(frame: &Frame) -> Option<&MembersResponse> {
    match &frame.body {
        FrameBody::Snapshot(s) => Some(&s.members),
        FrameBody::Delta(d) => d.members.as_ref(),
        _ => None,
    }
}
