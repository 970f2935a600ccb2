//! `ringmaster keys`: which keys encrypt the gossip, and changing them on all nodes at once.
//!
//! A key is read from a file or from standard input, never from the command line, where other
//! users of the machine would see it; it is shown nowhere but by `keys generate`.

use std::io::Read;

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use rand::RngCore;
use ringmaster_shared::{
    api::keys::{KeyOperation, KeysChanged, KeysOrder, KeysResponse},
    error::ErrorCode,
};

use super::{
    Output, explain, explain_order, print_json, print_lines,
    table::{Align, Table},
};
use crate::{
    cli::{KeyArgs, KeysVerb},
    client::{Client, ClientError, PATIENT_TIMEOUT},
    exit::{self, Exit},
};

const PATH: &str = "/api/v1/gossip/keys";
const KEY_BYTES: usize = 32;
/// A key and a comment or two.
const FILE_BYTES_MAX: u64 = 4096;

pub async fn run(client: &Client, endpoints: &[String], verb: KeysVerb) -> anyhow::Result<Exit> {
    // the node that is asked asks all others, and they write to their disks
    let client = client.within(PATIENT_TIMEOUT);
    let (order, output) = match verb {
        KeysVerb::Generate => {
            let mut key = [0; KEY_BYTES];
            rand::rng().fill_bytes(&mut key);
            print_lines([STANDARD.encode(key)]);
            return Ok(exit::OK);
        }
        KeysVerb::List(args) => return list(&client, endpoints, args.output).await,
        KeysVerb::Install { key_file, output } => {
            let order = KeysOrder {
                operation: KeyOperation::Install,
                key: Some(read(&key_file)?),
                fingerprint: None,
            };
            (order, output.output)
        }
        KeysVerb::Use(args) => named(KeyOperation::Use, args)?,
        KeysVerb::Remove(args) => named(KeyOperation::Remove, args)?,
    };
    change(&client, endpoints, &order, output).await
}

fn named(operation: KeyOperation, args: KeyArgs) -> anyhow::Result<(KeysOrder, Output)> {
    let order = KeysOrder {
        operation,
        key: args.key_file.as_deref().map(read).transpose()?,
        fingerprint: args.fingerprint,
    };
    Ok((order, args.output.output))
}

/// The one key in a file; `-` is standard input. Never quotes what it read.
fn read(path: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == "-" {
        let input = std::io::stdin().lock();
        input
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .context("the key cannot be read from standard input")?;
    } else {
        let failed = || format!("the key cannot be read from {path}");
        let file = std::fs::File::open(path).with_context(failed)?;
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .with_context(failed)?;
    }
    key_in(&text).with_context(|| match path {
        "-" => "standard input".to_owned(),
        path => path.to_owned(),
    })
}

fn key_in(text: &str) -> anyhow::Result<String> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    let keys: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let [key] = keys.as_slice() else {
        anyhow::bail!("one key is wanted, here are {}", keys.len());
    };
    let bytes = STANDARD.decode(key).map_or(0, |bytes| bytes.len());
    anyhow::ensure!(
        bytes == KEY_BYTES,
        "a key is {KEY_BYTES} bytes in base64 (44 characters); `ringmaster keys generate` makes one"
    );
    Ok((*key).to_owned())
}

async fn list(client: &Client, endpoints: &[String], output: Output) -> anyhow::Result<Exit> {
    let mut answer = Err(ClientError::no_endpoint());
    for endpoint in endpoints {
        answer = client.get::<KeysResponse>(endpoint, PATH).await;
        if !answer.as_ref().is_err_and(ClientError::is_unreachable) {
            break;
        }
    }
    let keys = match answer {
        Ok(keys) => keys,
        Err(error) => return Ok(explain(&error)),
    };
    if output == Output::Json {
        print_json(&keys)?;
    } else {
        print_lines(listed(&keys));
    }
    Ok(if keys.agreed { exit::OK } else { exit::FAILED })
}

fn listed(keys: &KeysResponse) -> Vec<String> {
    let columns = ["NODE", "PRIMARY", "OTHERS", "VERIFIES", ""];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for node in &keys.nodes {
        let message = node.message.clone().unwrap_or_default();
        let cells = match &node.keyring {
            Some(ring) => {
                let others = ring.keys.iter().filter(|key| **key != ring.primary);
                let others: Vec<&str> = others.map(String::as_str).collect();
                let verifies = match (ring.verify_incoming, ring.verify_outgoing) {
                    (true, true) => "both",
                    (true, false) => "incoming",
                    (false, true) => "outgoing",
                    (false, false) => "nothing",
                };
                [ring.primary.clone(), others.join(" "), verifies.to_owned()]
            }
            None => ["-".to_owned(), String::new(), String::new()],
        };
        let [primary, others, verifies] = cells;
        table.row([node.node_id.to_string(), primary, others, verifies, message]);
    }
    let mut lines = table.lines();
    if keys.nodes.iter().all(|n| n.keyring.is_none()) {
        lines.push("gossip is not encrypted".to_owned());
    } else if !keys.agreed {
        lines.push(disagreement(keys));
    }
    lines
}

fn disagreement(keys: &KeysResponse) -> String {
    let mut shown = keys.nodes.iter().filter_map(|n| n.keyring.as_ref());
    let first = shown.next().map(|ring| (&ring.primary, &ring.keys));
    if shown.any(|ring| Some((&ring.primary, &ring.keys)) != first) {
        return "the nodes do not hold the same keys: give the last order again".to_owned();
    }
    let others = keys.nodes.iter().filter(|n| n.keyring.is_none());
    let others: Vec<&str> = others.map(|n| n.node_id.as_str()).collect();
    format!(
        "not known to be the same everywhere: {} shows no keys; remove none before it does",
        others.join(", ")
    )
}

/// Asked of one endpoint alone unless that was never reached: an order may have been carried out
/// by who fell silent over it.
async fn change(
    client: &Client,
    endpoints: &[String],
    order: &KeysOrder,
    output: Output,
) -> anyhow::Result<Exit> {
    let mut answer = Err(ClientError::no_endpoint());
    for endpoint in endpoints {
        answer = client.post::<_, KeysChanged>(endpoint, PATH, order).await;
        if !answer
            .as_ref()
            .is_err_and(ClientError::is_refused_connection)
        {
            break;
        }
    }
    let changed = match answer {
        Ok(changed) => changed,
        Err(error) if error.is(ErrorCode::Conflict) => {
            eprintln!("ringmaster: refused: {}", error.why());
            return Ok(exit::REFUSED);
        }
        Err(error) => return Ok(explain_order(&error)),
    };
    if output == Output::Json {
        print_json(&changed)?;
    } else {
        print_lines(told(&changed));
    }
    Ok(if changed.complete {
        exit::OK
    } else {
        exit::FAILED
    })
}

fn told(changed: &KeysChanged) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {}",
        changed.operation.as_str(),
        changed.fingerprint
    )];
    let mut table = Table::new(&[("NODE", Align::Left), ("", Align::Left), ("", Align::Left)]);
    for node in &changed.nodes {
        table.row([
            node.node_id.to_string(),
            node.outcome.as_str().to_owned(),
            node.message.clone().unwrap_or_default(),
        ]);
    }
    lines.extend(table.lines());
    if !changed.complete {
        lines.push("not on all nodes: give the order again when the others are back".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use ringmaster_shared::{
        api::keys::{KeyOutcome, KeyringInfo, NodeKeyOutcome, NodeKeys},
        id::NodeId,
    };

    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    #[test]
    fn one_key_is_read_and_mistakes_do_not_quote_it() {
        let key = STANDARD.encode([7; 32]);
        let text = format!("# ours\n\n {key}  # new\n");
        assert_eq!(key_in(&text).expect("one key"), key);
        for (wrong, part) in [
            (String::new(), "here are 0"),
            (format!("{key}\n{key}"), "here are 2"),
            ("c2hvcnQ=".to_owned(), "32 bytes"),
            ("not base64".to_owned(), "32 bytes"),
        ] {
            let error = key_in(&wrong).expect_err("no key").to_string();
            assert!(error.contains(part), "{error}");
            assert!(wrong.is_empty() || !error.contains(&wrong));
        }
    }

    #[test]
    fn what_nodes_hold_and_did_is_told_in_lines() {
        let ring = KeyringInfo {
            primary: "aa".into(),
            keys: vec!["aa".into(), "bb".into()],
            verify_incoming: true,
            verify_outgoing: true,
        };
        let node = |name: &str, keyring: Option<KeyringInfo>, message: Option<&str>| NodeKeys {
            node_id: id(name),
            keyring,
            message: message.map(Into::into),
        };
        let keys = KeysResponse {
            current_node: id("n1"),
            agreed: false,
            nodes: vec![
                node("n1", Some(ring), None),
                node("n2", None, Some("is dead")),
            ],
        };
        let lines = listed(&keys).join("\n");
        assert!(lines.contains("n1    aa       bb      both"), "{lines}");
        assert!(lines.contains("is dead"), "{lines}");
        assert!(
            lines.contains("everywhere: n2 shows no keys; remove none"),
            "{lines}"
        );
        let mut differ = keys.clone();
        let mut other = keys.nodes[0].keyring.clone().expect("a keyring");
        other.primary = "bb".into();
        differ.nodes[1].keyring = Some(other);
        let lines = listed(&differ).join("\n");
        assert!(lines.contains("do not hold the same keys"), "{lines}");
        let changed = KeysChanged {
            current_node: id("n1"),
            operation: KeyOperation::Use,
            fingerprint: "bb".into(),
            complete: false,
            nodes: vec![NodeKeyOutcome {
                node_id: id("n2"),
                outcome: KeyOutcome::Unreachable,
                message: Some("is dead".into()),
            }],
        };
        let lines = told(&changed).join("\n");
        for part in ["use bb", "n2    unreachable  is dead", "again"] {
            assert!(lines.contains(part), "{lines}");
        }
    }
}
