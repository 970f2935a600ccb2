//! The benchmark: one run, one table, everything as a ratio to something measured beside it.
//!
//! ```text
//! cargo build --release && cargo run --release -p tests --bin bench
//! ```
//!
//! Starts three `ringd` nodes, a bare axum echo (a process of its own, like the nodes) and, when
//! there is an `etcd` in `PATH` (Debian package `etcd-server`) or one is named, three etcd nodes with
//! their data in the same folder. Drives all with the same generator, connections and value size, in
//! turns of which each target begins one, so that nobody has the quiet moment to itself; writes are
//! on a majority of disks before they are answered, and reads are linearizable, on both sides. Then
//! prints how long the nodes took to agree and to notice a kill, and the resident memory. It asserts
//! nothing: the machine may be busy, so look at the ratios, and at the processor time of a request.
//!
//! With `--gossip` it measures something else: see `gossip.rs`; so with `--flood`: see `flood.rs`.

mod cluster;
mod echo;
mod etcd;
mod flood;
mod gossip;
mod load;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Parser;

use cluster::Cluster;
use etcd::Etcd;
use load::{Figures, Kind, Load, Target};

/// Unmeasured seconds before the turns of each kind.
const WARM_UP: Duration = Duration::from_secs(1);

/// Benchmark of a three-node local cluster.
#[derive(Parser)]
struct Args {
    /// Seconds of each measurement, all turns together.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Turns into which each measurement is cut.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    turns: u32,
    /// Numbers of connections, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    connections: Vec<usize>,
    /// Bytes of each value.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// The daemon's binary; beside this program when absent.
    #[arg(long)]
    ringd: Option<PathBuf>,
    /// Another daemon's binary, measured in the same turns: before and after a change.
    #[arg(long)]
    against: Option<PathBuf>,
    /// The etcd binary; the one in PATH when absent.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Leave etcd out.
    #[arg(long, conflicts_with = "etcd")]
    no_etcd: bool,
    /// Measure small writes beside so many connections that write large values, and nothing else.
    #[arg(long)]
    flood: Option<usize>,
    /// Serve the echo on this port and do nothing else (used by the benchmark itself).
    #[arg(long, hide = true)]
    echo_server: Option<u16>,
    #[command(flatten)]
    gossip: gossip::Settings,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(port) = args.echo_server {
        return echo::serve(port).await;
    }
    let ringd = match &args.ringd {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("ringd"),
    };
    anyhow::ensure!(
        ringd.is_file(),
        "no daemon at {}; build it first: cargo build --release",
        ringd.display()
    );
    if args.gossip.gossip {
        return gossip::run(&args.gossip, &ringd).await;
    }
    let folder = tempfile::tempdir()?;
    if let Some(connections) = args.flood {
        return small_beside_large(&args, &ringd, folder.path(), connections).await;
    }
    let echo = echo::Echo::start().await.context("the echo server")?;
    let mut cluster = Cluster::start(&ringd, folder.path()).await?;
    let other = match &args.against {
        Some(path) => Some(Cluster::start(path, &folder.path().join("against")).await?),
        None => None,
    };
    let etcd = start_etcd(&args, folder.path()).await?;
    println!(
        "three nodes agree {:.2} s after the last was started\n",
        cluster.agreed_after_s
    );

    let mut targets = vec![echo.target(), cluster.target()];
    targets.extend(other.as_ref().map(the_other));
    targets.extend(etcd.as_ref().map(Etcd::target));
    table(&args, &targets).await?;

    let mut processes = cluster.processes();
    processes.extend(etcd.iter().flat_map(Etcd::processes));
    for (name, pid) in processes {
        println!("{name}: {:.0} MB resident", resident_mb(pid).unwrap_or(0.0));
    }
    drop(etcd);
    let noticed = cluster.kill_last_and_wait().await?;
    println!("killed node is dead for both others after {noticed:.1} s");
    cluster.stop().await;
    if let Some(mut other) = other {
        other.stop().await;
    }
    Ok(())
}

fn the_other(cluster: &Cluster) -> Target {
    Target {
        name: "ringd, the other binary".into(),
        ..cluster.target()
    }
}

async fn small_beside_large(
    args: &Args,
    ringd: &std::path::Path,
    folder: &std::path::Path,
    connections: usize,
) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ringd, folder).await?;
    let mut other = match &args.against {
        Some(path) => Some(Cluster::start(path, &folder.join("against")).await?),
        None => None,
    };
    let mut targets = vec![cluster.target()];
    targets.extend(other.as_ref().map(the_other));
    let turn = Duration::from_secs(args.seconds) / args.turns;
    flood::run(&targets, connections, args.turns, turn).await?;
    cluster.stop().await;
    if let Some(other) = &mut other {
        other.stop().await;
    }
    Ok(())
}

async fn start_etcd(args: &Args, folder: &std::path::Path) -> anyhow::Result<Option<Etcd>> {
    if args.no_etcd {
        return Ok(None);
    }
    let found = args.etcd.clone().or_else(etcd::in_path);
    let Some(path) = found else {
        println!("without etcd: none is in PATH (Debian: apt-get install etcd-server)");
        return Ok(None);
    };
    Ok(Some(Etcd::start(&path, folder).await.context("etcd")?))
}

/// Measures all targets, and prints one block for each number of connections and kind.
async fn table(args: &Args, targets: &[Target]) -> anyhow::Result<()> {
    println!(
        "{:<28} {:>5} {:>9} {:>8} {:>8} {:>7} {:>8} {:>8} {:>8}",
        "", "conns", "per s", "p50 ms", "p99 ms", "failed", "cpu us", "of echo", "of etcd"
    );
    for connections in &args.connections {
        let load = Load {
            connections: *connections,
            value_bytes: args.value_bytes,
        };
        for kind in [Kind::Put, Kind::Get] {
            let all = measure(args, &load, targets, kind).await?;
            let etcd = targets
                .iter()
                .position(|t| t.dialect == load::Dialect::Etcd);
            for (target, figures) in targets.iter().zip(&all) {
                let what = format!("{} {}", target.name, kind.name());
                row(
                    &what,
                    *connections,
                    figures,
                    &all[0],
                    etcd.map(|at| &all[at]),
                );
            }
        }
        println!();
    }
    Ok(())
}

async fn measure(
    args: &Args,
    load: &Load,
    targets: &[Target],
    kind: Kind,
) -> anyhow::Result<Vec<Figures>> {
    for target in targets {
        if kind == Kind::Get {
            load.fill(target).await?;
        }
        load.run(target, kind, WARM_UP).await?;
    }
    let turn = Duration::from_secs(args.seconds) / args.turns;
    let mut all: Vec<Figures> = targets.iter().map(|_| Figures::default()).collect();
    for first in 0..args.turns as usize {
        for n in 0..targets.len() {
            let at = (first + n) % targets.len();
            all[at].add(load.run(&targets[at], kind, turn).await?);
        }
    }
    Ok(all)
}

fn row(what: &str, connections: usize, figures: &Figures, echo: &Figures, etcd: Option<&Figures>) {
    let rate = figures.per_second();
    let of = |other: &Figures| format!("{:.2}", rate / other.per_second().max(f64::MIN_POSITIVE));
    println!(
        "{what:<28} {connections:>5} {rate:>9.0} {:>8.2} {:>8.2} {:>7} {:>8.0} {:>8} {:>8}",
        figures.percentile_ms(50),
        figures.percentile_ms(99),
        figures.failed,
        figures.cpu_us(),
        of(echo),
        etcd.map_or_else(String::new, of),
    );
}

/// Resident set of a process, from the kernel.
fn resident_mb(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
