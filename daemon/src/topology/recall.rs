//! When a voter that lost its whole data folder votes again.
//!
//! It has forgotten what it promised and accepted. Promises that no epoch gets a second, different
//! decision because such a voter votes again: it never votes twice on top of an epoch on which an
//! earlier life of it may have voted. Pure. Leaves to the driver: asking, pausing, writing down
//! what came of it ([`crate::identity::IdentityStore::recall_votes`]).
//!
//! **The rule.** It abstains on everything, and asks the other voters of the ring it goes by, of
//! epoch `e`: "do you go by this ring, and have you accepted nothing on top of it?" One that went on
//! to a later ring answers with that; one that itself abstains on `e` does not know; one that
//! accepted anything says so. When so many have said "nothing" that those who have not (itself
//! among them) are no majority, no earlier life of it went by a ring beyond `e`, so none voted on
//! one: it abstains through `e` and votes beyond.
//!
//! **Why.** Who does not abstain on an epoch has given every vote it ever gave on it in this folder
//! (the invariant, and for a folder that was never lost it holds by itself). Suppose that an earlier
//! life of `w` voted on top of an epoch beyond `e`. It went by that ring, so that was decided, and
//! so were all rings between; the successor of `e` was, by a majority `Q` of the voters of `e`, and
//! before that life ended. Those that said "nothing" are in every majority of the voters of `e`, so
//! one of them, `x`, is in `Q`. `x` said so after the question, so after the life of `w`, so after it
//! had accepted in `Q`. It goes by `e` still and does not abstain there: it would have remembered.
//! So there was no such life, and the invariant holds for `w` as well.
//!
//! **No promise is needed**, because all that matters happened before the question: what is
//! accepted and decided on `e` afterwards cannot have been known to a life that had ended. A slow
//! message of that life changes nothing either: it carries a vote that was given once, on top of `e`
//! or below, where `w` does not vote again. The hard case is an epoch `e + 1` on which that life alone
//! had accepted, with a proposer still waiting for one acceptance more: nobody else needs to know of
//! that vote, for that life went by `e + 1`, and a majority had accepted *that*, on top of `e`.
//!
//! **Where every voter is needed anyway** (one or two) it votes without asking: the others know what
//! was accepted. But it still abstains in what it answers to another that asks.
//!
//! **An only voter** never hears enough: nobody else can know what it decided, and who let it in may
//! know of less. An operator says that there is no later ring
//! ([`crate::topology::TopologyHandle::vote_again`]), or a member of one tells of it.

use std::collections::BTreeSet;

use ringmaster_shared::{
    id::{Epoch, NodeId},
    topology::Topology,
};

use super::{RegisterReply, RegisterRequest};
use crate::identity::AcceptorState;

/// Whether one that abstains through this epoch may not vote on top of `base`.
pub(super) fn is_barred(through: Epoch, base: &Topology) -> bool {
    base.epoch <= through && base.voter_majority() < base.voters().len()
}

/// What a voter that goes by the ring of epoch `base` answers to one that asks what it may have
/// voted there. `through`: what it abstains through itself.
pub(super) fn answer(
    base: Epoch,
    through: Epoch,
    remembered: Option<&AcceptorState>,
) -> RegisterReply {
    if base <= through {
        return RegisterReply::Behind { epoch: 0 };
    }
    RegisterReply::Recalled {
        accepted: remembered.is_some_and(|state| state.accepted.is_some()),
    }
}

/// For the operator: what `me`, which lost its folder, does not know, and who could tell it. Where
/// it is the only voter nobody can: another that is no voter may know less than an earlier life did.
pub(super) fn waits_for(base: &Topology, me: &NodeId) -> String {
    let mut others = base.voters();
    others.retain(|id| id != me);
    let epoch = base.epoch;
    let nor = if is_barred(Epoch::MAX, base) {
        ", nor votes on changes of the ring,"
    } else {
        ""
    };
    let lost = format!(
        "{me} lost its data folder and does not know whether it went by a later ring before: it \
         takes no writes{nor}"
    );
    if others.is_empty() {
        return format!(
            "{lost}. Nobody else voted on that of epoch {epoch}, so nobody can tell it. Start the \
             members that joined later, if there are any; if there are none: ringmaster refill {me} \
             --accept-loss"
        );
    }
    let others: Vec<&str> = others.iter().map(NodeId::as_str).collect();
    format!(
        "{lost} until enough of {} have said what they know. Start those that are down, and do not \
         empty another node before that",
        others.join(", ")
    )
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// Others are to be heard.
    More,
    /// No earlier life voted on top of an epoch beyond this one.
    Through(Epoch),
    /// This ring was decided meanwhile: ask its voters.
    Later(Topology),
}

/// One round of questions, about one ring.
#[derive(Debug, Clone)]
pub(super) struct Recall {
    base: Topology,
    me: NodeId,
    voters: BTreeSet<NodeId>,
    majority: usize,
    /// Those that go by the base, do not abstain there, and accepted nothing.
    clear: BTreeSet<NodeId>,
    /// Somebody accepted something.
    undecided: bool,
}

impl Recall {
    pub(super) fn new(base: Topology, me: NodeId) -> Self {
        Self {
            voters: base.voters().into_iter().collect(),
            majority: base.voter_majority(),
            base,
            me,
            clear: BTreeSet::new(),
            undecided: false,
        }
    }

    /// Whether somebody accepted what may never be decided, if nobody sees to it: then who did so
    /// never says "nothing", and this round may never come to its end.
    pub(super) fn is_undecided(&self) -> bool {
        self.undecided
    }

    pub(super) fn question(&self) -> RegisterRequest {
        RegisterRequest::Recall {
            base: self.base.clone(),
        }
    }

    /// Whom to ask: every voter but this node.
    pub(super) fn whom(&self) -> impl Iterator<Item = &NodeId> {
        self.voters.iter().filter(|id| **id != self.me)
    }

    /// Takes in an answer to this round's question. Doubled ones do no harm.
    pub(super) fn on_reply(&mut self, from: &NodeId, reply: RegisterReply) -> Heard {
        match reply {
            RegisterReply::Newer(ring) if ring.epoch > self.base.epoch => Heard::Later(ring),
            RegisterReply::Recalled { accepted: false }
                if *from != self.me && self.voters.contains(from) =>
            {
                self.clear.insert(from.clone());
                if self.voters.len() - self.clear.len() < self.majority {
                    return Heard::Through(self.base.epoch);
                }
                Heard::More
            }
            RegisterReply::Recalled { accepted: true } => {
                self.undecided = true;
                Heard::More
            }
            _ => Heard::More,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{
        Ballot,
        fixture::{id, topology},
    };

    const NOTHING: RegisterReply = RegisterReply::Recalled { accepted: false };

    #[test]
    fn who_has_not_answered_is_no_majority() {
        // voters, how many others must have accepted nothing; `None`: there never are enough
        let cases: [(&[&str], Option<usize>); 7] = [
            (&["a"], None),
            (&["a", "b"], Some(1)),
            (&["a", "b", "c"], Some(2)),
            (&["a", "b", "c", "d"], Some(2)),
            (&["a", "b", "c", "d", "e"], Some(3)),
            (&["a", "b", "c", "d", "e", "f"], Some(3)),
            (&["a", "b", "c", "d", "e", "f", "g"], Some(4)),
        ];
        for (names, want) in cases {
            let base = topology(5, names);
            let mut round = Recall::new(base.clone(), id("a"));
            assert_eq!(round.on_reply(&id("a"), NOTHING), Heard::More, "itself");
            assert_eq!(round.on_reply(&id("x"), NOTHING), Heard::More, "no voter");
            let others: Vec<NodeId> = round.whom().cloned().collect();
            assert_eq!(others.len(), names.len() - 1);
            let enough = others.iter().position(|other| {
                let heard = round.on_reply(other, NOTHING);
                assert!(matches!(heard, Heard::More | Heard::Through(5)));
                let doubled = round.on_reply(other, NOTHING);
                assert_eq!(doubled, heard, "{names:?}");
                heard != Heard::More
            });
            assert_eq!(enough.map(|at| at + 1), want, "{names:?}");
            if let Some(want) = want {
                // a majority of which this node was one shares a voter with those
                assert!(want + base.voter_majority() > names.len());
            }
        }
    }

    #[test]
    fn only_nothing_counts() {
        let mut round = Recall::new(topology(5, &["a", "b", "c"]), id("a"));
        let no_answers = [
            RegisterReply::Recalled { accepted: true },
            RegisterReply::Behind { epoch: 0 },
            RegisterReply::Promised { accepted: None },
            RegisterReply::Accepted,
            RegisterReply::Newer(topology(5, &["a", "b", "c"])),
        ];
        for reply in no_answers {
            for from in ["b", "c"] {
                assert_eq!(round.on_reply(&id(from), reply.clone()), Heard::More);
            }
            assert!(round.is_undecided());
        }
        let later = topology(6, &["a", "b", "c"]);
        let heard = round.on_reply(&id("b"), RegisterReply::Newer(later.clone()));
        assert_eq!(heard, Heard::Later(later));
    }

    #[test]
    fn an_only_voter_is_told_that_nobody_can_help() {
        let alone = waits_for(&topology(5, &["a"]), &id("a"));
        let command = "ringmaster refill a --accept-loss";
        assert!(
            alone.contains(command) && alone.contains("epoch 5"),
            "{alone}"
        );
        let among = waits_for(&topology(5, &["a", "b", "c"]), &id("a"));
        assert!(
            among.contains("enough of b, c have") && !among.contains("refill"),
            "{among}"
        );
    }

    #[test]
    fn who_abstains_does_not_know() {
        let mut state = AcceptorState::fresh(5);
        let abstains = RegisterReply::Behind { epoch: 0 };
        assert_eq!(answer(5, 0, None), NOTHING);
        assert_eq!(answer(5, 4, Some(&state)), NOTHING);
        assert_eq!(answer(5, 5, Some(&state)), abstains);
        assert_eq!(answer(5, Epoch::MAX, None), abstains);
        let ballot = Ballot {
            round: 1,
            node: id("b"),
            life: 1,
        };
        state.prepare(ballot.clone());
        assert_eq!(answer(5, 0, Some(&state)), NOTHING, "a promise is no vote");
        state.accept(ballot, topology(6, &["a"]));
        let accepted = RegisterReply::Recalled { accepted: true };
        assert_eq!(answer(5, 0, Some(&state)), accepted);
    }
}
