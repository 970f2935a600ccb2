//! K6: writes stand side by side only if they ran at the same time or did not know of each
//! other. So siblings never outnumber the truly concurrent writers.

use super::{
    Check, Verdict,
    cover::{Cover, KeyStory, Written},
    ended::End,
    record::Seen,
};

pub fn check(covers: &Cover, end: &End) -> Verdict {
    let mut verdict = Verdict::new(Check::SiblingsAreConcurrent);
    for (key, story, seen) in covers.shown(end) {
        if seen.values.len() > 1 {
            verdict.examine(knew(key, story, seen));
        }
    }
    verdict
}

/// Two of the siblings of which one superseded the other.
fn knew(key: &str, story: &KeyStory, seen: &Seen) -> Option<String> {
    let of_id = |id: &u64| story.by_id(*id);
    let writes: Vec<&Written> = seen.values.iter().filter_map(of_id).collect();
    for later in &writes {
        for earlier in &writes {
            if later.must_cover(earlier) {
                return Some(format!(
                    "{key}: side by side, but the second superseded the first:\n  {}\n  {}",
                    earlier.op, later.op
                ));
            }
        }
    }
    None
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
    fn only_what_did_not_know_of_the_other() {
        let one = put(1, 0, 5, "a", 1, &[]);
        let both = read(&[2, 1], &[("a", 1), ("b", 1)], 20, 21);
        let beside = put(2, 1, 6, "b", 1, &[]);
        assert!(!red([one.clone(), beside, both.clone()]), "concurrent");
        let later = put(2, 8, 9, "b", 1, &[("a", 1)]);
        assert!(red([one.clone(), later, both.clone()]), "it saw it");
        let missed = put(2, 8, 9, "b", 1, &[]);
        assert!(red([one.clone(), missed, both.clone()]), "it had to see it");
        let unanswered = unknown(2, 8);
        assert!(
            red([one.clone(), unanswered, both.clone()]),
            "it was settled by then"
        );
        let knew = knowing(put(2, 8, 9, "b", 1, &[]), &[1], &[("a", 1)], 6);
        assert!(
            red([one.clone(), knew, both.clone()]),
            "its context covers it"
        );
        let did_not = knowing(put(2, 8, 9, "b", 1, &[("a", 1)]), &[], &[], 0);
        assert!(!red([one, did_not, both]), "an old context");
    }
}
