//! When tombstones may be forgotten: the rules of `docs/protocol.md`, "Forgetting deleted keys".
//!
//! Pure: answers and times in, decisions out. Two checks of the same keys, at least a grace apart:
//! the first fixes the floor, the second proves that nobody lost anything in between.

use std::collections::{BTreeMap, BTreeSet};

use ringmaster_shared::{
    clock::Hlc,
    id::{Epoch, NodeId, PartitionId},
    key::Key,
};

use crate::replication::frames::TombstoneState;

/// Tombstones by key and fingerprint.
pub type Keys = Vec<(Key, u64)>;

/// What one member said of a list of tombstones, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub states: Vec<TombstoneState>,
    pub clock: Hlc,
    /// The grace that the member goes by.
    pub grace_ms: u64,
}

/// What all answers to one check come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Held by every replica, and hinted by nobody.
    pub confirmed: Keys,
    /// Who did not confirm everything, or did not answer.
    pub blockers: BTreeSet<NodeId>,
    /// Those of them that hold something else: comparing would help.
    pub behind: BTreeSet<NodeId>,
    /// The highest clock of those who answered.
    pub clock: Hlc,
    /// Whose clocks are more than a day apart, if any are: the one ahead and the one behind. Then
    /// nothing is confirmed: a floor above them all would be from the far future to who is right.
    pub apart: Option<(NodeId, NodeId)>,
    /// The longest grace of those who answered.
    pub grace_ms: u64,
}

/// Judges one check. `asked` are all members of the ring and whether each holds the partition;
/// who is missing in `answers`, or answered with another number of states, did not answer.
pub fn judge(
    keys: &Keys,
    asked: &BTreeMap<NodeId, bool>,
    answers: &BTreeMap<NodeId, Answer>,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut open = vec![true; keys.len()];
    for (member, is_replica) in asked {
        let answer = answers.get(member);
        let Some(answer) = answer.filter(|a| a.states.len() == keys.len()) else {
            verdict.blockers.insert(member.clone());
            open.fill(false);
            continue;
        };
        verdict.clock = verdict.clock.max(answer.clock);
        verdict.grace_ms = verdict.grace_ms.max(answer.grace_ms);
        for (open, state) in open.iter_mut().zip(&answer.states) {
            let fine = match state {
                TombstoneState::Holds => true,
                TombstoneState::Gone => !is_replica,
                TombstoneState::Differs | TombstoneState::Hinted => false,
            };
            if !fine {
                *open = false;
                verdict.blockers.insert(member.clone());
            }
            if *state == TombstoneState::Differs {
                verdict.behind.insert(member.clone());
            }
        }
    }
    verdict.apart = apart(answers);
    if let Some((ahead, behind)) = verdict.apart.clone() {
        verdict.blockers.extend([ahead, behind]);
        open.fill(false);
    }
    let keys = keys.iter().zip(open).filter(|(_, open)| *open);
    verdict.confirmed = keys.map(|(key, _)| key.clone()).collect();
    verdict
}

/// Who has the highest clock and who the lowest, when that one would refuse the other's stamps.
fn apart(answers: &BTreeMap<NodeId, Answer>) -> Option<(NodeId, NodeId)> {
    let (ahead, highest) = answers.iter().max_by_key(|(_, a)| a.clock)?;
    let (behind, lowest) = answers.iter().min_by_key(|(_, a)| a.clock)?;
    let absurd = highest.clock.is_absurd(lowest.clock.unix_ms());
    absurd.then(|| (ahead.clone(), behind.clone()))
}

/// Tombstones of a partition on their way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub keys: Keys,
    pub floor: Hlc,
    /// The longest grace of all members at the first check. Who loses its store starts with a floor
    /// that is a quarter of *its* grace old, so a shorter one would let this floor come too early.
    pub grace_ms: u64,
}

impl Pending {
    /// What the second check leaves of it; `None` when somebody goes by a longer grace than all did
    /// at the first: then it begins anew.
    pub fn confirmed_by(self, verdict: Verdict) -> Option<Self> {
        let lasts = verdict.grace_ms <= self.grace_ms && !verdict.confirmed.is_empty();
        lasts.then_some(Self {
            keys: verdict.confirmed,
            ..self
        })
    }
}

/// What has been confirmed once, by partition.
#[derive(Debug, Default)]
pub struct Book {
    grace_ms: u64,
    epoch: Epoch,
    pending: BTreeMap<PartitionId, Pending>,
    /// Who blocked the last check of a partition, and how many tombstones wait there.
    blocked: BTreeMap<PartitionId, (BTreeSet<NodeId>, u64)>,
}

impl Book {
    pub fn new(grace_ms: u64) -> Self {
        Self {
            grace_ms,
            ..Self::default()
        }
    }

    /// A check is worth nothing under another topology: everything starts over.
    pub fn enter(&mut self, epoch: Epoch) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.pending.clear();
            self.blocked.clear();
        }
    }

    /// The youngest stamp that may be asked about.
    pub fn until(&self, now_ms: u64) -> Hlc {
        Hlc::from_parts(now_ms.saturating_sub(self.grace_ms), 0)
    }

    pub fn is_pending(&self, partition: PartitionId) -> bool {
        self.pending.contains_key(&partition)
    }

    /// The first check: asked from `began` on (this node's clock), all answers there after
    /// `took_ms`. One that took long proves too little: what a member began since its answer
    /// could be above the floor.
    pub fn confirm(
        &mut self,
        partition: PartitionId,
        verdict: Verdict,
        began: Hlc,
        took_ms: u64,
        asked: usize,
    ) {
        self.note(partition, &verdict, asked);
        let grace_ms = self.grace_ms.max(verdict.grace_ms);
        if verdict.confirmed.is_empty() || took_ms > grace_ms / 4 {
            return;
        }
        let clock = began.max(verdict.clock);
        let floor = Hlc::from_parts(clock.unix_ms().saturating_add(grace_ms / 2), u16::MAX);
        let pending = Pending {
            keys: verdict.confirmed,
            floor,
            grace_ms,
        };
        self.pending.insert(partition, pending);
    }

    /// Remembers who blocks; `asked` tombstones were looked at.
    pub fn note(&mut self, partition: PartitionId, verdict: &Verdict, asked: usize) {
        let waiting = (asked - verdict.confirmed.len().min(asked)) as u64;
        if verdict.blockers.is_empty() {
            self.blocked.remove(&partition);
        } else {
            let blockers = verdict.blockers.clone();
            self.blocked.insert(partition, (blockers, waiting));
        }
    }

    /// No tombstone of this partition is old enough, or it is not this node's to ask.
    pub fn nothing_in(&mut self, partition: PartitionId) {
        self.blocked.remove(&partition);
    }

    /// Takes out what may be checked a second time and dropped: the floor is half a grace old on
    /// the wall clock, so that nothing that goes on now was issued below it.
    pub fn take_due(&mut self, now_ms: u64, limit: usize) -> Vec<(PartitionId, Pending)> {
        let due = |p: &Pending| p.floor.unix_ms().saturating_add(p.grace_ms / 2) <= now_ms;
        let partitions: Vec<PartitionId> = self
            .pending
            .iter()
            .filter(|(_, p)| due(p))
            .map(|(partition, _)| *partition)
            .take(limit)
            .collect();
        let due = partitions.into_iter();
        due.filter_map(|p| self.pending.remove_entry(&p)).collect()
    }

    /// Members that tombstones wait for, and how many wait.
    pub fn waiting(&self) -> (Vec<NodeId>, u64) {
        let mut members = BTreeSet::new();
        let mut count = 0;
        for (blockers, waiting) in self.blocked.values() {
            members.extend(blockers.iter().cloned());
            count += waiting;
        }
        (members.into_iter().collect(), count)
    }
}

/// A time during which tombstones wait for somebody; told once, when it has lasted.
#[derive(Debug, Default)]
pub struct Spell {
    since_ms: Option<u64>,
    told: bool,
}

impl Spell {
    /// `true` when this is to be told now.
    pub fn observe(&mut self, blocked: bool, now_ms: u64, patience_ms: u64) -> bool {
        if !blocked {
            *self = Self::default();
            return false;
        }
        let since = *self.since_ms.get_or_insert(now_ms);
        let tell = !self.told && now_ms.saturating_sub(since) >= patience_ms;
        self.told |= tell;
        tell
    }
}

#[cfg(test)]
mod tests {
    use TombstoneState::{Differs, Gone, Hinted, Holds};

    use super::*;
    use crate::replication::testing::id;

    fn keys(count: u64) -> Keys {
        (0..count)
            .map(|n| (Key::new(&format!("k{n}")).expect("valid"), n + 1))
            .collect()
    }

    type Said<'a> = Option<&'a [TombstoneState]>;
    /// What a, b and x say; confirmed keys; who blocks; who is behind.
    type Case<'a> = ([Said<'a>; 3], &'a [u64], &'a [&'a str], &'a [&'a str]);

    /// Two replicas, `a` and `b`, and a member that is none, `x`.
    fn judged(said: [Said<'_>; 3]) -> Verdict {
        let asked = [("a", true), ("b", true), ("x", false)].map(|(n, r)| (id(n), r));
        let answers = ["a", "b", "x"].iter().zip(said).filter_map(|(name, said)| {
            let states = said?.to_vec();
            let clock = Hlc(100);
            let grace_ms = 1000;
            let answer = Answer {
                states,
                clock,
                grace_ms,
            };
            Some((id(name), answer))
        });
        judge(&keys(2), &asked.into(), &answers.collect())
    }

    #[test]
    fn only_what_all_replicas_hold_and_nobody_owes_is_confirmed() {
        let both: Said<'_> = Some(&[Holds, Holds]);
        let none: Said<'_> = Some(&[Gone, Gone]);
        let cases: [Case<'_>; 8] = [
            ([both, both, none], &[1, 2], &[], &[]),
            ([both, Some(&[Holds, Differs]), none], &[1], &["b"], &["b"]),
            ([both, both, Some(&[Hinted, Gone])], &[2], &["x"], &[]),
            ([both, Some(&[Hinted, Hinted]), none], &[], &["b"], &[]),
            // a replica that holds nothing would take in what comes late
            ([both, Some(&[Gone, Holds]), none], &[2], &["b"], &[]),
            ([both, None, none], &[], &["b"], &[]),
            ([both, both, None], &[], &["x"], &[]),
            ([both, Some(&[Holds]), none], &[], &["b"], &[]),
        ];
        for (said, confirmed, blockers, behind) in cases {
            let verdict = judged(said);
            let fingerprints: Vec<u64> = verdict.confirmed.iter().map(|(_, f)| *f).collect();
            assert_eq!(fingerprints, confirmed, "{said:?}");
            let names = |list: &[&str]| list.iter().map(|n| id(n)).collect::<BTreeSet<_>>();
            assert_eq!(verdict.blockers, names(blockers), "{said:?}");
            assert_eq!(verdict.behind, names(behind), "{said:?}");
        }
    }

    #[test]
    fn clocks_a_day_apart_confirm_nothing() {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        const NOW: u64 = 100 * DAY;
        // the clocks of a, b and x; who is ahead of whom
        let cases = [
            ([NOW, NOW, NOW], None),
            ([NOW + DAY, NOW, NOW], None),
            ([NOW + DAY + 1, NOW, NOW + 1], Some(("a", "b"))),
            ([NOW + 3 * DAY, NOW + 3 * DAY, NOW], Some(("b", "x"))),
            ([NOW, NOW - 3 * DAY, NOW], Some(("x", "b"))),
        ];
        for (clocks, apart) in cases {
            let asked = [("a", true), ("b", true), ("x", false)].map(|(n, r)| (id(n), r));
            let answers = ["a", "b", "x"].iter().zip(clocks).map(|(name, clock)| {
                let states = match *name {
                    "x" => vec![Gone, Gone],
                    _ => vec![Holds, Holds],
                };
                let clock = Hlc::from_parts(clock, 0);
                let grace_ms = 1000;
                let answer = Answer {
                    states,
                    clock,
                    grace_ms,
                };
                (id(name), answer)
            });
            let verdict = judge(&keys(2), &asked.into(), &answers.collect());
            let named = apart.map(|(ahead, behind)| (id(ahead), id(behind)));
            assert_eq!(verdict.apart, named, "{clocks:?}");
            assert_eq!(verdict.confirmed.is_empty(), apart.is_some(), "{clocks:?}");
            let blockers = named.into_iter().flat_map(|(a, b)| [a, b]).collect();
            assert_eq!(verdict.blockers, blockers, "{clocks:?}");
            let mut book = Book::new(1000);
            book.confirm(7, verdict, Hlc::from_parts(clocks[0], 0), 0, 2);
            assert_eq!(book.is_pending(7), apart.is_none(), "{clocks:?}");
        }
    }

    fn all(clock: u64) -> Verdict {
        Verdict {
            confirmed: keys(2),
            clock: Hlc::from_parts(clock, 0),
            ..Verdict::default()
        }
    }

    #[test]
    fn a_floor_is_above_every_clock_and_half_a_grace_old_when_it_is_used() {
        let mut book = Book::new(1000);
        book.enter(4);
        assert_eq!(book.until(10_000), Hlc::from_parts(9_000, 0));
        book.confirm(7, all(10_400), Hlc::from_parts(10_000, 3), 250, 2);
        assert!(book.is_pending(7));
        assert!(book.take_due(11_399, 9).is_empty());
        let due = book.take_due(11_400, 9);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].1.floor, Hlc::from_parts(10_900, u16::MAX));
        assert_eq!(due[0].1.keys, keys(2));
        assert!(!book.is_pending(7), "taken");

        book.confirm(7, all(10), Hlc::from_parts(20_000, 0), 0, 2);
        let due = book.take_due(30_000, 9);
        assert_eq!(due[0].1.floor.unix_ms(), 20_500, "this node's clock counts");
    }

    #[test]
    fn the_longest_grace_of_all_members_counts() {
        let says = |graces: [u64; 2]| {
            let asked = [(id("a"), true), (id("b"), true)].into();
            let answers = ["a", "b"].iter().zip(graces).map(|(name, grace_ms)| {
                let answer = Answer {
                    states: vec![Holds, Holds],
                    clock: Hlc::from_parts(10_000, 0),
                    grace_ms,
                };
                (id(name), answer)
            });
            judge(&keys(2), &asked, &answers.collect())
        };
        let mut book = Book::new(1000);
        book.enter(4);
        book.confirm(7, says([1000, 6000]), Hlc::from_parts(10_000, 0), 0, 2);
        assert!(
            book.take_due(15_999, 9).is_empty(),
            "half of six seconds twice"
        );
        let due = book.take_due(16_000, 9);
        let pending = due[0].1.clone();
        assert_eq!(pending.floor.unix_ms(), 13_000);
        // somebody came back with a longer one
        assert_eq!(pending.clone().confirmed_by(says([1000, 6001])), None);
        assert_eq!(
            pending.clone().confirmed_by(says([1000, 2000])),
            Some(pending.clone())
        );
        assert_eq!(pending.confirmed_by(Verdict::default()), None);
    }

    #[test]
    fn slow_checks_and_other_epochs_start_over() {
        let mut book = Book::new(1000);
        book.enter(4);
        book.confirm(7, all(1), Hlc::from_parts(10_000, 0), 251, 2);
        assert!(!book.is_pending(7), "took too long");
        book.confirm(7, all(1), Hlc::from_parts(10_000, 0), 1, 2);
        book.enter(4);
        assert!(book.is_pending(7));
        book.enter(5);
        assert!(!book.is_pending(7));
        assert!(book.take_due(u64::MAX, 9).is_empty());
    }

    #[test]
    fn who_blocks_is_known_until_nothing_waits() {
        let mut book = Book::new(1000);
        book.enter(1);
        let blocked = |who: &str| Verdict {
            blockers: [id(who)].into(),
            ..Verdict::default()
        };
        book.note(1, &blocked("c"), 5);
        book.note(2, &blocked("b"), 3);
        book.note(3, &blocked("c"), 1);
        assert_eq!(book.waiting(), (vec![id("b"), id("c")], 9));
        book.nothing_in(2);
        book.confirm(1, all(1), Hlc::from_parts(9, 0), 1, 2);
        assert_eq!(book.waiting(), (vec![id("c")], 1));
        book.enter(2);
        assert_eq!(book.waiting(), (vec![], 0));
    }

    #[test]
    fn a_spell_is_told_once() {
        let mut spell = Spell::default();
        let told = [
            (true, 0, false),
            (true, 99, false),
            (true, 100, true),
            (true, 500, false),
            (false, 600, false),
            (true, 700, false),
            (true, 800, true),
        ];
        for (blocked, now, want) in told {
            assert_eq!(spell.observe(blocked, now, 100), want, "at {now}");
        }
    }
}
