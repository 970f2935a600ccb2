//! The pure update: one message in, effects out.

use crossterm::event::{KeyEvent, KeyEventKind};

use super::{
    App, Frozen, LINK_LOG_MAX, LinkChange, Toast, Tone, act, input, ring_change,
    screens::{Answered, DataLine},
};
use crate::{
    client::Left,
    cluster::{Arrival, Report},
    keymap::{self, Meaning},
    link::{LinkState, LinkView},
    message::{DataAnswer, DataOutcome, Effect, Msg},
    progress::Progress,
};

/// How long notices stay, milliseconds.
const TOAST_MS: u64 = 4_000;
const TOAST_TROUBLE_MS: u64 = 8_000;
/// Operations on data remembered.
const DATA_LOG_MAX: usize = 50;

/// Takes one message. The clocks of `app` have been set before.
pub fn update(app: &mut App, msg: Msg) -> Vec<Effect> {
    match msg {
        Msg::Key(key) => return press(app, &key),
        Msg::Paste(text) => input::paste(app, &text),
        Msg::Size(columns, rows) => app.size = (columns, rows),
        Msg::Second => second(app),
        Msg::Link(view) => link(app, *view),
        Msg::Report(report) => take(app, report),
        Msg::Answer(answer) => answered(app, *answer),
        Msg::Changed(answer) => return ring_change::answered(app, *answer),
        Msg::Progress(progress) => progressed(app, *progress),
    }
    Vec::new()
}

fn press(app: &mut App, key: &KeyEvent) -> Vec<Effect> {
    if key.kind == KeyEventKind::Release {
        return Vec::new();
    }
    if app.confirm.is_some() {
        return input::confirm_key(app, key);
    }
    if app.prompt.is_some() {
        return input::prompt_key(app, key);
    }
    let half = app.half.take();
    match keymap::meaning(key, half, app.screen) {
        Meaning::Do(action) => act::act(app, action),
        Meaning::Half(letter) => {
            app.half = Some(letter);
            Vec::new()
        }
        Meaning::Nothing => Vec::new(),
    }
}

fn second(app: &mut App) {
    app.cluster.sample(app.now_ms);
    if let Some(run) = &mut app.procedures.change.run {
        run.tick(app.now_ms);
    }
    if app.toast.as_ref().is_some_and(|t| app.now_ms >= t.until_ms) {
        app.toast = None;
    }
    if app.quit_armed_ms.is_some_and(|until| app.now_ms >= until) {
        app.quit_armed_ms = None;
    }
}

fn take(app: &mut App, report: Report) {
    let at = Arrival {
        now_ms: app.now_ms,
        utc: app.utc,
    };
    app.cluster.absorb(report, at);
    ring_change::follow(app);
    if let Some(frozen) = &mut app.frozen {
        frozen.held += 1;
    }
}

fn link(app: &mut App, view: LinkView) {
    let before = std::mem::replace(&mut app.link, view);
    if before.state == app.link.state {
        return;
    }
    let lasted_ms = app.link.since_ms.saturating_sub(before.since_ms);
    if app.link_log.len() == LINK_LOG_MAX {
        app.link_log.pop_front();
    }
    let never = before.state == LinkState::Disconnected && before.last_data_ms.is_none();
    app.link_log.push_back(LinkChange {
        at: app.utc,
        from: (!never).then_some(before.state),
        to: app.link.state,
        lasted_ms,
        endpoint: app.link.endpoint.clone(),
    });
    // The very first connection is what everybody expects.
    if app.link_log.len() == 1 && app.link.state == LinkState::Connected {
        return;
    }
    let place = app.link.endpoint.clone().unwrap_or_default();
    let seconds = format!("{:.1} s", lasted_ms as f64 / 1000.0);
    match app.link.state {
        LinkState::Connected => {
            let was = before.state.label();
            let text =
                format!("Connected to {place}, with a full snapshot, after {seconds} of {was}");
            app.notify(Tone::Info, text);
        }
        LinkState::Fallback => {
            let text = format!("Fallback Mode: no live feed, polling {place}");
            app.notify(Tone::Warning, text);
        }
        LinkState::Disconnected => {
            let text = "Disconnected: no endpoint answers; trying on, r tries now";
            app.notify(Tone::Error, text);
        }
    }
}

fn answered(app: &mut App, answer: DataAnswer) {
    let awaited = app.data.in_flight.as_ref();
    if awaited.is_none_or(|f| f.request.id != answer.id) {
        return;
    }
    app.data.in_flight = None;
    let summary = match &answer.result {
        Ok(DataOutcome::Read(read)) => {
            let versions = read.siblings.as_ref().map_or(1, Vec::len);
            if versions > 1 {
                format!("{versions} concurrent versions")
            } else {
                "read".to_owned()
            }
        }
        Ok(DataOutcome::Written(written)) => {
            let synced = written.replication_result.successful_nodes.len();
            let all = written.replication_nodes.len();
            format!("synced on {synced} of {all} when answered")
        }
        Err(failure) => match answer.leaves() {
            Some(Left::Unknown) => format!("may have taken effect: {}", failure.message),
            Some(Left::Stored) => format!("took effect: {}", failure.message),
            Some(Left::Nothing) | None => failure.message.clone(),
        },
    };
    let tone = match (&answer.result, answer.leaves()) {
        (Ok(_), _) => Tone::Info,
        (Err(_), Some(Left::Unknown | Left::Stored)) => Tone::Warning,
        (Err(_), _) => Tone::Error,
    };
    if app.data.log.len() == DATA_LOG_MAX {
        app.data.log.pop_front();
    }
    app.data.log.push_back(DataLine {
        at: app.utc,
        verb: answer.op.verb(),
        key: answer.op.key().to_owned(),
        tone,
        summary,
        took_ms: answer.took_ms,
    });
    app.data.scroll.first();
    app.data.answer = Some(Answered {
        answer,
        at: app.utc,
        received_ms: app.now_ms,
    });
}

fn progressed(app: &mut App, progress: Progress) {
    if let Some(outcome) = &progress.outcome {
        let title = progress.kind.title();
        match outcome {
            Ok(text) => app.notify(Tone::Info, text.clone()),
            Err(text) => app.notify(Tone::Error, format!("{title} failed: {text}")),
        }
    }
    app.procedures.progress = Some(progress);
}

impl App {
    pub(super) fn notify(&mut self, tone: Tone, text: impl Into<String>) {
        let stay_ms = match tone {
            Tone::Info => TOAST_MS,
            Tone::Warning | Tone::Error => TOAST_TROUBLE_MS,
        };
        self.toast = Some(Toast {
            tone,
            text: text.into(),
            until_ms: self.now_ms + stay_ms,
        });
    }

    pub(super) fn toggle_freeze(&mut self) {
        self.frozen = match self.frozen.take() {
            Some(_) => None,
            None => Some(Box::new(Frozen {
                cluster: self.cluster.clone(),
                since_ms: self.now_ms,
                held: 0,
            })),
        };
    }
}

#[cfg(test)]
mod tests;
