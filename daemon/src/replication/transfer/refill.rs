//! Getting back what this node lost, and the case in which nobody can decide that but a person.
//!
//! A replica that lost its data may not answer reads before it has scanned so many others that no
//! write can have been acknowledged by it and the rest alone. When another replica of the same
//! partition lost its data as well, those scans cannot be had from it, nor the other way round: both
//! would wait for ever. What the remaining replicas hold is all there is; whether that is to count
//! as the truth is an operator's decision, because acknowledged writes may be missing in it.
//!
//! [`Refill`] is where the worker says that it waits for this decision, and where it is given. It is
//! not kept across a restart: who decides looks at the cluster as it is then.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ringmaster_shared::{
    event::{EventCode, Severity},
    id::{NodeId, PartitionId},
    member::MemberStatus,
    topology::Topology,
};
use serde_json::json;
use tokio::sync::Notify;

use super::Sources;
use crate::{health::unfilled::Unfilled, replication::site::Site};

/// Who waits for whom, and in how many partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Members that lost their data as well.
    pub with: BTreeSet<NodeId>,
    /// Partitions in which too few other replicas have theirs.
    pub partitions: usize,
    /// Of those, the ones that no replica has any more.
    pub empty: usize,
}

impl Stuck {
    /// One sentence for the operator of `me`.
    pub fn sentence(&self, me: &NodeId) -> String {
        let with: Vec<&str> = self.with.iter().map(NodeId::as_str).collect();
        let gone = match self.empty {
            0 => String::new(),
            n => format!("; {n} of them are on no replica any more"),
        };
        format!(
            "{me} and {} lost their data, and each waits for the other in {} partitions{gone}. Writes \
             that only they had acknowledged are lost. To go on with what the other replicas hold: \
             ringmaster refill {me} --accept-loss --yes",
            with.join(", "),
            self.partitions
        )
    }
}

/// Cheap handle.
#[derive(Clone, Default)]
pub struct Refill {
    state: Arc<Mutex<State>>,
    bell: Arc<Notify>,
}

#[derive(Default)]
struct State {
    stuck: Option<Stuck>,
    accepted: bool,
    unfilled: Unfilled,
}

impl Refill {
    /// What waits for a decision, if anything does.
    pub fn stuck(&self) -> Option<Stuck> {
        self.state().stuck.clone()
    }

    /// The operator accepts that what the others do not have is lost. `None` when nothing waits for
    /// that.
    pub fn accept_loss(&self) -> Option<Stuck> {
        let mut state = self.state();
        let stuck = state.stuck.clone()?;
        state.accepted = true;
        drop(state);
        self.bell.notify_one();
        Some(stuck)
    }

    pub(super) async fn decided(&self) {
        self.bell.notified().await;
    }

    /// Notes how it is now; whether loss is accepted.
    pub(super) fn observe(&self, stuck: Option<Stuck>) -> bool {
        let mut state = self.state();
        // an acceptance is for what was shown, not for whatever may come
        if stuck.is_none() || (state.stuck.is_some() && state.stuck != stuck) {
            state.accepted = false;
        }
        state.stuck = stuck;
        state.accepted
    }

    /// Members, this one left out, that run and are known to have lost their data.
    pub(super) fn lost_too(&self, site: &Site) -> BTreeSet<NodeId> {
        let members = site.network.members();
        let mut lost = self.state().unfilled.look(&members);
        let alive = members
            .iter()
            .filter(|m| m.state.status == MemberStatus::Alive)
            .map(|m| &m.state.id);
        let alive: BTreeSet<&NodeId> = alive.collect();
        lost.retain(|id| alive.contains(id) && id != site.me());
        lost
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether those who lost their data wait for one another.
pub(super) fn stuck(
    topology: &Topology,
    me: &NodeId,
    partitions: &[PartitionId],
    lost: &BTreeSet<NodeId>,
) -> Option<Stuck> {
    let mut found = Stuck {
        with: BTreeSet::new(),
        partitions: 0,
        empty: 0,
    };
    for partition in partitions {
        let whole = Sources::of(topology, *partition, me, true);
        let without = whole.clone().without(lost);
        // where there never were enough others, nobody waits
        if !whole.possible() || without.possible() {
            continue;
        }
        let all = whole.candidates();
        found
            .with
            .extend(all.into_iter().filter(|id| lost.contains(id)));
        found.partitions += 1;
        found.empty += usize::from(without.candidates().is_empty());
    }
    (found.partitions > 0).then_some(found)
}

/// Whether no ring can be decided while those who lost their data abstain from voting.
pub(super) fn needs_my_vote(topology: &Topology, me: &NodeId, lost: &BTreeSet<NodeId>) -> bool {
    let voters = topology.voters();
    let sure = voters.iter().filter(|id| *id != me && !lost.contains(*id));
    voters.contains(me) && sure.count() < topology.voter_majority()
}

pub(super) fn tell(site: &Site, stuck: &Stuck) {
    let code = EventCode::RefillBlocked;
    if !site.worth_reporting(code, None) {
        return;
    }
    let details = json!({
        "with": stuck.with, "partitions": stuck.partitions, "on_no_replica": stuck.empty,
    });
    let subject = Some(site.me());
    let message = stuck.sentence(site.me());
    site.events
        .emit(code, Severity::Error, subject, message, details);
}
