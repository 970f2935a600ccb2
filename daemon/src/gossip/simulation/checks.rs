//! The rules, looked at after every step of every node.
//!
//! They know what each member really said of itself (the [`Checks::word`]s), which no node knows
//! of another. Each rule is shown to bite in `biting.rs`.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use ringmaster_shared::{
    id::{Generation, Incarnation},
    member::{Freshness, MemberStatus},
};

use super::names::Who;
pub use crate::gossip::members::Held;
use crate::gossip::{
    MemberState, claim,
    core::{LEFT_KEPT_MS, inspected::Depths},
};

/// A node, and which of its processes.
pub type Process = (Who, u32);

/// One change of what somebody holds of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub about: Who,
    pub before: Option<Held>,
    pub after: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A member's (generation, incarnation) never falls, and without a new word of its own the
    /// news of it only get graver.
    Monotone,
    /// Nobody comes back without a word of its own.
    Resurrection,
    /// Nobody believes what was never said.
    NeverSaid,
    /// Which status may follow which, and how soon.
    Transition,
    /// A node calls itself alive until it stops, and its own incarnation never falls.
    OwnWord,
    /// Queues and packets keep to their bounds.
    Bounded,
    /// Every reachable member is probed within 2N - 1 of a node's probes in turn, and it does probe.
    Liveness,
    /// A node holds members of its own cluster alone.
    Stranger,
    /// What a node holds of a member stays until there is news of it.
    Forgotten,
    /// What arrives as it was sent is read, if the key is there, and nothing else is.
    Wire,
    /// After an exchange that ended well each side knows all that the other knew.
    Reconciled,
    /// In the end all agree, and on the truth.
    Convergence,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

fn broken<T>(rule: Rule, what: String) -> Result<T, Violation> {
    Err(Violation { rule, what })
}

/// What a member said of itself in one life.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    alive: Option<Incarnation>,
    /// Stopped or left, as of this incarnation: its last word.
    last: Option<(Incarnation, MemberStatus)>,
}

#[derive(Default)]
pub struct Checks {
    words: HashMap<(Who, Generation), Word>,
    /// When anybody first suspected a member as of a freshness.
    suspected_ms: HashMap<(Who, Freshness), u64>,
    suspicion_min_ms: u64,
    /// Said to have left by somebody else, as of this.
    buried: HashSet<(Who, Freshness)>,
    /// What each process was last seen to hold of each member. Kept apart from the list that is
    /// judged: who forgets somebody must not judge by what it has forgotten.
    held: HashMap<(Process, Who), Held>,
}

impl Checks {
    /// No death may follow the first suspicion sooner than this.
    pub fn new(suspicion_min_ms: u64) -> Self {
        Self {
            suspicion_min_ms,
            ..Self::default()
        }
    }

    /// A member said this of itself. Called after each of its steps, before what it believes of
    /// others is judged.
    pub fn word(&mut self, who: Who, held: Held, may_end: bool) -> Result<(), Violation> {
        let ((generation, incarnation), status) = held;
        let ended = matches!(status, MemberStatus::Stopped | MemberStatus::Left);
        if status != MemberStatus::Alive && !(ended && may_end) {
            return broken(Rule::OwnWord, format!("calls itself {status:?}"));
        }
        let word = self.words.entry((who, generation)).or_default();
        if ended {
            word.last = Some((incarnation, status));
        } else if word.alive.is_some_and(|said| incarnation < said) {
            return broken(
                Rule::OwnWord,
                format!("its incarnation fell to {incarnation}"),
            );
        } else {
            word.alive = Some(incarnation);
        }
        Ok(())
    }

    /// An operator took it off the list.
    pub fn bury(&mut self, who: Who, freshness: Freshness) {
        self.buried.insert((who, freshness));
    }

    /// A process takes this for what it held before, and holds something else from now on. `None`
    /// is nothing at all, which only who has left for long may come to.
    pub fn held(
        &mut self,
        now_ms: u64,
        by: Process,
        about: Who,
        (before, after): (Option<Held>, Option<Held>),
    ) -> Result<(), Violation> {
        let key = (by, about);
        let known = match after {
            Some(after) => self.held.insert(key, after),
            None => self.held.remove(&key),
        };
        if before != known {
            let what = format!("it held {known:?} of n{about:05}, and goes by {before:?}");
            return broken(Rule::Forgotten, what);
        }
        let left = before.is_some_and(|b| b.1 == MemberStatus::Left);
        if after.is_none() && !(left && now_ms > LEFT_KEPT_MS) {
            let what = format!("nothing is held any more of n{about:05}, {before:?} before");
            return broken(Rule::Forgotten, what);
        }
        Ok(())
    }

    /// Judges a change of what is held of a member.
    pub fn change(&mut self, now_ms: u64, change: &Change) -> Result<(), Violation> {
        self.was_said(change)?;
        if let Some(before) = change.before {
            follows(before, change.after)?;
        }
        self.not_too_soon(now_ms, change)
    }

    fn was_said(&self, change: &Change) -> Result<(), Violation> {
        use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};
        let (freshness, status) = change.after;
        let (generation, incarnation) = freshness;
        let word = self
            .words
            .get(&(change.about, generation))
            .copied()
            .unwrap_or_default();
        let said = match status {
            Alive | Suspected | Dead => word.alive.is_some_and(|said| incarnation <= said),
            Stopped | Left => {
                word.last == Some((incarnation, status))
                    || (status == Left && self.buried.contains(&(change.about, freshness)))
            }
        };
        // dead may also be who was last heard to stop: the accusation is as of an earlier word
        if said {
            return Ok(());
        }
        broken(Rule::NeverSaid, format!("{change:?}, but it said {word:?}"))
    }

    fn not_too_soon(&mut self, now_ms: u64, change: &Change) -> Result<(), Violation> {
        let (freshness, status) = change.after;
        let key = (change.about, freshness);
        match status {
            MemberStatus::Suspected => {
                self.suspected_ms.entry(key).or_insert(now_ms);
                Ok(())
            }
            MemberStatus::Dead => match self.suspected_ms.get(&key) {
                None => broken(
                    Rule::Transition,
                    format!("dead without suspicion: {change:?}"),
                ),
                Some(since) if now_ms < since + self.suspicion_min_ms => {
                    let after = now_ms - since;
                    broken(
                        Rule::Transition,
                        format!("dead {after} ms after the first suspicion: {change:?}"),
                    )
                }
                Some(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// Which status and freshness may follow which.
fn follows(before: Held, after: Held) -> Result<(), Violation> {
    if after.0 < before.0 {
        return broken(Rule::Monotone, format!("from {before:?} back to {after:?}"));
    }
    if after.0 > before.0 {
        return Ok(());
    }
    // the same word of the member, judged anew: alive, suspected, dead, stopped, left
    if after.1 >= before.1 {
        return Ok(());
    }
    let came_back = !before.1.is_reachable() && after.1.is_reachable();
    let rule = if came_back {
        Rule::Resurrection
    } else {
        Rule::Monotone
    };
    broken(
        rule,
        format!("without a new word from {before:?} to {after:?}"),
    )
}

/// Bounds of the lists a node keeps.
pub fn within_bounds(depths: Depths, out: usize) -> Result<(), Violation> {
    let all = depths.members + 1;
    for (name, length, max) in [
        ("rumors", depths.rumors, all),
        ("rotation", depths.rotation, all),
        ("probes", depths.probes, 4),
        ("relays", depths.relays, 1024),
        // a farewell is said to everybody at once
        ("outputs of one step", out, 4 * all + 64),
    ] {
        if length > max {
            return broken(Rule::Bounded, format!("{length} {name}, at most {max}"));
        }
    }
    Ok(())
}

/// Whether who holds this knows by now what the other side of an exchange said of a member.
pub fn is_reconciled(said: &MemberState, held: Option<&MemberState>) -> bool {
    let Some(held) = held else {
        // a tombstone of somebody unknown is not taken in
        return said.status == MemberStatus::Left;
    };
    let told = match said.status {
        // found out anew
        MemberStatus::Dead => MemberStatus::Suspected,
        // who left is no difference between two lists
        MemberStatus::Left if held.status == MemberStatus::Left => return true,
        told => told,
    };
    (claim::freshness(held), held.status) >= (claim::freshness(said), told)
}

pub fn packet_fits(bytes: usize, max: usize) -> Result<(), Violation> {
    if bytes <= max {
        return Ok(());
    }
    broken(
        Rule::Bounded,
        format!("a packet of {bytes} bytes, at most {max}"),
    )
}

/// When a node last probed each of the members it holds reachable, counted in its own probes in
/// turn.
#[derive(Default)]
pub struct Rounds {
    own: u64,
    /// How many it made out of turn.
    again: u64,
    last_probe_ms: u64,
    /// By member: its number among the probes, and the largest list since.
    last: HashMap<Who, (u64, u64)>,
    largest: u64,
}

impl Rounds {
    /// `n` counts this node; `again` all its probes out of turn, this one included if it is.
    pub fn probed(
        &mut self,
        now_ms: u64,
        about: Who,
        n: usize,
        again: u64,
    ) -> Result<(), Violation> {
        self.own += u64::from(again == self.again);
        self.again = again;
        self.last_probe_ms = now_ms;
        self.largest = self.largest.max(n as u64);
        let since = self.last.insert(about, (self.own, self.largest));
        self.waited(about, since)
    }

    /// It is held reachable from now on.
    pub fn reachable(&mut self, now_ms: u64, about: Who) {
        if self.last.is_empty() {
            // until now there was nobody to probe
            self.last_probe_ms = self.last_probe_ms.max(now_ms);
        }
        let entry = (self.own, self.largest);
        self.last.entry(about).or_insert(entry);
    }

    /// It is not held reachable any more.
    pub fn gone(&mut self, about: Who) {
        self.last.remove(&about);
    }

    fn waited(&self, about: Who, since: Option<(u64, u64)>) -> Result<(), Violation> {
        let Some((at, _)) = since else {
            return Ok(());
        };
        // the worst of round robin: first in one order, last in the next
        let most = (2 * self.largest).saturating_sub(1);
        if self.own - at <= most {
            return Ok(());
        }
        let rounds = self.own - at;
        broken(
            Rule::Liveness,
            format!("n{about:05} was not probed for {rounds} rounds, at most {most}"),
        )
    }

    /// Nobody was forgotten, and there are probes at all.
    pub fn check(&self, now_ms: u64, gap_max_ms: u64) -> Result<(), Violation> {
        for (about, since) in &self.last {
            self.waited(*about, Some(*since))?;
        }
        let gap = now_ms.saturating_sub(self.last_probe_ms);
        if !self.last.is_empty() && gap > gap_max_ms {
            return broken(
                Rule::Liveness,
                format!("no probe for {gap} ms, at most {gap_max_ms}"),
            );
        }
        Ok(())
    }

    /// It could not probe until now.
    pub fn stood_still(&mut self, now_ms: u64) {
        self.last_probe_ms = now_ms;
    }
}
