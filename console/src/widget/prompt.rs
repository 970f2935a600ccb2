//! One line of input: `:` for commands, `/` for filters, `key` for the locator.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};

use crate::{format, theme::Theme, widget};

pub struct Prompt<'a> {
    /// In front of the input, e.g. `:`.
    pub lead: &'a str,
    pub text: &'a str,
    /// Cursor, in characters from the start of `text`.
    pub cursor: usize,
    /// What could be typed on, shown quietly behind the text.
    pub ghost: &'a str,
    /// Beside it: what is wrong, or what it does.
    pub hint: &'a str,
}

impl Prompt<'_> {
    /// Draws it on the first line of `area`; gives back where the terminal's cursor belongs.
    /// Text longer than the line is scrolled so that the cursor stays in sight.
    pub fn render(&self, buf: &mut Buffer, area: Rect, theme: &Theme) -> Option<(u16, u16)> {
        if area.is_empty() {
            return None;
        }
        let lead = format!(" {}", self.lead);
        let room = usize::from(area.width).saturating_sub(format::width(&lead) + 1);
        let text = format::printable(self.text);
        let before: String = text.chars().take(self.cursor).collect();
        let mut skip = 0;
        let mut visible = before.as_str();
        while format::width(visible) > room {
            let mut rest = visible.chars();
            rest.next();
            skip += 1;
            visible = rest.as_str();
        }
        let at = format::width(&lead) + format::width(visible);
        let shown: String = text.chars().skip(skip).collect();
        let line = Line::from(vec![
            Span::styled(lead, theme.bold()),
            Span::raw(format::truncate(&shown, room + 1, "")),
            Span::styled(self.ghost.to_owned(), theme.quiet()),
        ]);
        let taken = line.width();
        widget::draw_line(buf, area, &line);
        let hint = Line::styled(format!("{} ", self.hint), theme.quiet());
        widget::draw_right(buf, area, &hint, taken + 2);
        let x = area.x + (at as u16).min(area.width - 1);
        Some((x, area.y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_input_scrolls_with_the_cursor() {
        let area = Rect::new(0, 0, 12, 1);
        let mut buf = Buffer::empty(area);
        let prompt = Prompt {
            lead: "/",
            text: "abcdefghijklmnop",
            cursor: 16,
            ghost: "",
            hint: "",
        };
        let cursor = prompt.render(&mut buf, area, &Theme::default());
        let text: String = buf
            .content
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        assert_eq!(text, " /hijklmnop ");
        assert_eq!(cursor, Some((11, 0)));
    }
}
