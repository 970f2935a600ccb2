//! Remembers between two looks: since when each problem lasts, and counts that need not be
//! counted again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringmaster_shared::{
    api::{
        health::Problem,
        ring::{RingResponse, ring_response},
    },
    id::NodeId,
    quorum::{PartitionCounts, partition_counts},
    topology::Topology,
};

use super::{Finding, available, unfilled::Unfilled};
use crate::{gossip::MemberView, time::timestamp_of_ms};

#[derive(Default)]
pub struct Keeper {
    first_seen_ms: BTreeMap<(&'static str, Option<NodeId>), u64>,
    ring: Option<KnownRing>,
    counts: Option<(Arc<Topology>, BTreeSet<NodeId>, PartitionCounts)>,
    unfilled: Unfilled,
}

/// A topology with what is derived from it alone.
#[derive(Clone)]
pub struct KnownRing {
    pub topology: Arc<Topology>,
    pub digest: u64,
    pub response: Arc<RingResponse>,
}

impl Keeper {
    pub fn ring(&mut self, topology: &Arc<Topology>) -> KnownRing {
        match &self.ring {
            Some(known) if Arc::ptr_eq(&known.topology, topology) => known.clone(),
            _ => {
                let known = KnownRing {
                    topology: topology.clone(),
                    digest: topology.digest(),
                    response: Arc::new(ring_response(topology)),
                };
                self.ring = Some(known.clone());
                known
            }
        }
    }

    /// See [`available`]; a node that goes down while it gets its data back has no more of it than
    /// before.
    pub fn available(&mut self, members: &[MemberView]) -> BTreeSet<NodeId> {
        let unfilled = self.unfilled.look(members);
        let mut there = available(members);
        there.retain(|id| !unfilled.contains(id));
        there
    }

    pub fn counts(
        &mut self,
        topology: &Arc<Topology>,
        available: &BTreeSet<NodeId>,
    ) -> PartitionCounts {
        if let Some((known, who, counts)) = &self.counts
            && Arc::ptr_eq(known, topology)
            && who == available
        {
            return *counts;
        }
        let counts = partition_counts(topology, available);
        self.counts = Some((topology.clone(), available.clone(), counts));
        counts
    }

    /// Turns findings into problems that say since when; forgets those that are gone.
    pub fn problems(&mut self, findings: Vec<Finding>, now_ms: u64) -> Vec<Problem> {
        let mut seen = BTreeMap::new();
        let mut problems = Vec::new();
        for f in findings {
            let key = (f.code, f.subject.clone());
            let first = self.first_seen_ms.get(&key).copied().unwrap_or(now_ms);
            seen.insert(key, first);
            if now_ms.saturating_sub(first) >= f.after_ms {
                problems.push(Problem {
                    code: f.code.to_owned(),
                    severity: f.severity,
                    message: f.message,
                    since: f.since.unwrap_or_else(|| timestamp_of_ms(first)),
                });
            }
        }
        self.first_seen_ms = seen;
        problems.sort_by_key(|p| (std::cmp::Reverse(p.severity), p.since));
        problems
    }
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::{
        event::Severity,
        member::{Lifecycle, MemberStatus},
    };

    use super::*;
    use crate::health::tests::{id, member, topology};

    fn finding(code: &'static str, after_ms: u64) -> Finding {
        Finding {
            code,
            subject: None,
            severity: Severity::Warning,
            message: String::new(),
            since: None,
            after_ms,
        }
    }

    #[test]
    fn problems_keep_their_age_until_they_are_gone() {
        let mut keeper = Keeper::default();
        let look = |k: &mut Keeper, now| {
            let problems = k.problems(vec![finding("A", 0), finding("B", 500)], now);
            problems.into_iter().map(|p| p.code).collect::<Vec<_>>()
        };
        assert_eq!(look(&mut keeper, 1_000), ["A"]);
        assert_eq!(look(&mut keeper, 1_500), ["A", "B"]);
        let since = |k: &Keeper| k.first_seen_ms.get(&("A", None)).copied();
        assert_eq!(since(&keeper), Some(1_000));
        keeper.problems(Vec::new(), 2_000);
        assert_eq!(look(&mut keeper, 3_000), ["A"]);
        assert_eq!(since(&keeper), Some(3_000));
    }

    #[test]
    fn who_drains_before_its_data_is_back_does_not_count() {
        use Lifecycle::{Draining, Joining, Recovering, Serving};
        let mut keeper = Keeper::default();
        let mut look = |lifecycle, generation| {
            let mut b = member("b", MemberStatus::Alive, lifecycle);
            Arc::make_mut(&mut b.state).generation = generation;
            let a = member("a", MemberStatus::Alive, Serving);
            keeper.available(&[a, b]).contains(&id("b"))
        };
        assert!(look(Serving, 1) && look(Draining, 1));
        assert!(!look(Recovering, 2) && !look(Draining, 2) && !look(Draining, 2));
        // a later life is judged by what it says itself
        assert!(look(Draining, 3));
        assert!(!look(Recovering, 3) && look(Serving, 3) && look(Draining, 3));
        assert!(!look(Recovering, 4) && look(Joining, 5));
    }

    #[test]
    fn counts_follow_who_is_there() {
        let mut keeper = Keeper::default();
        let t = Arc::new(topology(&["a", "b", "c"]));
        let two = [id("a"), id("b")].into();
        assert_eq!(keeper.counts(&t, &two).quorum, 4);
        assert_eq!(keeper.counts(&t, &[id("a")].into()).unavailable, 4);
        assert_eq!(keeper.ring(&t).digest, t.digest());
        let mut later = (*t).clone();
        later.epoch += 1;
        assert_eq!(keeper.ring(&Arc::new(later)).response.epoch, 4);
    }
}
