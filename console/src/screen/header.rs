//! The two lines at the top: whom we talk to and how well, and the screens.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Modifier,
    text::{Line, Span},
};
use ringmaster_shared::event::Severity;
use std::time::Duration;

use super::view::View;
use crate::{
    app::ScreenId,
    format,
    link::LinkState,
    theme::Tone,
    widget::{draw_line, draw_right},
};

/// Name, connection, age; badges and the clock on the right.
pub fn render(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let narrow = area.width < 100;
    let right = badges(view, narrow);
    let room = usize::from(area.width).saturating_sub(right.width() + 1);
    let mut line = Line::default();
    if narrow {
        line.push_span(Span::raw(" "));
    } else {
        let dot = format!(" {} ", theme.glyphs.dot);
        line.push_span(Span::styled(" ringmaster", theme.bold()));
        line.push_span(Span::styled(dot, theme.quiet()));
    }
    // in trouble the connection needs the room more than the name does
    if !narrow || view.app.link.state == LinkState::Connected {
        line.push_span(Span::raw(cluster_name(view)));
        line.push_span(Span::raw(if narrow { "  " } else { "   " }));
    }
    let (glyph, tone) = match view.app.link.state {
        LinkState::Connected => (theme.glyphs.good, Tone::Good),
        LinkState::Fallback => (theme.glyphs.warn, Tone::Warn),
        LinkState::Disconnected => (theme.glyphs.bad, Tone::Bad),
    };
    let word = format!("{glyph} {}", view.app.link.state.label());
    line.push_span(Span::styled(
        word,
        theme.style(tone).add_modifier(Modifier::BOLD),
    ));
    line.push_span(Span::raw("  "));
    // as many details as fit, whole ones
    let separator = format!(" {} ", theme.glyphs.dot);
    for (i, detail) in details(view).into_iter().enumerate() {
        let piece = if i == 0 {
            detail
        } else {
            format!("{separator}{detail}")
        };
        if line.width() + format::width(&piece) > room {
            break;
        }
        line.push_span(Span::raw(piece));
    }
    draw_line(buf, area, &line);
    draw_right(buf, area, &right, line.width().min(room));
}

fn cluster_name(view: &View) -> String {
    let status = view.cluster.status.as_ref().map(|s| &s.value.cluster);
    match status.map(|c| c.cluster_id.as_str()) {
        None => "no cluster yet".to_owned(),
        Some("") => "not joined".to_owned(),
        Some(id) => id.get(..8).unwrap_or(id).to_owned(),
    }
}

/// In the order of their worth.
fn details(view: &View) -> Vec<String> {
    let link = &view.app.link;
    let now = view.app.now_ms;
    let age = |ms: u64| format::age(Duration::from_millis(ms));
    let data_age = link.age_ms(now).map(age);
    let retry = match link.next_retry_ms {
        Some(at) => format!(
            "try {} in {}",
            link.attempt + 1,
            age(at.saturating_sub(now))
        ),
        None => format!("try {} now", link.attempt.max(1)),
    };
    let endpoint = link.endpoint.clone();
    let rtt = link.rtt_ms.map(|r| format!("{r} ms"));
    let mut out = Vec::new();
    match link.state {
        LinkState::Connected => {
            out.extend(endpoint);
            out.extend(rtt);
            out.extend(data_age.map(|a| format!("age {a}")));
        }
        LinkState::Fallback => {
            out.extend(endpoint);
            out.extend(data_age.map(|a| format!("age {a}")));
            out.push(format!("ws {retry}"));
            out.push(format!("poll every {}", age(link.poll_ms)));
            out.extend(rtt);
        }
        LinkState::Disconnected => {
            out.push(match data_age {
                Some(a) => format!("data {a} old"),
                None => "nothing heard yet".to_owned(),
            });
            out.push(retry);
            out.extend(endpoint.map(|e| format!("last {e}")));
        }
    }
    out
}

fn badges(view: &View, narrow: bool) -> Line<'static> {
    let theme = &view.theme;
    let mut line = Line::default();
    if let Some(frozen) = &view.app.frozen {
        let s = view.app.now_ms.saturating_sub(frozen.since_ms) / 1000;
        line.push_span(Span::styled(
            format!(" FROZEN {:02}:{:02} +{} ", s / 60, s % 60, frozen.held),
            theme.selected(),
        ));
        line.push_span(Span::raw("  "));
    }
    if view.app.read_only {
        line.push_span(Span::styled("RO", theme.bold()));
    } else {
        line.push_span(Span::styled(
            "RW",
            theme.style(Tone::Warn).add_modifier(Modifier::BOLD),
        ));
    }
    let time = format::clock(view.app.utc);
    line.push_span(Span::raw(if narrow {
        format!(" {time}Z ")
    } else {
        format!("  {time} UTC ")
    }));
    line
}

/// The screens by their keys, the open one reversed, the doctor with the number of findings and the gravest one's sign.
pub fn tabs(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let told = || {
        let findings = view.findings.iter().map(|f| f.severity);
        findings.filter(|severity| *severity > Severity::Info)
    };
    let (count, gravest) = (told().count(), told().max());
    let width = usize::from(area.width);
    // full names with air, without air, or only the open one by name
    let layouts = [(true, "  "), (true, " "), (false, " ")];
    for (names, gap) in layouts {
        let mut line = Line::from(" ");
        for id in ScreenId::ALL.into_iter().filter(|id| *id != ScreenId::Help) {
            let open = id == view.app.screen;
            let text = if names || open {
                format!("{} {}", id.key(), id.title())
            } else {
                id.key().to_string()
            };
            let style = if open {
                theme.selected()
            } else {
                theme.plain()
            };
            line.push_span(Span::styled(text, style));
            if id == ScreenId::Doctor && count > 0 {
                let (glyph, tone) = match gravest {
                    Some(Severity::Error) => (theme.glyphs.bad, Tone::Bad),
                    _ => (theme.glyphs.warn, Tone::Warn),
                };
                line.push_span(Span::styled(
                    format!(" {glyph}{count}"),
                    theme.style(tone).add_modifier(Modifier::BOLD),
                ));
            }
            line.push_span(Span::raw(gap));
        }
        if line.width() <= width + gap.len() || !names {
            let taken = line.width();
            draw_line(buf, area, &line);
            let help = if view.app.screen == ScreenId::Help {
                theme.selected()
            } else {
                theme.quiet()
            };
            let help = Line::from(vec![Span::styled("? help", help), Span::raw(" ")]);
            draw_right(buf, area, &help, taken);
            return;
        }
    }
}
