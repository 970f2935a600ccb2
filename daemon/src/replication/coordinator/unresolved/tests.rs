use ringmaster_shared::{
    api::data::Consistency,
    clock::Hlc,
    version::{Record, VersionVector},
};

use super::*;
use crate::replication::{
    coordinator::{
        read::ReadMachine,
        round::{Ask, Breaks, Said, Step, Unmet},
        write::{Condition, Needs, WriteIntent, WriteMachine, Written},
    },
    testing::{alone, dot_of, id, key, majorities, number, off, record, sibling},
};

fn at_risk(unresolved: &Unresolved, epoch: u64, k: &str, seen: &VersionVector) -> bool {
    let actor = dot_of("me", epoch, 1).actor;
    unresolved.is_at_risk(&actor, &key(k), |dot| !seen.covers(dot))
}

#[test]
fn only_what_is_unresolved_and_unseen_is_at_risk() {
    let unresolved = Unresolved::default();
    let nothing = VersionVector::default();
    let clock = |counter| alone(sibling(dot_of("me", 5, counter), 1, 1)).clock;
    unresolved.note(&key("k"), &dot_of("me", 5, 7));
    unresolved.note(&key("k"), &dot_of("me", 5, 9));
    unresolved.note(&key("k"), &dot_of("me", 5, 8));
    let cases = [
        (5, "k", nothing.clone(), true),
        (5, "k", clock(8), true),
        (5, "k", clock(9), false),
        (5, "other", nothing.clone(), false),
        // another actor by now
        (6, "k", nothing.clone(), false),
    ];
    for (epoch, k, seen, wants) in cases {
        assert_eq!(at_risk(&unresolved, epoch, k, &seen), wants, "{epoch} {k}");
    }
    unresolved.settle(&key("k"), &dot_of("me", 5, 8));
    assert!(at_risk(&unresolved, 5, "k", &nothing), "9 is open still");
    unresolved.settle(&key("k"), &dot_of("me", 5, 9));
    assert!(!at_risk(&unresolved, 5, "k", &nothing));
}

#[test]
fn another_actor_begins_with_nothing_unresolved() {
    let unresolved = Unresolved::default();
    let nothing = VersionVector::default();
    unresolved.note(&key("a"), &dot_of("me", 5, 7));
    unresolved.note(&key("b"), &dot_of("me", 6, 1));
    // it had drawn its dot before, and ended after
    unresolved.note(&key("c"), &dot_of("me", 5, 8));
    let risks = ["a", "b", "c"].map(|k| at_risk(&unresolved, 6, k, &nothing));
    assert_eq!(risks, [false, true, false]);
    unresolved.settle(&key("b"), &dot_of("me", 5, 9));
    assert!(at_risk(&unresolved, 6, "b", &nothing));
}

#[test]
fn when_too_many_are_unresolved_every_key_is_at_risk() {
    let unresolved = Unresolved::default();
    let clock = alone(sibling(dot_of("me", 5, u64::MAX), 1, 1)).clock;
    for n in 0..KEYS_MAX as u64 {
        unresolved.note(&key(&n.to_string()), &dot_of("me", 5, n + 1));
    }
    assert!(!at_risk(&unresolved, 5, "more", &VersionVector::default()));
    unresolved.note(&key("more"), &dot_of("me", 5, 1 << 40));
    for k in ["more", "7", "never"] {
        assert!(at_risk(&unresolved, 5, k, &clock), "{k}");
    }
    unresolved.note(&key("k"), &dot_of("me", 6, 1));
    assert!(!at_risk(&unresolved, 6, "7", &VersionVector::default()));
}

/// Each change costs the keys written under it something for good.
#[test]
fn the_actor_is_changed_rarely() {
    let begin = Instant::now();
    let mut changes = Changes::default();
    let taken = (0..100).filter(|_| changes.take(begin)).count();
    assert_eq!(taken, CHANGES_MAX as usize, "in a row");
    let mut later = 0;
    // asked every second for an hour
    for second in 1..=3600 {
        later += u32::from(changes.take(begin + Duration::from_secs(second)));
    }
    assert_eq!(later, 30, "one every two minutes");
    let days = begin + Duration::from_secs(3 * 24 * 3600);
    let taken = (0..100).filter(|_| changes.take(days)).count();
    assert_eq!(taken, CHANGES_MAX as usize, "and never more at once");
}

/// The write is refused before anything is sent, and others go on.
#[tokio::test(start_paused = true)]
async fn a_write_that_would_need_too_many_changes_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let identity = IdentityStore::open(dir.path(), &id("me")).expect("opens");
    let unresolved = Unresolved::default();
    for n in 0..=CHANGES_MAX {
        let dot = identity.next_dot().expect("given");
        unresolved.note(&key("k"), &dot);
        let spared = unresolved.spare(&identity, &key("k"), |_| true).await;
        let wanted = if n < CHANGES_MAX {
            Ok(())
        } else {
            Err(NotSpared::TooOften)
        };
        assert_eq!(spared, wanted, "{n}");
    }
    let other = unresolved.spare(&identity, &key("other"), |_| true).await;
    assert_eq!(other, Ok(()), "a key of which nothing is open");
}

fn needs() -> Needs {
    Needs {
        read: majorities(&[&["a", "b", "c"]]),
        write: majorities(&[&["a", "b", "c"]]),
    }
}

fn begin(condition: Condition, context: Option<VersionVector>) -> WriteMachine {
    let intent = WriteIntent {
        value: Some(number(1)),
        context,
        condition,
        consistency: Consistency::Quorum,
        breaks: Breaks::default(),
    };
    // its query asks b and c
    let (machine, step) = WriteMachine::start(intent, needs(), &off(&["a"]));
    assert!(matches!(step, Step::Ask(asks) if asks.len() == 2));
    machine
}

fn stored(step: &Step<Written>) -> Record {
    let Step::Ask(asks) = step else {
        panic!("it is stored: {step:?}");
    };
    let Ask::Store(record) = &asks[0].1 else {
        panic!("it is stored: {asks:?}");
    };
    (**record).clone()
}

/// A write of unknown outcome that only `a` has; the client tries again with what it had read, through
/// the same coordinator, which asks `b` and `c`. Before that is stored somebody reads the first at
/// `a`, which brings it to `b`. What `b` holds then, and how the second write ends.
fn retried(
    careful: bool,
    condition: Condition,
    context: Option<&VersionVector>,
) -> (Record, Step<Written>) {
    let before = record("z", 4, 70);
    let lost = dot_of("me", 5, 1);
    let first = Record::written(&before, &before.clock, sibling(lost.clone(), 71, 1));
    let unresolved = Unresolved::default();
    unresolved.note(&key("k"), &lost);

    let mut second = begin(condition, context.cloned());
    for who in ["b", "c"] {
        let said = match context {
            Some(_) => Said::Record(Some(before.clone())),
            None => Said::Version(Some(before.version())),
        };
        second.on_said(&id(who), said);
    }
    let at_risk = second.could_swallow()
        && unresolved.is_at_risk(&lost.actor, &key("k"), |dot| !second.has_seen(dot));
    assert!(at_risk);
    let own = if careful {
        dot_of("me", 6, 1)
    } else {
        dot_of("me", 5, 2)
    };
    let step = second.stamp(own, Hlc(72), &off(&[]));
    let second_record = stored(&step);

    let (mut reader, _) = ReadMachine::start(
        Consistency::Quorum,
        Breaks::default(),
        needs(),
        &off(&["c"]),
    );
    reader.on_said(&id("a"), Said::Record(Some(first.clone())));
    let step = reader.on_said(&id("b"), Said::Record(Some(before.clone())));
    assert!(matches!(step, Step::Ask(_)), "it is brought to b: {step:?}");
    let step = reader.on_said(&id("b"), Said::Stored);
    assert!(matches!(step, Step::Done(done) if done.record.siblings[0].dot == lost));

    let at_b = before.merge(&first).merge(&second_record);
    let at_c = before.merge(&second_record);
    second.on_said(&id("b"), Said::Stored);
    let mut step = second.on_said(&id("c"), Said::Stored);
    if matches!(step, Step::Ask(_)) {
        second.on_said(&id("c"), Said::Version(Some(at_c.version())));
        step = second.on_said(&id("b"), Said::Version(Some(at_b.version())));
    }
    (at_b, step)
}

#[test]
fn what_was_read_of_a_write_with_unknown_outcome_is_not_swallowed_by_the_next() {
    let before = record("z", 4, 70).clock;
    let lost = dot_of("me", 5, 1);
    let holds = |at: &Record| at.siblings.iter().any(|s| s.dot == lost);

    let exactly = Condition::Exactly(before.clone());
    let (at_b, step) = retried(true, exactly.clone(), None);
    assert!(
        matches!(step, Step::Failed(Unmet::NotAlone { .. })),
        "{step:?}"
    );
    assert!(holds(&at_b));
    let (at_b, step) = retried(true, Condition::Always, Some(&before));
    assert!(matches!(step, Step::Done(_)), "{step:?}");
    assert!(holds(&at_b), "it stays beside it");

    // as the same actor it would be answered well, over what somebody has read
    let (at_b, step) = retried(false, exactly, None);
    assert!(matches!(step, Step::Done(_)) && !holds(&at_b));
    let (at_b, _) = retried(false, Condition::Always, Some(&before));
    assert!(!holds(&at_b));
}
