//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, builder::FalseyValueParser};
use ringmaster_shared::{api::ring::Change, id::NodeId};

use crate::theme::ColorChoice;

/// Where a local cluster of the operations guide answers.
pub const ENDPOINTS_DEFAULT: &str = "localhost:8081,localhost:8082,localhost:8083";

/// Operator's console of a ringd cluster.
///
/// Without a verb it opens the dashboard: it connects to the first endpoint that answers and sees
/// the cluster, moves to another one when that is lost, and falls back to polling when no live feed can be had. It
/// learns further endpoints from the members. Press ? inside for the keys.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ringmaster",
    version,
    after_help = "Exit codes:\n  \
        0  done, and well\n  \
        1  the cluster is not well, or the operation failed, or its outcome is not known\n  \
        2  the command line makes no sense\n  \
        3  no endpoint answered, nothing was done\n  \
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
    /// Refuse everything that would change the cluster or its data. In the environment 1, true, yes
    /// or on stand for it, and nothing, 0, false, no or off against it
    // a word that is none of them counts as yes: it was meant to protect
    #[arg(long, global = true, env = "RINGMASTER_READ_ONLY", value_parser = FalseyValueParser::new())]
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
    /// Who owns which part of the ring, or where one key lives; plan and apply its changes
    Ring(RingArgs),
    /// Which partitions have all replicas, a quorum, or neither
    Quorum(OutputArgs),
    /// Ask every node and compare: views, epochs, quorums, hints; exit 1 when something is wrong
    Check(OutputArgs),
    /// Read a key, or several at once
    Get(GetArgs),
    /// Write a key, or many from a file
    Put(PutArgs),
    /// Delete a key
    Del(DelArgs),
    /// Restart all nodes, cleanly or one after the other
    Restart(RestartArgs),
    #[command(flatten)]
    Change(ChangeVerb<ApplyFlags>),
    /// Heal a split brain: the nodes of one cluster give it up, push what they hold into another
    /// one, and join it
    Adopt(AdoptArgs),
    /// Have every member compare its replicas with the others now
    Repair(OutputArgs),
    /// After two replicas lost their data together: go on with what the others hold
    Refill(RefillArgs),
    /// Keys that encrypt the gossip: show, make, install, use, remove
    #[command(subcommand)]
    Keys(KeysVerb),
}

/// Keys are named by their fingerprints; key material is read from a file or standard input.
#[derive(Debug, Clone, Subcommand)]
pub enum KeysVerb {
    /// Which node holds which keys, and seals with which
    List(OutputArgs),
    /// Print a new random key, for a keyring file or for `keys install`
    Generate,
    /// Have every node open gossip sealed with this key as well
    Install {
        /// File that holds the key in base64, - for standard input
        #[arg(long, value_name = "PATH")]
        key_file: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Have every node seal with this key; every node must hold it
    Use(KeyArgs),
    /// Have every node forget this key; no node may seal with it
    Remove(KeyArgs),
}

/// An installed key, by its name or its content.
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    /// Its fingerprint, as `keys list` shows it
    #[arg(value_name = "FINGERPRINT", required_unless_present = "key_file")]
    pub fingerprint: Option<String>,
    /// File that holds the key in base64, - for standard input
    #[arg(long, value_name = "PATH", conflicts_with = "fingerprint")]
    pub key_file: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Changes of the ring: as verbs they are shown, and with --yes applied and waited for; under
/// `ring plan` nothing is done.
#[derive(Debug, Clone, Subcommand)]
pub enum ChangeVerb<F: Args> {
    /// Take candidates (nodes started with --join manual) into the ring
    Join {
        #[arg(required = true, value_name = "NODE", value_parser = node_id)]
        nodes: Vec<NodeId>,
        #[command(flatten)]
        flags: F,
    },
    /// Decommission a living node: it hands over all it holds, then it is gone from the ring
    Leave {
        #[arg(value_name = "NODE", value_parser = node_id)]
        node: NodeId,
        #[command(flatten)]
        flags: F,
    },
    /// Take a dead node out of the ring; the others take over what it held
    Remove {
        #[arg(value_name = "NODE", value_parser = node_id)]
        node: NodeId,
        #[command(flatten)]
        flags: F,
    },
    /// Put a candidate exactly in the place of a dead node
    Replace {
        #[arg(value_name = "DEAD", value_parser = node_id)]
        dead: NodeId,
        #[arg(value_name = "WITH", value_parser = node_id)]
        with: NodeId,
        #[command(flatten)]
        flags: F,
    },
    /// Balance the same members anew, also over zones
    Rebalance {
        #[command(flatten)]
        flags: F,
    },
}

impl<F: Args> ChangeVerb<F> {
    pub fn flags(&self) -> &F {
        match self {
            Self::Join { flags, .. }
            | Self::Leave { flags, .. }
            | Self::Remove { flags, .. }
            | Self::Replace { flags, .. }
            | Self::Rebalance { flags } => flags,
        }
    }

    pub fn into_parts(self) -> (Change, F) {
        match self {
            Self::Join { nodes, flags } => (Change::Join { nodes }, flags),
            Self::Leave { node, flags } => (Change::Leave { node }, flags),
            Self::Remove { node, flags } => (Change::Remove { node }, flags),
            Self::Replace { dead, with, flags } => (Change::Replace { dead, with }, flags),
            Self::Rebalance { flags } => (Change::Rebalance {}, flags),
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct ApplyFlags {
    /// Do it and wait for its end; without this only the plan is shown
    #[arg(long)]
    pub yes: bool,
    /// How long to wait for the end, seconds; the change goes on afterwards
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_SECONDS)]
    pub timeout: u64,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How long an order is waited for when nobody says otherwise, seconds.
const WAIT_SECONDS: u64 = 600;

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
    /// Show where this key lives; after -- it may be any word
    pub key: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(subcommand)]
    pub verb: Option<RingVerb>,
}

#[derive(Debug, Clone, Subcommand)]
pub enum RingVerb {
    /// Show what a change would do; exit 0 when it can be applied, 4 when not
    Plan(PlanArgs),
    /// Have a plan decided, by the id that `ring plan` printed
    Apply(ApplyArgs),
}

#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    #[command(subcommand)]
    pub change: PlanVerb,
}

/// Nothing is done by any of these.
#[derive(Debug, Clone, Subcommand)]
pub enum PlanVerb {
    #[command(flatten)]
    Change(ChangeVerb<OutputArgs>),
    /// Give up the change under way; the ring stays as it is
    Cancel {
        #[command(flatten)]
        output: OutputArgs,
    },
}

impl PlanVerb {
    pub fn into_parts(self) -> (Change, OutputArgs) {
        match self {
            Self::Change(verb) => verb.into_parts(),
            Self::Cancel { output } => (Change::Cancel {}, output),
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    #[arg(value_name = "PLAN_ID")]
    pub plan_id: String,
    /// Wait until the change is done; exit 1 when it is given up
    #[arg(long)]
    pub wait: bool,
    /// How long to wait for the end, seconds; the change goes on afterwards
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_SECONDS)]
    pub timeout: u64,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct RefillArgs {
    /// The node that waits for the decision: `REFILL_BLOCKED` or `VOTES_FORGOTTEN`, as its own
    /// `status` and the doctor say
    #[arg(value_name = "NODE", value_parser = node_id)]
    pub node: NodeId,
    /// Count as lost what only the emptied replicas had
    #[arg(long, required = true)]
    pub accept_loss: bool,
    /// Do it; without this it is only shown what would be accepted
    #[arg(long)]
    pub yes: bool,
    /// For the log: why
    #[arg(long)]
    pub reason: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct AdoptArgs {
    /// The nodes of the cluster that is given up, host:port, all of them
    #[arg(
        long = "endpoints",
        id = "losing",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = endpoint,
        required = true
    )]
    pub losing: Vec<String>,
    /// Nodes of the cluster that stays, host:port
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = endpoint, required = true)]
    pub into: Vec<String>,
    /// Do it, one node after the other; without this only the plan is shown
    #[arg(long)]
    pub yes: bool,
    /// How long one node may take, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_SECONDS)]
    pub timeout: u64,
    /// For the log: why
    #[arg(long)]
    pub reason: Option<String>,
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
    /// One key, or several to be read in one request
    #[arg(
        required_unless_present = "batch",
        conflicts_with = "batch",
        value_name = "KEY"
    )]
    pub keys: Vec<String>,
    /// Read the keys in this file, one a line; "-" reads standard input
    #[arg(long, value_name = "FILE")]
    pub batch: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    pub consistency: ConsistencyArg,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub struct PutArgs {
    #[arg(required_unless_present = "batch")]
    pub key: Option<String>,
    /// JSON when it is JSON, else text; "-" reads standard input
    #[arg(allow_hyphen_values = true, required_unless_present = "batch")]
    pub value: Option<String>,
    /// The context a read returned: supersedes what that read saw, and nothing else
    #[arg(long)]
    pub context: Option<String>,
    /// Write only if the key is exactly as the read that returned this context saw it; exit 4
    /// when it is not
    #[arg(long, value_name = "CONTEXT", value_parser = token, conflicts_with_all = ["context", "if_absent"])]
    pub if_match: Option<String>,
    /// Write only if the key has no value; exit 4 when it has one
    #[arg(long)]
    pub if_absent: bool,
    /// Write what is in this file: a JSON object of keys and values, or a list of objects with
    /// key, value and perhaps context; "-" reads standard input. Each key succeeds or fails by
    /// itself
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "value", "context", "if_match", "if_absent"])]
    pub batch: Option<String>,
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

fn node_id(text: &str) -> Result<NodeId, String> {
    NodeId::new(text).map_err(|e| e.to_string())
}

/// A context, as it can stand in a header.
fn token(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != ',';
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a context is the word that a read returned".to_owned())
    }
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
            "ringmaster get k l m",
            "ringmaster get --batch keys.txt",
            "ringmaster put --batch -",
            "ringmaster put k v --if-absent",
            "ringmaster put k v --if-match AVq0w2kA",
            "ringmaster ring user:42",
            "ringmaster ring -- plan",
            "ringmaster ring plan leave node-3 --output json",
            "ringmaster ring plan join a b c",
            "ringmaster ring plan cancel",
            "ringmaster ring apply p1 --wait",
            "ringmaster leave node-3",
            "ringmaster replace node-3 node-4 --yes -e a:1",
            "ringmaster rebalance --yes --timeout 5",
            "ringmaster adopt --endpoints a:1,b:2 --into c:3 --yes",
            "ringmaster repair",
            "ringmaster refill node-1 --accept-loss --yes",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "ringmaster restart",
            "ringmaster refill node-1 --yes",
            "ringmaster restart --clean --rolling",
            "ringmaster --color=pink",
            "ringmaster frobnicate",
            "ringmaster get",
            "ringmaster demo --nodes 0",
            "ringmaster put k",
            "ringmaster put k v --batch f",
            "ringmaster put k v --if-match a --if-absent",
            "ringmaster put k v --if-match a,b",
            "ringmaster get",
            "ringmaster get k --batch f",
            "ringmaster ring plan",
            "ringmaster ring plan replace a",
            "ringmaster ring plan join",
            "ringmaster leave",
            "ringmaster leave a/b",
            "ringmaster ring apply",
            "ringmaster adopt --into c:3",
            "ringmaster adopt --endpoints a:1",
            "ringmaster --endpoint nowhere",
        ] {
            let error = parse(bad).expect_err(bad);
            assert_eq!(error.exit_code(), 2, "{bad}");
        }
    }
}
