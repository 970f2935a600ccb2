//! K1: every acknowledged write is in the end a sibling, or was superseded by a write that is
//! there or was superseded in turn. Writes of unknown outcome excuse only if they show up or are
//! themselves superseded. And no read in between misses one that nothing had superseded yet.

use super::{
    Check, Verdict,
    cover::{Cover, KeyStory, Written},
    ended::End,
    record::{Op, Seen},
};

pub fn check(covers: &Cover, end: &End) -> Verdict {
    let mut verdict = Verdict::new(Check::NothingLost);
    for (key, story) in &covers.keys {
        if let Some(seen) = end.seen(key) {
            let lost = unaccounted(story, seen);
            for write in story.writes.iter().filter(|w| w.is_acknowledged()) {
                let is_lost = lost.contains(&write.write.id);
                verdict.examine(is_lost.then(|| {
                    format!(
                        "acknowledged and gone, superseded by nothing that is left:\n  {}\n\
                         in the end there is {:?}",
                        write.op, seen.values
                    )
                }));
            }
        }
        for write in story.writes.iter().filter(|w| w.is_acknowledged()) {
            verdict.examine(missed(story, write));
        }
    }
    verdict
}

/// Writes that are not in `seen` and that no chain of superseding writes connects with it.
pub fn unaccounted(story: &KeyStory, seen: &Seen) -> Vec<u64> {
    let (mut sure, mut open): (Vec<&Written>, Vec<&Written>) =
        story.writes.iter().partition(|w| w.is_shown_by(seen));
    while let Some(by) = sure.pop() {
        let (covered, left): (Vec<&Written>, Vec<&Written>) =
            open.into_iter().partition(|w| by.may_cover(w));
        sure.extend(covered);
        open = left;
    }
    open.into_iter().map(|w| w.write.id).collect()
}

/// The first read that should have shown `write`, did not, and has no excuse.
pub fn missed(story: &KeyStory, write: &Written) -> Option<String> {
    if write.write.deletes {
        return None; // that a delete is not shown is no news; what it deleted is K4's matter
    }
    let settled = write.settled?;
    let excused_from = story.first_excuse(write, None).map(|w| w.op.called);
    let has_no_excuse = |op: &Op| {
        let end = op.ended().unwrap_or(u64::MAX);
        excused_from.is_none_or(|from| end < from)
    };
    let mut after = story.reads_after(settled).iter();
    let (op, _) = after.find(|(op, seen)| has_no_excuse(op) && !write.is_shown_by(seen))?;
    Some(format!(
        "nothing had superseded this yet:\n  {}\nbut this does not show it:\n  {op}",
        write.op
    ))
}

#[cfg(test)]
mod tests {
    use super::super::made_up::*;
    use super::*;

    fn red(history: &History, end: &End) -> bool {
        check(&Cover::of(history), end).violations > 0
    }

    #[test]
    fn what_counts_as_lost() {
        let cases: [(&str, History, End, bool); 9] = [
            (
                "it is there",
                history([put(1, 0, 1, "a", 1, &[])]),
                ends(&[1], &[("a", 1)]),
                false,
            ),
            (
                "it is gone",
                history([put(1, 0, 1, "a", 1, &[])]),
                ends(&[], &[]),
                true,
            ),
            (
                "superseded by one that is there",
                history([put(1, 0, 1, "a", 1, &[]), put(2, 2, 3, "b", 1, &[("a", 1)])]),
                ends(&[2], &[("a", 1), ("b", 1)]),
                false,
            ),
            (
                "one that is there did not supersede it",
                history([put(1, 0, 9, "a", 1, &[]), put(2, 2, 9, "b", 1, &[])]),
                ends(&[2], &[("a", 1), ("b", 1)]),
                true,
            ),
            (
                "a chain through a write of unknown outcome that was superseded",
                history([
                    put(1, 0, 1, "a", 1, &[]),
                    unknown(2, 2),
                    put(3, 4, 5, "b", 1, &[("a", 1)]),
                ]),
                ends(&[3], &[("a", 1), ("b", 1)]),
                false,
            ),
            (
                "an unknown write that never showed up is no excuse",
                history([put(1, 0, 1, "a", 1, &[]), unknown(2, 2)]),
                ends(&[], &[]),
                true,
            ),
            (
                "an unknown write that is there may be one",
                history([put(1, 0, 1, "a", 1, &[]), unknown(2, 2)]),
                ends(&[2], &[]),
                false,
            ),
            (
                "a delete is one",
                history([
                    put(1, 0, 1, "a", 1, &[]),
                    delete(2, 2, 3, "a", 2, &[("a", 1)]),
                ]),
                deleted(&[("a", 2)]),
                false,
            ),
            (
                "a delete that was lost itself",
                history([
                    put(1, 0, 1, "a", 1, &[]),
                    delete(2, 2, 3, "a", 2, &[("a", 1)]),
                ]),
                ends(&[1], &[("a", 1)]),
                true,
            ),
        ];
        for (what, history, end, want) in cases {
            assert_eq!(red(&history, &end), want, "{what}");
        }
    }

    #[test]
    fn a_read_in_between_must_not_miss_it_either() {
        let mut ops = vec![put(1, 0, 1, "a", 1, &[]), read(&[], &[], 2, 3)];
        ops.push(put(2, 8, 9, "b", 1, &[("a", 1)]));
        let end = ends(&[2], &[("a", 1), ("b", 1)]);
        assert!(red(&history(ops.clone()), &end));
        // unless what superseded it was under way
        ops[2] = put(2, 2, 9, "b", 1, &[("a", 1)]);
        assert!(!red(&history(ops), &end));
    }
}
