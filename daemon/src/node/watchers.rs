//! Small loops that carry news from one part to another. Each ends with the node's stop token.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use ringmaster_shared::{
    event::EventCode,
    member::{Lifecycle, MemberStatus},
};
use tokio::time::sleep;

use super::{SharedNode, departure};
use crate::{
    cli::Failure,
    gossip::{GossipHandle, GossipNotice, Members},
    health::{QuorumChange, QuorumWatch},
    identity::RememberedMember,
    lifecycle::{
        facts::{Phase, Place},
        orders::Order,
    },
    storage::Store,
    time,
    view::{Views, same_members, same_status},
};

/// How often the parts are looked at while somebody reads the live feed.
const BOARD_EVERY: Duration = Duration::from_millis(250);
/// How often otherwise: quorum is watched, and problems grow older, for nobody in particular.
const ALONE_EVERY: Duration = Duration::from_secs(1);
/// How old times on the feed may get when nothing else changes.
const BOARD_AGE_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOAD_EVERY: Duration = Duration::from_secs(2);
/// Changes of the member list that come together are written together.
const REMEMBER_AFTER: Duration = Duration::from_secs(1);

/// What is looked at again and again because it has no bell of its own. One task for all of it:
/// an idle node is woken rarely.
struct Looks {
    node: SharedNode,
    quorum: QuorumWatch,
    /// When the views were built, and when they were last put on the board.
    built: Option<Instant>,
    shown: Instant,
    loaded: Instant,
    poison_told: bool,
    /// That writes are not stored was told, and not yet that they are again.
    space_told: bool,
    space_times: u64,
}

/// Feeds the live feed, notices when quorum goes and comes and when the store cannot go on, and
/// tells gossip of the load.
pub fn spawn_looks(node: &SharedNode) {
    let mut looks = Looks {
        node: node.clone(),
        quorum: QuorumWatch::default(),
        built: None,
        shown: Instant::now(),
        loaded: Instant::now(),
        poison_told: false,
        space_told: false,
        space_times: 0,
    };
    let stop = node.stop.clone();
    tokio::spawn(async move {
        loop {
            let pause = looks.turn();
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    });
}

impl Looks {
    /// One look at everything; how long until the next.
    fn turn(&mut self) -> Duration {
        let read = self.node.board.receiver_count() > 0;
        // a timer that fires a little early must not cost a whole turn
        let is_due = |at: Instant, every: Duration| at.elapsed() + LOOK_EVERY / 2 >= every;
        self.storage();
        self.space();
        if let Some(gossip) = self.node.gossip.get() {
            // the end of a refill is told nowhere else
            update_place(&self.node);
            if is_due(self.loaded, LOAD_EVERY) {
                self.loaded = Instant::now();
                gossip.set_load(self.node.load(time::unix_ms() / 1000));
            }
        }
        if read || self.built.is_none_or(|at| is_due(at, ALONE_EVERY)) {
            self.built = Some(Instant::now());
            self.board();
        }
        if read { BOARD_EVERY } else { LOOK_EVERY }
    }

    fn board(&mut self) {
        let node = &self.node;
        let mut views = node.views();
        // before gossip runs nobody can have been heard of; who leaves no longer counts himself
        let leaving = node.control.facts().phase == Phase::Stopping;
        if node.gossip.get().is_some() && !leaving {
            let change = self.quorum.observe(time::unix_ms(), views.counts);
            tell_quorum(node, change);
        }
        views.aged = self.shown.elapsed() >= BOARD_AGE_MAX;
        if views.aged || differ(&node.board.borrow(), &views) {
            self.shown = Instant::now();
            node.board.send_replace(Arc::new(views));
        }
    }

    /// A store that stopped ends the node: what it cannot write it must not promise.
    fn storage(&mut self) {
        let Some(why) = self.node.store.get().and_then(Store::poisoned) else {
            return;
        };
        if std::mem::replace(&mut self.poison_told, true) {
            return;
        }
        let message = format!("the storage engine stopped: {why}");
        self.node.control.update(|facts| {
            facts.broken = Some(message.clone());
        });
        self.node.events.error(
            EventCode::StoragePoisoned,
            Some(&self.node.facts.id),
            message.clone(),
        );
        let failure = Failure::Failed(message);
        // a full queue holds orders that end this node as well
        let _ = self.node.orders.try_send(Order::Fail(failure));
    }

    /// Tells when the disk gets too full for writes, and when it is not any more.
    fn space(&mut self) {
        let Some(store) = self.node.store.get() else {
            return;
        };
        let (events, id) = (&self.node.events, Some(&self.node.facts.id));
        // first, so that what happens between the two lines is told in the next turn
        let times = store.times_read_only();
        let read_only = store.read_only();
        if std::mem::replace(&mut self.space_times, times) != times {
            let message = match &read_only {
                Some(why) => format!("no writes are stored here: {why}"),
                None => "for a moment no writes were stored here: the disk was nearly full".into(),
            };
            events.error(EventCode::DiskNearlyFull, id, message);
            self.space_told = true;
        }
        if read_only.is_none() && std::mem::take(&mut self.space_told) {
            let message = "the disk has space again; writes are stored".to_owned();
            events.info(EventCode::DiskWritable, id, message);
        }
    }
}

fn differ(a: &Views, b: &Views) -> bool {
    !(same_status(&a.status, &b.status) && same_members(&a.members, &b.members) && a.ring == b.ring)
}

fn tell_quorum(node: &SharedNode, change: Option<QuorumChange>) {
    match change {
        Some(QuorumChange::Lost { unavailable, total }) => {
            let message = format!("quorum lost for {unavailable} of {total} partitions");
            node.events.error(EventCode::QuorumLost, None, message);
        }
        Some(QuorumChange::Regained { after_ms }) => {
            let seconds = after_ms as f64 / 1000.0;
            let message = format!("quorum regained for all partitions after {seconds:.1} s");
            node.events.info(EventCode::QuorumRegained, None, message);
        }
        None => {}
    }
}

/// Tells gossip and the events of each change of the lifecycle.
pub fn spawn_lifecycle(node: &SharedNode) {
    let node = node.clone();
    tokio::spawn(async move {
        let mut states = node.lifecycle.watch();
        let mut before: Option<Lifecycle> = None;
        loop {
            let state = states.borrow_and_update().clone();
            if before != Some(state.lifecycle) {
                if let Some(gossip) = node.gossip.get() {
                    gossip.set_lifecycle(state.lifecycle);
                }
                // the end is told step by step by whoever brings it about, in order
                if node.control.facts().phase != Phase::Stopping {
                    let message = state.sentence(&node.facts.id);
                    node.events
                        .info(EventCode::LifecycleChanged, Some(&node.facts.id), message);
                }
                before = Some(state.lifecycle);
            }
            tokio::select! {
                () = node.stop.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
            }
        }
    });
}

/// Where this node stands in the ring it goes by.
pub fn update_place(node: &SharedNode) {
    let place = match node.topology.current() {
        _ if node.identity.departure().is_some() => Place::Departed,
        Some(t) if t.is_joining(&node.facts.id) => Place::Joining,
        Some(t) if t.contains(&node.facts.id) => Place::Settled,
        _ => Place::Outside,
    };
    let needs_refill = node.identity.needs_refill();
    node.control.update(|facts| {
        facts.place = place;
        facts.needs_refill = needs_refill;
    });
}

/// Everything that watches a node that runs.
pub fn spawn_running(node: &SharedNode, gossip: &GossipHandle) {
    // the lifecycle may have changed between the start of gossip and now
    gossip.set_lifecycle(node.lifecycle.get());
    spawn_ring(node, gossip);
    departure::spawn(node);
    spawn_notices(node, gossip);
    spawn_remember(node, gossip);
}

fn spawn_ring(node: &SharedNode, gossip: &GossipHandle) {
    let (node, gossip) = (node.clone(), gossip.clone());
    tokio::spawn(async move {
        let mut rings = node.topology.watch();
        let mut stamp = None;
        loop {
            let now = node.ring_stamp();
            if stamp != Some(now) {
                gossip.set_ring(now);
                stamp = Some(now);
            }
            update_place(&node);
            tokio::select! {
                () = node.stop.cancelled() => return,
                changed = rings.changed() => if changed.is_err() { return },
            }
        }
    });
}

fn spawn_notices(node: &SharedNode, gossip: &GossipHandle) {
    let (node, mut told) = (node.clone(), gossip.notices());
    tokio::spawn(async move {
        let notice = tokio::select! {
            () = node.stop.cancelled() => return,
            heard = told.wait_for(Option::is_some) => match heard {
                Ok(notice) => notice.clone(),
                Err(_) => return,
            },
        };
        if let Some(GossipNotice::Superseded {
            address,
            generation,
        }) = notice
        {
            let message = format!(
                "another ringd at {address} runs as {} since later than this one (generation {generation}); two nodes may not share an id, so this one stops",
                node.facts.id
            );
            node.events.error(
                EventCode::DuplicateNodeId,
                Some(&node.facts.id),
                message.clone(),
            );
            let _ = node
                .orders
                .send(Order::Fail(Failure::Failed(message)))
                .await;
        }
    });
}

/// Writes down who the members are, for a later life.
fn spawn_remember(node: &SharedNode, gossip: &GossipHandle) {
    let (node, mut lists) = (node.clone(), gossip.watch());
    tokio::spawn(async move {
        let known = |m: &RememberedMember| (m.id.clone(), m.address.clone());
        let mut written: BTreeSet<_> = node.identity.remembered().iter().map(known).collect();
        loop {
            let members = remembered(&node, &lists.borrow_and_update().clone());
            let now: BTreeSet<_> = members.iter().map(known).collect();
            // an empty list teaches nothing: a node that is alone wants its old friends
            if now != written && !now.is_empty() {
                write_remembered(&node, members).await;
                written = now;
            }
            tokio::select! {
                () = node.stop.cancelled() => return,
                changed = lists.changed() => if changed.is_err() { return },
            }
            tokio::select! {
                () = node.stop.cancelled() => return,
                () = sleep(REMEMBER_AFTER) => {}
            }
        }
    });
}

fn remembered(node: &SharedNode, members: &Members) -> Vec<RememberedMember> {
    members
        .iter()
        .map(|m| &m.state)
        .filter(|m| m.id != node.facts.id && m.status != MemberStatus::Left)
        .map(|m| RememberedMember {
            id: m.id.clone(),
            address: m.address.clone(),
        })
        .collect()
}

async fn write_remembered(node: &SharedNode, members: Vec<RememberedMember>) {
    let identity = node.identity.clone();
    let written = tokio::task::spawn_blocking(move || identity.remember(members)).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!("cannot write down who the members are: {e:#}"),
        Err(e) => tracing::warn!("cannot write down who the members are: {e}"),
    }
}
