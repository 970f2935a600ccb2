//! Is a history of one register linearizable? (Wing and Gong's search with memory, as in
//! Lowe's "Testing for linearizability".)

use std::collections::HashSet;

/// What an operation did. Values are unique; 0 is "nothing there".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Write(u64),
    Read(u64),
}

/// One operation of the history. Reads that failed and writes that certainly did not take place
/// are left out.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    pub effect: Effect,
    pub invoked: u64,
    /// `None`: the outcome is unknown; it may take effect at any later time, or never.
    pub returned: Option<u64>,
}

/// Whether some order of the operations, each between its call and its return, explains every
/// read. At most 64 operations.
pub fn is_linearizable(history: &[Operation]) -> bool {
    assert!(
        history.len() <= 64,
        "the search keeps its state in one word"
    );
    let must: u64 = bits(history, |op| op.returned.is_some());
    let mut seen = HashSet::new();
    let mut open = vec![(0_u64, 0_u64)];
    while let Some((done, value)) = open.pop() {
        if done & must == must {
            return true;
        }
        if !seen.insert((done, value)) {
            continue;
        }
        let horizon = history
            .iter()
            .enumerate()
            .filter(|(i, _)| done & (1 << i) == 0)
            .filter_map(|(_, op)| op.returned)
            .min()
            .unwrap_or(u64::MAX);
        for (i, op) in history.iter().enumerate() {
            if done & (1 << i) != 0 || op.invoked > horizon {
                continue;
            }
            match op.effect {
                Effect::Write(v) => open.push((done | 1 << i, v)),
                Effect::Read(v) if v == value => open.push((done | 1 << i, value)),
                Effect::Read(_) => {}
            }
        }
    }
    false
}

fn bits(history: &[Operation], keep: impl Fn(&Operation) -> bool) -> u64 {
    history
        .iter()
        .enumerate()
        .filter(|(_, op)| keep(op))
        .fold(0, |mask, (i, _)| mask | 1 << i)
}

#[test]
fn the_checker_knows_good_from_bad() {
    let op = |effect, invoked, returned| Operation {
        effect,
        invoked,
        returned,
    };
    let (w, r) = (Effect::Write, Effect::Read);
    let cases: [(&str, Vec<Operation>, bool); 6] = [
        (
            "sequential",
            vec![op(w(1), 0, Some(1)), op(r(1), 2, Some(3))],
            true,
        ),
        (
            "stale read",
            vec![
                op(w(1), 0, Some(1)),
                op(w(2), 2, Some(3)),
                op(r(1), 4, Some(5)),
            ],
            false,
        ),
        (
            "concurrent write seen early",
            vec![op(w(1), 0, Some(9)), op(r(1), 2, Some(3))],
            true,
        ),
        (
            "seen and then unseen",
            vec![
                op(w(1), 0, Some(9)),
                op(r(1), 2, Some(3)),
                op(r(0), 4, Some(5)),
            ],
            false,
        ),
        (
            "unknown write may come late",
            vec![
                op(w(1), 0, None),
                op(r(0), 2, Some(3)),
                op(r(1), 4, Some(5)),
            ],
            true,
        ),
        (
            "unknown write must not come twice",
            vec![
                op(w(1), 0, None),
                op(r(1), 2, Some(3)),
                op(w(2), 4, Some(5)),
                op(r(1), 6, Some(7)),
            ],
            false,
        ),
    ];
    for (name, history, good) in cases {
        assert_eq!(is_linearizable(&history), good, "{name}");
    }
}
