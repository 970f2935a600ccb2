//! Who disagrees about whom, by example and by law.

use proptest::prelude::*;

use super::*;
use MemberStatus::{Alive, Dead, Left, Stopped, Suspected};

fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("a name")
}

fn observer(name: &str, sees: &[(&str, MemberStatus)]) -> Observer {
    let sight = |status| Sight {
        status,
        generation: 1,
        incarnation: 0,
        since: None,
        by: Vec::new(),
        reason: None,
        udp_blocked: false,
    };
    Observer {
        node_id: id(name),
        at: Timestamp::UNIX_EPOCH,
        answered: true,
        error: None,
        sees: sees.iter().map(|(n, s)| (id(n), *s)).collect(),
        views: sees.iter().map(|(n, s)| (id(n), sight(*s))).collect(),
    }
}

fn silent(name: &str) -> Observer {
    Observer {
        answered: false,
        error: Some("no answer within 500 ms".to_owned()),
        ..observer(name, &[])
    }
}

#[test]
fn the_odd_one_out_is_named_first() {
    let all = |of_e| {
        vec![
            observer("a", &[("a", Alive), ("e", Alive)]),
            observer("b", &[("b", Alive), ("e", Alive)]),
            observer("c", &[("c", Alive), ("e", of_e)]),
            observer("d", &[("d", Alive), ("e", Alive)]),
            // what it says of itself is no opinion
            observer("e", &[("e", Alive)]),
        ]
    };
    let mut observers = all(Dead);
    for observer in &mut observers {
        for name in ["a", "b", "c", "d"] {
            observer.sees.insert(id(name), Alive);
        }
    }
    let found = disagreements(&observers);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].about, id("e"));
    assert_eq!(found[0].sees[&Dead], [id("c")]);
    assert_eq!(found[0].sees[&Alive], ["a", "b", "d"].map(id));
    assert_eq!(found[0].sentence(), "c holds e dead, 3 others alive");
    assert_eq!(found[0].question(), "is the network between them cut?");
    let json = serde_json::to_value(&found[0]).expect("JSON");
    assert_eq!(json["sees"]["dead"][0], "c");
    let back: Disagreement = serde_json::from_value(json).expect("the same");
    assert_eq!(back, found[0]);
}

#[test]
fn sentences() {
    let about = |camps: &[(MemberStatus, &[&str])], unlisted: &[&str]| Disagreement {
        about: id("x"),
        sees: camps
            .iter()
            .map(|(s, who)| (*s, who.iter().map(|n| id(n)).collect()))
            .collect(),
        unlisted_by: unlisted.iter().map(|n| id(n)).collect(),
        since: None,
    };
    let cases: [(Disagreement, &str, &str); 5] = [
        (
            about(&[(Alive, &["a"]), (Dead, &["b"])], &[]),
            "b holds x dead, a alive",
            "is the network between them cut?",
        ),
        (
            about(&[(Alive, &["a"]), (Dead, &["b", "c", "d"])], &[]),
            "a holds x alive, 3 others dead",
            "does only a still reach x?",
        ),
        (
            about(&[(Stopped, &["a", "b"]), (Alive, &["c", "d", "e"])], &[]),
            "a and b hold x stopped, 3 others alive",
            "has the news not reached all yet?",
        ),
        (
            about(&[(Alive, &["c", "d"])], &["a"]),
            "a does not list x, 2 others alive",
            "has the news not reached all yet?",
        ),
        (
            about(
                &[
                    (Suspected, &["a"]),
                    (Dead, &["b", "c"]),
                    (Alive, &["d", "e", "f", "g", "h"]),
                ],
                &[],
            ),
            "a holds x suspected, b and c dead, 5 others alive",
            "is the network between them cut?",
        ),
    ];
    for (disagreement, sentence, question) in cases {
        assert_eq!(disagreement.sentence(), sentence);
        assert_eq!(disagreement.question(), question);
    }
    let many: Vec<NodeId> = (1..=7).map(|n| id(&format!("n{n}"))).collect();
    assert_eq!(named(&many), "n1, n2, n3 and 4 more");
}

#[test]
fn who_is_well_is_held_alive_by_all_and_answered() {
    let mut observers = vec![
        observer(
            "a",
            &[("a", Alive), ("b", Alive), ("c", Alive), ("d", Dead)],
        ),
        observer(
            "b",
            &[("a", Alive), ("b", Alive), ("c", Alive), ("d", Dead)],
        ),
        silent("c"),
        silent("d"),
    ];
    assert_eq!(well(&observers), ["a", "b"].map(id).into());
    let blocked = observers[0].views.get_mut(&id("b")).expect("there");
    blocked.udp_blocked = true;
    assert_eq!(well(&observers), ["a"].map(id).into());
    // nobody disagrees with who said nothing
    assert_eq!(disagreements(&observers), []);
}

#[test]
fn answers_of_older_nodes_are_understood() {
    let old = r#"{"current_node": "a", "observers": [
        {"node_id": "a", "at": "2026-11-22T12:00:00Z", "sees": {"a": "alive"}}]}"#;
    let read: ObservationsResponse = serde_json::from_str(old).expect("read");
    assert!(read.observers[0].answered && read.disagreements.is_empty());
}

fn any_observers() -> impl Strategy<Value = Vec<Observer>> {
    let status = prop::sample::select(vec![Alive, Suspected, Dead, Stopped, Left]);
    let sees = prop::collection::btree_map(0..6_u8, status, 0..6);
    prop::collection::vec((sees, any::<bool>()), 0..6).prop_map(|all| {
        let name = |n: u8| format!("n{n}");
        let make = |(i, (sees, answered)): (usize, (BTreeMap<u8, MemberStatus>, bool))| {
            let sees: Vec<(String, MemberStatus)> =
                sees.into_iter().map(|(n, s)| (name(n), s)).collect();
            let sees: Vec<(&str, MemberStatus)> =
                sees.iter().map(|(n, s)| (n.as_str(), *s)).collect();
            if answered {
                observer(&name(i as u8), &sees)
            } else {
                silent(&name(i as u8))
            }
        };
        all.into_iter().enumerate().map(make).collect()
    })
}

proptest! {
    #[test]
    fn every_disagreement_is_one(observers in any_observers()) {
        let found = disagreements(&observers);
        for d in &found {
            let camps = d.sees.len() + usize::from(!d.unlisted_by.is_empty());
            prop_assert!(camps > 1);
            prop_assert!(!d.sentence().is_empty() && d.question().ends_with('?'));
            let voters = d.sees.values().flatten().chain(&d.unlisted_by).count();
            let answered = observers.iter().filter(|o| o.answered && o.node_id != d.about);
            prop_assert_eq!(voters, answered.count());
        }
        // who is well is no matter of dispute
        let well = well(&observers);
        prop_assert!(found.iter().all(|d| !well.contains(&d.about)));
    }

    #[test]
    fn those_of_one_mind_agree(mut observers in any_observers()) {
        if let Some(sees) = observers.first().map(|o| o.sees.clone()) {
            for observer in &mut observers {
                observer.sees.clone_from(&sees);
            }
        }
        prop_assert_eq!(disagreements(&observers), vec![]);
    }
}
