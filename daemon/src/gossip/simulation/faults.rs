//! What can befall a node, one at a time. Each counts itself.

use rand::Rng;
use ringmaster_shared::member::MemberStatus::{self, Dead, Stopped};

use super::{
    holds::{Hold, Stretch},
    names::{self, Place, Who},
    network::Link,
    nodes::Condition,
    world::{Event, World},
};
use crate::gossip::claim;

impl World {
    /// Gone without a word.
    pub fn crash(&mut self, who: Who) {
        self.counters.crashes += 1;
        self.counts_no_more(who);
        self.nodes[who].condition = Condition::Crashed;
    }

    /// Down on purpose, with a farewell.
    pub fn stop(&mut self, who: Who) {
        self.counters.stops += 1;
        self.end(who, Condition::Stopped, MemberStatus::Stopped);
    }

    /// Gone for good, with a farewell.
    pub fn leave(&mut self, who: Who) {
        self.counters.leaves += 1;
        self.end(who, Condition::Left, MemberStatus::Left);
    }

    fn end(&mut self, who: Who, condition: Condition, last: MemberStatus) {
        self.counts_no_more(who);
        self.nodes[who].condition = condition;
        let now = self.time();
        self.nodes[who].core.stop(now, last);
        self.after_word(who);
    }

    /// Stands still for so long, as under SIGSTOP.
    pub fn pause(&mut self, who: Who, for_ms: u64) {
        self.counters.pauses += 1;
        self.hold(who, Hold::Paused, for_ms);
    }

    /// Overloaded: blocked for a while, free for a while, again and again.
    pub fn overload(&mut self, who: Who, stretch: Stretch) {
        self.counters.blocks += 1;
        self.schedule(0, Event::BlockAgain(who, stretch));
    }

    /// A new process of a node, at its old address if nobody else has taken it, with the
    /// addresses its old process knew.
    pub fn restart(&mut self, who: Who) {
        let place = self.nodes[who].place;
        let taken = self.occupants[place].is_some_and(|o| o != who);
        if taken {
            self.counters.displaced += 1;
            return self.live_elsewhere(who);
        }
        if self.nodes[who].condition == Condition::Up {
            self.counters.fast_restarts += 1;
        } else {
            self.counters.restarts += 1;
        }
        let contacts = self.remembered(who);
        self.reborn(who, place, &contacts);
    }

    /// The same id at another address.
    pub fn move_to_new_place(&mut self, who: Who) {
        self.counters.moves += 1;
        self.live_elsewhere(who);
    }

    fn live_elsewhere(&mut self, who: Who) {
        let contacts = self.remembered(who);
        let left = self.nodes[who].place;
        if self.occupants[left] == Some(who) {
            self.occupants[left] = None;
        }
        let place = self.occupants.len();
        self.occupants.push(None);
        self.reborn(who, place, &contacts);
    }

    /// What its processes would have written down, and the seeds of its configuration. A process
    /// that met nobody writes nothing, so that what an earlier one wrote stays.
    fn remembered(&mut self, who: Who) -> Vec<String> {
        let node = &mut self.nodes[who];
        let held: Vec<String> = node.core.all_held().map(|s| s.address.clone()).collect();
        if !held.is_empty() {
            node.written_down = held;
        }
        let mut contacts = node.written_down.clone();
        contacts.extend(self.seed_addresses());
        contacts
    }

    /// An operator tells `by` to take a node that is down off the list.
    pub fn bury(&mut self, by: Who, down: Who) {
        let id = self.nodes[down].id.clone();
        if !self.could_bury(by, down) {
            return;
        }
        let Some(held) = self.nodes[by].core.held(&id) else {
            return;
        };
        self.counters.burials += 1;
        self.checks.bury(down, claim::freshness(held));
        let now = self.time();
        self.nodes[by].core.bury(now, &id);
        self.after_word(by);
    }

    /// Whether `by` shows an operator a node as down.
    pub fn could_bury(&self, by: Who, down: Who) -> bool {
        let held = self.nodes[by].core.held(&self.nodes[down].id);
        held.is_some_and(|s| matches!(s.status, Dead | Stopped))
    }

    /// Whether nobody has taken the address of a node that is down.
    pub fn is_free(&self, down: Who) -> bool {
        let node = &self.nodes[down];
        node.condition.is_down() && self.occupants[node.place] == Some(down)
    }

    /// Another node at the address of one that is down.
    pub fn recycle(&mut self, down: Who, cluster: u8, contacts: &[String]) -> Option<Who> {
        let place = self.nodes[down].place;
        if !self.is_free(down) {
            return None;
        }
        if cluster == 0 {
            self.counters.recycled += 1;
        } else {
            self.counters.recycled_by_foreigners += 1;
        }
        Some(self.join_at(cluster, place, contacts))
    }

    /// New nodes, all at once.
    pub fn join_many(&mut self, count: usize, contacts: &[String]) {
        for _ in 0..count {
            self.counters.joins += 1;
            self.join(0, contacts);
        }
    }

    /// Everybody into one of `groups`, at random; one group is no partition.
    pub fn partition(&mut self, groups: u8) {
        for place in 0..self.occupants.len() {
            let group = self.rng.random_range(0..groups);
            self.network.group(place, group);
        }
        self.counters.partitions += u64::from(groups > 1);
    }

    /// One place can be heard by another, but not hear it.
    pub fn cut_one_way(&mut self, from: Place, to: Place) {
        self.counters.one_way_cuts += 1;
        self.network.one_way_cuts.insert((from, to));
    }

    pub fn block_udp(&mut self, place: Place) {
        self.counters.udp_blocks += 1;
        self.network.udp_blocked.insert(place);
    }

    pub fn spoil_link(&mut self, from: Place, to: Place, link: Link) {
        self.counters.bad_links += 1;
        self.network.links.insert((from, to), link);
    }

    /// No more faults of the network.
    pub fn relieve(&mut self) {
        self.counters.reliefs += 1;
        self.network.calm(self.parameters.link.clone());
    }

    /// How the whole network treats packets from now on.
    pub fn weather(&mut self, link: Link, tcp_extra_ms: u64) {
        self.counters.weather += 1;
        self.network.base = link;
        self.network.tcp_extra_ms = tcp_extra_ms;
    }

    pub fn who_is_up(&self) -> Vec<Who> {
        (0..self.nodes.len())
            .filter(|n| self.nodes[*n].condition == Condition::Up && self.nodes[*n].cluster == 0)
            .collect()
    }

    pub fn who_is_down(&self) -> Vec<Who> {
        (0..self.nodes.len())
            .filter(|n| self.nodes[*n].condition.is_down() && self.nodes[*n].cluster == 0)
            .collect()
    }

    pub fn addresses_of(&self, nodes: &[Who]) -> Vec<String> {
        nodes
            .iter()
            .map(|n| names::address(self.nodes[*n].place))
            .collect()
    }
}
