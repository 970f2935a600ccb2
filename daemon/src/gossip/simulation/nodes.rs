//! Nodes: who they are, how they come to be and come back.

use std::collections::{HashMap, VecDeque};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use ringmaster_shared::{id::NodeId, member::MemberStatus};

use super::{
    checks::Rounds,
    exchanges::Conversation,
    holds::Hold,
    keys::KeysKept,
    names::{self, Place, Who},
    world::{Arrival, Doing, Parameters, World},
};
use crate::gossip::{
    MemberState,
    core::{Core, Output},
    secrecy::Secrecy,
    testing,
    wire::Wire,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    Up,
    Crashed,
    /// It said so; it finishes its farewell.
    Stopped,
    Left,
}

impl Condition {
    pub fn is_down(self) -> bool {
        self != Self::Up
    }
}

pub struct Node {
    pub core: Core,
    pub id: NodeId,
    pub cluster: u8,
    pub place: Place,
    pub generation: u64,
    pub condition: Condition,
    pub hold: Option<Hold>,
    /// Counts holds, so that an old end of one is known.
    pub holds: u32,
    /// Counts processes: connections end with theirs.
    pub(super) life: u32,
    /// The wake that is on the agenda.
    pub(super) wake_ms: u64,
    pub(super) waiting: VecDeque<Arrival>,
    pub(super) unsent: Vec<Output>,
    pub(super) exchanging: HashMap<Place, Conversation>,
    /// Addresses on its disk, of members that an earlier process knew.
    pub(super) written_down: Vec<String>,
    pub(super) rounds: Rounds,
    /// None where packets are handed over.
    pub(super) wire: Option<Wire>,
    /// The same keyring as its wire has.
    pub(super) secrecy: Option<Secrecy>,
    pub(super) keys: KeysKept,
}

impl World {
    /// A cluster that has long been formed: all know all, and there is no news.
    pub fn formed(parameters: Parameters) -> Self {
        let n = parameters.nodes;
        let mut world = Self::empty(parameters);
        let contacts = world.seed_addresses();
        for who in 0..n {
            world.occupants.push(None);
            let node = world.unborn(who, 0, who, &contacts);
            world.nodes.push(node);
            world.occupants[who] = Some(who);
        }
        let own_state = |node: &Node| node.core.states().swap_remove(0);
        let states: Vec<_> = world.nodes.iter().map(own_state).collect();
        for who in 0..n {
            world.judge_own_word(who, 0);
        }
        let now = world.time();
        for who in 0..n {
            let core = &mut world.nodes[who].core;
            core.form(now, &states);
            let mutations = core.take_mutations();
            let rounds = &mut world.nodes[who].rounds;
            if world.parameters.checked {
                for other in (0..n).filter(|o| *o != who) {
                    rounds.reachable(0, other);
                }
                for mutation in mutations {
                    let about = names::who(&mutation.about).expect("one of them");
                    let step = (mutation.before, mutation.after);
                    let judged = world.checks.held(0, (who, 0), about, step);
                    assert_eq!(judged, Ok(()));
                }
            }
            world.begin(who);
        }
        world.right_pairs = n * n.saturating_sub(1);
        world
    }

    pub fn seed_addresses(&self) -> Vec<String> {
        (0..self.parameters.seeds).map(names::address).collect()
    }

    /// A new node at a new address.
    pub fn join(&mut self, cluster: u8, contacts: &[String]) -> Who {
        let place = self.occupants.len();
        self.occupants.push(None);
        self.join_at(cluster, place, contacts)
    }

    /// A new node at an address that may have been somebody else's.
    pub fn join_at(&mut self, cluster: u8, place: Place, contacts: &[String]) -> Who {
        let who = self.nodes.len();
        let node = self.unborn(who, cluster, place, contacts);
        self.nodes.push(node);
        self.occupants[place] = Some(who);
        self.begin(who);
        who
    }

    /// A node in its first life that has not begun.
    pub(super) fn unborn(
        &mut self,
        who: Who,
        cluster: u8,
        place: Place,
        contacts: &[String],
    ) -> Node {
        Node {
            core: self.born(who, cluster, place, 1, contacts),
            id: names::node_id(who),
            cluster,
            place,
            generation: 1,
            condition: Condition::Up,
            hold: None,
            holds: 0,
            life: 0,
            wake_ms: u64::MAX,
            waiting: VecDeque::new(),
            unsent: Vec::new(),
            exchanging: HashMap::new(),
            written_down: Vec::new(),
            rounds: Rounds::default(),
            wire: None,
            secrecy: None,
            keys: self.keys_given(cluster),
        }
    }

    pub(super) fn born(
        &mut self,
        who: Who,
        cluster: u8,
        place: Place,
        generation: u64,
        contacts: &[String],
    ) -> Core {
        let local = MemberState {
            generation,
            address: names::address(place),
            ..testing::member(names::node_id(who).as_str())
        };
        let rng = SmallRng::seed_from_u64(self.rng.random());
        let mut core = Core::new(
            self.config_of_a_core(),
            names::cluster(cluster),
            local,
            contacts.iter().cloned(),
            rng,
            self.time(),
        );
        core.record_mutations();
        if let Some(broken) = self.broken {
            core.break_rule(broken);
        }
        core
    }

    /// Another process of the same node, at `place`.
    pub fn reborn(&mut self, who: Who, place: Place, contacts: &[String]) {
        let (cluster, generation) = (self.nodes[who].cluster, self.nodes[who].generation + 1);
        self.counts_no_more(who);
        let core = self.born(who, cluster, place, generation, contacts);
        let node = &mut self.nodes[who];
        node.core = core;
        node.place = place;
        node.generation = generation;
        node.condition = Condition::Up;
        node.life += 1;
        node.wake_ms = u64::MAX;
        node.rounds = Rounds::default();
        node.exchanging.clear();
        self.end_hold(who);
        self.nodes[who].waiting.clear();
        self.nodes[who].unsent.clear();
        self.occupants[place] = Some(who);
        self.begin(who);
    }

    pub(super) fn begin(&mut self, who: Who) {
        let now = self.now;
        self.nodes[who].rounds.stood_still(now);
        self.wire_up(who);
        self.after_step(who, Doing::Answering);
    }

    /// Leaves the count of right pairs before its life ends: what it holds, and what is held of
    /// it.
    pub fn counts_no_more(&mut self, who: Who) {
        if self.nodes[who].condition.is_down() {
            return;
        }
        let held: Vec<MemberState> = self.nodes[who].core.all_held().cloned().collect();
        let own = held.iter().filter(|s| self.is_right(who, s)).count();
        let id = self.nodes[who].id.clone();
        let of_it = (0..self.nodes.len())
            .filter(|o| *o != who && !self.nodes[*o].condition.is_down())
            .filter(|o| {
                let held = self.nodes[*o].core.held(&id);
                held.is_some_and(|s| self.is_right(*o, s))
            })
            .count();
        self.right_pairs -= own + of_it;
    }

    pub(super) fn is_right(&self, observer: Who, state: &MemberState) -> bool {
        let Some(about) = names::who(&state.id) else {
            return false;
        };
        about != observer
            && state.status == MemberStatus::Alive
            && self.nodes.get(about).is_some_and(|n| {
                !n.condition.is_down()
                    && n.generation == state.generation
                    && n.cluster == self.nodes[observer].cluster
            })
    }
}
