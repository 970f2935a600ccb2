//! What each action of the keymap and each typed command does to the state. What changes the
//! cluster is next door, in `write.rs`.

use ringmaster_shared::{event::Severity, id::NodeId, key::Key, member::MemberStatus};
use tui_input::Input;

use super::{
    App, Prompt, PromptKind, ScreenId, Tone, ring_change, rows,
    screens::{Entry, Located, MemberColumn, partitions_per_row},
    scroll::Scroll,
    write,
};
use crate::{command::Command, keymap::Action, message::Effect};

/// Screens one can go back through.
const TRAIL_MAX: usize = 16;
/// A second `Q` counts within this time.
const QUIT_ARMED_MS: u64 = 5_000;
/// Longest text sent to a terminal's clipboard; many terminals drop more.
const YANK_MAX_BYTES: usize = 74_000;

pub(super) fn act(app: &mut App, action: Action) -> Vec<Effect> {
    match action {
        Action::Open(screen) => app.open(screen),
        Action::Quit => return quit(app),
        Action::Back => back(app),
        Action::Palette => app.ask(PromptKind::Command, ""),
        Action::Search => search(app),
        Action::RetryNow => return retry(app),
        Action::Freeze => app.toggle_freeze(),
        Action::Suspend => return suspend(app),
        Action::Yank => return yank(app),
        Action::Up => app.step(-1),
        Action::Down => app.step(1),
        Action::HalfUp => app.step(-(app.page() / 2).max(1)),
        Action::HalfDown => app.step((app.page() / 2).max(1)),
        Action::PageUp => app.step(-app.page()),
        Action::PageDown => app.step(app.page()),
        Action::Top => app.edge(false),
        Action::Bottom => app.edge(true),
        Action::Left => sideways(app, -1),
        Action::Right => sideways(app, 1),
        Action::Enter => return enter(app),
        Action::Sort => sort(app),
        Action::Reverse => app.members.descending = !app.members.descending,
        Action::Matrix => app.toggle_matrix(),
        Action::NextNode => next_node(app),
        Action::GetKey => app.ask_with_key("get"),
        Action::PutKey => app.ask_with_key("put"),
        Action::DeleteKey => app.ask_with_key("del"),
        Action::Cancel => return write::cancel(app),
        Action::ToggleLog => {
            app.procedures.show_log = !app.procedures.show_log;
            app.procedures.scroll = Scroll::default();
        }
    }
    Vec::new()
}

/// Runs a typed command; an error stays in the prompt.
pub(super) fn run(app: &mut App, command: Command) -> Result<Vec<Effect>, String> {
    match command {
        Command::Open(screen) => app.open(screen),
        Command::Quit => return Ok(quit(app)),
        Command::Data(op) => return write::data(app, op),
        Command::Locate(key) => {
            app.locate(&key)?;
            app.open(ScreenId::Ring);
        }
        Command::Node(id) => {
            let known = rows::all_members(app.shown()).iter().any(|r| r.id == id);
            if !known {
                return Err(format!("no node {id} is known"));
            }
            app.members.selected = Some(id.clone());
            app.members.open = Some(id);
            app.members.matrix = false;
            app.open(ScreenId::Members);
        }
        Command::Filter(text) => match app.screen {
            ScreenId::Events => app.events.filter = text,
            _ => app.members.filter = text,
        },
        Command::Restart(kind) => {
            app.open(ScreenId::Procedures);
            write::preview(app, kind);
        }
        Command::Choose(verb) => {
            app.open(ScreenId::Procedures);
            return Ok(ring_change::choose(app, verb));
        }
        Command::Change(change) => return Ok(ring_change::plan(app, change)),
        Command::RetryNow => return Ok(retry(app)),
        Command::Freeze => app.toggle_freeze(),
    }
    Ok(Vec::new())
}

impl App {
    pub(super) fn open(&mut self, screen: ScreenId) {
        if screen == self.screen {
            return;
        }
        if self.trail.len() == TRAIL_MAX {
            self.trail.remove(0);
        }
        self.trail.push(self.screen);
        self.screen = screen;
    }

    pub(super) fn ask(&mut self, kind: PromptKind, text: &str) {
        self.prompt = Some(Prompt {
            kind,
            input: Input::new(text.to_owned()),
            ghost: String::new(),
            error: None,
        });
        self.recalled = None;
    }

    fn ask_with_key(&mut self, verb: &str) {
        let key = &self.data.key;
        // A key with a space could not be told from its value.
        let text = if key.is_empty() || (verb == "put" && key.contains(' ')) {
            format!("{verb} ")
        } else {
            format!("{verb} {key}{}", if verb == "put" { " " } else { "" })
        };
        self.ask(PromptKind::Command, &text);
    }

    /// Finds a key's place with the shared arithmetic.
    pub(super) fn locate(&mut self, text: &str) -> Result<(), String> {
        let key = Key::new(text).map_err(|e| e.to_string())?;
        let ring = self.shown().ring.as_ref();
        let partitions = ring.map_or(0, |r| r.value.ring.partitions);
        if !partitions.is_power_of_two() {
            return Err("the ring is not known yet".to_owned());
        }
        let partition = key.partition(partitions);
        self.ring.cursor = partition;
        self.ring.located = Some(Located {
            key: text.to_owned(),
            hash: key.hash(),
            partition,
        });
        Ok(())
    }

    /// Lines of a page of this terminal: without header, footer and headings.
    fn page(&self) -> isize {
        (isize::from(self.size.1.cast_signed()) - 8).max(1)
    }

    /// One line, or so many, in whatever the screen moves through.
    fn step(&mut self, by: isize) {
        match self.screen {
            ScreenId::Overview => self.select(by),
            ScreenId::Members if self.members.matrix => self.members.rows.by(by),
            ScreenId::Members if self.members.open.is_none() => self.select(by),
            // With details open the neighbours' details are a step away.
            ScreenId::Members => {
                self.select(by);
                self.members.open.clone_from(&self.members.selected);
            }
            ScreenId::Quorum => {
                let row = isize::from(partitions_per_row(self.size.0).cast_signed());
                let lines = by.clamp(-4, 4);
                let count = self.partitions();
                move_cursor(&mut self.quorum.cursor, lines * row, count);
            }
            ScreenId::Ring => {
                let by = by.signum() * by.abs().min(16);
                self.move_ring(by * 8);
            }
            ScreenId::Data => self.data.scroll.by(by),
            ScreenId::Events => {
                let most = self.shown().events.len().saturating_sub(1);
                self.events.back = self.events.back.saturating_add_signed(-by).min(most);
            }
            ScreenId::Procedures => self.step_procedures(by),
            ScreenId::Doctor => self.doctor.by(by),
            ScreenId::Help => self.help.by(by),
        }
    }

    fn step_procedures(&mut self, by: isize) {
        let state = &mut self.procedures;
        if state.preview.is_some() || state.change.plan.is_some() {
            state.scroll.by(by);
        } else if let Some(choosing) = &mut state.change.choosing {
            let last = choosing.choices.len().saturating_sub(1);
            choosing.selected = choosing.selected.saturating_add_signed(by).min(last);
        } else if state.is_log_open() {
            // The log is read from its end.
            state.scroll.by(-by);
        } else {
            let last = Entry::all().count() - 1;
            state.selected = state.selected.saturating_add_signed(by).min(last);
        }
    }

    fn edge(&mut self, bottom: bool) {
        let far = if bottom {
            isize::MAX / 2
        } else {
            isize::MIN / 2
        };
        let last = self.partitions().saturating_sub(1);
        let to = if bottom { last } else { 0 };
        let scroll = |s: &mut Scroll| if bottom { s.last() } else { s.first() };
        match self.screen {
            ScreenId::Members if self.members.matrix => scroll(&mut self.members.rows),
            ScreenId::Overview | ScreenId::Members => self.select(far),
            ScreenId::Quorum => self.quorum.cursor = to,
            ScreenId::Ring => {
                self.ring.located = None;
                self.ring.cursor = to;
            }
            ScreenId::Data => scroll(&mut self.data.scroll),
            ScreenId::Events | ScreenId::Procedures => self.step(far),
            ScreenId::Doctor => scroll(&mut self.doctor),
            ScreenId::Help => scroll(&mut self.help),
        }
    }

    /// On Overview the matrix is a screen away.
    fn toggle_matrix(&mut self) {
        self.members.matrix = self.screen != ScreenId::Members || !self.members.matrix;
        self.open(ScreenId::Members);
    }

    fn partitions(&self) -> u16 {
        let ring = self.shown().ring.as_ref();
        ring.map_or(0, |r| r.value.ring.partitions)
    }

    fn move_ring(&mut self, by: isize) {
        self.ring.located = None;
        let count = self.partitions();
        if count > 0 {
            // Round the ring: one step before the first is the last.
            let count = usize::from(count);
            let step = by.rem_euclid(count.cast_signed()).cast_unsigned();
            self.ring.cursor = ((usize::from(self.ring.cursor) + step) % count) as u16;
        }
    }

    /// Moves the selection by rows; it is kept by id.
    fn select(&mut self, by: isize) {
        let rows = rows::members(self.shown(), &self.members);
        let Some(last) = rows.len().checked_sub(1) else {
            return;
        };
        let here = self.members.selected.as_ref();
        let here = here.and_then(|id| rows.iter().position(|r| &r.id == id));
        // before anything is chosen, the first row is the one that is marked
        let there = here.unwrap_or(0).saturating_add_signed(by).min(last);
        self.members.selected = Some(rows[there].id.clone());
    }
}

fn move_cursor(cursor: &mut u16, by: isize, count: u16) {
    let there = usize::from(*cursor).saturating_add_signed(by);
    let last = usize::from(count.saturating_sub(1));
    *cursor = there.min(last) as u16;
}

fn sideways(app: &mut App, by: isize) {
    match app.screen {
        ScreenId::Members if app.members.matrix => app.members.columns.by(by),
        ScreenId::Overview | ScreenId::Members => {
            app.members.sort = app.members.sort.moved(by);
        }
        ScreenId::Quorum => {
            let count = app.partitions();
            move_cursor(&mut app.quorum.cursor, by, count);
        }
        ScreenId::Ring => app.move_ring(by),
        ScreenId::Data
        | ScreenId::Events
        | ScreenId::Procedures
        | ScreenId::Doctor
        | ScreenId::Help => {}
    }
}

fn sort(app: &mut App) {
    if app.screen == ScreenId::Events {
        app.events.least = match app.events.least {
            None | Some(Severity::Info) => Some(Severity::Warning),
            Some(Severity::Warning) => Some(Severity::Error),
            Some(Severity::Error) => None,
        };
        app.events.back = 0;
        return;
    }
    // Numbers are asked for with the largest first, names with the first first.
    let names_first = matches!(app.members.sort, MemberColumn::Node | MemberColumn::Zone);
    app.members.descending = if app.members.descending == names_first {
        !names_first
    } else {
        !app.members.descending
    };
}

fn search(app: &mut App) {
    let (kind, text) = match app.screen {
        ScreenId::Ring => (PromptKind::Locate, String::new()),
        ScreenId::Events => (PromptKind::Filter, app.events.filter.clone()),
        _ => (PromptKind::Filter, app.members.filter.clone()),
    };
    app.ask(kind, &text);
}

fn next_node(app: &mut App) {
    let ids: Vec<_> = match &app.shown().ring {
        Some(ring) => ring.value.nodes.iter().map(|n| n.id.clone()).collect(),
        None => return,
    };
    let here = app.ring.highlight.as_ref();
    let next = match here.and_then(|id| ids.iter().position(|i| i == id)) {
        Some(at) => ids.get(at + 1),
        None => ids.first(),
    };
    app.ring.highlight = next.cloned();
}

/// One layer out, from the innermost; the first screen is the last layer.
fn back(app: &mut App) {
    let on_table = matches!(app.screen, ScreenId::Overview | ScreenId::Members);
    let procedures = app.screen == ScreenId::Procedures;
    // what was said belongs to the layer that is left
    let said = app.toast.take();
    if app.screen == ScreenId::Members && app.members.matrix {
        app.members.matrix = false;
    } else if app.screen == ScreenId::Members && app.members.open.is_some() {
        app.members.open = None;
    } else if on_table && !app.members.filter.is_empty() {
        app.members.filter.clear();
    } else if app.screen == ScreenId::Events && !app.events.filter.is_empty() {
        app.events.filter.clear();
    } else if procedures
        && (app.procedures.preview.take().is_some() || app.procedures.change.back())
    {
        app.procedures.scroll = Scroll::default();
    } else if procedures && app.procedures.show_log {
        app.procedures.show_log = false;
        app.procedures.scroll = Scroll::default();
    } else if app.screen == ScreenId::Ring && app.ring.located.is_some() {
        app.ring.located = None;
    } else if app.frozen.is_some() {
        app.toggle_freeze();
    } else if let Some(screen) = app.trail.pop() {
        app.screen = screen;
    } else if app.screen != ScreenId::Overview {
        app.screen = ScreenId::Overview;
    } else if said.is_none() {
        app.notify(Tone::Info, "Q quits");
    }
}

fn quit(app: &mut App) -> Vec<Effect> {
    let running = app.procedures.progress.as_ref();
    let running = running.filter(|p| p.is_running()).map(|p| p.kind);
    if let (Some(kind), None) = (running, app.quit_armed_ms) {
        app.quit_armed_ms = Some(app.now_ms + QUIT_ARMED_MS);
        let title = kind.title();
        let text = format!(
            "{title} is running; Q again leaves it: nodes on hold start by themselves when it ends"
        );
        app.notify(Tone::Warning, text);
        return Vec::new();
    }
    vec![Effect::Quit]
}

/// A restart is carried out by this process: held still, it would hear of nothing and renew no hold.
fn suspend(app: &mut App) -> Vec<Effect> {
    let running = app.procedures.progress.as_ref().filter(|p| p.is_running());
    let Some(kind) = running.map(|p| p.kind) else {
        return vec![Effect::Suspend];
    };
    let text = format!(
        "not suspended: {} is carried out from here and would stand still",
        kind.title().to_lowercase()
    );
    app.notify(Tone::Warning, text);
    Vec::new()
}

fn retry(app: &mut App) -> Vec<Effect> {
    app.notify(Tone::Info, "trying every endpoint now");
    vec![Effect::RetryNow]
}

fn enter(app: &mut App) -> Vec<Effect> {
    match app.screen {
        ScreenId::Overview | ScreenId::Members => {
            if app.members.selected.is_none() {
                app.select(0);
            }
            app.members.open.clone_from(&app.members.selected);
            app.members.matrix = false;
            app.open(ScreenId::Members);
        }
        ScreenId::Procedures => return enter_procedure(app),
        ScreenId::Quorum
        | ScreenId::Ring
        | ScreenId::Data
        | ScreenId::Events
        | ScreenId::Doctor
        | ScreenId::Help => {}
    }
    Vec::new()
}

/// The innermost layer takes it: a plan or a preview is confirmed, a choice is planned.
fn enter_procedure(app: &mut App) -> Vec<Effect> {
    let state = &app.procedures;
    if state.change.plan.is_some() {
        return ring_change::confirm(app);
    }
    if state.change.choosing.is_some() {
        return ring_change::chosen(app);
    }
    if state.preview.is_some() {
        write::confirm_procedure(app);
        return Vec::new();
    }
    match state.entry() {
        Entry::Restart(kind) => write::preview(app, kind),
        Entry::Change(verb) => return ring_change::choose(app, verb),
    }
    Vec::new()
}

fn yank(app: &mut App) -> Vec<Effect> {
    let text = match app.screen {
        ScreenId::Overview | ScreenId::Members => {
            app.members.selected.as_ref().map(ToString::to_string)
        }
        ScreenId::Data => app.data.answer.as_ref().map(|a| match &a.answer.result {
            Ok(crate::message::DataOutcome::Read(read)) => read.value.to_string(),
            _ => a.answer.op.key().to_owned(),
        }),
        ScreenId::Ring => Some(match &app.ring.located {
            Some(located) => located.key.clone(),
            None => app.ring.cursor.to_string(),
        }),
        ScreenId::Quorum => Some(app.quorum.cursor.to_string()),
        ScreenId::Events | ScreenId::Procedures | ScreenId::Doctor | ScreenId::Help => None,
    };
    match text {
        Some(text) if text.len() <= YANK_MAX_BYTES => {
            // Whether the terminal takes it nobody can know.
            app.notify(Tone::Info, "sent to the terminal's clipboard");
            vec![Effect::Yank(text)]
        }
        Some(_) => {
            app.notify(Tone::Warning, "too long for a terminal's clipboard");
            Vec::new()
        }
        None => {
            app.notify(Tone::Info, "nothing is selected here");
            Vec::new()
        }
    }
}

/// Ids a command may name.
pub(super) fn node_ids(app: &App) -> Vec<NodeId> {
    let mut rows = rows::all_members(app.shown());
    rows.sort_by_key(|r| r.status == Some(MemberStatus::Left));
    rows.into_iter().map(|r| r.id).collect()
}
