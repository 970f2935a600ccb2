//! The list of the other members, with what the protocol keeps beside each.
//!
//! Promises: the sets of reachable and of gone members and the order of suspicions always agree
//! with the members' statuses; no suspicion waits for confirmations where fewer members than it
//! wants are able to give them, and seeing to that costs a walk only while these are a handful;
//! picking a random member costs no walk over the list; a member that this node has nothing to do
//! with costs a few dozen bytes. Which claim wins is decided in `claim.rs`; this only stores the
//! winner.

use std::{collections::BTreeSet, sync::Arc};

use rand::{Rng, seq::index};
use ringmaster_shared::{
    id::NodeId,
    member::{Freshness, MemberStatus},
};

use super::{
    MemberState,
    claim::{self, Now},
    core::suspicion::{CONFIRMATIONS_MAX, Suspicion},
    roster::{OfNode, Roster, Slot, push_tightly},
};

/// Accusers kept for a suspicion; enough for a sentence and for confirmations.
const ACCUSERS_MAX: usize = 8;

/// One other member.
#[derive(Debug, Clone)]
pub struct Member {
    pub state: Arc<MemberState>,
    /// When its status last changed here.
    pub status_since_ms: u64,
    dealings: Option<Box<Dealings>>,
    /// Where in the set that its status puts it into; [`NOWHERE`] in none.
    place: u32,
    /// Whether the probe rotation holds it.
    pub in_rotation: bool,
}

/// What this node had to do with a member itself. Of thousands of members most have none yet.
#[derive(Debug, Clone, Default)]
pub struct Dealings {
    /// When this node first knew of this life of it.
    pub known_since_ms: u64,
    /// Last proof of life that reached this node.
    pub heard_ms: Option<u64>,
    /// Messages received from it in this generation.
    pub heartbeat_seq: u64,
    /// Who got no answer from it, in the suspicion (or death) that is held.
    pub accusers: Vec<NodeId>,
    /// When it was last told that it is held suspected, dead or outdated.
    pub told_ms: Option<u64>,
    /// Answers over TCP but not over UDP.
    pub udp_blocked: bool,
    suspicion: Option<Box<Suspicion>>,
}

impl Member {
    fn new(state: Arc<MemberState>, now: Now) -> Self {
        Self {
            state,
            status_since_ms: now.ms,
            dealings: None,
            place: NOWHERE,
            in_rotation: false,
        }
    }

    /// For changes; made when there are none yet.
    pub fn dealings_mut(&mut self) -> &mut Dealings {
        let since = self.status_since_ms;
        self.dealings.get_or_insert_with(|| {
            Box::new(Dealings {
                known_since_ms: since,
                ..Dealings::default()
            })
        })
    }

    /// Last proof of life, or when this node first knew of it.
    pub fn last_seen_ms(&self) -> u64 {
        self.dealings.as_ref().map_or(self.status_since_ms, |d| {
            d.heard_ms.unwrap_or(d.known_since_ms)
        })
    }

    pub fn heartbeat_seq(&self) -> u64 {
        self.dealings.as_ref().map_or(0, |d| d.heartbeat_seq)
    }

    pub fn accusers(&self) -> &[NodeId] {
        self.dealings.as_ref().map_or(&[], |d| &d.accusers)
    }

    pub fn udp_blocked(&self) -> bool {
        self.dealings.as_ref().is_some_and(|d| d.udp_blocked)
    }

    /// Dead or stopped: to be tried again and again.
    pub fn is_gone(&self) -> bool {
        matches!(
            self.state.status,
            MemberStatus::Dead | MemberStatus::Stopped
        )
    }

    /// The suspicion that runs, while it is held suspected.
    pub fn suspicion(&self) -> Option<&Suspicion> {
        self.dealings.as_ref()?.suspicion.as_deref()
    }

    /// Whether it may find out that another does not answer: it is not known to be silent itself.
    /// Who is on somebody's list as suspected or dead, and nobody is known who found it so, still
    /// counts: the list of a node that was cut off calls all of them dead, and must not take the
    /// time from who is merely slow.
    fn is_able_to_confirm(&self) -> bool {
        match self.state.status {
            MemberStatus::Alive => true,
            MemberStatus::Suspected => self.accusers().is_empty(),
            _ => false,
        }
    }

    /// Proof of life: it answered somebody at `now`.
    pub fn answered(&mut self, now: Now) {
        self.dealings_mut().heard_ms = Some(now.ms);
    }

    /// How long it has been silent towards this node.
    pub fn silent_ms(&self, now: Now) -> u64 {
        now.ms.saturating_sub(self.last_seen_ms())
    }

    /// True when `by` is a new accuser.
    fn accuse(&mut self, by: &NodeId) -> bool {
        let accusers = &mut self.dealings_mut().accusers;
        let new = accusers.len() < ACCUSERS_MAX && !accusers.contains(by);
        if new {
            accusers.push(by.clone());
        }
        new
    }
}

impl OfNode for Member {
    fn node(&self) -> &NodeId {
        &self.state.id
    }
}

/// Place of a member that is in none of the sets.
const NOWHERE: u32 = u32::MAX;

/// What is held of a member, as far as the protocol's rules go.
pub type Held = (Freshness, MemberStatus);

/// One change of what is held of a member, for checkers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    pub about: NodeId,
    pub before: Option<Held>,
    /// None: forgotten.
    pub after: Option<Held>,
}

/// All members but this node, those that left included for as long as they are remembered.
#[derive(Default)]
pub struct MemberList {
    members: Roster<Member>,
    /// Alive or suspected.
    reachable: Vec<Slot>,
    /// Dead or stopped: to be tried again and again.
    gone: Vec<Slot>,
    suspicions: BTreeSet<(u64, NodeId)>,
    /// Members that may confirm a suspicion of another.
    able: usize,
    /// Members by status, in the order of [`MemberStatus`].
    counts: [usize; 5],
    recorded: Option<Vec<Mutation>>,
}

impl MemberList {
    pub fn get(&self, id: &NodeId) -> Option<&Member> {
        self.members.get(id)
    }

    /// For counters and times; status and life are changed by [`Self::put`] alone.
    pub fn get_mut(&mut self, id: &NodeId) -> Option<&mut Member> {
        self.members.get_mut(id)
    }

    /// The same, with the number that leads to it for as long as it is on the list.
    pub fn slot_mut(&mut self, id: &NodeId) -> Option<(Slot, &mut Member)> {
        let slot = self.members.slot_of(id)?;
        Some((slot, self.members.at_mut(slot)?))
    }

    /// Who has that number now.
    pub fn at_mut(&mut self, slot: Slot) -> Option<&mut Member> {
        self.members.at_mut(slot)
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// In no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    pub fn reachable_count(&self) -> usize {
        self.reachable.len()
    }

    pub fn reachable(&self) -> impl Iterator<Item = &Member> {
        self.reachable.iter().filter_map(|s| self.members.at(*s))
    }

    pub fn gone(&self) -> impl Iterator<Item = &Member> {
        self.gone.iter().filter_map(|s| self.members.at(*s))
    }

    /// From now on every change is kept until it is taken.
    #[cfg(test)]
    pub fn record(&mut self) {
        self.recorded.get_or_insert_default();
    }

    /// Room for so many, and no more: what doubling would leave empty counts in the simulator.
    #[cfg(test)]
    pub fn reserve(&mut self, more: usize) {
        self.members.reserve(more);
        self.reachable.reserve_exact(more);
    }

    #[cfg(test)]
    pub fn take_recorded(&mut self) -> Vec<Mutation> {
        self.recorded
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    fn note(&mut self, about: &NodeId, before: Option<Held>, after: Option<Held>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push(Mutation {
                about: about.clone(),
                before,
                after,
            });
        }
    }

    /// Stores the claim that won. `suspicion` is for a suspected member.
    pub fn put(&mut self, state: Arc<MemberState>, now: Now, suspicion: Option<Suspicion>) {
        let id = state.id.clone();
        let status = state.status;
        let after = Some((claim::freshness(&state), status));
        let before = self.unplace(&id);
        self.note(&id, before, after);
        let slot = match self.members.slot_of(&id) {
            Some(slot) => {
                if let Some(member) = self.members.at_mut(slot) {
                    replace(member, state, now);
                }
                slot
            }
            None => self.members.put(Member::new(state, now)),
        };
        self.counts[status as usize] += 1;
        let Some(member) = self.members.at_mut(slot) else {
            return;
        };
        if let Some(suspicion) = suspicion {
            member.dealings_mut().suspicion = Some(Box::new(suspicion));
            self.suspicions.insert((suspicion.ends_ms(), id));
        }
        self.able += usize::from(member.is_able_to_confirm());
        let set = match status {
            MemberStatus::Alive | MemberStatus::Suspected => Some(&mut self.reachable),
            MemberStatus::Dead | MemberStatus::Stopped => Some(&mut self.gone),
            MemberStatus::Left => None,
        };
        if let Some(set) = set {
            member.place = set.len() as u32;
            push_tightly(set, slot);
        }
        if status != MemberStatus::Alive {
            self.end_vain_waits();
        }
    }

    /// Forgets a member for good.
    pub fn remove(&mut self, id: &NodeId) {
        let before = self.unplace(id);
        if before.is_some() {
            self.note(id, before, None);
        }
        self.members.remove(id);
        self.end_vain_waits();
    }

    /// Takes the member out of the sets, before its status changes.
    fn unplace(&mut self, id: &NodeId) -> Option<Held> {
        let member = self.members.get_mut(id)?;
        let held = (claim::freshness(&member.state), member.state.status);
        self.counts[held.1 as usize] -= 1;
        self.able -= usize::from(member.is_able_to_confirm());
        let ends = member
            .dealings
            .as_mut()
            .and_then(|d| d.suspicion.take())
            .map(|s| s.ends_ms());
        let place = std::mem::replace(&mut member.place, NOWHERE) as usize;
        if let Some(ends) = ends {
            self.suspicions.remove(&(ends, id.clone()));
        }
        let set = match held.1 {
            MemberStatus::Alive | MemberStatus::Suspected => &mut self.reachable,
            MemberStatus::Dead | MemberStatus::Stopped => &mut self.gone,
            MemberStatus::Left => return Some(held),
        };
        set.swap_remove(place);
        let moved = set.get(place).copied();
        if let Some(moved) = moved.and_then(|slot| self.members.at_mut(slot)) {
            moved.place = place as u32;
        }
        Some(held)
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
            .filter_map(|at| self.members.at(self.reachable[at]))
            .filter(|m| fits(m))
            .take(k)
            .collect()
    }

    /// Of those that are dead, stopped or left: for whom that has been so the longest. Walks over
    /// them all.
    pub fn longest_gone(&self) -> Option<&NodeId> {
        let gone = self.members.iter().filter(|m| {
            let status = m.state.status;
            !status.is_reachable()
        });
        let oldest = gone.min_by_key(|m| (m.status_since_ms, &m.state.id));
        oldest.map(|m| &m.state.id)
    }

    pub fn next_suspicion_end_ms(&self) -> Option<u64> {
        self.suspicions.first().map(|(ends, _)| *ends)
    }

    /// Suspected members, the next to end first.
    pub fn suspected(&self) -> impl Iterator<Item = &Member> {
        self.suspicions
            .iter()
            .filter_map(|(_, id)| self.members.get(id))
    }

    /// The suspected member whose time is up, if any.
    pub fn overdue_suspicion(&self, now: Now) -> Option<&Member> {
        let (ends, id) = self.suspicions.first()?;
        (*ends <= now.ms).then(|| self.members.get(id)).flatten()
    }

    /// `by` got no answer from the member. True when that is new.
    pub fn accuse(&mut self, id: &NodeId, by: &NodeId) -> bool {
        let Some(member) = self.members.get_mut(id) else {
            return false;
        };
        self.able -= usize::from(member.is_able_to_confirm());
        let new = member.accuse(by);
        self.able += usize::from(member.is_able_to_confirm());
        self.end_vain_waits();
        new
    }

    /// `by` found the same as who first suspected the member. True when that is new and shortens
    /// the suspicion.
    pub fn confirm(&mut self, id: &NodeId, by: &NodeId) -> bool {
        let first = self.get(id).is_some_and(|m| m.accusers().is_empty());
        if !self.accuse(id, by) || first {
            return false;
        }
        let Some(member) = self.members.get_mut(id) else {
            return false;
        };
        let Some(suspicion) = &mut member.dealings_mut().suspicion else {
            return false;
        };
        let before = suspicion.ends_ms();
        let counts = suspicion.confirm();
        let ends = suspicion.ends_ms();
        self.suspicions.remove(&(before, id.clone()));
        self.suspicions.insert((ends, id.clone()));
        counts
    }

    /// How many may confirm a suspicion of `about`: of those held alive all but itself. The
    /// accuser, if it is among them, cannot do so again, but this node can in its place.
    pub fn able_to_confirm(&self, about: &NodeId) -> usize {
        let itself = self.get(about).is_some_and(Member::is_able_to_confirm);
        self.able - usize::from(itself)
    }

    /// Suspicions that wait for more than are left to confirm them fall to the least time.
    fn end_vain_waits(&mut self) {
        // no suspicion wants more than that: in a large cluster that is well nothing is looked at
        if self.able > CONFIRMATIONS_MAX as usize {
            return;
        }
        let all = self.suspicions.iter();
        let fallen: Vec<(u64, NodeId)> = all
            .filter(|(_, id)| {
                let mut suspicion = self.members.get(id).and_then(|m| m.suspicion().copied());
                let others = self.able_to_confirm(id);
                suspicion.as_mut().is_some_and(|s| s.others_are(others))
            })
            .cloned()
            .collect();
        for (before, id) in fallen {
            let others = self.able_to_confirm(&id);
            let member = self.members.get_mut(&id);
            if let Some(suspicion) = member.and_then(|m| m.dealings_mut().suspicion.as_mut()) {
                suspicion.others_are(others);
                let ends = suspicion.ends_ms();
                self.suspicions.remove(&(before, id.clone()));
                self.suspicions.insert((ends, id));
            }
        }
    }

    /// This node stood still for `ms`: every suspected member gets as much more.
    pub fn excuse_suspected(&mut self, ms: u64) {
        for (_, id) in std::mem::take(&mut self.suspicions) {
            let member = self.members.get_mut(&id);
            if let Some(suspicion) = member.and_then(|m| m.dealings_mut().suspicion.as_mut()) {
                suspicion.excuse(ms);
                self.suspicions.insert((suspicion.ends_ms(), id));
            }
        }
    }

    pub fn count(&self, status: MemberStatus) -> usize {
        self.counts[status as usize]
    }
}

/// A newer claim about the same member. A later life starts from nothing.
fn replace(member: &mut Member, state: Arc<MemberState>, now: Now) {
    if member.state.generation != state.generation {
        let in_rotation = member.in_rotation;
        *member = Member::new(state, now);
        member.in_rotation = in_rotation;
        return;
    }
    let news = claim::freshness(&member.state) != claim::freshness(&state);
    if (news || state.status == MemberStatus::Alive) && !member.accusers().is_empty() {
        member.dealings_mut().accusers.clear();
    }
    if member.state.status != state.status {
        // made before the time changes: it keeps since when the member is known
        member.dealings_mut();
        member.status_since_ms = now.ms;
    }
    member.state = state;
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
        use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
        for ids in [&list.reachable, &list.gone] {
            for (n, slot) in ids.iter().enumerate() {
                prop_assert_eq!(list.members.at(*slot).map(|m| m.place), Some(n as u32));
            }
        }
        for m in list.iter() {
            let among = |set: &[Slot]| {
                let ids = set.iter().filter_map(|slot| list.members.at(*slot));
                ids.filter(|other| other.state.id == m.state.id).count() == 1
            };
            let (reachable, gone) = (among(&list.reachable), among(&list.gone));
            prop_assert_eq!(reachable, m.state.status.is_reachable());
            prop_assert_eq!(
                gone,
                matches!(m.state.status, MemberStatus::Dead | MemberStatus::Stopped)
            );
            let ends = list.suspicions.iter().filter(|(_, i)| *i == m.state.id);
            let ends: Vec<u64> = ends.map(|(ends, _)| *ends).collect();
            let own = m.suspicion().map(Suspicion::ends_ms);
            prop_assert_eq!(ends, Vec::from_iter(own));
            if let Some(suspicion) = m.suspicion() {
                let others = list.able_to_confirm(&m.state.id);
                let waits = suspicion.confirmations() < suspicion.wanted();
                prop_assert!(!waits || others >= suspicion.wanted() as usize);
            }
        }
        let able = list.iter().filter(|m| m.is_able_to_confirm()).count();
        prop_assert_eq!(list.able, able);
        for status in [Alive, Suspected, Dead, Stopped, Left] {
            let held = list.iter().filter(|m| m.state.status == status).count();
            prop_assert_eq!(list.count(status), held);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn the_sets_follow_the_statuses(
            mult in 2..9u32,
            steps in prop::collection::vec((0..9usize, 0..7usize, 1..3u64), 1..60)
        ) {
            use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
            let mut list = MemberList::default();
            let config = GossipConfig {
                suspicion_mult: mult,
                ..GossipConfig::default()
            };
            for (n, (who, what, generation)) in steps.into_iter().enumerate() {
                let name = format!("n{who}");
                let status = [Alive, Suspected, Dead, Stopped, Left, Suspected].get(what);
                let Some(status) = status else {
                    list.remove(&id(&name));
                    check(&list)?;
                    continue;
                };
                let mut state = member(&name);
                state.status = *status;
                state.generation = generation;
                let now = at(n as u64);
                let others = list.able_to_confirm(&state.id);
                let begun = Suspicion::begin(&config, 10, others, now);
                let suspicion = (*status == Suspected).then_some(begun);
                list.put(Arc::new(state), now, suspicion);
                check(&list)?;
                match what {
                    0 => list.excuse_suspected(3),
                    1 => {
                        list.accuse(&id(&name), &id("x"));
                        check(&list)?;
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
        list.put(Arc::new(member("a")), at(1), None);
        let held = list.get_mut(&id("a")).expect("there");
        held.in_rotation = true;
        held.dealings_mut().heartbeat_seq = 9;
        held.dealings_mut().udp_blocked = true;
        let mut later = member("a");
        later.generation = 2;
        list.put(Arc::new(later), at(5), None);
        let held = list.get(&id("a")).expect("there");
        assert_eq!(held.heartbeat_seq(), 0);
        assert_eq!(held.last_seen_ms(), 5);
        assert!(!held.udp_blocked());
        assert!(held.in_rotation, "the rotation still holds it");
    }

    #[test]
    fn picks_are_distinct_and_fit() {
        let mut list = MemberList::default();
        for n in 0..30 {
            list.put(Arc::new(member(&format!("n{n}"))), at(0), None);
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

    #[test]
    fn a_member_one_has_nothing_to_do_with_is_small() {
        assert!(size_of::<Option<Member>>() <= 32);
    }

    #[test]
    fn changes_are_recorded_when_asked_for() {
        let mut list = MemberList::default();
        list.put(Arc::new(member("a")), at(1), None);
        assert!(list.take_recorded().is_empty());
        list.record();
        let mut dead = member("a");
        dead.status = MemberStatus::Dead;
        list.put(Arc::new(dead), at(2), None);
        list.remove(&id("a"));
        let held = |status| Some(((1, 0), status));
        let about = id("a");
        let (before, after) = (held(MemberStatus::Alive), held(MemberStatus::Dead));
        let expected = [
            Mutation {
                about: about.clone(),
                before,
                after,
            },
            Mutation {
                about,
                before: after,
                after: None,
            },
        ];
        assert_eq!(list.take_recorded(), expected);
    }
}
