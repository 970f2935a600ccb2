//! The ring unrolled: rows of one-cell slices under each other, with a caret above.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use crate::{format, theme::Theme, widget};

/// One row: a label, then one character a slice, then an optional remark.
pub struct StripRow {
    pub label: String,
    pub cells: Vec<(char, Style)>,
}

pub struct Strip {
    pub rows: Vec<StripRow>,
    /// Cells the labels take.
    pub label_width: usize,
    /// Slices that the rows have, for the places of the marks.
    pub width: usize,
    /// Where a key is.
    pub caret: Option<usize>,
}

impl Strip {
    /// Lines it takes.
    pub fn height(&self) -> u16 {
        (self.rows.len() + usize::from(self.caret.is_some())) as u16
    }

    pub fn render(&self, buf: &mut Buffer, area: Rect, theme: &Theme) {
        let mut rows = widget::Rows::new(area);
        if let Some(at) = self.caret {
            let gap = 1 + self.label_width + at.min(self.width.saturating_sub(1));
            let caret = Span::styled(theme.glyphs.caret, theme.bold());
            rows.line(buf, &Line::from(vec![Span::raw(" ".repeat(gap)), caret]));
        }
        rows.lines(buf, self.lines(theme));
    }

    /// The rows without the caret, for who draws line by line.
    pub fn lines(&self, theme: &Theme) -> Vec<Line<'static>> {
        let line = |row: &StripRow| {
            let label = format!(" {}", format::left(&row.label, self.label_width));
            let mut spans = vec![Span::styled(label, theme.quiet())];
            spans.extend(runs(&row.cells));
            Line::from(spans)
        };
        self.rows.iter().map(line).collect()
    }
}

/// Neighbours of one style as one span: less to draw and to send.
fn runs(cells: &[(char, Style)]) -> Vec<Span<'static>> {
    let mut spans: Vec<Span<'static>> = Vec::new();
    let mut run = String::new();
    let mut style = Style::new();
    for (c, s) in cells {
        if *s != style && !run.is_empty() {
            spans.push(Span::styled(std::mem::take(&mut run), style));
        }
        style = *s;
        run.push(*c);
    }
    spans.push(Span::styled(run, style));
    spans
}

/// Which of `count` things slice `slice` of `width` covers: from, to; at least one.
pub fn covers(slice: usize, width: usize, count: usize) -> (usize, usize) {
    let width = width.max(1);
    let from = slice * count / width;
    let to = ((slice + 1) * count / width).max(from + 1);
    (from.min(count.saturating_sub(1)), to.min(count))
}

/// The one that occurs most often; the earliest of equals.
pub fn majority<T: Copy + PartialEq>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut seen: Vec<(T, usize)> = Vec::new();
    for item in items {
        match seen.iter_mut().find(|(i, _)| *i == item) {
            Some((_, n)) => *n += 1,
            None => seen.push((item, 1)),
        }
    }
    let most = seen.iter().map(|(_, n)| *n).max()?;
    seen.iter().find(|(_, n)| *n == most).map(|(i, _)| *i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_majority_wins_and_the_first_of_equals() {
        assert_eq!(majority([1, 2, 2].into_iter()), Some(2));
        assert_eq!(majority([3, 1].into_iter()), Some(3));
        assert_eq!(majority(std::iter::empty::<u8>()), None);
    }

    proptest! {
        #[test]
        fn slices_cover_everything_in_order(width in 1usize..300, count in 1usize..600) {
            let mut next = 0;
            for slice in 0..width {
                let (from, to) = covers(slice, width, count);
                prop_assert!(from < to && to <= count);
                prop_assert!(from <= next, "nothing is left out");
                next = next.max(to);
            }
            prop_assert_eq!(next, count);
        }
    }
}
