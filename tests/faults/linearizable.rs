//! P2: each key behaves as one register, whichever nodes are asked and whatever happens to them;
//! and the check would notice if one of the two rounds that make it so were missing.

use std::time::Duration;

use super::campaign::{Faults, Plan, run};
use crate::support::cluster::Cluster;

/// Campaigns a broken daemon gets before it must have been caught.
const ATTEMPTS: u64 = 15;

#[tokio::test]
async fn one_register_while_nodes_are_killed_and_paused() {
    let mut cluster = Cluster::start(3).await;
    let plan = Plan {
        keys: 4,
        writers: 4,
        readers: 6,
        length: Duration::from_secs(40),
        faults: Faults::KillsAndPauses,
        seed: 1,
    };
    let (history, injected) = run(&mut cluster, "fault", plan).await;
    let counts = history.counts();
    eprintln!("{counts:?}, {injected:?}");
    if let Err(violation) = history.verify() {
        panic!("{}", violation.story);
    }
    assert!(counts.reads > 200 && counts.writes > 100, "{counts:?}");
    assert!(injected.kills > 0 && injected.pauses > 0, "{injected:?}");
    cluster.agree().await;
}

#[tokio::test]
async fn one_register_while_nodes_join() {
    let mut cluster = Cluster::start(1).await;
    let plan = Plan {
        keys: 20,
        writers: 4,
        readers: 6,
        length: Duration::from_secs(30),
        faults: Faults::Joins,
        seed: 2,
    };
    let (history, injected) = run(&mut cluster, "grow", plan).await;
    if let Err(violation) = history.verify() {
        panic!("{}", violation.story);
    }
    let counts = history.counts();
    assert!(counts.reads > 200 && counts.writes > 100, "{counts:?}");
    assert!(injected.joins > 1, "{injected:?}");
    cluster.agree().await;
}

/// Many readers on one key and moments of lag: where a missing round shows.
fn hunt(seed: u64) -> Plan {
    Plan {
        keys: 1,
        writers: 3,
        readers: 12,
        length: Duration::from_secs(6),
        faults: Faults::Stutter,
        seed,
    }
}

#[tokio::test]
async fn the_hunt_finds_nothing_in_the_whole_protocol() {
    let mut cluster = Cluster::start(3).await;
    for seed in 0..2 {
        let (history, injected) = run(&mut cluster, &format!("hunt-{seed}"), hunt(seed)).await;
        if let Err(violation) = history.verify() {
            panic!("{}", violation.story);
        }
        assert!(injected.pauses > 0 && history.counts().reads > 100);
    }
}

/// `RINGD_BREAK` leaves a round out; builds for release do not know it.
#[cfg(debug_assertions)]
async fn is_caught(left_out: &str) {
    let mut cluster = Cluster::start_with(3, &[("RINGD_BREAK", left_out)]).await;
    for seed in 0..ATTEMPTS {
        let (history, _) = run(&mut cluster, &format!("broken-{seed}"), hunt(seed)).await;
        if let Err(violation) = history.verify() {
            eprintln!("caught at attempt {}: {}", seed + 1, violation.story);
            return;
        }
    }
    panic!("{ATTEMPTS} campaigns did not notice that {left_out} was left out");
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn a_missing_write_back_is_noticed() {
    is_caught("write-back").await;
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn a_missing_version_query_is_noticed() {
    is_caught("version-query").await;
}
