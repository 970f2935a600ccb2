//! Who is asked in clusters of all sizes, and what becomes of the answers.

use ringmaster_shared::member::{Lifecycle, MemberStatus};

use super::*;
use crate::{gossip::sight::Marks, health::tests::member};
use MemberStatus::{Alive, Dead, Stopped, Suspected};

fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("a name")
}

fn views(statuses: &[(&str, MemberStatus)]) -> Vec<MemberView> {
    statuses
        .iter()
        .map(|(name, status)| member(name, *status, Lifecycle::Serving))
        .collect()
}

fn many(n: usize) -> Vec<MemberView> {
    let view = |n| member(&format!("node-{n:05}"), Alive, Lifecycle::Serving);
    (1..=n).map(view).collect()
}

/// What a member that holds `theirs` answers to one that holds `mine`.
fn answer(name: &str, mine: &[MemberView], theirs: &[MemberView]) -> Answer {
    let marks = Marks::of(mine);
    let told = sight::read(mine, &marks, sight::sighting(theirs, &marks));
    Answer {
        node_id: id(name),
        at: Timestamp::UNIX_EPOCH,
        told: told.map_err(|n| format!("{n} too many")),
    }
}

fn round(own: &str, views: Vec<MemberView>, answers: Vec<Answer>) -> Round {
    let chosen = choose(&views, &id(own), 256);
    let at = Timestamp::UNIX_EPOCH;
    Round::new(id(own), views.into(), chosen, answers, at)
}

#[test]
fn the_doubtful_are_asked_first_and_the_stopped_not_at_all() {
    let mut all = many(300);
    for view in &mut all[0..50] {
        set(view, Dead);
    }
    set(&mut all[60], Suspected);
    set(&mut all[61], Stopped);
    let chosen = choose(&all, &id("node-00299"), 256);
    assert_eq!(chosen.asked.len(), 256);
    assert_eq!(chosen.asked[0], id("node-00061"));
    let dead = chosen.asked.iter().filter(|i| **i <= id("node-00050"));
    assert_eq!(dead.count(), DEAD_ASKED_MAX);
    assert_eq!(chosen.left_out, 300 - 1 - 256);
    assert!(!chosen.asked.contains(&id("node-00299")), "not itself");
    // another node asks others, so that in the end somebody asks everybody
    assert_ne!(choose(&all, &id("node-00298"), 256).asked, chosen.asked);

    let few = views(&[("a", Alive), ("b", Stopped), ("c", Dead)]);
    let chosen = choose(&few, &id("a"), 256);
    assert_eq!((chosen.asked, chosen.left_out), (vec![id("c")], 0));
    assert_eq!(chosen.silent[0].0, id("b"));
}

#[test]
fn who_does_not_answer_has_a_row_that_says_so() {
    let mine = views(&[("a", Alive), ("b", Alive), ("c", Dead), ("d", Stopped)]);
    let theirs = views(&[("a", Alive), ("b", Alive), ("c", Alive), ("d", Stopped)]);
    let answers = vec![
        answer("b", &mine, &theirs),
        Answer {
            told: Err("connection refused".to_owned()),
            ..answer("c", &mine, &mine)
        },
    ];
    let got = round("a", mine, answers).response(Shown::All);
    let rows: Vec<(&str, bool)> = got
        .observers
        .iter()
        .map(|o| (o.node_id.as_str(), o.answered))
        .collect();
    assert_eq!(rows, [("a", true), ("b", true), ("c", false), ("d", false)]);
    assert_eq!(
        got.observers[2].error.as_deref(),
        Some("connection refused")
    );
    assert!(got.observers[2].sees.is_empty());
    assert_eq!(got.disagreements.len(), 1);
    assert_eq!(got.disagreements[0].sentence(), "a holds c dead, b alive");
    assert!(got.observers[1].views[&id("c")].since.is_some());
    assert_eq!((got.well, got.not_asked), (0, 0));
}

#[test]
fn who_was_not_heard_in_time_is_told_as_well() {
    let mine = views(&[("a", Alive), ("b", Alive)]);
    let got = round("a", mine, vec![]).response(Shown::All);
    assert_eq!(got.observers.len(), 2);
    assert!(!got.observers[1].answered && got.observers[1].error.is_some());
}

#[test]
fn trouble_alone_leaves_out_who_is_well() {
    let mine = views(&[("a", Alive), ("b", Alive), ("c", Dead), ("e", Alive)]);
    // b has not heard of e, and knows somebody else
    let theirs = views(&[("a", Alive), ("b", Alive), ("c", Dead), ("x", Alive)]);
    let answers = vec![
        answer("b", &mine, &theirs),
        answer("c", &mine, &mine),
        answer("e", &mine, &mine),
    ];
    let round = round("a", mine, answers);
    let got = round.response(Shown::Trouble);
    let subjects: BTreeSet<&NodeId> = got.observers.iter().flat_map(|o| o.sees.keys()).collect();
    assert_eq!(subjects, [&id("c"), &id("e"), &id("x")].into());
    assert_eq!(got.well, 2);
    assert_eq!(got.observers[1].sees.get(&id("e")), None);
    let all = round.response(Shown::All);
    assert_eq!(all.observers[0].sees.len(), 4);
    assert_eq!(all.well, 0);
    // what is in dispute is so however much is shown
    assert_eq!(all.disagreements, got.disagreements);
}

#[test]
fn a_large_cluster_shows_trouble_whatever_was_asked_for() {
    let mine = many(1_000);
    let mut theirs = mine.clone();
    set(&mut theirs[6], Dead);
    let answers: Vec<Answer> = choose(&mine, &id("node-00001"), 256)
        .asked
        .iter()
        .map(|name| answer(name.as_str(), &mine, &theirs))
        .collect();
    let got = round("node-00001", mine, answers).response(Shown::All);
    assert_eq!(got.observers.len(), 257);
    assert!(got.observers.iter().all(|o| o.sees.len() == 1));
    assert_eq!(got.well, 999);
    assert_eq!(got.not_asked, 1_000 - 257);
    let sentence = got.disagreements[0].sentence();
    assert!(
        sentence.starts_with("node-00001 holds node-00007 alive, 2"),
        "{sentence}"
    );
    let bytes = serde_json::to_vec(&got).expect("JSON").len();
    assert!(bytes < 100_000, "{bytes}");
}

fn set(view: &mut MemberView, status: MemberStatus) {
    std::sync::Arc::make_mut(&mut view.state).status = status;
}
