//! What the record of a key becomes with one that comes in, and when that can be said without reading
//! the values that are here. Pure.

use ringmaster_shared::version::{Record, VersionVector};

/// The join, when it knows more than `current`.
pub(super) fn joined(current: Option<&Record>, incoming: Record) -> Option<Record> {
    let Some(current) = current else {
        let knows_something = !incoming.clock.is_empty() || !incoming.siblings.is_empty();
        return knows_something.then_some(incoming);
    };
    let merged = current.merge(&incoming);
    (merged != *current).then_some(merged)
}

/// Whether the join with a record that knows `clock` is `incoming` itself: it knows all that, and each
/// of its siblings is news. No sibling of the other can stay: a record's vector covers them all.
pub(super) fn supersedes(incoming: &Record, clock: &VersionVector) -> bool {
    let mut siblings = incoming.siblings.iter();
    incoming.clock.dominates(clock)
        && !incoming.siblings.is_empty()
        && siblings.all(|s| !clock.covers(&s.dot))
        && incoming.siblings.is_sorted_by(|a, b| a.dot < b.dot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringmaster_shared::{
        clock::Hlc,
        version::{Actor, Dot, Sibling},
    };

    use super::*;
    use crate::storage::testing::node;

    /// Records as replicas come to hold them: written by a few actors on what they saw, all of it or
    /// a part, and joined.
    fn pool(steps: Vec<(u8, u8, u8, bool)>) -> Vec<Record> {
        let mut pool = vec![Record::default()];
        let mut counters = [0_u64; 3];
        for (n, (base, other, actor, write)) in steps.into_iter().enumerate() {
            let at = |n: u8| usize::from(n) % pool.len();
            let (base, other) = (&pool[at(base)], &pool[at(other)]);
            let next = if write {
                let actor = usize::from(actor) % counters.len();
                counters[actor] += 1;
                let dot = Dot {
                    actor: Actor {
                        node: node(&format!("n{actor}")),
                        epoch: 1,
                    },
                    counter: counters[actor],
                };
                let written = Sibling {
                    dot,
                    hlc: Hlc(n as u64 + 1),
                    value: None,
                };
                Record::written(base, &other.clock, written)
            } else {
                base.merge(other)
            };
            pool.push(next);
        }
        pool
    }

    proptest! {
        #[test]
        fn what_supersedes_a_record_is_the_join_with_it(
            steps in prop::collection::vec(any::<(u8, u8, u8, bool)>(), 1..24),
        ) {
            let pool = pool(steps);
            for current in &pool {
                for incoming in &pool {
                    if supersedes(incoming, &current.clock) {
                        let join = joined(Some(current), incoming.clone());
                        prop_assert_eq!(join.as_ref(), Some(incoming));
                    }
                }
            }
        }
    }

    #[test]
    fn a_write_on_what_is_here_supersedes_it_and_one_beside_it_does_not() {
        let write = |on: &Record, name: &str, counter| {
            let dot = Dot {
                actor: Actor {
                    node: node(name),
                    epoch: 1,
                },
                counter,
            };
            let hlc = Hlc(counter);
            let value = None;
            Record::written(on, &on.clock, Sibling { dot, hlc, value })
        };
        let first = write(&Record::default(), "a", 1);
        let next = write(&first, "b", 1);
        let beside = write(&Record::default(), "c", 1);
        for (incoming, current, wanted) in [
            (&next, &first, true),
            (&first, &first, false),
            (&first, &next, false),
            (&beside, &first, false),
            (&first.merge(&beside), &first, false),
        ] {
            assert_eq!(supersedes(incoming, &current.clock), wanted);
        }
    }
}
