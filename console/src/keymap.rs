//! The one table of keys: it dispatches them, and the help screen and the footer are made from it.

/// A line of help: keys and what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    pub keys: &'static str,
    pub what: &'static str,
}
