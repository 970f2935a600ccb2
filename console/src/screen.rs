//! Draws the screens.

use ratatui::Frame;

use crate::app::App;

/// Draws the whole frame from what the console knows; reads nothing else, changes nothing.
pub fn draw(frame: &mut Frame, app: &App) {
    frame.render_widget(app.screen.title(), frame.area());
}
