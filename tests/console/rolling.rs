//! Rolling restart: one node after the other, and a client that does not notice.

use super::{
    endpoints,
    load::Load,
    restart::{came_back, filled, statuses},
    run::ringmaster,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_tries_twice_sees_no_failed_request() {
    let mut cluster = filled().await;
    let all = endpoints(&cluster);
    let before = statuses(&cluster).await;
    let load = Load::begin(&cluster);
    let done = ringmaster(&all, &["restart", "--rolling", "--yes", "--output", "json"]).await;
    let tally = load.end().await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let report = done.json();
    assert_eq!(report["procedure"], "rolling_restart");
    assert_eq!(report["ok"], true);
    let steps = report["steps"].as_array().expect("steps");
    assert!(steps.iter().all(|step| step["state"] == "done"), "{report}");
    assert_eq!(steps.len(), 4, "preflight and three nodes: {report}");
    came_back(&mut cluster, &before).await;
    assert!(
        tally.failed.is_empty(),
        "{} of {}: {:#?}",
        tally.failed.len(),
        tally.done,
        tally.failed
    );
    assert!(
        tally.done > 0 && tally.retried > 0,
        "the restart was never felt: {tally:?}"
    );

    let plan = ringmaster(&all, &["restart", "--rolling"]).await;
    assert_eq!(plan.code, Some(0), "{plan:?}");
    assert!(plan.out.contains("restart node-2; go on when"), "{plan:?}");
}
