//! One trial: so many processes of one kind started, left alone, killed, restarted and crowded.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    Figures, Kind,
    fleet::{Fleet, Seen, View},
};
use crate::load::cpu_seconds;

/// Nothing of the start shall be left when idle cost is counted: `ringd` closes connections that
/// it has not used for 40 s, and the closing of some thousand of them is no idle cost.
const CALM: Duration = Duration::from_secs(45);
const LOOPS_PER_CORE: usize = 2;

pub struct Plan {
    pub kind: Kind,
    pub binary: PathBuf,
    pub members: usize,
    /// How often all are started at once, each time from nothing; at least one.
    pub starts: usize,
    pub kills: usize,
    pub idle: Duration,
    pub busy: Duration,
}

pub async fn run(plan: &Plan) -> anyhow::Result<Figures> {
    // in a namespace of its own the loopback is down at first; elsewhere this changes nothing
    let _ = tokio::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .stderr(std::process::Stdio::null())
        .status()
        .await;
    let mut figures = Figures::default();
    for _ in 1..plan.starts {
        // ends with this turn, and its folder with it
        let (_fleet, agreed_s) = start(plan).await?;
        figures.agreed_s.push(agreed_s);
    }
    let (mut fleet, agreed_s) = start(plan).await?;
    figures.agreed_s.push(agreed_s);
    fleet.until_settled().await?;
    idle(plan, &mut fleet, &mut figures).await?;
    for kill in 0..plan.kills {
        // not the first, which the others join through
        let victim = 1 + kill * (plan.members - 1) / plan.kills.max(1);
        let (dead_s, back_s) = kill_and_restart(&mut fleet, victim).await?;
        figures.dead_s.push(dead_s);
        figures.back_s.push(back_s);
    }
    if !plan.busy.is_zero() {
        crowd(plan, &mut fleet, &mut figures).await?;
    }
    Ok(figures)
}

fn all_alive(count: usize) -> impl Fn(&View) -> bool {
    move |view| view.values().filter(|s| **s == Seen::Alive).count() == count
}

/// Starts all, one right after the other; seconds from the last start until all agree.
async fn start(plan: &Plan) -> anyhow::Result<(Fleet, f64)> {
    let mut fleet = Fleet::new(plan.kind, &plan.binary, plan.members)?;
    fleet.spawn(0)?;
    fleet.until_open().await?;
    let count = fleet.len();
    for i in 1..count {
        fleet.spawn(i)?;
    }
    let began = Instant::now();
    fleet.until("all agree", 0..count, all_alive(count)).await?;
    Ok((fleet, began.elapsed().as_secs_f64()))
}

async fn idle(plan: &Plan, fleet: &mut Fleet, figures: &mut Figures) -> anyhow::Result<()> {
    let blamed = fleet.blamed().await?;
    fleet.hang_up().await?;
    tokio::time::sleep(CALM).await;
    let pids = fleet.pids();
    let (cpu, bytes, began) = (cpu_seconds(&pids), loopback_bytes()?, Instant::now());
    tokio::time::sleep(plan.idle).await;
    let seconds = began.elapsed().as_secs_f64();
    let (cpu, bytes) = (cpu_seconds(&pids) - cpu, loopback_bytes()? - bytes);
    let share = seconds * pids.len() as f64;
    figures.cpu_percent = 100.0 * cpu / share;
    figures.bytes_per_s = Some(bytes as f64 / share);
    let mean = |field: &str| {
        let sizes = pids.iter().filter_map(|pid| memory_mb(*pid, field));
        sizes.sum::<f64>() / pids.len() as f64
    };
    figures.resident_mb = mean("VmRSS:");
    figures.private_mb = mean("RssAnon:");
    let after = fleet.blamed().await?;
    figures.idle_suspicions = after.suspicions - blamed.suspicions;
    figures.idle_deaths = after.deaths - blamed.deaths;
    Ok(())
}

/// Seconds until a killed one is dead for all others, and from its restart until it is alive for
/// all, and all for it.
async fn kill_and_restart(fleet: &mut Fleet, victim: usize) -> anyhow::Result<(f64, f64)> {
    let name = fleet.name(victim).to_owned();
    let count = fleet.len();
    fleet.kill(victim)?;
    let others = (0..count).filter(|i| *i != victim);
    let dead = |view: &View| view.get(&name) == Some(&Seen::Dead);
    let dead_s = fleet.until("dead everywhere", others, dead).await?;
    fleet.spawn(victim)?;
    let back_s = fleet.until("back", 0..count, all_alive(count)).await?;
    fleet.until_settled().await?;
    fleet.hang_up().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok((dead_s, back_s))
}

/// Counts blame while all cores are busy with something else.
async fn crowd(plan: &Plan, fleet: &mut Fleet, figures: &mut Figures) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let before = fleet.blamed().await?;
    let over = Arc::new(AtomicBool::new(false));
    let loops: Vec<_> = (0..cores * LOOPS_PER_CORE)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || while !over.load(Ordering::Relaxed) {})
        })
        .collect();
    let _end = SetWhenDropped(over.clone());
    tokio::time::sleep(plan.busy).await;
    over.store(true, Ordering::Relaxed);
    for busy in loops {
        let _ = busy.join();
    }
    // what was suspected under load may be declared dead a little later
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = fleet.blamed().await?;
    figures.busy_suspicions = after.suspicions - before.suspicions;
    figures.busy_deaths = after.deaths - before.deaths;
    Ok(())
}

/// The loops end with the trial, also when it is interrupted.
struct SetWhenDropped(Arc<AtomicBool>);

impl Drop for SetWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bytes that went over the loopback so far.
fn loopback_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/net/dev")?;
    let counters = text.lines().find_map(|l| l.trim().strip_prefix("lo:"));
    let received = counters.and_then(|c| c.split_whitespace().next());
    received
        .and_then(|bytes| bytes.parse().ok())
        .context("no loopback counters in /proc/self/net/dev")
}

/// A size of `/proc/PID/status`.
fn memory_mb(pid: u32, field: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with(field))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
