//! What happened, newest at the bottom; follows until somebody scrolls back. The changes of this
//! console's own connection stand between the cluster's events.

use std::time::Duration;

use jiff::Timestamp;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use ringmaster_shared::event::{Event, Severity};

use super::View;
use crate::{
    app::{LinkChange, filter::Filter},
    format,
    link::LinkState,
    widget::{self, Rows},
};

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let state = &view.app.events;
    let mut rows = Rows::new(area);
    let shown = filtered(view);
    let room = usize::from(area.height.saturating_sub(1));
    // scrolled back further than there is: the oldest page
    let back = state.back.min(shown.len().saturating_sub(room));
    let title = title(view, shown.len(), back);
    let fresh = view.fresh(view.cluster.members.as_ref());
    widget::heading(buf, rows.take(1), title, fresh, theme);
    let body = rows.rest();
    if shown.is_empty() {
        let text = if entries(view).is_empty() {
            " No events yet."
        } else {
            " No event matches."
        };
        rows.line(buf, &Line::styled(text, theme.quiet()));
    }
    // from the newest shown upwards, until the page is full
    let mut page: Vec<Line> = Vec::new();
    for entry in shown.iter().rev().skip(back).take(room) {
        let lines = entry.lines(view, usize::from(area.width), 3);
        if page.len() + lines.len() > room {
            break;
        }
        page.extend(lines.into_iter().rev());
    }
    rows.lines(buf, page.into_iter().rev());
    if fresh.stale {
        widget::dim(buf, body);
    }
}

fn title(view: &View, shown: usize, back: usize) -> String {
    let state = &view.app.events;
    let all = entries(view).len();
    let mut parts = vec![if shown < all {
        let all = format::count(all as u64);
        format!("{} of {all}", format::plural(shown, "event"))
    } else {
        format::plural(shown, "event")
    }];
    match state.least {
        Some(Severity::Warning) => parts.push("warnings and errors".to_owned()),
        Some(Severity::Error) => parts.push("errors only".to_owned()),
        Some(Severity::Info) | None => {}
    }
    if !state.filter.is_empty() {
        parts.push(format!("filter /{}", state.filter));
    }
    parts.push(if back == 0 {
        "following".to_owned()
    } else {
        format!("{back} newer below")
    });
    parts.join(", ")
}

/// One line of the list.
pub(super) struct Entry {
    time: Timestamp,
    severity: Severity,
    code: String,
    reporter: String,
    about: String,
    message: String,
}

impl Entry {
    fn of_event(event: &Event) -> Self {
        // the stable code as it stands on the wire
        let code = serde_json::to_value(event.code).ok();
        let code = code.and_then(|v| v.as_str().map(str::to_owned));
        Self {
            time: event.time,
            severity: event.severity,
            code: code.unwrap_or_default(),
            reporter: event.reporter.to_string(),
            about: event
                .subject
                .as_ref()
                .unwrap_or(&event.reporter)
                .to_string(),
            message: format::printable(&event.message),
        }
    }

    fn of_link(change: &LinkChange) -> Self {
        let severity = match change.to {
            LinkState::Connected => Severity::Info,
            LinkState::Fallback => Severity::Warning,
            LinkState::Disconnected => Severity::Error,
        };
        let endpoint = change.endpoint.as_ref();
        let endpoint = endpoint.filter(|_| change.to != LinkState::Disconnected);
        let endpoint = endpoint.map(|e| format!(" at {e}"));
        let lasted = format::age(Duration::from_millis(change.lasted_ms));
        Self {
            time: change.at,
            severity,
            code: "LINK_CHANGED".to_owned(),
            reporter: "console".to_owned(),
            about: "console".to_owned(),
            message: format!(
                "{}{} after {lasted} of {}",
                change.to.label(),
                endpoint.unwrap_or_default(),
                change.from.label()
            ),
        }
    }

    /// `12:04:17  ✖ MEMBER_DEAD       node-3: …`, the sentence over at most `lines_max` lines.
    pub(super) fn lines(&self, view: &View, width: usize, lines_max: usize) -> Vec<Line<'static>> {
        let theme = &view.theme;
        let mark = theme.severity(self.severity);
        let time = format::event_time(self.time, view.app.utc);
        let code_width = if width < 100 { 17 } else { 20 };
        let mut head = vec![
            Span::styled(format!(" {time}  "), theme.quiet()),
            Span::styled(format!("{} ", mark.glyph), theme.style(mark.tone)),
            Span::raw(format::left(&self.code, code_width)),
            Span::styled(format!(" {}  ", self.reporter), theme.quiet()),
        ];
        let taken: usize = head.iter().map(Span::width).sum();
        let room = width.saturating_sub(taken + 1);
        if lines_max <= 1 {
            let text = format::truncate(&self.message, room, theme.glyphs.ellipsis);
            head.push(Span::raw(text));
            return vec![Line::from(head)];
        }
        let mut texts = format::wrap(&self.message, room, 0, lines_max).into_iter();
        head.push(Span::raw(texts.next().unwrap_or_default()));
        let more = texts.map(|t| Line::raw(format!("{}{t}", " ".repeat(taken))));
        std::iter::once(Line::from(head)).chain(more).collect()
    }
}

/// Everything that happened, oldest first.
pub(super) fn entries(view: &View) -> Vec<Entry> {
    let events = view.cluster.events.iter().map(Entry::of_event);
    let links = view.app.link_log.iter().map(Entry::of_link);
    let mut all: Vec<Entry> = events.chain(links).collect();
    // stable: what happened at the same moment stays in the order in which it was told
    all.sort_by_key(|e| e.time);
    all
}

fn filtered(view: &View) -> Vec<Entry> {
    let state = &view.app.events;
    let filter = Filter::parse(&state.filter);
    let mut entries = entries(view);
    entries.retain(|e| {
        state.least.is_none_or(|least| e.severity >= least)
            && filter.matches(&[
                ("code", e.code.as_str()),
                ("severity", view.theme.severity(e.severity).word),
                ("node", e.about.as_str()),
                ("reporter", e.reporter.as_str()),
                ("message", e.message.as_str()),
            ])
    });
    entries
}
