//! The benchmark: one run, one table, everything as a ratio to something measured beside it.
//!
//! ```text
//! cargo build --release && cargo run --release -p tests --bin bench
//! ```
//!
//! Starts three `ringd` nodes and a bare axum echo (a process of its own, like the nodes), drives
//! both with the same generator, and prints requests per second with median and 99th percentile at
//! each number of connections; then how long the nodes took to agree and to notice a kill, and
//! their resident memory. It asserts nothing: the machine may be busy, so look at the ratios.

mod cluster;
mod echo;
mod load;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Parser;

use cluster::Cluster;
use load::{Figures, Kind, Load};

/// Benchmark of a three-node local cluster.
#[derive(Parser)]
struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Numbers of connections, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    connections: Vec<usize>,
    /// Bytes of each value.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// The daemon's binary; beside this program when absent.
    #[arg(long)]
    ringd: Option<PathBuf>,
    /// Serve the echo on this port and do nothing else (used by the benchmark itself).
    #[arg(long, hide = true)]
    echo_server: Option<u16>,
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
    let echo = echo::Echo::start().await.context("the echo server")?;
    let mut cluster = Cluster::start(&ringd).await?;
    println!(
        "three nodes agree {:.2} s after the last was started\n",
        cluster.agreed_after_s
    );

    println!(
        "{:<28} {:>6} {:>10} {:>9} {:>9} {:>8} {:>12}",
        "", "conns", "per s", "p50 ms", "p99 ms", "failed", "of the echo"
    );
    for connections in &args.connections {
        let load = Load {
            connections: *connections,
            duration: Duration::from_secs(args.seconds),
            value_bytes: args.value_bytes,
        };
        for kind in [Kind::Put, Kind::Get] {
            let bare = load.run(&[echo.address()], kind).await?;
            let ours = load.run(&cluster.addresses(), kind).await?;
            row(
                &format!("bare axum {}", kind.name()),
                *connections,
                &bare,
                None,
            );
            row(
                &format!("ringd quorum {}", kind.name()),
                *connections,
                &ours,
                Some(&bare),
            );
        }
    }
    println!();
    for (name, mb) in cluster.resident_mb() {
        println!("{name}: {mb:.0} MB resident");
    }
    let noticed = cluster.kill_last_and_wait().await?;
    println!("killed node is dead for both others after {noticed:.1} s");
    cluster.stop().await;
    Ok(())
}

fn row(what: &str, connections: usize, figures: &Figures, beside: Option<&Figures>) {
    let ratio = beside.map_or_else(String::new, |b| {
        format!(
            "{:.2}",
            figures.per_second / b.per_second.max(f64::MIN_POSITIVE)
        )
    });
    println!(
        "{what:<28} {connections:>6} {:>10.0} {:>9.2} {:>9.2} {:>8} {ratio:>12}",
        figures.per_second, figures.p50_ms, figures.p99_ms, figures.failed
    );
}
