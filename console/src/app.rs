//! The console's state, and the pure function that changes it.
//!
//! [`mod@update`] takes one message and returns what is to be done; it awaits nothing, reads no
//! clock and touches no terminal. The screens draw from [`App`] and change nothing.

mod act;
pub mod filter;
mod input;
pub mod ring_change;
pub mod rows;
pub mod screens;
mod scroll;
mod update;
mod write;

use std::collections::VecDeque;

use jiff::Timestamp;
use ringmaster_shared::{api::ring::Change, id::Epoch};
use tui_input::Input;

pub use update::update;

use crate::{
    cluster::Cluster,
    config::Display,
    link::{LinkState, LinkView},
    progress::{ProcedureKind, Target},
};
use screens::{DataState, EventsState, MembersState, ProceduresState, QuorumState, RingState};
use scroll::Scroll;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ScreenId {
    #[default]
    Overview,
    Members,
    Quorum,
    Ring,
    Data,
    Events,
    Procedures,
    Doctor,
    Help,
}

impl ScreenId {
    /// In the order of their keys, 1 to 8, then `?`.
    pub const ALL: [Self; 9] = [
        Self::Overview,
        Self::Members,
        Self::Quorum,
        Self::Ring,
        Self::Data,
        Self::Events,
        Self::Procedures,
        Self::Doctor,
        Self::Help,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Members => "Members",
            Self::Quorum => "Quorum",
            Self::Ring => "Ring",
            Self::Data => "Data",
            Self::Events => "Events",
            Self::Procedures => "Procedures",
            Self::Doctor => "Doctor",
            Self::Help => "Help",
        }
    }

    /// The key that opens it.
    pub fn key(self) -> char {
        match self {
            Self::Overview => '1',
            Self::Members => '2',
            Self::Quorum => '3',
            Self::Ring => '4',
            Self::Data => '5',
            Self::Events => '6',
            Self::Procedures => '7',
            Self::Doctor => '8',
            Self::Help => '?',
        }
    }
}

/// What the line at the bottom is asking for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptKind {
    /// `:`
    Command,
    /// `/` on a table.
    Filter,
    /// `/` on the ring: a key to find.
    Locate,
}

/// The line at the bottom while it is being typed.
#[derive(Debug, Clone)]
pub struct Prompt {
    pub kind: PromptKind,
    pub input: Input,
    /// What Tab would append, shown dim.
    pub ghost: String,
    /// Why Enter would be refused, or was.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Info,
    Warning,
    Error,
}

/// A short notice that leaves by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toast {
    pub tone: Tone,
    pub text: String,
    /// Console clock.
    pub until_ms: u64,
}

/// What a confirmation is for; frozen when it opens.
#[derive(Debug, Clone, PartialEq)]
pub enum ConfirmAction {
    Procedure {
        kind: ProcedureKind,
        /// The nodes of the preview that was agreed to.
        targets: Vec<Target>,
    },
    Delete {
        key: String,
    },
    /// A change of the ring, by the plan that was shown.
    Change {
        change: Change,
        plan_id: String,
        base_epoch: Epoch,
    },
}

/// A question that only the typed word answers; without a word Enter does.
#[derive(Debug, Clone)]
pub struct Confirm {
    pub action: ConfirmAction,
    pub title: String,
    /// Exactly what will happen, one line each.
    pub effects: Vec<String>,
    /// What has to be typed; empty: nothing.
    pub expected: String,
    pub input: Input,
    /// Why the last Enter was refused.
    pub error: Option<String>,
}

/// The view while it is frozen.
#[derive(Debug, Clone)]
pub struct Frozen {
    pub cluster: Cluster,
    /// Console clock when it froze.
    pub since_ms: u64,
    /// Updates that arrived since; they are kept, only not shown.
    pub held: u64,
}

/// One change of the connection, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkChange {
    pub at: Timestamp,
    /// `None`: the first connection, before which there was none to lose.
    pub from: Option<LinkState>,
    pub to: LinkState,
    /// How long the state before had lasted, or the console had tried.
    pub lasted_ms: u64,
    pub endpoint: Option<String>,
}

/// Changes of the connection kept.
const LINK_LOG_MAX: usize = 100;

#[derive(Debug, Clone)]
pub struct App {
    pub link: LinkView,
    /// Every change of the connection, newest last, bounded.
    pub link_log: VecDeque<LinkChange>,
    pub cluster: Cluster,
    pub screen: ScreenId,
    /// Rows, columns and selection of the member table; Overview and Members share them.
    pub members: MembersState,
    pub quorum: QuorumState,
    pub ring: RingState,
    pub data: DataState,
    pub events: EventsState,
    pub procedures: ProceduresState,
    pub doctor: Scroll,
    pub help: Scroll,
    pub prompt: Option<Prompt>,
    pub confirm: Option<Confirm>,
    pub toast: Option<Toast>,
    pub read_only: bool,
    pub frozen: Option<Box<Frozen>>,
    pub display: Display,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// This console's monotonic clock.
    pub now_ms: u64,
    pub utc: Timestamp,
    /// Screens to go back to.
    pub(crate) trail: Vec<ScreenId>,
    /// The first half of a double letter.
    pub(crate) half: Option<char>,
    /// Typed commands, oldest first, bounded, and which of them the prompt shows.
    pub(crate) history: VecDeque<String>,
    pub(crate) recalled: Option<usize>,
    pub(crate) next_request: u64,
    /// Until when a second `Q` quits although a procedure runs.
    pub(crate) quit_armed_ms: Option<u64>,
}

impl App {
    pub fn new(display: Display, read_only: bool, utc: Timestamp) -> Self {
        Self {
            link: LinkView::default(),
            link_log: VecDeque::new(),
            cluster: Cluster::default(),
            screen: ScreenId::default(),
            members: MembersState::default(),
            quorum: QuorumState::default(),
            ring: RingState::default(),
            data: DataState::default(),
            events: EventsState::default(),
            procedures: ProceduresState::default(),
            doctor: Scroll::default(),
            help: Scroll::default(),
            prompt: None,
            confirm: None,
            toast: None,
            read_only,
            frozen: None,
            display,
            size: (80, 24),
            now_ms: 0,
            utc,
            trail: Vec::new(),
            half: None,
            history: VecDeque::new(),
            recalled: None,
            next_request: 1,
            quit_armed_ms: None,
        }
    }

    /// What the screens show: the frozen picture, or the live one.
    pub fn shown(&self) -> &Cluster {
        self.frozen.as_ref().map_or(&self.cluster, |f| &f.cluster)
    }

    /// Sets the clocks; before each message.
    pub fn set_time(&mut self, now_ms: u64, utc: Timestamp) {
        self.now_ms = now_ms;
        self.utc = utc;
    }
}
