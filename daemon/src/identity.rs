//! Who this node is, across restarts: a small synced file beside the store.
//!
//! Promises: what a setter stored survives a crash at any moment, whole; one process at a time
//! uses the folder; a generation and a dot are never given twice, not even by an earlier life of
//! this data. A file that cannot be trusted is refused with a sentence, never guessed at.
//! Leaves to others: what a topology or an acceptor's promise means.
//!
//! Dot counters are leased: the file holds a mark that no counter has passed, so that giving a
//! dot costs no write, and a crash costs only the rest of the lease. So are the generations that
//! the process may go on as (`gossip/claim.rs` has their number, `gossip/core.rs` keeps to it).

mod adopting;
mod error;
mod file;
mod folder;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ringmaster_shared::{
    id::{ClusterId, Epoch, Generation, NodeId},
    topology::{Step, Topology},
    version::{Actor, Dot},
};
use serde::{Deserialize, Serialize};

use crate::{breaks::broken, gossip::claim::LIVES_LEASED, time::unix_ms, topology::Ballot};

pub use adopting::{Adopting, Route};
pub use error::IdentityError;
use file::{IdentityFile, Persisted};

/// Dots leased at a time; a crash burns at most as many.
const DOT_LEASE: u64 = 1_000_000;
/// "Through every epoch", for [`IdentityStore::abstains_through`].
const EVERY_EPOCH: Epoch = Epoch::MAX;
/// Members remembered at most, see [`some_of`].
pub const REMEMBERED_MAX: usize = 1000;

/// A member seen in an earlier life, to be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedMember {
    pub id: NodeId,
    pub address: String,
}

/// What an acceptor of the topology register must never forget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptorState {
    /// The epoch these promises are about: they decide `base_epoch + 1`.
    pub base_epoch: u64,
    pub promised: Option<Ballot>,
    pub accepted: Option<(Ballot, Topology)>,
}

/// This node is out of the ring for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    pub cluster_id: ClusterId,
    /// The ring without it; the change itself may have ended a little earlier.
    pub epoch: u64,
    /// It handed over all it held and left; otherwise it was removed or replaced.
    pub as_asked: bool,
}

/// Cheap handle of the identity file; every setter returns after the file is synced
/// (written beside, fsync, rename, fsync of the folder). Blocking, but small. A setter that
/// changes nothing writes nothing.
#[derive(Clone)]
pub struct IdentityStore {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: NodeId,
    generation: Generation,
    file: IdentityFile,
    // taken in this order where several are needed
    dots: Mutex<Dots>,
    /// Held while the file is written, so that `state` is not: every request looks at that.
    writing: Mutex<()>,
    state: Mutex<Persisted>,
    /// Held, not read: the lock goes with the process.
    _lock: File,
}

/// Counters not yet given, of one actor.
struct Dots {
    actor: Actor,
    next: u64,
    /// The last counter that may be given before the file is written again.
    leased_to: u64,
}

impl Dots {
    fn begin_as(&mut self, epoch: u64) {
        self.actor.epoch = epoch;
        self.next = 1;
        self.leased_to = DOT_LEASE;
    }
}

impl IdentityStore {
    /// Opens or creates `identity.json` in the data dir for `node_id`; takes the folder's lock;
    /// takes a generation above all it ever had, and leases those above it; leases dot counters.
    /// Errors are sentences for a person.
    pub fn open(data_dir: &Path, node_id: &NodeId) -> Result<Self, IdentityError> {
        Self::open_at(data_dir, node_id, unix_ms())
    }

    fn open_at(data_dir: &Path, node_id: &NodeId, now: u64) -> Result<Self, IdentityError> {
        folder::prepare(data_dir)?;
        let lock = folder::lock(data_dir)?;
        let file = IdentityFile::in_folder(data_dir);
        let mut state = match file.read()? {
            Some(found) if &found.node_id != node_id => {
                return Err(IdentityError::OtherNode {
                    dir: data_dir.to_owned(),
                    found: found.node_id,
                    wanted: node_id.clone(),
                });
            }
            Some(found) => found,
            None => Persisted::first(node_id.clone(), now),
        };
        let generation = now.max(state.leased_generation.saturating_add(1));
        state.leased_generation = generation.saturating_add(LIVES_LEASED);
        let next = state.dots_leased_to.saturating_add(1);
        state.dots_leased_to = state.dots_leased_to.saturating_add(DOT_LEASE);
        file.write(&state)?;

        let dots = Dots {
            actor: Actor {
                node: node_id.clone(),
                epoch: state.actor_epoch,
            },
            next,
            leased_to: state.dots_leased_to,
        };
        let inner = Inner {
            node_id: node_id.clone(),
            generation,
            file,
            dots: Mutex::new(dots),
            writing: Mutex::default(),
            state: Mutex::new(state),
            _lock: lock,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    pub fn node_id(&self) -> &NodeId {
        &self.inner.node_id
    }

    pub fn generation(&self) -> Generation {
        self.inner.generation
    }

    /// The next life begins above that one, of which this folder knows nothing, and above all that
    /// its process may have gone on as.
    pub fn outlive(&self, generation: Generation) -> anyhow::Result<()> {
        let passed = generation.saturating_add(LIVES_LEASED);
        self.update(|state| state.leased_generation = state.leased_generation.max(passed))
    }

    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.state().cluster_id.clone()
    }

    /// Makes this the data of one cluster. Giving up a cluster for another also drops what the
    /// old one decided: its topology and what was promised about it.
    pub fn set_cluster(&self, id: ClusterId) -> anyhow::Result<()> {
        self.update(|state| state.move_to(id))
    }

    /// What a joiner was told, with one write: which cluster this is, who is in it, and its ring
    /// when that can be gone by at once. A ring of another cluster is left out.
    pub fn enter_cluster(
        &self,
        id: ClusterId,
        members: Vec<RememberedMember>,
        ring: Option<Topology>,
    ) -> anyhow::Result<()> {
        let members = some_of(members, &self.inner.node_id);
        let ring = ring.filter(|t| t.cluster_id == id && t.is_well_formed());
        self.update(|state| {
            state.remembered = members;
            state.move_to(id);
            if let Some(ring) = ring {
                state.go_by(&ring);
            }
        })
    }

    pub fn topology(&self) -> Option<Topology> {
        self.state().topology.clone()
    }

    /// Stores a decided topology; promises about earlier epochs are dropped with the same write,
    /// for they can decide nothing any more.
    pub fn save_topology(&self, topology: &Topology) -> anyhow::Result<()> {
        let mut refused = None;
        self.update(|state| refused = enter(state, topology))?;
        refused.map_or(Ok(()), |why| Err(why.into()))
    }

    /// The same for a ring by which this node holds what it never got: with the same write it
    /// lost its data, and knows nothing of the votes of the life that had it.
    pub fn save_topology_of_lost_data(&self, topology: &Topology) -> anyhow::Result<()> {
        let mut refused = None;
        self.update_as_new_actor(|state| {
            refused = enter(state, topology);
            if refused.is_none() {
                state.needs_refill = true;
                state.filled_epoch = 0;
                state.abstain_through = EVERY_EPOCH;
            }
        })?;
        refused.map_or(Ok(()), |why| Err(why.into()))
    }

    /// Whether this node was a member and the ring it goes by does not have it any more.
    pub fn departure(&self) -> Option<Departure> {
        let state = self.state();
        let ring = state.topology.as_ref()?;
        let gone = state.was_member && !ring.contains(&state.node_id);
        gone.then(|| Departure {
            cluster_id: ring.cluster_id.clone(),
            epoch: ring.epoch,
            as_asked: state.was_leaving,
        })
    }

    pub fn acceptor(&self) -> Option<AcceptorState> {
        self.state().acceptor.clone()
    }

    pub fn save_acceptor(&self, acceptor: &AcceptorState) -> anyhow::Result<()> {
        self.update(|state| state.acceptor = Some(acceptor.clone()))
    }

    pub fn remembered(&self) -> Vec<RememberedMember> {
        self.state().remembered.clone()
    }

    /// Replaces the list; at most [`REMEMBERED_MAX`] are kept.
    pub fn remember(&self, members: Vec<RememberedMember>) -> anyhow::Result<()> {
        let members = some_of(members, &self.inner.node_id);
        self.update(|state| state.remembered = members)
    }

    /// Forgets the members of earlier lives; returns how many there were. When the disk refuses,
    /// nothing is forgotten, the log says so and the answer is 0.
    pub fn clear_remembered(&self) -> usize {
        let mut count = 0;
        let written = self.update(|state| {
            count = state.remembered.len();
            state.remembered.clear();
        });
        if let Err(why) = written {
            tracing::error!("the remembered members were not cleared: {why:#}");
            return 0;
        }
        count
    }

    /// The data was lost (fresh folder of a known member, quarantine): a new actor, and reads
    /// do not count here until refilled.
    pub fn set_needs_refill(&self) -> anyhow::Result<()> {
        // what was given since the last sync may be lost: no counter of the old actor is safe
        self.update_as_new_actor(|state| {
            state.needs_refill = true;
            state.filled_epoch = 0;
            state.lost_through = state.topology.as_ref().map_or(0, |ring| ring.epoch);
        })
    }

    /// The last epoch by which an earlier life of this node, or this one before it lost its data, may
    /// have acknowledged what is gone: only by a later ring can it be known what that was. The
    /// highest number there is while that is not known of a folder that is gone.
    pub fn lost_through(&self) -> Epoch {
        let state = self.state();
        state.lost_through.max(state.abstain_through)
    }

    /// The lost data is back, by the ring of this epoch. Returns whether that is still the ring
    /// this node goes by: a later one may say that more was lost, and nothing is changed then.
    pub fn set_refilled(&self, epoch: u64) -> anyhow::Result<bool> {
        let mut current = false;
        self.update(|state| {
            let ring = state.topology.as_ref().filter(|t| t.epoch == epoch);
            current = ring.is_some();
            state.needs_refill &= !current;
            // what it gains in a change was refilled with the rest, and is filled by nobody again
            let change = ring.and_then(|ring| ring.transition.as_ref());
            if change.is_some_and(|change| change.step == Step::Dual) {
                state.filled_epoch = state.filled_epoch.max(epoch.saturating_sub(1));
            }
        })?;
        Ok(current)
    }

    pub fn needs_refill(&self) -> bool {
        self.state().needs_refill
    }

    /// Whether a store was opened in this data dir before; an empty one is then a lost one.
    pub fn had_store(&self) -> bool {
        self.state().had_store
    }

    pub fn set_had_store(&self) -> anyhow::Result<()> {
        if self.had_store() {
            return Ok(());
        }
        self.update(|state| state.had_store = true)
    }

    /// Votes on top of epochs up to this one may have been given by an earlier life whose folder
    /// is gone; such a vote must not be given again. 0: none.
    pub fn abstains_through(&self) -> Epoch {
        self.state().abstain_through
    }

    /// The folder of an earlier life is gone, and nothing is known of its votes: this node abstains
    /// on everything until [`Self::recall_votes`].
    pub fn forget_votes(&self) -> anyhow::Result<()> {
        self.update(|state| state.abstain_through = EVERY_EPOCH)
    }

    /// Whether nothing is known of an earlier life's votes.
    pub fn forgot_votes(&self) -> bool {
        self.abstains_through() == EVERY_EPOCH
    }

    /// No earlier life voted on top of an epoch beyond this one. Changes nothing where that is
    /// known already.
    pub fn recall_votes(&self, through: Epoch) -> anyhow::Result<()> {
        self.update(|state| {
            if state.abstain_through == EVERY_EPOCH {
                state.abstain_through = through;
            }
        })
    }

    /// An operator accepts what forgotten votes may cost.
    pub fn vote_again(&self) -> anyhow::Result<()> {
        self.update(|state| state.abstain_through = 0)
    }

    /// Partitions of the change at `epoch` that have been filled from a quorum of the old replicas.
    /// Never goes back.
    pub fn set_filled_epoch(&self, epoch: u64) -> anyhow::Result<()> {
        self.update(|state| state.filled_epoch = state.filled_epoch.max(epoch))
    }

    pub fn filled_epoch(&self) -> u64 {
        self.state().filled_epoch
    }

    /// Who gives the next dot.
    pub fn actor(&self) -> Actor {
        self.dots().actor.clone()
    }

    /// From now on dots are those of an actor that never gave one. While that is being written,
    /// which this waits for, the one before goes on giving them.
    pub fn renew_actor(&self) -> anyhow::Result<()> {
        let mut epoch = 0;
        self.update(|state| {
            epoch = unix_ms().max(state.actor_epoch.saturating_add(1));
            state.actor_epoch = epoch;
            state.dots_leased_to = DOT_LEASE;
        })?;
        let mut dots = self.dots();
        // a loss of data that was noted meanwhile made it yet another
        if dots.actor.epoch < epoch {
            dots.begin_as(epoch);
        }
        Ok(())
    }

    /// A dot never given before, not even by an earlier life of this data. Writes the file once
    /// in a million calls; fails only when that write does.
    pub fn next_dot(&self) -> anyhow::Result<Dot> {
        let mut dots = self.dots();
        if dots.next > dots.leased_to {
            let to = dots.leased_to.saturating_add(DOT_LEASE);
            // the file may speak of the next actor already
            self.update(|state| state.dots_leased_to = state.dots_leased_to.max(to))?;
            dots.leased_to = to;
        }
        let counter = dots.next;
        dots.next += 1;
        Ok(Dot {
            actor: dots.actor.clone(),
            counter,
        })
    }

    fn state(&self) -> MutexGuard<'_, Persisted> {
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn dots(&self) -> MutexGuard<'_, Dots> {
        let dots = self.inner.dots.lock();
        dots.unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Self::update`], and with the same write an actor that never gave a dot.
    fn update_as_new_actor(&self, change: impl FnOnce(&mut Persisted)) -> anyhow::Result<()> {
        let mut dots = self.dots();
        let mut epoch = dots.actor.epoch;
        self.update(|state| {
            change(state);
            if !broken("reuse-actor") {
                // one that is being written may not be given yet
                epoch = unix_ms().max(state.actor_epoch.max(epoch).saturating_add(1));
            }
            state.actor_epoch = epoch;
            state.dots_leased_to = DOT_LEASE;
        })?;
        dots.begin_as(epoch);
        Ok(())
    }

    /// Changes the state on disk, then in memory; nothing when the write fails.
    fn update(&self, change: impl FnOnce(&mut Persisted)) -> anyhow::Result<()> {
        let writing = self.inner.writing.lock();
        let _one_at_a_time = writing.unwrap_or_else(PoisonError::into_inner);
        let now = self.state().clone();
        let mut next = now.clone();
        change(&mut next);
        if next != now {
            self.inner.file.write(&next)?;
            *self.state() = next;
        }
        Ok(())
    }
}

/// What `own` remembers of a list: all, or where they are too many those that its own name and
/// theirs draw. So each node remembers others, and every member is remembered by some; and of a
/// list that hardly changes a node remembers the same as before.
fn some_of(mut members: Vec<RememberedMember>, own: &NodeId) -> Vec<RememberedMember> {
    if members.len() > REMEMBERED_MAX {
        members.sort_by_cached_key(|member| {
            let mut hash = DefaultHasher::new();
            (own, &member.id).hash(&mut hash);
            hash.finish()
        });
        members.truncate(REMEMBERED_MAX);
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    }
    members
}

/// Goes by this ring, or says why not.
fn enter(state: &mut Persisted, topology: &Topology) -> Option<IdentityError> {
    if state.cluster_id.as_ref() == Some(&topology.cluster_id) && topology.is_well_formed() {
        state.go_by(topology);
        return None;
    }
    Some(IdentityError::NotOurTopology {
        ours: state.cluster_id.clone(),
        theirs: topology.cluster_id.clone(),
        epoch: topology.epoch,
    })
}
