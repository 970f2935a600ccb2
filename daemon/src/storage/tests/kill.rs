//! kill -9 of a real process at random moments, also while it starts and in the middle of
//! checkpoints, again and again over one folder: what it said was stored is there, what it did
//! not get to say is there as a whole or not at all, and the figures are those of a recount.
//!
//! A short run by default. The long one:
//! `RINGD_KILL_ROUNDS=1000 cargo test --release -p ringd storage::tests::kill -- --nocapture`.
//! `RINGD_KILL_SEED` repeats a run's choices; when exactly a kill arrives is up to the machine.

mod model;

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use self::model::{GROUPS, Model, Work, lives_of};
use super::{config, open};
use crate::storage::{RecoveryReport, Store, StoreConfig};

/// Set for the process that is to be killed: the folder to write in, and what its counters start
/// from.
const CHILD_DIR: &str = "RINGD_TEST_KILL_DIR";
const CHILD_BASE: &str = "RINGD_TEST_KILL_BASE";
const ROUNDS: u64 = 12;
/// A run of any length goes on until it met at least this, but not for ever.
const ACKS_MIN: u64 = 500;
const CHECKS_MIN: u64 = 6;
const ROUNDS_MAX: u64 = 60;

/// Small segments: a checkpoint comes every few large values.
fn tight(dir: &Path) -> StoreConfig {
    StoreConfig {
        segment_bytes: 64 << 10,
        ..config(dir)
    }
}

fn open_tight(dir: &Path) -> (Store, RecoveryReport) {
    let (store, report) = Store::open(tight(dir)).expect("opens");
    assert!(!report.lost_data, "{report:?}");
    (store, report)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").expect("the parent reads");
    out.flush().expect("the parent reads");
}

/// Not a test of its own: the process that [`a_store_survives_kills_at_any_moment`] kills.
#[test]
#[ignore = "started by a_store_survives_kills_at_any_moment in a process of its own"]
fn child() {
    let (Ok(dir), Ok(base)) = (env::var(CHILD_DIR), env::var(CHILD_BASE)) else {
        return;
    };
    let base = base.parse().expect("a number");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    say("");
    let (store, report) = open_tight(Path::new(&dir));
    say(&format!("open {} {}", report.replayed, report.counted));
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for work in Work::all() {
            let store = store.clone();
            writers.spawn(async move {
                for index in 0.. {
                    work.act(&store, base, index).await.expect("done");
                    say(&format!("ack {} {index}", work.name()));
                }
            });
        }
        writers.join_all().await;
    });
}

fn start(dir: &Path, base: u64) -> Child {
    let this = env::current_exe().expect("the test binary");
    let module = module_path!().split_once("::").expect("in a crate").1;
    Command::new(this)
        .args([
            &format!("{module}::child"),
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_DIR, dir)
        .env(CHILD_BASE, base.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

/// When a child is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after it began to open the store: while it starts, or soon after.
    Micros(u64),
    /// After so many acknowledgements.
    Acks(usize),
}

impl Moment {
    fn pick(random: &mut StdRng) -> Self {
        if random.random_bool(0.4) {
            Self::Micros(random.random_range(0..40_000))
        } else {
            Self::Acks(random.random_range(1..300))
        }
    }
}

/// What became of the children, so that the run can show that it met what it is about.
#[derive(Debug, Default)]
struct Met {
    killed_before_open: u64,
    replayed: u64,
    uncounted: u64,
    acks: u64,
    /// Stores opened after a kill and compared.
    checks: u64,
}

impl Met {
    fn enough(&self) -> bool {
        self.acks >= ACKS_MIN && self.checks >= CHECKS_MIN && self.killed_before_open > 0
    }
}

/// One life of a child, to its end by kill.
fn live_and_die(dir: &Path, base: u64, moment: Moment, model: &mut Model, met: &mut Met) {
    let mut child = start(dir, base);
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let (mut acks, mut opened, mut begun) = (0, false, false);
    model.begins(base);
    let mut line = Vec::new();
    // the pipe keeps what was written before the kill, so read it to its end
    while out.read_until(b'\n', &mut line).expect("readable") > 0 {
        // the last line may be cut by the kill
        let text = line.strip_suffix(b"\n").map(String::from_utf8_lossy);
        let text = text.map(std::borrow::Cow::into_owned).unwrap_or_default();
        line.clear();
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["open", replayed, counted] => {
                opened = true;
                met.replayed += replayed.parse::<u64>().expect("a number");
                met.uncounted += u64::from(counted == "false");
            }
            ["ack", name, index] => {
                model.acknowledged(name, base, index.parse().expect("a number"));
                acks += 1;
                if matches!(moment, Moment::Acks(n) if n == acks) {
                    child.kill().expect("killed");
                }
            }
            [] if !begun => {
                begun = true;
                if let Moment::Micros(n) = moment {
                    thread::sleep(Duration::from_micros(n)); // the moment itself, not a wait for something
                    child.kill().expect("killed");
                }
            }
            _ => {}
        }
    }
    let status = child.wait().expect("ended");
    assert!(!status.success(), "it was killed, not done");
    if let Moment::Acks(n) = moment {
        assert!(
            opened && acks >= n,
            "it ended by itself: {status:?}, {acks} acks"
        );
    }
    model.ends();
    met.killed_before_open += u64::from(!opened);
    met.acks += acks as u64;
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

#[test]
fn a_store_survives_kills_at_any_moment() {
    let rounds = number("RINGD_KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("RINGD_KILL_SEED").unwrap_or_else(rand::random);
    println!("{rounds} rounds with RINGD_KILL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut model, mut met) = (Model::default(), Met::default());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut round = 0;
    while round < rounds || (!met.enough() && round < ROUNDS_MAX) {
        round += 1;
        let moment = Moment::pick(&mut random);
        let base = lives_of(2 * round);
        live_and_die(dir.path(), base, moment, &mut model, &mut met);
        // some children start from what several kills left
        if round != rounds && random.random_bool(0.3) {
            continue;
        }
        let (store, report) = open_tight(dir.path());
        met.replayed += report.replayed;
        model.check(&store, round);
        met.checks += 1;
        // the figures as they are kept while things change, against those of a recount
        let base = lives_of(2 * round + 1);
        model.begins(base);
        runtime.block_on(async {
            for index in 0..random.random_range(2..6) {
                for work in Work::all() {
                    work.act(&store, base, index).await.expect("done");
                    model.acknowledged(&work.name(), base, index);
                }
            }
        });
        model.check(&store, round);
        if random.random_bool(0.5) {
            runtime.block_on(store.close()).expect("closed");
        }
    }
    let segments = std::fs::read_dir(dir.path().join("store/log")).expect("readable");
    let first = segments
        .filter_map(|e| {
            let path = e.expect("readable").path();
            let stem = path.file_stem()?.to_str()?.parse::<u64>().ok()?;
            path.extension().is_some_and(|e| e == "log").then_some(stem)
        })
        .min();
    println!("{round} rounds, {GROUPS} groups, the log begins at {first:?}: {met:?}");
    assert!(met.enough(), "{round} rounds were too little: {met:?}");
    assert!(met.replayed > 0, "the kills left something to replay");
    assert!(first > Some(1), "checkpoints let go of the log");
    if rounds >= 100 {
        assert!(met.killed_before_open > 0 && met.uncounted > 0, "{met:?}");
    }
}

/// A forked child holds its parent's locks until it has become another program, so a lock that
/// was just let go may still look taken for a moment.
#[test]
fn children_started_meanwhile_do_not_keep_a_closed_store_locked() {
    let dir = tempfile::tempdir().expect("temp dir");
    let done = AtomicBool::new(false);
    let started = std::thread::scope(|scope| {
        let spawner = scope.spawn(|| {
            let mut started = 0;
            while !done.load(Ordering::Relaxed) {
                Command::new("true").status().expect("started");
                started += 1;
            }
            started
        });
        for _ in 0..60 {
            drop(open(dir.path()));
        }
        done.store(true, Ordering::Relaxed);
        spawner.join().expect("spawned")
    });
    assert!(started > 10, "only {started} children came in between");
}
