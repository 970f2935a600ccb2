//! Everything that changes the cluster: operations on data and procedures. What guards them is
//! in one place: read-only, frozen, disconnected, stale, and another procedure running.

use ringmaster_shared::{id::NodeId, key::Key};
use tui_input::Input;

use super::{
    App, Confirm, ConfirmAction, ScreenId, Tone, ring_change, screens::InFlight, scroll::Scroll,
};
use crate::{
    change::ChangeVerb,
    link::LinkState,
    message::{DataOp, DataRequest, Effect},
    procedure,
    progress::{Preview, ProcedureCommand, ProcedureKind, Target},
};

impl App {
    /// Why nothing may be changed now; `Ok` when it may. Nothing dangerous runs on stale data.
    pub fn may_write(&self) -> Result<(), String> {
        if self.read_only {
            return Err("refused: this console was started with --read-only".to_owned());
        }
        if self.frozen.is_some() {
            return Err("refused: the view is frozen; Space unfreezes it".to_owned());
        }
        if self.link.state == LinkState::Disconnected {
            return Err("refused: disconnected from every endpoint".to_owned());
        }
        if self.cluster.is_stale(self.now_ms) {
            return Err(match self.cluster.age_ms(self.now_ms) {
                Some(age) => format!("refused: what is shown is {} s old", age / 1000),
                None => "refused: nothing is known of the cluster yet".to_owned(),
            });
        }
        Ok(())
    }
}

pub(super) fn preview(app: &mut App, kind: ProcedureKind) {
    let at = ProcedureKind::ALL.iter().position(|k| *k == kind);
    app.procedures.selected = at.unwrap_or(0);
    app.procedures.change.plan = None;
    app.procedures.change.choosing = None;
    app.procedures.scroll = Scroll::default();
    app.procedures.preview = Some(preview_now(app, kind));
}

fn preview_now(app: &App, kind: ProcedureKind) -> Preview {
    procedure::preview(kind, &app.cluster, &app.link.endpoints, app.now_ms)
}

fn is_running(app: &App) -> bool {
    let progress = app.procedures.progress.as_ref();
    progress.is_some_and(crate::progress::Progress::is_running)
}

pub(super) fn confirm_procedure(app: &mut App) {
    let Some(preview) = app.procedures.preview.clone() else {
        return;
    };
    if let Err(why) = may_start(app) {
        app.notify(Tone::Warning, why);
        return;
    }
    if !preview.blocked.is_empty() {
        // it may be mended by now; the plan is shown before it can be confirmed
        let now = preview_now(app, preview.kind);
        if let Some(why) = now.blocked.first() {
            app.notify(Tone::Warning, format!("not now: {why}"));
        }
        app.procedures.preview = Some(now);
        return;
    }
    let count = preview.nodes.len();
    app.confirm = Some(Confirm {
        title: format!("{} of {count} nodes", preview.kind.title()),
        effects: preview.effects.clone(),
        // one refuses writes and the other does not: the hand is not to take one for the other
        expected: format!("{} {count} nodes", preview.kind.title().to_lowercase()),
        input: Input::default(),
        error: None,
        action: ConfirmAction::Procedure {
            kind: preview.kind,
            targets: targets(app, &preview.nodes),
        },
    });
}

fn targets(app: &App, nodes: &[NodeId]) -> Vec<Target> {
    let members = app.cluster.members.as_ref();
    let target = |id: &NodeId| {
        Some(Target {
            id: id.clone(),
            address: members?.value.cluster_members.get(id)?.address.clone(),
        })
    };
    nodes.iter().filter_map(target).collect()
}

fn may_start(app: &App) -> Result<(), String> {
    if is_running(app) {
        return Err("refused: another procedure is running".to_owned());
    }
    app.may_write()
}

/// Carries out what was confirmed, if it still holds; an error stays in the dialog.
pub(super) fn confirmed(app: &mut App, action: &ConfirmAction) -> Result<Vec<Effect>, String> {
    match action {
        ConfirmAction::Delete { key } => {
            app.may_write()?;
            let op = DataOp::Delete { key: key.clone() };
            Ok(vec![send(app, op)?])
        }
        ConfirmAction::Change {
            change,
            plan_id,
            base_epoch,
        } => ring_change::confirmed(app, change, plan_id, *base_epoch),
        ConfirmAction::Procedure {
            kind,
            targets: agreed,
        } => {
            may_start(app)?;
            let now = preview_now(app, *kind);
            if let Some(why) = now.blocked.first() {
                return Err(format!("not any more: {why}"));
            }
            if &targets(app, &now.nodes) != agreed {
                return Err("the members changed since the preview; look again".to_owned());
            }
            app.procedures.preview = None;
            app.procedures.scroll = Scroll::default();
            let command = ProcedureCommand::Start(*kind, agreed.clone());
            Ok(vec![Effect::Procedure(command)])
        }
    }
}

pub(super) fn cancel(app: &mut App) -> Vec<Effect> {
    if is_running(app) {
        app.notify(Tone::Warning, "cancelling at the next safe point");
        vec![Effect::Procedure(ProcedureCommand::Cancel)]
    } else {
        ring_change::choose(app, ChangeVerb::Cancel)
    }
}

pub(super) fn data(app: &mut App, op: DataOp) -> Result<Vec<Effect>, String> {
    if let DataOp::Put { .. } | DataOp::Delete { .. } = op {
        app.may_write()?;
    }
    if let Some(flight) = &app.data.in_flight {
        return Err(format!("still waiting for {}", flight.request.op.verb()));
    }
    app.open(ScreenId::Data);
    if let DataOp::Delete { key } = op {
        let replicas = key_replicas(app, &key);
        app.confirm = Some(Confirm {
            title: format!("Delete {key}"),
            effects: vec![
                format!("removes the key and every version of it from {replicas}"),
                "cannot be taken back".to_owned(),
            ],
            expected: "delete".to_owned(),
            input: Input::default(),
            error: None,
            action: ConfirmAction::Delete { key },
        });
        return Ok(Vec::new());
    }
    Ok(vec![send(app, op)?])
}

fn key_replicas(app: &App, key: &str) -> String {
    let topology = app.cluster.topology.as_ref();
    let names = topology.zip(Key::new(key).ok()).map(|(topology, key)| {
        let replicas = topology.all_replicas(topology.partition_of(&key));
        let names: Vec<&str> = replicas.iter().map(NodeId::as_str).collect();
        names.join(", ")
    });
    names.unwrap_or_else(|| "all its replicas".to_owned())
}

fn send(app: &mut App, op: DataOp) -> Result<Effect, String> {
    let endpoint = app.link.endpoint.clone();
    let endpoint = endpoint.ok_or("no endpoint has answered yet; r tries now")?;
    let id = app.next_request;
    app.next_request += 1;
    op.key().clone_into(&mut app.data.key);
    let request = DataRequest { id, op };
    app.data.in_flight = Some(InFlight {
        request: request.clone(),
        since_ms: app.now_ms,
    });
    Ok(Effect::Data { endpoint, request })
}
