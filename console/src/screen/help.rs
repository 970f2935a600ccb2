//! The keys and the commands, made from the tables that dispatch them.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};

use super::view::View;
use crate::{
    command, format, keymap,
    widget::{Rows, draw_line},
};

pub fn draw(view: &View, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let mut lines: Vec<Line> = Vec::new();
    let mut sections = keymap::help();
    sections.push(("Commands", command::help()));
    let wide = sections
        .iter()
        .flat_map(|(_, hints)| hints)
        .map(|h| format::width(h.keys))
        .max()
        .unwrap_or(0)
        .clamp(8, 24);
    for (title, hints) in &sections {
        lines.push(Line::styled(format!(" {title}"), theme.bold()));
        for hint in hints {
            lines.push(Line::from(vec![
                Span::raw(format!("   {}", format::left(hint.keys, wide))),
                Span::styled(format!("  {}", hint.what), theme.quiet()),
            ]));
        }
        lines.push(Line::default());
    }
    // two columns where they fit, filled one after the other
    let columns: u16 = if area.width >= 100 { 2 } else { 1 };
    let width = area.width / columns;
    let room = usize::from(area.height);
    let capacity = room * usize::from(columns);
    let top = view.app.help.clamped(lines.len().saturating_sub(capacity));
    let mut rest = lines.into_iter().skip(top);
    for column in 0..columns {
        let place = Rect {
            x: area.x + column * width,
            width,
            ..area
        };
        let mut rows = Rows::new(place);
        for line in rest.by_ref().take(room) {
            let row = rows.take(1);
            draw_line(buf, row, &line);
        }
    }
}
