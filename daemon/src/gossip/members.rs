//! The list of the other members, with what the protocol keeps beside each.
//!
//! Promises: the sets of reachable and of gone members and the order of suspicions always agree
//! with the members' statuses; picking a random member costs no walk over the list. Which claim
//! wins is decided in `claim.rs`; this only stores the winner.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, seq::index};
use ringmaster_shared::{id::NodeId, member::MemberStatus};

use super::{MemberState, claim::Now, core::suspicion::Suspicion};

/// Accusers kept for a suspicion; enough for a sentence and for confirmations.
const ACCUSERS_MAX: usize = 8;

/// One other member.
#[derive(Debug, Clone)]
pub struct Member {
    pub state: MemberState,
    /// When this node first knew of this life of it.
    pub known_since_ms: u64,
    /// Last proof of life that reached this node.
    pub heard_ms: Option<u64>,
    pub last_seen_unix_ms: u64,
    pub status_since_ms: u64,
    pub status_since_unix_ms: u64,
    /// Messages received from it in this generation.
    pub heartbeat_seq: u64,
    /// Who got no answer from it, in the suspicion (or death) that is held.
    pub accusers: Vec<NodeId>,
    /// When it was last told that it is held suspected, dead or outdated.
    pub told_ms: Option<u64>,
    /// Answers over TCP but not over UDP; said once.
    pub udp_blocked: bool,
    /// Whether the probe rotation holds it.
    pub in_rotation: bool,
    suspicion: Option<Suspicion>,
    place: Place,
}

impl Member {
    fn new(state: MemberState, now: Now) -> Self {
        Self {
            state,
            known_since_ms: now.ms,
            heard_ms: None,
            last_seen_unix_ms: now.unix_ms,
            status_since_ms: now.ms,
            status_since_unix_ms: now.unix_ms,
            heartbeat_seq: 0,
            accusers: Vec::new(),
            told_ms: None,
            udp_blocked: false,
            in_rotation: false,
            suspicion: None,
            place: Place::Nowhere,
        }
    }

    /// Proof of life: it answered somebody at `now`.
    pub fn answered(&mut self, now: Now) {
        self.heard_ms = Some(now.ms);
        self.last_seen_unix_ms = now.unix_ms;
    }

    /// How long it has been silent towards this node.
    pub fn silent_ms(&self, now: Now) -> u64 {
        now.ms
            .saturating_sub(self.heard_ms.unwrap_or(self.known_since_ms))
    }

    pub fn suspicion(&self) -> Option<&Suspicion> {
        self.suspicion.as_ref()
    }

    /// True when `by` is a new accuser.
    pub fn accuse(&mut self, by: &NodeId) -> bool {
        let new = self.accusers.len() < ACCUSERS_MAX && !self.accusers.contains(by);
        if new {
            self.accusers.push(by.clone());
        }
        new
    }
}

/// Where in the random-access sets a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Reachable(usize),
    Gone(usize),
    Nowhere,
}

/// All members but this node, those that left included for as long as they are remembered.
#[derive(Default)]
pub struct MemberList {
    members: BTreeMap<NodeId, Member>,
    /// Alive or suspected.
    reachable: Vec<NodeId>,
    /// Dead or stopped: to be tried again and again.
    gone: Vec<NodeId>,
    suspicions: BTreeSet<(u64, NodeId)>,
}

impl MemberList {
    pub fn get(&self, id: &NodeId) -> Option<&Member> {
        self.members.get(id)
    }

    /// For counters and times; status and life are changed by [`Self::put`] alone.
    pub fn get_mut(&mut self, id: &NodeId) -> Option<&mut Member> {
        self.members.get_mut(id)
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn reachable(&self) -> &[NodeId] {
        &self.reachable
    }

    pub fn gone(&self) -> &[NodeId] {
        &self.gone
    }

    /// Stores the claim that won. `suspicion` is for a suspected member.
    pub fn put(&mut self, state: MemberState, now: Now, suspicion: Option<Suspicion>) {
        let id = state.id.clone();
        self.unplace(&id);
        let status = state.status;
        let member = self
            .members
            .entry(id.clone())
            .or_insert_with(|| Member::new(state.clone(), now));
        if member.state.generation == state.generation {
            if member.state.status != status {
                member.status_since_ms = now.ms;
                member.status_since_unix_ms = now.unix_ms;
            }
            if super::claim::freshness(&member.state) != super::claim::freshness(&state)
                || status == MemberStatus::Alive
            {
                member.accusers.clear();
            }
            member.state = state;
        } else {
            let in_rotation = member.in_rotation;
            *member = Member::new(state, now);
            member.in_rotation = in_rotation;
        }
        member.suspicion = suspicion;
        if let Some(suspicion) = suspicion {
            self.suspicions.insert((suspicion.ends_ms(), id.clone()));
        }
        let (set, place): (_, fn(usize) -> Place) = match status {
            MemberStatus::Alive | MemberStatus::Suspected => {
                (&mut self.reachable, Place::Reachable)
            }
            MemberStatus::Dead | MemberStatus::Stopped => (&mut self.gone, Place::Gone),
            MemberStatus::Left => return,
        };
        member.place = place(set.len());
        set.push(id);
    }

    /// Forgets a member for good.
    pub fn remove(&mut self, id: &NodeId) {
        self.unplace(id);
        self.members.remove(id);
    }

    /// Takes the member out of the sets, before its status changes.
    fn unplace(&mut self, id: &NodeId) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        if let Some(suspicion) = member.suspicion.take() {
            self.suspicions.remove(&(suspicion.ends_ms(), id.clone()));
        }
        let place = std::mem::replace(&mut member.place, Place::Nowhere);
        let (set, at) = match place {
            Place::Reachable(at) => (&mut self.reachable, at),
            Place::Gone(at) => (&mut self.gone, at),
            Place::Nowhere => return,
        };
        set.swap_remove(at);
        if let Some(moved) = set.get(at).and_then(|id| self.members.get_mut(id)) {
            moved.place = match place {
                Place::Reachable(_) => Place::Reachable(at),
                _ => Place::Gone(at),
            };
        }
    }

    /// Up to `k` distinct reachable members for which `fits` holds, at random. Looks at a few
    /// more than `k`, not at all of them.
    pub fn pick_reachable(
        &self,
        rng: &mut impl Rng,
        k: usize,
        fits: impl Fn(&Member) -> bool,
    ) -> Vec<&Member> {
        let looked_at = (k + 4).min(self.reachable.len());
        index::sample(rng, self.reachable.len(), looked_at)
            .into_iter()
            .filter_map(|at| self.members.get(&self.reachable[at]))
            .filter(|m| fits(m))
            .take(k)
            .collect()
    }

    pub fn next_suspicion_end_ms(&self) -> Option<u64> {
        self.suspicions.first().map(|(ends, _)| *ends)
    }

    /// The suspected member whose time is up, if any.
    pub fn overdue_suspicion(&self, now: Now) -> Option<&Member> {
        let (ends, id) = self.suspicions.first()?;
        (*ends <= now.ms).then(|| self.members.get(id)).flatten()
    }

    /// Suspected members, the next to end first.
    pub fn suspected(&self) -> impl Iterator<Item = &Member> {
        let ids = self.suspicions.iter().map(|(_, id)| id);
        ids.filter_map(|id| self.members.get(id))
    }

    /// `by` found the same as who first suspected the member. True when that is new and shortens
    /// the suspicion.
    pub fn confirm(&mut self, id: &NodeId, by: &NodeId) -> bool {
        let Some(member) = self.members.get_mut(id) else {
            return false;
        };
        let first = member.accusers.is_empty();
        if !member.accuse(by) || first {
            return false;
        }
        let Some(suspicion) = member.suspicion.as_mut() else {
            return false;
        };
        let before = suspicion.ends_ms();
        let counts = suspicion.confirm();
        let ends = suspicion.ends_ms();
        self.suspicions.remove(&(before, id.clone()));
        self.suspicions.insert((ends, id.clone()));
        counts
    }

    /// This node stood still for `ms`: every suspected member gets as much more.
    pub fn excuse_suspected(&mut self, ms: u64) {
        for (_, id) in std::mem::take(&mut self.suspicions) {
            let member = self.members.get_mut(&id);
            if let Some(suspicion) = member.and_then(|m| m.suspicion.as_mut()) {
                suspicion.excuse(ms);
                self.suspicions.insert((suspicion.ends_ms(), id));
            }
        }
    }

    pub fn count(&self, status: MemberStatus) -> usize {
        self.iter().filter(|m| m.state.status == status).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::{
        super::{
            GossipConfig,
            testing::{id, member},
        },
        *,
    };

    fn at(ms: u64) -> Now {
        Now { ms, unix_ms: ms }
    }

    /// The sets and the order of suspicions agree with the statuses.
    fn check(list: &MemberList) -> Result<(), TestCaseError> {
        for (ids, place) in [(&list.reachable, 0), (&list.gone, 1)] {
            for (n, id) in ids.iter().enumerate() {
                let expected = [Place::Reachable(n), Place::Gone(n)][place];
                prop_assert_eq!(list.members[id].place, expected);
            }
        }
        for m in list.iter() {
            let (reachable, gone) = (
                list.reachable.contains(&m.state.id),
                list.gone.contains(&m.state.id),
            );
            prop_assert_eq!(reachable, m.state.status.is_reachable());
            prop_assert_eq!(
                gone,
                matches!(m.state.status, MemberStatus::Dead | MemberStatus::Stopped)
            );
            let listed = list
                .suspicions
                .iter()
                .filter(|(_, i)| *i == m.state.id)
                .count();
            prop_assert_eq!(listed, usize::from(m.suspicion.is_some()));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn the_sets_follow_the_statuses(
            steps in prop::collection::vec((0..6usize, 0..6usize, 1..3u64), 1..60)
        ) {
            use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
            let mut list = MemberList::default();
            for (n, (who, what, generation)) in steps.into_iter().enumerate() {
                let name = format!("n{who}");
                let Some(status) = [Alive, Suspected, Dead, Stopped, Left].get(what) else {
                    list.remove(&id(&name));
                    check(&list)?;
                    continue;
                };
                let mut state = member(&name);
                state.status = *status;
                state.generation = generation;
                let now = at(n as u64);
                let begun = Suspicion::begin(&GossipConfig::default(), 10, now);
                list.put(state, now, (*status == Suspected).then_some(begun));
                match what {
                    0 => list.excuse_suspected(3),
                    1 => {
                        list.confirm(&id(&name), &id("x"));
                        list.confirm(&id(&name), &id("y"));
                    }
                    _ => {}
                }
                check(&list)?;
            }
        }
    }

    #[test]
    fn a_later_life_starts_from_nothing() {
        let mut list = MemberList::default();
        list.put(member("a"), at(1), None);
        let held = list.get_mut(&id("a")).expect("there");
        held.heartbeat_seq = 9;
        held.udp_blocked = true;
        held.in_rotation = true;
        let mut later = member("a");
        later.generation = 2;
        list.put(later, at(5), None);
        let held = list.get(&id("a")).expect("there");
        assert_eq!(held.heartbeat_seq, 0);
        assert_eq!(held.known_since_ms, 5);
        assert!(!held.udp_blocked);
        assert!(held.in_rotation, "the rotation still holds it");
    }

    #[test]
    fn picks_are_distinct_and_fit() {
        let mut list = MemberList::default();
        for n in 0..30 {
            list.put(member(&format!("n{n}")), at(0), None);
        }
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..100 {
            let picked = list.pick_reachable(&mut rng, 3, |m| m.state.id.as_str() != "n7");
            let mut ids: Vec<_> = picked.iter().map(|m| m.state.id.as_str()).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 3);
            assert!(!ids.contains(&"n7"));
        }
    }
}
