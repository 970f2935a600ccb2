//! The question before anything dangerous: what exactly will happen, and a word to type.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};

use crate::{
    format,
    theme::{Theme, Tone},
    widget,
};

pub struct Confirm<'a> {
    pub title: &'a str,
    /// What will happen, line by line.
    pub effects: Vec<String>,
    /// What has to be typed; empty when Enter is enough.
    pub word: &'a str,
    pub typed: &'a str,
    /// Why it cannot be done now; typing is pointless then.
    pub refused: Option<&'a str>,
}

impl Confirm<'_> {
    /// Draws it over the middle of `area`; gives back where the terminal's cursor belongs.
    pub fn render(&self, buf: &mut Buffer, area: Rect, theme: &Theme) -> Option<(u16, u16)> {
        let width = area.width.saturating_sub(4).clamp(20, 76);
        let inside = usize::from(width).saturating_sub(4);
        let mut lines: Vec<Line> = self
            .effects
            .iter()
            .flat_map(|text| format::wrap(text, inside, 2, 4))
            .map(Line::raw)
            .collect();
        lines.push(Line::default());
        if let Some(why) = self.refused {
            let why = format!("{} {why}", theme.glyphs.bad);
            let why = format::wrap(&why, inside, 2, 4).into_iter();
            lines.extend(why.map(|l| Line::styled(l, theme.style(Tone::Bad))));
            lines.push(Line::styled("Esc goes back", theme.quiet()));
        } else if self.word.is_empty() {
            lines.push(Line::raw("Enter goes on; Esc goes back."));
        } else {
            lines.push(Line::from(vec![
                Span::raw("Type "),
                Span::styled(self.word.to_owned(), theme.bold()),
                Span::raw(" and press Enter to go on; Esc goes back."),
            ]));
            lines.push(Line::from(vec![
                Span::styled("> ", theme.quiet()),
                Span::styled(self.typed.to_owned(), theme.bold()),
            ]));
        }
        let height = lines.len() as u16 + 2;
        let place = widget::centered(area, width, height);
        let inner = widget::frame(buf, place, self.title, theme.style(Tone::Warn), theme);
        let mut rows = widget::Rows::new(inner);
        let shown = lines.len().min(usize::from(inner.height));
        // when it is too high, the end with the question matters most
        let skip = lines.len() - shown;
        rows.lines(buf, lines.into_iter().skip(skip));
        let cursor_x = inner.x + 2 + format::width(self.typed) as u16;
        (self.refused.is_none()
            && !self.word.is_empty()
            && !inner.is_empty()
            && cursor_x < inner.right())
        .then(|| (cursor_x, inner.y + shown as u16 - 1))
    }
}
