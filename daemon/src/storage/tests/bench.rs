//! Puts per second of one store: `cargo test --release -p ringd storage::tests::bench -- --ignored
//! --nocapture`. Prints, beside an append and fdatasync loop on the same disk, and once more with
//! syncs that take some milliseconds; asserts nothing about time.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::config;
use crate::storage::{
    Store,
    commit_log::disk::{FileDisk, LogDisk, LogFile},
    testing::{key, record},
};

const RUN: Duration = Duration::from_secs(4);
/// What a sync takes on a disk without a cache that survives a power cut, about.
const SLOW_SYNC: Duration = Duration::from_millis(4);

/// Where to measure: the sources' disk, or the folder in `RINGD_BENCH_DIR` (memory, to see what
/// is not the disk).
fn place() -> std::path::PathBuf {
    let place = std::env::var_os("RINGD_BENCH_DIR");
    place
        .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into())
        .into()
}

fn raw(dir: &Path) -> f64 {
    let mut file = File::create(dir.join("raw")).expect("created");
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < RUN / 2 {
        file.write_all(&[7; 150]).expect("written");
        file.sync_data().expect("synced");
        count += 1;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}

/// A disk whose syncs take at least so long.
struct Slow<T>(T, Duration);

impl LogDisk for Slow<FileDisk> {
    fn create(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(Slow(self.0.create(path)?, self.1)))
    }

    fn reopen(&mut self, path: &Path, at: u64) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(Slow(self.0.reopen(path, at)?, self.1)))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
}

impl LogFile for Slow<Box<dyn LogFile>> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        thread::sleep(self.1);
        self.0.sync()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.0.cut(len)
    }
}

fn measure(writers: u64, sync: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir_in(place()).expect("temp dir");
    let mut config = config(dir.path());
    config.partition_count = 256;
    config.segment_bytes = 64 << 20;
    config.cache_bytes = 64 << 20;
    let disk = FileDisk::new(config.segment_bytes);
    let disk: Box<dyn LogDisk> = if sync.is_zero() {
        Box::new(disk)
    } else {
        Box::new(Slow(disk, sync))
    };
    let (store, _) = Store::open_on(&config, disk).expect("opens");
    let started = Instant::now();
    let mut micros: Vec<u128> = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for w in 0..writers {
            let store = store.clone();
            tasks.spawn(async move {
                let mut micros = Vec::new();
                for n in 0_u64.. {
                    if started.elapsed() > RUN {
                        break;
                    }
                    let name = key(&format!("w{w:03}-{n:08}"));
                    let put = Instant::now();
                    let stored = store.merge(name, record("a", 1, n, 100)).await;
                    stored.expect("stored");
                    micros.push(put.elapsed().as_micros());
                }
                micros
            });
        }
        tasks.join_all().await.concat()
    });
    let seconds = started.elapsed().as_secs_f64();
    micros.sort_unstable();
    let stats = store.stats();
    assert_eq!(stats.keys, micros.len() as u64);
    println!(
        "{writers} writers: {:.0} puts/s, p50 {} us, p99 {} us, {:.1} puts a sync",
        micros.len() as f64 / seconds,
        micros[micros.len() / 2],
        micros[micros.len() * 99 / 100],
        stats.log_records as f64 / stats.log_syncs.max(1) as f64,
    );
}

#[test]
#[ignore = "a measurement, not a test"]
fn puts_per_second() {
    let dir = tempfile::tempdir_in(place()).expect("temp dir");
    println!("raw append + fdatasync: {:.0}/s", raw(dir.path()));
    for sync in [Duration::ZERO, SLOW_SYNC] {
        if !sync.is_zero() {
            println!("with syncs of {} ms:", sync.as_millis());
        }
        for writers in [1, 2, 16, 64, 256] {
            measure(writers, sync);
        }
    }
}
