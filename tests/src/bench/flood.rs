//! Small writes beside many large ones: how much longer they take, and what the disk has to write.
//!
//! With `--flood` the bench measures this instead of its table: a few connections write small values,
//! alone and then beside so many that write 1 MiB each and come back sooner than they are asked to when
//! they are refused. With `--against` both binaries take turns. Figures are ratios, and counts of the
//! kernel: bytes that the nodes wrote for each byte that was acknowledged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes};
use tokio::task::JoinSet;

use crate::load::{self, Figures, Kind, Load, Target, cpu_seconds};

const SMALL_CONNECTIONS: usize = 6;
const SMALL_BYTES: usize = 100;
const LARGE_BYTES: usize = 1024 * 1024;
/// A refused client comes back after this long.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// Limits are learned in this time, which is not measured.
const LEARNING: Duration = Duration::from_secs(3);

/// What the flood came to.
#[derive(Default)]
struct Flood {
    admitted: usize,
    refused: usize,
    failed: usize,
    seconds: f64,
    /// Bytes that the nodes handed to the kernel for files.
    written: u64,
    cpu_seconds: f64,
}

impl Flood {
    fn add(&mut self, other: &Self) {
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.failed += other.failed;
        self.seconds += other.seconds;
        self.written += other.written;
        self.cpu_seconds += other.cpu_seconds;
    }

    fn mib(&self) -> f64 {
        (self.admitted * LARGE_BYTES) as f64 / (1024.0 * 1024.0)
    }
}

/// Measures all targets in `rounds` turns of `turn` each, and prints a line for each.
pub async fn run(
    targets: &[Target],
    connections: usize,
    rounds: u32,
    turn: Duration,
) -> anyhow::Result<()> {
    let mut all: Vec<_> = targets
        .iter()
        .map(|_| (Figures::default(), Figures::default(), Flood::default()))
        .collect();
    for target in targets {
        beside(target, connections, LEARNING).await?;
    }
    for first in 0..rounds as usize {
        for n in 0..targets.len() {
            let at = (first + n) % targets.len();
            let (alone, small, flood) = &mut all[at];
            alone.add(small_load().run(&targets[at], Kind::Put, turn).await?);
            let (some, large) = beside(&targets[at], connections, turn).await?;
            small.add(some);
            flood.add(&large);
        }
    }
    println!(
        "{:<28} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7} {:>8} {:>8} {:>7} {:>9} {:>9}",
        "small PUTs beside large",
        "p50 ms",
        "p99 ms",
        "beside",
        "p99",
        "times",
        "times",
        "MiB/s",
        "refused",
        "failed",
        "written x",
        "cpu ms/MiB"
    );
    for (target, (alone, small, flood)) in targets.iter().zip(&all) {
        let times = |p| small.percentile_ms(p) / alone.percentile_ms(p);
        println!(
            "{:<28} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>7.1} {:>7.1} {:>8.1} {:>8} {:>7} {:>9.1} {:>9.1}",
            target.name,
            alone.percentile_ms(50),
            alone.percentile_ms(99),
            small.percentile_ms(50),
            small.percentile_ms(99),
            times(50),
            times(99),
            flood.mib() / flood.seconds,
            flood.refused,
            flood.failed + small.failed,
            flood.written as f64 / (flood.mib() * 1024.0 * 1024.0),
            flood.cpu_seconds * 1000.0 / flood.mib(),
        );
    }
    Ok(())
}

fn small_load() -> Load {
    Load {
        connections: SMALL_CONNECTIONS,
        value_bytes: SMALL_BYTES,
    }
}

async fn beside(
    target: &Target,
    connections: usize,
    turn: Duration,
) -> anyhow::Result<(Figures, Flood)> {
    let stop = Arc::new(AtomicBool::new(false));
    let body = Bytes::from(vec![b'x'; LARGE_BYTES]);
    let (written, cpu) = (written(&target.pids), cpu_seconds(&target.pids));
    let began = Instant::now();
    let mut workers = JoinSet::new();
    for n in 0..connections {
        let address = target.addresses[n % target.addresses.len()].clone();
        workers.spawn(writer(address, n, body.clone(), Arc::clone(&stop)));
    }
    let small = small_load().run(target, Kind::Put, turn).await?;
    stop.store(true, Ordering::Relaxed);
    let mut flood = Flood::default();
    while let Some(one) = workers.join_next().await {
        flood.add(&one?);
    }
    flood.seconds = began.elapsed().as_secs_f64();
    flood.written = self::written(&target.pids).saturating_sub(written);
    flood.cpu_seconds = cpu_seconds(&target.pids) - cpu;
    Ok((small, flood))
}

async fn writer(address: String, n: usize, body: Bytes, stop: Arc<AtomicBool>) -> Flood {
    let mut flood = Flood::default();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        match put(&address, n, &body, &mut connection).await {
            Ok(status) if status.is_success() => flood.admitted += 1,
            Ok(StatusCode::TOO_MANY_REQUESTS) => {
                flood.refused += 1;
                tokio::time::sleep(IMPATIENCE).await;
            }
            _ => {
                flood.failed += 1;
                connection = None;
                tokio::time::sleep(IMPATIENCE).await;
            }
        }
    }
    flood
}

async fn put(
    address: &str,
    n: usize,
    body: &Bytes,
    kept: &mut Option<load::Connection>,
) -> anyhow::Result<StatusCode> {
    let mut connection = match kept.take().filter(|c| !c.is_closed()) {
        Some(connection) => connection,
        None => load::connect(address).await?,
    };
    let request = Request::builder()
        .method(Method::PUT)
        .uri(format!("/api/v1/data/flood-{n}"))
        .header("host", address)
        .header("content-type", "application/octet-stream")
        .body(Full::new(body.clone()))?;
    connection.ready().await?;
    let answer = connection.send_request(request).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    *kept = Some(connection);
    Ok(status)
}

/// Bytes the processes have dirtied in files, from the kernel.
fn written(pids: &[u32]) -> u64 {
    let bytes = |pid: &u32| {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        let field = io.lines().find_map(|l| l.strip_prefix("write_bytes:"))?;
        field.trim().parse::<u64>().ok()
    };
    pids.iter().filter_map(bytes).sum()
}
