//! Takes what arrives into [`Cluster`]: what replaces what, and what only confirms.

use jiff::Timestamp;
use ringmaster_shared::{
    api::{
        health::StatusResponse,
        membership::{MemberInfo, MembersResponse, ObservationsResponse},
        ring::RingResponse,
    },
    feed::{Delta, Frame, FrameBody, HEARTBEAT_MS, Snapshot},
    id::{ClusterId, NodeId},
    member::Load,
    topology::{RingMember, Topology, Transition},
};

use crate::link::same_place;

use super::{Cluster, History, Known, NodeError, NodeKnowledge, NodeReport, Report};

/// A node in no list is forgotten when it has been silent for so long.
const FORGET_UNLISTED_MS: u64 = 60_000;
/// Addresses that never told a name which are remembered at most.
const NAMELESS_MAX: usize = 64;

/// When something arrived: this console's monotonic clock, and its wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub now_ms: u64,
    pub utc: Timestamp,
}

impl Cluster {
    /// Takes in one report.
    pub fn absorb(&mut self, report: Report, at: Arrival) {
        match report {
            Report::Frame(frame) => self.absorb_frame(*frame, at),
            Report::Picture {
                picture,
                interval_ms,
            } => {
                let known = Stamp::new(at, interval_ms);
                let stamped = second(picture.status.timestamp).unwrap_or(at.utc);
                let known = known.stamped(stamped);
                self.set_status(picture.status, known);
                self.set_members(picture.members, known);
                self.set_ring(picture.ring, known);
            }
            Report::Ring(ring) => {
                let interval = self.ring.as_ref().map_or(HEARTBEAT_MS, |r| r.interval_ms);
                self.set_ring(*ring, Stamp::new(at, interval));
            }
            Report::Observations {
                observations,
                interval_ms,
            } => self.set_observations(*observations, Stamp::new(at, interval_ms)),
            Report::Events(events) => self.add_events(events),
            Report::Node(report) => self.absorb_node(*report, at),
        }
    }

    fn absorb_frame(&mut self, frame: Frame, at: Arrival) {
        self.clock_skew_ms = Some(frame.time.as_millisecond() - at.utc.as_millisecond());
        let known = Stamp::new(at, HEARTBEAT_MS).stamped(frame.time);
        match frame.body {
            FrameBody::Snapshot(snapshot) => {
                let Snapshot {
                    status,
                    members,
                    ring,
                    events,
                } = *snapshot;
                self.set_status(status, known);
                self.set_members(members, known);
                self.set_ring(ring, known);
                self.add_events(events);
            }
            FrameBody::Delta(delta) => {
                let Delta {
                    status,
                    members,
                    ring,
                } = *delta;
                // What a delta leaves out did not change: it is as fresh as the delta.
                self.confirm(known);
                if let Some(status) = status {
                    self.set_status(status, known);
                }
                if let Some(members) = members {
                    self.set_members(members, known);
                }
                if let Some(ring) = ring {
                    self.set_ring(ring, known);
                }
            }
            FrameBody::Event { event } => {
                self.add_events(vec![event]);
                self.confirm(known);
            }
            FrameBody::Heartbeat { .. } => self.confirm(known),
            // After a gap nothing is confirmed until the snapshot that follows it.
            FrameBody::Gap { .. } | FrameBody::Error { .. } | FrameBody::Unknown => {}
        }
    }

    /// The feed said nothing new: what it gave is as fresh as this frame.
    fn confirm(&mut self, known: Stamp) {
        known.refresh(&mut self.status);
        known.refresh(&mut self.members);
        known.refresh(&mut self.ring);
    }

    fn set_status(&mut self, status: StatusResponse, known: Stamp) {
        self.status = Some(known.of(status));
    }

    fn set_members(&mut self, members: MembersResponse, known: Stamp) {
        for (id, info) in &members.cluster_members {
            let node = self.nodes.entry(id.clone());
            let node = node.or_insert_with(|| NodeKnowledge::at(&info.address));
            if node.address != info.address {
                // It moved: what was said of the old place is not about the new one.
                node.address.clone_from(&info.address);
                node.error = None;
            }
            self.nameless.retain(|a, _| !same_place(a, &info.address));
        }
        self.members = Some(known.of(members));
    }

    fn set_ring(&mut self, mut ring: RingResponse, known: Stamp) {
        if ring.table.is_empty()
            && let Some(old) = &self.ring
            && old.value.digest == ring.digest
            && old.value.epoch == ring.epoch
        {
            ring.table.clone_from(&old.value.table);
            ring.ring.ring.clone_from(&old.value.ring.ring);
            if let (Some(new), Some(old)) = (&mut ring.transition, &old.value.transition)
                && new.target.is_empty()
            {
                new.target.clone_from(&old.target);
            }
        }
        let cluster_id = self
            .members
            .as_ref()
            .map(|m| m.value.cluster_id.as_str())
            .unwrap_or_default();
        self.topology = topology(&ring, cluster_id);
        self.ring = Some(known.of(ring));
    }

    fn set_observations(&mut self, observations: ObservationsResponse, known: Stamp) {
        self.observations = Some(known.of(observations));
    }

    fn absorb_node(&mut self, report: NodeReport, at: Arrival) {
        let NodeReport {
            address,
            result,
            rtt_ms,
            interval_ms,
        } = report;
        match result {
            Ok(status) => {
                self.nameless.remove(&address);
                let id = status.node.id.clone();
                let stamped = second(status.timestamp).unwrap_or(at.utc);
                let known = Stamp::new(at, interval_ms).stamped(stamped);
                let node = self.nodes.entry(id);
                let node = node.or_insert_with(|| NodeKnowledge::at(&address));
                node.status = Some(known.of(status));
                node.error = None;
                node.rtt_ms = Some(rtt_ms);
            }
            Err(message) => self.node_failed(&address, message, at.now_ms),
        }
    }

    fn node_failed(&mut self, address: &str, message: String, now_ms: u64) {
        let since_ms = now_ms;
        let mut nodes = self.nodes.values_mut();
        if let Some(node) = nodes.find(|n| same_place(&n.address, address)) {
            match &mut node.error {
                Some(error) => error.message = message,
                None => node.error = Some(NodeError { message, since_ms }),
            }
            node.rtt_ms = None;
        } else if let Some(error) = self.nameless.get_mut(address) {
            error.message = message;
        } else if self.nameless.len() < NAMELESS_MAX {
            let error = NodeError { message, since_ms };
            self.nameless.insert(address.to_owned(), error);
        }
    }

    /// Once a second: takes a sample for the sparklines and forgets who is long gone.
    pub fn sample(&mut self, now_ms: u64) {
        let fresh = self.members.as_ref().filter(|m| !m.is_stale(now_ms));
        let members = fresh.map(|m| &m.value.cluster_members);
        let load = |m: &MemberInfo| m.status.is_reachable().then_some(m.load);
        for (id, node) in &mut self.nodes {
            node.history
                .push(members.and_then(|m| m.get(id)).and_then(load));
        }
        let total = members.map(|m| {
            m.values()
                .filter_map(load)
                .fold(Load::default(), |a, b| sum(&a, &b))
        });
        self.totals.push(total);
        let listed = self.members.as_ref().map(|m| &m.value.cluster_members);
        let is_listed = |id: &NodeId| listed.is_some_and(|m| m.contains_key(id));
        self.nodes.retain(|id, node| {
            let silent = node.status.as_ref().map(|s| s.age_ms(now_ms));
            is_listed(id) || silent.is_some_and(|ms| ms < FORGET_UNLISTED_MS)
        });
    }
}

impl NodeKnowledge {
    fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            status: None,
            error: None,
            rtt_ms: None,
            history: History::default(),
        }
    }
}

/// The three times a [`Known`] carries.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    stamped: Timestamp,
    received_ms: u64,
    interval_ms: u64,
}

impl Stamp {
    fn new(at: Arrival, interval_ms: u64) -> Self {
        Self {
            stamped: at.utc,
            received_ms: at.now_ms,
            interval_ms,
        }
    }

    fn stamped(self, stamped: Timestamp) -> Self {
        Self { stamped, ..self }
    }

    fn of<T>(self, value: T) -> Known<T> {
        Known {
            value,
            stamped: self.stamped,
            received_ms: self.received_ms,
            interval_ms: self.interval_ms,
        }
    }

    fn refresh<T>(self, known: &mut Option<Known<T>>) {
        if let Some(known) = known {
            known.stamped = self.stamped;
            known.received_ms = self.received_ms;
            known.interval_ms = self.interval_ms;
        }
    }
}

fn second(unix: i64) -> Option<Timestamp> {
    Timestamp::from_second(unix).ok()
}

fn sum(a: &Load, b: &Load) -> Load {
    Load {
        keys: a.keys.saturating_add(b.keys),
        bytes_on_disk: a.bytes_on_disk.saturating_add(b.bytes_on_disk),
        puts_per_s: a.puts_per_s.saturating_add(b.puts_per_s),
        gets_per_s: a.gets_per_s.saturating_add(b.gets_per_s),
        p99_us: a.p99_us.max(b.p99_us),
        hints: a.hints.saturating_add(b.hints),
    }
}

/// The topology behind the answer; `None` while the node is in no cluster or the table is
/// missing or malformed.
fn topology(ring: &RingResponse, cluster_id: &str) -> Option<Topology> {
    let member = |n: &ringmaster_shared::api::ring::RingNode| RingMember {
        id: n.id.clone(),
        address: n.address.clone(),
        zone: n.zone.clone(),
    };
    let transition = ring.transition.as_ref().map(|t| Transition {
        kind: t.kind,
        step: t.step,
        joining: t.joining.clone(),
        leaving: t.leaving.clone(),
        target: t.target.clone(),
    });
    let topology = Topology {
        cluster_id: ClusterId::new(cluster_id).ok()?,
        epoch: ring.epoch,
        replication_factor: ring.ring.replicas,
        members: ring.nodes.iter().map(member).collect(),
        table: ring.table.clone(),
        transition,
    };
    topology.is_well_formed().then_some(topology)
}

#[cfg(test)]
mod tests;
