//! Plans by example: what each change comes to, what stands in its way, and what is said of it.

use ringmaster_shared::member::{Load, RingStamp};

use super::*;
use crate::topology::fixture::{id, other_cluster, topology};

fn state(name: &str, status: MemberStatus, lifecycle: Lifecycle) -> MemberState {
    MemberState {
        id: id(name),
        address: format!("{name}:1"),
        zone: "default".into(),
        version: String::new(),
        status,
        lifecycle,
        generation: 1,
        incarnation: 0,
        ring: RingStamp::default(),
        load: Load {
            bytes_on_disk: 16_000,
            ..Load::default()
        },
    }
}

/// A settled cluster in which everybody serves.
struct Case {
    ring: Topology,
    members: Vec<MemberState>,
}

impl Case {
    fn new(names: &[&str]) -> Self {
        let serving = |n: &&str| state(n, MemberStatus::Alive, Lifecycle::Serving);
        Self {
            ring: topology(5, names),
            members: names.iter().map(serving).collect(),
        }
    }

    fn candidate(mut self, name: &str) -> Self {
        let waits = state(name, MemberStatus::Alive, Lifecycle::Candidate);
        self.members.push(waits);
        self
    }

    fn with(mut self, name: &str, status: MemberStatus) -> Self {
        let at = self.members.iter().position(|m| m.id == id(name));
        self.members[at.expect("is there")].status = status;
        self
    }

    fn dead(self, name: &str) -> Self {
        self.with(name, MemberStatus::Dead)
    }

    fn picture(&self) -> Picture<'_> {
        Picture {
            topology: &self.ring,
            members: &self.members,
        }
    }

    fn plan(&self, change: &Change) -> Plan {
        plan(&self.picture(), change)
    }

    /// The only obstacle.
    fn obstacle(&self, change: &Change) -> String {
        let obstacles = self.plan(change).response.obstacles;
        assert_eq!(obstacles.len(), 1, "{obstacles:?}");
        obstacles[0].clone()
    }

    fn going_on(&self, change: &Change) -> Self {
        let plan = self.plan(change);
        assert_eq!(plan.response.obstacles, Vec::<String>::new());
        Self {
            ring: plan.next.expect("a change"),
            members: self.members.clone(),
        }
    }
}

fn leave(name: &str) -> Change {
    Change::Leave { node: id(name) }
}

fn remove(name: &str) -> Change {
    Change::Remove { node: id(name) }
}

fn replace(dead: &str, with: &str) -> Change {
    Change::Replace {
        dead: id(dead),
        with: id(with),
    }
}

fn join(names: &[&str]) -> Change {
    Change::Join {
        nodes: names.iter().map(|n| id(n)).collect(),
    }
}

#[test]
fn each_change_comes_to_what_it_says() {
    let four = || Case::new(&["a", "b", "c", "d"]);
    let cases: [(Case, Change, ChangeKind, &str, &str); 4] = [
        (
            Case::new(&["a", "b", "c"]).candidate("d"),
            join(&["d"]),
            ChangeKind::Join,
            "d",
            "",
        ),
        (four(), leave("b"), ChangeKind::Leave, "", "b"),
        (four().dead("b"), remove("b"), ChangeKind::Remove, "", "b"),
        (
            four().dead("b").candidate("e"),
            replace("b", "e"),
            ChangeKind::Replace,
            "e",
            "b",
        ),
    ];
    for (case, change, kind, joins, leaves) in cases {
        let Plan { response, next } = case.plan(&change);
        assert_eq!(response.obstacles, Vec::<String>::new(), "{change:?}");
        let next = next.expect("a change");
        assert!(next.is_well_formed(), "{change:?}");
        assert_eq!(
            next.voters(),
            case.ring.voters(),
            "nobody votes more or less yet"
        );
        let t = next.transition.as_ref().expect("a change");
        assert_eq!(t.kind, kind);
        let names = |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect::<String>();
        assert_eq!(
            (names(&t.joining), names(&t.leaving)),
            (joins.into(), leaves.into())
        );
        assert_eq!(response.partitions_moved, 12);
        assert_eq!(response.copies.values().sum::<usize>(), 12);
        assert!(
            response.summary.contains("12 partitions"),
            "{}",
            response.summary
        );
        assert!(response.bytes_moved > 0);
        assert_eq!(response.after.iter().map(|s| s.replicas).sum::<usize>(), 48);
        assert!(!response.after.iter().any(|s| s.node_id.as_str() == leaves));
        assert!(!response.before.iter().any(|s| s.node_id.as_str() == joins));
        assert_eq!((response.table.len(), response.target.len()), (16, 16));
    }
    // exactly the place of the dead one
    let plan = four()
        .dead("b")
        .candidate("e")
        .plan(&replace("b", "e"))
        .response;
    let at = |name: &str| {
        plan.members
            .iter()
            .position(|m| *m == id(name))
            .map(|i| i as u16)
    };
    for (old, new) in plan.table.iter().zip(&plan.target) {
        let swapped: Vec<u16> = old
            .iter()
            .map(|i| {
                if Some(*i) == at("b") {
                    at("e").expect("there")
                } else {
                    *i
                }
            })
            .collect();
        assert_eq!(*new, swapped);
    }
}

#[test]
fn rebalancing_moves_only_when_there_is_something_to_gain() {
    let balanced = Case::new(&["a", "b", "c", "d"]);
    let why = balanced.obstacle(&Change::Rebalance {});
    assert!(why.contains("nothing to move"), "{why}");
    let mut zones = Case::new(&["a", "b", "c", "d"]);
    for (m, zone) in zones.ring.members.iter_mut().zip(["x", "x", "y", "z"]) {
        m.zone = zone.into();
    }
    let plan = zones.plan(&Change::Rebalance {});
    assert!(plan.response.partitions_moved > 0);
    let next = plan.next.expect("a change");
    let zone_of = |i: &u16| next.members[usize::from(*i)].zone.clone();
    for row in target(&next) {
        let zones: std::collections::BTreeSet<String> = row.iter().map(zone_of).collect();
        assert_eq!(zones.len(), 3, "each partition is in all zones");
    }
}

#[test]
fn obstacles_are_told_in_words() {
    let three = || Case::new(&["a", "b", "c"]);
    let cases = [
        (
            three(),
            leave("x"),
            "x is no member of the ring (members: a, b, c)",
        ),
        (Case::new(&["a"]), leave("a"), "the last one cannot leave"),
        (three().dead("b"), leave("b"), "start it, or remove it"),
        (three(), remove("b"), "b answers: use leave"),
        (
            three().with("b", MemberStatus::Suspected),
            remove("b"),
            "only suspected",
        ),
        (
            three(),
            join(&["d"]),
            "d is not seen: start it with --join manual",
        ),
        (three(), join(&["b"]), "b is a member of the ring already"),
        (three().candidate("d"), join(&["d", "d"]), "named twice"),
        (three(), join(&[]), "name the nodes"),
        (three().candidate("d"), replace("b", "d"), "b answers"),
        (three().dead("b"), replace("b", "d"), "d is not seen"),
        (
            three().dead("b"),
            replace("b", "c"),
            "c is a member of the ring already",
        ),
        (three(), Change::Cancel {}, "nothing to cancel"),
        (
            three().candidate("d").going_on(&join(&["d"])),
            leave("b"),
            "a change is under way (d joins)",
        ),
        (
            three().going_on(&leave("c")),
            Change::Rebalance {},
            "c is leaving",
        ),
    ];
    for (case, change, want) in cases {
        let why = case.obstacle(&change);
        assert!(why.contains(want), "{change:?}: {why}");
        assert_eq!(case.plan(&change).next, None);
    }
}

#[test]
fn a_change_that_could_not_get_on_is_not_begun() {
    // without a majority of the voters nothing is decided
    let two = Case::new(&["a", "b"]).dead("b");
    let obstacles = two.plan(&remove("b")).response.obstacles;
    assert!(
        obstacles[0].contains("1 of its 2 voters answer, 2 are needed"),
        "{obstacles:?}"
    );
    assert!(
        obstacles.iter().any(|o| o.contains("lost their quorum")),
        "{obstacles:?}"
    );
    // three are left with two, one of whom is down
    let three = Case::new(&["a", "b", "c"]).dead("b");
    let obstacles = three.plan(&leave("c")).response.obstacles;
    assert!(
        obstacles
            .iter()
            .any(|o| o.contains("could not be written: b must be back")),
        "{obstacles:?}"
    );
    // a partition of which two of three are down has no quorum to fill from
    let six = Case::new(&["a", "b", "c", "d", "e", "f"])
        .dead("a")
        .dead("b");
    let obstacles = six.plan(&remove("a")).response.obstacles;
    assert!(
        obstacles.iter().any(|o| o.contains("lost their quorum")),
        "{obstacles:?}"
    );
    assert!(
        obstacles.iter().any(|o| o.contains("b would take over")),
        "{obstacles:?}"
    );
    // who lost its data is no source
    let mut refilled = Case::new(&["a", "b", "c", "d"]).dead("d");
    refilled.members[0].lifecycle = Lifecycle::Recovering;
    let obstacles = refilled.plan(&remove("d")).response.obstacles;
    assert!(
        obstacles.iter().any(|o| o.contains("lost their quorum")),
        "{obstacles:?}"
    );
}

#[test]
fn risks_are_told_in_words() {
    let risks = |case: &Case, change: &Change| case.plan(change).response.risks.join(" | ");
    let three = Case::new(&["a", "b", "c"]);
    let told = risks(&three, &leave("c"));
    assert!(
        told.contains("from 3 to 2 members") && told.contains("one failure stops"),
        "{told}"
    );
    let told = risks(&Case::new(&["a", "b"]), &leave("b"));
    assert!(told.contains("the only copy"), "{told}");
    assert_eq!(risks(&Case::new(&["a", "b", "c", "d"]), &leave("d")), "");

    let mut five = Case::new(&["a", "b", "c", "d", "e"]).with("e", MemberStatus::Stopped);
    five.members[0].load.hints = 7;
    five.members[1].load.bytes_on_disk = 1 << 34;
    let told = risks(&five, &remove("e"));
    for part in ["e stopped on purpose", "kept by a (7)", "GB is copied"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let mut zoned = Case::new(&["a", "b", "c", "d"]).dead("d").candidate("e");
    zoned.members[4].zone = "west".into();
    let told = risks(&zoned, &replace("d", "e"));
    assert!(told.contains("e is in zone west"), "{told}");
}

#[test]
fn cancelling_goes_back_to_the_ring_in_force() {
    let case = Case::new(&["a", "b", "c"]).candidate("d");
    for step in [false, true] {
        let mut under_way = case.going_on(&join(&["d"]));
        if step {
            let t = under_way.ring.transition.clone().expect("a change");
            under_way.ring = steps::reading_both(&under_way.ring, &t);
        }
        let plan = under_way.plan(&Change::Cancel {});
        assert_eq!(plan.response.obstacles, Vec::<String>::new());
        assert!(
            plan.response.summary.contains("d joins"),
            "{}",
            plan.response.summary
        );
        let back = plan.next.expect("a change");
        assert_eq!(
            (&back.members, &back.table),
            (&case.ring.members, &case.ring.table)
        );
        assert_eq!(back.epoch, under_way.ring.epoch + 1);
    }
}

#[test]
fn a_plan_is_resumed_only_where_it_still_holds() {
    let case = Case::new(&["a", "b", "c", "d"]).candidate("e");
    let made = case.plan(&leave("b")).response.plan_id;
    let (again, next) = resume(&case.picture(), &made).expect("it still holds");
    assert_eq!(again.response.plan_id, made);
    assert_eq!(Some(next), case.plan(&leave("b")).next);

    for bad in [
        "",
        "plan",
        &made[1..],
        &format!("{made}A"),
        &"A".repeat(1 << 18),
    ] {
        assert_eq!(resume(&case.picture(), bad), Err(PlanError::Damaged));
    }
    let mut foreign = Case::new(&["a", "b", "c", "d"]);
    foreign.ring.cluster_id = other_cluster();
    assert!(matches!(
        resume(&foreign.picture(), &made),
        Err(PlanError::OtherCluster { .. })
    ));
    let mut later = Case::new(&["a", "b", "c", "d"]);
    later.ring.epoch = 6;
    assert_eq!(
        resume(&later.picture(), &made),
        Err(PlanError::Outdated {
            planned: 5,
            current: 6
        })
    );
    let gone = Case::new(&["a", "b", "c", "d"]).dead("b");
    assert!(matches!(
        resume(&gone.picture(), &made),
        Err(PlanError::Obstacles(_))
    ));
    // a candidate that came back at another address is described anew
    let join_plan = case.plan(&join(&["e"])).response.plan_id;
    let mut moved = Case::new(&["a", "b", "c", "d"]).candidate("e");
    moved.members[4].zone = "west".into();
    assert_eq!(
        resume(&moved.picture(), &join_plan),
        Err(PlanError::Different)
    );
}
