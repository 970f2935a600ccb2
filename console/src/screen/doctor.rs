//! Findings: what is wrong, what it means, what was seen, and the command that helps.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::view::View;
use crate::{
    doctor::Finding,
    format,
    theme::Tone,
    widget::{self, Rows},
};

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let fresh = view.fresh(view.cluster.status.as_ref());
    let title = match view.findings.len() {
        0 if view.is_empty() => "Doctor".to_owned(),
        0 => "Doctor: nothing is wrong".to_owned(),
        n => format!("Doctor: {}", format::plural(n, "finding")),
    };
    widget::heading(buf, rows.take(1), title, fresh, theme);
    rows.skip(1);
    if view.findings.is_empty() {
        rows.lines(buf, well(view));
        return;
    }
    let width = usize::from(area.width);
    let lines: Vec<Line> = view
        .findings
        .iter()
        .flat_map(|f| finding_lines(view, f, width))
        .collect();
    let mut room = usize::from(rows.left());
    if lines.len() > room {
        // the last row says how much is below
        room = room.saturating_sub(1);
    }
    let top = view.app.doctor.clamped(lines.len().saturating_sub(room));
    let more = lines.len().saturating_sub(top + room);
    rows.lines(buf, lines.into_iter().skip(top).take(room));
    if more > 0 {
        let below = format::plural(more, "line");
        let text = format!("{} {below} more ", theme.glyphs.sort_down);
        let last = Rect {
            y: area.bottom().saturating_sub(1),
            height: 1,
            ..area
        };
        widget::draw_right(buf, last, &Line::styled(text, theme.quiet()), 0);
    }
}

fn finding_lines(view: &View, finding: &Finding, width: usize) -> Vec<Line<'static>> {
    let theme = &view.theme;
    let mark = theme.severity(finding.severity);
    let since = finding.since.map(|t| {
        let ago = format::age(format::between(t, view.app.utc));
        format!(
            "   since {} UTC, {ago}",
            format::event_time(t, view.app.utc)
        )
    });
    let room = width.saturating_sub(4);
    let mut lines: Vec<Line> = Vec::new();
    for (i, text) in format::wrap(&finding.title, room, 0, 2)
        .into_iter()
        .enumerate()
    {
        let glyph = if i == 0 { mark.glyph } else { " " };
        lines.push(Line::from(vec![
            Span::styled(format!(" {glyph} "), theme.style(mark.tone)),
            Span::styled(text, theme.bold()),
        ]));
    }
    let code = format!("   {}{}", finding.code, since.unwrap_or_default());
    lines.push(Line::styled(code, theme.quiet()));
    for text in format::wrap(&finding.explanation, room, 0, 8) {
        lines.push(Line::raw(format!("   {text}")));
    }
    let room = width.saturating_sub(10);
    let mut add = |label: &str, texts: Vec<String>, style: Style| {
        for (i, text) in texts.into_iter().enumerate() {
            let label = if i == 0 { label } else { "" };
            lines.push(Line::from(vec![
                Span::styled(format!("   {}", format::left(label, 6)), theme.quiet()),
                Span::styled(text, style),
            ]));
        }
    };
    for seen in finding.evidence.iter().take(8) {
        add(
            "seen",
            format::wrap(&format::printable(seen), room, 0, 3),
            theme.plain(),
        );
    }
    for fix in &finding.fix {
        match fix.strip_prefix("$ ") {
            Some(command) => add("run", format::wrap_command(command, room), theme.bold()),
            None => add("do", format::wrap(fix, room, 0, 4), theme.plain()),
        }
    }
    lines.push(Line::default());
    lines
}

fn well(view: &View) -> Vec<Line<'static>> {
    let theme = &view.theme;
    let checks = [
        "one cluster, and every node that answers is in it",
        "every member alive and serving, and reachable from here",
        "every partition with all its replicas",
        "all nodes agree about the members and about the ring",
        "no hints pile up, no disk refuses writes, no clock is off",
        "gossip passes over UDP, and the live feed is connected",
    ];
    let line = |text: &&str| {
        Line::from(vec![
            Span::styled(format!(" {} ", theme.glyphs.good), theme.style(Tone::Good)),
            Span::raw((*text).to_owned()),
        ])
    };
    checks.iter().map(line).collect()
}
