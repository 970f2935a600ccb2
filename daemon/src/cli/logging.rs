//! Logs on stdout: one line an event, for a person by default, JSON by flag.

use std::io::IsTerminal;

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::{format::Writer, time::FormatTime},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::LogConfig;

/// Libraries are heard only when something is wrong with them: their detail is not the operator's.
fn filter(log: &LogConfig) -> Targets {
    let level = LevelFilter::from_level(log.level);
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        // a client that goes silent is its own business, and hyper warns about each
        .with_target("hyper", level.min(LevelFilter::ERROR))
        // the store tells in words what fails; this library repeats it while it is torn down
        .with_target(
            "sled",
            if level >= LevelFilter::DEBUG {
                LevelFilter::WARN
            } else {
                LevelFilter::OFF
            },
        )
        .with_target("ringd", level)
}

/// `2026-01-31T08:15:30.123Z`: finer than that is noise to a person.
struct Milliseconds;

impl FormatTime for Milliseconds {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:.3}", jiff::Timestamp::now())
    }
}

/// A second call (the node started again in this process) changes nothing.
pub fn start(log: &LogConfig) {
    let registry = tracing_subscriber::registry().with(filter(log));
    if log.json {
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
        let _ = registry.with(layer).try_init();
    } else {
        let layer = tracing_subscriber::fmt::layer()
            .compact()
            .with_target(false)
            .with_timer(Milliseconds)
            .with_ansi(std::io::stdout().is_terminal());
        let _ = registry.with(layer).try_init();
    }
}
