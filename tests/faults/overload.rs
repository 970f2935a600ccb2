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
/// Debug builds, with the clients on the same two processors, are at about 25.
const SLOWER_MAX: f64 = 50.0;

/// How many times as much slower they are, at least, without admission and with everything in line.
#[cfg(debug_assertions)]
const BROKEN_SLOWER_MIN: f64 = 2.0;

/// How many times as long large values that are let in may take as one at a time on each node.
/// With admission they take up to twice as long. Without it all 64 share what those three have for themselves, and
/// take eight to twenty times as long.
const LARGE_SLOWER_MAX: f64 = 5.0;

/// Answers of one kind of client.
#[derive(Debug, Default)]
struct Tally {
    /// How long the admitted ones took.
    took: Vec<Duration>,
    refused: usize,
    slowest_refusal: Duration,
    /// How long those waited that were let in and got no answer in time.
    timed_out: Vec<Duration>,
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
            504 => self.timed_out.push(took),
            other => self.other.push(format!("{other}: {text}")),
        }
    }

    fn join(&mut self, other: Self) {
        self.took.extend(other.took);
        self.refused += other.refused;
        self.slowest_refusal = self.slowest_refusal.max(other.slowest_refusal);
        self.timed_out.extend(other.timed_out);
        self.other.extend(other.other);
    }

    /// Of all that were let in: who went without an answer counts with the whole time it waited,
    /// or those that came through would speak for those that did not.
    fn percentile(&self, p: usize) -> Duration {
        let mut waited = [&self.took[..], &self.timed_out[..]].concat();
        waited.sort();
        let last = waited.len().saturating_sub(1);
        waited.get(last * p / 100).copied().unwrap_or_default()
    }

    /// The same of all the time in which clients waited: in how slow a request one is that is looked
    /// at by chance. Who waits long asks seldom, and hardly counts among the requests.
    fn percentile_of_time(&self, p: u32) -> Duration {
        let mut waited = [&self.took[..], &self.timed_out[..]].concat();
        waited.sort();
        let mut left = waited.iter().sum::<Duration>() * p / 100;
        let slow_enough = waited.iter().find(|took| {
            let reached = left <= **took;
            left = left.saturating_sub(**took);
            reached
        });
        slow_enough.copied().unwrap_or_default()
    }

    fn line(&self) -> String {
        format!(
            "{} answered, {} timed out (p50 {:?}, p90 {:?}, p99 {:?}), {} refused (slowest {:?})",
            self.took.len(),
            self.timed_out.len(),
            self.percentile(50),
            self.percentile(90),
            self.percentile(99),
            self.refused,
            self.slowest_refusal,
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
            // by address: hundreds of names looked up at once, each by a thread of this process, would
            // be measured as if the nodes had been slow
            let base = format!("http://127.0.0.1:{port}/api/v1/data/load-{bytes}-{n}");
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
    if let Some(complaint) = left_waiting(tally) {
        panic!("{what}: {complaint}");
    }
}

/// Who is let in is answered; who cannot be is refused.
fn left_waiting(tally: &Tally) -> Option<String> {
    let left = tally.timed_out.len();
    let all = tally.took.len() + tally.refused + left;
    (left * 50 > all).then(|| format!("{left} of {all} were let in and then not answered in time"))
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
    /// The same by the time they waited, see [`Tally::percentile_of_time`].
    slower_in_time: (f64, f64),
    /// The same of the large ones that were let in, for half of them: beside one at a time on each node.
    large_slower: f64,
}

/// Six clients with small values, then three with large ones: alone, then beside 64 with large ones, in
/// turns. A single round is for rules that are broken: what it compares with comes before any flood.
async fn small_beside_large(cluster: &Cluster, rounds: usize) -> Beside {
    let (mut quiet, mut small, mut large) = (Tally::default(), Tally::default(), Tally::default());
    let (mut half, mut most, mut half_of_large) = (Vec::new(), Vec::new(), Vec::new());
    let (mut half_in_time, mut most_in_time) = (Vec::new(), Vec::new());
    // what the limits are is learned first
    let learning = [(6, 100), (64, MIB)];
    let learned = if rounds > 1 {
        load(cluster, &learning, Duration::from_secs(3)).await
    } else {
        Vec::new()
    };
    for round in 0..rounds {
        let mut alone = load(cluster, &[(6, 100)], Duration::from_secs(2)).await;
        let alone = alone.remove(0);
        orderly("small alone", &alone);
        assert_eq!(alone.refused, 0, "six clients are no load");
        let mut lone = load(cluster, &[(3, MIB)], Duration::from_secs(2)).await;
        let lone = lone.remove(0);
        orderly("large one at a time", &lone);
        assert!(!lone.took.is_empty(), "one large value is let in");
        let mut both = load(cluster, &learning, Duration::from_secs(4)).await;
        let flood = both.pop().expect("two kinds");
        let beside = both.pop().expect("two kinds");
        eprintln!("round {round}: small alone: {}", alone.line());
        eprintln!("round {round}: large one at a time: {}", lone.line());
        eprintln!("round {round}: small beside large: {}", beside.line());
        eprintln!("round {round}: large: {}", flood.line());
        let let_in = beside.took.len() + beside.timed_out.len();
        assert!(let_in > 0, "small ones are let in");
        let slower = |p| {
            let (beside, alone) = (beside.percentile(p), alone.percentile(p));
            beside.as_secs_f64() / alone.as_secs_f64()
        };
        half.push(slower(50));
        most.push(slower(90));
        let in_time = |p| {
            let (beside, alone) = (beside.percentile_of_time(p), alone.percentile_of_time(p));
            beside.as_secs_f64() / alone.as_secs_f64()
        };
        half_in_time.push(in_time(50));
        most_in_time.push(in_time(90));
        let (many, one) = (flood.percentile(50), lone.percentile(50));
        half_of_large.push(many.as_secs_f64() / one.as_secs_f64());
        quiet.join(alone);
        small.join(beside);
        large.join(flood);
    }
    let slower = (median(half), median(most));
    let slower_in_time = (median(half_in_time), median(most_in_time));
    let large_slower = median(half_of_large);
    eprintln!(
        "{:.1} and {:.1} times as long, by time {:.1} and {:.1}, large ones {large_slower:.1}",
        slower.0, slower.1, slower_in_time.0, slower_in_time.1
    );
    Beside {
        learning: learned,
        alone: quiet,
        small,
        large,
        slower,
        slower_in_time,
        large_slower,
    }
}

impl Beside {
    /// What speaks against how small requests were served.
    fn about_small(&self) -> Option<String> {
        let slow = self.slower.0 >= SLOWER_MAX || self.slower.1 >= SLOWER_MAX;
        let (half, most) = self.slower;
        let slower = format!(
            "{half:.1} and {most:.1} times as long beside large ones, by time {:?}",
            self.slower_in_time
        );
        left_waiting(&self.small).or_else(|| slow.then_some(slower))
    }

    /// What speaks against how large ones were.
    fn about_large(&self) -> Option<String> {
        let slow = self.large_slower >= LARGE_SLOWER_MAX;
        let slower = format!("{:.1} times as long as one at a time", self.large_slower);
        left_waiting(&self.large).or_else(|| slow.then_some(slower))
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[tokio::test]
async fn many_large_values_are_refused_early_and_small_ones_stay_quick() {
    let cluster = Cluster::start(3).await;
    let beside = small_beside_large(&cluster, ROUNDS).await;
    assert_eq!(beside.about_small(), None);
    assert_eq!(beside.about_large(), None);
    let Beside {
        learning,
        alone,
        mut small,
        mut large,
        ..
    } = beside;
    // a flood must be borne from its first moment on
    for (tally, what) in learning
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

/// The same round with the rules and without, on the same machine at the same hour: what they are
/// good for is the difference.
#[cfg(debug_assertions)]
#[tokio::test]
async fn small_requests_in_line_with_all_the_large_ones_are_noticed_to_be_slow() {
    let cluster = Cluster::start(3).await;
    let whole = small_beside_large(&cluster, 1).await.slower_in_time;
    drop(cluster);
    let broken = [("RINGD_BREAK", "admission,overtaking")];
    let cluster = Cluster::start_with(3, &broken).await;
    let beside = small_beside_large(&cluster, 1).await;
    assert_eq!(beside.large.refused, 0, "nobody is refused");
    let broken = beside.slower_in_time;
    assert!(
        broken.0 > BROKEN_SLOWER_MIN * whole.0 && broken.1 > BROKEN_SLOWER_MIN * whole.1,
        "{broken:?} times as long, and {whole:?} with the rules: that goes unnoticed"
    );
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn large_values_that_are_all_let_in_are_noticed_to_be_slow() {
    let cluster = Cluster::start_with(3, &[("RINGD_BREAK", "admission")]).await;
    let beside = small_beside_large(&cluster, 1).await;
    assert_eq!(beside.large.refused, 0, "nobody is refused");
    let about = beside.about_large();
    eprintln!("large ones: {about:?}");
    assert!(
        about.is_some(),
        "{:.1} times as long goes unnoticed",
        beside.large_slower
    );
}

#[tokio::test]
async fn many_small_requests_past_the_limit_are_refused() {
    let cluster = Cluster::start_with(3, &[("RINGD_LIMITS_REQUESTS", "48")]).await;
    let alone = load(&cluster, &[(6, 100)], Duration::from_secs(4))
        .await
        .remove(0);
    let crowd = load(&cluster, &[(600, 100)], Duration::from_secs(8))
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
    let busy = load(&cluster, &[(4, 100)], Duration::from_secs(2))
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
