//! Judges of what clients did and saw: nothing acknowledged is lost, nothing is superseded that
//! nobody superseded, nothing comes back, and in the end all replicas hold the same.
//!
//! Each file below holds one idea and is pure: a [`History`] and the [`End`] that the cluster
//! came to go in, a [`Verdict`] comes out, which counts what was really examined. A check that
//! examined nothing has shown nothing, so [`Report::must_hold`] takes that for a failure.
//! Whether one key behaves as one register is left to `linearizability`.
//!
//! The checks go by quorum reads and writes, by values that are never written twice, and by the
//! version vectors in the contexts that answers carry: an acknowledged write's own dot is the
//! highest one there of the node that took it.

pub mod convergence;
pub mod cover;
pub mod dominance;
pub mod dots;
pub mod durability;
pub mod ended;
pub mod loss;
pub mod record;
pub mod resurrection;
pub mod sessions;
pub mod siblings;
pub mod stale;

#[cfg(test)]
pub mod made_up;

use std::fmt;

use self::{cover::Cover, ended::End, record::History};

/// Stories told of one check; more would only be more of the same.
const STORIES_MAX: usize = 5;

/// The checks by their names in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// K1: an acknowledged write is there or was superseded.
    NothingLost,
    /// K2: what disappears was superseded by somebody's write.
    NoFalseDominance,
    /// K3: one dot, one write; one write, one dot; nothing from nowhere.
    DotsAreUnique,
    /// K4: what was superseded for good is never read again.
    NoResurrection,
    /// K5: in the end all replicas and all nodes agree.
    Convergence,
    /// K6: siblings are writes that ran at the same time or did not know of each other.
    SiblingsAreConcurrent,
    /// K7: a client reads its own writes and never goes back.
    Sessions,
    /// K8: what was acknowledged before all nodes were killed is there afterwards.
    Durability,
    /// K9: a write or delete with an old context leaves alone what it had not seen.
    StaleContexts,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingLost => "K1 nothing lost",
            Self::NoFalseDominance => "K2 no false dominance",
            Self::DotsAreUnique => "K3 dots are unique",
            Self::NoResurrection => "K4 no resurrection",
            Self::Convergence => "K5 convergence",
            Self::SiblingsAreConcurrent => "K6 siblings are concurrent",
            Self::Sessions => "K7 sessions",
            Self::Durability => "K8 durability",
            Self::StaleContexts => "K9 stale contexts",
        })
    }
}

/// What one check came to.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub check: Check,
    /// Facts that could have contradicted it.
    pub examined: usize,
    pub violations: usize,
    /// The first few violations, for a person.
    pub stories: Vec<String>,
}

impl Verdict {
    pub fn new(check: Check) -> Self {
        Self {
            check,
            examined: 0,
            violations: 0,
            stories: Vec::new(),
        }
    }

    /// One more fact was looked at; `broken` tells what is wrong with it, if anything is.
    pub fn examine(&mut self, broken: Option<String>) {
        self.examined += 1;
        if let Some(story) = broken {
            self.violations += 1;
            if self.stories.len() < STORIES_MAX {
                self.stories.push(story);
            }
        }
    }
}

/// All verdicts on one run.
#[derive(Debug, Clone)]
pub struct Report(pub Vec<Verdict>);

/// Runs every check.
pub fn judge(history: &History, end: &End) -> Report {
    let covers = Cover::of(history);
    Report(vec![
        loss::check(&covers, end),
        dominance::check(&covers, end),
        dots::check(&covers, end),
        resurrection::check(&covers, end),
        convergence::check(end),
        siblings::check(&covers, end),
        sessions::check(history),
        durability::check(&covers, history),
        stale::check(&covers),
    ])
}

impl Report {
    fn of(&self, check: Check) -> Option<&Verdict> {
        self.0.iter().find(|verdict| verdict.check == check)
    }

    /// How much this check looked at.
    pub fn examined(&self, check: Check) -> usize {
        self.of(check).map_or(0, |v| v.examined)
    }

    /// Whether this check found something wrong.
    pub fn is_red(&self, check: Check) -> bool {
        self.of(check).is_some_and(|v| v.violations > 0)
    }

    /// Panics unless no check found anything wrong and each of `needed` examined something.
    pub fn must_hold(&self, needed: &[Check]) {
        let broken = self.0.iter().filter(|v| v.violations > 0);
        let stories: Vec<String> = broken
            .map(|v| {
                format!(
                    "{} ({} times):\n{}",
                    v.check,
                    v.violations,
                    v.stories.join("\n")
                )
            })
            .collect();
        assert!(stories.is_empty(), "{self}\n{}", stories.join("\n\n"));
        for check in needed {
            let examined = self.examined(*check);
            assert!(
                examined > 0,
                "{check} examined nothing, so it shows nothing\n{self}"
            );
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for verdict in &self.0 {
            let name = verdict.check.to_string();
            let (examined, violations) = (verdict.examined, verdict.violations);
            writeln!(f, "{name:28} {examined:8} examined {violations:6} wrong")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "examined nothing")]
    fn a_check_that_saw_nothing_is_a_failure() {
        let report = judge(&History::default(), &End::default());
        report.must_hold(&[Check::NothingLost]);
    }

    #[test]
    fn stories_are_bounded_and_violations_are_not() {
        let mut verdict = Verdict::new(Check::Sessions);
        for n in 0..20 {
            verdict.examine((n % 2 == 0).then(|| n.to_string()));
        }
        assert_eq!((verdict.examined, verdict.violations), (20, 10));
        assert_eq!(verdict.stories, ["0", "2", "4", "6", "8"]);
    }
}
