use ringmaster_shared::quorum::{Group, Requirement};

use super::*;
use crate::replication::testing::{self, fails, id, majorities, off};

fn settled() -> Needs {
    let need = majorities(&[&["a", "b", "c"]]);
    Needs {
        read: need.clone(),
        write: need,
    }
}

/// Reads from a, b, c; writes to d, e, c as well.
fn filling() -> Needs {
    Needs {
        read: settled().read,
        write: majorities(&[&["a", "b", "c"], &["d", "e", "c"]]),
    }
}

fn record(counter: u64) -> Record {
    testing::record("z", counter, counter)
}

fn said(counter: u64) -> Said {
    Said::Record((counter > 0).then(|| record(counter)))
}

fn start(consistency: Consistency, needs: Needs, unreachable: &[&str]) -> ReadMachine {
    ReadMachine::start(consistency, Breaks::default(), needs, &off(unreachable)).0
}

fn stores(step: &Step<ReadDone>) -> Vec<NodeId> {
    match step {
        Step::Ask(asks) => {
            assert!(asks.iter().all(|(_, ask)| matches!(ask, Ask::Store(_))));
            let mut ids: Vec<NodeId> = asks.iter().map(|(id, _)| id.clone()).collect();
            ids.sort();
            ids
        }
        other => panic!("a write-back was expected, not {other:?}"),
    }
}

#[test]
fn replicas_that_agree_need_no_write_back() {
    for version in [0, 7] {
        let mut read = start(Consistency::Quorum, settled(), &[]);
        assert_eq!(read.on_said(&id("a"), said(version)), Step::Wait);
        let Step::Done(done) = read.on_said(&id("c"), said(version)) else {
            panic!("a quorum agrees");
        };
        assert_eq!(done.record.siblings.len(), usize::from(version > 0));
        assert!(done.repaired.is_empty() && done.quorum_achieved);
        assert_eq!(done.responded, [id("a"), id("c")]);
    }
}

#[test]
fn who_is_behind_is_brought_up_before_the_answer() {
    let mut read = start(Consistency::Quorum, settled(), &["c"]);
    read.on_said(&id("a"), said(7));
    let step = read.on_said(&id("b"), said(6));
    assert_eq!(stores(&step), [id("b")]);
    let Step::Done(done) = read.on_said(&id("b"), Said::Stored) else {
        panic!("now two have it");
    };
    assert_eq!(*done.record, record(7));
    assert_eq!(done.repaired, [id("b")]);
}

#[test]
fn a_third_replica_can_stand_in_for_a_stuck_write_back() {
    let mut read = start(Consistency::Quorum, settled(), &[]);
    read.on_said(&id("a"), said(7));
    read.on_said(&id("b"), said(6));
    let step = read.on_said(&id("c"), said(7));
    assert!(matches!(step, Step::Done(done) if done.repaired.is_empty()));

    let mut read = start(Consistency::Quorum, settled(), &[]);
    read.on_said(&id("a"), said(7));
    read.on_said(&id("b"), said(6));
    let step = read.on_said(&id("c"), said(0));
    assert_eq!(stores(&step), [id("c")]);
    let step = read.on_said(&id("c"), Said::Stored);
    assert!(matches!(step, Step::Done(done) if done.repaired == [id("c")]));
}

#[test]
fn while_filling_the_new_replicas_must_hold_it_too() {
    let mut read = start(Consistency::Quorum, filling(), &[]);
    read.on_said(&id("a"), said(7));
    let step = read.on_said(&id("b"), said(7));
    assert_eq!(step, Step::Wait, "agreement of the old is not enough");
    let step = read.on_said(&id("d"), said(0));
    assert_eq!(stores(&step), [id("d")]);
    assert_eq!(read.on_said(&id("d"), Said::Stored), Step::Wait);
    let step = read.on_said(&id("c"), said(7));
    assert!(
        matches!(step, Step::Done(_)),
        "c and d of the new, all of the old"
    );
}

#[test]
fn a_recovering_replica_is_written_but_not_believed() {
    let mut read = start(Consistency::Quorum, settled(), &[]);
    read.on_failure(&id("c"), fails(FailureKind::Recovering));
    read.on_said(&id("a"), said(7));
    let step = read.on_said(&id("b"), said(6));
    assert_eq!(stores(&step), [id("b"), id("c")]);
    let step = read.on_said(&id("c"), Said::Stored);
    assert!(matches!(step, Step::Done(_)));

    let mut read = start(Consistency::Quorum, settled(), &["b"]);
    read.on_said(&id("a"), said(7));
    let step = read.on_failure(&id("c"), fails(FailureKind::Recovering));
    assert!(matches!(step, Step::Failed(Unmet::Quorum { .. })));
}

/// Asking again for ever would keep the read's task from ever letting others run.
#[test]
fn who_is_recovering_and_takes_no_write_either_is_not_asked_again() {
    let mut read = start(Consistency::Quorum, settled(), &[]);
    read.on_failure(&id("c"), fails(FailureKind::Recovering));
    read.on_said(&id("a"), said(7));
    let step = read.on_said(&id("b"), said(6));
    assert_eq!(stores(&step), [id("b"), id("c")]);
    let step = read.on_failure(&id("c"), fails(FailureKind::Recovering));
    assert_eq!(step, Step::Wait, "b may take it still");
    let step = read.on_failure(&id("b"), fails(FailureKind::NotDone));
    assert!(matches!(step, Step::Failed(Unmet::Quorum { .. })));
}

#[test]
fn one_answers_at_once_and_says_so() {
    let mut read = start(Consistency::One, settled(), &["b", "c"]);
    let step = read.on_said(&id("a"), said(7));
    assert!(matches!(step, Step::Done(done) if !done.quorum_achieved));
    let mut read = start(Consistency::All, settled(), &[]);
    read.on_said(&id("a"), said(7));
    read.on_said(&id("b"), said(7));
    assert_eq!(stores(&read.on_said(&id("c"), said(6))), [id("c")]);
    let step = read.on_said(&id("c"), Said::Stored);
    assert!(matches!(step, Step::Done(done) if done.repaired == [id("c")]));
    let (_, step) =
        ReadMachine::start(Consistency::All, Breaks::default(), settled(), &off(&["c"]));
    assert!(matches!(step, Step::Failed(Unmet::Quorum { .. })));
}

#[test]
fn late_and_failing_replicas_are_dealt_with() {
    let mut read = start(Consistency::Quorum, settled(), &[]);
    read.on_said(&id("a"), said(7));
    read.on_said(&id("b"), said(7));
    assert_eq!(
        stores(&read.on_said(&id("c"), said(3))),
        [id("c")],
        "after the answer"
    );
    let mut read = start(Consistency::Quorum, settled(), &[]);
    read.on_said(&id("a"), said(7));
    read.on_said(&id("b"), said(7));
    assert_eq!(
        read.on_said(&id("c"), said(9)),
        Step::Wait,
        "newer is not behind"
    );

    let mut read = start(Consistency::Quorum, settled(), &["c"]);
    read.on_said(&id("a"), said(7));
    read.on_said(&id("b"), said(6));
    let step = read.on_failure(&id("b"), fails(FailureKind::Unknown));
    assert!(matches!(step, Step::Failed(Unmet::Quorum { .. })));
}

/// Who is asked for the record.
fn asked(step: &Step<ReadDone>) -> Vec<NodeId> {
    match step {
        Step::Wait => Vec::new(),
        Step::Ask(asks) => {
            assert!(asks.iter().all(|(_, ask)| *ask == Ask::Record));
            asks.iter().map(|(id, _)| id.clone()).collect()
        }
        other => panic!("a question was expected, not {other:?}"),
    }
}

fn first_asked(
    consistency: Consistency,
    needs: Needs,
    off: &[&str],
    order: &[&str],
) -> Vec<NodeId> {
    let mut reach: Reach = off.iter().map(|n| (id(n), "dead".to_owned())).collect();
    reach.order = order.iter().map(|n| id(n)).collect();
    asked(&ReadMachine::start(consistency, Breaks::default(), needs, &reach).1)
}

#[test]
fn no_more_are_asked_than_are_needed_and_the_likeliest_first() {
    let quorum = Consistency::Quorum;
    assert_eq!(
        first_asked(quorum, settled(), &[], &["c", "b"]),
        [id("c"), id("b")]
    );
    assert_eq!(
        first_asked(quorum, settled(), &["c"], &["c", "b"]),
        [id("b"), id("a")]
    );
    assert_eq!(
        first_asked(Consistency::One, settled(), &[], &["b"]),
        [id("b")]
    );
    assert_eq!(first_asked(Consistency::All, settled(), &[], &[]).len(), 3);
    // a and b of the old would do for the read; c and d make a write-back needless
    let all = first_asked(quorum, filling(), &[], &[]);
    assert_eq!(all, [id("a"), id("b"), id("c"), id("d")]);
}

#[test]
fn late_and_failed_replicas_are_replaced_by_the_next() {
    let mut read = start(Consistency::Quorum, settled(), &[]);
    assert!(read.can_hedge());
    assert_eq!(read.on_said(&id("a"), said(7)), Step::Wait);
    assert_eq!(asked(&read.on_late()), [id("c")]);
    assert!(!read.can_hedge());
    assert_eq!(read.on_late(), Step::Wait, "nobody is left");
    let step = read.on_said(&id("c"), said(7));
    assert!(matches!(step, Step::Done(done) if done.responded == [id("a"), id("c")]));
    // b was only slow, and is behind
    assert_eq!(stores(&read.on_said(&id("b"), said(5))), [id("b")]);

    let mut read = start(Consistency::Quorum, settled(), &[]);
    let step = read.on_failure(&id("b"), fails(FailureKind::NotDone));
    assert_eq!(asked(&step), [id("c")], "at once");
    let step = read.on_failure(&id("c"), fails(FailureKind::NotDone));
    assert!(matches!(step, Step::Failed(Unmet::Quorum { .. })));
}

#[test]
fn a_write_back_that_is_late_goes_to_those_never_asked() {
    let mut read = start(Consistency::Quorum, settled(), &[]);
    read.on_said(&id("a"), said(7));
    assert_eq!(stores(&read.on_said(&id("b"), said(6))), [id("b")]);
    assert!(read.can_hedge());
    assert_eq!(stores(&read.on_late()), [id("c")]);
    let step = read.on_said(&id("c"), Said::Stored);
    assert!(matches!(step, Step::Done(done) if done.repaired == [id("c")]));

    let mut read = start(Consistency::Quorum, settled(), &[]);
    read.on_said(&id("a"), said(7));
    read.on_said(&id("b"), said(6));
    let step = read.on_failure(&id("b"), fails(FailureKind::Unknown));
    assert_eq!(stores(&step), [id("c")], "at once");
}

#[test]
fn who_agrees_follows_every_merge() {
    // b is newer than a, then c agrees with b: the first answer does not count any more
    let three = Requirement {
        groups: vec![Group {
            members: vec![id("a"), id("b"), id("c")],
            need: 3,
        }],
    };
    let needs = Needs {
        read: three,
        write: settled().write,
    };
    let mut read = start(Consistency::Quorum, needs, &[]);
    read.on_said(&id("a"), said(3));
    read.on_said(&id("b"), said(7));
    let step = read.on_said(&id("c"), said(7));
    assert!(matches!(step, Step::Done(done) if *done.record == record(7)));
    let behind: Vec<NodeId> = read.leftovers().into_iter().map(|(id, _)| id).collect();
    assert_eq!(behind, [id("a")]);
}
