//! Compare-and-set through all nodes at once: counters that many clients increment by reading,
//! adding one and writing back on condition that nothing changed. No increment that was
//! acknowledged may be lost, and of those that went by the same version at most one may have been.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::Method;
use ringmaster_shared::api::data::ReadResponse;
use serde_json::{Value, json};
use tokio::{
    sync::watch::{self, Receiver, Sender},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::support::{client::Api, cluster::Cluster, wait::GENEROUS};

const COUNTER: &str = "/api/v1/data/counter";
const CLIENTS: usize = 6;
/// Increments each client wants acknowledged.
const ROUNDS: usize = 12;
/// How often the third node is killed.
const KILLS: usize = 2;
/// Increments before, during and after each of its absences: more than can be under way.
const STEP: usize = CLIENTS + 1;
const _: () = assert!((2 * KILLS + 1) * STEP < CLIENTS * ROUNDS);
/// Attempts one client may need for all of them.
const ATTEMPTS_MAX: usize = 3000;

/// What the clients did. A value is the set of increments it holds, so that nothing hides.
#[derive(Debug, Default)]
struct Ledger {
    /// Of each version that a successful write replaced, the increments that did.
    won: BTreeMap<String, Vec<String>>,
    acknowledged: Vec<String>,
    /// Stored beside another, or nobody knows.
    open: usize,
    refused: usize,
}

/// All increments in any of the versions side by side.
fn union(read: &ReadResponse) -> Vec<String> {
    let versions = read.siblings.as_ref().map_or_else(
        || vec![read.value.clone()],
        |all| all.iter().filter_map(|s| s.value.clone()).collect(),
    );
    let mut marks: Vec<String> = versions
        .iter()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|mark| mark.as_str().map(str::to_owned))
        .collect();
    marks.sort();
    marks.dedup();
    marks
}

async fn client(n: usize, api: Api, ledger: Arc<Mutex<Ledger>>, acknowledged: Sender<usize>) {
    let mut random = StdRng::seed_from_u64(n as u64);
    let note = |change: &mut dyn FnMut(&mut Ledger)| {
        change(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let mut done = 0;
    for attempt in 0..ATTEMPTS_MAX {
        if done == ROUNDS {
            return;
        }
        let read: ReadResponse = match api.get(COUNTER).await {
            Ok(read) => read,
            Err(_) => continue,
        };
        let mark = format!("{n}-{attempt}");
        let mut marks = union(&read);
        marks.push(mark.clone());
        let tag = format!("\"{}\"", read.context);
        let (headers, body) = ([("if-match", tag.as_str())], json!({ "value": marks }));
        let sent = api.send_with(Method::PUT, COUNTER, &headers, Some(&body));
        let status = sent.await.map_or(0, |reply| reply.status);
        match status {
            200 => {
                done += 1;
                note(&mut |l| {
                    l.acknowledged.push(mark.clone());
                    l.won
                        .entry(read.context.clone())
                        .or_default()
                        .push(mark.clone());
                });
                acknowledged.send_modify(|count| *count += 1);
            }
            412 => note(&mut |l| l.refused += 1),
            0 | 409 | 429 | 503 | 504 => note(&mut |l| l.open += 1),
            other => panic!("a conditional write got {other}"),
        }
        if status != 200 {
            // two that keep meeting must part
            sleep(Duration::from_millis(random.random_range(5..120))).await;
        }
    }
    panic!("client {n} had {done} of {ROUNDS} increments after {ATTEMPTS_MAX} attempts");
}

/// Until more were acknowledged than were under way.
async fn more(counted: &mut Receiver<usize>, when: &str) {
    let enough = *counted.borrow_and_update() + STEP;
    let came = timeout(GENEROUS, counted.wait_for(|count| *count >= enough)).await;
    let came = came.unwrap_or_else(|_| panic!("no increments {when}"));
    came.expect("a sender is left");
}

async fn increments(cluster: &mut Cluster, kill: bool) -> (Ledger, Vec<String>) {
    cluster.write(0, "counter", &json!([]), GENEROUS).await;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let (acknowledged, mut counted) = watch::channel(0);
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let through = if kill { n % 2 } else { n % 3 };
        let api = cluster.api(through);
        clients.spawn(client(n, api, ledger.clone(), acknowledged.clone()));
    }
    if kill {
        let third = cluster.seed(0);
        for _ in 0..KILLS {
            more(&mut counted, "before a kill").await;
            cluster.nodes[2].kill9();
            more(&mut counted, "while it is away").await;
            cluster.nodes[2].start(&third);
        }
        more(&mut counted, "after the last start").await;
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("the client ends well");
    }
    if kill {
        assert!(cluster.answers(2).await, "it came back");
        cluster.agree().await;
    }
    let reader = cluster.api(2);
    let end: ReadResponse = crate::support::wait::eventually("a last read", GENEROUS, async || {
        reader.get(COUNTER).await.map_err(|e| format!("{e:#}"))
    })
    .await;
    let ledger = Arc::into_inner(ledger).expect("the clients ended");
    let ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    (ledger, union(&end))
}

fn check(ledger: &Ledger, end: &[String]) {
    eprintln!(
        "{} acknowledged, {} refused, {} open",
        ledger.acknowledged.len(),
        ledger.refused,
        ledger.open
    );
    for (version, won) in &ledger.won {
        assert_eq!(won.len(), 1, "{won:?} all replaced {version}");
    }
    let lost = |mark: &&String| !end.contains(mark);
    let lost: Vec<&String> = ledger.acknowledged.iter().filter(lost).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    assert_eq!(ledger.acknowledged.len(), CLIENTS * ROUNDS);
    // what is there beyond that was stored without an acknowledgement, and nothing is made up
    assert!(
        end.len() <= ledger.acknowledged.len() + ledger.open,
        "{end:?}"
    );
    assert!(ledger.refused + ledger.open > 0, "nobody met anybody");
}

#[tokio::test]
async fn no_increment_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let (ledger, end) = increments(&mut cluster, false).await;
    check(&ledger, &end);
}

#[tokio::test]
async fn no_increment_is_lost_while_a_node_is_killed() {
    let mut cluster = Cluster::start(3).await;
    let (ledger, end) = increments(&mut cluster, true).await;
    check(&ledger, &end);
}

/// `RINGD_BREAK` leaves the last question out; builds for release do not know it.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_missing_last_question_is_noticed() {
    for attempt in 1..=10 {
        let broken = [("RINGD_BREAK", "last-question")];
        let mut cluster = Cluster::start_with(3, &broken).await;
        let (ledger, _) = increments(&mut cluster, false).await;
        if let Some((_, won)) = ledger.won.iter().find(|(_, won)| won.len() > 1) {
            eprintln!("caught at attempt {attempt}: {won:?} replaced one version");
            return;
        }
    }
    panic!("ten campaigns did not notice that the last question was left out");
}

/// Through one node the key's lock settles it: one wins, the others are refused, none is stored
/// beside it.
#[tokio::test]
async fn through_one_node_exactly_one_of_many_wins() {
    let cluster = Cluster::start(3).await;
    for round in 0..10 {
        cluster.write(1, "one", &json!(round), GENEROUS).await;
        let read = cluster.api(1).read("one").await.expect("answered");
        let read: ReadResponse = read.json().expect("a read");
        let mut all = JoinSet::new();
        for n in 0..20 {
            let (api, tag) = (cluster.api(1), format!("\"{}\"", read.context));
            all.spawn(async move {
                let (headers, body) = ([("if-match", tag.as_str())], json!({"value": n}));
                let path = "/api/v1/data/one";
                let sent = api.send_with(Method::PUT, path, &headers, Some(&body));
                (n, sent.await.expect("answered").status)
            });
        }
        let answers = all.join_all().await;
        let won: Vec<u64> = answers.iter().filter(|a| a.1 == 200).map(|a| a.0).collect();
        let refused = answers.iter().filter(|a| a.1 == 412).count();
        assert_eq!((won.len(), refused), (1, 19), "{answers:?}");
        let end = cluster.api(2).read("one").await.expect("answered");
        let end: ReadResponse = end.json().expect("a read");
        assert_eq!((end.value, end.siblings), (json!(won[0]), None));
    }
}
