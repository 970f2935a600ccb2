//! One step of a restart or of a change of the ring: how far it is, and for how long.

use std::time::Duration;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};

use super::view::View;
use crate::{
    format,
    progress::{StepState, StepView},
    theme::Tone,
    widget,
};

/// `● stop all   node-1 standby · node-2 standby      0.9 s`
pub(super) fn draw_step(view: &View, step: &StepView, wide: usize, buf: &mut Buffer, area: Rect) {
    let theme = &view.theme;
    let (glyph, tone) = match step.state {
        StepState::Pending => (theme.glyphs.pending, Tone::Quiet),
        StepState::Running | StepState::Waiting => (theme.glyphs.busy, Tone::Busy),
        StepState::Done => (theme.glyphs.good, Tone::Good),
        StepState::Failed => (theme.glyphs.bad, Tone::Bad),
    };
    let title = if step.state == StepState::Pending {
        theme.quiet()
    } else {
        theme.plain()
    };
    let time = match step.state {
        StepState::Pending => String::new(),
        _ => format!("{} ", format::age(Duration::from_millis(step.elapsed_ms))),
    };
    let room = usize::from(area.width).saturating_sub(wide + 5 + 9);
    let line = Line::from(vec![
        Span::styled(format!(" {glyph} "), theme.style(tone)),
        Span::styled(format::left(&step.title, wide), title),
        Span::raw(format!(
            "  {}",
            format::truncate(&step.detail, room, theme.glyphs.ellipsis)
        )),
    ]);
    let taken = line.width();
    widget::draw_line(buf, area, &line);
    widget::draw_right(buf, area, &Line::styled(time, theme.quiet()), taken);
}
