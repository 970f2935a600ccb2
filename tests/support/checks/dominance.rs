//! K2: a version disappears only because somebody's write superseded it.
//!
//! Two ways to see a breach: what a read had shown is gone and nobody can have superseded it;
//! and a context speaks for a write that began only after the context was handed out, which
//! happens when a node forgets its counters and issues dots that others have seen already.

use std::collections::HashMap;

use ringmaster_shared::version::{Actor, VersionVector};

use super::{
    Check, Verdict,
    cover::{Cover, KeyStory},
    ended::End,
    loss::{missed, unaccounted},
};

pub fn check(covers: &Cover, end: &End) -> Verdict {
    let mut verdict = Verdict::new(Check::NoFalseDominance);
    for (key, story) in &covers.keys {
        let lost = end.seen(key).map(|seen| unaccounted(story, seen));
        let lost = lost.unwrap_or_default();
        for write in story.writes.iter().filter(|w| w.settled.is_some()) {
            let is_lost = lost.contains(&write.write.id);
            verdict.examine(if is_lost {
                Some(format!(
                    "settled, and superseded by nobody:\n  {}",
                    write.op
                ))
            } else {
                missed(story, write)
            });
        }
        ahead_of_time(story, &mut verdict);
    }
    verdict
}

/// Contexts that cover a dot before the write of that dot had begun.
fn ahead_of_time(story: &KeyStory, verdict: &mut Verdict) {
    let mut known: HashMap<&Actor, Vec<(u64, u64)>> = HashMap::new();
    for (at, clock) in contexts(story) {
        for (actor, n) in &clock.0 {
            let entries = known.entry(actor).or_default();
            let most = entries.last().map_or(0, |(_, n)| *n);
            entries.push((at, most.max(*n)));
        }
    }
    for write in &story.writes {
        let Some(dot) = write.dot() else { continue };
        let entries = known.get(&dot.actor).map_or(&[][..], Vec::as_slice);
        let before = entries.partition_point(|(at, _)| *at < write.op.called);
        let most = entries[..before].last().map_or(0, |(_, n)| *n);
        verdict.examine((most >= dot.counter).then(|| {
            format!(
                "a context given out before this began speaks for it already, up to {most}:\n  {}",
                write.op
            )
        }));
    }
}

/// Every context that was handed out, in the order of time.
fn contexts<'a>(story: &KeyStory<'a>) -> Vec<(u64, &'a VersionVector)> {
    let reads = story.reads.iter();
    let reads = reads.filter_map(|(op, seen)| Some((op.ended()?, &seen.clock)));
    let writes = story.writes.iter();
    let writes = writes.filter_map(|w| Some((w.op.ended()?, &w.write.returned.as_ref()?.clock)));
    let mut all: Vec<_> = reads.chain(writes).collect();
    all.sort_by_key(|(at, _)| *at);
    all
}

#[cfg(test)]
mod tests {
    use super::super::made_up::*;
    use super::*;

    fn red(history: &History, end: &End) -> bool {
        check(&Cover::of(history), end).violations > 0
    }

    #[test]
    fn what_was_read_does_not_just_vanish() {
        // nobody knows whether it took place, but somebody read it
        let ops = [unknown(1, 0), read(&[1], &[("a", 1)], 1, 2)];
        assert!(red(&history(ops.clone()), &ends(&[], &[])));
        assert!(!red(&history(ops), &ends(&[1], &[("a", 1)])));
    }

    #[test]
    fn a_forgetful_node_issues_dots_that_are_covered_already() {
        let first = put(1, 0, 1, "a", 7, &[]);
        let second = put(2, 2, 3, "a", 3, &[("a", 7)]);
        // the answer's context says 7, as the record that swallowed it does
        let end = ends(&[2], &[("a", 7)]);
        assert!(red(&history([first.clone(), second]), &end));
        let second = put(2, 2, 3, "a", 8, &[("a", 7)]);
        assert!(!red(&history([first, second]), &ends(&[2], &[("a", 8)])));
    }

    #[test]
    fn a_sibling_that_no_context_covered_stays() {
        let ops = [
            put(1, 0, 1, "a", 1, &[]),
            knowing(put(2, 2, 3, "b", 1, &[("a", 1)]), &[], &[], 0),
            read(&[2], &[("a", 1), ("b", 1)], 4, 5),
        ];
        assert!(red(&history(ops), &ends(&[2], &[("a", 1), ("b", 1)])));
    }
}
