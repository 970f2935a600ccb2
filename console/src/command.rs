//! The little language of `:`: parsed, completed, and explained from one table.

use ringmaster_shared::{api::ring::Change, id::NodeId};
use serde_json::Value;

use crate::{
    app::ScreenId, change::ChangeVerb, keymap::Hint, message::DataOp, progress::ProcedureKind,
};

/// What a typed line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Open(ScreenId),
    Quit,
    Data(DataOp),
    Locate(String),
    /// Opens the details of a node.
    Node(NodeId),
    Filter(String),
    /// Opens the preview; the confirmation is typed there.
    Restart(ProcedureKind),
    /// Opens the list of what a change of the ring could be about.
    Choose(ChangeVerb),
    /// Plans a change; it is confirmed there.
    Change(Change),
    RetryNow,
    Freeze,
}

struct Spec {
    names: &'static [&'static str],
    usage: &'static str,
    what: &'static str,
    /// Words that may follow, for completion.
    follow: Follow,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    Nothing,
    Text,
    Nodes,
    Restarts,
}

const fn spec(
    names: &'static [&'static str],
    usage: &'static str,
    what: &'static str,
    follow: Follow,
) -> Spec {
    Spec {
        names,
        usage,
        what,
        follow,
    }
}

static SPECS: &[Spec] = &[
    spec(&["overview"], ":overview", "open a screen", Follow::Nothing),
    spec(
        &["members"],
        ":members",
        "members, and who sees whom",
        Follow::Nothing,
    ),
    spec(
        &["quorum"],
        ":quorum",
        "quorum of every partition",
        Follow::Nothing,
    ),
    spec(&["ring"], ":ring", "who owns what", Follow::Nothing),
    spec(&["data"], ":data", "read and write keys", Follow::Nothing),
    spec(&["events"], ":events", "what happened", Follow::Nothing),
    spec(
        &["procedures"],
        ":procedures",
        "restarts and ring changes",
        Follow::Nothing,
    ),
    spec(
        &["doctor"],
        ":doctor",
        "what is wrong, what to do",
        Follow::Nothing,
    ),
    spec(&["help"], ":help", "keys and commands", Follow::Nothing),
    spec(&["get"], ":get KEY", "read a key", Follow::Text),
    spec(
        &["put"],
        ":put KEY VALUE",
        "write a key: JSON if it is JSON, else text",
        Follow::Text,
    ),
    spec(
        &["del", "delete"],
        ":del KEY",
        "delete a key; asks first",
        Follow::Text,
    ),
    spec(
        &["locate"],
        ":locate KEY",
        "find a key on the ring",
        Follow::Text,
    ),
    spec(&["node"], ":node ID", "details of a node", Follow::Nodes),
    spec(
        &["filter"],
        ":filter WORDS",
        "filter the table; alone: show all",
        Follow::Text,
    ),
    spec(
        &["restart"],
        ":restart clean|rolling",
        "preview a restart of all nodes",
        Follow::Restarts,
    ),
    spec(
        &["join"],
        ":join NODE...",
        "plan to take in candidates",
        Follow::Nodes,
    ),
    spec(
        &["leave"],
        ":leave NODE",
        "plan to decommission a living node",
        Follow::Nodes,
    ),
    spec(
        &["remove"],
        ":remove NODE",
        "plan to take out a dead node",
        Follow::Nodes,
    ),
    spec(
        &["replace"],
        ":replace DEAD WITH",
        "plan to put a candidate in its place",
        Follow::Nodes,
    ),
    spec(
        &["rebalance"],
        ":rebalance",
        "plan to balance the same members anew",
        Follow::Nothing,
    ),
    spec(
        &["cancel"],
        ":cancel",
        "plan to give up the ring change under way",
        Follow::Nothing,
    ),
    spec(
        &["retry"],
        ":retry",
        "try the connection again now",
        Follow::Nothing,
    ),
    spec(
        &["freeze"],
        ":freeze",
        "freeze and unfreeze what is shown",
        Follow::Nothing,
    ),
    spec(&["q", "quit"], ":q", "quit", Follow::Nothing),
];

const RESTARTS: [(&str, ProcedureKind); 2] = [
    ("clean", ProcedureKind::CleanRestart),
    ("rolling", ProcedureKind::RollingRestart),
];

/// The commands for the help screen.
pub fn help() -> Vec<Hint> {
    let hint = |s: &Spec| Hint {
        keys: s.usage,
        what: s.what,
    };
    SPECS.iter().map(hint).collect()
}

/// Reads a line; the error is one sentence that says what would be right.
pub fn parse(line: &str) -> Result<Command, String> {
    let line = line.trim();
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let Some(spec) = SPECS.iter().find(|s| s.names.contains(&name)) else {
        return Err(format!("no command {name:?}; Tab completes, ? lists them"));
    };
    if spec.follow == Follow::Nothing && !rest.is_empty() {
        return Err(format!("{} takes nothing after it", spec.usage));
    }
    let needed = |text: &str| {
        if text.is_empty() {
            Err(format!("usage: {}", spec.usage))
        } else {
            Ok(text.to_owned())
        }
    };
    Ok(match spec.names[0] {
        "get" => Command::Data(DataOp::Get {
            key: key(&needed(rest)?)?,
        }),
        "put" => put(&needed(rest)?, spec.usage)?,
        "del" => Command::Data(DataOp::Delete {
            key: key(&needed(rest)?)?,
        }),
        "locate" => Command::Locate(key(&needed(rest)?)?),
        "node" => Command::Node(NodeId::new(&needed(rest)?).map_err(|e| e.to_string())?),
        "filter" => Command::Filter(rest.to_owned()),
        "restart" => {
            let kind = RESTARTS.iter().find(|(word, _)| *word == rest);
            Command::Restart(kind.ok_or_else(|| format!("usage: {}", spec.usage))?.1)
        }
        "join" | "leave" | "remove" | "replace" | "rebalance" | "cancel" => {
            ring_change(spec.names[0], rest).ok_or_else(|| format!("usage: {}", spec.usage))?
        }
        "retry" => Command::RetryNow,
        "freeze" => Command::Freeze,
        "q" => Command::Quit,
        screen => Command::Open(screen_named(screen).ok_or("no such screen")?),
    })
}

/// With nodes a change, without them the list to choose from; `None` when the number is wrong.
fn ring_change(verb: &str, rest: &str) -> Option<Command> {
    let verb = ChangeVerb::ALL.into_iter().find(|v| v.word() == verb)?;
    let ids: Result<Vec<NodeId>, _> = rest.split_whitespace().map(NodeId::new).collect();
    let ids = ids.ok()?;
    Some(Command::Change(match (verb, ids.as_slice()) {
        (_, []) => return Some(Command::Choose(verb)),
        (ChangeVerb::Join, nodes) => Change::Join {
            nodes: nodes.to_vec(),
        },
        (ChangeVerb::Leave, [node]) => Change::Leave { node: node.clone() },
        (ChangeVerb::Remove, [node]) => Change::Remove { node: node.clone() },
        (ChangeVerb::Replace, [dead, with]) => Change::Replace {
            dead: dead.clone(),
            with: with.clone(),
        },
        _ => return None,
    }))
}

fn put(rest: &str, usage: &str) -> Result<Command, String> {
    let Some((word, value)) = rest.split_once(char::is_whitespace) else {
        return Err(format!("usage: {usage}"));
    };
    Ok(Command::Data(DataOp::Put {
        key: key(word)?,
        value: value_of(value.trim()),
    }))
}

/// JSON when it is JSON, else a JSON string.
pub fn value_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn key(text: &str) -> Result<String, String> {
    ringmaster_shared::key::Key::new(text)
        .map(String::from)
        .map_err(|e| e.to_string())
}

fn screen_named(name: &str) -> Option<ScreenId> {
    ScreenId::ALL
        .into_iter()
        .find(|s| s.title().eq_ignore_ascii_case(name))
}

/// What Tab would append to `line`: the rest of the only, or of the first, word that fits.
pub fn complete(line: &str, nodes: &[NodeId]) -> String {
    let rest_of = |typed: &str, word: &str| {
        let rest = word.strip_prefix(typed)?;
        (!rest.is_empty()).then(|| rest.to_owned())
    };
    let found = match line.split_once(' ') {
        None if line.is_empty() => None,
        None => SPECS
            .iter()
            .flat_map(|s| s.names)
            .find_map(|name| rest_of(line, name)),
        Some((name, typed)) => {
            let spec = SPECS.iter().find(|s| s.names.contains(&name));
            match spec.map(|s| s.follow) {
                Some(Follow::Nodes) => {
                    let mut before: Vec<&str> = typed.split(' ').collect();
                    let word = before.pop().unwrap_or_default();
                    let mut left = nodes.iter().filter(|n| !before.contains(&n.as_str()));
                    left.find_map(|n| rest_of(word, n.as_str()))
                }
                Some(Follow::Restarts) => {
                    RESTARTS.iter().find_map(|(word, _)| rest_of(typed, word))
                }
                Some(Follow::Text | Follow::Nothing) | None => None,
            }
        }
    };
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let get = |key: &str| Command::Data(DataOp::Get { key: key.into() });
        let put = |key: &str, value: Value| {
            Command::Data(DataOp::Put {
                key: key.into(),
                value,
            })
        };
        let cases = [
            ("members", Command::Open(ScreenId::Members)),
            ("  ring ", Command::Open(ScreenId::Ring)),
            ("get user:42", get("user:42")),
            ("get a b", get("a b")),
            ("put k 42", put("k", 42.into())),
            ("put k {\"a\": 1}", put("k", serde_json::json!({"a": 1}))),
            ("put k hello world", put("k", "hello world".into())),
            ("put k \"7\"", put("k", "7".into())),
            ("del k", Command::Data(DataOp::Delete { key: "k".into() })),
            ("locate k", Command::Locate("k".into())),
            (
                "restart clean",
                Command::Restart(ProcedureKind::CleanRestart),
            ),
            ("filter", Command::Filter(String::new())),
            ("leave", Command::Choose(ChangeVerb::Leave)),
            ("cancel", Command::Choose(ChangeVerb::Cancel)),
            (
                "replace n3 n4",
                Command::Change(Change::Replace {
                    dead: NodeId::new("n3").expect("valid"),
                    with: NodeId::new("n4").expect("valid"),
                }),
            ),
            ("quit", Command::Quit),
        ];
        for (line, want) in cases {
            assert_eq!(parse(line), Ok(want), "{line:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = format!("get {}", "k".repeat(2000));
        let cases = [
            ("", "no command"),
            ("frobnicate", "no command"),
            ("members now", "takes nothing"),
            ("get", "usage: :get KEY"),
            ("put k", "usage: :put KEY VALUE"),
            ("restart", "usage: :restart clean|rolling"),
            ("restart hard", "usage"),
            ("replace n3", "usage: :replace DEAD WITH"),
            ("leave n3 n4", "usage: :leave NODE"),
            ("rebalance now", "takes nothing"),
            ("node a/b", "node id"),
            (long.as_str(), "bytes"),
        ];
        for (line, want) in cases {
            let error = parse(line).expect_err(line);
            assert!(error.contains(want), "{line:?}: {error}");
        }
    }

    #[test]
    fn words_are_completed() {
        let nodes = ["node-1", "node-2"].map(|n| NodeId::new(n).expect("valid"));
        let cases = [
            ("", ""),
            ("mem", "bers"),
            ("members", ""),
            ("res", "tart"),
            ("restart r", "olling"),
            ("node ", "node-1"),
            ("node node-2", ""),
            ("replace node-1 ", "node-2"),
            ("get k", ""),
            ("zzz", ""),
        ];
        for (line, want) in cases {
            assert_eq!(complete(line, &nodes), want, "{line:?}");
        }
    }

    #[test]
    fn every_screen_has_its_command() {
        for screen in ScreenId::ALL {
            let line = screen.title().to_lowercase();
            assert_eq!(parse(&line), Ok(Command::Open(screen)));
        }
    }
}
