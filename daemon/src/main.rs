//! `ringd`: one node of a leaderless, replicated key-value store.

mod api;
mod breaks;
mod cli;
mod config;
mod events;
mod gossip;
mod health;
mod identity;
mod large;
mod lifecycle;
mod metrics;
mod node;
mod replication;
mod storage;
mod time;
mod topology;
mod view;

fn main() -> std::process::ExitCode {
    cli::main()
}
