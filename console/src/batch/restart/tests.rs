use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ringmaster_shared::member::Lifecycle;

use super::*;
use crate::{
    fixture::server::ok,
    procedure::{
        fixture::status,
        runner::tests::{Fakes, accepted},
    },
};

/// One that never gets to standby once it is told; whenever it says so, the operator is impatient.
async fn never_down(interrupt: mpsc::Sender<()>) -> Fakes {
    let told = AtomicBool::new(false);
    Fakes::start(&["a"], move |name, request, _| match request {
        "POST /api/v1/admin/standby" => {
            told.store(true, Ordering::SeqCst);
            Some(accepted(name, "holds"))
        }
        "GET /api/v1/status" if told.load(Ordering::SeqCst) => {
            // twice is enough
            let _ = interrupt.try_send(());
            Some(ok(&status(name, Lifecycle::Draining, 5)))
        }
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_second_interrupt_does_not_wait_for_the_way_back() {
    let client = Client::new().expect("a client");
    let (interrupt, heard) = mpsc::channel::<()>(2);
    let nodes = never_down(interrupt).await;
    let heard = stream::unfold(heard, |mut heard| async move {
        heard.recv().await.map(|()| ((), heard))
    });
    let kind = ProcedureKind::CleanRestart;
    let all = nodes.endpoints();
    let run = carry_out(client, &all, kind, Output::Json, heard);
    let run = tokio::time::timeout(Duration::from_secs(30), run).await;
    let (end, interrupted) = run.expect("it waits for nobody");
    assert!(interrupted);
    let why = end.outcome.expect("an end").expect_err("cut short");
    assert!(
        why.starts_with("interrupted again while waiting for a"),
        "{why}"
    );
    assert_eq!(end.log[0], "a: holds");
}

fn progress(log: &[&str]) -> Progress {
    Progress {
        log: log.iter().map(ToString::to_string).collect(),
        ..crate::fixture::clean_restart()
            .procedures
            .progress
            .expect("one runs")
    }
}

#[test]
fn each_logged_line_is_printed_once() {
    let mut printer = Printer::default();
    assert_eq!(printer.news(&progress(&["a"])), ["a"]);
    assert_eq!(printer.news(&progress(&["a"])), Vec::<String>::new());
    assert_eq!(printer.news(&progress(&["a", "b", "c"])), ["b", "c"]);
    let mut long = progress(&["c", "d"]);
    long.log_dropped = 2;
    assert_eq!(printer.news(&long), ["d"], "the oldest were dropped");
    assert_eq!(printer.news(&long), Vec::<String>::new());
    long.log_dropped = 7;
    assert_eq!(printer.news(&long), ["c", "d"], "more than it shows");
}

#[test]
fn the_report_says_who_was_told_what() {
    let progress = progress(&["a: holds", "a: starts from memory"]);
    let report = serde_json::to_value(document(&progress, false, "failed")).expect("serializes");
    assert_eq!(
        report["log"],
        serde_json::json!(["a: holds", "a: starts from memory"])
    );
}
