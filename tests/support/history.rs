//! What clients did and saw, with times, and what must be true of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::linearizability::{Violation, check};

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
    pub key: String,
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

/// Values a read returned side by side.
#[derive(Debug, Clone)]
struct Siblings {
    key: String,
    values: Vec<u64>,
}

/// Collects from many clients.
pub struct Recorder {
    began: Instant,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    operations: Vec<Operation>,
    siblings: Vec<Siblings>,
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
            log: Mutex::default(),
        }
    }

    /// Now, for `called` and `returned`.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn add(&self, operation: Operation) {
        self.log().operations.push(operation);
    }

    pub fn add_siblings(&self, key: &str, values: Vec<u64>) {
        let key = key.to_owned();
        self.log().siblings.push(Siblings { key, values });
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for operation in &self.log().operations {
            match (operation.action, operation.returned) {
                (_, None) => counts.unknown += 1,
                (Action::Write(_), Some(_)) => counts.writes += 1,
                (Action::Read(_), Some(_)) => counts.reads += 1,
            }
        }
        counts
    }

    /// Every key by itself must behave as one register, and no write may leave standing beside
    /// it what had been acknowledged before it began.
    pub fn verify(&self) -> Result<(), Violation> {
        let log = self.log();
        let mut by_key: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
        for operation in &log.operations {
            by_key
                .entry(&operation.key)
                .or_default()
                .push(operation.clone());
        }
        for (key, operations) in &by_key {
            check(operations).map_err(|violation| Violation {
                story: format!("key {key}: {}", violation.story),
            })?;
        }
        superseded(&log)
    }
}

/// A write without a context supersedes every write that was acknowledged before it began, so
/// the two can never be siblings.
fn superseded(log: &Log) -> Result<(), Violation> {
    let written: HashMap<u64, &Operation> = log
        .operations
        .iter()
        .filter_map(|o| match o.action {
            Action::Write(value) => Some((value, o)),
            Action::Read(_) => None,
        })
        .collect();
    for siblings in &log.siblings {
        let writes: BTreeSet<_> = siblings.values.iter().collect();
        let writes: Vec<&Operation> = writes
            .iter()
            .filter_map(|v| written.get(v).copied())
            .collect();
        for earlier in &writes {
            for later in &writes {
                if earlier.returned.is_some_and(|end| end < later.called) {
                    return Err(Violation {
                        story: format!(
                            "key {}: a read returned both of these, but the second should have \
                             superseded the first:\n  {earlier}\n  {later}",
                            siblings.key
                        ),
                    });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, called: u64, returned: Option<u64>) -> Operation {
        Operation {
            client: 0,
            node: "n".into(),
            key: "k".into(),
            action: Action::Write(value),
            called,
            returned,
        }
    }

    #[test]
    fn siblings_must_have_been_concurrent() {
        let cases = [(Some(10), 5, true), (Some(10), 11, false), (None, 11, true)];
        for (first_returned, second_called, fine) in cases {
            let recorder = Recorder::new();
            recorder.add(write(1, 0, first_returned));
            recorder.add(write(2, second_called, Some(20)));
            recorder.add_siblings("k", vec![2, 1]);
            assert_eq!(
                recorder.verify().is_ok(),
                fine,
                "{first_returned:?}, {second_called}"
            );
        }
    }

    #[test]
    fn keys_are_judged_one_by_one() {
        let recorder = Recorder::new();
        recorder.add(write(1, 0, Some(1)));
        let stale = Operation {
            key: "other".into(),
            action: Action::Read(Some(1)),
            ..write(0, 2, Some(3))
        };
        recorder.add(stale);
        let story = recorder.verify().expect_err("a value of another key").story;
        assert!(story.contains("key other"), "{story}");
        let counts = Counts {
            reads: 1,
            writes: 1,
            unknown: 0,
        };
        assert_eq!(recorder.counts(), counts);
    }
}
