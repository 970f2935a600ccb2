//! Things that draw. They know nothing of clusters or links: they get their words and numbers
//! ready-made.
//!
//! All of them are total: any area, also an empty one, is fine, and nothing outside the area
//! handed in is touched.

pub mod circle;
pub mod confirm;
pub mod prompt;
pub mod spark;
pub mod strip;
pub mod table;
pub mod toast;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
};

use crate::{
    format,
    theme::{Theme, Tone},
};

/// Hands out the rows of an area from top to bottom; rows below the end are swallowed.
pub struct Rows {
    area: Rect,
    next: u16,
}

impl Rows {
    pub fn new(area: Rect) -> Self {
        Self { area, next: 0 }
    }

    /// Rows that are left.
    pub fn left(&self) -> u16 {
        self.area.height.saturating_sub(self.next)
    }

    /// What is left, as an area.
    pub fn rest(&self) -> Rect {
        Rect {
            y: self.area.y.saturating_add(self.next),
            height: self.left(),
            ..self.area
        }
    }

    /// The next `height` rows, or as many as there are.
    pub fn take(&mut self, height: u16) -> Rect {
        let height = height.min(self.left());
        let area = Rect {
            height,
            ..self.rest()
        };
        self.next = self.next.saturating_add(height);
        area
    }

    pub fn skip(&mut self, height: u16) {
        self.take(height);
    }

    pub fn line(&mut self, buf: &mut Buffer, line: &Line<'_>) {
        let area = self.take(1);
        draw_line(buf, area, line);
    }

    pub fn lines<'a>(&mut self, buf: &mut Buffer, lines: impl IntoIterator<Item = Line<'a>>) {
        for line in lines {
            self.line(buf, &line);
        }
    }
}

/// One line at the top of `area`, cut at its width.
pub fn draw_line(buf: &mut Buffer, area: Rect, line: &Line<'_>) {
    let area = area.intersection(buf.area);
    if !area.is_empty() {
        buf.set_line(area.x, area.y, line, area.width);
    }
}

/// The same, ending at the right edge; where `taken` cells are already used from the left, what
/// does not fit is left out whole.
pub fn draw_right(buf: &mut Buffer, area: Rect, line: &Line<'_>, taken: usize) {
    let width = line.width();
    let room = usize::from(area.width);
    if width + taken <= room {
        let x = area.x + (room - width) as u16;
        let area = Rect {
            x,
            width: width as u16,
            ..area
        };
        draw_line(buf, area, line);
    }
}

pub fn rule(buf: &mut Buffer, area: Rect, theme: &Theme) {
    let text = theme.glyphs.rule.repeat(usize::from(area.width));
    draw_line(buf, area, &Line::styled(text, theme.quiet()));
}

/// How fresh a panel is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freshness {
    /// How old what it shows is; `None` when nothing was ever received.
    pub age: Option<std::time::Duration>,
    pub stale: bool,
}

/// A panel's heading: its name on the left, its age (or `STALE 12s`) on the right.
pub fn heading(
    buf: &mut Buffer,
    area: Rect,
    name: impl Into<Line<'static>>,
    fresh: Freshness,
    theme: &Theme,
) {
    let mut name: Line = name.into();
    for span in &mut name.spans {
        if span.style == Style::default() {
            span.style = theme.bold();
        }
    }
    let mut left = Line::from(" ");
    left.spans.extend(name.spans);
    let age = match fresh.age {
        Some(age) if fresh.stale => Line::from(Span::styled(
            format!("{} STALE {} ", theme.glyphs.warn, format::age_short(age)),
            theme.style(Tone::Warn).add_modifier(Modifier::BOLD),
        )),
        Some(age) => Line::styled(format!("{} ", format::age(age)), theme.quiet()),
        None => Line::styled("no data yet ", theme.quiet()),
    };
    // the age is never pushed out by a long name
    let wide = (age.width() as u16 + 1).min(area.width);
    let name = Rect {
        width: area.width - wide,
        ..area
    };
    draw_line(buf, name, &left);
    draw_right(buf, area, &age, 0);
}

/// Dims what is drawn already: old data stays readable and looks old.
pub fn dim(buf: &mut Buffer, area: Rect) {
    let area = area.intersection(buf.area);
    buf.set_style(area, Style::new().add_modifier(Modifier::DIM));
}

/// Replaces what is not ASCII by something that is, also in words that came from a daemon or a
/// value: a terminal that asked for ASCII can show nothing else.
pub fn to_ascii(buf: &mut Buffer, area: Rect) {
    let area = area.intersection(buf.area);
    for y in area.top()..area.bottom() {
        for x in area.left()..area.right() {
            let symbol = buf[(x, y)].symbol();
            if symbol.is_ascii() {
                continue;
            }
            let plain = match symbol {
                "↑" => "^",
                "↓" => "v",
                "←" => "<",
                "→" => ">",
                "·" => "|",
                "…" => "~",
                "–" | "—" => "-",
                "µ" => "u",
                "≠" => "!",
                _ => "?",
            };
            buf[(x, y)].set_symbol(plain);
        }
    }
}

/// Blanks an area, so that something can be laid over what is there.
pub fn clear(buf: &mut Buffer, area: Rect) {
    let area = area.intersection(buf.area);
    for y in area.top()..area.bottom() {
        for x in area.left()..area.right() {
            buf[(x, y)].reset();
        }
    }
}

/// A box of `width` x `height` in the middle of `area`, cut to it.
pub fn centered(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
}

/// An overlay: blank, framed, its title in the frame. Gives back the inside.
pub fn frame(buf: &mut Buffer, area: Rect, title: &str, style: Style, theme: &Theme) -> Rect {
    use ratatui::{
        symbols::border,
        widgets::{Block, Padding, Widget},
    };
    // a little air around it, so that it does not run into the words beside it
    let around = Rect {
        x: area.x.saturating_sub(1),
        width: area.width.saturating_add(2),
        ..area
    };
    clear(buf, around);
    let set = if theme.is_ascii() {
        border::Set {
            top_left: "+",
            top_right: "+",
            bottom_left: "+",
            bottom_right: "+",
            vertical_left: "|",
            vertical_right: "|",
            horizontal_top: "-",
            horizontal_bottom: "-",
        }
    } else {
        border::PLAIN
    };
    let block = Block::bordered()
        .border_set(set)
        .border_style(style)
        .title(Span::styled(format!(" {title} "), theme.bold()))
        .padding(Padding::horizontal(1));
    let inner = block.inner(area);
    block.render(area.intersection(buf.area), buf);
    inner
}
