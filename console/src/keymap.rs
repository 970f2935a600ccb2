//! The one table of keys: it dispatches them, and the help screen and the footer are made from it.

use crate::app::{App, ScreenId};

/// A line of help: keys and what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    pub keys: &'static str,
    pub what: &'static str,
}

/// The keys that work on the screen that is open, the most useful first.
pub fn hints(app: &App) -> Vec<Hint> {
    let hint = |keys, what| Hint { keys, what };
    match app.screen {
        ScreenId::Overview | ScreenId::Members => vec![
            hint("↑↓", "select"),
            hint("Enter", "node"),
            hint("/", "filter"),
            hint("s", "sort"),
            hint(":", "command"),
        ],
        ScreenId::Quorum => vec![hint("←↓↑→", "partition"), hint(":", "command")],
        ScreenId::Ring => vec![
            hint("←→", "partition"),
            hint("/", "find a key"),
            hint("Tab", "node"),
            hint(":", "command"),
        ],
        ScreenId::Data => vec![
            hint(":get", "read"),
            hint(":put", "write"),
            hint("↑↓", "scroll"),
        ],
        ScreenId::Events => vec![
            hint("↑↓", "scroll"),
            hint("/", "filter"),
            hint("s", "severity"),
        ],
        ScreenId::Procedures => vec![
            hint("↑↓", "select"),
            hint("Enter", "preview"),
            hint("Esc", "back"),
        ],
        ScreenId::Doctor | ScreenId::Help => vec![hint("↑↓", "scroll"), hint("Esc", "back")],
    }
}

/// All keys by topic.
pub fn help() -> Vec<(&'static str, Vec<Hint>)> {
    let hint = |keys, what| Hint { keys, what };
    vec![(
        "Everywhere",
        vec![
            hint("1 … 8", "screens"),
            hint("?", "this help"),
            hint(":", "command"),
            hint("/", "filter, or a key to find on the ring"),
            hint("Space", "freeze what is shown"),
            hint("r", "try the connection now"),
            hint("Q", "quit"),
        ],
    )]
}
