//! Is a history of one register linearizable?
//!
//! The search of Wing and Gong with the memory of Lowe ("Testing for linearizability", 2017): take
//! an operation that nothing else must precede, apply it, go on; step back when stuck; never visit
//! the same set of applied operations with the same value twice. Operations whose outcome nobody
//! knows may take effect at any time after their call, or never.

use std::collections::HashSet;

use super::history::{Action, Operation};

/// Why a history is not linearizable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The operation that fits nowhere after the longest run that fits, and what overlaps it.
    pub story: String,
}

/// Looks for an order of `operations` on one register that respects real time. Values written
/// must be distinct.
pub fn check(operations: &[Operation]) -> Result<(), Violation> {
    let operations = relevant(operations);
    Search::new(&operations).run().map_err(|stuck| Violation {
        story: story(&operations, stuck),
    })
}

/// Drops what cannot matter: reads without an answer, and writes of unknown outcome whose value
/// nobody saw. One that was seen must have taken effect before the first who saw it had their
/// answer, which makes it as certain as the others and the search small.
fn relevant(operations: &[Operation]) -> Vec<Operation> {
    let seen_by = |value: u64| {
        operations
            .iter()
            .filter(|o| o.action == Action::Read(Some(value)))
            .filter_map(|o| o.returned)
            .min()
    };
    operations
        .iter()
        .filter_map(|operation| match (operation.returned, operation.action) {
            (Some(_), _) => Some(operation.clone()),
            (None, Action::Write(value)) => Some(Operation {
                returned: Some(seen_by(value)?),
                ..operation.clone()
            }),
            (None, Action::Read(_)) => None,
        })
        .collect()
}

/// Calls and returns in the order of time, as a list from which applied operations are lifted.
struct Search<'a> {
    operations: &'a [Operation],
    /// `(operation, is its call)`, index 0 is the head of the list.
    entries: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Entry of each operation's return.
    return_of: Vec<usize>,
}

const HEAD: usize = 0;

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
        for (index, operation) in operations.iter().enumerate() {
            // at the same instant calls come first: what touches is concurrent
            events.push((operation.called, false, index));
            events.push((operation.returned.unwrap_or(u64::MAX), true, index));
        }
        events.sort_unstable();
        let mut entries = vec![(usize::MAX, false)];
        let mut return_of = vec![0; operations.len()];
        for (_, is_return, index) in events {
            if is_return {
                return_of[index] = entries.len();
            }
            entries.push((index, !is_return));
        }
        let length = entries.len();
        Self {
            operations,
            entries,
            next: (1..=length).collect(),
            previous: (0..=length).map(|i| i.saturating_sub(1)).collect(),
            return_of,
        }
    }

    /// `Err` names the operation whose return could not be passed, of the deepest attempt.
    fn run(mut self) -> Result<(), usize> {
        let end = self.entries.len();
        let mut applied = Applied::new(self.operations.len());
        let mut register = Register(None);
        let mut visited: HashSet<(Applied, Register)> = HashSet::new();
        let mut trail: Vec<(usize, Register)> = Vec::new();
        let mut deepest = (0, 0);
        let mut at = self.next[HEAD];
        while self.next[HEAD] != end {
            let (index, is_call) = self.entries[at];
            if is_call {
                let after = apply(self.operations[index].action, register);
                let is_new = after.is_some_and(|after| {
                    applied.set(index, true);
                    let is_new = visited.insert((applied.clone(), after));
                    applied.set(index, is_new);
                    is_new
                });
                if let (Some(after), true) = (after, is_new) {
                    trail.push((at, register));
                    register = after;
                    self.lift(at, index);
                    at = self.next[HEAD];
                } else {
                    at = self.next[at];
                }
                continue;
            }
            // this one has returned and nothing before it can be applied any more
            if trail.len() >= deepest.0 {
                deepest = (trail.len(), index);
            }
            let Some((entry, before)) = trail.pop() else {
                return Err(deepest.1);
            };
            let (index, _) = self.entries[entry];
            register = before;
            applied.set(index, false);
            self.put_back(entry, index);
            at = self.next[entry];
        }
        Ok(())
    }

    fn lift(&mut self, call: usize, index: usize) {
        for entry in [call, self.return_of[index]] {
            let (before, after) = (self.previous[entry], self.next[entry]);
            self.next[before] = after;
            self.previous[after] = before;
        }
    }

    fn put_back(&mut self, call: usize, index: usize) {
        for entry in [self.return_of[index], call] {
            let (before, after) = (self.previous[entry], self.next[entry]);
            self.next[before] = entry;
            self.previous[after] = entry;
        }
    }
}

/// What the register holds, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Register(Option<u64>);

/// The register after the action; `None` when it cannot happen now.
fn apply(action: Action, register: Register) -> Option<Register> {
    match action {
        Action::Write(value) => Some(Register(Some(value))),
        Action::Read(value) => (value == register.0).then_some(register),
    }
}

/// A set of operations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Applied(Vec<u64>);

impl Applied {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn set(&mut self, index: usize, on: bool) {
        let bit = 1 << (index % 64);
        if on {
            self.0[index / 64] |= bit;
        } else {
            self.0[index / 64] &= !bit;
        }
    }
}

fn story(operations: &[Operation], stuck: usize) -> String {
    let culprit = &operations[stuck];
    let overlaps = |o: &&Operation| {
        let from = culprit.called.saturating_sub(50_000_000);
        o.returned.unwrap_or(u64::MAX) >= from && o.called <= culprit.returned.unwrap_or(u64::MAX)
    };
    let mut around: Vec<&Operation> = operations.iter().filter(overlaps).collect();
    around.sort_by_key(|o| o.called);
    let lines: Vec<String> = around.iter().map(ToString::to_string).collect();
    format!(
        "this fits nowhere:\n  {culprit}\nwhat happened in the 50 ms before and meanwhile:\n  {}",
        lines.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn operation(action: Action, called: u64, returned: Option<u64>) -> Operation {
        Operation {
            client: 0,
            node: String::new(),
            key: String::new(),
            action,
            called,
            returned,
        }
    }

    fn write(value: u64, called: u64, returned: u64) -> Operation {
        operation(Action::Write(value), called, Some(returned))
    }

    fn unknown(value: u64, called: u64) -> Operation {
        operation(Action::Write(value), called, None)
    }

    fn read(value: Option<u64>, called: u64, returned: u64) -> Operation {
        operation(Action::Read(value), called, Some(returned))
    }

    #[test]
    fn known_histories() {
        let cases: [(&str, Vec<Operation>, bool); 12] = [
            ("nothing happened", vec![], true),
            ("a new register is empty", vec![read(None, 0, 1)], true),
            (
                "one after the other",
                vec![write(1, 0, 1), read(Some(1), 2, 3)],
                true,
            ),
            (
                "a stale read",
                vec![write(1, 0, 1), write(2, 2, 3), read(Some(1), 4, 5)],
                false,
            ),
            (
                "a lost write",
                vec![write(1, 0, 1), read(None, 2, 3)],
                false,
            ),
            (
                "a value from nowhere",
                vec![write(1, 0, 1), read(Some(9), 2, 3)],
                false,
            ),
            (
                "concurrent writes may take either order",
                vec![write(1, 0, 10), write(2, 0, 10), read(Some(1), 11, 12)],
                true,
            ),
            (
                "but every reader sees the same order",
                vec![
                    write(1, 0, 10),
                    write(2, 0, 10),
                    read(Some(1), 11, 12),
                    read(Some(2), 13, 14),
                ],
                false,
            ),
            (
                "new, then old, while the write is under way",
                vec![
                    write(1, 0, 1),
                    write(2, 2, 20),
                    read(Some(2), 3, 4),
                    read(Some(1), 5, 6),
                ],
                false,
            ),
            (
                "an unknown write may show up late",
                vec![
                    write(1, 0, 1),
                    unknown(2, 2),
                    read(Some(1), 50, 51),
                    read(Some(2), 60, 61),
                ],
                true,
            ),
            (
                "or never",
                vec![write(1, 0, 1), unknown(2, 2), read(Some(1), 60, 61)],
                true,
            ),
            (
                "but not vanish again",
                vec![
                    write(1, 0, 1),
                    unknown(2, 2),
                    read(Some(2), 50, 51),
                    read(Some(1), 60, 61),
                ],
                false,
            ),
        ];
        for (what, history, want) in cases {
            assert_eq!(check(&history).is_ok(), want, "{what}");
        }
    }

    #[test]
    fn the_story_names_the_read_that_does_not_fit() {
        let history = [write(1, 0, 1), write(2, 2, 3), read(Some(1), 4, 5)];
        let story = check(&history).expect_err("stale").story;
        assert!(story.contains("read 1"), "{story}");
    }

    /// A real register: each operation takes effect at a point inside its interval.
    fn true_history(steps: &[(bool, u64, u64, bool)]) -> Vec<Operation> {
        let mut register = None;
        let mut history = Vec::new();
        for (i, (writes, before, after, answered)) in steps.iter().enumerate() {
            let (point, value) = (i as u64 * 10 + 1000, i as u64);
            let action = if *writes {
                register = Some(value);
                Action::Write(value)
            } else {
                Action::Read(register)
            };
            let returned = (*answered).then_some(point + after);
            history.push(operation(action, point - before, returned));
        }
        history
    }

    fn steps() -> impl Strategy<Value = Vec<(bool, u64, u64, bool)>> {
        let step = (
            any::<bool>(),
            0..60_u64,
            0..60_u64,
            prop::bool::weighted(0.9),
        );
        prop::collection::vec(step, 1..60)
    }

    /// By definition: some order of all, with real time respected, explains every read.
    fn by_definition(history: &[Operation]) -> bool {
        fn explain(left: &[&Operation], register: Register) -> bool {
            if left.iter().all(|o| o.returned.is_none()) {
                return true;
            }
            let soonest = left.iter().filter_map(|o| o.returned).min();
            (0..left.len()).any(|i| {
                let first = left[i];
                let may = soonest.is_none_or(|s| first.called <= s);
                may && apply(first.action, register).is_some_and(|after| {
                    let mut rest = left.to_vec();
                    rest.remove(i);
                    explain(&rest, after)
                })
            })
        }
        let answered =
            |o: &&Operation| o.returned.is_some() || matches!(o.action, Action::Write(_));
        let relevant: Vec<_> = history.iter().filter(answered).collect();
        explain(&relevant, Register(None))
    }

    proptest! {
        #[test]
        fn what_a_register_does_is_accepted(steps in steps()) {
            prop_assert_eq!(check(&true_history(&steps)), Ok(()));
        }

        #[test]
        fn the_search_agrees_with_the_definition(
            steps in prop::collection::vec(
                (any::<bool>(), 0..40_u64, 0..40_u64, prop::bool::weighted(0.8)), 1..7),
            lies in prop::collection::vec((0..7_usize, prop::option::of(0..7_u64)), 0..3),
        ) {
            let mut history = true_history(&steps);
            let length = history.len();
            for (at, value) in lies {
                let operation = &mut history[at % length];
                if matches!(operation.action, Action::Read(_)) {
                    operation.action = Action::Read(value);
                }
            }
            prop_assert_eq!(check(&history).is_ok(), by_definition(&history));
        }
    }
}
