//! Draws the screens: picks the layout for the size, the frame around every screen, and the one
//! that is open.
//!
//! Drawing reads the console's state and changes nothing; it is total for every size. What is
//! shown comes from `cluster.rs` only, each panel with its age.

mod change;
pub mod data;
pub mod doctor;
pub mod events;
mod footer;
mod header;
pub mod help;
mod matrix;
mod member_table;
pub mod members;
pub mod overview;
pub mod procedures;
pub mod quorum;
pub mod ring;
pub mod ring_view;
mod step;
#[cfg(test)]
mod tests;
mod view;

use ratatui::{Frame, buffer::Buffer, layout::Rect, text::Line};

use crate::{
    app::{self, App, ConfirmAction, PromptKind, ScreenId},
    theme::Tone,
    widget::{self, confirm::Confirm, prompt::Prompt, toast::Toast},
};
use view::View;

/// Smaller terminals get one line that says so.
pub const MIN_WIDTH: u16 = 60;
pub const MIN_HEIGHT: u16 = 16;
/// Draws the whole frame from what the console knows; reads nothing else, changes nothing.
pub fn draw(frame: &mut Frame, app: &App) {
    let area = frame.area();
    let cursor = draw_on(frame.buffer_mut(), area, app);
    if let Some(cursor) = cursor {
        frame.set_cursor_position(cursor);
    }
}

/// The same on a bare buffer; gives back where the terminal's cursor belongs, if anywhere.
pub fn draw_on(buf: &mut Buffer, area: Rect, app: &App) -> Option<(u16, u16)> {
    if area.width < MIN_WIDTH || area.height < MIN_HEIGHT {
        let text = format!(
            "need {MIN_WIDTH}x{MIN_HEIGHT}, have {}x{}",
            area.width, area.height
        );
        widget::draw_line(buf, area, &Line::raw(text));
        return None;
    }
    let view = View::new(app);
    let theme = &view.theme;
    let mut rows = widget::Rows::new(area);
    // two rules are spared where rows are dear
    let ruled = area.height >= 20;
    header::render(&view, buf, rows.take(1));
    header::tabs(&view, buf, rows.take(1));
    if ruled {
        widget::rule(buf, rows.take(1), theme);
    }
    let below = if ruled { 2 } else { 1 };
    let body = rows.take(rows.left() - below);
    if ruled {
        widget::rule(buf, rows.take(1), theme);
    }
    let foot = rows.take(1);
    screen(&view, buf, body);
    let mut cursor = None;
    match &app.prompt {
        Some(prompt) => cursor = draw_prompt(&view, prompt, buf, foot),
        None => footer::render(&view, buf, foot),
    }
    if let Some(toast) = app.toast.as_ref().filter(|t| t.until_ms > app.now_ms) {
        let tone = match toast.tone {
            app::Tone::Info => Tone::Good,
            app::Tone::Warning => Tone::Warn,
            app::Tone::Error => Tone::Bad,
        };
        let text = &toast.text;
        Toast { text, tone }.render(buf, body, theme);
    }
    if let Some(confirm) = &app.confirm {
        cursor = draw_confirm(&view, confirm, buf, body);
    }
    if theme.is_ascii() {
        widget::to_ascii(buf, area);
    }
    cursor
}

fn screen(view: &View, buf: &mut Buffer, area: Rect) {
    match view.app.screen {
        ScreenId::Help => help::draw(view, buf, area),
        ScreenId::Doctor => doctor::draw(view, buf, area),
        ScreenId::Procedures => procedures::draw(view, buf, area),
        _ if view.is_empty() => overview::draw_never_connected(view, buf, area),
        ScreenId::Overview => overview::draw(view, buf, area),
        ScreenId::Members => members::draw(view, buf, area),
        ScreenId::Quorum => quorum::draw(view, buf, area),
        ScreenId::Ring => ring::draw(view, buf, area),
        ScreenId::Data => data::draw(view, buf, area),
        ScreenId::Events => events::draw(view, buf, area),
    }
}

fn draw_prompt(
    view: &View,
    prompt: &app::Prompt,
    buf: &mut Buffer,
    area: Rect,
) -> Option<(u16, u16)> {
    let lead = match prompt.kind {
        PromptKind::Command => ":",
        PromptKind::Filter => "/",
        PromptKind::Locate => "key ",
    };
    let hint = match (&prompt.error, prompt.kind) {
        (Some(error), _) => error.as_str(),
        (None, PromptKind::Command) => "Tab completes   Enter runs   Esc leaves",
        (None, PromptKind::Filter) => "text  !not  ~fuzzy  column:text   Esc clears",
        (None, PromptKind::Locate) => "Enter shows where it lives   Esc leaves",
    };
    let widget = Prompt {
        lead,
        text: prompt.input.value(),
        cursor: prompt.input.cursor(),
        ghost: &prompt.ghost,
        hint,
    };
    widget.render(buf, area, &view.theme)
}

fn draw_confirm(
    view: &View,
    confirm: &app::Confirm,
    buf: &mut Buffer,
    area: Rect,
) -> Option<(u16, u16)> {
    let mut effects = confirm.effects.clone();
    if let ConfirmAction::Delete { key } = &confirm.action
        && effects.is_empty()
    {
        effects.push(format!("Deletes {key}"));
    }
    let widget = Confirm {
        title: &confirm.title,
        effects,
        word: &confirm.expected,
        typed: confirm.input.value(),
        refused: confirm.error.as_deref(),
    };
    widget.render(buf, area, &view.theme)
}
