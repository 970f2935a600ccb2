//! One key: what a read or write answered, its siblings, and where each replica stands.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use ringmaster_shared::{
    api::data::{ReadResponse, ReplicasResponse, WriteResponse},
    id::NodeId,
};
use serde_json::Value;
use std::time::Duration;

use super::view::View;
use crate::{
    app::{self, screens::DataLine},
    client::Left,
    format,
    message::{DataAnswer, DataFailure, DataOutcome},
    theme::Tone,
    widget::{self, Freshness, Rows},
};

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let state = &view.app.data;
    let mut rows = Rows::new(area);
    let fresh = state
        .answer
        .as_ref()
        .map_or_else(Freshness::default, |a| Freshness {
            age: Some(Duration::from_millis(
                view.app.now_ms.saturating_sub(a.received_ms),
            )),
            stale: false,
        });
    match &state.answer {
        Some(answered) => {
            let answer = &answered.answer;
            let key = format::printable(answer.op.key());
            let key = format::truncate(&key, 40, theme.glyphs.ellipsis);
            let title = format!(
                "{} {key}   {} ms at {}",
                answer.op.verb(),
                answer.took_ms,
                answer.endpoint
            );
            widget::heading(buf, rows.take(1), title, fresh, theme);
        }
        None => rows.line(buf, &Line::styled(" Data", theme.bold())),
    }
    rows.skip(1);
    if let Some(flight) = &state.in_flight {
        let s = view.app.now_ms.saturating_sub(flight.since_ms);
        let text = format!(
            " {} {} {} … {}",
            theme.glyphs.busy,
            flight.request.op.verb(),
            format::printable(flight.request.op.key()),
            format::age(Duration::from_millis(s))
        );
        rows.line(buf, &Line::styled(text, theme.style(Tone::Busy)));
    }
    let history = (state.log.len() as u16 + 2).min(rows.left() / 3);
    let top = rows.take(rows.left() - history);
    match &state.answer {
        Some(answered) => draw_answer(view, &answered.answer, buf, top),
        None if state.in_flight.is_none() => draw_intro(view, buf, top),
        None => {}
    }
    draw_log(view, buf, rows.rest());
}

fn draw_intro(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let line = |command: &str, what: &str| {
        Line::from(vec![
            Span::styled(format!("   {}", format::left(command, 30)), theme.bold()),
            Span::styled(what.to_owned(), theme.quiet()),
        ])
    };
    rows.lines(
        buf,
        [
            Line::raw(" Reads and writes one key, through the node this console is connected to."),
            Line::default(),
            line(":get user:42", "the value, its siblings and its replicas"),
            line(":put user:42 {\"name\":\"Ada\"}", "JSON, or any text"),
            line(":del user:42", "asks before it deletes"),
        ],
    );
    if view.app.read_only {
        rows.skip(1);
        let text = " This console is read-only: put and del are refused.";
        rows.line(buf, &Line::styled(text, theme.quiet()));
    }
}

fn draw_answer(view: &View, answer: &DataAnswer, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut lines: Vec<Line<'static>> = Vec::new();
    let verb = answer.op.verb();
    match &answer.result {
        Ok(outcome) => {
            let done = match outcome {
                DataOutcome::Read(r) => read_words(r),
                DataOutcome::Written(w) => written_words(verb, w),
            };
            let room = usize::from(area.width).saturating_sub(2);
            let done = format::wrap(&format!("{} {done}", theme.glyphs.good), room, 2, 3);
            let done = done.into_iter();
            lines.extend(done.map(|l| Line::styled(format!(" {l}"), theme.style(Tone::Good))));
            match outcome {
                DataOutcome::Read(r) => read_lines(view, r, area.width, &mut lines),
                DataOutcome::Written(w) => written_lines(view, w, area.width, &mut lines),
            }
        }
        Err(failure) => {
            lines.extend(failure_lines(view, answer, failure, area.width));
        }
    }
    if let Some(replicas) = &answer.replicas {
        lines.push(Line::default());
        replica_lines(view, replicas, &mut lines);
    } else if let Ok(outcome) = &answer.result {
        let replicas = match outcome {
            DataOutcome::Read(r) => &r.replication_nodes,
            DataOutcome::Written(w) => &w.replication_nodes,
        };
        lines.push(field(view, "replicas", names(replicas)));
    }
    let shown = usize::from(area.height);
    let top = view
        .app
        .data
        .scroll
        .clamped(lines.len().saturating_sub(shown));
    let mut rows = Rows::new(area);
    rows.lines(buf, lines.into_iter().skip(top));
}

fn read_words(r: &ReadResponse) -> String {
    let from = names(&r.read_result.nodes_responded);
    let mut words = format!("read from {from}");
    if !r.read_result.repaired.is_empty() {
        words += "; ";
        words += &names(&r.read_result.repaired);
        words += " was behind, now repaired";
    }
    if !r.read_result.quorum_achieved {
        words += "; no quorum, may be old";
    }
    words
}

fn written_words(verb: &str, w: &WriteResponse) -> String {
    let done = if verb == "del" { "deleted" } else { "written" };
    let mut words = format!(
        "{done}, on disk at {}",
        names(&w.replication_result.successful_nodes)
    );
    if !w.replication_result.failed_nodes.is_empty() {
        words += "; not at ";
        words += &names(&w.replication_result.failed_nodes);
        words += ", a hint is kept";
    }
    words
}

fn read_lines(view: &View, r: &ReadResponse, width: u16, lines: &mut Vec<Line<'static>>) {
    let theme = &view.theme;
    lines.extend(value_lines(view, "value", &r.value, width));
    if let Some(siblings) = &r.siblings {
        let text = format!(
            " {} {} concurrent versions; the first is the value, any write settles it",
            theme.glyphs.warn,
            siblings.len()
        );
        lines.push(Line::styled(text, theme.style(Tone::Warn)));
        for sibling in siblings {
            let at = format::event_time(sibling.written_at, view.app.utc);
            let what = sibling
                .value
                .as_ref()
                .map_or("(deleted)".to_owned(), one_line);
            lines.push(Line::from(vec![
                Span::styled(
                    format!(
                        "   {at} UTC  {}  ",
                        format::left(sibling.node_id.as_str(), 10)
                    ),
                    theme.quiet(),
                ),
                Span::raw(what),
            ]));
        }
    }
    lines.push(field(view, "context", short_token(&r.context)));
}

fn written_lines(view: &View, w: &WriteResponse, width: u16, lines: &mut Vec<Line<'static>>) {
    if let Some(value) = &w.value {
        lines.extend(value_lines(view, "value", value, width));
    }
    lines.push(field(view, "context", short_token(&w.context)));
}

fn failure_lines(
    view: &View,
    answer: &DataAnswer,
    failure: &DataFailure,
    width: u16,
) -> Vec<Line<'static>> {
    let theme = &view.theme;
    let verb = answer.op.verb();
    let status = failure
        .status
        .map_or("no answer".to_owned(), |s| s.to_string());
    let code = serde_json::to_value(failure.code).ok();
    let code = code
        .and_then(|c| c.as_str().map(str::to_owned))
        .unwrap_or_default();
    let (glyph, tone, what, next) = match answer.leaves() {
        None | Some(Left::Nothing) => (theme.glyphs.bad, Tone::Bad, "failed", None),
        Some(Left::Stored) => (
            theme.glyphs.warn,
            Tone::Warn,
            "took effect otherwise than it was meant",
            Some("Read the key before you try again."),
        ),
        Some(Left::Unknown) => (
            theme.glyphs.warn,
            Tone::Warn,
            "has an unknown outcome",
            Some("It may have taken effect, or still may: read the key before you try again."),
        ),
    };
    let head = format!(" {glyph} {verb} {what}: {status} {code}");
    let mut lines = vec![Line::styled(head.trim_end().to_owned(), theme.style(tone))];
    let room = usize::from(width).saturating_sub(4);
    let next = next.into_iter().flat_map(|n| format::wrap(n, room, 0, 3));
    lines.extend(next.map(|l| Line::styled(format!("   {l}"), theme.bold())));
    let text = format::printable(&failure.message);
    lines.extend(
        format::wrap(&text, room, 0, 6)
            .into_iter()
            .map(|l| Line::raw(format!("   {l}"))),
    );
    if let Value::Object(details) = &failure.details {
        for (key, value) in details.iter().take(8) {
            lines.push(field(view, key, one_line(value)));
        }
    }
    lines
}

/// Replicas in order; the same fingerprint means the same content.
fn replica_lines(view: &View, replicas: &ReplicasResponse, lines: &mut Vec<Line<'static>>) {
    let theme = &view.theme;
    lines.push(Line::styled(
        format!(
            " Where each replica stands (partition {})",
            replicas.partition
        ),
        theme.bold(),
    ));
    let newest = replicas.replicas.iter().max_by_key(|r| r.written_at);
    let newest = newest.and_then(|r| r.fingerprint.as_deref());
    for replica in &replicas.replicas {
        let print = replica.fingerprint.as_deref();
        let (glyph, tone, what) = match (&replica.error, replica.present, print) {
            (Some(error), _, _) => (theme.glyphs.bad, Tone::Bad, format::printable(error)),
            (None, _, None) => (theme.glyphs.pending, Tone::Warn, "holds nothing".to_owned()),
            (None, present, Some(print)) => {
                let same = newest == Some(print);
                let deleted = if present { "" } else { "  deleted" };
                let at = replica.written_at.map_or(String::new(), |t| {
                    format!("  written {} UTC", format::event_time(t, view.app.utc))
                });
                let behind = if same { "" } else { "  differs" };
                let tone = if same { Tone::Good } else { Tone::Warn };
                let glyph = if same {
                    theme.glyphs.good
                } else {
                    theme.glyphs.warn
                };
                let print: String = print.chars().take(8).collect();
                (glyph, tone, format!("{print}{at}{deleted}{behind}"))
            }
        };
        lines.push(Line::from(vec![
            Span::styled(format!("   {glyph} "), theme.style(tone)),
            Span::raw(format::left(replica.node_id.as_str(), 12)),
            Span::raw(format!(" {what}")),
        ]));
    }
}

fn draw_log(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let log = &view.app.data.log;
    if log.is_empty() || area.height < 2 {
        return;
    }
    let mut rows = Rows::new(area);
    rows.line(buf, &Line::styled(" Earlier here", theme.bold()));
    let room = usize::from(rows.left());
    let width = usize::from(rows.rest().width);
    let line = |l: &DataLine| {
        let (time, took) = (
            format::event_time(l.at, view.app.utc),
            format!("  {} ms", l.took_ms),
        );
        // what stands beside the summary, and a cell free on the right
        let rest = time.len() + took.len() + 36;
        let summary = width.saturating_sub(rest);
        let summary = format::truncate(&l.summary, summary, theme.glyphs.ellipsis);
        let (glyph, tone) = match l.tone {
            app::Tone::Info => (theme.glyphs.good, Tone::Good),
            app::Tone::Warning => (theme.glyphs.warn, Tone::Warn),
            app::Tone::Error => (theme.glyphs.bad, Tone::Bad),
        };
        Line::from(vec![
            Span::styled(format!(" {time}  "), theme.quiet()),
            Span::styled(format!("{glyph} "), theme.style(tone)),
            Span::raw(format::left(l.verb, 4)),
            Span::raw(format::left(&format::printable(&l.key), 24)),
            Span::raw(format!("  {summary}")),
            Span::styled(took, theme.quiet()),
        ])
    };
    rows.lines(buf, log.iter().rev().take(room).map(line));
}

fn field(view: &View, label: &str, value: String) -> Line<'static> {
    Line::from(vec![
        Span::styled(format!(" {}  ", format::left(label, 9)), view.theme.quiet()),
        Span::raw(value),
    ])
}

/// A value over a few lines; long ones are cut, with their size.
fn value_lines(view: &View, label: &str, value: &Value, width: u16) -> Vec<Line<'static>> {
    const LINES_MAX: usize = 12;
    let room = usize::from(width).saturating_sub(14);
    let compact = value.to_string();
    let pretty = if format::width(&compact) <= room || value.is_string() {
        compact
    } else {
        serde_json::to_string_pretty(value).unwrap_or_default()
    };
    let mut lines: Vec<String> = Vec::new();
    for line in pretty.lines().take(LINES_MAX + 1) {
        lines.push(format::truncate(&format::printable(line), room, "…"));
    }
    let cut = lines.len() > LINES_MAX || pretty.len() > LINES_MAX * room;
    lines.truncate(LINES_MAX);
    if cut {
        lines.push(format!("… {} in all", format::bytes(pretty.len() as u64)));
    }
    let mut out = Vec::new();
    for (i, line) in lines.into_iter().enumerate() {
        out.push(field(view, if i == 0 { label } else { "" }, line));
    }
    out
}

fn one_line(value: &Value) -> String {
    let text = match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    format::truncate(&format::printable(&text), 80, "…")
}

/// The opaque token, cut: it is for copying, not for reading.
fn short_token(token: &str) -> String {
    format::truncate(token, 24, "…")
}

fn names(ids: &[NodeId]) -> String {
    let ids: Vec<&str> = ids.iter().map(NodeId::as_str).collect();
    match ids.split_last() {
        None => "no node".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
