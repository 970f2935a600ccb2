//! Whose UDP does not get through: a member's, or this node's own.
//!
//! A probe that TCP alone answered is a sign that UDP is blocked somewhere between this node and
//! that member; lost packets look the same, so signs are counted until they mean something. When
//! nobody answers over UDP any more, the fault is rather this node's than everybody else's.
//! Promises: each is found once and its end is found once; a member is not blamed while it may be
//! this node's own UDP; the list is no longer than the members that lately answered over TCP only.
//!
//! Pure bookkeeping; `probing.rs` tells how probes ended, `catching_up.rs` does what follows.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_shared::id::NodeId;

/// So many probes of a member in a row that TCP alone answered, and so many requests over UDP
/// lost in them, the direct ones and those through others, mean that its UDP is blocked: where
/// a tenth of all packets is lost, that happens by chance to nobody in days.
const PROBES_MEAN_BLOCKED: u32 = 3;
const LOST_MEANS_BLOCKED: u32 = 8;
/// So many members in a row, without an answer over UDP by anybody, make this node fetch the news
/// over TCP; one that has fewer others needs them all.
const ROW_MEANS_DEAF: usize = 3;
/// And so many until it says that its own UDP is blocked: where half of all links let no UDP
/// through, three in a row are met every few seconds.
const ROW_MEANS_OWN: usize = 16;

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    Blocked {
        id: NodeId,
    },
    Open {
        id: NodeId,
        after_ms: u64,
    },
    /// Nobody answers over UDP; so many in a row did over TCP alone.
    OwnBlocked {
        over_tcp: usize,
    },
    OwnOpen {
        after_ms: u64,
    },
}

/// A member that TCP alone reaches.
#[derive(Debug)]
struct Signs {
    since_ms: u64,
    probes: u32,
    /// Requests over UDP that were lost in them.
    lost: u32,
    said: bool,
    /// The revision of this node's list that it got, or sent its own to.
    caught_up: Option<u64>,
    /// That of an exchange under way.
    exchanging: Option<u64>,
    /// That of the latest exchange which the member began.
    answered: Option<u64>,
}

impl Signs {
    fn are_enough(&self) -> bool {
        self.probes >= PROBES_MEAN_BLOCKED && self.lost >= LOST_MEANS_BLOCKED
    }
}

#[derive(Debug, Default)]
pub struct Udp {
    members: BTreeMap<NodeId, Signs>,
    /// The last answer over UDP, by anybody.
    answered_ms: Option<u64>,
    /// Members that TCP alone answered for since, as many as matter.
    row: BTreeSet<NodeId>,
    /// When the first of these probes began.
    row_since_ms: u64,
    /// Requests lost in them.
    row_lost: u32,
    /// Since when this node's own UDP is said to be blocked.
    own_since_ms: Option<u64>,
}

impl Udp {
    /// A probe that began at `began_ms` was answered by TCP alone, after `lost` requests over UDP.
    /// `others`: reachable members.
    pub fn only_tcp(
        &mut self,
        id: &NodeId,
        began_ms: u64,
        lost: u32,
        others: usize,
    ) -> Vec<Finding> {
        let signs = self.members.entry(id.clone()).or_insert(Signs {
            since_ms: began_ms,
            probes: 0,
            lost: 0,
            said: false,
            caught_up: None,
            exchanging: None,
            answered: None,
        });
        signs.probes = signs.probes.saturating_add(1);
        signs.lost = signs.lost.saturating_add(lost);
        // of whom it is known to be their fault, nothing can be concluded
        if !signs.said {
            if self.row.is_empty() {
                self.row_since_ms = began_ms;
            }
            if self.row.len() < ROW_MEANS_OWN {
                self.row.insert(id.clone());
            }
            self.row_lost = self.row_lost.saturating_add(lost);
        }
        let mut found = self.say_whom_it_concerns(others);
        let own = others >= 2 && self.own_since_ms.is_none();
        if own && self.nobody_answers(others, ROW_MEANS_OWN) {
            self.own_since_ms = Some(self.row_since_ms);
            let over_tcp = self.row.len();
            found.push(Finding::OwnBlocked { over_tcp });
        }
        found
    }

    /// A probe of the member was answered over UDP, by itself or through others.
    pub fn answered(&mut self, now_ms: u64, id: &NodeId, others: usize) -> Vec<Finding> {
        self.answered_ms = Some(now_ms);
        self.row.clear();
        self.row_lost = 0;
        let mut found = Vec::new();
        if let Some(since) = self.own_since_ms.take() {
            let after_ms = now_ms.saturating_sub(since);
            found.push(Finding::OwnOpen { after_ms });
            // what was held of the others came of the same cause
            self.members.retain(|_, signs| signs.said);
        }
        if let Some(signs) = self.members.remove(id).filter(|s| s.said) {
            let after_ms = now_ms.saturating_sub(signs.since_ms);
            let id = id.clone();
            found.push(Finding::Open { id, after_ms });
        }
        found.extend(self.say_whom_it_concerns(others));
        found
    }

    /// Those not blamed yet that others' answers over UDP do tell apart from this node.
    fn say_whom_it_concerns(&mut self, others: usize) -> Vec<Finding> {
        let answered_ms = self.answered_ms;
        let new = self.members.iter_mut().filter(|(_, signs)| {
            let apart = others <= 1 || answered_ms.is_some_and(|a| a > signs.since_ms);
            !signs.said && signs.are_enough() && apart
        });
        new.map(|(id, signs)| {
            signs.said = true;
            Finding::Blocked { id: id.clone() }
        })
        .collect()
    }

    /// Whether no member is doubted.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A later life of it, or nobody's: nothing is held against it.
    pub fn forget(&mut self, id: &NodeId) {
        self.members.remove(id);
    }

    /// Whether nothing this node says over UDP seems to reach the member.
    pub fn is_blocked(&self, id: &NodeId) -> bool {
        self.members.get(id).is_some_and(Signs::are_enough)
    }

    /// Whether the member had better be probed once more at once, to tell a blocked path from lost
    /// packets. When several do not answer it is not about this one.
    pub fn is_to_be_probed_again(&self, id: &NodeId) -> bool {
        let doubted = self.members.get(id).is_some_and(|s| !s.are_enough());
        doubted && self.row.len() <= 1
    }

    /// All that [`Self::is_blocked`] holds for.
    pub fn blocked(&self) -> impl Iterator<Item = &NodeId> {
        let blocked = self.members.iter();
        blocked
            .filter(|(_, signs)| signs.are_enough())
            .map(|(id, _)| id)
    }

    /// Whether nobody of the last few answered over UDP, so that no news may come that way.
    pub fn is_deaf(&self, others: usize) -> bool {
        self.nobody_answers(others, ROW_MEANS_DEAF)
    }

    /// Whether `enough` members in a row did not, or all there are, but those of whom it is known
    /// to be their own fault.
    fn nobody_answers(&self, others: usize, enough: usize) -> bool {
        let said = self.members.values().filter(|signs| signs.said).count();
        let open = others.saturating_sub(said);
        let lost = open == 0 || self.row_lost >= LOST_MEANS_BLOCKED;
        others > 0 && self.row.len() >= open.min(enough) && lost
    }

    /// Since when this node's own UDP is held blocked.
    pub fn own_blocked_since_ms(&self) -> Option<u64> {
        self.own_since_ms
    }

    pub fn own_is_blocked(&self) -> bool {
        self.own_since_ms.is_some()
    }

    /// This node's list as of `revision` is on its way to the member.
    pub fn exchange_begins(&mut self, id: &NodeId, revision: u64) {
        if let Some(signs) = self.members.get_mut(id) {
            signs.exchanging = Some(revision);
        }
    }

    /// The member began an exchange itself, and what differs was answered from this node's list
    /// as of then; nothing did, if there is none.
    pub fn is_answered(&mut self, id: &NodeId, revision: Option<u64>) {
        if let Some(signs) = self.members.get_mut(id) {
            signs.answered = revision;
        }
    }

    /// Lists were exchanged with it: this node's of when either of them began that, or else of now.
    pub fn exchanged(&mut self, id: &NodeId, revision: u64) {
        if let Some(signs) = self.members.get_mut(id) {
            let began = signs.exchanging.take().or(signs.answered);
            signs.caught_up = Some(began.unwrap_or(revision));
        }
    }

    /// Whether the member did not get this node's list as of `revision`.
    pub fn lacks(&self, id: &NodeId, revision: u64) -> bool {
        let signs = self.members.get(id);
        signs.is_some_and(|s| s.caught_up.is_none_or(|caught_up| caught_up < revision))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::testing::id, *};

    fn blocked(name: &str) -> Finding {
        Finding::Blocked { id: id(name) }
    }

    /// Hands `udp` one probe a second that TCP alone answered, `lost` requests each, from `n` on.
    fn only_tcp(
        udp: &mut Udp,
        seconds: std::ops::Range<u64>,
        name: &str,
        lost: u32,
    ) -> Vec<Finding> {
        let found = seconds.map(|n| udp.only_tcp(&id(name), 1_000 * n, lost, 4));
        found.collect::<Vec<_>>().concat()
    }

    #[test]
    fn a_member_is_blamed_when_another_answers_over_udp() {
        let mut udp = Udp::default();
        assert_eq!(udp.answered(500, &id("b"), 4), []);
        assert_eq!(only_tcp(&mut udp, 1..4, "c", 2), []);
        assert!(!udp.is_blocked(&id("c")) && udp.is_to_be_probed_again(&id("c")));
        assert_eq!(only_tcp(&mut udp, 4..5, "c", 2), [], "it may be this node");
        assert!(udp.is_blocked(&id("c")) && !udp.is_to_be_probed_again(&id("c")));
        assert_eq!(udp.answered(5_500, &id("b"), 4), [blocked("c")]);
        assert_eq!(only_tcp(&mut udp, 6..9, "c", 2), [], "said once");
        let open = Finding::Open {
            id: id("c"),
            after_ms: 9_000,
        };
        assert_eq!(udp.answered(10_000, &id("c"), 4), [open], "and its end");
        assert_eq!(udp.answered(11_000, &id("c"), 4), []);
        assert!(!udp.is_blocked(&id("c")) && udp.is_empty());
    }

    #[test]
    fn when_nobody_answers_it_is_this_node() {
        let mut udp = Udp::default();
        for (n, name) in ["b", "c", "d", "e"].into_iter().enumerate() {
            assert_eq!(udp.is_deaf(4), n >= 3, "after {n}");
            assert!(!udp.own_is_blocked());
            let found = udp.only_tcp(&id(name), 1_000 * n as u64, 4, 4);
            let own = Finding::OwnBlocked { over_tcp: 4 };
            assert_eq!(found, if n == 3 { vec![own] } else { vec![] });
        }
        assert_eq!(only_tcp(&mut udp, 4..6, "b", 4), []);
        assert!(udp.own_is_blocked() && udp.is_blocked(&id("b")));
        assert_eq!(udp.own_blocked_since_ms(), Some(0), "the first of the row");
        let own_open = Finding::OwnOpen { after_ms: 9_000 };
        assert_eq!(udp.answered(9_000, &id("c"), 4), [own_open]);
        assert!(!udp.is_deaf(4) && !udp.own_is_blocked());
        assert_eq!(udp.blocked().count(), 0, "the others were not to blame");
    }

    #[test]
    fn of_two_nodes_each_names_the_other() {
        let mut udp = Udp::default();
        let probes = (0..20).map(|n| udp.only_tcp(&id("b"), 1_000 * n, 1, 1));
        assert_eq!(probes.collect::<Vec<_>>().concat(), [blocked("b")]);
    }

    #[test]
    fn in_a_large_cluster_a_few_silent_ones_do_not_make_it_this_node() {
        let mut udp = Udp::default();
        for n in 0..15 {
            let found = udp.only_tcp(&id(&format!("n{n}")), 1_000 * n, 4, 500);
            assert_eq!(found, []);
        }
        assert!(udp.is_deaf(500), "but it looks for news");
        let found = udp.only_tcp(&id("n15"), 15_000, 4, 500);
        assert_eq!(
            found,
            [Finding::OwnBlocked { over_tcp: 16 }],
            "who was asked"
        );
    }

    #[test]
    fn losses_now_and_then_mean_nothing() {
        let mut udp = Udp::default();
        for n in 0..100 {
            assert_eq!(only_tcp(&mut udp, 10 * n..10 * n + 2, "b", 4), []);
            assert_eq!(udp.answered(10_000 * n + 3_000, &id("b"), 4), []);
            assert!(!udp.is_deaf(4));
        }
    }

    #[test]
    fn news_is_lacked_until_an_exchange_that_began_after_it() {
        let mut udp = Udp::default();
        only_tcp(&mut udp, 0..3, "b", 4);
        assert!(udp.lacks(&id("b"), 10) && !udp.lacks(&id("a"), 10));
        udp.exchange_begins(&id("b"), 20);
        udp.exchanged(&id("b"), 30);
        assert!(!udp.lacks(&id("b"), 20));
        assert!(udp.lacks(&id("b"), 25), "came while it was under way");
        udp.exchanged(&id("b"), 40);
        assert!(!udp.lacks(&id("b"), 25), "it asked by itself");
        udp.forget(&id("b"));
        assert!(!udp.lacks(&id("b"), 50));
    }

    proptest! {
        /// Whatever comes in whatever order: what is said to begin is said to end before it is
        /// said to begin again, and one answer by each ends all.
        #[test]
        fn beginnings_and_ends_alternate(
            steps in prop::collection::vec((0..4usize, any::<bool>(), 1..5u32), 0..120),
        ) {
            let names = ["a", "b", "c", "d"].map(id);
            let (mut udp, mut own, mut held) = (Udp::default(), false, [false; 4]);
            let ends = names.iter().enumerate().map(|(n, _)| (n, true, 0));
            for (at, (n, answered, lost)) in (0u64..).zip(steps.into_iter().chain(ends)) {
                let found = if answered {
                    udp.answered(at, &names[n], 4)
                } else {
                    udp.only_tcp(&names[n], at, lost, 4)
                };
                for finding in found {
                    let place = |of: &NodeId| names.iter().position(|x| x == of).expect("known");
                    match finding {
                        Finding::Blocked { id } => {
                            let before = std::mem::replace(&mut held[place(&id)], true);
                            prop_assert!(!before);
                        }
                        Finding::Open { id, .. } => {
                            let before = std::mem::replace(&mut held[place(&id)], false);
                            prop_assert!(before);
                        }
                        Finding::OwnBlocked { .. } => {
                            prop_assert!(!std::mem::replace(&mut own, true));
                        }
                        Finding::OwnOpen { .. } => {
                            prop_assert!(std::mem::replace(&mut own, false));
                        }
                    }
                }
            }
            prop_assert!(!own && held == [false; 4]);
            prop_assert_eq!(udp.blocked().count(), 0);
        }
    }
}
