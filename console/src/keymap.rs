//! The one table of keys: it dispatches them, and the help screen and the footer are made from it.
//!
//! No key writes anything: writes and procedures start from a typed command or from a
//! confirmation that has to be typed. Nothing needs Ctrl-B, Ctrl-A, Ctrl-S or Ctrl-Q, which
//! terminals and multiplexers keep for themselves.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::{
    app::{App, ScreenId, ring_change},
    progress::Progress,
};

/// A line of help: keys and what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    pub keys: &'static str,
    pub what: &'static str,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Open(ScreenId),
    Quit,
    /// One layer out; never quits.
    Back,
    Palette,
    /// A filter, or on the ring the key to find.
    Search,
    RetryNow,
    Freeze,
    Suspend,
    Yank,
    Up,
    Down,
    HalfUp,
    HalfDown,
    PageUp,
    PageDown,
    Top,
    Bottom,
    Left,
    Right,
    Enter,
    /// Sorts by the chosen column; on events, the least severity shown.
    Sort,
    Reverse,
    /// The matrix of who sees whom, whole, or the table again.
    Matrix,
    NextNode,
    GetKey,
    PutKey,
    DeleteKey,
    Cancel,
    ToggleLog,
}

/// Where a binding holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everywhere,
    On(&'static [ScreenId]),
}

/// One way to press it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chord {
    Char(char),
    Code(KeyCode),
    Ctrl(char),
    /// The same letter twice.
    Twice(char),
}

struct Binding {
    scope: Scope,
    chords: &'static [Chord],
    action: Action,
    hint: Hint,
}

/// The members' table is on two screens.
const TABLES: &[ScreenId] = &[ScreenId::Overview, ScreenId::Members];
const GRIDS: &[ScreenId] = &[ScreenId::Quorum, ScreenId::Ring];
const RING: &[ScreenId] = &[ScreenId::Overview, ScreenId::Ring];
const LOCATE: &[ScreenId] = &[ScreenId::Ring];
const DATA: &[ScreenId] = &[ScreenId::Data];
const EVENTS: &[ScreenId] = &[ScreenId::Events];
const PROCEDURES: &[ScreenId] = &[ScreenId::Procedures];

const fn on(
    scope: Scope,
    chords: &'static [Chord],
    action: Action,
    (keys, what): (&'static str, &'static str),
) -> Binding {
    Binding {
        scope,
        chords,
        action,
        hint: Hint { keys, what },
    }
}

use Chord::{Char, Code, Ctrl, Twice};
use Scope::{Everywhere, On};

/// The more particular scopes come first: the first match counts. A line each, so that it reads
/// as the table it is.
#[rustfmt::skip]
static BINDINGS: &[Binding] = &[
    // the member table
    on(On(TABLES), &[Code(KeyCode::Enter)], Action::Enter, ("Enter", "open the node")),
    on(On(TABLES), &[Char('/')], Action::Search, ("/", "filter")),
    on(On(TABLES), &[Char('h'), Code(KeyCode::Left)], Action::Left, ("h ←", "sort column to the left")),
    on(On(TABLES), &[Char('l'), Code(KeyCode::Right)], Action::Right, ("l →", "sort column to the right")),
    on(On(TABLES), &[Char('s')], Action::Sort, ("s", "sort, again: the other way")),
    on(On(TABLES), &[Char('S')], Action::Reverse, ("S", "turn the order round")),
    on(On(TABLES), &[Char('w')], Action::Matrix, ("w", "who sees whom, whole")),
    // ring and quorum
    on(On(GRIDS), &[Char('h'), Code(KeyCode::Left)], Action::Left, ("h ←", "partition before")),
    on(On(GRIDS), &[Char('l'), Code(KeyCode::Right)], Action::Right, ("l →", "partition after")),
    on(On(LOCATE), &[Char('/')], Action::Search, ("/", "find a key")),
    on(On(RING), &[Code(KeyCode::Tab), Char('n')], Action::NextNode, ("Tab n", "light up the next node")),
    // data
    on(On(DATA), &[Code(KeyCode::Enter), Char('o')], Action::GetKey, ("Enter", "read a key")),
    on(On(DATA), &[Char('p')], Action::PutKey, ("p", "write a key")),
    on(On(DATA), &[Char('x')], Action::DeleteKey, ("x", "delete a key; asks first")),
    // events
    on(On(EVENTS), &[Char('/')], Action::Search, ("/", "filter")),
    on(On(EVENTS), &[Char('s')], Action::Sort, ("s", "least severity shown")),
    // procedures
    on(On(PROCEDURES), &[Code(KeyCode::Enter)], Action::Enter, ("Enter", "choose, preview, confirm")),
    on(On(PROCEDURES), &[Char('c')], Action::Cancel, ("c", "cancel what is under way")),
    on(On(PROCEDURES), &[Char('l')], Action::ToggleLog, ("l", "steps or log")),
    // everywhere
    on(Everywhere, &[Char('1')], Action::Open(ScreenId::Overview), ("1", "overview")),
    on(Everywhere, &[Char('2')], Action::Open(ScreenId::Members), ("2", "members, and who sees whom")),
    on(Everywhere, &[Char('3')], Action::Open(ScreenId::Quorum), ("3", "quorum of every partition")),
    on(Everywhere, &[Char('4')], Action::Open(ScreenId::Ring), ("4", "ring")),
    on(Everywhere, &[Char('5')], Action::Open(ScreenId::Data), ("5", "data")),
    on(Everywhere, &[Char('6')], Action::Open(ScreenId::Events), ("6", "events")),
    on(Everywhere, &[Char('7')], Action::Open(ScreenId::Procedures), ("7", "procedures: restarts, ring changes")),
    on(Everywhere, &[Char('8'), Char('d')], Action::Open(ScreenId::Doctor), ("8 d", "doctor: what is wrong, what to do")),
    on(Everywhere, &[Char('?'), Code(KeyCode::F(1))], Action::Open(ScreenId::Help), ("?", "help")),
    on(Everywhere, &[Char(':')], Action::Palette, (":", "command")),
    on(Everywhere, &[Char('k'), Code(KeyCode::Up)], Action::Up, ("k ↑", "up")),
    on(Everywhere, &[Char('j'), Code(KeyCode::Down)], Action::Down, ("j ↓", "down")),
    on(Everywhere, &[Ctrl('u')], Action::HalfUp, ("Ctrl-U", "half a page up")),
    on(Everywhere, &[Ctrl('d')], Action::HalfDown, ("Ctrl-D", "half a page down")),
    on(Everywhere, &[Code(KeyCode::PageUp)], Action::PageUp, ("PgUp", "page up")),
    on(Everywhere, &[Code(KeyCode::PageDown)], Action::PageDown, ("PgDn", "page down")),
    on(Everywhere, &[Twice('g'), Code(KeyCode::Home)], Action::Top, ("gg Home", "first")),
    on(Everywhere, &[Char('G'), Code(KeyCode::End)], Action::Bottom, ("G End", "last")),
    on(Everywhere, &[Char('r')], Action::RetryNow, ("r", "try the connection again now")),
    on(Everywhere, &[Char(' ')], Action::Freeze, ("Space", "freeze and unfreeze what is shown")),
    on(Everywhere, &[Char('y')], Action::Yank, ("y", "copy what is selected")),
    on(Everywhere, &[Char('q'), Code(KeyCode::Esc)], Action::Back, ("Esc q", "back, one layer at a time")),
    on(Everywhere, &[Ctrl('z')], Action::Suspend, ("Ctrl-Z", "suspend")),
    on(Everywhere, &[Char('Q'), Ctrl('c')], Action::Quit, ("Q Ctrl-C", "quit")),
];

impl Scope {
    fn holds(self, screen: ScreenId) -> bool {
        match self {
            Everywhere => true,
            On(screens) => screens.contains(&screen),
        }
    }
}

/// What a key press means on `screen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Do(Action),
    /// The first half of a double letter.
    Half(char),
    Nothing,
}

/// Looks a key press up; `half` is the letter pressed before, when it was half of something.
pub fn meaning(key: &KeyEvent, half: Option<char>, screen: ScreenId) -> Meaning {
    if key.kind == KeyEventKind::Release {
        return Meaning::Nothing;
    }
    let matches = |chord: &Chord| match *chord {
        Char(c) => key.code == KeyCode::Char(c) && plain(key),
        Code(code) => key.code == code,
        Ctrl(c) => key.code == KeyCode::Char(c) && key.modifiers == KeyModifiers::CONTROL,
        Twice(c) => key.code == KeyCode::Char(c) && plain(key) && half == Some(c),
    };
    let here = || BINDINGS.iter().filter(|b| b.scope.holds(screen));
    if let Some(binding) = here().find(|b| b.chords.iter().any(matches)) {
        return Meaning::Do(binding.action);
    }
    match key.code {
        KeyCode::Char(c) if plain(key) && here().any(|b| b.chords.contains(&Twice(c))) => {
            Meaning::Half(c)
        }
        _ => Meaning::Nothing,
    }
}

/// Shift is part of the letter itself.
fn plain(key: &KeyEvent) -> bool {
    key.modifiers.difference(KeyModifiers::SHIFT).is_empty()
}

/// What the footer says of a screen: keys in short, and which action that is.
type Footer = &'static [(Action, &'static str, &'static str)];

const MOVE: (Action, &str, &str) = (Action::Down, "↑↓", "scroll");
const SELECT: (Action, &str, &str) = (Action::Down, "↑↓", "select");
const COMMAND: (Action, &str, &str) = (Action::Palette, ":", "command");
const BACK: (Action, &str, &str) = (Action::Back, "Esc", "back");

fn footer(screen: ScreenId) -> Footer {
    match screen {
        ScreenId::Overview | ScreenId::Members => &[
            SELECT,
            (Action::Enter, "Enter", "node"),
            (Action::Search, "/", "filter"),
            (Action::Sort, "s", "sort"),
            (Action::Matrix, "w", "who sees whom"),
            COMMAND,
        ],
        ScreenId::Quorum => &[(Action::Right, "←↓↑→", "partition"), COMMAND],
        ScreenId::Ring => &[
            (Action::Right, "←→", "partition"),
            (Action::Search, "/", "find a key"),
            (Action::NextNode, "Tab", "node"),
            COMMAND,
        ],
        ScreenId::Data => &[
            (Action::GetKey, "Enter", "read"),
            (Action::PutKey, "p", "write"),
            (Action::DeleteKey, "x", "delete"),
            MOVE,
        ],
        ScreenId::Events => &[
            MOVE,
            (Action::Search, "/", "filter"),
            (Action::Sort, "s", "severity"),
        ],
        ScreenId::Procedures => &[SELECT, (Action::Enter, "Enter", "preview"), BACK],
        ScreenId::Doctor | ScreenId::Help => &[MOVE, BACK],
    }
}

const RUNNING: Footer = &[
    (Action::Cancel, "c", "cancel"),
    (Action::ToggleLog, "l", "log"),
    (Action::Back, "Esc", "leave it running"),
];
const ENDED: Footer = &[
    SELECT,
    (Action::Enter, "Enter", "preview"),
    (Action::ToggleLog, "l", "log"),
    BACK,
];
const LOG: Footer = &[MOVE, (Action::ToggleLog, "l", "steps"), BACK];
const BLOCKED: Footer = &[(Action::Enter, "Enter", "look again"), MOVE, BACK];
const PREVIEW: Footer = &[(Action::Enter, "Enter", "confirm by typing"), MOVE, BACK];

const MATRIX: Footer = &[MOVE, (Action::Matrix, "w", "table"), BACK];

const CHOOSING: Footer = &[SELECT, (Action::Enter, "Enter", "plan"), BACK];
const PLAN: Footer = &[(Action::Enter, "Enter", "go on"), MOVE, BACK];
const PLAN_AGAIN: Footer = &[(Action::Enter, "Enter", "plan anew"), MOVE, BACK];
const CHANGING: Footer = &[(Action::Cancel, "c", "give it up"), BACK];

/// The keys worth a mention now, the most useful first.
pub fn hints(app: &App) -> Vec<Hint> {
    let hint = |keys, what| Hint { keys, what };
    if app.confirm.is_some() {
        return vec![hint("Enter", "do it"), hint("Esc", "leave it")];
    }
    if app.prompt.is_some() {
        return vec![
            hint("Enter", "go"),
            hint("Tab", "complete"),
            hint("Esc", "leave"),
        ];
    }
    let progress = app.procedures.progress.as_ref();
    let footer = match app.screen {
        ScreenId::Procedures if app.procedures.change.plan.is_some() => {
            if ring_change::plan_holds(app) {
                PLAN
            } else {
                PLAN_AGAIN
            }
        }
        ScreenId::Procedures if app.procedures.change.choosing.is_some() => CHOOSING,
        ScreenId::Procedures if app.procedures.preview.is_some() => {
            let preview = app.procedures.preview.as_ref();
            if preview.is_some_and(|p| p.blocked.is_empty()) {
                PREVIEW
            } else {
                BLOCKED
            }
        }
        ScreenId::Procedures if progress.is_some_and(Progress::is_running) => RUNNING,
        ScreenId::Procedures if app.procedures.change.is_running() => CHANGING,
        ScreenId::Procedures if app.procedures.is_log_open() => LOG,
        ScreenId::Procedures if app.procedures.restart().is_some() => ENDED,
        ScreenId::Members if app.members.matrix => MATRIX,
        screen => footer(screen),
    };
    footer
        .iter()
        .map(|(_, keys, what)| hint(keys, what))
        .collect()
}

/// Whether something is open that wants an answer, or runs.
pub fn in_the_middle(app: &App) -> bool {
    let state = &app.procedures;
    let open = state.change.plan.is_some()
        || state.change.choosing.is_some()
        || state.preview.is_some()
        || state.change.is_running()
        || state.progress.as_ref().is_some_and(Progress::is_running);
    app.confirm.is_some() || (app.screen == ScreenId::Procedures && open)
}

/// All keys by topic; the commands have a table of their own.
pub fn help() -> Vec<(&'static str, Vec<Hint>)> {
    let of = |scope: Scope| -> Vec<Hint> {
        let bindings = BINDINGS.iter().filter(|b| b.scope == scope);
        bindings.map(|b| b.hint).collect()
    };
    vec![
        ("Everywhere", of(Everywhere)),
        ("Members", of(On(TABLES))),
        (
            "Ring and quorum",
            [of(On(GRIDS)), of(On(LOCATE)), of(On(RING))].concat(),
        ),
        ("Data", of(On(DATA))),
        ("Events", of(On(EVENTS))),
        ("Procedures", of(On(PROCEDURES))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    fn event(chord: Chord) -> (KeyEvent, Option<char>) {
        match chord {
            Char(c) => (press(KeyCode::Char(c)), None),
            Code(code) => (press(code), None),
            Ctrl(c) => (KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL), None),
            Twice(c) => (press(KeyCode::Char(c)), Some(c)),
        }
    }

    #[test]
    fn every_binding_does_on_its_screens_what_help_says() {
        for screen in ScreenId::ALL {
            let here: Vec<_> = BINDINGS.iter().filter(|b| b.scope.holds(screen)).collect();
            for (n, binding) in here.iter().enumerate() {
                for chord in binding.chords {
                    let taken = here[..n].iter().any(|b| b.chords.contains(chord));
                    let (key, half) = event(*chord);
                    let got = meaning(&key, half, screen);
                    if taken {
                        assert_ne!(binding.scope, here[0].scope, "{chord:?} bound twice");
                        assert_ne!(got, Meaning::Nothing);
                    } else {
                        assert_eq!(got, Meaning::Do(binding.action), "{chord:?} on {screen:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn help_tells_every_binding_once() {
        let told: Vec<Hint> = help().into_iter().flat_map(|(_, hints)| hints).collect();
        assert_eq!(told.len(), BINDINGS.len());
        for binding in BINDINGS {
            assert!(told.contains(&binding.hint), "{:?}", binding.hint);
            for chord in binding.chords {
                if let Char(c) = chord
                    && *c != ' '
                    && !(*c == 'o' || *c == 'n')
                {
                    assert!(binding.hint.keys.contains(*c), "{c:?} is not in its hint");
                }
            }
        }
    }

    #[test]
    fn the_footer_names_only_keys_that_work_there() {
        let procedures = [
            (ScreenId::Members, MATRIX),
            (ScreenId::Procedures, RUNNING),
            (ScreenId::Procedures, PREVIEW),
            (ScreenId::Procedures, CHOOSING),
            (ScreenId::Procedures, PLAN),
            (ScreenId::Procedures, PLAN_AGAIN),
            (ScreenId::Procedures, CHANGING),
        ];
        let screens = ScreenId::ALL.map(|s| (s, footer(s)));
        for (screen, footer) in screens.into_iter().chain(procedures) {
            assert!(!footer.is_empty(), "{screen:?}");
            for (action, keys, _) in footer {
                let mut here = BINDINGS.iter().filter(|b| b.scope.holds(screen));
                let bound = here.any(|b| {
                    let arrows = keys.chars().all(|c| "←↓↑→".contains(c));
                    b.action == *action && (arrows || b.hint.keys.contains(keys))
                });
                assert!(bound, "{keys} on {screen:?}");
            }
        }
    }

    #[test]
    fn every_screen_has_its_key() {
        for screen in ScreenId::ALL {
            let got = meaning(&press(KeyCode::Char(screen.key())), None, ScreenId::Data);
            assert_eq!(got, Meaning::Do(Action::Open(screen)));
        }
    }

    #[test]
    fn releases_and_strange_modifiers_do_nothing() {
        let mut release = press(KeyCode::Char('Q'));
        release.kind = KeyEventKind::Release;
        assert_eq!(meaning(&release, None, ScreenId::Ring), Meaning::Nothing);
        let alt = KeyEvent::new(KeyCode::Char('Q'), KeyModifiers::ALT);
        assert_eq!(meaning(&alt, None, ScreenId::Ring), Meaning::Nothing);
        let shifted = KeyEvent::new(KeyCode::Char('Q'), KeyModifiers::SHIFT);
        assert_eq!(
            meaning(&shifted, None, ScreenId::Ring),
            Meaning::Do(Action::Quit)
        );
        let g = press(KeyCode::Char('g'));
        assert_eq!(meaning(&g, None, ScreenId::Ring), Meaning::Half('g'));
        assert_eq!(
            meaning(&g, Some('g'), ScreenId::Ring),
            Meaning::Do(Action::Top)
        );
    }

    #[test]
    fn escape_never_quits() {
        for screen in ScreenId::ALL {
            let got = meaning(&press(KeyCode::Esc), None, screen);
            assert_eq!(got, Meaning::Do(Action::Back));
        }
    }
}
