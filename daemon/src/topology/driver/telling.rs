//! What the driver says to people while a change goes on or stands still: each thing once an
//! epoch.

use std::collections::BTreeSet;

use ringmaster_shared::{event::EventCode, id::NodeId, topology::Topology};

use super::{Around, Driver, STALLED_AFTER};
use crate::topology::handover::{self, GAINER_DOWN_MAX, Sighting};

impl<A: Around> Driver<A> {
    pub(super) fn tell_once(&mut self, message: String, code: EventCode) {
        if self.told.len() < 100 && self.told.insert(message.clone()) {
            self.handle.inner.events.warn(code, None, message);
        }
    }

    /// Why a change is given up.
    pub(super) fn tell_abort(&mut self, topology: &Topology, sightings: &[Sighting]) {
        let down: BTreeSet<NodeId> = handover::needed(topology)
            .into_iter()
            .filter(|id| {
                let seen = sightings.iter().find(|s| s.id == *id);
                seen.is_none_or(|s| !s.status.is_reachable())
            })
            .collect();
        let message = format!(
            "the change of epoch {} is given up: {} has been down for {} s and would take over partitions",
            topology.epoch,
            listed(&down),
            GAINER_DOWN_MAX.as_secs()
        );
        self.tell_once(message, EventCode::RingChangeStalled);
    }

    pub(super) fn tell_undo(&mut self, topology: &Topology) {
        let answered = self.progress.iter();
        let lost = answered.filter(|(_, p)| !p.filled).map(|(id, _)| id);
        let message = format!(
            "the change of epoch {} is given up: {} lost data before its end that those who held it \
             before still have; order it again when that is back",
            topology.epoch,
            listed(&lost.cloned().collect())
        );
        self.tell_once(message, EventCode::RingChangeStalled);
    }

    /// Who a change has waited for, and why, once it has taken long.
    pub(super) fn tell_stall(&mut self, topology: &Topology, whom: &BTreeSet<NodeId>) {
        if self.epoch_since.elapsed() < STALLED_AFTER || self.told.contains("stalled") {
            return;
        }
        self.told.insert("stalled".into());
        let why = |id: &NodeId| match self.progress.get(id) {
            None => "does not answer",
            Some(p) if p.settled < topology.epoch => "still serves requests of an earlier epoch",
            Some(p) if !p.filled => "has not all its data yet",
            Some(_) => "is ready",
        };
        let each: Vec<String> = whom.iter().map(|id| format!("{id} {}", why(id))).collect();
        let message = format!(
            "the change of epoch {} waits: {}",
            topology.epoch,
            each.join(", ")
        );
        let events = &self.handle.inner.events;
        events.warn(EventCode::RingChangeStalled, None, message);
    }
}

/// Who would have to answer for the ring to change, and who does, but does not vote.
pub(in crate::topology) fn no_majority(topology: &Topology, abstain: &BTreeSet<NodeId>) -> String {
    let voters: BTreeSet<NodeId> = topology.voters().into_iter().collect();
    let (needed, count) = (topology.voter_majority(), voters.len());
    let voters = listed(&voters);
    if abstain.is_empty() {
        return format!("no majority of its voters answers ({needed} of {count} needed: {voters})");
    }
    let whose = if abstain.len() == 1 {
        "lost its folder and does not vote yet"
    } else {
        "lost their folders and do not vote yet"
    };
    format!(
        "no majority of its voters votes ({needed} of {count} needed: {voters}); {} {whose}",
        listed(abstain)
    )
}

pub(super) fn listed(ids: &BTreeSet<NodeId>) -> String {
    let names: Vec<&str> = ids.iter().map(NodeId::as_str).collect();
    names.join(", ")
}
