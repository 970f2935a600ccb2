//! Clean restart of a cluster in which one node does not come back with what it had: its store is
//! damaged, or its folder is gone. It needs the others to get it back.

use std::{fs::OpenOptions, os::unix::fs::FileExt, path::Path};

use super::{
    endpoints,
    restart::{came_back, filled, statuses, still_one},
    run::ringmaster,
};

/// Some bytes amid what was written turn over, as a bad disk would have it.
fn damage(data_dir: &Path) {
    const AT: u64 = 200;
    let log = std::fs::read_dir(data_dir.join("store/log")).expect("a log");
    let mut segments: Vec<_> = log
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    segments.sort();
    let first = segments.first().expect("a segment");
    let mut options = OpenOptions::new();
    let segment = options.read(true).write(true).open(first).expect("opened");
    let mut bytes = [0; 16];
    segment.read_exact_at(&mut bytes, AT).expect("read");
    let other = bytes.map(|b| !b);
    segment.write_all_at(&other, AT).expect("written");
}

/// The one that starts first, alone, and one that starts after it.
#[tokio::test]
async fn a_damaged_store_does_not_keep_it_from_ending_well() {
    let mut cluster = filled().await;
    let all = endpoints(&cluster);
    for victim in [0, 1] {
        let before = statuses(&cluster).await;
        damage(&cluster.data_dir(victim));
        let done = ringmaster(&all, &["restart", "--clean", "--yes", "-o", "json"]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        let report = done.json();
        let steps = report["steps"].as_array().expect("steps");
        let title = ["bootstrap node-1", "start node-2"][victim];
        let step = steps.iter().find(|s| s["title"] == title);
        assert_eq!(step.expect(title)["state"], "done", "{report}");
        let log = cluster.nodes[victim].log();
        assert!(log.contains("starts empty"), "nothing was damaged: {log}");
        came_back(&mut cluster, &before).await;
    }
}

/// It would have started first, alone, and has no seeds of its own: nothing would have kept it from
/// founding another cluster.
#[tokio::test]
async fn one_without_its_folder_founds_no_cluster_and_gets_all_back_from_the_others() {
    let mut cluster = filled().await;
    let all = endpoints(&cluster);
    let before = statuses(&cluster).await;
    std::fs::remove_dir_all(cluster.data_dir(0)).expect("removed");
    let ended = ringmaster(&all, &["restart", "--clean", "--yes"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let why = "node-1 came to standby without its cluster";
    assert!(ended.err.contains(why), "{ended:?}");
    cluster.agree().await;
    still_one(&cluster, &before).await;
}
