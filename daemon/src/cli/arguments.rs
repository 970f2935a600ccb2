//! The command line, built from the table of settings; clap's errors become one sentence.

use std::{collections::BTreeMap, ffi::OsString, fmt::Write, sync::LazyLock};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::Failure;
use crate::config::settings::{SETTINGS, Setting};

const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("RINGD_COMMIT"),
    ")"
);

/// clap wants names that live for ever.
static FLAG_NAMES: LazyLock<Vec<String>> =
    LazyLock::new(|| SETTINGS.iter().map(Setting::flag).collect());

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    Run(Flags),
    /// `--help`, `--version`.
    Print(String),
}

/// Flags that were given, by setting key.
#[derive(Debug, Default)]
pub struct Flags {
    pub settings: BTreeMap<String, Vec<String>>,
    pub config: Option<String>,
    /// Stop when standard input ends, that is, with the program that started this one.
    pub exit_with_parent: bool,
}

/// Not in the help.
const EXIT_WITH_PARENT: &str = "exit-with-parent";

const ABOUT: &str = "\
One node of a leaderless, replicated key-value cluster.

Start one ringd per node. The first one, started without seeds on an empty data folder, founds
the cluster; every other joins it through any node that runs. HTTP, WebSocket, gossip and the
connections between nodes share one port.";

const MANUAL: &str = "\
EXAMPLES
  Found a cluster, then add two nodes (one terminal each):
    ringd --node-id=node-1 --port=8081 --data-dir=./data/node-1
    ringd --node-id=node-2 --port=8082 --data-dir=./data/node-2 --seed-node=localhost:8081
    ringd --node-id=node-3 --port=8083 --data-dir=./data/node-3 --seed-node=localhost:8081
  Come back after a crash, through whichever node runs:
    ringd --node-id=node-1 --port=8081 --data-dir=./data/node-1 --seed-nodes=localhost:8082,localhost:8083
  Leave the cluster this node belongs to for another one, with everything it holds:
    ringd --node-id=node-2 --port=8082 --data-dir=./data/node-2 --seed-node=localhost:8081 --adopt
  Look, write, read:
    curl http://localhost:8081/api/v1/status
    curl -X PUT http://localhost:8081/api/v1/data/greeting -H 'Content-Type: application/json' -d '{\"value\": \"hello\"}'
    curl http://localhost:8082/api/v1/data/greeting

STOPPING
  Ctrl+C or SIGTERM: requests in flight are finished, the other nodes are told, data is flushed.
  A second one exits at once; data that was acknowledged is safe either way.

FILES
  DIR/identity.json   who this node is: node, cluster, generation, ring, known members
  DIR/store/          commit log and table
  DIR/keyring         gossip keys, once they were rotated (mode 600)
  The folder belongs to one node and to one process at a time.

ENVIRONMENT
  Every flag has a variable: --node-id is RINGD_NODE_ID, --gossip-interval is
  RINGD_GOSSIP_INTERVAL, --config is RINGD_CONFIG. A flag beats the environment, which beats
  the file. In the file --node-id is node_id, and --gossip-interval is interval in [gossip].

EXIT CODES
  0    stopped on request
  1    failed: the message says what happened
  2    misuse: a flag, the port, the data folder or a seed cannot be used as given
  130  stopped at once by a second Ctrl+C";

fn command() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("TOML file with settings [env: RINGD_CONFIG]");
    let mut command = Command::new("ringd")
        .about("One node of a leaderless, replicated key-value cluster")
        .long_about(ABOUT)
        .after_help("`ringd --help` has examples, files, variables and exit codes.")
        .after_long_help(MANUAL)
        .version(LONG_VERSION)
        .max_term_width(100)
        .arg(config)
        // for programs that start nodes of their own, not for people
        .arg(
            Arg::new(EXIT_WITH_PARENT)
                .long(EXIT_WITH_PARENT)
                .action(ArgAction::SetTrue)
                .hide(true),
        );
    for (setting, flag) in SETTINGS.iter().zip(FLAG_NAMES.iter()) {
        command = command.arg(arg(setting, flag));
    }
    command
}

fn arg(setting: &'static Setting, flag: &'static str) -> Arg {
    let mut help = setting.help.to_owned();
    if let Some(default) = setting.default {
        let _ = write!(help, " [default: {default}]"); // a String takes everything
    }
    let arg = Arg::new(setting.key)
        .long(flag)
        .value_name(setting.value_name)
        .help(help)
        .help_heading(setting.heading)
        .action(if setting.repeatable {
            ArgAction::Append
        } else {
            ArgAction::Set
        });
    if setting.switch {
        // what follows `--adopt` is the next flag, not its value
        return arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true");
    }
    arg
}

pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, Failure> {
    match command().try_get_matches_from(args) {
        Ok(matches) => Ok(Asked::Run(flags(&matches))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Asked::Print(error.render().to_string()))
            }
            _ => Err(Failure::Usage(sentence(&error))),
        },
    }
}

fn flags(matches: &ArgMatches) -> Flags {
    let texts = |key: &str| -> Option<Vec<String>> {
        Some(matches.get_many::<String>(key)?.cloned().collect())
    };
    let settings = SETTINGS
        .iter()
        .filter_map(|s| Some((s.key.to_owned(), texts(s.key)?)))
        .collect();
    Flags {
        settings,
        config: matches.get_one("config").cloned(),
        exit_with_parent: matches.get_flag(EXIT_WITH_PARENT),
    }
}

fn sentence(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(s)) => Some(s.clone()),
        Some(ContextValue::Strings(s)) => s.first().cloned(),
        _ => None,
    };
    // clap names an argument as `--port <PORT>`
    let flag = text(ContextKind::InvalidArg)
        .map(|a| a.split_whitespace().next().unwrap_or_default().to_owned())
        .unwrap_or_default();
    let what = match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with('-') => {
            let near = text(ContextKind::SuggestedArg).map(|s| format!(", did you mean {s}?"));
            format!("unknown flag {flag}{}", near.unwrap_or_default())
        }
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => {
            format!("{flag:?} is not a flag; ringd takes only flags")
        }
        ErrorKind::ArgumentConflict => format!("{flag} may be given only once"),
        ErrorKind::InvalidValue
        | ErrorKind::NoEquals
        | ErrorKind::WrongNumberOfValues
        | ErrorKind::TooFewValues => format!("{flag} needs a value"),
        ErrorKind::InvalidUtf8 => "a flag is not UTF-8 text".into(),
        _ => first_line(error),
    };
    format!("{what} (see ringd --help)")
}

fn first_line(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let line = rendered.lines().next().unwrap_or("bad command line");
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Asked, Failure> {
        let all = std::iter::once("ringd").chain(args.iter().copied());
        parse(all.map(OsString::from))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn both_spellings_and_repetition() {
        let args = [
            "--node-id=a",
            "--port",
            "8081",
            "--seed-node=h:1",
            "--adopt",
            "--seed-node",
            "h:2",
        ];
        let Ok(Asked::Run(flags)) = parsed(&args) else {
            panic!("must parse");
        };
        assert_eq!(flags.settings["node_id"], ["a"]);
        assert_eq!(flags.settings["port"], ["8081"]);
        assert_eq!(flags.settings["adopt"], ["true"]);
        assert_eq!(flags.settings["seed_node"], ["h:1", "h:2"]);
        assert!(flags.config.is_none() && !flags.settings.contains_key("bind"));
        assert!(!flags.exit_with_parent);
    }

    #[test]
    fn misuse_is_one_sentence() {
        let cases: [(&[&str], &str); 5] = [
            (&["--prot=1"], "unknown flag --prot, did you mean --port?"),
            (&["-x"], "unknown flag -x"),
            (&["start"], "\"start\" is not a flag"),
            (&["--port"], "--port needs a value"),
            (&["--port=1", "--port=2"], "--port may be given only once"),
        ];
        for (args, wants) in cases {
            let error = parsed(args).expect_err("must be refused");
            let text = error.to_string();
            assert!(text.contains(wants), "{text:?} must say {wants:?}");
            assert!(!text.contains('\n') && text.ends_with("(see ringd --help)"));
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn help_and_version_are_for_reading() {
        let Ok(Asked::Print(help)) = parsed(&["--help"]) else {
            panic!("help must print");
        };
        for part in [
            "EXAMPLES",
            "EXIT CODES",
            "ENVIRONMENT",
            "FILES",
            "--seed-nodes",
        ] {
            assert!(help.contains(part), "help must have {part}");
        }
        let Ok(Asked::Print(version)) = parsed(&["--version"]) else {
            panic!("version must print");
        };
        assert!(version.contains("commit"), "{version}");
    }
}
