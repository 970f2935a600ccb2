//! K4: once a write that superseded a value counts (acknowledged, or shown by a read), no later
//! read shows that value: not after a repair, a refill, a restart or a forgotten tombstone.

use super::{
    Check, Verdict,
    cover::{Cover, KeyStory},
    ended::End,
    record::{Op, Seen},
};

pub fn check(covers: &Cover, end: &End) -> Verdict {
    let mut verdict = Verdict::new(Check::NoResurrection);
    for (key, story) in &covers.keys {
        let last = end.seen(key);
        for write in story.writes.iter().filter(|w| !w.write.deletes) {
            let id = write.write.id;
            let shows = |(_, seen): &&(&Op, &Seen)| seen.values.contains(&id);
            let shown = story.reads.iter().rev().find(shows).map(|(op, _)| *op);
            let is_left = last.is_some_and(|seen| seen.values.contains(&id));
            let until = if is_left {
                Some(u64::MAX)
            } else {
                shown.map(|op| op.called)
            };
            let Some(until) = until else {
                continue; // never shown at all
            };
            verdict.examine(superseded_before(story, id, until).map(|by| {
                let back = match shown {
                    Some(op) if !is_left => op.to_string(),
                    _ => "in the end".to_owned(),
                };
                format!(
                    "superseded, and read again:\n  {}\nby:\n  {by}\nback: {back}",
                    write.op
                )
            }));
        }
        superseded_and_gone(story, &mut verdict);
    }
    verdict
}

/// Who must have superseded the value, and counted before `until`.
fn superseded_before(story: &KeyStory, id: u64, until: u64) -> Option<String> {
    let write = story.by_id(id)?;
    let by = story.writes.iter().find(|by| {
        let in_time = by.settled.is_some_and(|at| at < until);
        in_time && by.may_cover(write) && by.must_cover(write)
    })?;
    Some(by.op.to_string())
}

/// Reads that could have shown something superseded and did not.
fn superseded_and_gone(story: &KeyStory, verdict: &mut Verdict) {
    let shown = |id| {
        story
            .reads
            .iter()
            .any(|(_, seen)| seen.values.contains(&id))
    };
    let unseen = story.writes.iter().filter(|w| !shown(w.write.id));
    for write in unseen {
        let by = story.writes.iter().find(|by| by.must_cover(write));
        let after = by.and_then(|by| by.settled);
        if after.is_some_and(|at| !story.reads_after(at).is_empty()) {
            verdict.examine(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::*;
    use super::*;

    fn red(ops: impl IntoIterator<Item = Op>, end: &End) -> bool {
        let history = history(ops);
        check(&Cover::of(&history), end).violations > 0
    }

    #[test]
    fn the_superseded_stays_away() {
        let one = put(1, 0, 1, "a", 1, &[]);
        let two = put(2, 2, 3, "b", 1, &[("a", 1)]);
        let back = read(&[1], &[("a", 1)], 4, 5);
        let during = read(&[1], &[("a", 1)], 2, 9);
        let none = End::default();
        assert!(red([one.clone(), two.clone(), back], &none));
        assert!(!red([one.clone(), two.clone(), during], &none));
        assert!(
            red([one.clone(), two.clone()], &ends(&[1], &[])),
            "in the end"
        );
        // one that merely ran beside it is no reason
        let beside = put(2, 0, 3, "b", 1, &[]);
        let both = read(&[1, 2], &[("a", 1), ("b", 1)], 4, 5);
        assert!(!red([one, beside, both], &none));
    }

    #[test]
    fn the_deleted_stays_away() {
        let one = put(1, 0, 1, "a", 1, &[]);
        let gone = delete(2, 2, 3, "b", 1, &[("a", 1)]);
        let back = read(&[1], &[("a", 1)], 9, 10);
        assert!(red([one, gone, back], &End::default()));
    }

    #[test]
    fn a_write_of_unknown_outcome_counts_from_when_it_was_read() {
        let one = put(1, 0, 1, "a", 1, &[]);
        let two = unknown(2, 2);
        let new = read(&[2], &[("a", 1), ("b", 1)], 4, 5);
        let old = |called| read(&[1], &[("a", 1)], called, called + 1);
        let none = End::default();
        assert!(red([one.clone(), two.clone(), new.clone(), old(6)], &none));
        assert!(!red([one, two, old(3), new], &none));
    }
}
