//! The benchmark of gossip: Serf agents and `ringd` daemons, one kind after the other.
//!
//! ```text
//! cargo build --release && cargo run --release -p tests --bin bench -- --gossip
//! ```
//!
//! Each trial (one kind, one number of members) runs in a process of its own inside a network
//! namespace of its own, so that the loopback counters of that namespace are the trial's traffic,
//! UDP and TCP with headers, counted the same way for both. Both run with the LAN profile they come
//! with, both are asked the same question at the same pace, and both write their log to a file.
//! What differs is what they are: each `ringd` is a whole store with HTTP, a disk and a ring.

mod fleet;
mod serf;
mod trial;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Serf,
    Ringd,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Serf => "serf",
            Self::Ringd => "ringd",
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Measure gossip beside Serf instead of requests.
    #[arg(long)]
    pub gossip: bool,
    /// Numbers of members, comma separated.
    #[arg(long, value_delimiter = ',', default_value = "3,20,50", requires = "gossip",
          value_parser = clap::value_parser!(u16).range(2..=500))]
    gossip_members: Vec<u16>,
    /// Starts of all members at once in each trial; the median is shown.
    #[arg(long, default_value_t = 5, requires = "gossip",
          value_parser = clap::value_parser!(u16).range(1..=100))]
    gossip_starts: u16,
    /// Kills (and restarts) of each trial; the median is shown.
    #[arg(long, default_value_t = 3, requires = "gossip")]
    gossip_kills: usize,
    /// Seconds over which idle cost is counted, by when all start-up connections are closed.
    #[arg(long, default_value_t = 50, requires = "gossip")]
    gossip_idle: u64,
    /// Seconds with two busy loops on every core.
    #[arg(long, default_value_t = 20, requires = "gossip")]
    gossip_busy: u64,
    /// The Serf binary; the one in PATH when absent.
    #[arg(long, requires = "gossip")]
    serf: Option<PathBuf>,
    /// Leave Serf out.
    #[arg(long, requires = "gossip", conflicts_with = "serf")]
    no_serf: bool,
    /// Run one trial of this kind here and print its figures (used by the benchmark itself).
    #[arg(long, hide = true, requires = "gossip")]
    gossip_trial: Option<Kind>,
}

/// What one trial found; times in seconds.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Figures {
    agreed_s: Vec<f64>,
    dead_s: Vec<f64>,
    back_s: Vec<f64>,
    /// Accusations a prober made, and members held for dead, although all lived.
    busy_suspicions: usize,
    busy_deaths: usize,
    idle_suspicions: usize,
    idle_deaths: usize,
    resident_mb: f64,
    /// The part no other process shares: heap and stacks.
    private_mb: f64,
    /// Percent of one core, of one process.
    cpu_percent: f64,
    /// Of one process, with headers; `None` where the loopback is not the trial's alone.
    bytes_per_s: Option<f64>,
}

/// Runs all trials and prints the table. `ringd` is the daemon's binary.
pub async fn run(settings: &Settings, ringd: &Path) -> anyhow::Result<()> {
    if let Some(kind) = settings.gossip_trial {
        return run_trial(settings, kind, ringd).await;
    }
    let mut kinds = Vec::new();
    if !settings.no_serf {
        kinds.push((Kind::Serf, serf_binary(settings)?));
    }
    kinds.push((Kind::Ringd, ringd.to_owned()));
    let namespaces = can_unshare().await;
    if !namespaces {
        eprintln!("no network namespaces here: bytes per second are left out");
    }
    let mut columns = Vec::new();
    for members in &settings.gossip_members {
        for (kind, binary) in &kinds {
            eprintln!("{} with {members} members ...", kind.name());
            let figures = start_trial(settings, *kind, binary, *members, namespaces)
                .await
                .with_context(|| format!("{} with {members} members", kind.name()))?;
            columns.push((format!("{members} {}", kind.name()), figures));
        }
    }
    print!("{}", table(settings, &columns));
    Ok(())
}

/// This process is the trial: figures as JSON on standard output.
async fn run_trial(settings: &Settings, kind: Kind, binary: &Path) -> anyhow::Result<()> {
    let members = *settings.gossip_members.first().context("no members")?;
    let plan = trial::Plan {
        kind,
        binary: binary.to_owned(),
        members: usize::from(members),
        starts: usize::from(settings.gossip_starts),
        kills: settings.gossip_kills,
        idle: Duration::from_secs(settings.gossip_idle),
        busy: Duration::from_secs(settings.gossip_busy),
    };
    // dropping the trial ends its processes and removes its folder
    let figures = tokio::select! {
        done = trial::run(&plan) => done?,
        () = interrupted() => bail!("interrupted"),
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// The same program once more, in a network namespace of its own where there are such.
async fn start_trial(
    settings: &Settings,
    kind: Kind,
    binary: &Path,
    members: u16,
    namespaces: bool,
) -> anyhow::Result<Figures> {
    let this = std::env::current_exe()?;
    let mut words: Vec<std::ffi::OsString> = Vec::new();
    if namespaces {
        words.extend(unshare().map(Into::into));
    }
    words.extend(fleet::ends_with_parent().map(Into::into));
    words.push(this.into());
    words.extend([
        "--gossip".into(),
        "--gossip-trial".into(),
        kind.name().into(),
    ]);
    words.extend(["--ringd".into(), binary.into()]);
    for (flag, value) in [
        ("--gossip-members", u64::from(members)),
        ("--gossip-starts", u64::from(settings.gossip_starts)),
        ("--gossip-kills", settings.gossip_kills as u64),
        ("--gossip-idle", settings.gossip_idle),
        ("--gossip-busy", settings.gossip_busy),
    ] {
        words.extend([flag.into(), value.to_string().into()]);
    }
    let child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let answer = child.wait_with_output();
    tokio::pin!(answer);
    let output = tokio::select! {
        output = &mut answer => output?,
        () = interrupted() => {
            // it tidies up behind itself
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::INT);
            }
            let _ = answer.await;
            bail!("interrupted");
        }
    };
    anyhow::ensure!(output.status.success(), "the trial failed");
    let mut figures: Figures = serde_json::from_slice(&output.stdout)?;
    if !namespaces {
        figures.bytes_per_s = None;
    }
    Ok(figures)
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}

fn unshare() -> impl Iterator<Item = &'static str> {
    let root = rustix::process::geteuid().is_root();
    let user: &[&str] = if root {
        &[]
    } else {
        &["--user", "--map-root-user"]
    };
    ["unshare", "--net"].into_iter().chain(user.iter().copied())
}

/// Whether a namespace can be made and its loopback brought up.
async fn can_unshare() -> bool {
    let words: Vec<&str> = unshare().collect();
    let tried = Command::new(words[0])
        .args(&words[1..])
        .args(["ip", "link", "set", "lo", "up"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    tried.is_ok_and(|status| status.success())
}

fn serf_binary(settings: &Settings) -> anyhow::Result<PathBuf> {
    if let Some(path) = &settings.serf {
        return Ok(path.clone());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&folders).map(|folder| folder.join("serf"));
    candidates
        .find(|path| path.is_file())
        .context("no serf in PATH (Debian: apt-get install serf); --no-serf leaves it out")
}

fn table(settings: &Settings, columns: &[(String, Figures)]) -> String {
    type Cell = fn(&Figures) -> String;
    let busy = format!(
        "false suspicions / deaths, {} s with all cores busy",
        settings.gossip_busy
    );
    let rows: [(&str, Cell); 9] = [
        ("all agree after the last start, s", |f| spread(&f.agreed_s)),
        ("a killed one is dead everywhere, s", |f| spread(&f.dead_s)),
        ("a restarted one is back everywhere, s", |f| {
            spread(&f.back_s)
        }),
        (&busy, |f| {
            format!("{} / {}", f.busy_suspicions, f.busy_deaths)
        }),
        ("false suspicions / deaths, idle", |f| {
            format!("{} / {}", f.idle_suspicions, f.idle_deaths)
        }),
        ("resident memory, MB", |f| format!("{:.1}", f.resident_mb)),
        ("of it private (heap, stacks), MB", |f| {
            format!("{:.1}", f.private_mb)
        }),
        ("idle processor time, % of a core", |f| {
            format!("{:.3}", f.cpu_percent)
        }),
        ("idle traffic, bytes/s", |f| {
            f.bytes_per_s
                .map_or_else(|| "?".to_owned(), |b| format!("{b:.0}"))
        }),
    ];
    let mut lines = vec![
        columns.iter().map(|(name, _)| name.clone()).collect(),
        vec!["---".to_owned(); columns.len()],
    ];
    lines.extend(rows.map(|(_, cell)| columns.iter().map(|(_, f)| cell(f)).collect()));
    let names = ["one process", "---"]
        .into_iter()
        .chain(rows.map(|(name, _)| name));
    let line = |(name, cells): (&str, Vec<String>)| format!("| {name} | {} |\n", cells.join(" | "));
    names.zip(lines).map(line).collect::<Vec<_>>().concat()
}

/// The median, and the range where there are several.
fn spread(samples: &[f64]) -> String {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => "?".to_owned(),
        [only] => format!("{only:.2}"),
        [least, .., most] => format!("{:.2} ({least:.2}-{most:.2})", sorted[sorted.len() / 2]),
    }
}
