//! Draws the who-sees-whom matrix: observers down, members across, then the sentences.
//!
//! Columns carry whole names where they fit, else what tells the names apart. What does not fit
//! is scrolled; a line says how much there is. Which rows and columns there are is decided in
//! `matrix.rs`.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};
use ringmaster_shared::{id::NodeId, member::MemberStatus};

use super::view::View;
use crate::{
    format,
    matrix::{Cell, Matrix},
    theme::{Mark, Theme, Tone},
    widget::{self, Rows},
};

/// The widest word in a cell, with its sign and a gap: `▲ suspected`.
const WORDY: usize = 12;
/// Longest label of a column when the names do not fit.
const SHORT_MAX: usize = 5;

/// How the columns are labelled and how wide they are.
struct Labels {
    texts: Vec<String>,
    each: usize,
    words: bool,
}

pub fn draw(view: &View, buf: &mut Buffer, area: Rect, whole: bool) {
    let theme = &view.theme;
    let mut rows = Rows::new(area);
    let fresh = view.fresh(view.cluster.observations.as_ref());
    widget::heading(buf, rows.take(1), "Who sees whom", fresh, theme);
    let body = rows.rest();
    let Some(known) = &view.cluster.observations else {
        let text = " No observations have arrived yet.";
        return rows.line(buf, &Line::styled(text, theme.quiet()));
    };
    let matrix = Matrix::of(&known.value);
    let width = usize::from(area.width);
    let names = matrix
        .rows
        .iter()
        .map(|r| format::width(r.observer.as_str()));
    let name_width = names.max().unwrap_or(0).clamp(8, 20);
    let room = width.saturating_sub(name_width + 4);
    let labels = Labels::of(&matrix.columns, room);
    let foot = foot(&matrix, &labels, width, theme);
    let heads = 1 + u16::from(matrix.disputed.contains(&true));
    let most = (area.height / 2).max(4);
    let foot_height = u16::try_from(foot.len()).unwrap_or(u16::MAX).min(most);
    let places = rows.left().saturating_sub(foot_height + heads);
    // a line for what is not shown is taken from the rows
    let fit = (room / labels.each).max(1);
    let cut = matrix.rows.len() > usize::from(places) || matrix.columns.len() > fit;
    let places = usize::from(places.saturating_sub(u16::from(cut)));
    let (top, left) = if whole {
        let state = &view.app.members;
        (
            state.rows.clamped(matrix.rows.len().saturating_sub(places)),
            state
                .columns
                .clamped(matrix.columns.len().saturating_sub(fit)),
        )
    } else {
        (0, 0)
    };
    let shown = left..(left + fit).min(matrix.columns.len());
    for head in heading(&matrix, &labels, shown.clone(), name_width, theme) {
        rows.line(buf, &head);
    }
    for row in matrix.rows.iter().skip(top).take(places) {
        let name = format::left(row.observer.as_str(), name_width + 1);
        let mut line = Line::from(format!(" {name}"));
        if let Some(error) = row.error.as_ref().filter(|_| labels.words) {
            // where there is room for words, one reason says more than many question marks
            let why = format!("? {}", format::printable(error));
            let room = labels.each * shown.len();
            let why = format::truncate(&why, room, theme.glyphs.ellipsis);
            line.push_span(Span::styled(why, theme.quiet()));
            rows.line(buf, &line);
            continue;
        }
        for cell in row.cells.iter().take(shown.end).skip(shown.start) {
            let mark = mark(theme, *cell);
            let text = if labels.words {
                format!("{} {}", mark.glyph, mark.word)
            } else {
                mark.glyph.to_owned()
            };
            let text = format::left(&text, labels.each);
            line.push_span(Span::styled(text, theme.style(mark.tone)));
        }
        if let Some(error) = &row.error {
            let free = width.saturating_sub(line.width() + 2);
            if free >= 16 {
                let why = format::truncate(&format::printable(error), free, theme.glyphs.ellipsis);
                line.push_span(Span::styled(format!(" {why}"), theme.quiet()));
            }
        }
        rows.line(buf, &line);
    }
    if cut {
        let (from, to) = (top + 1, (top + places).min(matrix.rows.len()));
        let text = format!(
            " observers {from} to {to} of {}, members {} to {} of {}{}",
            matrix.rows.len(),
            shown.start + 1,
            shown.end,
            matrix.columns.len(),
            if whole {
                "   ↑↓←→ move"
            } else {
                "   w all of it"
            }
        );
        rows.line(buf, &Line::styled(text, theme.quiet()));
    }
    for line in foot.into_iter().take(usize::from(foot_height)) {
        rows.line(buf, &line);
    }
    if fresh.stale {
        widget::dim(buf, body);
    }
}

/// The line of labels, and above a column in dispute a mark.
fn heading(
    matrix: &Matrix,
    labels: &Labels,
    shown: std::ops::Range<usize>,
    name_width: usize,
    theme: &Theme,
) -> Vec<Line<'static>> {
    let start = |text: &str| format!(" {}", format::left(text, name_width + 1));
    let mut lines = Vec::new();
    if matrix.disputed.contains(&true) {
        let mut line = Line::from(start(""));
        for disputed in matrix.disputed.iter().take(shown.end).skip(shown.start) {
            let text = if *disputed { theme.glyphs.warn } else { "" };
            let text = format::left(text, labels.each);
            line.push_span(Span::styled(text, theme.style(Tone::Warn)));
        }
        lines.push(line);
    }
    let mut line = Line::styled(start("sees"), theme.quiet());
    for (i, text) in labels.texts.iter().enumerate() {
        if shown.contains(&i) {
            let cut = labels.each.saturating_sub(1);
            let text = format::truncate(text, cut, theme.glyphs.ellipsis);
            let style = if matrix.disputed.get(i) == Some(&true) {
                theme.bold()
            } else {
                theme.quiet()
            };
            line.push_span(Span::styled(format::left(&text, labels.each), style));
        }
    }
    lines.push(line);
    lines
}

impl Labels {
    fn of(columns: &[NodeId], room: usize) -> Self {
        let count = columns.len().max(1);
        let names: Vec<String> = columns.iter().map(ToString::to_string).collect();
        let widest = |texts: &[String]| texts.iter().map(|t| format::width(t)).max().unwrap_or(1);
        let longest = widest(&names);
        if (longest.max(WORDY - 1) + 1) * count <= room {
            return Self {
                texts: names,
                each: longest.max(WORDY - 1) + 1,
                words: true,
            };
        }
        if (longest + 1) * count <= room {
            return Self {
                texts: names,
                each: longest + 1,
                words: false,
            };
        }
        let short = distinct(&names);
        let each = widest(&short).clamp(1, SHORT_MAX) + 1;
        Self {
            texts: short,
            each,
            words: false,
        }
    }
}

/// The names without what they all begin with, up to the last `-`, `.` or `_` of it; of what is
/// too long still, the end.
fn distinct(names: &[String]) -> Vec<String> {
    let first = names.first().map_or("", String::as_str);
    let mut common = first.len();
    for name in names {
        let same = first.bytes().zip(name.bytes()).take_while(|(a, b)| a == b);
        common = common.min(same.count());
    }
    // a name that begins the others must keep something
    let shared = first.get(..common).unwrap_or("");
    let cut = shared.rfind(['-', '.', '_']).map_or(0, |at| at + 1);
    let rest = |name: &String| {
        let rest = name.get(cut..).filter(|r| !r.is_empty()).unwrap_or(name);
        let over = rest.chars().count().saturating_sub(SHORT_MAX);
        rest.chars().skip(over).collect()
    };
    names.iter().map(rest).collect()
}

fn mark(theme: &Theme, cell: Cell) -> Mark {
    let quiet = |glyph, word| Mark {
        glyph,
        word,
        tone: Tone::Quiet,
    };
    match cell {
        Cell::Itself => quiet(theme.glyphs.dot, ""),
        Cell::Sees(status) => theme.status(status),
        Cell::TcpOnly => Mark {
            glyph: theme.glyphs.busy,
            word: "TCP only",
            tone: Tone::Warn,
        },
        Cell::Unlisted => Mark {
            glyph: theme.glyphs.pending,
            word: "unlisted",
            tone: Tone::Warn,
        },
        Cell::Silent => quiet("?", "no answer"),
    }
}

/// What is wrong or that nothing is, what is hidden, and what the signs mean.
fn foot(matrix: &Matrix, labels: &Labels, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let room = width.saturating_sub(4);
    let mut say = |glyph: &str, tone: Tone, text: &str| {
        for (i, part) in format::wrap(text, room, 0, 2).into_iter().enumerate() {
            let glyph = if i == 0 { glyph } else { " " };
            let text = Span::styled(part, theme.plain());
            let glyph = Span::styled(format!(" {glyph} "), theme.style(tone));
            lines.push(Line::from(vec![glyph, text]));
        }
    };
    for sentence in &matrix.trouble {
        say(theme.glyphs.warn, Tone::Warn, sentence);
    }
    if let Some(sentence) = &matrix.silent {
        say("?", Tone::Warn, sentence);
    }
    if lines.is_empty() {
        let text = format!(" {} those that answer agree", theme.glyphs.good);
        lines.push(Line::styled(text, theme.style(Tone::Good)));
    }
    if let Some(hidden) = &matrix.hidden {
        let parts = format::wrap(hidden, room, 0, 2).into_iter();
        lines.extend(parts.map(|p| Line::styled(format!(" {p}"), theme.quiet())));
    }
    if !labels.words {
        lines.extend(legend(matrix, width, theme));
    }
    lines
}

/// The signs that occur, with their words.
fn legend(matrix: &Matrix, width: usize, theme: &Theme) -> Option<Line<'static>> {
    let all = [
        Cell::Sees(MemberStatus::Alive),
        Cell::Sees(MemberStatus::Suspected),
        Cell::Sees(MemberStatus::Dead),
        Cell::Sees(MemberStatus::Stopped),
        Cell::TcpOnly,
        Cell::Unlisted,
        Cell::Silent,
    ];
    let mut line = Line::default();
    for cell in all {
        if matrix.rows.iter().any(|r| r.cells.contains(&cell)) {
            let mark = mark(theme, cell);
            let text = format!(" {} {} ", mark.glyph, mark.word);
            if line.width() + format::width(&text) < width {
                line.push_span(Span::styled(text, theme.style(mark.tone)));
            }
        }
    }
    (!line.spans.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_labels_keep_what_tells_names_apart() {
        let of =
            |names: &[&str]| distinct(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["node-1", "node-2", "node-12"]), ["1", "2", "12"]);
        assert_eq!(of(&["eu.db.1", "eu.db.2"]), ["1", "2"]);
        assert_eq!(of(&["alpha", "beta"]), ["alpha", "beta"]);
        assert_eq!(of(&["node-1", "node-"]), ["1", "node-"]);
        assert_eq!(
            of(&["machine-room-seven", "machine-room-eleven"]),
            ["seven", "leven"]
        );
        assert_eq!(of(&[]), [""; 0]);
    }
}
