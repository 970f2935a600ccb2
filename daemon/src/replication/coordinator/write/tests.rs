use bytes::Bytes;
use ringmaster_shared::version::RecordVersion;

use super::*;
use crate::replication::testing::{dot, fails, id, majorities, number, off, record};

fn needs() -> Needs {
    Needs {
        read: majorities(&[&["a", "b", "c"]]),
        write: majorities(&[&["a", "b", "c"]]),
    }
}

fn intent() -> WriteIntent {
    WriteIntent {
        value: Some(number(1)),
        context: None,
        condition: Condition::Always,
        consistency: Consistency::Quorum,
        breaks: Breaks::default(),
    }
}

fn version(node: &str, counter: u64, hlc: u64) -> Said {
    Said::Version(Some(record(node, counter, hlc).version()))
}

/// A machine whose query has been answered by `a` and `b`; `c` is unreachable.
fn storing(intent: WriteIntent) -> WriteMachine {
    let (mut machine, step) = WriteMachine::start(intent, needs(), &off(&["c"]));
    assert!(matches!(step, Step::Ask(asks) if asks.len() == 2));
    machine.on_said(&id("a"), Said::Version(None));
    assert_eq!(
        machine.on_said(&id("b"), version("z", 4, 70)),
        Step::Stamp { seen: Hlc(70) }
    );
    let step = machine.stamp(dot("me", 1), Hlc(71), &off(&["c"]));
    assert!(matches!(step, Step::Ask(asks) if asks.len() == 2));
    machine
}

#[test]
fn a_write_supersedes_all_that_a_quorum_knew() {
    let mut machine = storing(intent());
    assert_eq!(machine.on_said(&id("a"), Said::Stored), Step::Wait);
    let Step::Done(written) = machine.on_said(&id("b"), Said::Stored) else {
        panic!("two of three are a quorum");
    };
    assert!(written.record.clock.covers(&dot("z", 4)) && written.record.siblings.len() == 1);
    assert_eq!(written.successful, [id("a"), id("b")]);
    assert_eq!(written.failed, [id("c")]);
    assert!(written.quorum_achieved);
    let (_, owed) = machine.owed().expect("somebody has it");
    assert_eq!(owed, [id("c")], "a hint is due");
}

#[test]
fn a_context_supersedes_only_itself() {
    let with_context = WriteIntent {
        context: Some(record("z", 4, 70).clock),
        ..intent()
    };
    let (mut machine, step) = WriteMachine::start(with_context, needs(), &off(&[]));
    assert!(matches!(step, Step::Ask(asks) if asks.iter().all(|(_, ask)| *ask == Ask::Record)));
    machine.on_said(&id("a"), Said::Record(Some(record("z", 4, 70))));
    let step = machine.on_said(&id("b"), Said::Record(Some(record("y", 1, 90))));
    assert_eq!(step, Step::Stamp { seen: Hlc(90) });
    let Step::Ask(asks) = machine.stamp(dot("me", 1), Hlc(91), &off(&[])) else {
        panic!("the record is sent");
    };
    let Ask::Store(stored) = &asks[0].1 else {
        panic!("stored");
    };
    let dots: Vec<&Dot> = stored.siblings.iter().map(|s| &s.dot).collect();
    assert_eq!(dots, [&dot("me", 1), &dot("y", 1)]);
}

#[test]
fn what_cannot_succeed_is_refused_before_anything_is_sent() {
    let (_, step) = WriteMachine::start(intent(), needs(), &off(&["b", "c"]));
    let Step::Failed(Unmet::Quorum {
        needed,
        available,
        missing,
    }) = step
    else {
        panic!("no quorum");
    };
    assert_eq!((needed, available, missing.len()), (2, 1, 2));

    let all = WriteIntent {
        consistency: Consistency::All,
        ..intent()
    };
    let (_, step) = WriteMachine::start(all, needs(), &off(&["c"]));
    assert!(matches!(step, Step::Failed(Unmet::Quorum { .. })));

    let one = WriteIntent {
        consistency: Consistency::One,
        ..intent()
    };
    let (mut machine, _) = WriteMachine::start(one, needs(), &off(&["b", "c"]));
    machine.on_said(&id("a"), Said::Version(None));
    machine.stamp(dot("me", 1), Hlc(1), &off(&["b", "c"]));
    let step = machine.on_said(&id("a"), Said::Stored);
    assert!(matches!(step, Step::Done(w) if !w.quorum_achieved));
}

#[test]
fn a_failed_write_says_whether_it_may_have_happened() {
    // what a and b answered the store with; whether the outcome is unknown
    let cases = [
        (FailureKind::NotDone, FailureKind::NotDone, false),
        (FailureKind::NotDone, FailureKind::Unknown, true),
        (FailureKind::Unknown, FailureKind::NotDone, true),
    ];
    for (a, b, unknown) in cases {
        let mut machine = storing(intent());
        let first = machine.on_failure(&id("a"), fails(a));
        // with c unreachable one failure decides; b is still out, so it may have it
        assert!(
            matches!(
                first,
                Step::Failed(Unmet::Unanswered {
                    may_have_written: true,
                    ..
                })
            ),
            "{a:?} {b:?}"
        );
        machine.on_failure(&id("b"), fails(b));
        let Unmet::Unanswered {
            may_have_written, ..
        } = machine.on_deadline()
        else {
            panic!("deadline");
        };
        assert_eq!(may_have_written, unknown, "{a:?} {b:?}");
    }
    let (machine, _) = WriteMachine::start(intent(), needs(), &off(&[]));
    assert!(matches!(
        machine.on_deadline(),
        Unmet::Unanswered {
            may_have_written: false,
            ..
        }
    ));
}

#[test]
fn only_if_absent_looks_at_the_winning_version() {
    let tombstone = |hlc| {
        Said::Version(Some(RecordVersion {
            present: false,
            ..record("z", 5, hlc).version()
        }))
    };
    let cases = [
        (version("z", 4, 70), Said::Version(None), true),
        (version("z", 4, 70), tombstone(71), false),
        (tombstone(69), version("z", 4, 70), true),
        (Said::Version(None), Said::Version(None), false),
    ];
    for (n, (a, b, exists)) in cases.into_iter().enumerate() {
        let create = WriteIntent {
            condition: Condition::Absent,
            ..intent()
        };
        let (mut machine, _) = WriteMachine::start(create, needs(), &off(&[]));
        machine.on_said(&id("a"), a);
        let step = machine.on_said(&id("b"), b);
        let refused = matches!(step, Step::Failed(Unmet::Precondition { .. }));
        assert_eq!(refused, exists, "case {n}");
    }
}

#[test]
fn a_new_topology_never_makes_a_second_record() {
    let mut machine = storing(intent());
    machine.on_said(&id("a"), Said::Stored);
    let moved = Needs {
        read: majorities(&[&["a", "b", "c"]]),
        write: majorities(&[&["a", "b", "c"], &["b", "d", "e"]]),
    };
    let Step::Ask(asks) = machine.regroup(Some(&id("b")), moved.clone(), &off(&["c"])) else {
        panic!("the record goes out again");
    };
    assert_eq!(asks.len(), 4);
    for (_, ask) in &asks {
        let Ask::Store(record) = ask else {
            panic!("nothing is asked again");
        };
        assert!(record.clock.covers(&dot("me", 1)));
    }
    for name in ["a", "b"] {
        assert_eq!(machine.on_said(&id(name), Said::Stored), Step::Wait);
    }
    let step = machine.on_said(&id("e"), Said::Stored);
    assert!(matches!(step, Step::Done(_)));

    // and when it fails there, a may have it from before
    let mut machine = storing(intent());
    machine.on_said(&id("a"), Said::Stored);
    let step = machine.regroup(Some(&id("b")), moved, &off(&["a", "c"]));
    assert!(matches!(
        step,
        Step::Failed(Unmet::Unanswered {
            may_have_written: true,
            ..
        })
    ));
}

#[test]
fn a_new_topology_restarts_the_query() {
    let (mut machine, _) = WriteMachine::start(intent(), needs(), &off(&[]));
    machine.on_said(&id("a"), version("z", 4, 70));
    let Step::Ask(asks) = machine.regroup(Some(&id("b")), needs(), &off(&[])) else {
        panic!("asked again");
    };
    assert!(asks.len() == 2 && asks.iter().all(|(_, ask)| *ask == Ask::Version));
    assert_eq!(machine.on_said(&id("a"), Said::Version(None)), Step::Wait);
}

fn versions(pairs: &[(&str, u64)]) -> VersionVector {
    let mut seen = VersionVector::default();
    for (node, n) in pairs {
        seen.add(&dot(node, *n));
    }
    seen
}

fn exactly(pairs: &[(&str, u64)]) -> WriteIntent {
    WriteIntent {
        condition: Condition::Exactly(versions(pairs)),
        ..intent()
    }
}

/// A conditional write of which `a` and `b` have said that they stored it; what it asks then.
fn stored_where(condition: WriteIntent) -> (WriteMachine, Step<Written>) {
    let mut machine = storing(condition);
    assert_eq!(machine.on_said(&id("a"), Said::Stored), Step::Wait);
    let step = machine.on_said(&id("b"), Said::Stored);
    (machine, step)
}

/// What a replica holds that took this write over `z`'s, and perhaps another beside it.
fn now(others: &[(&str, u64)]) -> Said {
    let mut version = record("me", 1, 71).version();
    version.clock.join(&versions(&[("z", 4)]));
    version.clock.join(&versions(others));
    Said::Version(Some(version))
}

#[test]
fn a_condition_holds_only_for_exactly_this_version() {
    for wrong in [
        &[][..],
        &[("z", 3)],
        &[("z", 5)],
        &[("z", 4), ("y", 1)],
        &[("y", 1)],
    ] {
        let (mut machine, _) = WriteMachine::start(exactly(wrong), needs(), &off(&["c"]));
        machine.on_said(&id("a"), Said::Version(None));
        let step = machine.on_said(&id("b"), version("z", 4, 70));
        let clock = versions(&[("z", 4)]);
        let present = true;
        let refused = Step::Failed(Unmet::Precondition { clock, present });
        assert_eq!(step, refused, "{wrong:?}");
        assert!(machine.owed().is_none() && machine.record().is_none());
    }
}

#[test]
fn a_conditional_write_asks_at_last_whether_it_is_alone() {
    let (mut machine, step) = stored_where(exactly(&[("z", 4)]));
    let Step::Ask(asks) = step else {
        panic!("it asks again: {step:?}");
    };
    let asked: Vec<_> = asks.iter().map(|(id, ask)| (id.as_str(), ask)).collect();
    assert_eq!(asked, [("a", &Ask::Version), ("b", &Ask::Version)]);
    assert_eq!(machine.on_said(&id("a"), now(&[])), Step::Wait);
    let step = machine.on_said(&id("b"), now(&[]));
    assert!(matches!(step, Step::Done(w) if w.successful == [id("a"), id("b")]));

    let (mut machine, _) = stored_where(exactly(&[("z", 4)]));
    machine.on_said(&id("a"), now(&[]));
    let step = machine.on_said(&id("b"), now(&[("y", 8)]));
    let clock = versions(&[("z", 4), ("me", 1), ("y", 8)]);
    assert_eq!(step, Step::Failed(Unmet::NotAlone { clock }));
    assert!(
        machine.owed().is_some(),
        "it is stored: the others are owed it"
    );

    // nobody left who could tell
    let (mut machine, _) = stored_where(exactly(&[("z", 4)]));
    let step = machine.on_failure(&id("a"), fails(FailureKind::NotDone));
    let unknown = |step: &Step<Written>| {
        matches!(
            step,
            Step::Failed(Unmet::Unanswered {
                may_have_written: true,
                ..
            })
        )
    };
    assert!(unknown(&step), "{step:?}");

    // a new ring: stored there first, then asked there
    let (mut machine, _) = stored_where(exactly(&[("z", 4)]));
    let step = machine.regroup(None, needs(), &off(&[]));
    assert!(matches!(step, Step::Ask(asks) if asks.len() == 3));
    machine.on_said(&id("a"), Said::Stored);
    let step = machine.on_said(&id("c"), Said::Stored);
    assert!(matches!(step, Step::Ask(asks) if asks.iter().all(|(_, a)| *a == Ask::Version)));
}

/// It refused the last question because it had learned of a later ring: the record it keeps.
#[test]
fn who_stored_a_write_and_refused_its_last_question_may_have_it() {
    let alone = Needs {
        read: majorities(&[&["a"]]),
        write: majorities(&[&["a"]]),
    };
    let create = WriteIntent {
        condition: Condition::Absent,
        ..intent()
    };
    let (mut machine, _) = WriteMachine::start(create, alone, &off(&[]));
    let step = machine.on_said(&id("a"), Said::Version(None));
    assert_eq!(step, Step::Stamp { seen: Hlc(0) });
    machine.stamp(dot("me", 1), Hlc(1), &off(&[]));
    let step = machine.on_said(&id("a"), Said::Stored);
    assert!(matches!(&step, Step::Ask(asks) if asks[0].1 == Ask::Version));
    let both = Needs {
        read: majorities(&[&["a", "b"]]),
        write: majorities(&[&["a", "b"]]),
    };
    let step = machine.regroup(Some(&id("a")), both, &off(&["b"]));
    let unknown = matches!(
        step,
        Step::Failed(Unmet::Unanswered {
            may_have_written: true,
            ..
        })
    );
    assert!(unknown, "{step:?}");
}

#[test]
fn other_writes_do_not_ask_again() {
    for condition in [Condition::Always, Condition::Present] {
        let (_, step) = stored_where(WriteIntent {
            condition,
            ..intent()
        });
        assert!(matches!(step, Step::Done(_)));
    }
}

#[test]
fn a_made_up_context_supersedes_nothing_unknown() {
    let forged = WriteIntent {
        context: Some(versions(&[("z", 4), ("y", u64::MAX), ("ghost", 7)])),
        ..intent()
    };
    let (mut machine, _) = WriteMachine::start(forged, needs(), &off(&[]));
    machine.on_said(&id("a"), Said::Record(Some(record("z", 4, 70))));
    machine.on_said(&id("b"), Said::Record(Some(record("y", 2, 60))));
    machine.stamp(dot("me", 1), Hlc(71), &off(&[]));
    let stored = machine.record().expect("stored").clone();
    assert_eq!(stored.clock, versions(&[("z", 4), ("y", 2), ("me", 1)]));
    let later = record("y", 3, 80);
    assert_eq!(stored.merge(&later).siblings.len(), 2, "not swallowed");
}

#[test]
fn too_many_siblings_are_refused_unless_they_are_settled() {
    let crowd = (1..=SIBLINGS_MAX as u64).fold(Record::default(), |all, n| {
        all.merge(&record(&format!("n{n}"), 1, n))
    });
    let answer = |context: Option<VersionVector>| {
        let with = WriteIntent {
            context,
            ..intent()
        };
        let (mut machine, _) = WriteMachine::start(with, needs(), &off(&[]));
        machine.on_said(&id("a"), Said::Record(Some(crowd.clone())));
        machine.on_said(&id("b"), Said::Record(None))
    };
    let step = answer(Some(versions(&[])));
    let count = SIBLINGS_MAX;
    let clock = crowd.clock.clone();
    assert_eq!(step, Step::Failed(Unmet::Siblings { clock, count }));
    let step = answer(Some(versions(&[("n1", 1)])));
    assert!(matches!(step, Step::Stamp { .. }), "one fewer fits");
    let step = answer(Some(crowd.clock.clone()));
    assert!(matches!(step, Step::Stamp { .. }), "it settles them");
}

#[test]
fn the_bytes_of_siblings_are_bounded_with_the_value_that_joins_them() {
    let bytes = |mib: usize| Some(Value::Raw(Bytes::from(vec![0; mib << 20])));
    let mut large = record("n1", 1, 1);
    large.siblings[0].value = bytes(14);
    let answer = |mib: usize, context: VersionVector| {
        let with = WriteIntent {
            value: bytes(mib),
            context: Some(context),
            ..intent()
        };
        let (mut machine, _) = WriteMachine::start(with, needs(), &off(&[]));
        machine.on_said(&id("a"), Said::Record(Some(large.clone())));
        machine.on_said(&id("b"), Said::Record(None))
    };
    let fits = |step: Step<Written>| matches!(step, Step::Stamp { .. });
    assert!(fits(answer(2, versions(&[]))));
    assert!(!fits(answer(3, versions(&[]))), "17 MiB together");
    assert!(fits(answer(3, large.clock.clone())), "it settles the other");
}

#[test]
fn the_version_query_asks_a_quorum_and_hedges() {
    let reach = Reach {
        order: ["c", "a"].map(id).to_vec(),
        ..Reach::default()
    };
    let (mut machine, step) = WriteMachine::start(intent(), needs(), &reach);
    let asked = |step: &Step<Written>| match step {
        Step::Ask(asks) => asks.iter().map(|(id, _)| id.clone()).collect(),
        _ => Vec::new(),
    };
    assert_eq!(asked(&step), [id("c"), id("a")]);
    assert_eq!(machine.on_said(&id("a"), version("z", 1, 5)), Step::Wait);
    assert_eq!(asked(&machine.on_late()), [id("b")]);
    assert!(!machine.can_hedge());
    let step = machine.on_said(&id("b"), version("z", 2, 9));
    assert_eq!(step, Step::Stamp { seen: Hlc(9) });
    let step = machine.stamp(dot("a", 1), Hlc(10), &reach);
    assert_eq!(asked(&step).len(), 3, "the record goes to all");
    assert!(!machine.can_hedge());

    let (mut machine, _) = WriteMachine::start(intent(), needs(), &reach);
    let step = machine.on_failure(&id("c"), fails(FailureKind::NotDone));
    assert_eq!(asked(&step), [id("b")], "at once");
}

#[test]
fn full_disks_everywhere_are_no_unknown_outcome() {
    let refuse = |machine: &mut WriteMachine, who| {
        machine.on_failure(&id(who), fails(FailureKind::ReadOnly))
    };
    let mut machine = sent(Consistency::Quorum);
    assert_eq!(refuse(&mut machine, "a"), Step::Wait);
    assert_eq!(
        refuse(&mut machine, "b"),
        Step::Wait,
        "c may say so as well"
    );
    let step = refuse(&mut machine, "c");
    assert!(
        matches!(step, Step::Failed(Unmet::Quorum { .. })),
        "{step:?}"
    );
    assert!(machine.owed().is_none());

    let mut machine = sent(Consistency::Quorum);
    refuse(&mut machine, "a");
    refuse(&mut machine, "b");
    let unknown = Unmet::Unanswered {
        needed: 2,
        answered: 1,
        missing: [(id("a"), "refused".into()), (id("b"), "refused".into())].into(),
        may_have_written: true,
    };
    let step = machine.on_said(&id("c"), Said::Stored);
    assert_eq!(step, Step::Failed(unknown), "somebody has it");
}

/// A machine whose record is on its way to all three.
fn sent(consistency: Consistency) -> WriteMachine {
    let intent = WriteIntent {
        consistency,
        ..intent()
    };
    let (mut machine, _) = WriteMachine::start(intent, needs(), &off(&[]));
    machine.on_said(&id("a"), Said::Version(None));
    machine.on_said(&id("b"), Said::Version(None));
    let step = machine.stamp(dot("me", 1), Hlc(71), &off(&[]));
    assert!(matches!(step, Step::Ask(asks) if asks.len() == 3));
    machine
}

#[test]
fn a_stale_write_begins_again_only_when_nobody_can_have_it() {
    use FailureKind::{NotDone, ReadOnly, Stale, Unknown};
    // what a, b and c made of the record; whether it begins again
    let cases = [
        ([Some(Stale), Some(Stale), Some(Stale)], true),
        ([Some(Stale), Some(NotDone), Some(NotDone)], true),
        ([Some(Stale), Some(ReadOnly), Some(Stale)], true),
        ([Some(Stale), Some(Unknown), Some(Stale)], false),
        ([Some(Stale), Some(Stale), None], false),
        ([Some(NotDone), Some(NotDone), Some(NotDone)], false),
    ];
    for consistency in [Consistency::Quorum, Consistency::All] {
        for (answers, again) in cases {
            let mut machine = sent(consistency);
            let mut last = Step::Wait;
            for (who, answer) in ["a", "b", "c"].into_iter().zip(answers) {
                last = match answer {
                    Some(kind) => machine.on_failure(&id(who), fails(kind)),
                    None => machine.on_said(&id(who), Said::Stored),
                };
                if matches!(last, Step::Failed(_)) {
                    break;
                }
            }
            assert_eq!(last == Step::Again, again, "{answers:?}: {last:?}");
            assert_eq!(machine.owed().is_none(), answers[2].is_some());
        }
    }
}

#[test]
fn a_write_that_begins_again_asks_what_is_there_and_takes_another_dot() {
    let mut machine = sent(Consistency::Quorum);
    for attempt in 1..=AGAIN_MAX + 1 {
        for who in ["a", "b"] {
            let step = machine.on_failure(&id(who), fails(FailureKind::Stale));
            assert_eq!(step, Step::Wait, "c may have it");
        }
        let step = machine.on_failure(&id("c"), fails(FailureKind::Stale));
        if attempt > AGAIN_MAX {
            assert!(matches!(step, Step::Failed(Unmet::Quorum { .. })));
            return;
        }
        assert_eq!(step, Step::Again);
        let Step::Ask(asks) = machine.begin_again(&off(&[])) else {
            panic!("it asks");
        };
        assert!(asks.iter().all(|(_, ask)| *ask == Ask::Version));
        // meanwhile somebody else wrote
        machine.on_said(&id("a"), version("z", 9, 90));
        let step = machine.on_said(&id("b"), Said::Version(None));
        assert_eq!(step, Step::Stamp { seen: Hlc(90) });
        let counter = u64::from(attempt) + 1;
        let step = machine.stamp(dot("me", counter), Hlc(91), &off(&[]));
        assert!(matches!(step, Step::Ask(asks) if asks.len() == 3));
        let record = machine.record().expect("on its way");
        assert!(record.clock.covers(&dot("z", 9)));
        assert_eq!(record.siblings[0].dot, dot("me", counter));
    }
    panic!("it never gives up");
}
