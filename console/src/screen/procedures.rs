//! Procedures: what can be done, what exactly it would do, and how far it is. Restarts are drawn
//! here, changes of the ring in `change.rs`.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use std::time::Duration;

use super::{change, step::draw_step, view::View};
use crate::{
    app::{ScreenId, screens::Entry},
    change::{ChangeVerb, choices, nothing_for, words},
    format,
    progress::{Preview, ProcedureKind, Progress, StepState},
    theme::Tone,
    widget::{self, Rows},
};

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
    let state = &view.app.procedures;
    if let Some(planned) = &state.change.plan {
        change::draw_plan(view, planned, buf, area);
        return;
    }
    if let Some(choosing) = &state.change.choosing {
        let mut rows = Rows::new(area);
        if let Some(asked) = &state.change.asked {
            rows.line(buf, &change::asked_line(view, asked));
        }
        change::draw_choosing(view, choosing, buf, rows.rest());
        return;
    }
    match (&state.preview, &state.progress) {
        (Some(preview), _) => draw_preview(view, preview, buf, area),
        (None, Some(progress)) if progress.is_running() || state.is_log_open() => {
            draw_progress(view, progress, buf, area);
        }
        (None, _) => draw_menu(view, buf, area),
    }
}

/// From so many rows on a menu has room for all that is said under it.
const TALL: u16 = 20;

fn draw_menu(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let state = &view.app.procedures;
    let mut rows = Rows::new(area);
    if let Some(asked) = &state.change.asked {
        rows.line(buf, &change::asked_line(view, asked));
    }
    if let Some(run) = state.change.run.as_ref().filter(|r| r.is_running()) {
        change::draw_run(view, run, buf, rows.rest());
        return;
    }
    let wide = Entry::all().map(|e| format::width(e.title())).max();
    let wide = wide.unwrap_or(0) + 3;
    for entry in Entry::all() {
        let heading = match entry {
            Entry::Restart(kind) if kind == ProcedureKind::ALL[0] => Some(" Restarts"),
            Entry::Change(verb) if verb == ChangeVerb::ALL[0] => Some(" Changes of the ring"),
            _ => None,
        };
        if let Some(heading) = heading {
            // air between the two kinds, where there is room for it
            if matches!(entry, Entry::Change(_)) && area.height >= TALL {
                rows.skip(1);
            }
            rows.line(buf, &Line::styled(heading, theme.bold()));
        }
        draw_entry(view, entry, wide, buf, rows.take(1));
    }
    let room = usize::from(area.width).saturating_sub(4);
    let about = match state.entry() {
        Entry::Restart(kind) => about(kind),
        Entry::Change(verb) => verb.about(),
    };
    let last = state.restart();
    // why it failed is worth more than what it would be good for
    let failed = last.is_some_and(|l| matches!(l.outcome, Some(Err(_))));
    if !failed || area.height >= TALL {
        rows.skip(1);
        for line in format::wrap(about, room, 0, 4) {
            rows.line(buf, &Line::styled(format!("   {line}"), theme.quiet()));
        }
    }
    if view.app.read_only {
        let text = "   This console is read-only: everything can be previewed, nothing begun.";
        rows.line(buf, &Line::styled(text, theme.quiet()));
    }
    rows.skip(1);
    // the later of the two is what somebody wants to see the end of
    match (last, &state.change.run) {
        (Some(last), _) => draw_progress(view, last, buf, rows.rest()),
        (None, Some(run)) => change::draw_run(view, run, buf, rows.rest()),
        (None, None) => {}
    }
}

fn draw_entry(view: &View, entry: Entry, wide: usize, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let chosen = entry == view.app.procedures.entry();
    let mark = if chosen { theme.glyphs.select } else { " " };
    let now = match entry {
        Entry::Restart(ProcedureKind::CleanRestart) => {
            "all to standby, gossip forgotten, started from one".to_owned()
        }
        Entry::Restart(ProcedureKind::RollingRestart) => {
            "one node after the other, quorum held throughout".to_owned()
        }
        Entry::Change(verb) => possible(view, verb),
    };
    let room = usize::from(area.width).saturating_sub(wide + 3);
    let now = format::truncate(&now, room, theme.glyphs.ellipsis);
    let line = Line::from(vec![
        Span::raw(format!("{mark} {}", format::left(entry.title(), wide))),
        Span::styled(now, theme.quiet()),
    ]);
    widget::draw_line(buf, area, &line);
    if chosen {
        buf.set_style(area.intersection(buf.area), theme.selected());
    }
}

/// For whom it is possible now, or why for nobody.
fn possible(view: &View, verb: ChangeVerb) -> String {
    let choices = choices(verb, view.cluster);
    match (verb, choices.as_slice()) {
        (_, []) => nothing_for(verb, view.cluster),
        (ChangeVerb::Rebalance, _) => "the same members, spread evenly again".to_owned(),
        (ChangeVerb::Cancel, _) => "one is under way".to_owned(),
        (_, [one]) => format!("possible: {}", words(one)),
        (ChangeVerb::Leave, all) => format!("one of {}", format::plural(all.len(), "member")),
        (_, all) => {
            let others = format::plural(all.len() - 1, "other");
            format!("possible: {}, or {others}", words(&all[0]))
        }
    }
}

fn about(kind: ProcedureKind) -> &'static str {
    match kind {
        ProcedureKind::CleanRestart => {
            "Brings all nodes to standby, forgets what gossip remembered, and starts them again from \
             one node. For split brain and for views that stay different. Data stays; reads and \
             writes are refused for a few seconds."
        }
        ProcedureKind::RollingRestart => {
            "Restarts one node after the other, each only while every partition keeps its quorum \
             without it. For a new binary or new flags. A client that retries once notices nothing."
        }
    }
}

fn draw_preview(view: &View, preview: &Preview, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let title = preview.kind.title();
    let (title, about) = if preview.blocked.is_empty() {
        let nodes = format::plural(preview.nodes.len(), "node");
        let about = "   not started: this is what it would do";
        (format!(" {title} of {nodes}"), about)
    } else {
        (format!(" {title}"), "   cannot be started now")
    };
    rows.line(
        buf,
        &Line::from(vec![
            Span::styled(title, theme.bold()),
            Span::styled(about, theme.quiet()),
        ]),
    );
    rows.skip(1);
    let room = usize::from(area.width).saturating_sub(8);
    let mut lines: Vec<Line> = Vec::new();
    for (i, step) in preview.steps.iter().enumerate() {
        for (j, text) in format::wrap(step, room, 0, 3).into_iter().enumerate() {
            let number = if j == 0 {
                (i + 1).to_string()
            } else {
                String::new()
            };
            lines.push(Line::from(vec![
                Span::styled(format!(" {}  ", format::right(&number, 2)), theme.quiet()),
                Span::raw(text),
            ]));
        }
    }
    if !lines.is_empty() {
        lines.push(Line::default());
    }
    for effect in &preview.effects {
        for text in format::wrap(&format!("{} {effect}", theme.glyphs.dot), room, 2, 3) {
            lines.push(Line::raw(format!(" {text}")));
        }
    }
    if !lines.is_empty() {
        lines.push(Line::default());
    }
    for why in &preview.blocked {
        let text = format!("{} {why}", theme.glyphs.bad);
        for text in format::wrap(&text, room, 2, 8) {
            lines.push(Line::styled(format!(" {text}"), theme.style(Tone::Bad)));
        }
    }
    if preview.blocked.is_empty() {
        let text = format!(" {} Nothing stands in the way.", theme.glyphs.good);
        lines.push(Line::styled(text, theme.style(Tone::Good)));
    } else {
        let doctor = ScreenId::Doctor.key();
        let text = format!(
            "   Nothing was begun. Enter looks again; {doctor} shows what the doctor finds."
        );
        lines.push(Line::default());
        lines.push(Line::styled(text, theme.quiet()));
    }
    let room = usize::from(rows.left());
    let last = lines.len().saturating_sub(room);
    let top = view.app.procedures.scroll.clamped(last);
    rows.lines(buf, lines.into_iter().skip(top));
}

fn draw_progress(view: &View, progress: &Progress, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    // none are known of one that was refused before it began
    let of = match progress.nodes.len() {
        0 => String::new(),
        n => format!(" of {}", format::plural(n, "node")),
    };
    let title = Line::from(vec![
        Span::styled(format!(" {}", progress.kind.title()), theme.bold()),
        Span::raw(format!(
            "{of}   started {} UTC, {} ago",
            format::clock(progress.started_utc),
            format::age(format::between(progress.started_utc, view.app.utc))
        )),
    ]);
    rows.line(buf, &title);
    rows.skip(1);
    if view.app.procedures.show_log {
        draw_log(view, progress, buf, &mut rows);
        return;
    }
    let left = usize::from(rows.left());
    // while it runs, the steps come first; in the end what came of it does
    let steps = if progress.is_running() {
        progress.steps.len()
    } else {
        0
    };
    let free = left.saturating_sub(steps + 1).max(2.min(left));
    let below = below(view, progress, area.width, free);
    let room = left.saturating_sub(below.len() + 1);
    // more steps than fit: those around the one that runs
    let at = progress
        .steps
        .iter()
        .position(|s| s.state != StepState::Done);
    let at = at.unwrap_or(progress.steps.len().saturating_sub(1));
    let from = (at + 2).min(progress.steps.len());
    let from = from.saturating_sub(room).min(at);
    let wide = progress.steps.iter().map(|s| format::width(&s.title)).max();
    let wide = wide.unwrap_or(0).clamp(12, 28);
    for step in progress.steps.iter().skip(from).take(room) {
        draw_step(view, step, wide, buf, rows.take(1));
    }
    rows.skip(u16::from(room > 0 && !progress.steps.is_empty()));
    rows.lines(buf, below);
}

/// What is waited for, and what came of it, in at most `room` rows. The log has all of it.
fn below(view: &View, progress: &Progress, width: u16, room: usize) -> Vec<Line<'static>> {
    let theme = &view.theme;
    let mut lines = Vec::new();
    if let Some(gate) = &progress.waiting_for {
        let text = format!("{} waiting for: {gate}", theme.glyphs.busy);
        let text = wrapped(view, &text, width, room.saturating_sub(1).max(1));
        lines.extend(text.map(|l| Line::styled(l, theme.style(Tone::Busy))));
    }
    if progress.outcome.is_some() {
        lines.extend(outcome_lines(view, progress, width, room));
    } else if progress.writes_refused_ms > 0 {
        let refused = format::age(Duration::from_millis(progress.writes_refused_ms));
        lines.push(Line::from(vec![
            Span::raw(" writes refused for "),
            Span::styled(refused, theme.bold()),
            Span::raw(" so far"),
        ]));
    }
    lines
}

fn outcome_lines(
    view: &View,
    progress: &Progress,
    width: u16,
    room: usize,
) -> impl Iterator<Item = Line<'static>> {
    let theme = &view.theme;
    let refused = format::age(Duration::from_millis(progress.writes_refused_ms));
    let (glyph, tone, text, refused) = match &progress.outcome {
        None => (theme.glyphs.busy, Tone::Busy, "", String::new()),
        Some(Ok(text)) => {
            let refused = format!(" Writes were refused for {refused}.");
            (theme.glyphs.good, Tone::Good, text.as_str(), refused)
        }
        // nobody looked any longer whether they pass
        Some(Err(text)) => {
            let refused = format!(" Writes may have been refused for {refused} or longer.");
            (theme.glyphs.bad, Tone::Bad, text.as_str(), refused)
        }
    };
    let none = progress.writes_refused_ms == 0;
    let refused = if none { "" } else { &refused };
    let text = format!("{glyph} {}.{refused}", text.trim_end_matches('.'));
    let style = theme.style(tone);
    wrapped(view, &text, width, room).map(move |l| Line::styled(l, style))
}

/// In at most `room` rows, with a mark where that is not all.
fn wrapped(
    view: &View,
    text: &str,
    width: u16,
    room: usize,
) -> impl Iterator<Item = String> + use<> {
    let width = usize::from(width).saturating_sub(2);
    let mut lines = format::wrap(&format::printable(text), width, 2, room + 1);
    if lines.len() > room {
        lines.truncate(room);
        if let Some(last) = lines.last_mut() {
            let mark = view.theme.glyphs.ellipsis;
            *last = format::truncate(&format!("{last} {mark}{mark}"), width, mark);
        }
    }
    lines.into_iter().map(|line| format!(" {line}"))
}

/// Rows one line of the log may take.
const LOG_ROWS_MAX: usize = 20;

fn draw_log(view: &View, progress: &Progress, buf: &mut Buffer, rows: &mut Rows) {
    let theme = &view.theme;
    let width = rows.rest().width;
    let mut lines = Vec::new();
    if progress.log_dropped > 0 {
        let gone = format::plural(progress.log_dropped, "earlier line");
        lines.push(Line::styled(format!(" {gone} not kept"), theme.quiet()));
    }
    for line in &progress.log {
        lines.extend(wrapped(view, line, width, LOG_ROWS_MAX).map(Line::raw));
    }
    if progress.outcome.is_some() {
        lines.extend(outcome_lines(view, progress, width, LOG_ROWS_MAX));
    } else if lines.is_empty() {
        lines.push(Line::styled(" Nothing is logged yet.", theme.quiet()));
    }
    let room = usize::from(rows.left());
    let last = lines.len().saturating_sub(room);
    let top = last - view.app.procedures.scroll.clamped(last);
    rows.lines(buf, lines.into_iter().skip(top).take(room));
}
