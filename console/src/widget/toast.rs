//! A short message that goes away by itself: what was just done, or why not.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Modifier,
    text::{Line, Span},
};

use crate::{
    format,
    theme::{Theme, Tone},
    widget,
};

pub struct Toast<'a> {
    pub text: &'a str,
    pub tone: Tone,
}

impl Toast<'_> {
    /// On the bottom line of `area`, from the left, over what is there.
    pub fn render(&self, buf: &mut Buffer, area: Rect, theme: &Theme) {
        if area.is_empty() {
            return;
        }
        let glyph = match self.tone {
            Tone::Bad => theme.glyphs.bad,
            Tone::Warn => theme.glyphs.warn,
            Tone::Busy => theme.glyphs.busy,
            Tone::Quiet | Tone::Good => theme.glyphs.good,
        };
        let room = usize::from(area.width).saturating_sub(4);
        let text = format::truncate(self.text, room, theme.glyphs.ellipsis);
        let row = Rect {
            y: area.bottom() - 1,
            height: 1,
            ..area
        };
        widget::clear(buf, row);
        let style = theme.style(self.tone).add_modifier(Modifier::BOLD);
        let line = Line::from(vec![
            Span::styled(format!(" {glyph} "), style),
            Span::styled(text, theme.bold()),
        ]);
        widget::draw_line(buf, row, &line);
    }
}
