//! A table: one heading line, aligned columns, one selected row, and only the visible rows drawn.
//!
//! Columns that do not fit are left out, the least important first, so that a narrow terminal
//! shows fewer columns and never half of one.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use crate::{format, theme::Theme, widget};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// One column. The widest cell decides its width, never less than `min` (so that changing numbers
/// do not make it jump) and never more than `max`.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    pub align: Align,
    pub min: usize,
    pub max: usize,
    /// 0 stays longest; the highest goes first when it is too narrow.
    pub rank: u8,
}

impl Column {
    pub const fn left(title: &'static str, min: usize, rank: u8) -> Self {
        Self {
            title,
            align: Align::Left,
            min,
            max: 64,
            rank,
        }
    }

    pub const fn right(title: &'static str, min: usize, rank: u8) -> Self {
        Self {
            align: Align::Right,
            ..Self::left(title, min, rank)
        }
    }

    pub const fn at_most(mut self, max: usize) -> Self {
        self.max = max;
        self
    }
}

#[derive(Debug, Clone, Default)]
pub struct Cell {
    pub text: String,
    pub style: Style,
}

impl Cell {
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::new())
    }
}

/// The order the rows are in, for the mark on the heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    pub column: usize,
    pub descending: bool,
}

pub struct Table<'a> {
    pub columns: &'a [Column],
    pub rows: Vec<Vec<Cell>>,
    pub selected: Option<usize>,
    pub sort: Option<Sort>,
    /// A line of totals under the rows; has no selection.
    pub total: Option<Vec<Cell>>,
}

const GAP: usize = 2;

impl Table<'_> {
    /// Which columns fit into `width`, and how wide each is.
    fn fit(&self, width: usize) -> Vec<(usize, usize)> {
        let mut kept: Vec<(usize, usize)> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let cells = self.rows.iter().chain(&self.total);
                let content = cells
                    .filter_map(|r| r.get(i))
                    .map(|c| format::width(&c.text));
                let sorted = self.sort.is_some_and(|s| s.column == i);
                let title = format::width(c.title) + if sorted { 2 } else { 0 };
                let widest = content.max().unwrap_or(0).max(title);
                (i, widest.clamp(c.min, c.max.max(c.min)))
            })
            .collect();
        let total = |kept: &[(usize, usize)]| kept.iter().map(|(_, w)| w + GAP).sum::<usize>();
        while kept.len() > 1 && total(&kept) > width + GAP {
            let rank = |k: &&(usize, usize)| (self.columns[k.0].rank, k.0);
            let Some(&(worst, _)) = kept.iter().max_by_key(rank) else {
                break;
            };
            kept.retain(|(i, _)| *i != worst);
        }
        kept
    }

    /// Rows that are drawn when `height` lines are there, heading and totals included: from, to.
    fn window(&self, height: u16) -> (usize, usize) {
        let fixed = 1 + u16::from(self.total.is_some());
        let room = usize::from(height.saturating_sub(fixed));
        let at = self.selected.unwrap_or(0).min(self.rows.len());
        // the selected row stays in sight with as many rows before it as fit
        let from = (at + 1).saturating_sub(room);
        (from, (from + room).min(self.rows.len()))
    }

    pub fn render(&self, buf: &mut Buffer, area: Rect, theme: &Theme) {
        let mut rows = widget::Rows::new(area);
        // one cell on the left for the selection mark, one on the right as margin
        let fit = self.fit(usize::from(area.width).saturating_sub(2));
        rows.line(buf, &self.heading(&fit, theme));
        let (from, to) = self.window(area.height);
        for (i, row) in self.rows.iter().enumerate().take(to).skip(from) {
            let line = self.row(&fit, row, self.selected == Some(i), theme);
            let area = rows.take(1);
            widget::draw_line(buf, area, &line);
            if self.selected == Some(i) {
                buf.set_style(area.intersection(buf.area), theme.selected());
            }
        }
        if let Some(total) = &self.total {
            let line = self.row(&fit, total, false, theme);
            let area = rows.take(1);
            widget::draw_line(buf, area, &line);
            buf.set_style(area.intersection(buf.area), theme.bold());
        }
    }

    fn heading(&self, fit: &[(usize, usize)], theme: &Theme) -> Line<'static> {
        let mut spans = vec![Span::raw(" ")];
        for (i, width) in fit {
            let column = &self.columns[*i];
            let sort = self.sort.filter(|s| s.column == *i);
            let title = match sort {
                Some(s) if s.descending => format!("{} {}", column.title, theme.glyphs.sort_down),
                Some(_) => format!("{} {}", column.title, theme.glyphs.sort_up),
                None => column.title.to_owned(),
            };
            let style = if sort.is_some() {
                theme.bold()
            } else {
                theme.quiet()
            };
            spans.push(Span::styled(
                aligned(&title, *width, column.align, theme),
                style,
            ));
            spans.push(Span::raw(" ".repeat(GAP)));
        }
        Line::from(spans)
    }

    fn row(
        &self,
        fit: &[(usize, usize)],
        row: &[Cell],
        selected: bool,
        theme: &Theme,
    ) -> Line<'static> {
        let mark = if selected { theme.glyphs.select } else { " " };
        let mut spans = vec![Span::raw(mark)];
        for (i, width) in fit {
            let (text, style) = match row.get(*i) {
                // on the selected row meaning is told by sign and word: reverse video over
                // state colours is hard to read
                Some(cell) if selected => (cell.text.as_str(), Style::new()),
                Some(cell) => (cell.text.as_str(), cell.style),
                None => ("", Style::new()),
            };
            spans.push(Span::styled(
                aligned(text, *width, self.columns[*i].align, theme),
                style,
            ));
            spans.push(Span::raw(" ".repeat(GAP)));
        }
        Line::from(spans)
    }
}

fn aligned(text: &str, width: usize, align: Align, theme: &Theme) -> String {
    let text = format::truncate(text, width, theme.glyphs.ellipsis);
    match align {
        Align::Left => format::left(&text, width),
        Align::Right => format::right(&text, width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::left("NODE", 6, 0),
        Column::right("KEYS", 6, 1),
        Column::left("SEEN", 4, 2),
    ];

    fn text(width: u16, height: u16, selected: usize) -> String {
        let row = |i: usize| {
            vec![
                Cell::from(format!("n{i}")),
                Cell::from((i * 1000).to_string()),
                Cell::from("2 of 2"),
            ]
        };
        let table = Table {
            columns: &COLUMNS,
            rows: (0..20).map(row).collect(),
            selected: Some(selected),
            sort: Some(Sort {
                column: 0,
                descending: false,
            }),
            total: None,
        };
        let mut buf = Buffer::empty(Rect::new(0, 0, width, height));
        table.render(&mut buf, Rect::new(0, 0, width, height), &Theme::default());
        let lines: Vec<String> = buf
            .content
            .chunks(usize::from(width))
            .map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect())
            .collect();
        lines.join("\n")
    }

    #[test]
    fn columns_go_by_rank_and_rows_follow_the_selection() {
        let wide = text(30, 4, 0);
        assert!(wide.starts_with(" NODE ▲    KEYS  SEEN"), "{wide}");
        assert!(wide.contains("▸n0           0  2 of 2"), "{wide}");
        let narrow = text(19, 4, 12);
        assert!(!narrow.contains("SEEN"), "{narrow}");
        assert!(narrow.contains("▸n12      12000"), "{narrow}");
        assert!(text(9, 3, 0).contains("▸n0"));
    }
}
