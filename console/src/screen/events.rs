//! What happened, newest at the bottom; follows until somebody scrolls back. The changes of this
//! console's own connection stand between the cluster's events.

use std::time::Duration;

use jiff::Timestamp;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use ringmaster_shared::event::{Event, EventCode, Severity};

use super::view::View;
use crate::{
    app::{LinkChange, filter::Filter},
    format,
    link::LinkState,
    widget::{self, Rows},
};

/// What is told within this time of the first is one happening.
const FOLD_MS: i64 = 15_000;
/// A first connection within this time was there at once.
const FIRST_MS: u64 = 2_000;

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
    /// Who told it, the first one first.
    reporters: Vec<String>,
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
            reporters: vec![event.reporter.to_string()],
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
        let before = match change.from {
            Some(from) => format!(", before that {} for {lasted}", from.label()),
            // who starts the console beside a cluster that runs has not waited for anything
            None if change.lasted_ms < FIRST_MS => String::new(),
            None => format!(", after trying for {lasted}"),
        };
        Self {
            time: change.at,
            severity,
            code: "LINK_CHANGED".to_owned(),
            reporters: vec!["console".to_owned()],
            about: "console".to_owned(),
            message: format!(
                "{}{}{before}",
                change.to.label(),
                endpoint.unwrap_or_default()
            ),
        }
    }

    /// `node-1 +2`: told by it, and by two others.
    fn by(&self) -> String {
        match self.reporters.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            [first, others @ ..] => format!("{first} +{}", others.len()),
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
            Span::styled(format!(" {}  ", self.by()), theme.quiet()),
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
    let events = folded(view.cluster.events.iter()).into_iter();
    let links = view.app.link_log.iter().map(Entry::of_link);
    let mut all: Vec<Entry> = events.chain(links).collect();
    // stable: what happened at the same moment stays in the order in which it was told
    all.sort_by_key(|e| e.time);
    all
}

/// What several nodes tell of one happening is one entry.
fn folded<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<Entry> {
    let mut entries: Vec<(&Event, Entry)> = Vec::new();
    for event in events {
        let near =
            |first: &Event| event.time.as_millisecond() - first.time.as_millisecond() <= FOLD_MS;
        let reporter = event.reporter.to_string();
        let same = entries
            .iter_mut()
            .rev()
            .take_while(|(first, _)| near(first))
            .find(|(first, entry)| is_same(first, event) && !entry.reporters.contains(&reporter));
        match same {
            Some((_, entry)) => entry.reporters.push(reporter),
            None => entries.push((event, Entry::of_event(event))),
        }
    }
    entries.into_iter().map(|(_, entry)| entry).collect()
}

/// One happening, told by two nodes. How long it took each measures for itself, so an epoch is
/// known by its number and a member's fate by its name.
fn is_same(a: &Event, b: &Event) -> bool {
    use EventCode::{
        MemberAddressChanged, MemberDead, MemberJoined, MemberLeft, MemberRestarted,
        MemberReturned, MemberStopped, MemberSuspected, RingChangeAborted, RingChangeStarted,
        RingChanged,
    };
    if a.code != b.code || a.subject != b.subject {
        return false;
    }
    match a.code {
        RingChangeStarted | RingChanged | RingChangeAborted => epoch(a) == epoch(b),
        MemberJoined | MemberSuspected | MemberDead | MemberReturned | MemberRestarted
        | MemberStopped | MemberLeft | MemberAddressChanged
            if a.subject.is_some() =>
        {
            true
        }
        _ => a.message == b.message,
    }
}

/// `epoch 7` of `epoch 7: node-3 joined, …`.
fn epoch(event: &Event) -> &str {
    let message = event.message.as_str();
    message.split_once(':').map_or(message, |(epoch, _)| epoch)
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
                ("reporter", e.reporters.join(" ").as_str()),
                ("message", e.message.as_str()),
            ])
    });
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{event, id};

    fn told(ago: i64, by: &str, message: &str) -> Event {
        event(ago, EventCode::RingChanged, Severity::Info, by, message)
    }

    #[test]
    fn a_first_connection_has_nothing_before_it() {
        let told = |from, lasted_ms| {
            let change = LinkChange {
                at: crate::fixture::utc(),
                from,
                to: LinkState::Connected,
                lasted_ms,
                endpoint: Some("localhost:8081".to_owned()),
            };
            Entry::of_link(&change).message
        };
        assert_eq!(told(None, 30), "Connected at localhost:8081");
        let waited = "Connected at localhost:8081, after trying for 1m 04s";
        assert_eq!(told(None, 64_000), waited);
        let back = "Connected at localhost:8081, before that Disconnected for 1m 04s";
        assert_eq!(told(Some(LinkState::Disconnected), 64_000), back);
    }

    #[test]
    fn what_many_tell_is_one_line_with_their_number() {
        let mut dead = ["node-1", "node-2"].map(|by| {
            let text = format!("node-3 did not answer {by}");
            let mut e = event(5, EventCode::MemberDead, Severity::Error, by, &text);
            e.subject = Some(id("node-3"));
            e
        });
        let events = [
            told(
                60,
                "node-1",
                "epoch 5: node-3 joined, 85 partitions moved in 0.8 s",
            ),
            told(
                60,
                "node-2",
                "epoch 5: node-3 joined, 85 partitions moved in 0.9 s",
            ),
            // the same node again: that is another happening
            told(
                59,
                "node-1",
                "epoch 5: node-3 joined, 85 partitions moved in 0.8 s",
            ),
            // long after
            told(
                20,
                "node-3",
                "epoch 5: node-3 joined, 85 partitions moved in 0.8 s",
            ),
            told(19, "node-1", "epoch 6: node-3 left"),
            dead[0].clone(),
            dead[1].clone(),
        ];
        let by = |entries: Vec<Entry>| entries.iter().map(Entry::by).collect::<Vec<_>>();
        assert_eq!(
            by(folded(events.iter())),
            ["node-1 +1", "node-1", "node-3", "node-1", "node-1 +1"]
        );
        dead[1].subject = Some(id("node-4"));
        assert_eq!(by(folded(dead.iter())).len(), 2, "about another node");
    }
}
