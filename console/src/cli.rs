//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::theme::ColorChoice;

/// Where a local cluster of the operations guide answers.
pub const ENDPOINTS_DEFAULT: &str = "localhost:8081,localhost:8082,localhost:8083";

/// Operator's console of a ringd cluster.
///
/// Without a verb it opens the dashboard: it connects to the first endpoint that answers, moves
/// to another one when that is lost, and falls back to polling when no live feed can be had. It
/// learns further endpoints from the members. Press ? inside for the keys.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ringmaster",
    version,
    after_help = "Exit codes:\n  \
        0  done, and well\n  \
        1  the cluster is not well, or the operation failed\n  \
        2  the command line makes no sense\n  \
        3  no endpoint answered\n  \
        4  refused: a precondition does not hold, nothing was done\n  \
        130  interrupted",
    args_conflicts_with_subcommands = false,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What every verb takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// A node to connect to, host:port; repeat it or separate several by commas
    #[arg(
        long = "endpoint",
        short = 'e',
        global = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = endpoint,
        env = "RINGMASTER_ENDPOINTS",
        default_value = ENDPOINTS_DEFAULT,
        hide_default_value = true,
        long_help = "A node to connect to, host:port; repeat it or separate several by commas. \
            Without it: localhost:8081, localhost:8082 and localhost:8083"
    )]
    pub endpoints: Vec<String>,
    /// Refuse everything that would change the cluster or its data
    #[arg(long, global = true, env = "RINGMASTER_READ_ONLY")]
    pub read_only: bool,
    /// Colours: auto, never, 16, 256 or true
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Draw with ASCII letters only
    #[arg(long, global = true)]
    pub ascii: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    #[command(flatten)]
    Batch(BatchVerb),
    /// Start three local daemons, open the console on them, stop them when it is left
    Demo(DemoArgs),
}

/// The verbs that need no terminal.
#[derive(Debug, Clone, Subcommand)]
pub enum BatchVerb {
    /// Health of the cluster as one node sees it
    Status(OutputArgs),
    /// Members, and what each is doing
    Members(OutputArgs),
    /// Who owns which part of the ring, or where one key lives
    Ring(RingArgs),
    /// Which partitions have all replicas, a quorum, or neither
    Quorum(OutputArgs),
    /// Ask every node and compare: views, epochs, quorums, hints; exit 1 when something is wrong
    Check(OutputArgs),
    /// Read a key
    Get(GetArgs),
    /// Write a key
    Put(PutArgs),
    /// Delete a key
    Del(DelArgs),
    /// Restart all nodes, cleanly or one after the other
    Restart(RestartArgs),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// How the answer is written
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Clone, Args)]
pub struct RingArgs {
    /// Show where this key lives
    pub key: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ConsistencyArg {
    /// One replica is enough; may be old
    One,
    #[default]
    Quorum,
    /// Every replica
    All,
}

#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    pub key: String,
    #[arg(long, value_enum, default_value_t)]
    pub consistency: ConsistencyArg,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct PutArgs {
    pub key: String,
    /// JSON when it is JSON, else text; "-" reads standard input
    #[arg(allow_hyphen_values = true)]
    pub value: String,
    /// The context a read returned: supersedes what that read saw, and nothing else
    #[arg(long)]
    pub context: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    pub consistency: ConsistencyArg,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct DelArgs {
    pub key: String,
    /// The context a read returned: deletes what that read saw, and nothing else
    #[arg(long)]
    pub context: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    pub consistency: ConsistencyArg,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
#[group(id = "restart")]
pub struct RestartArgs {
    /// All nodes to standby, gossip state cleared, started again from a bootstrap node
    #[arg(long, required_unless_present = "rolling", conflicts_with = "rolling")]
    pub clean: bool,
    /// One node at a time, only while every partition keeps its quorum
    #[arg(long)]
    pub rolling: bool,
    /// Do it; without this only the plan is shown
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Nodes to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Where the nodes keep their data; without it, a temporary folder that is removed
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The daemon to start; without it, the ringd beside this program, else the one in PATH
    #[arg(long, value_name = "FILE")]
    pub ringd: Option<PathBuf>,
    /// Print the endpoints and wait for Ctrl-C instead of opening the console
    #[arg(long)]
    pub no_console: bool,
}

/// `host:port`, as given or out of a URL; a bare port is on this machine.
fn endpoint(text: &str) -> Result<String, String> {
    let bare = text.trim();
    let bare = ["http://", "ws://"]
        .iter()
        .find_map(|scheme| bare.strip_prefix(scheme))
        .unwrap_or(bare);
    let bare = bare.trim_end_matches('/');
    if bare.contains("://") {
        return Err("only http and ws are spoken; write host:port".to_owned());
    }
    let (host, port) = match bare.rsplit_once(':') {
        Some(parts) => parts,
        None => ("localhost", bare),
    };
    let host_ok = !host.is_empty()
        && !host.contains(['/', '@', '?', '#', ' '])
        && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')));
    match port.parse::<u16>() {
        Ok(port) if port > 0 && host_ok => Ok(format!("{host}:{port}")),
        _ => Err("an endpoint is host:port, for example localhost:8081".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn endpoints_are_read_in_every_spelling() {
        let cases = [
            ("localhost:8081", "localhost:8081"),
            ("8081", "localhost:8081"),
            ("http://node-1:8081/", "node-1:8081"),
            ("ws://10.0.0.1:9000", "10.0.0.1:9000"),
            ("[::1]:8081", "[::1]:8081"),
        ];
        for (text, want) in cases {
            assert_eq!(endpoint(text).as_deref(), Ok(want), "{text}");
        }
        for bad in [
            "",
            "node-1",
            "node-1:",
            ":8081",
            "a:0",
            "a:99999",
            "::1:80",
            "https://a:1",
            "a/b:1",
        ] {
            assert!(endpoint(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_are_parsed_or_refused() {
        let cli = parse("ringmaster --endpoint a:1 --endpoint=b:2,c:3").expect("valid");
        assert_eq!(cli.common.endpoints, ["a:1", "b:2", "c:3"]);
        assert!(cli.verb.is_none() && !cli.common.read_only);
        let cli = parse("ringmaster status --endpoint a:1 --output json").expect("valid");
        assert_eq!(cli.common.endpoints, ["a:1"]);
        assert_eq!(
            parse("ringmaster").expect("valid").common.endpoints.len(),
            3
        );
        for good in [
            "ringmaster get k",
            "ringmaster put k -5",
            "ringmaster restart --clean --yes",
            "ringmaster restart --rolling",
            "ringmaster demo --no-console",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "ringmaster restart",
            "ringmaster restart --clean --rolling",
            "ringmaster --color=pink",
            "ringmaster frobnicate",
            "ringmaster get",
            "ringmaster demo --nodes 0",
            "ringmaster --endpoint nowhere",
        ] {
            let error = parse(bad).expect_err(bad);
            assert_eq!(error.exit_code(), 2, "{bad}");
        }
    }
}
