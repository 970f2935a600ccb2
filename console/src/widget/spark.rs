//! A sparkline in one row, always with its number beside it.

use ratatui::text::Span;

use crate::{format, theme::Theme};

/// The last `width` samples as rising steps; fewer samples are padded on the left. The scale runs
/// from zero to the greatest sample shown, so that a flat line near zero stays flat. A sample that
/// is no number is a gap.
pub fn line(samples: &[f64], width: usize, theme: &Theme) -> String {
    let shown = &samples[samples.len().saturating_sub(width)..];
    let top = shown.iter().copied().filter(|v| v.is_finite());
    let top = top.fold(0.0_f64, f64::max);
    let mut out = " ".repeat(width - shown.len());
    for v in shown {
        if v.is_finite() {
            let share = if top > 0.0 {
                (v / top).clamp(0.0, 1.0)
            } else {
                0.0
            };
            out.push_str(theme.glyphs.spark[format::whole(share * 7.0) as usize]);
        } else {
            out.push(' ');
        }
    }
    out
}

/// `writes/s  ▂▃▅  1,602`.
pub fn labelled(
    label: &str,
    samples: &[f64],
    number: impl Fn(f64) -> String,
    width: usize,
    theme: &Theme,
) -> Vec<Span<'static>> {
    let last = samples.last().copied().filter(|v| v.is_finite());
    let number = last.map_or_else(|| theme.glyphs.dash.to_owned(), |v| number(v.max(0.0)));
    vec![
        Span::styled(format::left(label, 10), theme.quiet()),
        Span::styled(line(samples, width, theme), theme.quiet()),
        Span::raw("  "),
        Span::styled(format::right(&number, 6), theme.bold()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_rise_with_the_values() {
        let theme = Theme::default();
        assert_eq!(line(&[0.0, 3.5, 7.0], 4, &theme), " ▁▅█");
        assert_eq!(line(&[0.0, 0.0], 2, &theme), "▁▁");
        assert_eq!(line(&[1.0, 2.0, 4.0], 2, &theme), "▅█");
        assert_eq!(line(&[f64::NAN, f64::INFINITY, 1.0], 3, &theme), "  █");
        assert_eq!(line(&[], 3, &theme), "   ");
    }
}
