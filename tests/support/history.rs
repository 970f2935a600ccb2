//! What clients did and saw, with times, and what must be true of it.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ringmaster_shared::id::ClusterId;
use tokio::sync::OnceCell;

use super::{
    checks::{
        Check, Report,
        cover::Cover,
        ended::End,
        judge,
        record::{Did, History, Op, Outcome},
        siblings,
    },
    client::Api,
    linearizability::{Violation, check},
};

/// What one operation did to one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Values are never written twice.
    Write(u64),
    /// `None`: no such key.
    Read(Option<u64>),
}

/// One operation of one client; times in nanoseconds since the recording began.
#[derive(Debug, Clone)]
pub struct Operation {
    pub client: usize,
    /// The node that was asked.
    pub node: String,
    pub action: Action,
    pub called: u64,
    /// `None`: no answer, the outcome is unknown.
    pub returned: Option<u64>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        write!(f, "{:10.3} to ", ms(self.called))?;
        match self.returned {
            Some(returned) => write!(f, "{:10.3} ms", ms(returned))?,
            None => write!(f, "   unknown   ")?,
        }
        write!(f, "  client {} at {}: ", self.client, self.node)?;
        match self.action {
            Action::Write(value) => write!(f, "write {value}"),
            Action::Read(Some(value)) => write!(f, "read {value}"),
            Action::Read(None) => write!(f, "read nothing"),
        }
    }
}

/// Collects from many clients.
pub struct Recorder {
    began: Instant,
    history: Mutex<History>,
    /// The cluster that is watched, once a node has told.
    cluster: OnceCell<ClusterId>,
}

/// How much was recorded, so that a test can show that something happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub reads: usize,
    pub writes: usize,
    pub unknown: usize,
}

impl Recorder {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            history: Mutex::default(),
            cluster: OnceCell::new(),
        }
    }

    /// The cluster, by which its contexts are read; `None` as long as no node told it.
    pub async fn cluster(&self, api: &Api) -> Option<&ClusterId> {
        let asked = self.cluster.get_or_try_init(|| async {
            let status = api.status().await.map_err(drop)?;
            ClusterId::new(&status.cluster.cluster_id).map_err(drop)
        });
        asked.await.ok()
    }

    /// Now, for the times of an operation.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn add(&self, op: Op) {
        self.history().ops.push(op);
    }

    /// Every node is dead at this moment.
    pub fn all_killed(&self) {
        let now = self.now();
        self.history().all_killed.push(now);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every key that was touched.
    pub fn keys(&self) -> Vec<String> {
        let history = self.history();
        let keys: HashSet<&String> = history.ops.iter().map(|op| &op.key).collect();
        let mut keys: Vec<String> = keys.into_iter().cloned().collect();
        keys.sort();
        keys
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for op in &self.history().ops {
            match (&op.did, op.outcome) {
                (Did::Read(_), _) => counts.reads += 1,
                (Did::Write(_), Outcome::Done(_)) => counts.writes += 1,
                (Did::Write(_), Outcome::Unknown) => counts.unknown += 1,
                (Did::Write(_), Outcome::Refused) => {}
            }
        }
        counts
    }

    /// Every key by itself must behave as one register, and no write may leave standing beside
    /// it what it superseded. How many operations were judged as those of registers.
    pub fn verify(&self) -> Result<usize, Violation> {
        let history = self.history();
        let judged = linearizable(&history)?;
        let verdict = siblings::check(&Cover::of(&history), &End::default());
        match verdict.stories.into_iter().next() {
            Some(story) => Err(Violation { story }),
            None => Ok(judged),
        }
    }

    /// What all the checks say, given what the cluster came to.
    pub fn judge(&self, end: &End) -> Report {
        judge(&self.history(), end)
    }

    /// Every key a register, and all the checks green, each of `needed` having examined
    /// something; prints the figures. How many operations were judged as those of registers.
    pub fn must_hold(&self, end: &End, needed: &[Check]) -> usize {
        let counts = self.counts();
        let report = self.judge(end);
        let judged = match self.verify() {
            Ok(judged) => judged,
            Err(violation) => panic!("{}\n{counts:?}\n{report}", violation.story),
        };
        eprintln!("{counts:?}, {judged} of them of registers\n{report}");
        report.must_hold(needed);
        judged
    }
}

/// Judges the keys that nobody deleted: a delete writes no value of its own, by which a register
/// is told from another. How many operations those were.
fn linearizable(history: &History) -> Result<usize, Violation> {
    let mut by_key: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    let mut deleted: HashSet<&str> = HashSet::new();
    for op in &history.ops {
        if op.write().is_some_and(|w| w.deletes) {
            deleted.insert(&op.key);
        }
        if let Some(operation) = operation(op) {
            by_key.entry(&op.key).or_default().push(operation);
        }
    }
    let mut judged = 0;
    for (key, operations) in by_key.iter().filter(|(key, _)| !deleted.contains(*key)) {
        judged += operations.len();
        check(operations).map_err(|violation| Violation {
            story: format!("key {key}: {}", violation.story),
        })?;
    }
    Ok(judged)
}

/// What it did to its register; `None` when it was refused and did nothing.
fn operation(op: &Op) -> Option<Operation> {
    let action = match &op.did {
        Did::Write(write) if op.outcome != Outcome::Refused => Action::Write(write.id),
        Did::Write(_) => return None,
        Did::Read(seen) => {
            let winner = seen.values.first().copied();
            Action::Read(winner.filter(|_| seen.found))
        }
    };
    Some(Operation {
        client: op.client,
        node: op.node.clone(),
        action,
        called: op.called,
        returned: op.ended(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::checks::made_up::{put, read};

    #[test]
    fn siblings_must_have_been_concurrent() {
        for (found, fine) in [(&[][..], true), (&[("a", 1)], false)] {
            let recorder = Recorder::new();
            recorder.add(put(1, 0, 5, "a", 1, &[]));
            recorder.add(put(2, 2, 9, "b", 1, found));
            recorder.add(read(&[2, 1], &[("a", 1), ("b", 1)], 10, 11));
            assert_eq!(recorder.verify().is_ok(), fine, "{found:?}");
        }
    }

    #[test]
    fn a_key_that_somebody_deleted_is_not_counted_as_judged() {
        let recorder = Recorder::new();
        let of_key = |key: &str, deletes: bool| {
            let mut op = put(recorder.keys().len() as u64 + 1, 0, 5, "a", 1, &[]);
            key.clone_into(&mut op.key);
            if let Did::Write(write) = &mut op.did {
                write.deletes = deletes;
            }
            op
        };
        recorder.add(of_key("deleted", true));
        assert_eq!(linearizable(&recorder.history()).ok(), Some(0));
        recorder.add(of_key("kept", false));
        assert_eq!(linearizable(&recorder.history()).ok(), Some(1));
    }

    #[test]
    fn keys_are_judged_one_by_one() {
        let recorder = Recorder::new();
        recorder.add(put(1, 0, 1, "a", 1, &[]));
        let mut stale = read(&[1], &[("a", 1)], 2, 3);
        "other".clone_into(&mut stale.key);
        recorder.add(stale);
        let story = recorder.verify().expect_err("a value of another key").story;
        assert!(story.contains("key other"), "{story}");
        let counts = Counts {
            reads: 1,
            writes: 1,
            unknown: 0,
        };
        assert_eq!(recorder.counts(), counts);
        assert_eq!(recorder.keys(), ["k", "other"]);
    }
}
