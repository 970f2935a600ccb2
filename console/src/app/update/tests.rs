//! What messages do to the state, by example.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ringmaster_shared::{
    api::data::{ReplicationResult, WriteResponse},
    id::NodeId,
};
use serde_json::json;

use crate::{
    app::{App, ConfirmAction, PromptKind, ScreenId, Tone, rows, update},
    client::Left,
    cluster::Report,
    fixture,
    link::{LinkState, LinkView},
    message::{DataAnswer, DataFailure, DataOp, DataOutcome, Effect, Msg},
    progress::{ProcedureCommand, ProcedureKind, Progress},
};

/// A healthy cluster of three, looked at by somebody who may write.
fn app() -> App {
    let mut app = fixture::healthy();
    app.read_only = false;
    app
}

fn press(app: &mut App, code: KeyCode) -> Vec<Effect> {
    update(app, Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn typed(app: &mut App, text: &str) -> Vec<Effect> {
    let mut all = Vec::new();
    for c in text.chars() {
        let code = if c == '\n' {
            KeyCode::Enter
        } else {
            KeyCode::Char(c)
        };
        all.extend(press(app, code));
    }
    all
}

fn later(app: &mut App, ms: u64) {
    app.set_time(app.now_ms + ms, app.utc);
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn toast(app: &App) -> &str {
    app.toast.as_ref().map_or("", |t| &t.text)
}

/// The same members without the first one, as a poll would bring it.
fn without_first(app: &App) -> Report {
    let mut members = app.cluster.members.clone().expect("known").value;
    members.cluster_members.pop_first();
    let mut ring = app.cluster.ring.clone().expect("known").value;
    ring.nodes.remove(0);
    ring.table.clear();
    ring.digest = "smaller".into();
    let picture = ringmaster_shared::api::ring::ClusterResponse {
        status: app.cluster.status.clone().expect("known").value,
        members,
        ring,
    };
    Report::Picture {
        picture: Box::new(picture),
        interval_ms: 2_000,
    }
}

#[test]
fn the_selection_stays_on_its_node_when_rows_move() {
    let mut app = app();
    typed(&mut app, "j");
    assert_eq!(app.members.selected, Some(id("node-2")));
    let row = |app: &App| {
        let rows = rows::members(app.shown(), &app.members);
        rows.iter().position(|r| r.id == id("node-2"))
    };
    assert_eq!(row(&app), Some(1));
    app.cluster.nodes.remove(&id("node-1"));
    let report = without_first(&app);
    update(&mut app, Msg::Report(report));
    assert_eq!(row(&app), Some(0), "the row moved");
    assert_eq!(
        app.members.selected,
        Some(id("node-2")),
        "the selection did not"
    );
    app.members.descending = true;
    assert_eq!(row(&app), Some(1));
    assert_eq!(app.members.selected, Some(id("node-2")));
}

#[test]
fn escape_backs_out_one_layer_at_a_time_and_never_quits() {
    let mut app = app();
    let mut effects = typed(&mut app, "2/node\n j");
    effects.extend(press(&mut app, KeyCode::Enter));
    assert!(app.members.open.is_some() && app.frozen.is_some());
    typed(&mut app, ":help");
    let layers: [fn(&App) -> bool; 6] = [
        |a| a.prompt.is_none() && a.members.open.is_some(),
        |a| a.members.open.is_none() && !a.members.filter.is_empty(),
        |a| a.members.filter.is_empty() && a.frozen.is_some(),
        |a| a.frozen.is_none() && a.screen == ScreenId::Members,
        |a| a.screen == ScreenId::Overview,
        |a| a.screen == ScreenId::Overview,
    ];
    for (n, holds) in layers.iter().enumerate() {
        effects.extend(press(&mut app, KeyCode::Esc));
        assert!(holds(&app), "after Esc number {}", n + 1);
    }
    for _ in 0..20 {
        effects.extend(press(&mut app, KeyCode::Esc));
        effects.extend(press(&mut app, KeyCode::Char('q')));
    }
    assert!(effects.is_empty(), "{effects:?}");
    assert_eq!(typed(&mut app, "Q"), [Effect::Quit]);
}

type Spoil = fn(&mut App);

#[test]
fn writes_are_refused_on_stale_data_and_say_why() {
    let stale = |app: &mut App| later(app, 60_000);
    let read_only = |app: &mut App| app.read_only = true;
    let frozen = |app: &mut App| app.toggle_freeze();
    let gone = |app: &mut App| app.link.state = LinkState::Disconnected;
    let cases: [(Spoil, &str); 4] = [
        (stale, "s old"),
        (read_only, "--read-only"),
        (frozen, "frozen"),
        (gone, "disconnected"),
    ];
    for (spoil, why) in cases {
        for line in [":put k 1\n", ":del k\n"] {
            let mut app = app();
            spoil(&mut app);
            assert_eq!(typed(&mut app, line), [], "{line}");
            assert!(toast(&app).contains(why), "{line}: {}", toast(&app));
            assert!(app.confirm.is_none() && app.data.in_flight.is_none());
        }
        let mut app = app();
        spoil(&mut app);
        app.procedures.preview = Some(plan(&app));
        app.screen = ScreenId::Procedures;
        press(&mut app, KeyCode::Enter);
        assert!(app.confirm.is_none(), "{why}");
        assert!(toast(&app).contains(why), "{}", toast(&app));
    }
}

#[test]
fn a_read_goes_to_the_current_endpoint_and_late_answers_are_dropped() {
    let mut app = app();
    let effects = typed(&mut app, ":get user:42\n");
    let [Effect::Data { endpoint, request }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(Some(endpoint), app.link.endpoint.as_ref());
    assert_eq!(app.screen, ScreenId::Data);
    let answer = |id| {
        Msg::Answer(Box::new(DataAnswer {
            id,
            op: request.op.clone(),
            endpoint: endpoint.clone(),
            took_ms: 3,
            result: Err(DataFailure {
                status: Some(404),
                code: None,
                message: "key not found".into(),
                details: json!({}),
                left: Left::Nothing,
            }),
            replicas: None,
        }))
    };
    update(&mut app, answer(request.id + 1));
    assert!(app.data.answer.is_none() && app.data.in_flight.is_some());
    assert!(typed(&mut app, ":get other\n").is_empty(), "one at a time");
    press(&mut app, KeyCode::Esc);
    update(&mut app, answer(request.id));
    assert!(app.data.in_flight.is_none());
    assert_eq!(app.data.log.back().map(|l| l.tone), Some(Tone::Error));
}

#[test]
fn a_restart_that_runs_from_here_is_not_suspended() {
    let ctrl_z = || {
        let key = KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL);
        Msg::Key(key)
    };
    let mut app = app();
    assert_eq!(update(&mut app, ctrl_z()), [Effect::Suspend]);
    app.procedures.progress = fixture::clean_restart().procedures.progress;
    assert_eq!(update(&mut app, ctrl_z()), []);
    assert!(toast(&app).contains("clean restart"), "{}", toast(&app));
    let running = app.procedures.progress.as_mut().expect("one");
    running.outcome = Some(Ok("done".to_owned()));
    assert_eq!(update(&mut app, ctrl_z()), [Effect::Suspend]);
}

#[test]
fn values_are_json_when_they_are_json() {
    for (line, want) in [
        (":put k {\"a\":[1]}\n", json!({"a": [1]})),
        (":put k hi there\n", json!("hi there")),
    ] {
        let mut app = app();
        let effects = typed(&mut app, line);
        let [Effect::Data { request, .. }] = &effects[..] else {
            panic!("{effects:?}");
        };
        let key = "k".to_owned();
        assert_eq!(request.op, DataOp::Put { key, value: want });
    }
}

#[test]
fn a_write_says_where_it_is() {
    let mut app = app();
    typed(&mut app, ":put k 1\n");
    let flight = app.data.in_flight.clone().expect("in flight");
    let written = WriteResponse {
        key: "k".into(),
        value: Some(json!(1)),
        context: String::new(),
        responsible_node: id("node-1"),
        replication_nodes: vec![id("node-1"), id("node-2"), id("node-3")],
        replication_result: ReplicationResult {
            successful_nodes: vec![id("node-1"), id("node-2")],
            failed_nodes: vec![],
            quorum_achieved: true,
        },
        timestamp: 0,
    };
    let answer = DataAnswer {
        id: flight.request.id,
        op: flight.request.op,
        endpoint: "localhost:8081".into(),
        took_ms: 4,
        result: Ok(DataOutcome::Written(written)),
        replicas: None,
    };
    update(&mut app, Msg::Answer(Box::new(answer)));
    let line = app.data.log.back().expect("a line");
    assert_eq!(line.summary, "synced on 2 of 3 when answered");
}

#[test]
fn a_write_of_unknown_outcome_is_not_told_as_failed() {
    for (line, left, tone, says) in [
        (
            ":put k 1\n",
            Left::Unknown,
            Tone::Warning,
            "may have taken effect: no answer",
        ),
        (":put k 1\n", Left::Nothing, Tone::Error, "no answer"),
        (":get k\n", Left::Unknown, Tone::Error, "no answer"),
    ] {
        let mut app = app();
        typed(&mut app, line);
        let flight = app.data.in_flight.clone().expect("in flight");
        let answer = DataAnswer {
            id: flight.request.id,
            op: flight.request.op,
            endpoint: "localhost:8081".into(),
            took_ms: 4,
            result: Err(DataFailure {
                status: None,
                code: None,
                message: "no answer".into(),
                details: json!(null),
                left,
            }),
            replicas: None,
        };
        update(&mut app, Msg::Answer(Box::new(answer)));
        let last = app.data.log.back().expect("a line");
        assert_eq!((last.tone, last.summary.as_str()), (tone, says), "{line}");
    }
}

#[test]
fn a_delete_is_typed_and_keeps_its_target() {
    let mut app = app();
    assert!(typed(&mut app, ":del user:42\n").is_empty());
    assert!(typed(&mut app, "yes\n").is_empty());
    let error = app.confirm.as_ref().and_then(|c| c.error.clone());
    assert!(error.is_some_and(|e| e.contains("delete")));
    update(&mut app, Msg::Paste("delete".into()));
    assert!(
        press(&mut app, KeyCode::Enter).is_empty(),
        "pasting does not confirm"
    );
    // Whatever is looked at meanwhile, the target stays.
    app.data.key = "another".into();
    for _ in 0.."yes".len() {
        press(&mut app, KeyCode::Backspace);
    }
    let effects = typed(&mut app, "delete\n");
    let [Effect::Data { request, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(request.op.key(), "user:42");
    assert!(app.confirm.is_none());
}

fn plan(app: &App) -> crate::progress::Preview {
    let members = app.cluster.members.as_ref().expect("known");
    crate::progress::Preview {
        kind: ProcedureKind::RollingRestart,
        nodes: members.value.cluster_members.keys().cloned().collect(),
        steps: vec![],
        effects: vec![],
        blocked: vec![],
    }
}

#[test]
fn the_first_step_leaves_the_row_that_was_marked() {
    for (key, want) in [
        (KeyCode::Down, "node-2"),
        (KeyCode::Up, "node-1"),
        (KeyCode::End, "node-3"),
    ] {
        let mut app = app();
        assert!(app.members.selected.is_none());
        press(&mut app, key);
        let selected = app.members.selected.as_ref().map(NodeId::as_str);
        assert_eq!(selected, Some(want), "{key:?}");
    }
}

#[test]
fn a_plan_that_was_blocked_is_shown_anew_before_it_is_asked() {
    let mut app = app();
    app.screen = ScreenId::Procedures;
    let blocked = vec!["node-3 must answer first".to_owned()];
    let kind = ProcedureKind::CleanRestart;
    app.procedures.preview = Some(crate::progress::Preview {
        kind,
        blocked,
        ..plan(&app)
    });
    press(&mut app, KeyCode::Enter);
    assert!(app.confirm.is_none());
    let shown = app.procedures.preview.as_ref().expect("a plan");
    assert_eq!(shown.blocked, Vec::<String>::new());
    press(&mut app, KeyCode::Enter);
    let asked = app.confirm.as_ref().expect("a question");
    assert_eq!(asked.expected, "clean restart 3 nodes");
}

/// A confirmation of a rolling restart, open and not answered.
fn asked() -> App {
    let mut app = app();
    app.screen = ScreenId::Procedures;
    app.procedures.preview = Some(plan(&app));
    press(&mut app, KeyCode::Enter);
    assert!(app.confirm.is_some(), "{}", toast(&app));
    app
}

#[test]
fn a_confirmation_keeps_the_nodes_it_was_opened_for() {
    let mut app = asked();
    let Some(ConfirmAction::Procedure { targets, .. }) = app.confirm.as_ref().map(|c| &c.action)
    else {
        panic!("no procedure");
    };
    let names: Vec<&str> = targets.iter().map(|t| t.id.as_str()).collect();
    assert_eq!(names, ["node-1", "node-2", "node-3"]);
    let report = without_first(&app);
    update(&mut app, Msg::Report(report));
    let effects = typed(&mut app, "rolling restart 3 nodes\n");
    assert_eq!(effects, [], "the cluster is not the one that was confirmed");
    assert!(app.confirm.as_ref().is_some_and(|c| c.error.is_some()));
}

#[test]
fn a_confirmation_that_grew_stale_starts_nothing() {
    let mut app = asked();
    later(&mut app, 60_000);
    assert_eq!(typed(&mut app, "rolling restart 3 nodes\n"), []);
    let error = app.confirm.as_ref().and_then(|c| c.error.clone());
    assert!(error.is_some_and(|e| e.contains("old")));
}

#[test]
fn leaving_while_a_procedure_runs_takes_two_presses() {
    let mut app = app();
    let progress = Progress {
        kind: ProcedureKind::CleanRestart,
        nodes: vec![],
        started_utc: app.utc,
        steps: vec![],
        waiting_for: None,
        writes_refused_ms: 0,
        outcome: None,
        log: vec![],
        log_dropped: 0,
    };
    update(&mut app, Msg::Progress(Box::new(progress.clone())));
    assert_eq!(typed(&mut app, "Q"), []);
    later(&mut app, 10_000);
    update(&mut app, Msg::Second);
    assert_eq!(typed(&mut app, "Q"), [], "the first press is forgotten");
    assert_eq!(typed(&mut app, "Q"), [Effect::Quit]);
    app.screen = ScreenId::Procedures;
    let cancel = Effect::Procedure(ProcedureCommand::Cancel);
    assert_eq!(typed(&mut app, "c"), [cancel]);
    let outcome = Some(Ok("all well".to_owned()));
    update(
        &mut app,
        Msg::Progress(Box::new(Progress {
            outcome,
            ..progress
        })),
    );
    assert_eq!(typed(&mut app, "Q"), [Effect::Quit]);
}

#[test]
fn freezing_holds_the_picture_and_counts_what_came() {
    let mut app = app();
    typed(&mut app, " ");
    let report = without_first(&app);
    update(&mut app, Msg::Report(report));
    let count =
        |c: &crate::cluster::Cluster| c.members.as_ref().map(|m| m.value.cluster_members.len());
    assert_eq!(count(app.shown()), Some(3));
    assert_eq!(count(&app.cluster), Some(2));
    assert_eq!(app.frozen.as_ref().map(|f| f.held), Some(1));
    typed(&mut app, " ");
    assert_eq!(count(app.shown()), Some(2));
}

#[test]
fn the_ring_finds_a_key_while_it_is_typed() {
    let mut app = app();
    typed(&mut app, "4/test:cluster");
    assert_eq!(
        app.prompt.as_ref().map(|p| p.kind),
        Some(PromptKind::Locate)
    );
    let partitions = app
        .shown()
        .ring
        .as_ref()
        .expect("known")
        .value
        .ring
        .partitions;
    let key = ringmaster_shared::key::Key::new("test:cluster").expect("valid");
    let located = app.ring.located.clone().expect("found");
    assert_eq!(located.partition, key.partition(partitions));
    press(&mut app, KeyCode::Enter);
    assert!(app.prompt.is_none() && app.ring.located.is_some());
    typed(&mut app, "l");
    assert!(
        app.ring.located.is_none(),
        "moving the cursor lets the key go"
    );
    assert_eq!(app.ring.cursor, (located.partition + 1) % partitions);
}

#[test]
fn filters_apply_while_typed_and_escape_clears_them() {
    let mut app = app();
    typed(&mut app, "/node-2");
    assert_eq!(rows::members(app.shown(), &app.members).len(), 1);
    press(&mut app, KeyCode::Enter);
    assert_eq!(app.members.filter, "node-2");
    typed(&mut app, "/");
    press(&mut app, KeyCode::Esc);
    assert_eq!(rows::members(app.shown(), &app.members).len(), 3);
}

#[test]
fn a_wrong_command_stays_to_be_mended_and_history_comes_back() {
    let mut app = app();
    typed(&mut app, ":frob\n");
    let prompt = app.prompt.as_ref().expect("still open");
    assert_eq!(prompt.input.value(), "frob");
    assert!(prompt.error.is_some());
    press(&mut app, KeyCode::Esc);
    typed(&mut app, ":mem");
    assert_eq!(app.prompt.as_ref().map(|p| p.ghost.as_str()), Some("bers"));
    press(&mut app, KeyCode::Tab);
    press(&mut app, KeyCode::Enter);
    assert_eq!(app.screen, ScreenId::Members);
    typed(&mut app, ":");
    press(&mut app, KeyCode::Up);
    assert_eq!(
        app.prompt.as_ref().map(|p| p.input.value()),
        Some("members")
    );
    press(&mut app, KeyCode::Up);
    assert_eq!(app.prompt.as_ref().map(|p| p.input.value()), Some("frob"));
}

#[test]
fn every_change_of_the_connection_is_told_and_kept() {
    let mut app = app();
    let states = [
        LinkState::Fallback,
        LinkState::Disconnected,
        LinkState::Connected,
    ];
    for (n, state) in states.into_iter().enumerate() {
        let view = LinkView {
            state,
            since_ms: app.link.since_ms + 2_000,
            ..app.link.clone()
        };
        update(&mut app, Msg::Link(Box::new(view)));
        assert!(toast(&app).contains(state.label()), "{}", toast(&app));
        let change = app.link_log.back().expect("kept");
        assert_eq!((change.to, change.lasted_ms), (state, 2_000));
        assert_eq!(app.link_log.len(), n + 1);
    }
}

#[test]
fn no_key_on_any_screen_panics_or_writes() {
    let codes: Vec<KeyCode> = (' '..='~')
        .map(KeyCode::Char)
        .chain([
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::Left,
            KeyCode::Right,
            KeyCode::Home,
            KeyCode::End,
            KeyCode::PageUp,
            KeyCode::PageDown,
            KeyCode::Enter,
            KeyCode::Tab,
            KeyCode::Esc,
            KeyCode::Backspace,
            KeyCode::Delete,
            KeyCode::F(1),
        ])
        .collect();
    for start in [app(), fixture::never_connected(), fixture::disconnected()] {
        for screen in ScreenId::ALL {
            for first in &codes {
                for second in "gjhG /:x"
                    .chars()
                    .map(KeyCode::Char)
                    .chain([KeyCode::Enter])
                {
                    let mut app = start.clone();
                    app.screen = screen;
                    let mut effects = press(&mut app, *first);
                    effects.extend(press(&mut app, second));
                    let writes =
                        |e: &Effect| matches!(e, Effect::Data { .. } | Effect::Procedure(_));
                    assert!(
                        !effects.iter().any(writes),
                        "{screen:?} {first:?} {second:?}"
                    );
                }
            }
        }
    }
}
