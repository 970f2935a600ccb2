//! Keys of the gossip on real nodes: strangers stay out, keys are rotated under way, and
//! encryption is switched on without an outage.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{endpoints, run::ringmaster};
use crate::support::{
    cluster::Cluster,
    wait::{GENEROUS, eventually},
};

const KEYRING: &str = "RINGD_GOSSIP_KEYRING_FILE";

/// A new key in a file as an operator makes it.
async fn new_key(folder: &Path, name: &str) -> (PathBuf, String) {
    let made = ringmaster(&[], &["keys", "generate"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let path = folder.join(name);
    std::fs::write(&path, &made.out).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
    (path, made.out.trim().to_owned())
}

async fn events(cluster: &Cluster, node: usize, codes: &[&str]) -> Vec<Value> {
    let path = "/api/v1/events?limit=1000";
    let answer: Value = cluster.api(node).get(path).await.expect("answers");
    let all = answer["events"].as_array().expect("a list").clone();
    let wanted = |e: &Value| codes.iter().any(|code| e["code"] == *code);
    all.into_iter().filter(wanted).collect()
}

/// One of these verbs with JSON, and the exit code it must end with.
async fn keys(all: &[String], args: &[&str], code: i32) -> Value {
    let args: Vec<&str> = ["keys"]
        .into_iter()
        .chain(args.iter().copied())
        .chain(["--output", "json"])
        .collect();
    let ended = ringmaster(all, &args).await;
    assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
    ended.json()
}

fn outcome<'a>(answer: &'a Value, node: &str) -> &'a str {
    let nodes = answer["nodes"].as_array().expect("a list");
    let node = nodes.iter().find(|n| n["node_id"] == node);
    node.and_then(|n| n["outcome"].as_str())
        .expect("an outcome")
}

/// A node that is started with this keyring is not let in, and both sides say why.
async fn stays_out(cluster: &mut Cluster, keyring: &str, why: &str) {
    let seeds = cluster.seed(0);
    let stranger = cluster
        .add_wrapped(&seeds, Vec::new(), &[(KEYRING, keyring)])
        .await;
    eventually("the stranger is told why", GENEROUS, async || {
        let log = cluster.nodes[stranger].log();
        if log.contains(why) { Ok(()) } else { Err(log) }
    })
    .await;
    let told = events(cluster, 0, &["KEY_MISMATCH"]).await;
    let told = told.iter().filter_map(|e| e["message"].as_str());
    let told: Vec<&str> = told.filter(|text| text.contains(why)).collect();
    assert!(!told.is_empty(), "node-1 says it as well: {why}");
    let members = cluster.api(0).members().await.expect("answers");
    assert!(
        !members
            .cluster_members
            .contains_key(&cluster.nodes[stranger].id.parse().expect("a node id"))
    );
    cluster.nodes[stranger].kill9();
    cluster.nodes.pop();
}

#[tokio::test]
async fn keys_are_rotated_while_gossip_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old_file, old) = new_key(folder.path(), "old").await;
    let (new_file, new) = new_key(folder.path(), "new").await;
    let (other_file, _) = new_key(folder.path(), "other").await;
    let text = |path: &Path| path.display().to_string();
    let mut cluster = Cluster::start_with(3, &[(KEYRING, &text(&old_file))]).await;
    let all = endpoints(&cluster);

    stays_out(&mut cluster, "", "has no key").await;
    stays_out(&mut cluster, &text(&other_file), "does not hold").await;

    let listed = keys(&all, &["list"], 0).await;
    let old_name = listed["nodes"][0]["keyring"]["primary"].as_str();
    let old_name = old_name.expect("a fingerprint").to_owned();
    let early = ringmaster(&all, &["keys", "use", "--key-file", &text(&new_file)]).await;
    assert_eq!(early.code, Some(4), "{early:?}");
    assert!(
        early
            .err
            .contains("not installed on node-1, node-2, node-3"),
        "{early:?}"
    );

    // one of them is away meanwhile
    cluster.nodes[2].kill9();
    cluster.sees_alive(0, 2).await;
    cluster.sees_alive(1, 2).await;
    // who is away may come back with other keys: the same of the others is not enough
    let listed = keys(&all, &["list"], 1).await;
    assert_eq!(listed["agreed"], false, "{listed}");
    let install = ["install", "--key-file", &text(&new_file)];
    let installed = keys(&all, &install, 1).await;
    assert_eq!(outcome(&installed, "node-2"), "done");
    assert_eq!(outcome(&installed, "node-3"), "unreachable");
    let name = installed["fingerprint"].as_str().expect("a fingerprint");
    let used = keys(&all, &["use", name], 1).await;
    assert_eq!(outcome(&used, "node-1"), "done");
    let held = ringmaster(&all, &["keys", "remove", name]).await;
    assert_eq!(held.code, Some(4), "the primary stays: {held:?}");

    // it comes back with the old key, which the others still hold
    let seed = cluster.seed(0);
    cluster.nodes[2].start(&seed);
    assert!(cluster.answers(2).await);
    cluster.agree().await;
    let listed = ringmaster(&all, &["keys", "list"]).await;
    assert_eq!(listed.code, Some(1), "{listed:?}");
    assert!(
        listed.out.contains("do not hold the same keys"),
        "{listed:?}"
    );
    let installed = keys(&all, &install, 0).await;
    assert_eq!(outcome(&installed, "node-1"), "already");
    assert_eq!(outcome(&installed, "node-3"), "done");
    keys(&all, &["use", name], 0).await;
    keys(&all, &["remove", &old_name], 0).await;
    let listed = keys(&all, &["list"], 0).await;
    for node in listed["nodes"].as_array().expect("a list") {
        assert_eq!(node["keyring"]["keys"], json!([name]), "{listed}");
    }
    cluster
        .write(1, "after", &json!("rotation"), GENEROUS)
        .await;
    cluster.agree().await;

    // the keys outlive the process, and the operator's file still names the old one
    assert!(cluster.nodes[1].stop().await.success());
    let kept = cluster.data_dir(1).join("keyring");
    let mode = std::fs::metadata(&kept).expect("kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let seed = cluster.seed(0);
    cluster.nodes[1].start(&seed);
    assert!(cluster.answers(1).await);
    cluster.agree().await;
    keys(&all, &["list"], 0).await;

    for (i, node) in cluster.nodes.iter().enumerate() {
        let log = node.log();
        assert!(!log.contains(&old) && !log.contains(&new), "{}", node.id);
        let suspected = events(&cluster, i, &["MEMBER_SUSPECTED"]).await;
        let wrong: Vec<&Value> = suspected
            .iter()
            .filter(|e| e["subject"] != "node-3")
            .collect();
        assert!(wrong.is_empty(), "only who was killed: {wrong:?}");
    }
}

#[tokio::test]
async fn encryption_is_switched_on_without_an_outage() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, _) = new_key(folder.path(), "keys").await;
    let keyring = format!("--gossip-keyring-file={}", file.display());
    let mut cluster = Cluster::start(3).await;
    let all = endpoints(&cluster);
    let listed = ringmaster(&all, &["keys", "list"]).await;
    assert!(listed.out.contains("gossip is not encrypted"), "{listed:?}");
    let steps: [&[&str]; 3] = [
        &[
            "--gossip-verify-incoming=false",
            "--gossip-verify-outgoing=false",
        ],
        &["--gossip-verify-incoming=false"],
        &[],
    ];
    for (n, step) in steps.into_iter().enumerate() {
        for i in 0..3 {
            assert!(cluster.nodes[i].stop().await.success());
            let other = (i + 1) % 3;
            let value = json!(format!("step {n}, without node-{}", i + 1));
            cluster.write(other, "news", &value, GENEROUS).await;
            let mut flags = cluster.seed(other);
            flags.push(keyring.clone());
            flags.extend(step.iter().map(|flag| (*flag).to_owned()));
            cluster.nodes[i].start(&flags);
            assert!(cluster.answers(i).await);
            cluster.agree().await;
            cluster.reads(i, "news", &value).await;
            for node in 0..3 {
                let codes = ["MEMBER_SUSPECTED", "MEMBER_DEAD", "KEY_MISMATCH"];
                let wrong = events(&cluster, node, &codes).await;
                assert!(wrong.is_empty(), "step {n}, node-{}: {wrong:?}", i + 1);
            }
        }
    }
    let listed = keys(&all, &["list"], 0).await;
    for node in listed["nodes"].as_array().expect("a list") {
        let ring = &node["keyring"];
        assert_eq!(ring["verify_incoming"], true, "{listed}");
        assert_eq!(ring["verify_outgoing"], true, "{listed}");
    }
    stays_out(&mut cluster, "", "has no key").await;
}
