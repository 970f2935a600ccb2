//! The guide's shell lines, run as they stand but for the ports.

use serde_json::Value;
use tokio::process::Command;

use crate::support::cluster::Cluster;

/// What a person would see.
pub struct Shown {
    pub out: String,
    pub success: bool,
}

/// Whether the programs the guide's lines use are here.
pub fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

/// Runs `script` in bash with the nodes' ports in place of 8081, 8082 and so on.
pub async fn bash(cluster: &Cluster, script: &str) -> Shown {
    let mut script = script.to_owned();
    for (i, node) in cluster.nodes.iter().enumerate() {
        script = script.replace(&format!("{}", 8081 + i), &node.port.to_string());
    }
    let output = Command::new("bash")
        .args(["-c", &script])
        .kill_on_drop(true)
        .output();
    let output = output.await.expect("bash runs");
    Shown {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        success: output.status.success(),
    }
}

/// `curl URL | jq FILTER` for a filter that only names fields: with jq where it is installed,
/// otherwise by reading the same fields here.
pub async fn curl_jq(cluster: &Cluster, path: &str, port: u16, filter: &str) -> String {
    let curl = format!("curl -s http://localhost:{port}{path}");
    if has("jq") {
        let shown = bash(cluster, &format!("set -o pipefail; {curl} | jq '{filter}'")).await;
        assert!(shown.success, "{path} {filter}");
        return shown.out.trim().to_owned();
    }
    let text = bash(cluster, &curl).await.out;
    let whole: Value = serde_json::from_str(&text).expect("JSON");
    let fields = filter.split('.').filter(|field| !field.is_empty());
    let found = fields.fold(&whole, |value, field| &value[field]);
    serde_json::to_string_pretty(found).expect("JSON")
}

const CONSISTENCY: &str = r#"
for port in 8081 8082 8083; do
  echo "Node $port test data:"
  curl -s http://localhost:$port/api/v1/data/health:check || echo "Node unreachable"
done
"#;

const HEALTH: &str = r#"
echo "Cluster Health Check"
echo "======================"

NODES=(8081 8082 8083)
ALIVE_COUNT=0

for port in "${NODES[@]}"; do
  if curl -s -f http://localhost:$port/api/v1/status > /dev/null; then
    echo "[ok] Node-$((port - 8080)) (localhost:$port) - HEALTHY"
    ALIVE_COUNT=$((ALIVE_COUNT + 1))
  else
    echo "[down] Node-$((port - 8080)) (localhost:$port) - DOWN"
  fi
done

echo ""
echo "Cluster Status: $ALIVE_COUNT/3 nodes alive"

if [ $ALIVE_COUNT -ge 2 ]; then
  echo "[ok] Quorum Available - Cluster Operational"
else
  echo "[down] Quorum Lost - Cluster Degraded"
fi
"#;

const FIRST_SEED: &str = r#"
SEED_NODES="localhost:8081,localhost:8082,localhost:8083"
for seed in $(echo $SEED_NODES | tr ',' ' '); do
  if curl -s $seed/api/v1/status > /dev/null; then
    echo "Using seed: $seed"
    break
  fi
done
"#;

#[tokio::test]
async fn the_health_scripts_tell_what_is_up_and_what_is_down() {
    assert!(
        has("curl"),
        "the guide's scripts need curl; please install it"
    );
    let mut cluster = Cluster::start(3).await;
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.port).collect();
    for port in &ports {
        let members = "/gossip/members";
        assert_eq!(
            curl_jq(&cluster, members, *port, ".alive_members").await,
            "3"
        );
        let quorum = ".replication.quorum_available";
        let quorum = curl_jq(&cluster, "/api/v1/status", *port, quorum).await;
        assert_eq!(quorum, "true");
    }
    let shown = bash(&cluster, HEALTH).await.out;
    assert_eq!(shown.matches("- HEALTHY").count(), 3, "{shown}");
    assert!(shown.contains("3/3 nodes alive"), "{shown}");
    let shown = bash(&cluster, CONSISTENCY).await.out;
    assert_eq!(shown.matches("KEY_NOT_FOUND").count(), 3, "{shown}");

    cluster.nodes[0].kill9();
    let shown = bash(&cluster, HEALTH).await.out;
    assert!(shown.contains("2/3 nodes alive"), "{shown}");
    assert!(shown.contains("[ok] Quorum Available"), "{shown}");
    let shown = bash(&cluster, CONSISTENCY).await.out;
    assert_eq!(shown.matches("Node unreachable").count(), 1, "{shown}");
    let shown = bash(&cluster, FIRST_SEED).await.out;
    let want = format!("Using seed: localhost:{}\n", ports[1]);
    assert_eq!(shown, want, "the first that answers");

    cluster.nodes[1].kill9();
    let shown = bash(&cluster, HEALTH).await.out;
    assert!(shown.contains("1/3 nodes alive"), "{shown}");
    assert!(shown.contains("[down] Quorum Lost"), "{shown}");
}

#[tokio::test]
async fn the_quick_reference_works_as_written() {
    assert!(
        has("curl"),
        "the guide's scripts need curl; please install it"
    );
    let cluster = Cluster::start(3).await;
    let put = r#"curl -s -f -X PUT http://localhost:8081/api/v1/data/test:cluster -H "Content-Type: application/json" -d '{"value":"cluster operational"}'"#;
    let shown = bash(&cluster, put).await;
    assert!(shown.success);
    let written: Value = serde_json::from_str(&shown.out).expect("JSON");
    assert_eq!(written["key"], "test:cluster");
    assert_eq!(written["replication_result"]["quorum_achieved"], true);
    for port in [8081, 8082, 8083] {
        let get = format!("curl -s -f http://localhost:{port}/api/v1/data/test:cluster");
        let shown = bash(&cluster, &get).await;
        let read: Value = serde_json::from_str(&shown.out).expect("JSON");
        assert_eq!(read["value"], "cluster operational");
    }
    let port = cluster.nodes[0].port;
    let replication = curl_jq(&cluster, "/api/v1/status", port, ".replication").await;
    let replication: Value = serde_json::from_str(&replication).expect("an object");
    for (field, want) in [("total_nodes", 3), ("alive_nodes", 3), ("quorum_size", 2)] {
        assert_eq!(replication[field], want, "{field}");
    }
    let gossip = bash(&cluster, "curl -s -f http://localhost:8081/gossip/status").await;
    let gossip: Value = serde_json::from_str(&gossip.out).expect("JSON");
    assert_eq!(gossip["gossip_status"]["alive_nodes"], 3);
    let feed = bash(&cluster, "curl -s http://localhost:8081/ws").await.out;
    assert!(feed.contains("UPGRADE_REQUIRED"), "{feed}");
}
