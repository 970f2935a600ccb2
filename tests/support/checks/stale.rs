//! K9: a write or a delete with a context that is older than what is there leaves that alone: it
//! becomes a sibling, not a replacement.

use super::{
    Check, Verdict,
    cover::{Cover, KeyStory, Written},
};

pub fn check(covers: &Cover) -> Verdict {
    let mut verdict = Verdict::new(Check::StaleContexts);
    for story in covers.keys.values() {
        for write in story.writes.iter().filter(|w| w.is_acknowledged()) {
            let Some(sent) = &write.write.sent else {
                continue;
            };
            let end = write.op.ended().unwrap_or(u64::MAX);
            let Some((op, seen)) = story.reads_after(end).first() else {
                continue;
            };
            let unseen = |w: &&Written| {
                let settled = w.op.ended().is_some_and(|at| at < write.op.called);
                let unknown = w.dot().is_some_and(|dot| !sent.clock.covers(dot));
                settled && unknown && !w.write.deletes
            };
            let until = op.ended().unwrap_or(u64::MAX);
            for other in story.writes.iter().filter(unseen) {
                if is_excused(story, other, write.write.id, until) {
                    continue;
                }
                verdict.examine((!other.is_shown_by(seen)).then(|| {
                    format!(
                        "this had not seen that, and yet replaced it:\n  {}\n  {}\nread:\n  {op}",
                        write.op, other.op
                    )
                }));
            }
        }
    }
    verdict
}

/// Whether somebody other than the stale writer may have superseded it by then.
fn is_excused(story: &KeyStory, other: &Written, stale: u64, until: u64) -> bool {
    let by = story.first_excuse(other, Some(stale));
    by.is_some_and(|by| by.op.called < until)
}

#[cfg(test)]
mod tests {
    use super::super::made_up::*;
    use super::*;

    fn verdict(ops: impl IntoIterator<Item = Op>) -> Verdict {
        let history = history(ops);
        check(&Cover::of(&history))
    }

    #[test]
    fn what_an_old_context_does_not_cover_stays() {
        let one = put(1, 0, 1, "a", 1, &[]);
        let two = put(2, 2, 3, "a", 2, &[("a", 1)]);
        let clock = [("a", 2), ("b", 1)];
        let stale = knowing(delete(3, 6, 7, "b", 1, &[("a", 2)]), &[1], &[("a", 1)], 2);
        let beside = read(&[2], &clock, 8, 9);
        let gone = read(&[], &clock, 8, 9);
        let history = |last: &Op| [one.clone(), two.clone(), stale.clone(), last.clone()];
        let fine = verdict(history(&beside));
        assert_eq!((fine.examined, fine.violations), (1, 0));
        assert_eq!(verdict(history(&gone)).violations, 1);
        // somebody who knew it may have replaced it meanwhile
        let mut more = history(&gone).to_vec();
        more.push(put(4, 6, 7, "c", 1, &[("a", 2)]));
        assert_eq!(verdict(more).examined, 0);
    }
}
