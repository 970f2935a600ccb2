//! The last line: the keys that work here, and the one sentence that matters most now.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};

use super::view::View;
use crate::{
    app::ScreenId,
    format, keymap,
    theme::Tone,
    widget::{draw_line, draw_right},
};

/// From so many columns on there is room for whole sentences.
const WIDE: usize = 100;

pub fn render(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let width = usize::from(area.width);
    // the doctor's sentence is not repeated under the doctor
    let urgent = match view.app.screen {
        ScreenId::Doctor => None,
        _ => view.findings.first(),
    };
    let urgent = urgent.map(|f| {
        let mark = theme.severity(f.severity);
        let room = (width / 2).max(30);
        let key = ScreenId::Doctor.key();
        let text = format::truncate(&f.title, room, theme.glyphs.ellipsis);
        let what = if width < WIDE {
            "why"
        } else {
            "why and what to do"
        };
        Line::from(vec![
            Span::styled(format!("{} ", mark.glyph), theme.style(mark.tone)),
            Span::styled(text, theme.bold()),
            Span::styled(format!("  {key} {what} "), theme.quiet()),
        ])
    });
    // in the middle of something the keys matter more than the sentence
    let reserved = match &urgent {
        Some(urgent) if !keymap::in_the_middle(view.app) => urgent.width(),
        _ => 0,
    };
    let mut line = Line::from(" ");
    for hint in keymap::hints(view.app) {
        let piece = [
            Span::styled(hint.keys, theme.bold()),
            Span::styled(format!(" {}   ", hint.what), theme.quiet()),
        ];
        let wide: usize = piece.iter().map(Span::width).sum();
        if line.width() + wide > width.saturating_sub(reserved) {
            break;
        }
        line.spans.extend(piece);
    }
    let taken = line.width();
    draw_line(buf, area, &line);
    match urgent {
        Some(urgent) if reserved == 0 => draw_right(buf, area, &urgent, taken),
        Some(urgent) => draw_right(buf, area, &urgent, taken.min(width - reserved.min(width))),
        None if view.findings.is_empty() && view.app.screen != ScreenId::Doctor => {
            let well = Line::styled(
                format!("{} all is well ", theme.glyphs.good),
                theme.style(Tone::Good),
            );
            draw_right(buf, area, &well, taken);
        }
        None => {}
    }
}
