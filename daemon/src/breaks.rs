//! Rules that a test build may break on purpose, to show that the checkers notice.
//!
//! `RINGD_BREAK` names them, with commas between. Builds for release know none of them.

use std::sync::OnceLock;

/// Every word there is.
const WORDS: [&str; 13] = [
    // reads answer without bringing a quorum up to what they return
    "write-back",
    // writes do not ask what is there before they stamp
    "version-query",
    // conditional writes do not ask whether they are alone
    "last-question",
    // late answers are waited for, whatever it takes, and nobody is avoided for being slow
    "hedging",
    // writes are acknowledged when one replica has them
    "early-ack",
    // a node that lost its data goes on as the same actor, counting from one
    "reuse-actor",
    // no hints are kept, no replicas are compared
    "no-repair",
    // writes supersede all they found, whatever their context covers
    "ignore-context",
    // writes without context supersede nothing
    "keep-superseded",
    // tombstones are forgotten when they are old, without asking anybody
    "gc-without-acks",
    // the commit log answers without syncing
    "skip-sync",
    // every request is let in, however much is under way
    "admission",
    // small writes wait behind large ones
    "overtaking",
];

/// Whether this rule is to be broken.
pub fn broken(word: &str) -> bool {
    cfg!(debug_assertions) && wanted().iter().any(|w| w == word)
}

fn wanted() -> &'static [String] {
    static WANTED: OnceLock<Vec<String>> = OnceLock::new();
    WANTED.get_or_init(|| {
        let wanted = std::env::var("RINGD_BREAK").unwrap_or_default();
        let words = wanted.split(',').map(str::trim).filter(|w| !w.is_empty());
        words.map(str::to_owned).collect()
    })
}

/// Says so in the log, loudly. Once, at the start.
pub fn confess() {
    if !cfg!(debug_assertions) || wanted().is_empty() {
        return;
    }
    let wanted = wanted();
    tracing::warn!("RINGD_BREAK={wanted:?}: THIS NODE IS BROKEN ON PURPOSE, for tests only");
    for word in wanted.iter().filter(|w| !WORDS.contains(&w.as_str())) {
        tracing::error!("RINGD_BREAK={word}: there is no such word; nothing is broken by it");
    }
}
