//! Settings of one run, settled before anything is drawn.

/// How many colours may be sent to the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColorTier {
    /// No colour sequence at all, only bold, dim and reverse.
    None,
    /// The terminal's own sixteen.
    Ansi16,
    Ansi256,
    True,
}

/// How the screens may look; the theme is made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Display {
    pub tier: ColorTier,
    /// Only ASCII glyphs.
    pub ascii: bool,
}
