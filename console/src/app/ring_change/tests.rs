//! Changes of the ring as keys and answers drive them.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ringmaster_shared::{
    api::ring::{ApplyResponse, Change, ring_response},
    error::ErrorCode,
    topology::{ChangeKind, Step},
};
use serde_json::Value;

use StepState::{Done, Pending, Running};

use super::*;
use crate::{
    app::{screens::Entry, update},
    cluster::Report,
    fixture::{
        self,
        changes::{begin, plan_of},
        id,
    },
    message::Msg,
};

fn press(app: &mut App, code: KeyCode) -> Vec<Effect> {
    update(app, Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn typed(app: &mut App, text: &str) -> Vec<Effect> {
    let press = |c| match c {
        '\n' => press(app, KeyCode::Enter),
        c => press(app, KeyCode::Char(c)),
    };
    text.chars().flat_map(press).collect()
}

/// Five nodes, node-3 dead, an operator who may write.
fn hurt() -> App {
    let mut app = fixture::five_one_dead();
    app.read_only = false;
    app
}

fn remove() -> Change {
    Change::Remove { node: id("node-3") }
}

fn plan_now(app: &App) -> PlanResponse {
    let topology = app.cluster.topology.clone().expect("a ring");
    let stay = topology.members.iter().filter(|m| m.id != id("node-3"));
    let stay: Vec<_> = stay.cloned().collect();
    plan_of(&topology, remove(), &stay)
}

/// The order that was given, and its number.
fn only(effects: &[Effect]) -> (u64, ChangeOrder) {
    match effects {
        [Effect::Change { id, order, .. }] => (*id, order.clone()),
        other => panic!("one order, not {other:?}"),
    }
}

fn answer(app: &mut App, id: u64, result: Result<ChangeOutcome, DataFailure>) -> Vec<Effect> {
    update(app, Msg::Changed(Box::new(ChangeAnswer { id, result })))
}

fn planned_now(app: &mut App, effects: &[Effect]) {
    let (id, order) = only(effects);
    assert_eq!(order, ChangeOrder::Plan(remove()));
    let plan = Box::new(plan_now(app));
    answer(app, id, Ok(ChangeOutcome::Planned(plan)));
}

fn refusal(code: ErrorCode, message: &str) -> DataFailure {
    DataFailure {
        status: Some(code.http_status()),
        code: Some(code),
        message: message.to_owned(),
        details: Value::Null,
        left: Left::Nothing,
    }
}

fn ring_arrives(app: &mut App) {
    let topology = app.cluster.topology.clone().expect("a ring");
    let ring = Box::new(ring_response(&topology));
    update(app, Msg::Report(Report::Ring(ring)));
}

/// To the moment when the order to apply has gone out.
fn ordered(app: &mut App) -> u64 {
    let effects = typed(app, ":remove node-3\n");
    planned_now(app, &effects);
    assert!(typed(app, "\n").is_empty(), "it asks first");
    let (id, order) = only(&typed(app, "node-3\n"));
    assert!(matches!(order, ChangeOrder::Apply { .. }), "{order:?}");
    id
}

#[test]
fn from_the_menu_to_the_end() {
    let mut app = hurt();
    typed(&mut app, "7");
    let menu: Vec<Entry> = Entry::all().collect();
    let at = menu
        .iter()
        .position(|e| *e == Entry::Change(ChangeVerb::Remove));
    for _ in 0..at.expect("it is there") {
        typed(&mut app, "j");
    }
    assert!(typed(&mut app, "\n").is_empty(), "a list to choose from");
    let effects = typed(&mut app, "\n");
    planned_now(&mut app, &effects);
    typed(&mut app, "\n");
    let confirm = app.confirm.as_ref().expect("asked");
    assert_eq!(confirm.expected, "node-3");
    assert!(typed(&mut app, "node-1\n").is_empty(), "another name");
    for _ in 0..6 {
        press(&mut app, KeyCode::Backspace);
    }
    let (id, order) = only(&typed(&mut app, "node-3\n"));
    let ChangeOrder::Apply { plan_id, .. } = order else {
        panic!("an order, not {order:?}");
    };
    assert_eq!(plan_id, plan_now(&app).plan_id);
    let applied = ApplyResponse {
        epoch: 6,
        change: remove(),
        message: "node-3 is being removed".to_owned(),
    };
    answer(&mut app, id, Ok(ChangeOutcome::Applied(applied)));
    assert!(app.procedures.change.is_running());
    let states = |app: &App| -> Vec<StepState> {
        let run = app.procedures.change.run.as_ref().expect("a run");
        run.steps.iter().map(|s| s.state).collect()
    };
    assert_eq!(states(&app), [Done, Pending, Pending, Pending]);

    begin(
        &mut app.cluster,
        ChangeKind::Remove,
        "node-3",
        Step::Filling,
    );
    ring_arrives(&mut app);
    assert_eq!(states(&app), [Done, Running, Pending, Pending]);

    let topology = app.cluster.topology.as_mut().expect("a ring");
    topology.epoch += 1;
    topology.transition.as_mut().expect("under way").step = Step::Dual;
    ring_arrives(&mut app);
    assert_eq!(states(&app), [Done, Done, Running, Pending]);

    let plan = plan_now(&app);
    let topology = app.cluster.topology.as_mut().expect("a ring");
    let target = topology.transition.take().expect("under way").target;
    topology.epoch += 1;
    let at = topology
        .members
        .iter()
        .position(|m| m.id == id_of("node-3"));
    let at = at.expect("a member");
    topology.members.remove(at);
    topology.table = target
        .iter()
        .map(|r| {
            r.iter()
                .map(|i| i - u16::from(usize::from(*i) > at))
                .collect()
        })
        .collect();
    assert!(!plan.target.is_empty());
    ring_arrives(&mut app);
    assert_eq!(states(&app), [Done; 4]);
    let run = app.procedures.change.run.as_ref().expect("a run");
    assert!(matches!(run.outcome, Some(Ok(_))), "{:?}", run.outcome);
}

fn id_of(name: &str) -> ringmaster_shared::id::NodeId {
    id(name)
}

#[test]
fn a_conflict_says_so_and_plans_anew() {
    let mut app = hurt();
    let id = ordered(&mut app);
    let conflict = refusal(ErrorCode::Conflict, "the ring is at epoch 6 by now.");
    let again = answer(&mut app, id, Err(conflict));
    let text = app.toast.as_ref().map_or("", |t| &t.text);
    assert_eq!(text, "the ring is at epoch 6 by now; planning anew");
    app.cluster.topology.as_mut().expect("a ring").epoch = 6;
    ring_arrives(&mut app);
    planned_now(&mut app, &again);
    let planned = app.procedures.change.plan.as_ref().expect("a plan");
    let note = planned.note.as_deref().expect("it says why");
    assert!(note.contains("from epoch 5 to 6"), "{note}");
}

#[test]
fn a_plan_of_an_older_ring_is_never_applied() {
    let mut app = hurt();
    let effects = typed(&mut app, ":remove node-3\n");
    planned_now(&mut app, &effects);
    typed(&mut app, "\n");
    assert!(app.confirm.is_some());
    // the ring moves on while the name is being typed
    app.cluster.topology.as_mut().expect("a ring").epoch = 6;
    ring_arrives(&mut app);
    let (_, order) = only(&typed(&mut app, "node-3\n"));
    assert_eq!(order, ChangeOrder::Plan(remove()), "planned, not applied");
    assert!(app.confirm.is_none());
}

#[test]
fn nothing_is_ordered_from_a_stale_frozen_or_read_only_picture() {
    type Spoil = fn(&mut App);
    let cases: [(&str, Spoil); 3] = [
        ("old", |a| a.set_time(a.now_ms + 60_000, a.utc)),
        ("frozen", |a| a.toggle_freeze()),
        ("read-only", |a| a.read_only = true),
    ];
    for (why, spoil) in cases {
        let mut app = hurt();
        let effects = typed(&mut app, ":remove node-3\n");
        planned_now(&mut app, &effects);
        typed(&mut app, "\n");
        spoil(&mut app);
        assert!(typed(&mut app, "node-3\n").is_empty(), "{why}");
        let confirm = app.confirm.as_ref().expect("it stays and says why");
        let error = confirm.error.as_deref().unwrap_or("");
        assert!(error.contains(why), "{error:?} must say {why}");
    }
}

#[test]
fn an_obstacle_is_said_and_looked_at_again() {
    let mut app = hurt();
    let (id, _) = only(&typed(&mut app, ":remove node-3\n"));
    let plan = PlanResponse {
        obstacles: vec!["node-3 is alive".to_owned()],
        ..plan_now(&app)
    };
    answer(&mut app, id, Ok(ChangeOutcome::Planned(Box::new(plan))));
    let (_, order) = only(&typed(&mut app, "\n"));
    assert_eq!(order, ChangeOrder::Plan(remove()));
    assert!(app.confirm.is_none());
}

#[test]
fn a_refused_plan_is_shown_with_its_reason() {
    let mut app = hurt();
    let (id, _) = only(&typed(&mut app, ":leave node-9\n"));
    let failure = refusal(ErrorCode::BadRequest, "node-9 is no member");
    assert!(answer(&mut app, id, Err(failure)).is_empty());
    let planned = app.procedures.change.plan.as_ref().expect("shown");
    assert_eq!(planned.result, Err("node-9 is no member".to_owned()));
}

#[test]
fn a_change_that_others_began_is_followed_and_can_be_given_up() {
    let mut app = hurt();
    begin(&mut app.cluster, ChangeKind::Leave, "node-5", Step::Filling);
    ring_arrives(&mut app);
    let run = app.procedures.change.run.as_ref().expect("seen");
    assert!(run.is_running() && !run.ours);
    assert_eq!(run.change(), &Change::Leave { node: id("node-5") });
    let (id, order) = only(&typed(&mut app, "7c"));
    assert_eq!(order, ChangeOrder::Plan(Change::Cancel {}));
    let topology = app.cluster.topology.clone().expect("a ring");
    let plan = PlanResponse {
        change: Change::Cancel {},
        ..plan_of(&topology, Change::Cancel {}, &topology.members.clone())
    };
    answer(&mut app, id, Ok(ChangeOutcome::Planned(Box::new(plan))));
    typed(&mut app, "\n");
    let confirm = app.confirm.as_ref().expect("asked");
    assert_eq!(confirm.expected, "", "Enter is enough");
    let (id, _) = only(&typed(&mut app, "\n"));
    let applied = ApplyResponse {
        epoch: 7,
        change: Change::Cancel {},
        message: "given up".to_owned(),
    };
    answer(&mut app, id, Ok(ChangeOutcome::Applied(applied)));
    let topology = app.cluster.topology.as_mut().expect("a ring");
    topology.epoch = 7;
    topology.transition = None;
    ring_arrives(&mut app);
    let run = app.procedures.change.run.as_ref().expect("a run");
    let Some(Err(why)) = &run.outcome else {
        panic!("given up, not {:?}", run.outcome);
    };
    assert!(why.contains("given up: node-5 leaves"), "{why}");
}

#[test]
fn an_order_of_unknown_outcome_is_not_told_as_refused() {
    let why = "1 of its 2 voters answer; the change may still come about";
    let refused = refusal(ErrorCode::QuorumNotMet, why);
    let unknown = DataFailure {
        left: Left::Unknown,
        ..refused.clone()
    };
    // as a proxy answers for a node that died over it
    let proxied = DataFailure {
        status: Some(502),
        code: None,
        ..unknown.clone()
    };
    let silent = DataFailure {
        status: None,
        ..proxied.clone()
    };
    let look = "not known whether it began: look at the ring (4) first; 1 of its 2";
    for (failure, says) in [
        (refused, "not applied: 1 of its 2"),
        (unknown, look),
        (proxied, look),
        (silent, look),
    ] {
        let mut app = hurt();
        let id = ordered(&mut app);
        assert!(answer(&mut app, id, Err(failure)).is_empty());
        let text = app.toast.as_ref().map_or("", |t| &t.text);
        assert!(text.starts_with(says), "{text}");
        let plan = app.procedures.change.plan.as_ref().expect("still shown");
        assert_eq!(plan.in_doubt, says == look);
    }
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut app = hurt();
    let plan = Box::new(plan_now(&app));
    answer(&mut app, 99, Ok(ChangeOutcome::Planned(plan)));
    assert!(app.procedures.change.plan.is_none());
}
