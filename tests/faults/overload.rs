//! More load than the cluster can carry: what is past it is refused quickly and says when to come
//! back, memory stays bounded, and what is let in stays quick.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::support::{
    client::http, cluster::Cluster, raw::PATIENCE, skip::skipped, wait::GENEROUS,
};

const MIB: usize = 1024 * 1024;
/// Refused clients come back sooner than they are asked to.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// Resident memory of one node under any load, bytes.
const RESIDENT_MAX: u64 = 900 * MIB as u64;

/// Turns in which small requests are measured alone and beside large ones.
const ROUNDS: usize = 3;
/// How many times as long small requests may take beside large ones as they do alone.
/// Debug builds, with the clients on the same two processors, are at about 25; without admission and with
/// everything in line they are far beyond.
const SLOWER_MAX: f64 = 50.0;

/// Answers of one kind of client.
#[derive(Debug, Default)]
struct Tally {
    /// How long the admitted ones took.
    took: Vec<Duration>,
    refused: usize,
    slowest_refusal: Duration,
    timed_out: usize,
    other: Vec<String>,
}

impl Tally {
    fn add(&mut self, status: StatusCode, retry_after: bool, took: Duration, text: &str) {
        match status.as_u16() {
            200 => self.took.push(took),
            429 | 503 if retry_after => {
                self.refused += 1;
                self.slowest_refusal = self.slowest_refusal.max(took);
            }
            504 => self.timed_out += 1,
            other => self.other.push(format!("{other}: {text}")),
        }
    }

    fn join(&mut self, other: Self) {
        self.took.extend(other.took);
        self.refused += other.refused;
        self.slowest_refusal = self.slowest_refusal.max(other.slowest_refusal);
        self.timed_out += other.timed_out;
        self.other.extend(other.other);
    }

    fn percentile(&mut self, p: usize) -> Duration {
        self.took.sort();
        let last = self.took.len().saturating_sub(1);
        self.took.get(last * p / 100).copied().unwrap_or_default()
    }

    fn line(&mut self) -> String {
        format!(
            "{} admitted (p50 {:?}, p99 {:?}), {} refused (slowest {:?}), {} timed out",
            self.took.len(),
            self.percentile(50),
            self.percentile(99),
            self.refused,
            self.slowest_refusal,
            self.timed_out
        )
    }
}

/// Writes values of `bytes` to keys of its own until `stop`.
async fn writer(http: Client, base: String, bytes: usize, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    let value = vec![b'x'; bytes];
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let request = http.put(&base).body(value.clone());
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        match request.send().await {
            Ok(answer) => {
                let status = answer.status();
                let retry_after = answer.headers().contains_key(header::RETRY_AFTER);
                let text = answer.text().await.unwrap_or_default();
                let text: String = text.chars().take(300).collect();
                tally.add(status, retry_after, began.elapsed(), &text);
                if status != StatusCode::OK {
                    sleep(IMPATIENCE).await;
                }
            }
            Err(error) => tally.other.push(format!("{error:?}")),
        }
    }
    tally
}

/// `clients` of each size for so long, spread over the nodes; a tally for each size.
async fn load(cluster: &Cluster, clients: &[(usize, usize)], length: Duration) -> Vec<Tally> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut groups = Vec::new();
    for (count, bytes) in clients {
        let mut group = JoinSet::new();
        for n in 0..*count {
            let port = cluster.nodes[n % cluster.nodes.len()].port;
            let base = format!("http://localhost:{port}/api/v1/data/load-{bytes}-{n}");
            group.spawn(writer(http(), base, *bytes, stop.clone()));
        }
        groups.push(group);
    }
    sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut tallies = Vec::new();
    for group in groups {
        let mut whole = Tally::default();
        for tally in group.join_all().await {
            whole.join(tally);
        }
        tallies.push(whole);
    }
    tallies
}

/// Resident memory of a node's process, now and at its highest, bytes.
async fn resident(cluster: &Cluster, node: usize) -> (u64, u64) {
    let status = cluster.api(node).status().await.expect("it answers");
    let text = std::fs::read_to_string(format!("/proc/{}/status", status.node.pid));
    let text = text.expect("the process runs");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("in KiB") * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn orderly(what: &str, tally: &Tally) {
    assert!(tally.other.is_empty(), "{what}: {:?}", tally.other.first());
    let all = tally.took.len() + tally.refused + tally.timed_out;
    assert!(
        tally.timed_out * 50 <= all,
        "{what}: {} of {all} were let in and then not answered in time",
        tally.timed_out
    );
}

/// What small requests went through beside large ones.
struct Beside {
    /// Small and large ones from the first moment of a flood, when the limits are not known yet.
    learning: Vec<Tally>,
    alone: Tally,
    small: Tally,
    large: Tally,
    /// How many times as long the small ones took as they did alone just before, for half of them
    /// and for nine of ten: the median of all rounds.
    slower: (f64, f64),
}

/// Six clients with small values: alone, then beside 64 with large ones, in turns.
async fn small_beside_large(cluster: &Cluster) -> Beside {
    let (mut quiet, mut small, mut large) = (Tally::default(), Tally::default(), Tally::default());
    let (mut half, mut most) = (Vec::new(), Vec::new());
    // what the limits are is learned first
    let learning = [(6, 100), (64, MIB)];
    let learned = load(cluster, &learning, Duration::from_secs(3)).await;
    for round in 0..ROUNDS {
        let mut alone = load(cluster, &[(6, 100)], Duration::from_secs(2)).await;
        let mut alone = alone.remove(0);
        orderly("small alone", &alone);
        assert_eq!(alone.refused, 0, "six clients are no load");
        let mut both = load(cluster, &learning, Duration::from_secs(4)).await;
        let mut flood = both.pop().expect("two kinds");
        let mut beside = both.pop().expect("two kinds");
        eprintln!("round {round}: small alone: {}", alone.line());
        eprintln!("round {round}: small beside large: {}", beside.line());
        eprintln!("round {round}: large: {}", flood.line());
        assert!(!beside.took.is_empty(), "small ones get through");
        let mut slower = |p| {
            let (beside, alone) = (beside.percentile(p), alone.percentile(p));
            beside.as_secs_f64() / alone.as_secs_f64()
        };
        half.push(slower(50));
        most.push(slower(90));
        quiet.join(alone);
        small.join(beside);
        large.join(flood);
    }
    let slower = (median(half), median(most));
    eprintln!("{:.1} and {:.1} times as long", slower.0, slower.1);
    Beside {
        learning: learned,
        alone: quiet,
        small,
        large,
        slower,
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[tokio::test]
async fn many_large_values_are_refused_early_and_small_ones_stay_quick() {
    let cluster = Cluster::start(3).await;
    let Beside {
        learning,
        mut alone,
        mut small,
        mut large,
        slower,
    } = small_beside_large(&cluster).await;
    // a flood must be borne from its first moment on
    for (mut tally, what) in learning
        .into_iter()
        .zip(["learning small", "learning large"])
    {
        eprintln!("{what}: {}", tally.line());
        orderly(what, &tally);
        let into = if what == "learning small" {
            &mut small
        } else {
            &mut large
        };
        into.join(tally);
    }
    orderly("small", &small);
    orderly("large", &large);
    assert!(large.refused > large.took.len(), "this was no overload");
    assert!(large.took.len() > 10, "something gets through");
    assert!(small.took.len() > 30, "small ones get through");
    for node in 0..3 {
        let (now, highest) = resident(&cluster, node).await;
        eprintln!(
            "node {node}: {} MiB, at most {}",
            now / MIB as u64,
            highest / MIB as u64
        );
        assert!(highest < RESIDENT_MAX, "node {node} took {highest} bytes");
    }
    assert!(
        slower.0 < SLOWER_MAX && slower.1 < SLOWER_MAX,
        "small requests took {slower:?} times as long beside large ones"
    );
    let (quiet, loaded) = (alone.percentile(99), small.percentile(99));
    let bound = quiet.max(Duration::from_millis(20)) * 60;
    eprintln!("p99 {quiet:?} alone, {loaded:?} beside large values, bound {bound:?}");
    assert!(
        loaded < bound,
        "p99 {quiet:?} alone, {loaded:?} beside large values"
    );

    let page: Value = cluster
        .api(0)
        .get("/api/v1/events?limit=1000")
        .await
        .expect("events");
    let events = page["events"].as_array().expect("a list");
    let told = |e: &&Value| e["code"] == "OVERLOADED";
    assert!(events.iter().any(|e| told(&e)), "operators are told");
    cluster.write(0, "after", &json!(1), GENEROUS).await;
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn small_requests_in_line_with_all_the_large_ones_are_noticed_to_be_slow() {
    let broken = [("RINGD_BREAK", "admission,overtaking")];
    let cluster = Cluster::start_with(3, &broken).await;
    let beside = small_beside_large(&cluster).await;
    assert_eq!(beside.large.refused, 0, "nobody is refused");
    assert!(
        beside.slower.0 >= SLOWER_MAX && beside.slower.1 >= SLOWER_MAX,
        "{:?} times as long goes unnoticed",
        beside.slower
    );
}

#[tokio::test]
async fn many_small_requests_past_the_limit_are_refused() {
    let cluster = Cluster::start_with(3, &[("RINGD_LIMITS_REQUESTS", "48")]).await;
    let mut alone = load(&cluster, &[(6, 100)], Duration::from_secs(4))
        .await
        .remove(0);
    let mut crowd = load(&cluster, &[(600, 100)], Duration::from_secs(8))
        .await
        .remove(0);
    eprintln!("alone: {}\ncrowd: {}", alone.line(), crowd.line());
    orderly("alone", &alone);
    orderly("crowd", &crowd);
    assert!(crowd.refused > 100, "this was no overload");
    assert!(crowd.took.len() > 100);
    let (quiet, loaded) = (alone.percentile(99), crowd.percentile(99));
    let bound = quiet.max(Duration::from_millis(20)) * 60;
    assert!(
        loaded < bound,
        "p99 {quiet:?} alone, {loaded:?} in the crowd"
    );
}

#[tokio::test]
async fn ten_thousand_idle_connections_are_harmless() {
    let patient = [("RINGD_LIMITS_HEADER_TIMEOUT", "300s")];
    let cluster = Cluster::start_with(1, &patient).await;
    cluster.write(0, "k", &json!(1), GENEROUS).await;
    let (before, _) = resident(&cluster, 0).await;
    let port = cluster.nodes[0].port;
    let wanted = room_for_connections().min(10_000);
    eprintln!("there is room for {wanted} connections");
    if wanted < CONNECTIONS_MIN {
        skipped("this process may not have many connections");
        return;
    }
    let mut idle = Vec::with_capacity(wanted);
    for n in 0..wanted {
        // some have never said anything, some wait after an answer
        let connecting = timeout(PATIENCE, TcpStream::connect(("127.0.0.1", port)));
        let mut stream = connecting.await.expect("in time").expect("taken");
        if n % 10 == 0 {
            let ask = b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n";
            stream.write_all(ask).await.expect("sent");
            let mut answer = [0; 15];
            let read = timeout(PATIENCE, stream.read_exact(&mut answer));
            read.await.expect("in time").expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
        }
        idle.push(stream);
    }
    let (after, _) = resident(&cluster, 0).await;
    let each = after.saturating_sub(before) / wanted as u64;
    eprintln!("{wanted} idle connections take {each} bytes each");
    assert!(each < 64 * 1024, "{each} bytes for each idle connection");
    let mut busy = load(&cluster, &[(4, 100)], Duration::from_secs(2))
        .await
        .remove(0);
    eprintln!("beside them: {}", busy.line());
    orderly("beside idle connections", &busy);
    assert!(busy.took.len() > 20 && busy.refused == 0, "{}", busy.line());
    drop(idle);
    cluster.reads(0, "k", &json!(1)).await;
}

/// Fewer idle connections than this show nothing.
const CONNECTIONS_MIN: usize = 1000;

/// How many this process may open beside what it has open.
fn room_for_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // what the system refuses stays as it is, and is counted below
    let _ = setrlimit(Resource::Nofile, raised);
    let open = getrlimit(Resource::Nofile).current.unwrap_or(65_536);
    usize::try_from(open)
        .unwrap_or(usize::MAX)
        .saturating_sub(1000)
}
