//! Who went down before the ring took it in, and is in no ring to be removed from.

use tokio::time::sleep;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn who_dies_waiting_is_forgotten_after_an_hour_and_may_come_back() {
    let cluster = three().await;
    cluster.start_candidate("n4");
    // dies before the ring has looked at it
    cluster.start("n5");
    for name in ["n4", "n5"] {
        cluster.crash(name);
    }
    sleep(59 * MINUTE).await;
    for name in ["n4", "n5"] {
        assert_eq!(cluster.held(name).status, MemberStatus::Dead, "{name}");
    }
    sleep(2 * MINUTE).await;
    for name in ["n4", "n5"] {
        assert_eq!(cluster.held(name).status, MemberStatus::Left, "{name}");
    }
    cluster.revive("n5").await;
    cluster.until_settled_with(4, SOON).await;
    cluster.assert_one_content_per_epoch();
}

#[tokio::test(start_paused = true)]
async fn who_is_in_the_ring_or_in_a_change_of_it_is_not_buried() {
    let cluster = three().await;
    cluster.crash("n3");
    // as if it had not got round to saying that it was taken in
    cluster.edit("n3", |state| state.lifecycle = Lifecycle::Joining);
    cluster.hold_filling("n1");
    cluster.hold_filling("n2");
    sleep(62 * MINUTE).await;
    assert_eq!(cluster.held("n3").status, MemberStatus::Dead);
    cluster.revive("n3").await;
    cluster.until_settled_with(3, SOON).await;
}

/// A change that it was cut off from may have taken the other in.
#[tokio::test(start_paused = true)]
async fn a_minority_buries_nobody_who_waits() {
    let cluster = three().await;
    cluster.start_candidate("n4");
    for name in ["n2", "n3", "n4"] {
        cluster.crash(name);
    }
    sleep(62 * MINUTE).await;
    assert_eq!(cluster.held("n4").status, MemberStatus::Dead);
    cluster.revive("n2").await;
    sleep(MINUTE).await;
    assert_eq!(cluster.held("n4").status, MemberStatus::Left);
}

/// So may one that a member has gone over to.
#[tokio::test(start_paused = true)]
async fn nobody_who_waits_is_buried_before_the_latest_ring_is_here() {
    let cluster = three().await;
    cluster.start_candidate("n4");
    cluster.crash("n4");
    // its driver has said what it goes by, and will not say so again
    let epoch = cluster.handle("n2").current().expect("a ring").epoch;
    while cluster.held("n2").ring.epoch < epoch {
        sleep(Duration::from_millis(10)).await;
    }
    cluster.edit("n2", |state| state.ring.epoch += 1);
    sleep(62 * MINUTE).await;
    assert_eq!(cluster.held("n4").status, MemberStatus::Dead);
    cluster.edit("n2", |state| state.ring.epoch -= 1);
    sleep(MINUTE).await;
    assert_eq!(cluster.held("n4").status, MemberStatus::Left);
}
