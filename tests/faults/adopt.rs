//! Two clusters that each took writes become one: nothing is lost, and what both wrote under one
//! key shows as siblings, whatever is killed on the way.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use ringmaster_shared::{
    api::{
        data::{ReadResponse, ReplicasResponse},
        health::NodeStatus,
    },
    error::ErrorCode,
    member::Lifecycle,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::orders::{drains, ends_with, half_a_request, signal};
use crate::support::{
    client::Api,
    cluster::{Cluster, agreement},
    node::Node,
    wait::{GENEROUS, eventually, same},
};

/// For a whole cluster to be pushed on a busy machine.
const LONG: Duration = Duration::from_secs(180);

async fn agree_among(cluster: &Cluster, who: &[usize]) {
    let apis: Vec<Api> = who.iter().map(|i| cluster.api(*i)).collect();
    let look = async || agreement(&apis).await;
    eventually("they agree", GENEROUS, look).await;
}

async fn put(api: &Api, key: &str, value: &str) {
    let reply = api.put(key, &json!(value)).await.expect("answered");
    assert_eq!(reply.status, 200, "{key}: {}", reply.text());
}

async fn delete(api: &Api, key: &str) {
    let path = format!("/api/v1/data/{key}");
    let reply = api.send(Method::DELETE, &path, None).await;
    assert_eq!(reply.expect("answered").status, 200);
}

async fn read(api: &Api, key: &str) -> Result<ReadResponse, String> {
    let path = format!("/api/v1/data/{key}?consistency=quorum");
    api.get(&path).await.map_err(|e| format!("{e:#}"))
}

/// Values of all siblings, or the value itself where there is only one, in order.
async fn versions(api: &Api, key: &str) -> Result<Vec<Value>, String> {
    let path = format!("/api/v1/data/{key}?consistency=quorum");
    let reply = api.send(Method::GET, &path, None).await;
    let reply = reply.map_err(|e| e.to_string())?;
    let body: Value = reply.json().map_err(|e| e.to_string())?;
    let siblings = match reply.status {
        200 if body["siblings"].is_array() => &body["siblings"],
        200 => return Ok(vec![body["value"].clone()]),
        404 => &body["details"]["siblings"],
        _ => return Err(reply.text()),
    };
    let values = siblings.as_array().into_iter().flatten();
    let mut values: Vec<Value> = values.map(|s| s["value"].clone()).collect();
    values.sort_by_key(ToString::to_string);
    Ok(values)
}

async fn waiting_for(api: &Api) -> String {
    match api.status().await {
        Ok(status) => status.node.waiting_for.unwrap_or_default(),
        Err(error) => error.to_string(),
    }
}

/// Writes new keys until told to stop; the values that were acknowledged.
async fn keep_writing(api: Api, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("meanwhile-{n}");
        n += 1;
        if let Ok(reply) = api.put(&key, &json!(key)).await
            && reply.status == 200
        {
            acknowledged.push(key);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    acknowledged
}

#[tokio::test]
async fn two_clusters_that_took_writes_become_one() {
    let mut cluster = Cluster::start(3).await;
    let founder = cluster.add(&[]).await;
    let seed = cluster.seed(founder);
    let second = cluster.add(&seed).await;
    agree_among(&cluster, &[founder, second]).await;
    let (a, b) = (cluster.api(1), cluster.api(second));

    for i in 0..40 {
        put(&a, &format!("a-{i}"), "a").await;
        put(&b, &format!("b-{i}"), "b").await;
        put(&a, &format!("both-{i}"), "a").await;
        put(&b, &format!("both-{i}"), "b").await;
    }
    // deleted on one side, alive on the other: each way round, and the later one each way
    for (key, by) in [("gone-a", &a), ("gone-b", &b)] {
        put(&a, key, "a").await;
        put(&b, key, "b").await;
        delete(by, key).await;
    }
    put(&b, "gone-early", "b0").await;
    put(&a, "gone-early", "a").await;
    delete(&a, "gone-early").await;
    put(&b, "gone-early", "b").await;
    put(&a, "gone-everywhere", "a").await;
    delete(&a, "gone-everywhere").await;
    delete(&b, "gone-everywhere").await;

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(keep_writing(cluster.api(0), stop.clone()));
    let flags = [cluster.seed(0), vec!["--adopt".to_owned()]].concat();
    cluster.nodes[founder].kill9();
    cluster.nodes[founder].start(&flags);
    agree_among(&cluster, &[0, 1, 2, founder]).await;
    // what is left of the other cluster still has its data, and does not answer for both
    let error = b.read("b-0").await.expect("answered").error();
    assert_eq!(error.code, ErrorCode::QuorumNotMet);
    assert!(cluster.nodes[second].stop().await.success());
    cluster.nodes[second].start(&flags);
    cluster.agree().await;
    stop.store(true, Ordering::Relaxed);
    let meanwhile = writer.await.expect("it ends");
    assert!(!meanwhile.is_empty());

    for index in 0..5 {
        let api = cluster.api(index);
        for i in 0..40 {
            for side in ["a", "b"] {
                let key = format!("{side}-{i}");
                let found = read(&api, &key).await.expect("found");
                assert_eq!(found.value, json!(side), "{key}");
                assert!(found.siblings.is_none_or(|s| s.len() == 1), "{key}");
            }
            let both = versions(&api, &format!("both-{i}")).await;
            assert_eq!(both, Ok(vec![json!("a"), json!("b")]));
        }
        for (key, left) in [("gone-a", "b"), ("gone-b", "a"), ("gone-early", "b")] {
            let found = versions(&api, key).await.expect("answered");
            assert_eq!(found, [json!(left), Value::Null], "{key}");
        }
        let gone = api.value("gone-everywhere").await.expect("answered");
        assert_eq!(gone, None);
        for key in &meanwhile {
            let found = api.value(key).await.expect("answered");
            assert_eq!(found.as_ref(), Some(&json!(key)));
        }
    }
    for index in [founder, second] {
        let log = cluster.nodes[index].log();
        assert!(log.contains("CLUSTER_ADOPTED"), "{log}");
        assert!(log.contains("has left cluster"), "{log}");
    }
    // the flag is of no consequence any more
    assert!(cluster.nodes[founder].stop().await.success());
    cluster.nodes[founder].start(&flags);
    cluster.agree().await;
    let log = cluster.nodes[founder].log();
    assert!(log.contains("nothing to adopt"), "{log}");
}

const MANY: usize = 1500;

async fn fill(api: &Api, count: usize) {
    let mut writes = JoinSet::new();
    for n in 0..count {
        if writes.len() >= 64 {
            writes.join_next().await.expect("one").expect("written");
        }
        let api = api.clone();
        writes.spawn(async move {
            let value = format!("{n}-{}", "x".repeat(2000));
            put(&api, &format!("many-{n}"), &value).await;
        });
    }
    writes.join_all().await;
}

#[tokio::test]
async fn killed_at_every_step_it_goes_on_without_the_flag() {
    let mut cluster = Cluster::start(1).await;
    let lone = cluster.add(&[]).await;
    agree_among(&cluster, &[lone]).await;
    fill(&cluster.api(lone), MANY).await;
    put(&cluster.api(0), "many-0", "theirs").await;
    let api = cluster.api(lone);
    let flags = [cluster.seed(0), vec!["--adopt".to_owned()]].concat();

    // while it looks for a seed that is not there, it is what it was, and then serves
    cluster.nodes[0].pause();
    assert!(cluster.nodes[lone].stop().await.success());
    cluster.nodes[lone].start(&flags);
    let found = async || match api.value("many-1").await {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("it serves its own cluster", GENEROUS, found).await;
    cluster.nodes[lone].kill9();
    cluster.nodes[0].resume();

    cluster.nodes[lone].start(&flags);
    for share in [1, MANY / 4, MANY / 2] {
        let far = async || {
            let waits = waiting_for(&api).await;
            let digits = |text: &str| text.replace(',', "").parse::<usize>().ok();
            let pushed = waits.strip_prefix("pushing: ").and_then(|rest| {
                let (pushed, _) = rest.split_once(" of")?;
                digits(pushed)
            });
            match pushed {
                Some(n) if n >= share => Ok(()),
                _ => Err(waits),
            }
        };
        eventually("it pushes", GENEROUS, far).await;
        // nothing it holds is anybody's to read now
        let reply = api.read("many-1").await.expect("answered");
        assert_eq!(reply.error().code, ErrorCode::NotServing);
        cluster.nodes[lone].kill9();
        cluster.nodes[lone].start(&[]);
        // the ring it pushes into changes under it
        let seed = cluster.seed(0);
        if share == 1 {
            cluster.add(&seed).await;
        }
    }
    let node = &cluster.nodes[lone];
    let emptied = async || {
        let log = node.log();
        if log.contains("is emptied") {
            return Ok(());
        }
        Err(waiting_for(&api).await)
    };
    eventually("its store is emptied", LONG, emptied).await;
    cluster.nodes[lone].kill9();
    cluster.nodes[lone].start(&[]);
    cluster.agree().await;

    for index in [0, lone, 2] {
        let api = cluster.api(index);
        let both = versions(&api, "many-0").await.expect("answered");
        assert_eq!(both.len(), 2, "{both:?}");
        for n in 1..MANY {
            let key = format!("many-{n}");
            let found = api.value(&key).await.expect("answered");
            let found = found.unwrap_or_else(|| panic!("{key} is lost"));
            let text = found.as_str().unwrap_or_default();
            assert!(text.starts_with(&format!("{n}-")), "{key}");
        }
    }
}

async fn order(api: &Api, seeds: &[String]) -> crate::support::client::Reply {
    let body = json!({"seeds": seeds, "reason": "a test"});
    let reply = api.send(Method::POST, "/api/v1/admin/adopt", Some(&body));
    reply.await.expect("answered")
}

#[tokio::test]
async fn an_order_is_checked_before_anything_is_given_up() {
    let mut cluster = Cluster::start(1).await;
    let founder = cluster.add(&[]).await;
    let seed = cluster.seed(founder);
    let second = cluster.add(&seed).await;
    agree_among(&cluster, &[founder, second]).await;
    let api = cluster.api(second);
    put(&api, "held", "b").await;
    let theirs = [cluster.nodes[0].address()];

    // a node of the same name lives there
    let elsewhere = tempfile::tempdir().expect("a folder");
    let mut namesake = Node::new("node-1", elsewhere.path());
    namesake.start(&[]);
    let double = Api::at(crate::support::client::http(), &namesake.address());
    let serves = async || same("keys", &double.value("x").await.ok(), &Some(None));
    eventually("the namesake serves", GENEROUS, serves).await;
    put(&double, "own", "double").await;
    let refused = order(&double, &theirs).await.error();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.error.contains("share an id"), "{}", refused.error);
    assert_eq!(
        double.value("own").await.expect("answered"),
        Some(json!("double"))
    );
    // with the flag it ends, and says so
    assert!(namesake.stop().await.success());
    namesake.start(&[cluster.seed(0), vec!["--adopt".to_owned()]].concat());
    let status = eventually("it ends", GENEROUS, async || {
        namesake.ended().ok_or_else(|| "it runs".to_owned())
    })
    .await;
    assert_eq!(status.code(), Some(1), "{}", namesake.log());
    assert!(namesake.log().contains("share an id"));

    // its own cluster, nobody, and the right one
    let own = order(&api, &[cluster.nodes[founder].address()])
        .await
        .error();
    assert!(own.error.contains("nothing to adopt"), "{}", own.error);
    let nobody = order(&api, &["localhost:9".to_owned()]).await.error();
    assert_eq!(nobody.code, ErrorCode::Conflict);
    assert_eq!(api.value("held").await.expect("answered"), Some(json!("b")));
    assert_eq!(order(&api, &theirs).await.status, 202);
    agree_among(&cluster, &[0, second]).await;
    assert_eq!(
        cluster.api(0).value("held").await.expect("answered"),
        Some(json!("b"))
    );
    // its flags still name a node of the cluster it left
    let log = cluster.nodes[second].log();
    assert!(cluster.nodes[second].is_running(), "{log}");
    assert!(cluster.nodes[second].stop().await.success());
    cluster.nodes[second].start(&seed);
    let node = &cluster.nodes[second];
    eventually("it warns of the old seed", GENEROUS, async || {
        let log = node.log();
        if log.contains("still belongs to the cluster this node has left") {
            return Ok(());
        }
        Err(log)
    })
    .await;
    agree_among(&cluster, &[0, second]).await;

    let api = cluster.api(founder);
    assert_eq!(order(&api, &theirs).await.status, 202);
    cluster.agree().await;
    let path = "/api/v1/data/held/replicas";
    let all_same = async || {
        let found: ReplicasResponse = api.get(path).await.map_err(|e| e.to_string())?;
        let prints: Vec<_> = found.replicas.iter().map(|r| &r.fingerprint).collect();
        let alike = prints.len() == 3 && prints.iter().all(|p| p.is_some() && *p == prints[0]);
        if alike {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    };
    eventually("all hold the same", GENEROUS, all_same).await;
    assert_eq!(versions(&api, "held").await, Ok(vec![json!("b")]));
}

/// Takes connections and never says a word; so many that a look at them takes its time.
struct Silence {
    listeners: Vec<TcpListener>,
}

impl Silence {
    fn new() -> Self {
        let listener = |_| TcpListener::bind("127.0.0.1:0").expect("a port");
        Self {
            listeners: (0..4).map(listener).collect(),
        }
    }

    /// Asked before `seed` is.
    fn before(&self, seed: String) -> Vec<String> {
        let addresses = self.listeners.iter().map(TcpListener::local_addr);
        let silent = addresses.map(|a| a.expect("bound").to_string());
        silent.chain([seed]).collect()
    }
}

/// `count` requests are under way, this look included.
async fn under_way(api: &Api, count: usize) {
    eventually("so much is under way", GENEROUS, async || {
        let metrics = api.send(Method::GET, "/metrics", None).await;
        let metrics = metrics.map_err(|e| e.to_string())?.text();
        if metrics.contains(&format!("ringd_http_requests_in_flight {count}\n")) {
            Ok(())
        } else {
            Err("it is not".into())
        }
    })
    .await;
}

async fn serves_anew(api: &Api, than: u64) -> NodeStatus {
    eventually("it serves anew", GENEROUS, async || {
        let node = api.status().await.map_err(|e| e.to_string())?.node;
        if node.generation <= than {
            return Err(format!("generation {}", node.generation));
        }
        same("lifecycle", &node.lifecycle, &Lifecycle::Serving)?;
        Ok(node)
    })
    .await
}

async fn restart(api: &Api) -> NodeStatus {
    let before = api.status().await.expect("it answers").node;
    let reply = api.send(Method::POST, "/api/v1/admin/restart", None).await;
    assert_eq!(reply.expect("answered").status, 202);
    serves_anew(api, before.generation).await
}

#[tokio::test]
async fn an_order_that_was_not_accepted_is_not_carried_out_at_a_later_start() {
    let patient = [("RINGD_LIMITS_DRAIN_TIMEOUT", "600s")];
    let mut cluster = Cluster::start_with(1, &patient).await;
    let lone = cluster.add(&[]).await;
    agree_among(&cluster, &[lone]).await;
    let api = cluster.api(lone);
    put(&api, "held", "here").await;
    let cluster_id = async || api.members().await.expect("it answers").cluster_id;
    let own = cluster_id().await;
    let silence = Silence::new();
    let seeds = silence.before(cluster.nodes[0].address());

    // refused, because the node was told to restart while it asked the seeds
    let asked = tokio::spawn({
        let (api, seeds) = (api.clone(), seeds.clone());
        async move { order(&api, &seeds).await }
    });
    under_way(&api, 2).await;
    restart(&api).await;
    let refused = asked.await.expect("it ends").error();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(
        refused.error.contains("is stopping already"),
        "{}",
        refused.error
    );
    assert_eq!(cluster_id().await, own);

    // nobody waits for the answer any more
    let asked = tokio::spawn({
        let (api, seeds) = (api.clone(), seeds.clone());
        async move { order(&api, &seeds).await }
    });
    under_way(&api, 2).await;
    asked.abort();
    under_way(&api, 1).await;
    restart(&api).await;
    assert_eq!(cluster_id().await, own);

    // and through a process of its own
    assert!(cluster.nodes[lone].stop().await.success());
    cluster.nodes[lone].start(&[]);
    agree_among(&cluster, &[lone]).await;
    assert_eq!(cluster_id().await, own);
    assert_eq!(
        api.value("held").await.expect("answered"),
        Some(json!("here"))
    );
    let log = cluster.nodes[lone].log();
    assert!(!log.contains("gives up cluster"), "{log}");
}

/// Accepted, and then the node is stopped instead: what cannot be taken back is not begun later,
/// by a start that was meant for something else.
#[tokio::test]
async fn an_order_whose_node_is_stopped_before_it_restarts_is_given_back() {
    let patient = [
        ("RINGD_LIMITS_DRAIN_TIMEOUT", "600s"),
        ("RINGD_LIMITS_BODY_TIMEOUT", "600s"),
    ];
    let mut cluster = Cluster::start_with(1, &patient).await;
    let lone = cluster.add(&[]).await;
    agree_among(&cluster, &[lone]).await;
    let api = cluster.api(lone);
    let own = api.members().await.expect("it answers").cluster_id;
    let theirs = [cluster.nodes[0].address()];
    let held = half_a_request(&cluster.nodes[lone], &api).await;
    assert_eq!(order(&api, &theirs).await.status, 202);
    drains(&api).await;
    signal(&api, Signal::TERM).await;
    let node = &cluster.nodes[lone];
    eventually("it gives the order back", GENEROUS, async || {
        let log = node.log();
        if log.contains("the order to adopt is given back") {
            return Ok(());
        }
        Err(log)
    })
    .await;
    drop(held);
    ends_with(&mut cluster.nodes[lone], 0).await;
    cluster.nodes[lone].kill9();
    cluster.nodes[lone].start(&[]);
    agree_among(&cluster, &[lone]).await;
    let members = api.members().await.expect("it answers");
    assert_eq!(members.cluster_id, own);
    let log = cluster.nodes[lone].log();
    assert!(!log.contains("ordered earlier"), "{log}");
}
