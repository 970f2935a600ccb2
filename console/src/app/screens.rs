//! What each screen remembers between two draws: selection, scroll, sorting, filter, answers.

use std::collections::VecDeque;

use jiff::Timestamp;
use ringmaster_shared::{
    event::Severity,
    id::{NodeId, PartitionId},
};

use super::{Tone, ring_change::ChangeState, scroll::Scroll};
use crate::{
    change::ChangeVerb,
    message::{DataAnswer, DataRequest},
    progress::{Preview, ProcedureKind, Progress},
};

/// Partitions in a row of the grid on a terminal of `columns`.
pub fn partitions_per_row(columns: u16) -> u16 {
    if columns >= 72 { 64 } else { 32 }
}

/// The member table, on Overview and on Members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MembersState {
    /// By id, so that a refresh never moves it to another node.
    pub selected: Option<NodeId>,
    pub sort: MemberColumn,
    pub descending: bool,
    pub filter: String,
    /// The node whose details are open on Members.
    pub open: Option<NodeId>,
    /// Whether the matrix of who sees whom has the whole screen.
    pub matrix: bool,
    /// How far its observers are scrolled, and its members.
    pub rows: Scroll,
    pub columns: Scroll,
}

/// Columns one can sort by, in the order in which they stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum MemberColumn {
    #[default]
    Node,
    State,
    Zone,
    Owns,
    Keys,
    Puts,
    Gets,
    P99,
    Hints,
    Disk,
    Up,
    Health,
    SeenBy,
}

impl MemberColumn {
    pub const ALL: [Self; 13] = [
        Self::Node,
        Self::State,
        Self::Zone,
        Self::Owns,
        Self::Keys,
        Self::Puts,
        Self::Gets,
        Self::P99,
        Self::Hints,
        Self::Disk,
        Self::Up,
        Self::Health,
        Self::SeenBy,
    ];

    /// The column `by` places to the right, stopping at either end.
    #[must_use]
    pub fn moved(self, by: isize) -> Self {
        let last = Self::ALL.len() - 1;
        let here = Self::ALL.iter().position(|c| *c == self).unwrap_or(0);
        Self::ALL[here.saturating_add_signed(by).min(last)]
    }
}

/// The grid of partitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuorumState {
    pub cursor: PartitionId,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RingState {
    /// The partition under the cursor.
    pub cursor: PartitionId,
    /// The key that was looked for.
    pub located: Option<Located>,
    /// The node whose places are bright; none: all.
    pub highlight: Option<NodeId>,
}

/// Where a key lands; from the shared arithmetic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub key: String,
    pub hash: u64,
    pub partition: PartitionId,
}

#[derive(Debug, Clone, Default)]
pub struct DataState {
    /// The key of the last operation.
    pub key: String,
    pub in_flight: Option<InFlight>,
    pub answer: Option<Answered>,
    /// Earlier operations, newest last.
    pub log: VecDeque<DataLine>,
    pub scroll: Scroll,
}

/// An operation that has not been answered yet.
#[derive(Debug, Clone, PartialEq)]
pub struct InFlight {
    pub request: DataRequest,
    /// Console clock.
    pub since_ms: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    pub answer: DataAnswer,
    pub at: Timestamp,
    /// Console clock.
    pub received_ms: u64,
}

/// One line of what was done here before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataLine {
    pub at: Timestamp,
    pub verb: &'static str,
    pub key: String,
    /// A warning where it may have taken effect although it did not succeed.
    pub tone: Tone,
    /// One short sentence.
    pub summary: String,
    pub took_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventsState {
    pub filter: String,
    /// Only events at least this severe.
    pub least: Option<Severity>,
    /// Lines between the newest event and the lowest one shown; 0 follows.
    pub back: usize,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProceduresState {
    /// Row of the menu.
    pub selected: usize,
    /// The plan that is open, before it is confirmed.
    pub preview: Option<Preview>,
    /// The one that runs, or the last one.
    pub progress: Option<Progress>,
    /// Changes of the ring.
    pub change: ChangeState,
    pub show_log: bool,
    pub scroll: Scroll,
}

/// One line of the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Restart(ProcedureKind),
    Change(ChangeVerb),
}

impl Entry {
    /// In the order in which they stand.
    pub fn all() -> impl Iterator<Item = Self> {
        let restarts = ProcedureKind::ALL.into_iter().map(Self::Restart);
        restarts.chain(ChangeVerb::ALL.into_iter().map(Self::Change))
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Restart(kind) => kind.title(),
            Self::Change(verb) => verb.title(),
        }
    }
}

impl ProceduresState {
    /// The restart that is shown: the one that runs, or the last one unless a change of the ring
    /// came later.
    pub fn restart(&self) -> Option<&Progress> {
        let last = self.progress.as_ref()?;
        let change = self.change.run.as_ref();
        let later = change.is_some_and(|run| run.is_running() || run.started >= last.started_utc);
        (last.is_running() || !later).then_some(last)
    }

    /// Its log has taken the place of the menu.
    pub fn is_log_open(&self) -> bool {
        self.show_log && self.restart().is_some()
    }

    /// The line of the menu that the keys act on.
    pub fn entry(&self) -> Entry {
        let last = Entry::all().last();
        let chosen = Entry::all().nth(self.selected).or(last);
        chosen.unwrap_or(Entry::Restart(ProcedureKind::CleanRestart))
    }
}
