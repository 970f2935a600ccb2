//! Whom to try that does not answer: members that are gone, seeds, and members remembered from
//! earlier lives. For ever, and each in its turn.
//!
//! Promises: within a kind everything is tried once before anything is tried again, and the kinds
//! take turns, so however many dead addresses there are, each is tried within a known number of
//! attempts and a few good ones never drown among them. What could not be tried keeps its turn.

use std::collections::{HashSet, VecDeque};

use rand::{Rng, seq::SliceRandom};
use ringmaster_shared::id::NodeId;

use crate::gossip::{claim::ADDRESS_BYTES_MAX, members::MemberList};

/// Addresses kept to be tried; more than are ever remembered.
const CONTACTS_MAX: usize = 2048;
/// Attempts that could not be made and wait for the next round.
const POSTPONED_MAX: usize = 16;

/// An address to be tried until who answers there is a reachable member.
#[derive(Debug)]
struct Contact {
    address: String,
    seed: bool,
    /// Who answered there last; it may go by another address.
    answered_by: Option<NodeId>,
}

/// Who has its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Turn {
    Member(NodeId),
    Contact(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gone,
    Seed,
    Remembered,
}

const KINDS: [Kind; 3] = [Kind::Gone, Kind::Seed, Kind::Remembered];

#[derive(Debug, Default)]
pub struct Contacts {
    all: Vec<Contact>,
    known: HashSet<String>,
    /// By kind, those not yet tried in this round; the last is next.
    rounds: [Vec<Turn>; KINDS.len()],
    next_kind: usize,
    postponed: VecDeque<String>,
}

impl Contacts {
    /// Takes addresses in, but the node's own and those known.
    pub fn add(&mut self, addresses: impl IntoIterator<Item = String>, seed: bool, own: &str) {
        for address in addresses {
            let usable =
                address != own && !address.is_empty() && address.len() <= ADDRESS_BYTES_MAX;
            if usable && self.all.len() < CONTACTS_MAX && self.known.insert(address.clone()) {
                self.all.push(Contact {
                    address,
                    seed,
                    answered_by: None,
                });
            }
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Who answered at an address: a seed may know a member by another name of its host, or be
    /// this node itself.
    pub fn answered(&mut self, address: &str, by: &NodeId) {
        if !self.known.contains(address) {
            return;
        }
        if let Some(contact) = self.all.iter_mut().find(|c| c.address == address) {
            contact.answered_by = Some(by.clone());
        }
    }

    /// There was no room for an attempt: it is made up for in the next round.
    pub fn postpone(&mut self, address: String) {
        if self.postponed.len() < POSTPONED_MAX && !self.postponed.contains(&address) {
            self.postponed.push_back(address);
        }
    }

    /// Up to `attempts` distinct addresses, whose turn it is.
    pub fn next(
        &mut self,
        attempts: usize,
        me: &NodeId,
        members: &MemberList,
        rng: &mut impl Rng,
    ) -> Vec<String> {
        let mut chosen: Vec<String> = Vec::new();
        while chosen.len() < attempts
            && let Some(address) = self.postponed.pop_front()
        {
            chosen.push(address);
        }
        // one more turn for each kind, or two of them that share an address end it too soon
        for _ in 0..attempts + KINDS.len() {
            if chosen.len() >= attempts {
                break;
            }
            match self.next_one(me, members, rng) {
                Some(address) if chosen.contains(&address) => {}
                Some(address) => chosen.push(address),
                None => break,
            }
        }
        chosen
    }

    fn next_one(
        &mut self,
        me: &NodeId,
        members: &MemberList,
        rng: &mut impl Rng,
    ) -> Option<String> {
        for _ in KINDS {
            let kind = self.next_kind;
            self.next_kind = (kind + 1) % KINDS.len();
            if let Some(address) = self.next_of(kind, me, members, rng) {
                return Some(address);
            }
        }
        None
    }

    /// The next of a kind that is still to be tried; a new round begins when nobody is left.
    fn next_of(
        &mut self,
        kind: usize,
        me: &NodeId,
        members: &MemberList,
        rng: &mut impl Rng,
    ) -> Option<String> {
        while let Some(turn) = self.rounds[kind].pop() {
            if let Some(address) = self.still_to_be_tried(&turn, me, members) {
                return Some(address);
            }
        }
        let mut round = self.candidates(KINDS[kind], me, members);
        self.doubt_own_answers(kind, me);
        round.shuffle(rng);
        self.rounds[kind] = round;
        let turn = self.rounds[kind].pop()?;
        self.still_to_be_tried(&turn, me, members)
    }

    /// Where this node itself answered, another may the next time: a name can stand for many. That
    /// it was tried counts for one round only.
    fn doubt_own_answers(&mut self, kind: usize, me: &NodeId) {
        for contact in &mut self.all {
            let of_kind = contact.seed == (KINDS[kind] == Kind::Seed);
            if of_kind && contact.answered_by.as_ref() == Some(me) {
                contact.answered_by = None;
            }
        }
    }

    fn candidates(&self, kind: Kind, me: &NodeId, members: &MemberList) -> Vec<Turn> {
        if kind == Kind::Gone {
            let gone = members.gone();
            return gone.map(|m| Turn::Member(m.state.id.clone())).collect();
        }
        let of_kind = |c: &Contact| c.seed == (kind == Kind::Seed);
        if !self.all.iter().any(of_kind) {
            return Vec::new();
        }
        let reachable: HashSet<&str> = members
            .reachable()
            .map(|m| m.state.address.as_str())
            .collect();
        let open = self.all.iter().enumerate().filter(|(_, c)| {
            let settled = c.is_settled_by_name(me, members);
            of_kind(c) && !settled && !reachable.contains(c.address.as_str())
        });
        open.map(|(at, _)| Turn::Contact(at)).collect()
    }

    fn still_to_be_tried(&self, turn: &Turn, me: &NodeId, members: &MemberList) -> Option<String> {
        match turn {
            Turn::Member(id) => members
                .get(id)
                .filter(|m| m.is_gone())
                .map(|m| m.state.address.clone()),
            Turn::Contact(at) => {
                let contact = self.all.get(*at)?;
                let settled = contact.is_settled_by_name(me, members)
                    || members
                        .reachable()
                        .any(|m| m.state.address == contact.address);
                (!settled).then(|| contact.address.clone())
            }
        }
    }
}

impl Contact {
    /// Who answered there is a member that is reachable, or (for one round) this node itself.
    fn is_settled_by_name(&self, me: &NodeId, members: &MemberList) -> bool {
        self.answered_by.as_ref().is_some_and(|id| {
            let member = members.get(id);
            id == me || member.is_some_and(|m| m.state.status.is_reachable())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};
    use ringmaster_shared::member::MemberStatus;

    use super::{
        super::super::{
            claim::Now,
            testing::{id, member},
        },
        *,
    };

    fn names(prefix: &str, n: usize) -> Vec<String> {
        (0..n).map(|n| format!("{prefix}{n}:1")).collect()
    }

    fn list(gone: usize) -> MemberList {
        let mut list = MemberList::default();
        for n in 0..gone {
            let mut state = member(&format!("gone{n}"));
            state.status = MemberStatus::Dead;
            let now = Now { ms: 0, unix_ms: 0 };
            list.put(Arc::new(state), now, None);
        }
        list
    }

    #[test]
    fn contacts_are_distinct_bounded_and_not_this_node() {
        let mut contacts = Contacts::default();
        let given = ["a:1", "b:1", "a:1", "", "me:1"].map(String::from);
        contacts.add(given, true, "me:1");
        contacts.add(["b:1".to_owned()], false, "me:1");
        let addresses: Vec<_> = contacts.all.iter().map(|c| &c.address).collect();
        assert_eq!(addresses, ["a:1", "b:1"]);
        contacts.add(names("n", 2 * CONTACTS_MAX), false, "me:1");
        assert_eq!(contacts.all.len(), CONTACTS_MAX);
    }

    /// A thousand stale addresses do not keep the one seed or the one dead member from its turn,
    /// and each of them has one as well.
    #[test]
    fn a_thousand_stale_addresses_each_have_their_turn() {
        let (mut contacts, members) = (Contacts::default(), list(1));
        contacts.add(["seed:1".to_owned()], true, "me:1");
        contacts.add(names("stale", 1000), false, "me:1");
        let mut rng = SmallRng::seed_from_u64(1);
        let mut tried: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for attempt in 0..9_000 {
            let [address] = contacts
                .next(1, &id("me"), &members, &mut rng)
                .try_into()
                .expect("one attempt");
            tried.entry(address).or_default().push(attempt);
        }
        assert_eq!(tried.len(), 1002);
        for (address, attempts) in tried {
            let (times, gap) = match address.as_str() {
                "seed:1" | "gone0:1" => (3_000, 3),
                _ => (3, 2 * 3 * 1000),
            };
            assert_eq!(attempts.len(), times, "{address}");
            let gaps = attempts.windows(2).map(|w| w[1] - w[0]);
            assert!(gaps.max() <= Some(gap), "{address}: {attempts:?}");
        }
    }

    #[test]
    fn what_could_not_be_tried_comes_next() {
        let (mut contacts, members) = (Contacts::default(), list(0));
        contacts.add(names("a", 40), true, "me:1");
        let mut rng = SmallRng::seed_from_u64(1);
        let first = contacts.next(2, &id("me"), &members, &mut rng);
        for address in &first {
            contacts.postpone(address.clone());
            contacts.postpone(address.clone());
        }
        assert_eq!(contacts.next(2, &id("me"), &members, &mut rng), first);
        let third = contacts.next(2, &id("me"), &members, &mut rng);
        assert!(!third.contains(&first[0]), "once");
        for address in names("b", 1000) {
            contacts.postpone(address);
        }
        assert_eq!(contacts.postponed.len(), POSTPONED_MAX);
    }

    /// A name of many addresses leads to another of them the next time.
    #[test]
    fn a_seed_at_which_this_node_itself_answered_is_tried_again() {
        let (mut contacts, members) = (Contacts::default(), list(0));
        contacts.add(["svc:1".to_owned()], true, "me:1");
        let mut rng = SmallRng::seed_from_u64(1);
        let tried = (0..12).filter(|_| {
            let chosen = contacts.next(3, &id("me"), &members, &mut rng);
            for address in &chosen {
                contacts.answered(address, &id("me"));
            }
            chosen == ["svc:1"]
        });
        assert_eq!(tried.count(), 6, "every second round");
    }

    proptest! {
        /// Attempts are never more than allowed and never twice the same, and everything is tried
        /// within two rounds of its kind, whatever else is there.
        #[test]
        fn every_address_has_its_turn(
            gone in 0..12usize,
            seeds in 0..12usize,
            remembered in 0..12usize,
            attempts in 1..5usize,
            seed in any::<u64>(),
        ) {
            let (mut contacts, members) = (Contacts::default(), list(gone));
            contacts.add(names("s", seeds), true, "me:1");
            contacts.add(names("r", remembered), false, "me:1");
            let mut rng = SmallRng::seed_from_u64(seed);
            let all = gone + seeds + remembered;
            let mut missing: HashSet<String> = HashSet::new();
            missing.extend(names("gone", gone));
            missing.extend(names("s", seeds));
            missing.extend(names("r", remembered));
            let largest = gone.max(seeds).max(remembered);
            let rounds = (KINDS.len() * largest).div_ceil(attempts) + 1;
            for _ in 0..rounds {
                let chosen = contacts.next(attempts, &id("me"), &members, &mut rng);
                prop_assert!(chosen.len() <= attempts);
                prop_assert!(chosen.len() == attempts || attempts > 1 || all == 0);
                let distinct: HashSet<&String> = chosen.iter().collect();
                prop_assert_eq!(distinct.len(), chosen.len());
                for address in chosen {
                    missing.remove(&address);
                }
            }
            prop_assert!(missing.is_empty(), "after {rounds} rounds: {missing:?}");
        }
    }
}
