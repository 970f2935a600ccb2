//! The console against real nodes: in a pseudo terminal as a person sees it, and as a script
//! calls it.

mod changes;
mod connection;
mod data;
mod demo;
mod feed_proxy;
mod keys;
mod load;
mod refilled;
mod restart;
mod rolling;
pub mod run;
mod screens;
mod sees;
mod split;
mod verbs;

use std::time::Duration;

use crate::support::{binaries::binaries, cluster::Cluster, node::Node, pty::Terminal};

/// Limit for what takes several gates of several nodes.
const LONG: Duration = Duration::from_secs(150);
const ROWS: u16 = 40;
const COLUMNS: u16 = 120;
const STATES: [&str; 3] = ["Connected", "Fallback Mode", "Disconnected"];

fn endpoints(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().map(Node::address).collect()
}

/// `--endpoint A --endpoint B`.
fn flags(endpoints: &[String]) -> Vec<&str> {
    let pair = |e| ["--endpoint", e];
    endpoints
        .iter()
        .map(String::as_str)
        .flat_map(pair)
        .collect()
}

/// The dashboard on a terminal of a common size.
fn open(endpoints: &[String]) -> Terminal {
    Terminal::spawn(&binaries().ringmaster, &flags(endpoints), ROWS, COLUMNS)
}

/// What the header says of the connection: one of the three, never two.
fn state(screen: &str) -> Option<&'static str> {
    let header = screen.lines().next().unwrap_or_default();
    let mut said = STATES.into_iter().filter(|state| header.contains(state));
    let state = said.next();
    assert_eq!(said.next(), None, "two states at once: {header}");
    state
}

/// The node that the header says it is connected to.
fn connected_to(screen: &str) -> Option<String> {
    let header = screen.lines().next().unwrap_or_default();
    let mut words = header.split_whitespace();
    let endpoint = words.find(|word| word.starts_with("localhost:"));
    (state(screen) == Some("Connected")).then_some(endpoint?.to_owned())
}

/// Connected, and nothing is wrong with any of `count` nodes.
fn is_well(screen: &str, count: usize) -> bool {
    state(screen) == Some("Connected")
        && screen.contains("● healthy")
        && screen.contains(&format!("{count} of {count} serving"))
}
