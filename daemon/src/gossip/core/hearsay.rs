//! What claims do: to the list, to this node's own incarnation, and to what is spread on.

use std::sync::Arc;

use ringmaster_shared::{
    id::{Generation, NodeId},
    member::MemberStatus,
};

use super::{Core, Happening, MEMBERS_MAX, Phase, Strain, Wants, broken::Broken, is_honest};
use crate::gossip::{
    MemberState,
    claim::{self, Claim, Now, Via},
    codec::Brief,
    rejected::Rejected,
};

/// How long a suspicion lasts depends on who else is there: of a list that is new to this node
/// those have to be known first.
fn the_suspected_last(
    states: impl IntoIterator<Item = Arc<MemberState>>,
) -> impl Iterator<Item = Arc<MemberState>> {
    let is_suspected = |state: &Arc<MemberState>| state.status == MemberStatus::Suspected;
    let (suspected, rest): (Vec<_>, Vec<_>) = states.into_iter().partition(is_suspected);
    rest.into_iter().chain(suspected)
}

/// What was held before a claim won; enough to say what changed.
struct Before {
    status: MemberStatus,
    generation: Generation,
    address: String,
    status_since_ms: u64,
    silent_ms: u64,
}

/// A node takes a later generation to refute what nothing else is above at most this often.
const NEXT_LIFE_GAP_MS: u64 = 1000;

impl Core {
    /// A member's own word about itself: in a packet, or as who exchanged lists.
    pub(super) fn take_own_word(&mut self, now: Now, state: Arc<MemberState>) {
        let from = state.id.clone();
        self.apply(now, Claim { state, from }, Via::Packet);
    }

    /// `from` spoke, as `said` (alive, or going): proof of life. Returns what it lacks.
    pub(super) fn hear(&mut self, now: Now, from: &Brief, said: MemberStatus) -> Wants {
        let Some(member) = self.members.get_mut(&from.id) else {
            return Wants {
                to_be_asked: true,
                ..Wants::default()
            };
        };
        let held = claim::freshness(&member.state);
        if held.0 == from.generation {
            member.dealings_mut().heartbeat_seq += 1;
            member.answered(now);
            if held.1 == from.incarnation && member.state.load != from.load {
                Arc::make_mut(&mut member.state).load = from.load;
            }
        }
        let status = member.state.status;
        // buddy messages can be switched off to compare; who is gone is told in any case
        let kept_from_it = status == MemberStatus::Suspected && !self.config.lifeguard.buddy;
        Wants {
            news_of_itself: (held, status) > (from.freshness(), said) && !kept_from_it,
            to_be_asked: from.freshness() > held,
            intro: false,
        }
    }

    /// Merges what a seed gave when it let this node in; who found whom dead is not known.
    pub fn welcome(&mut self, now: Now, states: Vec<Arc<MemberState>>) {
        for state in the_suspected_last(states.into_iter().take(MEMBERS_MAX)) {
            let from = state.id.clone();
            self.apply(now, Claim { state, from }, Via::Exchange);
        }
        if self.members.reachable_count() > 0 {
            self.knows_whom_to_greet();
        }
    }

    /// Merges the full list of `from`, got in an exchange.
    pub fn merge(&mut self, now: Now, from: &NodeId, states: Vec<Arc<MemberState>>) {
        if self.phase != Phase::Running {
            return;
        }
        self.last_ms = now.ms;
        let (own, others): (Vec<_>, Vec<_>) = states
            .into_iter()
            .take(MEMBERS_MAX)
            .partition(|s| s.id == *from && *from != self.local.id);
        for state in own {
            let brief = Brief::of(&state);
            if is_honest(&state, &brief) && claim::is_acceptable(&state, now.unix_ms) {
                let said = state.status;
                self.take_own_word(now, state);
                self.hear(now, &brief, said);
            } else {
                self.count_rejected(Rejected::Unacceptable);
            }
        }
        for state in the_suspected_last(others) {
            // who lists somebody as suspected need not have found it out itself, and must not
            // count as one accuser more; what it holds of this node it does hold
            let from = if state.id == self.local.id {
                from.clone()
            } else {
                state.id.clone()
            };
            self.apply(now, Claim { state, from }, Via::Exchange);
        }
    }

    /// Takes a claim in, if it wins.
    pub(super) fn apply(&mut self, now: Now, mut claim: Claim, mut via: Via) {
        // what this node finds out itself is about a state that was judged when it came in; a wall
        // clock that was set back since must not keep it from being told
        if via != Via::Own && !claim::is_acceptable(&claim.state, now.unix_ms) {
            return self.count_rejected(Rejected::Unacceptable);
        }
        if claim.state.id == self.local.id {
            return self.apply_to_self(now, &claim);
        }
        let held = self.members.get(&claim.state.id).map(|m| &m.state);
        if via == Via::Exchange {
            let status = claim::status_from_exchange(&claim.state, held.map(|h| &**h));
            if status != claim.state.status {
                Arc::make_mut(&mut claim.state).status = status;
                via = Via::HeldDead;
            }
        }
        match held {
            // for somebody unknown a tombstone has nothing to protect, and taking it in would
            // let it go round for ever
            None if claim.state.status == MemberStatus::Left => {}
            None => {
                if self.make_room(claim.state.status) {
                    self.accept(now, claim, via);
                } else {
                    self.count_rejected(Rejected::Unacceptable);
                }
            }
            Some(held)
                if claim::beats(&claim.state, held) || self.breaks(Broken::BelievesAnything) =>
            {
                self.accept(now, claim, via);
            }
            Some(held) => {
                let same = held.status == MemberStatus::Suspected
                    && claim.state.status == MemberStatus::Suspected
                    && claim::freshness(held) == claim::freshness(&claim.state);
                if same && claim.from != claim.state.id {
                    self.confirm(claim);
                }
            }
        }
    }

    /// Whether there is a place for one more. When the list is full of names that came and went,
    /// who is alive takes the place of who has been gone the longest. Only the living do: the
    /// dead that others list would else push each other out for ever.
    fn make_room(&mut self, status: MemberStatus) -> bool {
        if self.members.len() < MEMBERS_MAX {
            return true;
        }
        if status != MemberStatus::Alive {
            return false;
        }
        let Some(longest) = self.members.longest_gone().cloned() else {
            return false;
        };
        self.rumors.remove(&longest);
        self.members.remove(&longest);
        true
    }

    /// Somebody suspects a member that is suspected already. Who found it out for itself counts,
    /// and the first few that do are spread on like any news.
    fn confirm(&mut self, claim: Claim) {
        if self.members.confirm(&claim.state.id, &claim.from) {
            self.confirmed += 1;
            self.rumors.enqueue(claim);
        }
    }

    /// Stores a claim that won, spreads it, and says what changed.
    fn accept(&mut self, now: Now, claim: Claim, via: Via) {
        let id = claim.state.id.clone();
        let status = claim.state.status;
        let before = self.members.get(&id).map(|m| Before {
            status: m.state.status,
            generation: m.state.generation,
            address: m.state.address.clone(),
            status_since_ms: m.status_since_ms,
            silent_ms: m.silent_ms(now),
        });
        let suspicion = (status == MemberStatus::Suspected).then(|| match via {
            Via::HeldDead => self.suspicion_of(&id, now).without_confirmations(),
            _ => self.suspicion_of(&id, now),
        });
        let later_life = before
            .as_ref()
            .is_some_and(|b| b.generation < claim.state.generation);
        self.members.put(Arc::clone(&claim.state), now, suspicion);
        self.revision += 1;
        if later_life || !status.is_reachable() {
            self.forget_udp_of(&id);
        }
        let accused =
            matches!(status, MemberStatus::Suspected | MemberStatus::Dead) && claim.from != id;
        let timed_out_here = via == Via::Own && status == MemberStatus::Dead;
        if accused && !timed_out_here {
            self.members.accuse(&id, &claim.from);
        }
        if status.is_reachable() {
            self.put_into_rotation(&id);
        }
        self.tell_apart(now, &claim, before);
        if timed_out_here && self.members.count(MemberStatus::Alive) == 0 {
            // there is nobody to tell, and who comes to be there has heard more than this node:
            // the exchange of lists tells it, and leaves the member the time to refute
            self.rumors.remove(&id);
        } else {
            self.rumors.enqueue(claim);
        }
    }

    /// Turns a change of what is held into happenings.
    fn tell_apart(&mut self, now: Now, claim: &Claim, before: Option<Before>) {
        use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
        let state = &claim.state;
        let id = state.id.clone();
        let was = before.as_ref().map(|b| b.status);
        let later_life = before
            .as_ref()
            .is_some_and(|b| b.generation < state.generation);
        if let Some(b) = before.as_ref().filter(|b| b.address != state.address) {
            self.happened(Happening::AddressChanged {
                id: id.clone(),
                from: b.address.clone(),
                to: state.address.clone(),
            });
        }
        match (was, state.status) {
            (None | Some(Left), Alive) => {
                let address = state.address.clone();
                self.happened(Happening::Joined { id, address });
            }
            (Some(was), Alive) => {
                if later_life {
                    let id = id.clone();
                    self.happened(Happening::Restarted { id, was });
                }
                let went = matches!(was, Dead | Stopped);
                if went || (was == Suspected && !later_life) {
                    let since = before.map_or(now.ms, |b| b.status_since_ms);
                    let after_ms = now.ms.saturating_sub(since);
                    self.happened(Happening::Returned { id, was, after_ms });
                }
            }
            (Some(was), status) if was == status && !later_life => {}
            (_, Suspected) => {
                let held = self.members.get(&id).and_then(|m| m.suspicion());
                let (wait_ms, least_ms) = held.map_or((0, 0), |s| {
                    (s.ends_ms().saturating_sub(now.ms), s.least_ms())
                });
                let by = claim.from.clone();
                self.happened(Happening::Suspected {
                    id,
                    by,
                    wait_ms,
                    least_ms,
                });
            }
            (_, Dead) => {
                let held = self.members.get(&id);
                let accusers = held.map(|m| m.accusers().to_vec()).unwrap_or_default();
                let silent_ms = before.map_or(0, |b| b.silent_ms);
                self.happened(Happening::Dead {
                    id,
                    accusers,
                    silent_ms,
                });
            }
            (_, Stopped) => self.happened(Happening::Stopped { id }),
            (_, Left) => self.happened(Happening::Left { id }),
        }
    }

    /// What others say of this node. Bad news in this life is refuted by a higher incarnation, or
    /// a later generation where there is none (the process goes on, and nobody is locked out);
    /// news of an earlier life is outdated, and the present one is told again; news of a later
    /// life means that another process has taken this node's name.
    fn apply_to_self(&mut self, now: Now, claim: &Claim) {
        let theirs = &claim.state;
        if theirs.generation > self.local.generation {
            return self.superseded(&theirs.address, theirs.generation);
        }
        if theirs.generation < self.local.generation {
            if !self.rumors.contains(&self.local.id) {
                self.spread_self();
            }
            return;
        }
        if self.breaks(Broken::NeverRefutes) {
            return;
        }
        if self.breaks(Broken::BelievesItsAccusers) {
            Arc::make_mut(&mut self.local).status = theirs.status;
            return;
        }
        let accused = theirs.status != MemberStatus::Alive;
        let above = theirs.incarnation > self.local.incarnation;
        if above || (accused && theirs.incarnation == self.local.incarnation) {
            let next = self.own_above(claim::freshness(theirs));
            let Some(next) = next.filter(|next| self.may_live_as(now, next.0)) else {
                return;
            };
            let local = Arc::make_mut(&mut self.local);
            (local.generation, local.incarnation) = next;
            self.spread_self();
            if accused {
                if matches!(theirs.status, MemberStatus::Suspected | MemberStatus::Dead) {
                    self.health.strained(now, Strain::RefutedItself, 1);
                }
                self.happened(Happening::SelfRefuted {
                    by: claim.from.clone(),
                    claimed: theirs.status,
                    incarnation: self.local.incarnation,
                });
            }
        }
    }

    /// Whether this node may refute as of that generation: no matter how often in the present one,
    /// but later ones have to stay behind the clock, by which the next start of the process takes
    /// its own. Who is not heard now is told again what is held of it.
    fn may_live_as(&mut self, now: Now, generation: Generation) -> bool {
        let may = generation == self.local.generation || now.ms >= self.next_life_ms;
        if may && generation != self.local.generation {
            self.next_life_ms = now.ms + NEXT_LIFE_GAP_MS;
        }
        may
    }

    pub(super) fn superseded(&mut self, address: &str, generation: Generation) {
        if self.superseded_by.is_none_or(|known| known < generation) {
            self.superseded_by = Some(generation);
            self.happened(Happening::Superseded {
                address: address.to_owned(),
                generation,
            });
        }
    }

    /// This node got no answer from the member.
    pub(super) fn suspect(&mut self, now: Now, id: &NodeId) {
        let Some(member) = self.members.get(id) else {
            return;
        };
        let state = MemberState {
            status: MemberStatus::Suspected,
            incarnation: member.state.incarnation
                + u64::from(self.breaks(Broken::InventsIncarnations)),
            ..(*member.state).clone()
        };
        let state = Arc::new(state);
        let from = self.local.id.clone();
        self.apply(now, Claim { state, from }, Via::Own);
    }

    /// Suspected members whose time is up are dead.
    pub(super) fn end_suspicions(&mut self, now: Now) {
        for _ in 0..MEMBERS_MAX {
            let Some(member) = self.members.overdue_suspicion(now) else {
                return;
            };
            let state = MemberState {
                status: MemberStatus::Dead,
                ..(*member.state).clone()
            };
            let state = Arc::new(state);
            let me = &self.local.id;
            let accusers = member.accusers();
            let from = match accusers.first() {
                Some(first) if !accusers.contains(me) => first.clone(),
                _ => me.clone(),
            };
            self.apply(now, Claim { state, from }, Via::Own);
        }
    }
}
