//! K7: a client that waits for its answers reads what it wrote, and what it knows of a key only
//! ever grows.
//!
//! A key that was deleted may be forgotten altogether; then what a client knew of it is void.

use std::collections::{BTreeMap, HashSet};

use ringmaster_shared::version::VersionVector;

use super::{
    Check, Verdict,
    record::{Did, History, Op},
};

pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new(Check::Sessions);
    let deleted: HashSet<&str> = history
        .ops
        .iter()
        .filter(|op| op.write().is_some_and(|w| w.deletes))
        .map(|op| op.key.as_str())
        .collect();
    let mut sessions: BTreeMap<(usize, &str), Vec<&Op>> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.ended().is_some()) {
        sessions.entry((op.client, &op.key)).or_default().push(op);
    }
    for ((_, key), mut ops) in sessions {
        ops.sort_by_key(|op| op.called);
        walk(&ops, deleted.contains(key), &mut verdict);
    }
    verdict
}

/// What the answer says is known of the key.
fn clock(op: &Op) -> Option<&VersionVector> {
    match &op.did {
        Did::Read(seen) => Some(&seen.clock),
        Did::Write(write) => write.returned.as_ref().map(|r| &r.clock),
    }
}

fn walk(ops: &[&Op], may_be_forgotten: bool, verdict: &mut Verdict) {
    let mut last: Option<(&Op, &VersionVector)> = None;
    for op in ops {
        let Some(now) = clock(op) else { continue };
        if let Some((before, known)) = last
            && before.ended() < Some(op.called)
        {
            let forgotten = now.is_empty() && may_be_forgotten;
            verdict.examine(
                (!forgotten && !now.dominates(known))
                    .then(|| format!("a client knows less than before:\n  {before}\n  {op}")),
            );
        }
        last = Some((op, now));
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::*;
    use super::*;

    fn red(ops: impl IntoIterator<Item = Op>) -> bool {
        check(&history(ops)).violations > 0
    }

    fn of_client(client: usize, op: Op) -> Op {
        Op { client, ..op }
    }

    #[test]
    fn what_a_client_knows_only_grows() {
        let write = put(1, 0, 1, "a", 1, &[]);
        assert!(!red([write.clone(), read(&[1], &[("a", 1)], 2, 3)]));
        assert!(red([write.clone(), read(&[], &[], 2, 3)]), "its own write");
        let other = of_client(7, read(&[], &[], 2, 3));
        assert!(!red([write.clone(), other]), "somebody else's");
        assert!(red([
            read(&[2], &[("a", 2)], 0, 1),
            read(&[1], &[("a", 1)], 2, 3)
        ]));
        let gone = delete(2, 2, 3, "a", 2, &[("a", 1)]);
        assert!(!red([write, gone, read(&[], &[], 9, 10)]), "forgotten");
    }
}
