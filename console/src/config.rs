//! Settings of one run, settled before anything is drawn: flags over environment over defaults.

use std::env;

use crate::cli::Common;

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

/// What the dashboard needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port`, in the order of preference; never empty.
    pub endpoints: Vec<String>,
    pub read_only: bool,
    pub display: Display,
}

impl Settings {
    pub fn new(common: &Common) -> Self {
        let lookup = |name: &str| env::var(name).ok();
        Self {
            endpoints: common.endpoints.clone(),
            read_only: common.read_only,
            display: Display {
                tier: common.color.resolve(lookup),
                ascii: common.ascii || !speaks_utf8(lookup),
            },
        }
    }
}

/// Whether the locale says UTF-8; a terminal that says nothing is taken to.
fn speaks_utf8(env: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| env(name).filter(|v| !v.is_empty());
    // The order in which libc looks.
    let locale = set("LC_ALL")
        .or_else(|| set("LC_CTYPE"))
        .or_else(|| set("LANG"));
    locale.is_none_or(|l| {
        let l = l.to_ascii_lowercase();
        l.contains("utf-8") || l.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_decides_the_glyphs() {
        let cases: [(&[(&str, &str)], bool); 5] = [
            (&[], true),
            (&[("LANG", "en_GB.UTF-8")], true),
            (&[("LANG", "C")], false),
            (&[("LANG", "C"), ("LC_ALL", "C.utf8")], true),
            (&[("LANG", "C.UTF-8"), ("LC_CTYPE", "POSIX")], false),
        ];
        for (env, want) in cases {
            let lookup = |name: &str| {
                let found = env.iter().find(|(n, _)| *n == name);
                found.map(|(_, v)| (*v).to_owned())
            };
            assert_eq!(speaks_utf8(lookup), want, "{env:?}");
        }
    }
}
