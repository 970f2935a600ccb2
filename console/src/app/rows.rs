//! The rows of the member table: gathered, filtered and sorted, ready to draw.
//!
//! Rows are made anew for each draw and each key; the selection lives elsewhere, by id.

use std::cmp::Ordering;

use jiff::Timestamp;
use ringmaster_shared::{
    id::NodeId,
    member::{Lifecycle, Load, MemberStatus},
};

use super::{
    filter::Filter,
    screens::{MemberColumn, MembersState},
};
use crate::cluster::Cluster;

/// One node: what gossip says, what the ring gives it, and what it says itself.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberRow {
    pub id: NodeId,
    pub address: String,
    pub zone: String,
    /// What the node at the other end of the link holds of it; `None` when it does not list it.
    pub status: Option<MemberStatus>,
    pub status_since: Option<Timestamp>,
    pub lifecycle: Option<Lifecycle>,
    /// Share of all replica places; `None` outside the ring.
    pub owns_percent: Option<f64>,
    /// From gossip; `None` while the node does not answer.
    pub load: Option<Load>,
    /// The last figures known, also of a node that is gone.
    pub last_load: Option<Load>,
    pub uptime_s: Option<u64>,
    /// How well it says itself that it answers: 0 is well. `None` while it does not answer.
    pub health: Option<u32>,
    /// The node at the other end of the link reaches it over TCP only, and it is not that node's
    /// own fault.
    pub udp_blocked: bool,
    /// It says itself since when nobody has answered it over UDP.
    pub own_udp_blocked_since: Option<Timestamp>,
    /// How many of the other nodes see it alive, and how many there are.
    pub seen_alive_by: Option<(usize, usize)>,
    /// Its own view of the members is not the one shown.
    pub disagrees: bool,
    /// It is the other end of the link.
    pub is_current: bool,
    /// The change under way takes it in, or lets it go.
    pub moves: Option<Moves>,
    /// It says itself that its disk takes no more writes.
    pub read_only: bool,
    /// Why it did not answer this console.
    pub error: Option<String>,
}

/// What the change of the ring under way means for one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moves {
    In,
    Out,
}

impl MemberRow {
    /// The one word for its state: what is wrong with it, or what it is doing.
    pub fn state_word(&self) -> &'static str {
        match (self.status, self.lifecycle) {
            (None, _) => "unlisted",
            (Some(MemberStatus::Alive), Some(Lifecycle::Serving)) if self.read_only => "read-only",
            (Some(MemberStatus::Alive), Some(Lifecycle::Serving)) => match self.moves {
                Some(Moves::Out) => "leaving",
                Some(Moves::In) => "joining",
                None => Lifecycle::Serving.as_str(),
            },
            (Some(MemberStatus::Alive), Some(lifecycle)) => lifecycle.as_str(),
            (Some(status), _) => status.as_str(),
        }
    }

    /// Worst first when sorted downwards.
    fn badness(&self) -> u8 {
        match (self.status, self.lifecycle) {
            (Some(MemberStatus::Alive), Some(Lifecycle::Serving)) => u8::from(self.read_only),
            (Some(MemberStatus::Alive), _) => 1,
            (Some(MemberStatus::Left) | None, _) => 2,
            (Some(MemberStatus::Stopped), _) => 3,
            (Some(MemberStatus::Suspected), _) => 4,
            (Some(MemberStatus::Dead), _) => 5,
        }
    }
}

/// All nodes anybody knows of, by id.
pub fn all_members(cluster: &Cluster) -> Vec<MemberRow> {
    let mut ids: Vec<NodeId> = Vec::new();
    if let Some(members) = &cluster.members {
        ids.extend(members.value.cluster_members.keys().cloned());
    }
    if let Some(ring) = &cluster.ring {
        ids.extend(ring.value.nodes.iter().map(|n| n.id.clone()));
    }
    ids.extend(cluster.nodes.keys().cloned());
    ids.sort();
    ids.dedup();
    ids.into_iter().map(|id| row(cluster, id)).collect()
}

fn row(cluster: &Cluster, id: NodeId) -> MemberRow {
    let members = cluster.members.as_ref().map(|k| &k.value);
    let info = members.and_then(|m| m.cluster_members.get(&id));
    let ring = cluster.ring.as_ref().map(|k| &k.value);
    let place = ring.and_then(|r| r.nodes.iter().find(|n| n.id == id));
    let node = cluster.nodes.get(&id);
    let own = node.and_then(|n| n.status.as_ref()).map(|k| &k.value);
    let answers = node.is_some_and(|n| n.error.is_none() && n.status.is_some());
    let reachable = info.is_some_and(|i| i.status.is_reachable());
    let address = info
        .map(|i| &i.address)
        .or(place.map(|p| &p.address))
        .or(node.map(|n| &n.address));
    let zone = info
        .map(|i| &i.zone)
        .or(place.map(|p| &p.zone))
        .or(own.map(|s| &s.node.zone));
    let viewer = members.map(|m| &m.current_node);
    let viewer_lacks_udp = viewer.is_some_and(|v| cluster.own_udp_blocked_since(v).is_some());
    MemberRow {
        address: address.cloned().unwrap_or_default(),
        zone: zone.cloned().unwrap_or_default(),
        status: info.map(|i| i.status),
        status_since: info.map(|i| i.status_since),
        lifecycle: info.map(|i| i.lifecycle).or(own.map(|s| s.node.lifecycle)),
        owns_percent: place.map(|p| p.owns_percent),
        load: info.filter(|_| reachable).map(|i| i.load),
        last_load: info.map(|i| i.load),
        uptime_s: own.filter(|_| answers).map(|s| s.node.uptime_seconds),
        health: own
            .filter(|_| answers)
            .and_then(|s| s.gossip.as_ref())
            .map(|g| g.health_score),
        udp_blocked: info.is_some_and(|i| i.udp_blocked) && !viewer_lacks_udp,
        own_udp_blocked_since: cluster.own_udp_blocked_since(&id),
        seen_alive_by: cluster.seen_alive_by(&id),
        disagrees: answers && cluster.disagrees(&id),
        moves: place.and_then(|p| match (p.joining, p.leaving) {
            (true, _) => Some(Moves::In),
            (_, true) => Some(Moves::Out),
            _ => None,
        }),
        read_only: answers && own.is_some_and(|s| s.storage.read_only),
        is_current: members.is_some_and(|m| m.current_node == id),
        error: node
            .and_then(|n| n.error.as_ref())
            .map(|e| e.message.clone()),
        id,
    }
}

/// The rows to show: filtered, and sorted with the id as tie-break.
pub fn members(cluster: &Cluster, state: &MembersState) -> Vec<MemberRow> {
    let filter = Filter::parse(&state.filter);
    let mut rows = all_members(cluster);
    rows.retain(|r| {
        filter.matches(&[
            ("node", r.id.as_str()),
            ("state", r.state_word()),
            ("zone", &r.zone),
            ("address", &r.address),
        ])
    });
    rows.sort_by(|a, b| {
        let order = compare(a, b, state.sort);
        let order = if state.descending {
            order.reverse()
        } else {
            order
        };
        order.then_with(|| a.id.cmp(&b.id))
    });
    rows
}

fn compare(a: &MemberRow, b: &MemberRow, column: MemberColumn) -> Ordering {
    let load = |f: fn(&Load) -> u64| {
        let of = |r: &MemberRow| r.load.as_ref().map(f);
        of(a).cmp(&of(b))
    };
    let last = |f: fn(&Load) -> u64| {
        let of = |r: &MemberRow| r.last_load.as_ref().map(f);
        of(a).cmp(&of(b))
    };
    match column {
        MemberColumn::Node => a.id.cmp(&b.id),
        MemberColumn::State => a.badness().cmp(&b.badness()),
        MemberColumn::Zone => a.zone.cmp(&b.zone),
        MemberColumn::Owns => {
            let share = |r: &MemberRow| r.owns_percent.unwrap_or(-1.0);
            share(a).total_cmp(&share(b))
        }
        MemberColumn::Keys => last(|l| l.keys),
        MemberColumn::Puts => load(|l| l.puts_per_s.into()),
        MemberColumn::Gets => load(|l| l.gets_per_s.into()),
        MemberColumn::P99 => load(|l| l.p99_us.into()),
        MemberColumn::Hints => load(|l| l.hints.into()),
        MemberColumn::Disk => last(|l| l.bytes_on_disk),
        MemberColumn::Up => a.uptime_s.cmp(&b.uptime_s),
        MemberColumn::Health => a.health.cmp(&b.health),
        MemberColumn::SeenBy => a.seen_alive_by.cmp(&b.seen_alive_by),
    }
}
