//! Is a history of one register linearizable?
//!
//! The search of Wing and Gong with the memory of Lowe ("Testing for linearizability", 2017): take
//! an operation that nothing else must precede, apply it, go on; step back when stuck; never visit
//! the same set of applied operations with the same value twice. Because no value is written
//! twice, a read is applied as soon as it fits, and no write before all reads of the value it
//! replaces; that leaves little to search. Operations whose outcome nobody
//! knows may take effect at any time after their call, or never.

use std::collections::{HashMap, HashSet};

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
/// In the order of calls.
fn relevant(operations: &[Operation]) -> Vec<Operation> {
    let mut first_seen: HashMap<u64, u64> = HashMap::new();
    for operation in operations {
        if let (Action::Read(Some(value)), Some(returned)) = (operation.action, operation.returned)
        {
            let first = first_seen.entry(value).or_insert(returned);
            *first = returned.min(*first);
        }
    }
    let mut relevant: Vec<Operation> = operations
        .iter()
        .filter_map(|operation| match (operation.returned, operation.action) {
            (Some(_), _) => Some(operation.clone()),
            (None, Action::Write(value)) => Some(Operation {
                returned: Some(*first_seen.get(&value)?),
                ..operation.clone()
            }),
            (None, Action::Read(_)) => None,
        })
        .collect();
    relevant.sort_by_key(|operation| operation.called);
    relevant
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
    applied: Applied,
    register: Register,
    /// Reads of each value that have not been applied yet.
    reads_left: HashMap<Register, usize>,
    /// What was applied, and the register before it.
    trail: Vec<(usize, Register)>,
    visited: HashSet<(Window, Register)>,
}

const HEAD: usize = 0;

/// Where an attempt ended: an operation that has returned but cannot be applied.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    applied: usize,
    index: usize,
    register: Register,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
        let mut reads_left: HashMap<Register, usize> = HashMap::new();
        for (index, operation) in operations.iter().enumerate() {
            // at the same instant calls come first: what touches is concurrent
            events.push((operation.called, false, index));
            events.push((operation.returned.unwrap_or(u64::MAX), true, index));
            if let Action::Read(value) = operation.action {
                *reads_left.entry(Register(value)).or_default() += 1;
            }
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
            applied: Applied::new(operations.len()),
            register: Register(None),
            reads_left,
            trail: Vec::new(),
            visited: HashSet::new(),
        }
    }

    /// `Err` is where the deepest attempt ended.
    fn run(mut self) -> Result<(), Stuck> {
        let end = self.entries.len();
        let mut deepest = Stuck {
            applied: 0,
            index: 0,
            register: Register(None),
        };
        self.apply_reads();
        let mut at = self.next[HEAD];
        while self.next[HEAD] != end {
            let (index, is_call) = self.entries[at];
            if is_call {
                if self.try_write(at) {
                    self.apply_reads();
                    at = self.next[HEAD];
                } else {
                    at = self.next[at];
                }
                continue;
            }
            // this one has returned and nothing before it can be applied any more
            if self.trail.len() >= deepest.applied {
                deepest = Stuck {
                    applied: self.trail.len(),
                    index,
                    register: self.register,
                };
            }
            at = self.step_back().ok_or(deepest)?;
        }
        Ok(())
    }

    /// A read that fits now may as well happen now: it changes nothing, so whatever order
    /// explains the rest, it does so with the read moved to the front.
    fn apply_reads(&mut self) {
        let mut at = self.next[HEAD];
        while let Some(&(index, true)) = self.entries.get(at) {
            let fits = self.operations[index].action == Action::Read(self.register.0);
            if fits {
                self.apply(at, self.register);
            }
            // lifting it may have opened the way to what comes after its return
            at = if fits { self.next[HEAD] } else { self.next[at] };
        }
    }

    /// Applies the write called at this entry, unless that cannot lead anywhere new: values are
    /// written once, so nothing can read the present one any more.
    fn try_write(&mut self, call: usize) -> bool {
        let (index, _) = self.entries[call];
        let Action::Write(value) = self.operations[index].action else {
            return false;
        };
        if self.reads_left.get(&self.register).is_some_and(|n| *n > 0) {
            return false;
        }
        let after = Register(Some(value));
        self.applied.set(index, true);
        let is_new = self.visited.insert((self.applied.window(), after));
        self.applied.set(index, false);
        if is_new {
            self.apply(call, after);
        }
        is_new
    }

    fn apply(&mut self, call: usize, after: Register) {
        let (index, _) = self.entries[call];
        self.trail.push((call, self.register));
        self.applied.set(index, true);
        self.register = after;
        if let Action::Read(value) = self.operations[index].action {
            *self.reads_left.entry(Register(value)).or_default() -= 1;
        }
        for entry in [call, self.return_of[index]] {
            let (before, after) = (self.previous[entry], self.next[entry]);
            self.next[before] = after;
            self.previous[after] = before;
        }
    }

    /// Takes back everything down to the last write; where to look for another one.
    fn step_back(&mut self) -> Option<usize> {
        loop {
            let (call, before) = self.trail.pop()?;
            let (index, _) = self.entries[call];
            self.register = before;
            self.applied.set(index, false);
            for entry in [self.return_of[index], call] {
                let (before, after) = (self.previous[entry], self.next[entry]);
                self.next[before] = entry;
                self.previous[after] = entry;
            }
            match self.operations[index].action {
                Action::Read(value) => *self.reads_left.entry(Register(value)).or_default() += 1,
                Action::Write(_) => return Some(self.next[call]),
            }
        }
    }
}

/// What the register holds, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Register(Option<u64>);

/// A set of operations, by index in the order of calls.
struct Applied {
    words: Vec<u64>,
    /// Words below this are full: what was called early has all been applied.
    full: usize,
    count: usize,
}

/// All that tells one set from another: how far it is full, and what comes after. As short as
/// few operations overlap, however long the history is.
type Window = (usize, Vec<u64>);

impl Applied {
    fn new(operations: usize) -> Self {
        Self {
            words: vec![0; operations.div_ceil(64) + 1],
            full: 0,
            count: 0,
        }
    }

    fn set(&mut self, index: usize, on: bool) {
        let (word, bit) = (index / 64, 1 << (index % 64));
        let was_on = self.words[word] & bit != 0;
        match (was_on, on) {
            (false, true) => {
                self.words[word] |= bit;
                self.count += 1;
                while self.words[self.full] == u64::MAX {
                    self.full += 1;
                }
            }
            (true, false) => {
                self.words[word] &= !bit;
                self.count -= 1;
                self.full = self.full.min(word);
            }
            _ => {}
        }
    }

    fn window(&self) -> Window {
        let mut left = self.count - self.full * 64;
        let after = self.words[self.full..].iter();
        let window = after.take_while(|word| {
            let is_needed = left > 0;
            left -= word.count_ones() as usize;
            is_needed
        });
        (self.full, window.copied().collect())
    }
}

fn story(operations: &[Operation], stuck: Stuck) -> String {
    let culprit = &operations[stuck.index];
    let end = culprit.returned.unwrap_or(u64::MAX);
    let overlaps = |o: &&Operation| {
        let from = culprit.called.saturating_sub(50_000_000);
        o.returned.unwrap_or(u64::MAX) >= from && o.called <= end
    };
    // a value that is still read afterwards cannot have been replaced by then
    let still_read = |o: &&Operation| o.called > end && o.action == Action::Read(stuck.register.0);
    let around = operations.iter().filter(overlaps);
    let around: Vec<String> = around.map(ToString::to_string).collect();
    let later = operations.iter().find(still_read);
    let later = later.map_or_else(String::new, |o| format!("\nbecause of this:\n  {o}"));
    format!(
        "this fits nowhere:\n  {culprit}{later}\n\
         what happened in the 50 ms before and meanwhile:\n  {}",
        around.join("\n  ")
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

    /// The register after the action; `None` when it cannot happen now.
    fn apply(action: Action, register: Register) -> Option<Register> {
        match action {
            Action::Write(value) => Some(Register(Some(value))),
            Action::Read(value) => (value == register.0).then_some(register),
        }
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

    #[test]
    fn long_histories_are_judged_quickly() {
        // twenty at a time, without end; a search that remembers poorly never finishes this
        let steps: Vec<_> = (0..20_000_u64)
            .map(|i| (i % 3 == 0, (i * 7) % 100, (i * 13) % 100, true))
            .collect();
        let mut history = true_history(&steps);
        assert_eq!(check(&history), Ok(()));
        let last = history.last_mut().expect("not empty");
        last.action = Action::Read(Some(0));
        assert!(check(&history).is_err());
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
