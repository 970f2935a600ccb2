//! The rules by example, and whole changes walked through.

use ringmaster_shared::topology::ChangeKind;

use super::*;
use crate::topology::fixture::{id, topology};

const LONG: Duration = Duration::from_secs(60);

fn sighting(name: &str, lifecycle: Lifecycle) -> Sighting {
    Sighting {
        id: id(name),
        address: format!("{name}:1"),
        zone: "default".into(),
        status: MemberStatus::Alive,
        lifecycle,
        since: LONG,
    }
}

fn serving(names: &[&str]) -> Vec<Sighting> {
    names
        .iter()
        .map(|n| sighting(n, Lifecycle::Serving))
        .collect()
}

/// A cluster as one of its drivers knows it.
struct Case {
    me: NodeId,
    topology: Topology,
    sightings: Vec<Sighting>,
    progress: BTreeMap<NodeId, Progress>,
    in_epoch: Duration,
}

impl Case {
    fn new(names: &[&str], joiner: Option<&str>) -> Self {
        let mut sightings = serving(names);
        sightings.extend(joiner.map(|j| sighting(j, Lifecycle::Joining)));
        Self {
            me: id(names[0]),
            topology: topology(7, names),
            sightings,
            progress: BTreeMap::new(),
            in_epoch: Duration::from_secs(1),
        }
    }

    /// The same cluster in the midst of taking somebody in.
    fn in_step(names: &[&str], joiner: &str, step: Step) -> Self {
        let mut case = Self::new(names, Some(joiner));
        case.topology = case.proposed(Purpose::Join);
        if step == Step::Dual {
            case.all_answer(true);
            case.topology = case.proposed(Purpose::ReadFromBoth);
        }
        case.progress.clear();
        case
    }

    fn decide(&self) -> Decision {
        decide(&Situation {
            me: &self.me,
            topology: &self.topology,
            sightings: &self.sightings,
            progress: &self.progress,
            in_epoch: self.in_epoch,
        })
    }

    fn proposed(&self, want: Purpose) -> Topology {
        match self.decide() {
            Decision::Propose { next, purpose } if purpose == want => {
                assert!(next.is_well_formed());
                assert_eq!(next.epoch, self.topology.epoch + 1);
                *next
            }
            other => panic!("wanted {want:?}, got {other:?}"),
        }
    }

    fn awaited(&self) -> Vec<String> {
        match self.decide() {
            Decision::Await(whom) => whom.iter().map(ToString::to_string).collect(),
            other => panic!("wanted to wait, got {other:?}"),
        }
    }

    fn answer(&mut self, name: &str, settled: Epoch, filled: bool) {
        self.progress.insert(id(name), Progress { settled, filled });
    }

    fn all_answer(&mut self, filled: bool) {
        for m in self.topology.members.clone() {
            self.answer(m.id.as_str(), self.topology.epoch, filled);
        }
    }

    fn see(&mut self, name: &str) -> &mut Sighting {
        self.sightings
            .iter_mut()
            .find(|s| s.id == id(name))
            .expect("is there")
    }
}

#[test]
fn a_settled_cluster_rests() {
    assert_eq!(Case::new(&["a", "b", "c"], None).decide(), Decision::Rest);
}

#[test]
fn a_join_goes_through_its_steps() {
    let mut case = Case::new(&["a", "b", "c"], Some("d"));
    let filling = case.proposed(Purpose::Join);
    assert_eq!(filling.table, case.topology.table, "nothing moved yet");
    assert!(filling.is_joining(&id("d")) && filling.members.len() == 4);
    assert_eq!(filling.voters(), case.topology.voters());

    case.topology = filling;
    case.all_answer(true);
    let dual = case.proposed(Purpose::ReadFromBoth);
    assert_eq!(dual.transition.as_ref().map(|t| t.step), Some(Step::Dual));

    case.topology = dual;
    assert_eq!(
        case.awaited(),
        ["a", "b", "c", "d"],
        "old answers are about the old epoch"
    );
    case.all_answer(true);
    let done = case.proposed(Purpose::Finish);
    assert_eq!(done.transition, None);
    assert!(!done.replicas(0).is_empty() && done.voters().len() == 4);
    assert_eq!(
        done.table,
        case.topology.transition.expect("a change").target
    );
}

#[test]
fn joiners_are_collected_but_not_for_ever() {
    let ms = Duration::from_millis;
    let mut case = Case::new(&["a"], Some("b"));
    case.sightings.push(sighting("c", Lifecycle::Joining));
    let table = [
        // b since, c since, wait
        (ms(100), ms(0), Some(JOIN_QUIET)),
        (ms(500), ms(300), Some(ms(100))),
        (ms(1400), ms(0), Some(ms(100))),
        (ms(500), ms(400), None),
        (ms(1500), ms(10), None),
    ];
    for (b, c, wait) in table {
        case.see("b").since = b;
        case.see("c").since = c;
        match (case.decide(), wait) {
            (Decision::Later(left), Some(want)) => assert_eq!(left, want),
            (Decision::Propose { next, .. }, None) => assert_eq!(next.members.len(), 3),
            (other, _) => panic!("{b:?} {c:?}: {other:?}"),
        }
    }
}

#[test]
fn only_those_who_want_in_are_taken_in() {
    let cases = [
        (MemberStatus::Suspected, Lifecycle::Joining),
        (MemberStatus::Dead, Lifecycle::Joining),
        (MemberStatus::Stopped, Lifecycle::Stopped),
        (MemberStatus::Alive, Lifecycle::Standby),
    ];
    for (status, lifecycle) in cases {
        let mut case = Case::new(&["a"], Some("b"));
        case.see("b").status = status;
        case.see("b").lifecycle = lifecycle;
        assert_eq!(case.decide(), Decision::Rest, "{status:?} {lifecycle:?}");
    }
}

#[test]
fn one_proposes_and_the_next_takes_over() {
    let mut case = Case::new(&["a", "b", "c"], Some("d"));
    case.me = id("b");
    case.see("d").since = JOIN_QUIET;
    assert_eq!(
        case.decide(),
        Decision::Later(PROPOSER_PATIENCE.saturating_sub(JOIN_QUIET))
    );
    case.see("d").since = PROPOSER_PATIENCE;
    case.proposed(Purpose::Join);
    case.see("d").since = JOIN_QUIET;
    case.see("a").lifecycle = Lifecycle::Draining;
    case.proposed(Purpose::Join);
    case.see("b").lifecycle = Lifecycle::Draining;
    assert_eq!(case.decide(), Decision::Rest, "who drains proposes nothing");
    case.me = id("d");
    assert_eq!(
        case.decide(),
        Decision::Rest,
        "who is not in the ring proposes nothing"
    );
}

#[test]
fn filling_waits_for_a_quorum_of_the_old_and_all_of_the_new() {
    let mut case = Case::in_step(&["a", "b", "c"], "d", Step::Filling);
    let epoch = case.topology.epoch;
    assert_eq!(case.awaited(), ["a", "b", "c", "d"]);
    case.answer("a", epoch, false);
    case.answer("b", epoch - 1, true);
    case.answer("d", epoch, true);
    assert_eq!(case.awaited(), ["b", "c"], "one of three is no quorum");
    case.answer("c", epoch, false);
    case.answer("d", epoch, false);
    assert_eq!(case.awaited(), ["d"], "settled but not filled");
    case.answer("d", epoch - 1, true);
    assert_eq!(case.awaited(), ["d"], "filled but not settled");
    case.answer("d", epoch, true);
    case.proposed(Purpose::ReadFromBoth);
}

#[test]
fn dual_waits_for_a_quorum_of_both() {
    let mut case = Case::in_step(&["a"], "b", Step::Dual);
    let epoch = case.topology.epoch;
    case.answer("a", epoch, true);
    assert_eq!(case.awaited(), ["b"], "two of two are needed of the new");
    case.answer("b", epoch, true);
    case.proposed(Purpose::Finish);

    let mut case = Case::in_step(&["a", "b", "c"], "d", Step::Dual);
    let epoch = case.topology.epoch;
    case.answer("a", epoch, true);
    case.answer("d", epoch, true);
    assert!(
        !case.awaited().is_empty(),
        "a quorum of the new, not of the old"
    );
    case.answer("b", epoch, true);
    case.answer("c", epoch, true);
    case.proposed(Purpose::Finish);
}

/// The others have what it held, and it gets that back afterwards.
#[test]
fn one_that_lost_its_data_does_not_hold_up_the_end() {
    let cases: [(&[&str], &str, &[&str]); 3] = [
        (&["a", "b", "c"], "d", &["a", "b", "d"]),
        // whichever of the two it is, the other has all
        (&["a"], "b", &["a", "b"]),
        (&["a", "b"], "c", &["a", "c"]),
    ];
    for (names, joiner, losers) in cases {
        let mut case = Case::in_step(names, joiner, Step::Dual);
        for lost in losers {
            case.all_answer(true);
            case.answer(lost, case.topology.epoch, false);
            case.proposed(Purpose::Finish);
        }
    }
}

#[test]
fn a_change_is_undone_when_the_new_replicas_lost_what_the_old_ones_have() {
    let mut case = Case::in_step(&["a", "b", "c"], "d", Step::Dual);
    let before = topology(7, &["a", "b", "c"]);
    let undone = |case: &Case| {
        let back = case.proposed(Purpose::Undo);
        assert_eq!(
            (&back.members, &back.table),
            (&before.members, &before.table)
        );
    };
    case.all_answer(true);
    case.answer("d", case.topology.epoch, false);
    case.progress.remove(&id("c"));
    assert_eq!(case.awaited(), ["c"], "it may answer yet");
    case.in_epoch = GAINER_DOWN_MAX;
    assert_eq!(case.awaited(), ["c"]);
    case.in_epoch += Duration::from_millis(1);
    undone(&case);
    case.in_epoch = EPOCH_CHANCE;
    case.see("c").status = MemberStatus::Dead;
    undone(&case);
    case.see("c").since = GAINER_DOWN_MAX;
    assert_eq!(case.awaited(), ["c"], "it may come back");
    case.answer("c", case.topology.epoch, true);
    case.proposed(Purpose::Finish);
    // the old ones have not all either: what was copied to the new ones is not thrown away
    for lost in ["b", "c"] {
        case.answer(lost, case.topology.epoch, false);
    }
    case.proposed(Purpose::Finish);
}

#[test]
fn where_nobody_gains_those_that_go_may_be_the_last_that_have_it() {
    for (names, lost) in [(&["a", "b", "c"][..], "b"), (&["a", "b"], "b")] {
        let begin = |t: &Topology| steps::without_member(t, ChangeKind::Leave, &id("a"), &[]);
        let mut case = under_way(names, None, begin);
        assert!(gainers(&case.topology).is_empty());
        case.all_answer(true);
        case.topology = case.proposed(Purpose::ReadFromBoth);
        case.all_answer(true);
        case.proposed(Purpose::Finish);
        case.answer(lost, case.topology.epoch, false);
        case.proposed(Purpose::Undo);
    }
}

#[test]
fn a_change_is_given_up_when_a_joiner_stays_away() {
    for step in [Step::Filling, Step::Dual] {
        let mut case = Case::in_step(&["a", "c"], "b", step);
        let old = topology(7, &["a", "c"]);
        case.in_epoch = LONG;
        case.see("b").status = MemberStatus::Dead;
        case.see("b").since = GAINER_DOWN_MAX;
        case.awaited();
        case.see("b").since = GAINER_DOWN_MAX + Duration::from_millis(1);
        let back = case.proposed(Purpose::Abort);
        assert_eq!(
            (&back.members, &back.table),
            (&old.members, &old.table),
            "{step:?}"
        );
        assert_eq!(back.transition, None);

        case.in_epoch = Duration::from_secs(1);
        case.awaited();
        case.in_epoch = LONG;
        case.sightings.retain(|s| s.id != id("b"));
        case.proposed(Purpose::Abort);
        case.all_answer(true);
        assert!(
            !matches!(
                case.decide(),
                Decision::Propose {
                    purpose: Purpose::Abort,
                    ..
                }
            ),
            "what can be finished is finished"
        );
    }
}

#[test]
fn a_join_does_not_begin_with_a_dead_gainer() {
    // with a replication factor of 3, two members and one joiner only the joiner gains
    let mut case = Case::new(&["a", "b"], Some("c"));
    case.see("b").status = MemberStatus::Dead;
    case.proposed(Purpose::Join);
    // a new zone draws replicas to the only member that is in it, which is not there
    let mut case = Case::new(&["a", "b", "c", "d"], Some("e"));
    case.topology.members[3].zone = "other".into();
    case.see("d").status = MemberStatus::Dead;
    assert_eq!(case.decide(), Decision::Blocked(BTreeSet::from([id("d")])));
}

#[test]
fn a_new_address_is_written_down() {
    let mut case = Case::new(&["a", "b"], Some("c"));
    case.see("b").address = "elsewhere:9".into();
    case.see("b").since = ADDRESS_QUIET / 2;
    assert_eq!(case.decide(), Decision::Later(ADDRESS_QUIET / 2));
    case.see("b").since = LONG;
    let next = case.proposed(Purpose::NewDescription);
    assert_eq!(
        next.member(&id("b")).expect("member").address,
        "elsewhere:9"
    );
    assert_eq!(
        (next.table, next.transition),
        (case.topology.table.clone(), None)
    );
    case.see("b").status = MemberStatus::Dead;
    case.proposed(Purpose::Join);
}

/// A case in the midst of a change that somebody planned.
fn under_way(names: &[&str], candidate: Option<&str>, begin: fn(&Topology) -> Topology) -> Case {
    let mut case = Case::new(names, None);
    let waits = candidate.map(|c| sighting(c, Lifecycle::Candidate));
    case.sightings.extend(waits);
    case.topology = begin(&case.topology);
    assert!(case.topology.is_well_formed());
    case
}

#[test]
fn every_kind_of_change_goes_through_the_same_steps() {
    type Begin = fn(&Topology) -> Topology;
    /// Members, candidate, first step, members afterwards.
    type Example = (
        &'static [&'static str],
        Option<&'static str>,
        Begin,
        &'static [&'static str],
    );
    let cases: [Example; 5] = [
        (
            &["a", "b", "c", "d"],
            None,
            |t| steps::without_member(t, ChangeKind::Leave, &id("b"), &[]),
            &["a", "c", "d"],
        ),
        (
            &["a", "b", "c"],
            None,
            |t| steps::without_member(t, ChangeKind::Leave, &id("a"), &[]),
            &["b", "c"],
        ),
        (
            &["a", "b", "c", "d"],
            None,
            |t| steps::without_member(t, ChangeKind::Remove, &id("b"), &[]),
            &["a", "c", "d"],
        ),
        (
            &["a", "b", "c"],
            Some("d"),
            |t| steps::replacing(t, &id("b"), &topology(1, &["d"]).members[0]),
            &["a", "c", "d"],
        ),
        (
            &["a", "b", "c", "d"],
            None,
            |t| {
                let mut zoned = t.clone();
                for (m, zone) in zoned.members.iter_mut().zip(["x", "x", "y", "z"]) {
                    m.zone = zone.into();
                }
                steps::rebalancing(&zoned)
            },
            &["a", "b", "c", "d"],
        ),
    ];
    for (names, candidate, begin, after) in cases {
        let mut case = under_way(names, candidate, begin);
        let change = case.topology.transition.clone().expect("a change");
        let dead = matches!(change.kind, ChangeKind::Remove | ChangeKind::Replace);
        for step in [Purpose::ReadFromBoth, Purpose::Finish] {
            case.progress.clear();
            case.awaited();
            case.all_answer(true);
            if dead {
                // who is removed answers nothing, and a quorum of the old is there without it
                case.progress.remove(&id("b"));
            }
            let voters = case.topology.voters();
            assert_eq!(voters.len(), names.len(), "a leaver votes until the end");
            case.topology = case.proposed(step);
        }
        let members: Vec<&str> = case
            .topology
            .members
            .iter()
            .map(|m| m.id.as_str())
            .collect();
        assert_eq!(members, after, "{change:?}");
        assert_eq!(case.topology.voters().len(), after.len());
        let rows = 0..case.topology.partition_count();
        for p in rows {
            assert_eq!(case.topology.replicas(p).len(), after.len().min(3));
        }
    }
}

#[test]
fn a_leaver_drives_and_its_death_stops_nothing() {
    let begin = |t: &Topology| steps::without_member(t, ChangeKind::Leave, &id("a"), &[]);
    let mut case = under_way(&["a", "b", "c", "d"], None, begin);
    case.all_answer(true);
    case.proposed(Purpose::ReadFromBoth);
    // it dies: the next in line goes on, without an answer of the leaver
    case.me = id("b");
    case.see("a").status = MemberStatus::Dead;
    case.progress.remove(&id("a"));
    case.in_epoch = LONG;
    case.topology = case.proposed(Purpose::ReadFromBoth);
    case.progress.clear();
    case.all_answer(true);
    case.progress.remove(&id("a"));
    case.proposed(Purpose::Finish);
    // but not without a quorum of the old replicas
    case.progress.remove(&id("b"));
    case.progress.remove(&id("c"));
    case.awaited();
}

#[test]
fn a_leave_is_given_up_when_one_that_gains_stays_away() {
    let begin = |t: &Topology| steps::without_member(t, ChangeKind::Leave, &id("d"), &[]);
    let mut case = under_way(&["a", "b", "c", "d"], None, begin);
    case.in_epoch = LONG;
    case.see("b").status = MemberStatus::Dead;
    case.see("b").since = LONG;
    let back = case.proposed(Purpose::Abort);
    let before = topology(7, &["a", "b", "c", "d"]);
    assert_eq!((back.members, back.table), (before.members, before.table));
    // a leaver that stays away is no reason
    case.see("b").status = MemberStatus::Alive;
    case.see("d").status = MemberStatus::Dead;
    case.see("d").since = LONG;
    case.awaited();
}

#[test]
fn a_new_zone_is_written_down_and_moves_nothing() {
    let mut case = Case::new(&["a", "b"], None);
    case.see("b").zone = "west".into();
    let next = case.proposed(Purpose::NewDescription);
    assert_eq!(next.member(&id("b")).expect("member").zone, "west");
    assert_eq!(next.table, case.topology.table);
}

#[test]
fn a_candidate_waits_to_be_asked() {
    let mut case = Case::new(&["a"], Some("b"));
    case.see("b").lifecycle = Lifecycle::Candidate;
    assert_eq!(case.decide(), Decision::Rest);
}
