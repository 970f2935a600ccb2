//! Disks that fill up: writes are refused in time and in words, reads go on, a node starts on a
//! disk without a free byte, and space brings the writes back. Each node has a small file system
//! of its own, where mounting one is permitted.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::Command,
};

use ringmaster_shared::error::ErrorCode;
use rustix::fs::statvfs;
use serde_json::{Value, json};

use crate::support::{
    client::Api,
    cluster::Cluster,
    skip::skipped,
    wait::{GENEROUS, eventually, same},
};

const MIB: u64 = 1 << 20;

/// A mounted tmpfs, unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: PathBuf, mib: u64) -> Option<Self> {
        fs::create_dir_all(&path).expect("created");
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]);
        let done = mount.arg(&path).output();
        if done.is_ok_and(|o| o.status.success()) {
            return Some(Self { path });
        }
        skipped("mounting a file system is not permitted here");
        None
    }

    fn filler(&self) -> PathBuf {
        self.path.join("somebody-elses-file")
    }

    /// Somebody else takes all but `leave` bytes.
    fn fill(&self, leave: u64) {
        let mut options = File::options();
        let file = options.create(true).append(true).open(self.filler());
        let mut file = file.expect("created");
        loop {
            let stat = statvfs(&self.path).expect("a file system");
            let free = stat.f_bavail * stat.f_frsize;
            let more = free.saturating_sub(leave).min(MIB);
            if more == 0 || file.write_all(&vec![1; more as usize]).is_err() {
                return;
            }
        }
    }

    fn clear(&self) {
        fs::remove_file(self.filler()).expect("there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // lazily: the nodes may still run
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

async fn sees_read_only(api: &Api, want: bool) {
    eventually("read_only", GENEROUS, async || {
        let status = api.status().await.map_err(|e| format!("{e:#}"))?;
        same("read_only", &status.storage.read_only, &want)?;
        same(
            "there is a reason",
            &status.storage.read_only_reason.is_some(),
            &want,
        )
    })
    .await;
}

async fn all_read(api: &Api, written: &BTreeMap<String, Value>) {
    for (key, value) in written {
        let found = api.value(key).await.expect("readable");
        assert_eq!(found.as_ref(), Some(value), "{key}");
    }
}

#[tokio::test]
async fn full_disks_stop_writes_and_nothing_else() {
    let mut cluster = Cluster::empty().await;
    for (name, bytes) in [
        ("RINGD_STORAGE_SEGMENT_BYTES", MIB / 4),
        ("RINGD_STORAGE_CACHE_BYTES", 2 * MIB),
        ("RINGD_STORAGE_RESERVE_BYTES", 4 * MIB),
        ("RINGD_STORAGE_MIN_FREE_BYTES", 6 * MIB),
    ] {
        cluster.set_env(name, &bytes.to_string());
    }
    let mut disks = Vec::new();
    for i in 0..3 {
        let Some(disk) = SmallDisk::mount(cluster.data_dir(i), 32) else {
            return;
        };
        disks.push(disk);
        let seeds = if i == 0 { vec![] } else { cluster.seed(0) };
        cluster.add(&seeds).await;
        cluster.agree().await;
    }
    let apis: Vec<Api> = (0..3).map(|i| cluster.api(i)).collect();
    let mut written = BTreeMap::new();
    for n in 0..60 {
        let (key, value) = (format!("k{n}"), json!("x".repeat(100 * n)));
        let reply = apis[n % 3].put(&key, &value).await.expect("answered");
        assert_eq!(reply.status, 200, "{}", reply.text());
        written.insert(key, value);
    }

    // one of three: the others are a quorum
    disks[2].fill(3 * MIB);
    sees_read_only(&apis[2], true).await;
    for (i, api) in apis.iter().enumerate() {
        let (key, value) = (format!("one-full-{i}"), json!(i));
        cluster.write(i, &key, &value, GENEROUS).await;
        written.insert(key, value);
        all_read(api, &written).await;
    }

    // all of them: refused in words, at once, and readable
    for disk in &disks[..2] {
        disk.fill(3 * MIB);
    }
    for api in &apis {
        sees_read_only(api, true).await;
    }
    for api in &apis {
        let reply = api.put("k1", &json!("no")).await.expect("answered");
        let error = reply.error();
        assert_eq!(error.code, ErrorCode::ReadOnly, "{error:?}");
        assert!(error.error.contains("nearly full"), "{error:?}");
        assert!(reply.headers.contains_key("retry-after"), "{error:?}");
        all_read(api, &written).await;
        let problems = api.status().await.expect("answers").cluster.problems;
        assert!(
            problems.iter().any(|p| p.code == "STORAGE_READ_ONLY"),
            "{problems:?}"
        );
    }

    // a start on a disk without a free byte
    disks[2].fill(0);
    cluster.nodes[2].kill9();
    disks[2].fill(0);
    cluster.nodes[2].start(&[]);
    assert!(cluster.answers(2).await, "{}", cluster.nodes[2].log());
    cluster.agree().await;
    sees_read_only(&apis[2], true).await;
    all_read(&apis[2], &written).await;

    for disk in &disks {
        disk.clear();
    }
    for (i, api) in apis.iter().enumerate() {
        sees_read_only(api, false).await;
        let (key, value) = (format!("again-{i}"), json!(i));
        cluster.write(i, &key, &value, GENEROUS).await;
        written.insert(key, value);
    }
    for (i, node) in cluster.nodes.iter_mut().enumerate() {
        for code in ["DISK_NEARLY_FULL", "DISK_WRITABLE"] {
            let what = format!("node {i} tells {code}");
            let told = async || node.log().contains(code).then_some(()).ok_or(node.log());
            eventually(&what, GENEROUS, told).await;
        }
        node.kill9();
    }
    for node in &mut cluster.nodes {
        node.start(&[]);
    }
    cluster.agree().await;
    for api in &apis {
        all_read(api, &written).await;
    }
}
