//! The hash ring as a ring: twelve o'clock is the start of the key space, clockwise.
//!
//! With colours it is drawn in half blocks, two colours a cell, because only that marker holds
//! two; every half cell is asked whether it lies in the band, so there are no gaps at any size.
//! Without colours (or Unicode) the same ring is drawn in the owners' letters. When there are more
//! slices than places on the circumference, each place shows the owner of most of its slices.

use std::f64::consts::TAU;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Style},
    symbols::Marker,
    text::Line,
    widgets::{
        Widget,
        canvas::{Canvas, Painter, Shape},
    },
};

use crate::{
    format,
    theme::{Theme, node_letter},
    widget::{
        draw_line,
        strip::{covers, majority},
    },
};

/// One slice of the key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Index of the node whose colour it has.
    pub owner: Option<usize>,
    /// The owner does not answer: the band is drawn thin.
    pub hollow: bool,
    /// Marked on the inner ring.
    pub inner: bool,
}

pub struct Circle<'a> {
    pub slices: &'a [Slice],
    /// Colour of the inner ring: the node under the cursor.
    pub inner_node: Option<usize>,
    /// Place of a key, as a share of the whole turn.
    pub caret: Option<f64>,
    /// Words in the middle.
    pub center: Vec<Line<'a>>,
}

/// Thickness of the band and of the gap inside it, in half cells.
const BAND: f64 = 3.0;
const GAP: f64 = 1.6;

/// The place of everything, in half cells from the top left corner.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    cols: u16,
    rows: u16,
    radius: f64,
    places: usize,
}

/// What is drawn at one point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    Band(Slice),
    Inner,
}

impl Geometry {
    fn new(area: Rect) -> Self {
        let (cols, rows) = (area.width, area.height);
        // one half cell is as wide as high, so the ring is round; two are left for the caret
        let radius = (f64::from(cols) / 2.0).min(f64::from(rows)) - 2.0;
        let places = format::whole(TAU * radius.max(1.0)) as usize;
        Self {
            cols,
            rows,
            radius,
            places,
        }
    }

    /// Distance from the middle, and the share of a turn clockwise from the top.
    fn polar(&self, x: f64, y: f64) -> (f64, f64) {
        let dx = x - (f64::from(self.cols) - 1.0) / 2.0;
        let dy = y - (f64::from(self.rows) * 2.0 - 1.0) / 2.0;
        let turn = dx.atan2(-dy) / TAU;
        (dx.hypot(dy), turn.rem_euclid(1.0))
    }

    fn point(&self, radius: f64, turn: f64) -> (f64, f64) {
        let (sin, cos) = (turn * TAU).sin_cos();
        (
            (f64::from(self.cols) - 1.0) / 2.0 + radius * sin,
            (f64::from(self.rows) * 2.0 - 1.0) / 2.0 - radius * cos,
        )
    }
}

impl Circle<'_> {
    /// Whether there is room for something round.
    pub fn fits(area: Rect) -> bool {
        area.width >= 20 && area.height >= 10
    }

    /// Places on the circumference, for a heading that says how much was drawn together.
    pub fn places(area: Rect) -> usize {
        Geometry::new(area).places
    }

    fn aggregated(&self, places: usize) -> Vec<Slice> {
        let count = self.slices.len();
        let place = |i: usize| {
            let (from, to) = covers(i, places, count);
            let part = &self.slices[from..to];
            let (owner, hollow) = majority(part.iter().map(|s| (s.owner, s.hollow)))?;
            let inner = part.iter().filter(|s| s.inner).count() * 2 >= part.len();
            Some(Slice {
                owner,
                hollow,
                inner,
            })
        };
        (0..places).filter_map(place).collect()
    }

    fn spot(geometry: &Geometry, places: &[Slice], x: f64, y: f64) -> Option<Spot> {
        let (distance, turn) = geometry.polar(x, y);
        let index = format::whole((turn * places.len() as f64).floor()) as usize;
        let index = index.min(places.len().checked_sub(1)?);
        let slice = places[index];
        let depth = geometry.radius - distance;
        let band = if slice.hollow { 1.0 } else { BAND };
        let inner_from = BAND + GAP;
        if (0.0..band).contains(&depth) {
            Some(Spot::Band(slice))
        } else if slice.inner && (inner_from..inner_from + 1.0).contains(&depth) {
            Some(Spot::Inner)
        } else {
            None
        }
    }

    pub fn render(&self, buf: &mut Buffer, area: Rect, theme: &Theme) {
        let area = area.intersection(buf.area);
        if !Self::fits(area) || self.slices.is_empty() {
            return;
        }
        let geometry = Geometry::new(area);
        let places = self.aggregated(geometry.places);
        if theme.is_mono() || theme.is_ascii() {
            Self::render_letters(buf, area, &geometry, &places, theme);
        } else {
            let ring = HalfBlocks {
                circle: self,
                geometry,
                places: &places,
                theme,
            };
            Canvas::default()
                .marker(Marker::HalfBlock)
                .x_bounds([0.0, f64::from(area.width) - 1.0])
                .y_bounds([0.0, f64::from(area.height) * 2.0 - 1.0])
                .background_color(Color::Reset)
                .paint(|context| context.draw(&ring))
                .render(area, buf);
        }
        self.render_marks(buf, area, &geometry, theme);
    }

    fn render_letters(
        buf: &mut Buffer,
        area: Rect,
        geometry: &Geometry,
        places: &[Slice],
        theme: &Theme,
    ) {
        for y in 0..area.height {
            for x in 0..area.width {
                // a cell is two half cells high; its middle lies between them
                let spot = Self::spot(geometry, places, f64::from(x), f64::from(y) * 2.0 + 0.5);
                let (symbol, style) = match spot {
                    Some(Spot::Band(slice)) => {
                        let letter = slice.owner.map_or('?', node_letter);
                        (
                            letter,
                            slice.owner.map_or_else(Style::new, |i| theme.node_style(i)),
                        )
                    }
                    Some(Spot::Inner) => ('.', theme.quiet()),
                    None => continue,
                };
                buf[(area.x + x, area.y + y)]
                    .set_char(symbol)
                    .set_style(style);
            }
        }
    }

    fn render_marks(&self, buf: &mut Buffer, area: Rect, geometry: &Geometry, theme: &Theme) {
        let middle = area.height / 2;
        let from = middle.saturating_sub(self.center.len() as u16 / 2);
        for (i, line) in self.center.iter().enumerate() {
            let width = (line.width() as u16).min(area.width);
            let row = Rect {
                x: area.x + (area.width - width) / 2,
                y: area.y + from + i as u16,
                width,
                height: 1,
            };
            draw_line(buf, row.intersection(area), line);
        }
        if let Some(turn) = self.caret {
            let (x, y) = geometry.point(geometry.radius + 1.0, turn);
            let x = (format::whole(x) as u16).min(area.width - 1);
            let y = (format::whole((y / 2.0).floor()) as u16).min(area.height - 1);
            let mark = if theme.is_ascii() { '@' } else { '◆' };
            buf[(area.x + x, area.y + y)]
                .set_char(mark)
                .set_style(theme.bold());
        }
    }
}

struct HalfBlocks<'a> {
    circle: &'a Circle<'a>,
    geometry: Geometry,
    places: &'a [Slice],
    theme: &'a Theme,
}

impl Shape for HalfBlocks<'_> {
    fn draw(&self, painter: &mut Painter) {
        let inner = self.circle.inner_node.map(|i| self.theme.node_color(i));
        for y in 0..usize::from(self.geometry.rows) * 2 {
            for x in 0..usize::from(self.geometry.cols) {
                let spot = Circle::spot(&self.geometry, self.places, x as f64, y as f64);
                let color = match spot {
                    Some(Spot::Band(slice)) => slice
                        .owner
                        .map_or(Color::DarkGray, |i| self.theme.node_color(i)),
                    Some(Spot::Inner) => inner.unwrap_or(Color::DarkGray),
                    None => continue,
                };
                painter.paint(x, y, color);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::theme::Tier;

    fn slices() -> Vec<Slice> {
        let slice = |i: usize| Slice {
            owner: Some(i / 64),
            hollow: false,
            inner: false,
        };
        (0..256).map(slice).collect()
    }

    fn drawn(width: u16, height: u16, theme: &Theme) -> Buffer {
        let slices = slices();
        let circle = Circle {
            slices: &slices,
            inner_node: Some(1),
            caret: Some(0.9),
            center: vec![Line::from("middle")],
        };
        let area = Rect::new(0, 0, width, height);
        let mut buf = Buffer::empty(area);
        circle.render(&mut buf, area, theme);
        buf
    }

    #[test]
    fn quarters_are_where_a_clock_has_them() {
        let buf = drawn(40, 20, &Theme::new(Tier::None, false));
        let letter = |x: u16, y: u16| buf[(x, y)].symbol().to_owned();
        // half past one, half past four, half past seven, half past ten
        let at = |turn: f64| {
            let (x, y) = Geometry::new(buf.area).point(16.5, turn);
            letter(
                format::whole(x) as u16,
                format::whole((y - 0.5) / 2.0) as u16,
            )
        };
        assert_eq!(
            [at(0.125), at(0.375), at(0.625), at(0.875)],
            ["A", "B", "C", "D"]
        );
    }

    #[test]
    fn the_colour_ring_has_no_gaps() {
        let buf = drawn(40, 20, &Theme::default());
        let geometry = Geometry::new(buf.area);
        for step in 0..720 {
            let (x, y) = geometry.point(geometry.radius - 1.5, f64::from(step) / 720.0);
            let cell = &buf[(
                format::whole(x) as u16,
                format::whole((y / 2.0).floor()) as u16,
            )];
            assert!(
                "▀▄█◆".contains(cell.symbol()),
                "gap at {step}: {:?}",
                cell.symbol()
            );
        }
    }

    #[test]
    fn any_area_is_fine() {
        for width in [0, 1, 19, 20, 21, 200] {
            for height in [0, 1, 9, 10, 11, 60] {
                drawn(width, height, &Theme::default());
                drawn(width, height, &Theme::new(Tier::None, true));
            }
        }
    }
}
