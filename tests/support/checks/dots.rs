//! K3: a dot names exactly one write for ever and a write has exactly one dot; what is read was
//! written, and not refused.

use std::collections::{BTreeSet, HashMap};

use super::{
    Check, Verdict,
    cover::{Cover, KeyStory, Written},
    ended::End,
    record::Seen,
};

pub fn check(covers: &Cover, end: &End) -> Verdict {
    let mut verdict = Verdict::new(Check::DotsAreUnique);
    // counters run over all keys of a node
    let mut first: HashMap<_, &Written> = HashMap::new();
    for write in covers.keys.values().flat_map(|story| &story.writes) {
        let Some(dot) = write.dot() else { continue };
        let twin = first.insert(dot.clone(), write);
        verdict.examine(
            twin.map(|twin| format!("two writes with one dot:\n  {}\n  {}", twin.op, write.op)),
        );
    }
    for (key, story, seen) in covers.shown(end) {
        if !seen.values.is_empty() {
            verdict.examine(strange(key, story, seen));
        }
    }
    verdict
}

fn strange(key: &str, story: &KeyStory, seen: &Seen) -> Option<String> {
    let distinct: BTreeSet<u64> = seen.values.iter().copied().collect();
    if distinct.len() < seen.values.len() {
        let values = &seen.values;
        return Some(format!(
            "{key}: one write shows twice, so it has two dots: {values:?}"
        ));
    }
    distinct.iter().find_map(|value| {
        if story.refused.contains(value) {
            return Some(format!("{key}: {value} was read but its write was refused"));
        }
        let from = story.by_id(*value);
        let is_put = from.is_some_and(|w| !w.write.deletes);
        (!is_put).then(|| format!("{key}: {value} was read but never written"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::made_up::*;
    use super::*;

    fn red(ops: impl IntoIterator<Item = Op>) -> bool {
        let history = history(ops);
        check(&Cover::of(&history), &End::default()).violations > 0
    }

    #[test]
    fn one_dot_one_write() {
        let one = put(1, 0, 1, "a", 1, &[]);
        assert!(!red([one.clone(), put(2, 2, 3, "a", 2, &[("a", 1)])]));
        let mut other_key = put(2, 2, 3, "a", 1, &[]);
        "other".clone_into(&mut other_key.key);
        assert!(red([one.clone(), other_key]), "also across keys");
    }

    #[test]
    fn what_is_read_was_written_once() {
        let one = put(1, 0, 1, "a", 1, &[]);
        assert!(!red([one.clone(), read(&[1], &[("a", 1)], 2, 3)]));
        assert!(red([one.clone(), read(&[1, 1], &[("a", 1)], 2, 3)]));
        assert!(red([one.clone(), read(&[9], &[("a", 1)], 2, 3)]));
        let refused = Op {
            outcome: Outcome::Refused,
            ..unknown(5, 0)
        };
        assert!(red([refused, read(&[5], &[("a", 1)], 2, 3)]));
    }
}
