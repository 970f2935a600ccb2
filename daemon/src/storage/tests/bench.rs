//! Puts per second of one store: `cargo test --release -p ringd storage::tests::bench -- --ignored
//! --nocapture`. Prints, beside an append and fdatasync loop on the same disk; asserts nothing
//! about time.

use std::{
    fs::File,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use super::config;
use crate::storage::{
    Store,
    testing::{key, record},
};

const RUN: Duration = Duration::from_secs(4);

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

#[test]
#[ignore = "a measurement, not a test"]
fn puts_per_second() {
    let dir = tempfile::tempdir_in(place()).expect("temp dir");
    println!("raw append + fdatasync: {:.0}/s", raw(dir.path()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime");
    for writers in [1_u64, 16, 64, 256] {
        let dir = tempfile::tempdir_in(place()).expect("temp dir");
        let mut config = config(dir.path());
        config.partition_count = 256;
        config.segment_bytes = 64 << 20;
        config.cache_bytes = 64 << 20;
        let (store, _) = Store::open(config).expect("opens");
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
                        store
                            .merge(name, record("a", 1, n, 100))
                            .await
                            .expect("stored");
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
}
