//! Colours, attributes and glyphs, and nothing about what is drawn with them.
//!
//! Promises: the terminal's own background is never painted over; the tier without colours sets no
//! colour at all, only bold, dim and reverse, so that no reset sequence can eat an attribute (the
//! terminal library's own `NO_COLOR` handling does exactly that); and no state is told by
//! colour alone: each has a glyph and a word.

use std::str::FromStr;

use ratatui::style::{Color, Modifier, Style};
use ringmaster_shared::{
    event::Severity,
    member::{Lifecycle, MemberStatus},
};

pub use crate::config::ColorTier as Tier;

/// What a person may ask for with `--color`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ColorChoice {
    #[default]
    Auto,
    Fixed(Tier),
}

impl FromStr for ColorChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "never" | "mono" => Self::Fixed(Tier::None),
            "16" => Self::Fixed(Tier::Ansi16),
            "256" => Self::Fixed(Tier::Ansi256),
            "true" | "truecolor" => Self::Fixed(Tier::True),
            other => {
                return Err(format!(
                    "{other:?} is no colour mode; take auto, never, 16, 256 or true"
                ));
            }
        })
    }
}

impl ColorChoice {
    /// Decides the tier from the environment, which is handed in as a lookup. An explicit choice
    /// beats `NO_COLOR` (any non-empty value), which beats what the terminal says of itself.
    pub fn resolve(self, env: impl Fn(&str) -> Option<String>) -> Tier {
        if let Self::Fixed(tier) = self {
            return tier;
        }
        if env("NO_COLOR").is_some_and(|v| !v.is_empty()) {
            return Tier::None;
        }
        let term = env("TERM").unwrap_or_default();
        let deep = env("COLORTERM").unwrap_or_default();
        if term == "dumb" {
            Tier::None
        } else if deep == "truecolor" || deep == "24bit" {
            Tier::True
        } else if term.contains("256color") {
            Tier::Ansi256
        } else {
            Tier::Ansi16
        }
    }
}

/// What something means; the theme decides how that looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tone {
    /// Labels, units, things that are there but not news.
    Quiet,
    Good,
    /// Under way.
    Busy,
    Warn,
    Bad,
}

/// The signs, each one cell wide, with a plain-ASCII set beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glyphs {
    pub good: &'static str,
    pub warn: &'static str,
    pub bad: &'static str,
    pub stopped: &'static str,
    pub busy: &'static str,
    pub standby: &'static str,
    pub pending: &'static str,
    pub rule: &'static str,
    pub dot: &'static str,
    pub dash: &'static str,
    pub ellipsis: &'static str,
    pub caret: &'static str,
    pub caret_up: &'static str,
    pub arrow: &'static str,
    pub select: &'static str,
    pub sort_up: &'static str,
    pub sort_down: &'static str,
    /// Eight rising steps of a sparkline.
    pub spark: [&'static str; 8],
    pub bar_full: &'static str,
    pub bar_empty: &'static str,
}

pub const UNICODE: Glyphs = Glyphs {
    good: "●",
    warn: "▲",
    bad: "✖",
    stopped: "■",
    busy: "◐",
    standby: "◌",
    pending: "○",
    rule: "─",
    dot: "·",
    dash: "–",
    ellipsis: "…",
    caret: "▼",
    caret_up: "▲",
    arrow: "→",
    select: "▸",
    sort_up: "▲",
    sort_down: "▼",
    spark: ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
    bar_full: "█",
    bar_empty: "░",
};

pub const ASCII: Glyphs = Glyphs {
    good: "*",
    warn: "!",
    bad: "X",
    stopped: "#",
    busy: "~",
    standby: "o",
    pending: ".",
    rule: "-",
    dot: "|",
    dash: "-",
    ellipsis: "~",
    caret: "v",
    caret_up: "^",
    arrow: ">",
    select: ">",
    sort_up: "^",
    sort_down: "v",
    spark: ["_", ".", ":", "-", "=", "+", "*", "#"],
    bar_full: "#",
    bar_empty: ".",
};

/// Colours of nodes on the ring (no plain blue: many dark themes make it unreadable), chosen apart from the state colours and readable on dark and on
/// light backgrounds; letters say the same.
const NODE_16: [Color; 6] = [
    Color::Cyan,
    Color::Magenta,
    Color::LightBlue,
    Color::Yellow,
    Color::Green,
    Color::LightRed,
];
const NODE_256: [u8; 8] = [38, 172, 133, 71, 67, 173, 97, 143];
const NODE_TRUE: [(u8, u8, u8); 8] = [
    (66, 165, 217),
    (222, 143, 5),
    (196, 105, 160),
    (3, 158, 115),
    (92, 122, 214),
    (213, 94, 60),
    (148, 115, 190),
    (150, 140, 60),
];

/// How things look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    pub tier: Tier,
    pub glyphs: Glyphs,
}

impl Default for Theme {
    fn default() -> Self {
        Self::new(Tier::Ansi16, false)
    }
}

#[allow(clippy::unused_self)] // who draws asks the theme for every style, whatever decides it
impl Theme {
    pub fn new(tier: Tier, ascii: bool) -> Self {
        let glyphs = if ascii { ASCII } else { UNICODE };
        Self { tier, glyphs }
    }

    pub fn is_mono(&self) -> bool {
        self.tier == Tier::None
    }

    pub fn is_ascii(&self) -> bool {
        self.glyphs.good == ASCII.good
    }

    pub fn style(&self, tone: Tone) -> Style {
        let style = Style::new();
        if self.is_mono() {
            return match tone {
                Tone::Good | Tone::Busy => style,
                Tone::Quiet => style.add_modifier(Modifier::DIM),
                Tone::Warn | Tone::Bad => style.add_modifier(Modifier::BOLD),
            };
        }
        match tone {
            Tone::Quiet => style.add_modifier(Modifier::DIM),
            Tone::Good => style.fg(Color::Green),
            Tone::Busy => style.fg(Color::Cyan),
            Tone::Warn => style.fg(Color::Yellow),
            Tone::Bad => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    pub fn plain(&self) -> Style {
        Style::new()
    }

    pub fn quiet(&self) -> Style {
        self.style(Tone::Quiet)
    }

    pub fn bold(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The row or tab the keys act on.
    pub fn selected(&self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
    }

    /// The colour of the `index`-th node; `Reset` where no colour may be set.
    pub fn node_color(&self, index: usize) -> Color {
        match self.tier {
            Tier::None => Color::Reset,
            Tier::Ansi16 => NODE_16[index % NODE_16.len()],
            Tier::Ansi256 => Color::Indexed(NODE_256[index % NODE_256.len()]),
            Tier::True => {
                let (r, g, b) = NODE_TRUE[index % NODE_TRUE.len()];
                Color::Rgb(r, g, b)
            }
        }
    }

    pub fn node_style(&self, index: usize) -> Style {
        if self.is_mono() {
            Style::new()
        } else {
            Style::new().fg(self.node_color(index))
        }
    }
}

/// `A`, `B`, … `Z`, `a` … `z`, then `*`: one cell for a node on a strip.
pub fn node_letter(index: usize) -> char {
    let letters = ('A'..='Z').chain('a'..='z');
    letters.into_iter().nth(index).unwrap_or('*')
}

/// How a state is told: sign, word and meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub glyph: &'static str,
    pub word: &'static str,
    pub tone: Tone,
}

impl Theme {
    /// What a member is, from what others say of it and what it says of itself.
    pub fn member(&self, status: MemberStatus, lifecycle: Lifecycle) -> Mark {
        let g = &self.glyphs;
        let (glyph, word, tone) = match (status, lifecycle) {
            (MemberStatus::Dead, _) => (g.bad, "dead", Tone::Bad),
            (MemberStatus::Suspected, _) => (g.warn, "suspected", Tone::Warn),
            (MemberStatus::Stopped, _) | (MemberStatus::Alive, Lifecycle::Stopped) => {
                (g.stopped, "stopped", Tone::Warn)
            }
            (MemberStatus::Left, _) => (g.pending, "left", Tone::Quiet),
            (MemberStatus::Alive, Lifecycle::Serving) => (g.good, "serving", Tone::Good),
            (MemberStatus::Alive, Lifecycle::Standby) => (g.standby, "standby", Tone::Warn),
            (MemberStatus::Alive, Lifecycle::Candidate) => (g.pending, "candidate", Tone::Busy),
            (MemberStatus::Alive, other) => (g.busy, other.as_str(), Tone::Busy),
        };
        Mark { glyph, word, tone }
    }

    /// A member that serves while the change under way takes it in or lets it go.
    pub fn moves(&self, into_the_ring: bool) -> Mark {
        let word = if into_the_ring { "joining" } else { "leaving" };
        Mark {
            glyph: self.glyphs.busy,
            word,
            tone: Tone::Busy,
        }
    }

    /// What one node says of another.
    pub fn status(&self, status: MemberStatus) -> Mark {
        let g = &self.glyphs;
        let (glyph, tone) = match status {
            MemberStatus::Alive => (g.good, Tone::Good),
            MemberStatus::Suspected => (g.warn, Tone::Warn),
            MemberStatus::Dead => (g.bad, Tone::Bad),
            MemberStatus::Stopped => (g.stopped, Tone::Warn),
            MemberStatus::Left => (g.pending, Tone::Quiet),
        };
        let word = status.as_str();
        Mark { glyph, word, tone }
    }

    pub fn severity(&self, severity: Severity) -> Mark {
        let g = &self.glyphs;
        let (glyph, word, tone) = match severity {
            Severity::Info => (g.good, "info", Tone::Good),
            Severity::Warning => (g.warn, "warning", Tone::Warn),
            Severity::Error => (g.bad, "error", Tone::Bad),
        };
        Mark { glyph, word, tone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(choice: &str, env: &[(&str, &str)]) -> Tier {
        let choice: ColorChoice = choice.parse().expect("a mode");
        choice.resolve(|name| {
            let found = env.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn the_tier_follows_choice_then_no_color_then_the_terminal() {
        type Env<'a> = &'a [(&'a str, &'a str)];
        let deep = ("COLORTERM", "truecolor");
        let cases: [(&str, Env, Tier); 8] = [
            ("auto", &[], Tier::Ansi16),
            ("auto", &[("TERM", "xterm-256color")], Tier::Ansi256),
            ("auto", &[("TERM", "xterm-256color"), deep], Tier::True),
            ("auto", &[deep, ("NO_COLOR", "1")], Tier::None),
            ("auto", &[deep, ("NO_COLOR", "")], Tier::True),
            ("auto", &[("TERM", "dumb")], Tier::None),
            ("256", &[("NO_COLOR", "1")], Tier::Ansi256),
            ("never", &[deep], Tier::None),
        ];
        for (choice, env, want) in cases {
            assert_eq!(tier(choice, env), want, "{choice} {env:?}");
        }
        assert!("pink".parse::<ColorChoice>().is_err());
    }

    #[test]
    fn mono_sets_no_colour_anywhere() {
        let theme = Theme::new(Tier::None, false);
        let tones = [Tone::Quiet, Tone::Good, Tone::Busy, Tone::Warn, Tone::Bad];
        let mut styles: Vec<Style> = tones.map(|t| theme.style(t)).to_vec();
        styles.extend([theme.selected(), theme.bold(), theme.node_style(3)]);
        for style in styles {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }

    #[test]
    fn every_state_differs_without_colour() {
        for theme in [Theme::default(), Theme::new(Tier::None, true)] {
            let seen: Vec<Mark> = [
                (MemberStatus::Alive, Lifecycle::Serving),
                (MemberStatus::Alive, Lifecycle::Standby),
                (MemberStatus::Alive, Lifecycle::Draining),
                (MemberStatus::Suspected, Lifecycle::Serving),
                (MemberStatus::Dead, Lifecycle::Serving),
                (MemberStatus::Stopped, Lifecycle::Stopped),
            ]
            .map(|(s, l)| theme.member(s, l))
            .to_vec();
            for (i, a) in seen.iter().enumerate() {
                for b in &seen[i + 1..] {
                    assert!(a.glyph != b.glyph && a.word != b.word, "{a:?} {b:?}");
                }
            }
        }
    }
}
