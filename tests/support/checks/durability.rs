//! K8: what was acknowledged before every node was killed at once is known to every read after
//! that: shown, or superseded by a write that had begun by then.

use super::{
    Check, Verdict,
    cover::{Cover, KeyStory, Written},
    record::History,
};

pub fn check(covers: &Cover, history: &History) -> Verdict {
    let mut verdict = Verdict::new(Check::Durability);
    for killed in &history.all_killed {
        for story in covers.keys.values() {
            let before = |w: &&Written| w.op.ended().is_some_and(|end| end < *killed);
            for write in story.writes.iter().filter(before) {
                survived(story, write, *killed, &mut verdict);
            }
        }
    }
    verdict
}

/// Looks at the first read after the kill.
fn survived(story: &KeyStory, write: &Written, killed: u64, verdict: &mut Verdict) {
    let Some((op, seen)) = story.reads_after(killed).first() else {
        return;
    };
    let until = op.ended().unwrap_or(u64::MAX);
    let excuse = story.first_excuse(write, None);
    let excused = excuse.is_some_and(|by| by.op.called < until);
    let known = write.dot().is_none_or(|dot| seen.clock.covers(dot));
    let forgotten = seen.clock.is_empty() && story.writes.iter().any(|w| w.write.deletes);
    let is_there = write.is_shown_by(seen) || (excused && (known || forgotten));
    verdict.examine((!is_there).then(|| {
        format!(
            "acknowledged, then all nodes were killed at {:.3} ms, and this does not know it:\n  \
             {}\n  {op}",
            killed as f64 / 1e6,
            write.op
        )
    }));
}

#[cfg(test)]
mod tests {
    use super::super::made_up::*;
    use super::*;

    fn verdict(ops: impl IntoIterator<Item = Op>) -> Verdict {
        let mut history = history(ops);
        history.all_killed.push(10);
        check(&Cover::of(&history), &history)
    }

    #[test]
    fn what_was_acknowledged_before_the_kill() {
        let write = put(1, 0, 1, "a", 1, &[]);
        let there = read(&[1], &[("a", 1)], 20, 21);
        assert_eq!(verdict([write.clone(), there]).violations, 0);
        let gone = read(&[], &[], 20, 21);
        assert_eq!(verdict([write.clone(), gone.clone()]).violations, 1);
        let next = put(2, 12, 13, "b", 1, &[("a", 1)]);
        let replaced = read(&[2], &[("a", 1), ("b", 1)], 20, 21);
        assert_eq!(verdict([write.clone(), next, replaced]).violations, 0);
        let forgets = put(2, 12, 13, "b", 1, &[]);
        let other = read(&[2], &[("b", 1)], 20, 21);
        assert_eq!(verdict([write.clone(), forgets, other]).violations, 1);
        // not acknowledged in time, or not looked at: nothing is shown
        let late = put(1, 9, 11, "a", 1, &[]);
        assert_eq!(verdict([late, gone]).examined, 0);
        assert_eq!(verdict([write]).examined, 0);
    }
}
