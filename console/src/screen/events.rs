//! What happened, newest at the bottom; follows until somebody scrolls back.

use ratatui::{buffer::Buffer, layout::Rect, text::Line};
use ringmaster_shared::event::{Event, Severity};

use super::{
    View,
    overview::{event_code, event_lines},
};
use crate::{
    app::filter::Filter,
    format,
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
    let mut title = format::plural(shown.len(), "event");
    if shown.len() < view.cluster.events.len() {
        title.push_str(&format!(
            " of {}",
            format::count(view.cluster.events.len() as u64)
        ));
    }
    match state.least {
        Some(Severity::Warning) => title.push_str(", warnings and errors"),
        Some(Severity::Error) => title.push_str(", errors only"),
        Some(Severity::Info) | None => {}
    }
    if !state.filter.is_empty() {
        title.push_str(&format!(", filter /{}", state.filter));
    }
    title.push_str(&if back == 0 {
        ", following".to_owned()
    } else {
        format!(", {back} newer below")
    });
    let fresh = view.fresh(view.cluster.members.as_ref());
    widget::heading(buf, rows.take(1), title, fresh, theme);
    let body = rows.rest();
    if shown.is_empty() {
        let text = if view.cluster.events.is_empty() {
            " No events yet."
        } else {
            " No event matches."
        };
        rows.line(buf, &Line::styled(text, theme.quiet()));
    }
    // from the newest shown upwards, until the page is full
    let mut page: Vec<Line> = Vec::new();
    for event in shown.iter().rev().skip(back).take(room) {
        let lines = event_lines(view, event, usize::from(area.width), 3);
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

/// Oldest first.
fn filtered<'a>(view: &View<'a>) -> Vec<&'a Event> {
    let state = &view.app.events;
    let filter = Filter::parse(&state.filter);
    let events = view.cluster.events.iter();
    events
        .filter(|e| state.least.is_none_or(|least| e.severity >= least))
        .filter(|e| {
            let (code, severity) = (event_code(e), view.theme.severity(e.severity).word);
            filter.matches(&[
                ("code", code.as_str()),
                ("severity", severity),
                ("node", e.subject.as_ref().unwrap_or(&e.reporter).as_str()),
                ("reporter", e.reporter.as_str()),
                ("message", e.message.as_str()),
            ])
        })
        .collect()
}
